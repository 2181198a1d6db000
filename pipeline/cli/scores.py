"""The commands `score`, `compare`, `curve`, `memory` and `record`: how good predictions are, of one system and side by side."""

import argparse
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from augment.errors import InputError
from augment.grid import Grid, grid_key
from augment.task import Solutions, TaskId, same_tests
from eval.compare import compare, format_comparison
from eval.files import write_result
from eval.formatting import format_duration, plural, show_name, show_names, show_path
from eval.provenance import PUZZLES, Scored
from eval.puzzle_score import PuzzleScore, format_puzzle_score, read_predictions, score_puzzles
from eval.score import Predictions, Score, format_score, score_predictions
from pipeline.cli.options import TASKS_HELP, add_command, add_data, add_selection, add_test_limit, are_puzzles
from pipeline.data.dataset import PuzzleDataset, TaskDataset, load_dataset
from pipeline.data.public_data import scored_outputs
from pipeline.data.puzzles.sources import answers_of, load_puzzles
from pipeline.data.sources import Selection, load_source, read_solutions, require_same_tests
from pipeline.jobs.provenance import provenance_beside, scored_answers
from pipeline.jobs.run_record import require_own_folder
from pipeline.reports.run_folder import KnownTask, RunFolder
from pipeline.weights.find import settings_of
from submission.format import fill_submission, read_partial_submission, read_submission


def add_score(commands: Any) -> None:
    summary = "score a submission.json of any system by all three rules"
    parser = add_command(commands, score_command, "score", summary, "runs/first/submission.json --source arc1:evaluation")
    what = "or a run folder, or a folder of result files {task id}.json"
    parser.add_argument("submission", type=Path, metavar="SUBMISSION.json", help=what)
    truth = parser.add_mutually_exclusive_group(required=True)
    truth.add_argument("--source", action="append", metavar="S", help="tasks whose solutions are known; may be repeated")
    truth.add_argument("--solutions", type=Path, metavar="FILE", help="a solutions file as Kaggle's")
    add_selection(parser)
    add_test_limit(parser)
    parser.add_argument("--allow-missing", action="store_true", help="count missing tasks, attempts and puzzles as not solved")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the score here as well")


def score_command(arguments: argparse.Namespace, _: float) -> int:
    """Print the score of a submission or of predictions by all rules, and what it rests on; write it to --json."""
    path, puzzles = arguments.submission, are_puzzles(arguments)
    inside = path / ("predictions.csv" if puzzles else "submission.json")
    path = inside if inside.is_file() else path
    score: Score | PuzzleScore
    if puzzles:
        name, answers = " + ".join(arguments.source), _answers(arguments.source, arguments.test_limit)
        asked = read_predictions(path)
        unasked = answers.keys() - {each.question for each in asked}
        if unasked and not arguments.allow_missing:
            of = f"{len(unasked):,} of the {plural(len(answers), 'puzzle')} of {name}"
            raise InputError(
                f"{show_path(path)} lacks {of}: --test-limit N takes those of a run with this limit, --allow-missing counts "
                "them as not solved"
            )
        score = score_puzzles(asked, answers)
        provenance = replace(provenance_beside(path, PUZZLES), scored=scored_answers(answers, arguments.source))
        text = format_puzzle_score(score, name, show_path(path), provenance)
    else:
        solutions, name, scored = _solutions(arguments, submission=path)
        read = read_partial_submission if arguments.allow_missing else read_submission
        predictions = read(path)
        lacking = [task_id for task_id, outputs in solutions.items() if len(predictions.get(task_id, ())) < len(outputs)]
        if lacking and not arguments.allow_missing:
            of = f"{len(lacking)} of the {plural(len(solutions), 'task')} of {name}, or tests of them: {show_names(lacking)}"
            raise InputError(f"{show_path(path)} lacks {of}; --allow-missing counts them as not solved")
        score = score_predictions(predictions, solutions)
        provenance = replace(provenance_beside(path), scored=scored)
        text = format_score(score, name, provenance)
    print(text)
    if arguments.json:
        write_result(arguments.json, score.to_json() | {"provenance": provenance.to_json()})
    return 0


