"""Presets: named configs, each headed by its command, the device and time it is meant for, and its measured score."""

from dataclasses import replace

from augment.errors import InputError
from pipeline.config import BuildConfig, Config, OptimizerConfig, PredictConfig, TrainConfig, with_seed
from pipeline.models.config import MemoryConfig, ReasonerConfig

# python -m pipeline run --source arc1:training --source arc1:evaluation --max-side 6 --preset demo --time-limit 10m
#   --networks 2 --out runs/demo-0 (make demo)
# 2 CPU cores, 10 minutes. Score: BENCHMARKS.md, "Demo".
DEMO = Config(
    build=BuildConfig(augmentations=1000, policy="keep-output-only", size_exponent=0.5),
    model=ReasonerConfig(
        kind="urm", hidden_size=192, heads=6, expansion=4.0, inner_multiple=128, layers=2, H_cycles=2, L_cycles=1,
        positions="2d", gate="normed-sigmoid", convolution=3,
    ),
    memory=MemoryConfig(kind="compositional", tokens=1),
    optimizer=OptimizerConfig(
        kind="muon", matrix_rate=3e-3, rate=1e-3, memory_rate=3e-3, weight_decay=1.0, memory_decay=0.1, beta2=0.99,
        warmup_steps=100, decay_from=0.3, ema=0.99,
    ),
    train=TrainConfig(
        packs=2, pack_tokens=640, canvas="fitted", shift_probability=0.0, segments=1, loss="softmax", label_smoothing=0.1,
        execution="auto", checkpoint_seconds=120,
    ),
    predict=PredictConfig(views=128, round_views=8, pack_tokens=16_384, segments=1, time_share=0.1),
)  # fmt: skip

# python -m pipeline run --source arc1:evaluation@2 --train-source arc1:training --train-source json:CONCEPTARC.json
#   --train-source rearc:RE_ARC.zip@0.5 --preset arc1-cpu --processes 2 --time-limit 2h --out runs/arc1-cpu
# All of ARC-AGI-1 on two CPU cores with bfloat16, in legs: the same command with --resume goes on where it ended, with constant
# rates; the last leg ends with falling ones (`--set optimizer.decay_from=0.8`, of the time of all legs). The demo's recipe,
# wider, with four layers and one pass a segment (docs/log.md, 2026-11-27, 2026-11-29). This command: not yet measured. 3.8
# hours, of which 1.6 made the weights `start` that the others began with: 15.1% pass@2; 5.9 hours, with a further leg: 17.8%
# (records/2026-11-29-arc1-cpu-rearc); 7.1 hours with two passes (`model.H_cycles=2`): 17.8% (records/2026-11-28-arc1-cpu).
ARC1_CPU = replace(
    DEMO,
    build=replace(DEMO.build, size_exponent=1.0),
    model=replace(DEMO.model, hidden_size=256, heads=8, layers=4, H_cycles=1),
    optimizer=replace(DEMO.optimizer, weight_decay=0.5, warmup_steps=200, decay_from=1.0, ema=0.999),
    train=replace(DEMO.train, pack_tokens=4096, checkpoint_seconds=600),
    predict=replace(DEMO.predict, views=64),
)

# accelerate launch -m pipeline run --source arc1:evaluation --train-source arc1:training --preset fast --time-limit 30m
#   --out DIR
# One H100 and half an hour, or 4 x L4 and hours (not yet measured). The recipe that the demo's experiments chose
# (BENCHMARKS.md, "The best recipe per minute") at the published width, with four layers: one state, Muon, grid convolution,
# compositional memory, one segment. Weight decay x rate x steps is about that of the demo. One H100, 7m30s: 28.1% pass@2
# (BENCHMARKS.md, "ARC-AGI-1 on one GPU").
FAST = Config(
    build=BuildConfig(augmentations=1000, policy="keep-output-only"),
    model=ReasonerConfig(kind="urm", layers=4, H_cycles=2, L_cycles=2, positions="2d", convolution=3),
    memory=MemoryConfig(kind="compositional", tokens=1),
    optimizer=OptimizerConfig(
        kind="muon", rate=3e-4, matrix_rate=1e-3, memory_rate=3e-3, weight_decay=0.5, beta2=0.99, warmup_steps=200,
        decay_from=0.5, ema=0.999,
    ),
    train=TrainConfig(
        packs=4, pack_tokens=16_384, canvas="fitted", shift_probability=0.0, segments=1, loss="softmax", execution="auto",
    ),
    predict=PredictConfig(views=256, round_views=16, segments=1, time_share=0.1),
)  # fmt: skip

# Published recipes. Each names its authors' hardware, time and score.

