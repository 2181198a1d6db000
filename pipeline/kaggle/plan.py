"""The plan of a notebook run: what the machine offers, and the sources, command line and environment that follow."""

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from augment.task import Task
from eval.formatting import parse_duration
from pipeline.kaggle.starts import Log, Setup
from pipeline.system.launch import TRACEBACKS
from pipeline.system.processors import NEEDS_GPU, threads_each, usable_cores, visible_gpu
from submission.notebook import WEIGHTS_IN_CODE
from submission.settings import KaggleSettings

AROUND_SECONDS = 5.0
"""The program gets this much less time than the notebook, for its launch and for the notebook's end."""
TEST_FILE = "arc-agi_test_challenges.json"
EVALUATION = "evaluation"


@dataclass
class Plan:
    """All that a run of the notebook depends on."""

    settings: KaggleSettings
    started: float
    """`time.monotonic()` of the first cell."""
    root: Path
    code: Path
    """The folder that holds this project."""
    scratch: Path
    data: Path
    hidden: bool
    tasks: list[Task]
    """Of the mounted test file, `unreadable` ones last."""
    log: Log
    gpus: tuple[str, ...] = ()
    weights: Path | None = None
    weights_state: str = "none"
    """used, none, missing, damaged, or dropped after starts that failed with them."""
    wheels: Path | None = None
    train_sources: list[str] = field(default_factory=list)
    """Of mounted datasets."""
    unreadable: list[Task] = field(default_factory=list)
    """What stands for tasks of the test file that cannot be read: no demonstrations, and a test input of one cell for each."""
    messages: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Those of `messages` that make a commit run fail, so that they are seen before a submission is spent on them."""

    @property
    def kind(self) -> str:
        """Hidden or commit."""
        return "hidden" if self.hidden else "commit"

    @property
    def limit(self) -> float:
        """Seconds from the first cell."""
        limit = parse_duration(self.settings.time_limit)
        return limit if self.hidden else min(limit, parse_duration(self.settings.commit_time_limit))

    @property
    def reserve(self) -> float:
        """Seconds kept free at the end: those of the settings; in a commit run at most a tenth of its shorter time."""
        reserve = parse_duration(self.settings.reserve)
        return reserve if self.hidden else min(reserve, max(5.0, 0.1 * self.limit), 0.5 * self.limit)

    @property
    def submission(self) -> Path:
        """The file that Kaggle takes."""
        return self.root / "working" / "submission.json"

    @property
    def readable(self) -> Path:
        """Where the readable tasks of the test file are kept if others are not."""
        return self.scratch / "readable"

    @property
    def test_source(self) -> str:
        """What the program is to solve."""
        return f"kaggle:{self.readable if self.unreadable else self.data}:test"

    @property
    def scored(self) -> Path:
        """Where a commit run keeps the evaluation tasks that it scores."""
        return self.scratch / "commit"

    def has_split(self, split: str) -> bool:
        """Return whether the public tasks of `split` are mounted."""
        return (self.data / f"arc-agi_{split}_challenges.json").is_file()

    def remaining(self) -> float:
        """Return the seconds left until the limit."""
        return self.limit - (time.monotonic() - self.started)

    def warn(self, message: str, problem: bool = False) -> None:
        """Log a message that is also shown at the end; a `problem` makes a commit run fail."""
        self.messages.append(message)
        self.problems += [message] if problem else []
        self.log.say(f"warning: {message}")


def run_folder(plan: Plan, setup: Setup) -> Path:
    """Return the run directory of a start; one that cannot resume what is there has its own."""
    return plan.scratch / f"run{f'-fresh-{setup.fresh}' if setup.fresh else ''}"


def make_command(plan: Plan, setup: Setup, sources: Sequence[str], folder: Path) -> list[str]:
    """Return the command line of a start into `folder`, which resumes what an earlier start left there."""
    settings, left = plan.settings, plan.remaining() - AROUND_SECONDS
    processes = ["--processes", "2"] if not setup.processes and usable_cores() > 1 else []
    command = [sys.executable, "-m"]
    if setup.predict_seconds:
        command += ["pipeline", "predict", "--data", str(folder / "dataset"), "--weights", str(folder), "--out", str(folder)]
        seconds = max(1.0, min(left - plan.reserve, setup.predict_seconds))
        return [*command, *processes, "--time-limit", f"{seconds:.1f}s", "--resume"]
    if setup.gpus > 1:
        command += ["pipeline.system.launch", "--standalone", "--nproc_per_node", str(setup.gpus), "-m"]
    command += ["pipeline", "run", *_settings(plan, setup)]
    command += _sources(plan, sources, setup.further_tasks, plan.hidden)
    command += ["--seed", str(settings.seed), "--out", str(folder), *processes]
    command += ["--time-limit", f"{max(1.0, left):.1f}s", "--reserve", f"{plan.reserve:.1f}s"]
    command += ["--no-report"] if plan.hidden else []  # nobody sees what a hidden run leaves besides its submission
    if setup.pieces:
        command += ["--set", f"train.pieces={setup.pieces}"]
    return [*command, "--resume"] if folder.exists() else command


def make_doctor_command(plan: Plan, setup: Setup) -> list[str]:
    """Return the command line that examines the machine for a hidden run of the same settings."""
    command = [sys.executable, "-m", "pipeline", "doctor", *_settings(plan, setup)]
    command += _sources(plan, [plan.test_source], True, hidden=True)
    return [*command, "--time-limit", plan.settings.time_limit, "--out", str(plan.scratch)]


def _sources(plan: Plan, sources: Sequence[str], further_tasks: bool, hidden: bool) -> list[str]:
    """Return the options for what a run solves and trains on; one that is not hidden scores tasks of the evaluation split."""
    words = [word for source in sources for word in ("--source", f"{source}@{plan.settings.test_weight:g}")]
    for split in plan.settings.train_splits if further_tasks else ():
        if plan.has_split(split) and (hidden or split != EVALUATION):
            words += ["--train-source", f"kaggle:{plan.data}:{split}"]
    for source in plan.train_sources if further_tasks else ():
        words += ["--train-source", source]
    return words


def _settings(plan: Plan, setup: Setup) -> list[str]:
    """Return the options for what the weights come with, or else a preset, and for what overrides either."""
    if setup.weights and plan.weights:
        words = ["--weights", str(plan.weights)]
    else:
        words = ["--preset", plan.settings.preset if setup.gpus else plan.settings.cpu_preset]
    return words + [word for override in (plan.settings.overrides if setup.overrides else ()) for word in ("--set", override)]


def make_environment(plan: Plan, setup: Setup) -> Mapping[str, str]:
    """Return the program's environment: code to import, caches on scratch, threads shared out, no network, no tokens."""
    private = re.compile(r"KAGGLE.*(TOKEN|KEY|SECRET)|MPLBACKEND")  # the notebook's backend draws only inside its kernel
    environment = {name: value for name, value in os.environ.items() if not private.match(name)}
    caches = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "HF_HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME")
    environment |= {name: str(plan.scratch / "caches" / name.lower()) for name in caches}
    environment |= {NEEDS_GPU: "1"} if setup.processes else {"ACCELERATE_USE_CPU": "true"}
    if setup.gpus == 1:
        environment["CUDA_VISIBLE_DEVICES"] = visible_gpu(environment, setup.device)
    paths = [str(plan.code), *([str(plan.wheels)] if plan.wheels else [])]
    return environment | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        TRACEBACKS: "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(threads_each(max(1, setup.processes))),
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",  # packs of many sizes would fragment the memory
    }


