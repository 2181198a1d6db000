"""Checkpoints: weights, and everything else that training needs to continue as if it had never stopped.

All processes write one together, and its folder appears when it is complete. Every file has a checksum of its content;
`training.json`, written last, also has those of the others. Damaged checkpoints are renamed, and the next older one is read.
"""

import errno
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, cast

import orjson
import torch
from accelerate import Accelerator
from torch import Tensor

from augment.errors import InputError
from eval.files import read_object, sync, write_json
from pipeline.config import MAY_CHANGE, Config
from pipeline.data.packs import Samples
from pipeline.device import from_main, gather
from pipeline.tensor_files import CHECKSUM, Damaged, json_checksum, read_checksum, read_tensors, write_tensors
from pipeline.training.carry import Carry
from pipeline.training.metrics import METRICS_FILE, Progress, Totals, drop_lines_after
from pipeline.training.state import TrainState
from pipeline.weights.files import Weights, read_weights, save_weights, transplant
from pipeline.weights.find import CHECKPOINTS, WEIGHTS, checkpoint_name, checkpoints

logger = logging.getLogger(__name__)

_STATE, _TENSORS, _CARRY = "training.json", "training.safetensors", "carry-{}.safetensors"
_FILE = re.compile(r"[a-z0-9-]+\.safetensors")
_PASSING = {getattr(errno, name) for name in ("EMFILE", "ENFILE", "ENOMEM", "EACCES", "EPERM", "ESTALE", "EAGAIN", "ETIMEDOUT")}
"""Of a process or a connection; all other errors of the system are of the files."""
_SAMPLES = ("example", "transform", "shift", "segments", "place")
"""Names of the arrays that describe the sequences of a carry."""


class CheckpointFailed(OSError):
    """A process could not write its part of a checkpoint; raised in every process."""


def begin_checkpoint(folder: Path, step: int) -> Path:
    """Return a fresh, hidden folder for the checkpoint of `step`; `finish_checkpoint` makes it visible."""
    temporary = folder / f".{checkpoint_name(step)}"
    for unfinished in folder.glob(".step-*"):  # left by a save or a removal that was interrupted
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
    """Remove all checkpoints in `folder` but the newest `kept`; return the names of those that were removed."""
    old = checkpoints(folder)[:-kept]
    for checkpoint in old:
        _remove(checkpoint)
    return [checkpoint.name for checkpoint in old]


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint that is hidden first: an interrupted removal must not look like a damaged checkpoint."""
    shutil.rmtree(set_aside(checkpoint, f".{checkpoint.name}.removed"), ignore_errors=True)


def set_aside(checkpoint: Path, name: str) -> Path:
    """Rename the folder of a checkpoint to a `name` under which it is not found; return the new path."""
    renamed = checkpoint.with_name(name)
    shutil.rmtree(renamed, ignore_errors=True)  # an earlier one of the same step
    return checkpoint.rename(renamed)


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write `training.json`, the last file of a checkpoint, with its own checksum and those of the other files."""
    value = dict(state) | {"files": {path.name: read_checksum(path) for path in sorted(folder.glob("*.safetensors"))}}
    write_json(folder / _STATE, value | {CHECKSUM: json_checksum(value)})


def read_state(folder: Path) -> dict[str, Any]:
    """Return what `write_state` was given. Raises Damaged, also where another file of the checkpoint is missing or replaced."""
    try:
        state = read_object(folder / _STATE)
        stored = state.pop(CHECKSUM, None)  # checkpoints of early versions have none
        if stored is not None and stored != json_checksum(state):
            raise InputError(f"{_STATE} does not have the checksum that was written with it")
    except FileNotFoundError:
        raise Damaged(f"{folder}: damaged, {_STATE} is missing") from None
    except (ValueError, orjson.JSONEncodeError) as error:  # orjson does not write as deep a nesting as it reads
        raise Damaged(f"{folder}: damaged, {error}") from error.__cause__  # of the system, where that could not read it
    files = state.get("files", {})
    if not isinstance(files, dict) or any(not _FILE.fullmatch(name) for name in files):
        raise Damaged(f"{folder}: damaged, {_STATE} does not name the files of a checkpoint")
    for name, checksum in files.items():
        if not (folder / name).is_file():
            raise Damaged(f"{folder}: damaged, {name} is missing")
        if read_checksum(folder / name) != checksum:
            raise Damaged(f"{folder / name}: damaged, it is not the file that was written with this checkpoint")
    return state


