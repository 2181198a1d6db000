"""The training stage: packs of a store in, checkpoints and metrics out, through Accelerate.

Deep supervision: each step runs one segment of every sequence of a pack, its loss and an update of the weights; states are
carried, detached, to the next step until a sequence halts (pipeline.carry).
"""

import math
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import orjson
import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from torch import Tensor
from tqdm import tqdm

from pipeline.budget import Budget
from pipeline.carry import Carry, assemble_state, begin, halt, next_turn
from pipeline.checkpoint import checkpoint_name, newest_checkpoint
from pipeline.config import Config
from pipeline.data.dataset import Dataset, make_packs
from pipeline.engine import to_batch
from pipeline.optim import MovingAverage, make_optimizer, rate_factor, trainable
from pipeline.reasoner.base import Segment
from pipeline.reasoner.loss import SegmentLoss, going_on_target, segment_loss
from pipeline.reasoner.network import Batch, Network
from pipeline.resume import load_checkpoint, save_checkpoint
from pipeline.tables import Found, take_gradients, train_tables
from submission.duration import format_duration

logger = get_logger(__name__)

DISK_BYTES_PER_SECOND = 200e6
"""Assumed until the first checkpoint has been written and timed."""

LINE_SECONDS = 20.0
"""Between lines of progress where there is no terminal to draw a bar in."""

_BAR = "{desc} {percentage:3.0f}%|{bar:20}| {elapsed}, {postfix}"


