"""Builds report.html of what a run directory has. It is written last, since it reads test outputs."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from augment.errors import InputError
from augment.task import Task, TaskId
from eval.decode import decode
from eval.files import replace_file
from eval.formatting import format_duration, plural, show_name, show_names, show_path, show_value
from eval.provenance import HASH_DIGITS, PUZZLES, Row, scored_in
from eval.puzzle_score import PuzzleScore
from eval.report.page import Report, make_page
from eval.results import TaskResult
from eval.score import score_predictions
from pipeline.config import CONFIG_FILE
from pipeline.data.dataset import MANIFEST_FILE
from pipeline.data.public_data import scored_outputs
from pipeline.data.sources import Selection
from pipeline.inference.facts import SCORE_FILE
from pipeline.jobs.provenance import provenance_beside
from pipeline.jobs.run_record import RunRecord
from pipeline.reports.run_folder import RunFolder, known_tasks
from pipeline.training.metrics import METRICS_FILE, read_metrics

REPORT_FILE = "report.html"
_UNKNOWN = "No source that was read holds the test outputs; --source of the command report adds one that does."


def write_report(path: Path, sources: Sequence[str] = ()) -> Path:
    """Write `report.html` into a run directory; `sources` add solutions and tasks. Raises FileNotFoundError or InputError."""
    report = read_report(path, sources)
    replace_file(path / REPORT_FILE, make_page(report).encode("utf-8", "xmlcharrefreplace"))
    return path / REPORT_FILE


def read_report(path: Path, specs: Sequence[str] = ()) -> Report:
    """Return the report of a run directory; see `write_report`."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such run directory")
    folder = RunFolder(path)
    record, config = folder.record, folder.read_json(CONFIG_FILE)
    try:
        settings = orjson.dumps(config, option=orjson.OPT_INDENT_2).decode() if config else ""
    except orjson.JSONEncodeError as error:  # it reads deeper values than it writes
        raise InputError(f"{show_path(path / 'config.json')}: no settings: {error}") from None
    report = Report(
        name=path.resolve().name,
        sources=" + ".join(record.sources) if record else "",
        settings=settings,
        metrics=read_metrics(path / METRICS_FILE),
        seconds=record.seconds if record else {},
    )
    return _report_puzzles(folder, report) if folder.is_puzzles else _report_tasks(folder, specs, report)


def _report_puzzles(folder: RunFolder, report: Report) -> Report:
    score = folder.read_json(SCORE_FILE)
    provenance = replace(provenance_beside(folder.predictions_path, PUZZLES), scored=scored_in(score.get("provenance")))
    return replace(
        report,
        sources=report.sources or "puzzles",
        rows=_puzzle_rows(score, show_path(folder.path / SCORE_FILE)),
        unknown="There is no score of these predictions here: the answers are not known, or `score` was not run.",
        facts=[*provenance.rows(), *_run_facts(folder, (), report.metrics)],
    )


def _report_tasks(folder: RunFolder, specs: Sequence[str], report: Report) -> Report:
    record, notes = folder.record, list[str]()
    selection = record.selection if record else Selection()
    whole, selected = folder.load_sources(notes)
    others, chosen = selection.load(specs)
    stored: Mapping[TaskId, Task] = {}
    try:
        stored = folder.predicted_tasks
    except (InputError, OSError) as error:
        notes.append(f"The dataset cannot be read, so whether these are its tests is unknown: {error}")
    known = known_tasks(folder.submission, stored, [*selected, *chosen])
    missing = folder.submission.keys() - {each.task.id for each in known}
    if missing:
        where = show_path(folder.submission_path)
        raise InputError(
            f"{where}: has task {show_name(min(missing))}, which the sources do not have: name one that does with --source"
        )
    unknown = _UNKNOWN if record else f"This folder does not say what it solved. {_UNKNOWN}"
    changed = [each.task.id for each in known if each.task is stored.get(each.task.id)]
    if changed and any(source.tasks for source in selected):
        unknown = f"The sources do not have the tests that were predicted, of {show_names(changed)}, so there is no score."
        known = [replace(each, truth=None) for each in known]
    results = folder.reported_results(known, notes)
    solutions = {each.task.id: each.truth for each in known if each.truth}
    predictions = {task_id: attempts for task_id, attempts in folder.submission.items() if task_id in solutions}
    provenance = provenance_beside(folder.submission_path)
    scored = scored_outputs(solutions, [*whole, *others])
    return replace(
        report,
        folder=shlex.quote(str(folder.path)),
        sources=report.sources or " + ".join(specs) or "a submission",
        results=results,
        score=score_predictions(predictions, solutions) if solutions else None,
        unknown=unknown,
        facts=[*replace(provenance, scored=scored).rows(), *_run_facts(folder, results, report.metrics)],
        notes=notes,
    )


