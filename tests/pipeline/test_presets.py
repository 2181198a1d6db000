"""Presets: those of published networks are as published, and every one builds its network."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.config import Config, OptimizerConfig
from pipeline.models.config import MemoryConfig, ReasonerConfig
from pipeline.models.network import Network, make_network
from pipeline.models.task_memory import CompositionalMemory, TableMemory
from pipeline.presets import PRESETS, preset
from pipeline.system.time_limit import NO_LIMIT
from tests.pipeline.tiny import tiny_config
from tests.pipeline.trainers import make_trainer

SUDOKU = ("trm-sudoku", "trm-sudoku-attention", "hrm-sudoku")
FAITHFUL = ("trm-arc1", "trm-arc2", "hrm-arc1", "urm-arc1", "urm-arc2", "charm-arc1", "charm-arc2", *SUDOKU, "trm-maze")


def fitted(name: str) -> Config:
    """The preset, fitted to the puzzles or tasks that it is for."""
    config = PRESETS[name]
    side, vocabulary = (9, 11) if name in SUDOKU else (30, 6) if name == "trm-maze" else (30, 12)
    return replace(config, model=replace(config.model, canvas_side=side, vocabulary=vocabulary))


def without_values(config: Config) -> Network:
    """The network of a config for one task, shapes only."""
    with torch.device("meta"):
        return make_network(config.model, config.memory, 1, 1, 0)


def test_a_preset_takes_a_seed_for_training_and_building() -> None:
    seeded = preset("demo", 5)
    assert (seeded.train.seed, seeded.build.seed) == (5, 5)
    assert preset("demo") == PRESETS["demo"]


def test_an_unknown_preset_lists_the_others() -> None:
    with pytest.raises(ValueError, match=f"^unknown preset 'tiny'; one of: {', '.join(PRESETS)}$"):
        preset("tiny")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_its_network_and_takes_vocabulary_and_canvas_from_the_dataset(name: str) -> None:
    config = PRESETS[name]
    network, model, default = without_values(config), config.model, ReasonerConfig()
    assert (model.vocabulary, model.canvas_side) == (default.vocabulary, default.canvas_side)
    assert network.memory.tokens == config.memory.tokens
    assert isinstance(network.memory, TableMemory if config.memory.kind == "table" else CompositionalMemory)
    assert network.reasoner.head.weight.shape == (model.vocabulary, model.hidden_size)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        *(("trm-arc1", 7), ("trm-arc2", 7), ("trm-sudoku", 5), ("trm-sudoku-attention", 7), ("trm-maze", 7)),
        *(("hrm-arc1", 27), ("hrm-sudoku", 27), ("urm-arc1", 14), ("charm-arc1", 14), ("charm-arc2", 14)),
    ],
)
def test_a_published_network_has_the_published_number_of_parameters(name: str, millions: int) -> None:
    size = sum(parameter.numel() for parameter in without_values(fitted(name)).reasoner.parameters())
    assert size == pytest.approx(millions * 1e6, rel=0.1)


def test_trm_on_arc_is_as_published() -> None:
    config = PRESETS["trm-arc1"]
    assert config.model == ReasonerConfig(
        kind="trm", hidden_size=512, heads=8, expansion=4.0, inner_multiple=256, layers=2, H_cycles=3, L_cycles=4,
        gradient="last-cycle", mixing="attention", positions="1d", convolution=0, canvas_side=30, vocabulary=12,
    )  # fmt: skip
    assert config.memory == MemoryConfig(kind="table", tokens=16)
    assert config.optimizer == OptimizerConfig(
        kind="adam-atan2", rate=1e-4, memory_rate=1e-2, weight_decay=0.1, memory_decay=0.1, beta1=0.9, beta2=0.95,
        warmup_steps=2000, decay_from=1.0, ema=0.999,
    )  # fmt: skip
    train, predict = config.train, config.predict
    assert (train.canvas, train.segments, train.loss, train.halting) == ("full", 16, "stablemax", "learned")
    assert (train.exploration, train.shift_probability, train.sampling) == (0.1, 0.75, "views")
    assert (predict.views, predict.segments) == (1000, 16)
    assert (config.build.augmentations, config.build.policy) == (1000, "all")
    assert config.train.steps == 518_071  # as the published checkpoint of ARC-1 is named, and that of ARC-2
    assert PRESETS["trm-arc2"] == replace(config, train=replace(config.train, steps=723_914))


def test_hrm_is_as_published() -> None:
    config = PRESETS["hrm-arc1"]
    model = replace(PRESETS["trm-arc1"].model, kind="hrm", layers=4, H_cycles=2, L_cycles=2, gradient="last-step")
    assert config.model == model
    assert config.memory == MemoryConfig(kind="table", tokens=1)
    assert config.optimizer == replace(PRESETS["trm-arc1"].optimizer, ema=0.0)
    train = config.train
    assert (train.halting, train.segments, train.loss, train.sampling) == ("q-learning", 16, "stablemax", "views")
    assert config.train.steps == PRESETS["trm-arc1"].train.steps
    assert PRESETS["hrm-sudoku"].model == model


def test_urm_and_charm_are_as_published() -> None:
    urm, charm = PRESETS["urm-arc1"], PRESETS["charm-arc1"]
    assert urm.model == charm.model
    assert urm.model == replace(
        PRESETS["trm-arc1"].model, kind="urm", layers=4, H_cycles=2, L_cycles=6, convolution=2, convolution_axes="1d"
    )
    assert urm.model.H_cycles * urm.model.L_cycles == 12
    assert without_values(urm).reasoner.learned_share() == 0.5  # the last 6 of 12
    assert urm.optimizer == PRESETS["trm-arc1"].optimizer
    muon = OptimizerConfig(kind="muon", matrix_rate=1e-4, matrices="all", newton_schulz="charm-5")
    steps = {name: 2 * PRESETS[f"trm-{name}"].train.steps for name in ("arc1", "arc2")}  # 200,000 passes, theirs are 100,000
    assert (urm.train.steps, urm.train.sampling) == (steps["arc1"], "views")
    assert PRESETS["urm-arc2"] == replace(urm, optimizer=muon, train=replace(urm.train, steps=steps["arc2"]))
    memory = MemoryConfig("compositional", tokens=16, used=1, start="zero", residual=32, residual_gate="memory")
    assert charm.memory == memory
    assert charm.optimizer == OptimizerConfig(
        kind="muon", rate=1e-4, matrix_rate=1e-4, matrices="all", momentum=0.95, newton_schulz="charm-5", weight_decay=0.1,
        residual_rate=1e-2, memory_decay=0.1, warmup_steps=2000, decay_from=1.0, memory_rate=1e-4,
    )  # fmt: skip
    assert (charm.train.shift_probability, charm.train.steps, charm.train.sampling) == (0.8, 600_000, "pairs")
    train = replace(charm.train, steps=1_000_000)
    assert PRESETS["charm-arc2"] == replace(charm, memory=replace(memory, residual_gate="none"), train=train)


def test_puzzles_are_trained_as_published() -> None:
    for name in (*SUDOKU, "trm-maze"):
        config = PRESETS[name]
        rate = 7e-5 if name == "hrm-sudoku" else 1e-4
        ema = 0.0 if name == "hrm-sudoku" else 0.999
        assert config.optimizer == OptimizerConfig(rate=rate, memory_rate=rate, weight_decay=1.0, memory_decay=1.0, ema=ema)
        assert config.train.shift_probability == 0.0
    for name in SUDOKU:
        assert PRESETS[name].build.augmentations == 1000
    mixer, attention = PRESETS["trm-sudoku"].model, PRESETS["trm-sudoku-attention"].model
    assert (mixer.mixing, mixer.positions, mixer.H_cycles, mixer.L_cycles) == ("mixer", "none", 3, 6)
    assert attention == replace(mixer, mixing="attention", positions="1d")
    assert PRESETS["trm-maze"].model == PRESETS["trm-arc1"].model
    assert PRESETS["trm-maze"].build.augmentations == 0  # as the authors' builder, unlike Sudoku


def test_the_cheap_recipes_are_as_their_authors_give_them() -> None:
    sudoku, maze = PRESETS["sudoku-fast"], PRESETS["maze-fast"]
    assert sudoku.model == replace(PRESETS["trm-sudoku"].model, H_cycles=6, L_cycles=9, gate="normed-sigmoid")
    assert (sudoku.memory, maze.memory) == (MemoryConfig(tokens=1), MemoryConfig(tokens=16))
    optimizer, train = sudoku.optimizer, sudoku.train
    assert (optimizer.matrix_rate, optimizer.matrix_scale, optimizer.matrix_decay) == (0.02, "original", 0.005)
    assert (optimizer.momentum, optimizer.newton_schulz, optimizer.clip, optimizer.decay) == (0.6, "muon-3", 1.0, "cosine")
    assert (optimizer.ema, optimizer.ema_start, train.steps) == (0.9, 5000, 8000)
    assert (train.loss, train.label_smoothing, train.halting_weight) == ("softmax", 0.2, 0.05)
    assert train.packs * train.pack_tokens == 384 * (1 + 81)
    assert (maze.model.positions, maze.build.augmentations, maze.train.loss, maze.train.steps) == ("2d", 0, "softmax", 16_000)
    assert (maze.model.attention_norm, maze.optimizer.heads, sudoku.optimizer.heads) == ("rms", "apart", "together")
    rate = maze.optimizer
    assert (rate.matrix_rate, rate.matrix_rate * rate.matrix_decay, rate.decay_from, rate.ema) == (0.005, 1e-4, 1.0, 0.0)
    assert maze.train.packs * maze.train.pack_tokens == 128 * (16 + 900)


PASSES = {"trm-sudoku": 50_000, "trm-maze": 50_000, "hrm-sudoku": 20_000}
"""Of the 1,000 published puzzles."""


@pytest.mark.parametrize("name", FAITHFUL)
def test_a_step_is_the_published_batch_and_there_are_as_many_as_published(name: str) -> None:
    config = fitted(name)
    train, sequence = config.train, config.memory.tokens + config.model.canvas_side**2
    batch = 384 if name == "hrm-sudoku" else 768  # HRM's authors halve it on a single GPU
    assert train.packs * train.pack_tokens == batch * sequence
    assert train.pack_tokens % sequence == 0
    if name in PASSES:
        assert train.steps * batch == pytest.approx(1000 * PASSES[name], rel=1e-3)


def test_the_demo_on_sudokus_keeps_all_checkpoints_of_its_time_for_a_curve() -> None:
    train = PRESETS["demo-sudoku"].train
    assert 0 < train.checkpoint_seconds <= 60
    assert train.checkpoints_kept >= 3600 / train.checkpoint_seconds


def test_without_ema_the_weights_of_the_last_step_predict(tmp_path: Path) -> None:
    for ema in (0.5, 0):
        trainer = make_trainer(tiny_config(f"optimizer.ema={ema}", "train.steps=3"), tmp_path / str(ema))
        trainer.fit(NO_LIMIT)
        last = trainer.state.network.state_dict()
        assert all(torch.equal(tensor, last[name]) for name, tensor in trainer.state.weights().items()) == (ema == 0)
        assert (trainer.state.average is None) == (ema == 0)