# accelerate launch -m pipeline run --source arc1:evaluation --train-source arc1:training --train-source json:CONCEPTARC.json
#   --preset trm-arc1 --time-limit 80h --out DIR
# The authors: 4 x H100, about 3 days, 44.6% pass@2 (arXiv 2510.04871, table 5). Their evaluator adds up the votes of all its
# evaluations, of 10 checkpoints by the end: `--set train.checkpoint_seconds=0 --set train.checkpoint_steps=51807 --set
# train.checkpoints_kept=10`, then `predict` each and `vote`. Not as theirs: how tasks and shifts are drawn (README.md,
# "Results"). Here: not yet measured.
TRM_ARC1 = Config(
    build=BuildConfig(draw="pairs"), train=TrainConfig(steps=518_071, packs=4, pack_tokens=175_872, sampling="views")
)

# The same command with --source arc2:evaluation --train-source arc2:training --preset trm-arc2 --time-limit 100h
# The authors: 4 x H100, about 3 days, 7.8% pass@2 (arXiv 2510.04871, table 5). Here: not yet measured.
TRM_ARC2 = replace(TRM_ARC1, train=replace(TRM_ARC1.train, steps=723_914))
_PUZZLE_OPTIMIZER = OptimizerConfig(rate=1e-4, memory_rate=1e-4, weight_decay=1.0, memory_decay=1.0)
_PUZZLE_TRAINING = TrainConfig(steps=65_104, packs=4, shift_probability=0.0)  # 50,000 passes over 1,000 puzzles, 768 a step
_SUDOKU_TOKENS = 192 * (16 + 81)  # four packs of 192 puzzles

# accelerate launch -m pipeline run --source sudoku:test.csv --train-source sudoku:train.csv --limit 1000 --preset trm-sudoku
#   --out DIR
# The authors: 1 x L40S, less than 36 hours, 87.4% exact on Sudoku-Extreme (arXiv 2510.04871, table 4). Here: not yet measured
# on Sudoku-Extreme; generated 4 x 4 puzzles: BENCHMARKS.md, "Sudoku".
TRM_SUDOKU = Config(
    model=ReasonerConfig(mixing="mixer", positions="none", L_cycles=6),
    optimizer=_PUZZLE_OPTIMIZER,
    train=replace(_PUZZLE_TRAINING, pack_tokens=_SUDOKU_TOKENS),
)

# python -m pipeline run --source sudoku:generated:side=4 --train-source sudoku:generated:side=4 --preset demo-sudoku
#   --time-limit 4m --out runs/sudoku4
# The same in small: 1 CPU core, 4 minutes. Score: BENCHMARKS.md, "Sudoku".
DEMO_SUDOKU = Config(
    model=ReasonerConfig(
        hidden_size=64, heads=4, inner_multiple=32, H_cycles=2, L_cycles=3, mixing="mixer", positions="none",
    ),
    memory=MemoryConfig(tokens=1),
    optimizer=OptimizerConfig(
        kind="muon", matrix_rate=3e-3, rate=1e-3, memory_rate=1e-3, memory_decay=1.0, warmup_steps=50, ema=0.98
    ),
    train=TrainConfig(
        packs=1, pack_tokens=1088, shift_probability=0.0, segments=4, depth="thirds", checkpoint_seconds=10,
        checkpoints_kept=1000,
    ),
    predict=PredictConfig(segments=4),
)  # fmt: skip

# As trm-sudoku, with --preset trm-sudoku-attention
# The authors: 1 x L40S, less than 36 hours, 74.7% exact (arXiv 2510.04871, table 4). Here: as trm-sudoku.
TRM_SUDOKU_ATTENTION = replace(TRM_SUDOKU, model=ReasonerConfig(L_cycles=6))