def add_compare(commands: Any) -> None:
    summary = "put runs or submissions side by side: scores, what only one of them solves, pooled votes"
    example = "runs/demo-0 runs/demo-1 --pool pooled/submission.json"
    parser = add_command(commands, compare_command, "compare", summary, example, TASKS_HELP)
    parser.add_argument("runs", type=Path, nargs="+", metavar="DIR", help="runs, predictions or submission.json files")
    truth = parser.add_mutually_exclusive_group()
    where = "where the solutions are (default: the sources of the runs)"
    truth.add_argument("--source", action="append", metavar="S", help=where)
    truth.add_argument("--solutions", type=Path, metavar="FILE", help="a solutions file as Kaggle's")
    parser.add_argument("--max-side", type=int, metavar="N", help="judge only tasks without a side over N")
    parser.add_argument("--hold-out", action="store_true", help="judge by the last demonstrations, as runs with --hold-out")
    add_data(parser)
    parser.add_argument("--pool", type=Path, metavar="FILE", help="write the submission that the votes of all runs choose")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparison here as well")


def compare_command(arguments: argparse.Namespace, _: float) -> int:
    """Print runs side by side, and what their pooled votes would score."""
    folders = [RunFolder(path, arguments.data) for path in arguments.runs]
    if len({folder.submission_path.resolve() for folder in folders}) < len(folders):
        raise InputError("one of the runs is named twice")
    solutions, source, scored = _solutions(arguments, folders)
    voting = [folder for folder in folders if folder.candidates and folder.dataset]
    pooled: Predictions | None = None
    if arguments.pool and not voting:
        raise InputError("there are no votes to pool: no folder has candidates, and a dataset beside them or in --data")
    if arguments.pool or len(voting) > 1:
        pooled = _pool(voting, arguments)
    named = {show_path(folder.path): folder for folder in folders}
    found = compare({name: folder.submission for name, folder in named.items()}, solutions, pooled, len(voting))
    origins = {name: provenance_beside(folder.submission_path) for name, folder in named.items()}
    found = replace(found, provenance={name: replace(origin, scored=scored) for name, origin in origins.items()})
    print(format_comparison(found, source, solutions))
    if arguments.json:
        write_result(arguments.json, found.to_json() | {"source": source})
    if arguments.pool:
        print(f"\n{arguments.pool}: the attempts of the pooled votes, {len(pooled or {})} tasks")
    return 0


def _pool(folders: Sequence[RunFolder], arguments: argparse.Namespace) -> Predictions | None:
    """Return the attempts of the pooled votes, written to --pool if it is given; None where they cannot be pooled."""
    from pipeline.inference.candidates import tally  # needs torch, which is slow to import
    from pipeline.inference.facts import write_attempts

    if arguments.pool:
        require_own_folder(arguments.pool)
    dataset = next(folder.dataset for folder in folders if folder.dataset)
    if any(folder.dataset.tests_hash != dataset.tests_hash for folder in folders if folder.dataset):
        if arguments.pool:
            raise InputError("the votes cannot be pooled: the runs have different tests")
        print("the runs have different tests, so their votes are not pooled\n")
        return None
    candidates = {path.resolve(): path for folder in folders for path in folder.candidates}  # a run has those of its networks
    ballot = tally(list(candidates.values()), dataset)
    tasks = dataset.tasks_to_solve()
    if arguments.pool:
        arguments.pool.parent.mkdir(parents=True, exist_ok=True)
        return write_attempts(arguments.pool, ballot, tasks, dataset).submission
    return fill_submission(tasks, ballot.predictions(tasks)).submission


def _dataset_beside(submission: Path) -> TaskDataset | None:
    """Return the dataset of the run that a submission is in; None where there is none that can be read."""
    with suppress(InputError, FileNotFoundError):
        dataset = load_dataset((submission if submission.is_dir() else submission.parent) / "dataset")
        return dataset if isinstance(dataset, TaskDataset) else None
    return None


