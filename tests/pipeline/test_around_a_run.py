"""What happens around a run while it goes on: sources that change, a folder of tasks that it works in, output nobody reads."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pipeline.run
import pipeline.system.output
from augment.errors import InputError
from augment.task import Task
from pipeline.cli.main import _LogFormatter
from pipeline.cli.show import parse_transform
from pipeline.data.sources import Source, hold_out
from pipeline.jobs.arc import ArcJob
from pipeline.jobs.run_record import PREDICTING
from pipeline.reports.report import read_report
from submission.format import read_submission
from tests.pipeline.tiny import TINY, set_options, tiny_source
from tests.pipeline.tinyrun import call, one_error, write_run

SETTINGS = ("--preset", "demo", *set_options((*TINY, "train.steps=2", "predict.views=2")), "--no-report")


def write_task(folder: Path, task: Task, outputs: Any) -> None:
    train = [{"input": pair.input.tolist(), "output": pair.output.tolist()} for pair in task.train]
    test = [{"input": grid.tolist(), "output": found.tolist()} for grid, found in zip(task.test, outputs, strict=True)]
    (folder / f"{task.id}.json").write_text(json.dumps({"train": train, "test": test}))


@pytest.fixture
def source() -> Source:
    return tiny_source(11, 3, "own")


@pytest.fixture
def tasks(tmp_path: Path, source: Source) -> Path:
    """A folder with a file for each of three tasks."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    for task in source.tasks:
        write_task(folder, task, source.solutions[task.id])
    return folder


def solve(tasks: Path, out: Path, *more: object) -> int:
    return call("run", "--source", f"json:{tasks}", "--out", out, *SETTINGS, *more)


