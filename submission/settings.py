"""The settings of a Kaggle entry: one small TOML file, written once with comments, read by every `kaggle` command."""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from eval.files import read_file
from eval.formatting import parse_duration, show_path, show_value

ACCELERATORS = ("NvidiaTeslaT4", "NvidiaL4", "none")
"""Kaggle's names of machine shapes: 2 x T4 with 16 GB each, 4 x L4 with 24 GB each; none is a machine without GPUs."""

SPLITS = ("training", "evaluation")

MOST_BYTES = 1 << 20
"""Of a file of settings."""

_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

_SOURCE = re.compile(r"[A-Za-z0-9_-]+/[A-Za-z0-9-]+")

_TEMPLATE = """\
# Settings of a Kaggle entry, for `python -m pipeline kaggle notebook | simulate | push | status | submit`.
# Fill in the two empty ones; no token belongs here (kaggle reads it from ~/.kaggle/ or from the environment).

user = ""                        # your Kaggle user name, as in kaggle.com/USER
competition = ""                 # the last part of the competition's address, as in kaggle.com/competitions/COMPETITION

notebook_title = "ARC TRM"       # the notebook's title; its address is made from it: kaggle.com/code/USER/arc-trm
code_dataset = "arc-trm-code"    # the dataset that will hold this project's source: kaggle.com/datasets/USER/arc-trm-code
weights_dataset = ""             # "OWNER/NAME" of a dataset with trained weights to start from; empty: from scratch
private = true                   # nobody else sees the notebook and the dataset

accelerator = "NvidiaL4"         # NvidiaL4 (4 GPUs), NvidiaTeslaT4 (2 GPUs) or none
docker_image = ""                # pins the notebook's image, for example "gcr.io/kaggle-gpu-images/python@sha256:..."

preset = "fast"                  # settings of network and training on GPUs (python -m pipeline run --help lists them)
cpu_preset = "demo"              # the same where no GPU is found
overrides = []                   # further settings, for example ["train.seed=1", "predict.views=512"]
train_splits = ["training", "evaluation"]   # the competition's public tasks that the hidden run trains on as well
seed = 0

time_limit = "12h"               # of the hidden run, counted from the notebook's first cell; Kaggle ends it at 12h
reserve = "20m"                  # kept free at its end
commit_tasks = 8                 # the commit run solves and scores so many public evaluation tasks
commit_time_limit = "20m"        # in this time
"""


