"""Published TRM and HRM checkpoints, turned into a weights file of ours: `weights.safetensors`.

What comes in is what the authors' training leaves: a PyTorch state dict, `all_config.yaml`, and `identifiers.json` of the
dataset. What goes out is read by prediction and by training, like any weights (`pipeline.weights`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eval.files import require_file
from eval.formatting import show_name, show_path, show_value
from pipeline.config import Config, OptimizerConfig
from pipeline.models.attention import ROPE_THETA
from pipeline.models.layers import NORM_EPSILON
from pipeline.models.network import REASONERS
from pipeline.published.files import first_line, naming, read_state, read_yaml
from pipeline.published.identifiers import read_identifiers
from pipeline.published.names import (
    MEMORY_ROWS,
    TRM_MEMORY_TOKENS,
    PublishedConfig,
    published_names,
    translate_config,
    translate_name,
    translate_weights,
)
from pipeline.system.progress_bar import doing
from pipeline.weights import save_weights

_EMBEDDING = "inner.embed_tokens.embedding_weight"

_MIXER = "inner.L_level.layers.0.mlp_t.down_proj.weight"

_LOSSES = {"stablemax_cross_entropy": "stablemax", "softmax_cross_entropy": "softmax"}

_OPTIMIZER = {
    "lr": "rate",
    "weight_decay": "weight_decay",
    "puzzle_emb_lr": "memory_rate",
    "puzzle_emb_weight_decay": "memory_decay",
    "beta1": "beta1",
    "beta2": "beta2",
    "lr_warmup_steps": "warmup_steps",
}

_DATASET = ("seq_len", "vocab_size", "num_puzzle_identifiers")
"""Fields of an architecture that the authors' training takes from its dataset; a file may have them at either level."""

_FIXED = {"rms_norm_eps": NORM_EPSILON, "rope_theta": ROPE_THETA}

_NAMED = 3
"""How many keys a message names at most."""

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Imported:
    """What was imported."""

    kind: str
    """trm or hrm."""
    tasks: int
    views: int
    """Rows of the task memory, the blank one not counted."""
    memory_tokens: int
    path: Path
    """The weights file."""


def import_checkpoint(checkpoint: Path, config: Path, identifiers: Path, out: Path) -> Imported:
    """Write `out`/weights.safetensors from a published checkpoint, its config and the identifiers of its dataset.

    `checkpoint` is a state dict saved by torch.save, whose keys may have prefixes; `config` is YAML, all of it or `arch` alone;
    `identifiers`: see `read_identifiers`. Nothing is written unless everything fits. Raises FileNotFoundError for a file that
    is missing, and ValueError, of one line that names the file, for one that is damaged, not supported, or does not fit.
    """
    for path in (checkpoint, config, identifiers):
        require_file(path)
    document = read_yaml(config)
    with naming(checkpoint):
        with doing(f"reading {show_path(checkpoint)}"):
            state = read_state(checkpoint)
        vocabulary, count = _row_count(state, _EMBEDDING), _row_count(state, MEMORY_ROWS)
    with naming(config):
        arch = _architecture(document, state, vocabulary, count)
        published = translate_config(arch)
        ours = _translate_settings(document, arch, published)
        shapes = _expected_shapes(published, len(state))
        shapes[MEMORY_ROWS] = (count, arch.get("puzzle_emb_ndim", published.model.hidden_size))
    with naming(checkpoint), doing("checking its values"):
        _require_fit(state, shapes)
    views = read_identifiers(identifiers, count)
    with doing("taking over task memory"):
        rows = _take_rows(state[MEMORY_ROWS], views.rows, published.model.hidden_size)
    tensors = {f"reasoner.{name}": _copy(tensor) for name, tensor in translate_weights(state).items()} | {"memory.rows": rows}
    path = out / "weights.safetensors"
    out.mkdir(parents=True, exist_ok=True)
    with doing(f"writing {show_path(path)}"):
        save_weights(path, tensors, ours, views, step=0)
    return Imported(published.model.kind, len(views.task_ids), len(views.transforms), published.memory_tokens, path)


def _row_count(state: Mapping[str, Tensor], name: str) -> int:
    if name not in state or state[name].ndim != 2 or not len(state[name]):
        found = f"of shape {tuple(state[name].shape)}" if name in state else "missing"
        raise ValueError(f"{name} is {found}, expected a matrix")
    return len(state[name])


