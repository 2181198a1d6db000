"""The table of times on one GPU beside their predictions: `python -m tests.gpu.table --data DATASET --seconds 150`.

The predictions are a model: operations and bytes of preset `fast`, counted without a GPU, over the peaks of an H100. Sections
do not depend on each other: one that fails says so in a line, and none begins after `--seconds`. The table comes last.
"""

import argparse
import contextlib
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from pipeline.bench.measure import copy_speed, peak_operations, segment_operations
from pipeline.config import Config, override
from pipeline.data.dataset import load_dataset
from pipeline.data.packs import make_pack_maker
from pipeline.device import fit_config, make_accelerator, to_batch
from pipeline.inference.forward import InferenceRunner
from pipeline.models.attention import attend, choose_way
from pipeline.models.batch import Batch
from pipeline.models.layers import choose_fused, convolve_gated
from pipeline.models.layout import Way
from pipeline.models.network import make_network
from pipeline.presets import preset
from pipeline.training.carry import empty_carry, next_batch
from pipeline.training.execution import JOINED
from pipeline.training.memory_fit import CudaMemory
from pipeline.training.trainer import Trainer

DEVICE = torch.device("cuda:0")
STEPS, WARM_UP, CHANNELS = 12, 5, 1536
PREDICTED_MS = {"eager": "150-250", "compiled": "75-100", "compiled, packs joined": "70-95"}


