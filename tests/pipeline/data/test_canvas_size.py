"""What demonstrations say about the size of an output."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augment.grid import MAX_SIDE, Grid
from augment.task import Pair, Task
from pipeline.data.canvas_size import (
    MARGIN,
    SIZE_RULES,
    WITHIN_DEMONSTRATIONS,
    Sizes,
    format_size_rules,
    measure_size_rules,
    size_rule,
)
from pipeline.data.sources import Source

Lengths = list[tuple[int, int]]
sides = st.integers(1, MAX_SIDE)
size_lists = st.lists(st.tuples(sides, sides, sides, sides), max_size=8)


def square(lengths: Lengths) -> tuple[Sizes, Sizes]:
    """Return sizes of square inputs and outputs with these lengths."""
    inputs, outputs = zip(*lengths, strict=True)
    return np.array([inputs, inputs]).T, np.array([outputs, outputs]).T


@pytest.mark.parametrize(
    ("name", "lengths", "given_length", "bound"),
    [
        ("same", [(3, 3), (5, 5)], 17, 17),
        ("same", [(4, 4)], 30, 30),
        ("constant", [(3, 6), (5, 6)], 9, 6),
        ("ratio", [(3, 9), (2, 6)], 4, 12),
        ("ratio", [(6, 3), (8, 4)], 10, 5),
        ("ratio", [(4, 12), (3, 9)], 20, 30),
        ("bounded", [(9, 4), (12, 7)], 10, 7 + 3 + MARGIN),
        ("bounded", [(3, 7), (4, 9)], 5, 9 + 2 + MARGIN),
        ("bounded", [(9, 25), (12, 9)], 10, 30),
        ("bounded", [(7, 3), (8, 4)], 10, 4 + 1 + MARGIN),  # half of an odd length is no ratio
        ("fallback", [(5, 3)], 7, 30),
    ],
)
def test_rule_follows_from_the_demonstrations(name: str, lengths: Lengths, given_length: int, bound: int) -> None:
    rule = size_rule(*square(lengths))
    assert rule.name == name
    assert rule.bound(np.array([[given_length, given_length]])).tolist() == [[bound, bound]]


def test_many_demonstrations_that_stay_within_their_input_are_believed() -> None:
    lengths = [(10 + i, 3 + i % 2) for i in range(WITHIN_DEMONSTRATIONS)]
    assert size_rule(*square(lengths)).name == "within"
    assert size_rule(*square(lengths[1:])).name == "bounded"
    assert size_rule(*square([*lengths, (5, 6)])).name == "bounded"


def test_one_demonstration_that_is_as_high_but_not_as_wide_says_nothing() -> None:
    rule = size_rule(np.array([[2, 1]]), np.array([[2, 2]]))
    assert (rule.name, rule.canvas(np.array([[2, 1]])).tolist()) == ("fallback", [[30, 30]])


def test_no_demonstrations_leave_a_full_canvas() -> None:
    nothing = np.zeros((0, 2), dtype=np.int64)
    rule = size_rule(nothing, nothing)
    assert (rule.name, rule.canvas(np.array([[2, 3]])).tolist()) == ("fallback", [[30, 30]])
    assert rule.canvas(nothing, nothing).shape == (0, 2)


def test_height_and_width_have_rules_of_their_own() -> None:
    rule = size_rule(np.array([[3, 4], [5, 6]]), np.array([[3, 1], [5, 1]]))
    assert rule.name == "constant"
    assert rule.bound(np.array([[7, 8]])).tolist() == [[7, 1]]
    assert rule.canvas(np.array([[7, 8]])).tolist() == [[7, 8]]


@settings(max_examples=50)
@given(size_lists, sides, sides)
def test_a_canvas_holds_input_and_output_of_every_demonstration_and_stays_within_30(
    drawn: list[tuple[int, int, int, int]], height: int, width: int
) -> None:
    sizes = np.array(drawn, dtype=np.int64).reshape(-1, 4)
    inputs, outputs = sizes[:, :2], sizes[:, 2:]
    rule = size_rule(inputs, outputs)
    assert rule.name in SIZE_RULES
    canvas = rule.canvas(inputs)
    assert (canvas >= outputs).all()
    assert (canvas >= inputs).all()
    seen = rule.canvas(np.array([[height, width]]), np.array([[width, height]]))
    assert (seen >= max(height, width)).all()
    assert (seen <= MAX_SIDE).all()


def grid(height: int, width: int) -> Grid:
    return np.zeros((height, width), dtype=np.uint8)


def test_misses_and_tokens_are_counted_by_rule() -> None:
    same = Task("same", (Pair(grid(2, 2), grid(2, 2)), Pair(grid(3, 2), grid(3, 2))), (grid(4, 5), grid(1, 1)))
    constant = Task("constant", (Pair(grid(2, 2), grid(1, 3)), Pair(grid(3, 2), grid(1, 3))), (grid(2, 2), grid(2, 2)))
    unknown = Task("unknown", same.train, same.test)
    solutions: dict[str, tuple[Grid, ...]] = {"same": (grid(4, 5), grid(1, 1)), "constant": (grid(1, 3), grid(1, 4))}
    rows = measure_size_rules([Source("drawn", (same, constant, unknown), solutions)])
    found = [(row.rule, row.outputs, row.misses, row.canvas_tokens, row.box_tokens) for row in rows]
    assert found == [("same", 2, 0, 10.5, 10.5), ("constant", 2, 1, 6.0, 7.0), ("all", 4, 1, 8.25, 8.75)]
    assert [line.split()[0] for line in format_size_rules(rows).splitlines()] == ["rule", "same", "constant", "all"]
    assert measure_size_rules([Source("drawn", (unknown,), {})]) == ()
