"""A report with one task of each fate, made by hand, and a reader of pages."""

from html.parser import HTMLParser

import numpy as np
import numpy.typing as npt

from augment.canvas import encode
from augment.grid import Grid
from augment.task import Pair, Task
from eval.report.page import Report
from eval.results import Attempt, Draft, TaskResult, TestResult
from eval.score import score_predictions

HOSTILE = '</script><img src=x onerror="document.title=1">&amp;'
"""As a task id, a run's name, a source."""


def grid(*rows: str) -> Grid:
    return np.array([list(map(int, row)) for row in rows], np.uint8)


QUESTION, TRUTH = grid("012", "340"), grid("120", "034")
CLOSE, FAR, SMALL = grid("120", "035"), grid("999", "999"), grid("12")


def entry(
    task_id: str,
    *attempts: tuple[npt.NDArray[np.uint8] | None, int | None],
    views: int | None = 10,
    truth: Grid | None = TRUTH,
    **more: object,
) -> TaskResult:
    """A task of one test input, with (grid, votes) of each attempt."""
    made = tuple(Attempt(each, votes, 0.25 if votes else None) for each, votes in attempts)
    task = Task(task_id, (Pair(QUESTION, TRUTH), Pair(TRUTH, QUESTION)), (QUESTION,))
    return TaskResult(task, (TestResult(made, views, 4 if views else 0, truth, **more),))  # type: ignore[arg-type]


def both(first: TaskResult, second: TaskResult) -> TaskResult:
    """One task with the test inputs of two."""
    task = Task(first.task.id, first.task.train, first.task.test + second.task.test)
    return TaskResult(task, first.tests + second.tests)


DRAFTS = tuple(
    Draft(encode(each, 3, 4), probability)
    for each, probability in ((FAR, 0.1), (CLOSE, 0.2), (CLOSE, 0.3), (TRUTH, float("nan")))
)

FATES = {
    "first": entry("first", (TRUTH, 8), (FAR, 1), truth_rank=1),
    "second": entry("second", (FAR, 5), (TRUTH, 4), truth_rank=2),
    "near": entry("near", (FAR, 6), (CLOSE, 2), truth_rank=3, drafts=DRAFTS),
    "far": entry("far", (FAR, 6), (SMALL, 1), truth_rank=0),
    "size": entry("size", (SMALL, 9), (grid("1"), 1)),
    "part": both(entry("part", (TRUTH, 3), (FAR, 2)), entry("", (CLOSE, 3), (FAR, 2))),
    "apart": entry("apart", (FAR, 2), (SMALL, 1)),
    "lone": entry("lone", (FAR, 0), (SMALL, 0), views=0),
    "secret": entry("secret", (FAR, 8), (SMALL, 1), truth=None),
    HOSTILE: entry(HOSTILE, (FAR, 8), (None, None)),
}
"""By task id."""


def example_report() -> Report:
    """Everything that a report can tell, about `FATES`."""
    results = list(FATES.values())
    solutions = {each.task.id: tuple(test.truth for test in each.tests if test.truth is not None) for each in results}
    predictions = {each.task.id: [[attempt.grid for attempt in test.attempts] for test in each.tests] for each in results}
    known = {task_id: truths for task_id, truths in solutions.items() if truths}
    return Report(
        name=f"run {HOSTILE}",
        sources=f"json:{HOSTILE}",
        results=results,
        score=score_predictions({task_id: predictions[task_id] for task_id in known}, known),
        facts=[("Attempts", f"single checkpoint: {HOSTILE}")],
        settings=f'{{"note": "{HOSTILE}"}}',
        metrics=[
            {"step": 10 * i, "seconds": 30.0 * i, "loss": 3 / (i + 1), "exact": i / 20, "tokens_per_second": 900 + i}
            for i in range(20)
        ],
        seconds={"start": 2.0, "build": 1.0, "train": 90.0, "predict": 20.0},
        notes=[f"A note of {HOSTILE}"],
    )


class Reader(HTMLParser):
    """Reads a page as a browser would: elements, their attributes, texts."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.text = ""
        self.comments = 0
        self.inside: list[str] = []
        self.feed(page)
        self.close()

    @property
    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]

    @property
    def attributes(self) -> list[str]:
        return [name for _, attributes in self.elements for name in attributes]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img", "br"):
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.text += data
        self.texts.setdefault(self.inside[-1] if self.inside else "", []).append(data)

    def handle_comment(self, data: str) -> None:
        self.comments += 1
