"""Which tests a machine can run: those of the marker `browser` need a Chromium or Chrome, those of `cuda` a GPU, those of
`fake_gpu` a C++ compiler, Triton and a PyTorch that was built without CUDA.

Where there is none they are left out, and the last lines say so; with ARC_NEED_BROWSER or ARC_NEED_CUDA set (the first is, in
.ci/run) they fail instead. All other tests, and the processes that they start, compute on the CPU, whatever there is besides,
and in one thread: tiny tensors do not gain by more, and sums of several threads differ in their last bits. The examples of
hypothesis have no deadline, since a busy machine is no failure.
"""

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

from eval.report.screenshot import find_browser
from pipeline.models.compiled import enable_compiler

NEEDS: dict[str, tuple[str, Callable[[], bool], str]] = {
    "browser": (
        "ARC_NEED_BROWSER",
        lambda: find_browser() is not None,
        "{} tests in a browser were NOT run: there is no Chromium or Chrome here (apt install chromium)",
    ),
    "cuda": ("ARC_NEED_CUDA", torch.cuda.is_available, "{} tests on a GPU were NOT run: there is no CUDA device here"),
    "fake_gpu": (
        "ARC_NEED_FAKE_GPU",
        lambda: bool(torch.version.cuda is None and find_spec("triton") and (shutil.which("c++") or shutil.which("g++"))),
        "{} tests on a fake GPU were NOT run: they need a C++ compiler (apt install g++), Triton, and PyTorch without CUDA",
    ),
}
"""By marker: the variable that demands it, whether it is there, and what is said where it is not."""
MEASURED = ("augment", "eval", "submission", "pipeline/cli", "pipeline/data", "pipeline/published")
"""Folders of tests whose coverage counts; tracing the others, whose code is not measured, takes as long as they do."""
_LEFT_OUT = pytest.StashKey[list[str]]()

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
if torch.cuda.is_available():
    os.environ["ACCELERATE_USE_CPU"] = "true"
else:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported: its kernels run on the CPU
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_LEFT_OUT] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    measured = [Path(__file__).parent / folder for folder in MEASURED]
    for item in items:
        if not any(item.path.is_relative_to(folder) for folder in measured):
            item.add_marker("no_cover")
    for marker, (variable, is_there, message) in NEEDS.items():
        if os.environ.get(variable) or is_there():
            continue
        left_out = [item for item in items if item.get_closest_marker(marker)]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in left_out]
            config.stash[_LEFT_OUT].append(message.format(len(left_out)))
    if hasattr(config, "workeroutput"):  # of pytest-xdist: what a worker left out, the process that reports has to be sent
        config.workeroutput["left_out"] = config.stash[_LEFT_OUT]


def pytest_collection_finish() -> None:
    """Spare the garbage collector what is there before the first test: much, and training collects after each run."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[_LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for message in config.stash[_LEFT_OUT]:
        terminalreporter.write_line(message, yellow=True, bold=True)


@pytest.fixture(autouse=True)
def nothing_stays_compiled() -> Iterator[None]:
    """A test that trains or predicts with compiled code leaves none to the next one in its process."""
    yield
    enable_compiler(False)
