"""What a run of the Kaggle notebook came to: shown in the notebook, and left as `outcome.json`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from augment.grid import Grid
from augment.task import Solutions, Task
from eval.curves import draw_training
from eval.draw import draw_task
from eval.files import replace_file
from eval.formatting import format_duration
from pipeline.data.sources import load_source
from pipeline.kaggle.attempts import BAD_INPUT
from pipeline.training.metrics import read_metrics
from submission.format import read_submission

SHOWN_LINES = 30

SHOWN_TASKS = 2


@dataclass(frozen=True)
class StartRecord:
    """One start of the program."""

    command: Sequence[str]
    code: int | None
    """Its exit code, negative for a signal; None when the time limit ended it."""
    seconds: float
    why: str


@dataclass(frozen=True, eq=False)
class Outcome:
    """What happened, and what was left."""

    kind: str
    """hidden or commit."""
    submission: Path
    problem: str | None
    """Why Kaggle would not take the submission; None when it is complete and valid."""
    tasks: tuple[Task, ...]
    """Of the mounted test file."""
    data: Path
    gpus: tuple[str, ...]
    expected_gpus: int
    weights: str
    """used, none, missing, damaged, or dropped after starts that failed with them."""
    starts: tuple[StartRecord, ...]
    run: Path
    """The run directory."""
    scored: Path
    """Where a commit run keeps the evaluation tasks that it scores."""
    seconds: float
    time_limit: float
    messages: tuple[str, ...]
    log: tuple[str, ...]

    def score(self) -> dict[str, Any] | None:
        """Return the score of the run, None where the solutions are not known."""
        return _read_json(self.run / "score.json")

    def without_prediction(self) -> int | None:
        """Return how many test inputs of the mounted tests have fallbacks alone; None when nothing was predicted."""
        votes = _read_json(self.run / "votes.json")
        if votes is None:
            return None
        own = {task.id for task in self.tasks}
        return sum(place[0] in own for place in votes.get("without_prediction", []))

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "kind": self.kind,
            "submission": str(self.submission),
            "valid": self.problem is None,
            "problem": self.problem,
            "tasks": len(self.tasks),
            "test_inputs": sum(len(task.test) for task in self.tasks),
            "without_prediction": self.without_prediction(),
            "data": str(self.data),
            "gpus": list(self.gpus),
            "weights": self.weights,
            "starts": [asdict(start) for start in self.starts],
            "score": self.score(),
            "seconds": round(self.seconds, 1),
            "time_limit": self.time_limit,
            "messages": list(self.messages),
        }

    def write(self, path: Path) -> None:
        """Write `to_json` to `path`, in one step. Raises OSError."""
        replace_file(path, json.dumps(self.to_json(), indent=1).encode())

    def lines(self) -> list[str]:
        """Return what happened in a few lines."""
        inputs = sum(len(task.test) for task in self.tasks)
        without = self.without_prediction()
        failed = sum(start.code != 0 for start in self.starts)
        valid = "complete and valid" if self.problem is None else f"NOT VALID: {self.problem}"
        return [
            f"{self.submission}: {len(self.tasks)} tasks, {inputs} test inputs: {valid}",
            f"test inputs without a prediction: {inputs if without is None else without} of {inputs}",
            f"starts of the program: {len(self.starts)}, {failed} of them failed",
            f"weights: {self.weights}; warnings: {len(self.messages)}",
            f"{format_duration(self.seconds)} of {format_duration(self.time_limit)}",
        ]

    def problems(self) -> list[str]:
        """Return what a person should mend before the notebook is submitted."""
        found = [] if self.problem is None else [f"the submission is not valid: {self.problem}"]
        if not self.starts or self.starts[-1].code != 0:
            found.append("the program did not end well")
        if any(start.code == BAD_INPUT for start in self.starts):
            found.append("the program refused weights, overrides or tasks and was started without them")
        if self.without_prediction() in (None, sum(len(task.test) for task in self.tasks)):
            found.append("nothing was predicted")
        if self.weights in ("missing", "damaged", "dropped"):
            found.append(f"the weights are {self.weights}")
        if len(self.gpus) < self.expected_gpus:
            found.append(f"{len(self.gpus)} GPUs instead of {self.expected_gpus}")
        return found

    def show(self) -> None:
        """Print result, warnings and the log's end, and draw some tasks.

        Raises RuntimeError in a commit run that has problems, so that they are seen before a submission is spent on them. In a
        hidden run only a submission that is not valid is one.
        """
        print("\n".join(self.log[-SHOWN_LINES:]))
        for message in self.messages:
            print(f"warning: {message}")
        score = self.score()
        if score is not None:
            print(f"score on {score.get('tasks')} evaluation tasks, pass@2:")
            for rule in score.get("rules", {}).values():
                print(f"  {rule['name']}: {rule['pass_at_2']:.2%}")
        try:
            self._draw()
        except Exception as error:  # noqa: BLE001 (a picture is not worth a submission)
            print(f"no picture: {type(error).__name__}: {error}")
        problems = self.problems() if self.kind == "commit" else self.problems()[: self.problem is not None]
        if problems:
            raise RuntimeError(f"this {self.kind} run went wrong: {'; '.join(problems)}")

    def _draw(self) -> None:
        """Draw the curves of training and the first tasks that were scored, or the first of the tests, below the cell."""
        solutions: Solutions = {}
        tasks: Sequence[Task] = self.tasks
        path = self.submission
        if (self.scored / "arc-agi_evaluation_challenges.json").is_file() and (self.run / "submission.json").is_file():
            source = load_source(f"kaggle:{self.scored}:evaluation")
            tasks, solutions, path = source.tasks, source.solutions, self.run / "submission.json"
        attempts: dict[str, list[tuple[Grid, Grid]]] = read_submission(path)
        self.run.mkdir(parents=True, exist_ok=True)
        metrics = read_metrics(self.run / "metrics.jsonl")
        if metrics:
            draw_training(metrics, self.run / "training.png")
            _display(self.run / "training.png")
        for number, task in enumerate(tasks[:SHOWN_TASKS]):
            picture = self.run / f"task-{number}.png"
            draw_task(task, attempts.get(task.id, []), solutions, picture)
            _display(picture)


def _display(picture: Path) -> None:
    """Show a picture below the cell; outside of a notebook its path is printed."""
    try:
        from IPython.display import Image, display  # noqa: PLC0415  (there in notebooks alone)
    except ImportError:
        print(picture)
        return
    display(Image(filename=str(picture), width=900))


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