@dataclass(frozen=True)
class KaggleSettings:
    """What `kaggle.toml` says; the comments of the file that `write_settings` leaves describe each field."""

    user: str
    competition: str
    notebook_title: str = "ARC TRM"
    code_dataset: str = "arc-trm-code"
    weights_dataset: str = ""
    private: bool = True
    accelerator: str = "NvidiaL4"
    docker_image: str = ""
    preset: str = "fast"
    cpu_preset: str = "demo"
    overrides: tuple[str, ...] = ()
    train_splits: tuple[str, ...] = SPLITS
    seed: int = 0
    time_limit: str = "12h"
    reserve: str = "20m"
    commit_tasks: int = 8
    commit_time_limit: str = "20m"

    def __post_init__(self) -> None:
        for name in ("user", "competition", "code_dataset"):
            value = getattr(self, name)
            if not value:
                raise ValueError(f"{name} is empty")
            if not _SLUG.fullmatch(value.lower() if name == "user" else value):
                raise ValueError(f"{name} = {show_value(value)}: expected letters, digits and single hyphens, as in an address")
        if not 6 <= len(self.code_dataset) <= 50:
            raise ValueError(f"code_dataset = {show_value(self.code_dataset)}: Kaggle wants 6 to 50 characters")
        if not re.fullmatch(r"[A-Za-z0-9 ._-]+", self.notebook_title):  # Kaggle makes an address of others in its own way
            raise ValueError(
                f"notebook_title = {show_value(self.notebook_title)}: letters a to z, digits, spaces, dots and hyphens alone"
            )
        if len(self.notebook_title) < 5 or len(self.notebook_slug) < 5:
            raise ValueError(f"notebook_title = {show_value(self.notebook_title)}: Kaggle wants at least 5 letters and digits")
        if self.weights_dataset and not _SOURCE.fullmatch(self.weights_dataset):
            raise ValueError(f"weights_dataset = {show_value(self.weights_dataset)}: expected OWNER/NAME")
        if self.accelerator not in ACCELERATORS:
            raise ValueError(f"accelerator = {show_value(self.accelerator)}: expected one of {', '.join(ACCELERATORS)}")
        if not set(self.train_splits) <= set(SPLITS):
            raise ValueError(f"train_splits = {show_value(self.train_splits)}: expected some of {', '.join(SPLITS)}")
        if self.seed < 0 or self.commit_tasks < 1:
            raise ValueError("seed must not be negative, and commit_tasks at least 1")
        for name in ("time_limit", "reserve", "commit_time_limit"):
            try:
                seconds = parse_duration(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            if not seconds:
                raise ValueError(f"{name} = {show_value(getattr(self, name))}: expected more than nothing")
        if parse_duration(self.reserve) >= parse_duration(self.time_limit):
            raise ValueError(f"reserve = {self.reserve!r} leaves nothing of time_limit = {self.time_limit!r}")

    @property
    def notebook_slug(self) -> str:
        """The notebook's address below the user's, which Kaggle makes from its title."""
        return re.sub(r"[^a-z0-9]+", "-", self.notebook_title.lower()).strip("-")

    @property
    def notebook(self) -> str:
        """USER/NOTEBOOK, as the kaggle client wants it."""
        return f"{self.user}/{self.notebook_slug}"


def write_settings(path: Path) -> None:
    """Write a settings file with comments, to be filled in. Raises ValueError where there is one already."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(_TEMPLATE)
    except FileExistsError:
        raise ValueError(f"{path} is there already; it stays as it is") from None


def read_settings(path: Path) -> KaggleSettings:
    """Return the settings of a file. Raises FileNotFoundError, or ValueError of one line that names file and field."""
    if not path.exists():
        raise FileNotFoundError(f"{show_path(path)}: no such settings file; `python -m pipeline kaggle init` writes one")
    data = read_file(path, MOST_BYTES)
    try:
        return parse_settings(tomllib.loads(data.decode()))
    except ValueError as error:  # TOML that cannot be read, and bytes that are no text, are ValueErrors too
        raise ValueError(f"{show_path(path)}: {error}") from None
    except RecursionError:
        raise ValueError(f"{show_path(path)}: not TOML of settings: nested too deeply") from None


def read_values(path: Path) -> dict[str, Any]:
    """Return the JSON object in a small file beside a notebook. Raises FileNotFoundError or ValueError, of one line."""
    data = read_file(path, MOST_BYTES)
    try:
        values = json.loads(data.decode())
    except ValueError as error:
        raise ValueError(f"{show_path(path)}: not JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"{show_path(path)}: not JSON of settings: nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError(f"{show_path(path)}: expected an object, got {type(values).__name__}")
    return values


def parse_settings(values: Mapping[str, Any]) -> KaggleSettings:
    """Return the settings of plain TOML or JSON values. Raises ValueError naming the field."""
    known = {field.name: field.type for field in fields(KaggleSettings)}
    given: dict[str, Any] = {"user": "", "competition": ""}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"unknown setting {show_value(name)}; one of: {', '.join(known)}")
        kind = known[name]
        if kind == tuple[str, ...]:
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise ValueError(f"{name} must be a list of texts, got {show_value(value)}")
            given[name] = tuple(value)
        elif type(value) is not kind:
            raise ValueError(f"{name} must be of type {getattr(kind, '__name__', kind)}, got {show_value(value)}")
        else:
            given[name] = value
    return KaggleSettings(**given)
