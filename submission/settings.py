"""The settings of a Kaggle entry: one small TOML file with comments, read by every `kaggle` command."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from augment.errors import InputError
from eval.decode import decode
from eval.files import read_file
from eval.formatting import parse_duration, show_path, show_value

ACCELERATORS = {
    "NvidiaTeslaT4": 2, "NvidiaL4": 4, "NvidiaL4X1": 1, "NvidiaRtxPro6000": 1, "NvidiaH100": 1, "NvidiaTeslaA100": 1, "none": 0,
}  # fmt: skip
"""GPUs by Kaggle's name of the machine shape; some are for certain competitions only. Other names go to Kaggle as they are."""
SPLITS = ("training", "evaluation")
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_SOURCE = re.compile(r"[A-Za-z0-9_-]+/[A-Za-z0-9-]+")
_TRAIN_SOURCE = re.compile(r"(?:json|rearc):([A-Za-z0-9_-]+/[A-Za-z0-9-]+)(/[^@]+)?(@(?!0+(\.0+)?$)\d+(\.\d+)?)?")
_TEMPLATE = """\
# Settings of a Kaggle entry, for `python -m pipeline kaggle notebook | simulate | push | status | submit`.
# Fill in `user` and `competition`; no token belongs here (kaggle reads it from ~/.kaggle/ or from the environment).

user = ""                        # your Kaggle user name, as in kaggle.com/USER
competition = ""                 # the last part of the competition's address, as in kaggle.com/competitions/COMPETITION

notebook_title = "ARC TRM"       # the notebook's title; its address is made from it: kaggle.com/code/USER/arc-trm
code_dataset = "arc-trm-code"    # the dataset that will hold this project's source: kaggle.com/datasets/USER/arc-trm-code
weights = ""                     # what training starts from, with the settings that it comes with: "start" for the weights
                                 # that come with the program, or a file or run folder; empty: from scratch, with a preset
weights_dataset = ""             # or weights in a dataset on Kaggle, "OWNER/NAME"
private = true                   # nobody else sees the notebook and the dataset (a dataset that is there already stays as
                                 # visible as it is: its page on Kaggle changes that)

accelerator = "NvidiaL4"         # NvidiaL4 (4 GPUs), NvidiaTeslaT4 (2), NvidiaL4X1, NvidiaRtxPro6000, NvidiaH100,
                                 # NvidiaTeslaA100 (one each), another of Kaggle's machine shapes, or none
docker_image = ""                # pins the notebook's image, for example "gcr.io/kaggle-gpu-images/python@sha256:..."

preset = "fast"                  # settings on GPUs; not used with weights (run --help lists them)
cpu_preset = "demo"              # the same where no GPU is found
overrides = []                   # further settings, for example ["train.seed=1", "predict.views=512"]; where a GPU is
                                 # expected and none is found, the run does without them
train_splits = ["training", "evaluation"]   # the competition's public tasks that the hidden run trains on as well
train_datasets = []              # datasets on Kaggle with further tasks to train on, for example
                                 # ["rearc:OWNER/NAME@0.5", "json:OWNER/NAME/concept.json"]: whole, or a file or folder of it
test_weight = 2.0                # how often a task to solve is drawn in training, relative to others
seed = 0                         # of the first weights and of what is drawn

time_limit = "12h"               # of the hidden run, counted from the notebook's first cell; Kaggle ends it at 12h
reserve = "20m"                  # kept free at its end
commit_tasks = 8                 # the commit run solves and scores so many public evaluation tasks
commit_time_limit = "20m"        # the time limit of that run
"""


