"""`python -m tests.fuzz.guided`: one reader guided by coverage, with atheris (`pip install -r requirements-fuzz.txt`).

Inputs that reach new lines are kept and damaged further, so this goes deeper than random damage. Stops at the first failure and
keeps its file.
"""

import argparse
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tests.fuzz.mutate import mutate_bytes

Damage = Callable[[np.random.Generator, bytes], bytes]
PACKAGES = ("augment", "eval", "submission", "pipeline")
MOST_BYTES = 1 << 16


def main() -> int:
    """Fuzz the first file of a reader; end the process after the last run or the first failure."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.guided", description=__doc__)
    parser.add_argument("--reader", required=True, metavar="NAME", help="see python -m tests.fuzz")
    parser.add_argument("--runs", type=int, default=20_000, metavar="N")
    parser.add_argument("--seed", type=int, default=1, help="of libFuzzer, from 1")
    parser.add_argument("--kept", type=Path, default=Path("runs/fuzz-guided"), metavar="DIR", help="corpus and failures")
    arguments = parser.parse_args()
    try:
        import atheris  # noqa: PLC0415 - not in the environment of the tests
    except ImportError:
        print("python -m tests.fuzz.guided: needs atheris: pip install -r requirements-fuzz.txt", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=list(PACKAGES)):
        from tests.fuzz.__main__ import all_readers  # noqa: PLC0415 - instrumented on import
        from tests.fuzz.reader import BY_SUFFIX, generator, try_to_read  # noqa: PLC0415

        readers = {reader.name: reader for reader in all_readers()}
    reader = readers.get(arguments.reader)
    if reader is None:
        print(f"python -m tests.fuzz.guided: the readers are {', '.join(readers)}", file=sys.stderr)
        return 2
    name = reader.damaged[0]
    damage = reader.damages.get(name) or BY_SUFFIX[Path(name).suffix]
    corpus = arguments.kept / reader.name.replace(" ", "-")
    corpus.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="fuzz-") as made:
        folder = Path(made)
        reader.prepare(folder, generator(reader, arguments.seed, 0))
        original = (folder / name).read_bytes()
        (corpus / "valid").write_bytes(original)

        def try_one(data: bytes) -> None:
            (folder / name).write_bytes(data)
            _, fault = try_to_read(reader, folder)
            if fault:
                raise RuntimeError(fault)

        words = [sys.argv[0], str(corpus), f"-runs={arguments.runs}", f"-seed={arguments.seed}", f"-max_len={MOST_BYTES}"]
        words.append(f"-artifact_prefix={arguments.kept}/failed-")
        atheris.Setup(words, try_one, custom_mutator=_mutator(damage))
        atheris.Fuzz()
    return 0


def _mutator(damage: Damage) -> Callable[[bytes, int, int], bytes]:
    """Return a mutator that damages an input by its structure where it still has one, and byte by byte elsewhere."""

    def change(data: bytes, most: int, seed: int) -> bytes:
        rng = np.random.default_rng([seed, zlib.crc32(data)])
        if rng.random() < 0.5:
            return mutate_bytes(rng, data)[:most]
        try:
            return damage(rng, data)[:most]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # no longer valid
            return mutate_bytes(rng, data)[:most]

    return change


if __name__ == "__main__":
    sys.exit(main())
