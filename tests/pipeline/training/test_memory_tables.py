"""Tables of task memory: the published rule, and what the packs of a step find for each table."""

import pytest
import torch

from pipeline.config import OptimizerConfig
from pipeline.device import make_accelerator
from pipeline.models.batch import Views
from pipeline.models.config import MemoryConfig, ReasonerConfig
from pipeline.models.network import make_network
from pipeline.training.communication import AsyncCopy
from pipeline.training.ema import MovingAverage
from pipeline.training.memory_tables import sign_descent, take_gradients, train_tables

MODEL = ReasonerConfig(hidden_size=16, heads=2, inner_multiple=8, layers=1, H_cycles=1, L_cycles=1)
FIVE = AsyncCopy(torch.tensor([5.0]))
"""Sequences of the only process."""


def test_sign_descent_sums_duplicates_and_leaves_other_rows_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 4, generator=generator)
    index = torch.tensor([4, 1, 4, 4, 0])
    gradient = torch.randn(5, 4, generator=generator)
    gradient[2] = -3 * gradient[0]  # outweighs the first: the sign of the sum is not the sum of the signs
    gradient[3] = gradient[0]
    gradient[4, :2] = 0
    before = rows.clone()
    sign_descent(rows, index, gradient, rate=0.1, decay=0.5)
    assert torch.equal(rows[[2, 3, 5]], before[[2, 3, 5]])
    summed = {0: gradient[4], 1: gradient[1], 4: -gradient[0]}
    for row, total in summed.items():
        expected = before[row] * (1 - 0.1 * 0.5) - 0.1 * total.sign()
        torch.testing.assert_close(rows[row], expected)


@pytest.mark.parametrize(
    ("memory", "rates"),
    [
        (MemoryConfig("table", 2), OptimizerConfig(memory_rate=0.2, residual_rate=7.0, memory_decay=0.5)),
        (MemoryConfig("compositional", 2, residual=4), OptimizerConfig(memory_rate=7.0, residual_rate=0.2, memory_decay=0.5)),
    ],
    ids=["table", "residual"],
)
def test_a_step_trains_the_rows_that_its_packs_asked_by_the_sum_of_what_they_found_at_the_rate_of_their_table(
    memory: MemoryConfig, rates: OptimizerConfig
) -> None:
    network = make_network(MODEL, memory, 3, 6, 0)
    (table,) = network.tables.values()
    generator = torch.Generator().manual_seed(0)
    average = MovingAverage(network, network.tables, 0.5)
    found, total = [], torch.zeros_like(table.rows)
    for rows in ([4, 1], [4, 2, 4]):
        zeros = torch.zeros(len(rows), dtype=torch.int64)
        given = network.memory(Views(zeros, torch.tensor(rows), zeros, torch.arange(10).expand(len(rows), 10)))
        given.backward(torch.randn(given.shape, generator=generator))
        total.index_add_(0, torch.tensor(rows), table.gathered.grad)
        found.append(take_gradients(network))
    train_tables(network, found, make_accelerator("float32")[0], average, rates, 0.5, FIVE)
    average.update()
    assert total.any(dim=1).tolist() == [False, True, True, False, True, False]
    torch.testing.assert_close(table.rows, -0.1 * total.sign())
    (prefix,) = network.tables
    torch.testing.assert_close(average.state_dict()[f"{prefix}.rows"], -0.05 * total.sign())
