"""Permutations of the ten colors that keep color 0, and their ranks.

One permutation is a `Colors` tuple; many are the rows of an array. `augment.transform` stores a permutation as its
lexicographic rank, one small integer.
"""

import math

import numpy as np
import numpy.typing as npt

from augment.grid import COLORS

Colors = tuple[int, ...]
"""Ten ints: `colors[c]` is the new color of c, and `colors[0] == 0`."""
IDENTITY_COLORS: Colors = tuple(range(COLORS))
PERMUTATIONS = math.factorial(COLORS - 1)
"""Number of permutations that keep color 0: 9! = 362,880."""


def rank_permutations(permutations: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Return the lexicographic ranks, (N,) uint32 below M!, of `permutations`: (N, M) uint8 rows of 0..M-1, M <= 10."""
    count, length = permutations.shape
    columns = np.ascontiguousarray(permutations.T)  # (M, N)
    ranks = np.zeros(count, dtype=np.uint32)
    for i in range(length - 1):
        smaller_later = np.zeros(count, dtype=np.uint8)
        for j in range(i + 1, length):
            smaller_later += columns[j] < columns[i]
        ranks *= length - i
        ranks += smaller_later
    return ranks


def unrank_permutations(ranks: npt.NDArray[np.integer], length: int) -> npt.NDArray[np.uint8]:
    """Return the permutations of 0..length-1, (N, length) uint8, whose ranks are `ranks` (N,); `length` is at most 10."""
    columns = np.zeros((length, len(ranks)), dtype=np.uint8)
    rest = ranks.astype(np.uint32)
    for i in range(length - 2, -1, -1):
        rest, columns[i] = np.divmod(rest, np.uint32(length - i))
        for j in range(i + 1, length):
            columns[j] += columns[j] >= columns[i]
    return np.ascontiguousarray(columns.T)
