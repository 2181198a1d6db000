"""Compare our reasoners with reference vectors of the published code.

`python -m tests.parity FILE...` prints, for each file, the largest relative error of the logits, losses and gradients in
float32, and exits 1 when one exceeds the tolerance. A file holds `param.*`, `batch.*`, `eval.*` and `train.*` tensors under the
authors' names, and their config as JSON in its metadata.

The tolerance is 1e-4. Some networks with random weights are chaotic: they multiply the rounding of float32 by fifty with every
segment, so that the published code itself, run on another processor, misses its own vectors. Where an error is above the
tolerance, it is measured how far rounding alone moves that value (our network in float32, and in float64 with weights off by
half a unit in the last place of a float32, each against float64); a few times of that is allowed, and the line says so.
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

from pipeline.models.batch import Views
from pipeline.models.layout import Layout, make_layout
from pipeline.models.loss import SegmentLoss, going_on_target, segment_loss
from pipeline.models.network import REASONERS
from pipeline.models.reasoner import Segment, State
from pipeline.models.task_memory import TableMemory
from pipeline.published.names import MEMORY_ROWS, parameter_names, translate_config

TOLERANCE = 1e-4
ROUNDING_ALLOWED = 4.0
"""How many times the effect of rounding an error may be."""
PERTURBATIONS = 4


@dataclass(frozen=True)
class Errors:
    """Relative errors by the name of the value, each the largest difference over the largest magnitude of a tensor."""

    found: dict[str, float]
    rounding: dict[str, float]
    """What rounding alone does to the same values; empty where no error is above the tolerance."""

    def worst(self, part: str) -> float:
        """Return the largest error of the values that have `part` in their names."""
        return max(error for name, error in self.found.items() if part in name)

    def above(self) -> list[str]:
        """Return the names of the values that are off by more than the tolerance and more than rounding explains."""
        allowed = {name: max(TOLERANCE, ROUNDING_ALLOWED * rounding) for name, rounding in self.rounding.items()}
        return [name for name, error in self.found.items() if not error <= allowed.get(name, TOLERANCE)]

    def chaotic(self) -> list[str]:
        """Return the names of the values that are off by more than the tolerance."""
        return [name for name, error in self.found.items() if not error <= TOLERANCE]


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
        self.config = translate_config(published)
        tokens, model = self.config.memory.tokens, self.config.model
        self.names = parameter_names(model)
        self.network = REASONERS[model.kind](model, tokens, torch.Generator().manual_seed(0)).to(device)
        rows = parameters.pop(MEMORY_ROWS)
        self.network.load_state_dict({self.names[name]: tensor for name, tensor in parameters.items()})
        self.memory = TableMemory(len(rows), rows.shape[1], tokens).to(device)
        self.memory.rows.copy_(rows)
        self.inputs = self.tensors["batch.inputs"].long()
        self.labels = self.tensors["batch.labels"].long().flatten()
        steps = {name.split(".")[1] for name in self.tensors if name.startswith("eval.")}
        self.steps = sorted(steps, key=lambda step: int(step.removeprefix("step")))
        shapes = torch.full((len(self.inputs), 2), model.canvas_side)
        self.layout: Layout = make_layout(shapes, torch.zeros_like(shapes), tokens, torch.device(device))

    def segment(self, state: State, training: bool = False) -> tuple[Segment, SegmentLoss]:
        """Run one segment on the reference batch, in training with the further segment that Q-learning looks at."""
        segment = self._run(state)
        going_on = None
        if training and self.config.train.halting == "q-learning":
            with torch.no_grad():
                following = self._run(segment.state).halting
            going_on = going_on_target(
                following, torch.full_like(following[:, 0], self.config.train.segments == 1, dtype=torch.bool)
            )
        return segment, segment_loss(segment.logits, segment.halting, self.labels, self.layout, going_on=going_on)

    def _run(self, state: State) -> Segment:
        task = self.tensors["batch.puzzle_identifiers"].long()
        views = Views(task, task, torch.zeros_like(task), torch.arange(10, device=task.device).expand(len(task), 10))
        return self.network(state, self.inputs.flatten(), self.memory(views), self.layout)

    def values(self) -> dict[str, Tensor]:
        """Return what our network gives, under the names that the file has for it."""
        given: dict[str, Tensor] = {}
        dtype = self.network.embedding.dtype
        state = self.network.initial_state(self.layout.tokens, dtype)
        with torch.no_grad():
            for step in self.steps:
                segment, loss = self.segment(state)
                state = segment.state
                given[f"eval.{step}.logits"] = segment.logits
                given[f"eval.{step}.q_halt_logits"] = segment.halting[:, 0]
                given[f"eval.{step}.loss"] = loss.total
        self.network.zero_grad()
        _, loss = self.segment(self.network.initial_state(self.layout.tokens, dtype), training=True)
        loss.total.backward()
        given["train.step1.loss"] = loss.total.detach()
        ours = {name: parameter.grad for name, parameter in self.network.named_parameters()}
        for name in self.tensors:
            published = name.removeprefix("train.step1.grad.")
            if published != name:
                gradient = self.memory.gathered.grad if published == "puzzle_rows" else ours.pop(self.names[published])
                assert gradient is not None, f"no gradient for {published}"
                given[name] = gradient
        assert not ours, f"no reference gradient for {sorted(ours)}"
        return given


def relative_error(ours: Tensor, reference: Tensor) -> float:
    """Return max |ours - reference| / max |reference| (the plain difference where the reference is zero)."""
    scale = reference.abs().max().item() or 1.0
    error = (ours.reshape(reference.shape).double() - reference.double()).abs().max().item() / scale
    return error if math.isfinite(error) else math.inf


def compare(path: Path, device: str = "cpu") -> Errors:
    """Return the errors of our network on one reference file, and what rounding alone does."""
    reference = Reference(path, device)
    single = reference.values()
    found = {name: relative_error(value, reference.tensors[name]) for name, value in single.items()}
    if all(error <= TOLERANCE for error in found.values()):
        return Errors(found, {})
    reference.network.double()
    reference.memory.double()
    exact = reference.values()
    moved = [single]
    weights = {name: tensor.clone() for name, tensor in reference.network.state_dict().items()}
    for seed in range(PERTURBATIONS):
        generator = torch.Generator(device).manual_seed(seed)
        for name, tensor in reference.network.state_dict().items():
            off = torch.rand(tensor.shape, generator=generator, device=device, dtype=tensor.dtype) * 2 - 1
            tensor.copy_(weights[name] * (1 + 2**-24 * off))
        moved.append(reference.values())
    rounding = {name: max(relative_error(values[name], exact[name]) for values in moved) for name in exact}
    return Errors(found, rounding)


def describe(errors: Errors) -> str:
    """Return in one line how far off the values are and what to make of it."""
    worst = {name: errors.worst(part) for name, part in (("logits", "logits"), ("loss", ".loss"), ("gradients", ".grad."))}
    line = ", ".join(f"{name} {error:.1e}" for name, error in worst.items())
    above, chaotic = errors.above(), errors.chaotic()
    if above:
        return f"{line}: above {TOLERANCE:g}, and more than rounding explains, in {', '.join(above[:3])}"
    if not chaotic:
        return f"{line}: ok"
    first = max(error for name, error in errors.found.items() if name.split(".")[1] == "step1")
    rounding = max(errors.rounding[name] for name in chaotic)
    return (
        f"{line}: ok, as far as float32 can tell: rounding alone moves {', '.join(chaotic[:4])}"
        f"{' and others' if len(chaotic) > 4 else ''} by up to {rounding:.1e}; "
        f"the first segment is within {first:.1e}"
    )


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
        print(f"{path}: {describe(errors)}")
        failed |= bool(errors.above())
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