# accelerate launch -m pipeline run --source maze:test.csv --train-source maze:train.csv --preset trm-maze --out DIR
# The authors: 4 x L40S, less than 24 hours, 85.3% exact on Maze-Hard (arXiv 2510.04871, table 4). Their builder makes no views
# of a maze; with the eight symmetries a reproduction fell from 85.1% to 10.1%. Here: not yet measured.
TRM_MAZE = Config(
    build=BuildConfig(augmentations=0),
    optimizer=_PUZZLE_OPTIMIZER,
    train=replace(_PUZZLE_TRAINING, pack_tokens=175_872),
)
# accelerate launch -m pipeline run --source sudoku:test.csv --train-source sudoku:train.csv --limit 1000 --preset sudoku-fast
#   --out DIR
# jvdillon/sic (arXiv 2601.19085), its code: one RTX 5090, 47 minutes, 85.5 +- 1.3% exact on Sudoku-Extreme, 4 seeds. As
# theirs: network, gate, loss, Muon (rate, scale, three steps, momentum, decay), cosine, clipping, late average, batch, views
# drawn on the fly. Not as theirs: a head without bias, float32 weights, the start of the latent.
# With `--set train.latents=4 --set train.packs=8 --set train.steps=36000` it is their training with four latents (6 hours,
# 96.9 +- 0.7%, predicted from one latent), but that theirs start in directions that the network takes alike, and that of two
# latents that have become one it drops one. In small on a CPU: BENCHMARKS.md, "Sudoku".
SUDOKU_FAST = Config(
    build=BuildConfig(augmentations=1_000_000),
    model=ReasonerConfig(mixing="mixer", positions="none", H_cycles=6, L_cycles=9, gate="normed-sigmoid"),
    memory=MemoryConfig(tokens=1),
    optimizer=OptimizerConfig(
        kind="muon", rate=1e-4, matrix_rate=0.02, matrix_scale="original", memory_rate=1e-4, weight_decay=1.0,
        matrix_decay=0.005, memory_decay=1.0, momentum=0.6, newton_schulz="muon-3", warmup_steps=0, decay_from=0.0,
        decay="cosine", clip=1.0, ema=0.9, ema_start=5000,
    ),
    train=TrainConfig(
        steps=8000, packs=4, pack_tokens=96 * (1 + 81), shift_probability=0.0, halting_weight=0.05, loss="softmax",
        label_smoothing=0.2, execution="auto",
    ),
)  # fmt: skip

# accelerate launch -m pipeline run --source maze:test.csv --train-source maze:train.csv --preset maze-fast --out DIR
# The same authors, in progress (code/maze/x07a.py and its log): of Maze-Hard 83.3% valid paths after 3,000 steps, 18 minutes of
# training on one RTX 5090, 91.2% after all 16,000, 96 minutes; in between they swing by 10 points, and exact is about 5 lower.
# As theirs: network, gate, norm within attention, loss, batch, steps, Muon head by head, constant rate, no average, no views.
# Not as theirs: they smooth without the padding token, and begin with 15 fixed random tokens, which are zero here. Here: not
# yet measured; in small on a CPU: BENCHMARKS.md, "Mazes of 11 x 11".
MAZE_FAST = Config(
    build=BuildConfig(augmentations=0),
    model=ReasonerConfig(positions="2d", gate="normed-sigmoid", attention_norm="rms", inner_multiple=128),
    optimizer=replace(
        SUDOKU_FAST.optimizer, matrix_rate=0.005, matrix_decay=0.02, heads="apart", decay_from=1.0, ema=0.0, ema_start=0
    ),
    train=replace(SUDOKU_FAST.train, steps=16_000, packs=1, pack_tokens=128 * (16 + 900)),
)

_HRM = ReasonerConfig(kind="hrm", layers=4, H_cycles=2, L_cycles=2, gradient="last-step")
_HRM_MEMORY = MemoryConfig(tokens=1)

# accelerate launch -m pipeline run --source arc1:evaluation --train-source arc1:training --train-source json:CONCEPTARC.json
#   --preset hrm-arc1 --time-limit 30h --out DIR
# The authors: 8 GPUs, about 24 hours, 40.3% pass@2 (arXiv 2506.21734), where a task counts only if all its outputs are right,
# after 414,456 of these steps. Here: not yet measured.
HRM_ARC1 = Config(
    build=TRM_ARC1.build,
    model=_HRM,
    memory=_HRM_MEMORY,
    optimizer=OptimizerConfig(ema=0.0),
    train=TrainConfig(steps=518_071, packs=8, pack_tokens=96 * 901, sampling="views", halting="q-learning"),  # 100,000 passes
)

# accelerate launch -m pipeline run --source sudoku:test.csv --train-source sudoku:train.csv --limit 1000 --preset hrm-sudoku
#   --out DIR
# The authors: 55.0% exact on Sudoku-Extreme (arXiv 2506.21734, 8 GPUs, about 10 minutes, batches of 768); this is their run
# for one laptop GPU (RTX 4070, about 10 hours), of which they give no score. They stop early: scores differ by 2 points from
# run to run, and late training can become unstable. Here: as trm-sudoku.
HRM_SUDOKU = Config(
    model=_HRM,
    memory=_HRM_MEMORY,
    optimizer=replace(_PUZZLE_OPTIMIZER, rate=7e-5, memory_rate=7e-5, ema=0.0),
    train=replace(_PUZZLE_TRAINING, steps=52_083, pack_tokens=96 * (1 + 81), halting="q-learning"),  # 20,000 passes
)

