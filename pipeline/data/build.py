"""The build stage: sources of tasks in, a compact `Store` out.

Tasks with one id are one task, whatever they came from. Of each, the distinct training pairs and the tests to be predicted are
kept, with a canvas size for each, and up to so many distinct views are drawn. What comes out depends on the contents of the
sources and the settings alone: not on the order of sources, tasks and pairs, nor on the number of processes.
"""

import hashlib
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from operator import itemgetter
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed

from augment.grid import Grid, grid_key
from augment.task import Pair, Task, TaskId
from augment.transform import Codes
from augment.views import distinct_transforms
from eval.formatting import show_name
from pipeline.config import BuildConfig, Leakage
from pipeline.data.canvas_size import SizeRule, grid_sizes, size_rule
from pipeline.data.leakage import Audit, Leak, audit_sources, pair_key, source_label, training_pairs
from pipeline.data.sources import Source, content_hash
from pipeline.data.store import Store
from pipeline.system.progress_bar import doing, watch

PROCESSES_PAY_SECONDS = 4.0
"""Processes take about one second to start, so less work than this (as `_estimate_seconds` sees it) is done in this one."""

LEAKS_SHOWN = 3
"""Leaks that a message names; the manifest has all."""

_LOG = logging.getLogger(__name__)


def build(
    sources: Sequence[Source],
    train_sources: Sequence[Source],
    config: BuildConfig,
    leakage: Leakage = "refuse",
    seconds: float | None = None,
) -> Store:
    """Return the dataset that trains on all that is known and asks for the tests of `sources`.

    `sources` are to be solved: their demonstrations are trained on and their tests stored without outputs. Of
    `train_sources` the tests with known outputs are trained on too. Solutions of `sources` serve the audit alone. Where drawing
    views turns out to take more than `seconds`, fewer are drawn of the tasks that are left; the manifest says how few.
    Raises ValueError when pairs leak and `leakage` is "refuse", or when `sources` disagree on the tests of a task.
    """
    if leakage not in get_args(Leakage):
        raise ValueError(f"leakage must be one of {', '.join(get_args(Leakage))}, got {leakage!r}")
    everything = (*sources, *train_sources)
    with doing("comparing training pairs with scored tests"):
        audit = audit_sources(sources, train_sources)
    if audit.leaks:
        if leakage == "refuse":
            hint = "--leakage drop leaves them out, --leakage allow trains on them"
            raise ValueError(f"{_describe_leaks(audit.leaks)} ({hint})")
        _LOG.warning("%s: %s", "left out" if leakage == "drop" else "trained on all the same", _describe_leaks(audit.leaks))
    with doing("putting the tasks of all sources together"):
        contents = _merge(sources, train_sources, audit.leaks if leakage == "drop" else ())
    if not contents:
        raise ValueError("there is nothing to build: the sources have no training pairs and no tests")
    with doing("collecting grids"):
        store = _assemble(contents)
    store, fewest = _draw_transforms(store, config, seconds)
    manifest: dict[str, Any] = {
        "settings": {name: value for name, value in asdict(config).items() if name != "jobs"},
        "sources": _describe_sources(sources, train_sources),
        "merged_tasks": sum(count > 1 for count in Counter(task.id for source in everything for task in source.tasks).values()),
        "audit": _describe_audit(audit, leakage),
        "totals": _count(store),
    }
    if fewest <= config.augmentations:
        manifest["augmentations_cut_to"] = fewest - 1
        _LOG.warning(
            "drawing views is slow here: of some tasks there are %d besides the task itself, not %d",
            fewest - 1,
            config.augmentations,
        )
    return replace(store, manifest=manifest)


@dataclass(frozen=True, eq=False)
class _Content:
    """What goes into the dataset of one task."""

    task: Task
    """The distinct training pairs in the order of their keys, and the tests to be predicted in the order of their source."""
    rule: SizeRule


