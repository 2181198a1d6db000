"""Runs on a disk that takes no more: every file that a run writes is refused, and real disks of every size are filled."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.torture.demo import ROOT, Plan, Tortured, differences, problem_with, run_arguments, start

ONCE, ALWAYS = 1, 1_000_000
FULL = os.strerror(errno.ENOSPC)
SIZES_KB = (4, 8, 12, 16, 24, 32, 48, 64, 128, 512, 1024, 2048, 2560, 2700, 3000, 4096, 5000, 5400, 5600, 6000, 7000, 7800)
"""Of disks. A checkpoint has 2.6 MB; two are kept and a third is written."""
FILE_KB = (1, 2, 4, 8, 64, 600, 700, 1900)
"""Largest size that a file may have, where disks cannot be mounted."""


@dataclass
class Refusal:
    """What became of a run that was refused something."""

    what: str
    code: int = 0
    said: str = ""
    problems: list[str] = field(default_factory=list)


def enumerate_writes(folder: Path) -> list[str]:
    """Return, as patterns, everything that an undisturbed run opens for writing, renames into place or makes."""
    run = start(run_arguments(), folder / "enumerated", Plan())
    if run.wait():
        raise RuntimeError(f"the run failed: {run.said()[-2000:]}")
    found = {}
    for _, _, _, kind, name in run.events():
        if kind in ("write", "rename", "mkdir"):
            found[f"{kind} {re.sub(r'-0[0-9]+', r'-[0-9]+', re.sub(r'[.]', r'[.]', name))}"] = None
    return list(found)


def refuse(folder: Path, reference: Path, what: str, times: int) -> Refusal:
    """Refuse something to a run as a full disk does, look at what is left, then let it go on with room again."""
    name = re.sub(r"\W+", "-", what)
    out = folder / f"refused-{name}-{times}"
    run = start(run_arguments(), out, Plan(fail={"what": what, "errno": errno.ENOSPC, "times": times}))
    refusal = _judge(
        run, Refusal(f"{what}, {'once' if times == ONCE else 'always'}"), may_lack="submission" in what or "lock" in what
    )
    lost = ["metrics.jsonl"] if "metrics" in what and times == ALWAYS else []  # it is said that they are
    return _go_on(out, reference, refusal, lost)


def _judge(run: Tortured, refusal: Refusal, may_lack: bool) -> Refusal:
    refusal.code = run.wait()
    said = run.said()
    refusal.said = next((line for line in said.splitlines() if FULL in line or os.strerror(errno.EFBIG) in line), "")
    if refusal.code not in (0, 1):
        refusal.problems.append(f"exit code {refusal.code}")
    if not refusal.said:
        refusal.problems.append("it does not say that the disk is full")
    if "Traceback" in said:
        refusal.problems.append(f"a traceback: {said[-1500:]}")
    try:
        problem = problem_with(run.out)
    except FileNotFoundError:
        problem = None if may_lack and refusal.code == 1 else "no submission"
    refusal.problems += [problem] if problem else []
    return refusal


def _go_on(out: Path, reference: Path, refusal: Refusal, lost: Sequence[str] = ()) -> Refusal:
    run = start(run_arguments(), out)
    code = run.wait()
    if code:
        refusal.problems.append(f"with room again: exit code {code}: {run.said()[-500:]}")
    else:
        different = [name for name in differences(reference, out) if name not in lost]
        refusal.problems += [f"with room again: it differs in {', '.join(different)}"] if different else []
    if not refusal.problems:
        shutil.rmtree(out)
    return refusal


def refuse_many(folder: Path, reference: Path, jobs: int) -> Iterator[Refusal]:
    """Yield what became of runs that were refused each thing once, and always."""
    writes = enumerate_writes(folder)
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(
            lambda pair: refuse(folder, reference, *pair), [(what, times) for what in writes for times in (ONCE, ALWAYS)]
        )


def fill_disks(folder: Path, reference: Path) -> list[Refusal]:
    """Return what became of runs on disks of every size; where none can be mounted, of runs whose files are limited."""
    command = ["unshare", "--mount", sys.executable, "-m", "tests.torture.disk", str(folder), str(reference)]
    if shutil.which("unshare") and _mounts_work():
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
        return [Refusal(**json.loads(line)) for line in done.stdout.splitlines()]
    print("disks cannot be mounted here: the sizes of files are limited instead", file=sys.stderr)
    return [limit_files(folder, reference, size) for size in FILE_KB]


def _mounts_work() -> bool:
    tried = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


def fill_disk(folder: Path, reference: Path, size: int) -> Refusal:
    """Run on a disk of `size` kB, in a mount namespace of this process's own."""
    disk = folder / f"disk-{size}"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)], check=True)
    try:
        out = disk / "run"
        run = start(run_arguments(), out, beside=folder)
        refusal = _judge(run, Refusal(f"a disk of {size} kB"), may_lack=size < 64)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        return _go_on(out, reference, refusal)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def limit_files(folder: Path, reference: Path, size: int) -> Refusal:
    """Run where no file may be larger than `size` kB."""
    out = folder / f"files-{size}"
    run = start(run_arguments(), out, wrapper=["prlimit", f"--fsize={1024 * size}"])
    return _go_on(out, reference, _judge(run, Refusal(f"files of at most {size} kB"), may_lack=size < 8))


if __name__ == "__main__":
    for kilobytes in SIZES_KB:
        print(json.dumps(asdict(fill_disk(Path(sys.argv[1]), Path(sys.argv[2]), kilobytes))), flush=True)
