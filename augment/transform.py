"""Transforms: a permutation of the colors and a dihedral symmetry. A transformed task is a view of it.

The two parts commute. A transform has three forms: a `Transform`, a short text for files and people (`code`), and an integer
0..2,903,039 (`transform_to_int`), of which datasets hold arrays.
"""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from augment.color import IDENTITY_COLORS, PERMUTATIONS, Colors, rank_permutations, unrank_permutations
from augment.dihedral import DIHEDRALS, apply_dihedral, check_dihedral, inverse_dihedral
from augment.errors import InputError
from augment.grid import COLORS, Grid
from augment.task import Pair, Task

TRANSFORMS = DIHEDRALS * PERMUTATIONS
"""Number of transforms: 8 * 9! = 2,903,040. Integer codes are below it."""
Codes = npt.NDArray[np.uint32]
"""(N,) uint32: transforms as integers, dihedral * 9! + the lexicographic rank of the images of colors 1..9."""


@dataclass(frozen=True)
class Transform:
    """A permutation of the colors, then a dihedral symmetry. Raises InputError when either is not one."""

    dihedral: int
    """0..7, see `augment.dihedral`."""
    colors: Colors
    """The new color of each of the ten colors; color 0 stays."""

    def __post_init__(self) -> None:
        check_dihedral(self.dihedral)
        if sorted(self.colors) != list(range(COLORS)) or self.colors[0] != 0:
            raise InputError(f"a color permutation has the ten colors 0..9, each once, with 0 first; got {self.colors}")

    def apply(self, grid: Grid) -> Grid:
        """Return the transformed `grid`: (H, W), or (W, H) if the dihedral swaps its sides."""
        return apply_dihedral(np.array(self.colors, dtype=np.uint8)[grid], self.dihedral)

    def apply_task(self, task: Task) -> Task:
        """Return the view of `task`: every grid is transformed; the id and the order of pairs stay."""
        train = tuple(Pair(self.apply(pair.input), self.apply(pair.output)) for pair in task.train)
        return Task(task.id, train, tuple(self.apply(grid) for grid in task.test))

    def inverse(self) -> "Transform":
        """Return the transform that undoes this one."""
        return Transform(inverse_dihedral(self.dihedral), tuple(self.colors.index(color) for color in range(COLORS)))

    @property
    def code(self) -> str:
        """The transform as text, such as `3.463582197`: the dihedral, a dot, and the new colors of colors 1..9."""
        return f"{self.dihedral}." + "".join(str(color) for color in self.colors[1:])

    @classmethod
    def parse(cls, code: str) -> "Transform":
        """Return the transform whose `code` is the given text. Raises InputError, naming the text, when there is none."""
        if not re.fullmatch(r"[0-9]\.[0-9]{9}", code, flags=re.ASCII):
            raise InputError(f"transform {code!r:.60}: expected a digit, a dot and nine digits, such as '3.463582197'")
        dihedral, colors = int(code[0]), (0, *(int(color) for color in code[2:]))
        if dihedral >= DIHEDRALS:
            raise InputError(f"transform {code!r:.60}: a dihedral is 0..{DIHEDRALS - 1}, got {dihedral}")
        if sorted(colors) != list(range(COLORS)):
            missing = "".join(str(color) for color in range(1, COLORS) if color not in colors[1:])
            raise InputError(f"transform {code!r:.60}: expected each of the colors 1..9 once, but {missing} is missing")
        return cls(dihedral, colors)


IDENTITY = Transform(0, IDENTITY_COLORS)


def transform_to_int(transform: Transform) -> int:
    """Return `transform` as an integer below `TRANSFORMS`; the identity is 0."""
    colors = np.array([transform.colors], dtype=np.uint8)
    return int(encode_transforms(np.array([transform.dihedral], dtype=np.uint8), colors)[0])


def transform_from_int(code: int) -> Transform:
    """Return the transform that `transform_to_int` turns into `code`. Raises InputError for other integers."""
    dihedral, colors = decode_transforms(np.array([code]))  # of a type that holds it, so that it is checked
    return Transform(int(dihedral[0]), tuple(colors[0].tolist()))


def encode_transforms(dihedral: npt.NDArray[np.uint8], colors: npt.NDArray[np.uint8]) -> Codes:
    """Return integer codes of `dihedral` (N,) 0..7 and `colors` (N, 10), permutations that keep 0; they are not checked."""
    return dihedral.astype(np.uint32) * np.uint32(PERMUTATIONS) + rank_permutations(colors[:, 1:])


def decode_transforms(codes: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return dihedrals (N,) and colors (N, 10) of integer codes (N,). Raises InputError unless they are below `TRANSFORMS`."""
    wrong = codes[(codes < 0) | (codes >= TRANSFORMS)]
    if wrong.size:
        raise InputError(f"an integer transform code is 0..{TRANSFORMS - 1}, got {wrong[0]!s:.60}")
    dihedral, ranks = np.divmod(codes.astype(np.uint32), np.uint32(PERMUTATIONS))
    colors = np.zeros((len(codes), COLORS), dtype=np.uint8)
    colors[:, 1:] = unrank_permutations(ranks, COLORS - 1) + 1
    return dihedral.astype(np.uint8), colors
