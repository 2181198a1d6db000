"""How a trainer goes on from a checkpoint (pipeline.save) as if it had never stopped.

A checkpoint that one process cannot read is damaged for all of them: it is renamed, and the next older one is taken.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import torch
from accelerate.utils import gather_object
from torch import Tensor

from eval.replace import replace_file
from pipeline.carry import Carry, Wishes
from pipeline.checkpoint import read_weights
from pipeline.checkpoint_folder import (
    WEIGHTS,
    checkpoints,
    read_state,
    set_aside,
)
from pipeline.config import Config
from pipeline.data.pack import Samples
from pipeline.engine import from_main
from pipeline.progress import Progress, Totals
from pipeline.save import SAMPLES, TRAINING, carry_file, training_tensors
from pipeline.tensorfiles import Damaged, read_tensors

if TYPE_CHECKING:
    from pipeline.train import Trainer

logger = logging.getLogger(__name__)

_FREE = {"steps", "packs", "pieces", "execution", "log_steps", "checkpoint_seconds", "checkpoint_steps", "checkpoints_kept"}
"""Settings of training that a resumed run may change."""


@dataclass(frozen=True)
class _Stored:
    """A checkpoint as one process has read it: complete, and of the shapes that its trainer has."""

    tensors: dict[str, Tensor]
    average_step: int
    scaler: dict[str, Any]
    progress: Progress
    totals: Totals
    processes: int
    packs: int
    """Of a step, over all processes, when it was written."""
    carries: dict[int, Carry]
    """Of the packs of this process from now on, as far as they were there then."""


def load_checkpoint(trainer: "Trainer") -> bool:
    """Bring `trainer` to the newest checkpoint of its output folder that is not damaged; return whether there was one.

    Damaged ones are renamed. Raises ValueError when a checkpoint belongs to other data or another config.
    """
    accelerator = trainer.accelerator
    folders = from_main(accelerator, checkpoints(trainer.out / "checkpoints"))
    for folder in reversed(folders):
        problems: list[str | None] = [None]
        try:
            stored = _read(trainer, folder)
        except (OSError, Damaged) as error:
            problems = [str(error)]
        if accelerator.num_processes > 1:
            problems = gather_object(problems)
        if not any(problems):
            _apply(trainer, folder, stored)
            return True
        if accelerator.is_main_process:
            renamed = set_aside(folder)
            logger.warning("%s; the checkpoint is called %s now", next(filter(None, problems)), renamed.name)
        accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _truncate_metrics(trainer.out / "metrics.jsonl", 0)
    if folders:
        logger.warning("no checkpoint is left that can be read; training starts from the beginning")
    return False


def _read(trainer: "Trainer", folder: Path) -> _Stored:
    """Read what this process needs of a checkpoint; the trainer stays as it is.

    Raises Damaged or OSError where it cannot be read, another ValueError where it belongs to another run.
    """
    state = read_state(folder)
    try:
        config = _check(trainer, folder, state)
        if trainer.accelerator.is_main_process:
            read_weights(folder / WEIGHTS)
        tensors, _ = read_tensors(folder / TRAINING)
        _check_shapes(trainer, folder / TRAINING, tensors)
        processes, progress, totals = state["processes"], Progress(**state["progress"]), Totals(**state["totals"])
        packs = state.get("packs") or config.train.packs or processes
        carries = _read_carries(trainer, folder, processes, packs)
        return _Stored(tensors, state["average_step"], state["scaler"], progress, totals, processes, packs, carries)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise Damaged(f"{folder}: damaged, not what training writes ({type(error).__name__}: {error})") from None


def _apply(trainer: "Trainer", folder: Path, stored: _Stored) -> None:
    """Let `trainer` go on from `stored`."""
    device, processes = trainer.accelerator.device, trainer.accelerator.num_processes
    trainer.network.load_state_dict(_part(stored.tensors, "network"))
    if trainer.average:
        trainer.average.load(_part(stored.tensors, "average"), stored.average_step)
    _load_optimizer(trainer, _part(stored.tensors, "optimizer"))
    torch.set_rng_state(stored.tensors["rng"])
    if trainer.accelerator.scaler is not None and stored.scaler:
        trainer.accelerator.scaler.load_state_dict(stored.scaler)
    packs = packs_after(trainer.config.train.packs, stored.packs, processes)
    trainer.share_packs(packs)
    trainer.carries |= {pack: carry.to(device) for pack, carry in stored.carries.items()}
    trainer.progress = stored.progress
    if trainer.accelerator.is_main_process:
        trainer.totals = stored.totals
        _truncate_metrics(trainer.out / "metrics.jsonl", trainer.progress.step)
    logger.info("resumed at step %d from %s", trainer.progress.step, folder)
    if (processes, packs) != (stored.processes, stored.packs):
        before = f"{stored.processes} processes with {stored.packs} packs a step"
        logger.warning("before: %s; now: %d processes with %d packs a step", before, processes, packs)


def packs_after(asked: int, before: int, processes: int) -> int:
    """Return the packs of a step after a resume: those `asked` for, else as many as `before` if the processes can share them.

    Packs that are new begin with fresh sequences; those that are no more are forgotten with theirs.
    """
    if asked:
        return asked
    return before if before % processes == 0 else processes


def _check(trainer: "Trainer", folder: Path, state: Mapping[str, Any]) -> Config:
    """Return the config of a checkpoint. Raises ValueError, naming what differs, where this run cannot go on from it."""
    try:
        config = Config.from_json(state["config"])
    except ValueError as error:
        raise ValueError(f"{folder}: cannot resume, its config is not one of this version: {error}") from None
    pairs = {"data_hash": (state["data_hash"], trainer.store.data_hash), "dtype": (state["dtype"], str(trainer.dtype))}
    stored, own = config.to_json(), trainer.config.to_json()
    for section in ("model", "memory", "optimizer", "train"):
        for name in own[section].keys() - _FREE:
            pairs[f"{section}.{name}"] = (stored[section][name], own[section][name])
    for name, (before, now) in sorted(pairs.items()):
        if before != now:
            raise ValueError(
                f"{folder}: cannot resume, its {name} is {before!r} and that of this run {now!r}; use another folder"
            )
    return config


def _check_shapes(trainer: "Trainer", path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise Damaged unless `tensors` are those that training keeps, of the shapes that they have here."""
    expected = {name: tensor.shape for name, tensor in training_tensors(trainer).items() if not name.startswith("optimizer.")}
    parameters = dict(trainer.network.named_parameters())
    for name in _part(tensors, "optimizer"):
        parameter, _, key = name.rpartition(":")
        expected[f"optimizer.{name}"] = torch.Size() if key == "step" else parameters[parameter].shape
    if expected != {name: tensor.shape for name, tensor in tensors.items()}:
        raise Damaged(f"{path}: damaged, its tensors are not those of this network")


