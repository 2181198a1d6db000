"""The same damaged files through the command line: exit code, one line on stderr, no traceback, bounded time and memory."""

import os
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fuzz.reader import MOST_CHARACTERS, Reader, Workplace
from tests.fuzz.run import ROOT

MOST_SECONDS = 300.0
MOST_ADDRESS_BYTES = 12 << 30
"""Far more than a command with torch reserves, and less than the endless and the sparse file that may lie there."""
REFUSED = 2


def run_sample(reader: Reader, seed: int, numbers: range) -> tuple[int, int, list[tuple[int, str, str]]]:
    """Run the command of a reader on inputs; return how many were refused, how many accepted, and what failed."""
    refused, accepted, failures = 0, 0, []
    with TemporaryDirectory(prefix="fuzz-") as folder:
        place = Workplace(reader, Path(folder), seed)
        for number in numbers:
            damaged = "; ".join(place.lay_out(number))
            code, fault = run_command(reader.command(place.folder), place.folder)
            refused, accepted = refused + (code in (1, REFUSED) and not fault), accepted + (code == 0 and not fault)
            if fault:
                failures.append((number, damaged, f"on the command line: {fault}"))
            place.restore()
    return refused, accepted, failures


def run_command(words: list[str], folder: Path) -> tuple[int, str]:
    """Run `python -m pipeline` with `words`; return its exit code and what is wrong with the way it ended, if anything."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "pipeline", *words], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=MOST_SECONDS, check=False, preexec_fn=_bound_memory,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return -1, f"no end after {MOST_SECONDS:.0f} s"
    said = done.stderr.decode(errors="replace")
    return done.returncode, _fault(words, done.returncode, said, folder)


def _bound_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESS_BYTES, MOST_ADDRESS_BYTES))


def _fault(words: list[str], code: int, said: str, folder: Path) -> str:
    lines = said.splitlines()
    name = f"python -m pipeline {words[0]}"
    own = [line for line in lines if line.startswith(name)]
    wrong = {
        "a traceback": "Traceback" in said,
        "another exit code": code not in ((0, 1, REFUSED) if words[0] == "kaggle" else (0, REFUSED)),
        "success, and a line that says why not": code == 0 and own,
        "not one line that says why, as the last": code and (len(own) != 1 or lines[-1] != own[0]),
        "a line that is too long": own and len(own[0].replace(str(folder), "")) > MOST_CHARACTERS,
    }
    found = [what for what, holds in wrong.items() if holds]
    return f"exit code {code}, {found[0]}: {said[-300:]!r}" if found else ""
