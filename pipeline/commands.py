"""What each command does: arguments in, one stage called, its result told.

Stages that need torch are imported where they are called, so that the others start at once.
"""
# ruff: noqa: PLC0415

import argparse
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from augment.task import Solutions
from eval.provenance import Scored, provenance_json, provenance_rows
from eval.score import format_score, score_predictions
from pipeline import puzzle_commands, show_commands
from pipeline.budget import Budget
from pipeline.data.audit import audit_sources
from pipeline.data.build import BuildConfig, Leakage, build
from pipeline.data.canvas_size import format_size_rules, measure_size_rules
from pipeline.data.dataset import load_dataset
from pipeline.data.puzzlestore import PuzzleStore
from pipeline.data.sources import load_source, read_solutions
from pipeline.data.store import Store
from pipeline.data.versions import scored_outputs
from pipeline.data.watch import doing
from pipeline.entry import are_puzzles, challenge_of, run_budget, selection_of
from pipeline.kaggle_commands import kaggle
from pipeline.opening import PuzzleChallenge
from pipeline.report_command import report
from pipeline.results import write_result
from pipeline.votefile import provenance_beside
from submission.duration import parse_duration
from submission.format import fallback_submission, read_submission, write_submission

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.run import Job

logger = logging.getLogger(__name__)


def _run(arguments: argparse.Namespace, started: float) -> int:
    from pipeline.run import RunPlan, run

    budget = run_budget(arguments, started)
    plan = RunPlan(_job(arguments), _config(arguments), budget, arguments.out, arguments.weights, arguments.resume)
    if budget.limit_seconds is None and not plan.config.train.steps:
        raise ValueError("a run needs an end: --time-limit, or --set train.steps=N")
    return run(plan)


def _job(arguments: argparse.Namespace) -> "Job":
    from pipeline.arc_job import ArcJob
    from pipeline.puzzle_job import PuzzleJob

    challenge, train_sources = challenge_of(arguments), tuple(arguments.train_source)
    leakage: Leakage = arguments.leakage or "drop"
    if isinstance(challenge, PuzzleChallenge):
        return PuzzleJob(challenge, train_sources, leakage, arguments.out, arguments.limit)
    return ArcJob(challenge, train_sources, leakage, arguments.out, arguments.workers)


def _build(arguments: argparse.Namespace, started: float) -> int:
    if are_puzzles(arguments):
        what = puzzle_commands.build_puzzle_dataset(arguments)
    else:
        selection = selection_of(arguments)
        sources = [selection.apply(load_source(spec)) for spec in arguments.source]
        train_sources = [load_source(spec) for spec in arguments.train_source]
        config = BuildConfig(arguments.augmentations, arguments.policy, arguments.seed, arguments.jobs)
        store = build(sources, train_sources, config, leakage=arguments.leakage or "refuse")
        store.save(arguments.out)
        tasks, pairs, tests = len(store.task_ids), len(store.pair_task), len(store.test_task)
        what = f"{tasks} tasks, {pairs} training pairs, {tests} tests, {len(store.transforms)} views"
    seconds = Budget(None, started).elapsed()
    size = sum(path.stat().st_size for path in arguments.out.iterdir())
    print(f"{arguments.out}: {what}; {size / 1e6:.1f} MB in {seconds:.1f} s")
    return 0


def _train(arguments: argparse.Namespace, started: float) -> int:
    from pipeline.checkpoint import load_weights, transplant
    from pipeline.engine import end_training, fit_config, make_accelerator
    from pipeline.reasoner.network import make_network
    from pipeline.tensorfiles import write_json
    from pipeline.train import Trainer

    store = load_dataset(arguments.data)
    config = fit_config(_config(arguments), store)
    accelerator, dtype = make_accelerator(config.train.precision)
    network = make_network(config.model, config.memory, len(store.task_ids), len(store.transforms), config.train.seed)
    if arguments.weights:
        logger.info("%s", transplant(load_weights(arguments.weights), network, store))
    arguments.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(accelerator, dtype, network, store, config, arguments.out)
    if arguments.resume:
        trainer.resume()
    elif trainer.has_checkpoint():
        raise ValueError(f"{arguments.out} holds checkpoints already: continue with --resume, or choose another --out")
    if accelerator.is_main_process:
        write_json(arguments.out / "config.json", config.to_json())
    progress = trainer.fit(_budget(arguments, started))
    if accelerator.is_main_process:
        print(f"{arguments.out}: step {progress.step}, {progress.sequences} sequences, {progress.seconds:.1f} s")
    end_training(accelerator)
    return 0


