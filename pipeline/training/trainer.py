"""The training stage: packs of a store in, checkpoints and metrics out, through Accelerate.

Deep supervision: each step runs one segment of every sequence of a pack, its loss (pipeline.training.gradients) and an update
of the weights; states are carried, detached, to the next step until a sequence halts (pipeline.training.carry).
"""

import logging
import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from pipeline.config import Config
from pipeline.data.dataset import Dataset
from pipeline.device import OutOfMemory, free_memory, ran_out_of_memory
from pipeline.models.network import Network
from pipeline.system.signals import interrupts_deferred
from pipeline.system.time_limit import Budget
from pipeline.training.carry import Turn, next_turn
from pipeline.training.checkpoint import CheckpointFailed, load_checkpoint, save_checkpoint
from pipeline.training.communication import Reading
from pipeline.training.compilation import DoesNotRun, Execution
from pipeline.training.gradients import Computed, Gradients
from pipeline.training.memory_fit import CudaMemory, measure_pieces
from pipeline.training.memory_tables import Found, train_tables
from pipeline.training.metrics import MetricsWriter, Progress, Totals, metrics_line
from pipeline.training.optimizers import rate_factor, trainable
from pipeline.training.state import TrainState
from pipeline.weights import checkpoint_name, newest_checkpoint

logger = logging.getLogger(__name__)

DISK_BYTES_PER_SECOND = 200e6
"""Assumed until the first checkpoint has been written and timed."""


@dataclass(frozen=True)
class Unread:
    """A step that is, or may still be, on the device."""

    step: int
    computed: Computed
    shared: Reading
    """Of all processes: the number of sequences, and of processes in which the loss is not finite."""