def save_checkpoint(state: TrainState) -> None:
    """Write a checkpoint of the step of `state`, all processes together.

    On a full disk, the checkpoints before the newest are removed and it is written again. Raises CheckpointFailed, in every
    process, where one of them still cannot write its part; nothing of the checkpoint remains then.
    """
    try:
        _write_checkpoint(state)
    except CheckpointFailed as error:
        removed = list[str]()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            if state.accelerator.is_main_process:
                with suppress(OSError):  # of a disk that cannot even remove
                    removed = keep_newest(state.out / CHECKPOINTS, 1)
            removed = from_main(state.accelerator, removed)
        if not removed:
            raise
        logger.warning("%s; removed to make room: %s", error, ", ".join(removed))
        _write_checkpoint(state)


def _write_checkpoint(state: TrainState) -> None:
    accelerator, step = state.accelerator, state.progress.step
    temporary = state.out / CHECKPOINTS / f".{checkpoint_name(step)}"
    totals = state.summed_totals()

    def write_shared() -> None:
        begin_checkpoint(temporary.parent, step)
        save_weights(temporary / WEIGHTS, state.weights(), state.config, state.dataset, step)
        write_tensors(temporary / _TENSORS, training_tensors(state))

    def write_own() -> None:
        if carried := _carried_tensors(state.carries):
            write_tensors(temporary / _CARRY.format(accelerator.process_index), carried)

    def finish() -> None:
        write_state(
            temporary,
            {
                "progress": asdict(state.progress),
                "totals": asdict(totals),
                "average_step": state.average.step if state.average else 0,
                "config": state.config.to_json(),
                "data_hash": state.dataset.data_hash,
                "processes": accelerator.num_processes,
                "packs": state.all_packs,
                "dtype": str(state.dtype),
                "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else {},
            },
        )
        finish_checkpoint(temporary, state.config.train.checkpoints_kept)

    for write, in_every_process in ((write_shared, False), (write_own, True), (finish, False)):
        problem: tuple[object, ...] | None = None
        if in_every_process or accelerator.is_main_process:
            try:
                write()
            except OSError as error:
                problem = error.args if error.errno is None else (error.errno, error.strerror, error.filename)
        for failed in filter(None, gather(accelerator, problem)):  # the processes wait for each other here
            if accelerator.is_main_process:
                shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointFailed(*failed)
    state.saved_step = step


def training_tensors(state: TrainState) -> dict[str, Tensor]:
    """Return all tensors that training keeps between steps, by name, except the carries."""
    tensors = {f"network.{name}": tensor for name, tensor in state.network.state_dict().items()}
    if state.average:
        tensors |= {f"average.{name}": tensor for name, tensor in state.average.resume_state().items()}
    states = state.optimizer.states()
    for name, parameter in state.network.named_parameters():
        tensors |= {f"optimizer.{name}:{key}": value for key, value in states.get(parameter, {}).items()}
    return tensors