def _predict(arguments: argparse.Namespace, started: float) -> int:
    from pipeline.checkpoint import load_weights
    from pipeline.config import override
    from pipeline.engine import end_training, make_accelerator, prediction_devices
    from pipeline.predict import Predictor
    from pipeline.votes import predict_and_vote

    weights = load_weights(arguments.weights)
    for setting in arguments.set:
        if not setting.startswith(("predict.", "train.precision=")):
            raise ValueError(
                f"{setting!r}: only predict.* and train.precision can be set here, the rest is that of the weights"
            )
    views = [] if arguments.views is None else [f"predict.views={arguments.views}"]
    config = override(weights.config, [*arguments.set, *views])
    store = load_dataset(arguments.data)
    accelerator, dtype = make_accelerator(config.train.precision)
    if isinstance(store, PuzzleStore):
        puzzle_commands.predict_test_puzzles(arguments, accelerator, dtype, weights, store, config, _budget(arguments, started))
        return 0
    devices = prediction_devices(accelerator, arguments.workers)
    end_training(accelerator)
    if not accelerator.is_main_process:  # it leads, with workers of its own
        return 0
    tasks = store.tasks_to_solve()
    path = arguments.out / "submission.json"
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "votes.json").unlink(missing_ok=True)
    write_submission(path, fallback_submission(tasks), tasks)
    with Predictor(accelerator.device, dtype, weights, store, config.predict, devices) as predictor:
        ballot = predict_and_vote(predictor, arguments.out, _budget(arguments, started), tasks)
    counts = [ballot.tally(task.id, index).candidates for task in tasks for index in range(len(task.test))]
    print(f"{path}: {len(tasks)} tasks, {counts.count(0)} of {len(counts)} test inputs without a prediction")
    return 0


def _vote(arguments: argparse.Namespace, _: float) -> int:
    from pipeline.votes import tally, write_attempts

    store = Store.load(arguments.data)
    ballot = tally(arguments.candidates, store)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    filled = write_attempts(arguments.out, ballot, store.tasks_to_solve(), arguments.ranking, store)
    print(f"{arguments.out}: {len(filled.submission)} tasks, votes of {', '.join(ballot.sources)}")
    return 0


def _score(arguments: argparse.Namespace, _: float) -> int:
    if are_puzzles(arguments):
        return puzzle_commands.score_puzzle_file(arguments)
    solutions, name, scored = _solutions(arguments)
    submission = read_submission(arguments.submission, allow_missing=arguments.allow_missing)
    score = score_predictions(submission, solutions)
    provenance = provenance_beside(arguments.submission)
    if arguments.json:
        told = score.to_json() | {"provenance": provenance_json(scored, provenance)}
        write_result(arguments.json, told)
    print(format_score(score, name, provenance_rows(scored, provenance)))
    return 0


def _import_checkpoint(arguments: argparse.Namespace, _: float) -> int:
    from pipeline.published.checkpoint import import_checkpoint

    found = import_checkpoint(arguments.checkpoint, arguments.config, arguments.identifiers, arguments.out)
    print(f"{found.path}: {found.kind}, {found.tasks} tasks, {found.views} views, {found.memory_tokens} memory tokens")
    return 0


def _bench(arguments: argparse.Namespace, started: float) -> int:
    from pipeline.bench.command import run_bench

    return run_bench(arguments, started)


def _solutions(arguments: argparse.Namespace) -> tuple[Solutions, str, Scored | None]:
    if arguments.solutions:
        known = read_solutions(arguments.solutions)
        return known, str(arguments.solutions), scored_outputs(known)
    selection = selection_of(arguments)
    whole = [load_source(spec) for spec in arguments.source]
    sources = [selection.apply(source) for source in whole]
    solutions = {task_id: grids for source in sources for task_id, grids in source.solutions.items()}
    if not solutions:
        raise ValueError(f"the test outputs of {' + '.join(arguments.source)} are not known, so there is nothing to score by")
    return solutions, " + ".join(arguments.source), scored_outputs(solutions, whole, selection)


def _audit(arguments: argparse.Namespace, _: float) -> int:
    sources, trained = ([load_source(spec) for spec in specs] for specs in (arguments.source, arguments.train_source))
    with doing("comparing training pairs with scored tests"):
        found = audit_sources(sources, trained)
    for leak in found.leaks:
        print(leak)
    print(
        f"{len(found.leaks)} leaks; {found.checked} test pairs checked, {found.unchecked} not, their outputs being unknown; "
        f"{len(found.given)} demonstrations that show the answer of their own task"
    )
    return 0


def _canvas(arguments: argparse.Namespace, _: float) -> int:
    rows = measure_size_rules(load_source(spec) for spec in arguments.source)
    if not rows:
        raise ValueError(f"the test outputs of {' + '.join(arguments.source)} are not known, so nothing can be measured")
    print(format_size_rules(rows))
    return 0


def _debug(arguments: argparse.Namespace, started: float) -> int:
    from pipeline.debug import debug

    return debug(arguments, started)


def _budget(arguments: argparse.Namespace, started: float) -> Budget:
    return Budget(parse_duration(arguments.time_limit) if arguments.time_limit else None, started)


def _config(arguments: argparse.Namespace) -> "Config":
    from pipeline.config import override
    from pipeline.presets import preset

    return override(preset(arguments.preset, arguments.seed), arguments.set)


COMMANDS: Mapping[str, Callable[[argparse.Namespace, float], int]] = {
    "run": _run,
    "build": _build,
    "train": _train,
    "predict": _predict,
    "vote": _vote,
    "score": _score,
    "audit": _audit,
    "canvas": _canvas,
    "show": show_commands.show,
    "compare": show_commands.compare_runs,
    "debug": _debug,
    "curve": puzzle_commands.curve,
    "import-checkpoint": _import_checkpoint,
    "kaggle": kaggle,
    "bench": _bench,
    "report": report,
}
"""By name: (arguments, monotonic time of the start) -> exit code."""
