"""The faults that a rehearsal can inject, the expected effect of each, and the verdict on the real one."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from eval.files import read_object

Mount = Literal["competitions", "old", "both", "none"]
Weights = Literal["given", "missing", "cut", "garbled"]


@dataclass(frozen=True)
class Scene:
    """One run of the notebook: its conditions, and the expected result."""

    name: str
    what: str
    rerun: str | None = "1"
    """KAGGLE_IS_COMPETITION_RERUN; None: not set."""
    mount: Mount = "competitions"
    weights: Weights = "given"
    fault: str = ""
    """One of `inject_fault.INJECTIONS`, injected meanwhile."""
    limit_seconds: float = 60.0
    """Time limit of a scene with a fault; the plan has that of the others."""
    tests: Literal["hidden", "other", "placeholder", "damaged"] = "hidden"
    overrides: tuple[str, ...] = ()
    scratch_bytes: int = 2 << 30
    kind: Literal["hidden", "commit", "refused"] = "hidden"
    """refused: no submission is possible; one line, exit code 1."""
    logged: tuple[str, ...] = ()
    """Phrases that must all be in the log."""
    predicted: bool = True
    """Predictions are required."""


NOT_RUN = "not run"
PLAIN = (
    Scene("commit", "the run that is pushed", rerun=None, tests="placeholder", kind="commit"),
    Scene("hidden", "the rerun on the hidden tasks"),
)
"""What a rehearsal without faults runs."""

FAULTS: Mapping[str, tuple[Scene, ...]] = {
    "kill-rank": (
        Scene("kill-rank", "a process of the launch is killed between two rounds of predictions", fault="kill-rank",
              limit_seconds=90.0, overrides=("train.steps=10",),
              logged=("killed by signal 9; starting again, as before", "of each test input, are there already and count")),
        Scene("kill-new-rank", "a process of the launch is killed as soon as it is started", fault="kill-new-rank",
              limit_seconds=75.0, logged=("killed by signal 9; starting again, as before",)),
    ),
    "kill-training": (
        Scene("kill-training", "the program is killed while it trains", fault="kill-training", limit_seconds=75.0,
              overrides=("train.checkpoint_seconds=1",), logged=("starting again, as before", "resumed at step")),
        Scene("kill-each-training", "the program is killed each time it trains, after a checkpoint", fault="kill-each-training",
              limit_seconds=240.0, overrides=("train.checkpoint_seconds=1",),
              logged=("starting again, on the CPU, with predictions alone",)),
    ),
    "short-deadline": (Scene("short-deadline", "a limit in which little can be done", limit_seconds=30.0, predicted=False),),
    "full-disk": (
        Scene("full-disk", "working folder and scratch are full while it trains", fault="full-disk", scratch_bytes=256 << 20,
              predicted=False, logged=("No space left on device",)),
    ),
    "no-weights": (
        Scene("no-weights", "the weights dataset is not attached", weights="missing", logged=("training starts from scratch",)),
    ),
    "corrupt-checkpoint": (
        Scene("weights cut short", "the weights file ends in the middle", weights="cut",
              logged=("damaged or not a safetensors file", "training starts from scratch")),
        Scene("weights garbled", "the weights file is of the right size and nothing else", weights="garbled",
              limit_seconds=75.0, logged=("starting again, without the weights",)),
        Scene("checkpoint garbled", "bytes of the newest checkpoint are overwritten and the program killed",
              fault="corrupt-checkpoint", limit_seconds=75.0, overrides=("train.checkpoint_seconds=1",),
              logged=("damaged", "resumed at step")),
    ),
    "both-mounts": (
        Scene("old mount", "data under /kaggle/input/SLUG", mount="old"),
        Scene("both mounts", "data under both layouts", mount="both"),
    ),
    "rerun-flag": (
        *(Scene(f"rerun flag {value!r}", "a commit run", rerun=value, tests="placeholder", kind="commit", limit_seconds=40.0)
          for value in (None, "", "0", "false")),
        *(Scene(f"rerun flag {value!r}", "a hidden run", rerun=value, limit_seconds=30.0, predicted=False)
          for value in ("1", "true", "True", "yes")),
    ),
    "late-data": (
        Scene("early data", "a commit run, then:", rerun=None, tests="placeholder", kind="commit", limit_seconds=40.0),
        Scene("late-data", "the rerun's test file has other ids and counts than the commit run's", tests="other"),
    ),
    "no-data": (
        Scene("no-data", "the competition's data is not attached", mount="none", kind="refused",
              logged=("There is nothing to solve",)),
        Scene("bad-data", "the test file is damaged", tests="damaged", kind="refused", logged=("There is nothing to solve",)),
    ),
}  # fmt: skip
"""By the name that `--fault` takes."""


@dataclass(frozen=True)
class Result:
    """The result of a scene."""

    scene: Scene
    verdict: str
    """survived, or what went wrong."""
    code: int
    seconds: float
    limit_seconds: float
    outcome: Mapping[str, Any] = field(default_factory=dict)
    """outcome.json of the notebook; empty where it left none."""
    score: Mapping[str, Any] | None = None
    """On the hidden tasks, by the withheld solutions."""

    @property
    def skipped(self) -> bool:
        """Whether it is impossible on this machine."""
        return self.verdict.startswith(NOT_RUN)

    @property
    def survived(self) -> bool:
        """Whether everything was as expected."""
        return self.verdict == "survived"


def verdict_of(scene: Scene, code: int, results: Path, invalid: str | None, seconds: float, limit_seconds: float) -> str:
    """Return "survived", or in words what was not as expected.

    `results` is where the sandbox left log and files; `invalid` is what is wrong with the submission, None for nothing.
    """
    log = (results / "notebook.log").read_text(errors="replace") if (results / "notebook.log").is_file() else ""
    outcome = read_outcome(results)
    missing = [words for words in scene.logged if words not in log]
    inputs = outcome.get("test_inputs")
    predicted = outcome.get("without_prediction") is not None and outcome["without_prediction"] != inputs
    failure = "".join(f": {line}" for line in log.splitlines() if line.startswith("the notebook failed"))
    wrong = [
        (bool(scene.fault) and not (results / "fault.json").is_file(), "the fault was not injected"),
        (scene.kind == "refused" and code != 1, f"exit code {code}, expected 1"),
        (scene.kind == "refused" and not invalid, "there is a submission where none can be"),
        (scene.kind != "refused" and invalid is not None, f"no valid submission: {invalid}"),
        (scene.kind != "refused" and code != 0, f"exit code {code}{failure}"),
        (scene.kind != "refused" and f"{scene.kind} run: " not in log, f"it was no {scene.kind} run"),
        (scene.kind != "refused" and seconds > limit_seconds, f"{seconds:.0f} s, over the limit"),
        (scene.kind != "refused" and scene.predicted and not predicted, "nothing was predicted"),
        (bool(missing), f"the log does not say {missing}"),
    ]
    return next((words for applies, words in wrong if applies), "survived")


def read_outcome(results: Path) -> dict[str, Any]:
    """Return the outcome.json in `results`, empty where there is none."""
    path = results / "outcome.json"
    return read_object(path) if path.is_file() else {}


def write_bad_weights(path: Path, how: Weights) -> None:
    """Write a weights file that is cut short, or of the right size with only zeros."""
    header = json.dumps({"trunk": {"dtype": "F32", "shape": [1024], "data_offsets": [0, 4096]}}).encode()
    body = bytes(4096 if how == "garbled" else 1000)
    path.write_bytes(struct.pack("<Q", len(header)) + header + body)
