"""Classes of length: every token has its padded row, the cut is the cheapest, and few products take the place of many."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models import length_classes
from pipeline.models.layout import make_layout
from pipeline.models.length_classes import CLASS_SCORES, LENGTH_MULTIPLE, attend_by_classes, classes_of, cut_into_classes
from tests.pipeline.products import Products

HEADS = 4
LENGTHS = st.lists(st.integers(2, 200), min_size=1, max_size=9)


def time_of(cut: list[list[int]]) -> int:
    """What classes of these lengths cost, in scores."""
    padded = [-(-max(lengths) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE for lengths in cut]
    return sum(CLASS_SCORES + HEADS * len(lengths) * length**2 for lengths, length in zip(cut, padded, strict=True))


@given(LENGTHS)
def test_the_cut_is_the_cheapest_of_all(lengths: list[int]) -> None:
    given_lengths = np.array(lengths)
    cut = cut_into_classes(given_lengths, HEADS)
    assert sorted(np.concatenate(cut).tolist()) == list(range(len(lengths)))
    found = time_of([given_lengths[members].tolist() for members in cut])
    inner, ordered = range(1, len(lengths)), sorted(lengths)
    every = ((0, *cuts, len(lengths)) for count in range(len(lengths)) for cuts in combinations(inner, count))
    assert found == min(time_of([ordered[i:j] for i, j in pairwise(cuts)]) for cuts in every)


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=8))
def test_every_head_of_every_token_has_a_row_of_its_own(shapes: list[tuple[int, int]]) -> None:
    sizes = torch.tensor(sorted(shapes))
    layout = make_layout(sizes, torch.zeros_like(sizes), 1)
    found = classes_of(layout, HEADS)
    assert classes_of(layout, HEADS) is found  # made once
    rows = len(found.bias)
    assert rows == sum(part.count * part.length for part in found.classes)
    assert len(found.collect_heads.unique()) == layout.tokens * HEADS == rows - len(found.padding)
    assert torch.equal(found.spread_heads[found.collect_heads], torch.arange(layout.tokens * HEADS))
    assert torch.equal(found.spread[found.collect], torch.arange(3 * layout.tokens * HEADS))
    assert (found.bias[found.padding] < -1e8).all()
    assert (found.bias != 0).sum() == len(found.padding)
    for part in found.classes:
        assert part.length % LENGTH_MULTIPLE == 0
        token = (found.spread_heads[part.rows] // HEADS).view(part.count, part.length)
        hidden = found.bias[part.rows].view(part.count, part.length) < 0
        sequence = layout.sequence[token].masked_fill(hidden, -1).amax(dim=1, keepdim=True)
        assert (hidden | (layout.sequence[token] == sequence)).all()  # each row of a class is one sequence


@pytest.mark.parametrize(("scores", "products"), [(CLASS_SCORES, 2), (0, 28)])
def test_a_pack_of_small_canvases_needs_two_products_and_not_two_for_each_length(
    monkeypatch: pytest.MonkeyPatch, scores: int, products: int
) -> None:
    monkeypatch.setattr(length_classes, "CLASS_SCORES", scores)
    monkeypatch.setattr(length_classes, "LENGTH_MULTIPLE", 1)
    shapes = torch.cartesian_prod(torch.arange(1, 6), torch.arange(1, 6))
    layout = make_layout(shapes, torch.zeros_like(shapes), 1)
    with Products() as calls:
        attend_by_classes(torch.randn(layout.tokens, 3 * HEADS, 8, requires_grad=True), layout)
    assert calls.count == products
