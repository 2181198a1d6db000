"""Prediction by worker processes: the same answers, whatever happens to a worker."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path

import psutil
import pytest
import torch

from pipeline.config import BuildConfig
from pipeline.data.build import build
from pipeline.data.store import Store
from pipeline.inference import workers
from pipeline.inference.candidates import read_candidates
from pipeline.inference.predictor import Predictor
from pipeline.system.time_limit import Budget
from pipeline.weights import Weights
from tests.pipeline.inference.test_predictor import NO_LIMIT, make_weights, predict_all
from tests.pipeline.tiny import tiny_source

CPU = torch.device("cpu")


@pytest.fixture
def store() -> Store:
    """Far more than a pipe holds, which must not keep a worker's death from being noticed."""
    store = build([tiny_source(tasks=6)], [], BuildConfig(5000, "all", 3, 1), leakage="allow")
    assert store.transforms.nbytes > 1 << 16
    return store


@pytest.fixture
def weights(tmp_path: Path, store: Store) -> Weights:
    return make_weights(tmp_path, store, "predict.views=16", "predict.round_views=8")


def make_predictor(weights: Weights, store: Store, *devices: str) -> Predictor:
    return Predictor(CPU, torch.float32, weights, store, weights.config.predict, devices)


def answers(folder: Path) -> list[list[tuple[int, int, bytes]]]:
    """The candidates of each round, sorted: test, view, grid."""
    rounds = []
    for path in sorted(folder.glob("round-*.safetensors")):
        candidates, _ = read_candidates(path)
        grids = [b"" if grid is None else grid.tobytes() for _, grid, _ in candidates.grids()]
        rounds.append(sorted(zip(candidates.test.tolist(), candidates.transform.tolist(), grids, strict=True)))
    return rounds


