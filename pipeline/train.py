"""The training stage: packs of a store in, checkpoints and metrics out, through Accelerate.

Deep supervision: each step runs one segment of every sequence of a pack, its loss (pipeline.gradients) and an update of the
weights; states are carried, detached, to the next step until a sequence halts (pipeline.carry).
"""

import logging
import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from pipeline.budget import Budget
from pipeline.carry import Carry, Turn, begin, next_turn
from pipeline.checkpoint_folder import checkpoint_name, newest_checkpoint
from pipeline.config import Config
from pipeline.data.dataset import Dataset, make_packs
from pipeline.engine import ran_out_of_memory
from pipeline.execution import DoesNotRun, Execution
from pipeline.gradients import Computed, Gradients
from pipeline.interrupts import interrupts_deferred
from pipeline.memory_fit import CudaMemory, OutOfMemory, free_memory
from pipeline.optim import MovingAverage, make_optimizer, rate_factor, trainable
from pipeline.progress import Journal, Progress, Totals, metrics_line
from pipeline.reading import Reading
from pipeline.reasoner.network import Network
from pipeline.resume import load_checkpoint
from pipeline.save import CheckpointFailed, save_checkpoint
from pipeline.tables import Found, train_tables
from pipeline.together import Together
from pipeline.trial import measure_pieces

logger = logging.getLogger(__name__)

DISK_BYTES_PER_SECOND = 200e6
"""Assumed until the first checkpoint has been written and timed."""


