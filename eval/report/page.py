"""The report as one HTML file: it loads nothing, escapes all values, and its policy allows only its own script."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files

from eval.draw import PALETTE
from eval.report.gallery import gallery_data
from eval.report.summary import charts_section, facts_section, score_section, table_of_tasks, votes_section
from eval.results import NEAR_CELLS, TaskResult
from eval.score import Score

_MARK = (  # three rows of ARC's palette
    '<svg class="mark" viewBox="0 0 3 3" aria-hidden="true" shape-rendering="crispEdges">'
    + "".join(
        f'<rect x="{number % 3}" y="{number // 3}" width="1" height="1" fill="{PALETTE[color]}"/>'
        for number, color in enumerate((1, 8, 1, 2, 4, 7, 3, 9, 6))
    )
    + "</svg>"
)


@dataclass(frozen=True, eq=False)
class Report:
    """What the page shows."""

    name: str
    sources: str
    """What was solved, in words."""
    results: Sequence[TaskResult] = ()
    """Tasks, in the order of the submission; none for puzzles."""
    score: Score | None = None
    """None where the test outputs are not known."""
    unknown: str = ""
    """Why there is no score, in a sentence."""
    rows: Sequence[tuple[str, str]] = ()
    """The score of puzzles: (what, value)."""
    facts: Sequence[tuple[str, str]] = ()
    settings: str = ""
    """All of them, as JSON to be read by people."""
    metrics: Sequence[Mapping[str, object]] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    """What could not be read, in a sentence each."""
    folder: str = ""
    """The run directory as a shell takes it, for commands that the page shows; empty for none."""


def make_page(report: Report) -> str:
    """Return the HTML of `report`."""
    style, grids, gallery = (files("eval.report").joinpath(name).read_text("utf-8") for name in _FILES)
    script = grids + gallery
    policy = f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    body = "".join(
        (
            score_section(report.score, report.rows, report.unknown, report.results),
            *(f'<p class="note" role="note">{escape(note)}</p>' for note in report.notes),
            charts_section(report.metrics, report.seconds),
            votes_section(report.results),
            facts_section(report.facts, report.settings),
            _gallery(report.results, report.folder) if report.results else "",
        )
    )
    parts = [(name, title) for name, title in _PARTS.items() if f'<section id="{name}"' in body]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title in parts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(report.name)}: report</title>
<style>{style}</style>
</head>
<body>
{'<a class="skip" href="#gallery">Skip to the tasks</a>' if report.results else ""}
<header class="top">{_MARK}<div><h1>{escape(report.name)}</h1><p>{escape(report.sources)}</p></div>
<nav aria-label="Sections">{links}</nav></header>
<main>
{body}
</main>
<script>{script}</script>
</body>
</html>
"""


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


_FILES = ("report.css", "grids.js", "report.js")
_PARTS = {"score": "Score", "training": "Training", "votes": "Votes", "about": "What this is", "gallery": "Tasks"}
# Sections by id, with the text of the links to them.


def _gallery(results: Sequence[TaskResult], folder: str) -> str:
    """Return the frame that the script fills, and a table for browsers without scripts."""
    return f"""<section id="gallery" aria-labelledby="gallery-title" tabindex="-1">
<h2 id="gallery-title">Tasks</h2>
<noscript><p class="note">Grids, filters and drafts need JavaScript. This is what became of each task:</p>
{table_of_tasks(results)}</noscript>
<div id="tools" hidden></div>
<p id="count" role="status" aria-live="polite"></p>
<div id="cards" data-folder="{escape(folder)}" data-near="{NEAR_CELLS}"></div>
</section>
<script type="application/json" id="tasks">{gallery_data(results)}</script>"""
