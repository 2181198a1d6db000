"""The rehearsal: runs the generated notebook on a machine like Kaggle's, with hidden tasks and faults; judges the results."""

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from augment.errors import InputError
from augment.task import Task
from eval.decode import decode
from eval.formatting import format_duration, parse_duration
from eval.provenance import Basis, Provenance
from eval.score import format_score, score_predictions
from pipeline.data.public_data import scored_outputs
from pipeline.kaggle.rehearsal.exam import Exam, make_exam, write_competition
from pipeline.kaggle.rehearsal.sandbox import ISOLATED, NOT_ISOLATED, Machine, namespaces_work, run_notebook
from pipeline.kaggle.rehearsal.scenes import FAULTS, NOT_RUN, PLAIN, Result, Scene, read_outcome, verdict_of, write_bad_weights
from pipeline.system.processors import find_gpus
from submission.format import check_submission, read_submission
from submission.notebook import write_ready_folder
from submission.settings import ACCELERATORS, KaggleSettings

logger = logging.getLogger(__name__)

PROJECT = Path(__file__).parents[3]
SMALL_TASKS = 10
"""Hidden tasks of a scene with a fault, and placeholder tasks of a commit run."""
PATIENCE_SECONDS = 60.0
"""A notebook is killed this long after its time limit."""
AROUND_SECONDS = 15.0
"""Allowed beyond the notebook's own clock, for the start of sandbox and Jupyter and for the last cell."""
WEIGHTS = "someone/arc-weights"
"""The dataset of missing or bad weights."""
RESERVE_SECONDS = 8.0
"""Least reserve: ending processes on two busy cores takes time."""
NO_SETTINGS = KaggleSettings("you", "arc-prize-rehearsal")


@dataclass(frozen=True)
class SimulatePlan:
    """The options of `kaggle simulate`."""

    settings: KaggleSettings = NO_SETTINGS
    hidden_from: Sequence[str] = ("arc2:evaluation",)
    hidden_tasks: int | None = None
    training_from: str = "arc2:training"
    evaluation_from: Sequence[str] = ("arc2:evaluation", "arc1:evaluation")
    time_limit: str = "5m"
    gpu_less: bool = False
    faults: Sequence[str] = ()
    seed: int = 0
    weights: Path | None = None
    out: Path | None = None


def simulate(plan: SimulatePlan) -> int:
    """Run all scenes and print the score and the table; return 0 when all were survived, else 1. Raises InputError."""
    scenes = _scenes(plan.faults)
    if plan.hidden_tasks is not None and plan.hidden_tasks < 1:
        raise InputError(f"{plan.hidden_tasks} hidden tasks: expected at least 1")
    if plan.seed < 0:
        raise InputError(f"the seed must not be negative, got {plan.seed}")
    parse_duration(plan.time_limit)  # refuses what is none before anything is made
    numbered = (Path("runs", f"rehearsal-{number}") for number in count(1))
    out = plan.out or next(folder for folder in numbered if not folder.exists())
    if out.exists() and any(out.iterdir()) and not (out / "rehearsal.json").is_file():
        raise InputError(f"{out} is there already and is no rehearsal; choose another --out")
    exam = make_exam(plan.hidden_from, plan.training_from, plan.evaluation_from, plan.hidden_tasks, plan.seed)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    hidden = f"{len(exam.tasks)} hidden tasks of {' + '.join(plan.hidden_from)} under new ids"
    mounted = f"{len(exam.training.tasks)} training and {len(exam.evaluation.tasks)} evaluation tasks, none of them hidden"
    print(f"{hidden}; {mounted}\n{ISOLATED if namespaces_work() else NOT_ISOLATED}", flush=True)
    if plan.settings.weights_dataset:
        print(f"the dataset {plan.settings.weights_dataset} is at Kaggle; --weights FILE rehearses with weights")
    if plan.settings.train_datasets:
        print(f"not rehearsed, since they are at Kaggle: the tasks of {', '.join(plan.settings.train_datasets)}")
    results: list[Result] = []
    _write_results(out / "rehearsal.json", results)  # marks the folder as a rehearsal, should this be interrupted
    with tempfile.TemporaryDirectory(prefix="arc-source-") as temporary:
        entry = Path(temporary, "entry")  # the source as it is now, even if it is edited meanwhile
        write_ready_folder(entry, plan.settings, PROJECT)
        for scene in scenes:
            logger.info("%s: %s", scene.name, scene.what)
            tasks = exam if scene in PLAIN else exam.smaller(SMALL_TASKS)
            results.append(_run_scene(plan, scene, tasks, entry / "code", out))
            logger.info("%s: %s after %s", scene.name, results[-1].verdict, format_duration(results[-1].seconds))
            _write_results(out / "rehearsal.json", results)
    print(format_results(results))
    print(f"logs, executed notebooks and submissions: {out}")
    return int(not all(result.survived or result.skipped for result in results))


