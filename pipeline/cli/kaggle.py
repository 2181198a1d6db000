"""The command `kaggle` and its parts: settings, ready folder, rehearsal, push, status, submission, check. No torch."""

import argparse
import logging
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from augment.canvas import VOCABULARY
from augment.errors import InputError
from augment.grid import MAX_SIDE
from eval.files import expand
from eval.formatting import parse_duration, show_path
from pipeline.array_files import read_metadata
from pipeline.cli.options import PROGRAM, WEIGHTS_HELP, Handler, add_command
from pipeline.config import Config, override
from pipeline.data.sources import load_source
from pipeline.presets import preset
from pipeline.weights.find import read_found
from submission.client import push, status, submit
from submission.format import list_notes, list_problems
from submission.notebook import WEIGHTS_IN_CODE, changed_since, read_ready_folder, write_ready_folder
from submission.settings import ACCELERATORS, KaggleSettings, read_settings, write_settings

logger = logging.getLogger(__name__)

KAGGLE = f"{PROGRAM} kaggle"
PROJECT = Path(__file__).parents[2]
FOLDER, SETTINGS = Path("kaggle-entry"), Path("kaggle.toml")
SHOWN_PROBLEMS = 20
KAGGLE_SECONDS = 12 * 3600.0
"""After which Kaggle ends a notebook."""
LEAST_SPARE_SECONDS = 900.0
"""That are safe between the end of predictions and that."""


def add_kaggle(commands: Any) -> None:
    """Add `kaggle` to the commands of the program."""
    summary = "from these sources to a submission on Kaggle: init, notebook, simulate, push, status, submit, check"
    parser = add_command(commands, _init, "kaggle", summary, f"notebook --out {FOLDER}", sources="")
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")

    def add(handler: Handler, name: str, summary: str, example: str) -> argparse.ArgumentParser:
        return add_command(parts, handler, name, summary, example, sources="", program=KAGGLE)

    init = add(_init, "init", "write a settings file with comments, to be filled in", "")
    notebook = add(_notebook, "notebook", "write the notebook, its metadata and the code dataset", f"--out {FOLDER}")
    for parser in (init, notebook):
        parser.add_argument("--settings", type=Path, default=SETTINGS, metavar="FILE", help=f"default: {SETTINGS}")
    notebook.add_argument("--out", type=Path, default=FOLDER, metavar="DIR", help=f"ready folder (default: {FOLDER})")
    wheels = "a folder of *.whl to install in the notebook, without network"
    notebook.add_argument("--wheels", type=Path, metavar="DIR", help=wheels)
    summary = "run the notebook here as Kaggle would: offline, read-only inputs, hidden tasks; then score it"
    simulate = add(_simulate, "simulate", summary, "--hidden-from arc2:evaluation --time-limit 5m --fault kill-rank")
    _add_simulate_options(simulate)
    weights = f"start from these, not those of the settings: {WEIGHTS_HELP}"
    for parser in (notebook, simulate):
        parser.add_argument("--weights", type=Path, metavar="FILE", help=weights)

    push = add(_push, "push", "upload the code dataset and the notebook; Kaggle runs it once", f"{FOLDER} --dry-run")
    status = add(_status, "status", "show the state of the notebook's run on Kaggle", f"{FOLDER} --wait")
    summary = "submit the notebook: Kaggle runs it on the hidden tasks"
    submit = add(_submit, "submit", summary, f'{FOLDER} -m "first try"')
    for parser in (push, status, submit):
        folder = f"ready folder (default: {FOLDER})"
        parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, metavar="DIR", help=folder)
    for parser in (push, submit):
        parser.add_argument("--dry-run", action="store_true", help="print the commands and files, send nothing")
    status.add_argument("--wait", action="store_true", help="until it has ended")
    submit.add_argument("-m", "--message", required=True, metavar="MSG", help="what is new in it")
    submit.add_argument("--version", type=int, metavar="N", help="of the notebook (default: the one that was pushed last)")

    summary = "list everything for which Kaggle would refuse a submission"
    check = add(_check, "check", summary, "submission.json --challenges arc-agi_test_challenges.json")
    check.add_argument("submission", type=Path, metavar="SUBMISSION")
    check.add_argument("--challenges", type=Path, required=True, metavar="FILE", help="the tasks that it is for")


