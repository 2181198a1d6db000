"""Transforms: what they do to grids and tasks, how they compose, and how they are written down."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augment.color import PERMUTATIONS, Colors
from augment.grid import Grid
from augment.task import Pair, Task
from augment.transform import (
    IDENTITY,
    TRANSFORMS,
    Transform,
    decode_transforms,
    encode_transforms,
    transform_from_int,
    transform_to_int,
)
from tests.augment.strategies import grids, transforms

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "arc_transforms.json").read_text())["augment"]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_published_augmentation_names_mean_the_same(case: dict[str, Any]) -> None:
    _, dihedral, colors = case["name"].split("|||")
    transform = Transform(int(dihedral.removeprefix("t")), tuple(int(color) for color in colors))
    grid = np.array(case["grid"], dtype=np.uint8)
    assert transform.apply(grid).tolist() == case["augmented"]


@given(grids(), transforms())
def test_the_inverse_undoes_a_transform(grid: Grid, transform: Transform) -> None:
    view = transform.apply(grid)
    assert view.dtype == np.uint8
    assert np.array_equal(transform.inverse().apply(view), grid)
    assert transform.inverse().inverse() == transform


def test_task_keeps_its_id_and_order() -> None:
    transform = Transform.parse("6.213456789")
    row, column, one, three = (np.array(rows, np.uint8) for rows in ([[1, 2]], [[2], [5]], [[1]], [[3]]))
    view = transform.apply_task(Task("t", (Pair(row, three),), (column, one)))
    assert view.id == "t"
    assert [(pair.input.tolist(), pair.output.tolist()) for pair in view.train] == [([[2], [1]], [[3]])]
    assert [grid.tolist() for grid in view.test] == [[[1, 5]], [[2]]]


@given(transforms())
def test_parse_reads_every_code(transform: Transform) -> None:
    assert Transform.parse(transform.code) == transform


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "a dot and nine digits"),
        ("3463582197", "a dot and nine digits"),
        ("3.463582197\n", "a dot and nine digits"),
        ("-.463582197", "a dot and nine digits"),
        ("3.46358219\u0667", "a dot and nine digits"),
        ("8.463582197", r"0\.\.7, got 8"),
        ("3.463582199", "but 7 is missing"),
    ],
)
def test_wrong_codes_are_refused_by_name(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as error:
        Transform.parse(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("wrong", [(0, 1), (1, 0, *range(2, 10)), (0, 1, 1, *range(3, 10)), (0, *range(2, 11))])
def test_what_is_no_transform_cannot_be_made(wrong: Colors) -> None:
    for dihedral, colors, complaint in ((8, IDENTITY.colors, "dihedral"), (0, wrong, "color permutation")):
        with pytest.raises(ValueError, match=complaint):
            Transform(dihedral, colors)


def test_integer_counts_permutations_within_dihedrals() -> None:
    assert transform_to_int(IDENTITY) == 0
    assert transform_to_int(Transform.parse("0.123456798")) == 1
    assert transform_to_int(Transform.parse("1.123456789")) == PERMUTATIONS
    assert transform_to_int(Transform.parse("7.987654321")) == TRANSFORMS - 1


@settings(max_examples=30)
@given(st.lists(transforms(), max_size=20))
def test_arrays_of_codes_agree_with_single_ones(drawn: list[Transform]) -> None:
    codes = np.array([transform_to_int(transform) for transform in drawn], dtype=np.uint32)
    assert [transform_from_int(code) for code in codes.tolist()] == drawn
    dihedral, colors = decode_transforms(codes)
    assert (dihedral.dtype, colors.dtype, colors.shape) == (np.uint8, np.uint8, (len(drawn), 10))
    assert dihedral.tolist() == [transform.dihedral for transform in drawn]
    assert [tuple(row) for row in colors.tolist()] == [transform.colors for transform in drawn]
    encoded = encode_transforms(dihedral, colors)
    assert encoded.dtype == np.uint32
    assert np.array_equal(encoded, codes)


@pytest.mark.parametrize("wrong", [-1, TRANSFORMS, 2**32])
def test_integers_without_a_transform_are_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match=f"got {wrong}"):
        transform_from_int(wrong)
    with pytest.raises(ValueError, match=f"got {TRANSFORMS}"):
        decode_transforms(np.array([0, TRANSFORMS, 5], dtype=np.uint32))