@dataclass(frozen=True)
class KaggleSettings:
    """The content of `kaggle.toml`; the comments of `_TEMPLATE` describe each field."""

    user: str
    competition: str
    notebook_title: str = "ARC TRM"
    code_dataset: str = "arc-trm-code"
    weights: str = ""
    weights_dataset: str = ""
    private: bool = True
    accelerator: str = "NvidiaL4"
    docker_image: str = ""
    preset: str = "fast"
    cpu_preset: str = "demo"
    overrides: tuple[str, ...] = ()
    train_splits: tuple[str, ...] = SPLITS
    train_datasets: tuple[str, ...] = ()
    test_weight: float = 2.0
    seed: int = 0
    time_limit: str = "12h"
    reserve: str = "20m"
    commit_tasks: int = 8
    commit_time_limit: str = "20m"

    def __post_init__(self) -> None:
        title, slug, source = self.notebook_title, self.notebook_slug, self.weights_dataset
        for name in ("user", "competition", "code_dataset"):
            value = getattr(self, name)
            if not value:
                raise InputError(f"{name} is empty")
            if not _SLUG.fullmatch(value.lower() if name == "user" else value):
                raise InputError(f"{name} = {show_value(value)}: expected letters, digits and single hyphens, as in an address")
        for name in ("time_limit", "reserve", "commit_time_limit"):
            try:
                seconds = parse_duration(getattr(self, name))
            except ValueError as error:
                raise InputError(f"{name}: {error}") from None
            if not seconds:
                raise InputError(f"{name} = {show_value(getattr(self, name))}: expected more than 0")
        odd_title = not re.fullmatch(r"[A-Za-z0-9 ._-]+", title)  # Kaggle makes an address of other letters in its own way
        odd_dataset = not all(map(_TRAIN_SOURCE.fullmatch, self.train_datasets))
        checks = [
            ("code_dataset", not 6 <= len(self.code_dataset) <= 50, "Kaggle requires 6 to 50 characters"),
            ("notebook_title", odd_title, "only letters a to z, digits, spaces, dots and hyphens"),
            ("notebook_title", min(len(title), len(slug)) < 5, "Kaggle requires at least 5 letters and digits"),
            ("weights_dataset", bool(source) and not _SOURCE.fullmatch(source), "expected OWNER/NAME"),
            ("accelerator", not self.accelerator.isalnum(), f"expected a machine shape such as {', '.join(ACCELERATORS)}"),
            ("train_splits", not set(self.train_splits) <= set(SPLITS), f"expected some of {', '.join(SPLITS)}"),
            ("train_datasets", odd_dataset, "expected json: or rearc:OWNER/NAME[/PATH][@W]"),
            ("test_weight", not 0.01 <= self.test_weight <= 100, "expected 0.01 to 100"),
            ("seed", not 0 <= self.seed < 1 << 63, "expected 0 to 2^63 - 1"),
            ("commit_tasks", self.commit_tasks < 1, "expected at least 1"),
        ]
        for name, wrong, expected in checks:
            if wrong:
                raise InputError(f"{name} = {show_value(getattr(self, name))}: {expected}")
        if parse_duration(self.reserve) >= parse_duration(self.time_limit):
            raise InputError(f"reserve = {self.reserve!r} leaves nothing of time_limit = {self.time_limit!r}")

    @property
    def datasets(self) -> list[str]:
        """OWNER/NAME of all datasets that the notebook needs: code, weights, tasks."""
        named = (match[1] for match in map(_TRAIN_SOURCE.fullmatch, self.train_datasets) if match)
        return list(dict.fromkeys([f"{self.user}/{self.code_dataset}", *filter(None, [self.weights_dataset]), *named]))

    @property
    def notebook_slug(self) -> str:
        """The last part of the notebook's address, which Kaggle makes from its title."""
        return re.sub(r"[^a-z0-9]+", "-", self.notebook_title.lower()).strip("-")

    @property
    def notebook(self) -> str:
        """USER/NOTEBOOK, as the kaggle client expects it."""
        return f"{self.user}/{self.notebook_slug}"


def write_settings(path: Path) -> None:
    """Write a settings file with comments, to be filled in. Raises InputError where there is one already."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(_TEMPLATE)
    except FileExistsError:
        raise InputError(f"{path} is there already; it stays as it is") from None


def read_settings(path: Path) -> KaggleSettings:
    """Return the settings of a file. Raises FileNotFoundError, or InputError of one line that names file and field."""
    if not path.exists():
        raise FileNotFoundError(f"{show_path(path)}: no such settings file; `python -m pipeline kaggle init` writes one")
    data, where = read_file(path, most_bytes=1 << 20), show_path(path)
    try:
        values = tomllib.loads(data.decode("utf-8-sig"))
    except ValueError as error:  # also of UTF-8, and of numbers of thousands of digits
        raise InputError(f"{where}: {error}") from None
    except RecursionError:
        raise InputError(f"{where}: not TOML of settings: nested too deeply") from None
    return parse_settings(values, where)


def parse_settings(values: Mapping[str, Any], where: str = "") -> KaggleSettings:
    """Return the settings of plain TOML or JSON values. Raises InputError that begins with `where` and names the field."""
    return decode(KaggleSettings, {"user": "", "competition": ""} | dict(values), where)
