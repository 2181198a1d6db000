"""Published TRM, HRM and URM checkpoints, converted to a weights file of ours: `weights.safetensors`.

The input is what the authors' training writes: a state dict, `all_config.yaml` and, unless its tasks do not matter,
`identifiers.json` of its dataset.
Prediction and training read the output like any other weights (`pipeline.weights.files`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from augment.errors import InputError
from eval.files import require_file
from eval.formatting import show_name, show_path
from pipeline.config import Config
from pipeline.models.network import REASONERS
from pipeline.published.files import naming, read_state, read_yaml, summarize
from pipeline.published.identifiers import read_identifiers, unknown_views
from pipeline.published.names import CONVOLUTION, EMBEDDING, MEMORY_ROWS, MIXER, parameter_names, translate_config
from pipeline.system.progress_bar import doing
from pipeline.weights.files import save_weights


def import_checkpoint(checkpoint: Path, config: Path, identifiers: Path | None, out: Path) -> str:
    """Write `out`/weights.safetensors from a published checkpoint, its config and identifiers; return in a line what it is.

    `checkpoint`: see `read_state`; `config` is YAML, of a training or its `arch` only; `identifiers`: see `read_identifiers`.
    Without them the tasks of the memory are not known, and its mean stands for all. Nothing is written unless everything fits.
    Raises FileNotFoundError for a missing file, and InputError, of one line that names the file, for one that is damaged, not
    supported, or does not fit.
    """
    for path in (checkpoint, config, *([identifiers] if identifiers else [])):
        require_file(path)
    document = read_yaml(config)
    with naming(checkpoint), doing(f"reading {show_path(checkpoint)}"):
        state = read_state(checkpoint)
        for name in (EMBEDDING, MEMORY_ROWS):
            if name not in state or state[name].ndim != 2 or not len(state[name]):
                shape = f"of shape {tuple(state[name].shape)}" if name in state else "missing"
                raise InputError(f"{name} is {shape}, expected a matrix")
    rows, features = state[MEMORY_ROWS].shape
    found = {"vocab_size": len(state[EMBEDDING]), "num_puzzle_identifiers": rows, "puzzle_emb_ndim": features}
    if MIXER in state and state[MIXER].ndim:
        found["mixer_length"] = len(state[MIXER])
    if CONVOLUTION in state and state[CONVOLUTION].ndim:
        found["convolution"] = state[CONVOLUTION].shape[-1]
    with naming(config):
        ours = translate_config(document, found)
        layers = ours.model.layers
        if layers > len(state):
            raise InputError(f"published config has L_layers = {layers}, but the checkpoint has {len(state)} tensors")
        shapes = _expected_shapes(ours)
    names, hidden_size = parameter_names(ours.model), ours.model.hidden_size
    with naming(checkpoint), doing("checking its values"):
        _require_fit(state, {name: shapes[our] for name, our in names.items()} | {MEMORY_ROWS: (rows, features)})
    views = read_identifiers(identifiers, rows) if identifiers else unknown_views(rows)
    with doing("converting the task memory"):
        memory = state[MEMORY_ROWS].detach()[torch.from_numpy(views.rows)].float()
        if identifiers is None:
            memory = memory.mean(0, keepdim=True)
        if features < hidden_size:  # the published code adds zeros whenever it reads a row
            memory = torch.nn.functional.pad(memory, (0, hidden_size - features))
    tensors = {f"reasoner.{our}": state[name].detach().to(torch.float32, copy=True) for name, our in names.items()}
    path = out / "weights.safetensors"
    out.mkdir(parents=True, exist_ok=True)
    with doing(f"writing {show_path(path)}"):
        save_weights(path, tensors | {"memory.rows": memory}, ours, views, step=0)
    if identifiers is None and rows > 1:
        return (
            f"{path}: {ours.model.kind}, {ours.memory.tokens} memory tokens; new tasks start from the mean of {rows - 1} rows"
        )
    counts = f"{len(views.task_ids)} tasks, {len(views.transforms)} views, {ours.memory.tokens} memory tokens"
    return f"{path}: {ours.model.kind}, {counts}"


def _expected_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all parameters of the reasoner that `config` describes, by our names."""
    try:
        with torch.device("meta"):
            reasoner = REASONERS[config.model.kind](config.model, config.memory.tokens, torch.Generator())
    except (RuntimeError, TypeError, OverflowError) as error:
        raise InputError(f"no network can be made of this architecture: {summarize(error)}") from error
    return {name: tuple(tensor.shape) for name, tensor in reasoner.state_dict().items()}


def _require_fit(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise InputError unless `state` has finite tensors of these names and shapes, and no others."""

    def listed(parts: Sequence[str]) -> str:
        return ", ".join(parts[:3]) + (f" (and {len(parts) - 3} more)" if len(parts) > 3 else "")

    if missing := [name for name in shapes if name not in state]:
        raise InputError(f"lacks {listed(missing)}")
    if foreign := [show_name(name) for name in state if name not in shapes]:
        raise InputError(f"has {listed(foreign)}, which the architecture of the config does not have")
    pairs = [(name, tuple(state[name].shape), shape) for name, shape in shapes.items()]
    if different := [f"{name} is {found}, expected {shape}" for name, found, shape in pairs if found != shape]:
        raise InputError(f"another architecture than that of the config: {listed(different)}")
    if broken := [name for name, tensor in state.items() if not all(bound.isfinite() for bound in tensor.detach().aminmax())]:
        raise InputError(f"values that are not finite in {listed(broken)}")