def commit_sources(plan: Plan) -> list[str]:
    """Return the sources of a commit run: the mounted tests and, with their solutions, a few tasks of the evaluation split."""
    test = plan.test_source
    names = [f"arc-agi_{EVALUATION}_{kind}.json" for kind in ("challenges", "solutions")]
    if not all((plan.data / name).is_file() for name in names):
        plan.warn(f"{plan.data} has no evaluation tasks with solutions, so there is nothing to score")
        return [test]
    challenges, solutions = (json.loads((plan.data / name).read_bytes()) for name in names)
    own = {task.id for task in plan.tasks}
    ids = [task for task in challenges if task not in own and task in solutions]
    spread = max(1, len(ids) // plan.settings.commit_tasks)
    chosen = ids[plan.settings.seed % spread :: spread][: plan.settings.commit_tasks]
    plan.scored.mkdir(parents=True, exist_ok=True)
    for name, content in zip(names, (challenges, solutions), strict=True):
        (plan.scored / name).write_text(json.dumps({task: content[task] for task in chosen}))
    return [test, f"kaggle:{plan.scored}:{EVALUATION}"] if chosen else [test]


def is_hidden_run(environment: Mapping[str, str]) -> bool:
    """Return whether Kaggle reruns the notebook on the hidden tasks."""
    return environment.get("KAGGLE_IS_COMPETITION_RERUN", "").strip().lower() not in ("", "0", "false")


def find_data(inputs: Path, competition: str) -> Path:
    """Return the folder in either Kaggle layout, or any with the test file. Raises FileNotFoundError of one line."""
    named = [inputs / "competitions" / competition, inputs / competition]
    for folder in named:
        if (folder / TEST_FILE).is_file():
            return folder
    found = sorted(_find(inputs, TEST_FILE), key=lambda path: (competition not in path.parts, len(path.parts)))
    if found:
        return found[0].parent
    there = sorted(path.name for path in inputs.iterdir()) if inputs.is_dir() else []
    looked = " or ".join(map(str, named))
    raise FileNotFoundError(
        f"no {TEST_FILE} in {looked}, nor anywhere under {inputs}, where there is {', '.join(there) or 'nothing'}: "
        f"add the competition {competition} to the notebook's inputs"
    )


def find_mounted_weights(inputs: Path, dataset: str, code: Path) -> Path | None:
    """Return the weights file of the dataset OWNER/NAME or, where none is named, the one beside the code; None without one.

    Of several checkpoints it is the last.
    """
    if not dataset:
        beside = code / WEIGHTS_IN_CODE
        return beside if beside.is_file() else None
    for folder in _mounts(inputs, dataset):
        found = list(_find(folder, "*.safetensors"))
        if found:
            return max(found, key=lambda path: (path.name == "weights.safetensors", -len(path.parts), path.parts))
    return None


def find_train_source(inputs: Path, spec: str) -> str | None:
    """Return the source of tasks in a mounted dataset for KIND:OWNER/NAME[/PATH][@W]; None where it is not mounted."""
    kind, _, rest = spec.partition(":")
    place, at, weight = rest.partition("@")
    owner, name, *parts = place.split("/")
    found = (folder.joinpath(*parts) for folder in _mounts(inputs, f"{owner}/{name}"))
    return next((f"{kind}:{path}{at}{weight}" for path in found if path.exists()), None)


def _mounts(inputs: Path, dataset: str) -> Iterator[Path]:
    """Yield where the dataset OWNER/NAME may be mounted: in either layout of Kaggle, or NAME somewhere below OWNER."""
    owner, name = dataset.split("/")
    yield from (inputs / "datasets" / owner / name, inputs / name)
    for path in (path for depth in range(1, 5) for path in sorted(inputs.glob("*/" * depth + "*/"))):
        *above, last = (part.casefold() for part in path.relative_to(inputs).parts)
        if last == name.casefold() and owner.casefold() in above:
            yield path


def _find(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield the files of a name below `folder`, not deeper than five levels."""
    for depth in range(5):
        for path in sorted(folder.glob("*/" * depth + pattern)):
            if os.access(path, os.R_OK) and path.is_file():
                yield path