def _run_facts(folder: RunFolder, results: Sequence[TaskResult], metrics: Sequence[Mapping[str, object]]) -> list[Row]:
    """Return what was trained on what, and in what time."""
    record = folder.record
    rows = list[Row]()
    if results:
        tests = sum(len(result.tests) for result in results)
        chosen = f", no side over {record.max_side}" if record and record.max_side else ""
        held = ", the last demonstration held out as the test" if record and record.hold_out else ""
        rows.append(("Tasks", f"{plural(len(results), 'task')}, {plural(tests, 'test input')}{chosen}{held}"))
    rows += _data_facts(record, folder.read_json(f"dataset/{MANIFEST_FILE}"))
    rows += _network_facts(folder.read_json(CONFIG_FILE), metrics)
    if record:
        settings = f", {', '.join(record.settings)}" if record.settings else ""
        named = f"preset {record.preset}" if record.preset else "of the weights"
        rows.append(("Settings", f"{named}, seed {record.seed}{settings}"))
        if record.weights:
            rows.append(("Started from", record.weights))
        limit, again = f" of {record.time_limit}" if record.time_limit else "", record.starts > 1
        starts = f", in {record.starts} starts{f', the last{limit}' if limit else ''}" if again else limit
        spent = format_duration(sum(record.seconds.values()))
        rows.append(("Time", f"{spent}{starts}, {record.device or 'unknown device'}"))
        if record.fallbacks:
            rows.append(("Slower than meant", "; ".join(record.fallbacks)))
        rows.append(("Last started" if again else "Started", record.started.replace("T", " ").replace("+00:00", " UTC")))
    return rows


def _data_facts(record: RunRecord | None, manifest: Mapping[str, Any]) -> list[Row]:
    rows = []
    if record and record.train_sources:
        left_out, sources = "", manifest.get("sources")
        if isinstance(sources, list):
            read = sum(isinstance(source, dict) and source.get("role") == "train" for source in sources)
            missing = len(record.train_sources) - read
            left_out = f"; {missing} of these left out, as there was no time to read them" if missing > 0 else ""
        rows.append(("Trained on too", ", ".join(record.train_sources) + left_out))
    if manifest:
        totals = manifest.get("totals")
        given = [totals.get(name) for name in ("transforms", "tasks", "pairs")] if isinstance(totals, dict) else []
        described = f"hash {show_name(str(manifest.get('data_hash'))[:HASH_DIGITS])}"
        if len(counts := [count for count in given if type(count) is int]) == 3:
            views, tasks, pairs = counts
            described = f"{plural(pairs, 'training pair')}, {plural(views, 'view')} of {plural(tasks, 'task')}; {described}"
        rows.append(("Dataset", described))
    return rows


def _network_facts(config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> list[Row]:
    def show(value: object) -> str:
        return show_name(value) if isinstance(value, str) else show_value(value)

    rows = []
    model, memory, predict = (config.get(name) for name in ("model", "memory", "predict"))
    if isinstance(model, dict) and isinstance(memory, dict) and isinstance(predict, dict):
        kind, layers, size, mixing = (show(model.get(name)) for name in ("kind", "layers", "hidden_size", "mixing"))
        network = f"{kind}, {layers} layers of {size}, {mixing}; memory: {show(memory.get('kind'))}"
        rows.append(("Network", f"{network}; {show(predict.get('segments'))} segments"))
    if metrics and isinstance(metrics[-1].get("step"), int):
        seconds = metrics[-1].get("seconds")
        spent = f" in {format_duration(float(seconds))}" if isinstance(seconds, (int, float)) else ""
        rows.append(("Training", f"about {plural(metrics[-1]['step'], 'step')}{spent}"))
    return rows


def _puzzle_rows(values: Mapping[str, Any], where: str) -> list[Row]:
    """Return the score of puzzles in words; nothing where it is not known. Raises InputError, beginning with `where`."""
    if "exact_accuracy" not in values:
        return []
    score = decode(PuzzleScore, values, where, ignore_unknown=True)
    rows = [
        ("Puzzles with every cell right", f"{score.exact_accuracy:.1%} ({score.solved:,} of {score.puzzles:,})"),
        ("Cells right", f"{score.cell_accuracy:.1%}, those that the question gives among them"),
        ("Predicted", f"{score.predicted:,} of {score.puzzles:,}"),
    ]
    if score.shortest_path_accuracy is not None:
        paths = f"{score.shortest_path_accuracy:.1%} ({score.shortest_paths:,} of {score.puzzles:,})"
        rows.insert(1, ("Mazes with any shortest path", paths))
    if score.mean_halting_probability is not None:
        rows.append(("Mean halting probability", f"{score.mean_halting_probability:.2f}"))
    return rows
