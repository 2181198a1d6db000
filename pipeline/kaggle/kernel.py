"""Runs a Kaggle notebook: writes a complete submission first, then runs the program as a subprocess until the time is up.

The notebook calls `solve` and shows its outcome. Its process imports no torch and uses no GPU. It restarts the program after a
crash, and checks each better submission before it replaces the last one.
"""

import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from augment.errors import InputError
from augment.grid import Grid
from augment.task import Task
from eval.files import read_object, replace_file
from eval.formatting import format_duration, show_path
from pipeline.array_files import read_metadata
from pipeline.data.task_files import Reading, build_tasks
from pipeline.inference.facts import CANDIDATES, VOTES_FILE, round_files
from pipeline.kaggle.outcome import Outcome
from pipeline.kaggle.plan import (
    TEST_FILE,
    Plan,
    commit_sources,
    find_data,
    find_mounted_weights,
    find_train_source,
    is_hidden_run,
    make_command,
    make_doctor_command,
    make_environment,
    run_folder,
)
from pipeline.kaggle.starts import EndedStart, Log, Setup, Start, count_idle, next_setup
from pipeline.system.processors import find_gpus, gpu_device_files
from pipeline.weights.find import CHECKPOINTS, checkpoints, has_trained
from submission.format import check_submission, fallback_submission, read_submission, write_submission
from submission.settings import ACCELERATORS, KaggleSettings

CODE = Path(__file__).parents[2]
POLL_SECONDS = 1.0
LEAST_SECONDS = 20.0
"""The program is not started again when less is left before the reserve."""
WILL_NOT_DO = "this machine will not do"
"""How a line of `doctor` begins where it refuses a machine."""
RESTART_SECONDS, RESTART_GROWTH = 3.0, 4.0
"""Pause before a new start, so that the memory and ports of the last one are free again. It is so many times as long after each
further start without progress: a driver or a disk may take minutes to recover."""
LONGEST_PAUSE_SECONDS, PAUSE_SHARE = 300.0, 0.02
"""At most, and at most this share of the time that is left."""
WHEELS_SECONDS = 600.0
"""To install wheels."""
DOCTOR_SHARE = 0.2
"""Of the time that is left, to examine the machine."""
HARD_SHARE, HARD_SECONDS = 0.5, 2.0
"""Everything that still runs is ended this share of the reserve, and at least this long, before the limit: Kaggle's clock may
be minutes ahead of this one."""
SILENT_SECONDS = 1800.0
"""A program on GPUs that says nothing for so long, and leaves no checkpoint, stands still."""


def solve(settings: KaggleSettings, started: float) -> Outcome:
    """Write the best submission that the time allows; return what happened. Raises SystemExit where there can be none."""
    plan = _prepare(settings, started)
    starts: list[EndedStart] = []
    with _surviving(plan, "the scratch folder was not cleared"):
        shutil.rmtree(plan.scratch, ignore_errors=True)
        plan.scratch.mkdir(parents=True, exist_ok=True)
    with _surviving(plan, "the machine was not looked at as a whole"):
        _check_machine(plan)
    with _surviving(plan, "the run was given up"):
        if plan.hidden or (not plan.problems and _machine_will_do(plan)):
            _run_until_over(plan, starts)
    problem: str | None = None
    try:
        check_submission(plan.submission, plan.tasks)
    except (ValueError, OSError) as error:
        problem = str(error)
    outcome = Outcome(plan, starts, problem, time.monotonic() - started)
    with _surviving(plan, "the outcome was not told, or outcome.json not written"):
        for line in outcome.lines():
            plan.log.say(line)
        replace_file(plan.submission.with_name("outcome.json"), json.dumps(outcome.to_json(), indent=1).encode())
        report = outcome.run / "report.html"
        if report.is_file():  # of a commit run
            replace_file(plan.submission.with_name(report.name), report.read_bytes())
    return outcome


