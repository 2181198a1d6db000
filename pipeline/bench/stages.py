"""The sides of every stage: what is done with an input of some size, the published way and ours."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from augment.task import Task
from augment.transform import transform_from_int
from eval.vote import Ballot
from pipeline.asking import Asker
from pipeline.bench.measure import Prepare, Work
from pipeline.bench.plan import CANVAS, MEMORY, Plan, build_mix, first_tasks, load_sources
from pipeline.bench.published import build_published, vote_published
from pipeline.candidates import CandidateBuilder
from pipeline.config import PredictConfig
from pipeline.data.build import BuildConfig, build
from pipeline.data.pack import Examples, Pack, PackMaker, Samples
from pipeline.data.sources import Source
from pipeline.data.store import Store
from pipeline.engine import to_batch
from pipeline.execution import Inputs, Outcome
from pipeline.reasoner.loss import segment_loss
from pipeline.reasoner.network import Batch, Network, make_network
from pipeline.tables import take_gradients
from pipeline.votes import count_votes


class Building:
    """Builds a dataset of some tasks, in a folder of its own each time."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.source, _ = load_sources(plan)
        self.bytes: dict[str, int] = {}
        """Of the dataset of so many tasks, by side."""
        self.views: dict[str, int] = {}

    def tasks(self, count: int) -> list[Task]:
        """Return so many tasks of the evaluation set, evenly spread."""
        return list(first_tasks(self.source, count).tasks)

    def prepare(self, side: str, count: int) -> Work:
        """Return the building of `count` tasks."""
        tasks = self.tasks(count)

        def work() -> None:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                if side == "published":
                    self.views[side] = build_published(tasks, self.plan.augmentations, 0, folder)
                else:
                    source = Source("some", tuple(tasks), {})
                    store = build([source], [], BuildConfig(self.plan.augmentations), leakage="allow")
                    store.save(folder)
                    self.views[side] = len(store.transforms)
                self.bytes[side] = sum(path.stat().st_size for path in folder.iterdir())

        return work


def build_once(side: str, plan: Plan) -> None:
    """Build the largest dataset of the plan: what the memory of a process is measured by."""
    Building(plan).prepare(side, plan.build_sizes[-1])()


class Computing:
    """One side of training and prediction: a network, and packs of one kind of canvas."""

    def __init__(self, side: str, store: Store, plan: Plan, device: torch.device, dtype: torch.dtype) -> None:
        self.side, self.store, self.plan, self.device, self.dtype = side, store, plan, device, dtype
        memory = MEMORY[side]
        self.network: Network = make_network(plan.model, memory, len(store.task_ids), len(store.transforms), 0).to(device)
        self.pairs = PackMaker(store, CANVAS[side], memory.tokens, "pairs")
        self.tests = PackMaker(store, CANVAS[side], memory.tokens, "tests")
        self.asker = Asker(device, dtype, self.network, self.tests, PredictConfig(segments=1))

    def batch(self, samples: Samples) -> Batch:
        """Return the pack of training `samples`, on the device."""
        pack = self.pairs.make(samples[self.pairs.order(samples)])
        return to_batch(pack, self.pairs.memory_tokens, self.device)

    def inputs(self, batch: Batch) -> Inputs:
        """Return what the first segment of `batch` depends on."""
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
        self.asker.answer(samples[self.tests.order(samples)])

    def weights_bytes(self) -> int:
        """Bytes of the weights in a checkpoint, task memory included."""
        return sum(tensor.nbytes for tensor in self.network.state_dict().values())


class Draws:
    """The sequences that all sides of a stage work on: random, with as many cells on average as those of the dataset."""

    def __init__(self, store: Store, examples: Examples, tries: int = 256) -> None:
        self.maker = PackMaker(store, "fitted", 0, examples)
        self.store, self.examples, self.tries = store, examples, tries
        self.mean_cells = float(self.maker.tokens(self._draw(4096, 0)).mean())
        sizes = np.stack((store.grid_height, store.grid_width), axis=1).astype(np.int64)
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
        first, last = (self.store.transform_start[self.maker.task[test] + end] for end in (0, 1))
        return Samples(test, rng.integers(first, last), np.zeros((size, 2), np.int64))


def train_once(side: str, plan: Plan, dtype: torch.dtype) -> None:
    """Train on the largest pack of the plan, on the CPU: what the memory of a process is measured by."""
    store = build_mix(plan)
    Computing(side, store, plan, torch.device("cpu"), dtype).train(Draws(store, "pairs").samples(plan.train_sizes[-1]))


def predict_once(side: str, plan: Plan, dtype: torch.dtype) -> None:
    """Answer to the most views of the plan, on the CPU: what the memory of a process is measured by."""
    store = build_mix(plan)
    Computing(side, store, plan, torch.device("cpu"), dtype).answer(Draws(store, "tests").samples(plan.view_sizes[-1]))


def on_samples(work: Callable[[Samples], None], draws: Draws) -> Prepare:
    """Return the preparation of `work` on samples of some size."""

    def prepare(size: int) -> Work:
        samples = draws.samples(size)
        return lambda: work(samples)

    return prepare


class Voting:
    """Counts candidates: the tokens of test inputs seen through views, with few cells wrong."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.draws = Draws(store, "tests", tries=1)
        self.makers = {"published": PackMaker(store, "full", 0, "tests"), "ours": PackMaker(store, "fitted", 0, "tests")}

    def prepare(self, side: str, size: int) -> Work:
        """Return the counting of `size` candidates."""
        maker, samples = self.makers[side], self.draws.samples(size)
        samples = samples[maker.order(samples)]
        pack = maker.make(samples)
        rng = np.random.default_rng(size)
        wrong = rng.random(len(pack.inputs)) < 1e-3
        tokens = np.where(wrong, rng.integers(0, 12, len(wrong)), pack.inputs).astype(np.uint8)
        codes, probability = self.store.transforms[samples.transform], rng.random(size).astype(np.float32)
        if side == "ours":
            return lambda: self._count(samples, pack, codes, tokens, probability)
        places = [self._place(test) for test in samples.example.tolist()]
        transforms = [transform_from_int(code) for code in codes.tolist()]  # published: read off the name of the view
        canvases = tokens.reshape(size, 30, 30)
        return lambda: vote_published(places, transforms, canvases, probability)

    def _count(self, samples: Samples, pack: Pack, codes: npt.NDArray[np.uint32], tokens: npt.NDArray[np.uint8],
               probability: npt.NDArray[np.float32]) -> None:  # fmt: skip
        builder, ballot = CandidateBuilder(), Ballot("bench")
        builder.add(samples.example, pack, codes, tokens, probability)
        count_votes(ballot, builder.build(), self.store)
        for test in np.unique(samples.example).tolist():
            ballot.attempts(*self._place(test))

    def _place(self, test: int) -> tuple[str, int]:
        return self.store.task_ids[self.store.test_task[test]], int(self.store.test_index[test])
