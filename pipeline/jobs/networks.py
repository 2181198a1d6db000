"""Further networks of a run (`--networks N`): each is a run of its own beside this one, and votes with it.

The run itself trains network 0. Network n has the seed N x seed + n, the same dataset, its share of the cores or one of the
GPUs, and the folder networks/n. It ends when the run ends, however that happens.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from eval.formatting import format_duration, plural
from pipeline.inference.facts import CANDIDATES, round_files
from pipeline.jobs.run_record import PREDICTING, record_if_usable
from pipeline.system.launch import program_environment
from pipeline.system.processors import find_gpus, threads_each, visible_gpu
from pipeline.system.time_limit import Budget

logger = logging.getLogger(__name__)

NETWORKS_FOLDER = "networks"
LOG_FILE = "log.txt"
FURTHER = "ARC_PIPELINE_FURTHER_NETWORK"
"""Environment variable of the process of a further network, whose standard input is open as long as the run exists."""
POOL_SHARE, LEAST_POOL_SECONDS = 0.003, 2.0
"""Of the time limit, at least so many seconds: the run keeps them free to wait for further networks and count their votes."""
PATIENCE_SECONDS, MOST_PATIENCE_SECONDS = 10.0, 60.0
"""The time that a further network has to end its step and write a checkpoint; the second is the most, where there is time."""


@dataclass(frozen=True)
class FurtherNetworks:
    """The networks that are trained beside this one, in the order of their numbers."""

    processes: Mapping[Path, subprocess.Popen[bytes]] = field(default_factory=dict)
    """By folder."""

    def leave_time(self, budget: Budget) -> Budget:
        """Return what of `budget` is left for the predictions of this network."""
        return replace(budget, reserve_seconds=budget.reserve_seconds + pool_seconds(budget)) if self.processes else budget

    def wait(self, budget: Budget) -> list[Path]:
        """Wait until all have ended, or for the time in `budget`; return their folders, in which there may be candidates."""
        for folder, process in self.processes.items():
            try:
                code = process.wait(None if budget.limit_seconds is None else max(0.0, budget.remaining()))
            except subprocess.TimeoutExpired:
                logger.warning("%s is not done in time; the votes that are there count", folder)
                continue
            if code:
                logger.error("%s ended with exit code %d; the votes that are there count: %s", folder, code, _last_line(folder))
        return list(self.processes)


def pool_seconds(budget: Budget) -> float:
    """Return the seconds that are kept free at the end for the votes of further networks."""
    return 0.0 if budget.limit_seconds is None else max(LEAST_POOL_SECONDS, POOL_SHARE * budget.limit_seconds)


@contextmanager
def further_networks(
    count: int, seed: int, build_seed: int, arguments: Sequence[str], out: Path, budget: Budget
) -> Iterator[FurtherNetworks]:
    """Train the networks 1..count-1 of the run in `out` while the block runs.

    `arguments` are those of the run's command line, `seed` that of network 0, `build_seed` that of the dataset.
    """
    environments = share_machine(count)
    os.environ |= environments[0]
    processes = {}
    try:
        for number in range(1, count):
            folder = out / NETWORKS_FOLDER / str(number)
            words = [*arguments, "--networks", "1", "--out", str(folder), "--no-report"]
            words += ["--seed", str(seed + number)]
            words += ["--set", f"train.seed={seed + number}", "--set", f"build.seed={build_seed}"]  # also over those given
            if budget.limit_seconds is not None:
                left = budget.limit_seconds - budget.elapsed() - pool_seconds(budget)
                words += ["--time-limit", f"{max(1, int(left))}s"]
            environment = program_environment() | environments[number] | {FURTHER: "1"}
            try:
                folder.mkdir(parents=True, exist_ok=True)
                if not (out / PREDICTING).is_file():  # this one trains, and so does a network that was done before
                    (folder / PREDICTING).unlink(missing_ok=True)
                with (folder / LOG_FILE).open("ab") as log:
                    processes[folder] = subprocess.Popen(
                        [sys.executable, "-m", "pipeline", *words], env=environment,
                        stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
                    )  # fmt: skip
            except OSError as error:
                logger.error("%s cannot be started, the run goes on without it: %s", folder, error)
        if processes:
            beside = plural(len(processes), "further network")
            logger.info("%s beside this one, log in %s", beside, ", ".join(str(folder / LOG_FILE) for folder in processes))
        yield FurtherNetworks(processes)
    finally:
        for process in processes.values():
            assert process.stdin is not None
            process.stdin.close()  # it ends in order
        for folder, process in processes.items():
            patience = max(PATIENCE_SECONDS, min(MOST_PATIENCE_SECONDS, budget.remaining()))
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                logger.warning("%s has not ended in %s and is killed", folder, format_duration(patience))
                process.kill()


def candidates_of(run: Path) -> list[Path]:
    """Return the folders of the candidates that a run has kept, those of further networks after its own.

    Networks that the last start of the run did without are left out.
    """
    further = {int(path.name): path for path in (run / NETWORKS_FOLDER).glob("*") if path.name.isdecimal()}
    record = record_if_usable(run)
    return voting_folders(run, *(further[n] for n in sorted(further) if record is None or n < record.networks))


def voting_folders(*folders: Path) -> list[Path]:
    """Return the folders of the candidates of runs, of those that have some."""
    found = [folder / CANDIDATES for folder in folders]
    return [folder for folder in found if round_files(folder)]


def end_with_run() -> None:
    """In the process of a further network: end like after SIGTERM when the run that started it has ended."""
    if FURTHER not in os.environ:
        return

    def follow() -> None:
        while os.read(0, 4096):  # a read of sys.stdin would hold a lock that the end of the interpreter needs
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()


def share_machine(count: int) -> list[dict[str, str]]:
    """Return the environment variables that give each of `count` networks its share of the cores and GPUs."""
    if count == 1:
        return [{}]
    shares = [{"OMP_NUM_THREADS": str(threads_each(count))} for _ in range(count)]
    gpus = [visible_gpu(os.environ, place) for place in range(len(find_gpus(os.environ)))]
    if len(gpus) > count:
        logger.warning("%d networks on a GPU each leave %s idle", count, plural(len(gpus) - count, "GPU"))
    for number, share in enumerate(shares if gpus else ()):
        share["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    return shares


def _last_line(folder: Path) -> str:
    lines = (folder / LOG_FILE).read_text(errors="backslashreplace").splitlines()
    return lines[-1] if lines else "its log is empty"
