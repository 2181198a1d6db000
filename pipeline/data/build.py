"""The build stage: sources of tasks in, one compact `TaskDataset` out.

Tasks with the same id are merged, unless they share no pair (pipeline.data.same_ids). Of each, the distinct training pairs and
the tests to be predicted are kept, with a canvas size for each, and distinct views are drawn. The result depends on the content
of the sources and the settings only, not on the order of sources, tasks and pairs, nor on the number of processes.
"""

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from augment.errors import InputError
from augment.grid import grid_key
from augment.task import Pair, Task, TaskId
from augment.transform import Codes
from augment.views import distinct_transforms
from eval.decode import decode
from eval.formatting import plural
from pipeline.config import BuildConfig, Leakage
from pipeline.data.canvas_size import grid_sizes, size_rule
from pipeline.data.dataset import MANIFEST_FILE, Dataset, TaskDataset
from pipeline.data.leakage import Audit, Leak, audit_sources, pair_key, training_pairs
from pipeline.data.same_ids import tell_apart
from pipeline.data.sources import Source, content_hash, require_same_tests, source_label
from pipeline.system.processors import usable_cores
from pipeline.system.progress_bar import doing, watch

PROCESSES_PAY_SECONDS = 4.0
"""Less estimated work than this is done in one process, since others take about one second to start."""

logger = logging.getLogger(__name__)


def build(
    sources: Sequence[Source],
    train_sources: Sequence[Source],
    config: BuildConfig,
    leakage: Leakage = "refuse",
    seconds: float | None = None,
) -> TaskDataset:
    """Return the dataset that trains on everything known and has the tests of `sources` to predict.

    The demonstrations of `sources` are trained on, and their tests are stored without outputs; their solutions are used for the
    audit only. The tests of `train_sources` with known outputs are trained on too. Where drawing views would take more than
    `seconds`, fewer are drawn for the remaining tasks; the manifest says how few.
    Raises InputError when pairs leak and `leakage` is "refuse", or when `sources` disagree on the tests of a task.
    """
    sources, train_sources = tell_apart(sources, train_sources)
    everything = (*sources, *train_sources)
    with doing("comparing training pairs with scored tests"):
        audit = audit_sources(sources, train_sources)
    if audit.leaks:
        if leakage == "refuse":
            hint = "--leakage drop leaves them out, --leakage allow trains on them"
            raise InputError(f"{_describe_leaks(audit)} ({hint})")
        logger.warning("%s: %s", "left out" if leakage == "drop" else "trained on all the same", _describe_leaks(audit))
    with doing("putting the tasks of all sources together"):
        tasks, weights = _merge(sources, train_sources, audit.leaks if leakage == "drop" else (), config.draw)
    if not tasks:
        raise InputError("there is nothing to build: the sources have no training pairs and no tests")
    with doing("collecting grids"):
        dataset = _assemble(tasks, weights, config.size_exponent)
    if dataset.pair_weight is not None:
        shares = ", ".join(f"{source_label(source)} x {source.weight:g}" for source in everything)
        each = "tasks are drawn for each source that has pairs of them"
        what = each if config.draw == "tasks" else "pairs are drawn by the weight of their source"
        small = f"; pairs less often the larger, by cells^-{config.size_exponent:g}" if config.size_exponent else ""
        logger.info("%s: %s%s", what, shares, small)
    dataset, fewest = _draw_transforms(dataset, config, seconds)
    pairs, generators = audit.counts()
    manifest: dict[str, Any] = {
        "settings": {name: value for name, value in asdict(config).items() if name != "jobs"},
        "sources": _describe_sources(sources, train_sources),
        "merged_tasks": sum(count > 1 for count in Counter(task.id for source in everything for task in source.tasks).values()),
        "audit": {
            "leakage": leakage,
            "leaks": sorted(map(str, audit.leaks)),
            "pairs": pairs,
            "generators": generators,
            "given": sorted(map(str, audit.given)),
            "tests_checked": audit.checked,
            "tests_unchecked": audit.unchecked,
        },
        "totals": {
            "tasks": len(dataset.task_ids),
            "pairs": len(dataset.pair_task),
            "tests": len(dataset.test_task),
            "grids": len(dataset.grid_start),
            "transforms": len(dataset.transforms),
            "bytes": sum(array.nbytes for array in dataset.arrays().values()),
        },
    }
    if fewest <= config.augmentations:
        manifest["augmentations_cut_to"] = fewest - 1
        message = "drawing views is slow here: of some tasks there are %d besides the task itself, not %d"
        logger.warning(message, fewest - 1, config.augmentations)
    return replace(dataset, manifest=manifest)


