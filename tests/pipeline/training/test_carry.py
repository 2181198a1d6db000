"""Rolling packs: who goes on, with which state, and that no process matters."""

from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from augment.grid import MAX_SIDE
from pipeline.config import TrainConfig
from pipeline.data.packs import TaskPackMaker, step_generator
from pipeline.models.layout import Layout, make_layout
from pipeline.models.reasoner import State
from pipeline.training.carry import (
    Carry,
    StepBatch,
    assemble_state,
    cut_evenly,
    empty_carry,
    halt_packs,
    join_carries,
    next_batch,
)
from tests.pipeline.tiny import tiny_dataset

MEMORY_TOKENS = 2
CONFIG = TrainConfig(seed=3, pack_tokens=150, canvas="fitted", segments=4, exploration=0.0)


def halt(batch: StepBatch, halting: Tensor, state: State, config: TrainConfig) -> Carry:
    """Return what continues of a batch that is one pack."""
    (carry,) = halt_packs(batch, [np.ones(len(batch.samples), bool)], halting, state, make_maker(), config)
    return carry


@cache
def make_maker() -> TaskPackMaker:
    return TaskPackMaker(tiny_dataset(), CONFIG.canvas, MEMORY_TOKENS)


def layout_of(batch: StepBatch) -> Layout:
    pack = make_maker().make(batch.samples)
    return make_layout(torch.from_numpy(pack.shapes), torch.from_numpy(pack.offsets), MEMORY_TOKENS)


def numbered_state(layout: Layout, start: int = 0) -> State:
    """Two states in which every token has a number of its own."""
    token = torch.arange(start, start + layout.tokens, dtype=torch.float32)[:, None]
    return token.repeat(1, 2), -token.repeat(1, 2)


def logits(halting: torch.Tensor, going_on: torch.Tensor | float = 3.0) -> torch.Tensor:
    """Logits (B, 2) of halting and of going on; the latter count in Q-learning alone."""
    return torch.stack((halting, torch.as_tensor(going_on, dtype=halting.dtype).expand(len(halting))), dim=1)


def one_batch(segments_before: int, config: TrainConfig = CONFIG, step: int = 0, pack: int = 0) -> tuple[StepBatch, Layout]:
    batch = next_batch(empty_carry(), make_maker(), config, step, pack)
    batch = replace(batch, segments=np.full(len(batch.samples), segments_before))
    return batch, layout_of(batch)


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_sequence_goes_on_with_its_state_until_its_halting_logit_is_positive(before: int) -> None:
    batch, layout = one_batch(before)
    halting = torch.tensor([(-1.0) ** i for i in range(len(batch.samples))])
    halting[0] = 0.0
    state = numbered_state(layout)
    carry = halt(batch, logits(halting), state, CONFIG)
    stay = (halting <= 0).numpy()
    assert carry.samples.example.tolist() == batch.samples.example[stay].tolist()
    assert carry.segments.tolist() == [before + 1] * int(stay.sum())
    for kept, whole in zip(carry.state, state, strict=True):
        assert torch.equal(kept, whole[torch.isin(layout.sequence, torch.from_numpy(np.flatnonzero(stay)))])


def test_nobody_goes_on_after_the_last_segment() -> None:
    for exploration in (0.0, 1.0):
        config = replace(CONFIG, exploration=exploration)
        batch, layout = one_batch(3, config)
        carry = halt(batch, logits(torch.full((len(batch.samples),), -9.0)), numbered_state(layout), config)
        assert len(carry) == 0
        assert carry.state is None


@pytest.mark.parametrize("before", [0, 2])
def test_with_q_learning_a_sequence_goes_on_until_halting_promises_more_than_going_on(before: int) -> None:
    config = replace(CONFIG, halting="q-learning")
    batch, layout = one_batch(before, config)
    halting, going_on = torch.linspace(-4, -2, len(batch.samples)), torch.full((len(batch.samples),), -3.0)
    halting[1] = 5.0
    going_on[1], going_on[0] = 6.0, halting[0]
    carry = halt(batch, logits(halting, going_on), numbered_state(layout), config)
    stay = (halting <= going_on).numpy()
    assert 0 < stay.sum() < len(stay)
    assert carry.samples.transform.tolist() == batch.samples.transform[stay].tolist()
    assert carry.segments.tolist() == [before + 1] * int(stay.sum())


