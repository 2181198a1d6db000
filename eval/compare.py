"""Comparison of submissions: their scores, the outputs that only one of them solves, and the union of all."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from augment.grid import Grid
from augment.task import Solutions, TaskId, TestId
from eval.formatting import plural
from eval.provenance import Provenance, format_rows
from eval.score import RULES, Predictions, Rates, Score, name_all, outcomes_of, score_predictions

Attempts = Mapping[TaskId, Sequence[Sequence[Grid]]]


@dataclass(frozen=True)
class Comparison:
    """What several submissions solve of the same tests."""

    scores: Mapping[str, Score]
    """By name, in the order that was given."""
    alone: Mapping[str, tuple[TestId, ...]]
    """Outputs that only one submission solves, by its name."""
    by_all: tuple[TestId, ...]
    by_none: tuple[TestId, ...]
    union: Rates
    """Mean over tasks of the fraction of outputs that any submission solves. It takes more than two attempts to have it."""
    pooled: Score | None = None
    pooled_from: int = 0
    """How many of the submissions had votes."""
    provenance: Mapping[str, Provenance] = field(default_factory=dict)
    """By name: what each submission rests on, as far as it is known."""

    def to_json(self) -> dict[str, object]:
        """Return plain dicts, tuples, numbers and strings."""
        return asdict(self) | {
            "scores": {name: score.to_json() for name, score in self.scores.items()},
            "pooled": self.pooled.to_json() if self.pooled else None,
            "provenance": {name: self.provenance.get(name, Provenance()).to_json() for name in self.scores},
        }


def compare(
    submissions: Mapping[str, Predictions], solutions: Solutions, pooled: Predictions | None = None, pooled_from: int = 0
) -> Comparison:
    """Return what `submissions` (by name) solve, and what `pooled` does: attempts of the votes of `pooled_from` of them."""
    scores = {name: score_predictions(predictions, solutions) for name, predictions in submissions.items()}
    outcomes = {name: outcomes_of(predictions, solutions) for name, predictions in submissions.items()}
    places = [(task_id, i) for task_id, outputs in solutions.items() for i in range(len(outputs))]
    solved = {name: {(task, i) for task, i in places if judged[task][i].solved} for name, judged in outcomes.items()}
    first = {(task, i) for task, i in places if any(judged[task][i].first for judged in outcomes.values())}
    counts = {place: sum(place in each for each in solved.values()) for place in places}
    return Comparison(
        scores,
        {name: tuple(place for place in places if place in solved[name] and counts[place] == 1) for name in solved},
        tuple(place for place in places if counts[place] == len(submissions)),
        tuple(place for place in places if not counts[place]),
        Rates(_share(first, solutions), _share(set().union(*solved.values()), solutions)),
        score_predictions(pooled, solutions) if pooled is not None else None,
        pooled_from,
    )


def format_comparison(found: Comparison, source: str, solutions: Solutions) -> str:
    """Return `found` as text of several lines, without a line end. `source` names where the solutions come from."""
    first = next(iter(found.scores.values()))
    rows = list(found.scores.items())
    if found.pooled:
        rows.append((f"votes of {found.pooled_from} pooled", found.pooled))
    width = max(len("any of them"), *(len(name) for name, _ in rows))
    head = f"{'pass@2 by rule':{width}}  mean over tasks  per output  all-or-nothing  pass@1 (mean over tasks)"
    lines = [f"{source}: {first.tasks} tasks, {first.outputs} test outputs", head]
    for name, score in rows:
        rates: list[Rates] = [getattr(score, field) for field, _, _ in RULES]
        mean, output, whole = (f"{rate.pass_at_2:.2%}" for rate in rates)
        lines.append(f"{name:{width}}  {mean:>15}  {output:>10}  {whole:>14}  {rates[0].pass_at_1:>23.2%}")
    missing = [(name, score) for name, score in rows if score.missing_outputs]
    union = f"{'any of them':{width}}  {found.union.pass_at_2:>15.2%}  (more than two attempts: a bound, no submission)"
    lines += [union, ""]
    lines += [f"{name}: no attempt for {plural(len(score.missing_outputs), 'output')}, unsolved" for name, score in missing]
    for name, outputs in found.alone.items():
        lines.append(f"solved only by {name}: {_list(outputs, solutions)}")
    lines.append(f"solved by all: {plural(len(found.by_all), 'output')}")
    lines.append(f"solved by none, left to a further run: {_list(found.by_none, solutions)}")
    for name in found.scores:
        lines += ["", f"{name} rests on:", *format_rows(found.provenance.get(name, Provenance()).rows())]
    if found.pooled:
        lines += ["", f"the pooled votes rest on those of {found.pooled_from} of these"]
    return "\n".join(lines)


def describe_change(pooled: Attempts, without: Attempts, solutions: Solutions) -> str:
    """Return in words how submissions differ: by attempts and, where `solutions` are known, by pass@2, mean over tasks."""
    pairs = [(a, b) for task in pooled for a, b in zip(pooled[task], without[task], strict=True)]
    changed = sum(any(not np.array_equal(x, y) for x, y in zip(a, b, strict=True)) for a, b in pairs)
    text = f"other attempts for {changed} of {plural(len(pairs), 'test input')}"
    if not solutions:
        return text
    rates = [score_predictions(each, solutions).mean_over_tasks.pass_at_2 for each in (without, pooled)]
    return f"{text}, pass@2 {rates[0]:.2%} in place of {rates[1]:.2%} (mean over tasks)"


def _share(solved: set[TestId], solutions: Solutions) -> float:
    known = {task: len(outputs) for task, outputs in solutions.items() if len(outputs)}
    return sum(sum((task, i) in solved for i in range(count)) / count for task, count in known.items()) / len(known)


def _list(outputs: tuple[TestId, ...], solutions: Solutions) -> str:
    """Return their number and their tasks, with the number of the test (from 1) where a task has several."""
    names = [f"{task} test {i + 1}" if len(solutions[task]) > 1 else task for task, i in outputs]
    return name_all("output", names, shown=12)
