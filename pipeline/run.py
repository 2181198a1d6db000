"""The whole job under one budget: sources, dataset, training, prediction, votes, submission.json, score.

A complete fallback submission stands before torch computes anything; each round of predictions replaces it by a better one.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson
import torch
from accelerate import Accelerator
from accelerate.logging import get_logger

from augment.grid import Grid
from augment.task import Task, TaskId
from eval.score import format_score, score_predictions
from eval.vote import Ballot
from pipeline.budget import Budget, format_duration
from pipeline.candidates import clear_candidates, read_candidates
from pipeline.checkpoint import load_weights, newest_checkpoint, transplant, write_json
from pipeline.config import Config
from pipeline.data.build import Leakage, build
from pipeline.data.select import Selection
from pipeline.data.sources import Source, load_source
from pipeline.data.store import Store
from pipeline.engine import from_main, make_accelerator
from pipeline.optim import trainable
from pipeline.predict import Predictor, Speed, measure_speed
from pipeline.reasoner.network import make_network
from pipeline.train import Trainer
from pipeline.votes import count_votes, write_attempts
from submission.format import fallback_submission, read_submission, write_submission

logger = get_logger(__name__)

LEAST_STEPS = 50
"""A pack is made smaller when the time would not do for so many steps."""


@dataclass(frozen=True)
class RunPlan:
    """What `run` is asked to do."""

    sources: tuple[str, ...]
    """Tasks to be solved, in the order of the submission."""
    train_sources: tuple[str, ...]
    """Further tasks, of which everything that is known is trained on."""
    config: Config
    budget: Budget
    out: Path
    weights: Path | None = None
    resume: bool = False
    selection: Selection = field(default_factory=Selection)
    """Which tasks of `sources` to solve."""
    leakage: Leakage = "drop"
    """What to do with training pairs that equal a scored test pair: refuse, drop or allow."""


STAGE_SECONDS = 2.0
"""Least time between training and prediction: a checkpoint is written and read."""


def default_reserve(limit_seconds: float) -> float:
    """Return the seconds of a time limit that are kept free at its end: 3%, at least 5 seconds, at most 20 minutes."""
    return min(max(0.03 * limit_seconds, 5.0), 1200.0)


def run(plan: RunPlan) -> int:
    """Do the whole job; return 0, or 1 when training failed and the submission is what was possible without it.

    Raises ValueError or FileNotFoundError for bad sources, settings or folders.
    """
    main = int(os.environ.get("RANK", "0")) == 0
    config = _open_folder(plan, main)
    tasks = _challenge([plan.selection.apply(load_source(spec, with_solutions=False)) for spec in plan.sources])
    submission = plan.out / "submission.json"
    if main:
        write_submission(submission, fallback_submission(tasks), tasks)
    with _stop_at_limit(plan.budget):
        accelerator, dtype = make_accelerator(config.train.precision)
        tests, elapsed = sum(len(task.test) for task in tasks), format_duration(plan.budget.elapsed())
        logger.info(
            "%d tasks, %d test inputs; complete fallback submission: %s, after %s", len(tasks), tests, submission, elapsed
        )
        if main and not (plan.resume and (plan.out / "dataset" / "manifest.json").is_file()):
            _build(plan, config).save(plan.out / "dataset")
        accelerator.wait_for_everyone()
        store = Store.load(plan.out / "dataset")
        failed = _train(plan, config, accelerator, dtype, store)
        ballot = _predict(plan, config, accelerator, dtype, store, tasks)
        if main:
            _finish(plan, tasks, ballot)
        accelerator.wait_for_everyone()
        accelerator.end_training()
    return int(failed)


def _open_folder(plan: RunPlan, main: bool) -> Config:
    """Make the output folder; return the config of the run, that of the folder when it is resumed."""
    stored = plan.out / "config.json"
    if plan.resume and stored.is_file():
        try:
            return Config.from_json(orjson.loads(stored.read_bytes()))
        except ValueError as error:
            raise ValueError(f"{stored}: {error}") from None
    if main:
        if stored.exists() or newest_checkpoint(plan.out / "checkpoints"):
            raise ValueError(f"{plan.out} holds a run already: continue it with --resume, or choose another --out")
        plan.out.mkdir(parents=True, exist_ok=True)
    return plan.config


def _challenge(sources: Sequence[Source]) -> list[Task]:
    """Return all tasks to be solved, in order. Raises ValueError when there are none, or two of one id."""
    tasks = [task for source in sources for task in source.tasks]
    seen: set[str] = set()
    for task in tasks:
        if task.id in seen:
            raise ValueError(f"task {task.id!r} is in several of the sources to be solved; a submission has room for one")
        seen.add(task.id)
    if not tasks:
        raise ValueError("there are no tasks to be solved in these sources")
    return tasks


def _build(plan: RunPlan, config: Config) -> Store:
    """Build the dataset; the solutions are read for the audit alone and are not in it."""
    sources = [plan.selection.apply(load_source(spec)) for spec in plan.sources]
    train_sources = [load_source(spec) for spec in plan.train_sources]
    return build(sources, train_sources, config.build, leakage=plan.leakage)


def _split_time(config: Config, plan: RunPlan, speed: Speed, processes: int) -> tuple[Config, float | None]:
    """Return the config with packs that fit into the time, and the seconds for training (None without a limit).

    A resumed run keeps its packs.

    Prediction keeps `predict.time_share` of what is left, less where all its views need less, more where not even one view of
    every test input would fit, up to half.
    """
    left = plan.budget.remaining()
    if plan.budget.limit_seconds is None:
        return config, None
    view = speed.view_seconds(config.predict.segments) / processes
    wanted = min(config.predict.time_share * left, 1.3 * config.predict.views * view)
    predicting = min(max(wanted, 1.5 * view) + max(STAGE_SECONDS, 0.01 * left), 0.5 * left)
    training = max(0.0, left - predicting)
    step = speed.step_seconds(config.train.pack_tokens, config.model.H_cycles)
    logger.info(
        "%s left: %s for training, %s a step; %s for prediction, %s a view of every test input",
        format_duration(left), format_duration(training), f"{step:.2f} s", format_duration(predicting), f"{view:.2f} s",
    )  # fmt: skip
    if step * LEAST_STEPS > training and not plan.resume:
        tokens = max(1, int(config.train.pack_tokens * training / (step * LEAST_STEPS)))
        logger.warning(
            "packs of %d tokens would take %.1f s a step here; packs of %d tokens instead",
            config.train.pack_tokens,
            step,
            tokens,
        )
        config = replace(config, train=replace(config.train, pack_tokens=tokens))
    return config, training


def _train(plan: RunPlan, config: Config, accelerator: Accelerator, dtype: torch.dtype, store: Store) -> bool:
    """Train within the share of the time that prediction leaves; return whether training failed.

    What it reached by then is in the checkpoints.
    """
    network = make_network(config.model, config.memory, len(store.task_ids), len(store.transforms), config.train.seed)
    if plan.weights:
        logger.info("%s", transplant(load_weights(plan.weights), network, store))
    network = network.to(accelerator.device)
    speed = measure_speed(network, store, config, dtype, accelerator)
    config, seconds = from_main(accelerator, _split_time(config, plan, speed, accelerator.num_processes))
    if accelerator.is_main_process:
        write_json(plan.out / "config.json", config.to_json())
    trainer = Trainer(accelerator, dtype, network, store, config, plan.out)
    logger.info("training %d values, %s", trainable(network), trainer.describe())
    if plan.resume:
        trainer.resume()
    try:
        trainer.fit(plan.budget.until(seconds))
    except FloatingPointError as error:
        logger.error("training failed: %s; predicting with the last checkpoint", error)
        return True
    return False


def _predict(
    plan: RunPlan, config: Config, accelerator: Accelerator, dtype: torch.dtype, store: Store, tasks: Sequence[Task]
) -> Ballot:
    """Predict in rounds and improve the submission after each; return the votes."""
    folder = plan.out / "candidates"
    main = accelerator.is_main_process
    if main:
        clear_candidates(folder)
    accelerator.wait_for_everyone()
    if newest_checkpoint(plan.out / "checkpoints") is None:
        logger.error("there is no checkpoint to predict with; the submission holds the fallbacks")
        return Ballot("none")
    predictor = Predictor(accelerator, dtype, load_weights(plan.out), store, config.predict)
    ballot = Ballot(predictor.source)
    for done in predictor.rounds(folder, plan.budget):
        if not main:
            continue
        for path in sorted(folder.glob(f"round-{done.number:04d}-*.safetensors")):
            count_votes(ballot, read_candidates(path)[0], store)
        filled = write_attempts(plan.out / "submission.json", ballot, tasks, config.predict.ranking)
        logger.info(
            "round %d: up to %d views of each test input%s, %d candidates in %s; %d test inputs without a prediction; %s left",
            done.number, done.views, "" if done.complete else " (cut short by the clock)", done.candidates,
            format_duration(done.seconds), len(filled.without_prediction), format_duration(plan.budget.remaining()),
        )  # fmt: skip
    return ballot


def _finish(plan: RunPlan, tasks: Sequence[Task], ballot: Ballot) -> None:
    """Check the submission as Kaggle would, and score it where the solutions are known."""
    path = plan.out / "submission.json"
    submission = read_submission(path)
    logger.info("%s: complete and valid, %d tasks, after %s", path, len(submission), format_duration(plan.budget.elapsed()))
    solutions: dict[TaskId, tuple[Grid, ...]] = {}
    for spec in plan.sources:
        solutions |= plan.selection.apply(load_source(spec)).solutions
    if not solutions:
        logger.info("the test outputs are not known here, so there is no score")
        return
    score = score_predictions({task.id: submission[task.id] for task in tasks if task.id in solutions}, solutions)
    views = max((ballot.tally(task.id, i).candidates for task in tasks for i in range(len(task.test))), default=0)
    write_json(plan.out / "score.json", score.to_json() | {"sources": list(ballot.sources), "views": views})
    print(format_score(score, " + ".join(plan.sources), len(ballot.sources), views))


@contextmanager
def _stop_at_limit(budget: Budget) -> Iterator[None]:
    """End the process shortly before the limit, whatever it is doing then: the submission on disk is complete at all times."""
    if budget.limit_seconds is None:
        yield
        return

    def stop() -> None:
        logger.error("the time limit is reached; stopping at once, the submission on disk is complete")
        os._exit(1)

    timer = threading.Timer(max(0.1, budget.remaining() + 0.8 * budget.reserve_seconds), stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