def share_that_goes_on(before: int, config: TrainConfig) -> float:
    """Of sequences that all want to halt."""
    shares = []
    for step in range(6):
        batch, layout = one_batch(before, config, step)
        halting = logits(torch.full((len(batch.samples),), 9.0))
        shares.append(len(halt(batch, halting, numbered_state(layout), config)) / len(batch.samples))
    return float(np.mean(shares))


def test_exploration_keeps_sequences_for_a_random_number_of_segments() -> None:
    config = replace(CONFIG, exploration=1.0, segments=4, pack_tokens=6000)  # the least is 2, 3 or 4
    assert [share_that_goes_on(before, config) for before in (0, 1, 2, 3)] == pytest.approx([1, 2 / 3, 1 / 3, 0], abs=0.05)


def test_exploration_is_the_share_of_sequences_that_explore() -> None:
    config = replace(CONFIG, exploration=0.25, segments=16, pack_tokens=6000)
    assert share_that_goes_on(0, config) == pytest.approx(0.25, abs=0.04)


def test_packs_explore_independently() -> None:
    config = replace(CONFIG, exploration=0.5, pack_tokens=2000)
    explores = [(one_batch(0, config, pack=pack)[0].least > 0).tolist() for pack in (0, 1)]
    assert any(one != other for one, other in zip(*explores, strict=False))


def test_what_is_carried_takes_its_state_to_its_new_place_and_the_new_start_afresh() -> None:
    maker, rng = make_maker(), np.random.default_rng(0)
    carry = empty_carry()
    moved = kept = 0
    for step in range(6):
        batch = next_batch(carry, maker, CONFIG, step, 0)
        layout, tokens = layout_of(batch), maker.tokens(carry.samples)
        initial = (torch.full((1, 2), 0.5).expand(layout.tokens, -1), torch.full((1, 2), 0.25).expand(layout.tokens, -1))
        state = assemble_state(initial, carry, batch, maker)
        starts = np.cumsum(tokens) - tokens
        for i, source in enumerate(batch.source.tolist()):
            mine = slice(int(layout.first[i]), int(layout.first[i]) + int(maker.tokens(batch.samples)[i]))
            for part, (now, fresh) in enumerate(zip(state, initial, strict=True)):
                if source < 0:
                    assert torch.equal(now[mine], fresh[mine])
                    continue
                assert torch.equal(now[mine], carry.state[part][starts[source] : starts[source] + tokens[source]])
            kept += source >= 0
            moved += source >= 0 and source != i
        halting = torch.from_numpy(rng.normal(size=len(batch.samples)))
        carry = halt(batch, logits(halting), numbered_state(layout, 1000 * (step + 1)), CONFIG)
    assert kept > 20
    assert moved > 5


def test_a_batch_fills_the_room_that_the_carry_leaves() -> None:
    maker = make_maker()
    carry = empty_carry()
    for step in range(5):
        batch = next_batch(carry, maker, CONFIG, step, 0)
        tokens = maker.tokens(batch.samples)
        assert tokens.sum() >= CONFIG.pack_tokens
        assert tokens.sum() - tokens[batch.source < 0].max() < CONFIG.pack_tokens
        assert sorted(batch.source[batch.source >= 0].tolist()) == list(range(len(carry)))
        for i, source in enumerate(batch.source.tolist()):
            assert batch.segments[i] == (carry.segments[source] if source >= 0 else 0)
            if source >= 0:
                for name in ("example", "transform", "shift"):
                    assert np.array_equal(getattr(batch.samples, name)[i], getattr(carry.samples, name)[source])
        layout = layout_of(batch)
        halting = torch.tensor([1.0 if i % 3 else -1.0 for i in range(len(batch.samples))])
        carry = halt(batch, logits(halting), numbered_state(layout), CONFIG)
        assert len(carry) > 0


def test_what_is_drawn_follows_the_seed_and_the_probability_of_a_shift() -> None:
    config = replace(CONFIG, pack_tokens=2000)
    one, other = (one_batch(0, replace(config, seed=seed))[0].samples.example.tolist() for seed in (3, 4))
    assert one != other
    for probability in (0.0, 1.0):
        batch, _ = one_batch(0, replace(config, shift_probability=probability))
        assert batch.samples.shift.any() == (probability > 0)


