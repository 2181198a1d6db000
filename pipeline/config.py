"""Every setting: one frozen dataclass per stage, joined in `Config`; overrides from the command line; config.json. No torch."""

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from augment.errors import InputError
from augment.transform import TRANSFORMS
from augment.views import Policy
from eval.decode import decode_value
from eval.files import read_object
from eval.formatting import show_path, show_value
from pipeline.models.config import MemoryConfig, ReasonerConfig

CONFIG_FILE = "config.json"
"""The settings that a run computes with, in its folder."""
Leakage = Literal["refuse", "drop", "allow"]
"""What to do with training pairs that show the answer to a scored test: fail, leave them out, or train on them."""


@dataclass(frozen=True)
class BuildConfig:
    """How a dataset is built from its sources."""

    augmentations: int = 1000
    """Maximum number of views per task besides the identity."""
    policy: Policy = "all"
    """Which colors are permuted: see `augment.views.Policy`."""
    seed: int = 0
    """Draws the views of a task that has more than `augmentations`."""
    jobs: int = 0
    """Maximum number of processes; 0 means one per core. The result does not depend on it."""
    draw: Literal["tasks", "pairs"] = "tasks"
    """tasks: each task is drawn as often, and then any of its pairs. pairs: each pair is (HRM, TRM, URM), so that tasks of many
    pairs come more often."""
    size_exponent: float = 0.0
    """Pairs are drawn in proportion to the cells of their canvas to the power of minus this, besides the weights of tasks and
    sources; 0: whatever their size. A small pair costs less than a large one and counts as much. Not with
    train.sampling=views, which draws tasks alone."""

    def __post_init__(self) -> None:
        if not 0 <= self.augmentations < TRANSFORMS:
            raise InputError(f"build augmentations must be 0..{TRANSFORMS - 1}, got {self.augmentations}")
        if not (0 <= self.seed < 1 << 63 and 0 <= self.jobs < 1 << 63):
            given = f"{show_value(self.seed)} and {show_value(self.jobs)}"
            raise InputError(f"build seed and jobs must not be negative or beyond 64 bits, got {given}")
        if not 0 <= self.size_exponent <= 4:
            raise InputError(f"build size_exponent must be in [0, 4], got {self.size_exponent}")


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its schedule. Defaults: TRM on ARC."""

    kind: Literal["adam-atan2", "adamw", "muon"] = "adam-atan2"
    """muon: Muon for `matrices`, AdamW for everything else."""
    rate: float = 1e-4
    matrix_rate: float = 1e-3
    """Learning rate of Muon."""
    matrix_scale: Literal["match-rms-adamw", "original"] = "match-rms-adamw"
    """Of Muon's updates. match-rms-adamw: to the root mean square of AdamW's, 0.2 sqrt(larger side). original: as its authors
    do, sqrt(rows / columns), at least 1."""
    matrix_decay: float = -1.0
    """Weight decay of the matrices that Muon trains; negative: `weight_decay`."""
    matrices: Literal["blocks", "all"] = "blocks"
    """Which Muon trains. blocks: those of the blocks. all: every one, embedding, head and compositional memory too (not the
    codes of colors); `memory_rate` then is of tables only, `memory_decay` of tables and the residual."""
    heads: Literal["together", "apart"] = "together"
    """apart: Muon makes the queries, keys and values of each head of attention orthogonal by themselves."""
    momentum: float = 0.95
    """Of Muon, Nesterov's."""
    newton_schulz: Literal["muon-5", "muon-3", "charm-5"] = "muon-5"
    """Steps that make an update of Muon orthogonal: its authors' polynomial five or three times, or CHARM's five."""
    memory_rate: float = 1e-2
    """Learning rate of the task memory: sign descent for tables of rows, the optimizer's own rule for compositional rows."""
    residual_rate: float = 1e-3
    """Learning rate of sign descent on the residual of compositional memory."""
    weight_decay: float = 0.1
    memory_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    warmup_steps: int = 2000
    """Steps in which rates rise; they end with 5% of the run at the latest."""
    decay_from: float = 1.0
    """Fraction of the run (of its steps, or of its time without compiling) after which the rate decays; 1: it is constant."""
    decay: Literal["linear", "cosine"] = "linear"
    final_rate: float = 0.0
    """Fraction of the rate at the end of the decay."""
    memory_first: float = 0.0
    """Fraction of the run at its beginning in which only the task memory is trained: of new tasks, with weights of others. A
    further leg, which makes the run longer, does not begin with it again."""
    ema: float = 0.999
    """Decay of the moving average of weights and task memory, which predictions use; 0 turns it off."""
    ema_start: int = 0
    """Steps after which the average begins, at least 1 / (1 - `ema`); until then it is the weights."""
    clip: float = 0.0
    """Largest norm of the gradient of all parameters together; 0: any."""

    def __post_init__(self) -> None:
        rates = ("rate", "matrix_rate", "memory_rate", "residual_rate")
        for name in (*rates, "weight_decay", "memory_decay", "warmup_steps", "ema_start", "clip"):
            if getattr(self, name) < 0:
                raise InputError(f"optimizer {name} must not be negative, got {getattr(self, name)}")
        if self.memory_first and (self.kind, self.matrices) == ("muon", "all"):
            raise InputError("optimizer memory_first needs matrices=blocks: with all, Muon trains task memory too")
        for name in ("beta1", "beta2", "ema", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"optimizer {name} must be in [0, 1), got {getattr(self, name)}")
        for name in ("decay_from", "final_rate", "memory_first"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"optimizer {name} must be in [0, 1], got {getattr(self, name)}")


Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class TrainConfig:
    """The training loop: packs, segments, halting, precision, checkpoints. Defaults: TRM on ARC."""

    seed: int = 0
    steps: int = 0
    """Optimizer steps; 0 means until the time limit."""
    packs: int = 0
    """Packs per step over all processes, a multiple of their number; 0 means one per process."""
    pack_tokens: int = 703_488
    """Size of a pack: the sequence that reaches it is the last. Default: 768 sequences of 916 tokens."""
    cut_from: int = 0
    """What `pack_tokens` was before a run with little time made its packs smaller; 0: they were not."""
    pieces: int = 0
    """Micro-batches per pack: more of them need less memory and give the same result. 0: on a CPU 1; on a CUDA device as few as
    fit, found by a trial step; small packs of a process (on a CPU, of compiled code) in one. The number doubles when memory
    runs out."""
    canvas: Literal["fitted", "full"] = "full"
    """fitted: the size that the demonstrations suggest, no padding. full: 30 x 30, as published."""
    sampling: Literal["pairs", "views"] = "pairs"
    """How sequences are drawn. pairs: each by itself, a pair of a task and a view of it. views: views with all pairs of their
    tasks, a whole pack of them, of which what falls on free places comes in (HRM, TRM, URM): the row that a task table has for
    a view takes fewer steps, each from more pairs."""
    shift_probability: float = 0.75
    """Fraction of the sequences whose grids are moved to a random place on the full canvas."""
    segments: int = 16
    """Maximum number of supervision segments per sequence; 1 replaces every sequence after every step."""
    depth: Literal["full", "thirds"] = "full"
    """thirds: a segment has a third of its H and L cycles, rounded up, until 30% of the run are done, two thirds until 60%;
    also after a further leg has made the run longer, no fewer than before."""
    exploration: float = 0.1
    """Fraction of sequences that may not halt before a random number of segments, drawn anew at each segment."""
    halting: Literal["learned", "q-learning", "off"] = "learned"
    """learned: a sequence halts when its halting logit is positive, trained on whether the output is exact (TRM). q-learning:
    when the value of halting exceeds that of continuing, which a further segment trains (HRM). off: all sequences run all
    segments."""
    halting_weight: float = 0.5
    """Share of the halting loss in what is minimised, unless halting is off."""
    loss: Literal["stablemax", "softmax"] = "stablemax"
    label_smoothing: float = 0.0
    """Share of a label that is spread evenly over all tokens."""
    latents: int = 1
    """Number of initial latents of a sequence. Each segment is learned from the latent with the least token loss, and where
    there is an answer besides, the others go on with that of this one (arXiv 2601.19085)."""
    execution: Literal["auto", "eager", "compiled"] = "eager"
    """How a segment is computed. compiled: blocks go through `torch.compile`, on a GPU for packs of constant shapes, on a CPU
    with a C++ compiler for any, also in prediction. auto: compiled where the time that is left is enough for it and, on a GPU,
    a trial shows that it is faster, else eager. Where device or dataset forbid what is set, it is eager and the log says
    why."""
    precision: Precision = "auto"
    """auto: bfloat16 where the device supports it, else float16 with loss scaling on CUDA; on a CPU the measured faster one."""
    checkpoint_seconds: float = 600.0
    """Seconds between checkpoints; 0 writes only the last."""
    checkpoint_steps: int = 0
    """Steps between checkpoints, in addition; 0 means by time only."""
    checkpoints_kept: int = 2
    standstill_seconds: float = 600.0
    """Seconds that a process waits for another one of its launch before the launch ends, from which `--resume` goes on. Where
    the time limit comes first, that ends the run; Kaggle's notebook keeps a longer reserve."""
    log_steps: int = 20
    """Steps between lines of metrics.jsonl."""

    def __post_init__(self) -> None:
        if self.segments < 1:
            raise InputError(f"train segments must be at least 1, got {self.segments}")
        if self.pack_tokens < 1 or self.log_steps < 1 or self.checkpoints_kept < 1:
            raise InputError("train pack_tokens, log_steps and checkpoints_kept must be at least 1")
        counts = (self.seed, self.steps, self.packs, self.cut_from, self.pieces, self.checkpoint_steps, self.checkpoint_seconds)
        if min(counts) < 0:
            raise InputError("train seed, steps, packs, cut_from, pieces and checkpoint intervals must not be negative")
        if not 0 < self.standstill_seconds <= 1e9:
            raise InputError(f"train standstill_seconds must be positive and at most 1e9, got {self.standstill_seconds}")
        if not 0 <= self.shift_probability <= 1 or not 0 <= self.exploration <= 1:
            raise InputError("train shift_probability and exploration must be in [0, 1]")
        if self.halting_weight < 0:
            raise InputError(f"train halting_weight must not be negative, got {self.halting_weight}")
        if self.latents < 1:
            raise InputError(f"train latents must be at least 1, got {self.latents}")
        if self.latents > 1 and self.halting == "q-learning":
            raise InputError("train latents above 1 go with learned halting or none, not with q-learning")
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"train label_smoothing must be in [0, 1), got {self.label_smoothing}")


