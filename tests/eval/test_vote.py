"""Votes are exact, independent of the order of arrival, and never mix sources without saying so."""

import gc
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augment.grid import grid_key
from augment.task import Task
from eval.vote import RANKINGS, Ballot, Tally, choose_attempts, pool_ballots


def grid(*rows):
    return np.array(rows, dtype=np.uint8)


A, B, C = grid([1]), grid([2, 2]), grid([3], [3])
GRIDS = [A, B, C, grid([1, 1]), grid([1], [1]), grid([0])]

candidates_lists = st.lists(st.tuples(st.sampled_from([*range(len(GRIDS)), None]), st.floats(0, 1, width=32)), max_size=30)


def filled(candidates, source="run/step_1"):
    ballot = Ballot(source)
    for which, probability in candidates:
        ballot.add("t", 0, None if which is None else GRIDS[which], probability)
    return ballot


def content(ballot, ranking="count"):
    return [(grid_key(c.grid), c.count, c.probability_sum) for c in ballot.top("t", 0, None, ranking)]


def test_each_ranking_prefers_what_its_name_says():
    ballot = Ballot("run")
    for candidate, probabilities in ((A, [0.1, 0.1, 0.1]), (B, [0.5, 0.5]), (C, [0.9])):
        for probability in probabilities:
            ballot.add("t", 0, candidate, probability)
    order = {name: [grid_key(c.grid) for c in ballot.top("t", 0, None, name)] for name in RANKINGS}
    a, b, c = map(grid_key, (A, B, C))
    assert order == {"count": [a, b, c], "probability-sum": [b, c, a], "mean-probability": [c, b, a]}


def test_equal_counts_go_to_the_larger_mean_probability():
    ballot = Ballot("run")
    ballot.add("t", 0, A, 0.25)
    ballot.add("t", 0, B, 0.5)
    best, second = ballot.top("t", 0, 2)
    assert (best.grid.tolist(), best.count, best.mean_probability) == (B.tolist(), 1, 0.5)
    assert second.mean_probability == 0.25


@given(candidates_lists)
def test_count_ranking_equals_the_published_rule(candidates):
    table: dict[bytes, list[Fraction]] = {}
    for which, probability in candidates:
        if which is not None:
            table.setdefault(grid_key(GRIDS[which]), []).append(Fraction(round(probability * 2**40), 2**40))
    expected = sorted(table, key=lambda key: (-len(table[key]), -sum(table[key]) / len(table[key]), key))
    assert [key for key, _, _ in content(filled(candidates))] == expected


@given(candidates_lists, st.randoms(use_true_random=False), st.sampled_from(list(RANKINGS)))
def test_ranking_does_not_depend_on_the_order_of_arrival(candidates, random, ranking):
    shuffled = list(candidates)
    random.shuffle(shuffled)
    assert content(filled(candidates), ranking) == content(filled(shuffled), ranking)


@given(candidates_lists, st.integers(0, 30))
def test_pooling_parts_equals_counting_everything_at_once(candidates, cut):
    parts = [filled(candidates[:cut], "a"), filled(candidates[cut:], "b")]
    before = [content(part) for part in parts]
    pooled = pool_ballots(parts)
    assert content(pooled) == content(filled(candidates))
    assert pooled.tally("t", 0) == filled(candidates).tally("t", 0)
    assert [content(part) for part in parts] == before


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1, width=32)), min_size=1, max_size=40))
def test_a_batch_equals_its_candidates_one_by_one(candidates):
    pool = np.array([[[0, 1, 2], [3, 4, 5]], [[0, 1, 2], [3, 4, 6]], [[9, 9, 9], [9, 9, 9]], [[0, 0, 0], [0, 0, 0]]], np.uint8)
    grids = pool[[which for which, _ in candidates]]
    probabilities = np.array([probability for _, probability in candidates], dtype=np.float32)
    batched, single = Ballot("run"), Ballot("run")
    batched.add_batch("t", 0, grids, probabilities)
    for one, probability in zip(grids, probabilities, strict=True):
        single.add("t", 0, one, float(probability))
    assert content(batched) == content(single)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([*range(len(GRIDS)), None]), st.floats(0, 1, width=32)), max_size=40)
)
def test_packed_candidates_count_as_one_by_one(candidates):
    packed, single = Ballot("run"), Ballot("run")
    grids = [None if which is None else GRIDS[which] for _, which, _ in candidates]
    packed.add_packed(
        [("t", test) for test, _, _ in candidates],
        np.array([(0, 0) if one is None else one.shape for one in grids], np.uint8).reshape(-1, 2),
        np.concatenate([np.zeros(0, np.uint8), *(one.ravel() for one in grids if one is not None)]),
        np.array([probability for _, _, probability in candidates], np.float32),
    )
    for (test, _, probability), one in zip(candidates, grids, strict=True):
        single.add("t", test, one, probability)
    for test in range(3):
        assert packed.tally("t", test) == single.tally("t", test)
        for ranking in RANKINGS:
            ours, others = (ballot.top("t", test, None, ranking) for ballot in (packed, single))
            assert [(grid_key(c.grid), c.count, c.probability_sum) for c in ours] == [
                (grid_key(c.grid), c.count, c.probability_sum) for c in others
            ]


