"""A run directory read for its report: tasks, attempts, votes, drafts, score, settings, curves.

After everything else, and without torch. What a run directory lacks is left out. The outputs of the tests are read here through
the sources of the run, long after anything could have learned from them.
"""

import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from augment.grid import grid_key
from augment.task import Solutions, Task, TaskId
from eval.files import read_object, replace_file
from eval.formatting import show_name, show_path, show_value
from eval.provenance import UNKNOWN, Row, Scored, provenance_rows
from eval.report.page import Report, make_page
from eval.report.summary import format_seconds
from eval.results import Attempt, Draft, InputEntry, TaskEntry, plural
from eval.score import score_predictions
from pipeline.data.dataset import MANIFEST_FILE
from pipeline.data.public_data import scored_outputs
from pipeline.data.sources import Selection, Source, load_source
from pipeline.data.store import Store
from pipeline.inference.candidates import DRAFTS_FILE, StoredDrafts, read_drafts
from pipeline.inference.vote_file import VOTES_FILE, VoteFile, read_votes
from pipeline.jobs.provenance import provenance_beside, provenance_of_puzzles
from pipeline.jobs.record import Record, read_record
from pipeline.training.metrics import read_metrics
from submission.format import PartialSubmission, read_submission

logger = logging.getLogger(__name__)


def arc_facts(
    record: Record | None,
    ranking: str,
    manifest: Mapping[str, Any],
    config: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    entries: Sequence[TaskEntry],
) -> list[Row]:
    """Return what the attempts rest on, what was trained on what, and in what time."""
    ranked = [("Ranked by", ranking)] if ranking else []
    rows = [*ranked, *_data_facts(record, manifest, entries), *_network_facts(config, metrics)]
    if record:
        settings = f", {', '.join(record.settings)}" if record.settings else ""
        rows.append(("Preset", f"{record.preset}, seed {record.seed}{settings}"))
        if record.weights:
            rows.append(("Started from", record.weights))
        limit = f" of {record.time_limit}" if record.time_limit else ""
        starts = f", in {record.starts} starts" if record.starts > 1 else ""
        rows.append(
            ("Time", f"{format_seconds(sum(record.seconds.values()))}{limit}{starts}, {record.device or 'unknown device'}")
        )
        rows.append(("Started", record.started.replace("T", " ").replace("+00:00", " UTC")))
    return rows


def _data_facts(record: Record | None, manifest: Mapping[str, Any], entries: Sequence[TaskEntry]) -> list[Row]:
    rows = []
    if entries:
        tests = sum(len(entry.tests) for entry in entries)
        chosen = f", no side over {record.max_side}" if record and record.max_side else ""
        held = ", the last demonstration held out as the test" if record and record.hold_out else ""
        rows.append(("Tasks", f"{plural(len(entries), 'task')}, {plural(tests, 'test input')}{chosen}{held}"))
    if record and record.train_sources:
        rows.append(("Trained on too", ", ".join(record.train_sources) + _left_out(len(record.train_sources), manifest)))
    totals = manifest.get("totals")
    given = [totals.get(name) for name in ("transforms", "tasks", "pairs")] if isinstance(totals, dict) else []
    counts = [count for count in given if type(count) is int]
    described = f"hash {show_name(str(manifest.get('data_hash'))[:12])}"
    if len(counts) == 3:
        views, tasks, pairs = counts
        described = f"{plural(pairs, 'training pair')}, {plural(views, 'view')} of {plural(tasks, 'task')}; {described}"
    if manifest:
        rows.append(("Dataset", described))
    return rows


def _left_out(asked: int, manifest: Mapping[str, Any]) -> str:
    """Return in words how many sources, of those that were to be trained on, there was no time for; nothing where there was."""
    sources = manifest.get("sources")
    if not isinstance(sources, list):
        return ""
    missing = asked - sum(isinstance(source, dict) and source.get("role") == "train" for source in sources)
    return f"; {missing} of these left out, as there was no time to read them" if missing > 0 else ""


