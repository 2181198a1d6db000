"""Votes are exact, independent of the order of arrival, and never mix sources without saying so."""

import gc
import tracemalloc
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from augment.grid import grid_key
from augment.task import Task
from eval.vote import Ballot, Tally
from tests.eval.ballots import add
from tests.grids import grid

A, B, C = grid([1]), grid([2, 2]), grid([3], [3])
GRIDS = [A, B, C, grid([1, 1]), grid([1], [1]), grid([0])]
candidates_lists = st.lists(st.tuples(st.sampled_from([*range(len(GRIDS)), None]), st.floats(0, 1, width=32)), max_size=30)


def filled(*candidates):
    """The votes of the candidates of one source or several."""
    ballot = Ballot()
    for source, each in enumerate(candidates):
        votes = [("t", 0, None if which is None else GRIDS[which], probability) for which, probability in each]
        add(ballot, votes, f"step {source}")
    return ballot


def content(ballot):
    return [(grid_key(c.grid), c.count, c.mean_probability) for c in ballot.top("t", 0, None)]


@settings(max_examples=50)
@given(candidates_lists)
def test_candidates_rank_by_the_published_rule(candidates):
    table: dict[bytes, list[Fraction]] = {}
    for which, probability in candidates:
        if which is not None:
            table.setdefault(grid_key(GRIDS[which]), []).append(Fraction(round(probability * 2**40), 2**40))
    expected = sorted(table, key=lambda key: (-len(table[key]), -sum(table[key]) / len(table[key]), key))
    assert [key for key, _, _ in content(filled(candidates))] == expected


@settings(max_examples=50)
@given(candidates_lists, st.randoms(use_true_random=False))
def test_ranking_does_not_depend_on_the_order_of_arrival(candidates, random):
    shuffled = list(candidates)
    random.shuffle(shuffled)
    assert content(filled(candidates)) == content(filled(shuffled))


@settings(max_examples=50)
@given(candidates_lists, st.integers(0, 30))
def test_pooling_parts_equals_counting_everything_at_once(candidates, cut):
    pooled = filled(candidates[:cut], candidates[cut:])
    assert content(pooled) == content(filled(candidates))
    assert pooled.tally("t", 0) == filled(candidates).tally("t", 0)


def test_attempts_are_the_two_best_and_different_and_changing_one_does_not_change_the_votes():
    ballot = filled([(0, 0.5), (0, 0.5), (1, 0.5), (1, 0.4), (2, 1.0)])
    for _ in range(2):
        assert [attempt.tolist() for attempt in ballot.attempts("t", 0)] == [A.tolist(), B.tolist()]
        ballot.attempts("t", 0)[0][0, 0] = 9
    assert len(filled([(0, 0.5), (0, 0.1)]).attempts("t", 0)) == 1
    assert Ballot("run").attempts("t", 0) == ()


def test_the_rank_of_a_grid_is_its_place_among_all_candidates_and_zero_where_it_is_none():
    ballot = filled([(0, 0.5), (0, 0.5), (1, 0.5), (1, 0.4), (2, 1.0), (None, 1.0)])
    assert [ballot.rank("t", 0, each) for each in GRIDS[:4]] == [1, 2, 3, 0]


def test_empty_candidates_are_counted_and_never_ranked():
    ballot = filled([(None, 1.0), (0, 0.0), (None, 1.0)])
    assert [c.count for c in ballot.top("t", 0, None)] == [1]
    assert ballot.tally("t", 0) == Tally(candidates=3, distinct=1, empty=2)
    add(ballot, [])
    assert ballot.tally("t", 0).candidates == 3
    assert ballot.tally("t", 1) == Tally(candidates=0, distinct=0, empty=0)


def test_test_inputs_and_tasks_are_kept_apart_and_keep_their_place():
    ballot = Ballot("run")
    add(ballot, [("t", 1, A, 0.5), ("u", 0, B, 0.5)])
    predictions = ballot.predictions([Task("t", (), (A, A, A)), Task("u", (), (A,)), Task("v", (), (A,))])
    assert [[len(attempts) for attempts in task] for task in predictions.values()] == [[0, 1, 0], [1], [0]]
    assert list(predictions) == ["t", "u", "v"]


def test_sources_tell_a_single_checkpoint_from_a_pool():
    ballot = Ballot("run/step_1")
    add(ballot, [("t", 0, A, 0.5)])
    add(ballot, [("t", 0, A, 0.5)], "run/step_1")
    assert ballot.sources == ("run/step_1",)
    pooled = Ballot()
    for source in ("b", "a", "b"):
        add(pooled, [("t", 0, A, 0.5)] if source == "b" else [], source)
    assert (pooled.sources, pooled.tally("t", 0).candidates) == (("b", "a"), 2)


def test_memory_grows_with_different_candidates_only():
    pool = np.random.default_rng(0).integers(0, 10, (50, 20, 20), dtype=np.uint8)
    ballot = Ballot("run")
    candidates = [("t", 0, one, 0.5) for one in pool]
    add(ballot, candidates)
    tracemalloc.start()
    for _ in range(50):
        add(ballot, candidates)
    gc.collect()  # what is free, Python would keep for later
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ballot.tally("t", 0) == Tally(candidates=51 * 50, distinct=50, empty=0)
    assert held_bytes < 20_000
