"""Executes a notebook as Kaggle does: `python execute_notebook.py NOTEBOOK RESULT`. Exit code 1 when a cell raises."""

import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError


class _PrintingClient(NotebookClient):
    """Prints the text output of cells as it arrives."""

    def output(self, outs: list[Any], msg: dict[str, Any], display_id: str | None, cell_index: int) -> Any:
        """Print one output of a cell and keep it."""
        if msg["msg_type"] == "stream":
            print(msg["content"]["text"], end="", flush=True)
        return super().output(outs, msg, display_id, cell_index)


def main() -> int:
    """Execute the notebook in the current folder and write the executed one."""
    path, result = map(Path, sys.argv[1:])
    notebook = nbformat.read(path, as_version=4)
    client = _PrintingClient(notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(Path.cwd())}})
    try:
        client.execute()
    except (CellExecutionError, DeadKernelError) as error:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
        lines = [line for line in plain.splitlines() if line.strip()]
        print(f"the notebook failed: {lines[-1] if lines else error}", flush=True)
        return 1
    finally:
        nbformat.write(notebook, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