def _scenes(faults: Sequence[str]) -> list[Scene]:
    """Return the scenes of `faults`: both plain runs where there are none, everything for `all`."""
    unknown = [fault for fault in faults if fault not in (*FAULTS, "all")]
    if unknown:
        raise InputError(f"unknown fault {unknown[0]!r}; one of: all, {', '.join(FAULTS)}")
    if not faults:
        return list(PLAIN)
    named = list(FAULTS) if "all" in faults else list(dict.fromkeys(faults))
    return [*(PLAIN if "all" in faults else ()), *(scene for fault in named for scene in FAULTS[fault])]


def _run_scene(plan: SimulatePlan, scene: Scene, exam: Exam, code_folder: Path, out: Path) -> Result:
    results = out / scene.name.replace(" ", "-").replace("'", "")
    if scene.fault == "full-disk" and not namespaces_work():
        return Result(scene, f"{NOT_RUN}: without a sandbox it would fill your disk", 0, 0.0, 0.0)
    with tempfile.TemporaryDirectory(prefix="arc-mounts-") as temporary:
        mounts = Path(temporary)
        settings = _settings(plan, scene)
        limit = parse_duration(settings.time_limit)
        if scene.kind == "commit":
            limit = min(limit, parse_duration(settings.commit_time_limit))
        tests = exam.tasks[1:] if scene.tests == "other" else exam.tasks
        if scene.tests == "placeholder":
            tests = exam.training.tasks[: len(exam.tasks)]  # as on Kaggle
        inputs = _mounts(plan, scene, exam, tests, settings, code_folder, mounts)
        environment = {} if scene.rerun is None else {"KAGGLE_IS_COMPETITION_RERUN": scene.rerun}
        if plan.gpu_less:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        notebook = mounts / "entry" / "notebook" / f"{settings.notebook_slug}.ipynb"
        ends = limit + PATIENCE_SECONDS
        machine = Machine(notebook, inputs, environment, ends, scene.fault, scratch_bytes=scene.scratch_bytes)
        started = time.monotonic()
        code = run_notebook(machine, results, namespaces_work())
        whole_seconds = time.monotonic() - started
    invalid = None
    try:
        check_submission(results / "submission.json", tests)
    except (ValueError, OSError) as error:
        invalid = str(error)
    outcome = read_outcome(results)
    seconds = float(outcome.get("seconds", whole_seconds))
    verdict = verdict_of(scene, code, results, invalid, seconds, limit)
    if verdict == "survived" and whole_seconds > limit + AROUND_SECONDS:
        verdict = f"{whole_seconds:.0f} s in all, over the limit"
    score = None
    if invalid is None and scene.kind == "hidden":
        known = {task.id: exam.solutions[task.id] for task in tests}
        found = score_predictions(read_submission(results / "submission.json"), known)
        score = found.to_json()
        (results / "score.json").write_text(json.dumps(score))
        if scene in PLAIN:
            basis = decode(Basis, outcome["basis"], "outcome.json: basis") if outcome.get("basis") else None
            provenance = Provenance("it is not recorded", basis, str(plan.weights or ""), scored=scored_outputs(known))
            print(format_score(found, f"hidden tasks of {' + '.join(plan.hidden_from)}", provenance), flush=True)
    return Result(scene, verdict, code, seconds, limit, outcome, score)