@dataclass(frozen=True)
class PredictConfig:
    """How test inputs are predicted."""

    views: int = 1000
    """Maximum number of views per test input."""
    round_views: int = 8
    """Views of every test input in a round; each round improves the submission."""
    pack_tokens: int = 65_536
    segments: int = 16
    """Supervision segments per view, at most."""
    latents: int = 1
    """Number of initial latents of a view; the answer with the greatest halting probability counts."""
    halting: Literal["off", "first"] = "off"
    """off: every view runs all segments, as published. first: it ends with the first of its latents that halts."""
    time_share: float = 0.15
    """Fraction of a run's time that is kept for prediction."""

    def __post_init__(self) -> None:
        if min(self.views, self.round_views, self.pack_tokens, self.segments, self.latents) < 1:
            raise InputError("predict views, round_views, pack_tokens, segments and latents must be at least 1")
        if not 0 < self.time_share < 1:
            raise InputError(f"predict time_share must be in (0, 1), got {self.time_share}")


@dataclass(frozen=True)
class Config:
    """Everything that shapes a run."""

    build: BuildConfig = field(default_factory=BuildConfig)
    model: ReasonerConfig = field(default_factory=ReasonerConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)

    def __post_init__(self) -> None:
        if self.train.halting != "learned" and (self.predict.latents > 1 or self.predict.halting != "off"):
            name, value = ("latents", self.predict.latents) if self.predict.latents > 1 else ("halting", self.predict.halting)
            raise InputError(f"predict.{name}={value} needs a halting head that train.halting=learned trains")
        if self.optimizer.heads == "apart" and (self.optimizer.kind, self.model.mixing) != ("muon", "attention"):
            raise InputError("optimizer.heads=apart needs optimizer.kind=muon and model.mixing=attention")

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Return the config as plain JSON values."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(values: object) -> "Config":
        """Return the config that `to_json` gave. Raises InputError for unknown sections or fields.

        What earlier versions had besides is read as what computes the same, or nearly: graphed execution, delayed halting,
        priorities, rankings of votes.
        """
        if not isinstance(values, Mapping) or not all(isinstance(section, Mapping) for section in values.values()):
            raise InputError("a config is an object of sections, each an object of fields")
        changes = [(section, name, value) for section, part in values.items() for name, value in part.items()]
        graphed, compiled = ("train", "execution", "graphed"), ("train", "execution", "compiled")
        kept = (compiled if each == graphed else each for each in changes if each[:2] not in _GONE)
        return _replace(Config(), kept)


