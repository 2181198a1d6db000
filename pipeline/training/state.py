"""What a training run keeps from step to step: network, optimizer, average, carried sequences, progress.

Written and restored by pipeline.training.checkpoint, and used by the memory trial (pipeline.training.memory_fit).
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from augment.errors import InputError
from pipeline.config import Config
from pipeline.data.dataset import Dataset
from pipeline.data.packs import make_pack_maker
from pipeline.device import gather
from pipeline.models.network import Network
from pipeline.training.carry import Carry, empty_carry
from pipeline.training.communication import Collectives
from pipeline.training.ema import MovingAverage
from pipeline.training.metrics import Progress, Totals
from pipeline.training.optimizers import make_optimizer


class TrainState:
    """The state of one training run in one process, on the device of its accelerator."""

    def __init__(
        self, accelerator: Accelerator, dtype: torch.dtype, network: Network, dataset: Dataset, config: Config, out: Path,
        resumed: bool,
    ) -> None:  # fmt: skip
        self.accelerator, self.dtype, self.dataset, self.config, self.out = accelerator, dtype, dataset, config, out
        self.share_packs(count_packs(config, accelerator.num_processes, resumed))
        self.network = network.to(accelerator.device)
        self.collectives = Collectives(accelerator)
        self.optimizer = make_optimizer(self.network, config.optimizer, self.collectives, dtype)
        decay, start = config.optimizer.ema, config.optimizer.ema_start
        start = max(start, round(1 / (1 - decay))) if decay else 0
        self.average = MovingAverage(self.network, self.network.tables, decay, start) if decay else None
        self.maker = make_pack_maker(dataset, config.train.canvas, config.memory.tokens, latents=config.train.latents)
        self.progress = Progress()
        self.saved_step: int | None = None
        """Of the checkpoint that was written or read last: of several processes each may see the folder at another time."""
        self.totals = Totals()

    def share_packs(self, packs: int) -> None:
        """Give this process its share of the `packs` of a step, with empty carries."""
        self.packs = range(self.accelerator.process_index, packs, self.accelerator.num_processes)
        self.all_packs = packs
        self.carries: dict[int, Carry] = {pack: empty_carry() for pack in self.packs}

    def move_carries(self, device: torch.device) -> None:
        """Keep what is carried on `device`."""
        self.carries = {pack: carry.to(device) for pack, carry in self.carries.items()}

    def summed_totals(self) -> Totals:
        """Return the totals over all processes; a collective operation."""
        summed = Totals()
        for totals in gather(self.accelerator, self.totals):
            summed.add(totals)
        return summed

    def weights(self) -> Mapping[str, Tensor]:
        """Return the weights that predictions use: averaged where the average is on."""
        return self.average.state_dict() if self.average else self.network.state_dict()

    def weights_are_finite(self) -> bool:
        """Return whether every value of the weights that predictions use is finite."""
        return all(bool(tensor.isfinite().all()) for tensor in self.weights().values())


def count_packs(config: Config, processes: int, resumed: bool = False) -> int:
    """Return the packs of a step. Raises InputError where the processes cannot share them evenly.

    A resumed run, which may have lost processes, continues with uneven shares.
    """
    packs = config.train.packs or processes
    if packs % processes and not (resumed and packs > processes):
        tokens = max(1, config.train.pack_tokens * packs // processes)
        hint = f"--set train.packs={processes} --set train.pack_tokens={tokens} makes as large a step"
        if resumed:  # packs keep their size
            times = processes / packs
            hint = f"start {packs} processes at most, or --set train.packs={processes} makes a step {times:g} times as large"
        raise InputError(f"train.packs = {packs} must be a multiple of the {processes} processes: {hint}")
    return packs


def trainable(network: Network) -> int:
    """Return the number of trained values, rows of tables included."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return parameters + sum(table.rows.numel() for table in network.tables.values())


def checkpoint_bytes(network: Network) -> int:
    """Return about how large a checkpoint is: weights, their average twice, two moments but of rows of tables, in float32."""
    moments = 2 * sum(parameter.numel() for parameter in network.parameters())
    return 4 * (3 * trainable(network) + moments)
