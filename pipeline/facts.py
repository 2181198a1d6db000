"""What a run is, in words: rows for its report, made of the files that it left. A row is missing where its file is."""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.report.entries import TaskEntry, plural
from eval.report.summary import format_seconds
from pipeline.record import Record

Row = tuple[str, str]


def arc_facts(
    record: Record | None,
    votes: Mapping[str, Any],
    manifest: Mapping[str, Any],
    config: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    entries: Sequence[TaskEntry],
) -> list[Row]:
    """Return what the attempts rest on, what was trained on what, and in what time."""
    rows = [*_vote_facts(votes), *_data_facts(record, manifest, entries), *_network_facts(config, metrics)]
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


def _vote_facts(votes: Mapping[str, Any]) -> list[Row]:
    sources = votes.get("sources")
    if not isinstance(sources, list) or sources == ["none"]:
        return []
    names = ", ".join(map(str, sources))
    kind = "single checkpoint" if len(sources) == 1 else f"pooled, {len(sources)} checkpoints together"
    least, most = votes.get("views_least"), votes.get("views_most")
    views = f"{most}" if least == most else f"{least} to {most}"
    return [
        ("Attempts", f"{kind}: {names}"),
        ("Views", f"{views} of each test input; ranked by {votes.get('ranking')}"),
    ]


def _data_facts(record: Record | None, manifest: Mapping[str, Any], entries: Sequence[TaskEntry]) -> list[Row]:
    rows = []
    if entries:
        tests = sum(len(entry.tests) for entry in entries)
        chosen = f", no side over {record.max_side}" if record and record.max_side else ""
        held = ", the last demonstration held out as the test" if record and record.hold_out else ""
        rows.append(("Tasks", f"{plural(len(entries), 'task')}, {plural(tests, 'test input')}{chosen}{held}"))
    if record and record.train_sources:
        rows.append(("Trained on too", ", ".join(record.train_sources)))
    totals, audit = manifest.get("totals"), manifest.get("audit")
    if isinstance(totals, dict) and "transforms" in totals:
        views = f"{plural(totals['transforms'], 'view')} of {plural(totals['tasks'], 'task')}"
        data = f"{plural(totals['pairs'], 'training pair')}, {views}"
        rows.append(("Dataset", f"{data}; hash {str(manifest.get('data_hash'))[:12]}"))
    elif manifest:
        rows.append(("Dataset", f"hash {str(manifest.get('data_hash'))[:12]}"))
    if isinstance(audit, dict) and isinstance(audit.get("leaks"), list):
        leaks = plural(len(audit["leaks"]), "training pair")
        said = {"drop": "left out", "allow": "trained on all the same"}.get(str(audit.get("leakage")), "found")
        checked = f"{plural(audit.get('tests_checked', 0), 'test pair')} checked"
        rows.append(
            ("Leakage", f"{leaks} that equal a test pair {said}; {checked}" if audit["leaks"] else f"none found; {checked}")
        )
    return rows


def _network_facts(config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> list[Row]:
    rows = []
    model, memory, predict = (config.get(name) for name in ("model", "memory", "predict"))
    if isinstance(model, dict) and isinstance(memory, dict) and isinstance(predict, dict):
        shape = f"{model.get('kind')}, {model.get('layers')} layers of {model.get('hidden_size')}, {model.get('mixing')}"
        asked = plural(int(predict.get("segments", 1)), "segment")
        rows.append(("Network", f"{shape}; task memory: {memory.get('kind')}; asked for {asked}"))
    if metrics and isinstance(metrics[-1].get("step"), int):
        seconds = metrics[-1].get("seconds")
        spent = f" in {format_seconds(float(seconds))}" if isinstance(seconds, (int, float)) else ""
        rows.append(("Training", f"about {plural(metrics[-1]['step'], 'step')}{spent}"))
    return rows


def puzzle_rows(score: Mapping[str, Any]) -> list[Row]:
    """Return the score of puzzles in words; nothing where it is not known."""
    if "exact_accuracy" not in score:
        return []
    rows = [
        ("Puzzles with every cell right", f"{score['exact_accuracy']:.1%} ({score['solved']:,} of {score['puzzles']:,})"),
        ("Cells right", f"{score['cell_accuracy']:.1%}, those that the question gives among them"),
        ("Predicted", f"{score['predicted']:,} of {score['puzzles']:,}"),
    ]
    if score.get("mean_halting_probability") is not None:
        rows.append(("Mean halting probability", f"{score['mean_halting_probability']:.2f}"))
    return rows