def read_config(path: Path) -> Config:
    """Return the config of a file that `to_json` filled. Raises FileNotFoundError, and InputError that names file and field."""
    values = read_object(path)
    try:
        return Config.from_json(values)
    except ValueError as error:
        raise InputError(f"{show_path(path)}: {error}") from None


MAY_CHANGE: Mapping[str, frozenset[str]] = {
    "optimizer": frozenset({"decay", "decay_from", "final_rate", "memory_first"}),
    "train": frozenset({
        "steps", "packs", "pieces", "execution", "log_steps", "checkpoint_seconds", "checkpoint_steps", "checkpoints_kept",
        "standstill_seconds",
    }),
    "predict": frozenset(field.name for field in dataclasses.fields(PredictConfig)),
}  # fmt: skip
"""Settings that a resumed run may change, by section: its length, the beginning and end of the schedule of rates, prediction,
how it is computed (with `packs`, how much a step holds), logging and checkpoints."""
_GONE = {("train", "halting_delay"), ("train", "learned_weight"), ("predict", "ranking")}
"""Settings, by section and name, that earlier versions had and that are read over."""
OF_ONE_RUN = ("train.seed", "train.steps", "train.cut_from", "train.pieces", "build.seed", "build.jobs")
"""Settings that weights do not bring to a run that starts from them."""


