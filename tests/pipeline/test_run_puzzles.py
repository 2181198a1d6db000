"""Puzzles through the command line: runs, stages one by one, what is refused."""

import contextlib
import html
import io
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pipeline.inference.puzzles
import pipeline.jobs.puzzles
import pipeline.run
from eval.puzzle_score import PuzzlePrediction, read_predictions, score_puzzles
from pipeline.config import read_config
from pipeline.data.dataset import PuzzleDataset, load_dataset
from pipeline.data.puzzles.kinds import KindName
from pipeline.data.puzzles.sources import Puzzles
from pipeline.inference.facts import leave_predictions
from pipeline.inference.forward import InferenceRunner
from pipeline.inference.puzzles import PuzzleAnswers
from pipeline.jobs.puzzles import PuzzleJob
from pipeline.jobs.run_record import PREDICTING
from pipeline.system.time_limit import Budget
from pipeline.training.metrics import Progress
from pipeline.training.trainer import Trainer
from tests.pipeline.inference.test_puzzles import Looks
from tests.pipeline.tiny import TINY, set_options, tiny_source, write_kaggle
from tests.pipeline.tinypuzzles import tiny_puzzle_dataset, tiny_puzzles, write_csv
from tests.pipeline.tinyrun import call, one_error, run_until_torch

SETTINGS = set_options((*TINY, "train.segments=2", "train.packs=1"))
PRESETS: dict[KindName, str] = {"sudoku": "trm-sudoku", "maze": "trm-maze"}
SOLVED = 7
"""Puzzles to be solved, unless a test has its own."""


def to_solve(kind: KindName = "sudoku", count: int = SOLVED) -> Puzzles:
    return tiny_puzzles(kind, count, seed=99)


