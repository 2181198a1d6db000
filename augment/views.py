"""The distinct views of a task: exactly one transform for each.

Two transforms are equivalent for a task when they give the same content: the multiset of its demonstrations and the multiset
of its test inputs. Colors that do not occur in the task make no difference, and a task with symmetries (`augment.symmetry`) has
the same content under several transforms. The least transform of each equivalence class represents it, so that counting is
exact and sampling compares no views. The build stage stores the result.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from augment.color import unrank_permutations
from augment.dihedral import DIHEDRALS, compose_dihedral
from augment.errors import InputError
from augment.grid import COLORS, Grid
from augment.symmetry import Symmetry, find_symmetry, task_content
from augment.task import Task
from augment.transform import Codes, encode_transforms

Policy = Literal["all", "keep-output-only"]
"""Which colors are permuted: all of 1..9, or all but those that occur in demonstration outputs and in no input."""


def distinct_transforms(task: Task, limit: int, rng: np.random.Generator, policy: Policy = "all") -> Codes:
    """Return transforms that give distinct views of `task`, as integer codes (n,) uint32, n = min(limit, number of views).

    The identity, 0, comes first. If there are more views than `limit`, the others are drawn uniformly without replacement.
    Their order is random too, so that the first few are a fair sample; it depends only on `rng`. Raises InputError if `limit`
    is not positive.
    """
    if limit < 1:
        raise InputError(f"limit must be at least 1, got {limit}")
    codes = _draw(_Views.of(task, policy), limit, rng)
    return np.concatenate([np.zeros(1, np.uint32), codes[codes != 0]])[:limit]  # 0: the identity


@dataclass(frozen=True)
class _Views:
    """The transforms that can give different views of a task: a dihedral, and an image for each color that occurs in it.

    They are numbered by dihedral, then by the images of the shown colors in lexicographic order. Colors that do not occur take
    the remaining images in ascending order, so that the identity is one of the transforms.
    """

    shown: tuple[int, ...]
    """The movable colors that occur in the content, ascending."""
    movable: tuple[int, ...]
    """The colors that may be permuted, ascending."""
    symmetry: Symmetry
    """The symmetries of the content that permute the shown colors."""

    @classmethod
    def of(cls, task: Task, policy: Policy) -> "_Views":
        """Return the views of `task` under `policy`."""
        inputs = _colors([pair.input for pair in task.train] + list(task.test))
        outputs = _colors([pair.output for pair in task.train])
        kept = {0} if policy == "all" else {0} | (outputs - inputs)
        shown = tuple(sorted((inputs | outputs) - kept))
        movable = tuple(sorted(set(range(COLORS)) - kept))
        return cls(shown, movable, find_symmetry(task_content(task), shown))

    @cached_property
    def images(self) -> int:
        """Number of ways to choose images for the shown colors."""
        return math.perm(len(self.movable), len(self.shown))

    def least_codes(self, numbers: npt.NDArray[np.int64]) -> Codes:
        """Return the integer codes, in order, of those `numbers` (N,) that are the least among those with the same view."""
        dihedral, rank = np.divmod(numbers, self.images)
        unshown_orders = math.factorial(len(self.movable) - len(self.shown))
        images = unrank_permutations(rank * unshown_orders, len(self.movable))  # (N, M), as places in `movable`
        least_dihedrals = [
            all(turn <= compose_dihedral(symmetric, turn) for symmetric in self.symmetry.dihedrals) for turn in range(DIHEDRALS)
        ]
        least = np.array(least_dihedrals)[dihedral]
        for i, orbit in enumerate(self.symmetry.orbits):
            for other in orbit[1:]:
                least &= images[:, i] < images[:, self.shown.index(other)]
        colors = np.tile(np.arange(COLORS, dtype=np.uint8), (len(numbers), 1))
        sources = self.shown + tuple(color for color in self.movable if color not in self.shown)
        if sources:
            colors[:, sources] = np.array(self.movable, dtype=np.uint8)[images]
        return encode_transforms(dihedral[least].astype(np.uint8), colors[least])


def _draw(views: _Views, limit: int, rng: np.random.Generator) -> Codes:
    """Return the codes of `limit` views, or of all if there are fewer, drawn uniformly and in random order."""
    order, total = views.symmetry.order, DIHEDRALS * views.images
    draws = limit if order == 1 else order * (2 * limit + 32)  # of `order` transforms with the same view, one is the least
    if 2 * draws < total:
        codes = views.least_codes(rng.choice(total, draws, replace=False))
        if len(codes) >= limit:
            return codes[:limit]
    return rng.permutation(views.least_codes(np.arange(total)))[:limit]


def _colors(grids: list[Grid]) -> set[int]:
    return set().union(*(np.unique(grid).tolist() for grid in grids))
