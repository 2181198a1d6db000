"""The whole job and the command line, on tasks that are small enough for a test."""

import contextlib
import io
import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import pipeline.device
import pipeline.jobs.time_split
import pipeline.run
import pipeline.training.trainer
from pipeline.cli.options import complete_settings, config_of
from pipeline.config import Config, override, read_config, with_seed
from pipeline.data.dataset import load_dataset
from pipeline.data.sources import load_source
from pipeline.jobs.run_record import record_if_usable
from pipeline.kaggle.plan import Plan, make_command
from pipeline.kaggle.starts import Log, Setup
from pipeline.presets import preset
from pipeline.reports.benchmark_record import command
from pipeline.system.time_limit import Budget
from pipeline.training.checkpoint import CheckpointFailed
from pipeline.training.metrics import Progress, read_metrics
from pipeline.training.trainer import Trainer
from submission.format import check_submission, read_submission
from submission.settings import KaggleSettings
from tests.pipeline.tiny import TINY, set_options, tiny_dataset, tiny_source, write_kaggle
from tests.pipeline.tinyrun import call, one_error, run_until_torch, write_weights
from tests.pipeline.trainers import final_tensors, last_checkpoint

SETTINGS = set_options((*TINY, "train.segments=2"))


def run(*arguments: object) -> int:
    return call(*arguments, "--preset", "demo", *SETTINGS)  # later settings win, so tests put theirs in `arguments`


@pytest.fixture(scope="module")
def kaggle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("competition") / "kaggle"
    write_kaggle(folder, tiny_source(1, 5, "train"), "training", with_solutions=True)
    write_kaggle(folder, tiny_source(2, 4, "test"), "test", with_solutions=False)
    write_kaggle(folder, tiny_source(3, 3, "eval"), "evaluation", with_solutions=True)
    return folder


def solve_evaluation(kaggle: Path, out: Path, *more: object) -> int:
    return run("run", "--source", f"kaggle:{kaggle}:evaluation", "--out", out, "--set", "train.steps=3", *more)


@pytest.fixture(scope="module")
def finished(kaggle: Path) -> tuple[Path, str]:
    """A run that has ended, only to be read, and what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert solve_evaluation(kaggle, kaggle.parent / "finished") == 0
    return kaggle.parent / "finished", printed.getvalue()


@pytest.fixture
def out(finished: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the run that has ended."""
    return Path(shutil.copytree(finished[0], tmp_path / "out"))


def submitted(folder: Path) -> bytes:
    return (folder / "submission.json").read_bytes()


def test_a_competition_folder_becomes_a_complete_submission_in_time_of_which_the_trainer_takes_its_share(
    tmp_path: Path, kaggle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Trainer):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            time.sleep(0.7)

        def fit(self, budget: Budget) -> Progress:
            ends.append(budget.started + (budget.limit_seconds or 0.0))
            return super().fit(budget)

    def split(*arguments: Any) -> tuple[Config, float | None]:
        assert arguments[1].reserve_seconds == 6.0 + 0.7  # a twentieth of the limit for the report
        config, seconds = split_time(*arguments)
        ends.append(time.monotonic() + (seconds or 0.0))
        return config, seconds

    ends: list[float] = []
    split_time = pipeline.jobs.time_split.split_time
    monkeypatch.setattr(pipeline.training.trainer, "Trainer", Slow)
    monkeypatch.setattr(pipeline.run, "split_time", split)
    out, started = tmp_path / "out", time.monotonic()
    source, known = f"kaggle:{kaggle}:test", f"kaggle:{kaggle}:training"
    limit = ("--time-limit", "14s", "--reserve", "6s")
    assert run("run", "--source", source, "--train-source", known, *limit, "--out", out) == 0
    assert time.monotonic() - started < 14
    planned, given = ends
    assert given == pytest.approx(planned, abs=0.6)  # what making the trainer took is not taken from prediction
    tasks = load_source(source).tasks
    check_submission(out / "submission.json", tasks)
    assert list(read_submission(out / "submission.json")) == [task.id for task in tasks]
    assert not (out / "score.json").exists()
    votes = json.loads((out / "votes.json").read_text())
    assert votes["views_most"] >= 1
    assert len(votes["sources"]) == 1


