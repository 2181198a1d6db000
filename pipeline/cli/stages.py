"""The commands `run`, `build`, `train`, `predict` and `vote`. Handlers import torch, so that other commands start at once."""

import argparse
import logging
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from augment.errors import InputError
from eval.compare import describe_change
from eval.formatting import show_path
from eval.vote import Ballot
from pipeline.cli.options import (
    WEIGHTS_HELP,
    add_command,
    add_config,
    add_processes,
    add_settings,
    add_sources,
    add_weights,
    are_puzzles,
    budget_of,
    config_of,
)
from pipeline.config import (
    CONFIG_FILE,
    BuildConfig,
    Config,
    Leakage,
    keep_precision,
    override,
    read_config,
    require_end,
    resumed,
    setting_name,
    with_seed,
    with_usual_packs,
)
from pipeline.data.build import built_with
from pipeline.data.dataset import PuzzleDataset, TaskDataset, load_dataset
from pipeline.data.puzzles.kinds import PUZZLE_KINDS
from pipeline.data.sources import Selection, Source, load_source
from pipeline.inference.facts import CANDIDATES
from pipeline.jobs.arc import ArcJob, leave_submission
from pipeline.jobs.networks import candidates_of, end_with_run, further_networks
from pipeline.jobs.puzzles import PuzzleJob, leave_questions, predict_rounds
from pipeline.jobs.run_record import record_if_usable, require_own_folder
from pipeline.presets import preset
from pipeline.reports.run_folder import known_tasks, public_sources
from pipeline.system.progress_bar import is_main_process
from pipeline.weights.find import has_trained
from submission.format import fill_submission

logger = logging.getLogger(__name__)


def add_run(commands: Any) -> None:
    summary = "the whole job: build, train, predict, vote, submission.json, score"
    example = "--source arc1:training --source arc1:evaluation --max-side 6 --preset demo --time-limit 10m --out runs/first"
    parser = add_command(commands, run_command, "run", summary, example)
    add_sources(parser)
    add_config(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="run directory")
    limit = "for everything, from the start of the program: 90s, 25m, 11h30m"
    parser.add_argument("--time-limit", metavar="DURATION", help=limit)
    parser.add_argument("--reserve", metavar="DURATION", help="kept free at the end (default: 1%% of the limit, 5s to 10m)")
    add_weights(parser)
    continued = "continue the run in DIR, with its preset, weights, seed, networks, tasks to train on and settings"
    parser.add_argument("--resume", action="store_true", help=continued)
    add_processes(parser)
    pooled = "train N networks with different seeds side by side, and pool their votes (ARC tasks only; default: 1)"
    parser.add_argument("--networks", type=int, metavar="N", help=pooled)
    parser.add_argument("--no-report", action="store_true", help="leave out report.html; the command report makes it")


def run_command(arguments: argparse.Namespace, started: float) -> int:
    """Do the whole job, with further networks beside it; return its exit code."""
    budget = budget_of(arguments, started)
    job, weights, words = job_of(arguments, "drop"), arguments.weights, list(arguments.words)
    record = record_if_usable(arguments.out) if arguments.resume else None
    if not arguments.begun:
        config = config_of(arguments)
    else:
        stored, trained = read_config(arguments.out / CONFIG_FILE), has_trained(arguments.out)
        config, refused = resumed(stored if trained else with_usual_packs(stored), arguments.set)
        if refused:
            logger.warning("%s: the run that is resumed has other settings, and keeps them", " ".join(refused))
        if trained and config.train.cut_from and is_main_process():
            message = "packs of %d tokens, not %d, since the run began with little time; another --out begins anew"
            logger.warning(message, config.train.pack_tokens, config.train.cut_from)
        weights = Path(record.weights) if record and record.weights else None
    for setting in record.settings if record else ():
        words += ["--set", setting]  # for a further network that has not begun
    require_end(config, budget.limit_seconds)
    end_with_run()
    seeds = config.train.seed, config.build.seed
    with further_networks(arguments.networks, *seeds, words, arguments.out, budget) as networks:
        from pipeline.run import run

        if isinstance(job, ArcJob):
            job = replace(job, networks=networks)
        return run(job, config, budget, weights, arguments.resume, report=not arguments.no_report)


def job_of(arguments: argparse.Namespace, leakage: Leakage) -> ArcJob | PuzzleJob:
    """Return what a run, or a build, is about; `leakage` is the command's default. Raises InputError like `are_puzzles`."""
    sources, train_sources, leakage = tuple(arguments.source), tuple(arguments.train_source), arguments.leakage or leakage
    if are_puzzles(arguments):
        return PuzzleJob(sources, arguments.test_limit, train_sources, arguments.limit, leakage, arguments.out)
    selection = Selection(arguments.max_side, arguments.hold_out)
    return ArcJob(sources, selection, train_sources, leakage, arguments.out)


