"""The prediction stage: views of every test input through a trained network, in rounds, each round a file of candidates.

Reads a store and weights, knows no solutions. Every round asks the same number of further views of every test input, the
identity first, so that whenever time runs out all test inputs have had their turn.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
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
        self.accelerator, self.store, self.config = accelerator, store, config
        network, transplant = network_from(weights, store)
        self.transplant: Transplant = transplant
        self.source = f"{weights.path.parent.name}/{weights.path.name}, step {weights.step}"
        self.maker = PackMaker(store, weights.config.train.canvas, weights.config.memory.tokens, "tests")
        self.views = _known_views(weights, store)
        self.asker = Asker(accelerator, dtype, network, self.maker, config)

    @property
    def most_views(self) -> int:
        """Views of the test inputs that can be asked most, up to `predict.views`."""
        tested = [len(self.views[task]) for task in set(self.store.test_task.tolist())]
        return min(self.config.views, max(tested, default=0))

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
        chosen = [
            (test, int(transform))
            for test, task in enumerate(self.store.test_task.tolist())
            for transform in self.views[task][first : min(last, self.config.views)]
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


def _known_views(weights: Weights, store: Store) -> list[npt.NDArray[np.int64]]:
    """Return, for each task, the positions of the transforms that it can be seen through, in the order to ask them.

    Compositional memory can be asked any. A table is asked the views that it was trained on, where it knows the task.
    """
    rows = {task: row for row, task in enumerate(weights.task_ids)}
    starts = weights.transform_start.tolist()
    views = []
    for task, task_id in enumerate(store.task_ids):
        positions = np.arange(store.transform_start[task], store.transform_start[task + 1])
        if weights.config.memory.kind == "table" and task_id in rows:
            start, stop = starts[rows[task_id]], starts[rows[task_id] + 1]
            known = np.isin(store.transforms[positions].astype(np.int64), weights.transforms[start:stop].numpy())
            positions = positions[known] if known.any() else positions
        views.append(positions)
    return views