@dataclass
class Totals:
    """Sums since the last line of metrics."""

    token_loss: float = 0.0
    halting_loss: float = 0.0
    exact: float = 0.0
    sequences: float = 0.0
    tokens: float = 0.0
    segments: float = 0.0

    def add(self, other: "Totals") -> None:
        """Add `other` in place."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Progress:
    """How far training is; what a resumed run continues from besides tensors."""

    step: int = 0
    seconds: float = 0.0
    """Training time so far, over all resumed parts."""
    sequences: int = 0
    last: dict[str, float] = field(default_factory=dict)
    """The last line of metrics."""


def count_packs(config: Config, processes: int) -> int:
    """Return the packs of a step. Raises ValueError where they cannot be shared out evenly."""
    packs = config.train.packs or processes
    if packs % processes:
        tokens = max(1, config.train.pack_tokens * packs // processes)
        hint = f"--set train.packs={processes} --set train.pack_tokens={tokens} makes as large a step"
        raise ValueError(f"train.packs = {packs} must be a multiple of the {processes} processes: {hint}")
    return packs


class Trainer:
    """Trains one network on one store; every process of a launch has one and they step together."""

    def __init__(
        self, accelerator: Accelerator, dtype: torch.dtype, network: Network, store: Dataset, config: Config, out: Path
    ) -> None:
        self.accelerator, self.dtype, self.store, self.config, self.out = accelerator, dtype, store, config, out
        processes = accelerator.num_processes
        packs = count_packs(config, processes)
        torch.manual_seed(config.train.seed)  # nothing here draws from it; what is added later shall be reproducible
        self.packs = range(accelerator.process_index, packs, processes)
        self.network = network.to(accelerator.device)
        self.optimizer = make_optimizer(self.network, config.optimizer)
        self.average = (
            MovingAverage(self.network, config.optimizer.ema, round(1 / (1 - config.optimizer.ema)))
            if config.optimizer.ema
            else None
        )
        with warnings.catch_warnings():  # newer torch renames an option that older ones need
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            self.model = accelerator.prepare_model(self.network)
        self.stepper = accelerator.prepare_optimizer(self.optimizer, device_placement=False)
        self.maker = make_packs(store, config.train.canvas, config.memory.tokens)
        self.carries: dict[int, Carry] = {pack: begin() for pack in self.packs}
        self.progress = Progress()
        self.totals = Totals()
        self.told = -math.inf
        stored_bytes = 5 * 4 * trainable(self.network)  # weights, their average twice, two moments
        self.save_seconds = 0.2 + stored_bytes / DISK_BYTES_PER_SECOND

    def describe(self) -> str:
        """Return in half a line what this trainer computes on and with."""
        processes = self.accelerator.num_processes
        return f"{str(self.dtype).removeprefix('torch.')} on {processes} x {self.accelerator.device.type}"

    def fit(self, budget: Budget) -> Progress:
        """Train until `train.steps` steps are done or `budget` is used up, then write the last checkpoint.

        Raises FloatingPointError, naming step and tasks, when the loss is not finite; the last checkpoint stays.
        """
        train = self.config.train
        if not train.steps and budget.limit_seconds is None:
            raise ValueError("training needs an end: train.steps or a time limit")
        started, spent_before = time.monotonic(), self.progress.seconds
        last_checkpoint, logged = started, started
        step_seconds = 0.0
        bar = tqdm(
            total=100,
            unit="%",
            desc="train",
            disable=not (self.accelerator.is_main_process and sys.stderr.isatty()),
            bar_format=_BAR,
        )
        metrics = (self.out / "metrics.jsonl").open("ab") if self.accelerator.is_main_process else None
        try:
            while not train.steps or self.progress.step < train.steps:
                before = time.monotonic()
                due = bool(train.checkpoint_seconds) and before - last_checkpoint >= train.checkpoint_seconds
                done, stop, due = self._agree(budget, step_seconds, due)
                if stop:
                    break
                self._step(done)
                now = time.monotonic()
                self.progress.seconds = spent_before + now - started
                step_seconds = max(now - before, 0.9 * step_seconds)
                if self.progress.step % train.log_steps == 0:
                    self._log(metrics, bar, done, now - logged, budget)
                    logged = now
                if due or (train.checkpoint_steps and self.progress.step % train.checkpoint_steps == 0):
                    self.save()
                    last_checkpoint = time.monotonic()
        finally:
            bar.close()
            if metrics:
                metrics.close()
        self.save()
        return self.progress

    def _step(self, done: float) -> None:
        """One step of all packs: forward, backward, update."""
        train, step = self.config.train, self.progress.step
        turns = {pack: next_turn(self.carries[pack], self.maker, train, step, pack) for pack in self.packs}
        sequences = self._sum(sum(len(turn.samples) for turn in turns.values()))
        scale = self.accelerator.num_processes / sequences
        found: list[Found] = []
        broken: set[str] = set()
        for pack, turn in turns.items():
            batch = to_batch(turn.pack, self.config.memory.tokens, self.accelerator.device)
            carry = self.carries[pack]
            initial = self.network.reasoner.initial_state(batch.layout.tokens, self.dtype)
            state = assemble_state(initial, carry, turn, batch.layout, self.maker.tokens(carry.samples))
            last = pack == self.packs[-1]
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                segment = self.model(state, batch)
                loss = self._loss(segment, batch, turn.segments)
                self.accelerator.backward(loss.total * scale)
            found.append(take_gradients(self.network))
            figures = torch.stack((loss.token, loss.halting, loss.exact.sum().float())).tolist()
            if not all(map(math.isfinite, figures)):
                broken |= {self.store.task_ids[task] for task in turn.pack.task.tolist()}
            token_loss, halting_loss, exact = figures
            count, segments = len(turn.samples), float(turn.segments.sum() + len(turn.samples))
            self.totals.add(Totals(token_loss, halting_loss, exact, count, batch.layout.tokens, segments))
            self.carries[pack] = halt(turn, segment.halting, segment.state, batch.layout, train, step, pack)
        if self._any(bool(broken)):  # every process stops, or none
            named = ", ".join(sorted(broken)[:5]) or "of another process"
            raise FloatingPointError(f"step {step}: the loss is not finite; among the tasks {named}")
        self._update(done, found)
        self.progress.step += 1
        self.progress.sequences += int(sequences)

    def _loss(self, segment: Segment, batch: Batch, segments_before: npt.NDArray[np.int64]) -> SegmentLoss:
        """Return the loss of one segment; Q-learning looks one segment ahead for what going on is worth."""
        train, going_on = self.config.train, None
        if train.halting == "q-learning" and train.segments > 1:
            last = torch.from_numpy(segments_before + 1 >= train.segments).to(segment.halting.device)
            with torch.no_grad():
                going_on = going_on_target(self.network(segment.state, batch).halting, last)
        assert batch.labels is not None, "training packs have labels"
        weight = 0.0 if train.halting == "off" else 0.5
        return segment_loss(segment.logits, segment.halting, batch.labels, batch.layout, train.loss, going_on, weight)

    def _update(self, done: float, found: list[Found]) -> None:
        optimizer = self.config.optimizer
        factor = rate_factor(optimizer, self.progress.step, done)
        self.optimizer.set_rates(factor)
        self.stepper.step()
        self.stepper.zero_grad()
        if self.accelerator.optimizer_step_was_skipped:  # float16 overflow: the scale was lowered, nothing else happens
            return
        train_tables(self.network, found, self.accelerator, self.average, optimizer, factor)
        if self.average:
            self.average.update()

    def _sum(self, value: float) -> float:
        if self.accelerator.num_processes == 1:
            return value
        return float(self.accelerator.reduce(torch.tensor(float(value), device=self.accelerator.device), "sum"))

    def _any(self, flag: bool) -> bool:
        return self._sum(float(flag)) > 0

    def _agree(self, budget: Budget, step_seconds: float, due: bool) -> tuple[float, bool, bool]:
        """Return the share 0..1 of the run that is done, whether to stop now, and whether a checkpoint is due after this step.

        It is what the main process finds, in every process.
        """
        steps, left = self.config.train.steps, budget.remaining()
        spent = self.progress.seconds
        by_time = 0.0 if math.isinf(left) else spent / max(spent + left, 1e-9)
        by_steps = self.progress.step / steps if steps else 0.0
        stop = left < 1.5 * step_seconds + self.save_seconds
        if self.accelerator.num_processes > 1:
            figures = torch.tensor([by_time, float(stop), float(due)], device=self.accelerator.device)
            mine = figures if self.accelerator.is_main_process else torch.zeros_like(figures)
            by_time, stop, due = self.accelerator.reduce(mine, "sum").tolist()
        return max(by_time, by_steps), bool(stop), bool(due)

    def _log(self, metrics: BinaryIO | None, bar: tqdm, done: float, seconds: float, budget: Budget) -> None:
        """Add a line to the metrics: means since the last line, over all processes."""
        totals, self.totals = self.summed_totals(), Totals()
        count = totals.sequences
        self.progress.last = {
            "step": self.progress.step,
            "loss": round(totals.token_loss / count, 5),
            "halting_loss": round(totals.halting_loss / count, 5),
            "exact": round(totals.exact / count, 5),
            "segments": round(totals.segments / count, 3),
            "sequences_per_second": round(count / seconds, 2),
            "tokens_per_second": round(totals.tokens / seconds, 1),
            "rate_factor": round(rate_factor(self.config.optimizer, self.progress.step, done), 5),
            "seconds": round(self.progress.seconds, 2),
        }
        if metrics is None:
            return
        metrics.write(orjson.dumps(self.progress.last) + b"\n")
        metrics.flush()
        last = self.progress.last
        left = budget.remaining()
        text = (
            f"step {last['step']}, loss {last['loss']:.3f}, exact {last['exact']:.2f}, "
            f"{last['tokens_per_second'] / 1000:.1f}k tokens/s"
            + ("" if math.isinf(left) else f", {format_duration(left)} left")
        )
        if not bar.disable:
            bar.n = round(100 * done, 1)
            bar.set_postfix_str(text)
        elif time.monotonic() - self.told > LINE_SECONDS:  # no terminal: a plain line now and then
            self.told = time.monotonic()
            logger.info("train %3.0f%%: %s", 100 * done, text)

    def summed_totals(self) -> Totals:
        """Return the totals over all processes; every process must ask."""
        return Totals(**{name: self._sum(value) for name, value in asdict(self.totals).items()})

    def weights(self) -> Mapping[str, Tensor]:
        """Return the weights that predictions use: averaged where the average is on."""
        return self.average.state_dict() if self.average else self.network.state_dict()

    def save(self) -> None:
        """Write a checkpoint of this step, all processes together.

        Raises FloatingPointError, in every process, when the weights are not finite: the last good checkpoint stays.
        """
        newest = newest_checkpoint(self.out / "checkpoints")
        if newest and newest.name == checkpoint_name(self.progress.step):
            return  # it is there already, complete
        if not all(tensor.isfinite().all() for tensor in self.weights().values()):
            raise FloatingPointError(f"step {self.progress.step}: the weights are not finite, no checkpoint is written")
        started = time.monotonic()
        save_checkpoint(self)
        self.save_seconds = time.monotonic() - started

    def resume(self) -> bool:
        """Continue from the newest checkpoint of the output folder; return whether there was one.

        Raises ValueError when it belongs to other data, another config or another number of processes.
        """
        return load_checkpoint(self)

    def has_checkpoint(self) -> bool:
        """Return whether the output folder holds a checkpoint."""
        return newest_checkpoint(self.out / "checkpoints") is not None
