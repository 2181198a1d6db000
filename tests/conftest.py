"""Which tests a machine can run: those of the marker `browser` need a Chromium or Chrome.

Where there is none they are left out, and the last lines say so; with ARC_NEED_BROWSER set, as in .ci/run, they fail instead.
"""

import os

import pytest

from pipeline.browser import find_browser

NEEDED = "ARC_NEED_BROWSER"
_LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get(NEEDED) or find_browser() is not None:
        return
    chosen = [item for item in items if item.get_closest_marker("browser") is None]
    left_out = [item for item in items if item not in chosen]
    config.stash[_LEFT_OUT] = len(left_out)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = chosen


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    count = config.stash.get(_LEFT_OUT, 0)
    if count:
        told = f"{count} tests in a browser were NOT run: there is no Chromium or Chrome here (apt install chromium)"
        terminalreporter.write_line(told, yellow=True, bold=True)
