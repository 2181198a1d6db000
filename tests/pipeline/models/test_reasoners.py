"""The recursions: packs give what their sequences give alone, each kind follows its paper, and switches do what they say."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pipeline.models.attention import rotary_angles
from pipeline.models.config import ReasonerConfig
from pipeline.models.layout import Layout, make_layout
from pipeline.models.loss import segment_loss
from pipeline.models.network import REASONERS
from pipeline.models.reasoner import Reasoner, Segment, State

SMALL = ReasonerConfig(hidden_size=16, heads=2, inner_multiple=8, layers=2, H_cycles=2, L_cycles=2)
MIXER = replace(SMALL, mixing="mixer", positions="none", canvas_side=3)
SHAPES = torch.tensor([[1, 1], [2, 3], [2, 3], [3, 2], [4, 5]])
OFFSETS = torch.tensor([[0, 0], [3, 1], [0, 7], [2, 2], [25, 24]])
MEMORY_TOKENS = 2
KINDS = tuple(REASONERS)
WRITTEN_OUT = ("trm", "hrm", "urm")
"""Those that `segment_by_hand` has, too."""


def make_reasoner(config: ReasonerConfig, seed: int = 0) -> Reasoner:
    """A network whose halting head says something."""
    generator = torch.Generator().manual_seed(seed)
    network = REASONERS[config.kind](config, MEMORY_TOKENS, generator)
    with torch.no_grad():
        network.halting_head.weight.normal_(0, 0.3, generator=generator)
    return network


class Case:
    """Random inputs, labels, memory and states of the sequences of a pack, or of some of them."""

    def __init__(self, config: ReasonerConfig, chosen: slice = slice(None)) -> None:
        generator = torch.Generator().manual_seed(5)
        full = config.mixing == "mixer"
        shapes = torch.full_like(SHAPES, config.canvas_side) if full else SHAPES
        offsets = torch.zeros_like(OFFSETS) if full else OFFSETS
        size, states = config.hidden_size, len(REASONERS[config.kind].states)
        whole = make_layout(shapes, offsets, MEMORY_TOKENS)
        of_cell, members = whole.sequence[whole.cells], torch.arange(len(shapes))[chosen]
        inputs = torch.randint(0, 12, (len(of_cell),), generator=generator)
        labels = torch.randint(0, 12, (len(of_cell),), generator=generator)
        memory = torch.randn(len(shapes), MEMORY_TOKENS, size, generator=generator)
        parts = torch.randn(states, whole.tokens, size, generator=generator)
        self.layout: Layout = make_layout(shapes[chosen], offsets[chosen], MEMORY_TOKENS)
        self.cells = torch.isin(of_cell, members)
        self.tokens = torch.isin(whole.sequence, members)
        self.inputs, self.labels = inputs[self.cells], labels[self.cells]
        self.memory = memory[chosen].clone().requires_grad_()
        self.state: State = tuple(part[self.tokens] for part in parts)

    def segment(self, network: Reasoner) -> Segment:
        return network(self.state, self.inputs, self.memory, self.layout)


def gradients(network: Reasoner, case: Case, segment: Segment | None = None) -> dict[str, Tensor]:
    """The gradient of a segment's loss (that of the network unless another is given) by parameter, and that of the memory."""
    network.zero_grad()
    case.memory.grad = None
    segment = case.segment(network) if segment is None else segment
    segment_loss(segment.logits, segment.halting, case.labels, case.layout).total.backward()
    found = {name: parameter.grad.clone() for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert case.memory.grad is not None
    return found | {"memory": case.memory.grad}


def segment_by_hand(network: Reasoner, case: Case) -> Segment:
    """One segment written out as in the papers' figures; what no gradient may pass is detached."""
    config, layout, gradient = network.config, case.layout, network.config.gradient
    angles = rotary_angles(layout, config.hidden_size // config.heads, config.positions, config.canvas_side)

    def run(blocks: nn.ModuleList, z: Tensor) -> Tensor:
        for block in blocks:
            z = block(z, layout, angles)
        return z

    embedded = torch.empty(layout.tokens, 16)
    embedded[layout.cells] = network.embedding[case.inputs]
    embedded[layout.row < 0] = case.memory.flatten(0, 1)
    x = 4 * embedded  # the square root of the hidden size
    low = network.blocks
    high = network.answer_blocks if config.kind == "hrm" else low
    state = case.state
    for cycle in range(config.H_cycles):
        last_cycle = cycle == config.H_cycles - 1
        for step in range(config.L_cycles):
            last_step = last_cycle and step == config.L_cycles - 1
            if (gradient == "last-step" and last_step) or (gradient == "last-cycle" and last_cycle and step == 0):
                state = tuple(z.detach() for z in state)
            if config.kind == "urm":
                state = (run(low, state[0] + x),)
            else:
                z_high, z_low = state
                state = (z_high, run(low, z_low + z_high + x))
        if config.kind != "urm":
            z_high, z_low = state
            state = (run(high, z_high + z_low), z_low)
    return Segment(state, network.head(state[0][layout.cells]), network.halting_head(state[0][layout.first]))


def name_of(config: ReasonerConfig) -> str:
    return f"{config.kind}-{config.mixing}-{config.positions}-{config.convolution}-{config.convolution_axes}"


CONVOLUTIONS = ({}, {"convolution": 3}, {"convolution": 2, "convolution_axes": "1d"})
# Every two of kind, positions and convolution meet once; and each kind with a mixer.
CONFIGS = [
    replace(SMALL, kind=kind, positions=positions, **CONVOLUTIONS[(i + j) % 3])
    for i, kind in enumerate(KINDS)
    for j, positions in enumerate(("1d", "2d", "none"))
] + [replace(MIXER, kind=kind) for kind in KINDS]
VARIANTS = pytest.mark.parametrize("config", CONFIGS, ids=name_of)


@VARIANTS
def test_a_pack_gives_every_sequence_what_it_gives_alone_and_the_sum_of_its_gradients(config: ReasonerConfig) -> None:
    network, pack = make_reasoner(config), Case(config)
    together, parts = pack.segment(network), []
    for i in range(len(SHAPES)):
        one = Case(config, slice(i, i + 1))
        alone = one.segment(network)
        torch.testing.assert_close(together.logits[one.cells], alone.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.halting[i : i + 1], alone.halting, atol=1e-5, rtol=1e-5)
        for whole, part in zip(together.state, alone.state, strict=True):
            torch.testing.assert_close(whole[one.tokens], part, atol=1e-5, rtol=1e-5)
        parts.append(gradients(network, one, alone))
    found = gradients(network, pack, together)
    torch.testing.assert_close(found.pop("memory"), torch.cat([part.pop("memory") for part in parts]), atol=1e-5, rtol=1e-4)
    assert found.keys() == dict(network.named_parameters()).keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, sum(part[name] for part in parts), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("gradient", "layers", "high", "low"),
    [("last-cycle", 2, 2, 3), ("last-step", 1, 3, 2), ("last-step", 3, 1, 1), ("all", 2, 2, 3)],
)
@pytest.mark.parametrize("kind", WRITTEN_OUT)
def test_updates_and_their_gradients_follow_the_paper(kind: str, gradient: str, layers: int, high: int, low: int) -> None:
    config = replace(SMALL, kind=kind, gradient=gradient, layers=layers, H_cycles=high, L_cycles=low)
    network, case = make_reasoner(config), Case(config)
    segment, by_hand = case.segment(network), segment_by_hand(network, case)
    torch.testing.assert_close(segment.state, tuple(z.detach() for z in by_hand.state))
    torch.testing.assert_close(segment.logits, by_hand.logits)
    torch.testing.assert_close(segment.halting, by_hand.halting)
    expected, found = gradients(network, case, by_hand), gradients(network, case)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-4)


