"""Push, status and submit: sends a ready folder to Kaggle with the official client and parses its answers.

The client runs as a subprocess, since importing it logs in over the network. Its output is parsed, since it exits with 0 after
errors of the server. Every failure is a `KaggleError` of one line with what to do next. The client of another Python is used
where `ARC_KAGGLE_PYTHON` names one.
"""

import json
import logging
import os
import re
import shlex
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from eval.files import read_object, write_json
from submission.causes import LOST, KaggleError, explain
from submission.notebook import read_ready_folder
from submission.secret import mask, refuse_tokens
from submission.settings import KaggleSettings

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 120.0

UPLOAD_SECONDS = 3600.0

MOST_BAD_ANSWERS = 10
"""Waiting is given up after this many failed requests in a row."""

ENDED = ("complete", "error", "cancel_acknowledged")

_PUSHED = re.compile(r"Kernel version (\d+) successfully pushed")

_STATUS = re.compile(r'has status "(?:KernelWorkerStatus\.)?(\w+)"')

_BAD_SOURCES = re.compile(r"not valid (\w+) sources.*?: (.*)")


@dataclass(frozen=True)
class _Answer:
    """Exit code and output of the client, without tokens."""

    code: int
    text: str
    """stdout and stderr."""
    output: str
    """Only stdout."""


def push(folder: Path, dry_run: bool = False, poll_seconds: float = 5.0, ready_seconds: float = 1800.0) -> int | None:
    """Create or update the code dataset, wait until it is ready, push the notebook; return the notebook's version.

    Writes `folder`/pushed.json. With `dry_run`, prints commands and files, sends nothing and returns None.
    """
    settings = read_ready_folder(folder)
    dataset = f"{settings.user}/{settings.code_dataset}"
    visible = [] if settings.private else ["--public"]
    create = ["datasets", "create", "-p", str(folder / "code"), "-r", "zip", *visible]
    renew = ["datasets", "version", "-p", str(folder / "code"), "-r", "zip", "-m", "new version of the source"]
    send = ["kernels", "push", "-p", str(folder / "notebook")]
    _check_metadata(folder, settings)
    for path in _files(folder):
        try:
            refuse_tokens(path, str(path))
        except ValueError as error:
            raise KaggleError(str(error)) from None
    if dry_run:
        _show_push(folder, dataset, (create, renew, send))
        return None
    earlier = _dataset_state(dataset, settings)
    logger.info("%s: sending %s", dataset, "a new version" if earlier else "a new dataset")
    answer = _call(renew if earlier else create, UPLOAD_SECONDS)
    lost = re.search(r"Upload unsuccessful: (\S+)", answer.text)  # the client may go on as if nothing had happened
    if lost:
        raise KaggleError(f"dataset {dataset}: {lost[1]} was not uploaded: check the network, then push again")
    if answer.code or "is being created" not in answer.text:
        raise explain(f"dataset {dataset}", answer.text, settings)
    _wait_for_dataset(dataset, earlier[1] if earlier else 0, settings, poll_seconds, ready_seconds)
    logger.info("%s: pushing the notebook", settings.notebook)
    answer = _call(send, UPLOAD_SECONDS)
    bad = " and ".join(f"{kind} {names}" for kind, names in _BAD_SOURCES.findall(answer.text))
    if bad:
        advice = "check its name in the settings, and that you may see it (a competition: its rules accepted)"
        raise KaggleError(f"notebook {settings.notebook}: Kaggle does not accept the {bad}: {advice}")
    found = _PUSHED.search(answer.text)
    if answer.code or not found or "does not resolve" in answer.text:
        raise explain(f"notebook {settings.notebook}", answer.text, settings)
    version = int(found[1])
    write_json(folder / "pushed.json", {"notebook": settings.notebook, "version": version})
    return version


