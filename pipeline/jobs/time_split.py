"""Division of the time limit of a run between training and prediction, by the measured speed of the machine."""

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from eval.formatting import format_duration
from pipeline.config import Config
from pipeline.data.dataset import Dataset
from pipeline.data.packs import make_pack_maker
from pipeline.device import to_batch
from pipeline.device_limits import ran_out_of_memory
from pipeline.models.network import Network
from pipeline.system.time_limit import Budget
from pipeline.training.state import count_packs
from pipeline.weights.find import has_trained, newest_checkpoint

logger = logging.getLogger(__name__)

LEAST_STEPS = 50
"""Packs are made smaller where the time does not suffice for so many steps."""
SPARE = 1.25
"""All views get so many times their measured time; where that is too little, the last rounds are cut off."""
MEASURE_SECONDS = 1.0
"""Least time of a measurement, so that other work on the machine disturbs only part of it."""


@dataclass(frozen=True)
class Speed:
    """The measured speed of one process."""

    tokens_per_second: float
    """Of one segment without gradient."""
    view_tokens: int
    """Tokens of one view of every test input."""
    learned_share: float
    """Share of the updates of a segment that training backpropagates."""

    def step_seconds(self, config: Config) -> float:
        """Estimate the seconds of a step of one pack: a backpropagated update costs two more; Q-learning runs one ahead."""
        ahead = 1 if config.train.halting == "q-learning" and config.train.segments > 1 else 0
        return (1 + 2 * self.learned_share + ahead) * config.train.pack_tokens / self.tokens_per_second


def measure_speed(network: Network, dataset: Dataset, config: Config, dtype: torch.dtype, accelerator: Accelerator) -> Speed:
    """Measure how fast `network` predicts here, on packs that grow until one takes long enough or is as large as in prediction.

    Packs may hold a test input several times: a few small ones would say how long a call takes, whatever it computes. What is
    set up once, which takes seconds on a GPU, does not count.
    """
    maker = make_pack_maker(dataset, config.train.canvas, config.memory.tokens, "tests")
    samples = maker.plain()
    tokens = maker.tokens(samples)
    total = config.predict.latents * int(tokens.sum())
    samples = samples[np.argsort(tokens, kind="stable")]
    count, speed, spent = 1, 1.0, 0.0
    while True:
        chosen = samples[np.arange(count) * len(samples) // count]
        tries = []
        try:
            batch = to_batch(maker.make(chosen[maker.order(chosen)]), maker.memory_tokens, accelerator.device)
            for _ in range(2):  # the first may pay for what is set up once
                with torch.inference_mode():
                    state, started = network.reasoner.initial_state(batch.layout.tokens, dtype), time.perf_counter()
                    network(state, batch).logits.sum().item()  # waits for the device
                tries.append(max(time.perf_counter() - started, 1e-6))
        except (RuntimeError, MemoryError) as error:
            if count == 1 or not ran_out_of_memory(error):
                raise
            break  # the speed is that of the packs that fit
        speed, spent = max(speed, batch.layout.tokens / min(tries)), spent + 2 * min(tries)
        if spent > MEASURE_SECONDS or 2 * batch.layout.tokens > config.predict.pack_tokens:
            break
        count *= 2
    return Speed(speed, total, network.reasoner.learned_share())


def fit_packs(config: Config, step: float, seconds: float) -> Config:
    """Return `config` with packs that leave time for `LEAST_STEPS` steps, or for all if these are fewer, in `seconds`.

    Now a step takes `step` seconds.
    """
    least = min(LEAST_STEPS, config.train.steps or LEAST_STEPS)
    if step * least <= seconds:
        return config
    tokens = max(1, int(config.train.pack_tokens * seconds / (step * least)))
    logger.warning("a step would take %.1f s here; packs of %d tokens, not %d", step, tokens, config.train.pack_tokens)
    return replace(config, train=replace(config.train, pack_tokens=tokens, cut_from=config.train.pack_tokens))


def split_time(config: Config, budget: Budget, out: Path, speed: Speed, processes: int, views: int) -> tuple[Config, float]:
    """Return the config with packs that fit into the time, and the seconds for training, of a run that has a limit.

    Prediction keeps `predict.time_share` of what is left, less where all `views` need less, more where not even one view of
    every test input would fit, up to half. A run that has trained keeps its packs, and predicts at once where not even a step
    of them fits.
    """
    left = budget.remaining()
    view = config.predict.segments * speed.view_tokens / (processes * speed.tokens_per_second)
    wanted = min(config.predict.time_share * left, SPARE * views * view)
    between = max(2.0, 0.003 * left)  # a checkpoint is read; training keeps time to write it
    predicting = min(max(wanted, 1.5 * view) + between, 0.5 * left)
    training = max(0.0, left - predicting)
    packs = -(-count_packs(config, processes, newest_checkpoint(out) is not None) // processes)
    step = packs * speed.step_seconds(config)
    logger.info(
        "%s left: %s for training, %.2f s a step; %s for prediction, %.2f s a view of every test input",
        format_duration(left), format_duration(training), step, format_duration(predicting), view,
    )  # fmt: skip
    if has_trained(out):
        if training < SPARE * step:
            logger.warning("no step fits into the time for training; predictions follow at once")
            return config, 0.0
        return config, training
    config = fit_packs(config, step, training)
    step = packs * speed.step_seconds(config)
    if config.train.steps * step > SPARE * training:
        logger.warning("of the %d steps of this recipe about %d fit into the time", config.train.steps, training / step)
    return config, training
