"""Training checkpoints, written and read: weights, and all that training needs to go on as if it had never stopped.

All processes write together: a checkpoint is complete or not there. Damaged ones are set aside when they are read.
"""

import errno
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import torch
from accelerate.utils import gather_object
from torch import Tensor

from eval.files import replace_file, sync
from pipeline.config import Config
from pipeline.data.packs import Samples
from pipeline.device import from_main
from pipeline.tensor_files import Damaged, read_checked_json, read_checksum, read_tensors, write_checked_json, write_tensors
from pipeline.training.carry import Carry, Wishes
from pipeline.training.metrics import Progress, Totals
from pipeline.training.state import TrainState
from pipeline.weights import WEIGHTS, checkpoint_name, checkpoints, read_weights, save_weights

logger = logging.getLogger(__name__)

_STATE = "training.json"

_FILE = re.compile(r"[a-z0-9-]+\.safetensors")


def begin_checkpoint(folder: Path, step: int) -> Path:
    """Return a fresh, hidden folder for the checkpoint of `step`; `finish_checkpoint` makes it visible."""
    temporary = folder / f".{checkpoint_name(step)}"
    for unfinished in folder.glob(".step-*"):  # of saves that were cut short
        shutil.rmtree(unfinished, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def finish_checkpoint(temporary: Path, kept: int) -> Path:
    """Rename a complete checkpoint into place and remove all but the newest `kept`."""
    final = temporary.with_name(temporary.name.removeprefix("."))
    if final.exists():
        _remove(final)
    temporary.rename(final)
    sync(final.parent)
    keep_newest(final.parent, kept)
    return final


def keep_newest(folder: Path, kept: int) -> list[str]:
    """Remove all checkpoints in `folder` but the newest `kept`; return their names."""
    old = checkpoints(folder)[:-kept]
    for checkpoint in old:
        _remove(checkpoint)
    return [checkpoint.name for checkpoint in old]


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint, hidden first: one that is half removed shall not be taken for one that is damaged."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.removed")
    shutil.rmtree(hidden, ignore_errors=True)
    checkpoint.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write `training.json`, the last file of a checkpoint, with the checksums of the others."""
    files = {path.name: read_checksum(path) for path in sorted(folder.glob("*.safetensors"))}
    write_checked_json(folder / _STATE, dict(state) | {"files": files})


def read_state(folder: Path) -> dict[str, Any]:
    """Return what `write_state` was given. Raises Damaged, also where another file of the checkpoint is missing or replaced."""
    try:
        state = read_checked_json(folder / _STATE)
    except FileNotFoundError:
        raise Damaged(f"{folder}: damaged, {_STATE} is missing") from None
    files = state.get("files", {})
    if not isinstance(files, dict) or any(not _FILE.fullmatch(name) for name in files):
        raise Damaged(f"{folder}: damaged, {_STATE} does not name the files of a checkpoint")
    for name, checksum in files.items():
        if not (folder / name).is_file():
            raise Damaged(f"{folder}: damaged, {name} is missing")
        if read_checksum(folder / name) != checksum:
            raise Damaged(f"{folder / name}: damaged, it is not the file that was written with this checkpoint")
    return state


def set_aside(damaged: Path) -> Path:
    """Rename the folder of a damaged checkpoint, so that nobody takes it for one; return what it is called now."""
    renamed = damaged.with_name(f"damaged-{damaged.name}")
    shutil.rmtree(renamed, ignore_errors=True)  # an earlier one of the same step
    damaged.rename(renamed)
    return renamed


TRAINING = "training.safetensors"

SAMPLES = ("example", "transform", "shift", "segments")
"""Of the sequences that a pack carries."""


class CheckpointFailed(OSError):
    """A checkpoint could not be written by one of the processes; each of them raises it."""


def save_checkpoint(state: TrainState) -> None:
    """Write a checkpoint of the trainer's step, all processes together: the folder appears when it is complete.

    On a full disk the checkpoints before the newest make room for it. Raises CheckpointFailed, in every process, where one of
    them cannot write nevertheless; nothing of it stays then.
    """
    try:
        _write_checkpoint(state)
    except CheckpointFailed as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not _make_room(state, error):
            raise
        _write_checkpoint(state)


def _make_room(state: TrainState, error: CheckpointFailed) -> bool:
    """Remove all checkpoints but the newest; return, in every process, whether that was possible and there were any."""
    accelerator, removed = state.accelerator, list[str]()
    if accelerator.is_main_process:
        with suppress(OSError):  # a disk that does not even let go
            removed = keep_newest(state.out / "checkpoints", 1)
    removed = from_main(accelerator, removed)
    if removed and accelerator.is_main_process:
        logger.warning("%s; removed to make room: %s", error, ", ".join(removed))
    return bool(removed)


def _write_checkpoint(state: TrainState) -> None:
    accelerator, step = state.accelerator, state.progress.step
    temporary = state.out / "checkpoints" / f".{checkpoint_name(step)}"
    totals = state.summed_totals()

    def write_shared() -> None:
        begin_checkpoint(temporary.parent, step)
        save_weights(temporary / WEIGHTS, state.weights(), state.config, state.store, step)
        write_tensors(temporary / TRAINING, _plain(training_tensors(state)))

    def write_own() -> None:
        carried = _carried(state.carries)
        if carried:
            write_tensors(temporary / carry_file(accelerator.process_index), carried)

    def finish() -> None:
        write_state(temporary, _state(state, totals))
        finish_checkpoint(temporary, state.config.train.checkpoints_kept)

    for write, everybody in ((write_shared, False), (write_own, True), (finish, False)):
        problem = _try(write) if everybody or accelerator.is_main_process else None
        problems = gather_object([problem]) if accelerator.num_processes > 1 else [problem]  # here they wait for each other
        for found in filter(None, problems):
            if accelerator.is_main_process:
                shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointFailed(*found)


def _try(write: Callable[[], None]) -> tuple[object, ...] | None:
    """Write; return what an OSError is made of, None where there was none."""
    try:
        write()
    except OSError as error:
        return (error.errno, error.strerror, error.filename) if error.errno is not None else error.args
    return None


def carry_file(process: int) -> str:
    """Return the name of the file of what a process carries."""
    return f"carry-{process}.safetensors"


def training_tensors(state: TrainState) -> dict[str, Tensor]:
    """Return all that training keeps between steps, by name, but for what is carried."""
    tensors = {f"network.{name}": tensor for name, tensor in state.network.state_dict().items()}
    if state.average:
        tensors |= {f"average.{name}": tensor for name, tensor in state.average.resume_state().items()}
    states = state.optimizer.states()
    for name, parameter in state.network.named_parameters():
        tensors |= {f"optimizer.{name}:{key}": value for key, value in states.get(parameter, {}).items()}
    return tensors | {"rng": torch.get_rng_state()}


def _state(state: TrainState, totals: Totals) -> dict[str, object]:
    scaler = state.accelerator.scaler
    return {
        "progress": asdict(state.progress),
        "totals": asdict(totals),
        "average_step": state.average.step if state.average else 0,
        "config": state.config.to_json(),
        "data_hash": state.store.data_hash,
        "processes": state.accelerator.num_processes,
        "packs": state.all_packs,
        "dtype": str(state.dtype),
        "scaler": scaler.state_dict() if scaler is not None else {},
    }


def _carried(carries: Mapping[int, Carry]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for pack, carry in carries.items():
        if carry.state is None:
            continue
        arrays = (carry.samples.example, carry.samples.transform, carry.samples.shift, carry.segments)
        tensors |= {f"{pack}.{name}": torch.from_numpy(array) for name, array in zip(SAMPLES, arrays, strict=True)}
        tensors |= {f"{pack}.state{i}": part for i, part in enumerate(carry.state)}
        if carry.wishes is not None:
            tensors[f"{pack}.wishes"] = torch.from_numpy(carry.wishes.take())
    return _plain(tensors)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


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


def load_checkpoint(state: TrainState) -> bool:
    """Bring `state` to the newest checkpoint of its output folder that is not damaged; return whether there was one.

    Damaged ones are renamed. Raises ValueError when a checkpoint belongs to other data or another config.
    """
    accelerator = state.accelerator
    folders = from_main(accelerator, checkpoints(state.out / "checkpoints"))
    for folder in reversed(folders):
        problems: list[str | None] = [None]
        try:
            stored = _read(state, folder)
        except (OSError, Damaged) as error:
            problems = [str(error)]
        if accelerator.num_processes > 1:
            problems = gather_object(problems)
        if not any(problems):
            _apply(state, folder, stored)
            return True
        if accelerator.is_main_process:
            renamed = set_aside(folder)
            logger.warning("%s; the checkpoint is called %s now", next(filter(None, problems)), renamed.name)
        accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _truncate_metrics(state.out / "metrics.jsonl", 0)
    if folders:
        logger.warning("no checkpoint is left that can be read; training starts from the beginning")
    return False


def _read(state: TrainState, folder: Path) -> _Stored:
    """Read what this process needs of a checkpoint; the trainer stays as it is.

    Raises Damaged or OSError where it cannot be read, another ValueError where it belongs to another run.
    """
    saved = read_state(folder)
    try:
        config = _check(state, folder, saved)
        if state.accelerator.is_main_process:
            read_weights(folder / WEIGHTS)
        tensors, _ = read_tensors(folder / TRAINING)
        _check_shapes(state, folder / TRAINING, tensors)
        processes, progress, totals = saved["processes"], Progress(**saved["progress"]), Totals(**saved["totals"])
        packs = saved.get("packs") or config.train.packs or processes
        carries = _read_carries(state, folder, processes, packs)
        return _Stored(tensors, saved["average_step"], saved["scaler"], progress, totals, processes, packs, carries)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise Damaged(f"{folder}: damaged, not what training writes ({type(error).__name__}: {error})") from None


def _apply(state: TrainState, folder: Path, stored: _Stored) -> None:
    """Let `state` go on from `stored`."""
    device, processes = state.accelerator.device, state.accelerator.num_processes
    state.network.load_state_dict(_part(stored.tensors, "network"))
    if state.average:
        state.average.load(_part(stored.tensors, "average"), stored.average_step)
    _load_optimizer(state, _part(stored.tensors, "optimizer"))
    torch.set_rng_state(stored.tensors["rng"])
    if state.accelerator.scaler is not None and stored.scaler:
        state.accelerator.scaler.load_state_dict(stored.scaler)
    packs = packs_after(state.config.train.packs, stored.packs, processes)
    state.share_packs(packs)
    state.carries |= {pack: carry.to(device) for pack, carry in stored.carries.items()}
    state.progress = stored.progress
    if state.accelerator.is_main_process:
        state.totals = stored.totals
        _truncate_metrics(state.out / "metrics.jsonl", state.progress.step)
    logger.info("resumed at step %d from %s", state.progress.step, folder)
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


def _check(state: TrainState, folder: Path, saved: Mapping[str, Any]) -> Config:
    """Return the config of a checkpoint. Raises ValueError, naming what differs, where this run cannot go on from it."""
    try:
        config = Config.from_json(saved["config"])
    except ValueError as error:
        raise ValueError(f"{folder}: cannot resume, its config is not one of this version: {error}") from None
    pairs = {"data_hash": (saved["data_hash"], state.store.data_hash), "dtype": (saved["dtype"], str(state.dtype))}
    stored, own = config.to_json(), state.config.to_json()
    for section in ("model", "memory", "optimizer", "train"):
        for name in own[section].keys() - _FREE:
            pairs[f"{section}.{name}"] = (stored[section][name], own[section][name])
    for name, (before, now) in sorted(pairs.items()):
        if before != now:
            raise ValueError(
                f"{folder}: cannot resume, its {name} is {before!r} and that of this run {now!r}; use another folder"
            )
    return config


def _check_shapes(state: TrainState, path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise Damaged unless `tensors` are those that training keeps, of the shapes that they have here."""
    expected = {name: tensor.shape for name, tensor in training_tensors(state).items() if not name.startswith("optimizer.")}
    parameters = dict(state.network.named_parameters())
    for name in _part(tensors, "optimizer"):
        parameter, _, key = name.rpartition(":")
        expected[f"optimizer.{name}"] = torch.Size() if key == "step" else parameters[parameter].shape
    if expected != {name: tensor.shape for name, tensor in tensors.items()}:
        raise Damaged(f"{path}: damaged, its tensors are not those of this network")


