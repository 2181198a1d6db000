"""Push, status and submit, with the real kaggle client against a stand-in for Kaggle's API on this machine.

`ARC_KAGGLE_PYTHON=OTHER/bin/python pytest tests/submission/test_client.py` tests the client of another environment.
"""

import base64
import contextlib
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from augment.errors import InputError
from submission import client
from submission.client import KaggleError, explain, push, status, submit
from submission.notebook import read_ready_folder, write_ready_folder
from submission.settings import KaggleSettings
from tests.submission.fake_kaggle import FakeKaggle, Reply, refusal

PROJECT = Path(__file__).parents[2]
SETTINGS = KaggleSettings("you", "arc-prize-x")
TOKEN = "0123456789abcdef0123456789abcdef"
STORED = "KGAT_fedcba9876543210fedcba98"
OAUTH = "ya29-something-long-and-secret"
RUN = subprocess.run


def run_here(command: list[str], *, env: dict[str, str], **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run the client in this process, which has imported what it needs: half a second less than a process of its own."""
    if command[:5] != [sys.executable, "-P", "-m", "kaggle", "-W"]:
        return RUN(command, env=env, **options)
    for name in [name for name in sys.modules if name.partition(".")[0] == "kaggle"]:
        del sys.modules[name]  # it logs in when it is imported
    with (
        mock.patch.dict(os.environ, env, clear=True),
        mock.patch.multiple(sys, argv=command[3:]),
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        try:
            runpy.run_module("kaggle", run_name="__main__")
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of a person who does not exist, in a home that is empty."""
    for name in list(os.environ):
        if name.startswith(("KAGGLE_", "VERBOSE", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # the client keeps what it uploads there
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(client.subprocess, "run", run_here)
    home = tmp_path / "home"
    (home / ".kaggle").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("KAGGLE_USERNAME", "you")
    monkeypatch.setenv("KAGGLE_KEY", TOKEN)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ready") / "entry"
    write_ready_folder(folder, SETTINGS, PROJECT)
    return folder


@pytest.fixture
def folder(ready: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ready, tmp_path / "entry"))


def failure(call: Callable[..., object], *arguments: object, **options: float) -> str:
    """The one line with which a call fails."""
    with pytest.raises(KaggleError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_first_push_creates_the_dataset_and_pushes_the_notebook(folder: Path) -> None:
    with FakeKaggle() as fake:
        assert push(folder, poll_seconds=0.01) == 7
    assert [method for method in fake.methods() if method.startswith(("Create", "Save"))] == ["CreateDataset", "SaveKernel"]
    assert fake.sent("CreateDataset") | {"files": []} == {
        "ownerSlug": "you", "slug": "arc-trm-code", "title": "arc-trm-code", "licenseName": "other", "isPrivate": True,
        "files": [],
    }  # fmt: skip
    sent = fake.sent("SaveKernel")
    notebook = json.loads(sent.pop("text"))
    assert [cell["cell_type"] for cell in notebook["cells"]] == ["markdown", "code", "code", "code"]
    assert sent == {
        "slug": "you/arc-trm", "newTitle": "ARC TRM", "language": "python", "kernelType": "notebook", "isPrivate": True,
        "enableGpu": True, "enableTpu": False, "enableInternet": False, "machineShape": "NvidiaL4",
        "datasetDataSources": ["you/arc-trm-code"], "competitionDataSources": ["arc-prize-x"],
    }  # fmt: skip
    assert json.loads((folder / "pushed.json").read_text()) == {"notebook": "you/arc-trm", "version": 7}
    packages = [content for content in fake.uploaded if content.startswith(b"PK")]
    assert len(packages) == 4  # each folder is an archive, which Kaggle unpacks


def test_a_later_push_makes_a_new_version_and_waits_for_it(folder: Path) -> None:
    asked: list[int] = []

    def version() -> Reply:  # what was sent takes a while to be unpacked
        asked.append(fake.dataset_version)
        return 200, {"currentVersionNumber": 3 if len(asked) < 4 else fake.dataset_version}

    with FakeKaggle(dataset_version=3, replies={"GetDataset": version}) as fake:
        assert push(folder, poll_seconds=0.01) == 7
    assert "CreateDatasetVersion" in fake.methods()
    assert "CreateDataset" not in fake.methods()
    assert asked == [3, 4, 4, 4]
    assert fake.methods()[-1] == "SaveKernel"


def test_a_push_without_a_new_version_goes_on_and_says_so(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with FakeKaggle(dataset_version=3, replies={"GetDataset": (200, {"currentVersionNumber": 3})}) as fake:
        assert push(folder, poll_seconds=0.01, ready_seconds=2.0) == 7
    assert fake.methods()[-1] == "SaveKernel"
    assert re.search(r"no new version after \d+ s, so the notebook takes version 3", caplog.text)


def test_a_push_waits_until_an_earlier_version_is_unpacked(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Kaggle would deny a version on top of it, after everything was uploaded."""
    caplog.set_level("INFO")
    states = iter([(200, {"status": "BLOBS_RECEIVED"})] * 3)

    def state() -> Reply:
        return next(states, (200, {"status": "READY"}))

    with FakeKaggle(dataset_version=3, replies={"GetDatasetStatus": state}) as fake:
        assert push(folder, poll_seconds=0.01) == 7
    before = fake.methods()[: fake.methods().index("StartBlobUpload")]
    assert before.count("GetDatasetStatus") >= 4
    assert "Kaggle still unpacks an earlier version (blobs_received); waiting for it" in caplog.text


def test_hours_of_gpus_that_are_left_are_shown_before_a_push(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    quota = {"timeUsed": "36000s", "totalTimeAllowed": "108000s"}
    with FakeKaggle(replies={"GetAcceleratorQuotaStatistics": (200, {"gpuQuota": quota})}):
        assert push(folder, poll_seconds=0.01) == 7
    assert "GPU: 20.00h of 30.00h are left this week" in caplog.text


def test_status_waits_until_the_run_is_complete_through_answers_that_fail(folder: Path) -> None:
    replies = iter([(200, {"status": "QUEUED"}), (503, {}), (200, {"status": "RUNNING"}), (200, {"status": "COMPLETE"})])
    with FakeKaggle(replies={"GetKernelSessionStatus": lambda: next(replies)}):
        assert status(folder) == "queued"
        assert status(folder, wait=True, poll_seconds=0.01) == "complete"


def test_waiting_ends_with_a_run_that_failed_or_after_its_time_or_many_bad_answers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MOST_BAD_ANSWERS", 2)
    with FakeKaggle(statuses=["RUNNING", "RUNNING", "ERROR"]) as fake:
        assert "running after 0.0 hours of waiting" in failure(status, folder, wait=True, timeout_seconds=0.0)
        failed = "run ended with error (the notebook raised); `kaggle kernels output you/arc-trm"
        assert failed in failure(status, folder, wait=True, poll_seconds=0.01)
        fake.replies["GetKernelSessionStatus"] = (503, {})
        assert "Kaggle has a problem: try again" in failure(status, folder, wait=True, poll_seconds=0.01)


def test_the_pushed_version_is_submitted_as_the_client_wants_it(folder: Path) -> None:
    with FakeKaggle() as fake:
        with pytest.raises(InputError, match="was not pushed yet: `python -m pipeline kaggle push"):
            submit(folder, "first try")
        with pytest.raises(InputError, match="a submission needs a message"):
            submit(folder, " ", 7)
        (folder / "pushed.json").write_text('{"notebook": "you/arc-trm", "version": 7}')
        said = submit(folder, "first try")
        assert said.startswith("Successfully submitted to ARC ")
        assert said.endswith("0 submissions remaining today.")
        expected = {
            "competitionName": "arc-prize-x", "kernelOwner": "you", "kernelSlug": "arc-trm", "kernelVersion": 7,
            "fileName": "submission.json", "submissionDescription": "first try",
        }  # fmt: skip
        assert fake.sent("CreateCodeSubmission") == expected
        submit(folder, "-dashed message", version=5)
        assert fake.sent("CreateCodeSubmission") == expected | {"kernelVersion": 5, "submissionDescription": "-dashed message"}


FAILED_SUBMISSIONS = {
    "rules": (refusal(403, "You must accept this competition's rules before you can submit."),
              "accept its rules at https://www.kaggle.com/competitions/arc-prize-x/rules"),
    "unknown": (refusal(404, "Not found"), "Kaggle does not know the competition arc-prize-x"),
    "token": (refusal(401, "Unauthenticated"), "not authenticated: save a token"),
    "odd": ((200, {"message": "Could not submit to competition"}), "did not confirm it; it says: Could not submit"),
    "lost": ((502, {}), "first see whether it was taken: kaggle competitions submissions arc-prize-x"),
}  # fmt: skip


@pytest.mark.parametrize(("reply", "message"), FAILED_SUBMISSIONS.values(), ids=FAILED_SUBMISSIONS)
def test_a_submission_that_fails_is_one_line_with_what_to_do(folder: Path, reply: Reply, message: str) -> None:
    with FakeKaggle({"CreateCodeSubmission": reply}):
        assert message in failure(submit, folder, "try", version=1)


FAILED_PUSHES = {
    "dataset": (FakeKaggle({"SaveKernel": (200, {"versionNumber": 2, "invalidDatasetSources": ["you/arc-trm-code"]})}),
                "does not accept the dataset ['you/arc-trm-code']"),
    "upload": (FakeKaggle({"CreateDataset": (200, {"status": "error", "error": "Unsupported archive"})}),
               "it says: Dataset creation error: Unsupported archive"),
    "lost upload": (FakeKaggle(upload_status=400), "was not uploaded: check the network"),
    "unpacking": (FakeKaggle({"GetDatasetStatus": (200, {"status": "FAILED"})}, dataset_version=1),
                  "failed at Kaggle; look at https://www.kaggle.com/datasets/you/arc-trm-code"),
    "title": (FakeKaggle(), "the notebook's title does not lead to its id: make the folder anew"),
}  # fmt: skip


@pytest.mark.parametrize(("fake", "message"), FAILED_PUSHES.values(), ids=FAILED_PUSHES)
def test_a_push_that_fails_is_one_line_with_what_to_do_and_is_not_recorded(
    folder: Path, fake: FakeKaggle, message: str
) -> None:
    if "title" in message:
        path = folder / "notebook" / "kernel-metadata.json"
        path.write_text(path.read_text().replace("ARC TRM", "Another title"))
    with fake:
        assert message in failure(push, folder, poll_seconds=0.01, ready_seconds=0.1)
    assert not (folder / "pushed.json").exists()


def test_without_credentials_network_or_client_or_with_one_that_hangs_the_line_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with FakeKaggle() as fake:
        pass
    for name, value in fake.variables.items():
        monkeypatch.setenv(name, value)
    assert "Kaggle cannot be reached" in failure(submit, folder, "try", version=1)  # the stand-in has gone
    monkeypatch.delenv("KAGGLE_KEY")
    assert "not authenticated: save a token" in failure(submit, folder, "try", version=1)
    python = tmp_path / "python"
    monkeypatch.setenv("ARC_KAGGLE_PYTHON", str(python))
    assert "cannot be started" in failure(submit, folder, "try", version=1)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    missing = "the kaggle client is not installed: pip install -r requirements.txt"
    assert missing in failure(submit, folder, "try", version=1)
    (tmp_path / "kaggle").mkdir()
    (tmp_path / "kaggle" / "__init__.py").touch()  # as clients before 2 are
    python.write_text(f'#!/bin/sh\nexec env PYTHONPATH={tmp_path} {sys.executable} -S "$@"\n')
    assert "this kaggle client is too old: pip install -r requirements.txt" in failure(submit, folder, "try", version=1)
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(client._call, "__defaults__", (0.1,))
    assert "Kaggle cannot be reached" in failure(status, folder)


@pytest.mark.parametrize("answer", ["{broken}", '{"status": "ready", "current_version_number": "v3"}'])
def test_an_answer_about_a_dataset_that_cannot_be_understood_is_a_failure_of_kaggle(
    folder: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(client, "_call", lambda *_: client._Answer(0, answer, answer))
    assert failure(client._dataset_state, "you/code", read_ready_folder(folder)).startswith("dataset you/code: ")


def test_a_dry_run_prints_commands_and_files_and_sends_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(client, "_call", None)
    assert push(folder, dry_run=True) is None
    assert submit(folder, "it's new", version=3, dry_run=True) == "nothing was sent"
    shown = capsys.readouterr().out
    assert f"kaggle datasets create -p {folder}/code -r zip\n" in shown
    assert f"kaggle kernels push -p {folder}/notebook\n" in shown
    assert '"enable_internet": false' in shown
    assert "code/pipeline/__main__.py" in shown
    expected = "kaggle competitions submit arc-prize-x -k you/arc-trm -v 3 -f submission.json -m 'it'\"'\"'s new'"
    assert expected in shown.splitlines()
    (folder / "notebook" / "kernel-metadata.json").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"kernel-metadata\.json: "):
        push(folder, dry_run=True)


def test_no_token_is_printed_logged_sent_or_written(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    (tmp_path / "home" / ".kaggle" / "kaggle.json").write_text(json.dumps({"username": "you", "key": STORED}))
    (tmp_path / "home" / ".kaggle" / "credentials.json").write_text(json.dumps({"login": {"refresh_token": OAUTH}}))
    monkeypatch.setenv("VERBOSE", "1")
    monkeypatch.setenv("VERBOSE_OUTPUT", "1")
    monkeypatch.setattr(client.subprocess, "run", RUN)  # as for users, in a process of its own
    said = []
    leaking = {
        "CreateCodeSubmission": refusal(400, f"strange key {TOKEN} or {STORED} or {OAUTH}, or KGAT_abcdefgh12345678"),
        "GetKernelSessionStatus": refusal(400, f"strange key {TOKEN}"),
    }
    with FakeKaggle(leaking) as fake:
        push(folder, dry_run=True)
        push(folder, poll_seconds=0.01)
        for call in (
            lambda: submit(folder, "try"),
            lambda: status(folder),
            lambda: submit(folder, f"my {TOKEN}", dry_run=True),
        ):
            try:
                said.append(call())
            except KaggleError as error:
                said.append(str(error))
    out, err = capfd.readouterr()
    produced = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    everything = "\n".join([*said, out, err, caplog.text]).encode() + b"".join([*produced, *unpacked(fake.uploaded)])
    assert b"[token]" in everything
    basic = base64.b64encode(f"you:{TOKEN}".encode()).decode()
    for token in (TOKEN, STORED, OAUTH, basic, "KGAT_abcdefgh12345678"):
        assert token.encode() not in everything


def unpacked(uploads: list[bytes]) -> list[bytes]:
    """What was uploaded, archives opened."""
    found = []
    for content in uploads:
        if content.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                found += [archive.read(name) for name in archive.namelist()]
        else:
            found.append(content)
    assert any(b"def main(" in content for content in found)
    return found


def test_a_file_with_a_token_is_not_sent(folder: Path) -> None:
    (folder / "code" / "notes.txt").write_text(f"my key is {TOKEN}")
    with FakeKaggle() as fake, pytest.raises(ValueError, match=r"notes\.txt holds a Kaggle token"):
        push(folder)
    assert fake.requests == []


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("Kernel push error: Maximum weekly GPU quota of 30.00 hours reached", "the GPU quota is used up"),
        ("Kernel push error: Phone verification is required", "verify your phone number"),
        ("400 Client Error: You have made the maximum number of submissions today.", "no submission is left today"),
        ("400 Client Error: Notebook did not produce submission.json", "left no submission.json: look at its log"),
        ("400 Client Error: The notebook version is still running", "has not finished"),
        ("403 Client Error: Permission 'competitions.submit' was denied", "is the token that of you"),
        ("429 Client Error: Too many requests", "wait some minutes"),
        ("Starting upload\n 5%|#   |\nA new kind of error\nbye", "it says: A new kind of error"),
    ],
)
def test_known_causes_are_explained_and_others_quoted(said: str, message: str) -> None:
    line = str(explain("notebook", said, SETTINGS))
    assert message in line
    assert "\n" not in line
