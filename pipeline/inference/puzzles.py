"""Prediction of puzzles: every test question once, as it is, shared between processes. Answers are never read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator

from eval.puzzle_score import PuzzlePrediction
from pipeline.config import PredictConfig
from pipeline.data.dataset import PuzzleDataset
from pipeline.data.packs import make_pack_maker
from pipeline.data.puzzles.kinds import PUZZLE_KINDS
from pipeline.device import gather
from pipeline.inference.facts import source_name
from pipeline.inference.forward import InferenceRunner
from pipeline.system.progress_bar import Progress
from pipeline.system.time_limit import Budget
from pipeline.weights.files import Weights, network_from

FIRST_ROUND = 256
"""Puzzles of the first round."""


@dataclass(frozen=True)
class PuzzleAnswers:
    """The output for every test question of a dataset, in its order."""

    tokens: npt.NDArray[np.uint8]
    """(Q, H, W); 0 throughout where time ran out before it was predicted."""
    halting: npt.NDArray[np.float32]
    """(Q,) halting probability."""
    predicted: npt.NDArray[np.bool_]
    """(Q,)"""
    segments: int
    """Of all latents of all puzzles that were predicted."""
    source: str
    """The checkpoint that predicted them."""

    def rows(self, dataset: PuzzleDataset, answers: Mapping[str, str]) -> list[PuzzlePrediction]:
        """Return a row for each test of `dataset`, with its answer where `answers` (by question) has it."""
        kind = PUZZLE_KINDS[dataset.kind]
        questions, texts = kind.to_texts(dataset.test_questions), kind.to_texts(self.tokens)
        rows = zip(questions, texts, self.halting.tolist(), self.predicted.tolist(), strict=True)
        return [
            PuzzlePrediction(question, text if predicted else None, probability if predicted else None, answers.get(question))
            for question, text, probability, predicted in rows
        ]


def predict_puzzles(
    accelerator: Accelerator,
    dtype: torch.dtype,
    weights: Weights,
    dataset: PuzzleDataset,
    config: PredictConfig,
    budget: Budget,
) -> Iterator[PuzzleAnswers]:
    """Yield what is known after each round, of as many puzzles as all before, until all are predicted or `budget` is spent."""
    network, _ = network_from(weights, dataset)
    maker = make_pack_maker(dataset, weights.config.train.canvas, weights.config.memory.tokens, "tests", config.latents)
    execution = weights.config.train.execution
    runner = InferenceRunner(accelerator.device, dtype, network, maker, config, execution=execution)
    samples = maker.plain()
    shape = dataset.test_questions.shape
    tokens, halting, predicted = np.zeros(shape, np.uint8), np.zeros(len(samples), np.float32), np.zeros(len(samples), np.bool_)
    source = source_name(weights.path, weights.step, weights.data_hash)
    stop = 0
    while stop < len(samples):
        start, stop = stop, min(len(samples), max(FIRST_ROUND, 2 * stop))
        mine = samples[start + accelerator.process_index : stop : accelerator.num_processes]
        share = []
        with Progress("predicting", len(mine), "puzzles") as progress:
            for output in runner.predict(mine, budget):
                share.append((output.samples.example, output.tokens, output.probability))
                progress.add(len(output.samples))
        segments = sum(gather(accelerator, runner.token_segments)) // (dataset.test_questions[0].size + maker.memory_tokens)
        for places, outputs, probability in chain.from_iterable(gather(accelerator, share)):
            tokens[places] = outputs.reshape(-1, *shape[1:])
            halting[places], predicted[places] = probability, True
        yield PuzzleAnswers(tokens.copy(), halting.copy(), predicted.copy(), segments, source)
        if not predicted[start:stop].all():
            return
