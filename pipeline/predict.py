"""The prediction stage: views of every test input through a trained network, in rounds, each round a file of candidates.

Reads a store and weights, knows no solutions. Every round asks the same number of further views of every test input, the
identity first, so that whenever time runs out all test inputs have had their turn.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator

from pipeline.asking import Asker
from pipeline.budget import Budget
from pipeline.candidates import CandidateBuilder, Candidates, Origin, write_candidates
from pipeline.checkpoint import Transplant, Weights, network_from
from pipeline.config import PredictConfig
from pipeline.data.pack import PackMaker, Samples
from pipeline.data.store import Store
from pipeline.engine import from_main


@dataclass(frozen=True)
class Round:
    """What one round left behind."""

    number: int
    views: int
    """Views of a test input that have been asked by now, where it has so many."""
    candidates: int
    """Of this round, over all processes."""
    seconds: float
    complete: bool
    """False when the time ran out before every view of the round was asked."""


class Predictor:
    """Predicts the tests of a store; every process of a launch has one and takes its share of each round."""

    def __init__(
        self, accelerator: Accelerator, dtype: torch.dtype, weights: Weights, store: Store, config: PredictConfig
    ) -> None:
        store = _seen_through(store, weights)
        self.accelerator, self.store, self.config = accelerator, store, config
        network, transplant = network_from(weights, store)
        self.transplant: Transplant = transplant
        self.source = f"{weights.path.parent.name}/{weights.path.name}, step {weights.step}"
        self.maker = PackMaker(store, weights.config.train.canvas, weights.config.memory.tokens, "tests")
        self.asker = Asker(accelerator, dtype, network, self.maker, config)

    @property
    def most_views(self) -> int:
        """Views of the test inputs that can be asked most, up to `predict.views`."""
        views = np.diff(self.store.transform_start)[self.store.test_task]
        return min(self.config.views, int(views.max(initial=0)))

    def rounds(self, folder: Path, budget: Budget) -> Iterator[Round]:
        """Ask rounds of views until `predict.views` are asked or `budget` is used up; yield after each, in every process.

        Each process writes its candidates of a round to `folder`; the files are complete when the round is yielded.
        """
        asked, number, most = 0, 0, self.most_views
        while asked < most:
            count = from_main(self.accelerator, self._round_views(asked, most, budget))
            if not count:
                return
            number += 1
            started = time.monotonic()
            tests, transforms = self._samples(asked, asked + count)
            candidates, complete = self._predict(tests, transforms, budget)
            write_candidates(
                folder, number, self.accelerator.process_index, candidates, Origin(self.source, self.store.tests_hash)
            )
            done = torch.tensor([len(candidates.test), int(not complete)], device=self.accelerator.device)
            if self.accelerator.num_processes > 1:
                done = self.accelerator.reduce(done, "sum")
            asked += count
            total, cut = done.tolist()
            yield Round(number, asked, total, time.monotonic() - started, not cut)
            if cut:
                return

    def _round_views(self, asked: int, most: int, budget: Budget) -> int:
        """Return how many views of every test input the next round asks: what fits into the time, one at first."""
        if budget.remaining() <= 0:
            return 0
        if not asked:
            return 1
        wanted = min(self.config.round_views, most - asked)
        if self.asker.tokens_per_second is None:
            return wanted
        _, transforms = self._samples(asked, asked + 1)
        everyone = self.asker.tokens_per_second * self.accelerator.num_processes
        view_seconds = sum(self._tokens_of_view(asked)) / everyone if len(transforms) else 0.0
        fitting = budget.remaining() / max(view_seconds, 1e-9)
        return wanted if fitting >= wanted else max(1, int(fitting))

    def _tokens_of_view(self, view: int) -> list[int]:
        tests, transforms = self._samples(view, view + 1)
        return self.maker.tokens(_unshifted(tests, transforms)).tolist()

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

    def _predict(
        self, tests: npt.NDArray[np.int64], transforms: npt.NDArray[np.int64], budget: Budget
    ) -> tuple[Candidates, bool]:
        """Ask this process's share of the views; return the candidates and whether all were asked in time."""
        share = slice(self.accelerator.process_index, None, self.accelerator.num_processes)
        samples = _unshifted(tests[share], transforms[share])
        builder, answered = CandidateBuilder(), 0
        for answer in self.asker.ask(samples, budget):
            codes = self.store.transforms[answer.samples.transform]
            builder.add(answer.samples.example, answer.pack, codes, answer.tokens, answer.probability)
            answered += len(answer.samples)
        return builder.build(), answered == len(samples)


def _unshifted(tests: npt.NDArray[np.int64], transforms: npt.NDArray[np.int64]) -> Samples:
    return Samples(tests, transforms, np.zeros((len(tests), 2), np.int64))


def _seen_through(store: Store, weights: Weights) -> Store:
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