def status(folder: Path, wait: bool = False, poll_seconds: float = 30.0, timeout_seconds: float = 13 * 3600.0) -> str:
    """Return the state of the notebook's last run: queued, running, complete, cancel_requested...; `wait` for its end.

    Raises KaggleError with Kaggle's reason when the run failed or was cancelled.
    """
    settings = read_ready_folder(folder)
    started, bad, told = time.monotonic(), 0, ""
    while True:
        answer = _call(["kernels", "status", settings.notebook])
        found = _STATUS.search(answer.text)
        if found is None:
            bad += 1
            lasting = re.search(r"\b40[134]\b|Authentication required|No module named|(?i:denied|not found)", answer.text)
            if not wait or lasting or bad >= MOST_BAD_ANSWERS:
                raise explain(f"notebook {settings.notebook}", answer.text, settings)
        else:
            bad, now = 0, found[1].lower()
            if now != told:
                logger.info("%s: %s", settings.notebook, now)
                told = now
            if now in ENDED and now != "complete":
                reason = re.search(r'Failure message: "(.*)"', answer.text, re.DOTALL)
                said = f" ({' '.join(reason[1].split())[:500]})" if reason else ""
                fetch = f"`kaggle kernels output {settings.notebook} -p DIR` fetches its log"
                raise KaggleError(f"notebook {settings.notebook}: the run ended with {now}{said}; {fetch}")
            if not wait or now in ENDED:
                return now
        if time.monotonic() - started > timeout_seconds:
            hours = timeout_seconds / 3600
            raise KaggleError(f"notebook {settings.notebook}: {told or 'no answer'} after {hours:.1f} hours of waiting")
        time.sleep(poll_seconds)


def submit(folder: Path, message: str, version: int | None = None, dry_run: bool = False) -> str:
    """Submit a version of the notebook, by default the one that was pushed last, and return Kaggle's answer."""
    settings = read_ready_folder(folder)
    if not message.strip():
        raise KaggleError("a submission needs a message: -m 'what is new in it'")
    version = _pushed_version(folder) if version is None else version
    if version < 1:
        raise KaggleError(f"version {version}: versions of a notebook count from 1")
    command = ["competitions", "submit", settings.competition, "-k", settings.notebook, "-v", str(version)]
    command += ["-f", "submission.json", *(["-m", message] if not message.startswith("-") else [f"--message={message}"])]
    if dry_run:
        print(mask(shlex.join(["kaggle", *command])))
        return "nothing was sent"
    answer = _call(command)
    if answer.code or not re.search(r"\bSuccessfully\b|Submission ref: \d", answer.text):
        error = str(explain(f"submission of {settings.notebook}, version {version}", answer.text, settings))
        if LOST.search(answer.text):  # it may have arrived, and a second one would cost another day
            error += f"; first see whether it was taken: kaggle competitions submissions {settings.competition}"
        raise KaggleError(error)
    lines = sorted(answer.text.splitlines(), key=lambda line: "success" not in line.lower())
    return " ".join(" ".join(lines).split())


def _pushed_version(folder: Path) -> int:
    path, version = folder / "pushed.json", None
    if not path.exists():
        raise KaggleError(f"{folder} was not pushed yet: `python -m pipeline kaggle push {folder}`, or give --version N")
    with suppress(ValueError):
        version = read_object(path).get("version")
    if type(version) is not int or version < 1:
        raise KaggleError(f"{path} is damaged: push again, or give --version N")
    return version


def _dataset_state(dataset: str, settings: KaggleSettings) -> tuple[str, int] | None:
    """Return status and version of a dataset, None where there is none (Kaggle may also answer "denied" then)."""
    answer = _call(["datasets", "status", dataset, "--format", "json"])
    found = re.search(r"^\{.*\}$", answer.output, re.MULTILINE)
    if answer.code == 0 and found:
        state = json.loads(found[0])
        return str(state.get("status")).lower(), int(state.get("current_version_number") or 0)
    if answer.code and re.search(r"(?i)\b40[34]\b|not found|could not find|denied|permission|forbidden", answer.text):
        plain = _call(["datasets", "status", dataset])  # one that is still being unpacked has a status, but no version
        return (plain.output.split()[-1].lower(), 0) if plain.code == 0 and plain.output.split() else None
    raise explain(f"dataset {dataset}", answer.text, settings)


