"""What runs inside a Kaggle notebook: a complete submission first, then the program as a subprocess until the time is up.

The notebook calls `solve` and shows its outcome. This process imports no torch and touches no GPU; the program is started by
`accelerate launch`, started again when it dies, and each submission that it improves is checked and put in place.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from augment.task import Task
from pipeline.data.sources import load_source
from pipeline.kernel_inputs import EXPECTED_GPUS, damage_of, find_data, find_gpus, find_weights, is_hidden_run
from pipeline.kernel_outcome import Outcome, StartRecord
from pipeline.kernel_process import Attempt, Log, Setup, Start, next_setup
from submission.duration import format_duration, parse_duration
from submission.format import check_submission, fallback_submission, read_submission, write_submission
from submission.settings import KaggleSettings

CODE = Path(__file__).parents[1]
POLL_SECONDS = 1.0
LEAST_SECONDS = 20.0
"""Nothing is started again when less is left before the reserve."""
AROUND_SECONDS = 5.0
"""Less for the program than for the notebook: its launcher, and what the notebook does at the end."""
RESTART_SECONDS = 3.0
"""So that memory and ports of what has ended are free again."""
VOTES = "votes.json"
"""What a run leaves beside a submission that holds predictions."""
HARD_SHARE, HARD_SECONDS = 0.15, 2.0
"""So large a share of the reserve, and at least so long, before the limit everything that still runs is ended."""
EVALUATION = "evaluation"


@dataclass
class Plan:
    """All that a run of the notebook depends on."""

    settings: KaggleSettings
    started: float
    """`time.monotonic()` of the first cell."""
    root: Path
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


def solve(settings: KaggleSettings, started: float) -> Outcome:
    """Leave the best submission that the time allows, complete and valid from the start, and return what happened.

    Raises SystemExit of one line where there can be none: no data of the competition, or no room to write.
    """
    plan = _prepare(settings, started)
    starts: list[StartRecord] = []
    try:
        _check_machine(plan)
        _run_until_over(plan, starts)
    except Exception as error:  # noqa: BLE001 (whatever it is, there is a submission, and Kaggle drops it when a cell raises)
        for line in traceback.format_exc().splitlines():
            plan.log.say(line)
        plan.warn(f"the run was given up: {type(error).__name__}: {error}")
    return _conclude(plan, starts)


def _prepare(settings: KaggleSettings, started: float) -> Plan:
    """Find the tasks and write the fallback submission."""
    root = Path(os.environ.get("ARC_KAGGLE_ROOT", "/kaggle"))
    working, scratch = root / "working", Path(tempfile.gettempdir()) / "arc-run"
    hidden = is_hidden_run(os.environ)
    try:
        working.mkdir(parents=True, exist_ok=True)
        log = Log(working / "run.log")
        data = find_data(root / "input", settings.competition, os.environ.get("ARC_DATA", ""))
        tasks = list(load_source(f"kaggle:{data}:test", with_solutions=False).tasks)
        if not tasks:
            raise ValueError(f"{data}: the test file holds no tasks")
        plan = Plan(settings, started, root, scratch, data, hidden, tasks, log)
        write_submission(plan.submission, fallback_submission(tasks), tasks)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"There is nothing to solve: {error}") from None
    except OSError as error:
        raise SystemExit(f"No submission can be written: {error.filename}: {error.strerror}") from None
    kind = "hidden run" if hidden else "commit run"
    log.say(f"{kind}: {len(tasks)} tasks in {data}; a complete submission stands after {time.monotonic() - started:.1f} s")
    return plan


def _check_machine(plan: Plan) -> None:
    """Look at GPUs, weights and wheels, and prepare a clean scratch folder."""
    shutil.rmtree(plan.scratch, ignore_errors=True)
    plan.scratch.mkdir(parents=True)
    expected = EXPECTED_GPUS[plan.settings.accelerator]
    plan.gpus = find_gpus(os.environ)
    plan.log.say(f"GPUs: {', '.join(plan.gpus) or 'none'}")
    if len(plan.gpus) != expected:
        plan.warn(f"{len(plan.gpus)} GPUs, but {plan.settings.accelerator} has {expected}")
    _take_weights(plan)
    wheels = sorted((CODE / "wheels").glob("*.whl"))
    if wheels:
        target = plan.scratch / "wheels"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target)]
        ended = subprocess.run([*command, *map(str, wheels)], capture_output=True, text=True, timeout=600, check=False)
        if ended.returncode:
            plan.warn(f"the wheels were not installed: {ended.stderr.strip()[-300:]}")
        else:
            plan.wheels = target


def _take_weights(plan: Plan) -> None:
    """Copy the weights to the machine's own disk; without them training starts from scratch."""
    name = plan.settings.weights_dataset
    found = find_weights(plan.root / "input", name, CODE)
    if found is None:
        if name:
            plan.weights_state = "missing"
            plan.warn(f"no weights: the dataset {name} is not there or holds no *.safetensors; training starts from scratch")
        return
    damage = damage_of(found)
    if damage:
        plan.weights_state = "damaged"
        plan.warn(f"{found}: damaged weights ({damage}); training starts from scratch")
        return
    plan.weights = plan.scratch / "weights.safetensors"
    shutil.copyfile(found, plan.weights)
    plan.weights_state = "used"
    plan.log.say(f"weights: {found}")


