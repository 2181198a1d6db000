"""A crew of processes, one for each device, that answer pieces of prediction from one queue.

A worker that dies, hangs or raises costs its piece only: the piece is tried again in a fresh process, with packs of half the
size. Workers end with the process that started them, however that ends.
"""

import logging
import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from pipeline.config import PredictConfig
from pipeline.data.store import Store
from pipeline.inference.pieces import Answered, Counts, Piece, Solver
from pipeline.system.progress_bar import Progress
from pipeline.system.time_limit import Budget
from pipeline.weights import load_weights

logger = logging.getLogger(__name__)

PIECE_SECONDS = 10.0
"""A piece takes at most about so long: as much is lost with a worker."""

LEAST_PIECE_SECONDS = 0.5
"""Smaller pieces would make packs that are too small to be fast."""

TRIES = 4
"""A piece that failed so often is given up; its packs are then an eighth of the first."""

MOST_FAILURES = 2 * TRIES
"""A device that failed so often in a row is left alone."""

HANGING = 20.0
"""A worker that takes so many times longer than expected, and a minute, is taken for dead."""

GRACE_SECONDS = 3.0
"""Beyond the time limit, for packs that take longer than they were expected to."""


@dataclass(frozen=True)
class Work:
    """What a worker needs to begin."""

    weights: Path
    """A weights file."""
    store: Store
    """As seen through the weights."""
    config: PredictConfig
    dtype: torch.dtype


