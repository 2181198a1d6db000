"""The whole job under one budget: dataset, training, prediction, result, score, report.

`pipeline.cli.main` has written a complete fallback result before; every round of predictions replaces it by a better one.
`pipeline.jobs.arc` and `pipeline.jobs.puzzles` hold what differs between tasks and puzzles.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from augment.errors import InputError
from eval.files import write_json
from eval.formatting import format_duration
from pipeline.config import CONFIG_FILE, Config, override
from pipeline.data.dataset import MANIFEST_FILE, Dataset, TaskDataset, load_dataset
from pipeline.device import (
    describe_device,
    fit_config,
    from_main,
    make_accelerator,
    unusable_gpus,
    wait_patiently,
    with_precision,
)
from pipeline.device_limits import NETWORK_TOO_LARGE, fall_back, fallbacks, free_cache, memory_suffices, ran_out_of_memory
from pipeline.jobs.arc import ArcJob
from pipeline.jobs.networks import FURTHER
from pipeline.jobs.puzzles import PuzzleJob
from pipeline.jobs.run_record import PREDICTING, Stopwatch
from pipeline.jobs.shared_weights import find_start, weights_of_main
from pipeline.jobs.time_split import measure_speed, split_time
from pipeline.system.launch import program_environment
from pipeline.system.time_limit import Budget
from pipeline.training.checkpoint import CheckpointFailed
from pipeline.training.state import count_packs, trainable
from pipeline.training.trainer import set_up_trainer
from pipeline.weights.files import FindStart, make_network_for, newest_weights
from pipeline.weights.find import CHECKPOINTS, newest_checkpoint

logger = logging.getLogger(__name__)

BUILD_SHARE = 0.1
"""Of the time: what reading further sources may take, and again what drawing views may take."""


def run(
    job: ArcJob | PuzzleJob, config: Config, budget: Budget, start_from: Path | None, resume: bool, report: bool = True
) -> int:
    """Do the whole job; return 0, or 1 when training or predictions failed. Raises InputError, FileNotFoundError for bad input.

    Of several processes only the main one, which works on to the end, returns 1.

    Training starts from the weights `start_from`, if any; with `resume`, it continues what is in the folder of the job.
    """
    out = job.out
    fallbacks.clear()  # of an earlier run in this process
    accelerator, dtype = make_accelerator(config.train.precision, config.train.standstill_seconds)
    count_packs(config, accelerator.num_processes, resume and newest_checkpoint(out) is not None)
    stopwatch = Stopwatch(out if accelerator.is_main_process else None, budget.started)
    stopwatch.lap("start", device=describe_device(accelerator))
    if accelerator.is_main_process:
        logger.info("the engine started after %s", format_duration(budget.elapsed()))
        if unusable := unusable_gpus():
            fall_back(unusable)
    whole, budget = budget, before_report(budget) if report else budget
    start = find_start(accelerator, start_from, out, resume)
    dataset = _build(job, config, budget, accelerator, resume)
    config = fit_config(config, dataset)
    stopwatch.lap("build")
    marker = out / PREDICTING
    predicting = from_main(accelerator, resume and marker.is_file())
    if predicting:
        logger.info("training had ended; going on with predictions (a further --resume trains on)")
        with _tolerating("it keeps how the run predicted before"):
            if accelerator.is_main_process:
                write_json(out / CONFIG_FILE, config.to_json())
    until_votes = job.networks.leave_time(budget) if isinstance(job, ArcJob) else budget
    try:
        failed = not predicting and _train(job, config, until_votes, start, resume, accelerator, dtype, dataset)
    finally:  # a run that is interrupted has spent the time too
        stopwatch.lap("train", **({} if predicting else {"fallbacks": tuple(dict.fromkeys(fallbacks))}))
    free_cache(accelerator.device)
    weights = weights_of_main(accelerator, newest_weights(out / CHECKPOINTS))
    if weights is None:
        logger.error("there is no checkpoint to predict with; the result stays as it is")
        failed = True
    else:
        execution = f"train.execution={config.train.execution}"  # which a resumed run may change
        weights = replace(weights, config=override(weights.config, [execution]))
        with _tolerating("a resumed run would train on, and predict from the beginning"):
            if accelerator.is_main_process and not failed:  # what failed trains on when it is resumed
                marker.touch()
    unpredicted = job.predict(accelerator, dtype, weights, dataset, config.predict, budget, predicting)
    if accelerator.is_main_process:
        with _tolerating("a resumed run would not train"):
            if not unpredicted and FURTHER not in os.environ:  # further networks have ended when all have
                for folder in (out, *(job.networks.processes if isinstance(job, ArcJob) else ())):
                    (folder / PREDICTING).unlink(missing_ok=True)
        stopwatch.lap("predict")
        if report:
            leave_report(out, whole)
    logger.info("done after %s", format_duration(budget.elapsed()))
    return int(failed or unpredicted) if accelerator.is_main_process else 0  # a launcher ends all others at the first failure


@contextmanager
def _tolerating(consequence: str) -> Iterator[None]:
    """Log an OSError of the block, and what it leads to, in place of raising it."""
    try:
        yield
    except OSError as error:
        logger.warning("%s; %s", error, consequence)


def _build(job: ArcJob | PuzzleJob, config: Config, budget: Budget, accelerator: Accelerator, resume: bool) -> Any:
    """Return the dataset of the job, of its kind; the main process builds it, unless the run that is resumed has it."""
    folder = job.out / "dataset"
    begun = resume and all(path.is_file() for path in (folder / MANIFEST_FILE, job.out / CONFIG_FILE))
    builds = accelerator.is_main_process and not begun
    if builds:
        (folder / MANIFEST_FILE).unlink(missing_ok=True)  # of an earlier run, which no resumed one may take for its own
    wait_patiently(accelerator)
    if builds:
        seconds = None if budget.limit_seconds is None else BUILD_SHARE * budget.remaining()
        built: Any = job.build(config.build, seconds)
        if isinstance(built, TaskDataset):
            built.require_pairs()
        logger.info("%s", job.describe(built))
        built.save(folder)
    wait_patiently(accelerator)  # to build may take longer than processes wait for each other elsewhere
    try:
        dataset: Any = load_dataset(folder)
    except InputError as error:
        if not resume:
            raise
        raise InputError(f"{error}; without {folder}, --resume builds it again") from None
    if accelerator.is_main_process and not builds:
        job.check(dataset, folder)
    return dataset


def _train(
    job: ArcJob | PuzzleJob, config: Config, budget: Budget, start: FindStart, resume: bool, accelerator: Accelerator,
    dtype: torch.dtype, dataset: Dataset,
) -> bool:  # fmt: skip
    """Train within the share of the time that prediction leaves; return whether training failed.

    The checkpoints hold what it reached by then. Failure of one process among several ends the run: the others cannot continue.
    """
    with memory_suffices(NETWORK_TOO_LARGE):
        network = make_network_for(config, dataset).to(accelerator.device)
    config = with_precision(config, dtype)  # a resumed run computes alike
    seconds: float | None = None
    if budget.limit_seconds is not None:  # without a limit, only the settings decide what is done
        speed = measure_speed(network, dataset, config, dtype, accelerator)
        views = 1  # a puzzle is predicted once, as it is
        if isinstance(dataset, TaskDataset):
            views = max(dataset.test_views(config.predict.views).values(), default=0)
        split = split_time(config, budget, job.out, speed, accelerator.num_processes, views)
        config, seconds = from_main(accelerator, split)
    training = Budget.lasting(seconds)  # from here: making the trainer counts as training
    if accelerator.is_main_process:
        logger.info("training %d values, %s on %s", trainable(network), config.train.precision, describe_device(accelerator))
    trainer = set_up_trainer(accelerator, dtype, network, dataset, config, job.out, resume, start)
    single = accelerator.num_processes == 1
    in_every_process = (FloatingPointError, CheckpointFailed)  # of several processes, all or none raise these
    handled = (Exception,) if single else in_every_process
    try:
        trainer.fit(training)
        if trainer.memory_retries:
            message = "%d steps were repeated because memory ran out; packs in %d micro-batches"
            logger.info(message, trainer.memory_retries, trainer.pieces)
    except handled as error:
        known = isinstance(error, (FloatingPointError, OSError)) or ran_out_of_memory(error)
        predicting = "; predicting with the last checkpoint" if newest_checkpoint(job.out) else ""
        logger.error("training failed: %s%s", error, predicting, exc_info=None if known else error)
        return True
    finally:
        accelerator.free_memory()
    return False


LEAST_SECONDS = 2.0
"""A report of 400 tasks takes about this long; with less time left, none is written."""
REPORT_SHARE = 0.3
"""Share of the reserve that a report may take; the end of the run takes time too."""


def before_report(budget: Budget) -> Budget:
    """Return what of `budget` there is until the report: it takes about as long as the program took to start, until now."""
    if budget.limit_seconds is None:
        return budget
    seconds = min(max(LEAST_SECONDS, budget.elapsed()), 0.05 * budget.limit_seconds)
    return replace(budget, reserve_seconds=budget.reserve_seconds + seconds)


def leave_report(folder: Path, budget: Budget) -> None:
    """Write the report at the end of a run, in a process of its own and within the time; a failure is one line of the log."""
    seconds = None if budget.limit_seconds is None else budget.remaining() + REPORT_SHARE * budget.reserve_seconds
    again = f"`python -m pipeline report {folder}` makes it"
    if seconds is not None and seconds < LEAST_SECONDS:
        logger.warning("no time left for a report; %s", again)
        return
    command = [sys.executable, "-m", "pipeline", "report", str(folder)]
    try:
        done = subprocess.run(command, env=program_environment(), capture_output=True, text=True, timeout=seconds, check=True)
        logger.info("%s", done.stdout.strip())
    except subprocess.TimeoutExpired:
        logger.warning("the report was not ready in time; %s", again)
    except subprocess.CalledProcessError as error:
        logger.warning("no report: %s", (error.stderr.strip().splitlines() or ["no message"])[-1])
    except OSError as error:
        logger.warning("no report: %s", error)