def _merge(sources: Sequence[Source], train_sources: Sequence[Source], dropped: Iterable[Leak]) -> list[_Content]:
    """Return the tasks of all sources, sorted by id, without pairs that are `dropped`. Raises ValueError like `build`."""
    unwanted = {(leak.trained.task, pair_key(leak.pair)) for leak in dropped}
    pairs: dict[TaskId, dict[tuple[bytes, bytes], Pair]] = {}
    for placed in training_pairs(sources, train_sources):
        key = pair_key(placed.pair)
        if (placed.place.task, key) not in unwanted:
            pairs.setdefault(placed.place.task, {})[key] = placed.pair
    tests: dict[TaskId, tuple[str, tuple[Grid, ...]]] = {}
    for source in sources:
        for task in source.tasks:
            first, known = tests.setdefault(task.id, (source_label(source), task.test))
            if list(map(grid_key, known)) != list(map(grid_key, task.test)):
                where = f"{source_label(source)} and {first}"
                raise ValueError(f"task {show_name(task.id)} has other tests in {where}: solve one of them at a time")
    contents = []
    for task_id in sorted(pairs.keys() | {task_id for task_id, (_, grids) in tests.items() if grids}):
        kept = tuple(pair for _, pair in sorted(pairs.get(task_id, {}).items(), key=itemgetter(0)))
        rule = size_rule(grid_sizes(pair.input for pair in kept), grid_sizes(pair.output for pair in kept))
        contents.append(_Content(Task(task_id, kept, tests.get(task_id, ("", ()))[1]), rule))
    return contents


def _assemble(contents: Sequence[_Content]) -> Store:
    """Return the store of `contents`, with the identity as the only view of each task and nothing in its manifest."""
    tasks = [content.task for content in contents]
    return Store(
        task_ids=tuple(task.id for task in tasks),
        **_point_to_grids(tasks),
        pair_canvas=np.concatenate([_pair_canvas(content) for content in contents]),
        test_canvas=np.concatenate([_test_canvas(content) for content in contents]),
        transforms=np.zeros(len(tasks), dtype=np.uint32),
        transform_start=np.arange(len(tasks) + 1, dtype=np.int64),
        manifest={},
    )


