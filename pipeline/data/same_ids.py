"""Tasks of several sources under one id: those that share a pair are one task, others are told apart by their source's name."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

from augment.grid import grid_key
from augment.task import Task, TaskId
from eval.formatting import plural, show_names
from pipeline.data.leakage import pair_key, training_pairs
from pipeline.data.sources import Source, content_hash, source_label

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _SourcedTask:
    """A task and the source that has it."""

    source: Source
    task: Task
    solved: bool

    @property
    def follows(self) -> bool:
        """Whether it belongs to the first task of its id anyway: Re-ARC makes new pairs for the ids of ARC."""
        return self.solved or self.source.name.startswith("rearc:")

    def order(self) -> tuple[bool, bool, str, str]:
        """Return what decides who keeps the id, whatever the order of the sources."""
        return not self.solved, self.follows, source_label(self.source), content_hash([self.task])

    def pairs_and_tests(self) -> set[object]:
        """Return what is equal for equal pairs and equal test inputs; outputs of tests to solve are not looked at."""
        alone = replace(self.source, tasks=(self.task,))
        pairs = training_pairs([alone], []) if self.solved else training_pairs([], [alone])
        return {pair_key(pair) for _, pair in pairs} | {grid_key(grid) for grid in self.task.test}

    def shown_inputs(self) -> set[object]:
        """Return what is equal to a test input where a demonstration shows it."""
        return {grid_key(pair.input) for pair in self.task.train}


def tell_apart(sources: Sequence[Source], train_sources: Sequence[Source]) -> tuple[list[Source], list[Source]]:
    """Return both, with new ids for tasks to train on that share their id with another task, but no pair and no test input.

    A new id has the name of the source in front. A task to solve keeps its id, and where there is none, the first by the names
    of the sources. The log says what was told apart, and how many tasks are the same in several sources.
    """
    everything = [*sources, *train_sources]
    by_id: dict[TaskId, list[_SourcedTask]] = defaultdict(list)
    for number, source in enumerate(everything):
        for task in source.tasks:
            by_id[task.id].append(_SourcedTask(source, task, number < len(sources)))
    names: dict[Source, dict[TaskId, TaskId]] = defaultdict(dict)
    new, merged = set[TaskId](), 0
    for task_id, places in by_id.items():
        first, *others = _groups(places) if len(places) > 1 else [places]
        merged += len(first) > 1
        for group in others:
            label = source_label(group[0].source)
            names_in_turn = (f"{label}{f' ({i})' * (i > 1)}/{task_id}" for i in count(1))
            name = next(name for name in names_in_turn if name not in new and name not in by_id)
            new.add(name)
            for place in group:
                names[place.source][task_id] = name
    if merged:
        logger.info("%s in several sources, which have pairs in common, merged", plural(merged, "task"))
    if new:
        message = "%s with the id of another, but no pair in common with it, kept apart: %s"
        logger.warning(message, plural(len(new), "task"), show_names(sorted(new)))
    renamed = [_rename(source, names[source]) if source in names else source for source in everything]
    return renamed[: len(sources)], renamed[len(sources) :]


@dataclass
class _Group:
    """Places of one task."""

    members: list[_SourcedTask]
    own: set[object]
    """Pairs and test inputs."""
    shown: set[object]
    """Inputs of demonstrations, one of which may be a test input elsewhere."""

    def has_one_of(self, other: "_Group") -> bool:
        """Return whether the two share a pair or a test input."""
        return bool(self.own & other.own or self.own & other.shown or self.shown & other.own)


def _groups(places: Sequence[_SourcedTask]) -> list[list[_SourcedTask]]:
    """Return `places` of one id in groups, each of one task; the first keeps the id."""
    groups = list[_Group]()
    for place in sorted(places, key=_SourcedTask.order):
        new = _Group([place], place.pairs_and_tests(), place.shown_inputs())
        same = [group for group in groups if group.has_one_of(new)] or groups[: place.follows]
        if not same:
            groups.append(new)
            continue
        first, *others = same
        for group in (*others, new):
            first.members += group.members
            first.own |= group.own
            first.shown |= group.shown
        groups = [group for group in groups if group not in others]
    return [group.members for group in groups]


def _rename(source: Source, names: dict[TaskId, TaskId]) -> Source:
    tasks = tuple(replace(task, id=names.get(task.id, task.id)) for task in source.tasks)
    return replace(source, tasks=tasks, solutions={names.get(task, task): grids for task, grids in source.solutions.items()})