def _merge(
    sources: Sequence[Source], train_sources: Sequence[Source], dropped: Iterable[Leak], draw: str
) -> tuple[list[Task], list[float]]:
    """Return the tasks of all sources by id, with distinct pairs by key, without `dropped` ones, and tests in their order.

    Besides, the weight of each pair, task after task: what a source has of a task is drawn by the weight of the source, or each
    pair of it is (`draw` "pairs"); a pair of several belongs to the one with the largest weight, the first of such.
    """
    unwanted = {(leak.trained.task, pair_key(leak.pair)) for leak in dropped if leak.pair}
    generators = {(leak.trained.source, leak.trained.task) for leak in dropped if not leak.pair}
    pairs: dict[TaskId, dict[tuple[bytes, bytes], tuple[Pair, int]]] = {}
    ordered = [*sorted(sources, key=_rank), *sorted(train_sources, key=_rank)]
    by_weight = sorted(enumerate(ordered), key=lambda each: -each[1].weight)
    for number, source in by_weight:
        roles = ([source], []) if number < len(sources) else ([], [source])
        for place, pair in training_pairs(*roles):
            if (place.task, pair_key(pair)) not in unwanted and (place.source, place.task) not in generators:
                pairs.setdefault(place.task, {}).setdefault(pair_key(pair), (pair, number))
    require_same_tests(sources)
    tests = {task.id: task.test for source in sources for task in source.tasks}
    merged, weights = list[Task](), list[float]()
    for task_id in sorted(pairs.keys() | {task_id for task_id, grids in tests.items() if grids}):
        kept = [placed for _, placed in sorted(pairs.get(task_id, {}).items(), key=itemgetter(0))]
        counts = Counter(number for _, number in kept)
        weights += [ordered[number].weight / (counts[number] if draw == "tasks" else 1) for _, number in kept]
        merged.append(Task(task_id, tuple(pair for pair, _ in kept), tests.get(task_id, ())))
    return merged, weights


def _rank(source: Source) -> tuple[str, str]:
    return source_label(source), content_hash(source.tasks, source.solutions)


def built_with(dataset: Dataset) -> BuildConfig | None:
    """Return the settings that a dataset was built with; None where it does not say. Raises InputError for others than ours."""
    settings = dataset.manifest.get("settings")
    return decode(BuildConfig, settings, f"{MANIFEST_FILE}: settings", ignore_unknown=True) if settings else None


def _assemble(tasks: Sequence[Task], weights: Sequence[float], size_exponent: float) -> TaskDataset:
    """Return the dataset of `tasks`: each grid once, in the order of keys, only the identity as a view, an empty manifest.

    The `weights` of its pairs, less for large canvases by `size_exponent`, are kept where they say anything: where not every
    task is drawn as often, by equal pairs.
    """
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
    pair_canvas, test_canvas = [], []
    for task in tasks:
        inputs, outputs = grid_sizes(pair.input for pair in task.train), grid_sizes(pair.output for pair in task.train)
        rule = size_rule(inputs, outputs)
        pair_canvas.append(rule.canvas(inputs, outputs))
        test_canvas.append(rule.canvas(grid_sizes(task.test)))
    cells = np.concatenate(pair_canvas).astype(np.float64).prod(axis=1)
    pair_weight = np.array(weights) * cells**-size_exponent
    of_tasks = pair_weight * np.repeat(pair_counts, pair_counts)  # if all pairs of a task are drawn equally often
    uniform = np.allclose(of_tasks / of_tasks[:1], 1)
    return TaskDataset(
        task_ids=tuple(task.id for task in tasks),
        cells=np.concatenate([grids[key].ravel() for key in ordered]),
        grid_start=np.cumsum(areas) - areas,
        grid_height=sizes[:, 0].astype(np.uint8),
        grid_width=sizes[:, 1].astype(np.uint8),
        pair_task=np.repeat(task_numbers, pair_counts),
        pair_input=pair_input,
        pair_output=pair_output,
        pair_start=np.cumsum([0, *pair_counts]),
        pair_canvas=np.concatenate(pair_canvas).astype(np.uint8),
        test_task=np.repeat(task_numbers, test_counts),
        test_index=np.array([i for count in test_counts for i in range(count)], dtype=np.int32),
        test_input=test_input,
        test_canvas=np.concatenate(test_canvas).astype(np.uint8),
        transforms=np.zeros(len(tasks), dtype=np.uint32),
        transform_start=np.arange(len(tasks) + 1, dtype=np.int64),
        manifest={},
        pair_weight=None if uniform else pair_weight,
    )


