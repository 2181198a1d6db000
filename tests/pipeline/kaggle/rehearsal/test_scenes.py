"""Faults: the expectation of each can fail, and the real notebook survives the short ones here.

All of them, with the real program: `python -m pipeline kaggle simulate --fault all`, or `make kaggle-rehearsal`.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.array_files import Damaged, read_metadata
from pipeline.data.sources import load_source
from pipeline.kaggle.rehearsal.exam import make_exam
from pipeline.kaggle.rehearsal.inject_fault import INJECTIONS
from pipeline.kaggle.rehearsal.sandbox import Machine, namespaces_work
from pipeline.kaggle.rehearsal.scenes import FAULTS, PLAIN, Result, Scene, verdict_of, write_bad_weights
from pipeline.kaggle.rehearsal.simulate import SimulatePlan, _mounts, format_results, simulate
from submission.format import fallback_submission, write_submission
from submission.settings import KaggleSettings
from tests.pipeline.kaggle.rehearsal.test_exam import joined, large
from tests.pipeline.tiny import write_kaggle

OUTCOME = {"kind": "hidden", "test_inputs": 4, "without_prediction": 1}


def leave(folder: Path, log: str = "hidden run: 4 tasks\n", fault: bool = True, **changes: object) -> Path:
    (folder / "notebook.log").write_text(log)
    (folder / "outcome.json").write_text(json.dumps(OUTCOME | changes))
    if fault:
        (folder / "fault.json").write_text("{}")
    return folder


SCENE = Scene("s", "", fault="kill-rank", logged=("killed by",))
LOG = "hidden run: 4 tasks\nkilled by signal 9"


@pytest.mark.parametrize(
    ("scene", "left", "code", "invalid", "seconds", "verdict"),
    [
        (SCENE, {"log": LOG}, 0, None, 9.0, "survived"),
        (SCENE, {"log": LOG, "fault": False}, 0, None, 9.0, "the fault was not injected"),
        (SCENE, {"log": "hidden run: 4 tasks"}, 0, None, 9.0, "the log does not say ['killed by']"),
        (SCENE, {"log": "commit run: x\nkilled by"}, 0, None, 9.0, "it was no hidden run"),
        (SCENE, {"log": LOG}, 1, None, 9.0, "exit code 1"),
        (PLAIN[0], {"log": "commit run: x\nthe notebook failed: Y"}, 1, None, 9.0, "exit code 1: the notebook failed: Y"),
        (SCENE, {"log": LOG}, 0, "there is none", 9.0, "no valid submission: there is none"),
        (SCENE, {"log": LOG}, 0, None, 11.0, "11 s, over the limit"),
        (SCENE, {"log": LOG, "without_prediction": 4}, 0, None, 9.0, "nothing was predicted"),
        (SCENE, {"log": LOG, "without_prediction": None}, 0, None, 9.0, "nothing was predicted"),
        (Scene("r", "", kind="refused", logged=("nothing",)), {"log": "nothing"}, 1, "there is none", 2.0, "survived"),
        (Scene("r", "", kind="refused"), {}, 0, "there is none", 2.0, "exit code 0, expected 1"),
        (Scene("r", "", kind="refused"), {}, 1, None, 2.0, "there is a submission where none can be"),
    ],
)
def test_a_verdict_checks_everything_that_is_expected(
    tmp_path: Path, scene: Scene, left: dict[str, object], code: int, invalid: str | None, seconds: float, verdict: str
) -> None:
    results = leave(tmp_path, **left)  # type: ignore[arg-type]
    assert verdict_of(scene, code, results, invalid, seconds, 10.0) == verdict


def test_an_interrupted_rehearsal_can_be_repeated_in_its_folder(plan: SimulatePlan, monkeypatch: pytest.MonkeyPatch) -> None:

    def interrupted(_: Machine, results: Path, __: bool) -> int:
        results.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.kaggle.rehearsal.simulate.run_notebook", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simulate(plan)
    monkeypatch.setattr("pipeline.kaggle.rehearsal.simulate.run_notebook", lambda *_: 1)
    assert simulate(plan) == 1


def test_the_score_of_hidden_tasks_says_what_it_rests_on(
    plan: SimulatePlan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    basis = {"sources": ["step-1/weights.safetensors, step 1, trained on 0123456789ab"], "views_least": 3, "views_most": 4}

    def solved(machine: Machine, results: Path, _: bool) -> int:
        results.mkdir()
        folder = next(path for name, path in machine.inputs.items() if name.endswith("arc-prize-rehearsal"))
        tasks = load_source(f"kaggle:{folder}:test", with_solutions=False).tasks
        write_submission(results / "submission.json", fallback_submission(tasks), tasks)
        leave(results, basis=basis, fault=False)
        return 0

    monkeypatch.setattr("pipeline.kaggle.rehearsal.simulate.run_notebook", solved)
    simulate(plan)
    shown = capsys.readouterr().out
    assert "votes                     single checkpoint: step-1/weights.safetensors, step 1" in shown
    assert "views                     3 to 4 views of each test input" in shown
    assert "data hash                 scored outputs " in shown


def test_the_old_layout_mounts_datasets_by_their_names_alone(plan: SimulatePlan, tmp_path: Path) -> None:
    scene = Scene("o", "", mount="old", weights="cut")
    settings = replace(KaggleSettings("you", "some-competition"), weights_dataset="someone/arc-weights")
    exam = make_exam(plan.hidden_from, plan.training_from, plan.evaluation_from, None, 0)
    mounts = _mounts(plan, scene, exam, exam.tasks, settings, Path(__file__).parents[4], tmp_path / "mounts")
    assert set(mounts) == {"arc-trm-code", "arc-weights", "some-competition"}


def test_every_fault_has_scenes_of_different_names_and_every_injection_is_used() -> None:
    scenes = [scene for scenes in FAULTS.values() for scene in scenes]
    assert {scene.fault for scene in scenes if scene.fault} == set(INJECTIONS)
    assert len({scene.name for scene in (*PLAIN, *scenes)}) == len(PLAIN) + len(scenes)
    assert all(FAULTS.values())
    assert set(FAULTS) == {"kill-rank", "kill-training", "short-deadline", "full-disk", "no-weights", "corrupt-checkpoint",
                           "both-mounts", "rerun-flag", "late-data", "no-data"}  # fmt: skip


def test_bad_weights_are_bad_in_the_way_that_they_are_called(tmp_path: Path) -> None:
    write_bad_weights(tmp_path / "cut", "cut")
    write_bad_weights(tmp_path / "garbled", "garbled")
    with pytest.raises(Damaged):
        read_metadata(tmp_path / "cut")
    read_metadata(tmp_path / "garbled")


def test_the_table_has_a_line_for_each_run_and_counts_the_survivors() -> None:
    score = {"rules": {"mean_over_tasks": {"pass_at_2": 0.125}}}
    results = [
        Result(PLAIN[1], "survived", 0, 41.0, 60.0, OUTCOME | {"starts": [1, 2]}, score),
        Result(PLAIN[0], "broken", 1, 2, 60),
    ]
    table = format_results(results).splitlines()
    assert len(table) == 4
    assert "12.5%" in table[1]
    assert "41s/60s" in table[1]
    assert table[3] == "1 of 2 survived"


@pytest.mark.parametrize(
    ("plan", "problem"),
    [
        (SimulatePlan(faults=("fire",)), "unknown fault 'fire'; one of: all, kill-rank, "),
        (SimulatePlan(hidden_tasks=0), "0 hidden tasks: expected at least 1"),
        (SimulatePlan(seed=-1), "the seed must not be negative, got -1"),
        (SimulatePlan(time_limit="soon"), "a duration reads like 90s, 25m or 11h30m, got 'soon'"),
    ],
)
def test_unknown_faults_and_no_hidden_tasks_are_refused(plan: SimulatePlan, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        simulate(plan)


@pytest.fixture
def plan(tmp_path: Path) -> SimulatePlan:
    folder = tmp_path / "data"
    write_kaggle(folder, large(2, 9, "train"), "training", True)
    write_kaggle(folder, joined(large(1, 3, "secret"), large(3, 9, "eval")), "evaluation", True)
    write_kaggle(folder / "secret", large(1, 3, "secret"), "evaluation", True)
    return SimulatePlan(
        hidden_from=(f"kaggle:{folder}/secret:evaluation",),
        training_from=f"kaggle:{folder}:training",
        evaluation_from=(f"kaggle:{folder}:evaluation",),
        out=tmp_path / "out",
    )


def test_the_notebook_itself_survives(
    plan: SimulatePlan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for fault in ("no-data", "short-deadline"):
        quick = replace(FAULTS[fault][0], overrides=("train.steps=2", "predict.views=4"))
        monkeypatch.setitem(FAULTS, fault, (quick,))  # type: ignore[arg-type]
    code = simulate(replace(plan, faults=("no-data", "short-deadline")))
    shown = capsys.readouterr().out
    assert code == 0, shown + "\n".join(path.read_text() for path in plan.out.glob("*/notebook.log"))
    assert "2 of 2 survived" in shown
    assert ("sandbox: no network" in shown) == namespaces_work()
    assert [row["survived"] for row in json.loads((plan.out / "rehearsal.json").read_text())] == [True] * 2


def test_a_folder_that_is_no_rehearsal_is_not_touched(plan: SimulatePlan) -> None:
    plan.out.mkdir()
    (plan.out / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is there already and is no rehearsal"):
        simulate(plan)
    assert (plan.out / "thesis.txt").read_text() == "years of work"
