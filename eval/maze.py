"""Whether a predicted maze shows a shortest path. Mazes are texts, row by row: # wall, space, S start, G goal, o path."""

import math
from collections.abc import Collection


def is_maze(question: str) -> bool:
    """Return whether a question is a maze, not a sudoku."""
    return "S" in question and "G" in question


def shows_shortest_path(question: str, prediction: str) -> bool:
    """Return whether `prediction` is `question` with some shortest path from S to G marked, and nothing else."""
    if len(prediction) != len(question):
        return False
    changed = [place for place, (asked, shown) in enumerate(zip(question, prediction, strict=True)) if asked != shown]
    if any((question[place], prediction[place]) != (" ", "o") for place in changed):
        return False
    start, goal, side = question.index("S"), question.index("G"), math.isqrt(len(question))
    shortest = _distance({place for place, asked in enumerate(question) if asked != "#"}, start, goal, side)
    marked = {*changed, start, goal}
    return shortest is not None and len(marked) == shortest + 1 and _distance(marked, start, goal, side) == shortest


def _distance(free: Collection[int], start: int, goal: int, side: int) -> int | None:
    """Return the steps from `start` to `goal` over neighboring `free` places of a square; None where there is no way."""
    reached, frontier, steps = {start}, {start}, 0
    while frontier and goal not in reached:
        near = {place + step for place in frontier for step in (-side, side)}
        near |= {place - 1 for place in frontier if place % side} | {place + 1 for place in frontier if (place + 1) % side}
        frontier = {place for place in near if place in free and place not in reached}
        reached |= frontier
        steps += 1
    return steps if goal in reached else None
