"""Runs on a full disk: every file that a run writes is refused in turn, and real disks of many sizes fill up."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.torture.demo import NO_SUBMISSION, ROOT, Plan, Tortured, faults_of_end, resume, run_arguments, start

ONCE, ALWAYS = 1, 1_000_000
SIZES_KB = (4, 8, 12, 16, 24, 32, 48, 64, 128, 512, 1024, 2048, 2560, 2700, 3000, 4096, 5000, 5400, 5600, 6000, 7000, 7800)
"""Sizes of disks. A checkpoint has 2.6 MB; two are kept and a third is written."""
FILE_KB = (1, 2, 4, 8, 64, 600, 700, 1900)
"""Largest size of a file, where disks cannot be mounted."""


@dataclass
class Refusal:
    """What happened to a run whose writes were refused."""

    what: str
    code: int = 0
    message: str = ""
    """The line that reports it."""
    problems: list[str] = field(default_factory=list)


def enumerate_writes(folder: Path) -> list[str]:
    """Return, as patterns, everything that an undisturbed run opens for writing, renames into place or creates."""
    run = start(run_arguments(), folder / "enumerated", Plan())
    if run.wait():
        raise RuntimeError(f"the run failed: {run.output()[-2000:]}")
    found = {}
    for _, _, _, kind, name in run.events():
        if kind in ("write", "rename", "mkdir"):
            found[f"{kind} {re.sub(r'-0[0-9]+', r'-[0-9]+', re.sub(r'[.]', r'[.]', name))}"] = None
    return list(found)


def refuse(folder: Path, reference: Path, what: str, times: int) -> Refusal:
    """Let one file operation fail as on a full disk; check what is left, then resume with room again."""
    name = re.sub(r"\W+", "-", what)
    run = start(
        run_arguments(), folder / f"refused-{name}-{times}", Plan(fail={"what": what, "errno": errno.ENOSPC, "times": times})
    )
    refusal = Refusal(f"{what}, {'once' if times == ONCE else 'always'}")
    lost = ["metrics.jsonl"] if "metrics" in what and times == ALWAYS else []  # the run reports that they are lost
    return _finish(run, reference, refusal, may_lack="submission" in what or "lock" in what, lost=lost)


def _finish(
    run: Tortured, reference: Path, refusal: Refusal, may_lack: bool, lost: list[str], disk: Path | None = None
) -> Refusal:
    """Check how the run ended and resume it with room, on `disk` after enlarging that."""
    refusal.code = run.wait()
    messages = (os.strerror(errno.ENOSPC), os.strerror(errno.EFBIG))
    refusal.message = next((line for line in run.output().splitlines() if any(each in line for each in messages)), "")
    if not refusal.message:
        refusal.problems.append("it does not report that the disk is full")
    faults = faults_of_end(run, refusal.code)
    refusal.problems += [fault for fault in faults if not (may_lack and refusal.code == 1 and fault == NO_SUBMISSION)]
    if disk:
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    refusal.problems += resume(run.out, reference, lost=lost)
    if not refusal.problems:
        shutil.rmtree(run.out)
    return refusal


def refuse_many(folder: Path, reference: Path, jobs: int) -> Iterator[Refusal]:
    """Yield the outcomes of runs in which each file operation fails once, and always."""
    faults = [(what, times) for what in enumerate_writes(folder) for times in (ONCE, ALWAYS)]
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda fault: refuse(folder, reference, *fault), faults)


def fill_disks(folder: Path, reference: Path) -> list[Refusal]:
    """Return the outcomes of runs on disks of many sizes; where none can be mounted, of runs whose files are limited."""
    tried = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if shutil.which("unshare") and subprocess.run(tried, capture_output=True, check=False).returncode == 0:
        command = ["unshare", "--mount", sys.executable, "-m", "tests.torture.disk", str(folder), str(reference)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
        return [Refusal(**json.loads(line)) for line in done.stdout.splitlines()]
    print("disks cannot be mounted here: the sizes of files are limited instead", file=sys.stderr)
    return [limit_files(folder, reference, size) for size in FILE_KB]


def fill_disk(folder: Path, reference: Path, size: int) -> Refusal:
    """Run on a disk of `size` kB, in a mount namespace of this process's own."""
    disk = folder / f"disk-{size}"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)], check=True)
    try:
        run = start(run_arguments(), disk / "run", beside=folder)
        return _finish(run, reference, Refusal(f"a disk of {size} kB"), may_lack=size < 64, lost=[], disk=disk)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def limit_files(folder: Path, reference: Path, size: int) -> Refusal:
    """Run where no file may be larger than `size` kB."""
    run = start(run_arguments(), folder / f"files-{size}", wrapper=["prlimit", f"--fsize={1024 * size}"])
    return _finish(run, reference, Refusal(f"files of at most {size} kB"), may_lack=size < 8, lost=[])


if __name__ == "__main__":
    for kilobytes in SIZES_KB:
        print(json.dumps(asdict(fill_disk(Path(sys.argv[1]), Path(sys.argv[2]), kilobytes))), flush=True)
