"""Finds weights by path, or by the name of those that come with the program. No torch."""

from pathlib import Path

WEIGHTS = "weights.safetensors"
SHIPPED = Path(__file__).parent
"""Weights that come with the program, a folder each; its name will do wherever weights are asked for."""


def find_weights(path: Path) -> Path:
    """Return `path` if it exists, else the weights of that name here; of a folder with a weights file, that file.

    Raises FileNotFoundError, with the names.
    """
    for place in (path, SHIPPED / path):
        if place.exists():
            return place / WEIGHTS if (place / WEIGHTS).is_file() else place
    names = ", ".join(sorted(file.parent.name for file in SHIPPED.glob(f"*/{WEIGHTS}")))
    raise FileNotFoundError(f"{path}: no such weights file or folder, nor the name of weights that come with it ({names})")
