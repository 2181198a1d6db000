"""The sections of a report that need no script: score, what the run is, training, time, votes. Each returns escaped HTML."""

from collections.abc import Mapping, Sequence
from html import escape

from eval.report.charts import draw_curve, draw_histogram, draw_shares
from eval.report.entries import TaskEntry, is_known, plural
from eval.score import RULES, Rates, Score

CURVES = (
    ("loss", "Loss", "", None),
    ("exact", "Training pairs with every cell right", "%", 0.0),
    ("tokens_per_second", "Tokens per second", "", 0.0),
)
"""(field of a line of metrics.jsonl, title, unit, floor of the axis)."""

COLUMNS = 10


def score_section(
    score: Score | None, rows: Sequence[tuple[str, str]], unknown: str, entries: Sequence[TaskEntry]
) -> str:  # fmt: skip
    """Return the score under each rule with what it means, or why there is none."""
    title = '<section aria-labelledby="score-title"><h2 id="score-title">Score</h2>'
    if rows:
        return f"{title}{_table(rows)}</section>"
    if score is None:
        return (
            f'{title}<p class="note"><strong>Solutions unknown.</strong> {escape(unknown)} '
            "Nothing on this page says what is right or wrong.</p></section>"
        )
    tiles = []
    for number, (field, name, meaning) in enumerate(RULES):
        rates: Rates = getattr(score, field)
        tiles.append(
            f'<div class="tile{"" if number else " first"}"><dt>{escape(name)}</dt>'
            f'<dd><span class="big">{rates.pass_at_2:.1%}</span><span class="quiet"> pass@2</span></dd>'
            f'<dd class="quiet">{rates.pass_at_1:.1%} with attempt 1 alone (pass@1)</dd>'
            f'<dd class="meaning">{escape(meaning)}</dd></div>'
        )
    by = (
        f"{score.solved_by_first_alone} by attempt 1, {score.solved_by_second_alone} by attempt 2, "
        f"{score.solved_by_both} by both"
    )
    lines = [f"{plural(score.tasks, 'task')}, {plural(score.outputs, 'test output')}; {score.solved_outputs} solved: {by}."]
    near = sum(1 for entry in entries if entry.missed_by and entry.missed_by <= 5)
    wrong = [test for entry in entries for test in entry.tests if test.kind in ("cells", "size")]
    if wrong:
        sizes = sum(test.kind == "size" for test in wrong)
        lines.append(
            f"Of {plural(len(wrong), 'output')} not solved, {sizes} {'has' if sizes == 1 else 'have'} no attempt of the right "
            f"size; {plural(near, 'task')} {'is' if near == 1 else 'are'} missed by 5 cells or fewer."
        )
    unknown_tasks = sum(not entry.known for entry in entries)
    if unknown_tasks:
        lines.append(f"The outputs of {plural(unknown_tasks, 'task')} more are not known; they do not count.")
    lines.append("A test output is solved when one of the two attempts equals it in size and in every cell.")
    return f'{title}<dl class="tiles">{"".join(tiles)}</dl><p>{escape(" ".join(lines))}</p></section>'


def facts_section(facts: Sequence[tuple[str, str]], settings: str) -> str:
    """Return what the run is, with all settings folded away."""
    rows = "".join(f"<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd></div>" for what, value in facts)
    folded = f"<details><summary>All settings</summary><pre>{escape(settings)}</pre></details>" if settings else ""
    if not rows and not folded:
        return ""
    return (
        f'<section aria-labelledby="what-title"><h2 id="what-title">What this is</h2>'
        f'<dl class="facts">{rows}</dl>{folded}</section>'
    )