def _part(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{kind}."): tensor for name, tensor in tensors.items() if name.startswith(f"{kind}.")}


def _load_optimizer(state: TrainState, tensors: Mapping[str, Tensor]) -> None:
    parameters = dict(state.network.named_parameters())
    states: dict[Tensor, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parameter, _, key = name.rpartition(":")
        place = "cpu" if key == "step" else state.accelerator.device
        states.setdefault(parameters[parameter], {})[key] = tensor.to(place)
    state.optimizer.load_states(states)


def _read_carries(state: TrainState, folder: Path, processes: int, packs: int) -> dict[int, Carry]:
    """Return what this process's packs carry from a checkpoint that so many processes wrote, with so many packs a step."""
    own = state.accelerator
    now = packs_after(state.config.train.packs, packs, own.num_processes)
    files: dict[str, dict[str, Tensor]] = {}
    carries = {}
    for pack in range(own.process_index, min(packs, now), own.num_processes):
        path = folder / carry_file(pack % processes)
        if path.name not in files:
            files[path.name] = read_tensors(path)[0] if path.is_file() else {}
        tensors = files[path.name]
        if f"{pack}.example" in tensors:
            example, transform, shift, segments = (tensors[f"{pack}.{name}"].numpy() for name in SAMPLES)
            carried = tuple(tensors[f"{pack}.state{i}"] for i in range(len(state.network.reasoner.states)))
            wishes = Wishes.of(tensors[f"{pack}.wishes"].numpy()) if f"{pack}.wishes" in tensors else None
            carries[pack] = Carry(Samples(example, transform, shift), segments, carried, wishes)
            tokens = int(state.maker.tokens(carries[pack].samples).sum())
            if len(segments) != len(example) or any(len(part) != tokens for part in carried):
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
