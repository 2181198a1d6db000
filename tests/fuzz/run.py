"""Runs the inputs of one reader in a child process with bounded memory and counts the outcomes."""

import json
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fuzz.reader import Reader, Workplace, try_to_read

ROOT = Path(__file__).parents[2]
MOST_MEMORY_BYTES = 3 << 30
"""Address space that a reader may take beyond what the program has at its start."""
GIVE_UP_AFTER = 20
"""Failures of one reader."""


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
        """Add the outcomes of further inputs."""
        self.inputs += other.inputs
        self.refused += other.refused
        self.accepted += other.accepted
        self.failures = self.failures + other.failures
        self.peak_bytes = max(self.peak_bytes, other.peak_bytes)
        self.seconds += other.seconds


def fuzz(reader: Reader, seed: int, numbers: range, kept: Path | None = None) -> Result:
    """Read the inputs `numbers` in this process; copy the files of failures to `kept`."""
    result, started, before = Result(reader.name), time.monotonic(), _peak_resident_bytes()
    with TemporaryDirectory(prefix="fuzz-") as folder:
        workplace = Workplace(reader, Path(folder), seed)
        for number in numbers:
            damaged = "; ".join(workplace.lay_out(number))
            if kept:
                kept.mkdir(parents=True, exist_ok=True)
                (kept / "current").write_text(str(number))
            accepted, fault = try_to_read(reader, workplace.folder)
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
    result.peak_bytes, result.seconds = max(0, _peak_resident_bytes() - before), time.monotonic() - started
    return result


def fuzz_apart(reader: Reader, seed: int, numbers: range, kept: Path, seconds: float) -> Result:
    """Do the same in a child process, which may crash, hang or run out of memory; its limit is `seconds`."""
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "result.json").unlink(missing_ok=True)
    words = ["--worker", str(kept), "--reader", reader.name, "--seed", str(seed), "--from", str(numbers.start)]
    command = [sys.executable, "-m", "tests.fuzz", *words, "--inputs", str(len(numbers))]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False, errors="replace")
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
    (kept / "current").unlink(missing_ok=True)


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
