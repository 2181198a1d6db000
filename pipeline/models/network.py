"""A reasoner with its task memory: the one module that is trained, checkpointed and predicted with."""

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import nn

from pipeline.models.batch import Batch
from pipeline.models.config import MemoryConfig, ReasonerConfig
from pipeline.models.hrm import HRM
from pipeline.models.reasoner import Reasoner, Segment, State
from pipeline.models.task_memory import CompositionalMemory, RowTable, TableMemory
from pipeline.models.trm import TRM
from pipeline.models.urm import URM

REASONERS: Mapping[str, type[Reasoner]] = {"trm": TRM, "hrm": HRM, "urm": URM}
"""By the kind that a config names."""


class Network(nn.Module):
    """Task memory and reasoner; one call is one supervision segment."""

    def __init__(self, reasoner: Reasoner, memory: TableMemory | CompositionalMemory) -> None:
        super().__init__()
        self.reasoner = reasoner
        self.memory = memory

    @cached_property
    def tables(self) -> dict[str, RowTable]:
        """Every table whose rows no optimizer trains, by its state-dict prefix: table `x` has the rows `x.rows`."""
        return {prefix: module for prefix, module in self.named_modules() if isinstance(module, RowTable)}

    def forward(self, state: State, batch: Batch, cycles: int | None = None, depth: float = 1.0) -> Segment:
        return self.reasoner(state, batch.inputs, self.memory(batch.views), batch.layout, cycles, depth)


def make_network(model: ReasonerConfig, memory: MemoryConfig, tasks: int, views: int, seed: int) -> Network:
    """Return a freshly initialised network for `tasks` tasks with `views` task-transform combinations in all."""
    generator = torch.Generator().manual_seed(seed)
    reasoner = REASONERS[model.kind](model, memory.tokens, generator)
    if memory.kind == "table":
        return Network(reasoner, TableMemory(views, model.hidden_size, memory.tokens))
    return Network(reasoner, CompositionalMemory(memory, tasks, views, model.hidden_size, generator))