@contextmanager
def _surviving(plan: Plan, words: str) -> Iterator[None]:
    """Go on after whatever is raised, and say so: there is a submission, which Kaggle drops when a cell raises."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        for line in traceback.format_exc().splitlines():
            plan.log.say(line)
        plan.warn(f"{words}: {type(error).__name__}: {error}", problem=True)


def _prepare(settings: KaggleSettings, started: float) -> Plan:
    root = Path(os.environ.get("ARC_KAGGLE_ROOT", "/kaggle"))
    working, scratch = root / "working", Path(tempfile.gettempdir()) / "arc-run"
    try:
        working.mkdir(parents=True, exist_ok=True)
        log = Log(working / "run.log")
        data = find_data(root / "input", settings.competition)
        reading = Reading(with_solutions=False, faults={})
        document = read_object(data / TEST_FILE)
        readable, _ = build_tasks(document, show_path(data / TEST_FILE), reading)
        faults = reading.faults or {}
        if not readable:
            raise InputError(next(iter(faults.values())))
        unreadable = [Task(task_id, (), _stand_ins(document[task_id])) for task_id in faults]
        tasks = [*readable, *unreadable]
        hidden = is_hidden_run(os.environ)
        plan = Plan(settings, started, root, CODE, scratch, data, hidden, tasks, log, unreadable=unreadable)
        write_submission(plan.submission, fallback_submission(tasks), tasks)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"There is nothing to solve: {error}") from None
    except OSError as error:
        raise SystemExit(f"No submission can be written: {error.filename}: {error.strerror}") from None
    seconds = time.monotonic() - started
    log.say(f"{plan.kind} run: {len(tasks)} tasks in {data}; a complete submission is written after {seconds:.1f} s")
    for fault in faults.values():
        plan.warn(f"a task that cannot be read is not predicted: {fault}", problem=True)
    return plan


def _stand_ins(content: object) -> tuple[Grid, ...]:
    """Return a grid of one cell for each test input of a task that cannot be read; of one if their number is unknown too."""
    tests = content.get("test") if isinstance(content, dict) else None
    return (np.zeros((1, 1), np.uint8),) * max(1, len(tests) if isinstance(tests, list) else 1)


def _keep_readable(plan: Plan) -> None:
    """Write the tasks of the test file that can be read to the scratch folder: the program takes all of a file or nothing."""
    document = read_object(plan.data / TEST_FILE)
    plan.readable.mkdir(parents=True, exist_ok=True)
    left_out = {task.id for task in plan.unreadable}
    kept = {task_id: content for task_id, content in document.items() if task_id not in left_out}
    replace_file(plan.readable / TEST_FILE, json.dumps(kept).encode())


def _check_machine(plan: Plan) -> None:
    """Look for GPUs, copy the weights to the scratch folder, and install the wheels there."""
    settings, expected = plan.settings, ACCELERATORS.get(plan.settings.accelerator)
    plan.gpus = find_gpus(os.environ, tries=3)
    if not plan.gpus and (files := gpu_device_files(os.environ)):
        plan.gpus = files
        plan.warn("nvidia-smi lists no GPU, although there are device files", problem=True)
    plan.log.say(f"GPUs: {', '.join(plan.gpus) or 'none'}")
    if expected is None:
        plan.warn(f"{len(plan.gpus)} GPUs; how many {settings.accelerator} has is not known here", problem=not plan.gpus)
    elif len(plan.gpus) != expected:
        fewer = len(plan.gpus) < expected
        plan.warn(f"{len(plan.gpus)} GPUs, but {settings.accelerator} has {expected}", problem=fewer)
    _take_weights(plan)
    _install_wheels(plan)
    for split in settings.train_splits:
        if not plan.has_split(split):
            plan.warn(f"{plan.data} has no {split} tasks; training does without these", problem=True)
    for spec in settings.train_datasets:
        source = find_train_source(plan.root / "input", spec)
        if source:
            plan.train_sources.append(source)
        else:
            plan.warn(f"no {spec} among the notebook's inputs; training does without these tasks", problem=True)


def _take_weights(plan: Plan) -> None:
    """Copy the weights to the scratch folder; without them training starts from scratch."""
    dataset, copy = plan.settings.weights_dataset, plan.scratch / "weights.safetensors"
    try:
        weights = find_mounted_weights(plan.root / "input", dataset, plan.code)
        if weights is not None:
            read_metadata(weights)
            shutil.copyfile(weights, copy)
    except (ValueError, OSError) as error:
        plan.weights_state = "damaged"
        plan.warn(f"weights that cannot be used: {error}; training starts from scratch", problem=True)
        return
    if weights is not None:
        plan.weights_state, plan.weights = "used", copy
        plan.log.say(f"weights: {weights}")
    elif dataset or plan.settings.weights:
        missing = f"the dataset {dataset} is not there or holds no *.safetensors" if dataset else "none beside the code"
        plan.weights_state = "missing"
        plan.warn(f"no weights: {missing}; training starts from scratch", problem=True)


def _install_wheels(plan: Plan) -> None:
    """Install what is in the folder wheels/ of the code; the program may do without."""
    wheels, target = sorted((plan.code / "wheels").glob("*.whl")), plan.scratch / "wheels"
    if not wheels:
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target)]
    try:
        subprocess.run([*command, *map(str, wheels)], capture_output=True, text=True, timeout=WHEELS_SECONDS, check=True)
        plan.wheels = target
    except subprocess.CalledProcessError as error:
        plan.warn(f"the wheels were not installed: {error.stderr.strip()[-300:]}", problem=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        plan.warn(f"the wheels were not installed: {error}", problem=True)


def _machine_will_do(plan: Plan) -> bool:
    """Let the program examine the machine, and log what it finds; what will not do here would not at night either."""
    setup = Setup(len(plan.gpus), weights=plan.weights is not None, overrides=True)
    seconds = DOCTOR_SHARE * plan.remaining()
    try:
        ended = subprocess.run(
            make_doctor_command(plan, setup),
            env=make_environment(plan, setup),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        plan.warn(f"the machine was not examined within {format_duration(seconds)}")
        return True
    for line in ended.stdout.splitlines():
        plan.log.say(line)
    refused = False
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or [f"doctor ended with exit code {ended.returncode}"]
        verdicts = [line for line in lines if line.startswith(WILL_NOT_DO)]
        refused = bool(verdicts)  # what went wrong otherwise need not go wrong in the run
        plan.warn((verdicts or lines[-1:])[0], problem=refused)
    return not refused


def _run_until_over(plan: Plan, starts: list[EndedStart]) -> None:
    """Start the program, and again after it died, until it has finished or there is nothing left to try."""
    processes = 1 << (len(plan.gpus).bit_length() - 1) if plan.gpus else 0  # presets have 4 or 8 packs a step to share
    meant = bool(plan.gpus) or plan.settings.accelerator == "none"  # overrides for GPUs take too long on a CPU
    setup = Setup(processes, weights=plan.weights is not None, overrides=meant and bool(plan.settings.overrides))
    why = "first start"
    sources = commit_sources(plan) if not plan.hidden else [plan.test_source]
    while True:
        if plan.unreadable and not (plan.readable / TEST_FILE).is_file():
            with _surviving(plan, "the readable tasks were not kept"):  # the next start tries it again
                _keep_readable(plan)
        folder = run_folder(plan, setup)
        command = make_command(plan, setup, sources, folder)
        plan.log.say(f"$ {shlex.join(command)}")
        before = _traces(folder)
        try:
            start = Start(command, plan.scratch, make_environment(plan, setup), plan.log)
        except OSError as error:  # no memory for a process, say, which may be there later
            plan.log.say(f"the program was not started: {error}")
            last = EndedStart(1, False, False, command, 0.0, why)
        else:
            code = _watch(plan, start, folder, SILENT_SECONDS if setup.gpus else math.inf)
            last = start.ended(code, bool(_traces(folder) - before), why)
        starts.append(replace(last, predicting=setup.predict_seconds > 0))
        chosen = next_setup(setup, starts, processes)
        ended = f"start {len(starts)}, {format_duration(last.seconds)}: {last}"
        if chosen is None:
            if last.code != 0 or setup.predict_seconds:
                plan.warn(ended)
            return
        further, words = chosen
        if run_folder(plan, further) != folder and _has_predictions(folder) and has_trained(folder):
            plan.warn(f"{ended}; its predictions stay, a new start would have to begin without them")
            return
        pause = pause_seconds(starts, plan.remaining())
        if plan.remaining() - plan.reserve - pause < LEAST_SECONDS:
            plan.warn(f"{ended}; no time is left for another")
            return
        if setup.weights and not further.weights:
            plan.weights_state = "dropped"
        plan.warn(f"{ended}; starting again, {words}", problem=further.processes < setup.processes)
        setup, why = further, f"{last}; starting again, {words}"
        time.sleep(pause)


def pause_seconds(starts: Sequence[EndedStart], left: float) -> float:
    """Return how long to wait after `starts` before the next one, with `left` seconds until the limit."""
    return min(RESTART_SECONDS * RESTART_GROWTH ** max(0, count_idle(starts) - 1), LONGEST_PAUSE_SECONDS, PAUSE_SHARE * left)


def _traces(folder: Path) -> set[str]:
    """Return the names of the checkpoints and prediction rounds in a run directory, once it has trained."""
    if not has_trained(folder):  # predictions of the weights that it starts from are no progress
        return set()
    return {path.name for path in (*checkpoints(folder / CHECKPOINTS), *round_files(folder / CANDIDATES))}


def _has_predictions(folder: Path) -> bool:
    """Return whether a run has predictions: votes, or their candidates where the votes were not kept."""
    return (folder / VOTES_FILE).is_file() or bool(round_files(folder / CANDIDATES))


def _watch(plan: Plan, start: Start, folder: Path, silent: float) -> int | None:
    """Publish every better submission until the program ends; return its exit code, None where the limit ended it.

    Where it says nothing for `silent` seconds, and leaves no checkpoint or predictions, it is ended.
    """
    seen: tuple[int, ...] | None = None
    traces = _traces(folder)
    try:
        while True:
            code = start.wait(POLL_SECONDS)
            seen = _publish(plan, folder, seen)
            with suppress(OSError):  # it is looked at again
                if traces != (traces := _traces(folder)):
                    start.heard = time.monotonic()
            if code is not None:
                return start.end()
            if time.monotonic() - start.heard > silent:
                plan.warn(f"the program has said nothing for {format_duration(silent)} and is ended")
                start.end()
                return 1  # however it had to be ended, it did not lack memory
            if plan.remaining() < max(HARD_SECONDS, HARD_SHARE * plan.reserve):
                plan.warn("the time limit is reached; ending what still runs")
                start.end(patience=min(10.0, 0.5 * max(plan.remaining(), 0.0)))
                _publish(plan, folder, seen)
                return None
    finally:
        start.end(patience=0.0)  # also when the notebook is interrupted


def _publish(plan: Plan, folder: Path, seen: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Copy the run's submission of the mounted tests into place if it is new, complete and has predictions."""
    path = folder / "submission.json"
    if not _has_predictions(folder):
        return seen  # it holds only fallbacks, which are in place already
    try:
        status = path.stat()
        now = (status.st_mtime_ns, status.st_size, status.st_ino)
        if now != seen:
            submission = fallback_submission(plan.unreadable) | read_submission(path)
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
