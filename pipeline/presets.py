"""Presets: named configs, each headed by its command, the device and time it is meant for, and the score it reached."""

from dataclasses import replace

from pipeline.config import Config, PredictConfig, TrainConfig
from pipeline.data.build import BuildConfig
from pipeline.optim import OptimizerConfig
from pipeline.reasoner.memory import MemoryConfig
from pipeline.reasoner.trm import ReasonerConfig

# python -m pipeline run --source arc1:training --source arc1:evaluation --max-side 6 --preset demo --time-limit 10m
#   --processes 2 --out runs/demo-0 (make demo)
# 2 CPU cores, 10 minutes. Score: BENCHMARKS.md, "The demo".
DEMO = Config(
    build=BuildConfig(augmentations=1000, policy="keep-output-only"),
    model=ReasonerConfig(
        hidden_size=128, heads=4, expansion=4.0, inner_multiple=128, layers=2, H_cycles=2, L_cycles=2, states=1, positions="2d",
        convolution=3,
    ),
    memory=MemoryConfig(kind="compositional", tokens=1),
    optimizer=OptimizerConfig(
        kind="muon", matrix_rate=3e-3, rate=1e-3, memory_rate=3e-3, weight_decay=1.0, memory_decay=0.1, beta2=0.99,
        warmup_steps=100, decay_from=0.3, ema=0.99,
    ),
    train=TrainConfig(
        packs=2, pack_tokens=640, canvas="fitted", shift_probability=0.0, segments=1, loss="softmax", checkpoint_seconds=120,
    ),
    predict=PredictConfig(views=128, round_views=8, pack_tokens=16_384, segments=1, time_share=0.1),
)  # fmt: skip

# accelerate launch -m pipeline run --source arc1:evaluation --train-source arc1:training --train-source json:CONCEPTARC.json
#   --preset trm-arc1 --time-limit 80h --out DIR
# The authors: 4 x H100, about 72 hours, 44.6% pass@2 (arXiv 2510.04871, table 5). Here: not yet measured.
TRM_ARC1 = Config(train=TrainConfig(packs=4, pack_tokens=175_872))

# The same command with --source arc2:evaluation --train-source arc2:training --preset trm-arc2
# The authors: 4 x H100, about 72 hours, 7.8% pass@2 (arXiv 2510.04871, table 5). Here: not yet measured.
TRM_ARC2 = TRM_ARC1

# accelerate launch -m pipeline run --source arc1:evaluation --train-source arc1:training --preset fast --time-limit 30m
#   --out DIR
# Meant for one H100: one state of 4 layers on fitted canvases, 6 steps of which 3 with gradient. Not yet measured.
FAST = Config(
    build=BuildConfig(augmentations=1000, policy="keep-output-only"),
    model=ReasonerConfig(layers=4, H_cycles=2, L_cycles=3, states=1, positions="2d", convolution=3),
    memory=MemoryConfig(kind="compositional", tokens=1),
    optimizer=OptimizerConfig(
        kind="muon", rate=3e-4, matrix_rate=1e-3, memory_rate=3e-3, warmup_steps=200, decay_from=0.7, ema=0.999
    ),
    train=TrainConfig(packs=4, pack_tokens=16_384, canvas="fitted", shift_probability=0.0, segments=1, loss="softmax"),
    predict=PredictConfig(views=256, round_views=16, segments=1, time_share=0.1),
)

PRESETS = {"demo": DEMO, "fast": FAST, "trm-arc1": TRM_ARC1, "trm-arc2": TRM_ARC2}


def preset(name: str, seed: int | None = None) -> Config:
    """Return the preset called `name`, with `seed` for training and building. Raises ValueError listing the presets."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; one of: {', '.join(PRESETS)}")
    config = PRESETS[name]
    if seed is None:
        return config
    return replace(config, train=replace(config.train, seed=seed), build=replace(config.build, seed=seed))