class Workers:
    """The crew. The processes start with the first piece; `close` ends them."""

    def __init__(self, devices: Sequence[str], work: Work) -> None:
        """`devices` has a name such as cuda:1 or cpu for each worker."""
        threads = max(1, (os.cpu_count() or 1) // len(devices))
        self.crew = [_Worker(device, work, threads) for device in devices]
        self.config = work.config
        self.counts = Counts()

    @property
    def tokens_per_second(self) -> float | None:
        """Of all workers together; None before the first piece is done."""
        speeds = [worker.speed for worker in self.crew if worker.speed is not None and worker.usable]
        usable = sum(worker.usable for worker in self.crew)
        return usable * sum(speeds) / len(speeds) if speeds else None

    def count_pieces(self, tokens: int, budget: Budget) -> int:
        """Return into how many pieces work of so many tokens is cut: several for each worker, so that all end together.

        Without a time limit it does not depend on the speed: the same pieces give the same answers to the last bit.
        """
        if not tokens:
            return 0
        size, speed = len(self.crew), self.tokens_per_second
        if budget.limit_seconds is None:
            return size * max(2, math.ceil(tokens / (size * self.config.pack_tokens)))
        if speed is None:
            return 2 * size
        share = tokens / speed  # seconds that each worker will be busy
        seconds = min(PIECE_SECONDS, max(LEAST_PIECE_SECONDS, share / 4))
        return size * max(1, round(share / seconds))

    def solve(self, pieces: Sequence[Piece], budget: Budget) -> list[Answered | None]:
        """Return what came of each piece, in order; None for one that was given up or not begun in time.

        Raises RuntimeError when no device is left that works.
        """
        found: list[Answered | None] = [None] * len(pieces)
        self.counts.pieces += len(pieces)
        with Progress("predicting", len(pieces), "pieces") as progress:
            self._solve_all(pieces, budget, found, progress)
        return found

    def _solve_all(self, pieces: Sequence[Piece], budget: Budget, found: list[Answered | None], progress: Progress) -> None:
        """Fill `found` with what came of each piece."""
        tries = [0] * len(pieces)
        waiting = deque(range(len(pieces)))
        busy: dict[_Worker, int] = {}
        while True:
            for worker in self.crew:
                if waiting and worker.usable and worker not in busy and budget.remaining() > 0:
                    number = waiting.popleft()
                    worker.begin(pieces[number], budget, max(1, self.config.pack_tokens >> tries[number]))
                    busy[worker] = number
            if not busy:
                break
            wait([worker.ear for worker in busy], timeout=0.5)
            for worker, number in list(busy.items()):
                news = worker.listen(budget)
                if news is None:
                    continue
                del busy[worker]
                if isinstance(news, Answered):
                    self.counts.halved += news.halved
                    found[number] = news
                    progress.add()
                    continue
                tries[number] += 1
                self.counts.failed += 1
                self._tell(worker, news, tries[number], budget)
                if tries[number] < TRIES:
                    waiting.appendleft(number)
                else:
                    self.counts.given_up += 1
            if waiting and not any(worker.usable for worker in self.crew):
                raise RuntimeError("no prediction worker is left that works")

    def _tell(self, worker: "_Worker", problem: str, tries: int, budget: Budget) -> None:
        then = f"trying again with packs of {self.config.pack_tokens >> tries} tokens" if tries < TRIES else "given up"
        if budget.remaining() <= 0:
            then = "no time to try again"
        left = "" if worker.usable else "; the device is left alone from now on"
        logger.warning("a piece of the predictions failed on %s (%s): %s%s", worker.device, problem, then, left)

    def close(self) -> None:
        """End the processes."""
        for worker in self.crew:
            worker.stop()


class _Worker:
    """One device, and the process that computes there at the moment."""

    def __init__(self, device: str, work: Work, threads: int) -> None:
        self.device, self.work, self.threads = device, work, threads
        self.speed: float | None = None
        self.failures = 0
        self.deadline = math.inf
        self.process: SpawnProcess | None = None
        self.ear: Connection
        self.errand: tuple[Piece, Budget, int] | None = None

    @property
    def usable(self) -> bool:
        """Whether it did not fail too often."""
        return self.failures < MOST_FAILURES

    def begin(self, piece: Piece, budget: Budget, pack_tokens: int) -> None:
        """Hand over a piece, as soon as there is a process that listens."""
        expected = piece.tokens / self.speed if self.speed else math.inf
        self.deadline = time.monotonic() + 60.0 + HANGING * expected
        self.errand = piece, budget, pack_tokens
        if self.process is None:
            context = get_context("spawn")  # a fork would inherit CUDA, which it must not
            self.ear, theirs = context.Pipe()
            # Little goes with the start: should the process die before it has read more than a pipe holds, start() would hang.
            self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
            self.process.start()
            theirs.close()
        else:
            self.send()

    def send(self, *first: object) -> None:
        """Give `first` and the errand to the process, which waits for them; if it has died, the next `listen` tells."""
        with suppress(OSError):
            for message in (*first, self.errand):
                self.ear.send(message)

    def listen(self, budget: Budget) -> "Answered | str | None":
        """Return what came of the piece: an answer, in words why there is none and never will be, or None for nothing yet."""
        problem = None
        try:
            if self.ear.poll():
                news: Answered | None = self.ear.recv()
                if news is not None:
                    self.failures, self.speed = 0, news.tokens_per_second or self.speed
                    return news
                self.send((self.work, self.device, self.threads))  # it has begun and listens
        except (EOFError, OSError):
            problem = self._death()
        if problem is None and (time.monotonic() > self.deadline or budget.remaining() < -GRACE_SECONDS):
            problem = "the worker does not answer"
        if problem is not None:
            self.failures += 1
            self.stop()
        return problem

    def _death(self) -> str:
        """Return in words how the process ended."""
        if self.process is None:
            return "there is no process"
        self.process.join(timeout=5.0)
        code = self.process.exitcode
        if code is None:
            return "the worker does not speak any more"
        return f"the worker was killed by signal {-code}" if code < 0 else f"the worker ended with exit code {code}, see above"

    def stop(self) -> None:
        """End the process, whatever it is doing; the next piece gets a fresh one."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.ear.close()
            self.process = None


def _serve(mouth: Connection) -> None:
    """What a worker process does: answer pieces until it is ended, or nobody listens any more."""
    try:
        _answer(mouth)
    except (BrokenPipeError, EOFError):  # who started it has ended, before it could notice
        os._exit(1)


def _answer(mouth: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started it, which ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    mouth.send(None)
    work: Work
    work, device, threads = mouth.recv()
    torch.set_num_threads(threads)
    place = torch.device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    solver = Solver(load_weights(work.weights), work.store, work.config, place, work.dtype)
    while True:  # an error ends the process and is told on stderr; a fresh one may do better
        mouth.send(solver.solve(*mouth.recv()))


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, however that ended."""
    parent = parent_process()
    assert parent is not None, "a worker is started by another process"
    wait([parent.sentinel])
    os._exit(1)