def _point_to_grids(tasks: Sequence[Task]) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a store that hold the distinct grids of `tasks`, in the order of their keys, or point to them."""
    pairs = [pair for task in tasks for pair in task.train]
    tests = [grid for task in tasks for grid in task.test]
    examples = [[pair.input for pair in pairs], [pair.output for pair in pairs], tests]
    keys = [[grid_key(grid) for grid in grids] for grids in examples]
    grids = dict(zip(chain.from_iterable(keys), chain.from_iterable(examples), strict=True))
    ordered = sorted(grids)
    number = {key: i for i, key in enumerate(ordered)}
    pair_input, pair_output, test_input = (np.array([number[key] for key in each], dtype=np.int32) for each in keys)
    sizes = grid_sizes(grids[key] for key in ordered)  # (G, 2)
    areas = sizes.prod(axis=1)
    pair_counts, test_counts = [len(task.train) for task in tasks], [len(task.test) for task in tasks]
    task_numbers = np.arange(len(tasks), dtype=np.int32)
    return {
        "cells": np.concatenate([grids[key].ravel() for key in ordered]),
        "grid_start": np.cumsum(areas) - areas,
        "grid_height": sizes[:, 0].astype(np.uint8),
        "grid_width": sizes[:, 1].astype(np.uint8),
        "pair_task": np.repeat(task_numbers, pair_counts),
        "pair_input": pair_input,
        "pair_output": pair_output,
        "pair_start": np.cumsum([0, *pair_counts]),
        "test_task": np.repeat(task_numbers, test_counts),
        "test_index": np.array([i for count in test_counts for i in range(count)], dtype=np.int32),
        "test_input": test_input,
    }


def _pair_canvas(content: _Content) -> npt.NDArray[np.uint8]:
    pairs = content.task.train
    inputs, outputs = grid_sizes(pair.input for pair in pairs), grid_sizes(pair.output for pair in pairs)
    return content.rule.canvas(inputs, outputs).astype(np.uint8)


def _test_canvas(content: _Content) -> npt.NDArray[np.uint8]:
    return content.rule.canvas(grid_sizes(content.task.test)).astype(np.uint8)


def _draw_transforms(store: Store, config: BuildConfig, seconds: float | None) -> tuple[Store, int]:
    """Return `store` with the views of each task, in processes if that saves time, and how few a task may have at least."""
    tasks = len(store.task_ids)
    processes = 1
    if _estimate_seconds(store, config) >= PROCESSES_PAY_SECONDS:
        processes = min(config.jobs or os.cpu_count() or 1, tasks)
    shares = min(processes * 8 * (1 if seconds is None else 4), tasks)  # a small share is soon known to be slow
    pace = _Pace(config.augmentations + 1, shares, math.inf if seconds is None else seconds)
    # Joblib asks for a job when there is a process for it: by then more is known of how fast they are.
    jobs = (delayed(_draw_share)(store, range(i, tasks, shares), config, pace.begin()) for i in range(shares))
    drawing = Parallel(n_jobs=processes, return_as="generator")(jobs)
    drawn = []
    for share in watch(drawing, f"drawing views of {tasks} tasks", shares, "shares"):
        pace.end()
        drawn.append(share)
    codes = [drawn[number % shares][number // shares] for number in range(tasks)]
    drawn_store = replace(store, transforms=np.concatenate(codes), transform_start=np.cumsum([0, *map(len, codes)]))
    return drawn_store, pace.least


class _Pace:
    """How many views a task may have, judged by the time that the shares of the tasks took so far."""

    def __init__(self, most: int, shares: int, seconds: float) -> None:
        self.most, self.shares, self.seconds = most, shares, seconds
        self.started = time.monotonic()
        self.begun: list[int] = []
        """Most views of a task of each share that was begun, in order."""
        self.ended = 0

    @property
    def least(self) -> int:
        """The fewest views that a task may have."""
        return min(self.begun)

    def begin(self) -> int:
        """Return most views of a task of the next share."""
        self.begun.append(self._affordable() if self.ended else self.most)
        return self.begun[-1]

    def end(self) -> None:
        """Say that one more share is drawn; shares come in their order."""
        self.ended += 1

    def _affordable(self) -> int:
        elapsed = time.monotonic() - self.started
        views = (self.seconds - elapsed) * sum(self.begun[: self.ended]) / elapsed - sum(self.begun[self.ended :])
        return int(max(1, min(self.most, views / (self.shares - len(self.begun)))))


def _draw_share(store: Store, numbers: Iterable[int], config: BuildConfig, most: int) -> list[Codes]:
    """Return the codes of `most` views of some tasks. Processes share the cells of `store` as a file that is mapped."""
    tasks = map(store.task, numbers)
    return [distinct_transforms(task, most, _task_rng(config.seed, task.id), config.policy) for task in tasks]


def _task_rng(seed: int, task_id: TaskId) -> np.random.Generator:
    """Return the generator of one task, whatever else is built."""
    digest = hashlib.sha256(f"{seed}:{task_id}".encode()).digest()
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(int.from_bytes(digest))))


def _estimate_seconds(store: Store, config: BuildConfig) -> float:
    """Return about how long drawing takes in one process: so much, as measured, for a task, a view and a cell."""
    return len(store.task_ids) * (4e-4 + 1e-6 * config.augmentations) + 7e-8 * len(store.cells)


def _count(store: Store) -> dict[str, int]:
    return {
        "tasks": len(store.task_ids),
        "pairs": len(store.pair_task),
        "tests": len(store.test_task),
        "grids": len(store.grid_start),
        "transforms": len(store.transforms),
        "bytes": sum(array.nbytes for array in store.arrays().values()),
    }


def _describe_leaks(leaks: Sequence[Leak]) -> str:
    """Return leaks as one line: how many there are and the first few."""
    more = f"; and {len(leaks) - LEAKS_SHOWN} more" if len(leaks) > LEAKS_SHOWN else ""
    shown = "; ".join(map(str, leaks[:LEAKS_SHOWN]))
    pairs = len({leak.trained for leak in leaks})
    return f"{pairs} training pair{'s show' if pairs > 1 else ' shows'} the answer to a scored test: {shown}{more}"


def _describe_audit(audit: Audit, leakage: Leakage) -> dict[str, Any]:
    return {
        "leakage": leakage,
        "leaks": sorted(map(str, audit.leaks)),
        "given": sorted(map(str, audit.given)),
        "tests_checked": audit.checked,
        "tests_unchecked": audit.unchecked,
    }


def _describe_sources(sources: Iterable[Source], train_sources: Iterable[Source]) -> list[dict[str, Any]]:
    """Return what came from where, in an order that does not depend on that of the sources."""
    entries: list[dict[str, Any]] = []
    for role, group in (("solve", sources), ("train", train_sources)):
        for source in group:
            trained = {} if role == "solve" else source.solutions
            entry = {
                "name": source_label(source),
                "role": role,
                "tasks": len(source.tasks),
                "demonstrations": sum(len(task.train) for task in source.tasks),
                "tests": sum(len(task.test) for task in source.tasks),
                "tests_trained": sum(map(len, trained.values())),
                "content_hash": content_hash(source.tasks, trained),
            }
            entries.append(entry)
    return sorted(entries, key=lambda entry: (entry["role"], entry["name"], entry["content_hash"]))