def count_packs(config: Config, processes: int, resumed: bool = False) -> int:
    """Return the packs of a step. Raises ValueError where they cannot be shared out evenly.

    A resumed run, of which processes may have fallen out, goes on with uneven shares.
    """
    packs = config.train.packs or processes
    if packs % processes and not (resumed and packs > processes):
        tokens = max(1, config.train.pack_tokens * packs // processes)
        hint = f"--set train.packs={processes} --set train.pack_tokens={tokens} makes as large a step"
        raise ValueError(f"train.packs = {packs} must be a multiple of the {processes} processes: {hint}")
    return packs


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
        self.accelerator, self.dtype, self.store, self.config, self.out = accelerator, dtype, store, config, out
        torch.manual_seed(config.train.seed)  # nothing here draws from it; what is added later shall be reproducible
        self.share_packs(
            count_packs(config, accelerator.num_processes, resumed=newest_checkpoint(out / "checkpoints") is not None)
        )
        self.network = network.to(accelerator.device)
        self.optimizer = make_optimizer(self.network, config.optimizer)
        self.average = (
            MovingAverage(self.network, config.optimizer.ema, round(1 / (1 - config.optimizer.ema)))
            if config.optimizer.ema
            else None
        )
        with warnings.catch_warnings():  # newer torch renames an option that older ones need
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            self.model = accelerator.prepare_model(self.network)
        self.stepper = accelerator.prepare_optimizer(self.optimizer, device_placement=False)
        self.maker = make_packs(store, config.train.canvas, config.memory.tokens)
        execution = Execution(self.network, self.maker, config, accelerator, dtype)
        self.gradients = Gradients(accelerator, self.model, self.network, self.maker, config, dtype, execution)
        self.unread: Unread | None = None
        """The step that was computed last, where it was not waited for."""
        self.together = Together(accelerator)
        self.pieces = config.train.pieces or int(accelerator.device.type != "cuda")
        """Into which a pack is cut; 0 until it is measured."""
        self.memory_retries = 0
        """Steps that were repeated in more pieces because the memory was too small."""
        self.progress = Progress()
        self.totals = Totals()
        stored_bytes = 5 * 4 * trainable(self.network)  # weights, their average twice, two moments
        self.save_seconds = 0.2 + stored_bytes / DISK_BYTES_PER_SECOND

    def share_packs(self, packs: int) -> None:
        """Give this process its share of the `packs` of a step, each of them at its beginning."""
        self.packs = range(self.accelerator.process_index, packs, self.accelerator.num_processes)
        self.all_packs = packs
        self.carries: dict[int, Carry] = {pack: begin() for pack in self.packs}

    def move_carries(self, device: torch.device) -> None:
        """Keep what is carried on `device`."""
        self.carries = {pack: carry.to(device) for pack, carry in self.carries.items()}

    def describe(self) -> str:
        """Return in half a line what this trainer computes on and with."""
        processes = self.accelerator.num_processes
        return f"{str(self.dtype).removeprefix('torch.')} on {processes} x {self.accelerator.device.type}"

    def fit(self, budget: Budget) -> Progress:
        """Train until `train.steps` steps are done or `budget` is used up, then write the last checkpoint.

        Raises FloatingPointError, naming step and tasks, when the loss is not finite, OutOfMemory when a step does not fit into
        the memory, and CheckpointFailed when the disk does not take the last checkpoint; the one before stays. Asked to end, by
        Ctrl-C or SIGTERM, it does so after the step and its checkpoint, with KeyboardInterrupt.
        """
        train = self.config.train
        if not train.steps and budget.limit_seconds is None:
            raise ValueError("training needs an end: train.steps or a time limit")
        self.together.begin()
        started, spent_before = time.monotonic(), self.progress.seconds
        last_checkpoint, logged = started, started
        step_seconds, interrupted = 0.0, False
        path = self.out / "metrics.jsonl" if self.accelerator.is_main_process else None
        with interrupts_deferred() as asked_to_end, Journal(path) as journal:
            while not train.steps or self.progress.step < train.steps:
                before = time.monotonic()
                due = bool(train.checkpoint_seconds) and before - last_checkpoint >= train.checkpoint_seconds
                done, stop, due, interrupted = self._agree(budget, step_seconds, due, asked_to_end())
                if stop or interrupted:
                    break
                if not self.pieces:
                    self.pieces = measure_pieces(self, CudaMemory(self.accelerator.device))
                    before = time.monotonic()
                self._step(done)
                now = time.monotonic()
                self.progress.seconds = spent_before + now - started
                if not self.gradients.execution.prepared():
                    step_seconds = max(now - before, 0.9 * step_seconds)
                if self.progress.step % train.log_steps == 0:
                    self._log(journal, done, now - logged, budget.remaining())
                    logged = now
                if due or (train.checkpoint_steps and self.progress.step % train.checkpoint_steps == 0):
                    self._save_if_possible()
                    last_checkpoint = time.monotonic()
            self.save()
            if interrupted or asked_to_end():
                raise KeyboardInterrupt(f"the checkpoint of step {self.progress.step} is written, --resume goes on from it")
        return self.progress

    def _save_if_possible(self) -> None:
        """Write a checkpoint; one that the disk does not take is missing, and the next one may do."""
        try:
            self.save()
        except CheckpointFailed as error:
            logger.error("step %d: the checkpoint cannot be written (%s); training goes on", self.progress.step, error)

    def _step(self, done: float) -> None:
        """One step of all packs: forward, backward, update."""
        train, step = self.config.train, self.progress.step
        turns = {pack: next_turn(self.carries[pack], self.maker, train, step, pack) for pack in self.packs}
        counts = self.together.counts(sum(len(turn.samples) for turn in turns.values()))
        sequences, reading = counts.sum()[None], Reading(counts)
        computed = self._compute(turns, self.accelerator.num_processes / sequences[0])
        broken = (~computed.figures.isfinite()).any().float()[None]
        shared = Reading(torch.cat((sequences, self.together.share(broken))))
        before, self.unread = self.unread, Unread(step, computed, shared)
        if self.together.waits:
            self._settle()
        elif before is not None:
            self._tell(before)
        self.carries = computed.carries
        self._update(done, computed.found, reading)
        self.progress.step += 1

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
            tasks = sorted(self.store.task_ids[task] for task in unread.computed.broken)
            named = ", ".join(tasks[:5]) or "of another process"
            raise FloatingPointError(f"step {unread.step}: the loss is not finite; among the tasks {named}")
        self.totals.add(unread.computed.totals)
        self.progress.sequences += int(sequences)

    def _compute(self, turns: Mapping[int, Turn], scale: Tensor) -> Computed:
        """Compute the gradients of all packs, again in more pieces where the memory is too small, or eagerly where need be."""
        while True:
            try:
                return self.gradients.compute(turns, self.carries, self.pieces, scale)
            except (RuntimeError, MemoryError) as error:
                if not ran_out_of_memory(error):
                    raise
                words: str | None = str(error)
            except DoesNotRun as error:
                self.gradients.execution.give_up(error)
                words = None
            self.optimizer.zero_grad(set_to_none=True)  # here the error holds no memory any more
            self.gradients.execution.forget_graphs()
            free_memory(self.accelerator.device)
            if words is not None:
                self._cut_smaller(max(len(turn.samples) for turn in turns.values()), words)

    def _cut_smaller(self, most: int, words: str) -> None:
        """Double the pieces, of which a pack can have `most`.

        `words` are those of the error. Raises OutOfMemory where that does not help, or cannot be done as others have gone on.
        """
        step, processes = self.progress.step, self.accelerator.num_processes
        if self.pieces >= most:
            raise OutOfMemory(
                f"step {step}: out of memory with a single sequence in each piece; "
                f"a smaller train.pack_tokens leaves more room for it ({words.splitlines()[0] if words else 'MemoryError'})"
            )
        if processes > 1:
            raise OutOfMemory(
                f"step {step}: process {self.accelerator.process_index} of {processes} is out of memory with "
                f"train.pieces={self.pieces}; go on with --resume --set train.pieces={2 * self.pieces}"
            )
        self.pieces *= 2
        self.memory_retries += 1
        logger.warning("step %d: out of memory; it is repeated with %d pieces to a pack", step, self.pieces)

    def _update(self, done: float, found: list[Found], counts: Reading) -> None:
        optimizer = self.config.optimizer
        factor = rate_factor(optimizer, self.progress.step, done)
        self.optimizer.set_rates(factor)
        self.stepper.step()
        self.stepper.zero_grad(set_to_none=not self.gradients.execution.graphs)  # a graph adds to them where they are
        if self.accelerator.optimizer_step_was_skipped:  # float16 overflow: the scale was lowered, nothing else happens
            return
        train_tables(self.network, found, self.accelerator, self.average, optimizer, factor, counts)
        if self.average:
            self.average.update()

    def _agree(self, budget: Budget, step_seconds: float, due: bool, asked_to_end: bool) -> tuple[float, bool, bool, bool]:
        """Return the share 0..1 of the run that is done, whether the time is up, whether a checkpoint is due after this step.

        It is what the main process finds, in every process. Last comes whether any process was asked to end.
        """
        steps, left = self.config.train.steps, budget.remaining()
        spent = self.progress.seconds
        by_time = 0.0 if math.isinf(left) else spent / max(spent + left, 1e-9)
        by_steps = self.progress.step / steps if steps else 0.0
        stop = left < (1.5 if self.together.waits else 3.5) * step_seconds + self.save_seconds
        by_time, stop, due, asked_to_end = self.together.agree(by_time, stop, due, asked_to_end)
        return max(by_time, by_steps), stop, due, asked_to_end

    def _log(self, journal: Journal, done: float, seconds: float, left: float) -> None:
        """Add a line to the metrics: means over the last `seconds` and all processes."""
        self._settle()
        totals, self.totals = self.summed_totals(), Totals()
        factor = rate_factor(self.config.optimizer, self.progress.step, done)
        self.progress.last = metrics_line(totals, self.progress, seconds, factor)
        journal.write(self.progress.last, done, left)

    def summed_totals(self) -> Totals:
        """Return the totals over all processes; every process must ask."""
        return Totals(**{name: self.together.sum(value) for name, value in asdict(self.totals).items()})

    def weights(self) -> Mapping[str, Tensor]:
        """Return the weights that predictions use: averaged where the average is on."""
        return self.average.state_dict() if self.average else self.network.state_dict()

    def weights_are_finite(self) -> bool:
        """Return whether every value of the weights that predictions use is."""
        return all(bool(tensor.isfinite().all()) for tensor in self.weights().values())

    def save(self) -> None:
        """Write a checkpoint of this step, all processes together.

        Raises, in every process, FloatingPointError when the weights are not finite and CheckpointFailed when the disk does not
        take it: the last good checkpoint stays.
        """
        self._settle()
        newest = newest_checkpoint(self.out / "checkpoints")
        if newest and newest.name == checkpoint_name(self.progress.step):
            return  # it is there already, complete
        if not self.weights_are_finite():
            raise FloatingPointError(f"step {self.progress.step}: the weights are not finite, no checkpoint is written")
        started = time.monotonic()
        save_checkpoint(self)
        self.save_seconds = time.monotonic() - started

    def resume(self) -> bool:
        """Continue from the newest undamaged checkpoint of the output folder; return whether there was one.

        Damaged ones are renamed, with a line in the log. Raises ValueError when it belongs to other data or another config.
        """
        return load_checkpoint(self)

    def has_checkpoint(self) -> bool:
        """Return whether the output folder holds a checkpoint."""
        return newest_checkpoint(self.out / "checkpoints") is not None