def _add_simulate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", type=Path, metavar="FILE", help=f"default: {SETTINGS} if it is there, else stand-ins")
    hidden = "where the hidden tasks come from, solutions known; may be repeated (default: arc2:evaluation)"
    parser.add_argument("--hidden-from", action="append", metavar="S", help=hidden)
    parser.add_argument("--hidden-tasks", type=int, metavar="N", help="how many (default: all, 240 at most)")
    training = "the competition's training tasks (default: arc2:training)"
    parser.add_argument("--training-from", default="arc2:training", metavar="S", help=training)
    public = (
        "the competition's evaluation tasks, less the hidden ones; may be repeated (default: arc2:evaluation, arc1:evaluation)"
    )
    parser.add_argument("--evaluation-from", action="append", metavar="S", help=public)
    parser.add_argument("--time-limit", default="5m", metavar="DURATION", help="of the hidden run (default: 5m)")
    parser.add_argument("--gpu-less", action="store_true", help="hide the GPUs of this machine")
    fault = "inject a fault, or all; may be repeated"
    parser.add_argument("--fault", action="append", dest="faults", metavar="NAME", help=fault)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="DIR", help="logs and results (default: runs/rehearsal-N)")


def _init(arguments: argparse.Namespace, _: float) -> int:
    write_settings(arguments.settings)
    print(f"{arguments.settings}: fill in user and competition, then: {KAGGLE} notebook")
    return 0


def _notebook(arguments: argparse.Namespace, _: float) -> int:
    settings = read_settings(arguments.settings)
    weights, config = _weights(arguments.weights, settings) or (None, None)
    if weights and settings.weights_dataset:
        both = f"weights {weights} and weights_dataset = {settings.weights_dataset!r} of {arguments.settings}"
        raise InputError(f"{both}: only one of them can be what training starts from")
    on_gpus, on_cpu, whose = preset(settings.preset), preset(settings.cpu_preset), "these weights"
    if not weights and not settings.weights_dataset:
        used, name = (on_cpu, settings.cpu_preset) if settings.accelerator == "none" else (on_gpus, settings.preset)
        config, whose = override(used, settings.overrides), f"preset {name}"
    if settings.weights_dataset:
        try:
            override(on_gpus, settings.overrides)
        except ValueError as error:  # the weights may have other settings, which are known on Kaggle only
            logger.warning("the overrides do not go with preset %s; with the weights they may: %s", settings.preset, error)
    gpus = ACCELERATORS.get(settings.accelerator) or 1
    if config and config.train.packs % gpus:
        several = f'overrides = ["train.packs={gpus}"] in the settings shares them (README, "On Kaggle", has more for GPUs)'
        raise InputError(f"{settings.accelerator} has {gpus} GPUs, and a step of {whose} {config.train.packs} packs: {several}")
    spare = KAGGLE_SECONDS - parse_duration(settings.time_limit) + parse_duration(settings.reserve)
    if spare < LEAST_SPARE_SECONDS:
        given = f"time_limit = {settings.time_limit!r} and reserve = {settings.reserve!r}"
        logger.warning("%s: Kaggle ends a notebook after 12h, by a clock up to 10 minutes ahead: leave it 15m at least", given)
    write_ready_folder(arguments.out, settings, PROJECT, weights, arguments.wheels)
    print(f"{arguments.out}: notebook {settings.notebook}, dataset {settings.user}/{settings.code_dataset}")
    print(f"next: {KAGGLE} simulate --time-limit 5m, or {KAGGLE} push {arguments.out}")
    return 0


