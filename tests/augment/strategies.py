"""What hypothesis draws from: grids, transforms and tasks small enough to be compared with brute force."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from augment.grid import COLORS, Grid
from augment.task import Pair, Task
from augment.transform import Transform


def grids(max_side: int = 6, colors: int = COLORS) -> st.SearchStrategy[Grid]:
    """Draw grids of up to `max_side` x `max_side` cells with colors below `colors`."""
    shapes = array_shapes(min_dims=2, max_dims=2, max_side=max_side)
    return arrays(np.uint8, shapes, elements=st.integers(0, colors - 1))


def transforms() -> st.SearchStrategy[Transform]:
    """Draw any of the 8 * 9! transforms."""
    permutations = st.permutations(range(1, COLORS)).map(lambda images: (0, *images))
    return st.builds(Transform, st.integers(0, 7), permutations)


def tasks(colors: int = 4) -> st.SearchStrategy[Task]:
    """Draw tasks of few tiny grids with colors below `colors`, so that symmetric ones are common."""
    tiny = grids(max_side=2, colors=colors)
    pairs = st.builds(Pair, tiny, tiny)
    return st.builds(
        lambda train, test: Task("drawn", tuple(train), tuple(test)),
        st.lists(pairs, min_size=1, max_size=3),
        st.lists(tiny, max_size=2),
    )