def setting_name(setting: str) -> str:
    """Return the section and field, as one name, of a setting such as `train.steps=100`."""
    return setting.partition("=")[0].strip()


def resumed(config: Config, settings: Iterable[str]) -> tuple[Config, list[str]]:
    """Return the `config` of a run that is resumed with `settings`, and those of them that would need a new run.

    Raises InputError like `override`.
    """
    changes, others = list[str](), list[str]()
    for setting in settings:
        section, _, name = setting_name(setting).partition(".")
        (changes if name in MAY_CHANGE.get(section, ()) else others).append(setting)
    other = keep_precision(override(config, others), config)
    values = {setting: attrgetter(setting_name(setting)) for setting in others}
    return override(config, changes), [setting for setting, value in values.items() if value(other) != value(config)]


def keep_precision(config: Config, stored: Config) -> Config:
    """Return `config` with the precision that was measured for the `stored` one, where it would be measured again."""
    precision = stored.train.precision if config.train.precision == "auto" else config.train.precision
    return override(config, [f"train.precision={precision}"])


def require_end(config: Config, seconds: float | None) -> None:
    """Raise InputError where nothing ends a training: neither steps nor `seconds`."""
    if seconds is None and not config.train.steps:
        raise InputError("training needs an end: --time-limit, or --set train.steps=N")


def with_seed(config: Config, seed: int) -> Config:
    """Return `config` with `seed` for training and building. Raises InputError where it is negative or too large."""
    _parse(seed, int, "the seed")
    train, build = dataclasses.replace(config.train, seed=seed), dataclasses.replace(config.build, seed=seed)
    return dataclasses.replace(config, train=train, build=build)


