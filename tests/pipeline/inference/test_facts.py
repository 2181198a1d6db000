"""What a score rests on is read from what lies beside the submission, and is unknown where that does not belong to it."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from eval.decode import read_dataclass
from eval.provenance import Audited, Basis, NetworkName, Provenance, Scored, audited_in
from pipeline.cli.main import main
from pipeline.data.sources import load_source
from pipeline.inference.candidates import tally
from pipeline.inference.facts import VoteFile, source_name, votes_of, write_attempts
from tests.pipeline.tiny import tiny_source, write_kaggle
from tests.pipeline.tinyrun import write_run

FACTS = ["votes", "views", "data hash", "data", "solutions during the run", "audit"]
DATASET = "0123456789abcdef" * 4
UNREADABLE, COMPARED = "not readable for training", "no training pair equals a scored test; 4 test outputs checked"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three tasks, all solved, whose weights were trained on its dataset."""
    source = tiny_source(3, 3, "task")
    write_kaggle(tmp_path / "kaggle", source, "evaluation", with_solutions=True)
    grids = [grid for task in source.tasks for grid in source.solutions[task.id]]
    votes = [(test, grid, 0.5) for test, grid in enumerate(grids)]
    dataset = write_run(tmp_path / "run", load_source(f"kaggle:{tmp_path / 'kaggle'}:evaluation"), votes)
    name = source_name(Path("run/checkpoints/step-00000001/weights.safetensors"), 1, dataset.data_hash)
    change(tmp_path / "run" / "votes.json", sources=[name])
    return tmp_path / "run"


def change(path: Path, **values: Any) -> None:
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | values))


def rows_printed(text: str) -> dict[str, str]:
    """The six facts of a printed score."""
    rows = ((line, fact) for line in text.splitlines() for fact in FACTS if line.startswith(f"{fact}  "))
    return {fact: line.removeprefix(fact).strip() for line, fact in rows}


