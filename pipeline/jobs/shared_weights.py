"""The weights that all processes of a launch take: those that the main one has found."""

from accelerate import Accelerator

from augment.errors import InputError
from eval.formatting import show_path
from pipeline.device import from_main
from pipeline.weights.files import Weights, read_weights


def weights_of_main(accelerator: Accelerator, found: Weights | None) -> Weights | None:
    """Return the weights that the main process has `found`, in every process: one that found others reads those.

    A training may have gone on meanwhile, or a disk not show each machine the same. Raises InputError where they have changed.
    """
    wanted = from_main(accelerator, (found.path, found.step) if found else None)
    if wanted is None:
        return None
    if found is None or (found.path, found.step) != wanted:
        found = read_weights(wanted[0])
    if found.step != wanted[1]:
        raise InputError(f"{show_path(found.path)}: of step {found.step} here, and of step {wanted[1]} in the main process")
    return found