def history(packs: Iterable[int], steps: int = 6) -> dict[tuple[int, int], list[list[int]]]:
    """What a process that owns `packs` sees in each of them at each step, sequences halting at random."""
    maker, config = make_maker(), replace(CONFIG, exploration=0.3)
    carries: dict[int, Carry] = {pack: empty_carry() for pack in packs}
    seen = {}
    for step in range(steps):
        for pack, carry in carries.items():
            batch = next_batch(carry, maker, config, step, pack)
            samples = batch.samples
            seen[step, pack] = np.column_stack((samples.example, samples.transform, samples.shift, batch.segments)).tolist()
            layout = layout_of(batch)
            halting = torch.from_numpy(np.sin(samples.transform + step))
            carries[pack] = halt(batch, logits(halting), numbered_state(layout), config)
    return seen


def test_packs_do_not_depend_on_the_process_that_owns_them() -> None:
    together = history([0, 1, 2])
    assert together == history([2, 0]) | history([1])
    assert len({str(samples) for samples in together.values()}) == len(together)


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_free_place_takes_what_the_next_pack_of_whole_views_has_there(pieces: int) -> None:
    """As in published batches, also where a pack is computed in micro-batches."""
    maker = TaskPackMaker(tiny_dataset(tasks=40, augmentations=1000), "full", MEMORY_TOKENS)
    places = 48
    config = TrainConfig(sampling="views", pack_tokens=places * (MAX_SIDE**2 + MEMORY_TOKENS), exploration=0.0)
    carry, rng = empty_carry(), np.random.default_rng(0)
    free, examples, views = np.ones(places, bool), np.zeros(places, np.int64), np.zeros(places, np.int64)
    rows = []
    for step in range(40):
        drawn = maker.fill(config.pack_tokens, step_generator(config.seed, step, 0), config.shift_probability, views=True)
        examples, views = np.where(free, drawn.example, examples), np.where(free, drawn.transform, views)
        batch = next_batch(carry, maker, config, step, 0)
        assert (batch.samples.example.tolist(), batch.samples.transform.tolist()) == (examples.tolist(), views.tolist())
        assert ((batch.source < 0) == free).all()
        rows.append(len(np.unique(views)))
        halts = rng.random(places) < np.where(views % 2, 0.5, 0.1)
        free = halts | (batch.segments + 1 == config.segments)
        halting = logits(torch.from_numpy(np.where(halts, 1.0, -1.0)))
        tokens = torch.zeros(places * (MAX_SIDE**2 + MEMORY_TOKENS), 1)
        parts = []
        for cut in cut_evenly(maker.tokens(batch.samples), pieces):
            (part,) = halt_packs(batch[cut], [np.ones(len(halts[cut]), bool)], halting[cut], (tokens,), maker, config)
            parts.append(part)
        carry = join_carries(parts)
    assert rows[0] == places / 3
    assert np.mean(rows[20:]) > 0.6 * places


def test_views_fill_packs_of_canvases_of_any_size() -> None:
    config = replace(CONFIG, sampling="views", pack_tokens=600)
    carry = empty_carry()
    for step in range(12):
        batch = next_batch(carry, make_maker(), config, step, 0)
        tokens = make_maker().tokens(batch.samples)
        assert tokens[:-1].sum() < config.pack_tokens + tokens.max()
        assert tokens.sum() >= config.pack_tokens
        assert sorted(batch.source[batch.source >= 0].tolist()) == list(range(len(carry)))
        layout = layout_of(batch)
        halting = torch.from_numpy(np.sin(batch.samples.transform + step))
        carry = halt(batch, logits(halting), numbered_state(layout), config)


@given(st.lists(st.integers(1, 900), min_size=1, max_size=40), st.integers(1, 50))
def test_pieces_are_neighbors_and_about_equal(lengths: list[int], pieces: int) -> None:
    tokens = np.array(lengths)
    parts = cut_evenly(tokens, pieces)
    assert len(parts) == min(pieces, len(tokens))
    assert [place for part in parts for place in range(part.start, part.stop)] == list(range(len(tokens)))
    assert all(part.start < part.stop for part in parts)
    assert max(int(tokens[part].sum()) for part in parts) <= sum(lengths) / len(parts) + max(lengths)


def test_equal_sequences_are_cut_into_equal_pieces() -> None:
    assert [(part.start, part.stop) for part in cut_evenly(np.full(12, 916), 4)] == [(0, 3), (3, 6), (6, 9), (9, 12)]


def test_pieces_that_all_halt_join_to_a_carry_of_nothing() -> None:
    batch, layout = one_batch(3)
    empty = halt(batch, logits(torch.full((len(batch.samples),), -9.0)), numbered_state(layout), CONFIG)
    joined = join_carries([empty, empty])
    assert len(joined) == 0
    assert joined.state is None
