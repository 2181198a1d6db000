"""What a run is, in words: rows for its report, made of the files that it left. A row is missing where its file is."""

from collections.abc import Mapping, Sequence
from typing import Any

from augment.outside import show_name, show_value
from eval.report.entries import TaskEntry, plural
from eval.report.summary import format_seconds
from pipeline.record import Record

Row = tuple[str, str]


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
