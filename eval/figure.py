"""The matplotlib figure that `draw` and `curves` return. They import this module, and with it matplotlib, when they draw."""

import io
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from eval.files import leave_file


class Picture(Figure):
    """A figure with its own canvas: `leave` writes it as PNG, and a notebook shows it as the value of a cell."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()

    def leave(self, path: Path) -> None:
        """Write the picture as PNG to `path` in one step. Raises OSError."""
        leave_file(path, self._repr_png_())
