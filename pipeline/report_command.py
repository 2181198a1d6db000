"""The command `report`: one page of what a run did, and pictures of its parts."""

import argparse
import time
from pathlib import Path
from typing import Any

from pipeline.browser import BROWSER_VARIABLE, draw_page, need_browser
from pipeline.data.sources import SOURCES_HELP
from pipeline.data.watch import doing
from pipeline.report import write_report

FILTERS = ("all", "solved", "first", "second", "part", "unsolved", "near", "size", "disagree", "fallback")
"""Of the page, as its addresses name them."""
_EXAMPLES = """\
example:
  python -m pipeline report runs/first
  python -m pipeline report runs/first --png pictures/summary.png
  python -m pipeline report runs/first --png pictures/misses.png --filter near --dark
"""


def add_report(commands: Any) -> None:
    """Add the command to the parser."""
    summary = "write report.html into a run directory: score, curves, votes, and every task with its attempts and drafts"
    parser = commands.add_parser(
        "report",
        help=summary,
        description=summary,
        epilog=f"{_EXAMPLES}\n{SOURCES_HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="DIR", help="a run directory; every run ends with a report already")
    also = "where to find solutions that the sources of the run do not hold, or its tasks; may be repeated"
    parser.add_argument("--source", action="append", default=[], metavar="S", help=also)
    picture = (
        f"draw the summary into a picture as well, by the Chromium or Chrome of this machine ({BROWSER_VARIABLE} names one)"
    )
    parser.add_argument("--png", type=Path, metavar="FILE", help=picture)
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--task", metavar="ID", help="draw this task, not the summary")
    part.add_argument(
        "--filter", choices=FILTERS, metavar="NAME", help=f"draw the first tasks of a filter: {', '.join(FILTERS)}"
    )
    parser.add_argument("--width", type=int, default=1200, metavar="N", help="of the picture, in pixels (default: 1200)")
    parser.add_argument("--dark", action="store_true", help="draw the page as dark desktops show it")


def report(arguments: argparse.Namespace, _: float) -> int:
    """Write the page, draw it if asked to, and tell where it is."""
    if arguments.png is None and (arguments.task or arguments.filter or arguments.dark):
        raise ValueError("--task, --filter and --dark are for a picture: name its file with --png")
    if arguments.png is not None:
        need_browser()
        if not 300 <= arguments.width <= 4000:
            raise ValueError(f"--width must be between 300 and 4000 pixels, got {arguments.width}")
    started = time.monotonic()
    with doing("reading the run"):
        path = write_report(arguments.run, arguments.source)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB in {time.monotonic() - started:.1f} s; open it in a browser")
    if arguments.png is not None:
        part = f"task={arguments.task}" if arguments.task else f"filter={arguments.filter}" if arguments.filter else ""
        with doing("drawing the picture"):
            draw_page(path, part, arguments.png, arguments.width, arguments.dark)
        print(f"{arguments.png}: {arguments.png.stat().st_size / 1e3:.0f} kB")
    return 0