def _draw_transforms(dataset: TaskDataset, config: BuildConfig, seconds: float | None) -> tuple[TaskDataset, int]:
    """Return `dataset` with the views of each task, and the fewest views that a task may have because of the time.

    Tasks are drawn in shares, in several processes if that saves time. How many views a task of the next share may have follows
    from the time that the shares took so far.
    """
    tasks, most = len(dataset.task_ids), config.augmentations + 1
    estimated_seconds = tasks * (4e-4 + 1e-6 * config.augmentations) + 7e-8 * len(dataset.cells)  # in one process, as measured
    processes = 1 if estimated_seconds < PROCESSES_PAY_SECONDS else min(config.jobs or usable_cores(), tasks)
    shares = min(processes * 8 * (1 if seconds is None else 4), tasks)  # a small share is soon known to be slow
    started, drawn, limits = time.monotonic(), list[list[Codes]](), list[int]()

    def share_jobs() -> Iterator[Any]:
        """Yield the jobs. Joblib takes one when a process is free, so its limit is known as late as possible."""
        for i in range(shares):
            limit = most
            if drawn and seconds is not None:
                elapsed = time.monotonic() - started
                views = (seconds - elapsed) * sum(limits[: len(drawn)]) / elapsed - sum(limits[len(drawn) :])
                limit = int(max(1, min(most, views / (shares - i))))
            limits.append(limit)
            yield delayed(_draw_share)(dataset, range(i, tasks, shares), config, limit)

    drawing = Parallel(n_jobs=processes, return_as="generator")(share_jobs())
    for share in watch(drawing, f"drawing views of {tasks} tasks", shares, "shares"):
        drawn.append(share)
    codes = [drawn[number % shares][number // shares] for number in range(tasks)]
    starts = np.cumsum([0, *map(len, codes)])
    return replace(dataset, transforms=np.concatenate(codes), transform_start=starts), min(limits)


def _draw_share(dataset: TaskDataset, numbers: Iterable[int], config: BuildConfig, most: int) -> list[Codes]:
    """Return the codes of at most `most` views of some tasks, each drawn by a generator of the seed and the task id."""
    drawn = []
    for task in map(dataset.task, numbers):
        digest = hashlib.sha256(f"{config.seed}:{task.id}".encode()).digest()
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(int.from_bytes(digest))))
        drawn.append(distinct_transforms(task, most, rng, config.policy))
    return drawn


def _describe_leaks(audit: Audit) -> str:
    """Return leaks as one line: how many there are and the first three; the manifest lists all."""
    more = f"; and {len(audit.leaks) - 3} more" if len(audit.leaks) > 3 else ""
    shown = "; ".join(map(str, audit.leaks[:3]))
    pairs, generators = audit.counts()
    said = []
    if pairs:
        said.append(f"{pairs} training pair{'s show' if pairs > 1 else ' shows'} the answer to a scored test")
    if generators:
        make = "make" if generators > 1 else "makes"
        said.append(f"{plural(generators, 'generator')} of a rearc: source {make} pairs of scored tasks")
    return f"{' and '.join(said)}: {shown}{more}"


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
                "weight": source.weight,
                "content_hash": content_hash(source.tasks, trained),
            }
            entries.append(entry)
    return sorted(entries, key=lambda entry: (entry["role"], entry["name"], entry["content_hash"]))
