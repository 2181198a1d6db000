"""Prediction of puzzles: every question once and in its place, whatever the packs, the clock and the processes."""

import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eval.puzzle_score import read_predictions
from pipeline.cli.main import main
from pipeline.config import PredictConfig
from pipeline.data.dataset import PuzzleDataset
from pipeline.data.puzzles.kinds import KindName
from pipeline.device import fit_config, make_accelerator
from pipeline.inference import forward as asking
from pipeline.inference.puzzles import FIRST_ROUND, PuzzleAnswers, predict_puzzles
from pipeline.models.batch import Batch
from pipeline.system.time_limit import NO_LIMIT, Budget
from pipeline.weights.files import Weights, load_weights, network_from
from tests.pipeline.inference.test_predictor import Echo
from tests.pipeline.tiny import tiny_config
from tests.pipeline.tinypuzzles import tiny_puzzle_dataset, tiny_puzzles
from tests.pipeline.tinyrun import write_weights
from tests.pipeline.trainers import finish_ranks, make_trainer, metrics, start_ranks

KINDS = pytest.mark.parametrize("kind", ["sudoku", "maze"])


def make_weights(folder: Path, dataset: PuzzleDataset, *settings: str) -> Weights:
    write_weights(folder, dataset, fit_config(tiny_config("memory.kind=table", *settings), dataset))
    return load_weights(folder)


def ask_rounds(
    weights: Weights, dataset: PuzzleDataset, predict: PredictConfig, budget: Budget = NO_LIMIT
) -> list[PuzzleAnswers]:
    accelerator, dtype = make_accelerator("float32")
    return list(predict_puzzles(accelerator, dtype, weights, dataset, predict, budget))


def ask(weights: Weights, dataset: PuzzleDataset, predict: PredictConfig, budget: Budget = NO_LIMIT) -> PuzzleAnswers:
    return ask_rounds(weights, dataset, predict, budget)[-1]


class Looks(Budget):
    """A clock that has run out when it was looked at so many times."""

    def __init__(self, times: int) -> None:
        super().__init__(None, 0.0)
        object.__setattr__(self, "left", iter(range(times)))

    def remaining(self) -> float:
        return -1.0 if next(self.left, None) is None else math.inf  # type: ignore[attr-defined]


class Sure(Echo):
    """Surer the more cells are blank."""

    def to(self, _: torch.device) -> "Sure":
        return self

    def eval(self) -> "Sure":
        return self

    def __call__(self, state: tuple[torch.Tensor], batch: Batch, cycles: int | None = None) -> SimpleNamespace:
        blank = (batch.inputs == 1).float().unflatten(0, (batch.layout.sequences, -1)).sum(1)
        return SimpleNamespace(**vars(super().__call__(state, batch)) | {"halting": torch.stack((blank, -blank), dim=1)})


@KINDS
@pytest.mark.parametrize("pack_tokens", [1, 70, 10_000])
def test_every_question_is_answered_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: KindName, pack_tokens: int
) -> None:
    dataset = tiny_puzzle_dataset(kind, count=9)
    weights = make_weights(tmp_path, dataset)
    _, transplant = network_from(weights, dataset)
    monkeypatch.setattr("pipeline.inference.puzzles.network_from", lambda *_: (Sure(), transplant))
    found = ask(weights, dataset, PredictConfig(pack_tokens=pack_tokens, segments=2))
    assert np.array_equal(found.tokens, dataset.test_questions)
    assert found.predicted.all()
    blank = (dataset.test_questions == 1).sum(axis=(1, 2))
    np.testing.assert_allclose(found.halting, 1 / (1 + np.exp(-blank)), rtol=1e-5)
    assert found.source.endswith(f"/weights.safetensors, step 1, trained on {weights.data_hash[:12]}")


@pytest.mark.parametrize(("looks", "expected"), [(99, [2, 4, 8, 9]), (8, [2, 4, 8, 8]), (7, [2, 4, 7]), (2, [2, 2]), (0, [0])])
def test_each_round_has_all_that_was_asked_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: int, expected: list[int]
) -> None:
    dataset = tiny_puzzle_dataset(count=9)
    weights = make_weights(tmp_path, dataset)
    whole = ask(weights, dataset, weights.config.predict)
    monkeypatch.setattr("pipeline.inference.puzzles.FIRST_ROUND", 2)
    monkeypatch.setattr(asking.InferenceRunner, "_pack_tokens", lambda *_: 1)  # one at a time
    rounds = ask_rounds(weights, dataset, weights.config.predict, Looks(looks))
    assert [int(found.predicted.sum()) for found in rounds] == expected
    for found in rounds:
        assert np.array_equal(found.tokens[found.predicted], whole.tokens[found.predicted])
        np.testing.assert_allclose(found.halting[found.predicted], whole.halting[found.predicted], rtol=1e-5)
        assert not found.tokens[~found.predicted].any()
        assert not found.halting[~found.predicted].any()
    for earlier, later in pairwise(rounds):
        assert later.predicted[earlier.predicted].all()


def test_rows_take_the_answers_that_are_known(tmp_path: Path) -> None:
    dataset = tiny_puzzle_dataset()
    found = ask(make_weights(tmp_path, dataset), dataset, PredictConfig(segments=1))
    puzzles = tiny_puzzles(seed=99)
    texts, answers = puzzles.question_texts(), puzzles.answer_texts() or []
    rows = found.rows(dataset, {texts[2]: answers[2]})
    assert [row.question for row in rows] == texts
    assert [row.answer for row in rows] == [answers[2] if place == 2 else None for place in range(len(texts))]


@pytest.mark.parametrize(("kind", "model"), [("sudoku", ("model.mixing=mixer", "model.positions=none")), ("maze", ())])
def test_a_tiny_network_learns_a_few_puzzles(tmp_path: Path, kind: KindName, model: tuple[str, ...]) -> None:
    dataset = tiny_puzzle_dataset(kind, augmentations=0, count=3)
    settings = ("train.steps=30", "train.log_steps=5", "optimizer.rate=0.01", "train.segments=2")
    trainer = make_trainer(fit_config(tiny_config("memory.kind=table", *settings, *model), dataset), tmp_path, dataset)
    trainer.fit(NO_LIMIT)
    losses = [loss for (loss,) in metrics(tmp_path, "loss")]
    assert losses[-1] < 0.85 * losses[0]


def test_two_processes_predict_what_one_predicts(tmp_path: Path) -> None:
    dataset = tiny_puzzle_dataset(count=FIRST_ROUND + 9)  # two rounds
    dataset.save(tmp_path / "data")
    make_weights(tmp_path, dataset)
    predict = ["predict", "--data", str(tmp_path / "data"), "--weights", str(tmp_path), "--out"]
    two = start_ranks([*predict, str(tmp_path / "two")])
    assert main([*predict, str(tmp_path / "one")]) == 0
    finish_ranks(two)
    one, other = (read_predictions(tmp_path / name / "predictions.csv") for name in ("one", "two"))
    assert [(row.question, row.prediction) for row in one] == [(row.question, row.prediction) for row in other]
    assert all(row.prediction is not None for row in other)
    halting = [[row.halting_probability for row in rows] for rows in (one, other)]
    assert halting[0] == pytest.approx(halting[1], abs=1e-5)
