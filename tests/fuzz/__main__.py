"""`python -m tests.fuzz`: every reader on thousands of damaged files, in this process's children and on the command line.

Prints a table and exits with 1 if anything failed. An input is made again from its reader, seed and number: `--reader "task
file" --seed 0 --only 13` tries that one alone. The files of what failed are kept.
"""

import argparse
import sys
import time
from pathlib import Path

from tests.fuzz.commandline import run_sample
from tests.fuzz.reader import Reader
from tests.fuzz.run import Result, fuzz, fuzz_apart, work

INPUTS = 120_000
SAMPLE = 12
"""Inputs of each reader that go through the command line too."""
WORKER_SECONDS = 3600.0


def all_readers() -> tuple[Reader, ...]:
    """Return every reader that is fuzzed."""
    from tests.fuzz.tensor_readers import TENSOR_READERS  # noqa: PLC0415 - torch is slow to import
    from tests.fuzz.text_readers import TEXT_READERS  # noqa: PLC0415

    return (*TEXT_READERS, *TENSOR_READERS)


def main(argv: list[str] | None = None) -> int:
    """Fuzz; return 0 if every input was survived, 1 if not, 2 for an unknown reader."""
    arguments = _parser().parse_args(argv)
    readers = [reader for reader in all_readers() if arguments.reader in (None, reader.name)]
    if not readers:
        names = ", ".join(reader.name for reader in all_readers())
        print(f"python -m tests.fuzz: no reader {arguments.reader!r}; there are {names}", file=sys.stderr)
        return 2
    if arguments.worker:
        work(readers[0], arguments.seed, range(arguments.first, arguments.first + arguments.inputs), arguments.worker)
        return 0
    if arguments.only is not None:
        return _try_one(readers[0], arguments.seed, arguments.only, arguments.kept)
    shares = sum(1 / reader.slow for reader in readers)
    results = []
    for reader in readers:
        count = max(1, round(arguments.inputs / shares / reader.slow))
        results.append(_fuzz(reader, arguments.seed, count, arguments.sample, arguments.kept))
    print(format_table(results))
    failures = [(result.reader, *failure) for result in results for failure in result.failures]
    for name, number, damaged, fault in failures:
        print(f'FAILED: --reader "{name}" --seed {arguments.seed} --only {number} ({damaged}): {fault}')
    if failures:
        print(f"the files are kept in {arguments.kept}")
    return int(bool(failures))


def format_table(results: list[Result]) -> str:
    """Return the results as a table of Markdown."""
    lines = [
        "| reader | inputs | refused in one line | accepted | failures | peak memory | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    total = Result("all", peak_bytes=max((result.peak_bytes for result in results), default=0))
    for each in results:
        total.inputs, total.refused, total.accepted = (
            total.inputs + each.inputs, total.refused + each.refused, total.accepted + each.accepted,
        )  # fmt: skip
        total.failures, total.seconds = total.failures + each.failures, total.seconds + each.seconds
    lines += [
        f"| {each.reader} | {each.inputs:,} | {each.refused:,} | {each.accepted:,} | {len(each.failures)} "
        f"| {each.peak_bytes / 1e6:,.0f} MB | {each.seconds:,.0f} |"
        for each in (*results, total)
    ]
    return "\n".join(lines)


def _fuzz(reader: Reader, seed: int, count: int, sample: int, kept: Path) -> Result:
    result = fuzz_apart(reader, seed, range(count), kept / reader.name.replace(" ", "-"), WORKER_SECONDS)
    started = time.monotonic()
    refused, accepted, failures = run_sample(reader, seed, range(min(sample, count)))
    result.inputs += refused + accepted + len(failures)
    result.refused, result.accepted = result.refused + refused, result.accepted + accepted
    result.failures += failures
    result.seconds += time.monotonic() - started
    print(f"{reader.name}: {result.inputs:,} inputs, {len(result.failures)} failures", file=sys.stderr, flush=True)
    return result


def _try_one(reader: Reader, seed: int, number: int, kept: Path) -> int:
    result = fuzz(reader, seed, range(number, number + 1), kept / reader.name.replace(" ", "-"))
    _, _, failures = run_sample(reader, seed, range(number, number + 1))
    for _, damaged, fault in result.failures + failures:
        print(f"{damaged}: {fault}")
    print("accepted" if result.accepted else "refused in one line" if result.refused else "failed")
    return int(bool(result.failures or failures))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--reader", metavar="NAME", help="this one alone")
    parser.add_argument("--inputs", type=int, default=INPUTS, metavar="N", help=f"in all (default: {INPUTS:,})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="try this input of --reader again")
    parser.add_argument("--sample", type=int, default=SAMPLE, metavar="N", help=f"on the command line (default: {SAMPLE})")
    parser.add_argument("--kept", type=Path, default=Path("runs/fuzz"), metavar="DIR", help="files that failed (runs/fuzz)")
    parser.add_argument("--from", dest="first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
