"""The whole job under one budget: dataset, training, prediction, votes, submission.json, score.

Comes after the opening, which has left a complete fallback submission; each round of predictions replaces it by a better one.
"""

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import torch
from accelerate import Accelerator

from augment.grid import Grid, grid_key
from augment.task import Task, TaskId
from eval.score import format_score, score_predictions
from eval.vote import Ballot
from pipeline.budget import Budget, format_duration
from pipeline.checkpoint import load_weights, newest_checkpoint, transplant, write_json
from pipeline.config import Config, override
from pipeline.data.build import Leakage, build
from pipeline.data.sources import load_source
from pipeline.data.store import Store
from pipeline.engine import from_main, make_accelerator
from pipeline.opening import Challenge
from pipeline.optim import trainable
from pipeline.predict import Predictor, Speed, measure_speed
from pipeline.reasoner.network import make_network
from pipeline.train import Trainer
from pipeline.votes import predict_and_vote
from submission.format import check_submission, read_submission

logger = logging.getLogger(__name__)

LEAST_STEPS = 50
"""A pack is made smaller when the time would not do for so many steps."""
STAGE_SECONDS = 2.0
"""Least time between training and prediction: a checkpoint is written and read."""


@dataclass(frozen=True)
class RunPlan:
    """What `run` is asked to do."""

    challenge: Challenge
    train_sources: tuple[str, ...]
    """Further tasks, of which everything that is known is trained on."""
    config: Config
    budget: Budget
    out: Path
    weights: Path | None = None
    resume: bool = False
    leakage: Leakage = "drop"
    """What to do with training pairs that equal a scored test pair: refuse, drop or allow."""


def default_reserve(limit_seconds: float) -> float:
    """Return the seconds of a time limit that are kept free at its end: 3%, at least 5 seconds, at most 20 minutes."""
    return min(max(0.03 * limit_seconds, 5.0), 1200.0)


def run(plan: RunPlan) -> int:
    """Do the whole job; return 0, or 1 when training failed and the submission is what was possible without it.

    Raises ValueError or FileNotFoundError for bad sources, settings or folders.
    """
    with _stop_at_limit(plan.budget):
        config = _stored_config(plan)
        tasks = plan.challenge.tasks()
        accelerator, dtype = make_accelerator(config.train.precision)
        main = accelerator.is_main_process
        if main:
            elapsed = format_duration(plan.budget.elapsed())
            logger.info(
                "%d tasks to solve, %d test inputs; after %s", len(tasks), sum(len(task.test) for task in tasks), elapsed
            )
            if not (plan.resume and (plan.out / "dataset" / "manifest.json").is_file()):
                _build(plan, config).save(plan.out / "dataset")
        accelerator.wait_for_everyone()
        store = Store.load(plan.out / "dataset")
        _check_tests(plan.out / "dataset", store, tasks)
        failed = _train(plan, config, accelerator, dtype, store)
        ballot = _predict(plan, config, accelerator, dtype, store, tasks)
        if main:
            _finish(plan, tasks, ballot)
        accelerator.wait_for_everyone()
        accelerator.end_training()
    return int(failed)


def _stored_config(plan: RunPlan) -> Config:
    """Return the config of the run, that of its folder when it is resumed. Raises ValueError for a damaged one."""
    stored = plan.out / "config.json"
    if not (plan.resume and stored.is_file()):
        return plan.config
    try:
        return Config.from_json(orjson.loads(stored.read_bytes()))
    except ValueError as error:
        raise ValueError(f"{stored}: {error}") from None


def _build(plan: RunPlan, config: Config) -> Store:
    """Build the dataset; the solutions are read for the audit alone and are not in it."""
    train_sources = [load_source(spec) for spec in plan.train_sources]
    store = build(plan.challenge.load(with_solutions=True), train_sources, config.build, leakage=plan.leakage)
    logger.info("%d training pairs, %d views of %d tasks", len(store.pair_task), len(store.transforms), len(store.task_ids))
    return store


def _check_tests(folder: Path, store: Store, tasks: Sequence[Task]) -> None:
    """Raise ValueError when a resumed run has a dataset for other tests than those it is asked to solve."""
    stored = {task.id: [grid_key(grid) for grid in task.test] for task in store.tasks_to_solve()}
    if stored != {task.id: [grid_key(grid) for grid in task.test] for task in tasks}:
        raise ValueError(f"{folder}: a dataset for other tests than those of the sources; resume with the sources of the run")


