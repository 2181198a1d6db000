"""Damaged files through the command line: exit code, one line on stderr, no traceback, bounded time and memory."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fuzz.reader import MOST_CHARACTERS, Reader, Workplace
from tests.fuzz.run import ROOT, Result

MOST_SECONDS = 300.0
MOST_ADDRESS_BYTES = 12 << 30
"""Far more than a command with torch reserves, less than the endless and the sparse file that may be in a file's place."""
REFUSED = 2


def run_sample(reader: Reader, seed: int, numbers: range) -> Result:
    """Run the command of a reader on the inputs `numbers`."""
    result, started = Result(reader.name, inputs=len(numbers)), time.monotonic()
    with TemporaryDirectory(prefix="fuzz-") as folder:
        workplace = Workplace(reader, Path(folder), seed)
        for number in numbers:
            damaged = "; ".join(workplace.lay_out(number))
            code, fault = run_command(reader.command(workplace.folder), workplace.folder)
            result.refused += code in (1, REFUSED) and not fault
            result.accepted += code == 0 and not fault
            if fault:
                result.failures.append((number, damaged, f"on the command line: {fault}"))
            workplace.restore()
    result.seconds = time.monotonic() - started
    return result


def run_command(words: list[str], folder: Path) -> tuple[int, str]:
    """Run `python -m pipeline` with `words`; return its exit code and what is wrong with how it ended, if anything."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "pipeline", *words], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=MOST_SECONDS, check=False, preexec_fn=_bound_memory,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return -1, f"still running after {MOST_SECONDS:.0f} s"
    return done.returncode, _fault(words, done.returncode, done.stderr.decode(errors="replace"), folder)


def _bound_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESS_BYTES, MOST_ADDRESS_BYTES))


def _fault(words: list[str], code: int, stderr: str, folder: Path) -> str:
    lines = stderr.splitlines()
    name = f"python -m pipeline {words[0]}"
    own = [line for line in lines if line.startswith(name)]
    wrong = {
        "a traceback": "Traceback" in stderr,
        "another exit code": code not in ((0, 1, REFUSED) if words[0] == "kaggle" else (0, REFUSED)),
        "success, but an error line": code == 0 and own,
        "not exactly one error line, at the end": code and (len(own) != 1 or lines[-1] != own[0]),
        "a line that is too long": own and len(own[0].replace(str(folder), "")) > MOST_CHARACTERS,
    }
    found = [what for what, holds in wrong.items() if holds]
    return f"exit code {code}, {found[0]}: {stderr[-300:]!r}" if found else ""
