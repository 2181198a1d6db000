"""The recursion: packs give what their sequences give alone, and only the last cycle is learned through."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pipeline.reasoner.layout import Layout, make_layout
from pipeline.reasoner.loss import segment_loss
from pipeline.reasoner.trm import TRM, ReasonerConfig, Segment, State

SMALL = ReasonerConfig(hidden_size=16, heads=2, inner_multiple=8, layers=2, H_cycles=2, L_cycles=2)
SHAPES = torch.tensor([[1, 1], [2, 3], [2, 3], [3, 2], [4, 5]])
OFFSETS = torch.tensor([[0, 0], [3, 1], [0, 7], [2, 2], [25, 24]])
MEMORY_TOKENS = 2


def make_trm(config: ReasonerConfig, seed: int = 0) -> TRM:
    """A network whose halting head says something."""
    generator = torch.Generator().manual_seed(seed)
    network = TRM(config, generator)
    with torch.no_grad():
        network.halting_head.weight.normal_(0, 0.3, generator=generator)
    return network


class Given:
    """Random inputs, labels, memory and states of the sequences of a pack, or of some of them."""

    def __init__(self, states: int, chosen: slice = slice(None), labels: Tensor | None = None) -> None:
        generator = torch.Generator().manual_seed(5)
        whole = make_layout(SHAPES, OFFSETS, MEMORY_TOKENS)
        of_cell, members = whole.sequence[whole.cells], torch.arange(len(SHAPES))[chosen]
        inputs = torch.randint(0, 12, (len(of_cell),), generator=generator)
        drawn = torch.randint(0, 12, (len(of_cell),), generator=generator) if labels is None else labels
        memory = torch.randn(len(SHAPES), MEMORY_TOKENS, 16, generator=generator)
        parts = torch.randn(states, whole.tokens, 16, generator=generator)
        self.layout: Layout = make_layout(SHAPES[chosen], OFFSETS[chosen], MEMORY_TOKENS)
        self.cells = torch.isin(of_cell, members)
        self.tokens = torch.isin(whole.sequence, members)
        self.inputs, self.labels = inputs[self.cells], drawn[self.cells]
        self.memory = memory[chosen].clone().requires_grad_()
        self.state: State = tuple(part[self.tokens] for part in parts)

    def segment(self, network: TRM) -> Segment:
        return network(self.state, self.inputs, self.memory, self.layout)


def gradients(network: TRM, given: Given) -> dict[str, Tensor]:
    """The gradient of one segment's loss by the name of the parameter, and that of the memory."""
    network.zero_grad()
    segment = given.segment(network)
    segment_loss(segment.logits, segment.halting, given.labels, given.layout).total.backward()
    found = {name: parameter.grad.clone() for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert given.memory.grad is not None
    return found | {"memory": given.memory.grad}


VARIANTS = pytest.mark.parametrize(
    ("positions", "states", "convolution"),
    [(positions, states, convolution) for positions in ("1d", "2d") for states in (1, 2) for convolution in (0, 3)],
)


@VARIANTS
def test_a_pack_gives_every_sequence_what_it_gives_alone(positions: str, states: int, convolution: int) -> None:
    network = make_trm(replace(SMALL, positions=positions, states=states, convolution=convolution))
    pack = Given(states)
    together = pack.segment(network)
    for i in range(len(SHAPES)):
        one = Given(states, slice(i, i + 1))
        alone = one.segment(network)
        torch.testing.assert_close(together.logits[one.cells], alone.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.halting[i : i + 1], alone.halting, atol=1e-5, rtol=1e-5)
        for whole, part in zip(together.state, alone.state, strict=True):
            torch.testing.assert_close(whole[one.tokens], part, atol=1e-5, rtol=1e-5)


@VARIANTS
def test_the_gradient_of_a_pack_is_the_sum_of_its_sequences(positions: str, states: int, convolution: int) -> None:
    network = make_trm(replace(SMALL, positions=positions, states=states, convolution=convolution))
    together = gradients(network, Given(states))
    alone = [gradients(network, Given(states, slice(i, i + 1))) for i in range(len(SHAPES))]
    torch.testing.assert_close(together.pop("memory"), torch.cat([part.pop("memory") for part in alone]), atol=1e-5, rtol=1e-4)
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, sum(part[name] for part in alone), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("states", [1, 2])
def test_the_gradient_reaches_the_last_cycle_only(states: int) -> None:
    three = make_trm(replace(SMALL, H_cycles=3, states=states))
    two, one = (make_trm(replace(SMALL, H_cycles=cycles, states=states)) for cycles in (2, 1))
    given = Given(states)
    whole = given.segment(three)
    by_hand = Given(states)
    with torch.no_grad():
        by_hand.state = by_hand.segment(two).state
    torch.testing.assert_close(whole.logits, by_hand.segment(one).logits)
    expected = gradients(one, by_hand)
    for name, gradient in gradients(three, given).items():
        torch.testing.assert_close(gradient, expected[name])


def test_think_and_act_follow_the_paper() -> None:
    network = make_trm(replace(SMALL, H_cycles=1, L_cycles=3))
    given = Given(2)
    angles: list[tuple[Tensor, Tensor]] = []
    network.blocks[0].register_forward_pre_hook(lambda _, arguments: angles.append(arguments[2]))
    segment = given.segment(network)

    def apply(x: Tensor) -> Tensor:
        for block in network.blocks:
            x = block(x, given.layout, angles[0])
        return x

    embedded = torch.empty(given.layout.tokens, 16)
    embedded[given.layout.cells] = network.embedding[given.inputs]
    embedded[given.layout.row < 0] = given.memory.flatten(0, 1)
    answer, latent = given.state
    for _ in range(3):
        latent = apply(latent + answer + 4 * embedded)  # 4: the square root of the hidden size
    answer = apply(answer + latent)
    torch.testing.assert_close(segment.state, (answer, latent))
    torch.testing.assert_close(segment.logits, network.head(answer[given.layout.cells]))
    torch.testing.assert_close(segment.halting, network.halting_head(answer[given.layout.first]))


def test_a_sequence_of_padding_alone_trains_nothing() -> None:
    network = make_trm(SMALL)
    cells = int(SHAPES.prod(dim=1).sum())
    given = Given(2, labels=torch.full((cells,), -100))
    segment = given.segment(network)
    assert segment_loss(segment.logits, segment.halting, given.labels, given.layout).total.item() == 0
    assert all(not gradient.any() for gradient in gradients(network, given).values())


def test_a_sequence_of_padding_changes_nothing_for_the_others() -> None:
    network = make_trm(SMALL)
    labels = Given(2).labels
    labels[-20:] = -100  # the last sequence
    mixed, without = gradients(network, Given(2, labels=labels)), gradients(network, Given(2, slice(0, 4), labels=labels))
    assert not mixed["memory"][-1].any()
    torch.testing.assert_close(mixed.pop("memory")[:-1], without.pop("memory"))
    for name, gradient in mixed.items():
        torch.testing.assert_close(gradient, without[name], atol=1e-6, rtol=1e-5)


def test_the_state_is_detached_and_sets_the_dtype() -> None:
    network = make_trm(SMALL)
    given = Given(2)
    given.state = network.initial_state(given.layout.tokens, torch.bfloat16)
    segment = given.segment(network)
    assert [(part.dtype, part.requires_grad) for part in segment.state] == [(torch.bfloat16, False)] * 2
    assert (segment.logits.dtype, segment.halting.dtype) == (torch.bfloat16, torch.float32)
    assert segment.logits.requires_grad


@pytest.mark.parametrize("states", [1, 2])
def test_the_initial_state_is_one_vector_for_all_tokens(states: int) -> None:
    state = make_trm(replace(SMALL, states=states)).initial_state(7)
    assert [part.shape for part in state] == [(7, 16)] * states
    assert all(torch.equal(part, part[:1].expand(7, -1)) for part in state)
    assert len({tuple(part[0].tolist()) for part in state}) == states


def test_a_fresh_network_does_not_want_to_halt() -> None:
    network = TRM(SMALL, torch.Generator().manual_seed(0))
    assert torch.equal(Given(2).segment(network).halting, torch.full((len(SHAPES), 2), -5.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 18}, "a multiple of 4"),
        ({"hidden_size": 0}, "hidden_size must be at least 1"),
        ({"heads": 0}, "heads must be at least 1"),
        ({"heads": -2}, "heads must be at least 1"),
        ({"L_cycles": 0}, "L_cycles must be at least 1"),
        ({"expansion": 0.0}, "expansion must be positive"),
        ({"states": 3}, "states must be 1 or 2"),
        ({"positions": "3d"}, "positions must be 1d or 2d, got '3d'"),
        ({"convolution": 2}, "convolution must be 0 or odd"),
        ({"convolution": -1}, "convolution must be 0 or odd"),
    ],
)
def test_settings_that_make_no_network_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)