def after_training(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    train = pipeline.run._train

    def then_change(*arguments: Any) -> bool:
        failed = train(*arguments)
        change()
        return failed

    monkeypatch.setattr(pipeline.run, "_train", then_change)


def test_a_run_may_work_in_the_folder_of_its_tasks(tasks: Path, source: Source) -> None:
    out = tasks / "runs" / "first"
    assert solve(tasks, out) == 0
    assert (out / "score.json").is_file()
    assert solve(tasks, out, "--resume") == 0
    assert list(read_submission(out / "submission.json")) == [task.id for task in source.tasks]


@pytest.mark.parametrize("change", ["removed", "gone", "added", "half written", "other test"])
def test_sources_that_change_during_training_cost_the_score_alone(
    tasks: Path, tmp_path: Path, source: Source, change: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, *_, last = source.tasks
    changes: dict[str, Callable[[], object]] = {
        "removed": (tasks / f"{first.id}.json").unlink,
        "gone": lambda: shutil.rmtree(tasks),
        "added": lambda: shutil.copyfile(tasks / f"{first.id}.json", tasks / "more.json"),
        "half written": lambda: (tasks / "more.json").write_text('{"train": ['),
        "other test": lambda: shutil.copyfile(tasks / f"{first.id}.json", tasks / f"{last.id}.json"),
    }
    after_training(monkeypatch, changes[change])
    out = tmp_path / "out"
    assert solve(tasks, out) == 0
    assert list(read_submission(out / "submission.json")) == [task.id for task in source.tasks]
    assert (out / "votes.json").is_file()
    assert not (out / "score.json").exists()
    assert "no score: the sources" in caplog.text
    report = read_report(out)
    assert [result.task.id for result in report.results] == [task.id for task in source.tasks]
    if change in ("removed", "other test"):
        assert report.score is None
        assert report.unknown.startswith("The sources do not have the tests that were predicted, of own0")
        assert not any(test.truth is not None for result in report.results for test in result.tests)


def test_a_score_that_cannot_be_printed_is_kept(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    discarded = list[bool]()
    monkeypatch.setattr(pipeline.system.output, "print", full, raising=False)
    monkeypatch.setattr(pipeline.system.output, "discard_output", lambda: discarded.append(True))
    assert solve(tasks, tmp_path / "out") == 0
    assert "the score cannot be printed: No space left on device" in caplog.text
    assert discarded
    assert (tmp_path / "out" / "score.json").is_file()
    assert not (tmp_path / "out" / PREDICTING).exists()


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_process_may_be_started_without_its_outputs(tasks: Path, tmp_path: Path, source: Source, closed: str) -> None:
    write_run(tmp_path / "run", source, [(0, source.solutions[source.tasks[0].id][0], 0.5)])
    command = f"{sys.executable} -m pipeline score {tmp_path}/run --source json:{tasks} --json {tmp_path}/found.json {closed}"
    done = subprocess.run(["sh", "-c", command], env=dict(os.environ), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "found.json").read_bytes())["tasks"]


def test_a_score_is_of_the_tests_that_were_predicted(
    tasks: Path, tmp_path: Path, source: Source, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "held", hold_out(source), [])
    scored = ("--source", f"json:{tasks}", "--allow-missing")
    assert call("score", tmp_path / "held", *scored, "--hold-out") == 0
    assert call("score", tmp_path / "held", *scored) == 2
    assert "has other test inputs than those that were predicted" in one_error(capsys, "score")


def test_transforms_and_seeds_of_any_length_are_answered_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"transform '999.*expected a digit, a dot"):
        parse_transform("9" * 5000)
    assert call("build", "--source", f"json:{tmp_path}", "--seed", 10**30, "--out", tmp_path / "data") == 2
    assert "build seed and jobs must not be negative or beyond 64 bits" in one_error(capsys, "build")


def test_a_task_of_the_wrong_shape_is_no_file_to_be_passed_over(
    tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tasks / "config.json").write_text('{"train": {}, "test": {}}')
    assert solve(tasks, tmp_path / "out") == 2
    assert "config.json: task config: " in one_error(capsys)


def test_a_link_that_leads_nowhere_is_a_task_that_cannot_be_read(
    tasks: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    further = tmp_path / "further"
    shutil.copytree(tasks, further)
    (further / "lost.json").symlink_to(tmp_path / "nowhere")
    assert solve(tasks, tmp_path / "out", "--train-source", f"json:{further}") == 0
    assert "1 task left out that cannot be read" in caplog.text


def test_a_resumed_run_may_be_told_again_what_its_settings_are(tasks: Path, tmp_path: Path) -> None:
    assert solve(tasks, tmp_path / "out") == 0
    again = ("--resume", "--set", "model.hidden_size=16")  # which no preset has, and without its heads is none
    assert call("run", "--source", f"json:{tasks}", "--out", tmp_path / "out", "--no-report", *again) == 0


def test_a_run_without_a_checkpoint_that_can_be_read_fails_and_is_trained_again_when_resumed(
    tasks: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    assert solve(tasks, out) == 0
    (out / PREDICTING).touch()
    for weights in (out / "checkpoints").glob("*/weights.safetensors"):
        weights.write_bytes(weights.read_bytes()[:100])
    assert solve(tasks, out, "--resume") == 1
    assert "there is no checkpoint to predict with" in caplog.text
    assert solve(tasks, out, "--resume") == 0


@pytest.mark.parametrize("failed", [True, False])
def test_a_run_that_ends_while_it_predicts_trains_on_when_it_is_resumed_only_if_training_had_failed(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed: bool
) -> None:
    def ends(*_: object) -> int:
        raise KeyboardInterrupt

    train, trainings = pipeline.run._train, list[bool]()

    def counted(*arguments: Any) -> bool:
        trainings.append(train(*arguments))
        return failed and len(trainings) == 1

    monkeypatch.setattr(pipeline.run, "_train", counted)
    with monkeypatch.context() as patched:
        patched.setattr(ArcJob, "predict", ends)
        assert solve(tasks, tmp_path / "out") == 1
    assert (tmp_path / "out" / PREDICTING).exists() != failed
    assert solve(tasks, tmp_path / "out", "--resume") == 0
    assert len(trainings) == 1 + failed


def test_pooled_votes_do_not_replace_those_of_a_run(
    tasks: Path, tmp_path: Path, source: Source, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        write_run(tmp_path / name, source, [(0, source.solutions[source.tasks[0].id][0], 0.5)], name)
    before = (tmp_path / "one" / "votes.json").read_bytes()
    pooled = ("--pool", tmp_path / "one" / "submission.json")
    assert call("compare", tmp_path / "one", tmp_path / "two", "--source", f"json:{tasks}", *pooled) == 2
    assert "its folder has predictions" in one_error(capsys, "compare")
    assert (tmp_path / "one" / "votes.json").read_bytes() == before


def test_an_error_of_the_program_is_not_taken_for_bad_input(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("zip() argument 2 is longer than argument 1")

    monkeypatch.setattr("pipeline.cli.scores.read_partial_submission", broken)
    with pytest.raises(ValueError, match="zip"):  # which `pipeline.__main__` lets through, with its traceback and exit code 1
        call("score", tasks, "--source", f"json:{tasks}", "--allow-missing")


def test_the_log_names_what_is_more_than_news() -> None:
    said = []
    for level in (logging.INFO, logging.WARNING, logging.ERROR):
        record = logging.LogRecord("name", level, "file.py", 1, "%s", ("so",), None)
        said.append(_LogFormatter("%(asctime)s", "12:00").format(record))
    assert said == ["12:00 so", "12:00 warning: so", "12:00 error: so"]


@pytest.mark.parametrize(("package", "command"), [("orjson", "--help"), ("torch", "doctor")])
def test_a_package_that_is_not_installed_is_one_line(package: str, command: str) -> None:
    missing = f"import sys; sys.modules['{package}'] = None; sys.argv[1:] = ['{command}']"
    program = f"{missing}; import pipeline.__main__ as program; program.start()"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert package in ended.stderr and "source .venv/bin/activate" in ended.stderr
