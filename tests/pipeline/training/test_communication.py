"""What processes agree on, where what they said is read a step later."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.training import state as training_state
from pipeline.training.communication import Collectives
from pipeline.training.metrics import Totals
from pipeline.training.state import TrainState


class Two:
    """The main one of two processes on GPUs, of which the other says nothing."""

    num_processes, process_index, is_main_process = 2, 0, True
    device = torch.device("cpu")

    def reduce(self, values: Tensor, how: str) -> Tensor:
        assert how == "sum"
        return values.clone()


def on_gpus() -> Collectives:
    collectives = Collectives(Two())  # type: ignore[arg-type]
    collectives.waits = False
    return collectives


def test_what_is_read_is_what_was_said_a_step_before() -> None:
    collectives = on_gpus()
    assert collectives.agree(0.1, False, True, False) == (torch.tensor(0.1).item(), False, False, False)
    assert collectives.agree(0.2, True, False, False) == (torch.tensor(0.1).item(), False, True, False)
    assert collectives.agree(0.3, False, False, True)[1:] == (True, False, False)
    assert collectives.agree(0.4, False, False, False)[1:] == (False, False, True)


def test_a_training_without_time_or_one_that_was_interrupted_ends_before_its_first_step() -> None:
    assert on_gpus().agree(0.1, True, False, False)[1]
    assert on_gpus().agree(0.1, False, False, True)[3]


def test_a_checkpoint_that_is_due_until_it_is_written_is_written_once() -> None:
    collectives, written, due = on_gpus(), 0, False
    for step in range(10):
        due = due or step == 3
        _, _, write, _ = collectives.agree(0.0, False, due, False)
        written += write
        due = due and not write
    assert written == 1


def test_where_steps_are_waited_for_nothing_is_late() -> None:
    collectives = Collectives(Two())  # type: ignore[arg-type]
    collectives.waits = True
    assert collectives.agree(0.5, True, True, True) == (0.5, True, True, True)
    assert collectives.agree(0.5, False, True, False) == (0.5, False, True, False)


def test_counts_are_of_each_process() -> None:
    collectives = on_gpus()
    assert collectives.counts(7).tolist() == [7.0, 0.0]
    alone = Collectives(SimpleNamespace(num_processes=1, process_index=0, device=torch.device("cpu")))  # type: ignore[arg-type]
    assert alone.counts(3).tolist() == [3.0]
    assert alone.agree(0.5, True, False, True) == (0.5, True, False, True)


def test_totals_are_those_of_all_processes_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_state, "gather", lambda _, mine: [mine, Totals(tokens=1.0, exact=2.0)])
    state: Any = SimpleNamespace(accelerator=None, totals=Totals(tokens=2.0**25))
    assert TrainState.summed_totals(state) == Totals(tokens=2.0**25 + 1, exact=2.0)
    assert state.totals == Totals(tokens=2.0**25)
