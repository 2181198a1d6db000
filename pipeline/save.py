"""Writes a training checkpoint: weights, and all that training needs to go on as if it had never stopped.

Called by pipeline.train; pipeline.resume reads it again. All processes write together: a checkpoint is complete or not there.
"""

import errno
import logging
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from accelerate.utils import gather_object
from torch import Tensor

from pipeline.carry import Carry
from pipeline.checkpoint import save_weights
from pipeline.checkpoint_folder import (
    WEIGHTS,
    begin_checkpoint,
    checkpoint_name,
    finish_checkpoint,
    keep_newest,
    write_state,
)
from pipeline.engine import from_main
from pipeline.progress import Totals
from pipeline.tensorfiles import write_tensors

if TYPE_CHECKING:
    from pipeline.train import Trainer

logger = logging.getLogger(__name__)

TRAINING = "training.safetensors"
SAMPLES = ("example", "transform", "shift", "segments")
"""Of the sequences that a pack carries."""


class CheckpointFailed(OSError):
    """A checkpoint could not be written by one of the processes; each of them raises it."""


def save_checkpoint(trainer: "Trainer") -> None:
    """Write a checkpoint of the trainer's step, all processes together: the folder appears when it is complete.

    On a full disk the checkpoints before the newest make room for it. Raises CheckpointFailed, in every process, where one of
    them cannot write nevertheless; nothing of it stays then.
    """
    try:
        _write_checkpoint(trainer)
    except CheckpointFailed as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not _make_room(trainer, error):
            raise
        _write_checkpoint(trainer)


def _make_room(trainer: "Trainer", error: CheckpointFailed) -> bool:
    """Remove all checkpoints but the newest; return, in every process, whether that was possible and there were any."""
    accelerator, removed = trainer.accelerator, list[str]()
    if accelerator.is_main_process:
        with suppress(OSError):  # a disk that does not even let go
            removed = keep_newest(trainer.out / "checkpoints", 1)
    removed = from_main(accelerator, removed)
    if removed and accelerator.is_main_process:
        logger.warning("%s; removed to make room: %s", error, ", ".join(removed))
    return bool(removed)


def _write_checkpoint(trainer: "Trainer") -> None:
    accelerator, step = trainer.accelerator, trainer.progress.step
    temporary = trainer.out / "checkpoints" / f".{checkpoint_name(step)}"
    totals = trainer.summed_totals()

    def write_shared() -> None:
        begin_checkpoint(temporary.parent, step)
        save_weights(temporary / WEIGHTS, trainer.weights(), trainer.config, trainer.store, step)
        write_tensors(temporary / TRAINING, _plain(training_tensors(trainer)))

    def write_own() -> None:
        carried = _carried(trainer.carries)
        if carried:
            write_tensors(temporary / carry_file(accelerator.process_index), carried)

    def finish() -> None:
        write_state(temporary, _state(trainer, totals))
        finish_checkpoint(temporary, trainer.config.train.checkpoints_kept)

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


def training_tensors(trainer: "Trainer") -> dict[str, Tensor]:
    """Return all that training keeps between steps, by name, but for what is carried."""
    tensors = {f"network.{name}": tensor for name, tensor in trainer.network.state_dict().items()}
    if trainer.average:
        tensors |= {f"average.{name}": tensor for name, tensor in trainer.average.resume_state().items()}
    states = trainer.optimizer.states()
    for name, parameter in trainer.network.named_parameters():
        tensors |= {f"optimizer.{name}:{key}": value for key, value in states.get(parameter, {}).items()}
    return tensors | {"rng": torch.get_rng_state()}


def _state(trainer: "Trainer", totals: Totals) -> dict[str, object]:
    scaler = trainer.accelerator.scaler
    return {
        "progress": asdict(trainer.progress),
        "totals": asdict(totals),
        "average_step": trainer.average.step if trainer.average else 0,
        "config": trainer.config.to_json(),
        "data_hash": trainer.store.data_hash,
        "processes": trainer.accelerator.num_processes,
        "packs": trainer.all_packs,
        "dtype": str(trainer.dtype),
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
