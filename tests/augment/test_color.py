"""Color permutations and their ranks."""

import math
from itertools import permutations

import numpy as np
import pytest

from augment.color import PERMUTATIONS, rank_permutations, unrank_permutations


@pytest.mark.parametrize("length", range(1, 7))
def test_ranks_are_lexicographic(length: int) -> None:
    ordered = np.array(list(permutations(range(length))), dtype=np.uint8)
    ranks = rank_permutations(ordered)
    assert ranks.dtype == np.uint32
    assert ranks.tolist() == list(range(math.factorial(length)))
    assert np.array_equal(unrank_permutations(ranks, length), ordered)


def test_all_permutations_of_nine_colors_survive_the_round_trip() -> None:
    ranks = np.arange(PERMUTATIONS, dtype=np.uint32)
    images = unrank_permutations(ranks, 9)
    assert np.array_equal(rank_permutations(images), ranks)
    assert images[0].tolist() == list(range(9))
    assert images[-1].tolist() == list(range(8, -1, -1))
