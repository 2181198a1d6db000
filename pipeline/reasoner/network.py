"""A reasoner with its task memory: the one module that is trained, checkpointed and asked."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.reasoner.layout import Layout
from pipeline.reasoner.memory import CompositionalMemory, MemoryConfig, TableMemory, Views
from pipeline.reasoner.trm import TRM, ReasonerConfig, Segment, State


@dataclass(frozen=True)
class Batch:
    """One pack on the device of the network."""

    inputs: Tensor
    """(C,) int64 tokens."""
    labels: Tensor | None
    """(C,) int64 tokens, -100 where ignored; None when predicting."""
    layout: Layout
    views: Views


class Network(nn.Module):
    """Task memory and reasoner; one call is one supervision segment."""

    def __init__(self, reasoner: TRM, memory: TableMemory | CompositionalMemory) -> None:
        super().__init__()
        self.reasoner = reasoner
        self.memory = memory

    def forward(self, state: State, batch: Batch) -> Segment:
        return self.reasoner(state, batch.inputs, self.memory(batch.views), batch.layout)


def make_network(model: ReasonerConfig, memory: MemoryConfig, tasks: int, views: int, seed: int) -> Network:
    """Return a freshly initialised network for `tasks` tasks with `views` task-transform combinations in all."""
    generator = torch.Generator().manual_seed(seed)
    reasoner = TRM(model, generator)
    if memory.kind == "table":
        return Network(reasoner, TableMemory(views, model.hidden_size, memory.tokens))
    return Network(reasoner, CompositionalMemory(tasks, model.hidden_size, memory.tokens, generator))
