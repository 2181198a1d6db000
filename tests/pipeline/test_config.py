"""Configs: what is wrong is said with the alternatives, and what is written is read back."""

from dataclasses import fields, replace

import orjson
import pytest

from pipeline.config import Config, PredictConfig, TrainConfig, for_another_run, override, resumed, with_seed
from pipeline.presets import PRESETS


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.steps=1", "unknown section 'training'; one of: build, model, memory, optimizer, train, predict"),
        ("memory.rows=1", "memory has no field 'rows'; one of: kind, tokens"),
        ("memory.kind=tree", "memory.kind must be one of table, compositional, got 'tree'"),
        ("train.steps=1.5", "train.steps must be of type int, got '1.5'"),
        ("optimizer.kind=sgd", "optimizer.kind must be one of adam-atan2, adamw, muon, got 'sgd'"),
        ("optimizer.rate=fast", "optimizer.rate must be of type float, got 'fast'"),
        ("optimizer.rate=nan", "optimizer.rate must be finite, got nan"),
        ("train.checkpoint_seconds=inf", "train.checkpoint_seconds must be finite, got inf"),
        *((f"train.{name}=-1", "must not be negative") for name in ("steps", "checkpoint_seconds", "pieces")),
        *((f"train.{name}=0", f"{name}.* must be at least 1") for name in ("segments", "log_steps")),
        *((f"predict.{name}=0", "must be at least 1") for name in ("views", "round_views", "pack_tokens", "segments")),
        ("build.augmentations=-1", "augmentations must be 0..2903039, got -1"),
        ("build.augmentations=2903040", "augmentations must be 0..2903039"),
        ("train.log_steps=" + "9" * 30, "train.log_steps must fit into 64 bits, got 9"),
        ("train.standstill_seconds=1e300", r"standstill_seconds must be positive and at most 1e9, got 1e\+300"),
        *((f"build.{name}=-1", "build seed and jobs must not be negative") for name in ("seed", "jobs")),
        *((f"build.size_exponent={value}", r"size_exponent must be in \[0, 4\]") for value in ("-0.5", "5")),
        ("train.shift_probability=1.1", r"shift_probability and exploration must be in \[0, 1\]"),
        ("predict.time_share=1", r"time_share must be in \(0, 1\), got 1.0"),
        ("model.hidden_size=16", "hidden_size 16 must give each of 8 heads a multiple of 4"),
        ("model.heads=3", "hidden_size 512 must give each of 3 heads a multiple of 4"),
        *((f"model.{name}=0", f"{name} must be at least 1, got 0") for name in ("hidden_size", "heads", "layers", "H_cycles")),
        *((f"model.{name}=-2", f"{name} must be at least 1, got -2") for name in ("L_cycles", "canvas_side", "vocabulary")),
        ("model.inner_multiple=-2", "inner_multiple must be at least 1, got -2"),
        ("model.expansion=0", "expansion must be positive, got 0.0"),
        ("model.kind=rnn", "model.kind must be one of trm, hrm, urm, got 'rnn'"),
        ("model.gradient=none", "model.gradient must be one of last-cycle, last-step, all, got 'none'"),
        ("model.mixing=mlp", "model.mixing must be one of attention, mixer, got 'mlp'"),
        ("model.positions=3d", "model.positions must be one of 1d, 2d, none, got '3d'"),
        ("model.convolution_axes=3d", "model.convolution_axes must be one of 2d, 1d, got '3d'"),
        ("model.mixing=mixer", "a mixer has no positions: positions must be none, got '1d'"),
        ("model.convolution=2", "convolution must be 0 or, on the grid, odd, got 2"),
        ("model.convolution=-1 model.convolution_axes=1d", "convolution must be 0 or, on the grid, odd, got -1"),
        ("memory.tokens=0", "memory tokens must be at least 1"),
        ("memory.residual=-1", "residual must not be negative, got -1"),
        ("memory.residual=32", "memory residual is for compositional memory, not for a table, got 32"),
        ("memory.used=1", "memory used is for compositional memory, not for a table, got 1"),
        ("memory.start=zero", "memory start is for compositional memory, not for a table, got zero"),
        ("memory.kind=compositional memory.used=17", "memory used must be 0..16 tokens, got 17"),
        (
            "model.mixing=mixer model.positions=none model.attention_norm=rms",
            "a mixer has no attention: attention_norm must be",
        ),
        ("optimizer.heads=apart", "optimizer.heads=apart needs optimizer.kind=muon and model.mixing=attention"),
        ("model.gate=tanh", "model.gate must be one of silu, normed-sigmoid, got 'tanh'"),
        ("optimizer.momentum=1", r"momentum must be in \[0, 1\), got 1"),
        ("optimizer.clip=-1", "optimizer clip must not be negative, got -1"),
        ("optimizer.newton_schulz=svd", "optimizer.newton_schulz must be one of muon-5, muon-3, charm-5, got 'svd'"),
        ("train.halting_weight=-1", "halting_weight must not be negative, got -1"),
        ("train.label_smoothing=1", r"label_smoothing must be in \[0, 1\), got 1"),
        ("optimizer.memory_rate=-1", "memory_rate must not be negative"),
        *((f"optimizer.{name}=1", rf"{name} must be in \[0, 1\)") for name in ("beta2", "ema")),
        *((f"optimizer.{name}=1.5", rf"{name} must be in \[0, 1\]") for name in ("decay_from", "memory_first")),
        ("optimizer.memory_first=0.1 optimizer.kind=muon optimizer.matrices=all", "memory_first needs matrices=blocks"),
        ("train.halting=late", "train.halting must be one of learned, q-learning, off, got 'late'"),
        ("train.latents=0", "train latents must be at least 1, got 0"),
        ("train.latents=2 train.halting=q-learning", "train latents above 1 go with learned halting or none"),
        ("predict.latents=0", "latents must be at least 1"),
        ("predict.latents=3 train.halting=off", "predict.latents=3 needs a halting head that train.halting=learned trains"),
        ("predict.halting=first train.halting=q-learning", "predict.halting=first needs a halting head"),
        ("optimizer.matrix_scale=kimi", "matrix_scale must be one of match-rms-adamw, original, got 'kimi'"),
        ("train.steps", "a setting reads section.field=value, got 'train.steps'"),
        ("optimizer.matrix_rate=0.1", "'optimizer.matrix_rate=0.1' changes nothing without optimizer.kind=muon"),
        ("optimizer.kind=adamw optimizer.matrices=all", "'optimizer.matrices=all' changes nothing without optimizer.kind=muon"),
        ("optimizer.ema=0 optimizer.ema_start=9", "changes nothing without an average"),
        ("memory.kind=compositional memory.residual_gate=none", "changes nothing without a memory.residual"),
        ("train.halting=off train.halting_weight=1", "changes nothing without halting"),
        ("train.sampling=views build.size_exponent=1", "changes nothing without train.sampling=pairs"),
    ],
)
def test_a_bad_setting_says_what_would_be_good(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override(Config(), setting.split())


def test_settings_are_read_as_the_type_of_their_field() -> None:
    settings = ["train.pack_tokens=16_384", " optimizer.rate = 3e-3 ", "train.exploration=1", "memory.kind = compositional "]
    config = override(Config(), settings)
    assert (config.train.pack_tokens, config.optimizer.rate, config.memory.kind) == (16_384, 3e-3, "compositional")
    assert type(config.train.exploration) is float


def test_of_two_settings_of_one_field_the_last_holds_and_nothing_else_changes() -> None:
    assert override(Config(), []) == Config()
    settings = ["train.steps=1", "train.seed=7", "train.steps=2"]
    assert override(Config(), settings) == replace(Config(), train=TrainConfig(steps=2, seed=7))


@pytest.mark.parametrize("order", [1, -1])
def test_settings_that_only_fit_together_are_taken_in_any_order(order: int) -> None:
    config = override(Config(), ["model.hidden_size=36", "model.heads=3"][::order])
    assert (config.model.hidden_size, config.model.heads) == (36, 3)
    assert Config.from_json({"model": dict(list(config.to_json()["model"].items())[::order])}).model == config.model


CHANGED = override(
    PRESETS["demo"],
    ["model.hidden_size=36", "model.heads=3", "train.seed=9", "optimizer.rate=0.1", "train.exploration=0", "predict.views=3"],
)


@pytest.mark.parametrize("config", [*PRESETS.values(), CHANGED], ids=[*PRESETS, "changed"])
def test_json_gives_the_config_back(config: Config) -> None:
    for options in (0, orjson.OPT_SORT_KEYS):
        assert Config.from_json(orjson.loads(orjson.dumps(config.to_json(), option=options))) == config
    assert set(config.to_json()) == {field.name for field in fields(Config)}


def test_a_field_that_a_stored_config_does_not_have_yet_has_its_default() -> None:
    values = CHANGED.to_json()
    del values["train"]["pieces"], values["predict"]
    assert Config.from_json(values) == replace(CHANGED, predict=PredictConfig())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "a config is an object of sections"),
        ({"train": 3}, "a config is an object of sections"),
        ({"train": {"stepz": 1}}, "train has no field 'stepz'; one of: seed, steps"),
        ({"network": {"size": 1}}, "unknown section 'network'; one of: build"),
        ({"train": {"steps": True}}, "train.steps must be of type int, got True"),
        ({"train": {"loss": ["softmax"]}}, "train.loss must be one of stablemax, softmax"),
        ({"optimizer": {"rate": "1e400"}}, "optimizer.rate must be finite"),
    ],
)
def test_json_of_something_else_is_refused(values: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config.from_json(values)


def test_a_resumed_run_changes_what_it_may_and_names_what_it_may_not() -> None:
    stored = override(Config(), ["optimizer.rate=0.5", "train.steps=9"])
    settings = ["train.steps=20", "optimizer.rate=0.5", "model.layers=7", " predict.views = 3", "optimizer.final_rate=0.1"]
    config, refused = resumed(stored, settings)
    assert config == override(stored, ["train.steps=20", "predict.views=3", "optimizer.final_rate=0.1"])
    assert refused == ["model.layers=7"]
    with pytest.raises(ValueError, match="train has no field 'stepz'"):
        resumed(stored, ["train.stepz=1"])
    together = ["model.mixing=mixer", "model.positions=none"]  # one without the other cannot be
    assert resumed(stored, together) == (stored, together)


def test_settings_of_earlier_versions_are_read_as_what_computes_the_same() -> None:
    values = Config().to_json()
    values["train"] |= {"execution": "graphed", "halting_delay": 1, "learned_weight": 1.0}
    values["predict"] |= {"ranking": "count"}
    assert Config.from_json(values) == override(Config(), ["train.execution=compiled"])
    with pytest.raises(ValueError, match="train has no field 'halting_delay'"):
        override(Config(), ["train.halting_delay=1"])


def test_weights_bring_all_settings_but_those_of_one_run_or_machine() -> None:
    of_a_run = ["train.steps=9", "train.pieces=64", "train.precision=float16", "train.seed=5", "build.seed=5", "build.jobs=99"]
    kept = ["optimizer.ema=0.5", "train.packs=3", "predict.views=7", "build.augmentations=3"]
    given = override(Config(), [*of_a_run, *kept, "train.execution=compiled"])
    assert for_another_run(given, 7) == with_seed(override(Config(), [*kept, "train.execution=auto"]), 7)