def _weights(given: Path | None, settings: KaggleSettings | None) -> tuple[Path, Config] | None:
    """Return the file of the weights that go with the code, and the config of a run with them; None without weights.

    Raises InputError where they will not do.
    """
    path = given or (expand(settings.weights) if settings and settings.weights else None)
    if path is None:
        return None
    from pipeline.weights.files import load_weights, with_settings  # needs torch, which is slow to import

    weights = load_weights(path)
    config = with_settings(weights, settings.overrides if settings else ())
    if (config.model.vocabulary, config.model.canvas_side) != (VOCABULARY, MAX_SIDE):
        raise InputError(f"{show_path(weights.path)}: not of a network for ARC tasks")
    return weights.path, config


def _simulate(arguments: argparse.Namespace, _: float) -> int:
    from pipeline.kaggle.rehearsal.simulate import SimulatePlan, simulate  # not in the dataset on Kaggle

    path = arguments.settings or (SETTINGS if SETTINGS.is_file() else None)
    arguments.settings = read_settings(path) if path else None
    found = _weights(arguments.weights, arguments.settings)
    arguments.weights = found[0] if found else None
    given = {name: value for name, value in vars(arguments).items() if name in SimulatePlan.__dataclass_fields__}
    return simulate(SimulatePlan(**{name: value for name, value in given.items() if value is not None}))


def _push(arguments: argparse.Namespace, _: float) -> int:
    _warn_of_changes(arguments.folder)
    version = push(arguments.folder, arguments.dry_run)
    if version is not None:
        print(f"version {version} is running; next: {KAGGLE} status {arguments.folder} --wait")
    return 0


def _warn_of_changes(folder: Path) -> None:
    """Log where a ready folder was made before the last change of the code, or of the settings in the current folder."""
    made, anew = read_ready_folder(folder), f"`{KAGGLE} notebook --out {folder}` makes it anew"
    if changed := changed_since(folder, PROJECT):
        logger.warning("%s has other code, in %d files, such as %s; %s", folder, len(changed), changed[0], anew)
    with suppress(ValueError, OSError):
        now = read_settings(SETTINGS)
        if replace(now, weights=made.weights) != made or (now.weights and not _has_weights(folder, expand(now.weights))):
            logger.warning("%s was not made from %s as it is; %s", folder, SETTINGS, anew)


def _has_weights(folder: Path, weights: Path) -> bool:
    """Return whether the weights in a ready folder are those that `weights` leads to now."""
    there = folder / "code" / WEIGHTS_IN_CODE
    found = read_found(weights, lambda path: (path, read_metadata(path))[0])  # which refuses a damaged checkpoint
    return there.is_file() and found.read_bytes() == there.read_bytes()


def _status(arguments: argparse.Namespace, _: float) -> int:
    state = status(arguments.folder, arguments.wait)
    print(state)
    if state == "complete":
        print(f'next: {KAGGLE} submit {arguments.folder} -m "what is new in it"')
    return 0


def _submit(arguments: argparse.Namespace, _: float) -> int:
    print(submit(arguments.folder, arguments.message, arguments.version, arguments.dry_run))
    return 0


def _check(arguments: argparse.Namespace, _: float) -> int:
    tasks = load_source(f"json:{arguments.challenges}", with_solutions=False).tasks
    problems = list_problems(arguments.submission, tasks)
    for problem in problems[:SHOWN_PROBLEMS]:
        print(f"{arguments.submission}: {problem}")
    if len(problems) > SHOWN_PROBLEMS:
        print(f"and {len(problems) - SHOWN_PROBLEMS} more")
    if not problems:
        for note in list_notes(arguments.submission, tasks):
            print(f"note: {note}")
        inputs = sum(len(task.test) for task in tasks)
        print(f"{arguments.submission}: {len(tasks)} tasks, {inputs} test inputs, nothing that Kaggle would refuse")
    return int(bool(problems))
