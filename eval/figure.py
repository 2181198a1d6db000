"""The matplotlib figure that `draw` and `curves` return. matplotlib is slow to import; `draw` does so when it draws."""

import io
from pathlib import Path

from matplotlib.figure import Figure

from eval.files import leave_file


class Picture(Figure):
    """A figure that `leave` writes as PNG and that a notebook shows as the value of a cell."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()

    def leave(self, path: Path) -> None:
        """Write the picture as PNG to `path` in one step. Raises OSError."""
        leave_file(path, self._repr_png_())
