"""The network that is trained: memory and reasoner, made from a seed."""

from dataclasses import replace

import pytest
import torch

from pipeline.reasoner.layout import make_layout
from pipeline.reasoner.memory import CompositionalMemory, MemoryConfig, TableMemory, Views
from pipeline.reasoner.network import Batch, make_network
from pipeline.reasoner.trm import ReasonerConfig

MODEL = ReasonerConfig(hidden_size=16, heads=2, inner_multiple=8, H_cycles=1, L_cycles=1)


@pytest.mark.parametrize("kind", ["table", "compositional"])
def test_a_seed_makes_one_network(kind: str) -> None:
    memory = replace(MemoryConfig(tokens=2), kind=kind)
    first, second, other = (make_network(MODEL, memory, 3, 7, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_table_has_a_row_a_view_and_compositional_memory_a_row_a_task() -> None:
    table = make_network(MODEL, MemoryConfig("table", 2), 3, 7, 0).memory
    compositional = make_network(MODEL, MemoryConfig("compositional", 2), 3, 7, 0).memory
    assert isinstance(table, TableMemory)
    assert isinstance(compositional, CompositionalMemory)
    assert (table.rows.shape, compositional.rows.shape) == ((7, 16), (3, 2 * 16))


def test_what_the_memory_says_of_a_task_reaches_every_cell() -> None:
    network = make_network(MODEL, MemoryConfig("compositional", 2), 3, 7, 0)
    shapes = torch.tensor([[2, 3], [2, 3]])
    layout = make_layout(shapes, torch.zeros_like(shapes), 2)
    task = torch.tensor([0, 1])
    views = Views(task, task, torch.zeros_like(task), torch.arange(10).expand(2, 10))
    batch = Batch(torch.ones(12, dtype=torch.int64), None, layout, views)
    first, second = network(network.reasoner.initial_state(layout.tokens), batch).logits.unflatten(0, (2, 6))
    assert (first != second).any(dim=-1).all()