def _train(plan: RunPlan, config: Config, accelerator: Accelerator, dtype: torch.dtype, store: Store) -> bool:
    """Train within the share of the time that prediction leaves; return whether training failed.

    What it reached by then is in the checkpoints. Failures of one process among several end the run: the others cannot go on.
    """
    network = make_network(config.model, config.memory, len(store.task_ids), len(store.transforms), config.train.seed)
    if plan.weights:
        logger.info("%s", transplant(load_weights(plan.weights), network, store))
    network = network.to(accelerator.device)
    config = override(config, [f"train.precision={str(dtype).removeprefix('torch.')}"])  # a resumed run computes alike
    speed = measure_speed(network, store, config, dtype, accelerator)
    config, seconds = from_main(accelerator, _split_time(config, plan, speed, accelerator.num_processes))
    trainer = Trainer(accelerator, dtype, network, store, config, plan.out)
    if accelerator.is_main_process:
        write_json(plan.out / "config.json", config.to_json())
        logger.info("training %d values, %s", trainable(network), trainer.describe())
    if plan.resume:
        trainer.resume()
    failures = (FloatingPointError,) if accelerator.num_processes > 1 else (FloatingPointError, RuntimeError, OSError)
    try:
        trainer.fit(plan.budget.until(seconds))
    except failures:
        logger.exception("training failed; predicting with the last checkpoint")
        return True
    finally:
        accelerator.free_memory()
    return False


def _split_time(config: Config, plan: RunPlan, speed: Speed, processes: int) -> tuple[Config, float | None]:
    """Return the config with packs that fit into the time, and the seconds for training (None without a limit).

    Prediction keeps `predict.time_share` of what is left, less where all its views need less, more where not even one view of
    every test input would fit, up to half. A run that has checkpoints keeps its packs.
    """
    left = plan.budget.remaining()
    if plan.budget.limit_seconds is None:
        return config, None
    view = speed.view_seconds(config.predict.segments) / processes
    wanted = min(config.predict.time_share * left, 1.3 * config.predict.views * view)
    predicting = min(max(wanted, 1.5 * view) + max(STAGE_SECONDS, 0.01 * left), 0.5 * left)
    training = max(0.0, left - predicting)
    packs = max(1, config.train.packs // processes)
    step = packs * speed.step_seconds(config.train.pack_tokens, config.model.H_cycles)
    logger.info(
        "%s left: %s for training, %.2f s a step; %s for prediction, %.2f s a view of every test input",
        format_duration(left), format_duration(training), step, format_duration(predicting), view,
    )  # fmt: skip
    if step * LEAST_STEPS > training and newest_checkpoint(plan.out / "checkpoints") is None:
        tokens = max(1, int(config.train.pack_tokens * training / (step * LEAST_STEPS)))
        logger.warning("a step would take %.1f s here; packs of %d tokens, not %d", step, tokens, config.train.pack_tokens)
        config = replace(config, train=replace(config.train, pack_tokens=tokens))
    return config, training


def _predict(
    plan: RunPlan, config: Config, accelerator: Accelerator, dtype: torch.dtype, store: Store, tasks: Sequence[Task]
) -> Ballot:
    """Predict in rounds and improve the submission after each; return the votes."""
    if newest_checkpoint(plan.out / "checkpoints") is None:
        logger.error("there is no checkpoint to predict with; the submission stays as it is")
        return Ballot("none")
    predictor = Predictor(accelerator, dtype, load_weights(plan.out), store, config.predict)
    return predict_and_vote(predictor, plan.out, plan.budget, tasks)


def _finish(plan: RunPlan, tasks: Sequence[Task], ballot: Ballot) -> None:
    """Check the submission as Kaggle would, and score it where the solutions are known."""
    path = plan.out / "submission.json"
    check_submission(path, tasks)
    logger.info("%s: complete and valid, %d tasks, after %s", path, len(tasks), format_duration(plan.budget.elapsed()))
    solutions: dict[TaskId, tuple[Grid, ...]] = {}
    for source in plan.challenge.load(with_solutions=True):
        solutions |= source.solutions
    if not solutions:
        logger.info("the test outputs are not known here, so there is no score")
        return
    submission = read_submission(path)
    score = score_predictions({task.id: submission[task.id] for task in tasks if task.id in solutions}, solutions)
    views = max((ballot.tally(task.id, i).candidates for task in tasks for i in range(len(task.test))), default=0)
    write_json(plan.out / "score.json", score.to_json() | {"sources": list(ballot.sources), "views": views})
    print(format_score(score, " + ".join(plan.challenge.sources), len(ballot.sources), views))


@contextmanager
def _stop_at_limit(budget: Budget) -> Iterator[None]:
    """End the process shortly before the limit, whatever it is doing then: the submission on disk is complete at all times."""
    if budget.limit_seconds is None:
        yield
        return

    def stop() -> None:
        try:
            logger.error("the time limit is reached; stopping at once, the submission on disk is complete")
        finally:
            os._exit(1)

    timer = threading.Timer(max(0.1, budget.remaining() + 0.8 * budget.reserve_seconds), stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
