"""Prediction of puzzles: every test question once, as it is. One right answer each, so there is nothing to vote on.

Reads a dataset of puzzles and weights, knows no answers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator

from pipeline.config import PredictConfig
from pipeline.data.packs import make_packs
from pipeline.data.puzzles.build import PuzzleStore
from pipeline.inference.forward import Asker
from pipeline.inference.vote_file import source_name
from pipeline.system.progress_bar import Progress
from pipeline.system.time_limit import Budget
from pipeline.weights import Weights, network_from

FIRST_ROUND = 256
"""Puzzles of the first round."""


@dataclass(frozen=True)
class PuzzleAnswers:
    """What the network says to every test question of a dataset, in its order."""

    tokens: npt.NDArray[np.uint8]
    """(Q, H, W); 0 throughout where time ran out before it was asked."""
    halting: npt.NDArray[np.float32]
    """(Q,) halting probability."""
    asked: npt.NDArray[np.bool_]
    """(Q,)"""
    source: str
    """The checkpoint that predicted them."""


def predict_puzzles(
    accelerator: Accelerator, dtype: torch.dtype, weights: Weights, store: PuzzleStore, config: PredictConfig, budget: Budget
) -> Iterator[PuzzleAnswers]:
    """Yield what is known after each of several rounds, each of as many puzzles as all before; the same in every process.

    Ends after the last test question of `store`, or after the round that is cut short by `budget`.
    """
    network, _ = network_from(weights, store)
    maker = make_packs(store, weights.config.train.canvas, weights.config.memory.tokens, "tests")
    asker = Asker(accelerator.device, dtype, network, maker, config)
    samples = maker.plain()
    shape = store.test_questions.shape
    tokens = torch.zeros(shape, dtype=torch.uint8)
    halting, asked = torch.zeros(len(tokens)), torch.zeros(len(tokens), dtype=torch.uint8)
    source = source_name(weights.path, weights.step, weights.data_hash)
    stop = 0
    while stop < len(samples):
        start, stop = stop, min(len(samples), max(FIRST_ROUND, 2 * stop))
        mine = samples[start + accelerator.process_index : stop : accelerator.num_processes]
        with Progress("predicting", len(mine), "puzzles") as progress:
            for answer in asker.ask(mine, budget):
                places = torch.from_numpy(answer.samples.example)
                tokens[places] = torch.from_numpy(answer.tokens).unflatten(0, (len(places), *shape[1:]))
                halting[places] = torch.from_numpy(answer.probability)
                asked[places] = 1
                progress.add(len(places))
        found = [part.clone() for part in (tokens, halting, asked)]
        if accelerator.num_processes > 1:  # each process has its share and zeros elsewhere
            found = [accelerator.reduce(part.to(accelerator.device), "sum").cpu() for part in found]
        yield PuzzleAnswers(found[0].numpy(), found[1].numpy(), found[2].numpy() > 0, source)
        if not found[2][start:stop].all():
            return