def worker_processes() -> list[psutil.Process]:
    """The workers of this process."""
    found = []
    for process in psutil.Process().children():
        try:
            if any("spawn_main" in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            pass
    return found


class Saboteur(threading.Thread):
    """Does something to the first worker that appears."""

    def __init__(self, deed: Callable[[psutil.Process], None]) -> None:
        super().__init__(daemon=True)
        self.deed = deed
        self.done = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.done.is_set():
            for process in worker_processes():
                self.deed(process)
                self.done.set()
                return
            time.sleep(0.01)


def test_workers_answer_as_one_process_does_and_a_killed_one_costs_a_try(
    tmp_path: Path, store: Store, weights: Weights, caplog: pytest.LogCaptureFixture
) -> None:
    with make_predictor(weights, store) as alone:
        predict_all(alone, tmp_path / "alone")
    saboteur = Saboteur(psutil.Process.kill)
    with make_predictor(weights, store, "cpu", "cpu") as crew:
        rounds = predict_all(crew, tmp_path / "crew")
        assert saboteur.done.is_set()
        assert len(worker_processes()) == 2
    assert answers(tmp_path / "crew") == answers(tmp_path / "alone")
    assert all(done.complete for done in rounds)
    assert (crew.crew.counts.failed, crew.crew.counts.given_up) == (1, 0)
    assert crew.crew.counts.pieces >= 2 * len(rounds)
    assert "a piece of the predictions failed on cpu (the worker was killed by signal 9)" in caplog.text
    assert f"trying again with packs of {weights.config.predict.pack_tokens // 2} tokens" in caplog.text
    assert not worker_processes()


def test_a_device_that_never_works_leaves_the_work_to_the_others_and_none_is_an_error(
    tmp_path: Path, store: Store, weights: Weights, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "MOST_FAILURES", 1)
    with make_predictor(weights, store, "cuda:99", "cpu") as crew:
        rounds = predict_all(crew, tmp_path / "mixed")
        assert rounds[-1].complete
    assert crew.crew.counts.failed == 1
    assert "the device is left alone from now on" in caplog.text
    with make_predictor(weights, store, "cuda:99") as broken, pytest.raises(RuntimeError, match="no prediction worker is left"):
        predict_all(broken, tmp_path / "none")


def test_a_piece_that_fails_whenever_it_is_tried_is_given_up_and_the_rest_is_predicted(
    tmp_path: Path, store: Store, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "TRIES", 1)
    Saboteur(psutil.Process.kill)
    with make_predictor(weights, store, "cpu") as crew:
        rounds = predict_all(crew, tmp_path / "candidates")
    assert (crew.crew.counts.failed, crew.crew.counts.given_up) == (1, 1)
    assert [done.complete for done in rounds] == [False, True, True]
    assert len(rounds[0].found.test) < len(store.test_task)
    assert len(rounds[2].found.test) >= 7 * len(store.test_task)


def test_a_worker_that_hangs_does_not_hold_up_the_end(
    tmp_path: Path, store: Store, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "GRACE_SECONDS", 0.2)
    saboteur = Saboteur(psutil.Process.suspend)
    started = time.monotonic()
    with make_predictor(weights, store, "cpu") as crew:
        rounds = predict_all(crew, tmp_path / "candidates", Budget(2.0, started))
        assert time.monotonic() - started < 6
    assert saboteur.done.is_set()
    assert [len(done.found.test) for done in rounds] == [0]
    assert not rounds[0].complete
    assert not worker_processes()


def test_workers_end_with_the_process_that_started_them(tmp_path: Path, store: Store, weights: Weights) -> None:
    store.save(tmp_path / "data")
    command = [*(sys.executable, "-m", "pipeline", "predict", "--data", str(tmp_path / "data"), "--views", "100000")]
    command += ["--weights", str(weights.path), "--out", str(tmp_path / "out"), "--workers", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[3])
    children: list[psutil.Process] = []
    deadline = time.monotonic() + 60
    while not children and time.monotonic() < deadline and process.poll() is None:
        children = [
            child for child in psutil.Process(process.pid).children() if any("spawn_main" in w for w in child.cmdline())
        ]
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert children
    _, alive = psutil.wait_procs(children, timeout=20)  # it notices when it has begun, which takes as long as importing torch
    assert not alive


def test_complete_rounds_of_an_earlier_start_are_kept_and_not_asked_again(
    tmp_path: Path, store: Store, weights: Weights
) -> None:
    folder = tmp_path / "candidates"
    with make_predictor(weights, store) as predictor:
        predict_all(predictor, folder)
        whole = answers(folder)
        (folder / "round-0003.safetensors").write_bytes(b"cut short")
        kept = predictor.keep_rounds(folder)
        assert [origin.views for _, origin in kept] == [1, 9]
        assert sorted(path.name for path in folder.iterdir()) == ["round-0001.safetensors", "round-0002.safetensors"]
        rounds = list(predictor.rounds(folder, NO_LIMIT, len(kept)))
        assert [done.number for done in rounds] == [3]
        assert answers(folder) == whole


def test_rounds_of_other_weights_or_tests_are_removed(tmp_path: Path, store: Store, weights: Weights) -> None:
    folder = tmp_path / "candidates"
    with make_predictor(weights, store) as predictor:
        predict_all(predictor, folder)
    other = build([tiny_source(seed=9, tasks=6)], [], BuildConfig(15, "all", 3, 1), leakage="allow")
    with make_predictor(weights, other) as predictor:
        assert predictor.keep_rounds(folder) == []
    assert list(folder.iterdir()) == []


def test_a_worker_whose_parent_has_ended_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(Exception):
        pass

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(workers.os, "_exit", end)
    monkeypatch.setattr(workers.signal, "signal", lambda *_: None)
    monkeypatch.setattr(workers, "_end_with_parent", lambda: None)
    monkeypatch.setattr(workers.logging, "basicConfig", lambda **_: None)
    theirs, ours = Pipe()
    theirs.close()
    with pytest.raises(Ended, match="1"):
        workers._serve(ours)
