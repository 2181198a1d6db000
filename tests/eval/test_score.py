"""The score under every rule, and its text, which names the rules and what is missing (see also test_honest_score)."""

import json

import pytest

from eval.provenance import Provenance
from eval.score import RULES, Outcome, format_score, name_all, outcomes_of, score_predictions
from tests.grids import grid

A, B, C = grid([1, 2]), grid([1], [2]), grid([3, 3])
SOLUTIONS = {"a": (A, B), "b": (C,), "c": (A,)}


def test_missing_predictions_count_as_unsolved_and_keep_the_place_of_the_others():
    score = score_predictions({"a": [(), (B,)], "b": []}, SOLUTIONS)
    assert score.per_output.pass_at_2 == 1 / 4
    assert score.missing_tasks == ("c",)
    assert score.missing_outputs == (("a", 0), ("b", 0), ("c", 0))
    assert score_predictions({"a": [(None, None), (B, None)]}, {"a": (A, B)}).missing_outputs == (("a", 0),)
    assert outcomes_of({"a": [(), (B,)]}, {"a": (A, B)}) == {"a": (Outcome(False, False, False), Outcome(True, False, True))}


def test_a_third_attempt_and_what_the_solutions_do_not_know_do_not_count():
    assert score_predictions({"a": [(B, B, A)]}, {"a": (A,)}).per_output.pass_at_2 == 0
    score = score_predictions({"b": [(C,), (C,)], "x": [(A,)]}, {"b": (C,)})
    assert (score.unknown_tasks, score.unknown_outputs) == (("x",), (("b", 1),))
    assert (score.tasks, score.outputs, score.per_output.pass_at_2) == (1, 1, 1)


def test_a_task_without_outputs_is_left_out_and_nothing_to_score_is_an_error():
    for solutions in ({}, {"a": ()}):
        with pytest.raises(ValueError, match="no test output"):
            score_predictions({"a": [(A,)]}, solutions)
    score = score_predictions({"b": [(C,)]}, {"a": (), "b": (C,)})
    assert (score.tasks, score.mean_over_tasks.pass_at_2, score.missing_tasks) == (1, 1, ())


def test_the_text_names_all_rules_with_that_of_kaggle_first():
    lines = format_score(score_predictions({"a": [(C, A), (A, C)], "x": []}, SOLUTIONS), "arc1:evaluation").splitlines()
    assert lines[0] == "arc1:evaluation: 3 tasks, 4 test outputs"
    assert [line[: len(name)] for line, (_, name, _) in zip(lines[2:5], RULES, strict=True)] == [name for _, name, _ in RULES]
    assert "0.00%   16.67%  Kaggle's leaderboard" in lines[2]
    assert "2 outputs (b[0], c[0])" in lines[6]
    assert "2 tasks (b, c)" in lines[7]
    assert "1 task (x)" in lines[8]


def test_the_text_ends_with_what_the_attempts_rest_on_and_says_unknown_where_nothing_is_known():
    score = score_predictions({}, SOLUTIONS)
    facts = ("votes", "views", "data hash", "data", "solutions during the run", "audit")
    for given, why in ((None, "the submission has nothing beside it that says so"), (Provenance("as given"), "as given")):
        ends = dict(line.split("  ", 1) for line in format_score(score, "s", given).splitlines()[-6:])
        assert tuple(ends) == facts
        assert all(f"unknown ({why})" in ends[fact] for fact in facts if not fact.startswith("data"))
        assert ends["data hash"].endswith("unknown (no test output is known); dataset unknown")


def test_the_text_shortens_long_lists_and_stays_printable():
    predictions = {f"u\n\ud800{n}": [] for n in range(9)}
    text = format_score(score_predictions({**predictions, **{t: [(A, B)] * 2 for t in SOLUTIONS}}, SOLUTIONS), "s")
    assert "and 4 more" in text
    assert "u\\n\\ud8004" in text
    text.encode()  # a lone surrogate would raise
    assert name_all("task", list("abcde")) == "5 tasks (a, b, c, d, e)"


def test_json_holds_every_number_under_the_name_of_its_rule():
    document = json.loads(json.dumps(score_predictions({"b": [(B, C)], "c": [(A, A)]}, SOLUTIONS).to_json()))
    assert {rule["name"] for rule in document["rules"].values()} == {name for _, name, _ in RULES}
    assert document["rules"]["per_output"]["pass_at_2"] == 0.5
    assert (document["solved_outputs"], document["solved_by_second_alone"], document["solved_by_both"]) == (2, 1, 1)
    assert document["missing_tasks"] == ["a"]