def _architecture(document: Mapping[str, Any], state: Mapping[str, Tensor], vocabulary: int, rows: int) -> dict[str, Any]:
    """Return the fields of a published architecture, with those of its dataset, read from the tensors where not given."""
    arch = document.get("arch", document)
    if not isinstance(arch, dict):
        raise ValueError(f"arch is {_shorten(arch)}, expected a mapping")
    for name, value in _FIXED.items():
        if _as_number(arch.get(name, value)) != value:
            raise ValueError(f"published config has {name} = {_shorten(arch[name])}; only {value} is supported")
    dataset = {"vocab_size": vocabulary, "num_puzzle_identifiers": rows} | {
        name: document[name] for name in _DATASET if name in document
    }
    arch = dataset | arch
    if arch["num_puzzle_identifiers"] != rows:
        raise ValueError(f"num_puzzle_identifiers = {_shorten(arch['num_puzzle_identifiers'])}, but the memory has {rows} rows")
    if not arch.get("H_layers"):
        arch.setdefault("puzzle_emb_len", TRM_MEMORY_TOKENS)
    tokens = arch.get("puzzle_emb_len", 0)
    if arch.get("mlp_t") is True and "seq_len" not in arch and _MIXER in state and type(tokens) is int:
        arch["seq_len"] = max(0, len(state[_MIXER]) - (tokens or 1))
    return arch


def _translate_settings(document: Mapping[str, Any], arch: Mapping[str, Any], published: PublishedConfig) -> Config:
    """Return our config of a published one: what it says of the model, its training and its optimizer, defaults elsewhere."""
    train: dict[str, Any] = {
        "segments": published.segments,
        "exploration": published.exploration,
        "halting": published.halting,
        "canvas": "full",
    }
    loss = arch.get("loss")
    if loss is not None:
        kind = loss.get("loss_type") if isinstance(loss, dict) else loss
        if not isinstance(kind, str) or kind not in _LOSSES:
            raise ValueError(f"published config has loss_type = {_shorten(kind)}, expected one of {', '.join(_LOSSES)}")
        train["loss"] = _LOSSES[kind]
    optimizer = {ours: document[theirs] for theirs, ours in _OPTIMIZER.items() if document.get(theirs) is not None}
    if "arch" in document or "ema" in document:
        averaged = document.get("ema", False)
        if type(averaged) is not bool:
            raise ValueError(f"published config has ema = {_shorten(averaged)}, expected true or false")
        optimizer["ema"] = document.get("ema_rate", OptimizerConfig.ema) if averaged else 0.0
    return Config.from_json(
        {
            "model": dataclasses.asdict(published.model),
            "memory": {"kind": "table", "tokens": published.memory_tokens},
            "optimizer": optimizer,
            "train": train,
            "predict": {"segments": published.segments},
        }
    )


def _expected_shapes(published: PublishedConfig, tensors: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes that an architecture calls for, by published name, without the task memory."""
    model = published.model
    if model.layers > tensors:
        raise ValueError(f"published config has L_layers = {model.layers}, but the checkpoint has {tensors} tensors")
    try:
        with torch.device("meta"):
            reasoner = REASONERS[model.kind](model, published.memory_tokens, torch.Generator())
    except (RuntimeError, TypeError, OverflowError) as error:
        raise ValueError(f"no network can be made of this architecture: {first_line(error)}") from error
    ours = reasoner.state_dict()
    return {name: tuple(ours[translate_name(name)].shape) for name in published_names(model)}


def _require_fit(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless `state` has finite tensors of these names and shapes and no others."""
    missing = [name for name in shapes if name not in state]
    foreign = [show_name(name) for name in state if name not in shapes]
    if missing or foreign:
        parts = [f"{what} {_list_some(names)}" for what, names in (("lacks", missing), ("has", foreign)) if names]
        unexpected = ", which the architecture of the config does not have" if foreign else ""
        raise ValueError(f"{' and '.join(parts)}{unexpected}")
    different = [
        f"{name} is {tuple(state[name].shape)}, expected {shape}"
        for name, shape in shapes.items()
        if state[name].shape != shape
    ]
    if different:
        raise ValueError(f"another architecture than that of the config: {_list_some(different, '; ')}")
    broken = [name for name, tensor in state.items() if not all(bound.isfinite() for bound in tensor.detach().aminmax())]
    if broken:
        raise ValueError(f"values that are not finite in {_list_some(broken)}")


def _take_rows(published: Tensor, rows: npt.NDArray[np.int64], hidden_size: int) -> Tensor:
    """Return our table (V, D) float32 of the published `rows` (V,); shorter ones are filled up with zeros, as published."""
    table, index = torch.zeros(len(rows), hidden_size), torch.from_numpy(rows)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        table[part, : published.shape[1]] = published.detach()[index[part]]
    return table


def _copy(tensor: Tensor) -> Tensor:
    """Return `tensor` as float32 with memory of its own."""
    return tensor.detach().to(torch.float32, copy=True).contiguous()


def _as_number(value: object) -> object:
    """Return `value`, text such as 1e-5 (which YAML takes for text) as the number that it means."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _list_some(parts: Sequence[str], separator: str = ", ") -> str:
    more = f" (and {len(parts) - _NAMED} more)" if len(parts) > _NAMED else ""
    return separator.join(parts[:_NAMED]) + more


def _shorten(value: object) -> str:
    return show_name(value) if isinstance(value, str) else show_value(value)
