"""Task memory: whom a gradient reaches, and what a view changes."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.models.batch import Views
from pipeline.models.config import MemoryConfig
from pipeline.models.task_memory import CompositionalMemory, TableMemory

SIZE, TOKENS, TASKS, VIEWS, RANK = 40, 3, 4, 9, 5


def make_views(task: list[int], row: list[int] | None = None, seed: int = 0) -> Views:
    """Views of the tasks through random transforms."""
    rng = np.random.default_rng(seed)
    colors = np.stack([np.concatenate(([0], rng.permutation(9) + 1)) for _ in task])
    dihedral = torch.from_numpy(rng.integers(0, 8, size=len(task)))
    return Views(torch.tensor(task), torch.tensor(task if row is None else row), dihedral, torch.from_numpy(colors))


def make_compositional(seed: int = 0, residual: int = 0, **settings: Any) -> CompositionalMemory:
    """A memory in which scale and shift both say something; a residual says nothing yet."""
    generator = torch.Generator().manual_seed(seed)
    config = MemoryConfig("compositional", TOKENS, residual=residual, **settings)
    memory = CompositionalMemory(config, TASKS, VIEWS, SIZE, generator)
    with torch.no_grad():
        memory.scale.normal_(0, 0.1, generator=generator)
        memory.shift.normal_(0, 0.1, generator=generator)
    return memory


def test_a_table_row_is_zero_at_first_and_the_first_token_and_the_others_are_zero() -> None:
    memory = TableMemory(5, SIZE, TOKENS)
    assert not memory.rows.any()
    memory.rows.normal_(generator=torch.Generator().manual_seed(0))
    given = memory(make_views([0, 0, 1], row=[4, 0, 4]))
    assert given.shape == (3, TOKENS, SIZE)
    assert torch.equal(given[:, 0], memory.rows[[4, 0, 4]])
    assert not given[:, 1:].any()


def test_a_table_gives_what_a_backward_pass_found_once_with_its_rows() -> None:
    table = TableMemory(5, SIZE, TOKENS)
    weight = torch.randn(3, TOKENS, SIZE, generator=torch.Generator().manual_seed(1))
    (table(make_views([0, 0, 1], row=[4, 0, 4])) * weight).sum().backward()
    with torch.no_grad():
        table(make_views([1]))  # a look without gradient changes nothing
    found = table.take_gradient()
    assert found.index.tolist() == [4, 0, 4]
    assert torch.equal(found.gradient, weight[:, 0])
    assert not list(table.parameters())
    assert not table.rows.requires_grad
    assert table.rows.grad is None
    with pytest.raises(AssertionError, match="no rows were gathered since"):
        table.take_gradient()
    table.gather(torch.tensor([0]))
    with pytest.raises(AssertionError, match="no backward pass"):
        table.take_gradient()


def code_of(memory: CompositionalMemory, dihedral: int, colors: list[int]) -> Tensor:
    slots = [memory.color_slots[color - 1] for color in colors[1:]]
    return torch.cat((memory.dihedral[dihedral], memory.color_base, *slots))


def test_a_compositional_row_is_scaled_and_shifted_by_the_code_of_the_view() -> None:
    memory = make_compositional()
    views = make_views([2, 0, 2], row=[7, 5, 4])
    given = memory(views)
    assert given.shape == (3, TOKENS, SIZE)
    for i in range(3):
        code = code_of(memory, int(views.dihedral[i]), views.colors[i].tolist())
        row = memory.rows[views.task[i]]
        expected = (1 + memory.scale @ code) * row + memory.shift @ code
        torch.testing.assert_close(given[i].flatten(), expected, atol=1e-5, rtol=1e-4)


def test_a_view_that_was_never_trained_can_be_asked() -> None:
    memory = make_compositional()
    never = make_views([1] * 50, row=[10**9] * 50, seed=3)  # beyond every row of a table
    given = memory(never)
    assert torch.isfinite(given).all()
    asked = torch.cat((never.dihedral[:, None], never.colors), dim=1)
    assert len(given.flatten(1).unique(dim=0)) == len(asked.unique(dim=0)) == 50


def test_the_gradient_reaches_the_rows_of_the_asked_tasks_alone() -> None:
    memory = make_compositional()
    memory(make_views([3, 1, 3])).square().sum().backward()
    assert memory.rows.grad.any(dim=1).tolist() == [False, True, False, True]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in memory.parameters())


def test_a_memory_that_starts_at_zero_is_one_for_all_and_learns_to_tell_views_then_tasks() -> None:
    memory, views = make_compositional(start="zero"), make_views([2, 0, 2, 1])
    assert not memory(views).any()
    optimizer = torch.optim.SGD(memory.parameters(), 0.1)
    target = torch.randn(4, TOKENS, SIZE, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        optimizer.zero_grad()
        (memory(views) - target).square().sum().backward()
        optimizer.step()
    assert len(memory(views).flatten(1).unique(dim=0)) == 4
    same = Views(views.task, views.row, views.dihedral[:1].expand(4), views.colors[:1].expand(4, -1))
    assert len(memory(same).flatten(1).unique(dim=0)) == 3  # of three tasks
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in memory.parameters())


def test_tokens_that_are_not_used_are_zero() -> None:
    memory = make_compositional(used=1, residual=RANK)
    memory.residual.rows.normal_(generator=torch.Generator().manual_seed(2))
    given = memory(make_views([1, 2]))
    assert given.shape == (2, TOKENS, SIZE)
    assert given[:, 0].all() and not given[:, 1:].any()
    assert memory.rows.shape == (TASKS, SIZE)


def test_an_untrained_residual_changes_nothing_and_draws_after_everything_else() -> None:
    without, memory = make_compositional(), make_compositional(residual=RANK)
    views = make_views([2, 0, 2], row=[7, 5, 4])
    shared = {name: tensor for name, tensor in memory.state_dict().items() if not name.startswith("residual.")}
    assert shared.keys() == without.state_dict().keys()
    assert torch.equal(shared["rows"], without.rows)
    without.load_state_dict(shared)
    assert torch.equal(memory(views), without(views))


def test_a_residual_is_a_gated_row_of_the_view_times_a_shared_matrix() -> None:
    memory = make_compositional(residual=RANK)
    residual = memory.residual
    assert (residual.rows.shape, residual.matrix.shape) == ((VIEWS, RANK), (TOKENS * SIZE, RANK))
    assert torch.equal(residual.gate, torch.full((TOKENS * SIZE,), -2.0))
    views = make_views([1, 2], row=[3, 6])
    before = memory(views)
    residual.rows[[3, 6]] = torch.randn(2, RANK, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        residual.gate.normal_(generator=torch.Generator().manual_seed(3))
    for i, row in enumerate((3, 6)):
        expected = before[i].flatten() + (residual.matrix @ residual.rows[row]) / (1 + (-residual.gate).exp())
        torch.testing.assert_close(memory(views)[i].flatten(), expected, atol=1e-5, rtol=1e-4)


def test_the_gate_of_a_residual_may_follow_from_the_memory_or_be_open() -> None:
    views = make_views([1, 2], row=[3, 6])
    for kind in ("memory", "none"):
        memory = make_compositional(residual=RANK, residual_gate=kind)
        residual, before = memory.residual, memory(views).flatten(1)
        residual.rows[[3, 6]] = torch.randn(2, RANK, generator=torch.Generator().manual_seed(2))
        spread = residual.rows[[3, 6]] @ residual.matrix.T
        gate = torch.full((2, 1), 1 / (1 + np.exp(-2.0))) if kind == "memory" else torch.ones(2, 1)
        torch.testing.assert_close(memory(views).flatten(1), before + gate * spread, atol=1e-5, rtol=1e-4)
        if kind == "memory":
            with torch.no_grad():
                residual.gate.normal_(0, 0.1, generator=torch.Generator().manual_seed(3))
            expected = before + torch.sigmoid(before @ residual.gate.T + 2) * spread
            torch.testing.assert_close(memory(views).flatten(1), expected, atol=1e-5, rtol=1e-4)


def test_the_gradient_of_a_residual_reaches_its_rows_first_and_then_matrix_and_gate() -> None:
    memory = make_compositional(residual=RANK)
    residual = memory.residual
    views = make_views([3, 1], row=[8, 2])
    memory(views).square().sum().backward()
    found = residual.take_gradient()
    assert found.index.tolist() == [8, 2]
    assert found.gradient.all()
    assert residual.matrix.grad is not None and not residual.matrix.grad.any()  # of rows that are still zero
    residual.rows[[8, 2]] = torch.randn(2, RANK, generator=torch.Generator().manual_seed(2))
    memory(views).square().sum().backward()
    assert residual.take_gradient().gradient.all()
    assert residual.matrix.grad.all()
    assert residual.gate.grad is not None and residual.gate.grad.all()