def write_sources(folder: Path) -> None:
    """Write files of puzzles to train on and to be solved, of both kinds."""
    for kind in PRESETS:
        write_csv(folder / f"{kind}-train.csv", tiny_puzzles(kind, 12))
        write_csv(folder / f"{kind}-test.csv", to_solve(kind))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_sources(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[KindName, tuple[Path, str]]:
    """By kind: the files of puzzles beside a run that has ended in `out`, only to be read, and what it printed."""
    found: dict[KindName, tuple[Path, str]] = {}
    for kind in PRESETS:
        folder = tmp_path_factory.mktemp(kind)
        write_sources(folder)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert run(*sources(folder, kind), "--out", folder / "out", kind=kind) == 0
        found[kind] = folder, printed.getvalue()
    return found


@pytest.fixture
def finished(both: dict[KindName, tuple[Path, str]], tmp_path: Path) -> Path:
    """A copy of the files of puzzles and of the run on sudokus."""
    return Path(shutil.copytree(both["sudoku"][0], tmp_path / "finished"))


def sources(folder: Path, kind: KindName = "sudoku") -> tuple[str, ...]:
    return ("--source", f"{kind}:{folder / f'{kind}-test.csv'}", "--train-source", f"{kind}:{folder / f'{kind}-train.csv'}")


def run(*arguments: object, kind: KindName = "sudoku", steps: int = 3) -> int:
    return call("run", *arguments, "--preset", PRESETS[kind], *SETTINGS, "--set", f"train.steps={steps}")


def only_questions(puzzles: Puzzles) -> list[PuzzlePrediction]:
    return [PuzzlePrediction(question, None, None) for question in puzzles.question_texts()]


@pytest.mark.parametrize("kind", PRESETS)
def test_a_run_predicts_every_puzzle_and_its_score_and_report_agree(
    both: dict[KindName, tuple[Path, str]], tmp_path: Path, kind: KindName, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder, shown), puzzles = both[kind], to_solve(kind)
    out = folder / "out"
    predictions = read_predictions(out / "predictions.csv")
    assert [each.question for each in predictions] == puzzles.question_texts()
    assert [each.answer for each in predictions] == puzzles.answer_texts()
    assert all(each.prediction is not None and each.correct is not None for each in predictions)
    score = json.loads((out / "score.json").read_text())
    answers = {each.question: each.answer or "" for each in predictions}
    told = ("sources", "provenance")
    assert {name: score[name] for name in score if name not in told} == score_puzzles(predictions, answers).to_json()
    assert score["puzzles"] == score["predicted"] == SOLVED
    assert f"{kind}:{folder / f'{kind}-test.csv'}: {SOLVED} puzzles; {out / 'predictions.csv'}" in shown
    assert "exact accuracy" in shown
    data_hash, scored_hash = load_dataset(out / "dataset").data_hash[:12], score["provenance"]["scored_hash"]
    assert len(scored_hash) == 64
    for row in (
        f"votes                     single checkpoint: step-00000003/weights.safetensors, step 3, trained on {data_hash}\n",
        "views                     1 view of each puzzle\n",
        f"data hash                 scored outputs {scored_hash[:12]}; dataset {data_hash}\n",
        f"data                      {SOLVED} puzzles, {SOLVED} answers: {kind}:{folder / f'{kind}-test.csv'}\n",
        "solutions during the run  not readable for training and prediction: read for the score afterwards\n",
        f"audit                     no training puzzle is a view of a test; {SOLVED} puzzles checked\n",
    ):
        assert row in shown
    assert call("score", out, *sources(folder, kind)[:2], "--json", tmp_path / "again.json") == 0
    assert capsys.readouterr().out == shown[shown.index(f"{kind}:") :]
    assert json.loads((tmp_path / "again.json").read_text())["provenance"] == score["provenance"]
    assert call("report", out) == 0
    page = html.unescape((out / "report.html").read_text())
    for name, words in score["provenance"]["in_words"].items():
        assert name in page and words in page


def test_of_foreign_or_changed_predictions_what_cannot_be_known_is_unknown(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = finished / "out"
    score = ("score", out / "predictions.csv", *sources(finished)[:2])
    lines = (out / "predictions.csv").read_text().splitlines()
    (out / "predictions.csv").write_text("\n".join([lines[0], *reversed(lines[1:]), ""]))
    assert call(*score) == 0
    assert capsys.readouterr().out.count("unknown (the predictions.json beside predictions.csv is of another one)") == 4
    (out / "predictions.json").unlink()
    assert call(*score) == 0
    assert capsys.readouterr().out.count("unknown (there is no predictions.json beside predictions.csv)") == 4
    (out / "predictions.json").write_text('{"sources": [1], "dataset": "x"}')
    assert call(*score) == 2
    assert "predictions.json: sources must be of type str, got 1" in one_error(capsys, "score")


def test_puzzles_that_there_was_no_time_for_and_a_damaged_record_cost_no_facts(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    out, dataset = folder / "out", tiny_puzzle_dataset()
    out.mkdir()
    (out / "score.json").write_text("{}")
    (out / "run.json").write_text("[")
    questions = to_solve().question_texts()
    half = [
        PuzzlePrediction(text, text if place % 2 else None, 0.5 if place % 2 else None) for place, text in enumerate(questions)
    ]
    leave_predictions(out / "predictions.csv", half, "run, step 3", dataset)
    assert not (out / "score.json").exists()  # it was of other predictions
    assert call("score", out / "predictions.csv", *sources(folder)[:2]) == 0
    shown = capsys.readouterr().out
    assert "views                     0 to 1 view of each puzzle\n" in shown
    assert "what run, step 3 was trained on is unknown" in shown
    assert "run.json: " in caplog.text


def test_training_on_the_tests_as_asked_is_said_with_the_score(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = ("--source", f"sudoku:{folder / 'sudoku-test.csv'}", "--train-source", f"sudoku:{folder / 'sudoku-test.csv'}")
    assert run(*both, "--leakage", "allow", "--out", folder / "out") == 0
    shown = capsys.readouterr().out
    assert f"trained on, as asked: {SOLVED} training puzzles that show an answer" in shown
    assert f"{SOLVED} training puzzles that are views of a test trained on all the same" in shown


def test_a_run_ends_in_its_time_with_every_puzzle_predicted(folder: Path) -> None:
    out, started = folder / "out", time.monotonic()
    arguments = (*sources(folder), "--time-limit", "12s", "--reserve", "4s", "--out", out)
    assert call("run", *arguments, "--preset", "trm-sudoku", *SETTINGS, "--set", "train.steps=0") == 0
    assert time.monotonic() - started < 12
    assert all(each.prediction is not None for each in read_predictions(out / "predictions.csv"))


def test_the_questions_stand_before_torch_is_imported(folder: Path) -> None:
    more = ("--preset", "trm-sudoku", "--time-limit", "20s", "--out", folder / "out")
    assert run_until_torch("run", *sources(folder), *more) == 77
    assert read_predictions(folder / "out" / "predictions.csv") == only_questions(to_solve())


def test_without_known_answers_there_are_predictions_and_no_score(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    out = folder / "out"
    write_csv(folder / "sudoku-test.csv", to_solve(), with_answers=False)
    assert run(*sources(folder), "--out", out) == 0
    assert all(each.prediction and each.answer is None for each in read_predictions(out / "predictions.csv"))
    assert "the answers are not known here, so there is no score" in caplog.text
    assert not (out / "score.json").exists()


def test_answers_that_cannot_be_read_do_not_cost_the_predictions(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    out, file = folder / "out", folder / "sudoku-test.csv"
    lines = file.read_text().splitlines()
    source, question, _, rating = lines[2].split(",")
    lines[2] = ",".join((source, question, "12", rating))
    file.write_text("\n".join([*lines, ""]))
    assert run(*sources(folder), "--out", out) == 0
    assert "no score: the answers cannot be read: " in caplog.text
    assert "sudoku-test.csv: line 3: " in caplog.text
    assert not (out / "score.json").exists()
    assert not (out / PREDICTING).exists()
    assert all(each.prediction is not None for each in read_predictions(out / "predictions.csv"))


def test_a_question_with_two_answers_is_not_judged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = ("SooG" + " " * 12), ("S  Gooo" + " " * 9)
    file = folder / "mazes.csv"
    file.write_text(f"question,answer\n{'S  G' + ' ' * 12},{first}\n{'S  G' + ' ' * 12},{second}\n")
    (folder / "predictions.csv").write_text("question,prediction,halting_probability,answer,correct\n")
    assert call("score", folder / "predictions.csv", "--source", f"maze:{file}") == 2
    assert "mazes.csv: two answers to one question, 'S  G" in one_error(capsys, "score")


def test_a_run_that_was_ended_before_its_score_is_scored_when_it_is_resumed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = folder / "out"

    def ended(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(PuzzleJob, "_score", ended)
        assert run(*sources(folder), "--out", out) == 1
    assert not (out / "score.json").exists()
    monkeypatch.setattr(pipeline.inference.puzzles, "predict_puzzles", lambda *_: iter(()))  # there is no time
    assert run(*sources(folder), "--out", out, "--resume") == 0
    assert json.loads((out / "score.json").read_text())["predicted"] == SOLVED


def test_limits_draw_training_puzzles_by_the_seed_and_always_the_same_tests(folder: Path) -> None:
    spec, drawn = f"sudoku:{write_csv(folder / 'all.csv', tiny_puzzles(count=40))}", []
    for seed in (1, 2):
        both = ("--source", spec, "--train-source", spec, "--leakage", "drop", "--limit", 20, "--test-limit", 6)
        assert call("build", *both, "--seed", seed, "--out", folder / str(seed)) == 0
        dataset = load_dataset(folder / str(seed))
        assert isinstance(dataset, PuzzleDataset)
        trained, tested = ({each.tobytes() for each in part} for part in (dataset.questions, dataset.test_questions))
        assert (10 <= len(trained) <= 20, len(tested)) == (True, 6)  # training puzzles that are tests too are left out
        assert not trained & tested
        drawn.append((trained, tested))
    assert drawn[0][0] != drawn[1][0]
    assert drawn[0][1] == drawn[1][1]


def predicted(out: Path) -> int:
    return sum(each.prediction is not None for each in read_predictions(out / "predictions.csv"))


def test_time_that_ends_in_the_second_round_leaves_every_question_and_the_predictions_of_both(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, ask, seen = folder / "out", pipeline.inference.puzzles.predict_puzzles, []

    def watch(*arguments: Any) -> Iterator[PuzzleAnswers]:
        for found in ask(*arguments[:-1], Looks(3)):
            yield found
            seen.append((int(found.predicted.sum()), predicted(out)))

    monkeypatch.setattr("pipeline.inference.puzzles.FIRST_ROUND", 2)
    monkeypatch.setattr("pipeline.inference.puzzles.predict_puzzles", watch)
    monkeypatch.setattr(InferenceRunner, "_pack_tokens", lambda *_: 1)
    assert run(*sources(folder), "--out", out) == 0
    assert seen == [(2, 2), (3, 3)]
    predictions = read_predictions(out / "predictions.csv")
    assert [each.question for each in predictions] == to_solve().question_texts()
    assert all((each.prediction is None) == (each.halting_probability is None) for each in predictions)
    score = json.loads((out / "score.json").read_text())
    assert (score["puzzles"], score["predicted"], predicted(out)) == (SOLVED, 3, 3)


@pytest.mark.parametrize("content", [b"question,prediction\n1,2,3\n", None])
def test_predictions_that_were_damaged_meanwhile_do_not_cost_the_new_ones(
    finished: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    out, fit = finished / "out", Trainer.fit
    whole = (out / "predictions.csv").read_bytes()

    def damage(trainer: Trainer, budget: Budget) -> Progress:  # after the start, which would repair them
        path = trainer.state.out / "predictions.csv"
        path.unlink() if content is None else path.write_bytes(content)
        return fit(trainer, budget)

    monkeypatch.setattr(Trainer, "fit", damage)
    assert run(*sources(finished), "--out", out, "--resume") == 0
    assert (out / "predictions.csv").read_bytes() == whole


def test_a_resumed_run_with_less_time_keeps_the_predictions(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = finished / "out"
    before = {name: (out / name).read_bytes() for name in ("predictions.csv", "score.json")}
    ask = pipeline.inference.puzzles.predict_puzzles
    monkeypatch.setattr("pipeline.inference.puzzles.predict_puzzles", lambda *given: ask(*given[:-1], Budget(0.0, 0.0)))
    assert run(*sources(finished), "--out", out, "--resume") == 0
    assert {name: (out / name).read_bytes() for name in before} == before


def test_predictions_that_the_disk_does_not_take_end_the_command_with_an_error(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "predicted"
    monkeypatch.setattr(pipeline.jobs.puzzles, "leave_predictions", full)
    assert call("predict", "--data", finished / "out" / "dataset", "--weights", finished / "out", "--out", out) == 1
    captured = capsys.readouterr()
    assert "No space left on device" in captured.err
    assert "predicted by" not in captured.out
    assert predicted(out) == 0


def test_a_non_finite_loss_leaves_every_question_and_exit_code_one(folder: Path) -> None:
    out = folder / "out"
    assert run(*sources(folder), "--out", out, "--set", "optimizer.rate=1e30", "--set", "optimizer.kind=adamw", steps=9) == 1
    assert [each.question for each in read_predictions(out / "predictions.csv")] == to_solve().question_texts()


def test_stages_with_the_same_seed_give_what_the_run_gives_and_training_is_continued_only_when_asked(
    both: dict[KindName, tuple[Path, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder, shown), (data, trained, predicted) = both["sudoku"], (tmp_path / name for name in ("data", "train", "predict"))
    assert call("build", *sources(folder), "--augmentations", 5, "--leakage", "drop", "--out", data) == 0
    assert f"{data}: 12 training puzzles, 6 views of each, {SOLVED} tests; " in capsys.readouterr().out
    train = ("train", "--data", data, "--preset", "trm-sudoku", "--out", trained, *SETTINGS)
    assert call(*train, "--set", "train.steps=3") == 0
    assert f"{trained}: step 3, 12 sequences, " in capsys.readouterr().out
    assert call("predict", "--data", data, "--weights", trained, "--out", predicted) == 0
    assert f"{SOLVED} of {SOLVED} puzzles predicted by step-00000003/weights.safetensors, step 3" in capsys.readouterr().out
    ours, theirs = (read_predictions(path / "predictions.csv") for path in (predicted, folder / "out"))
    assert ours == [replace(each, answer=None) for each in theirs]  # it never sees the answers
    for name in (predicted, folder / "out"):
        again = tmp_path / "again.json"
        assert call("score", name / "predictions.csv", *sources(folder)[:2], "--json", again) == 0
        assert capsys.readouterr().out.splitlines()[1:] == shown.splitlines()[1:]
        assert json.loads(again.read_text())["puzzles"] == SOLVED
    assert call(*train, "--set", "train.steps=4") == 2
    assert "holds checkpoints already" in one_error(capsys, "train")
    assert call(*train, "--set", "train.steps=4", "--resume") == 0
    assert "step 4, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--train-source arc1:training", "puzzles and ARC tasks do not go together: arc1:training, sudoku:"),
        ("--max-side 6", "--max-side is for ARC tasks only"),
        ("--limit 13", "has 12 puzzles, so the limit must be 1..12, got 13"),
        ("--test-limit 0", "has 7 puzzles, so the limit must be 1..7, got 0"),
        ("--train-source sudoku:generated:side=9,count=1,clues=60", "of one kind and size"),
        ("--train-source sudoku:nowhere.csv", "nowhere.csv: no such file"),
        ("--weights nothing.safetensors", "nothing.safetensors: no such weights file or folder"),
        ("--set train.steps=0", "training needs an end: --time-limit, or --set train.steps=N"),
        ("--set build.size_exponent=0.5", "build.size_exponent and build.draw are for ARC tasks only"),
    ],
)
def test_a_run_with_bad_input_ends_with_one_line_and_exit_code_two(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    settings = ("--preset", "trm-sudoku", *SETTINGS, "--set", "train.steps=1")
    assert call("run", *sources(folder), "--out", folder / "out", *settings, *arguments.split()) == 2
    assert message in one_error(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run --preset trm-sudoku --source arc1:training --test-limit 3 --out new", "--test-limit is for puzzles only"),
        (
            "run --preset trm-sudoku --set train.steps=1 --set train.precision=float32 --set train.canvas=fitted "
            "--set build.augmentations=1 --source arc1:training --max-side 4 --out new",
            "ARC tasks need train.canvas=full with it",
        ),
        ("build --source sudoku:sudoku-test.csv --out new", "puzzles have no demonstrations, so a --train-source is needed"),
        ("score out/predictions.csv --source sudoku:sudoku-test.csv --source arc1:training", "do not go together"),
        ("score out/predictions.csv --source sudoku:sudoku-test.csv --max-side 6", "--max-side is for ARC tasks only"),
        ("score out/predictions.csv --source sudoku:bare.csv", "has no answers, so there is nothing to score by"),
        ("vote --data out/dataset --candidates out --out new/submission.json", "manifest.json: "),
        *(
            (f"{command} --source sudoku:generated", "'sudoku:generated' are puzzles, and here ARC tasks are expected")
            for command in ("audit", "canvas", "show 007bbfb7 --png task.png")
        ),
    ],
)
def test_commands_name_in_one_line_what_does_not_fit_puzzles(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    monkeypatch.chdir(finished)
    write_csv(finished / "bare.csv", to_solve(), with_answers=False)
    assert call(*arguments.split()) == 2
    assert message in one_error(capsys, arguments.split(maxsplit=1)[0])
    assert not Path("task.png").exists()


def test_a_run_is_not_resumed_for_arc_tasks(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, spec = finished / "out", write_kaggle(tmp_path / "kaggle", tiny_source(1, 3, "t"), "evaluation", with_solutions=True)
    assert run("--source", spec, "--train-source", spec, "--out", out, "--resume") == 2
    assert "holds a run on puzzles; resume with the sources of the run" in one_error(capsys)
    assert not (out / "submission.json").exists()
    monkeypatch.setattr("pipeline.cli.main.are_puzzles", lambda _: True)  # where the predictions are gone, it is seen later
    assert run("--source", spec, "--train-source", spec, "--out", out, "--resume") == 2
    assert "a dataset for other tests than those of the sources" in one_error(capsys)


def test_a_training_on_puzzles_has_the_views_that_they_were_built_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, source = tmp_path / "data", "maze:generated:side=7,count=6"
    assert call("build", "--source", source, "--train-source", source, "--leakage", "allow", "--out", data) == 0
    words = ("train", "--data", data, "--preset", "trm-maze", *set_options((*TINY, "train.steps=1")))
    assert call(*words, "--out", tmp_path / "out") == 0
    assert "the dataset was built with build.augmentations=7, and keeps that" in caplog.text
    assert read_config(tmp_path / "out" / "config.json").build.augmentations == 7
    caplog.clear()
    assert call(*words, "--set", "build.augmentations=1000", "--out", tmp_path / "same") == 0
    assert "keeps that" not in caplog.text, "a maze has no more than these"


def test_a_run_does_not_replace_predictions(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "predicted"
    assert call("predict", "--data", finished / "out" / "dataset", "--weights", finished / "out", "--out", out) == 0
    before = (out / "predictions.csv").read_bytes()
    capsys.readouterr()
    assert run(*sources(finished), "--out", out) == 2
    assert "predicted holds predictions already: choose another --out" in one_error(capsys)
    assert (out / "predictions.csv").read_bytes() == before


def test_a_run_is_not_resumed_for_other_puzzles(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = finished / "out"
    before = (out / "predictions.csv").read_bytes()
    assert run(*sources(finished), "--out", out) == 2
    assert "holds a run already: continue it with --resume" in one_error(capsys)
    others = (*sources(finished), "--out", out, "--test-limit", 3, "--resume")
    assert run(*others) == 2
    assert "predictions for other puzzles than those of the sources" in one_error(capsys)
    assert (out / "predictions.csv").read_bytes() == before
    (out / "predictions.csv").unlink()
    assert (out / "score.json").exists()
    assert run(*others) == 2
    assert "a dataset for other puzzles than those of the sources" in one_error(capsys)
    assert not {"score.json", "predictions.json"} & {path.name for path in out.iterdir()}  # they were of what is gone


def test_a_resumed_run_keeps_its_limits_of_puzzles(folder: Path) -> None:
    out, limits = folder / "out", ("--limit", 9, "--test-limit", 3)
    assert run(*sources(folder), *limits, "--out", out) == 0
    shutil.rmtree(out / "dataset")  # as if it had been killed before: it is built anew, for the same checkpoints
    assert run(*sources(folder), "--resume", "--out", out) == 0
    assert predicted(out) == 3
    assert load_dataset(out / "dataset").data_hash == json.loads((out / "predictions.json").read_text())["dataset"]


def test_puzzles_that_were_not_asked_are_no_wrong_answers_unless_they_are_to_count(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, (_, spec, *_) = folder / "out", sources(folder)
    assert run(*sources(folder), "--test-limit", 3, "--out", out) == 0
    assert call("score", out, "--source", spec) == 2
    assert "lacks 4 of the 7 puzzles" in one_error(capsys, "score")
    found = []
    for more in (("--test-limit", 3), ("--allow-missing",)):
        assert call("score", out, "--source", spec, *more, "--json", folder / "score.json") == 0
        found.append(json.loads((folder / "score.json").read_text())["puzzles"])
    assert found == [3, 7]


def test_a_prediction_goes_on_in_the_folder_of_a_run_only_with_its_puzzles(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(finished / "out", tmp_path / "out"))
    before = (out / "predictions.csv").read_bytes()
    words = ("predict", "--weights", out, "--out", out, "--data")
    assert call(*words, out / "dataset") == 2
    assert "holds a run, whose votes these would replace" in one_error(capsys, "predict")
    assert call(*words, out / "dataset", "--resume", "--time-limit", "0.001s") == 0  # no time for any
    assert (out / "predictions.csv").read_bytes() == before
    assert (out / "score.json").is_file()
    generated = "sudoku:generated:side=4,count=3,seed=5"
    assert call("build", "--source", generated, "--train-source", generated, "--out", tmp_path / "others") == 0
    assert call(*words, tmp_path / "others", "--resume") == 2
    assert "predictions for other puzzles" in one_error(capsys, "predict")
    assert (out / "predictions.csv").read_bytes() == before


def test_weights_do_not_predict_puzzles_of_another_size(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mazes, data, weights = sources(finished, "maze"), finished / "data", ("--weights", finished / "out")
    assert call("build", *mazes, "--out", data) == 0
    earlier = Path(shutil.copytree(finished / "out", finished / "earlier", ignore=lambda *_: ["run.json"]))
    before = (earlier / "predictions.csv").read_bytes()
    assert call("predict", "--data", data, *weights, "--out", earlier) == 2
    message = one_error(capsys, "predict")
    assert "weights for 11 tokens on a canvas of 4 x 4, but the dataset has 6 on 5 x 5" in message
    assert (earlier / "predictions.csv").read_bytes() == before
    model = ("--set", "model.mixing=mixer", "--set", "model.positions=none")
    assert run(*mazes, *weights, *model, "--out", finished / "large", kind="maze", steps=1) == 2
    assert "weights of another network" in one_error(capsys)
