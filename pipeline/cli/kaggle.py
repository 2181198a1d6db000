"""The command `kaggle` and its parts: settings, ready folder, rehearsal, push, status, submission, check. No torch."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval.files import damage_of
from pipeline.data.sources import load_source
from submission.causes import KaggleError
from submission.client import push, status, submit
from submission.format import list_notes, list_problems
from submission.notebook import write_ready_folder
from submission.settings import read_settings, write_settings

PROGRAM = "python -m pipeline kaggle"

PROJECT = Path(__file__).parents[2]

FOLDER, SETTINGS = Path("kaggle-entry"), Path("kaggle.toml")

SHOWN_PROBLEMS = 20


def add_kaggle(commands: Any) -> None:
    """Add `kaggle` to the commands of the program."""
    summary = "from these sources to a submission on Kaggle: init, notebook, simulate, push, status, submit, check"
    parser = commands.add_parser(
        "kaggle",
        help=summary,
        description=summary,
        epilog=f"example:\n  {PROGRAM} notebook --out {FOLDER}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(handler=kaggle_command)
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    for add in (_add_init, _add_notebook, _add_simulate, _add_push, _add_status, _add_submit, _add_check):
        add(parts)


def kaggle_command(arguments: argparse.Namespace, _: float) -> int:
    """Do one part; return its exit code."""
    try:
        return arguments.part_handler(arguments)
    except KaggleError as error:
        print(f"{PROGRAM} {arguments.part}: {error}", file=sys.stderr)
        return 1


def _part(
    parts: Any, handler: Callable[[argparse.Namespace], int], name: str, summary: str, example: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = parts.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {PROGRAM} {name} {example}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(part_handler=handler)
    return parser


def _settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", type=Path, default=SETTINGS, metavar="FILE", help=f"default: {SETTINGS}")


def _weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", type=Path, metavar="FILE", help="start from these: a weights.safetensors of a checkpoint")


def _folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, metavar="DIR", help=f"ready folder (default: {FOLDER})")


def _dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="print the commands and files, send nothing")


def _add_init(parts: Any) -> None:
    parser = _part(parts, _init, "init", "write a settings file with comments, to be filled in", "")
    _settings(parser)


def _init(arguments: argparse.Namespace) -> int:
    write_settings(arguments.settings)
    print(f"{arguments.settings}: fill in user and competition, then: {PROGRAM} notebook")
    return 0


def _add_notebook(parts: Any) -> None:
    parser = _part(parts, _notebook, "notebook", "write the notebook, its metadata and the code dataset", f"--out {FOLDER}")
    _settings(parser)
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="DIR", help=f"ready folder (default: {FOLDER})")
    _weights(parser)
    parser.add_argument(
        "--wheels", type=Path, metavar="DIR", help="a folder of *.whl to install in the notebook, without network"
    )


def _notebook(arguments: argparse.Namespace) -> int:
    settings = read_settings(arguments.settings)
    if arguments.weights and arguments.weights.is_file() and (damage := damage_of(arguments.weights)):
        raise ValueError(f"{arguments.weights}: no weights file ({damage})")
    write_ready_folder(arguments.out, settings, PROJECT, arguments.weights, arguments.wheels)
    print(f"{arguments.out}: notebook {settings.notebook}, dataset {settings.user}/{settings.code_dataset}")
    print(f"next: {PROGRAM} simulate --time-limit 5m, or {PROGRAM} push {arguments.out}")
    return 0


def _add_simulate(parts: Any) -> None:
    summary = "run the notebook here as Kaggle would: offline, read-only inputs, hidden tasks; then score it"
    parser = _part(parts, _simulate, "simulate", summary, "--hidden-from arc2:evaluation --time-limit 5m --fault kill-rank")
    parser.add_argument("--settings", type=Path, metavar="FILE", help=f"default: {SETTINGS} if it is there, else stand-ins")
    hidden = "where the hidden tasks come from, solutions known; may be repeated (default: arc2:evaluation)"
    parser.add_argument("--hidden-from", action="append", metavar="S", help=hidden)
    parser.add_argument("--hidden-tasks", type=int, metavar="N", help="so many of them (default: all, 240 at most)")
    parser.add_argument("--training-from", metavar="S", help="the competition's training tasks (default: arc2:training)")
    public = (
        "the competition's evaluation tasks, less the hidden ones; may be repeated (default: arc2:evaluation, arc1:evaluation)"
    )
    parser.add_argument("--evaluation-from", action="append", metavar="S", help=public)
    parser.add_argument("--time-limit", metavar="DURATION", help="of the hidden run (default: 5m)")
    parser.add_argument("--gpu-less", action="store_true", help="hide the GPUs of this machine")
    parser.add_argument("--fault", action="append", default=[], metavar="NAME", help="inject a fault, or all; may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    _weights(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="logs and results (default: runs/rehearsal-N)")


def _simulate(arguments: argparse.Namespace) -> int:
    from pipeline.kaggle.rehearsal.simulate import SimulatePlan, simulate  # not in the dataset on Kaggle

    path = arguments.settings or (SETTINGS if SETTINGS.is_file() else None)
    plan = SimulatePlan(
        settings=read_settings(path) if path else None,
        hidden_from=tuple(arguments.hidden_from or ("arc2:evaluation",)),
        hidden_tasks=arguments.hidden_tasks,
        training_from=arguments.training_from or "arc2:training",
        evaluation_from=tuple(arguments.evaluation_from or ("arc2:evaluation", "arc1:evaluation")),
        time_limit=arguments.time_limit,
        gpu_less=arguments.gpu_less,
        faults=tuple(arguments.fault),
        seed=arguments.seed,
        weights=arguments.weights,
        out=arguments.out,
    )
    return simulate(plan)


def _add_push(parts: Any) -> None:
    parser = _part(parts, _push, "push", "upload the code dataset and the notebook; Kaggle runs it once", f"{FOLDER} --dry-run")
    _folder(parser)
    _dry_run(parser)


def _push(arguments: argparse.Namespace) -> int:
    version = push(arguments.folder, arguments.dry_run)
    if version is not None:
        print(f"version {version} is running; next: {PROGRAM} status {arguments.folder} --wait")
    return 0


def _add_status(parts: Any) -> None:
    parser = _part(parts, _status, "status", "how the notebook's run on Kaggle is", f"{FOLDER} --wait")
    _folder(parser)
    parser.add_argument("--wait", action="store_true", help="until it has ended")


def _status(arguments: argparse.Namespace) -> int:
    state = status(arguments.folder, arguments.wait)
    print(state)
    if state == "complete":
        print(f'next: {PROGRAM} submit {arguments.folder} -m "what is new in it"')
    return 0


def _add_submit(parts: Any) -> None:
    parser = _part(
        parts, _submit, "submit", "submit the notebook: Kaggle runs it on the hidden tasks", f'{FOLDER} -m "first try"'
    )
    _folder(parser)
    parser.add_argument("-m", "--message", required=True, metavar="MSG", help="what is new in it")
    parser.add_argument("--version", type=int, metavar="N", help="of the notebook (default: the one that was pushed last)")
    _dry_run(parser)


def _submit(arguments: argparse.Namespace) -> int:
    print(submit(arguments.folder, arguments.message, arguments.version, arguments.dry_run))
    return 0


def _add_check(parts: Any) -> None:
    summary = "list everything for which Kaggle would refuse a submission"
    parser = _part(parts, _check, "check", summary, "submission.json --challenges arc-agi_test_challenges.json")
    parser.add_argument("submission", type=Path, metavar="SUBMISSION")
    parser.add_argument("--challenges", type=Path, required=True, metavar="FILE", help="the tasks that it is for")


def _check(arguments: argparse.Namespace) -> int:
    tasks = load_source(f"json:{arguments.challenges}", with_solutions=False).tasks
    if not arguments.submission.is_file():
        raise FileNotFoundError(f"{arguments.submission}: no such file")
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