def _part(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{kind}."): tensor for name, tensor in tensors.items() if name.startswith(f"{kind}.")}


def _load_optimizer(trainer: "Trainer", tensors: Mapping[str, Tensor]) -> None:
    parameters = dict(trainer.network.named_parameters())
    states: dict[Tensor, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parameter, _, key = name.rpartition(":")
        place = "cpu" if key == "step" else trainer.accelerator.device
        states.setdefault(parameters[parameter], {})[key] = tensor.to(place)
    trainer.optimizer.load_states(states)


def _read_carries(trainer: "Trainer", folder: Path, processes: int, packs: int) -> dict[int, Carry]:
    """Return what this process's packs carry from a checkpoint that so many processes wrote, with so many packs a step."""
    own = trainer.accelerator
    now = packs_after(trainer.config.train.packs, packs, own.num_processes)
    files: dict[str, dict[str, Tensor]] = {}
    carries = {}
    for pack in range(own.process_index, min(packs, now), own.num_processes):
        path = folder / carry_file(pack % processes)
        if path.name not in files:
            files[path.name] = read_tensors(path)[0] if path.is_file() else {}
        tensors = files[path.name]
        if f"{pack}.example" in tensors:
            example, transform, shift, segments = (tensors[f"{pack}.{name}"].numpy() for name in SAMPLES)
            state = tuple(tensors[f"{pack}.state{i}"] for i in range(len(trainer.network.reasoner.states)))
            wishes = Wishes.of(tensors[f"{pack}.wishes"].numpy()) if f"{pack}.wishes" in tensors else None
            carries[pack] = Carry(Samples(example, transform, shift), segments, state, wishes)
            tokens = int(trainer.maker.tokens(carries[pack].samples).sum())
            if len(segments) != len(example) or any(len(part) != tokens for part in state):
                raise Damaged(f"{path}: damaged, the states of pack {pack} do not match its sequences")
    return carries


def _truncate_metrics(path: Path, step: int) -> None:
    """Drop the lines that were written after the checkpoint of `step`, and those that are cut short or damaged."""
    if not path.is_file():
        return
    kept = b"".join(line + b"\n" for line in path.read_bytes().splitlines() if _is_before(line, step))
    try:
        replace_file(path, kept)
    except OSError as error:
        logger.warning("%s; it has lines of steps that are computed again", error)


def _is_before(line: bytes, step: int) -> bool:
    """Return whether a line of metrics was written by `step`."""
    try:
        return bool(orjson.loads(line)["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False
