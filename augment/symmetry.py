"""The symmetries of a task: the transforms that leave its content unchanged, found exactly.

`augment.views` needs them because two transforms give the same view if and only if they differ by a symmetry. The symmetries
form a group that can have millions of members, so it is stored as a chain: its dihedrals, then for each color the possible
images when the colors before it are fixed. At most 7 + 36 searches find the chain. A search assigns colors one by one and
compares hashes of their positions. Hashes only prune: every symmetry found is verified on the grids.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from augment.dihedral import DIHEDRALS, apply_dihedral, inverse_dihedral, swaps_sides
from augment.grid import COLORS, MAX_SIDE, Grid, grid_key
from augment.hashing import Hashes, scramble
from augment.task import Task

Content = Sequence[tuple[Grid, ...]]
"""The grids of a task, in any order: (input, output) of every demonstration and (input,) of every test input."""
_SIDES = COLORS
"""Column of `_marks` that hashes the sides of the grids; the columns before it belong to the colors."""


@dataclass(frozen=True)
class Symmetry:
    """The transforms of the given colors that map a content to itself, as a chain of groups."""

    dihedrals: tuple[int, ...]
    """The dihedrals of all of them, ascending; 0 first."""
    orbits: tuple[tuple[int, ...], ...]
    """For each given color, itself and then, ascending, its other images under the symmetries with dihedral 0 that keep every
    given color before it."""

    @property
    def order(self) -> int:
        """Number of transforms of the given colors that map the content to itself."""
        return len(self.dihedrals) * math.prod(len(orbit) for orbit in self.orbits)


def task_content(task: Task) -> Content:
    """Return the demonstrations and the test inputs of `task`, which differ in the number of grids."""
    return [(pair.input, pair.output) for pair in task.train] + [(grid,) for grid in task.test]


def find_symmetry(content: Content, colors: Sequence[int]) -> Symmetry:
    """Return the symmetries of `content` that permute `colors`, which occur in it, ascending, and keep all others."""
    if not content:
        return Symmetry(tuple(range(DIHEDRALS)), ())
    search = _Search(content, colors)
    kept = [column for column in range(_SIDES + 1) if column not in colors]
    salts = _salts(_SIDES + 1)[kept]
    start = scramble((search.marks[:, :, kept] * salts).sum(axis=2))  # (8, N)
    totals = start.sum(axis=1)
    dihedrals = [
        dihedral
        for dihedral in range(DIHEDRALS)
        if dihedral == 0 or (totals[dihedral] == totals[0] and search.exists(dihedral, start[dihedral], start[0], {}))
    ]
    orbits = []
    labels = start[0]
    for i in range(len(colors)):
        refined = search.refine(0, labels, colors[i:])
        orbits.append(search.orbit(i, refined))
        labels = refined[:, 0]
    return Symmetry(tuple(dihedrals), tuple(orbits))


class _Search:
    """Search for symmetries of one content that have a given dihedral and given images of some colors.

    A label is a hash of an example (a demonstration or a test input): its sides and the positions of the colors assigned so
    far. A symmetry must map the multiset of labels on the source side to that on the image side.
    """

    def __init__(self, content: Content, colors: Sequence[int]) -> None:
        self.content = content
        self.colors = colors
        self.marks = _marks(content)  # (8, N, 11)
        self.original = _count(content)

    def refine(self, dihedral: int, labels: Hashes, colors: Sequence[int]) -> Hashes:
        """Return the labels, (N, len(colors)), that follow from `labels` (N,) if each one of `colors` is assigned next."""
        return scramble(labels[:, None] + self.marks[dihedral][:, colors])

    def orbit(self, place: int, refined: Hashes) -> tuple[int, ...]:
        """Return the images of the color at `place`, itself first, under symmetries with dihedral 0 that keep those before it.

        `refined` (N, colors from `place` on) has the labels if the colors before are kept and that color is assigned next.
        """
        color, *others = self.colors[place:]
        kept = {earlier: earlier for earlier in self.colors[:place]}
        totals = refined.sum(axis=0)
        images = [
            other
            for j, other in enumerate(others, start=1)
            if totals[j] == totals[0] and self.exists(0, refined[:, 0], refined[:, j], {**kept, color: other})
        ]
        return (color, *images)

    def exists(self, dihedral: int, sources: Hashes, images: Hashes, assigned: dict[int, int]) -> bool:
        """Return whether a symmetry with `dihedral` extends `assigned`; `sources` and `images` are the labels (N,)."""
        open_sources = [color for color in self.colors if color not in assigned]
        if not open_sources:
            return self.is_symmetry(dihedral, assigned)
        open_images = [color for color in self.colors if color not in assigned.values()]
        refined_sources = self.refine(dihedral, sources, open_sources)
        refined_images = self.refine(0, images, open_images)
        fits = refined_sources.sum(axis=0)[:, None] == refined_images.sum(axis=0)  # (sources, images)
        tightest = int(fits.sum(axis=1).argmin())
        return any(
            self.exists(
                dihedral,
                refined_sources[:, tightest],
                refined_images[:, j],
                {**assigned, open_sources[tightest]: open_images[j]},
            )
            for j in np.flatnonzero(fits[tightest]).tolist()
        )

    def is_symmetry(self, dihedral: int, assigned: dict[int, int]) -> bool:
        """Return whether the transform maps the content to itself, by comparing grids."""
        table = np.array([assigned.get(color, color) for color in range(COLORS)], dtype=np.uint8)
        views = [[apply_dihedral(table[grid], dihedral) for grid in example] for example in self.content]
        return _count(views) == self.original


def _count(content: Iterable[Iterable[Grid]]) -> Counter[tuple[bytes, ...]]:
    """Return how often each example occurs in `content`, whatever its order."""
    return Counter(tuple(grid_key(grid) for grid in example) for example in content)


def _marks(content: Content) -> Hashes:
    """Return hashes, (8, N, 11), of the positions of each color in each of N examples, and of its sides, for every dihedral."""
    grids = [grid for example in content for grid in example]
    sides = np.array([grid.shape for grid in grids], dtype=np.uint64)  # (G, 2)
    weights = np.concatenate([_weights(*grid.shape) for grid in grids], axis=1)  # (8, cells)
    owners = np.repeat(np.arange(len(grids)), [grid.size for grid in grids])
    bins = owners * COLORS + np.concatenate([grid.ravel() for grid in grids])  # (cells,)
    marks = np.empty((DIHEDRALS, len(grids), _SIDES + 1), dtype=np.uint64)
    for dihedral in range(DIHEDRALS):
        sums = np.bincount(bins, weights[dihedral], minlength=COLORS * len(grids))
        marks[dihedral, :, :COLORS] = sums.reshape(len(grids), COLORS)
        height, width = (sides[:, 1], sides[:, 0]) if swaps_sides(dihedral) else (sides[:, 0], sides[:, 1])
        marks[dihedral, :, _SIDES] = height * (MAX_SIDE + 1) + width
    places = [place for example in content for place in range(len(example))]
    salts = _salts(max(places) + 1)[places]
    starts = np.cumsum([0] + [len(example) for example in content[:-1]])
    return scramble(np.add.reduceat(marks * salts[:, None], starts, axis=1))


@lru_cache(maxsize=MAX_SIDE**2)
def _weights(height: int, width: int) -> npt.NDArray[np.float64]:
    """Return by dihedral and cell, (8, height * width), the weight of the new position: below 2**42, so that sums are exact."""
    weights = np.random.default_rng(8).integers(1, 2**42, size=(MAX_SIDE, MAX_SIDE)).astype(np.float64)
    rows = []
    for dihedral in range(DIHEDRALS):
        sides = (width, height) if swaps_sides(dihedral) else (height, width)
        rows.append(apply_dihedral(weights[: sides[0], : sides[1]], inverse_dihedral(dihedral)).ravel())
    return np.stack(rows)


def _salts(count: int) -> Hashes:
    """Return `count` odd multipliers, (count,), that make the terms of a sum distinguishable."""
    return scramble(np.arange(1, count + 1, dtype=np.uint64)) | np.uint64(1)