@pytest.mark.parametrize(
    ("shapes", "cells", "probabilities", "message"),
    [
        ([(1, 1), (1, 2)], [1, 2, 3], [0.5, 1.5], "task u, test input 3: a halting probability is 0..1, got 1.5"),
        ([(1, 1), (1, 0)], [1], [0.5, 0.5], "task u, test input 3: a grid is 1..30 by 1..30"),
        ([(1, 1), (1, 2)], [1, 2, 10], [0.5, 0.5], "task u, test input 3: a color is 0..9, got 10"),
        ([(1, 1), (1, 2)], [1, 2], [0.5, 0.5], "2 cells do not fill the grids of 2 candidates"),
        ([(1, 1)], [1], [0.5, 0.5], r"of 2 candidates and uint8 cells, got shapes \(1, 2\)"),
    ],
)
def test_bad_packed_candidates_are_refused_by_name_and_leave_no_trace(shapes, cells, probabilities, message):
    ballot = Ballot("run")
    with pytest.raises(ValueError, match=message):
        places = [("t", 0), ("u", 3)]
        ballot.add_packed(places, np.array(shapes, np.uint8), np.array(cells, np.uint8), np.array(probabilities))
    assert ballot.tally("t", 0) == ballot.tally("u", 3) == Tally(0, 0, 0)


def test_a_batch_of_grids_that_lie_scattered_in_memory_is_counted_right():
    canvases = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4) % 10
    ballot = Ballot("run")
    ballot.add_batch("t", 0, canvases[:, :2, 1:4], [0.5, 0.5])
    assert {grid_key(c.grid) for c in ballot.top("t", 0, None)} == {grid_key(canvas[:2, 1:4]) for canvas in canvases}


def test_attempts_are_the_two_best_and_different():
    ballot = filled([(0, 0.5), (0, 0.5), (1, 0.5), (1, 0.4), (2, 1.0)])
    assert [attempt.tolist() for attempt in ballot.attempts("t", 0)] == [A.tolist(), B.tolist()]
    assert len(filled([(0, 0.5), (0, 0.1)]).attempts("t", 0)) == 1
    assert Ballot("run").attempts("t", 0) == ()


def test_empty_candidates_are_counted_and_never_ranked():
    ballot = filled([(None, 1.0), (0, 0.0), (None, 1.0)])
    ballot.add_empty("t", 0, 3)
    assert [c.count for c in ballot.top("t", 0, None)] == [1]
    assert ballot.tally("t", 0) == Tally(candidates=6, distinct=1, empty=5)
    assert ballot.tally("t", 1) == Tally(candidates=0, distinct=0, empty=0)


def test_same_cells_in_another_shape_are_another_candidate():
    assert filled([(3, 0.5), (4, 0.5)]).tally("t", 0).distinct == 2


def test_test_inputs_and_tasks_are_kept_apart_and_keep_their_place():
    ballot = Ballot("run")
    ballot.add("t", 1, A, 0.5)
    ballot.add("u", 0, B, 0.5)
    predictions = ballot.predictions([Task("t", (), (A, A, A)), Task("u", (), (A,)), Task("v", (), (A,))])
    assert [[len(attempts) for attempts in task] for task in predictions.values()] == [[0, 1, 0], [1], [0]]
    assert list(predictions) == ["t", "u", "v"]


