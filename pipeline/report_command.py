"""The command `report`: one page of what a run did."""

import argparse
import time
from pathlib import Path
from typing import Any

from pipeline.data.sources import SOURCES_HELP
from pipeline.report import write_report


def add_report(commands: Any) -> None:
    """Add the command to the parser."""
    summary = "write report.html into a run directory: score, curves, votes, and every task with its attempts and drafts"
    parser = commands.add_parser(
        "report",
        help=summary,
        description=summary,
        epilog=f"example:\n  python -m pipeline report runs/first\n\n{SOURCES_HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="DIR", help="a run directory; every run ends with a report already")
    also = "where to find solutions that the sources of the run do not hold, or its tasks; may be repeated"
    parser.add_argument("--source", action="append", default=[], metavar="S", help=also)


def report(arguments: argparse.Namespace, _: float) -> int:
    """Write the page and tell where it is."""
    started = time.monotonic()
    path = write_report(arguments.run, arguments.source)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB in {time.monotonic() - started:.1f} s; open it in a browser")
    return 0
