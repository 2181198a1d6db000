"""Compare our reasoners with reference vectors of the published code.

`python -m tests.parity FILE...` prints, for each file, the largest relative error of the logits, losses and gradients in
float32, and exits 1 when one exceeds 1e-4. A file holds `param.*`, `batch.*`, `eval.*` and `train.*` tensors under the
authors' names, and their config as JSON in its metadata.
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.reasoner.layout import Layout, make_layout
from pipeline.reasoner.loss import SegmentLoss, segment_loss
from pipeline.reasoner.memory import TableMemory, Views
from pipeline.reasoner.published import MEMORY_ROWS, translate_config, translate_name, translate_weights
from pipeline.reasoner.trm import TRM, Segment, State

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Errors:
    """Largest relative errors, each the largest absolute difference over the largest reference magnitude of a tensor."""

    logits: float
    loss: float
    gradients: float

    @property
    def worst(self) -> float:
        return max(self.logits, self.loss, self.gradients)


class Reference:
    """One reference file with our network loaded from it."""

    def __init__(self, path: Path, device: str = "cpu") -> None:
        with safe_open(str(path), "pt", device=device) as file:
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            metadata = file.metadata() or {}
        if "config" not in metadata:
            raise ValueError("no config in the metadata, so these are no reference vectors")
        published = json.loads(metadata["config"])
        parameters = {name.removeprefix("param."): t for name, t in self.tensors.items() if name.startswith("param.")}
        config = translate_config(published)
        self.network = TRM(config, torch.Generator().manual_seed(0)).to(device)
        self.network.load_state_dict(translate_weights(parameters))
        rows = parameters[MEMORY_ROWS]
        self.memory = TableMemory(len(rows), rows.shape[1], published["puzzle_emb_len"]).to(device)
        self.memory.rows.copy_(rows)
        self.inputs = self.tensors["batch.inputs"].long()
        self.labels = self.tensors["batch.labels"].long().flatten()
        side = config.canvas_side
        batch = len(self.inputs)
        shapes = torch.full((batch, 2), side)
        steps = {name.split(".")[1] for name in self.tensors if name.startswith("eval.")}
        self.steps = sorted(steps, key=lambda step: int(step.removeprefix("step")))
        self.layout: Layout = make_layout(shapes, torch.zeros_like(shapes), self.memory.tokens, torch.device(device))

    def segment(self, state: State) -> tuple[Segment, SegmentLoss]:
        """Run one segment on the reference batch."""
        task = self.tensors["batch.puzzle_identifiers"].long()
        views = Views(task, task, torch.zeros_like(task), torch.arange(10, device=task.device).expand(len(task), 10))
        segment = self.network(state, self.inputs.flatten(), self.memory(views), self.layout)
        return segment, segment_loss(segment.logits, segment.halting, self.labels, self.layout)


def relative_error(ours: Tensor, reference: Tensor) -> float:
    """Return max |ours - reference| / max |reference| (the plain difference where the reference is zero)."""
    scale = reference.abs().max().item() or 1.0
    error = (ours.reshape(reference.shape) - reference).abs().max().item() / scale
    return error if math.isfinite(error) else math.inf


def compare(path: Path, device: str = "cpu") -> Errors:
    """Return the errors of our network on one reference file."""
    reference = Reference(path, device)
    logits, losses, gradients = [], [], []
    state = reference.network.initial_state(reference.layout.tokens)
    with torch.no_grad():
        for step in reference.steps:
            segment, loss = reference.segment(state)
            state = segment.state
            logits.append(relative_error(segment.logits, reference.tensors[f"eval.{step}.logits"]))
            logits.append(relative_error(segment.halting[:, 0], reference.tensors[f"eval.{step}.q_halt_logits"]))
            losses.append(relative_error(loss.total, reference.tensors[f"eval.{step}.loss"]))
    _, loss = reference.segment(reference.network.initial_state(reference.layout.tokens))
    loss.total.backward()
    losses.append(relative_error(loss.total.detach(), reference.tensors["train.step1.loss"]))
    ours = {name: parameter.grad for name, parameter in reference.network.named_parameters()}
    for name, expected in reference.tensors.items():
        published = name.removeprefix("train.step1.grad.")
        if published == name:
            continue
        if published == "puzzle_rows":
            assert reference.memory.gathered is not None
            gradient = reference.memory.gathered.grad
        else:
            gradient = ours.pop(translate_name(published))
        assert gradient is not None, f"{path}: no gradient for {published}"
        gradients.append(relative_error(gradient, expected))
    assert not ours, f"{path}: no reference gradient for {sorted(ours)}"
    return Errors(max(logits), max(losses), max(gradients))


def main(argv: list[str] | None = None) -> int:
    """Compare every file named on the command line; return 1 when one is off by more than the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args(argv)
    failed = False
    for path in arguments.files:
        try:
            errors = compare(path, arguments.device)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            print(f"{path}: {str(error).splitlines()[0]}")
            failed = True
            continue
        verdict = "ok" if errors.worst <= TOLERANCE else f"above {TOLERANCE:g}"
        print(f"{path}: logits {errors.logits:.1e}, loss {errors.loss:.1e}, gradients {errors.gradients:.1e}: {verdict}")
        failed |= not errors.worst <= TOLERANCE
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
