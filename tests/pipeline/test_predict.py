"""Prediction: candidates come back to the original frame, views are asked fairly, the clock is obeyed."""

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from augment.grid import grid_key
from eval.vote import Ballot
from pipeline.asking import measure_speed
from pipeline.budget import Budget
from pipeline.candidates import read_candidates
from pipeline.checkpoint import Weights, load_weights, save_weights
from pipeline.data.build import BuildConfig, build
from pipeline.data.store import Store
from pipeline.engine import make_accelerator
from pipeline.predict import Predictor, Round
from pipeline.reasoner.network import Batch, make_network
from pipeline.votes import count_votes
from tests.pipeline.tiny import tiny_config, tiny_source, tiny_store

NO_LIMIT = Budget(None, 0.0)


def make_weights(folder: Path, store: Store, *settings: str) -> Weights:
    config = tiny_config(*settings)
    network = make_network(config.model, config.memory, len(store.task_ids), len(store.transforms), 0)
    save_weights(folder / "weights.safetensors", network.state_dict(), config, store, 7)
    return load_weights(folder)


def make_predictor(folder: Path, store: Store, *settings: str) -> Predictor:
    weights = make_weights(folder, store, *settings)
    accelerator, dtype = make_accelerator("float32")
    return Predictor(accelerator, dtype, weights, store, weights.config.predict)


class Echo:
    """Stands in for a network: answers each cell with its own token, so every view predicts its test input."""

    def __init__(self) -> None:
        self.reasoner = SimpleNamespace(initial_state=lambda tokens, dtype: (torch.zeros(tokens, 1, dtype=dtype),))

    def __call__(self, state: tuple[torch.Tensor], batch: Batch) -> SimpleNamespace:
        logits = torch.nn.functional.one_hot(batch.inputs, 12).float()
        return SimpleNamespace(state=state, logits=logits, halting=torch.zeros(batch.layout.sequences, 2))


def predict_all(predictor: Predictor, folder: Path, budget: Budget = NO_LIMIT) -> list[Round]:
    folder.mkdir()
    return list(predictor.rounds(folder, budget))


@pytest.mark.parametrize("canvas", ["fitted", "full"])
def test_every_view_comes_back_to_the_original_frame(tmp_path: Path, canvas: str) -> None:
    store = build([tiny_source(tasks=6)], [], BuildConfig(40, "all", 3, 1), leakage="allow")
    predictor = make_predictor(tmp_path, store, "predict.views=41", "predict.round_views=13", f"train.canvas={canvas}")
    predictor.asker.network = Echo()  # type: ignore[assignment]
    rounds = predict_all(predictor, tmp_path / "candidates")
    asked = np.zeros(len(store.test_task), int)
    for path in sorted((tmp_path / "candidates").iterdir()):
        candidates, _ = read_candidates(path)
        for test, grid, probability in candidates.grids():
            assert grid is not None
            assert grid_key(grid) == grid_key(store.grid(store.test_input[test]))
            assert probability == 0.5
            asked[test] += 1
    known = np.diff(store.transform_start)[store.test_task]
    assert asked.tolist() == np.minimum(known, 41).tolist()
    assert sum(done.candidates for done in rounds) == asked.sum()
    assert all(done.complete for done in rounds)


def test_the_first_round_asks_the_identity_of_every_test(tmp_path: Path) -> None:
    store = tiny_store()
    predict_all(make_predictor(tmp_path, store), tmp_path / "candidates")
    first, origin = read_candidates(tmp_path / "candidates" / "round-0001-0.safetensors")
    assert sorted(first.test.tolist()) == list(range(len(store.test_task)))
    assert not first.transform.any()
    assert "step 7" in origin.source


def test_no_view_is_asked_twice(tmp_path: Path) -> None:
    store = tiny_store(augmentations=20)
    settings = ("predict.views=15", "predict.round_views=4")
    predict_all(make_predictor(tmp_path, store, *settings), tmp_path / "candidates")
    seen = []
    for path in (tmp_path / "candidates").iterdir():
        candidates, _ = read_candidates(path)
        seen += list(zip(candidates.test.tolist(), candidates.transform.tolist(), strict=True))
    assert len(seen) == len(set(seen)) == 15 * len(store.test_task)


def test_no_time_gives_no_round_and_little_time_ends_soon(tmp_path: Path) -> None:
    store = tiny_store(augmentations=200)
    predictor = make_predictor(tmp_path, store, "predict.views=100000", "predict.round_views=3")
    assert predict_all(predictor, tmp_path / "none", Budget(0.0, time.monotonic())) == []
    started = time.monotonic()
    rounds = predict_all(predictor, tmp_path / "some", Budget(1.5, started))
    assert time.monotonic() - started < 3
    assert rounds


def test_a_table_is_asked_only_the_views_that_it_was_trained_on(tmp_path: Path) -> None:
    trained = tiny_store(augmentations=3)
    weights = make_weights(tmp_path, trained, "memory.kind=table", "memory.tokens=2", "predict.views=50")
    wider = tiny_store(augmentations=30)
    accelerator, dtype = make_accelerator("float32")
    predictor = Predictor(accelerator, dtype, weights, wider, weights.config.predict)
    predict_all(predictor, tmp_path / "candidates")
    asked: dict[int, set[int]] = {}
    for path in (tmp_path / "candidates").iterdir():
        candidates, _ = read_candidates(path)
        for test, transform in zip(candidates.test.tolist(), candidates.transform.tolist(), strict=True):
            asked.setdefault(int(wider.test_task[test]), set()).add(transform)
    for task, transforms in asked.items():
        start, stop = trained.transform_start[task : task + 2]
        assert transforms <= set(trained.transforms[start:stop].tolist())


@pytest.mark.parametrize("residual", [0, 3])
def test_compositional_memory_is_asked_views_that_were_never_trained(tmp_path: Path, residual: int) -> None:
    weights = make_weights(tmp_path, tiny_store(augmentations=3), f"memory.residual={residual}", "predict.views=50")
    wider = tiny_store(augmentations=30)
    accelerator, dtype = make_accelerator("float32")
    predictor = Predictor(accelerator, dtype, weights, wider, weights.config.predict)
    assert [len(views) for views in predictor.views] == np.diff(wider.transform_start).tolist()
    assert sum(done.candidates for done in predict_all(predictor, tmp_path / "candidates")) > 4 * len(wider.test_task)


def test_votes_follow_what_most_views_say(tmp_path: Path) -> None:
    store = tiny_store()
    predictor = make_predictor(tmp_path, store)
    predictor.asker.network = Echo()  # type: ignore[assignment]
    predict_all(predictor, tmp_path / "candidates")
    ballot = Ballot("echo")
    for path in (tmp_path / "candidates").iterdir():
        count_votes(ballot, read_candidates(path)[0], store)
    for task in store.tasks_to_solve():
        for index, grid in enumerate(task.test):
            (best,) = ballot.top(task.id, index, None)
            assert grid_key(best.grid) == grid_key(grid)
            assert best.count == 4


def test_the_measured_speed_counts_one_view_of_every_test(tmp_path: Path) -> None:
    store = tiny_store()
    config = tiny_config()
    network = make_network(config.model, config.memory, len(store.task_ids), len(store.transforms), 0)
    accelerator, dtype = make_accelerator("float32")
    speed = measure_speed(network, store, config, dtype, accelerator)
    assert speed.view_tokens == int((store.test_canvas.astype(int).prod(axis=1) + 1).sum())
    assert speed.tokens_per_second > 0
    assert speed.view_seconds(2) == pytest.approx(2 * speed.view_tokens / speed.tokens_per_second)