def charts_section(metrics: Sequence[Mapping[str, object]], seconds: Mapping[str, float]) -> str:
    """Return the curves of training and the split of the time; an empty text where there is nothing to draw."""
    figures = []
    for name, title, unit, floor in CURVES:
        points = [(_number(line.get("seconds")), _number(line.get(name))) for line in metrics]
        points = [(at, 100 * value if unit == "%" else value) for at, value in points]
        chart = draw_curve(points, title, unit, floor)
        if chart:
            figures.append(f"<figure><figcaption>{escape(title)}{f', {unit}' if unit else ''}</figcaption>{chart}</figure>")
    total = sum(seconds.values())
    bar = ""
    if total > 0:
        keys = "".join(
            f'<li><span class="key part-{number}" aria-hidden="true"></span>{escape(name)} '
            f"<strong>{format_seconds(amount)}</strong> <span class=quiet>{amount / total:.0%}</span></li>"
            for number, (name, amount) in enumerate(seconds.items())
        )
        bar = f'<h3>Time</h3><div class="bar">{draw_shares(list(seconds.items()))}</div><ul class="keys">{keys}</ul>'
    if not figures and not bar:
        return ""
    curves = f'<div class="charts">{"".join(figures)}</div>' if figures else ""
    return f'<section aria-labelledby="training-title"><h2 id="training-title">Training and time</h2>{curves}{bar}</section>'


def votes_section(entries: Sequence[TaskEntry]) -> str:
    """Return how far the views agreed, and whether agreement meant being right; an empty text where nothing voted."""
    tests = [test for entry in entries for test in entry.tests if test.agreement is not None]
    if not tests:
        return ""
    known = is_known(entries)
    series = [[0] * COLUMNS, [0] * COLUMNS]
    for test in tests:
        column = min(int((test.agreement or 0.0) * COLUMNS), COLUMNS - 1)
        series[0 if test.solved_by == 1 or not known else 1][column] += 1
    names = ["attempt 1 right", "attempt 1 not right"] if known else ["test inputs"]
    lonely = sum(not test.predicted for entry in entries for test in entry.tests)
    apart = sum(test.disagrees for test in tests)
    views = [test.views or 0 for test in tests]
    text = [
        f"{plural(len(tests), 'test input')}, asked through {_range(views)} each. "
        "A view is the task turned, mirrored or recolored; every view votes for the grid it predicts.",
        f"On {plural(apart, 'test input')} the views do not agree: under a quarter of them, or one alone, predicted attempt 1.",
        f"{plural(lonely, 'test input')} without any prediction; both attempts are fallbacks." if lonely else "",
    ]
    label = "Test inputs by the share of views that predicted attempt 1"
    if known:
        right, wrong = (f"{sum(each[COLUMNS // 2 :])} of {sum(each)}" for each in series)
        label += f": {right} right ones and {wrong} wrong ones have half or more"
    keys = "".join(f'<li><span class="key series-{number}"></span>{name}</li>' for number, name in enumerate(names))
    chart = draw_histogram(series[: len(names)], names, label)
    return (
        '<section aria-labelledby="votes-title"><h2 id="votes-title">Votes</h2><div class="split"><figure>'
        f"<figcaption>Test inputs by agreement</figcaption>{chart}"
        f'<ul class="keys" aria-hidden="true">{keys if known else ""}</ul></figure>'
        f"<div>{''.join(f'<p>{escape(line)}</p>' for line in text if line)}</div></div></section>"
    )


def table_of_tasks(entries: Sequence[TaskEntry]) -> str:
    """Return a table of all tasks with their verdicts."""
    rows = "".join(
        f"<tr><th scope=row>{escape(entry.task.id)}</th><td>{escape(entry.verdict())}</td></tr>" for entry in entries
    )
    return f"<table><thead><tr><th scope=col>Task</th><th scope=col>Outcome</th></tr></thead><tbody>{rows}</tbody></table>"


def format_seconds(seconds: float) -> str:
    """Return a duration as people say it: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return f"<table>{''.join(f'<tr><th scope=row>{escape(a)}</th><td>{escape(b)}</td></tr>' for a, b in rows)}</table>"


def _range(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return plural(most, "view") if least == most else f"{least:,} to {plural(most, 'view')}"


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")
