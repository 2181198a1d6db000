"""Scores attempts against known test outputs under each of the three rules in use.

An attempt is right when it equals the test output exactly. The rules differ by several points, so a score names its rule.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction

import numpy as np

from augment.errors import InputError
from augment.grid import Grid
from augment.task import Solutions, TaskId, TestId
from eval.formatting import plural
from eval.provenance import Provenance, format_rows

Predictions = Mapping[TaskId, Sequence[Sequence[Grid | None]]]
"""Attempts in order, by task id and test index; None is an attempt that is missing. Attempts after the second do not count."""


@dataclass(frozen=True)
class Outcome:
    """Whether one test input was solved, and by which attempt."""

    first: bool
    second: bool
    attempted: bool

    @property
    def solved(self) -> bool:
        return self.first or self.second


@dataclass(frozen=True)
class Rates:
    """The score under one rule, 0..1."""

    pass_at_1: float
    pass_at_2: float
    """With both attempts: what ARC and Kaggle report."""


@dataclass(frozen=True)
class Score:
    """What attempts are worth under each rule, and what they were judged on."""

    mean_over_tasks: Rates
    """Mean over tasks of the fraction of their outputs solved."""
    per_output: Rates
    """Outputs solved, divided by the number of outputs."""
    all_or_nothing: Rates
    """Tasks with every output solved, divided by the number of tasks."""
    tasks: int
    outputs: int
    solved_by_first_alone: int
    """Outputs that only attempt 1 solved."""
    solved_by_second_alone: int
    solved_by_both: int
    missing_tasks: tuple[TaskId, ...]
    """Tasks of the solutions without any prediction. They count as unsolved."""
    missing_outputs: tuple[TestId, ...]
    """(task id, test index) of outputs without any attempt, those of missing tasks included. They count as unsolved."""
    unknown_tasks: tuple[TaskId, ...]
    """Tasks with predictions that the solutions do not know. They do not count."""
    unknown_outputs: tuple[TestId, ...]
    """(task id, test index) of predictions beyond the outputs of a known task. They do not count."""

    @property
    def solved_outputs(self) -> int:
        """Outputs that either attempt solved."""
        return self.solved_by_first_alone + self.solved_by_second_alone + self.solved_by_both

    def to_json(self) -> dict[str, object]:
        """Return all fields as plain dicts, lists, ints, floats (rates 0..1) and strings, with the name of each rule."""
        fields = asdict(self)
        rules = {field: {"name": name, **fields.pop(field)} for field, name, _ in RULES}
        return {"rules": rules, "solved_outputs": self.solved_outputs, **fields}


RULES = (
    ("mean_over_tasks", "mean over tasks of the fraction solved", "Kaggle's leaderboard behaves like it"),
    ("per_output", "per test output", "Kaggle's page words it so: outputs solved / outputs"),
    ("all_or_nothing", "all-or-nothing per task", "a task counts when all its outputs are solved"),
)
"""(field of `Score`, name, explanation), in the order of printing: Kaggle's first."""


def outcomes_of(predictions: Predictions, solutions: Solutions) -> dict[TaskId, tuple[Outcome, ...]]:
    """Return the outcome of every test output of `solutions`, in their order; what is not predicted is not solved."""
    outcomes = {}
    for task_id, outputs in solutions.items():
        attempts = [*predictions.get(task_id, ()), *[()] * len(outputs)]
        judged = []
        for given, output in zip(attempts, outputs, strict=False):
            first, second = (attempt is not None and np.array_equal(attempt, output) for attempt in [*given, None, None][:2])
            judged.append(Outcome(first, second, attempted=any(attempt is not None for attempt in given[:2])))
        outcomes[task_id] = tuple(judged)
    return outcomes


def score_predictions(predictions: Predictions, solutions: Solutions) -> Score:
    """Return the score by every rule; tasks without outputs are left out. Raises InputError when that leaves nothing."""
    known = {task_id: outputs for task_id, outputs in solutions.items() if len(outputs)}
    if not known:
        raise InputError("nothing to score: the solutions hold no test output")
    outcomes = outcomes_of(predictions, known)
    first = [[outcome.first for outcome in task] for task in outcomes.values()]
    solved = [first, [[outcome.solved for outcome in task] for task in outcomes.values()]]
    # fractions are exact, so the order of the tasks does not matter
    means = [sum(Fraction(sum(task), len(task)) for task in tasks) / len(tasks) for tasks in solved]
    flat = [(task_id, i, outcome) for task_id, task in outcomes.items() for i, outcome in enumerate(task)]
    return Score(
        mean_over_tasks=Rates(*map(float, means)),
        per_output=Rates(*(sum(map(sum, tasks)) / len(flat) for tasks in solved)),
        all_or_nothing=Rates(*(sum(map(all, tasks)) / len(tasks) for tasks in solved)),
        tasks=len(outcomes),
        outputs=len(flat),
        solved_by_first_alone=sum(outcome.first and not outcome.second for _, _, outcome in flat),
        solved_by_second_alone=sum(outcome.second and not outcome.first for _, _, outcome in flat),
        solved_by_both=sum(outcome.first and outcome.second for _, _, outcome in flat),
        missing_tasks=tuple(task_id for task_id in known if task_id not in predictions),
        missing_outputs=tuple((task_id, i) for task_id, i, outcome in flat if not outcome.attempted),
        unknown_tasks=tuple(task_id for task_id in predictions if task_id not in solutions),
        unknown_outputs=tuple(
            (task_id, i)
            for task_id, attempts in predictions.items()
            if task_id in solutions
            for i in range(len(solutions[task_id]), len(attempts))
        ),
    )


def format_score(score: Score, source: str, provenance: Provenance | None = None) -> str:
    """Return `score` as lines of text: every rule, counts, what attempts rest on. `source` names what was scored."""
    width = max(len(name) for _, name, _ in RULES)
    lines = [
        f"{source}: {plural(score.tasks, 'task')}, {plural(score.outputs, 'test output')}",
        f"{'rule':{width}}   pass@1   pass@2",
    ]
    for field, name, explanation in RULES:
        rates: Rates = getattr(score, field)
        lines.append(f"{name:{width}}  {rates.pass_at_1:7.2%}  {rates.pass_at_2:7.2%}  {explanation}")
    lines.append(
        f"solved {score.solved_outputs} of {plural(score.outputs, 'output')}: {score.solved_by_first_alone} only by "
        f"attempt 1, {score.solved_by_second_alone} only by attempt 2, {score.solved_by_both} by both"
    )
    if score.missing_outputs:
        lines.append(f"no attempt, counted as unsolved: {name_all('output', _labels(score.missing_outputs))}")
    if score.missing_tasks:
        lines.append(f"no prediction at all, counted as unsolved: {name_all('task', score.missing_tasks)}")
    if score.unknown_tasks:
        lines.append(f"not in the solutions, not counted: {name_all('task', score.unknown_tasks)}")
    if score.unknown_outputs:
        lines.append(f"more than the task has, not counted: {name_all('output', _labels(score.unknown_outputs))}")
    lines += format_rows((provenance or Provenance()).rows())
    return "\n".join(lines)


def _labels(outputs: Sequence[TestId]) -> list[str]:
    return [f"{task_id}[{i}]" for task_id, i in outputs]


def name_all(noun: str, names: Sequence[str], shown: int = 5) -> str:
    """Return the number of `names` and the first of them."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    escaped = ", ".join(repr(name)[1:-1] for name in names[:shown])  # a foreign file's ids may hold line ends
    return plural(len(names), noun) + (f" ({escaped}{more})" if names else "")
