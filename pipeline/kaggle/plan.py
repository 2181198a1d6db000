"""What a run of the Kaggle notebook depends on, and the command lines and sources that follow from it."""

import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from augment.task import Task
from eval.formatting import parse_duration
from pipeline.kaggle.attempts import Log, Setup
from submission.settings import KaggleSettings

AROUND_SECONDS = 5.0
"""Less for the program than for the notebook: its launcher, and what the notebook does at the end."""

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
    """Of the mounted test file."""
    log: Log
    gpus: tuple[str, ...] = ()
    weights: Path | None = None
    weights_state: str = "none"
    wheels: Path | None = None
    messages: list[str] = field(default_factory=list)

    @property
    def limit(self) -> float:
        """Seconds from the first cell."""
        settings = self.settings
        limit = parse_duration(settings.time_limit)
        return limit if self.hidden else min(limit, parse_duration(settings.commit_time_limit))

    @property
    def reserve(self) -> float:
        """Seconds kept free at the end: those of the settings, and of a commit run at most a tenth of its shorter time."""
        reserve = parse_duration(self.settings.reserve)
        return reserve if self.hidden else min(reserve, max(5.0, 0.1 * self.limit), 0.5 * self.limit)

    @property
    def submission(self) -> Path:
        """What Kaggle takes."""
        return self.root / "working" / "submission.json"

    def remaining(self) -> float:
        """Return the seconds left until the limit."""
        return self.limit - (time.monotonic() - self.started)

    def warn(self, message: str) -> None:
        """Say something that a person should know at the end too."""
        self.messages.append(message)
        self.log.say(f"warning: {message}")


def run_folder(plan: Plan, setup: Setup) -> Path:
    """Return the run directory of a start: what runs on another kind of device or cannot be resumed has one of its own."""
    device = "" if setup.gpus or not plan.gpus else "-cpu"
    return plan.scratch / f"run{device}{'-fresh' if setup.fresh else ''}"


def make_command(plan: Plan, setup: Setup, sources: Sequence[str], folder: Path) -> list[str]:
    """Return the command line of a start into `folder`; it goes on with what an earlier start left there."""
    settings = plan.settings
    processes = ["--multi_gpu", "--num_processes", str(setup.gpus)] if setup.gpus > 1 else ["--num_processes", "1"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", *processes, "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    launch += ["--num_cpu_threads_per_process", str(max(1, (os.cpu_count() or 1) // max(1, setup.gpus)))]
    splits = [split for split in settings.train_splits if setup.further_tasks and (plan.hidden or split != EVALUATION)]
    known = [split for split in splits if (plan.data / f"arc-agi_{split}_challenges.json").is_file()]
    run = ["-m", "pipeline", "run", "--preset", settings.preset if setup.gpus else settings.cpu_preset]
    for source in sources:
        run += ["--source", source]
    for split in known:
        run += ["--train-source", f"kaggle:{plan.data}:{split}"]
    run += ["--seed", str(settings.seed), "--out", str(folder)]
    if not setup.gpus and (os.cpu_count() or 1) > 1:
        run += ["--processes", "2"]
    run += ["--time-limit", f"{max(1.0, plan.remaining() - AROUND_SECONDS):.1f}s", "--reserve", f"{plan.reserve:.1f}s"]
    for override in settings.overrides if setup.overrides else ():
        run += ["--set", override]
    if setup.pieces:
        run += ["--set", f"train.pieces={setup.pieces}"]
    if setup.weights and plan.weights:
        run += ["--weights", str(plan.weights)]
    if folder.exists():
        run += ["--resume"]
    return [*launch, *([] if setup.gpus else ["--cpu"]), *run]


def make_environment(plan: Plan) -> Mapping[str, str]:
    """Return the program's environment: the code to import, caches on scratch, no network, no tokens."""
    private = re.compile(r"KAGGLE.*(TOKEN|KEY|SECRET)|MPLBACKEND")  # a backend of notebooks, which the program is not
    environment = {name: value for name, value in os.environ.items() if not private.match(name)}
    caches = ("PYTHONPYCACHEPREFIX", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "HF_HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME")
    environment |= {name: str(plan.scratch / "caches" / name.lower()) for name in caches}
    paths = [str(plan.code), *([str(plan.wheels)] if plan.wheels else [])]
    memory = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}  # packs of many sizes would scatter it
    return environment | memory | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


def commit_sources(plan: Plan) -> list[str]:
    """Return the sources of a commit run: the mounted tests and, with their solutions, a few tasks of the evaluation split."""
    test = f"kaggle:{plan.data}:test"
    names = [f"arc-agi_{EVALUATION}_{kind}.json" for kind in ("challenges", "solutions")]
    if not all((plan.data / name).is_file() for name in names):
        plan.warn(f"{plan.data} has no evaluation tasks with solutions, so there is nothing to score")
        return [test]
    challenges, solutions = (json.loads((plan.data / name).read_bytes()) for name in names)
    own = {task.id for task in plan.tasks}
    ids = [task for task in challenges if task not in own and task in solutions]
    spread = max(1, len(ids) // plan.settings.commit_tasks)
    chosen = ids[plan.settings.seed % spread :: spread][: plan.settings.commit_tasks]
    folder = plan.scratch / "commit"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(names, (challenges, solutions), strict=True):
        (folder / name).write_text(json.dumps({task: content[task] for task in chosen}))
    return [test, f"kaggle:{folder}:{EVALUATION}"] if chosen else [test]
