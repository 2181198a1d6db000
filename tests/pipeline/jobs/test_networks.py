"""Several networks side by side: they share data and machine, vote together, and end together."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eval.vote import Ballot
from pipeline.config import PredictConfig, read_config
from pipeline.data.dataset import TaskDataset, load_dataset
from pipeline.data.sources import Selection
from pipeline.inference import predictor
from pipeline.jobs import networks
from pipeline.jobs.arc import ArcJob
from pipeline.jobs.networks import FurtherNetworks, further_networks, share_machine
from pipeline.jobs.run_record import PREDICTING, record_if_usable
from pipeline.reports.benchmark_record import command
from pipeline.reports.run_folder import RunFolder
from pipeline.system import processors
from pipeline.system.time_limit import NO_LIMIT, Budget
from tests.pipeline.tiny import TINY, set_options, tiny_source, write_kaggle
from tests.pipeline.tinyrun import call, one_error


def words_of_run(folder: Path, *settings: str) -> list[str]:
    """A run on tiny tasks in `folder`/kaggle, without its --out."""
    write_kaggle(folder / "kaggle", tiny_source(3, 3, "eval"), "evaluation", with_solutions=True)
    words = ["run", "--source", f"kaggle:{folder}/kaggle:evaluation", "--preset", "demo"]
    return words + set_options((*TINY, *settings))


def script(path: Path, program: str) -> Path:
    """Write what runs `program` in Python, whatever its arguments are."""
    path.write_text(f"#!{sys.executable}\n{program}\n")
    path.chmod(0o700)
    return path


def child(program: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)


def test_two_networks_of_other_seeds_train_on_one_dataset_and_their_votes_are_pooled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    again = ["--out", out, "--seed", 5, "--networks", 2, "--time-limit", "2h"]
    with caplog.at_level("INFO"):
        assert call(*words_of_run(tmp_path, "train.steps=3", "train.seed=20"), *again) == 0
    further = out / "networks" / "1"
    for folder, seed in ((out, 20), (further, 21)):  # a seed that is set is that of the first
        config = read_config(folder / "config.json")
        assert (config.train.seed, config.build.seed) == (seed, 10)
    assert load_dataset(out / "dataset").data_hash == load_dataset(further / "dataset").data_hash
    found, other = (json.loads((folder / "votes.json").read_text()) for folder in (out, further))
    assert len(found["sources"]) == 2
    for task, tests in found["tests"].items():
        assert [test["candidates"] for test in tests] == [2 * test["candidates"] for test in other["tests"][task]]
    assert (found["views_least"], found["views_most"]) == (8, 8)  # four of each
    score = json.loads((out / "score.json").read_text())["provenance"]
    assert score["checkpoints"] == 2
    assert score["audit"]["reservations"] == []
    ballot = RunFolder(out).ballot
    assert ballot is not None
    assert ballot.sources == tuple(found["sources"])
    assert not (further / "report.html").exists()
    record = record_if_usable(out)
    assert record is not None
    assert "--seed 5" in command(record, "x")
    assert "--networks 2" in command(record, "x")
    assert "votes of 2 networks are pooled" in caplog.text

    caplog.clear()
    submitted = (out / "submission.json").read_bytes()
    with caplog.at_level("INFO"):
        assert call(*words_of_run(tmp_path, "train.steps=3", "train.seed=20"), *again, "--resume") == 0
    assert "votes of 2 networks are pooled" in caplog.text
    assert (out / "submission.json").read_bytes() == submitted

    tests = {task: [each | {"candidates": 9} for each in inputs] for task, inputs in found["tests"].items()}
    (out / "votes.json").write_text(json.dumps(found | {"views_most": 9, "tests": tests}))
    sources = (words_of_run(tmp_path)[2],)
    job = ArcJob(sources, Selection(), (), "drop", out, FurtherNetworks({further: child("")}))
    dataset = load_dataset(out / "dataset")
    assert isinstance(dataset, TaskDataset)
    job.pool(Ballot("this leg"), job.select()[0], dataset, PredictConfig(), NO_LIMIT)
    assert json.loads((out / "votes.json").read_text())["views_most"] == 9  # that submission rests on more views


def test_a_run_without_further_votes_keeps_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out, words = tmp_path / "out", words_of_run(tmp_path, "train.steps=3")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(networks.sys, "executable", str(script(tmp_path / "python", "raise SystemExit(1)")))
        assert call(*words, "--out", out, "--networks", 2) == 0
    assert "ended with exit code 1; the votes that are there count: " in caplog.text
    votes = json.loads((out / "votes.json").read_text())
    assert (len(votes["sources"]), votes["views_most"]) == (1, 4)


def test_a_run_goes_on_without_a_network_that_cannot_be_started(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(networks.sys, "executable", str(tmp_path / "nothing"))
        assert call(*words_of_run(tmp_path, "train.steps=3"), "--out", out, "--networks", 2) == 0
    assert f"{out}/networks/1 cannot be started, the run goes on without it: " in caplog.text
    assert len(json.loads((out / "votes.json").read_text())["sources"]) == 1


def test_where_the_first_network_fails_the_votes_of_the_others_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access")

    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(predictor, "predict_and_vote", broken)
        assert call(*words_of_run(tmp_path, "train.steps=3"), "--out", out, "--networks", 2) == 1
    assert "predictions failed, the votes of further networks count: CUDA error: an illegal memory access" in caplog.text
    votes = json.loads((out / "votes.json").read_text())
    assert (len(votes["sources"]), votes["views_least"]) == (1, 4)
    assert (out / "submission.json").read_bytes() == (out / "networks" / "1" / "submission.json").read_bytes()
    assert (out / "score.json").is_file()
    markers = [folder / PREDICTING for folder in (out, out / "networks" / "1")]
    assert all(marker.is_file() for marker in markers), "a run that is resumed predicts, and does not train one of them on"
    assert call(*words_of_run(tmp_path, "train.steps=3"), "--out", out, "--networks", 2, "--resume") == 0
    assert len(json.loads((out / "votes.json").read_text())["sources"]) == 2
    assert "training had ended; going on with predictions" in (out / "networks" / "1" / "log.txt").read_text()
    assert not any(marker.exists() for marker in markers)
    (out / "networks" / "1" / PREDICTING).touch()  # as if the run had been killed while network 0 trained
    assert call(*words_of_run(tmp_path, "train.steps=4"), "--out", out, "--networks", 2, "--resume") == 0
    steps = [max((folder / "checkpoints").iterdir()).name for folder in (out, out / "networks" / "1")]
    assert steps == ["step-00000004"] * 2


def test_votes_that_cannot_be_read_do_not_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out, further = tmp_path / "out", tmp_path / "out" / "networks" / "1"
    file = f"Path('{further}/candidates/round-1.safetensors')"
    damage = f"from pathlib import Path; {file}.parent.mkdir(); {file}.touch()"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(networks.sys, "executable", str(script(tmp_path / "python", damage)))
        assert call(*words_of_run(tmp_path, "train.steps=3"), "--out", out, "--networks", 2) == 0
    assert f"the votes of further networks do not count: {further}/candidates/round-1.safetensors" in caplog.text
    assert len(json.loads((out / "votes.json").read_text())["sources"]) == 1


def test_a_further_network_that_is_late_is_not_waited_for(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    late, failed = child("import sys; sys.stdin.read()"), child("raise SystemExit(3)")
    (tmp_path / "log.txt").write_text("one\nthe reason\n")
    failed.wait()
    started = time.monotonic()
    found = FurtherNetworks({tmp_path: failed, Path("late"): late}).wait(Budget(2.0, started))
    assert time.monotonic() - started < 4
    assert found == [tmp_path, Path("late")]
    assert f"{tmp_path} ended with exit code 3; the votes that are there count: the reason" in caplog.text
    assert "late is not done in time; the votes that are there count" in caplog.text
    late.communicate()


def test_further_networks_end_with_the_run_and_leave_a_checkpoint(tmp_path: Path) -> None:
    words = words_of_run(tmp_path, "train.steps=1000000", "train.log_steps=1")
    with further_networks(2, 4, 4, words, tmp_path / "out", NO_LIMIT) as beside:
        ((folder, process),) = beside.processes.items()
        metrics, started = folder / "metrics.jsonl", time.monotonic()
        while not metrics.exists() and time.monotonic() - started < 60:
            time.sleep(0.1)
    assert process.returncode == 1
    assert list((folder / "checkpoints").iterdir())
    assert "the checkpoint of step" in (folder / "log.txt").read_text()


def test_a_further_network_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(networks.sys, "executable", str(script(tmp_path / "python", "import time; time.sleep(600)")))
    monkeypatch.setattr(networks, "MOST_PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(networks, "PATIENCE_SECONDS", 0.1)
    with further_networks(2, 4, 4, ["run"], tmp_path / "out", Budget(600.0, time.monotonic())) as beside:
        ((folder, process),) = beside.processes.items()
    assert process.wait() == -9
    assert f"{folder} has not ended in 0s and is killed" in caplog.text


def test_a_further_network_that_crashes_says_why_and_no_more() -> None:
    program = "from pipeline.jobs.networks import end_with_run; end_with_run(); raise RuntimeError('the reason')"
    environment = networks.program_environment() | {networks.FURTHER: "1"}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    assert process.stderr.read().splitlines()[-1] == b"RuntimeError: the reason"
    assert process.wait() == 1
    process.communicate()


def test_time_is_left_for_the_votes_of_further_networks_only_where_there_are_some() -> None:
    budget = Budget(1000.0, 0.0, 30.0)
    assert FurtherNetworks().leave_time(budget) == budget
    process = child("")
    assert FurtherNetworks({Path("1"): process}).leave_time(budget) == Budget(1000.0, 0.0, 33.0)
    assert FurtherNetworks({Path("1"): process}).leave_time(NO_LIMIT) == NO_LIMIT
    process.communicate()


@pytest.mark.parametrize(
    ("visible", "shares"), [(None, [None] * 3), ("", [None] * 3), ("2,5", ["2", "5", "2"]), ("GPU-a", ["GPU-a"] * 3)]
)
def test_networks_share_cores_and_gpus(monkeypatch: pytest.MonkeyPatch, visible: str | None, shares: list[str | None]) -> None:
    monkeypatch.setattr(processors, "usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(networks, "find_gpus", lambda _: tuple(visible.split(",")) if visible else ())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = share_machine(3)
    assert [share.get("CUDA_VISIBLE_DEVICES") for share in found] == shares
    assert {share["OMP_NUM_THREADS"] for share in found} == {"2"}
    assert share_machine(1) == [{}]


def test_gpus_are_those_of_the_machine(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(networks, "find_gpus", lambda _: ("GPU 0: one", "GPU 1: two", "GPU 2: three"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [share["CUDA_VISIBLE_DEVICES"] for share in share_machine(4)] == ["0", "1", "2", "0"]
    assert not caplog.messages
    share_machine(2)
    assert caplog.messages == ["2 networks on a GPU each leave 1 GPU idle"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--networks", "0"), "--networks must be at least 1, got 0"),
        (("--networks", "2", "--processes", "2"), "--networks 2 starts a process for each network itself"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
) -> None:
    assert call(*words_of_run(tmp_path, "train.steps=3"), "--out", tmp_path / "out", *more) == 2
    assert message in one_error(capsys)
    assert not (tmp_path / "out").exists()


def test_puzzles_have_one_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = ("--source", "sudoku:generated:side=4:count=2")
    assert call("run", *source, "--preset", "demo-sudoku", "--out", tmp_path / "out", "--networks", 2) == 2
    assert "--networks is for ARC tasks only" in one_error(capsys)


def test_a_folder_with_further_networks_holds_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out" / "networks").mkdir(parents=True)
    assert call(*words_of_run(tmp_path, "train.steps=3"), "--out", tmp_path / "out") == 2
    assert "holds a run already" in one_error(capsys)