def _run_until_over(plan: Plan, starts: list[StartRecord]) -> None:
    """Start the program, and again after it died, until it has finished or there is nothing left to try."""
    processes = 1 << (len(plan.gpus).bit_length() - 1) if plan.gpus else 0  # presets have 4 or 8 packs a step to share
    setup = Setup(processes, weights=plan.weights is not None, overrides=bool(plan.settings.overrides))
    why = "first start"
    attempts: list[Attempt] = []
    sources = _commit_sources(plan) if not plan.hidden else [f"kaggle:{plan.data}:test"]
    while True:
        folder = run_folder(plan, setup)
        command = make_command(plan, setup, sources, folder)
        plan.log.say(f"$ {shlex.join(command)}")
        before = _traces(folder)
        start = Start(command, plan.scratch, _environment(plan), plan.log)
        attempt = start.attempt(_watch(plan, start, folder), bool(_traces(folder) - before))
        attempts.append(attempt)
        starts.append(StartRecord(command, attempt.code, time.monotonic() - start.began, why))
        chosen = next_setup(setup, attempts)
        ended = f"start {len(attempts)}, {format_duration(starts[-1].seconds)}: {attempt}"
        if chosen is None:
            if attempt.code != 0:
                plan.warn(ended)
            return
        further, words = chosen
        if run_folder(plan, further) != folder and (folder / VOTES).is_file():
            plan.warn(f"{ended}; its predictions stay, a new start would have to begin without them")
            return
        if plan.remaining() - plan.reserve < LEAST_SECONDS:
            plan.warn(f"{ended}; no time is left for another")
            return
        if setup.weights and not further.weights:
            plan.weights_state = "dropped"
        setup, why = further, f"{attempt}; starting again, {words}"
        plan.warn(f"{ended}; starting again, {words}")
        time.sleep(RESTART_SECONDS)


def run_folder(plan: Plan, setup: Setup) -> Path:
    """Return the run directory of a start: what runs on another kind of device or cannot be resumed has one of its own."""
    device = "" if setup.gpus or not plan.gpus else "-cpu"
    return plan.scratch / f"run{device}{'-fresh' if setup.fresh else ''}"


def _watch(plan: Plan, start: Start, folder: Path) -> int | None:
    """Publish every better submission until the program ends; return its exit code, None where the limit ended it."""
    seen: tuple[int, ...] | None = None
    try:
        while True:
            code = start.wait(POLL_SECONDS)
            seen = _publish(plan, folder, seen)
            if code is not None:
                return start.end()
            if plan.remaining() < max(HARD_SECONDS, HARD_SHARE * plan.reserve):
                plan.warn("the time limit is reached; ending what still runs")
                start.end(patience=min(10.0, 0.5 * max(plan.remaining(), 0.0)))
                _publish(plan, folder, seen)
                return None
    finally:
        start.end(patience=0.0)  # also when the notebook is interrupted