def _solutions(
    arguments: argparse.Namespace, folders: Sequence[RunFolder] = (), submission: Path | None = None
) -> tuple[Solutions, str, Scored | None]:
    """Return the solutions to judge by, of the tasks of `folders` if there are any; their name; and what they are.

    Raises InputError where a task has other test inputs than those that were predicted in the run of `submission`.
    """
    if arguments.solutions:
        if arguments.max_side is not None or arguments.hold_out:
            raise InputError("--max-side and --hold-out choose from sources; with --solutions, that file says what is judged")
        given = read_solutions(arguments.solutions)
        return given, str(arguments.solutions), scored_outputs(given)
    selection = Selection(arguments.max_side, arguments.hold_out)
    specs = arguments.source or list(dict.fromkeys(spec for folder in folders for spec in folder.source_names()))
    if not specs:
        raise InputError("the runs do not say where their tasks come from: name the sources with --source")
    name, (whole, selected) = " + ".join(specs), selection.load(specs)
    if not folders or any(folder.dataset is None for folder in folders):  # nothing else says whose tests are meant
        require_same_tests(selected)
    predicted = _dataset_beside(submission) if submission else None
    asked = {task.id: task for task in predicted.tasks_to_solve()} if predicted else {}
    for task in (task for source in selected for task in source.tasks):
        if not same_tests(task, asked.get(task.id, task)):
            raise InputError(f"task {show_name(task.id)} of {name} has other test inputs than those that were predicted")
    if folders:
        solutions = _known_outputs(known for folder in folders for known in folder.tasks(selected, name))
    else:
        solutions = {task_id: grids for source in selected for task_id, grids in source.solutions.items()}
    if not solutions:
        raise InputError(f"the test outputs of {name} are not known, so there is nothing to judge by")
    return solutions, name, scored_outputs(solutions, whole)


def _solutions_of(run: RunFolder, specs: Sequence[str] = ()) -> Solutions:
    """Return the outputs that the tests of `run` have in sources, its own by default. Raises InputError where none is known."""
    notes: list[str] = []
    sources = [load_source(spec) for spec in specs] or run.load_sources(notes)[1]
    solutions = _known_outputs(run.tasks(sources, " + ".join(specs)))
    if not solutions:
        raise InputError(
            f"{run.path}: the test outputs are not known, so there is nothing to score by{'. '.join(('', *notes))}"
        )
    return solutions


def _known_outputs(tasks: Iterable[KnownTask]) -> Solutions:
    """Return the test outputs of `tasks`, by id, where they are known. Raises InputError where one id has several."""
    outputs: dict[TaskId, tuple[Grid, ...]] = {}
    for known in tasks:
        name, found = known.task.id, known.truth
        if found and list(map(grid_key, outputs.setdefault(name, found))) != list(map(grid_key, found)):
            raise InputError(f"the runs have different tests of task {show_name(name)}: score each of them alone")
    return outputs


