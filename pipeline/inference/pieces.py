"""A piece of prediction: views of test inputs in, candidates in the original frame out, wherever it is computed.

`pipeline.inference.predictor` cuts a round into pieces; a crew answers them: this process (`Alone`), or one for each device
(`pipeline.inference.workers`).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from pipeline.config import PredictConfig
from pipeline.data.packs import PackMaker, Samples
from pipeline.data.store import Store
from pipeline.inference.candidates import CandidateBuilder, Candidates, Drafts
from pipeline.inference.forward import Answer, Asker
from pipeline.system.progress_bar import Progress
from pipeline.system.time_limit import Budget
from pipeline.weights import Transplant, Weights, network_from

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """Views to be asked: S pairs of a test input and a transform, positions in the store."""

    tests: npt.NDArray[np.int64]
    """(S,)"""
    transforms: npt.NDArray[np.int64]
    """(S,)"""
    tokens: int
    """Of a segment of all of them."""
    drafts: bool = False
    """Whether drafts are wanted too."""

    def __len__(self) -> int:
        return len(self.tests)

    def samples(self) -> Samples:
        """Return the views as samples, none of them shifted on its canvas."""
        return Samples(self.tests, self.transforms, np.zeros((len(self.tests), 2), np.int64))


@dataclass(frozen=True)
class Answered:
    """What came of a piece."""

    candidates: Candidates
    asked: int
    """Views that were asked: fewer than the piece has where the time ran out."""
    tokens_per_second: float | None
    halved: int
    """Packs that were too large for the memory and were asked again in halves."""
    drafts: tuple[Drafts, ...] = ()
    """Of each pack, where they were asked for."""


@dataclass
class Counts:
    """What happened to the pieces of a prediction."""

    pieces: int = 0
    failed: int = 0
    """Tries that failed: the worker died, hung or raised an error."""
    given_up: int = 0
    """Pieces that failed whenever they were tried; their views have no candidates."""
    halved: int = 0

    def __str__(self) -> str:
        halved = f", {self.halved} packs halved for want of memory" if self.halved else ""
        return f"{self.pieces} pieces, {self.failed} failed tries, {self.given_up} given up{halved}"


class Crew(Protocol):
    """Who answers pieces."""

    counts: Counts

    @property
    def tokens_per_second(self) -> float | None:
        """Of all together; None while it is unknown."""

    def count_pieces(self, tokens: int, budget: Budget) -> int:
        """Return into how many pieces work of so many tokens is cut."""

    def solve(self, pieces: Sequence[Piece], budget: Budget) -> list[Answered | None]:
        """Return what came of each piece, in order; None for one that was given up or never begun."""

    def close(self) -> None:
        """End what was started."""


class Solver:
    """A network of this process, with the store whose tests it is asked."""

    def __init__(self, weights: Weights, store: Store, config: PredictConfig, device: torch.device, dtype: torch.dtype) -> None:
        """`store` as `seen_through` the weights."""
        network, transplant = network_from(weights, store)
        self.store = store
        self.transplant: Transplant = transplant
        logger.info("%s", transplant)
        self.asker = Asker(device, dtype, network, make_test_packs(weights, store), config)

    def solve(
        self, piece: Piece, budget: Budget, pack_tokens: int | None = None, tell: Callable[[int], None] | None = None
    ) -> Answered:
        """Ask the views of `piece` until `budget` is used up, in packs of up to `pack_tokens`, if fewer than the config's.

        `tell` hears after each pack how many views it had.
        """
        builder, asked, halved_before, drafts = CandidateBuilder(), 0, self.asker.halved, []
        for answer in self.asker.ask(piece.samples(), budget, pack_tokens, piece.drafts):
            codes = self.store.transforms[answer.samples.transform]
            builder.add(answer.samples.example, answer.pack, codes, answer.tokens, answer.probability)
            asked += len(answer.samples)
            if answer.drafts:
                drafts.append(drafts_of(answer))
            if tell is not None:
                tell(len(answer.samples))
        halved = self.asker.halved - halved_before
        return Answered(builder.build(), asked, self.asker.tokens_per_second, halved, tuple(drafts))


@dataclass
class Alone:
    """A crew of this process."""

    solver: Solver
    counts: Counts = field(default_factory=Counts)

    @property
    def tokens_per_second(self) -> float | None:
        """As measured; None before the first piece."""
        return self.solver.asker.tokens_per_second

    def count_pieces(self, tokens: int, budget: Budget) -> int:
        """Return 1: there is nobody to share with."""
        return 1 if tokens else 0

    def solve(self, pieces: Sequence[Piece], budget: Budget) -> list[Answered | None]:
        """Return what came of each piece; errors are the caller's."""
        answered: list[Answered | None] = []
        with Progress("predicting", sum(map(len, pieces)), "views") as progress:
            for piece in pieces:
                found = self.solver.solve(piece, budget, tell=progress.add)
                self.counts.pieces += 1
                self.counts.halved += found.halved
                answered.append(found)
        return answered

    def close(self) -> None:
        """Nothing was started."""


def drafts_of(answer: Answer) -> Drafts:
    """Return the drafts of a pack of test inputs."""
    return Drafts(
        answer.samples.example.astype(np.int32),
        answer.pack.shapes.astype(np.uint8),
        np.stack([draft.probability for draft in answer.drafts]),
        np.stack([draft.tokens for draft in answer.drafts]),
    )


def make_test_packs(weights: Weights, store: Store) -> PackMaker:
    """Return what packs the tests of `store` for the network of `weights`."""
    return PackMaker(store, weights.config.train.canvas, weights.config.memory.tokens, "tests")


def seen_through(store: Store, weights: Weights) -> Store:
    """Return `store` with the views that its tasks can be asked through.

    Compositional memory can be asked any. A table knows a task through those views alone that it was trained on.
    """
    if weights.config.memory.kind != "table":
        return store
    rows, starts, known = {task: row for row, task in enumerate(weights.task_ids)}, weights.transform_start.tolist(), []
    for task, task_id in enumerate(store.task_ids):
        codes = store.transforms[store.transform_start[task] : store.transform_start[task + 1]]
        if task_id in rows:
            codes = weights.transforms[starts[rows[task_id]] : starts[rows[task_id] + 1]].numpy().astype(codes.dtype)
        known.append(codes)
    return replace(store, transforms=np.concatenate(known), transform_start=np.cumsum([0, *map(len, known)]))