def add_build(commands: Any) -> None:
    example = "--source arc1:evaluation --train-source arc1:training --leakage drop --preset fast --out data/arc1"
    parser = add_command(commands, build_command, "build", "sources to a compact dataset", example)
    add_sources(parser, required=False)
    parser.add_argument("--preset", metavar="P", help="build as this preset does; what is given besides replaces its settings")
    views = "transforms of a task besides the identity (default: 1000)"
    parser.add_argument("--augmentations", type=int, metavar="N", help=views)
    policy = "keep-output-only: colors that occur only in outputs stay as they are (default: all)"
    parser.add_argument("--policy", choices=("all", "keep-output-only"), help=policy)
    size = "draw pairs in proportion to the cells of their canvas to the power of -X (default: 0, all alike)"
    drawn = "tasks: every task equally often (the default); pairs: every training pair; times the weight of the source"
    parser.add_argument("--draw", choices=("tasks", "pairs"), help=drawn)
    parser.add_argument("--size-exponent", type=float, metavar="X", help=size)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--jobs", type=int, help="processes (default: as many as there are cores)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")


def build_command(arguments: argparse.Namespace, started: float) -> int:
    """Build a dataset and print what it holds; without tasks to solve it is for weights that others start from."""
    if not arguments.source and (not arguments.train_source or are_puzzles(arguments)):
        raise InputError("--source is required, unless --train-source names ARC tasks that are only trained on")
    job = job_of(arguments, "refuse")
    given = {field.name: getattr(arguments, field.name) for field in fields(BuildConfig)}
    usual = preset(arguments.preset).build if arguments.preset else BuildConfig()
    config = replace(usual, **{name: value for name, value in given.items() if value is not None})
    dataset: Any = job.build(config)
    dataset.save(arguments.out)
    size = sum(path.stat().st_size for path in arguments.out.iterdir())
    seconds = time.monotonic() - started
    print(f"{arguments.out}: {job.describe(dataset)}; {size / 1e6:.1f} MB in {seconds:.1f} s")
    return 0


def add_train(commands: Any) -> None:
    example = "--data data/arc1 --preset fast --time-limit 8h --out runs/fast --resume"
    parser = add_command(commands, train_command, "train", "train a network on a dataset", example, sources="")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a dataset made by build")
    add_config(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--time-limit", metavar="DURATION", help="of training; the last checkpoint is started before it ends")
    add_weights(parser)
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint in DIR, if there is one")
    add_processes(parser)


def train_command(arguments: argparse.Namespace, started: float) -> int:
    """Train on a dataset until the last step or the end of the time."""
    from pipeline.device import end_training, fit_config, make_accelerator, with_precision
    from pipeline.device_limits import NETWORK_TOO_LARGE, memory_suffices
    from pipeline.jobs.shared_weights import find_start
    from pipeline.training.trainer import set_up_trainer
    from pipeline.weights.files import make_network_for

    out, budget = arguments.out, budget_of(arguments, started)
    if arguments.begun:
        stored = read_config(out / CONFIG_FILE)
        given = config_of(arguments) if arguments.preset else override(stored, arguments.set)
        if arguments.seed is not None:
            given = with_seed(given, arguments.seed)
        config = keep_precision(given, stored)
    else:
        config = config_of(arguments)
    require_end(config, budget.limit_seconds)
    dataset = load_dataset(arguments.data)
    config = fit_config(_as_built(config, dataset), dataset)
    accelerator, dtype = make_accelerator(config.train.precision, config.train.standstill_seconds)
    config = with_precision(config, dtype)
    start = find_start(accelerator, arguments.weights, out, arguments.resume)
    with memory_suffices(NETWORK_TOO_LARGE):
        network = make_network_for(config, dataset)
    trainer = set_up_trainer(accelerator, dtype, network, dataset, config, out, arguments.resume, start)
    progress = trainer.fit(budget)
    if accelerator.is_main_process:
        print(f"{out}: step {progress.step}, {progress.sequences} sequences, {progress.seconds:.1f} s")
    end_training(accelerator)
    return 0


def _as_built(config: Config, dataset: TaskDataset | PuzzleDataset) -> Config:
    """Return `config` with the settings that `dataset` was built with; where others were given, the log says so."""
    names: tuple[str, ...] = ("augmentations", "policy", "draw", "size_exponent")
    if isinstance(dataset, PuzzleDataset):
        most = PUZZLE_KINDS[dataset.kind].most_views
        wanted = config.build.augmentations if most is None else min(config.build.augmentations, most)
        views = config.build.augmentations if wanted == dataset.augmentations else dataset.augmentations
        built: BuildConfig | None = replace(config.build, augmentations=views, seed=dataset.seed)
    else:
        built = built_with(dataset)
    if built is None:
        return config
    differs = [f"build.{name}={getattr(built, name)}" for name in names if getattr(built, name) != getattr(config.build, name)]
    if differs:
        logger.warning("the dataset was built with %s, and keeps that; the settings say otherwise", ", ".join(differs))
    return replace(config, build=built)


def add_predict(commands: Any) -> None:
    summary = "predict the test inputs of a dataset, vote, write submission.json"
    example = "--data data/arc1 --weights runs/fast --views 256 --out runs/fast-256"
    parser = add_command(commands, predict_command, "predict", summary, example, sources="")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a dataset made by build")
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE", help=WEIGHTS_HELP)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--views", type=int, metavar="N", help="most views of a test input")
    parser.add_argument("--time-limit", metavar="DURATION", help="of prediction; it cuts the last round short")
    parser.add_argument("--resume", action="store_true", help="keep the complete rounds of ARC predictions in DIR and go on")
    add_processes(parser)
    add_settings(parser, "override predict.FIELD, train.precision or train.execution of the weights")


