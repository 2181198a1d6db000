"""Tasks, folders and configs that are small enough to train on within a test."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import orjson
import pytest

from augment.grid import Grid
from augment.task import Pair, Task
from pipeline.config import BuildConfig, Config, override
from pipeline.data.build import build
from pipeline.data.dataset import TaskDataset
from pipeline.data.sources import Source
from pipeline.kaggle.rehearsal.exam import _challenge

TINY = (
    "model.hidden_size=16",
    "model.heads=2",
    "model.inner_multiple=16",
    "model.H_cycles=2",
    "model.L_cycles=1",
    "train.pack_tokens=120",
    "train.log_steps=2",
    "train.precision=float32",
    "train.execution=eager",
    "optimizer.warmup_steps=0",
    "predict.views=4",
    "predict.round_views=2",
    "predict.segments=2",
    "build.augmentations=5",
)


def set_options(settings: Iterable[str]) -> list[str]:
    """Settings as a command line has them."""
    return [part for setting in settings for part in ("--set", setting)]


def tiny_config(*settings: str) -> Config:
    """A config of a few thousand weights: TRM with two states, compositional memory, fitted canvases, three segments."""
    base = ("memory.kind=compositional", "memory.tokens=1", "train.canvas=fitted", "train.segments=3", "model.positions=2d")
    return override(Config(), (*TINY, *base, *settings))


def random_grid(rng: np.random.Generator) -> Grid:
    return rng.integers(0, 10, size=rng.integers(1, 5, size=2), dtype=np.uint8)


def upside_down(grid: Grid) -> Grid:
    """The rule of the tiny tasks, unless another is given."""
    return grid[::-1].copy()


def tiny_source(
    seed: int = 0,
    tasks: int = 4,
    name: str = "tiny",
    rule: Callable[[Grid], Grid] = upside_down,
    draw: Callable[[np.random.Generator], Grid] = random_grid,
) -> Source:
    """Tasks of one rule, three demonstrations each, every other one with two tests."""
    rng = np.random.default_rng(seed)
    made, solutions = [], {}
    for number in range(tasks):
        task_id = f"{name}{number:03d}"
        train = tuple(Pair(grid, rule(grid)) for grid in (draw(rng) for _ in range(3)))
        test = tuple(draw(rng) for _ in range(1 + number % 2))
        made.append(Task(task_id, train, test))
        solutions[task_id] = tuple(rule(grid) for grid in test)
    return Source(name, tuple(made), solutions)


def tiny_dataset(
    seed: int = 0, tasks: int = 4, augmentations: int = 5, rule: Callable[[Grid], Grid] = upside_down
) -> TaskDataset:
    return build([tiny_source(seed, tasks, rule=rule)], [], BuildConfig(augmentations, "all", 0, 1), leakage="allow")


def refusal(call: Callable[[], object], kind: type[Exception] = ValueError) -> str:
    """Return the message of the error that `call` must raise, which has to be one printable line."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 500
    return message


def write_kaggle(folder: Path, source: Source, split: str, with_solutions: bool) -> str:
    """Lay `source` out as in a competition folder, and return what names it there."""
    folder.mkdir(parents=True, exist_ok=True)
    challenges = {task.id: _challenge(task) for task in source.tasks}
    (folder / f"arc-agi_{split}_challenges.json").write_bytes(orjson.dumps(challenges))
    if with_solutions:
        solutions = {task_id: [grid.tolist() for grid in grids] for task_id, grids in source.solutions.items()}
        (folder / f"arc-agi_{split}_solutions.json").write_bytes(orjson.dumps(solutions))
    return f"kaggle:{folder}:{split}"
