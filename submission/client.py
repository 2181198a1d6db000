"""Push, status and submit: sends a ready folder to Kaggle with the official client and parses its answers.

The client runs as a subprocess, since importing it logs in over the network. Its output is parsed, since it exits with 0 after
errors of the server. Every failure at Kaggle is a `KaggleError` of one line with what to do next. The client of another Python
is used where `ARC_KAGGLE_PYTHON` names one.
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

from augment.errors import InputError
from eval.files import read_file, read_object, write_json
from eval.formatting import show_path, show_value
from submission.notebook import read_ready_folder
from submission.secret import mask, refuse_tokens
from submission.settings import KaggleSettings

logger = logging.getLogger(__name__)

UPLOAD_SECONDS = 3600.0
MOST_BAD_ANSWERS = 10
"""Waiting is given up after this many failed requests in a row."""
METADATA = ("code/dataset-metadata.json", "notebook/kernel-metadata.json")
ENDED = ("complete", "error", "cancel_acknowledged")
_PUSHED = re.compile(r"Kernel version (\d+) successfully pushed")
_STATUS = re.compile(r'has status "(?:KernelWorkerStatus\.)?(\w+)"')
_BAD_SOURCES = re.compile(r"not valid (\w+) sources.*?: (.*)")
_CAUSES = (
    (r"Authentication required|\b401\b|[Uu]nauthori[sz]ed|[Uu]nauthenticated|Could not find kaggle\.json|Missing username",
     "not authenticated: save a token (kaggle.com, Settings, API) to ~/.kaggle/access_token or set KAGGLE_API_TOKEN"),
    (r"(?i)accept\w* .*\brules|\brules\b.*accept|not (yet )?(accepted|joined)|must (join|accept)",
     "join the competition and accept its rules at https://www.kaggle.com/competitions/{competition}/rules, then try again"),
    (r"(?i)phone|verif(y|ied) your (account|identity)",
     "verify your phone number at https://www.kaggle.com/settings, which Kaggle requires for GPUs, then try again"),
    (r"(?i)(gpu|accelerator|tpu|session)[^\n]*(quota|limit|maximum)|(quota|limit|maximum)[^\n]*(gpu|accelerator|tpu|session)",
     "the GPU quota is used up: wait until it is renewed, end other sessions, or set accelerator = \"none\" in the settings"),
    (r"(?i)(daily|today|per day|maximum number of)[^\n]*submission|submission[^\n]*(daily|today|per day|limit)",
     "no submission is left today; the count starts anew at midnight UTC"),
    (r"(?i)already (in use|taken)[^\n]*notebook",
     "a notebook of this title exists already: choose another notebook_title in the settings and make the folder anew"),
    (r"(?i)already (in use|taken)",
     "a dataset of this name exists already: choose another code_dataset in the settings and make the folder anew"),
    (r"(?i)not allowed to create[^\n]*owner",
     "user = \"{user}\" in the settings is not the owner of your token"),
    (r"Kernel push error: Notebook not found",
     "a notebook with this id and another title is there: choose another notebook_title in the settings"),
    (r"(?i)does not resolve to the specified id",
     "the notebook's title does not lead to its id: make the folder anew from the settings, and do not edit its metadata"),
    (r"(?i)no (file|output)|not (found|produce)[^\n]*submission\.json|submission\.json[^\n]*(not|missing)",
     "this version of the notebook left no submission.json: look at its log with `kaggle kernels output {notebook}`"),
    (r"(?i)still running|not (finished|completed|complete)\b|in progress",
     "this version of the notebook has not finished: wait with `python -m pipeline kaggle status --wait`"),
    (r"\b404\b|(?i:not found|could not find)",
     "Kaggle does not know the competition {competition}, or notebook {notebook} or that version of it; check the settings"),
    (r"\b403\b|(?i:forbidden|permission)",
     "Kaggle denies it: is the token that of {user}, are the rules of {competition} accepted?"),
    (r"\b429\b|(?i:too many requests)", "too many requests: wait some minutes, then try again"),
    (r"\b5\d\d (Server )?Error|(?i:internal server error|bad gateway|service unavailable|problem on Kaggle's side)",
     "Kaggle has a problem: try again in a few minutes"),
    (r"Connection(Error| refused| reset)|NameResolution|Max retries|Failed to establish|Temporary failure in name|timed out",
     "Kaggle cannot be reached: check the network, then try again"),
    (r"No module named '?kaggle\.__main__", "this kaggle client is too old: pip install -r requirements.txt"),
    (r"No module named '?kaggle", "the kaggle client is not installed: pip install -r requirements.txt"),
)  # fmt: skip
"""(pattern in the output of the client, what to do), the most specific first."""
_NOISE = re.compile(
    r"%\||^(Upload successful|Starting|Warning|If this is a competition|You don't have access|To search for|You have been)"
    r"|^\d+ submissions remaining|^  "
)
"""Lines of progress and of general advice, which say nothing about a failure."""
_LOST = re.compile(r"\b5\d\d (Server )?Error|Connection|Max retries|timed out|Kaggle's side|(?i:internal server error)")
"""Matches the output of the client when a request may have arrived and its answer was lost."""


class KaggleError(OSError):
    """A failure at Kaggle: one line that says what failed and what to do next."""


@dataclass(frozen=True)
class _Answer:
    """Exit code and output of the client, without tokens."""

    code: int
    text: str
    """stdout and stderr."""
    output: str
    """Only stdout."""


def push(folder: Path, dry_run: bool = False, poll_seconds: float = 5.0, ready_seconds: float = 1800.0) -> int | None:
    """Push the dataset, wait until it is ready, push the notebook; return its version. `dry_run` only prints, returns None."""
    settings = read_ready_folder(folder)
    dataset = f"{settings.user}/{settings.code_dataset}"
    visible = [] if settings.private else ["--public"]
    create = ["datasets", "create", "-p", str(folder / "code"), "-r", "zip", *visible]
    renew = ["datasets", "version", "-p", str(folder / "code"), "-r", "zip", "-m", "new version of the source"]
    send = ["kernels", "push", "-p", str(folder / "notebook")]
    for name in METADATA:
        read_object(folder / name)  # refuses at once what is not a JSON object
    for path in _files(folder):
        refuse_tokens(path, str(path))
    if dry_run:
        _show_push(folder, dataset, (create, renew, send))
        return None
    _show_quota()
    earlier = _dataset_state(dataset, settings)
    if earlier and earlier[0] not in ("ready", "failed", "deleted"):  # Kaggle would deny a version on top of it
        logger.info("%s: Kaggle still unpacks an earlier version (%s); waiting for it", dataset, earlier[0])
        _wait_for_dataset(dataset, 0, settings, poll_seconds, ready_seconds)
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
    """Return the state of the last run, or `wait` for its end. Raises KaggleError, with the reason, when it failed."""
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
    """Submit a version of the notebook, by default the one that was pushed last, and return Kaggle's answer.

    Raises InputError without a message or a version, KaggleError where Kaggle does not take it.
    """
    settings = read_ready_folder(folder)
    if not message.strip():
        raise InputError("a submission needs a message: -m 'what is new in it'")
    pushed = folder / "pushed.json"
    if version is None:
        if not pushed.exists():
            raise InputError(f"{folder} was not pushed yet: `python -m pipeline kaggle push {folder}`, or give --version N")
        version = read_object(pushed).get("version")
    if type(version) is not int or version < 1:
        where = f"{show_path(pushed)}: version" if pushed.exists() else "version"
        raise InputError(f"{where} {show_value(version)}: expected a number from 1; give --version N")
    command = ["competitions", "submit", settings.competition, "-k", settings.notebook, "-v", str(version)]
    command += ["-f", "submission.json", *(["-m", message] if not message.startswith("-") else [f"--message={message}"])]
    if dry_run:
        print(mask(shlex.join(["kaggle", *command])))
        return "nothing was sent"
    answer = _call(command)
    if answer.code or not re.search(r"\bSuccessfully\b|Submission ref: \d", answer.text):
        error = str(explain(f"submission of {settings.notebook}, version {version}", answer.text, settings))
        if _LOST.search(answer.text):  # it may have arrived, and a second one would cost another day
            error += f"; first see whether it was taken: kaggle competitions submissions {settings.competition}"
        raise KaggleError(error)
    lines = sorted(answer.text.splitlines(), key=lambda line: "success" not in line.lower())
    return " ".join(" ".join(lines).split())


def _show_quota() -> None:
    """Log how many hours of GPUs are left, where the client can tell."""
    answer = _call(["quota", "--format", "json"])
    with suppress(ValueError, TypeError, KeyError):
        for row in json.loads(answer.output) if answer.code == 0 else ():
            logger.info("%s: %s of %s are left this week", row["resource"], row["remaining"], row["total"])


def _dataset_state(dataset: str, settings: KaggleSettings) -> tuple[str, int] | None:
    """Return status and version of a dataset, None where there is none (Kaggle may also answer "denied" then)."""
    answer = _call(["datasets", "status", dataset, "--format", "json"])
    found = re.search(r"^\{.*\}$", answer.output, re.MULTILINE)
    if answer.code == 0 and found:
        with suppress(ValueError, TypeError):  # what is no answer of these is explained below
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
        if status == "ready" and version > earlier:
            return
        if status == "ready" and waited > 0.1 * ready_seconds:
            logger.warning(
                "dataset %s: no new version after %.0f s, so the notebook takes version %d; that is right where nothing has "
                "changed since it was pushed last, else push again", dataset, waited, version,
            )  # fmt: skip
            return
        if status in ("failed", "deleted"):
            raise KaggleError(f"dataset {dataset}: {status} at Kaggle; look at https://www.kaggle.com/datasets/{dataset}")
        if waited > ready_seconds:
            minutes = ready_seconds / 60
            raise KaggleError(f"dataset {dataset}: not ready after {minutes:.0f} minutes ({status}); push again later")
        time.sleep(poll_seconds)


def _call(arguments: list[str], seconds: float = 120.0) -> _Answer:
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
    for name in METADATA:
        print(f"# {folder / name}:\n{read_file(folder / name).decode().rstrip()}")
    files = _files(folder)
    print(f"# {len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB:")
    for path in files:
        print(f"#   {path.stat().st_size:>10,}  {path.relative_to(folder)}")


def _files(folder: Path) -> list[Path]:
    return [path for part in ("code", "notebook") for path in sorted((folder / part).rglob("*")) if path.is_file()]


def explain(what: str, text: str, settings: KaggleSettings) -> KaggleError:
    """Return the error for the output `text` of the client about `what`, without tokens: its cause, and Kaggle's words."""
    values = {"user": settings.user, "competition": settings.competition, "notebook": settings.notebook}
    lines = [line.strip() for line in text.splitlines() if line.strip() and not _NOISE.search(line)]
    about = text if "Authentication required" in text else "\n".join(lines)
    said = ([line for line in lines if "error" in line.lower()] or lines or ["nothing"])[-1][:300]
    for pattern, advice in _CAUSES:
        if re.search(pattern, about):
            own_words = "" if "Authentication required" in text else f" (Kaggle says: {said})"
            return KaggleError(f"{what}: {advice.format(**values)}{own_words}")
    return KaggleError(f"{what}: Kaggle did not confirm it; it says: {said}")
