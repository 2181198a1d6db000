"""What a GPU has to show: it computes what the CPU does, in every precision and way of execution, and no step waits for it.

The tests of the marker `cuda` are left out where there is no CUDA device, and the last lines of pytest say so; what they check
of a training is checked on the CPU elsewhere. The others run on the device that there is, a CPU as well.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from pipeline.config import Config
from pipeline.device import make_accelerator
from pipeline.inference.candidates import read_candidates
from pipeline.inference.predictor import Predictor
from pipeline.models.attention import choose_way, packed_error
from pipeline.models.layout import PACKED
from pipeline.models.loss import segment_loss
from pipeline.system.time_limit import NO_LIMIT
from pipeline.training.checkpoint import load_checkpoint
from pipeline.weights.files import load_weights
from tests.parity import Reference, compare, describe
from tests.pipeline import trainers
from tests.pipeline.tiny import tiny_config, tiny_dataset
from tests.pipeline.tinypuzzles import tiny_puzzle_dataset
from tests.pipeline.trainers import final_tensors, make_trainer, metrics

FOLDER = Path(__file__).parents[1] / "golden"
VECTORS = ("trm_attention", "trm_mixer", "hrm", "urm")
SIZE = 32
SYSTEMS = trainers.SYSTEMS | {"urm": ("model.kind=urm", "model.convolution=3", "train.halting=off")}
WIDE = ("model.hidden_size=64", "model.heads=2", "model.inner_multiple=64", "train.pack_tokens=400")
"""Heads of 32: kernels for packs take none of 8."""


def forget_accelerate() -> None:
    """Let the next Accelerator choose its device anew; there is one choice for a whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The GPU, where there is one, for this test only; else the CPU."""
    if torch.cuda.is_available():
        monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
        forget_accelerate()
        yield torch.device("cuda:0")
        forget_accelerate()
    else:
        yield torch.device("cpu")


def settings_of(system: str, *more: str) -> Config:
    base = ("train.steps=6", "train.packs=2", "train.log_steps=1", "train.segments=3", "train.checkpoint_steps=3")
    return tiny_config(*WIDE, *base, *SYSTEMS[system], *more)


@pytest.mark.cuda
@pytest.mark.parametrize("name", VECTORS)
def test_the_vectors_of_the_published_code_hold_in_float32(device: torch.device, name: str) -> None:
    errors = compare(FOLDER / f"{name}.safetensors", str(device))
    assert errors.above() == [], describe(errors)


@pytest.mark.parametrize("name", VECTORS)
def test_bfloat16_misses_the_vectors_by_no_more_than_its_rounding(device: torch.device, name: str) -> None:
    reference = Reference(FOLDER / f"{name}.safetensors", str(device))
    expected = reference.tensors["eval.step1.logits"].flatten(0, 1).double()

    @torch.no_grad()
    def error(dtype: torch.dtype) -> float:
        segment, _ = reference.segment(reference.network.initial_state(reference.layout.tokens, dtype))
        assert segment.state[0].dtype == dtype
        return float((segment.logits.double() - expected).norm() / expected.norm())

    exact, off = error(torch.float32), error(torch.bfloat16)
    generator = torch.Generator(device).manual_seed(0)
    for tensor in reference.network.state_dict().values():  # as far off as bfloat16 has them, at most
        tensor.mul_(1 + 2**-8 * (2 * torch.rand(tensor.shape, generator=generator, device=device) - 1))
    rounding = error(torch.float32)
    assert exact < 1e-4 < off
    assert off < 3 * rounding


def test_accelerate_decides_neither_what_is_compiled_nor_in_which_precision(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    """`accelerate launch` hands a saved config on by these variables."""
    for name, value in (("ACCELERATE_DYNAMO_BACKEND", "inductor"), ("ACCELERATE_MIXED_PRECISION", "bf16")):
        monkeypatch.setenv(name, value)
    forget_accelerate()
    accelerator, dtype = make_accelerator("float32")
    assert (accelerator.state.dynamo_plugin.backend, accelerator.mixed_precision, dtype) == ("NO", "no", torch.float32)
    forget_accelerate()


@pytest.mark.cuda
@pytest.mark.parametrize("system", SYSTEMS)
def test_training_computes_what_it_does_on_a_cpu(tmp_path: Path, device: torch.device, system: str) -> None:
    config = settings_of(system, "train.precision=float32")
    trainer = make_trainer(config, tmp_path / "here")
    assert trainer.state.accelerator.device.type == device.type
    trainer.fit(NO_LIMIT)
    os.environ["ACCELERATE_USE_CPU"] = "1"
    forget_accelerate()
    try:
        make_trainer(config, tmp_path / "cpu").fit(NO_LIMIT)
    finally:
        del os.environ["ACCELERATE_USE_CPU"]
        forget_accelerate()
    names = ("step", "loss", "halting_loss", "segments")
    here, there = (metrics(tmp_path / name, *names) for name in ("here", "cpu"))
    assert here[0] == pytest.approx(there[0], rel=1e-4)
    assert here == [pytest.approx(line, rel=0.02, abs=1e-3) for line in there]


@pytest.mark.cuda
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_resumed_training_goes_on(tmp_path: Path, device: torch.device, system: str) -> None:
    config = settings_of(system)
    make_trainer(config, tmp_path / "whole").fit(NO_LIMIT)
    half = replace(config, train=replace(config.train, steps=3))
    make_trainer(half, tmp_path / "parts").fit(NO_LIMIT)
    trainer = make_trainer(config, tmp_path / "parts")
    assert load_checkpoint(trainer.state)
    assert trainer.state.progress.step == 3
    trainer.fit(NO_LIMIT)
    expected, found = final_tensors(tmp_path / "whole"), final_tensors(tmp_path / "parts")
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        if tensor.is_floating_point() and name.startswith("weights"):  # sums of a GPU come in no fixed order
            torch.testing.assert_close(found[name], tensor, atol=2e-3, rtol=2e-2, msg=name)


@pytest.mark.cuda
def test_predictions_are_those_of_a_cpu(tmp_path: Path, device: torch.device) -> None:
    config, dataset = settings_of("trm", "train.precision=float32", "predict.views=6"), tiny_dataset()
    make_trainer(config, tmp_path, dataset).fit(NO_LIMIT)
    weights = load_weights(tmp_path)
    found = []
    for where in (device, torch.device("cpu")):
        folder = tmp_path / f"candidates-{len(found)}"
        folder.mkdir()
        accelerator: Any = SimpleNamespace(device=where, num_processes=1, process_index=0, is_main_process=True)
        assert list(Predictor(accelerator, torch.float32, weights, dataset, config.predict).rounds(folder, NO_LIMIT))
        found.append([read_candidates(path)[0] for path in sorted(folder.iterdir())])
    for here, there in zip(*found, strict=True):
        assert here.test.tolist() == there.test.tolist()
        assert here.transform.tolist() == there.transform.tolist()
        assert np.abs(here.probability - there.probability).max() < 1e-3
        same = [np.array_equal(one, other) for (_, one, _), (_, other, _) in zip(here.grids(), there.grids(), strict=True)]
        assert np.mean(same) > 0.95  # a tie of two colors may go either way


@torch.no_grad()
def test_the_loss_is_exact_enough_in_float32(device: torch.device) -> None:
    reference = Reference(FOLDER / "trm_attention.safetensors", str(device))
    segment, loss = reference.segment(reference.network.initial_state(reference.layout.tokens, torch.float32))
    exact = segment_loss(segment.logits.double(), segment.halting.double(), reference.labels, reference.layout).total
    assert float(loss.total) == pytest.approx(float(exact), rel=1e-6)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_kernels_for_packs_are_there_and_right(device: torch.device, dtype: torch.dtype) -> None:
    recent = torch.cuda.get_device_capability(device) >= (8, 0)
    if dtype == torch.bfloat16 and not recent:
        pytest.skip("this GPU does not compute in bfloat16")
    recent = recent and dtype != torch.float32
    for way in PACKED if recent else PACKED[1:]:
        assert packed_error(way, str(device), dtype, SIZE) < 0.02
    assert choose_way(device, dtype, SIZE) == ("packed" if recent else "efficient")


@pytest.mark.cuda
@pytest.mark.parametrize("system", SYSTEMS)
def test_execution_changes_nothing_but_rounding(tmp_path: Path, device: torch.device, system: str) -> None:
    """Of tasks, in bfloat16; of puzzles, which have constant shapes without a kernel for packs, in float32."""
    torch._dynamo.reset()
    names = ("loss", "halting_loss")
    for way, dataset, precision, tolerance in (("tasks", tiny_dataset(), "bfloat16", 0.05), ("puzzles", None, "float32", 1e-3)):
        lines = {}
        for each in ("eager", "compiled"):
            config = settings_of(system, f"train.execution={each}", f"train.precision={precision}")
            out = tmp_path / way / each
            trainer = make_trainer(config, out, dataset or tiny_puzzle_dataset())
            trainer.fit(NO_LIMIT)
            assert trainer.gradients.execution.kind == each, "it went on eagerly"
            lines[each] = metrics(out, *names)
        assert lines["compiled"] == [pytest.approx(line, rel=tolerance, abs=tolerance) for line in lines["eager"]]


@pytest.mark.cuda
@pytest.mark.parametrize(("kind", "latents"), [("eager", 1), ("compiled", 1), ("eager", 2)])
def test_no_step_waits_for_the_gpu(tmp_path: Path, device: torch.device, kind: str, latents: int) -> None:
    torch._dynamo.reset()
    config = settings_of("trm", f"train.execution={kind}", f"train.latents={latents}", "train.precision=bfloat16")
    trainer = make_trainer(config, tmp_path)
    for _ in range(4):  # what is compiled, is now
        trainer._step(0.5)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            trainer._step(0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
def test_float16_with_a_scaled_loss_learns_without_a_step_that_is_not_finite(tmp_path: Path, device: torch.device) -> None:
    config = settings_of("trm", "train.precision=float16", "train.steps=60")
    trainer = make_trainer(config, tmp_path)
    trainer.fit(NO_LIMIT)
    losses = [loss for (loss,) in metrics(tmp_path, "loss")]
    assert len(losses) == 60
    assert all(map(math.isfinite, losses))
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
    for name, tensor in final_tensors(tmp_path).items():
        assert not tensor.is_floating_point() or bool(tensor.isfinite().all()), name
