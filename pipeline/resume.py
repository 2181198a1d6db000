"""What a training checkpoint holds besides weights, and how a trainer goes on from one as if it had never stopped."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import torch
from accelerate.logging import get_logger
from torch import Tensor

from pipeline.carry import Carry
from pipeline.checkpoint import (
    begin_checkpoint,
    checkpoint_name,
    finish_checkpoint,
    newest_checkpoint,
    read_tensors,
    save_weights,
    write_json,
    write_tensors,
)
from pipeline.data.pack import Samples

if TYPE_CHECKING:
    from pipeline.train import Totals, Trainer

logger = get_logger(__name__)

_FREE = {"steps", "log_steps", "checkpoint_seconds", "checkpoint_steps", "checkpoints_kept"}
"""Settings of training that a resumed run may change."""
_SAMPLES = ("example", "transform", "shift", "segments")


def save_checkpoint(trainer: "Trainer") -> None:
    """Write a checkpoint of the trainer's step, all processes together: the folder appears when it is complete."""
    accelerator, step = trainer.accelerator, trainer.progress.step
    folder = trainer.out / "checkpoints"
    totals = trainer.summed_totals()
    if accelerator.is_main_process:
        temporary = begin_checkpoint(folder, step)
        save_weights(temporary / "weights.safetensors", trainer.weights(), trainer.config, trainer.store, step)
        write_tensors(temporary / "training.safetensors", _plain(_tensors(trainer)))
        write_json(temporary / "training.json", _state(trainer, totals))
    accelerator.wait_for_everyone()
    carried = _carried(trainer.carries)
    if carried:
        write_tensors(folder / f".{checkpoint_name(step)}" / f"carry-{accelerator.process_index}.safetensors", carried)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        finish_checkpoint(temporary, trainer.config.train.checkpoints_kept)
    accelerator.wait_for_everyone()


def load_checkpoint(trainer: "Trainer") -> bool:
    """Bring `trainer` to the newest checkpoint of its output folder; return whether there was one.

    Raises ValueError when it belongs to other data, another config or another number of processes, or is damaged.
    """
    folder = newest_checkpoint(trainer.out / "checkpoints")
    if folder is None:
        return False
    state = _read_state(folder / "training.json")
    _check(trainer, folder, state)
    tensors, _ = read_tensors(folder / "training.safetensors")
    trainer.network.load_state_dict(_part(tensors, "network"))
    if trainer.average:
        trainer.average.load(_part(tensors, "average"), state["average_step"])
    _load_optimizer(trainer, _part(tensors, "optimizer"))
    torch.set_rng_state(tensors["rng"])
    if trainer.accelerator.scaler is not None and state["scaler"]:
        trainer.accelerator.scaler.load_state_dict(state["scaler"])
    trainer.carries |= _read_carries(folder / f"carry-{trainer.accelerator.process_index}.safetensors", trainer)
    trainer.progress = type(trainer.progress)(**state["progress"])
    if trainer.accelerator.is_main_process:
        trainer.totals = type(trainer.totals)(**state["totals"])
        _truncate_metrics(trainer.out / "metrics.jsonl", trainer.progress.step)
    logger.info("resumed at step %d from %s", trainer.progress.step, folder)
    return True


def _tensors(trainer: "Trainer") -> dict[str, Tensor]:
    tensors = {f"network.{name}": tensor for name, tensor in trainer.network.state_dict().items()}
    if trainer.average:
        tensors |= {f"average.{name}": tensor for name, tensor in trainer.average.resume_state().items()}
    states = trainer.optimizer.states()
    for name, parameter in trainer.network.named_parameters():
        tensors |= {f"optimizer.{name}:{key}": value for key, value in states.get(parameter, {}).items()}
    return tensors | {"rng": torch.get_rng_state()}


def _state(trainer: "Trainer", totals: "Totals") -> dict[str, object]:
    scaler = trainer.accelerator.scaler
    return {
        "progress": asdict(trainer.progress),
        "totals": asdict(totals),
        "average_step": trainer.average.step if trainer.average else 0,
        "config": trainer.config.to_json(),
        "data_hash": trainer.store.data_hash,
        "processes": trainer.accelerator.num_processes,
        "dtype": str(trainer.dtype),
        "scaler": scaler.state_dict() if scaler is not None else {},
    }


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path}: damaged: {error}") from None
    if not isinstance(state, dict):
        raise ValueError(f"{path}: damaged, expected an object")
    return state


def _check(trainer: "Trainer", folder: Path, state: Mapping[str, Any]) -> None:
    processes, data_hash = trainer.accelerator.num_processes, trainer.store.data_hash
    pairs = {
        "data_hash": (state.get("data_hash"), data_hash),
        "processes": (state.get("processes"), processes),
        "dtype": (state.get("dtype"), str(trainer.dtype)),
    }
    stored, own = state["config"], trainer.config.to_json()
    for section in ("model", "memory", "optimizer", "train"):
        for name in own[section].keys() - _FREE:
            pairs[f"{section}.{name}"] = (stored.get(section, {}).get(name), own[section][name])
    for name, (before, now) in sorted(pairs.items()):
        if before != now:
            raise ValueError(
                f"{folder}: cannot resume, its {name} is {before!r} and that of this run {now!r}; use another folder"
            )


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


def _carried(carries: Mapping[int, Carry]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for pack, carry in carries.items():
        if carry.state is None:
            continue
        arrays = (carry.samples.example, carry.samples.transform, carry.samples.shift, carry.segments)
        tensors |= {f"{pack}.{name}": torch.from_numpy(array) for name, array in zip(_SAMPLES, arrays, strict=True)}
        tensors |= {f"{pack}.state{i}": part for i, part in enumerate(carry.state)}
    return _plain(tensors)


def _read_carries(path: Path, trainer: "Trainer") -> dict[int, Carry]:
    if not path.is_file():
        return {}
    tensors, _ = read_tensors(path)
    carries = {}
    for pack in trainer.packs:
        if f"{pack}.example" in tensors:
            example, transform, shift, segments = (tensors[f"{pack}.{name}"].numpy() for name in _SAMPLES)
            names = sorted(name for name in tensors if name.startswith(f"{pack}.state"))
            state = tuple(tensors[name].to(trainer.accelerator.device) for name in names)
            carries[pack] = Carry(Samples(example, transform, shift), segments, state)
    return carries


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _truncate_metrics(path: Path, step: int) -> None:
    """Drop the lines that were written after the checkpoint, and a last one that was cut short."""
    if not path.is_file():
        return
    lines = [line for line in path.read_bytes().splitlines() if line.endswith(b"}")]
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_bytes(b"".join(line + b"\n" for line in lines if orjson.loads(line)["step"] <= step))
    temporary.replace(path)
