"""Sections of a report that need no script: score, training and time, votes, facts. Each function returns escaped HTML."""

from collections.abc import Mapping, Sequence
from html import escape

from eval.formatting import format_duration, plural, plural_range
from eval.report.charts import draw_curve, draw_histogram, draw_shares
from eval.results import NEAR_CELLS, TaskResult
from eval.score import RULES, Rates, Score

CURVES = (
    ("loss", "Loss", "", None),
    ("exact", "Training pairs right", "%", 0.0),
    ("tokens_per_second", "Tokens per second", "", 0.0),
)
"""(field of a line of metrics.jsonl, title, unit, floor of the axis)."""
MEANINGS = {
    "mean_over_tasks": "A task counts as the share of its test outputs that are solved. Kaggle's leaderboard behaves like it.",
    "per_output": "Every test output counts alike: outputs solved, divided by outputs. Kaggle's page words it so.",
    "all_or_nothing": "A task counts when all its test outputs are solved, and not at all when one is missed.",
}
_COLUMNS = 10  # of the histogram


def _section(name: str, title: str, content: str, label: str = "") -> str:
    label = f"{label or name}-title"
    return f'<section id="{name}" aria-labelledby="{label}"><h2 id="{label}">{title}</h2>{content}</section>'


def _key(mark: str, text: str) -> str:
    return f'<li><span class="key {mark}" aria-hidden="true"></span>{text}</li>'


def score_section(score: Score | None, rows: Sequence[tuple[str, str]], unknown: str, results: Sequence[TaskResult]) -> str:
    """Return the score under each rule with what it means, or why there is none."""
    if rows:
        cells = (f"<tr><th scope=row>{escape(what)}</th><td>{escape(value)}</td></tr>" for what, value in rows)
        return _section("score", "Score", f"<table>{''.join(cells)}</table>")
    if score is None:
        why = f"<strong>Solutions unknown.</strong> {escape(unknown)} Nothing on this page says what is right or wrong."
        return _section("score", "Score", f'<p class="note">{why}</p>')
    tiles = []
    for number, (field, name, _) in enumerate(RULES):
        rates: Rates = getattr(score, field)
        tiles.append(
            f'<div class="tile{"" if number else " first"}"><dt>{escape(name)}</dt>'
            f'<dd><span class="big">{_percent(rates.pass_at_2)}</span><span class="quiet"> pass@2</span></dd>'
            f'<dd class="quiet">{_percent(rates.pass_at_1)} with attempt 1 only (pass@1)</dd>'
            f'<dd class="meaning">{escape(MEANINGS[field])}</dd></div>'
        )
    content = f'<dl class="tiles">{"".join(tiles)}</dl>{_outcomes(results)}{_count_solved(score, results)}'
    return _section("score", "Score", content)


def _outcomes(results: Sequence[TaskResult]) -> str:
    """Return a bar of all tasks by outcome, with its key."""
    known = [result for result in results if result.known]
    counts = dict.fromkeys(_OUTCOMES, 0)
    for result in known:
        if result.solved == len(result.tests):
            outcome = "solved"
        elif result.near:
            outcome = "near miss"
        elif result.solved:
            outcome = "partly solved"
        else:
            outcome = "missed by more cells" if result.missed_by is not None else result.summary()
        counts[outcome] += 1
    parts = [(name, counts[name], mark) for name, mark in _OUTCOMES.items() if counts[name]]
    keys = "".join(_key(mark, f"{name} <strong>{count}</strong>") for name, count, mark in parts)
    bar = draw_shares([(name, count) for name, count, _ in parts], [mark for *_, mark in parts])
    return f'<h3>{plural(len(known), "task")}</h3><div class="bar">{bar}</div><ul class="keys">{keys}</ul>'


_OUTCOMES = {
    "solved": "is-solved",
    "near miss": "is-near",
    "partly solved": "is-part",
    "missed by more cells": "is-far",
    "wrong size": "is-size",
    "no attempt": "is-none",
}
# Outcomes of a task, from best to worst, with the class of each part of the bar.


def _count_solved(score: Score, results: Sequence[TaskResult]) -> str:
    """Return in sentences what was solved, by which attempt, and how near the rest came."""
    text = escape(
        f"{score.solved_outputs} of {plural(score.outputs, 'test output')} solved: {score.solved_by_first_alone} only by "
        f"attempt 1, {score.solved_by_second_alone} only by attempt 2, {score.solved_by_both} by both. "
    )
    near = sum(result.near for result in results)
    if near:
        words = f"{plural(near, 'task')} {'is' if near == 1 else 'are'} missed by {NEAR_CELLS} cells or fewer"
        text += f'<a href="#filter=near">{words}</a>. '
    sizes = sum(test.wrong_size for result in results for test in result.tests)
    if sizes:
        text += f"{plural(sizes, 'output')} {'has' if sizes == 1 else 'have'} no attempt of the right size. "
    unknown = sum(not result.known for result in results)
    if unknown:
        text += f"The outputs of {plural(unknown, 'task')} more are not known; they do not count. "
    return f"<p>{text}A test output is solved when one of its two attempts equals it in size and in every cell.</p>"