def predict_command(arguments: argparse.Namespace, started: float) -> int:
    """Predict the tests of a dataset, in rounds; a complete result is there before the first."""
    from pipeline.device import end_training, make_accelerator, precision_here
    from pipeline.inference.predictor import Predictor, predict_and_vote
    from pipeline.jobs.shared_weights import weights_of_main
    from pipeline.weights.files import load_weights, require_canvas

    weights, out, budget = load_weights(arguments.weights), arguments.out, budget_of(arguments, started)
    names = {setting: setting_name(setting) for setting in arguments.set}
    for setting, name in names.items():
        if not name.startswith("predict.") and name not in ("train.precision", "train.execution"):
            allowed = "predict.*, train.precision and train.execution"
            raise InputError(f"{setting!r}: only {allowed} can be set here; the weights fix the rest")
    views = [] if arguments.views is None else [f"predict.views={arguments.views}"]
    config = override(weights.config, [*arguments.set, *views])
    if "train.precision" not in names.values():
        config = override(config, [f"train.precision={precision_here(config.train.precision)}"])
    dataset = load_dataset(arguments.data)
    require_canvas(weights, dataset)  # before an earlier result is replaced
    built, own = built_with(dataset), config.memory.kind == "table" or weights.data_hash == dataset.data_hash
    if built and built.policy == "all" and config.build.policy != "all" and not own:
        logger.warning(
            "the dataset permutes all colors; these weights were trained with build --policy %s", config.build.policy
        )
    if isinstance(dataset, PuzzleDataset) and views:
        raise InputError("--views is for ARC tasks only: puzzles are predicted once, as they are")
    if not len(dataset.test_questions if isinstance(dataset, PuzzleDataset) else dataset.test_task):
        raise InputError(f"{arguments.data}: a dataset without tests, to train on only; build it with --source")
    accelerator, dtype = make_accelerator(config.train.precision, config.train.standstill_seconds)
    weights = replace(weights_of_main(accelerator, weights) or weights, config=config)
    if isinstance(dataset, PuzzleDataset):
        path = out / "predictions.csv"
        if accelerator.is_main_process:
            leave_questions(PUZZLE_KINDS[dataset.kind].to_texts(dataset.test_questions), out, arguments.resume)
        found = predict_rounds(accelerator, dtype, weights, dataset, config.predict, budget, path)
        done = f"{int(found.predicted.sum())} of {len(found.predicted)} puzzles predicted by {found.source}" if found else ""
    else:
        path, tasks = out / "submission.json", dataset.tasks_to_solve()
        if accelerator.is_main_process:
            leave_submission(tasks, out, arguments.resume)
        predictor = Predictor(accelerator, dtype, weights, dataset, config.predict)
        ballot = predict_and_vote(predictor, out, budget, tasks, arguments.resume)
        counts = [ballot.tally(task.id, index).distinct for task in tasks for index in range(len(task.test))]
        done = f"{len(tasks)} tasks, {counts.count(0)} of {len(counts)} test inputs without a prediction"
    end_training(accelerator)
    if accelerator.is_main_process and done:
        print(f"{path}: {done}")
    return 0


