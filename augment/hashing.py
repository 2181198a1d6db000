"""The integer hash under symmetries and Sudoku views: vectorized, the same on every machine and in every process."""

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]


def scramble(values: Hashes) -> Hashes:
    """Return `values` after the bijection that ends SplitMix64 (Steele, Lea and Flood, 2014), so that their sum is a hash."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