def _network_facts(config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> list[Row]:
    rows = []
    model, memory, predict = (config.get(name) for name in ("model", "memory", "predict"))
    if isinstance(model, dict) and isinstance(memory, dict) and isinstance(predict, dict):
        kind, layers, size, mixing = (_show(model.get(name)) for name in ("kind", "layers", "hidden_size", "mixing"))
        asked = f"{_show(predict.get('segments'))} segments"
        rows.append(("Network", f"{kind}, {layers} layers of {size}, {mixing}; memory: {_show(memory.get('kind'))}; {asked}"))
    if metrics and isinstance(metrics[-1].get("step"), int):
        seconds = metrics[-1].get("seconds")
        spent = f" in {format_seconds(float(seconds))}" if isinstance(seconds, (int, float)) else ""
        rows.append(("Training", f"about {plural(metrics[-1]['step'], 'step')}{spent}"))
    return rows


def _show(value: object) -> str:
    return show_name(value) if isinstance(value, str) else show_value(value)


def puzzle_rows(score: Mapping[str, Any], where: str) -> list[Row]:
    """Return the score of puzzles in words; nothing where it is not known. Raises ValueError, beginning with `where`."""
    if "exact_accuracy" not in score:
        return []
    counts = [score.get(name) for name in ("solved", "puzzles", "predicted")]
    rates = [score.get(name) for name in ("exact_accuracy", "cell_accuracy", "mean_halting_probability")]
    rates = rates[:2] if rates[2] is None else rates
    if not all(type(count) is int for count in counts) or not all(type(rate) in (int, float) for rate in rates):
        raise ValueError(f"{where}: not the score of puzzles: {show_value(counts)} and {show_value(rates)}")
    rows = [
        ("Puzzles with every cell right", f"{score['exact_accuracy']:.1%} ({score['solved']:,} of {score['puzzles']:,})"),
        ("Cells right", f"{score['cell_accuracy']:.1%}, those that the question gives among them"),
        ("Predicted", f"{score['predicted']:,} of {score['puzzles']:,}"),
    ]
    if score.get("mean_halting_probability") is not None:
        rows.append(("Mean halting probability", f"{score['mean_halting_probability']:.2f}"))
    return rows


REPORT_FILE = "report.html"

_UNKNOWN = "No source that was read holds the test outputs; --source of the command report adds one that does."


def write_report(folder: Path, sources: Sequence[str] = ()) -> Path:
    """Write `report.html` into a run directory and return its path. `sources` add solutions, and tasks where it has none.

    Raises FileNotFoundError or ValueError, of one line, where there is nothing to report or a file is damaged.
    """
    report = read_report(folder, sources)
    path = folder / REPORT_FILE
    replace_file(path, make_page(report).encode("utf-8", "xmlcharrefreplace"))
    return path


def read_report(folder: Path, sources: Sequence[str] = ()) -> Report:
    """Return the report of a run directory; see `write_report`."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such run directory")
    record = read_record(folder)
    if not (folder / "submission.json").is_file():
        if (folder / "predictions.csv").is_file():
            return _puzzle_report(folder, record)
        raise FileNotFoundError(f"{folder}: no submission.json and no predictions.csv, so there is nothing to report")
    submission = read_submission(folder / "submission.json", allow_missing=True)
    known = _read_tasks(folder, record, sources)
    votes, path = read_votes(folder / VOTES_FILE), folder / "submission.json"
    score_file, manifest = (_read_json(folder / name) for name in ("score.json", f"dataset/{MANIFEST_FILE}"))
    drafts = _read_drafts(folder, known.notes)
    entries = _entries(submission, known, votes, score_file, drafts, show_path(path))
    solutions = {entry.task.id: known.solutions[entry.task.id] for entry in entries if entry.task.id in known.solutions}
    predictions = {task_id: attempts for task_id, attempts in submission.items() if task_id in solutions}
    config, metrics = _read_json(folder / "config.json"), read_metrics(folder / "metrics.jsonl")
    return Report(
        name=folder.resolve().name,
        folder=shlex.quote(str(folder)),
        sources=" + ".join(record.sources if record else sources) or "a submission",
        entries=entries,
        score=score_predictions(predictions, solutions) if solutions else None,
        unknown=_UNKNOWN if record else f"This folder does not say what it solved. {_UNKNOWN}",
        facts=[
            *provenance_rows(scored_outputs(solutions, known.sources, known.selection), provenance_beside(path)),
            *arc_facts(record, votes.ranking if votes else "", manifest, config, metrics, entries),
        ],
        settings=_settings(config, show_path(folder / "config.json")),
        metrics=metrics,
        seconds=record.seconds if record else {},
        notes=known.notes,
    )


@dataclass(frozen=True)
class _Known:
    """What the sources, or the dataset, know of the tasks."""

    tasks: Mapping[TaskId, Task]
    solutions: Solutions
    notes: list[str]
    sources: Sequence[Source]
    """All of them, before the selection."""
    selection: Selection | None


def _read_tasks(folder: Path, record: Record | None, extra: Sequence[str]) -> _Known:
    notes: list[str] = []
    found: list[Source] = []
    selection = record.selection if record else None
    try:
        found = [load_source(spec) for spec in (record.sources if record else ())]
    except (ValueError, FileNotFoundError) as error:
        notes.append(f"The sources of the run cannot be read any more: {error}")
    added = [load_source(spec) for spec in extra]
    whole = [*found, *added]
    found, added = ([selection.apply(source) if selection else source for source in each] for each in (found, added))
    tasks = {task.id: task for source in found for task in source.tasks}
    if not tasks and (folder / "dataset").is_dir():
        tasks = {task.id: task for task in Store.load(folder / "dataset").tasks_to_solve()}
    tasks = tasks or {task.id: task for source in added for task in source.tasks}
    if not tasks:
        raise ValueError(f"{folder}: does not say which tasks it solved (no run.json, no dataset); name them with --source")
    solutions = {}
    for source in [*found, *added]:
        for task in source.tasks:
            same = task.id in tasks and [*map(grid_key, task.test)] == [*map(grid_key, tasks[task.id].test)]
            if same and task.id in source.solutions:
                solutions[task.id] = source.solutions[task.id]
    return _Known(tasks, solutions, notes, whole, selection)


def _entries(
    submission: PartialSubmission,
    known: _Known,
    votes: VoteFile | None,
    score_file: Mapping[str, Any],
    drafts: StoredDrafts,
    where: str,
) -> list[TaskEntry]:
    """Return an entry for each task of the submission. Raises ValueError where it is one for other tasks."""
    counted, ranks = votes.tests if votes else {}, _mapping(score_file.get("truth_ranks"))
    entries = []
    for task_id, attempts in submission.items():
        task = known.tasks.get(task_id)
        if task is None or len(task.test) != len(attempts):
            raise ValueError(f"{where}: has task {show_name(task_id)}, which the sources have not, or with other test inputs")
        truths = known.solutions.get(task_id)
        tests = []
        for index, grids in enumerate(attempts):
            voted, rank = counted.get(task_id, ()), _at(ranks.get(task_id), index)
            count = voted[index] if index < len(voted) else None
            top = count.top if count else None
            tests.append(
                InputEntry(
                    attempts=tuple(_attempt(grid, top, number) for number, grid in enumerate(grids)),
                    views=count.candidates if count else None,
                    distinct=count.distinct if count else None,
                    truth=truths[index] if truths else None,
                    truth_rank=rank if type(rank) is int else None,
                    drafts=tuple(Draft(*draft) for draft in drafts.tests.get((task_id, index), ())),
                    draft_unit=drafts.unit,
                )
            )
        entries.append(TaskEntry(task, tuple(tests)))
    return entries


def _attempt(grid: Any, top: Sequence[tuple[int, float]] | None, number: int) -> Attempt:
    """Return attempt `number`, from 0, with its votes: the attempts are the first two of `top`, after these come fallbacks."""
    if top is None:
        return Attempt(grid, None, None)
    if number >= len(top):
        return Attempt(grid, 0, None)
    return Attempt(grid, *top[number])


def _read_drafts(folder: Path, notes: list[str]) -> StoredDrafts:
    path, none = folder / DRAFTS_FILE, StoredDrafts("segment", {})
    try:
        return read_drafts(path) if path.is_file() else none
    except ValueError as error:
        notes.append(f"The drafts cannot be read: {error}")
        return none


def _puzzle_provenance(folder: Path, score_file: Mapping[str, Any]) -> list[Row]:
    """Return what the predictions rest on; what was scored, as the score says it."""
    told = _mapping(score_file.get("provenance"))
    digest, version, outputs = (told.get(name) for name in ("scored_hash", "scored_version", "scored_outputs"))
    scored = None
    if isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) and isinstance(version, str) and type(outputs) is int:
        scored = Scored(outputs, outputs, digest, show_path(version) or UNKNOWN)
    return provenance_rows(scored, provenance_of_puzzles(folder / "predictions.csv"))


def _puzzle_report(folder: Path, record: Record | None) -> Report:
    score_file = _read_json(folder / "score.json")
    config, metrics = _read_json(folder / "config.json"), read_metrics(folder / "metrics.jsonl")
    return Report(
        name=folder.resolve().name,
        sources=" + ".join(record.sources) if record else "puzzles",
        rows=puzzle_rows(score_file, show_path(folder / "score.json")),
        unknown="The answers of the puzzles are not known here.",
        facts=[
            *_puzzle_provenance(folder, score_file),
            *arc_facts(record, "", _read_json(folder / "dataset" / MANIFEST_FILE), config, metrics, ()),
        ],
        settings=_settings(config, show_path(folder / "config.json")),
        metrics=metrics,
        seconds=record.seconds if record else {},
    )


def _settings(config: Mapping[str, Any], where: str) -> str:
    try:
        return orjson.dumps(config, option=orjson.OPT_INDENT_2).decode() if config else ""
    except orjson.JSONEncodeError as error:  # it writes no values as deep as it reads
        raise ValueError(f"{where}: no settings: {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one where there is no file. Raises ValueError for anything else."""
    return read_object(path) if path.exists() else {}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _at(values: object, index: int) -> object:
    return values[index] if isinstance(values, list) and index < len(values) else None
