"""`python -m tests.torture [kill|interrupt|disk|memory|clock|all]`: hours of faults; a line for each, and tables at the end.

Two cores need about an hour for all of it. Exit code 1 if anything was lost.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.torture import clock, disk, interrupt, kill, memory
from tests.torture.demo import summary

Row = tuple[str, int, int, str]
"""Fault, times tried, times survived, what else there is to say."""


def main(argv: Sequence[str] | None = None) -> int:
    """Torture; return 0 if everything survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("part", nargs="?", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=3, metavar="N", help="runs at a time")
    parser.add_argument("--kills", type=int, default=210, metavar="N", help="least number of them")
    parser.add_argument("--runs", type=int, default=100, metavar="N", help="with a time limit")
    parser.add_argument("--clock-jobs", type=int, default=6, metavar="N", help="of those, at a time")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="for the runs (default: a temporary one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what became of every run here")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        rows: list[Row] = []
        found: dict[str, list[dict[str, Any]]] = {}
        for name in PARTS if arguments.part == "all" else (arguments.part,):
            (folder / name).mkdir(parents=True, exist_ok=True)
            started = time.monotonic()
            outcomes = _tell(name, PARTS[name](folder / name, arguments))
            found[name] = [asdict(outcome) for outcome in outcomes]
            rows += TABLES[name](outcomes)
            print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(found, indent=1))
    print("| fault | times tried | times survived | |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")
    lost = [problem for outcomes in found.values() for outcome in outcomes for problem in outcome["problems"]]
    print(f"{len(lost)} problems")
    return int(bool(lost))


def _tell(name: str, outcomes: Iterable[Any]) -> list[Any]:
    """Print each outcome as it comes; return all."""
    kept = []
    for outcome in outcomes:
        kept.append(outcome)
        values = {key: value for key, value in asdict(outcome).items() if value not in ([], "", None)}
        print(f"{time.strftime('%H:%M:%S')} {name}: {values}", flush=True)
    return kept


def _kill(folder: Path, arguments: argparse.Namespace) -> Iterable[kill.Outcome]:
    variants = {"one process": 4, "two workers": 1, "two processes": 1}
    return kill.torture_many(folder, variants, arguments.seed, arguments.jobs, arguments.kills)


def _interrupt(folder: Path, arguments: argparse.Namespace) -> Iterable[kill.Outcome]:
    variants = {"one process": 4, "two workers": 1, "two processes": 2}
    return interrupt.interrupt_many(folder, variants, arguments.seed, arguments.jobs)


def _disk(folder: Path, arguments: argparse.Namespace) -> Iterable[disk.Refusal]:
    reference = kill.make_reference(folder, "one process")
    yield from disk.fill_disks(folder, reference)
    yield from disk.refuse_many(folder, reference, arguments.jobs)


def _memory(folder: Path, arguments: argparse.Namespace) -> Iterable[memory.Squeezed]:
    return memory.squeeze_many(folder, arguments.jobs)


def _clock(folder: Path, arguments: argparse.Namespace) -> Iterable[clock.Timed]:
    return clock.time_many(folder, arguments.runs, arguments.seed, arguments.clock_jobs)


PARTS: Mapping[str, Callable[[Path, argparse.Namespace], Iterable[Any]]] = {
    "kill": _kill,
    "interrupt": _interrupt,
    "disk": _disk,
    "memory": _memory,
    "clock": _clock,
}


def _rows_of_strikes(what: str, outcomes: Sequence[kill.Outcome]) -> list[Row]:
    rows: list[Row] = []
    stages = Counter(stage for outcome in outcomes for stage in outcome.struck)
    bad = [problem for outcome in outcomes for problem in outcome.problems]
    for stage, count in stages.items():
        rows.append((f"{what} while in {stage}", count, count - sum(f"in {stage}:" in problem for problem in bad), ""))
    equal = sum(not outcome.problems for outcome in outcomes)
    rows.append((f"{what}, resumed each time: ends as a run left alone, to the last bit", len(outcomes), equal, ""))
    for name in ("first_seconds", "before_submission", "ending_seconds"):
        values = [value for outcome in outcomes for value in getattr(outcome, name)]
        if values:
            rows.append((f"{name} (least, median, most)", len(values), len(values), summary(values)))
    return rows


def _rows_of_disks(outcomes: Sequence[disk.Refusal]) -> list[Row]:
    kinds = {"once": ", once", "always": ", always", "disk": "a disk of", "files": "files of at most"}
    rows: list[Row] = []
    for kind, words in kinds.items():
        chosen = [outcome for outcome in outcomes if words in outcome.what]
        if chosen:
            codes = Counter(outcome.code for outcome in chosen)
            rows.append(
                (f"disk full: {kind}", len(chosen), sum(not each.problems for each in chosen), f"exit codes {dict(codes)}")
            )
    return rows


def _rows_of_memory(outcomes: Sequence[memory.Squeezed]) -> list[Row]:
    pieces = Counter(outcome.pieces for outcome in outcomes)
    codes = Counter(outcome.code for outcome in outcomes)
    words = f"packs in {dict(pieces)} pieces, exit codes {dict(codes)}"
    return [("memory limited", len(outcomes), sum(not each.problems for each in outcomes), words)]


def _rows_of_clock(outcomes: Sequence[clock.Timed]) -> list[Row]:
    print("\n".join(clock.table(outcomes)))
    return [("time limits", len(outcomes), sum(not each.problems for each in outcomes), "")]


TABLES: Mapping[str, Callable[[Sequence[Any]], list[Row]]] = {
    "kill": lambda outcomes: _rows_of_strikes("killed", outcomes),
    "interrupt": lambda outcomes: _rows_of_strikes("asked to end", outcomes),
    "disk": _rows_of_disks,
    "memory": _rows_of_memory,
    "clock": _rows_of_clock,
}

if __name__ == "__main__":
    sys.exit(main())
