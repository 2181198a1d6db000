"""Prediction by several processes: the same as by one, together to the end, and what a killed one leaves can be resumed."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from pipeline.cli.main import main
from pipeline.data.dataset import TaskDataset
from pipeline.inference import predictor as predicting
from pipeline.inference.candidates import Candidates, Origin, read_candidates
from pipeline.inference.predictor import Predictor
from pipeline.jobs.arc import ArcJob
from pipeline.jobs.run_record import PREDICTING
from pipeline.system.time_limit import NO_LIMIT, Budget
from pipeline.weights import find
from pipeline.weights.files import Weights
from submission.format import check_submission
from tests.pipeline.inference.test_predictor import Small, make_weights
from tests.pipeline.tiny import TINY, set_options, tiny_dataset, tiny_source, write_kaggle
from tests.pipeline.trainers import ROOT, finish_ranks, start_ranks, train_command


@pytest.fixture
def dataset() -> TaskDataset:
    return tiny_dataset(tasks=6, augmentations=40)


@pytest.fixture
def weights(tmp_path: Path, dataset: TaskDataset) -> Weights:
    return make_weights(tmp_path, dataset, "predict.views=16", "predict.round_views=5")


def answers(folder: Path) -> list[list[tuple[int, int, bytes]]]:
    """The candidates of each round, sorted: test, view, grid."""
    rounds = []
    for path in sorted(folder.glob("round-*.safetensors")):
        candidates, _ = read_candidates(path)
        grids = [b"" if grid is None else grid.tobytes() for _, grid, _ in candidates.grids()]
        rounds.append(sorted(zip(candidates.test.tolist(), candidates.transform.tolist(), grids, strict=True)))
    return rounds


class Ranks:
    """Launches of processes that are threads of this one."""

    def __init__(self, folder: Path, weights: Weights, dataset: TaskDataset) -> None:
        self.folder, self.weights, self.dataset = folder, weights, dataset

    def gather(self, accelerator: Any, value: object) -> list[Any]:
        self.values[accelerator.process_index] = value
        self.barrier.wait(20)
        found = list(self.values)
        self.barrier.wait(20)
        return found

    def predict(
        self, name: str, budgets: tuple[Budget, ...], prepare: Callable[[int, Predictor], None] = lambda *_: None
    ) -> list[list[tuple[Candidates, Origin]]]:
        """Return the rounds that each rank sees, of which each has a budget; `prepare` is called for each first."""

        def run(rank: int) -> list[tuple[Candidates, Origin]]:
            accelerator: Any = SimpleNamespace(
                device=torch.device("cpu"), num_processes=len(budgets), process_index=rank, is_main_process=rank == 0
            )
            predictor = Predictor(accelerator, torch.float32, self.weights, self.dataset, self.weights.config.predict)
            prepare(rank, predictor)
            return list(predictor.rounds(self.folder / name, budgets[rank]))

        self.values: list[Any] = [None] * len(budgets)
        self.barrier = threading.Barrier(len(budgets))
        with ThreadPoolExecutor(len(budgets)) as pool:
            return list(pool.map(run, range(len(budgets))))


@pytest.fixture
def ranks(tmp_path: Path, weights: Weights, dataset: TaskDataset, monkeypatch: pytest.MonkeyPatch) -> Ranks:
    ranks = Ranks(tmp_path, weights, dataset)
    monkeypatch.setattr(predicting, "gather", ranks.gather)
    monkeypatch.setattr(predicting, "from_main", lambda accelerator, value: ranks.gather(accelerator, value)[0])
    return ranks


def test_the_shares_of_a_round_are_the_round(ranks: Ranks, tmp_path: Path) -> None:
    for count in (1, 2, 9):
        seen = ranks.predict(str(count), (NO_LIMIT,) * count)
        assert [[origin.views for _, origin in rounds] for rounds in seen] == [[1, 6, 11, 16]] * count
        assert answers(tmp_path / str(count)) == answers(tmp_path / "1")


def test_all_end_with_the_round_that_one_has_no_time_for(ranks: Ranks, tmp_path: Path) -> None:
    over = Budget(0.0, time.monotonic())
    for name, budgets, expected in (("late", (NO_LIMIT, over), [1]), ("over", (over, NO_LIMIT), [])):
        seen = ranks.predict(name, budgets)
        assert [[origin.views for _, origin in rounds] for rounds in seen] == [expected] * 2
        assert not any(origin.complete for rounds in seen for _, origin in rounds)
    _, origin = read_candidates(tmp_path / "late" / "round-0001.safetensors")
    assert not origin.complete


def test_too_little_memory_halves_the_packs_of_that_process_only(ranks: Ranks) -> None:
    runners = {}

    def prepare(rank: int, predictor: Predictor) -> None:
        runners[rank] = predictor.runner
        if rank:
            predictor.runner.network = Small(100)  # type: ignore[assignment]

    seen = ranks.predict("candidates", (NO_LIMIT, NO_LIMIT), prepare)
    assert all(origin.complete for rounds in seen for _, origin in rounds)
    assert runners[0].most_tokens == ranks.weights.config.predict.pack_tokens > runners[1].most_tokens


def test_where_training_fails_in_all_processes_the_main_one_works_on_to_the_end(tmp_path: Path) -> None:
    spec, out = write_kaggle(tmp_path, tiny_source(1, 4, "t"), "evaluation", with_solutions=True), tmp_path / "run"
    breaks = ("train.steps=50", "train.packs=2", "optimizer.kind=adamw", "optimizer.rate=1e30", "optimizer.warmup_steps=0")
    settings = set_options((*TINY, *breaks))
    finish_ranks(start_ranks(["run", "--source", spec, "--preset", "demo", *settings, "--out", str(out)]), 1, 0)
    assert (out / "score.json").is_file()
    assert (out / "report.html").is_file()
    assert not (out / PREDICTING).exists()


def run_rank_that_builds_for_long(environment: dict[str, str], command: list[str], killed: bool) -> None:
    os.environ |= environment
    build = ArcJob.build

    def take_long(*arguments: Any) -> TaskDataset:
        time.sleep(5)  # processes wait for each other for 4 s elsewhere
        if killed:
            os._exit(9)
        return build(*arguments)

    ArcJob.build = take_long  # type: ignore[method-assign]
    sys.exit(main(command))


@pytest.mark.parametrize(("killed", "codes"), [(False, (0, 0)), (True, (9, 1))])
def test_processes_wait_for_the_one_that_builds_while_it_lives(tmp_path: Path, killed: bool, codes: tuple[int, int]) -> None:
    settings = set_options((*TINY, "train.steps=1", "train.packs=2", "train.standstill_seconds=4"))
    spec = write_kaggle(tmp_path, tiny_source(1, 4, "t"), "evaluation", with_solutions=True)
    command = ["run", "--source", spec, "--preset", "demo", "--no-report", *settings, "--out", str(tmp_path / "run")]
    finish_ranks(start_ranks(command, partial(run_rank_that_builds_for_long, killed=killed)), *codes)


def run_rank_that_lists_late(environment: dict[str, str], command: list[str]) -> None:
    os.environ |= environment
    if environment["RANK"] == "1":  # it has looked before the newest checkpoint was there
        listed = find.checkpoints
        find.checkpoints = lambda folder: listed(folder)[:-1]
    sys.exit(main(command))


def test_processes_predict_with_the_weights_that_the_main_one_finds(tmp_path: Path, dataset: TaskDataset) -> None:
    dataset.save(tmp_path / "data")
    settings = ("train.steps=4", "train.checkpoint_steps=2", "optimizer.rate=0.01")
    assert main(train_command(tmp_path / "data", tmp_path / "run", *settings)) == 0
    command = ["predict", "--data", str(tmp_path / "data"), "--weights", str(tmp_path / "run"), "--views", "3", "--out"]
    ranks = start_ranks([*command, str(tmp_path / "two")], run_rank_that_lists_late)
    assert main([*command, str(tmp_path / "one")]) == 0
    finish_ranks(ranks)
    for path in (tmp_path / "one" / "candidates").iterdir():
        one, two = (read_candidates(tmp_path / out / "candidates" / path.name)[0] for out in ("one", "two"))
        mine, theirs = (np.lexsort((each.transform, each.test)) for each in (one, two))
        np.testing.assert_allclose(two.probability[theirs], one.probability[mine], atol=1e-6)


def test_a_killed_process_ends_the_launch_which_then_goes_on_and_predicts_what_one_process_does(
    tmp_path: Path, dataset: TaskDataset, weights: Weights
) -> None:
    dataset.save(tmp_path / "data")
    settings = ["--views", "6", "--set", "predict.round_views=1", "--set", "predict.segments=30"]
    command = ["predict", "--data", str(tmp_path / "data"), "--weights", str(weights.path), *settings, "--out"]
    out = tmp_path / "two"
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--quiet"]
    killed = subprocess.Popen([*accelerate, "-m", "pipeline", *command, str(out)], cwd=ROOT, stderr=subprocess.PIPE)
    while not (out / "candidates" / "round-0002.safetensors").is_file():
        assert killed.poll() is None
        time.sleep(0.01)
    processes = psutil.Process(killed.pid).children(recursive=True)
    next(process for process in processes if process.environ().get("RANK") == "1").kill()
    _, said = killed.communicate(timeout=60)
    assert killed.returncode == 1
    assert "a process was killed by SIGKILL" in said.decode()
    assert "Traceback" not in said.decode()
    check_submission(out / "submission.json", dataset.tasks_to_solve())
    kept = {path: path.stat().st_mtime_ns for path in (out / "candidates").iterdir()}
    assert 2 <= len(kept) < 6
    finish_ranks(start_ranks([*command, str(out), "--resume"]))
    assert main([*command, str(tmp_path / "one")]) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert answers(out / "candidates") == answers(tmp_path / "one" / "candidates")
    assert (out / "submission.json").read_bytes() == (tmp_path / "one" / "submission.json").read_bytes()