def for_another_run(config: Config, seed: int) -> Config:
    """Return the settings of weights for a run that starts from them, on whatever machine: all but those OF_ONE_RUN."""
    config = with_usual_packs(config)
    changes = [f"{setting}={attrgetter(setting)(Config())}" for setting in (*OF_ONE_RUN, "train.precision")]
    if config.train.execution == "compiled":
        changes.append("train.execution=auto")
    return with_seed(override(config, changes), seed)


def with_usual_packs(config: Config) -> Config:
    """Return `config` with packs of the size that they had before they were made smaller for lack of time."""
    tokens = config.train.cut_from or config.train.pack_tokens
    return dataclasses.replace(config, train=dataclasses.replace(config.train, pack_tokens=tokens, cut_from=0))


def last_of_each(settings: Iterable[str]) -> tuple[str, ...]:
    """Return `settings` such as `train.steps=100` without those that a later one replaces."""
    return tuple({setting_name(setting): setting for setting in settings}.values())


def override(config: Config, settings: Iterable[str]) -> Config:
    """Return `config` with settings such as `train.steps=100`.

    Raises InputError for unknown ones, with the alternatives, and for those that differ and that nothing would read.
    """
    changes: list[tuple[str, str, object]] = []
    given = tuple(settings)
    for setting in given:
        path, equals, text = setting.partition("=")
        section, dot, name = path.strip().partition(".")
        if not equals or not dot:
            raise InputError(f"a setting reads section.field=value, got {show_value(setting)}")
        changes.append((section, name, text.strip()))
    changed = _replace(config, changes)
    unread = unread_settings(changed)
    for setting in given:
        value, needed = attrgetter(setting_name(setting)), unread.get(setting_name(setting))
        if needed and value(changed) != value(config):
            raise InputError(f"{show_value(setting)} changes nothing without {needed}")
    return changed


_OF_MUON = ("matrix_rate", "matrix_scale", "matrix_decay", "matrices", "heads", "momentum", "newton_schulz")


def unread_settings(config: Config) -> dict[str, str]:
    """Return the settings that nothing reads beside the others of `config`, and which of those would have to differ."""
    unread = {} if config.optimizer.kind == "muon" else {f"optimizer.{name}": "optimizer.kind=muon" for name in _OF_MUON}
    conditions = (
        ("optimizer.ema_start", config.optimizer.ema, "an average (optimizer.ema)"),
        ("optimizer.residual_rate", config.memory.residual, "a memory.residual"),
        ("memory.residual_gate", config.memory.residual, "a memory.residual"),
        ("train.halting_weight", config.train.halting != "off", "halting (train.halting)"),
        ("build.size_exponent", config.train.sampling == "pairs", "train.sampling=pairs"),
    )
    return unread | {name: needed for name, condition, needed in conditions if not condition}


def _replace(config: Config, changes: Iterable[tuple[str, str, object]]) -> Config:
    """Return `config` with (section, field, text or JSON value) changes, checked together."""
    sections = [f.name for f in dataclasses.fields(config)]
    changed: dict[str, dict[str, object]] = {}
    for section, name, value in changes:
        if section not in sections:
            raise InputError(f"unknown section {show_value(section)}; one of: {', '.join(sections)}")
        part = getattr(config, section)
        names = [f.name for f in dataclasses.fields(part)]
        if name not in names:
            raise InputError(f"{section} has no field {show_value(name)}; one of: {', '.join(names)}")
        changed.setdefault(section, {})[name] = _parse(value, typing.get_type_hints(type(part))[name], f"{section}.{name}")
    parts = {section: dataclasses.replace(getattr(config, section), **fields) for section, fields in changed.items()}
    return dataclasses.replace(config, **parts)


def _parse(value: object, kind: Any, where: str) -> object:
    """Return `value`, text or a JSON value, as the field type `kind`."""
    if isinstance(value, str) and kind in (int, float):
        try:
            value = kind(value.replace("_", ""))
        except ValueError:
            raise InputError(f"{where} must be of type {kind.__name__}, got {show_value(value)}") from None
    if type(value) is int and not -1 << 63 <= value < 1 << 63:
        raise InputError(f"{where} must fit into 64 bits, got {show_value(value)}")
    return decode_value(kind, value, where)
