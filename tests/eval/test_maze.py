"""A shortest path is recognised whichever it is; anything else is refused. Checked against all paths of small mazes."""

from itertools import product

import numpy as np
import pytest

from eval.maze import is_maze, shows_shortest_path


def simple_paths(maze: str, side: int) -> list[tuple[int, ...]]:
    """All simple paths from S to G, as places, by trying every step."""
    found, open_ends = [], [(maze.index("S"),)]
    while open_ends:
        path = open_ends.pop()
        row, column = divmod(path[-1], side)
        if maze[path[-1]] == "G":
            found.append(path)
            continue
        for y, x in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            place = y * side + x
            if 0 <= y < side and 0 <= x < side and maze[place] != "#" and place not in path:
                open_ends.append((*path, place))
    return found


@pytest.mark.parametrize("seed", range(12))
def test_of_all_markings_those_of_a_shortest_path_are_taken(seed: int) -> None:
    rng, side = np.random.default_rng(seed), 3
    cells = rng.choice(list("#   "), side * side)
    cells[rng.choice(side * side, 2, replace=False)] = ["S", "G"]
    maze = "".join(cells)
    paths = simple_paths(maze, side)
    least = min(map(len, paths), default=0)
    shortest = {frozenset(path[1:-1]) for path in paths if len(path) == least}
    free = [place for place, cell in enumerate(maze) if cell == " "]
    for marks in product((False, True), repeat=len(free)):
        marked = {place for place, mark in zip(free, marks, strict=True) if mark}
        shown = "".join("o" if place in marked else cell for place, cell in enumerate(maze))
        assert shows_shortest_path(maze, shown) == (frozenset(marked) in shortest), (maze, shown)


def test_a_path_does_not_leave_the_square_at_its_side_nor_change_the_question() -> None:
    assert not shows_shortest_path(" S#G# ## ", " S#G# ## ")  # the third place and the fourth are in different rows
    assert shows_shortest_path("SG  ", "SG  ")
    maze = "S G######"
    assert shows_shortest_path(maze, "SoG######")
    for wrong in ("SoGo#####", "ooG######", "S G######", "SoS######", "So       ", "So?######", "SoG#####?", "SoG#####"):
        assert not shows_shortest_path(maze, wrong)
    assert is_maze(maze)
    assert not is_maze("1..2....3....4..")