class Table:
    """The measurements of one dataset on one device."""

    def __init__(self, data: Path, out: Path, seconds: float) -> None:
        self.ends, self.out = time.monotonic() + seconds, out
        self.lines: list[str] = []
        self.wrong: list[str] = []
        self.losses: dict[str, list[float]] = {}
        self.peak_flops, self.peak_bytes = 800e12, 3.0e12
        self.dataset = load_dataset(data)
        self.accelerator, self.dtype = make_accelerator("auto")
        self.recent = torch.cuda.get_device_capability(DEVICE) >= (8, 0)
        """From Ampere on there are kernels that a T4 has not."""
        self.left_out: list[str] = []

    def say(self, line: str) -> None:
        """Print a line now, and again at the end."""
        print(line, flush=True)
        self.lines.append(line)

    def check(self, right: bool, line: str) -> None:
        """Print a line that says whether it is right."""
        self.say(f"{line}: {'right' if right else 'WRONG'}")
        if not right:
            self.wrong.append(line)

    @contextlib.contextmanager
    def section(self, name: str) -> Iterator[bool]:
        """Yield whether there is time for this section; an error in it is one line of the table."""
        left = self.ends - time.monotonic()
        if left < 0:
            self.left_out.append(name)
            self.say(f"{name}: left out, the time is up")
        else:
            print(f"== {name} ({left:.0f} s left)", flush=True)
        try:
            yield left >= 0
        except Exception as error:  # noqa: BLE001 (the other sections are worth their time)
            traceback.print_exc(limit=-6)
            text = (str(error).splitlines() or [""])[0]
            self.wrong.append(f"{name}: {type(error).__name__}: {text}"[:300])
            self.say(f"{name}: FAILED: {type(error).__name__}: {text}"[:300])

    def config(self, *settings: str) -> Config:
        """Return preset `fast` with `settings`, in one piece, without a trial of the memory."""
        return fit_config(override(preset("fast"), ["train.pieces=1", *settings]), self.dataset)

    def batches(self, count: int, config: Config) -> Iterator[Batch]:
        """Yield `count` packs as training draws them, on the device."""
        maker = make_pack_maker(self.dataset, config.train.canvas, config.memory.tokens)
        for step in range(count):
            pack = maker.make(next_batch(empty_carry(), maker, config.train, 1000 + step, 0).samples)
            yield to_batch(pack, maker.memory_tokens, DEVICE)

    def machine(self) -> None:
        """Print the card and its peaks."""
        card = torch.cuda.get_device_properties(0)
        self.say(f"{card.name}, {card.total_memory / 2**30:.0f} GiB, sm_{card.major}{card.minor}, torch {torch.__version__}")
        self.peak_flops = peak_operations(self.dtype, DEVICE, 8192)
        self.peak_bytes = copy_speed(DEVICE, 1 << 30)
        self.say(f"peak: {self.peak_flops / 1e12:.0f} TFLOP/s, copy {self.peak_bytes / 1e12:.2f} TB/s (predicted 800, 3.0)")

    def attention(self) -> None:
        """Time the attention of a pack by every way; the first trial of the packed kernel is made under inference_mode."""
        with torch.inference_mode():
            way = choose_way(DEVICE, self.dtype, 64)
        self.check(
            way == ("packed" if self.recent else "efficient"), f"way of attention, tried first under inference_mode: {way}"
        )
        layout = next(self.batches(1, self.config())).layout
        qkv = torch.randn(layout.tokens, 24, 64, device=DEVICE, dtype=self.dtype, requires_grad=True)
        given = torch.randn(layout.tokens, 512, device=DEVICE, dtype=self.dtype)
        ways: dict[Way, str] = {"packed": " (predicted 0.07)", "efficient": "", "fused": " (predicted 1-2)"}
        for each, predicted in list(ways.items())[not self.recent :]:
            forward = partial(attend, qkv[:, :16], qkv[:, 16:], layout, each)
            both = kernel_seconds(lambda forward=forward: torch.autograd.grad(forward(), qkv, given, retain_graph=False))
            once = kernel_seconds(forward)
            self.say(f"attention of a pack, {each}: {1e3 * once:.2f} ms{predicted}, with gradient {1e3 * both:.2f} ms")

    def convolution(self) -> None:
        """Time gate, convolution and SiLU, fused."""
        fused = choose_fused(DEVICE, self.dtype, 3)
        self.check(fused == self.recent, f"the fused convolution {'works' if fused else 'does not work here'}")
        if not fused:
            return
        layout = next(self.batches(1, self.config("train.pack_tokens=65536"))).layout
        floor = layout.tokens * CHANNELS * 2 * (5 + 11) / self.peak_bytes
        weight = torch.randn(CHANNELS, 1, 3, 3, device=DEVICE, requires_grad=True)
        x = torch.randn(layout.tokens, 2 * CHANNELS, device=DEVICE, dtype=self.dtype, requires_grad=True)
        given = torch.randn(layout.tokens, CHANNELS, device=DEVICE, dtype=self.dtype)
        both = kernel_seconds(lambda: torch.autograd.grad(convolve_gated(x, weight, layout), (x, weight), given))
        with torch.no_grad():
            once = kernel_seconds(lambda: convolve_gated(x, weight, layout))
        self.say(
            f"convolution of {layout.tokens} tokens, fused: forward {1e3 * once:.2f} ms, with gradient {1e3 * both:.2f} ms, at "
            f"the speed of memory {1e3 * floor:.2f} ms"
        )

    def prediction(self) -> None:
        from triton.testing import do_bench  # noqa: PLC0415  (there is none without a GPU)

        config = self.config()
        network = make_network(config.model, config.memory, len(self.dataset.task_ids), len(self.dataset.transforms), 0)
        maker = make_pack_maker(self.dataset, config.train.canvas, config.memory.tokens, "tests")
        runner = InferenceRunner(DEVICE, self.dtype, network, maker, config.predict)
        samples = maker.plain()[np.arange(0, len(maker.plain()), 2)]
        samples = samples[maker.order(samples)]
        tokens = int(maker.tokens(samples).sum())
        seconds = float(do_bench(lambda: runner.forward(samples), return_mode="median")) / 1e3
        self.say(f"prediction: {tokens / seconds / 1e3:.0f}k tokens/s in packs of {tokens} (predicted 800-1,200k)")

    def trainer(self, *settings: str) -> Trainer:
        config = self.config(*settings)
        network = make_network(config.model, config.memory, len(self.dataset.task_ids), len(self.dataset.transforms), 0)
        return Trainer(self.accelerator, self.dtype, network, self.dataset, config, self.out / "trainer")

    def training(self, name: str, *settings: str, pieces: int = 1) -> None:
        """Time training steps with `settings`; note their first losses."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch._dynamo.reset()
        started = time.monotonic()
        trainer = self.trainer(*settings)
        trainer.pieces = pieces
        losses = []
        for _ in range(WARM_UP):
            before = replace(trainer.state.totals)
            trainer._step(0.0)
            trainer._read_pending()
            new = trainer.state.totals
            losses.append((new.token_loss - before.token_loss) / max(1.0, new.sequences - before.sequences))
        torch.cuda.synchronize()
        ready = time.monotonic() - started
        tokens, operations = self.work_of(trainer)
        started = time.monotonic()
        for _ in range(STEPS):
            trainer._step(0.0)
        torch.cuda.synchronize()
        seconds = (time.monotonic() - started) / STEPS
        trainer._read_pending()
        started = time.monotonic()  # a step that waits for nothing
        trainer._step(0.0)
        host = time.monotonic() - started
        torch.cuda.synchronize()
        self.losses[name] = losses
        predicted = f" (predicted {PREDICTED_MS[name]})" if name in PREDICTED_MS else ""
        share, gibibytes = operations / seconds / self.peak_flops, torch.cuda.max_memory_allocated() / 2**30
        self.say(
            f"fast, {name}: {1e3 * seconds:.1f} ms a step{predicted}, host {1e3 * host:.1f} ms of it, "
            f"{tokens / seconds / 1e3:.0f}k tokens/s, {operations / seconds / 1e12:.0f} TFLOP/s, {share:.1%} of the peak, "
            f"{gibibytes:.1f} GiB, ready after {ready:.0f} s"
        )
        print("    losses: " + " ".join(f"{loss:.4f}" for loss in losses), flush=True)
        wanted, kind = trainer.state.config.train.execution, trainer.gradients.execution.kind
        self.check(kind == wanted, f"train.execution={wanted} is {kind}")
        self.profile(name, trainer)

    def work_of(self, trainer: Trainer) -> tuple[float, float]:
        """Return the mean tokens and operations of a step."""
        state, tokens, operations = trainer.state, 0, 0
        for step in range(STEPS):
            for pack in state.packs:
                drawn = next_batch(empty_carry(), state.maker, state.config.train, state.progress.step + step, pack).samples
                layout = to_batch(state.maker.make(drawn), state.maker.memory_tokens, torch.device("cpu")).layout
                tokens += layout.tokens
                operations += segment_operations(state.network.reasoner, layout, training=True)
        return tokens / STEPS, operations / STEPS

    def profile(self, name: str, trainer: Trainer) -> None:
        """Print where the time of a step goes, and write it to a file."""
        with profiled() as found:
            trainer._step(0.0)
        text = found.key_averages().table(sort_by="self_device_time_total", row_limit=45, max_name_column_width=90)
        (self.out / f"profile-{name.replace(', ', '-').replace(' ', '-')}.txt").write_text(text)
        total, launches = (sum(getattr(e, name) for e in kernels(found)) for name in ("self_device_time_total", "count"))
        self.say(f"fast, {name}: {launches} kernels in a step, {total / 1e3:.1f} ms of the device")

    def compare_losses(self) -> None:
        """Compare the losses of every way with those of eager execution."""
        if "eager" not in self.losses:
            self.say("losses: there is nothing to compare with")
            return
        for name, losses in self.losses.items():
            if name == "eager":
                continue
            off = max(abs(a - b) / abs(b) for a, b in zip(losses, self.losses["eager"], strict=True))
            self.check(off < 0.02, f"losses of the first {WARM_UP} steps, {name} against eager: {off:.1e} apart")

    def waits(self) -> None:
        """Count the operations of a step that wait for the device, but for the loss scale of float16, which always does."""
        for kind, pieces in (("eager", 1), ("compiled", JOINED)):
            trainer = self.trainer(f"train.execution={kind}")
            trainer.pieces = pieces
            for _ in range(3):
                trainer._step(0.0)
            torch.cuda.set_sync_debug_mode("warn")
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                for _ in range(2):
                    trainer._step(0.0)
            torch.cuda.set_sync_debug_mode("default")
            waits = (each for each in caught if "synchroniz" in str(each.message))
            found = [f"{each.filename}:{each.lineno}" for each in waits if not each.filename.endswith("grad_scaler.py")]
            self.check(not found, f"{kind}: {len(found)} operations that wait in two steps {sorted(set(found))[:4]}")

    def trial(self) -> None:
        trainer, started = self.trainer("train.pieces=0"), time.monotonic()
        pieces = trainer.measure_pieces(CudaMemory(DEVICE))
        self.say(f"trial of the memory: {pieces} pieces (predicted 1) in {time.monotonic() - started:.1f} s (predicted 3)")


def kernel_seconds(work: Callable[[], object], times: int = 20) -> float:
    """Return the seconds of all kernels of `work`, without waits of the device for the host: the mean of several times."""
    work()
    with profiled() as found:
        for _ in range(times):
            work()
    return sum(event.self_device_time_total for event in kernels(found)) / times / 1e6


@contextlib.contextmanager
def profiled() -> Iterator[profile]:
    """Yield the profile of what is done inside, which the device has finished at the end."""
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        yield found
        torch.cuda.synchronize()


def kernels(found: profile) -> list[Any]:
    """Return the averages of the device's own events."""
    events = [event for event in found.key_averages() if event.device_type == DeviceType.CUDA]
    return [event for event in events if not event.is_user_annotation]  # a range has the time of the kernels in it


def main() -> int:
    """Measure everything; return 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--only", nargs="*", default=(), help="sections; without it, all")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="    log: %(message)s")
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = Table(arguments.data, arguments.out, arguments.seconds)
    compiled = "train.execution=compiled"
    sections: dict[str, Callable[[], None]] = {
        "machine": table.machine,
        "attention": table.attention,
        "convolution": table.convolution,
        "eager": lambda: table.training("eager", "train.execution=eager"),
        "compiled": lambda: table.training("compiled", compiled),
        "joined": lambda: table.training("compiled, packs joined", compiled, pieces=JOINED),
        "prediction": table.prediction,
        "losses": table.compare_losses,
        "trial": table.trial,
        "waits": table.waits,
    }
    for name in arguments.only or sections:
        with table.section(name) as there_is_time:
            if there_is_time or name == "losses":
                sections[name]()
    print("\n".join(("\n==== the table", *table.lines, *(f"wrong: {line}" for line in table.wrong))))
    if table.left_out:
        print(f"not measured, the time was up: {', '.join(table.left_out)}")
    return int(bool(table.wrong))


if __name__ == "__main__":
    sys.exit(main())