def test_a_build_without_time_takes_what_there_is_and_the_report_says_what_is_not(
    tmp_path: Path, kaggle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pipeline.run, "BUILD_SHARE", 0.0)
    out, more = tmp_path / "out", [f"--train-source=kaggle:{kaggle}:{split}" for split in ("training", "evaluation")]
    arguments = ("--time-limit", "40s", "--set", "train.steps=2", "--out", out)
    assert run("run", "--source", f"kaggle:{kaggle}:test", *more, *arguments) == 0
    dataset = load_dataset(out / "dataset")
    assert [source["name"] for source in dataset.manifest["sources"]] == ["kaggle:kaggle:test", "kaggle:kaggle:training"]
    counts = np.diff(dataset.transform_start)
    assert (counts.min(), counts.max()) == (1, 6)
    assert "of some tasks there are 0 besides the task itself, not 5" in caplog.text
    assert f"kaggle:{kaggle}:evaluation is left out: reading the sources before it took" in caplog.text
    assert call("report", out) == 0
    assert "; 1 of these left out, as there was no time to read them" in (out / "report.html").read_text()


def test_a_run_with_known_solutions_is_scored_by_three_rules(
    finished: tuple[Path, str], kaggle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, shown = finished
    assert all(
        rule in shown for rule in ("mean over tasks of the fraction solved", "per test output", "all-or-nothing per task")
    )
    assert json.loads((out / "score.json").read_text())["tasks"] == 3
    assert call("score", out / "submission.json", "--source", f"kaggle:{kaggle}:evaluation") == 0
    assert capsys.readouterr().out.splitlines()[1:] == shown.splitlines()[1:]


def test_packs_that_the_processes_cannot_share_are_refused_before_anything_is_built(
    tmp_path: Path, kaggle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    two = SimpleNamespace(num_processes=2, is_main_process=True)
    monkeypatch.setattr(pipeline.run, "make_accelerator", lambda *_: (two, torch.float32))
    out = tmp_path / "out"
    assert run("run", "--source", f"kaggle:{kaggle}:test", "--out", out, "--set", "train.packs=1", "--time-limit", "20s") == 2
    message = "train.packs = 1 must be a multiple of the 2 processes: --set train.packs=2"
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert {path.name for path in out.iterdir()} == {".lock", "run.json", "submission.json"}


def test_a_folder_with_a_run_is_not_overwritten_but_resumed(
    out: Path, kaggle: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    first = submitted(out)
    assert solve_evaluation(kaggle, out) == 2
    assert "holds a run already: continue it with --resume" in capsys.readouterr().err.splitlines()[-1]
    assert solve_evaluation(kaggle, out, "--resume") == 0
    assert submitted(out) == first
    assert run("run", "--source", f"kaggle:{kaggle}:test", "--out", out, "--set", "train.steps=3", "--resume") == 2
    assert "a submission for other tasks than those of the sources" in capsys.readouterr().err
    assert submitted(out) == first
    score = (out / "score.json").read_bytes()
    assert solve_evaluation(kaggle, out, "--resume", "--time-limit", "9s", "--reserve", "8.9s") == 0  # no time for a round
    assert submitted(out) == first
    assert "the earlier submission stays, with its score: it rests on 4 views" in caplog.text
    assert (out / "score.json").read_bytes() == score
    assert not list((out / "candidates").iterdir())


def test_a_run_that_was_killed_before_it_had_settings_draws_its_dataset_again(out: Path, kaggle: Path) -> None:
    dataset = (out / "dataset" / "manifest.json").read_bytes()
    shutil.rmtree(out / "checkpoints")
    assert solve_evaluation(kaggle, out, "--resume", "--set", "build.size_exponent=0.5") == 0  # which it keeps to
    assert (out / "dataset" / "manifest.json").read_bytes() == dataset
    shutil.rmtree(out / "checkpoints")
    (out / "config.json").unlink()
    assert solve_evaluation(kaggle, out, "--resume", "--set", "build.size_exponent=0.5") == 0
    assert load_dataset(out / "dataset").manifest["settings"]["size_exponent"] == 0.5


def test_a_run_with_a_damaged_dataset_goes_on_without_it(out: Path, kaggle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = submitted(out)
    (out / "dataset" / "store.safetensors").write_bytes(b"damaged")
    assert solve_evaluation(kaggle, out, "--resume") == 2
    assert one_error(capsys).endswith(f"; without {out}/dataset, --resume builds it again")
    shutil.rmtree(out / "dataset")
    assert solve_evaluation(kaggle, out, "--resume") == 0
    assert submitted(out) == first


def test_a_further_leg_of_a_run_may_end_with_other_rates_and_predict_more_but_not_train_otherwise(
    out: Path, kaggle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ("train.steps=6", "optimizer.decay_from=0.5", "predict.views=3", "optimizer.beta1=0.5")
    changes = set_options(settings)
    sources = ("--source", f"kaggle:{kaggle}:evaluation", "--train-source", f"kaggle:{kaggle}:training")
    assert call("run", *sources, "--preset", "demo", "--seed", 7, "--out", out, "--resume", *changes) == 0
    assert f"train sources kaggle:{kaggle}:training: the run that is resumed has none, and keeps that" in caplog.messages
    assert "seed 7: the run that is resumed has 0, and keeps that" in caplog.messages
    assert "optimizer.beta1=0.5: the run that is resumed has other settings, and keeps them" in caplog.messages
    stored = json.loads((out / "config.json").read_bytes())
    assert stored["optimizer"]["decay_from"] == 0.5 and stored["optimizer"]["beta1"] == Config().optimizer.beta1
    assert stored["predict"]["views"] == json.loads((out / "votes.json").read_bytes())["views_most"] == 3
    record = json.loads((out / "run.json").read_bytes())
    assert (record["starts"], record["seed"]) == (2, 0)
    assert set(settings[:3]) < set(record["settings"])  # what the run took of them
    assert not {"train.steps=3", "optimizer.beta1=0.5"} & set(record["settings"])
    assert [path.name for path in (out / "checkpoints").iterdir()][-1:] == ["step-00000006"]


def test_packs_of_a_start_without_time_get_their_size_again_unless_it_trained(
    out: Path, kaggle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def resume(*more: str) -> None:
        assert call("run", "--source", f"kaggle:{kaggle}:evaluation", "--out", out, "--resume", *more) == 0

    def pack_tokens() -> int:
        tokens: int = json.loads((out / "config.json").read_bytes())["train"]["pack_tokens"]
        return tokens

    usual, no_time = pack_tokens(), ("--set", "train.steps=0", "--time-limit", "9s", "--reserve", "8.9s")
    resume("--preset", "trm-arc1")  # which the run does not have
    assert pack_tokens() == usual
    for _ in range(2):
        shutil.rmtree(out / "checkpoints")
        resume(*no_time)
        assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000000"]
        cut = pack_tokens()
        assert cut < usual
    resume("--set", "train.steps=1")
    assert pack_tokens() == usual
    config = override(read_config(out / "config.json"), [f"train.pack_tokens={cut}", f"train.cut_from={usual}"])
    (out / "config.json").write_text(json.dumps(config.to_json()))
    shutil.rmtree(out / "checkpoints")
    write_weights(out / "checkpoints" / "step-00000001", tiny_dataset(), config)
    arguments = SimpleNamespace(weights=out, preset=None, set=[], seed=0, networks=1)
    assert config_of(arguments).train.pack_tokens == usual, "a run that starts from them may have more time"  # type: ignore[arg-type]
    for settings, tokens in (((), usual), ((f"train.pack_tokens={cut + 1}",), cut + 1)):
        exported = tmp_path / f"exported-{tokens}"
        assert call("export", out, *set_options(settings), "--out", exported) == 0
        assert config_of(SimpleNamespace(**vars(arguments) | {"weights": exported})).train.pack_tokens == tokens  # type: ignore[arg-type]
    caplog.clear()
    resume("--set", "train.precision=auto")  # the checkpoint is damaged, but it is one; and the precision was measured
    assert "has other settings" not in caplog.text
    assert f"packs of {cut} tokens, not {usual}, since the run began with little time; another --out" in caplog.text


def test_a_submission_that_lacks_the_tasks_is_not_scored(out: Path, kaggle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("score", out, "--source", f"kaggle:{kaggle}:training")
    assert call(*words) == 2
    assert "lacks 5 of the 5 tasks of" in one_error(capsys, "score")
    assert call(*words, "--allow-missing") == 0
    assert "0 of 7" in capsys.readouterr().out


def test_a_submission_that_lacks_a_test_of_a_task_is_not_scored(
    out: Path, kaggle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = out / "submission.json"
    submission = json.loads(path.read_text())
    (task_id,) = [name for name, attempts in submission.items() if len(attempts) > 1][:1]
    path.write_text(json.dumps(submission | {task_id: submission[task_id][:1]}))
    words = ("score", path, "--source", f"kaggle:{kaggle}:evaluation")
    assert call(*words) == 2
    assert f"lacks 1 of the 3 tasks of kaggle:{kaggle}:evaluation, or tests of them: {task_id}; " in one_error(capsys, "score")
    assert call(*words, "--allow-missing") == 0


def test_a_score_is_printed_whatever_becomes_of_its_file_and_of_the_characters_of_a_terminal(
    finished: tuple[Path, str], tmp_path: Path, kaggle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, source = finished[0] / "submission.json", f"kaggle:{kaggle}:evaluation"
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert call("score", path, "--source", source, "--json", tmp_path / "new" / "folder" / "score.json") == 0
    assert json.loads((tmp_path / "new" / "folder" / "score.json").read_bytes())["provenance"]
    with (tmp_path / "file").open("w"):
        assert call("score", path, "--source", source, "--json", tmp_path / "file" / "score.json") == 2
    print("Straße", flush=True)
    printed = terminal.buffer.getvalue().decode()
    assert printed.count("pass@2") > 1
    assert printed.endswith("Stra\\xdfe\n")


def test_a_report_has_as_much_time_as_the_program_took_to_start() -> None:
    for limit, elapsed, kept in ((60.0, 3.0, 3.0), (60.0, 0.5, 2.0), (600.0, 30.0, 30.0), (60.0, 30.0, 3.0)):
        budget = Budget(limit, time.monotonic() - elapsed, 5.0)
        assert pipeline.run.before_report(budget).reserve_seconds == pytest.approx(5.0 + kept, abs=0.1)
    assert pipeline.run.before_report(Budget(None, 0.0)).remaining() == math.inf


@pytest.mark.parametrize(
    ("left", "failure", "message"),
    [
        (1.0, None, "no time left for a report; `python -m pipeline report RUN` makes it"),
        (60.0, subprocess.TimeoutExpired("report", 60.0), "the report was not ready in time; `python -m pipeline report RUN`"),
        (60.0, subprocess.CalledProcessError(2, "report", stderr="a line\nthe reason\n"), "no report: the reason"),
        (60.0, subprocess.CalledProcessError(2, "report", stderr=""), "no report: no message"),
        (None, OSError(12, "Cannot allocate memory"), "no report: [Errno 12] Cannot allocate memory"),
    ],
)
def test_a_report_that_cannot_be_written_is_a_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, reports: None, left: float | None,
    failure: Exception | None, message: str,
) -> None:  # fmt: skip
    limits = []

    def fail(*_: object, timeout: float | None, **__: object) -> None:
        limits.append(timeout)
        assert failure is not None
        raise failure

    monkeypatch.setattr(pipeline.run.subprocess, "run", fail)
    pipeline.run.leave_report(Path("RUN"), Budget(left, time.monotonic()))
    assert message in caplog.text
    assert limits == ([] if failure is None else [left if left is None else pytest.approx(left, abs=5.0)])


def test_the_report_is_written_without_torch(out: Path) -> None:
    (out / "report.html").unlink(missing_ok=True)
    assert (out / "drafts.safetensors").is_file()
    assert run_until_torch("report", out) == 0
    assert (out / "report.html").is_file()


def test_the_fallback_stands_before_torch_is_imported(tmp_path: Path, kaggle: Path) -> None:
    source, out = f"kaggle:{kaggle}:test", tmp_path / "out"
    assert run_until_torch("run", "--source", source, "--preset", "demo", "--time-limit", "20s", "--out", out) == 77
    check_submission(out / "submission.json", load_source(source).tasks)


def test_stages_with_the_same_seed_give_the_bytes_of_the_run(finished: tuple[Path, str], tmp_path: Path, kaggle: Path) -> None:
    data, trained, predicted = (tmp_path / name for name in ("data", "train", "predict"))
    source = f"kaggle:{kaggle}:evaluation"
    build = ("build", "--source", source, "--augmentations", "5", "--policy", "keep-output-only", "--size-exponent", "0.5")
    assert call(*build, "--out", data) == 0
    assert run("train", "--data", data, "--out", trained, "--set", "train.steps=3") == 0
    assert call("predict", "--data", data, "--weights", trained, "--out", predicted) == 0
    assert submitted(predicted) == submitted(finished[0])


def test_starting_from_other_weights_keeps_what_they_know(
    finished: tuple[Path, str], tmp_path: Path, kaggle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    sources = ("--source", f"kaggle:{kaggle}:test", "--train-source", f"kaggle:{kaggle}:evaluation")
    words = ("run", *sources, "--set", "train.steps=2", "--out", tmp_path / "second")
    assert run(*words, "--weights", finished[0]) == 0
    assert "3 tasks by id, 4 new from the mean, 0 not needed" in caplog.text
    caplog.clear()
    assert run(*words, "--resume") == 0
    assert json.loads((tmp_path / "second" / "run.json").read_text())["weights"] == str(finished[0])
    shutil.rmtree(tmp_path / "second" / "checkpoints")
    caplog.clear()
    assert run(*words, "--resume") == 0
    assert "3 tasks by id, 4 new from the mean, 0 not needed" in caplog.text

    recorded = tmp_path / "second" / "run.json"
    recorded.write_text(json.dumps(json.loads(recorded.read_text()) | {"weights": str(tmp_path / "gone")}))
    assert run(*words, "--resume") == 0  # the checkpoint has what training began with
    small = override(read_config(finished[0] / "config.json"), ["model.hidden_size=32", "model.heads=2"])
    write_weights(tmp_path / "gone", tiny_dataset(), small)
    assert run(*words, "--resume") == 0  # whatever is there now
    shutil.rmtree(tmp_path / "gone")
    for file in (tmp_path / "second" / "checkpoints").glob("*/*"):
        file.write_bytes(b"damaged")
    assert run(*words, "--resume") == 2  # and does not train from nothing
    shutil.rmtree(tmp_path / "second" / "checkpoints")
    assert run(*words, "--resume", "--weights", finished[0]) == 0  # nothing has begun with the others
    assert json.loads(recorded.read_text())["weights"] == str(finished[0])


def test_a_run_whose_checkpoints_are_damaged_begins_again_as_it_began(
    finished: tuple[Path, str], tmp_path: Path, kaggle: Path
) -> None:
    sources = ("--source", f"kaggle:{kaggle}:test", "--train-source", f"kaggle:{kaggle}:evaluation")
    trained: list[dict[str, torch.Tensor]] = []
    for name in ("whole", "damaged"):
        out = tmp_path / name
        words = ("run", *sources, "--set", "train.steps=2", "--weights", finished[0], "--out", out)
        assert run(*words) == 0
        if name == "damaged":
            (last_checkpoint(out) / "training.safetensors").write_bytes(b"damaged")  # and its weights are not
            assert run(*words, "--resume") == 0
            assert (out / "checkpoints" / "damaged-step-00000002").is_dir()
        trained.append(final_tensors(out))
    assert trained[0].keys() == trained[1].keys()
    assert all(torch.equal(tensor, trained[1][name]) for name, tensor in trained[0].items())


def test_weights_bring_their_settings(
    finished: tuple[Path, str], tmp_path: Path, kaggle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported, out, changes = tmp_path / "exported", tmp_path / "out", ("optimizer.ema=0.5", "train.log_steps=1")
    assert call("export", finished[0], *set_options(changes), "--out", exported) == 0
    words = ("run", "--source", f"kaggle:{kaggle}:test", "--seed", 7, "--out", out)
    own = ("--set", "train.precision=float32", "--set", "train.steps=2")
    assert call(*words, *own) == 2
    assert "--preset is required, unless --weights bring their settings" in capsys.readouterr().err
    assert not out.exists()
    assert call(*words, *own, "--weights", exported) == 0
    trained = override(read_config(finished[0] / "config.json"), [*changes, *own[1::2]])
    assert read_config(out / "config.json") == with_seed(trained, 7)
    shutil.rmtree(exported)
    assert call(*words, "--resume", "--set", "train.steps=3") == 0  # a run that has begun knows its settings
    record = record_if_usable(out)
    assert record is not None
    again = command(record, "x")
    assert again.endswith(f"--set train.steps=3 --weights {exported} --out x")
    assert "--preset" not in again
    for setting in ("model.layers=3", "train.steps=3"):
        assert call("export", finished[0], "--set", setting, "--out", tmp_path / "other") == 2
        assert setting in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


BEGUN = {"preset": "demo", "weights": "start", "seed": 3, "networks": 2, "max_side": 6, "hold_out": True}
BEGUN |= {"settings": ["model.layers=3"], "train_sources": ["arc1:evaluation"]}


@pytest.mark.parametrize("begun", [False, True])
def test_a_resumed_run_and_its_further_networks_know_what_it_began_with(tmp_path: Path, begun: bool) -> None:
    def complete(**given: object) -> dict[str, Any]:
        words = ["run", *(["--resume"] * resume)]
        absent = dict.fromkeys(("preset", "weights", "seed", "networks", "max_side", "limit", "test_limit")) | {
            "set": [],
            "train_source": [],
            "hold_out": False,
        }
        arguments = SimpleNamespace(command="run", resume=resume, out=tmp_path, words=words, **absent | given)
        complete_settings(arguments)
        return vars(arguments)

    resume = True
    with pytest.raises(ValueError, match="--preset is required"):
        complete()
    for earlier in ({"preset": "demo"}, {"weights": "start"}):
        (tmp_path / "run.json").write_text(json.dumps({"sources": ["arc1:training"], **earlier}))
        (option, value) = next(iter(earlier.items()))
        assert str(complete()[option]) == value
        assert sorted(complete()["words"]) == sorted(["run", "--resume", "--networks", "1", f"--{option}", value])
    (tmp_path / "run.json").write_text(json.dumps({"sources": ["arc1:training"], **BEGUN}))
    if begun:
        (tmp_path / "config.json").write_text("{}")
    completed = complete(set=["train.steps=4"], networks=4)
    assert (completed["preset"], str(completed["weights"]), completed["seed"]) == ("demo", "start", 3)
    assert completed["networks"] == 4
    assert (completed["max_side"], completed["hold_out"]) == (6, True)
    assert completed["train_source"] == ["arc1:evaluation"]
    given = "--max-side 6 --preset demo --weights start --hold-out --train-source arc1:evaluation"
    assert " ".join(completed["words"]).endswith(given)
    assert complete(train_source=["arc2:training"])["train_source"] == ["arc2:training"]
    assert completed["set"] == ([] if begun else BEGUN["settings"]) + ["train.steps=4"]
    assert complete(set=["model.layers=3"])["set"] == ["model.layers=3"]
    other = complete(preset="fast")
    assert (other["preset"], str(other["weights"])) == ("fast", "start" if begun else "None")
    assert complete(weights=Path("other"))["preset"] == ("demo" if begun else None)  # before it begins it may do without
    resume = False
    with pytest.raises(ValueError, match="--preset is required"):
        complete()
    assert complete(preset="fast")["seed"] == 0


def test_weights_to_start_from_need_no_tasks_to_solve(
    tmp_path: Path, kaggle: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO")
    data, trained = tmp_path / "data", tmp_path / "start"
    assert call("build", "--out", data) == 2
    assert "--source is required, unless --train-source names ARC tasks" in capsys.readouterr().err
    assert call("build", "--train-source", f"kaggle:{kaggle}:evaluation", "--augmentations", "5", "--out", data) == 0
    assert "3 tasks, 13 training pairs, 0 tests" in capsys.readouterr().out
    assert run("train", "--data", data, "--out", trained, "--set", "train.steps=2") == 0
    source = ("--source", f"kaggle:{kaggle}:test")
    assert run("run", *source, "--weights", trained, "--set", "train.steps=2", "--out", tmp_path / "run") == 0
    assert "0 tasks by id, 4 new from the mean, 3 not needed" in caplog.text


def test_the_time_of_a_training_that_is_interrupted_counts(
    tmp_path: Path, kaggle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        time.sleep(0.2)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", interrupted)
    assert solve_evaluation(kaggle, tmp_path / "out") == 1
    assert json.loads((tmp_path / "out" / "run.json").read_text())["seconds"]["train"] > 0.2


def test_a_training_that_is_resumed_keeps_the_precision_that_was_measured(
    finished: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("train", "--data", finished[0] / "dataset", "--out", tmp_path, "--set", "train.precision=auto")
    for steps, speedup, more in ((2, 9.0, ()), (4, 0.1, ("--resume",))):
        monkeypatch.setattr(pipeline.device, "bfloat16_speedup", lambda speedup=speedup: speedup)
        assert call(*words[:5], "--preset", "demo", *SETTINGS, *words[5:], "--set", f"train.steps={steps}", *more) == 0
    assert read_config(tmp_path / "config.json").train.precision == "bfloat16"


def test_a_training_goes_on_without_the_weights_that_it_began_with_and_another_one_begins_anew(
    finished: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported, out = tmp_path / "exported", tmp_path / "out"
    assert call("export", finished[0], "--out", exported) == 0
    words = ("train", "--data", finished[0] / "dataset", "--out", out, "--set", "train.log_steps=1", "--set")
    assert call("train", "--data", "nowhere", "--weights", exported, "--out", out) == 2
    assert "training needs an end: --time-limit, or --set train.steps=N" in capsys.readouterr().err
    (out / "metrics.jsonl").write_text('{"step": 9}\n')
    (out / "tracker.json").write_text('{"tensorboard": 9}')
    assert call(*words, "train.steps=2", "--weights", exported) == 0
    assert [line["step"] for line in read_metrics(out / "metrics.jsonl")] == [1, 2]
    assert not (out / "tracker.json").exists()
    shutil.rmtree(exported)
    assert call(*words, "train.steps=3", "--weights", exported, "--resume") == 0
    assert call(*words, "train.steps=4", "--resume") == 0
    assert [line["step"] for line in read_metrics(out / "metrics.jsonl")] == [1, 2, 3, 4]
    assert call(*words, "train.steps=5", "--preset", "demo") == 2
    assert "holds checkpoints already: continue with --resume, or choose another --out" in capsys.readouterr().err


def test_a_dataset_keeps_what_it_was_built_with_whatever_the_settings_of_a_training_say(
    tmp_path: Path, kaggle: Path, finished: tuple[Path, str], caplog: pytest.LogCaptureFixture
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    assert call("build", "--source", f"kaggle:{kaggle}:evaluation", "--augmentations", "5", "--out", data) == 0
    assert run("train", "--data", data, "--out", out, "--set", "train.steps=2") == 0
    assert "the dataset was built with build.policy=all, build.size_exponent=0.0, and keeps that" in caplog.text
    built = read_config(out / "config.json").build
    assert (built.augmentations, built.policy, built.size_exponent) == (5, "all", 0.0)
    assert call("predict", "--data", data, "--weights", out, "--out", tmp_path / "own") == 0
    assert "the dataset permutes all colors" not in caplog.text
    assert call("predict", "--data", data, "--weights", finished[0], "--out", tmp_path / "other") == 0
    assert "the dataset permutes all colors; these weights were trained with build --policy keep-output-only" in caplog.text


def test_a_dataset_is_built_as_a_preset_does_but_for_what_is_given(tmp_path: Path, kaggle: Path) -> None:
    def settings(*words: str) -> dict[str, Any]:
        build = ("build", "--source", f"kaggle:{kaggle}:evaluation", "--augmentations", "5", "--out", tmp_path / "data")
        assert call(*build, *words) == 0
        return dict(json.loads((tmp_path / "data" / "manifest.json").read_text())["settings"])

    plain, small = settings(), settings("--preset", "arc1-cpu")
    assert plain == {"augmentations": 5, "policy": "all", "seed": 0, "draw": "tasks", "size_exponent": 0.0}
    own = preset("arc1-cpu").build
    assert small == plain | {"policy": own.policy, "draw": own.draw, "size_exponent": own.size_exponent} != plain
    assert settings("--preset", "arc1-cpu", "--size-exponent", "0.25", "--seed", "3") == small | {
        "size_exponent": 0.25,
        "seed": 3,
    }


def test_a_leg_that_only_predicts_keeps_how(out: Path, kaggle: Path) -> None:
    (out / "predicting").touch()
    assert solve_evaluation(kaggle, out, "--resume", "--set", "predict.time_share=0.2") == 0
    assert read_config(out / "config.json").predict.time_share == 0.2


def test_a_non_finite_loss_leaves_a_complete_submission_and_exit_code_one(tmp_path: Path, kaggle: Path) -> None:
    out = tmp_path / "out"
    source = f"kaggle:{kaggle}:test"
    settings = ("--set", "optimizer.rate=1e30", "--set", "optimizer.kind=adamw", "--set", "train.steps=50")
    assert run("run", "--source", source, "--out", out, *settings) == 1
    check_submission(out / "submission.json", load_source(source).tasks)


def test_a_notebook_that_only_predicts_goes_on_in_the_folder_of_the_run(out: Path, kaggle: Path, tmp_path: Path) -> None:
    shutil.rmtree(out / "candidates")
    for name in ("votes.json", "score.json"):
        (out / name).unlink()
    tasks = load_source(f"kaggle:{kaggle}:evaluation").tasks
    settings, log = KaggleSettings("me", "arc-prize"), Log(tmp_path / "log")
    plan = Plan(settings, time.monotonic(), tmp_path, tmp_path, tmp_path, kaggle, True, list(tasks), log)
    command = make_command(plan, Setup(0, predict_seconds=math.inf), [], out)
    assert call(*command[command.index("predict") :], "--views", "2") == 0
    assert (out / "votes.json").is_file()
    check_submission(out / "submission.json", tasks)
    assert call("predict", "--data", out / "dataset", "--weights", out, "--out", out) == 2  # not without being told to
    write_weights(tmp_path / "others", tiny_dataset(), read_config(out / "config.json"))
    before = submitted(out)
    assert call("predict", "--data", out / "dataset", "--weights", tmp_path / "others", "--out", out, "--resume") == 2
    assert (out / "votes.json").is_file() and submitted(out) == before  # nor with other weights


def test_whatever_ends_a_training_its_last_checkpoint_predicts(
    tmp_path: Path, kaggle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fit = Trainer.fit

    def broken(trainer: Trainer, *budget: Budget) -> Progress:
        fit(trainer, *budget)
        raise ValueError("cannot reshape array")

    monkeypatch.setattr(Trainer, "fit", broken)
    out = tmp_path / "out"
    assert solve_evaluation(kaggle, out) == 1
    assert "training failed: cannot reshape array; predicting with the last checkpoint" in caplog.text
    assert "Traceback" in caplog.text  # nobody has foreseen it
    assert (out / "votes.json").is_file()


@pytest.mark.parametrize("kept", [True, False])
def test_what_training_starts_from_predicts_where_it_fails_at_once(
    finished: tuple[Path, str], tmp_path: Path, kaggle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    kept: bool,
) -> None:  # fmt: skip
    def broken(*_: object) -> None:
        raise ValueError("cannot reshape array")

    def full(*_: object) -> None:
        raise CheckpointFailed("no space left")

    monkeypatch.setattr(Trainer, "fit", broken)
    if not kept:
        monkeypatch.setattr(Trainer, "save", full)
    assert solve_evaluation(kaggle, tmp_path, "--weights", finished[0]) == 1
    assert ("there is no checkpoint to predict with; the result stays as it is" in caplog.text) != kept
    assert ("the weights that training starts from cannot be kept (no space left); training goes on" in caplog.text) != kept
    votes = tmp_path / "votes.json"
    sources = json.loads(votes.read_text())["sources"] if votes.is_file() else []
    assert sources == (["step-00000000/weights.safetensors, step 0"] if kept else [])  # trained on nothing here


def test_a_network_that_does_not_fit_into_the_memory_is_one_line(
    tmp_path: Path, kaggle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def large(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 29337600000 bytes\nat alloc.cpp")

    monkeypatch.setattr(pipeline.run, "make_network_for", large)
    assert solve_evaluation(kaggle, tmp_path) == 1
    message = one_error(capsys)
    assert message.startswith("python -m pipeline run: the network and its task memory do not fit (a smaller model, ")
    assert message.endswith("DefaultCPUAllocator: can't allocate memory: you tried to allocate 29337600000 bytes")


def test_tasks_that_show_each_other_s_answers_leave_nothing_to_train_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = ({"input": [[number]], "output": [[number, number]]} for number in (1, 2))
    for name, (shown, asked) in {"a": (one, other), "b": (other, one)}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"train": [shown], "test": [asked]}))
    assert run("run", "--source", f"json:{tmp_path}", "--out", tmp_path / "out", "--set", "train.steps=3") == 2
    assert "the dataset has no training pairs (those that show the answer to a scored test are left out)" in one_error(capsys)
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize(
    ("selection", "wanted"),
    [(("--max-side", "1"), "sides up to 1 (--max-side)"), (("--hold-out",), "three demonstrations (--hold-out)")],
)
def test_a_selection_that_leaves_no_task_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], selection: tuple[str, ...], wanted: str
) -> None:
    pair = {"input": [[1, 2]], "output": [[2, 1]]}
    (tmp_path / "a.json").write_text(json.dumps({"train": [pair], "test": [pair]}))
    assert run("run", "--source", f"json:{tmp_path}", "--out", tmp_path / "out", *selection, "--set", "train.steps=3") == 2
    assert one_error(capsys).endswith(f"no tasks to be solved in these sources: none of 1 task has {wanted}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--source", "arc3:evaluation"), "unknown source 'arc3:evaluation'"),
        (("--source", "json:nowhere"), "nowhere: no such file or folder"),
        (("--source", "arc1:training", "--max-side", "0"), "max-side must be at least 1"),
        (
            ("--source", "arc1:training", "--time-limit", "9s"),
            "--time-limit 9s is too short: to start takes seconds, and 5s are",
        ),
        (
            ("--source", "arc1:training", "--time-limit", "9m", "--reserve", "9m"),
            "--reserve 9m leaves nothing of --time-limit 9m",
        ),
        (("--source", "arc1:training", "--reserve", "9m"), "--reserve is kept free of a --time-limit, and there is none"),
        (("--source", "arc1:training"), "training needs an end: --time-limit, or --set train.steps=N"),
        (("--source", "arc1:training", "--time-limit", "soon"), "a duration reads like 90s, 25m or 11h30m, got 'soon'"),
        (("--source", "arc1:training", "--seed", str(1 << 63)), "the seed must fit into 64 bits, got 9223372036854775808"),
        (("--source", "arc1:training", "--set", "train.speed=9"), "train has no field 'speed'; one of: seed, steps"),
        (("--source", "arc1:training", "--weights", "nothing.safetensors"), "nothing.safetensors: no such weights file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run("run", *arguments, "--out", tmp_path / "out") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("python -m pipeline run: ")]
    assert not (tmp_path / "out" / "run.json").exists()  # or `--resume` would go by it
    assert not (tmp_path / "out" / "submission.json").exists()
    assert len(lines) == 1
    assert message in lines[0]


def test_audit_and_canvas_speak_of_public_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("audit", "--source", "arc2:evaluation", "--train-source", "arc1:training") == 0
    assert "167 test pairs checked" in capsys.readouterr().out
    assert call("canvas", "--source", "arc1:training") == 0
    assert "bounded" in capsys.readouterr().out


def test_the_watchdog_ends_a_run_that_hangs(tmp_path: Path, kaggle: Path) -> None:
    program = (
        "import sys, time, pipeline.__main__, pipeline.cli.main, pipeline.run\n"
        "pipeline.run.measure_speed = lambda *_: time.sleep(60)\n"
        "sys.exit(pipeline.cli.main.main())"
    )
    source, out = f"kaggle:{kaggle}:test", tmp_path / "out"
    arguments = [
        "run",
        "--source",
        source,
        "--preset",
        "demo",
        *SETTINGS,
        "--time-limit",
        "6s",
        "--reserve",
        "5s",
        "--out",
        str(out),
    ]
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, cwd=Path(__file__).parents[2], check=False
    )
    assert time.monotonic() - started < 45  # it hangs for 60 s; torch is imported before its clock starts
    assert ended.returncode == 1
    assert b"the time limit is reached" in ended.stderr
    check_submission(out / "submission.json", load_source(source).tasks)