def _publish(plan: Plan, folder: Path, seen: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Put the submission of a run in place, with the mounted tests alone, where it is new, complete and holds predictions."""
    path = folder / "submission.json"
    if not (folder / VOTES).is_file():
        return seen  # its fallbacks are in place already, or something better
    try:
        status = path.stat()
        now = (status.st_mtime_ns, status.st_size, status.st_ino)
        if now != seen:
            submission = read_submission(path)
            own = {task.id: submission[task.id] for task in plan.tasks if task.id in submission}
            write_submission(plan.submission, own, plan.tasks)
        return now
    except FileNotFoundError:
        return seen
    except (OSError, ValueError) as error:
        message = f"a submission of the run was not taken over: {error}"
        if message not in plan.messages:
            plan.warn(message)
        return seen


def make_command(plan: Plan, setup: Setup, sources: Sequence[str], folder: Path) -> list[str]:
    """Return the command line of a start into `folder`; it goes on with what an earlier start left there."""
    settings = plan.settings
    processes = ["--multi_gpu", "--num_processes", str(setup.gpus)] if setup.gpus > 1 else ["--num_processes", "1"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", *processes, "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    launch += ["--num_cpu_threads_per_process", str(max(1, (os.cpu_count() or 1) // max(1, setup.gpus)))]
    workers = setup.gpus or (2 if (os.cpu_count() or 1) > 1 else 0)
    splits = [split for split in settings.train_splits if setup.further_tasks and (plan.hidden or split != EVALUATION)]
    known = [split for split in splits if (plan.data / f"arc-agi_{split}_challenges.json").is_file()]
    run = ["-m", "pipeline", "run", "--preset", settings.preset if setup.gpus else settings.cpu_preset]
    for source in sources:
        run += ["--source", source]
    for split in known:
        run += ["--train-source", f"kaggle:{plan.data}:{split}"]
    run += ["--seed", str(settings.seed), "--workers", str(workers), "--out", str(folder)]
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


def _environment(plan: Plan) -> Mapping[str, str]:
    """Return the program's environment: the code to import, caches on scratch, no network, no tokens."""
    private = re.compile(r"KAGGLE.*(TOKEN|KEY|SECRET)|MPLBACKEND")  # a backend of notebooks, which the program is not
    environment = {name: value for name, value in os.environ.items() if not private.match(name)}
    caches = ("PYTHONPYCACHEPREFIX", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "HF_HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME")
    environment |= {name: str(plan.scratch / "caches" / name.lower()) for name in caches}
    paths = [str(CODE), *([str(plan.wheels)] if plan.wheels else [])]
    memory = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}  # packs of many sizes would scatter it
    return environment | memory | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


def _commit_sources(plan: Plan) -> list[str]:
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


def _traces(folder: Path) -> set[str]:
    """Return the names of what shows that a run got on."""
    return {path.name for kind in ("checkpoints/step-*", "candidates/round-*") for path in folder.glob(kind)}


def _conclude(plan: Plan, starts: list[StartRecord]) -> Outcome:
    """Check what was left, and write down what happened."""
    problem: str | None = None
    try:
        check_submission(plan.submission, plan.tasks)
    except (ValueError, OSError) as error:
        problem = str(error)
    outcome = Outcome(
        kind="hidden" if plan.hidden else "commit",
        submission=plan.submission,
        problem=problem,
        tasks=tuple(plan.tasks),
        data=plan.data,
        gpus=plan.gpus,
        expected_gpus=EXPECTED_GPUS[plan.settings.accelerator],
        weights=plan.weights_state,
        starts=tuple(starts),
        run=next((path.parent for path in sorted(plan.scratch.glob(f"run*/{VOTES}"))), plan.scratch / "run"),
        scored=plan.scratch / "commit",
        seconds=time.monotonic() - plan.started,
        time_limit=plan.limit,
        messages=tuple(plan.messages),
        log=tuple(plan.log.tail),
    )
    for line in outcome.lines():
        plan.log.say(line)
    plan.log.close()
    try:
        outcome.write(plan.submission.with_name("outcome.json"))
    except OSError as error:
        plan.log.say(f"warning: outcome.json was not written: {error.strerror}")
    return outcome