# accelerate launch -m pipeline run --source arc1:evaluation --train-source arc1:training --train-source json:CONCEPTARC.json
#   --preset urm-arc1 --time-limit 80h --out DIR
# The authors: 8 GPUs, 61.8% pass@2, 53.8% pass@1 (arXiv 2512.14693); their evaluator adds up the votes of all checkpoints, one
# in 2,000 of 200,000 passes, as that of TRM does. Not as theirs: their convolution starts with weights and biases uniform
# within 0.71, ours with weights of that deviation and biases of zero; theirs keeps its weights in bfloat16, in which steps of
# 1e-4 round away, ours in float32. Here: not yet measured.
URM_ARC1 = Config(
    build=TRM_ARC1.build,
    model=ReasonerConfig(kind="urm", layers=4, H_cycles=2, L_cycles=6, convolution=2, convolution_axes="1d"),
    memory=_HRM_MEMORY,
    train=TrainConfig(steps=1_036_142, packs=8, pack_tokens=96 * 901, sampling="views"),  # 200,000 passes
)

# The same command with --source arc2:evaluation --train-source arc2:training --preset urm-arc2
# The authors (their script for ARC-AGI-2): 8 GPUs, 18.2% pass@2, with Muon for every matrix. Here: not yet measured.
URM_ARC2 = replace(
    URM_ARC1,
    optimizer=OptimizerConfig(kind="muon", rate=1e-4, matrix_rate=1e-4, matrices="all", newton_schulz="charm-5"),
    train=replace(URM_ARC1.train, steps=1_447_828),
)

# accelerate launch -m pipeline run --source arc1:evaluation@2 --train-source arc1:training --train-source rearc:RE_ARC.zip
#   --train-source json:CONCEPTARC.json@2 --preset charm-arc1 --time-limit 80h --out DIR
# The authors (code and card, water-vapor/charm): 600 thousand steps 79.6% pass@2, 1.5 million 84.0% (arXiv 2609.33270; votes
# pooled over the last 9 or 10 checkpoints: `predict` each, then `vote`). As theirs: the memory, its residual and the gate, Muon
# for every matrix with their polynomials, rates, warm-up, shifts, weights of the sources. Not as theirs: the linear maps of the
# memory start as ours do, the code of colors has ten equal parts (of theirs one has 53 features, which Muon trains), tasks are
# drawn and not pairs, and Re-ARC's tasks have as many views as the others, not 100. Here: not yet measured.
CHARM_ARC1 = replace(
    URM_ARC1,
    build=BuildConfig(),
    memory=MemoryConfig(kind="compositional", tokens=16, used=1, start="zero", residual=32, residual_gate="memory"),
    optimizer=OptimizerConfig(
        kind="muon", rate=1e-4, matrix_rate=1e-4, matrices="all", newton_schulz="charm-5", residual_rate=1e-2, memory_rate=1e-4,
    ),
    train=TrainConfig(
        steps=600_000, packs=8, pack_tokens=96 * 916, shift_probability=0.8, checkpoints_kept=10, execution="auto"
    ),
)  # fmt: skip

# accelerate launch -m pipeline run --source arc2:evaluation@2 --train-source arc2:training --train-source rearc:RE_ARC2.zip
#   --train-source json:CONCEPTARC.json@2 --preset charm-arc2 --time-limit 120h --out DIR
# The authors: 1 million steps 38.5% pass@2, 2.3 million 46.7% (arXiv 2609.33270). Without the gate of the residual. Re-ARC2
# (water-vapor/synth-rearc) has generators of tasks of ARC-2 training, and so of nearly all of ARC-1 evaluation: the audit
# refuses it where those are scored. Here: not yet measured.
CHARM_ARC2 = replace(
    CHARM_ARC1,
    memory=replace(CHARM_ARC1.memory, residual_gate="none"),
    train=replace(CHARM_ARC1.train, steps=1_000_000),
)

PRESETS = {
    "demo": DEMO,
    "demo-sudoku": DEMO_SUDOKU,
    "arc1-cpu": ARC1_CPU,
    "fast": FAST,
    "trm-arc1": TRM_ARC1,
    "trm-arc2": TRM_ARC2,
    "trm-sudoku": TRM_SUDOKU,
    "trm-sudoku-attention": TRM_SUDOKU_ATTENTION,
    "trm-maze": TRM_MAZE,
    "sudoku-fast": SUDOKU_FAST,
    "maze-fast": MAZE_FAST,
    "hrm-arc1": HRM_ARC1,
    "hrm-sudoku": HRM_SUDOKU,
    "urm-arc1": URM_ARC1,
    "urm-arc2": URM_ARC2,
    "charm-arc1": CHARM_ARC1,
    "charm-arc2": CHARM_ARC2,
}


def preset(name: str, seed: int | None = None) -> Config:
    """Return the preset called `name`, with `seed` for training and building. Raises InputError listing the presets."""
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}; one of: {', '.join(PRESETS)}")
    return PRESETS[name] if seed is None else with_seed(PRESETS[name], seed)
