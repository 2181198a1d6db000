"""Which tests a machine can run: those of the marker `browser` need a Chromium or Chrome, those of `cuda` a GPU.

Where there is none they are left out, and the last lines say so; with ARC_NEED_BROWSER or ARC_NEED_CUDA set (the first is, in
.ci/run) they fail instead. All other tests compute on the CPU, whatever there is besides, and in one thread: tiny tensors do
not gain by more, and sums of several threads differ in their last bits.
"""

import os
from collections.abc import Callable

import pytest
import torch

from eval.report.screenshot import find_browser

NEEDS: dict[str, tuple[str, Callable[[], bool], str]] = {
    "browser": (
        "ARC_NEED_BROWSER",
        lambda: find_browser() is not None,
        "{} tests in a browser were NOT run: there is no Chromium or Chrome here (apt install chromium)",
    ),
    "cuda": ("ARC_NEED_CUDA", torch.cuda.is_available, "{} tests on a GPU were NOT run: there is no CUDA device here"),
}
"""By marker: the variable that demands it, whether it is there, and what is said where it is not."""
_LEFT_OUT = pytest.StashKey[list[str]]()

torch.set_num_threads(1)
if torch.cuda.is_available():
    os.environ["ACCELERATE_USE_CPU"] = "true"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[_LEFT_OUT] = []
    for marker, (variable, is_there, message) in NEEDS.items():
        if os.environ.get(variable) or is_there():
            continue
        left_out = [item for item in items if item.get_closest_marker(marker)]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in left_out]
            config.stash[_LEFT_OUT].append(message.format(len(left_out)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for message in config.stash.get(_LEFT_OUT, []):
        terminalreporter.write_line(message, yellow=True, bold=True)
