"""What processes agree on, where what they said is read a step later."""

from types import SimpleNamespace

import torch
from torch import Tensor

from pipeline.training.communication import Collectives


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
    assert collectives.agree(0.1, True, False, False) == (torch.tensor(0.1).item(), False, False, False)
    assert collectives.agree(0.2, False, False, False)[1]
    assert not collectives.agree(0.3, False, False, False)[1]


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


def test_counts_are_of_each_process_and_sums_are_exact() -> None:
    collectives = on_gpus()
    assert collectives.counts(7).tolist() == [7.0, 0.0]
    assert collectives.sum(2.0**25 + 1) == 2**25 + 1
    alone = Collectives(SimpleNamespace(num_processes=1, process_index=0, device=torch.device("cpu")))  # type: ignore[arg-type]
    assert alone.counts(3).tolist() == [3.0]
    assert alone.agree(0.5, True, False, True) == (0.5, True, False, True)
