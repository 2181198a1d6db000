"""Fault injection on whole runs: `python -m tests.torture [kill|interrupt|disk|memory|clock|all]`.

All parts take about an hour on two cores. Prints one line per run and a table at the end; exit code 1 if a run failed.
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

from tests.torture import clock, disk, memory, strikes
from tests.torture.demo import summary

Row = tuple[str, int, int, str]
"""Fault, times tried, times survived, remarks."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen parts; return 0 if everything survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("part", nargs="?", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=3, metavar="N", help="runs at a time")
    parser.add_argument("--kills", type=int, default=210, metavar="N", help="least number of kills")
    parser.add_argument("--runs", type=int, default=100, metavar="N", help="runs with a time limit")
    parser.add_argument("--clock-jobs", type=int, default=6, metavar="N", help="runs with a time limit at a time")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="for the runs (default: a temporary one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcome of every run here")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        rows: list[Row] = []
        found: dict[str, list[dict[str, Any]]] = {}
        for name in PARTS if arguments.part == "all" else (arguments.part,):
            (folder / name).mkdir(parents=True, exist_ok=True)
            started = time.monotonic()
            torture, rows_of = PARTS[name]
            outcomes = []
            for outcome in torture(folder / name, arguments):
                outcomes.append(outcome)
                values = {key: value for key, value in asdict(outcome).items() if value not in ([], "", None)}
                print(f"{time.strftime('%H:%M:%S')} {name}: {values}", flush=True)
            found[name] = [asdict(outcome) for outcome in outcomes]
            rows += rows_of(outcomes)
            print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(found, indent=1))
    print("| fault | times tried | times survived | |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")
    failed = [problem for outcomes in found.values() for outcome in outcomes for problem in outcome["problems"]]
    print(f"{len(failed)} problems")
    return int(bool(failed))


def _disk(folder: Path, arguments: argparse.Namespace) -> Iterable[disk.Refusal]:
    reference = strikes.make_reference(folder, "one process")
    yield from disk.fill_disks(folder, reference)
    yield from disk.refuse_many(folder, reference, arguments.jobs)


def _rows_of_strikes(outcomes: Sequence[strikes.Outcome]) -> list[Row]:
    what = outcomes[0].what
    stages = Counter(stage for outcome in outcomes for stage in outcome.struck)
    bad = [problem for outcome in outcomes for problem in outcome.problems]
    rows = [
        (f"{what} in {stage}", count, count - sum(f"in {stage}:" in problem for problem in bad), "")
        for stage, count in stages.items()
    ]
    identical = sum(not outcome.problems for outcome in outcomes)
    rows.append((f"{what}, resumed each time: ends identical to an undisturbed run", len(outcomes), identical, ""))
    for name in ("first_seconds", "before_submission", "ending_seconds"):
        values = [value for outcome in outcomes for value in getattr(outcome, name)]
        if values:
            rows.append((f"{name} (least, median, most)", len(values), len(values), summary(values)))
    return rows


def _rows_of_disks(outcomes: Sequence[disk.Refusal]) -> list[Row]:
    rows: list[Row] = []
    for kind, words in {"once": ", once", "always": ", always", "disk": "a disk of", "files": "files of at most"}.items():
        chosen = [outcome for outcome in outcomes if words in outcome.what]
        if chosen:
            rows.append((f"disk full: {kind}", *_survived(chosen), _exit_codes(chosen)))
    return rows


def _rows_of_memory(outcomes: Sequence[memory.Squeezed]) -> list[Row]:
    parts = Counter(outcome.micro_batches for outcome in outcomes)
    return [("memory limited", *_survived(outcomes), f"packs in {dict(parts)} micro-batches, {_exit_codes(outcomes)}")]


def _rows_of_clock(outcomes: Sequence[clock.Timed]) -> list[Row]:
    print("\n".join(clock.table(outcomes)))
    return [("time limits", *_survived(outcomes), "")]


def _survived(outcomes: Sequence[Any]) -> tuple[int, int]:
    return len(outcomes), sum(not outcome.problems for outcome in outcomes)


def _exit_codes(outcomes: Sequence[Any]) -> str:
    return f"exit codes {dict(Counter(outcome.code for outcome in outcomes))}"


PARTS: Mapping[str, tuple[Callable[[Path, argparse.Namespace], Iterable[Any]], Callable[[Sequence[Any]], list[Row]]]] = {
    "kill": (lambda folder, given: strikes.strike_many(folder, given.seed, given.jobs, given.kills), _rows_of_strikes),
    "interrupt": (lambda folder, given: strikes.strike_many(folder, given.seed, given.jobs), _rows_of_strikes),
    "disk": (_disk, _rows_of_disks),
    "memory": (lambda folder, given: memory.squeeze_many(folder, given.jobs), _rows_of_memory),
    "clock": (lambda folder, given: clock.time_many(folder, given.runs, given.seed, given.clock_jobs), _rows_of_clock),
}
"""What each part does, and how its outcomes become rows of the table."""

if __name__ == "__main__":
    sys.exit(main())