def _carried_tensors(carries: Mapping[int, Carry]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for pack, carry in carries.items():
        if carry.state is None:
            continue
        arrays = (carry.samples.example, carry.samples.transform, carry.samples.shift, carry.segments, carry.place)
        tensors |= {f"{pack}.{name}": torch.from_numpy(array) for name, array in zip(_SAMPLES, arrays, strict=True)}
        tensors |= {f"{pack}.state{i}": part for i, part in enumerate(carry.state)}
    return tensors


def load_checkpoint(state: TrainState) -> bool:
    """Restore `state` from the newest checkpoint of its output folder that is not damaged; return whether there was one.

    Damaged ones are renamed. Raises InputError where a checkpoint belongs to other data or another config, and OSError, in
    every process, where one of them cannot read it for now or does not see it: that says nothing about the checkpoint.
    """
    accelerator = state.accelerator
    folders = from_main(accelerator, checkpoints(state.out / CHECKPOINTS))
    for folder in reversed(folders):
        damage, hindrance = "", ""
        try:
            restore = _read(state, folder)
        except (OSError, Damaged) as error:
            if passing := _passing(error):
                hindrance = f"process {accelerator.process_index} cannot read {folder}: {passing}"
            else:
                damage = str(error)
        damages, hindrances = (
            list(filter(None, found)) for found in zip(*gather(accelerator, (damage, hindrance)), strict=True)
        )
        if hindrances:
            raise OSError(hindrances[0])
        if not damages:
            restore()
            return True
        if accelerator.is_main_process:
            try:
                renamed = f"is called {set_aside(folder, f'damaged-{folder.name}').name} now"
            except OSError as error:
                renamed = f"cannot be renamed ({error.strerror})"
            logger.warning("%s; the checkpoint %s", damages[0], renamed)
        accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        drop_lines_after(state.out / METRICS_FILE, 0)
    if folders:
        logger.warning("no checkpoint is left that can be read; training starts from the beginning")
    return False


def begin_with(state: TrainState, weights: Weights) -> None:
    """Start from `weights`, before the first step. Raises InputError where they are of another network."""
    logger.info("%s", transplant(weights, state.network, state.dataset))
    if state.average:
        state.average.load(state.average.resume_state() | state.network.state_dict(), 0)


def _passing(error: OSError | Damaged) -> OSError | None:
    """Return the error of the system that says nothing about the content of a file, if `error` is one or comes from one."""
    cause = error if isinstance(error, OSError) else error.__cause__
    passes = isinstance(cause, FileNotFoundError) or (isinstance(cause, OSError) and cause.errno in _PASSING)
    return cast(OSError, cause) if passes else None


def _shared_state(accelerator: Accelerator, folder: Path) -> dict[str, Any]:
    """Return what the main process reads of a checkpoint and its files. Raises, in every process, Damaged or OSError."""
    saved: dict[str, Any] | OSError | Damaged = {}
    if accelerator.is_main_process:
        try:
            saved = read_state(folder)
        except (OSError, Damaged) as error:
            saved = _passing(error) or Damaged(str(error))
    saved = from_main(accelerator, saved)
    if isinstance(saved, Exception):
        raise saved
    return saved


def _read(state: TrainState, folder: Path) -> Callable[[], None]:
    """Read and check what this process needs of a checkpoint; return a function that lets `state` continue from it.

    Raises Damaged or OSError where it cannot be read, another InputError where it belongs to another run.
    """
    device, processes = state.accelerator.device, state.accelerator.num_processes
    saved = _shared_state(state.accelerator, folder)
    try:
        config = _require_same_run(state, folder, saved)
        if state.accelerator.is_main_process:
            read_weights(folder / WEIGHTS)
        tensors, _ = read_tensors(folder / _TENSORS)
        tensors.pop("rng", None)  # which earlier versions kept and nothing drew from
        optimizer_states = _optimizer_states(state, folder / _TENSORS, tensors)
        progress, totals = Progress(**saved["progress"]), Totals(**saved["totals"])
        average_step, scaler, processes_before = saved["average_step"], saved["scaler"], saved["processes"]
        packs_before = saved.get("packs") or config.train.packs or processes_before
        packs = packs_after(state.config.train.packs, packs_before, processes)
        carries = _read_carries(state, folder, processes_before, min(packs_before, packs), saved.get("files"))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        said = f"({type(error).__name__}: {error})"
        if "files" in saved:  # its checksums are right
            raise InputError(f"{folder}: cannot resume, another version has written it {said}; use another folder") from None
        raise Damaged(f"{folder}: damaged, not what training writes {said}") from None

    def restore() -> None:
        state.network.load_state_dict(_section(tensors, "network"))
        if state.average:
            state.average.load(_section(tensors, "average"), average_step)
        state.optimizer.load_states(optimizer_states)
        if state.accelerator.scaler is not None and scaler:
            state.accelerator.scaler.load_state_dict(scaler)
        state.share_packs(packs)
        state.carries |= {pack: carry.to(device) for pack, carry in carries.items()}
        state.progress, state.saved_step = progress, progress.step
        if state.accelerator.is_main_process:
            state.totals = totals
            drop_lines_after(state.out / METRICS_FILE, progress.step)
        logger.info("resumed at step %d from %s", progress.step, folder)
        if (processes, packs) != (processes_before, packs_before):
            before = f"{processes_before} processes with {packs_before} packs a step"
            logger.warning("before: %s; now: %d processes with %d packs a step", before, processes, packs)

    return restore


def packs_after(configured: int, before: int, processes: int) -> int:
    """Return the packs of a step after a resume: those that are `configured`, else as many as `before` if they divide evenly.

    Packs that are new begin with fresh sequences; those of packs that are gone are dropped.
    """
    if configured:
        return configured
    return before if before % processes == 0 else processes


def _require_same_run(state: TrainState, folder: Path, saved: Mapping[str, Any]) -> Config:
    """Return the config of a checkpoint. Raises InputError, naming what differs, where this run cannot continue from it."""
    try:
        config = Config.from_json(saved["config"])
    except ValueError as error:
        raise InputError(f"{folder}: cannot resume, its config is not one of this version: {error}") from None
    pairs = {"data_hash": (saved["data_hash"], state.dataset.data_hash), "dtype": (saved["dtype"], str(state.dtype))}
    stored, own = config.to_json(), state.config.to_json()
    for section in ("model", "memory", "optimizer", "train"):
        free = {"precision", "cut_from"}  # dtype is what it came to, and pack_tokens what they were cut to
        if saved["progress"]["step"] == 0:
            free.add("pack_tokens")  # that were fitted to a time in which nothing was trained
        for name in own[section].keys() - MAY_CHANGE.get(section, set()) - free:
            pairs[f"{section}.{name}"] = (stored[section][name], own[section][name])
    for name, (before, now) in sorted(pairs.items()):
        if before != now:
            raise InputError(
                f"{folder}: cannot resume, its {name} is {before!r} and that of this run {now!r}; use another folder"
            )
    return config


def _optimizer_states(state: TrainState, path: Path, tensors: Mapping[str, Tensor]) -> dict[Tensor, dict[str, Tensor]]:
    """Return the states of the optimizer that are among the `tensors` of a checkpoint, by parameter; there may be none yet.

    Raises Damaged unless `tensors` have the names and shapes of `training_tensors`.
    """
    expected = {name: tensor.shape for name, tensor in training_tensors(state).items() if not name.startswith("optimizer.")}
    parameters = dict(state.network.named_parameters())
    states: dict[Tensor, dict[str, Tensor]] = {}
    for name, tensor in _section(tensors, "optimizer").items():
        parameter, _, key = name.rpartition(":")
        expected[f"optimizer.{name}"] = torch.Size() if key == "step" else parameters[parameter].shape
        states.setdefault(parameters[parameter], {})[key] = tensor.to("cpu" if key == "step" else state.accelerator.device)
    if expected != {name: tensor.shape for name, tensor in tensors.items()}:
        raise Damaged(f"{path}: damaged, its tensors are not those of this network")
    return states


def _section(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{kind}."): tensor for name, tensor in tensors.items() if name.startswith(f"{kind}.")}


def _read_carries(
    state: TrainState, folder: Path, processes: int, packs: int, files: Mapping[str, str] | None
) -> dict[int, Carry]:
    """Return the carries of this process's packs, of the first `packs`, from a checkpoint that `processes` have written.

    `files` are those of the checkpoint, whether this process sees them or not; None in those of early versions.
    """
    read, carries = cache(read_tensors), {}
    for pack in range(state.accelerator.process_index, packs, state.accelerator.num_processes):
        path = folder / _CARRY.format(pack % processes)
        tensors = read(path)[0] if (path.is_file() if files is None else path.name in files) else {}
        if f"{pack}.example" in tensors:
            tensors.setdefault(f"{pack}.place", torch.arange(len(tensors[f"{pack}.example"])))  # earlier versions had none
            example, transform, shift, segments, place = (tensors[f"{pack}.{name}"].numpy() for name in _SAMPLES)
            carried = tuple(tensors[f"{pack}.state{i}"] for i in range(len(state.network.reasoner.states)))
            carries[pack] = Carry(Samples(example, transform, shift), segments, place, carried)
            tokens = int(state.maker.tokens(carries[pack].samples).sum())
            if not len(segments) == len(place) == len(example) or any(len(part) != tokens for part in carried):
                raise Damaged(f"{path}: damaged, the states of pack {pack} do not match its sequences")
    return carries
