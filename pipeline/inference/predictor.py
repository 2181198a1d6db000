"""The prediction stage: views of every test input through a trained network, in rounds, each round a file of candidates.

Reads a store and weights, knows no solutions. Every round asks the same number of further views of every test input, the
identity first, so that whenever time runs out all test inputs have had their turn. One process leads; it asks by itself, or
has a crew of workers.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import torch

from pipeline.config import PredictConfig
from pipeline.data.packs import Samples
from pipeline.data.store import Store
from pipeline.inference.candidates import (
    Candidates,
    Origin,
    drafts_path,
    join_candidates,
    join_drafts,
    read_candidates,
    write_candidates,
    write_drafts,
)
from pipeline.inference.pieces import Alone, Answered, Crew, Piece, Solver, make_test_packs, seen_through
from pipeline.inference.vote_file import source_name
from pipeline.inference.workers import Work, Workers
from pipeline.system.time_limit import Budget
from pipeline.weights import Weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Round:
    """What one round left behind."""

    number: int
    found: Candidates
    views: int
    """Views of a test input that have been asked by now, where it has so many."""
    seconds: float
    complete: bool
    """False when not every view of the round was asked: the time ran out, or pieces were given up."""


class Predictor:
    """Predicts the tests of a store. A context: leaving it ends the workers."""

    def __init__(
        self, device: torch.device, dtype: torch.dtype, weights: Weights, store: Store, config: PredictConfig,
        workers: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """`workers` names the device of each worker process; without any, this process asks on `device`."""
        self.dataset = store
        self.store, self.config = seen_through(store, weights), config
        self.source = source_name(weights.path, weights.step, weights.data_hash)
        self.maker = make_test_packs(weights, self.store)
        self.crew: Crew
        if workers:
            self.crew = Workers(workers, Work(weights.path, self.store, config, dtype))
        else:
            self.crew = Alone(Solver(weights, self.store, config, device, dtype))

    def __enter__(self) -> "Predictor":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.crew.close()

    @property
    def most_views(self) -> int:
        """Views of the test inputs that can be asked most, up to `predict.views`."""
        views = np.diff(self.store.transform_start)[self.store.test_task]
        return min(self.config.views, int(views.max(initial=0)))

    def keep_rounds(self, folder: Path) -> list[tuple[Candidates, Origin]]:
        """Return the complete rounds that an earlier start of this prediction left in `folder`; remove the files of others."""
        kept: list[tuple[Candidates, Origin]] = []
        views = 0
        for number, path in enumerate(sorted(folder.glob("round-*.safetensors")), start=1):
            try:
                candidates, origin = read_candidates(path)
            except ValueError:
                break  # cut short or damaged: asked again
            same = (origin.source, origin.tests_hash, origin.number) == (self.source, self.store.tests_hash, number)
            if not same or origin.first_view != views or not origin.complete:
                break
            kept.append((candidates, origin))
            views = origin.views
        for path in sorted(folder.glob("round-*.safetensors"))[len(kept) :]:
            path.unlink()
        return kept

    def rounds(self, folder: Path, budget: Budget, kept: int = 0) -> Iterator[Round]:
        """Ask rounds of views until `predict.views` are asked or `budget` is used up; yield after each.

        The file of a round is in `folder`, complete, when the round is yielded; a line of the log tells when the disk does not
        take it. Goes on after the first `kept` rounds there.
        """
        number, most = kept, self.most_views
        asked = read_candidates(round_path(folder, kept))[1].views if kept else 0
        while asked < most:
            count = self._round_views(asked, most, budget)
            if not count:
                return
            number += 1
            started = time.monotonic()
            tests, transforms = self._samples(asked, asked + count)
            pieces = self._cut(tests, transforms, budget, drafts=asked == 0)
            answered = self.crew.solve(pieces, budget)
            complete = all(done and done.asked == len(piece) for piece, done in zip(pieces, answered, strict=True))
            candidates = join_candidates([done.candidates for done in answered if done])
            origin = Origin(self.source, self.store.tests_hash, number, asked, asked + count, complete)
            if asked == 0:  # before the round: one that is complete is not asked again
                self._leave_drafts(folder, answered)
            self._leave_round(round_path(folder, number), candidates, origin)
            asked += count
            yield Round(number, candidates, asked, time.monotonic() - started, complete)
            cut = any(done and done.asked < len(piece) for piece, done in zip(pieces, answered, strict=True))
            if cut or budget.remaining() <= 0:
                return

    def _round_views(self, asked: int, most: int, budget: Budget) -> int:
        """Return how many views of every test input the next round asks: what fits into the time, one at first."""
        if budget.remaining() <= 0:
            return 0
        if not asked:
            return 1
        wanted = min(self.config.round_views, most - asked)
        speed = self.crew.tokens_per_second
        if speed is None:
            return wanted
        tests, transforms = self._samples(asked, asked + 1)
        view_seconds = int(self.maker.tokens(_unshifted(tests, transforms)).sum()) / speed
        fitting = budget.remaining() / max(view_seconds, 1e-9)
        return wanted if fitting >= wanted else max(1, int(fitting))

    def _samples(self, first: int, last: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return test inputs and transforms (positions in the store) of views first..last-1 of every test input."""
        last = min(last, self.config.views)
        ranges = np.stack((self.store.transform_start[:-1], self.store.transform_start[1:]), axis=1)[self.store.test_task]
        chosen = [
            (test, transform)
            for test, (start, stop) in enumerate(ranges.tolist())
            for transform in range(start + first, min(start + last, stop))
        ]
        pairs = np.array(chosen, np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def _leave_round(self, path: Path, candidates: Candidates, origin: Origin) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_candidates(path, candidates, origin)
        except OSError as error:  # the votes have them all the same; a resumed run asks this round again
            logger.warning("the candidates of a round are not kept: %s", error)

    def _leave_drafts(self, folder: Path, answered: Sequence[Answered | None]) -> None:
        """Write the drafts of the first view, which is the identity."""
        store, drafts = self.store, join_drafts([drafts for done in answered if done for drafts in done.drafts])
        if drafts is None:
            return
        names = [(store.task_ids[store.test_task[test]], int(store.test_index[test])) for test in drafts.test.tolist()]
        try:
            write_drafts(drafts_path(folder), drafts, names, "cycle" if self.config.segments == 1 else "segment")
        except OSError as error:  # predictions go on without them
            logger.warning("the drafts are not kept: %s", error)

    def _cut(
        self, tests: npt.NDArray[np.int64], transforms: npt.NDArray[np.int64], budget: Budget, drafts: bool
    ) -> list[Piece]:
        """Return the views of a round in pieces of about equal work, equal shapes together."""
        samples = _unshifted(tests, transforms)
        samples = samples[self.maker.order(samples)]
        tokens = self.maker.tokens(samples)
        ends = tokens.cumsum()
        total = int(ends[-1]) if len(ends) else 0
        count = min(self.crew.count_pieces(total, budget), len(samples))
        bounds = np.searchsorted(ends, np.arange(1, count) * (total / max(count, 1)), side="right")
        edges = sorted({0, *bounds.tolist(), len(samples)})
        return [
            Piece(samples.example[start:stop], samples.transform[start:stop], int(tokens[start:stop].sum()), drafts)
            for start, stop in pairwise(edges)
        ]


def round_path(folder: Path, number: int) -> Path:
    """Return the file of the candidates of round `number`, from 1."""
    return folder / f"round-{number:04d}.safetensors"


def _unshifted(tests: npt.NDArray[np.int64], transforms: npt.NDArray[np.int64]) -> Samples:
    return Piece(tests, transforms, 0).samples()