def add_curve(commands: Any) -> None:
    summary = "score every checkpoint that runs kept (train.checkpoints_kept), and draw the scores against time"
    example = "runs/mixer-0 runs/attention-0 --source sudoku:generated:side=4 --png curve.png --json curve.json"
    parser = add_command(commands, curve_command, "curve", summary, example)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders; NAME-0, NAME-1 are seeds of NAME")
    where = "the puzzles that the runs solved, or tasks with their solutions (default: the sources of each run)"
    parser.add_argument("--source", action="append", metavar="S", help=where)
    views = "of a test input of ARC tasks, at most (default: 16)"
    parser.add_argument("--views", type=int, default=16, metavar="N", help=views)
    parser.add_argument("--png", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE")


def curve_command(arguments: argparse.Namespace, _: float) -> int:
    """Print the score against training time, for every checkpoint; draw it to --png."""
    from eval.curves import draw_curves
    from pipeline.device import make_accelerator, precision_here
    from pipeline.jobs.curve import measure_curves

    accelerator = make_accelerator(precision_here(settings_of(arguments.runs[0]).train.precision))[0]
    points, answers = [], cache(lambda *specs: _answers(specs))  # seeds of one run have the same sources

    def answers_of(run: Path) -> dict[str, str]:
        return answers(*(arguments.source or RunFolder(run).source_names()))

    def solutions_of(run: Path) -> Solutions:
        return _solutions_of(RunFolder(run), arguments.source or ())

    try:
        for point in measure_curves(arguments.runs, answers_of, solutions_of, arguments.views, accelerator):
            print(f"{point.run}: step {point.step}, {format_duration(point.seconds)}: {point.rates}", flush=True)
            points.append(point)
    finally:  # what took hours is kept, whatever the next checkpoint is like
        if arguments.json and points:
            write_result(arguments.json, points)
        if arguments.png and points:
            draw_curves(points).leave(arguments.png)
    return 0


def add_memory(commands: Any) -> None:
    summary = "score a run again with a blank task memory and with that of other tasks: does it reason, or recall?"
    parser = add_command(commands, memory_command, "memory", summary, "runs/first --views 16", sources="")
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder whose test outputs are known")
    parser.add_argument("--views", type=int, default=32, metavar="N", help="of a test input, at most (default: 32)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores here as well")


def memory_command(arguments: argparse.Namespace, _: float) -> int:
    """Print the score of a run with its own task memory, a blank one, and that of the next task.

    A network that finds the rule from the question alone loses nothing by that; one that has learned a task's rule into its
    memory loses all. The memory of a single task, as that of puzzles, can only be blank.
    """
    from pipeline.device import make_accelerator, precision_here
    from pipeline.jobs.weights_score import score_on_puzzles, score_on_tasks
    from pipeline.weights.files import Memory, change_memory, load_weights

    run, weights, dataset = RunFolder(arguments.run), load_weights(arguments.run), load_dataset(arguments.run / "dataset")
    computed = make_accelerator(precision_here(weights.config.train.precision))
    found: dict[str, object] = {}
    kinds: tuple[Memory, ...] = ("own", "blank", "swapped")
    if isinstance(dataset, PuzzleDataset):
        answers = _answers(run.source_names())
        for memory in kinds[:2]:
            of_puzzles = score_on_puzzles(change_memory(weights, memory), dataset, answers, *computed)
            print(f"{memory:8} {of_puzzles.exact_accuracy:7.2%} of {of_puzzles.puzzles} puzzles exact", flush=True)
            found[memory] = of_puzzles.to_json()
    else:
        solutions = _solutions_of(run)
        for memory in kinds if len(weights.task_ids) > 1 else kinds[:2]:
            score = score_on_tasks(change_memory(weights, memory), dataset, solutions, arguments.views, *computed)
            rates = score.mean_over_tasks
            print(f"{memory:8} pass@1 {rates.pass_at_1:7.2%}  pass@2 {rates.pass_at_2:7.2%}, mean over tasks", flush=True)
            found[memory] = score.to_json()
    if arguments.json:
        write_result(arguments.json, found)
    return 0


def add_record(commands: Any) -> None:
    summary = "make a folder of records/ from the run folders of its seeds"
    example = "runs/first --benchmark 'small tasks' --machine '2 cores' --commit 82055a1 --out records/2026-11-24-small"
    parser = add_command(commands, record_command, "record", summary, example, sources="")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders that differ in their seeds alone")
    parser.add_argument("--benchmark", required=True, metavar="TEXT", help="what was solved")
    parser.add_argument("--machine", required=True, metavar="TEXT")
    parser.add_argument("--commit", required=True, metavar="HASH", help="of the program that ran")
    parser.add_argument("--load", default="none", metavar="TEXT", help="what ran beside it (default: none)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")


def record_command(arguments: argparse.Namespace, _: float) -> int:
    from pipeline.reports.benchmark_record import About, headline, write_record

    about = About(arguments.benchmark, arguments.machine, arguments.commit, arguments.load)
    found = write_record([RunFolder(path) for path in arguments.runs], about, arguments.out)
    name, shown = headline(found)
    what = f"the median of {len(found['runs'])} seeds" if "median" in found else "no median: that takes three seeds"
    print(f"{arguments.out}: {name} {shown:.1%}, {what}; complete its README.md")
    return 0


def _answers(specs: Iterable[str], limit: int | None = None) -> dict[str, str]:
    """Return the answers of puzzles (`limit` of each source) by their questions. Raises InputError where they are not known."""
    sources = [load_puzzles(spec, "test", limit=limit) for spec in specs]
    for puzzles in sources:
        if puzzles.answers is None:
            raise InputError(f"{puzzles.name}: has no answers, so there is nothing to score by")
    return answers_of(sources)