def test_the_two_networks_of_hrm_start_apart() -> None:
    network = make_reasoner(replace(SMALL, kind="hrm"))
    low, high = network.blocks.state_dict(), network.answer_blocks.state_dict()
    assert low.keys() == high.keys()
    assert not any(torch.equal(low[name], high[name]) for name in low)


@VARIANTS
def test_the_state_is_detached_and_sets_the_dtype(config: ReasonerConfig) -> None:
    network, case = make_reasoner(config), Case(config)
    case.state = network.initial_state(case.layout.tokens, torch.bfloat16)
    segment = case.segment(network)
    assert [(part.dtype, part.requires_grad) for part in segment.state] == [(torch.bfloat16, False)] * len(network.states)
    assert (segment.logits.dtype, segment.halting.dtype) == (torch.bfloat16, torch.float32)
    assert segment.logits.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_the_initial_state_is_one_vector_for_all_tokens(kind: str) -> None:
    network = make_reasoner(replace(SMALL, kind=kind))
    state = network.initial_state(7)
    states = {"trm": ("answer", "latent"), "hrm": ("answer", "latent"), "urm": ("latent",)}[kind]
    assert [part.shape for part in state] == [(7, 16)] * len(states)
    buffers = dict(network.named_buffers())
    assert list(buffers) == [f"initial_{name}" for name in states]
    for part, buffer in zip(state, buffers.values(), strict=True):
        assert torch.equal(part, buffer.expand(7, -1))
    assert len({tuple(part[0].tolist()) for part in state}) == len(states)


@pytest.mark.parametrize("kind", KINDS)
def test_several_latents_start_from_different_values_of_the_last_state(kind: str) -> None:
    network, layout = make_reasoner(replace(SMALL, kind=kind)), Case(SMALL).layout
    state, plain = network.start(layout, latents=3), network.initial_state(layout.tokens)
    assert all(torch.equal(part, same) for part, same in zip(state[:-1], plain[:-1], strict=True))
    latent = layout.sequence % 3
    assert torch.equal(state[-1][latent == 0], plain[-1][latent == 0])
    of_latent = [torch.unique(state[-1][latent == number], dim=0) for number in range(3)]
    assert [len(rows) for rows in of_latent] == [1, 1, 1]
    assert len({tuple(rows[0].tolist()) for rows in of_latent}) == 3
    for rows in of_latent[1:]:  # a unit normal, as the first was drawn from
        assert 0.5 < rows.std() < 1.5
    other = REASONERS[kind](replace(SMALL, kind=kind), MEMORY_TOKENS, torch.Generator().manual_seed(9))
    further = other.start(layout, latents=5)  # neither the seed nor the number of latents matters
    assert torch.equal(further[-1][layout.sequence % 5 == 1][:1], of_latent[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_network_does_not_want_to_halt(kind: str) -> None:
    config = replace(SMALL, kind=kind)
    network = REASONERS[kind](config, MEMORY_TOKENS, torch.Generator().manual_seed(0))
    assert torch.equal(Case(config).segment(network).halting, torch.full((len(SHAPES), 2), -5.0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gradient", ["last-cycle", "last-step", "all"])
def test_the_cycles_of_a_segment_one_by_one_are_the_segment(kind: str, gradient: str) -> None:
    config = replace(SMALL, kind=kind, H_cycles=3, gradient=gradient)
    network, case = make_reasoner(config), Case(config)
    whole, state = case.segment(network), case.state
    for _ in range(3):
        part = network(state, case.inputs, case.memory, case.layout, cycles=1)
        state = part.state
    assert torch.equal(part.logits, whole.logits)
    assert torch.equal(part.halting, whole.halting)
