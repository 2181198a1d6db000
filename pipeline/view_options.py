"""What the commands that look back and look inside are asked: options alone, quick to import."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", metavar="TASK", nargs="?", help="a task id; with --run it may be left out, for a list of tasks")
    where = "where the task is (default: the public tasks, or what the run says it solves); may be repeated"
    parser.add_argument("--source", action="append", metavar="S", help=where)
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--run", type=Path, metavar="DIR", help="a run: its attempts, their votes, and why they are wrong")
    given.add_argument("--submission", type=Path, metavar="FILE", help="the attempts of a submission.json of any system")
    _add_data(parser)
    view = "draw the view through a transform: its code, such as 3.463582197, or the integer of it"
    parser.add_argument("--transform", metavar="CODE", help=view)
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw a picture, not text")
    color = "colors of a terminal (default: auto, off where the output is no terminal, or NO_COLOR is set): digits without"
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto", help=color)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="DIR", help="runs, predictions or submission.json files")
    truth = parser.add_mutually_exclusive_group()
    truth.add_argument(
        "--source", action="append", metavar="S", help="where the solutions are (default: the runs' public sources)"
    )
    truth.add_argument("--solutions", type=Path, metavar="FILE", help="a solutions file as Kaggle's")
    parser.add_argument("--max-side", type=int, metavar="N", help="judge only tasks without a side over N")
    parser.add_argument("--hold-out", action="store_true", help="judge by the last demonstrations, as runs with --hold-out")
    _add_data(parser)
    parser.add_argument("--pool", type=Path, metavar="FILE", help="write the submission that the votes of all runs choose")
    parser.add_argument("--ranking", default="count", help="of pooled votes: count, probability-sum or mean-probability")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparison here as well")


def _add_data(parser: argparse.ArgumentParser) -> None:
    beside = "the dataset that was predicted, where DIR is of predict and has none of its own"
    parser.add_argument("--data", type=Path, metavar="DIR", help=beside)


def _add_debug(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", required=True, metavar="ID", help="a task id, such as 25ff71a9")
    where = "where the task is (default: the public tasks); may be repeated"
    parser.add_argument("--source", action="append", metavar="S", help=where)
    parser.add_argument(
        "--preset", metavar="P", help="settings by name (default: demo); those of the weights where these are given"
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="start from these; a run or checkpoint folder will do")
    parser.add_argument(
        "--time-limit", default="1m", metavar="DURATION", help="of training (default: 1m); 0s asks the weights as they are"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the preset's first weights and of what is drawn (default: 0)")
    setting = "override a setting (pipeline/config.py); may be repeated"
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help=setting)
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="colors of a terminal")


class View(NamedTuple):
    """A command: what `--help` says of it, and its options."""

    summary: str
    example: str
    add: Callable[[argparse.ArgumentParser], None]


VIEWS = {
    "show": View(
        "draw a task in the terminal or to a picture; of a run, with its attempts, their votes and why they are wrong",
        "007bbfb7 --source arc1:training\n  python -m pipeline show --run runs/demo-0\n"
        "  python -m pipeline show 4cd1b7b2 --run runs/demo-0 --png task.png",
        _add_show,
    ),
    "compare": View(
        "put runs or submissions side by side: scores, what each alone solves, pooled votes",
        "runs/demo-0 runs/demo-1 --pool pooled/submission.json",
        _add_compare,
    ),
    "debug": View(
        "train on one task alone and watch the drafts of its answer: the fastest way to understand the network",
        "--task 25ff71a9 --source arc1:training --time-limit 1m",
        _add_debug,
    ),
}
