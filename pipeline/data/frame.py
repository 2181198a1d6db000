"""The frame of a safetensors file: whether its lengths agree, seen without mapping it and without torch.

Under all that reads tensors: a file that claims to be larger than it is, or is far larger than it says, is refused first.
"""

import json
from pathlib import Path

from augment.outside import require_file

MOST_HEADER_BYTES = 100_000_000
"""As safetensors itself has it."""


def damage_of(path: Path) -> str | None:
    """Return in words what is wrong with the frame of a safetensors file, None where its lengths agree.

    Raises FileNotFoundError or ValueError where there is no file.
    """
    size = require_file(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            return f"cut short, {size} bytes"
        if length > MOST_HEADER_BYTES:
            return f"a header of {length} bytes"
        try:
            header = json.loads(file.read(length))
            ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError):
            return "not a safetensors file"
    end = 8 + length + max(ends, default=0)
    return None if size == end else f"{size} bytes, not {end}"