def facts_section(facts: Sequence[tuple[str, str]], settings: str) -> str:
    """Return what the run is, with all settings folded away."""
    rows = "".join(f"<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd></div>" for what, value in facts)
    folded = f"<details><summary>All settings</summary><pre>{escape(settings)}</pre></details>" if settings else ""
    if not rows and not folded:
        return ""
    return _section("about", "What this is", f'<dl class="facts">{rows}</dl>{folded}', "what")


def charts_section(metrics: Sequence[Mapping[str, object]], seconds: Mapping[str, float]) -> str:
    """Return the curves of training and the split of the time; an empty text where there is nothing to draw."""
    figures = []
    for name, title, unit, floor in CURVES:
        points = [(_number(line.get("seconds")), _number(line.get(name))) for line in metrics]
        points = [(at, 100 * value if unit == "%" else value) for at, value in points]
        chart = draw_curve(points, title, unit, floor)
        if chart:
            figures.append(f"<figure><figcaption>{escape(title)}{f', {unit}' if unit else ''}</figcaption>{chart}</figure>")
    content = f'<div class="charts">{"".join(figures)}</div>' if figures else ""
    total = sum(seconds.values())
    if total > 0:
        marks = [f"part-{number % 5}" for number in range(len(seconds))]
        keys = "".join(
            _key(
                mark, f'{escape(name)} <strong>{format_duration(spent)}</strong> <span class="quiet">{spent / total:.0%}</span>'
            )
            for (name, spent), mark in zip(seconds.items(), marks, strict=True)
        )
        bar = draw_shares(list(seconds.items()), marks)
        content += f'<h3>Time</h3><div class="bar">{bar}</div><ul class="keys">{keys}</ul>'
    return _section("training", "Training and time", content) if content else ""


def votes_section(results: Sequence[TaskResult]) -> str:
    """Return how far the views agreed, and whether agreement meant being right; an empty text where nothing voted."""
    tests = [test for result in results for test in result.tests if test.agreement is not None]
    if not tests:
        return ""
    known = any(test.truth is not None for test in tests)
    series = [[0] * _COLUMNS, [0] * _COLUMNS]
    for test in [test for test in tests if test.truth is not None or not known]:
        column = min(int((test.agreement or 0.0) * _COLUMNS), _COLUMNS - 1)
        series[0 if 1 in test.right or not known else 1][column] += 1
    names = ["attempt 1 right", "attempt 1 not right"] if known else ["test inputs"]
    lonely = sum(not test.predicted for result in results for test in result.tests)
    apart = sum(test.disagrees for test in tests)
    views = [test.views or 0 for test in tests]
    text = [
        f"{plural(len(tests), 'test input')}, predicted through {plural_range(min(views), max(views), 'view')} each. "
        "A view is the task turned, mirrored or recolored; every view votes for the grid it predicts.",
        f"On {plural(apart, 'test input')} the views do not agree: under a quarter of them, or only one, predicted attempt 1.",
        f"{plural(lonely, 'test input')} without any prediction; both attempts are fallbacks." if lonely else "",
    ]
    label = "Test inputs by the share of views that predicted attempt 1"
    if known:
        right, wrong = (f"{sum(each[_COLUMNS // 2 :])} of {sum(each)}" for each in series)
        label += f": {right} right ones and {wrong} wrong ones have half or more"
    keys = "".join(f'<li><span class="key series-{number}"></span>{name}</li>' for number, name in enumerate(names))
    chart = draw_histogram(series[: len(names)], names, label)
    figure = f"<figcaption>Test inputs by agreement</figcaption>{chart}"
    figure += f'<ul class="keys" aria-hidden="true">{keys if known else ""}</ul>'
    words = "".join(f"<p>{escape(line)}</p>" for line in text if line)
    return _section("votes", "Votes", f'<div class="split"><figure>{figure}</figure><div>{words}</div></div>')


def table_of_tasks(results: Sequence[TaskResult]) -> str:
    """Return a table of all tasks with their results in words."""
    cells = (f"<th scope=row>{escape(result.task.id)}</th><td>{escape(result.summary())}</td>" for result in results)
    rows = "".join(f"<tr>{each}</tr>" for each in cells)
    return f"<table><thead><tr><th scope=col>Task</th><th scope=col>Outcome</th></tr></thead><tbody>{rows}</tbody></table>"


def _percent(share: float) -> str:
    return f"{share:.2%}" if 0 < share < 0.1 else f"{share:.1%}"


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")