def _wait_for_dataset(dataset: str, earlier: int, settings: KaggleSettings, poll_seconds: float, ready_seconds: float) -> None:
    """Wait until Kaggle has unpacked a later version than `earlier`: a notebook pushed before that would get the old one.

    Where none appears, as when nothing is new in it, an earlier one is enough after a tenth of the time.
    """
    started, bad = time.monotonic(), 0
    while True:
        try:
            status, version = _dataset_state(dataset, settings) or ("not there yet", 0)
            bad = 0
        except KaggleError:
            bad += 1
            if bad >= MOST_BAD_ANSWERS:
                raise
            status, version = "no answer", 0
        waited = time.monotonic() - started
        if status == "ready" and (version > earlier or waited > 0.1 * ready_seconds):
            return
        if status in ("failed", "deleted"):
            raise KaggleError(f"dataset {dataset}: {status} at Kaggle; look at https://www.kaggle.com/datasets/{dataset}")
        if waited > ready_seconds:
            raise KaggleError(
                f"dataset {dataset}: not ready after {ready_seconds / 60:.0f} minutes ({status}); push again later"
            )
        time.sleep(poll_seconds)


def _check_metadata(folder: Path, settings: KaggleSettings) -> None:
    """Raise KaggleError where the notebook's metadata do not match the settings: the client would push it all the same."""
    path, metadata = folder / "notebook" / "kernel-metadata.json", {}
    with suppress(FileNotFoundError, ValueError):
        metadata = read_object(path)
    if (metadata.get("id"), metadata.get("title")) != (settings.notebook, settings.notebook_title):
        remedy = "make the folder anew from the settings, and do not edit its metadata"
        raise KaggleError(f"{path}: damaged, or the title does not lead to the id {settings.notebook}: {remedy}")


def _call(arguments: list[str], seconds: float = ANSWER_SECONDS) -> _Answer:
    """Run the client; return its answer without tokens."""
    python = os.environ.get("ARC_KAGGLE_PYTHON") or sys.executable
    command = [python, "-P", "-m", "kaggle", "-W", *arguments]  # -P: no modules of the current folder
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VERBOSE")}  # prints headers
    environment |= {"PYTHONWARNINGS": "ignore", "PYTHONUTF8": "1"}
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _Answer(1, f"kaggle {arguments[0]} {arguments[1]} timed out after {seconds:.0f} s", "")
    except OSError as error:
        raise KaggleError(f"{python}: cannot be started ({error.strerror}); check ARC_KAGGLE_PYTHON") from None
    return _Answer(ended.returncode, mask(f"{ended.stdout}\n{ended.stderr}".strip()), mask(ended.stdout))


def _show_push(folder: Path, dataset: str, commands: tuple[list[str], ...]) -> None:
    create, renew, send = (shlex.join(["kaggle", *command]) for command in commands)
    print(f"# if there is no dataset {dataset} yet:\n{create}\n# else:\n{renew}")
    print(f"# when `kaggle datasets status {dataset}` is ready:\n{send}")
    for name in ("code/dataset-metadata.json", "notebook/kernel-metadata.json"):
        print(f"# {folder / name}:\n{(folder / name).read_text().rstrip()}")
    files = _files(folder)
    print(f"# {len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB:")
    for path in files:
        print(f"#   {path.stat().st_size:>10,}  {path.relative_to(folder)}")


def _files(folder: Path) -> list[Path]:
    """Return the files that a push sends."""
    return [path for part in ("code", "notebook") for path in sorted((folder / part).rglob("*")) if path.is_file()]
