"""Prediction of ARC tasks: views of every test input through a trained network, in rounds, each round a file of candidates.

Reads a dataset and weights, never solutions. Every round predicts the same number of further views of every test input, the
identity first, so that each has one before any has more; a first round that time cuts short lacks the largest. Each process of
the launch predicts its share of a round; the main one writes the files.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from augment.errors import InputError
from augment.task import Task
from eval.formatting import format_duration, plural
from eval.vote import Ballot
from pipeline.config import PredictConfig
from pipeline.data.dataset import TaskDataset
from pipeline.data.packs import Samples, TaskPackMaker
from pipeline.device import from_main, gather
from pipeline.inference.candidates import (
    Candidates,
    Origin,
    clear_candidates,
    count_votes,
    join_candidates,
    read_candidates,
    to_candidates,
    write_candidates,
)
from pipeline.inference.drafts import DRAFTS_FILE, Drafts, join_drafts, write_drafts
from pipeline.inference.facts import CANDIDATES, reaches, round_file, round_files, source_name, views_to_reach, write_attempts
from pipeline.inference.forward import InferenceRunner
from pipeline.system.progress_bar import Progress
from pipeline.system.time_limit import Budget
from pipeline.tensor_files import read_checksum
from pipeline.weights.files import Weights, network_from

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Share:
    """What one process predicted of a round."""

    candidates: Candidates
    drafts: list[Drafts]
    """Of each pack, in the first round."""
    tokens_per_second: float | None
    """None while it is unknown."""


class Predictor:
    """Predicts the tests of a dataset, together with the other processes of the launch."""

    def __init__(
        self, accelerator: Accelerator, dtype: torch.dtype, weights: Weights, dataset: TaskDataset, config: PredictConfig
    ) -> None:
        self.accelerator, self.given_dataset, self.config = accelerator, dataset, config
        self.dataset = seen_through(dataset, weights)
        self.available = self.dataset.test_views(config.views)
        """Views of each test input, up to `predict.views`."""
        self.source = source_name(weights.path, weights.step, weights.data_hash)
        network, found = network_from(weights, self.dataset)
        logger.info("%s", found)
        canvas, memory_tokens = weights.config.train.canvas, weights.config.memory.tokens
        self.maker = TaskPackMaker(self.dataset, canvas, memory_tokens, "tests", config.latents)
        execution = weights.config.train.execution
        self.runner = InferenceRunner(accelerator.device, dtype, network, self.maker, config, execution=execution)
        checksum, cost = read_checksum(weights.path), f"segments={config.segments} latents={config.latents}"
        self.computation = f"weights={checksum} {cost} halting={config.halting}"
        self.tokens_per_second: float | None = None
        """Of all processes together; None before the first round."""

    @property
    def most_views(self) -> int:
        """The largest number of views of any test input."""
        return max(self.available.values(), default=0)

    def keep_rounds(self, folder: Path) -> list[tuple[Candidates, Origin]]:
        """Return the complete rounds that an earlier start of this prediction left in `folder`; remove the files of others."""
        kept: list[tuple[Candidates, Origin]] = []
        views, files, damage = 0, round_files(folder), None
        for number, path in enumerate(files, start=1):
            try:
                candidates, origin = read_candidates(path)
            except InputError as error:
                damage = error
                break
            same = (origin.source, origin.tests_hash, origin.number) == (self.source, self.dataset.tests_hash, number)
            same = same and origin.computation in ("", self.computation)
            if not same or origin.first_view != views or not origin.complete:
                break
            kept.append((candidates, origin))
            views = origin.views
        others = files[len(kept) :]
        if damage:
            logger.warning("%s; %s to predict again", damage, plural(len(others), "round"))
        elif others:
            logger.info("%s of other weights, tests or settings: replaced", plural(len(others), "round"))
        for path in others:
            path.unlink()
        return kept

    def rounds(self, folder: Path | None, budget: Budget, kept: Origin | None = None) -> Iterator[tuple[Candidates, Origin]]:
        """Predict rounds of views until `predict.views` are predicted or `budget` is used up; yield after each.

        All processes get the same rounds, after `kept`, the last round that the main process has. With a `folder`, the file of
        a round is in it, complete, before the round is yielded, and the drafts of the first round are beside it; if they cannot
        be written, the log says so.
        """
        number, predicted = from_main(self.accelerator, (kept.number, kept.views) if kept else (0, 0))
        most, complete = self.most_views, True
        while complete and predicted < most:
            count = from_main(self.accelerator, self._round_views(predicted, most, budget))
            if not count:
                return
            samples = self._samples(predicted, predicted + count)
            with_drafts = folder is not None and not predicted
            shares = gather(self.accelerator, self._predict_share(samples, budget, with_drafts))
            candidates = join_candidates([share.candidates for share in shares])
            complete = len(candidates.test) == len(samples)
            speeds = [share.tokens_per_second for share in shares if share.tokens_per_second is not None]
            self.tokens_per_second = len(shares) * sum(speeds) / len(speeds) if speeds else None
            number += 1
            origin = Origin(
                self.source, self.dataset.tests_hash, number, predicted, predicted + count, complete, self.computation
            )
            if folder and self.accelerator.is_main_process:
                self._leave_round(folder, candidates, [drafts for share in shares for drafts in share.drafts], origin)
            predicted += count
            yield candidates, origin

    def _round_views(self, predicted: int, most: int, budget: Budget) -> int:
        """Return how many views of every test input the next round has: what fits into the time, one at first."""
        if budget.remaining() <= 0:
            return 0
        if not predicted:
            return 1
        wanted = min(self.config.round_views, most - predicted)
        if self.tokens_per_second is None:
            return wanted
        view_seconds = int(self.maker.tokens(self._samples(predicted, predicted + 1)).sum()) / self.tokens_per_second
        fitting = budget.remaining() / max(view_seconds, 1e-9)
        return wanted if fitting >= wanted else max(1, int(fitting))

    def _samples(self, first: int, last: int) -> Samples:
        """Return views first..last-1 of every test input, none of them shifted on its canvas, equal shapes together."""
        return self.maker.views(first, min(last, self.config.views))

    def _predict_share(self, samples: Samples, budget: Budget, with_drafts: bool) -> Share:
        """Predict every N-th of `samples`, N being the number of processes: of each shape this process gets its part."""
        mine = samples[self.accelerator.process_index :: self.accelerator.num_processes]
        candidates, drafts = [], []
        with Progress("predicting", len(mine), "views") as progress:
            for output in self.runner.predict(mine, budget, with_drafts):
                codes = self.dataset.transforms[output.samples.transform]
                candidates.append(to_candidates(output.samples.example, output.pack, codes, output.tokens, output.probability))
                if with_drafts:
                    tests, shapes = output.samples.example.astype(np.int32), output.pack.shapes.astype(np.uint8)
                    probability = np.stack([draft.probability for draft in output.drafts])
                    drafts.append(Drafts(tests, shapes, probability, np.stack([draft.tokens for draft in output.drafts])))
                progress.add(len(output.samples))
        return Share(join_candidates(candidates), drafts, self.runner.tokens_per_second)

    def _leave_round(self, folder: Path, candidates: Candidates, parts: list[Drafts], origin: Origin) -> None:
        """Write the drafts, which only the first round has, and then the candidates: a complete round is not repeated."""
        drafts = join_drafts(parts)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if drafts is not None:
                every = self.dataset.test_names()
                names = [every[test] for test in drafts.test.tolist()]
                write_drafts(folder.with_name(DRAFTS_FILE), drafts, names, "cycle" if self.config.segments == 1 else "segment")
            write_candidates(folder / round_file(origin.number), candidates, origin)
        except OSError as error:  # the votes have them all the same; a resumed run predicts this round again
            logger.warning("the candidates of a round are not kept: %s", error)


def seen_through(dataset: TaskDataset, weights: Weights) -> TaskDataset:
    """Return `dataset` with the views that `weights` can see: a memory table knows only those that it was trained on."""
    if weights.config.memory.kind != "table":
        return dataset
    rows, starts, known = {task: row for row, task in enumerate(weights.task_ids)}, weights.transform_start.tolist(), []
    for task, task_id in enumerate(dataset.task_ids):
        codes = dataset.transforms[dataset.transform_start[task] : dataset.transform_start[task + 1]]
        if task_id in rows:
            codes = weights.transforms[starts[rows[task_id]] : starts[rows[task_id] + 1]].numpy().astype(codes.dtype)
        known.append(codes)
    return replace(dataset, transforms=np.concatenate(known), transform_start=np.cumsum([0, *map(len, known)]))


def predict_and_vote(predictor: Predictor, out: Path, budget: Budget, tasks: Sequence[Task], resume: bool = False) -> Ballot:
    """Predict in rounds and put better attempts into `out`/submission.json after each; return the votes.

    A submission of an earlier prediction stays until all views are predicted, or as many as `views_to_reach` of every test
    input. With `resume`, the complete rounds of an earlier start of the same prediction count, and are not repeated. All
    processes of a launch call this; only the main one counts votes and writes files. Raises OSError at the end when the last
    submission could not be written.
    """
    folder, ballot = out / CANDIDATES, Ballot(predictor.source)
    if not predictor.accelerator.is_main_process:
        for _ in predictor.rounds(folder, budget):
            pass
        return ballot
    submission = out / "submission.json"
    needed = views_to_reach(submission, ballot.sources, predictor.config.round_views)
    unwritten: OSError | None = None
    if not resume:
        clear_candidates(folder)
    kept = predictor.keep_rounds(folder)
    for candidates, _ in kept:
        count_votes(ballot, candidates, predictor.dataset)
    last = kept[-1][1] if kept else None
    if last:
        logger.info("%d rounds of predictions, %d views of each test input, are there already and count", len(kept), last.views)
        if reaches(ballot, needed, predictor.available):
            unwritten = _try_to_write(submission, ballot, tasks, predictor.given_dataset)
    started = time.monotonic()
    for candidates, origin in predictor.rounds(folder, budget, last):
        count_votes(ballot, candidates, predictor.dataset)
        stays = not reaches(ballot, needed, predictor.available)
        missing = [task.id for task in tasks for index in range(len(task.test)) if not ballot.tally(task.id, index).distinct]
        if not stays:
            unwritten = _try_to_write(submission, ballot, tasks, predictor.given_dataset)
        logger.info(
            "round %d: up to %d views of each test input%s, %d candidates in %s; %d test inputs without a prediction%s; %s",
            origin.number, origin.views, "" if origin.complete else " (cut short)", len(candidates.test),
            format_duration(time.monotonic() - started), len(missing),
            "; the earlier submission rests on more views and stays" if stays else "",
            "no limit" if budget.limit_seconds is None else f"{format_duration(budget.remaining())} left",
        )  # fmt: skip
        started = time.monotonic()
    if unwritten:
        raise unwritten
    return ballot


def _try_to_write(path: Path, ballot: Ballot, tasks: Sequence[Task], dataset: TaskDataset) -> OSError | None:
    """Write the attempts that the votes so far choose; return why that failed: after the next round it may not."""
    try:
        write_attempts(path, ballot, tasks, dataset)
    except OSError as error:
        logger.error("the earlier submission stays: %s", error)
        return error
    return None
