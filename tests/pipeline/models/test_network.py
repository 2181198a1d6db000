"""The network that is trained: memory and reasoner, made from a seed."""

from dataclasses import replace

import pytest
import torch

from pipeline.models.batch import Batch, Views
from pipeline.models.config import MemoryConfig, ReasonerConfig
from pipeline.models.layout import make_layout
from pipeline.models.network import make_network

MODEL = ReasonerConfig(hidden_size=16, heads=2, inner_multiple=8, H_cycles=1, L_cycles=1)
MEMORIES = [MemoryConfig("table", 2), MemoryConfig("compositional", 2), MemoryConfig("compositional", 2, residual=4)]


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_seed_makes_one_network(memory: MemoryConfig) -> None:
    first, second, other = (make_network(MODEL, memory, 3, 7, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_mixer_is_made_for_the_memory_tokens_and_the_full_canvas(memory: MemoryConfig) -> None:
    network = make_network(replace(MODEL, mixing="mixer", positions="none", canvas_side=3), memory, 3, 7, 0)
    assert [block.mixer.length for block in network.reasoner.blocks] == [2 + 9] * 2


@pytest.mark.parametrize(
    ("kind", "shares"),
    [
        ("trm", {"last-cycle": 4 / 12, "last-step": 2 / 12, "all": 1.0}),
        ("hrm", {"last-cycle": 4 / 12, "last-step": 2 / 12, "all": 1.0}),
        ("urm", {"last-cycle": 3 / 9, "last-step": 1 / 9, "all": 1.0}),
    ],
)
def test_the_learned_share_is_that_of_the_updates_with_gradient(kind: str, shares: dict[str, float]) -> None:
    for gradient, share in shares.items():
        model = replace(MODEL, kind=kind, gradient=gradient, layers=1, H_cycles=3, L_cycles=3)
        network = make_network(model, MEMORIES[0], 3, 7, 0).reasoner
        assert network.learned_share() == pytest.approx(share)
        thirds = [network.updates(depth) for depth in (1 / 3, 2 / 3)]
        ends = len(network.cycle()) - 3  # updates of a cycle besides those of the latent
        assert [len(updates) for updates, _ in thirds] == [1 * (1 + ends), 2 * (2 + ends)]
        learned_ends = {"last-cycle": [1 + ends, 2 + ends], "last-step": [1 + ends] * 2, "all": [1 + ends, 2 * (2 + ends)]}
        assert [count for _, count in thirds] == learned_ends[gradient]
        layout = make_layout(torch.tensor([[1, 1]]), torch.tensor([[0, 0]]), 2)
        learned: list[bool] = []
        for block in [block for name, block in network.named_modules() if name.endswith("blocks.0")]:
            block.register_forward_hook(lambda *_, learned=learned: learned.append(torch.is_grad_enabled()))
        network(network.initial_state(layout.tokens), torch.ones(1, dtype=torch.int64), torch.zeros(1, 2, 16), layout)
        assert sum(learned) / len(learned) == pytest.approx(share)


@pytest.mark.parametrize(
    ("memory", "shapes"), list(zip(MEMORIES, [{"memory": (7, 16)}, {}, {"memory.residual": (7, 4)}], strict=True))
)
def test_tables_are_found_by_the_prefix_of_their_rows(memory: MemoryConfig, shapes: dict[str, tuple[int, int]]) -> None:
    network = make_network(MODEL, memory, 3, 7, 0)
    tables, tensors = network.tables, network.state_dict()
    assert {prefix: tuple(table.rows.shape) for prefix, table in tables.items()} == shapes
    assert all(tensors[f"{prefix}.rows"].data_ptr() == table.rows.data_ptr() for prefix, table in tables.items())
    assert not {f"{prefix}.rows" for prefix in tables} & dict(network.named_parameters()).keys()


def test_what_the_memory_says_of_a_task_reaches_every_cell() -> None:
    network = make_network(MODEL, MemoryConfig("compositional", 2), 3, 7, 0)
    shapes = torch.tensor([[2, 3], [2, 3]])
    layout = make_layout(shapes, torch.zeros_like(shapes), 2)
    task = torch.tensor([0, 1])
    views = Views(task, task, torch.zeros_like(task), torch.arange(10).expand(2, 10))
    batch = Batch(torch.ones(12, dtype=torch.int64), None, layout, views)
    first, second = network(network.reasoner.initial_state(layout.tokens), batch).logits.unflatten(0, (2, 6))
    assert (first != second).any(dim=-1).all()
