"""Finds weights by path, or by the name of those that come with the program. No torch."""

from pathlib import Path

WEIGHTS = "weights.safetensors"
SHIPPED = Path(__file__).parent
"""Weights that come with the program, a folder each; its name will do wherever weights are asked for."""


def find_weights(path: Path) -> Path:
    """Return `path`, or the weights file in it, where it is a file or a folder with weights or checkpoints; else the file here.

    A folder that only has the name of weights that come with the program, as that of a run about to begin, does not hide them.
    Raises FileNotFoundError, with the names.
    """
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    shipped = SHIPPED / path / WEIGHTS
    if path == Path(path.name) and shipped.is_file():
        trained = path.is_file() or (path / "checkpoints").exists() or any(path.glob("step-*"))
        return path if trained else shipped
    if path.exists():
        return path
    names = ", ".join(sorted(file.parent.name for file in SHIPPED.glob(f"*/{WEIGHTS}")))
    raise FileNotFoundError(f"{path}: no such weights file or folder, nor the name of weights that come with it ({names})")
