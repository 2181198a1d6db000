"""`python -m tests.fuzz`: every reader on thousands of damaged files, in child processes and on the command line.

Prints a table; exit code 1 if anything failed. Reader, seed and number determine an input, and `--reader "task file" --seed 0
--only 13` tries only that one. Files of failures are kept.
"""

import argparse
import sys
from pathlib import Path

from tests.fuzz.reader import Reader
from tests.fuzz.run import Result, fuzz, fuzz_apart, run_sample, work

INPUTS = 120_000
SAMPLE = 12
"""Inputs of each reader that also go through the command line."""
WORKER_SECONDS = 3600.0


def all_readers() -> tuple[Reader, ...]:
    from tests.fuzz.tensor_readers import TENSOR_READERS  # noqa: PLC0415 - torch is slow to import
    from tests.fuzz.text_readers import TEXT_READERS  # noqa: PLC0415

    return (*TEXT_READERS, *TENSOR_READERS)


def main(argv: list[str] | None = None) -> int:
    """Fuzz; return 0 if every input was survived, 1 if not, 2 for an unknown reader."""
    arguments = _parser().parse_args(argv)
    readers = [reader for reader in all_readers() if arguments.reader in (None, reader.name)]
    if not readers:
        names = ", ".join(reader.name for reader in all_readers())
        print(f"python -m tests.fuzz: no reader {arguments.reader!r}; the readers are {names}", file=sys.stderr)
        return 2
    if arguments.worker:
        work(readers[0], arguments.seed, range(arguments.first, arguments.first + arguments.inputs), arguments.worker)
        return 0
    if arguments.only is not None:
        return _try_one(readers[0], arguments.seed, arguments.only, arguments.kept / readers[0].name.replace(" ", "-"))
    shares = sum(1 / reader.slow for reader in readers)
    results = []
    for reader in readers:
        count, kept = max(1, round(arguments.inputs / shares / reader.slow)), arguments.kept / reader.name.replace(" ", "-")
        result = fuzz_apart(reader, arguments.seed, range(count), kept, WORKER_SECONDS)
        result.add(run_sample(reader, arguments.seed, range(min(arguments.sample, count)), kept))
        print(f"{reader.name}: {result.inputs:,} inputs, {len(result.failures)} failures", file=sys.stderr, flush=True)
        results.append(result)
    print(format_table(results))
    failed = [(result.reader, *failure) for result in results for failure in result.failures]
    for name, number, damaged, fault in failed:
        print(f'FAILED: --reader "{name}" --seed {arguments.seed} --only {number} ({damaged}): {fault}')
    if failed:
        print(f"their files are kept in {arguments.kept}")
    return int(bool(failed))


def format_table(results: list[Result]) -> str:
    """Return the results, and their sum, as a table in Markdown."""
    total = Result("all")
    for result in results:
        total.add(result)
    return "\n".join(
        [
            "| reader | inputs | refused in one line | accepted | failures | peak memory | seconds |",
            "|---|---|---|---|---|---|---|",
            *(
                f"| {each.reader} | {each.inputs:,} | {each.refused:,} | {each.accepted:,} | {len(each.failures)} "
                f"| {each.peak_bytes / 1e6:,.0f} MB | {each.seconds:,.0f} |"
                for each in (*results, total)
            ),
        ]
    )


def _try_one(reader: Reader, seed: int, number: int, kept: Path) -> int:
    numbers = range(number, number + 1)
    result = fuzz(reader, seed, numbers, kept)
    result.add(run_sample(reader, seed, numbers, kept))
    for _, damaged, fault in result.failures:
        print(f"{damaged}: {fault}")
    print("failed" if result.failures else "accepted" if result.accepted else "refused in one line")
    return int(bool(result.failures))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--reader", metavar="NAME", help="fuzz only this one")
    parser.add_argument("--inputs", type=int, default=INPUTS, metavar="N", help=f"in total (default: {INPUTS:,})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="try this input of --reader again")
    parser.add_argument("--sample", type=int, default=SAMPLE, metavar="N", help=f"on the command line (default: {SAMPLE})")
    parser.add_argument("--kept", type=Path, default=Path("runs/fuzz"), metavar="DIR", help="for files that failed (runs/fuzz)")
    parser.add_argument("--from", dest="first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
