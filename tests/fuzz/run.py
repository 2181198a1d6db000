"""Runs the inputs of one reader in a child process with bounded memory, or through the command line; counts the outcomes."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fuzz.reader import MOST_CHARACTERS, Reader, Workplace, try_to_read

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
MOST_MEMORY_BYTES = 3 << 30
"""Address space that a reader may take beyond what the program has at its start."""
GIVE_UP_AFTER = 20
"""Failures of one reader."""
COMMAND_SECONDS = 300.0
COMMAND_BYTES = 12 << 30
"""Address space: far more than a command with torch reserves, less than the endless and the sparse file in a file's place."""


@dataclass
class Result:
    """The outcomes of the inputs of one reader."""

    reader: str
    inputs: int = 0
    refused: int = 0
    accepted: int = 0
    failures: list[tuple[int, str, str]] = field(default_factory=list)
    """(number of the input, what was damaged, what went wrong)"""
    peak_bytes: int = 0
    """Resident memory beyond what the process had at its start."""
    seconds: float = 0.0

    def add(self, other: "Result") -> None:
        self.inputs += other.inputs
        self.refused += other.refused
        self.accepted += other.accepted
        self.failures = self.failures + other.failures
        self.peak_bytes = max(self.peak_bytes, other.peak_bytes)
        self.seconds += other.seconds


def fuzz(
    reader: Reader,
    seed: int,
    numbers: range,
    kept: Path | None = None,
    attempt: Callable[[Reader, Path], tuple[bool, str]] = try_to_read,
) -> Result:
    """Read the inputs `numbers` in this process, or as `attempt` does; copy the files of failures to `kept`."""
    result, started, before = Result(reader.name), time.monotonic(), _peak_resident_bytes()
    with TemporaryDirectory(prefix="fuzz-") as folder:
        workplace = Workplace(reader, Path(folder), seed)
        for number in numbers:
            damaged = "; ".join(workplace.lay_out(number))
            if kept:
                kept.mkdir(parents=True, exist_ok=True)
                (kept / "current").write_text(str(number))
            accepted, fault = attempt(reader, workplace.folder)
            result.inputs += 1
            result.accepted += accepted
            result.refused += not accepted and not fault
            if fault:
                result.failures.append((number, damaged, fault))
                if kept:
                    _keep(workplace.folder, kept / f"{number}", fault)
            workplace.restore()
            if len(result.failures) >= GIVE_UP_AFTER:
                break
    if kept:
        (kept / "current").unlink(missing_ok=True)
    result.peak_bytes, result.seconds = max(0, _peak_resident_bytes() - before), time.monotonic() - started
    return result


def fuzz_apart(reader: Reader, seed: int, numbers: range, kept: Path, seconds: float) -> Result:
    """Do the same in a child process, which may crash, hang or run out of memory; its limit is `seconds`."""
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "result.json").unlink(missing_ok=True)
    words = ["--worker", str(kept), "--reader", reader.name, "--seed", str(seed), "--from", str(numbers.start)]
    command = [sys.executable, "-m", "tests.fuzz", *words, "--inputs", str(len(numbers))]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=seconds, check=False, errors="replace"
        )
        ended = f"the process ended with {done.returncode}: {done.stderr.strip()[-300:]}"
    except subprocess.TimeoutExpired:
        ended = f"still running after {seconds:.0f} s"
    if (kept / "result.json").is_file():
        values = json.loads((kept / "result.json").read_text())
        return Result(**values | {"failures": [tuple(each) for each in values["failures"]]})
    current = (kept / "current").read_text() if (kept / "current").is_file() else "-1"
    return Result(reader.name, failures=[(int(current), "", ended)])


def work(reader: Reader, seed: int, numbers: range, kept: Path) -> None:
    """Run in the child process of `fuzz_apart`: bound its memory and write the result to a file."""
    address_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = address_bytes + MOST_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    result = fuzz(reader, seed, numbers, kept)
    (kept / "result.json").write_text(json.dumps(asdict(result)))


def _keep(folder: Path, target: Path, fault: str) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 100 << 20:
            (target / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / path.relative_to(folder))
    (target / "FAULT.txt").write_text(fault)


def _peak_resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_sample(reader: Reader, seed: int, numbers: range, kept: Path) -> Result:
    """Run the command of a reader on the inputs `numbers`."""
    return replace(fuzz(reader, seed, numbers, kept, _try_command), peak_bytes=0)


def _try_command(reader: Reader, folder: Path) -> tuple[bool, str]:
    code, fault = run_command(reader.command(folder), folder)
    return not code and not fault, f"on the command line: {fault}" if fault else ""


def run_command(words: list[str], folder: Path) -> tuple[int, str]:
    """Run `python -m pipeline` with `words`; return its exit code and what is wrong with how it ended, if anything."""
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "pipeline", *words], cwd=folder, env=ENVIRONMENT, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=COMMAND_SECONDS, check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (COMMAND_BYTES, COMMAND_BYTES)),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return -1, f"still running after {COMMAND_SECONDS:.0f} s"
    return done.returncode, _fault(words, done.returncode, done.stderr.decode(errors="replace"), folder)


def _fault(words: list[str], code: int, stderr: str, folder: Path) -> str:
    lines = stderr.splitlines()
    name = f"python -m pipeline {words[0]}"
    own = [line for line in lines if line.startswith(name)]
    wrong = {
        "a traceback": "Traceback" in stderr,
        "another exit code": code not in ((0, 1, 2) if words[0] == "kaggle" else (0, 2)),
        "success, but an error line": code == 0 and own,
        "not exactly one error line, at the end": code and (len(own) != 1 or lines[-1] != own[0]),
        "a line that is too long": own and len(own[0].replace(str(folder), "")) > MOST_CHARACTERS,
    }
    found = [what for what, holds in wrong.items() if holds]
    return f"exit code {code}, {found[0]}: {stderr[-300:]!r}" if found else ""
