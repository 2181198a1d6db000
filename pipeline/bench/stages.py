"""The sides of every stage: the work on an input of some size, the published way and ours."""

import logging
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch._dynamo.exc import FailOnRecompileLimitHit

from augment.transform import transform_from_int
from eval.vote import Ballot
from pipeline.bench.measure import Prepare, Work
from pipeline.bench.plan import CANVAS, MEMORY, Plan, Stage, build_mix, first_tasks, load_sources
from pipeline.bench.published_way import build_published, vote_published
from pipeline.config import BuildConfig, PredictConfig
from pipeline.data.build import build
from pipeline.data.dataset import TaskDataset
from pipeline.data.packs import Examples, PackMaker, Samples
from pipeline.data.sources import Source
from pipeline.device import to_batch
from pipeline.inference.candidates import CandidateBuilder, count_votes
from pipeline.inference.forward import InferenceRunner
from pipeline.models.attention import choose_way
from pipeline.models.layout import Room
from pipeline.models.loss import segment_loss
from pipeline.models.network import Batch, Network, make_network
from pipeline.training.compilation import SPARE_SEQUENCES, Graph, Inputs, Outcome, compile_blocks, grid_kernel
from pipeline.training.memory_tables import take_gradients

logger = logging.getLogger(__name__)


