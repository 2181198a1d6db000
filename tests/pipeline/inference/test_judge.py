"""Judges: the likelihood of a candidate is that of its cells under each view, and `vote --judge` ranks by it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch

from augment.canvas import PAD, encode
from augment.grid import Grid
from augment.transform import transform_from_int
from eval.provenance import Judging
from eval.vote import Ballot, JudgedBallot
from pipeline.data.dataset import TaskDataset
from pipeline.inference.judge import judge_ballot, log_likelihoods
from pipeline.models.batch import Batch, Views
from pipeline.models.layout import make_layout
from pipeline.models.loss import segment_loss
from pipeline.weights.files import Weights, load_weights, network_from
from tests.eval.ballots import add
from tests.pipeline.tiny import refusal, tiny_config, tiny_dataset, tiny_source, write_kaggle
from tests.pipeline.tinyrun import call, one_error, write_run, write_weights

CPU = torch.device("cpu")


def make_judge(folder: Path, dataset: TaskDataset, *settings: str) -> Weights:
    write_weights(folder, dataset, tiny_config(*settings))
    return load_weights(folder)


def grids_of(dataset: TaskDataset, seed: int = 0) -> list[list[Grid]]:
    """None, one, two... random candidates for each test input, of any size that goes on its canvas."""
    rng = np.random.default_rng(seed)
    sizes = [rng.integers(1, canvas + 1, size=(number % 4, 2)) for number, canvas in enumerate(dataset.test_canvas)]
    return [[rng.integers(10, size=size).astype(np.uint8) for size in of_test] for of_test in sizes]


def plain_likelihood(weights: Weights, dataset: TaskDataset, test: int, grid: Grid, views: int) -> float:
    """View by view, by the definition: what training would lose on the candidate, were it the answer."""
    network, _ = network_from(weights, dataset)
    task = int(dataset.test_task[test])
    found = []
    first, stop = dataset.transform_start[task : task + 2].tolist()
    for place in range(first, min(stop, first + views)):
        transform = transform_from_int(int(dataset.transforms[place]))
        height, width = np.ones(dataset.test_canvas[test], np.uint8).shape
        seen = (
            transform.apply(np.zeros((height, width), np.uint8)).shape if weights.config.train.canvas == "fitted" else (30, 30)
        )
        question = encode(transform.apply(dataset.grid(dataset.test_input[test])), *seen)
        answer = encode(transform.apply(grid), *seen).astype(np.int64).ravel()
        layout = make_layout(torch.tensor([seen]), torch.zeros(1, 2, dtype=torch.int64), weights.config.memory.tokens)
        view = Views(
            torch.tensor([task]), torch.tensor([place]), torch.tensor([transform.dihedral]), torch.tensor([transform.colors])
        )
        batch = Batch(torch.from_numpy(question.astype(np.int64).ravel()), None, layout, view)
        state = network.reasoner.initial_state(layout.tokens)
        with torch.no_grad():
            for _ in range(weights.config.predict.segments):
                segment = network(state, batch)
                state = segment.state
        labels = torch.from_numpy(np.where(answer == PAD, -100, answer))
        mean = segment_loss(segment.logits, segment.halting, labels, layout, weights.config.train.loss).token.item()
        found.append(-mean * int((answer != PAD).sum()))
    return float(np.mean(found))


@pytest.mark.parametrize(
    "settings",
    [
        ("predict.segments=2",),
        ("train.canvas=full", "train.loss=softmax", "model.kind=urm", "predict.segments=1"),
        ("predict.pack_tokens=60", "predict.latents=3", "predict.halting=first"),
    ],
)
def test_the_likelihood_is_that_of_all_labelled_cells_on_the_mean_over_views(tmp_path: Path, settings: tuple[str, ...]) -> None:
    dataset = tiny_dataset(tasks=5)
    weights, candidates = make_judge(tmp_path, dataset, *settings), grids_of(dataset)
    found = log_likelihoods(CPU, torch.float32, weights, dataset, candidates, 3)
    assert [len(part) for part in found] == [len(part) for part in candidates]
    for test, (likely, grids) in enumerate(zip(found, candidates, strict=True)):
        expected = [plain_likelihood(weights, dataset, test, grid, 3) for grid in grids]
        np.testing.assert_allclose(likely, expected, rtol=1e-4)


def test_what_does_not_go_on_the_canvas_is_impossible(tmp_path: Path) -> None:
    dataset = tiny_dataset()
    grids = [[np.zeros((30, 1), np.uint8), np.zeros((1, 1), np.uint8)] for _ in dataset.test_task]
    for large, small in log_likelihoods(CPU, torch.float32, make_judge(tmp_path, dataset), dataset, grids, 2):
        assert large == -np.inf < small < 0


A, B, C, D = (np.full((1, 1), color, np.uint8) for color in range(1, 5))


def judged(weight: float, *likely: float, empty: int = 0) -> list[int]:
    """The colors of A to D as they rank; A has four votes, B three, C two, D one, besides empty ones; the first are judged."""
    ballot = Ballot("step 1")
    votes = [(None, empty), *((grid, count) for count, grid in enumerate((D, C, B, A), start=1))]
    add(ballot, [("t", 0, grid, 0.5) for grid, count in votes for _ in range(count)])
    judging = Judging(("other",), weight, 8, 8)
    found = JudgedBallot(ballot, judging, {("t", 0): ((A, B, C, D)[: len(likely)], np.array(likely))})
    assert found.tally("t", 0) == ballot.tally("t", 0)
    assert [candidate.count for candidate in found.top("t", 0, 2)] == [
        {1: 4, 2: 3, 3: 2, 4: 1}[int(grid[0, 0])] for grid in found.attempts("t", 0)
    ]
    return [int(candidate.grid[0, 0]) for candidate in found.top("t", 0, None)]


def test_votes_and_judges_are_mixed_by_their_weight() -> None:
    likely = np.log([0.1, 0.2, 0.7])
    assert judged(0.0, *likely) == [1, 2, 3, 4]
    assert judged(1.0, *likely) == [3, 2, 1, 4]
    assert judged(0.5, *likely) == [3, 1, 2, 4]  # 0.45 for C, 0.25 for A and B: equal marks rank by votes
    assert judged(0.5, *np.log([0.46, 0.54])) == [1, 2, 3, 4]
    assert judged(0.5, *np.log([0.46, 0.54]), empty=30) == [2, 1, 3, 4]  # empty ones have their share of the votes
    assert judged(1.0, -np.inf, -5000.0, -np.inf) == [2, 1, 3, 4]  # far below what a float holds
    assert judged(1.0, -np.inf, -np.inf) == judged(0.5) == [1, 2, 3, 4]
    wrongs: list[tuple[tuple[str, ...], float, int, int]] = [
        (("other",), 1.5, 8, 8),
        (("other",), 0.5, 0, 8),
        (("other",), 0.5, 8, 0),
        ((), 0.5, 8, 8),
    ]
    for wrong in wrongs:
        refusal(lambda wrong=wrong: Judging(*wrong))


def test_vote_has_the_candidates_judged_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, run = tiny_source(tasks=3), tmp_path / "run"
    spec = write_kaggle(tmp_path / "tasks", source, "evaluation", with_solutions=True)
    wrong = [np.zeros_like(grid) for grids in source.solutions.values() for grid in grids]
    right = [grid for grids in source.solutions.values() for grid in grids]
    best = [[wrong[test], right[test], A] for test in range(len(right))]  # the first has two votes, the others one
    votes = [(test, grid, 0.5) for test, (first, *others) in enumerate(best) for grid in (first, first, *others)]
    dataset = write_run(run, source, votes)
    weights = make_judge(tmp_path / "judge", dataset)
    out = tmp_path / "judged" / "submission.json"
    arguments = ("vote", "--data", run / "dataset", "--candidates", run / "candidates", "--out", out, "--source", spec)
    arguments = (*arguments, "--judge", tmp_path / "judge", "--judge-weight", "1", "--judge-views", "3")
    assert call(*arguments) == 0
    printed = capsys.readouterr().out
    assert ", judged by judge/weights.safetensors, step 1, trained on" in printed
    assert "without the judges: " in printed
    likely = log_likelihoods(CPU, torch.float32, weights, dataset, best, 3)
    submitted = orjson.loads(out.read_bytes())
    for (task, test), grids, found in zip(dataset.test_names(), best, likely, strict=True):
        first, second = np.argsort(-found)[:2]
        expected = {"attempt_1": grids[first].tolist(), "attempt_2": grids[second].tolist()}
        assert submitted[task][test] == expected
    facts = orjson.loads((out.parent / "votes.json").read_bytes())["judging"]
    assert (facts["weight"], facts["views"], facts["candidates"]) == (1.0, 3, 8)
    assert call("score", out, "--source", spec) == 0
    assert "judged with weight 1 by judge/weights.safetensors, step 1" in capsys.readouterr().out


def test_judges_that_make_no_sense_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write_run(tmp_path / "run", tiny_source(tasks=2), [(0, A, 0.5)])
    make_judge(tmp_path / "judge", dataset)
    files = (
        "--data",
        tmp_path / "run" / "dataset",
        "--candidates",
        tmp_path / "run" / "candidates",
        "--out",
        tmp_path / "s.json",
    )
    for option, value in (("--judge-views", 0), ("--judge-candidates", 0), ("--judge-weight", 2)):
        assert call("vote", *files, "--judge", tmp_path / "judge", option, value) == 2
        assert option in one_error(capsys, "vote")
    assert call("vote", *files, "--judge-views", 4) == 2
    assert "require --judge WEIGHTS" in one_error(capsys, "vote")
    assert call("vote", *files, "--judge", tmp_path / "nothing") == 2
    assert "nothing" in one_error(capsys, "vote")
    same = ("--candidates", tmp_path / "run" / "candidates", tmp_path / "run" / "dataset" / ".." / "candidates")
    assert call("vote", *files, *same) == 2
    assert "named twice" in one_error(capsys, "vote")
    assert not (tmp_path / "s.json").exists()


def two_judges(folder: Path, *settings: str) -> tuple[TaskDataset, Ballot, list[Weights]]:
    """A ballot of two grids for each test of a dataset, and two networks that may judge it, the second one with NaN in it."""
    dataset, ballot = tiny_dataset(), Ballot("step 1")
    add(ballot, [(*name, grid, 0.5) for name in dataset.test_names() for grid in (A, A, B)])
    weights = [make_judge(folder / name, dataset, *settings) for name in ("sane", "broken")]
    weights[1].tensors["reasoner.head.weight"][:] = float("nan")
    return dataset, ballot, weights


def test_a_judge_that_finds_no_numbers_does_not_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset, ballot, (sane, broken) = two_judges(tmp_path)
    both, one, none = (judge_ballot(ballot, judges, dataset, 1.0, 2, 8) for judges in ([sane, broken], [sane], [broken]))
    assert "not a number for" in caplog.text
    for name in dataset.test_names():
        ranked = [[int(grid[0, 0]) for grid in judged.attempts(*name)] for judged in (both, one, none, ballot)]
        assert ranked[0] == ranked[1]
        assert ranked[2] == ranked[3]


def test_two_judges_of_different_canvases_are_averaged(tmp_path: Path) -> None:
    dataset, ballot, (fitted, _) = two_judges(tmp_path)
    full = make_judge(tmp_path / "full", dataset, "train.canvas=full", "memory.kind=table")
    assert set(judge_ballot(ballot, [fitted, full], dataset, 1.0, 2, 8).judging.names) == {
        f"{name}/weights.safetensors, step 1, trained on {dataset.data_hash[:12]}" for name in ("sane", "full")
    }
    grids = [[A, B] for _ in dataset.test_task]
    found = [log_likelihoods(CPU, torch.float32, weights, dataset, grids, 2) for weights in (fitted, full)]
    judged = judge_ballot(ballot, [fitted, full], dataset, 1.0, 2, 8)
    for name, *by_judge in zip(dataset.test_names(), *found, strict=True):
        best = int(np.argmax(np.sum(by_judge, axis=0)))
        assert np.array_equal(judged.attempts(*name)[0], (A, B)[best])


def test_a_judge_that_knows_none_of_the_tasks_is_refused(tmp_path: Path) -> None:
    dataset, ballot, (sane, _) = two_judges(tmp_path)
    stranger = replace(sane, task_ids=tuple(f"other{number}" for number in range(len(sane.task_ids))))
    message = refusal(lambda: judge_ballot(ballot, [stranger], dataset, 0.5, 2, 8))
    assert message.endswith("a judge that was not trained on any of the tasks")