class Trainer:
    """Trains one network on one store; every process of a launch has one and they step together."""

    def __init__(
        self, accelerator: Accelerator, dtype: torch.dtype, network: Network, store: Dataset, config: Config, out: Path
    ) -> None:
        self.state = TrainState(accelerator, dtype, network, store, config, out)
        with warnings.catch_warnings():  # newer torch renames an option that older ones need
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            self.model = accelerator.prepare_model(self.state.network)
        self.stepper = accelerator.prepare_optimizer(self.state.optimizer, device_placement=False)
        maker = self.state.maker
        execution = Execution(network, maker, config, accelerator, dtype)
        self.gradients = Gradients(accelerator, self.model, network, maker, config, dtype, execution)
        self.unread: Unread | None = None
        """The step that was computed last, where it was not waited for."""
        self.pieces = config.train.pieces or int(accelerator.device.type != "cuda")
        """Into which a pack is cut; 0 until it is measured."""
        self.memory_retries = 0
        """Steps that were repeated in more pieces because the memory was too small."""
        stored_bytes = 5 * 4 * trainable(network)  # weights, their average twice, two moments
        self.save_seconds = 0.2 + stored_bytes / DISK_BYTES_PER_SECOND

    def describe(self) -> str:
        """Return in half a line what this trainer computes on and with."""
        processes = self.state.accelerator.num_processes
        return f"{str(self.state.dtype).removeprefix('torch.')} on {processes} x {self.state.accelerator.device.type}"

    def fit(self, budget: Budget) -> Progress:
        """Train until `train.steps` steps are done or `budget` is used up, then write the last checkpoint.

        Raises FloatingPointError, naming step and tasks, when the loss is not finite, OutOfMemory when a step does not fit into
        the memory, and CheckpointFailed when the disk does not take the last checkpoint; the one before stays. Asked to end, by
        Ctrl-C or SIGTERM, it does so after the step and its checkpoint, with KeyboardInterrupt.
        """
        train = self.state.config.train
        if not train.steps and budget.limit_seconds is None:
            raise ValueError("training needs an end: train.steps or a time limit")
        self.state.together.begin()
        started, spent_before = time.monotonic(), self.state.progress.seconds
        last_checkpoint, logged = started, started
        step_seconds, interrupted = 0.0, False
        path = self.state.out / "metrics.jsonl" if self.state.accelerator.is_main_process else None
        with interrupts_deferred() as asked_to_end, MetricsWriter(path) as writer:
            while not train.steps or self.state.progress.step < train.steps:
                before = time.monotonic()
                due = bool(train.checkpoint_seconds) and before - last_checkpoint >= train.checkpoint_seconds
                done, stop, due, interrupted = self._agree(budget, step_seconds, due, asked_to_end())
                if stop or interrupted:
                    break
                if not self.pieces:
                    self.pieces = measure_pieces(self.state, self.gradients, CudaMemory(self.state.accelerator.device))
                    before = time.monotonic()
                self._step(done)
                now = time.monotonic()
                self.state.progress.seconds = spent_before + now - started
                if not self.gradients.execution.prepared():
                    step_seconds = max(now - before, 0.9 * step_seconds)
                if self.state.progress.step % train.log_steps == 0:
                    self._log(writer, done, now - logged, budget.remaining())
                    logged = now
                if due or (train.checkpoint_steps and self.state.progress.step % train.checkpoint_steps == 0):
                    self._save_if_possible()
                    last_checkpoint = time.monotonic()
            self.save()
            if interrupted or asked_to_end():
                raise KeyboardInterrupt(
                    f"the checkpoint of step {self.state.progress.step} is written, --resume goes on from it"
                )
        return self.state.progress

    def _save_if_possible(self) -> None:
        """Write a checkpoint; one that the disk does not take is missing, and the next one may do."""
        try:
            self.save()
        except CheckpointFailed as error:
            logger.error("step %d: the checkpoint cannot be written (%s); training goes on", self.state.progress.step, error)

    def _step(self, done: float) -> None:
        """One step of all packs: forward, backward, update."""
        train, step = self.state.config.train, self.state.progress.step
        turns = {pack: next_turn(self.state.carries[pack], self.state.maker, train, step, pack) for pack in self.state.packs}
        counts = self.state.together.counts(sum(len(turn.samples) for turn in turns.values()))
        sequences, reading = counts.sum()[None], Reading(counts)
        computed = self._compute(turns, self.state.accelerator.num_processes / sequences[0])
        broken = (~computed.figures.isfinite()).any().float()[None]
        shared = Reading(torch.cat((sequences, self.state.together.share(broken))))
        before, self.unread = self.unread, Unread(step, computed, shared)
        if self.state.together.waits:
            self._settle()
        elif before is not None:
            self._tell(before)
        self.state.carries = computed.carries
        self._update(done, computed.found, reading)
        self.state.progress.step += 1

    def _settle(self) -> None:
        """Look at the last step, if nobody has yet: wait for it, add up what it came to.

        Raises FloatingPointError where its loss is not finite, in every process.
        """
        unread, self.unread = self.unread, None
        if unread is not None:
            self._tell(unread)

    def _tell(self, unread: "Unread") -> None:
        sequences, broken = unread.shared.take().tolist()
        if broken:  # somewhere: every process stops
            tasks = sorted(self.state.store.task_ids[task] for task in unread.computed.broken)
            named = ", ".join(tasks[:5]) or "of another process"
            raise FloatingPointError(f"step {unread.step}: the loss is not finite; among the tasks {named}")
        self.state.totals.add(unread.computed.totals)
        self.state.progress.sequences += int(sequences)

    def _compute(self, turns: Mapping[int, Turn], scale: Tensor) -> Computed:
        """Compute the gradients of all packs, again in more pieces where the memory is too small, or eagerly where need be."""
        while True:
            try:
                return self.gradients.compute(turns, self.state.carries, self.pieces, scale)
            except (RuntimeError, MemoryError) as error:
                if not ran_out_of_memory(error):
                    raise
                words: str | None = str(error)
            except DoesNotRun as error:
                self.gradients.execution.give_up(error)
                words = None
            self.state.optimizer.zero_grad(set_to_none=True)  # here the error holds no memory any more
            self.gradients.execution.forget_graphs()
            free_memory(self.state.accelerator.device)
            if words is not None:
                self._cut_smaller(max(len(turn.samples) for turn in turns.values()), words)

    def _cut_smaller(self, most: int, words: str) -> None:
        """Double the pieces, of which a pack can have `most`.

        `words` are those of the error. Raises OutOfMemory where that does not help, or cannot be done as others have gone on.
        """
        step, processes = self.state.progress.step, self.state.accelerator.num_processes
        if self.pieces >= most:
            raise OutOfMemory(
                f"step {step}: out of memory with a single sequence in each piece; "
                f"a smaller train.pack_tokens leaves more room for it ({words.splitlines()[0] if words else 'MemoryError'})"
            )
        if processes > 1:
            raise OutOfMemory(
                f"step {step}: process {self.state.accelerator.process_index} of {processes} is out of memory with "
                f"train.pieces={self.pieces}; go on with --resume --set train.pieces={2 * self.pieces}"
            )
        self.pieces *= 2
        self.memory_retries += 1
        logger.warning("step %d: out of memory; it is repeated with %d pieces to a pack", step, self.pieces)

    def _update(self, done: float, found: list[Found], counts: Reading) -> None:
        optimizer = self.state.config.optimizer
        factor = rate_factor(optimizer, self.state.progress.step, done)
        self.state.optimizer.set_rates(factor)
        self.stepper.step()
        self.stepper.zero_grad(set_to_none=not self.gradients.execution.graphs)  # a graph adds to them where they are
        if self.state.accelerator.optimizer_step_was_skipped:  # float16 overflow: the scale was lowered, nothing else happens
            return
        train_tables(self.state.network, found, self.state.accelerator, self.state.average, optimizer, factor, counts)
        if self.state.average:
            self.state.average.update()

    def _agree(self, budget: Budget, step_seconds: float, due: bool, asked_to_end: bool) -> tuple[float, bool, bool, bool]:
        """Return the share 0..1 of the run that is done, whether the time is up, whether a checkpoint is due after this step.

        It is what the main process finds, in every process. Last comes whether any process was asked to end.
        """
        steps, left = self.state.config.train.steps, budget.remaining()
        spent = self.state.progress.seconds
        by_time = 0.0 if math.isinf(left) else spent / max(spent + left, 1e-9)
        by_steps = self.state.progress.step / steps if steps else 0.0
        stop = left < (1.5 if self.state.together.waits else 3.5) * step_seconds + self.save_seconds
        by_time, stop, due, asked_to_end = self.state.together.agree(by_time, stop, due, asked_to_end)
        return max(by_time, by_steps), stop, due, asked_to_end

    def _log(self, writer: MetricsWriter, done: float, seconds: float, left: float) -> None:
        """Add a line to the metrics: means over the last `seconds` and all processes."""
        self._settle()
        totals, self.state.totals = self.state.summed_totals(), Totals()
        factor = rate_factor(self.state.config.optimizer, self.state.progress.step, done)
        self.state.progress.last = metrics_line(totals, self.state.progress, seconds, factor)
        writer.write(self.state.progress.last, done, left)

    def save(self) -> None:
        """Write a checkpoint of this step, all processes together.

        Raises, in every process, FloatingPointError when the weights are not finite and CheckpointFailed when the disk does not
        take it: the last good checkpoint stays.
        """
        self._settle()
        newest = newest_checkpoint(self.state.out / "checkpoints")
        if newest and newest.name == checkpoint_name(self.state.progress.step):
            return  # it is there already, complete
        if not self.state.weights_are_finite():
            raise FloatingPointError(f"step {self.state.progress.step}: the weights are not finite, no checkpoint is written")
        started = time.monotonic()
        save_checkpoint(self.state)
        self.save_seconds = time.monotonic() - started

    def resume(self) -> bool:
        """Continue from the newest undamaged checkpoint of the output folder; return whether there was one.

        Damaged ones are renamed, with a line in the log. Raises ValueError when it belongs to other data or another config.
        """
        return load_checkpoint(self.state)

    def has_checkpoint(self) -> bool:
        """Return whether the output folder holds a checkpoint."""
        return newest_checkpoint(self.state.out / "checkpoints") is not None
