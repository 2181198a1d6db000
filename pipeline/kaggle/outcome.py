"""The outcome of a run of the Kaggle notebook: shown in the notebook, and left as `outcome.json`."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from augment.grid import Grid
from augment.task import Solutions, Task
from eval.draw import draw_task
from eval.files import read_object
from eval.formatting import format_duration
from eval.provenance import Basis
from pipeline.data.sources import load_source
from pipeline.inference.facts import SCORE_FILE, VOTES_FILE
from pipeline.jobs.run_record import record_if_usable
from pipeline.kaggle.plan import EVALUATION, Plan
from pipeline.kaggle.starts import BAD_INPUT, EndedStart
from pipeline.training.metrics import METRICS_FILE, read_metrics
from submission.format import read_submission


@dataclass(frozen=True, eq=False)
class Outcome:
    """What happened, and what is left."""

    plan: Plan
    starts: Sequence[EndedStart]
    problem: str | None
    """Why Kaggle would refuse the submission; None when it is complete and valid."""
    seconds: float

    @property
    def run(self) -> Path:
        """The run directory: that of the latest predictions."""
        voted = sorted(self.plan.scratch.glob(f"run*/{VOTES_FILE}"), key=lambda path: path.stat().st_mtime)
        return voted[-1].parent if voted else self.plan.scratch / "run"

    @property
    def test_inputs(self) -> int:
        """How many there are in the mounted test file."""
        return sum(len(task.test) for task in self.plan.tasks)

    def without_prediction(self) -> int | None:
        """Return how many test inputs of the mounted tests have only fallbacks; None when nothing was predicted."""
        votes = _read_json(self.run / VOTES_FILE)
        if votes is None:
            return None
        own = {task.id for task in self.plan.tasks}
        unreadable = sum(len(task.test) for task in self.plan.unreadable)
        return unreadable + sum(place[0] in own for place in votes.get("without_prediction", []))

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        plan = self.plan
        record, metrics, votes = record_if_usable(self.run), [], _read_json(self.run / VOTES_FILE) or {}
        with suppress(OSError, ValueError):
            metrics = read_metrics(self.run / METRICS_FILE)
        return {
            "kind": plan.kind,
            "submission": str(plan.submission),
            "valid": self.problem is None,
            "problem": self.problem,
            "tasks": len(plan.tasks),
            "test_inputs": self.test_inputs,
            "without_prediction": self.without_prediction(),
            "data": str(plan.data),
            "gpus": list(plan.gpus),
            "weights": plan.weights_state,
            "starts": [asdict(each) for each in self.starts],
            "run": None if record is None else asdict(record),
            "training": metrics[-1] if metrics else None,
            "score": _read_json(self.run / SCORE_FILE),
            "basis": {field.name: votes[field.name] for field in fields(Basis) if field.name in votes},
            "seconds": round(self.seconds, 1),
            "time_limit": plan.limit,
            "messages": plan.messages,
        }

    def lines(self) -> list[str]:
        """Return what happened in a few lines."""
        values, plan = self.to_json(), self.plan
        inputs, without = self.test_inputs, values["without_prediction"]
        valid = "complete and valid" if self.problem is None else f"NOT VALID: {self.problem}"
        failed = sum(start.code != 0 for start in self.starts)
        lines = [
            f"{plan.submission}: {len(plan.tasks)} tasks, {inputs} test inputs: {valid}",
            f"test inputs without a prediction: {inputs if without is None else without} of {inputs}",
            f"starts of the program: {len(self.starts)}, {failed} of them failed",
            f"weights: {plan.weights_state}; warnings: {len(plan.messages)}",
        ]
        if values["training"]:
            lines.append("last metrics: " + ", ".join(f"{name} {value}" for name, value in values["training"].items()))
        if values["run"]:
            stages = ", ".join(f"{stage} {format_duration(spent)}" for stage, spent in values["run"]["seconds"].items())
            lines.append(f"stages: {stages}; device: {values['run']['device']}")
            lines += [f"in a slower way: {words}" for words in values["run"]["fallbacks"]]
        return [*lines, f"{format_duration(self.seconds)} of {format_duration(plan.limit)}"]

    def invalid(self) -> list[str]:
        """Return why Kaggle would refuse the submission, if it would."""
        return [] if self.problem is None else [f"the submission is not valid: {self.problem}"]

    def problems(self) -> list[str]:
        """Return what should be fixed before the notebook is submitted; where nothing was started, why."""
        refused = any(start.code == BAD_INPUT for start in self.starts)
        checks = [
            (self.starts and self.starts[-1].code != 0, "the program did not end well"),
            (refused, "the program refused what it was started with; the log says what, and what it was started without"),
            (self.starts and self.without_prediction() in (None, self.test_inputs), "nothing was predicted"),
            (self.plan.weights_state == "dropped", "the program was started without the weights"),
        ]
        return [*self.invalid(), *(words for applies, words in checks if applies), *self.plan.problems]

    def show(self) -> None:
        """Print result, warnings and the log's end, and draw two tasks.

        Raises RuntimeError in a commit run that has problems, so that they are seen before a submission is spent on them. In a
        hidden run only a submission that is not valid is a problem.
        """
        print("\n".join(list(self.plan.log.tail)[-30:]))
        for message in self.plan.messages:
            print(f"warning: {message}")
        try:
            if score := _read_json(self.run / SCORE_FILE):
                print(f"score on {score.get('tasks')} evaluation tasks, pass@2:")
                for rule in score.get("rules", {}).values():
                    print(f"  {rule['name']}: {rule['pass_at_2']:.2%}")
            if not self.plan.hidden:  # nobody sees the notebook of a hidden run
                self._draw()
        except Exception as error:  # noqa: BLE001 (neither is worth a submission)
            print(f"no score, or no picture: {type(error).__name__}: {error}")
        problems = self.invalid() if self.plan.hidden else self.problems()
        if problems:
            raise RuntimeError(f"this {self.plan.kind} run went wrong: {'; '.join(problems)}")

    def _draw(self) -> None:
        """Draw the training curves and the first tasks that were scored, or the first tests, below the cell."""
        from IPython.display import Image, display  # noqa: PLC0415  (only there in notebooks)

        from eval.curves import draw_training  # noqa: PLC0415  (imports matplotlib, which is slow)

        solutions: Solutions = {}
        tasks: Sequence[Task] = self.plan.tasks
        run, path, scored = self.run, self.plan.submission, self.plan.scored
        if (scored / f"arc-agi_{EVALUATION}_challenges.json").is_file() and (run / "submission.json").is_file():
            source = load_source(f"kaggle:{scored}:{EVALUATION}")
            tasks, solutions, path = source.tasks, source.solutions, run / "submission.json"
        attempts: dict[str, list[tuple[Grid, Grid]]] = read_submission(path)
        run.mkdir(parents=True, exist_ok=True)
        metrics = read_metrics(run / METRICS_FILE)
        if metrics:
            draw_training(metrics).leave(run / "training.png")
            display(Image(filename=str(run / "training.png"), width=900))
        for number, task in enumerate(tasks[:2]):
            picture = run / f"task-{number}.png"
            draw_task(task, attempts.get(task.id, []), solutions).leave(picture)
            display(Image(filename=str(picture), width=900))


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return read_object(path)
    except (OSError, ValueError):
        return None
