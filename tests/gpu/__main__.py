"""`python -m tests.gpu --out FOLDER [--train 7m]`, or `make gpu`: checks, benchmarks and a training on a GPU.

Parity with the published code, the table of times beside their predictions, the tests that need a GPU, then a training of
preset `fast` on ARC-AGI-1 of a given length. Stops at the first wrong result and says which, unless `--go-on`; what does not
end in time is killed, and the next begins. Where a command may take ten minutes: `--check 95 --go-on`, then `--check 0
--train 8m`.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from eval.formatting import parse_duration
from pipeline.data.dataset import MANIFEST_FILE

SOURCES = ("--source", "arc1:evaluation", "--train-source", "arc1:training")


def stage(name: str, command: list[str], out: Path, seconds: float) -> bool | None:
    """Run `command` for so many seconds at most, its output in a log; print the end of it, and return whether it was right.

    None where it did not end in time, as on a slow machine; all of its processes are killed then.
    """
    started, log, right = time.monotonic(), out / f"{name}.log", None
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True) as process:
        try:
            right = not process.wait(seconds)
            found = "right" if right else f"WRONG (exit code {process.returncode})"
        except subprocess.TimeoutExpired:
            found = "NOT FINISHED"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    print(f"==== {name}: {found}, {time.monotonic() - started:.0f} s", flush=True)
    lines = log.read_text(errors="replace").splitlines()
    print("\n".join(lines[-120:] if name == "table" else lines[-14:]), flush=True)
    return right


def main() -> int:
    """Run all stages; return 1 where one was wrong or did not end in time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--check", type=float, default=160.0, help="seconds for the table of times; 0 leaves out all checks")
    parser.add_argument("--train", default="", help="time of a training, such as 7m; without it there is none")
    parser.add_argument("--set", action="append", default=[], help="settings of the training, as for `pipeline run`")
    parser.add_argument("--go-on", action="store_true", help="go on after a wrong result")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    os.environ |= {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"], check=False)
    python, data = [sys.executable, "-m"], Path("data/gpu-arc1")
    build = [*python, "pipeline", "build", *SOURCES, "--leakage", "drop", "--policy", "keep-output-only", "--out", str(data)]
    vectors = [str(path) for path in sorted(Path("tests/golden").glob("*.safetensors"))]
    tests = ["pytest", "-q", "-p", "no:cacheprovider", "--no-cov", "-n", "6", "tests/pipeline/test_on_gpu.py"]
    tests += ["tests/pipeline/models/test_convolution.py", "tests/pipeline/models/test_attention.py"]
    table = [*python, "tests.gpu.table", "--data", str(data), "--out", str(out), "--seconds", str(arguments.check)]
    checks = {
        "parity": ([*python, "tests.parity", *vectors, "--device", "cuda"], 60.0),
        "build": (build, 60.0),
        "table": (table, arguments.check + 40),
        "tests": ([*python, *tests, "-k", "not execution_changes"], 120.0),
    }
    right = True
    for name, (command, seconds) in checks.items() if arguments.check else ():
        if name == "build" and (data / MANIFEST_FILE).is_file():
            continue
        found = stage(name, command, out, seconds)
        right &= bool(found)
        if found is False and not arguments.go_on:
            return 1
    if arguments.train:
        folder = out / "run"
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier call
        settings = ["train.log_steps=50", "train.checkpoint_seconds=120", *arguments.set]
        run = [*python, "pipeline", "run", *SOURCES, "--preset", "fast"]
        run += [part for setting in settings for part in ("--set", setting)]
        run += ["--time-limit", arguments.train, "--reserve", "12s", "--out", str(folder)]
        right &= bool(stage("train", run, out, parse_duration(arguments.train) + 60.0))
        for file in ("submission.json", "metrics.jsonl", "score.json", "config.json", "run.json", "report.html"):
            (out / file).unlink(missing_ok=True)
            if (folder / file).is_file() and (folder / file).stat().st_size < 15 << 20:
                shutil.copy(folder / file, out / file)
    return int(not right)


if __name__ == "__main__":
    sys.exit(main())
