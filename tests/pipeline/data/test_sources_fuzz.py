"""Damaged files: many seeded mutations, each of which must load as what it says or be refused in one line.

A plain second reading (`read_*` below, on the json module) decides what is valid; the project's reading has to agree
with it on every mutation, so that nothing bad passes and nothing good is refused.
"""

import json
from collections import Counter
from collections.abc import Callable

import numpy as np

from augment.errors import InputError
from augment.grid import Grid
from augment.task import Task
from pipeline.data.task_files import parse_challenges, parse_solutions
from tests.fuzz.mutate import Rng, mutate_bytes, mutate_structure, pick

Rows = list[list[int]]


def read_json(data: bytes) -> object:
    """Return the document, read by the json module; raises ValueError or RecursionError for whatever is not allowed."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    document = json.loads(data.decode(), object_pairs_hook=unique)
    json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    return document


def demand(condition: bool) -> None:
    if not condition:
        raise ValueError("invalid")


def read_rows(rows: object) -> Rows:
    demand(isinstance(rows, list) and 1 <= len(rows) <= 30)
    for row in rows:
        demand(isinstance(row, list) and 1 <= len(row) <= 30 and len(row) == len(rows[0]))
        demand(all(type(color) is int and 0 <= color <= 9 for color in row))
    return rows


def read_pairs(pairs: object) -> list[tuple[Rows, Rows]]:
    demand(isinstance(pairs, list) and len(pairs) > 0)
    for pair in pairs:
        demand(isinstance(pair, dict) and {"input", "output"} <= pair.keys())
    return [(read_rows(pair["input"]), read_rows(pair["output"])) for pair in pairs]


def read_challenges(document: object) -> tuple[list, dict[str, list[Rows]]]:
    demand(isinstance(document, dict) and len(document) > 0)
    tasks, solutions = [], {}
    for task_id, task in document.items():
        demand(isinstance(task, dict) and {"train", "test"} <= task.keys())
        demand(isinstance(task["test"], list) and len(task["test"]) > 0)
        demand(all(isinstance(test, dict) and "input" in test for test in task["test"]))
        tasks.append((task_id, read_pairs(task["train"]), [read_rows(test["input"]) for test in task["test"]]))
        outputs = [read_rows(test["output"]) for test in task["test"] if test.get("output") not in (None, [])]
        if len(outputs) == len(task["test"]):
            solutions[task_id] = outputs
    return tasks, solutions


def read_solutions(document: object, tasks: tuple[Task, ...]) -> dict[str, list[Rows]]:
    demand(isinstance(document, dict) and document.keys() == {task.id for task in tasks})
    for task in tasks:
        demand(isinstance(document[task.id], list) and len(document[task.id]) == len(task.test))
    return {task_id: [read_rows(rows) for rows in outputs] for task_id, outputs in document.items()}


def to_rows(grid: Grid) -> Rows:
    assert grid.dtype == np.uint8
    return grid.tolist()


def to_plain(tasks: tuple[Task, ...]) -> list:
    return [
        (task.id, [(to_rows(pair.input), to_rows(pair.output)) for pair in task.train], [to_rows(grid) for grid in task.test])
        for task in tasks
    ]


def to_plain_solutions(solutions: dict[str, tuple[Grid, ...]]) -> dict[str, list[Rows]]:
    return {task_id: [to_rows(grid) for grid in outputs] for task_id, outputs in solutions.items()}


def attempt(load: Callable[[], object], name: str) -> object | None:
    """Return what `load` gives, None if it refuses; the refusal has to be one short line that begins with `name`."""
    try:
        return load()
    except InputError as error:
        message = str(error)
        assert message.isprintable(), message
        assert message.startswith(name), message
        assert len(message) < 300 + len(name), message
        return None


def expect(read: Callable[[], object]) -> object | None:
    try:
        return read()
    except (ValueError, RecursionError):
        return None


def random_rows(rng: Rng) -> Rows:
    height, width = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    return rng.integers(0, 10, (height, width)).tolist()


def random_pairs(rng: Rng) -> list:
    return [{"input": random_rows(rng), "output": random_rows(rng)} for _ in range(int(rng.integers(1, 4)))]


def random_challenges(rng: Rng, solved: bool) -> dict:
    tasks = {f"{int(rng.integers(1 << 32)):08x}": {"train": random_pairs(rng), "test": random_pairs(rng)} for _ in range(2)}
    for test in [test for task in tasks.values() for test in task["test"]]:
        if not solved:
            del test["output"]
    return tasks


def mutate(rng: Rng, document: object) -> bytes:
    if rng.random() < 0.7:
        return mutate_structure(rng, document)
    return mutate_bytes(rng, json.dumps(document, indent=pick(rng, (None, 1))).encode())


def assert_both(outcomes: Counter[bool]) -> None:
    """Loading and refusing happened often, so both are tested."""
    assert outcomes[True] > outcomes.total() / 50, outcomes
    assert outcomes[False] > outcomes.total() / 3, outcomes


def test_mutated_challenges_load_as_they_read_or_are_refused() -> None:
    rng = np.random.default_rng(0)
    originals = [random_challenges(rng, solved=number % 2 == 0) for number in range(80)]
    outcomes: Counter[bool] = Counter()
    for _ in range(800):
        data = mutate(rng, pick(rng, originals))
        got = attempt(lambda data=data: parse_challenges(data, "x.json"), "x.json: ")
        expected = expect(lambda data=data: read_challenges(read_json(data)))
        outcomes[got is not None] += 1
        assert (got and (to_plain(got[0]), to_plain_solutions(got[1]))) == expected, data[:2000]
    assert_both(outcomes)


def test_mutated_solutions_load_as_they_read_or_are_refused() -> None:
    rng = np.random.default_rng(0)
    originals = [random_challenges(rng, solved=True) for _ in range(40)]
    outcomes: Counter[bool] = Counter()
    for _ in range(400):
        solved = pick(rng, originals)
        tasks, _ = parse_challenges(json.dumps(solved).encode(), "x.json")
        outputs = {task_id: [test["output"] for test in task["test"]] for task_id, task in solved.items()}
        data = mutate(rng, outputs)
        got = attempt(lambda data=data, tasks=tasks: parse_solutions(data, "y.json", tasks), "y.json: ")
        expected = expect(lambda data=data, tasks=tasks: read_solutions(read_json(data), tasks))
        outcomes[got is not None] += 1
        assert (got and to_plain_solutions(got)) == expected, data[:2000]
    assert_both(outcomes)