def _settings(plan: SimulatePlan, scene: Scene) -> KaggleSettings:
    """Return the settings of a scene: those of the plan except for time, machine and what the scene changes."""
    settings = plan.settings
    gpus = () if plan.gpu_less else find_gpus(os.environ)
    if len(gpus) != ACCELERATORS.get(settings.accelerator):
        settings = replace(settings, accelerator="none")  # so that no GPU is reported missing
    limit = scene.limit_seconds if scene not in PLAIN else parse_duration(plan.time_limit)
    reserve = min(parse_duration(settings.reserve), max(RESERVE_SECONDS, 0.03 * limit))
    commit = limit if scene not in PLAIN else min(parse_duration(settings.commit_time_limit), max(60.0, 0.25 * limit))
    return replace(
        settings,
        time_limit=f"{limit:.0f}s",
        reserve=f"{reserve:.0f}s",
        commit_time_limit=f"{commit:.0f}s",
        commit_tasks=min(settings.commit_tasks, 4),
        weights_dataset=WEIGHTS if scene.weights != "given" else "",
        train_datasets=(),
        overrides=(*settings.overrides, *scene.overrides),
        seed=plan.seed,
    )


def _mounts(
    plan: SimulatePlan,
    scene: Scene,
    exam: Exam,
    tests: Sequence[Task],
    settings: KaggleSettings,
    code_folder: Path,
    folder: Path,
) -> dict[str, Path]:
    """Write what is mounted and return it by its name below /kaggle/input; the source is that of `code_folder`."""
    write_ready_folder(folder / "entry", settings, code_folder, plan.weights if scene.weights == "given" else None)
    code, weights_name = f"datasets/{settings.user}/{settings.code_dataset}", f"datasets/{settings.weights_dataset}"
    if scene.mount == "old":
        code, weights_name = settings.code_dataset, settings.weights_dataset.rpartition("/")[2]
    inputs = {code: folder / "entry" / "code"}
    if scene.mount != "none":
        write_competition(folder / "competition", exam, tests)
        if scene.tests == "damaged":
            path = folder / "competition" / "arc-agi_test_challenges.json"
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if scene.mount in ("competitions", "both"):
        inputs[f"competitions/{settings.competition}"] = folder / "competition"
    if scene.mount in ("old", "both"):
        inputs[settings.competition] = folder / "competition"
    if scene.weights != "missing" and settings.weights_dataset:
        weights = folder / "weights"
        weights.mkdir()
        write_bad_weights(weights / "weights.safetensors", scene.weights)
        inputs[weights_name] = weights
    return inputs


def format_results(results: Sequence[Result]) -> str:
    """Return the table of all results, without a line end."""
    rows = [("run", "kind", "verdict", "score", "used/allowed", "starts", "what was done")]
    for result in results:
        score = "" if result.score is None else f"{result.score['rules']['mean_over_tasks']['pass_at_2']:.1%}"
        used, starts = f"{result.seconds:.0f}s/{result.limit_seconds:.0f}s", str(len(result.outcome.get("starts", ())))
        rows.append((result.scene.name, result.scene.kind, result.verdict, score, used, starts, result.scene.what))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    survived, run = sum(result.survived for result in results), sum(not result.skipped for result in results)
    lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows]
    return "\n".join([*lines, f"{survived} of {run} survived"])


def _write_results(path: Path, results: Sequence[Result]) -> None:
    rows: list[dict[str, Any]] = [asdict(result) | {"survived": result.survived} for result in results]
    path.write_text(json.dumps(rows, indent=1))
