"""Task memory: whom a gradient reaches, and what a view changes."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.reasoner.memory import CompositionalMemory, MemoryConfig, TableMemory, Views

SIZE, TOKENS, TASKS = 40, 3, 4


def make_views(task: list[int], row: list[int] | None = None, seed: int = 0) -> Views:
    """Views of the tasks through random transforms."""
    rng = np.random.default_rng(seed)
    colors = np.stack([np.concatenate(([0], rng.permutation(9) + 1)) for _ in task])
    dihedral = torch.from_numpy(rng.integers(0, 8, size=len(task)))
    return Views(torch.tensor(task), torch.tensor(task if row is None else row), dihedral, torch.from_numpy(colors))


def make_compositional(seed: int = 0) -> CompositionalMemory:
    """A memory in which scale and shift both say something."""
    generator = torch.Generator().manual_seed(seed)
    memory = CompositionalMemory(TASKS, SIZE, TOKENS, generator)
    with torch.no_grad():
        memory.scale.normal_(0, 0.1, generator=generator)
        memory.shift.normal_(0, 0.1, generator=generator)
    return memory


def test_a_table_starts_at_zero() -> None:
    assert not TableMemory(5, SIZE, TOKENS)(make_views([0, 1])).any()


def test_a_table_row_is_the_first_token_and_the_others_are_zero() -> None:
    memory = TableMemory(5, SIZE, TOKENS)
    memory.rows.normal_(generator=torch.Generator().manual_seed(0))
    given = memory(make_views([0, 0, 1], row=[4, 0, 4]))
    assert given.shape == (3, TOKENS, SIZE)
    assert torch.equal(given[:, 0], memory.rows[[4, 0, 4]])
    assert not given[:, 1:].any()


def test_the_gradient_of_a_table_lands_in_the_gathered_rows() -> None:
    memory = TableMemory(5, SIZE, TOKENS)
    weight = torch.randn(3, TOKENS, SIZE, generator=torch.Generator().manual_seed(1))
    (memory(make_views([0, 0, 1], row=[4, 0, 4])) * weight).sum().backward()
    assert memory.gathered is not None
    assert torch.equal(memory.gathered.grad, weight[:, 0])
    assert not list(memory.parameters())
    assert not memory.rows.requires_grad
    assert memory.rows.grad is None


def test_asking_a_table_without_gradient_gathers_nothing() -> None:
    memory = TableMemory(5, SIZE, TOKENS)
    with torch.no_grad():
        memory(make_views([1]))
    assert memory.gathered is None


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


def test_color_slots_follow_the_permutation() -> None:
    memory, permuted = make_compositional(), make_compositional()
    views = make_views([1])
    with torch.no_grad():
        permuted.color_slots.copy_(memory.color_slots[views.colors[0, 1:] - 1])
    unchanged = Views(views.task, views.row, views.dihedral, torch.arange(10)[None])
    assert torch.equal(memory(views), permuted(unchanged))
    assert not torch.allclose(memory(views), memory(unchanged))


def test_a_view_that_was_never_trained_can_be_asked() -> None:
    memory = make_compositional()
    never = make_views([1] * 50, row=[10**9] * 50, seed=3)  # beyond every row of a table
    given = memory(never)
    assert torch.isfinite(given).all()
    asked = torch.cat((never.dihedral[:, None], never.colors), dim=1)
    assert len(given.flatten(1).unique(dim=0)) == len(asked.unique(dim=0)) == 50


def test_changing_the_row_of_a_task_changes_only_that_task() -> None:
    memory = make_compositional()
    views = make_views([0, 1, 2, 1])
    before = memory(views).detach()
    with torch.no_grad():
        memory.rows[1] += 1
    after = memory(views)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert (before[[1, 3]] != after[[1, 3]]).any(dim=-1).all()


def test_the_gradient_reaches_the_rows_of_the_asked_tasks_alone() -> None:
    memory = make_compositional()
    memory(make_views([3, 1, 3])).square().sum().backward()
    assert memory.rows.grad is not None
    assert memory.rows.grad.any(dim=1).tolist() == [False, True, False, True]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in memory.parameters())


@pytest.mark.parametrize(
    ("settings", "message"), [({"kind": "none"}, "table or compositional, got 'none'"), ({"tokens": 0}, "at least 1")]
)
def test_settings_that_make_no_memory_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryConfig(**settings)
