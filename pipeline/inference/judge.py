"""Rescoring of candidates by other networks: how likely each of them finds every candidate, over several views.

A judge says for every cell how likely each token is. The likelihood of a candidate is the product over the cells that
training would label, and over views the geometric mean: a product of experts. A network of another kind errs elsewhere than
the one whose candidates they are.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from augment.canvas import IGNORED
from augment.errors import InputError
from augment.grid import Grid
from augment.task import TestId
from eval.formatting import show_path
from eval.provenance import Judging
from eval.vote import Ballot, Judged, JudgedBallot
from pipeline.data.dataset import TaskDataset
from pipeline.data.packs import Integers, Samples, TaskPackMaker, count_each
from pipeline.device import dtype_here, make_accelerator
from pipeline.inference.facts import source_name
from pipeline.inference.forward import InferenceRunner, Output
from pipeline.inference.predictor import seen_through
from pipeline.models.loss import log_probabilities
from pipeline.system.progress_bar import Progress
from pipeline.system.time_limit import NO_LIMIT
from pipeline.weights.files import Weights, network_from

logger = logging.getLogger(__name__)


def log_likelihoods(
    device: torch.device,
    dtype: torch.dtype,
    weights: Weights,
    dataset: TaskDataset,
    candidates: Sequence[Sequence[Grid]],
    views: int,
) -> list[npt.NDArray[np.float64]]:
    """Return for each test input of `dataset` the mean log-likelihood of each of its `candidates`, over up to `views` views.

    `candidates` are grids (H, W) uint8 in the original frame. -inf is for those that do not go on the judge's canvas.
    """
    seen = seen_through(dataset, weights)
    network, known = network_from(weights, seen)
    logger.info("%s: %s", show_path(weights.path), known)
    canvas, memory_tokens = weights.config.train.canvas, weights.config.memory.tokens
    tests = TaskPackMaker(seen, canvas, memory_tokens, "tests")
    answered, start = _with_answers(seen, candidates)
    answers = TaskPackMaker(answered, canvas, memory_tokens)
    config = replace(weights.config.predict, halting="off")
    runner = InferenceRunner(device, dtype, network, tests, config, keep_logits=True)
    asked = tests.views(0, views)
    asked = asked[np.diff(start)[asked.example] > 0]
    count = np.bincount(asked.example, minlength=len(candidates))
    total = np.zeros(start[-1])
    with Progress("judging", len(asked), "views") as progress:
        for output in runner.predict(asked, NO_LIMIT):
            assert output.logits is not None
            log_probability = log_probabilities(output.logits.float(), weights.config.train.loss).cpu().numpy()
            _add_of_pack(total, output, log_probability, answers, start)
            progress.add(len(output.samples))
    sizes = np.stack((answered.grid_height, answered.grid_width), axis=1)[answered.pair_output]
    total[(sizes > answers.shape).any(axis=1)] = -np.inf
    return [part / max(number, 1) for part, number in zip(np.split(total, start[1:-1]), count.tolist(), strict=True)]


def _add_of_pack(
    total: npt.NDArray[np.float64],
    output: Output,
    log_probability: npt.NDArray[np.float32],
    answers: TaskPackMaker,
    start: Integers,
) -> None:
    """Add to `total` the log-likelihood of each candidate under each view of the pack of `output`.

    `log_probability` (C, V) is that of the tokens of each cell. `answers` has the candidates as pairs, those of each test from
    `start` on.
    """
    shown = output.samples
    counts = np.diff(start)[shown.example]
    sequence = np.repeat(np.arange(len(shown)), counts)
    pairs = Samples(start[shown.example[sequence]] + count_each(counts), shown.transform[sequence], shown.shift[sequence])
    labels = answers.make(pairs).labels
    assert labels is not None
    areas = output.pack.shapes.prod(axis=1)
    cell = np.repeat((areas.cumsum() - areas)[sequence], areas[sequence]) + count_each(areas[sequence])
    found = np.where(labels == IGNORED, 0.0, log_probability[cell, np.maximum(labels, 0)])
    total += np.bincount(np.repeat(pairs.example, areas[sequence]), weights=found, minlength=len(total))


def judge_ballot(
    ballot: Ballot, weights: Sequence[Weights], dataset: TaskDataset, weight: float, views: int, candidates: int
) -> JudgedBallot:
    """Return `ballot` with its best `candidates` of each test input judged by the networks of `weights`, on this machine.

    A judge that finds no number for a candidate does not judge its test input. Raises InputError for a judge that was trained
    on none of the tasks: it would judge them all by the mean of its task memory.
    """
    names = dataset.test_names()
    best = [[candidate.grid for candidate in ballot.top(*name, candidates)] for name in names]
    device, computed_in, found = make_accelerator("float32")[0].device, cache(dtype_here), []
    for each in weights:
        if not {task for task, _ in names} & set(each.task_ids):
            raise InputError(f"{show_path(each.path)}: a judge that was not trained on any of the tasks")
        found.append(log_likelihoods(device, computed_in(each.config.train.precision), each, dataset, best, views))
    judged, silent = dict[TestId, Judged](), 0
    for name, grids, *by_judge in zip(names, best, *found, strict=True):
        heard = [likelihoods for likelihoods in by_judge if not np.isnan(likelihoods).any()]
        silent += len(by_judge) - len(heard)
        if heard:
            judged[name] = grids, np.mean(heard, axis=0)
    if silent:
        logger.warning("judges found what is not a number for %d test inputs and do not count there", silent)
    sources = tuple(source_name(each.path, each.step, each.data_hash) for each in weights)
    return JudgedBallot(ballot, Judging(sources, weight, views, candidates), judged)


def _with_answers(dataset: TaskDataset, candidates: Sequence[Sequence[Grid]]) -> tuple[TaskDataset, Integers]:
    """Return `dataset` with a training pair for each candidate, in order, and (Q + 1,) where those of each test begin."""
    grids = [grid for of_test in candidates for grid in of_test]
    counts = [len(of_test) for of_test in candidates]
    test = np.repeat(np.arange(len(counts)), counts)
    sizes = np.array([grid.shape for grid in grids], np.int64).reshape(-1, 2)
    first, areas = len(dataset.cells), sizes.prod(axis=1)
    task = dataset.test_task[test]
    answered = replace(
        dataset,
        cells=np.concatenate([dataset.cells, *(grid.ravel() for grid in grids)]),
        grid_start=np.concatenate([dataset.grid_start, first + areas.cumsum() - areas]),
        grid_height=np.concatenate([dataset.grid_height, sizes[:, 0].astype(np.uint8)]),
        grid_width=np.concatenate([dataset.grid_width, sizes[:, 1].astype(np.uint8)]),
        pair_task=task,
        pair_input=dataset.test_input[test],
        pair_output=(len(dataset.grid_start) + np.arange(len(grids))).astype(np.int32),
        pair_start=np.searchsorted(task, np.arange(len(dataset.task_ids) + 1)),
        pair_canvas=dataset.test_canvas[test],
        pair_weight=None,
    )
    return answered, np.cumsum([0, *counts])