JUDGING: dict[str, Any] = {"judge_weight": 0.25, "judge_views": 8, "judge_candidates": 8}
"""The defaults of what says how judges judge."""


def add_vote(commands: Any) -> None:
    example = "--data data/arc1 --candidates runs/a runs/b --out pooled/submission.json"
    summary = "pool the candidates of several predictions into one submission"
    parser = add_command(commands, vote_command, "vote", summary, example, sources="")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the dataset that was predicted")
    whose = "runs, of which all networks count, or folders of candidates"
    parser.add_argument("--candidates", type=Path, nargs="+", required=True, metavar="DIR", help=whose)
    judging = parser.add_argument_group(
        "judges", "networks of another kind, which say how likely they find the best candidates"
    )
    judging.add_argument("--judge", type=Path, nargs="+", default=[], metavar="WEIGHTS", help="weights, or folders with them")
    judging.add_argument(
        "--judge-weight", type=float, metavar="W", help="of judges: 0 votes only, 1 judges only (default: 0.25)"
    )
    judging.add_argument("--judge-views", type=int, metavar="N", help="of a test input for each judge (default: 8)")
    judging.add_argument("--judge-candidates", type=int, metavar="N", help="of a test input (default: 8)")
    truth = "where the solutions are, to say what each prediction adds to the score (default: the dataset's public sources)"
    parser.add_argument("--source", action="append", metavar="S", help=truth)
    parser.add_argument("--out", type=Path, required=True, metavar="SUBMISSION.json")


def vote_command(arguments: argparse.Namespace, _: float) -> int:
    """Pool candidates into a submission, and print what each prediction adds to the score."""
    from pipeline.inference.candidates import tally
    from pipeline.inference.facts import write_attempts

    require_own_folder(arguments.out)
    if _judging(arguments) and not arguments.judge:
        raise InputError("--judge-weight, --judge-views and --judge-candidates require --judge WEIGHTS")
    dataset = TaskDataset.load(arguments.data)
    folders: list[Path] = []
    for given in arguments.candidates:
        folders += candidates_of(given) or [given]
        if given.name == CANDIDATES and len(further := candidates_of(given.parent)) > 1:
            logger.warning("%s has %d networks, and these are the votes of one: name the run", given.parent, len(further))
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError("--candidates: a folder is named twice, and its votes would count twice")
    tasks, votes = dataset.tasks_to_solve(), tally(folders, dataset)
    ballot = _judge(votes, dataset, arguments) if arguments.judge else votes
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    pooled = write_attempts(arguments.out, ballot, tasks, dataset).submission
    judges = f", judged by {', '.join(ballot.judging.names)}" if ballot.judging else ""
    print(f"{arguments.out}: {len(pooled)} tasks, votes of {', '.join(ballot.sources)}{judges}")
    left_out = ["the judges"] if arguments.judge else folders if len(folders) > 1 else []
    sources: list[Source] = []
    try:
        sources = [load_source(spec) for spec in (arguments.source or public_sources(dataset))] if left_out else []
    except (InputError, FileNotFoundError) as error:
        logger.warning("no score: %s", error)
    stored = {task.id: task for task in tasks}
    known = {each.task.id: each.truth for each in known_tasks(stored, stored, sources) if each.truth}
    for one in left_out:  # one ballot at a time: each may take hundreds of megabytes
        rest = votes if arguments.judge else tally([folder for folder in folders if folder != one], dataset)
        without = fill_submission(tasks, rest.predictions(tasks)).submission
        print(f"without {show_path(one)}: {describe_change(pooled, without, known)}")
    return 0


def _judging(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the arguments say of how judges judge."""
    return {name: value for name in JUDGING if (value := getattr(arguments, name)) is not None}


def _judge(ballot: Ballot, dataset: TaskDataset, arguments: argparse.Namespace) -> Ballot:
    """Return `ballot` judged by the networks that the arguments name."""
    from pipeline.inference.judge import judge_ballot
    from pipeline.weights.files import load_weights

    weight, views, candidates = {**JUDGING, **_judging(arguments)}.values()
    for option, value in (("--judge-views", views), ("--judge-candidates", candidates)):
        if value < 1:
            raise InputError(f"{option} must be at least 1, got {value}")
    if not 0 <= weight <= 1:
        raise InputError(f"--judge-weight must be in 0..1, got {weight:g}")
    return judge_ballot(ballot, [load_weights(path) for path in arguments.judge], dataset, weight, views, candidates)
