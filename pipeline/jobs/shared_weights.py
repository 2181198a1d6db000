"""The weights that all processes of a launch take: those that the main one has found."""

from pathlib import Path

from accelerate import Accelerator

from augment.errors import InputError
from eval.formatting import show_path
from eval.provenance import HASH_DIGITS
from pipeline.device import from_main
from pipeline.weights.files import FindStart, Weights, load_weights, read_weights
from pipeline.weights.find import newest_checkpoint


def find_start(accelerator: Accelerator, path: Path | None, run: Path, resume: bool) -> FindStart:
    """Return what finds the weights at `path` that the training in the folder `run` starts from, for every process.

    They are read at once, unless the run is resumed at a checkpoint, which need not have them any more. Raises
    FileNotFoundError or InputError, as what is returned does.
    """
    if path is None:
        return lambda: None
    early = [] if resume and newest_checkpoint(run) else [load_weights(path)]
    return lambda: weights_of_main(accelerator, early.pop() if early else load_weights(path))  # they are not kept meanwhile


def weights_of_main(accelerator: Accelerator, found: Weights | None) -> Weights | None:
    """Return the weights that the main process has `found`, in every process: one that found others reads those.

    A training may have gone on meanwhile, or a disk not show each machine the same. Raises InputError where they have changed.
    """
    wanted = from_main(accelerator, (found.path, _name(found)) if found else None)
    if wanted is None:
        return None
    path, name = wanted
    if found is None or _name(found) != name:
        found = read_weights(path)
    if _name(found) != name:
        raise InputError(f"{show_path(path)}: {_name(found)} here, and {name} in the main process")
    return found


def _name(weights: Weights) -> str:
    """Return what weights are called here: each machine may have them at another path."""
    return f"step {weights.step}, trained on {weights.data_hash[:HASH_DIGITS]}"