def score(run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """What the command prints and writes of a submission."""
    capsys.readouterr()
    words = ["score", str(run / "submission.json"), "--source", f"kaggle:{run.parent / 'kaggle'}:evaluation"]
    assert main([*words, "--json", str(run.parent / "score.json")]) == 0
    return rows_printed(capsys.readouterr().out), json.loads((run.parent / "score.json").read_bytes())["provenance"]


def test_a_score_says_all_six_facts_and_takes_nothing_else_from_a_votes_file(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(run / "votes.json", rules={"mean_over_tasks": {"pass_at_2": 9.0}}, tasks=400, solved_outputs=400)
    printed, written = score(run, capsys)
    assert list(printed) == FACTS
    assert printed["votes"].startswith("single checkpoint: step-00000001/weights.safetensors, step 1, trained on ")
    assert printed["views"] == "1 view of each test input"
    assert printed["data"].startswith("3 tasks, 4 test outputs: ")
    assert "read for the audit before" in printed["solutions during the run"]
    assert "4 test outputs checked" in printed["audit"]
    assert "unknown" not in " ".join(printed.values())
    assert written["checkpoints"] == 1
    assert written["in_words"] == printed
    assert (written["scored_outputs"], written["views_most"], written["audit"]["tests_checked"]) == (4, 1, 4)
    scored = json.loads((run.parent / "score.json").read_bytes())
    assert scored["rules"]["mean_over_tasks"]["pass_at_2"] == 1.0
    assert (scored["tasks"], scored["solved_outputs"]) == (3, 4)


def test_of_a_foreign_submission_what_cannot_be_known_is_unknown(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "submission.json"
    path.write_bytes(path.read_bytes() + b"\n")
    assert score(run, capsys)[0]["votes"] == "unknown (the votes.json beside submission.json is of another one)"
    (run / "votes.json").unlink()
    printed, written = score(run, capsys)
    assert list(printed) == FACTS
    for fact in ("votes", "views", "solutions during the run", "audit"):
        assert printed[fact] == "unknown (there is no votes.json beside submission.json)"
    assert printed["data hash"].endswith("dataset unknown")
    assert "unknown" not in printed["data"], "what is scored is known all the same"
    assert {written[name] for name in ("checkpoints", "sources", "views_least", "views_most", "dataset_hash", "audit")} == {
        "unknown"
    }


def test_reports_and_comparisons_say_the_same(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = f"kaggle:{run.parent / 'kaggle'}:evaluation"
    printed, _ = score(run, capsys)
    assert main(["compare", str(run), str(run / "submission.json"), "--source", spec]) == 2  # the same one twice
    other = run.parent / "foreign.json"
    other.write_bytes((run / "submission.json").read_bytes())
    capsys.readouterr()
    assert main(["compare", str(run), str(other), "--source", spec, "--json", str(run.parent / "both.json")]) == 0
    parts = capsys.readouterr().out.split(" rests on:\n")[1:]
    assert rows_printed(parts[0]) == printed
    assert list(rows_printed(parts[1])) == FACTS
    assert rows_printed(parts[1])["votes"].startswith("unknown")
    assert set(json.loads((run.parent / "both.json").read_bytes())["provenance"]) == {str(run), str(other)}
    assert main(["report", str(run), "--source", spec]) == 0
    page = (run / "report.html").read_text()
    for fact, words in printed.items():
        assert f"<dt>{fact}</dt><dd>{words}</dd>" in page


@pytest.mark.parametrize(
    ("source", "words"),
    [("x, trained on ffffffffffff", "other data"), ("step 1", "unknown"), ("x, trained on 0123456789ab", "")],
)
def test_what_was_trained_elsewhere_is_not_covered_by_the_audit(source: str, words: str) -> None:
    rows = dict(Provenance("", Basis((source,), 1, 1, DATASET, Audited(0, "drop", 4, 0))).rows())
    assert (words in rows["audit"]) and (words in rows["solutions during the run"])
    assert rows["audit"].startswith(COMPARED)
    assert bool(words) == ("; " in rows["audit"].split("checked")[1])


@pytest.mark.parametrize(
    ("audited", "solutions", "audit"),
    [
        (Audited(0, "refuse", 4, 0), UNREADABLE, COMPARED),
        (Audited(1, "drop", 4, 2), UNREADABLE, "1 training pair that equals a scored test left out; 4 test outputs"),
        (Audited(2, "allow", 4, 0), "trained on, as asked: 2 training pairs", "2 training pairs that equal a scored test"),
        (Audited(0, "drop", 4, 0, 2), UNREADABLE, "2 generators of scored tasks left out; 4 test outputs checked"),
        (
            Audited(1, "allow", 4, 0, 1),
            "trained on, as asked: 1 training pair that shows an answer and 1 generator of scored tasks",
            "1 training pair that equals a scored test and 1 generator of scored tasks trained on all the same; 4 test outputs",
        ),
        (Audited(0, "drop", 0, 9), "not readable: the run knew no test output", "nothing could be compared; 0 test outputs"),
        (Audited(0, "drop", 0, 5, 2), "not readable: the run knew", "2 generators of scored tasks left out; 0 test outputs"),
        (None, "unknown (because)", "unknown (because)"),
    ],
)
def test_audit_and_solutions_are_told_in_words(audited: Audited | None, solutions: str, audit: str) -> None:
    rows = dict(Provenance("because", Basis(("x, trained on 0123456789ab",), 1, 1, DATASET, audited)).rows())
    assert rows["solutions during the run"].startswith(solutions)
    assert rows["audit"].startswith(audit)


def test_every_fact_is_there_whatever_is_known() -> None:
    for basis in (None, Basis(("none",), 0, 3, DATASET, Audited(0, "drop", 1, 0))):
        for scored in (None, Scored(1, 2, DATASET, "made up")):
            given = Provenance("because", basis, scored=scored)
            assert [name for name, _ in given.rows()] == FACTS
            assert all(words for _, words in given.rows())
            assert None not in given.to_json().values()


@pytest.mark.parametrize(
    "name",
    [
        NetworkName("step-00000009/weights.safetensors", 9, "0123456789ab"),
        NetworkName("imported", None, "0123456789ab"),
        NetworkName("run, step 3 of it", 7),
        NetworkName("none"),
        NetworkName("trained on 0123"),
    ],
)
def test_a_network_is_found_again_in_its_name(name: NetworkName) -> None:
    assert NetworkName.parse(str(name)) == name


def test_what_an_imported_network_was_trained_on_is_not_known() -> None:
    assert NetworkName.parse("imported/weights.safetensors, step 7, trained on imported") == NetworkName(
        "imported/weights.safetensors", 7
    )


def test_votes_are_called_pooled_or_fallbacks() -> None:
    two = ("a, trained on 0123456789ab", "b, trained on 0123456789ab")
    for sources, views, words in ((two, 1, "pooled(2): a, "), (("none",), 0, "none: all attempts are fallbacks")):
        rows = dict(Provenance("", Basis(sources, views, views, DATASET, None)).rows())
        assert rows["votes"].startswith(words)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sources": "x"}, "sources must be a list"),
        ({"sources": ["x\ny"]}, "sources must be a list of names"),
        ({"views_most": True}, "views_most must be of type int"),
        ({"views_least": -1}, "must be counts"),
        ({"audit": {"leaks": "many"}}, "audit: leaks must be of type int"),
        ({"tests": {"a": [{"candidates": 1, "distinct": 1}]}}, "tests, a: top is missing"),
        ({"tests": {"a": [{"candidates": -1, "distinct": 1, "top": []}]}}, "candidates and distinct must be counts"),
        ({"tests": {"a": [{"candidates": 1, "distinct": 1, "top": [[1, 2.0]]}]}}, "top must hold votes and probabilities"),
    ],
)
def test_a_foreign_votes_file_is_refused(values: dict[str, Any], message: str, run: Path) -> None:
    change(run / "votes.json", **values)
    with pytest.raises(ValueError, match=message) as caught:
        read_dataclass(VoteFile, run / "votes.json")
    assert str(caught.value).startswith(str(run / "votes.json"))
    assert main(["report", str(run)]) == 2


def test_votes_name_weights_in_folders_of_any_name(tmp_path: Path) -> None:
    source = tiny_source(2, 2, "task")
    folder = tmp_path / "line\nand\xa0space"
    name = source_name(folder / "weights.safetensors", 1, DATASET)
    assert NetworkName.parse(name).data == DATASET[:12]
    dataset = write_run(folder, source, [(0, source.solutions["task000"][0], 0.5)], name)
    votes = votes_of(folder / "submission.json")
    assert votes is not None
    assert len(votes.sources) == 1
    ballot = tally([folder / "candidates"] * 2, dataset)
    write_attempts(tmp_path / "submission.json", ballot, dataset.tasks_to_solve(), dataset)


@pytest.mark.parametrize("audit", [None, 3, {}, {"leaks": 3}, {"leaks": [], "leakage": "drop", "tests_checked": "many"}])
def test_an_audit_that_cannot_be_read_is_none(audit: object) -> None:
    assert audited_in(audit) is None