def test_sources_tell_a_single_checkpoint_from_a_pool():
    assert Ballot("run/step_1").sources == ("run/step_1",)
    assert pool_ballots([Ballot("run/step_1"), Ballot("run/step_1")]).sources == ("run/step_1",)
    assert pool_ballots([Ballot("b"), Ballot("a"), Ballot("b")]).sources == ("b", "a")


def test_a_pooled_ballot_takes_no_more_candidates():
    pooled = pool_ballots([filled([(0, 0.5)], "a"), filled([(0, 0.5)], "b")])
    for add in (
        lambda: pooled.add("t", 0, A, 0.5),
        lambda: pooled.add_batch("t", 0, A[None], [0.5]),
        lambda: pooled.add_empty("t", 0),
        lambda: pooled.add_packed([("t", 0)], np.array([A.shape]), A.ravel(), np.array([0.5])),
    ):
        with pytest.raises(ValueError, match="pooled from a, b"):
            add()
    assert pooled.tally("t", 0).candidates == 2


def test_pooling_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        pool_ballots([])


def test_an_unknown_ranking_names_the_alternatives():
    with pytest.raises(ValueError, match="'best'; there are count, probability-sum, mean-probability"):
        Ballot("run").attempts("t", 0, "best")


BAD_CANDIDATES = [
    (A, float("nan")),
    (A, 1.01),
    (A, -0.01),
    (A.astype(np.int64), 0.5),
    (A[0], 0.5),
    (A[:, :0], 0.5),
    (grid([10]), 0.5),
    (np.zeros((31, 2), np.uint8), 0.5),
    (np.zeros((2, 300), np.uint8), 0.5),
]


@pytest.mark.parametrize(("candidate", "probability"), BAD_CANDIDATES)
def test_a_bad_candidate_is_refused_by_name_and_leaves_no_trace(candidate, probability):
    ballot = Ballot("run")
    with pytest.raises(ValueError, match="task t, test input 7"):
        ballot.add("t", 7, candidate, probability)
    with pytest.raises(ValueError, match="task t, test input 7"):
        ballot.add_batch("t", 7, np.stack([candidate, candidate]), [probability, probability])
    assert ballot.tally("t", 7) == Tally(0, 0, 0)


def test_a_batch_with_too_few_probabilities_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 1, 1\) uint8 and \(2,\)"):
        Ballot("run").add_batch("t", 0, np.zeros((3, 1, 1), np.uint8), [0.5, 0.5])


def test_an_empty_batch_counts_nothing():
    ballot = Ballot("run")
    ballot.add_batch("t", 0, np.zeros((0, 3, 3), np.uint8), [])
    assert ballot.tally("t", 0).candidates == 0


def test_memory_grows_with_different_candidates_only():
    pool = np.random.default_rng(0).integers(0, 10, (50, 20, 20), dtype=np.uint8)
    ballot = Ballot("run")
    ballot.add_batch("t", 0, pool, np.full(50, 0.5))
    tracemalloc.start()
    for _ in range(200):
        ballot.add_batch("t", 0, pool, np.full(50, 0.5))
    gc.collect()  # what is free, Python would keep for later
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ballot.tally("t", 0) == Tally(candidates=201 * 50, distinct=50, empty=0)
    assert held_bytes < 20_000


def test_changing_an_attempt_does_not_change_the_votes():
    ballot = filled([(0, 0.5)])
    ballot.attempts("t", 0)[0][0, 0] = 9
    assert ballot.attempts("t", 0)[0].tolist() == A.tolist()


@given(st.lists(st.sampled_from(GRIDS), max_size=5), st.lists(st.sampled_from(GRIDS), max_size=5))
def test_chosen_attempts_differ_whenever_two_different_grids_exist(ranked, fallbacks):
    everything = [grid_key(one) for one in [*ranked, *fallbacks]]
    if not everything:
        with pytest.raises(ValueError, match="no grid"):
            choose_attempts(ranked, fallbacks)
        return
    chosen = tuple(map(grid_key, choose_attempts(ranked, fallbacks)))
    different = list(dict.fromkeys(everything))
    assert chosen == (different[0], different[1] if len(different) > 1 else different[0])