class Building:
    """Builds a dataset of some tasks, in a new folder each time."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.source, _ = load_sources(plan)
        self.bytes: dict[str, int] = {}
        """Of the dataset of so many tasks, by side."""
        self.views: dict[str, int] = {}

    def prepare(self, side: str, count: int) -> Work:
        """Return the work of building `count` tasks of the evaluation set, evenly spread."""
        tasks = first_tasks(self.source, count).tasks

        def work() -> None:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                if side == "published":
                    self.views[side] = build_published(tasks, self.plan.augmentations, 0, folder)
                else:
                    source = Source("some", tasks, {})
                    dataset = build([source], [], BuildConfig(self.plan.augmentations), leakage="allow")
                    dataset.save(folder)
                    self.views[side] = len(dataset.transforms)
                self.bytes[side] = sum(path.stat().st_size for path in folder.iterdir())

        return work


class Computing:
    """One side of training and prediction: a network, and packs of one kind of canvas."""

    def __init__(self, side: str, dataset: TaskDataset, plan: Plan, device: torch.device, dtype: torch.dtype) -> None:
        self.side, self.dataset, self.plan, self.device, self.dtype = side, dataset, plan, device, dtype
        memory = MEMORY[side]
        self.network: Network = make_network(plan.model, memory, len(dataset.task_ids), len(dataset.transforms), 0).to(device)
        self.pairs = PackMaker(dataset, CANVAS[side], memory.tokens, "pairs")
        self.tests = PackMaker(dataset, CANVAS[side], memory.tokens, "tests")
        self.runner = InferenceRunner(device, dtype, self.network, self.tests, PredictConfig(segments=1))

    def batch(self, samples: Samples) -> Batch:
        """Return the pack of training `samples`, on the device."""
        pack = self.pairs.make(samples[self.pairs.order(samples)])
        return to_batch(pack, self.pairs.memory_tokens, self.device)

    def inputs(self, batch: Batch) -> Inputs:
        """Return the inputs of the first segment of `batch`."""
        state = self.network.reasoner.initial_state(batch.layout.tokens, self.dtype)
        sequences = sum(group.count for group in batch.layout.groups)
        return Inputs(state, batch, None, torch.tensor(1 / sequences, device=self.device))

    def compute(self, inputs: Inputs) -> Outcome:
        """Forward, loss and backward of one segment; the gradients are left on the parameters."""
        segment, batch = self.network(inputs.state, inputs.batch), inputs.batch
        assert batch.labels is not None, "training pairs have labels"
        loss = segment_loss(segment.logits, segment.halting, batch.labels, batch.layout)
        (loss.total * inputs.scale).backward()
        figures = torch.stack((loss.token.detach(), loss.halting.detach(), loss.exact.sum().float()))
        return Outcome(figures, segment.halting.detach(), segment.state, take_gradients(self.network))

    def train(self, samples: Samples) -> None:
        """One step, the pack made for it included."""
        self.network.train().zero_grad()
        self.compute(self.inputs(self.batch(samples)))

    def answer(self, samples: Samples) -> None:
        """Answer to views of test inputs."""
        self.network.eval()
        self.runner.forward(samples[self.tests.order(samples)])

    def weights_bytes(self) -> int:
        """Bytes of the weights in a checkpoint, task memory included."""
        return sum(tensor.nbytes for tensor in self.network.state_dict().values())


class Draws:
    """The sequences that all sides of a stage work on: random, with as many cells on average as those of the dataset."""

    def __init__(self, dataset: TaskDataset, examples: Examples, tries: int = 256) -> None:
        self.maker = PackMaker(dataset, "fitted", 0, examples)
        self.dataset, self.examples, self.tries = dataset, examples, tries
        self.mean_cells = float(self.maker.tokens(self._draw(4096, 0)).mean())
        sizes = np.stack((dataset.grid_height, dataset.grid_width), axis=1).astype(np.int64)
        self.box = sizes[self.maker.input]
        if self.maker.output is not None:
            self.box = np.maximum(self.box, sizes[self.maker.output])

    def samples(self, size: int) -> Samples:
        """Return `size` samples, always the same: of many draws, the one with the most usual mean of cells."""
        drawn = [self._draw(size, seed) for seed in range(1, self.tries + 1)]
        return min(drawn, key=lambda samples: abs(float(self.maker.tokens(samples).mean()) - self.mean_cells))

    def useful_tokens(self, samples: Samples) -> int:
        """Return the cells of the smallest canvases that hold the grids."""
        return int(self.box[samples.example].prod(axis=1).sum())

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
        Building(plan).prepare(side, plan.build_sizes[-1])()
        return
    dataset = build_mix(plan)
    computing = Computing(side, dataset, plan, torch.device("cpu"), dtype)
    if stage == "train":
        computing.train(Draws(dataset, "pairs").samples(plan.train_sizes[-1]))
    else:
        computing.answer(Draws(dataset, "tests").samples(plan.view_sizes[-1]))


def on_samples(work: Callable[[Samples], None], draws: Draws) -> Prepare:
    """Return the preparation of `work` on samples of some size."""

    def prepare(size: int) -> Work:
        samples = draws.samples(size)
        return lambda: work(samples)

    return prepare


def prepare_votes(dataset: TaskDataset, draws: Draws, side: str, size: int) -> Work:
    """Return the work of counting `size` candidates: test inputs as views show them, with few cells wrong."""
    maker, samples = PackMaker(dataset, CANVAS[side], 0, "tests"), draws.samples(size)
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
        builder, ballot = CandidateBuilder(), Ballot("bench")
        builder.add(samples.example, pack, codes, tokens, probability)
        count_votes(ballot, builder.build(), dataset)
        for place in dict.fromkeys(places):
            ballot.attempts(*place)

    return count


def gpu_sides(sides: Mapping[str, Computing], draws: Draws) -> dict[str, Prepare]:
    """Return the further sides of training on a GPU, those that run; none on a CPU."""
    ours = sides["ours"]
    if ours.device.type != "cuda":
        return {}
    published = Computing("published", ours.dataset, ours.plan, ours.device, ours.dtype)
    further = {"published, compiled": Accelerated(published, draws), "compiled": Accelerated(ours, draws)}
    further["graphed"] = Accelerated(ours, draws, graphed=True)
    found: dict[str, Prepare] = {}
    for name, side in further.items():
        try:
            side.prepare(ours.plan.train_sizes[0])()
        except (RuntimeError, ImportError, FailOnRecompileLimitHit) as error:
            logger.warning("%s: does not run here: %s", name, str(error).splitlines()[0])
        else:
            found[name] = side.prepare
    return found


class Accelerated:
    """One side of training with compiled blocks, on packs that are laid into a room unless their canvases are all full."""

    def __init__(self, eager: Computing, draws: Draws, graphed: bool = False) -> None:
        """Take everything from `eager` but its network, which stays as it is."""
        self.draws, self.graphed = draws, graphed
        self.computing = Computing(eager.side, eager.dataset, eager.plan, eager.device, eager.dtype)
        compile_blocks(self.computing.network)
        self.works: dict[int, Work] = {}

    def prepare(self, size: int) -> Work:
        """Return the step on `size` sequences, the pack made for it included; what is set up once has been."""
        if size not in self.works:
            samples = self.draws.samples(size)
            self.works[size] = self._graphed(samples) if self.graphed else lambda: self._step(samples)
            self.works[size]()
        return self.works[size]

    def _inputs(self, samples: Samples) -> Inputs:
        computing = self.computing
        pack = computing.pairs.make(samples[computing.pairs.order(samples)])
        room = room_for(len(pack.inputs), len(samples), computing)
        return computing.inputs(to_batch(pack, computing.pairs.memory_tokens, computing.device, room))

    def _step(self, samples: Samples) -> None:
        self.computing.network.train().zero_grad()
        self.computing.compute(self._inputs(samples))

    def _graphed(self, samples: Samples) -> Work:
        graph = Graph(self.computing.compute, self._inputs(samples), self.computing.network)

        def work() -> None:
            self.computing.network.zero_grad(set_to_none=False)
            graph(self._inputs(samples))

        return work


def room_for(cells: int, sequences: int, computing: Computing) -> Room:
    """Return a room such as training has for packs of about so many cells and sequences; full canvases fill it."""
    pairs, model = computing.pairs, computing.plan.model
    longest, kernel = int(pairs.tokens(pairs.plain()).max()), grid_kernel(model)
    if pairs.canvas == "full":
        way = choose_way(computing.device, computing.dtype, model.hidden_size // model.heads)
        return Room(cells, sequences, longest, pairs.memory_tokens, kernel, way)
    most = cells + longest - pairs.memory_tokens
    return Room(most, math.ceil(SPARE_SEQUENCES * sequences) + 1, longest, pairs.memory_tokens, kernel, "packed")
