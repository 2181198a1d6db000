"""The training loop: packs of a dataset in, checkpoints and metrics out, through Accelerate.

Deep supervision: each step runs one segment of every sequence of a pack, computes its gradients (pipeline.training.gradients)
and updates the weights. Detached states are carried to the next step until a sequence halts (pipeline.training.carry).
"""

import logging
import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from eval.files import write_json
from eval.formatting import show_names
from pipeline.config import CONFIG_FILE, Config, TrainConfig, require_end
from pipeline.data.dataset import Dataset
from pipeline.device import from_main, gather
from pipeline.device_limits import OutOfMemory, first_line, free_cache, ran_out_of_memory
from pipeline.models.compiled import MIN_COMPILE_SECONDS, is_enabled
from pipeline.models.network import Network
from pipeline.system.signals import interrupts_deferred
from pipeline.system.time_limit import NO_LIMIT, Budget
from pipeline.training.carry import StepBatch, next_batch
from pipeline.training.checkpoint import CheckpointFailed, begin_with, load_checkpoint, save_checkpoint
from pipeline.training.communication import AsyncCopy
from pipeline.training.execution import JOINED, DoesNotRun, Execution, cut_finer
from pipeline.training.gradients import Computed, Gradients
from pipeline.training.memory_fit import CudaMemory, measure_pieces
from pipeline.training.memory_tables import train_tables
from pipeline.training.metrics import METRICS_FILE, MetricsWriter, Progress, Totals, metrics_line
from pipeline.training.optimizers import rate_factor
from pipeline.training.state import TrainState, checkpoint_bytes
from pipeline.weights.files import FindStart
from pipeline.weights.find import newest_checkpoint

logger = logging.getLogger(__name__)

_COMPILING = "compiling, which takes seconds to minutes"
DISK_BYTES_PER_SECOND = 200e6
"""Assumed until the first checkpoint has been written and timed."""

JOINED_TOKENS = 4096
"""Packs of a process are joined on a CPU, in compiled code, where they hold no more tokens: the demo's step with both of its
packs in one process then takes 0.83 of the time. What is larger no longer fits into a core's cache."""
MIN_COMPILE_STEPS = 200
"""Of training that is left: `train.execution=auto` compiles for no less. On one H200 it took 7 s until five steps had run."""


MOST_OVERFLOWS = 20
"""Steps in a row that are left out where losses in float16 are not finite."""
LEAST_LOSS_SCALE = 2.0**-10
"""Of float16. Gradients that still overflow are not too large, but not finite; at a scale of 0 all would seem to be 0."""


def depth_at(config: TrainConfig, done: float) -> float:
    """Return the depth of segments (`Reasoner.updates`) with the share `done` 0..1 of the run behind it."""
    if config.depth == "full" or done >= 0.6:
        return 1.0
    return 1 / 3 if done < 0.3 else 2 / 3


@dataclass(frozen=True)
class PendingStep:
    """A step whose result has not been read: it may still be running on the device."""

    step: int
    computed: Computed
    shared: AsyncCopy
    """The number of sequences, and of processes in which the loss is not finite, over all processes."""


class Trainer:
    """Trains one network on one dataset; every process of a launch has one and they step together."""

    def __init__(
        self, accelerator: Accelerator, dtype: torch.dtype, network: Network, dataset: Dataset, config: Config, out: Path
    ) -> None:
        resumed = newest_checkpoint(out) is not None
        self.state = TrainState(accelerator, dtype, network, dataset, config, out, resumed)
        with warnings.catch_warnings():  # newer torch renames an option that older ones need
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            self.model = accelerator.prepare_model(self.state.network, device_placement=False)  # the average has its tensors
        self.stepper = accelerator.prepare_optimizer(self.state.optimizer, device_placement=False)
        maker = self.state.maker
        execution = Execution(network, maker, config, accelerator, dtype)
        self.gradients = Gradients(accelerator, self.model, network, maker, config, dtype, execution)
        self.pending: PendingStep | None = None
        """The last step, until its result is read."""
        self.overflows = 0
        """Steps in a row whose losses were not finite."""
        self.pieces = config.train.pieces or 1
        """Micro-batches of a pack, or JOINED."""
        self.unmeasured = not config.train.pieces and accelerator.device.type == "cuda"
        self.tried = False
        """Whether `_try_execution` has run."""
        self.memory_retries = 0
        """Steps that were repeated in more micro-batches because they did not fit into the memory."""
        self.processor_counted = time.process_time()
        """Processor time of this process up to which the totals have it."""
        self.save_seconds = 0.2 + checkpoint_bytes(network) / DISK_BYTES_PER_SECOND

    def fit(self, budget: Budget, pause: Budget = NO_LIMIT) -> Progress:
        """Train until `train.steps` steps are done or `budget` is used up, then write the last checkpoint.

        Where `pause` ends before, another `fit` with what is left of `budget` goes on as if there had been none.

        Raises FloatingPointError, naming step and tasks, where the loss is not finite; OutOfMemory where a step does not fit
        into the memory; CheckpointFailed where the disk does not take the last checkpoint, and the one before stays. On Ctrl-C
        or SIGTERM it ends after the step and its checkpoint, with KeyboardInterrupt.
        """
        state, train = self.state, self.state.config.train
        require_end(state.config, budget.limit_seconds)
        state.collectives.begin()
        started, spent_before = time.monotonic(), state.progress.seconds
        last_checkpoint = started
        step_seconds, interrupted = 0.0, False
        path = state.out / METRICS_FILE if state.accelerator.is_main_process else None
        with interrupts_deferred() as interruption, MetricsWriter(path) as writer:
            while not train.steps or state.progress.step < train.steps:
                before, compiled = time.monotonic(), len(self.gradients.execution.shapes)
                due = bool(train.checkpoint_seconds) and before - last_checkpoint >= train.checkpoint_seconds
                done, stop, due, interrupted = self._agree(budget, pause, step_seconds, due, interruption())
                if stop or interrupted:
                    break
                if self.unmeasured or not self.tried:
                    self._set_up(budget)
                    state.progress.setup_seconds += time.monotonic() - before
                    before = time.monotonic()
                self._step(done)
                logs = state.progress.step % train.log_steps == 0
                if logs:  # what the device still computes belongs to the time of this line
                    self._read_pending()
                now = time.monotonic()
                state.progress.seconds = spent_before + now - started
                if state.accelerator.is_main_process:
                    state.totals.seconds += now - before
                if len(self.gradients.execution.shapes) == compiled:  # to compile takes long, and happens once
                    step_seconds = max(now - before, 0.9 * step_seconds)
                if logs:
                    self._log(writer, done, budget.remaining())
                if due or (train.checkpoint_steps and state.progress.step % train.checkpoint_steps == 0):
                    try:
                        self.save()
                    except CheckpointFailed as error:
                        step = state.progress.step
                        logger.error("step %d: the checkpoint cannot be written (%s); training goes on", step, error)
                    last_checkpoint = time.monotonic()
            self.save()
            if interrupted or interruption():
                raise KeyboardInterrupt(f"the checkpoint of step {state.progress.step} is written, --resume goes on from it")
        return state.progress

    def _agree(
        self, budget: Budget, pause: Budget, step_seconds: float, due: bool, interrupted: bool
    ) -> tuple[float, bool, bool, bool]:
        """Return what all processes do next: the share 0..1 of the run that is done, whether to stop, save, or end interrupted.

        What came before the first step is no part of that share. The clock of the main process decides, and an interrupt of any
        process.
        """
        steps, left = self.state.config.train.steps, budget.remaining()
        spent = self.state.progress.seconds - self.state.progress.setup_seconds
        by_time = 0.0 if math.isinf(left) else spent / max(spent + left, 1e-9)
        by_steps = self.state.progress.step / steps if steps else 0.0
        stop = min(left, pause.remaining()) < (1.5 if self.state.collectives.waits else 3.5) * step_seconds + self.save_seconds
        by_time, stop, due, interrupted = self.state.collectives.agree(by_time, stop, due, interrupted)
        return max(by_time, by_steps), stop, due, interrupted

    def _step(self, done: float) -> None:
        """One step of all packs, with the share `done` 0..1 of the run behind it: draw, forward, backward, update."""
        state, config, step = self.state, self.state.config, self.state.progress.step
        reached = state.progress.reached = max(state.progress.reached, done)
        accelerator, collectives = state.accelerator, state.collectives
        batches = self._next_batches()
        counts = collectives.counts(sum(len(batch.samples) for batch in batches.values()))
        sequences, counts_copy = counts.sum()[None], AsyncCopy(counts)

        computed = self._compute(batches, accelerator.num_processes / sequences[0], depth_at(config.train, reached))

        broken = (~computed.figures.isfinite()).any().float()[None]
        shared = AsyncCopy(torch.cat((sequences, collectives.share(broken))))
        if not collectives.waits:
            self._read_pending()  # the step before: this one is running
        self.pending = PendingStep(step, computed, shared)
        if collectives.waits and not self._read_pending():
            self.stepper.zero_grad()
            state.share_packs(state.all_packs)  # states that are not finite go
            state.progress.step += 1
            return

        state.carries = computed.carries
        factor = rate_factor(config.optimizer, step, done, reached)
        state.optimizer.set_rates(factor, memory_only=reached < config.optimizer.memory_first)
        if config.optimizer.clip:
            accelerator.clip_grad_norm_(state.network.parameters(), config.optimizer.clip)
        self.stepper.step()
        self.stepper.zero_grad()
        if not accelerator.optimizer_step_was_skipped:  # after an overflow of float16, which only changes the loss scale
            rows = computed.row_gradients
            train_tables(state.network, rows, accelerator, state.average, config.optimizer, factor, counts_copy)
            if state.average:
                state.average.update()
        elif accelerator.scaler.get_scale() < LEAST_LOSS_SCALE:
            raise FloatingPointError(f"step {step}: gradients overflow in float16 at any loss scale: train.precision=float32")
        state.progress.step += 1

    def _next_batches(self) -> dict[int, StepBatch]:
        """Return the packs of this process at this step, by number."""
        state, step = self.state, self.state.progress.step
        return {pack: next_batch(state.carries[pack], state.maker, state.config.train, step, pack) for pack in state.packs}

    def _set_up(self, budget: Budget) -> None:
        """Find out before the first step how packs fit into the memory, and how to compute them."""
        if self.unmeasured:
            self.pieces, self.unmeasured = self.measure_pieces(CudaMemory(self.state.accelerator.device)), False
        if not self.tried:
            self._try_execution(budget.remaining())

    def _try_execution(self, left: float) -> None:
        """Compile for the packs of this step; go on eagerly where that fails, or where `auto` finds it no faster or too late.

        It comes before the first step and shares no gradients: a compiler that fails leaves nothing in the other processes.
        With `auto` all processes decide alike, by the slowest of them and by the `left` seconds of the main process.
        """
        self.tried, execution = True, self.gradients.execution
        left = from_main(self.state.accelerator, left)
        if execution.any_shape:
            self._compile_on_cpu(left)
        elif execution.automatic:
            self._choose_on_gpu(left)
        elif execution.kind == "compiled":
            logger.info(_COMPILING)
            self._trial_seconds(1)

    def _compile_on_cpu(self, left: float) -> None:
        """Compile where it works here and pays in the `left` seconds; then small packs are computed as one."""
        execution, train, packs = self.gradients.execution, self.state.config.train, len(self.state.packs)
        started = time.monotonic()
        execution.compile_any_shape(left)
        if execution.kind != "compiled":
            return
        if packs > 1 and packs * train.pack_tokens <= JOINED_TOKENS and not train.pieces:
            self.pieces = JOINED
        logger.info(_COMPILING)
        self._trial_seconds(1)
        if is_enabled():
            logger.info("compiled in %.0f s", time.monotonic() - started)

    def _choose_on_gpu(self, left: float) -> None:
        """Go on with what is faster in a trial, unless compiling would not pay in the `left` seconds."""
        execution, accelerator = self.gradients.execution, self.state.accelerator
        if all(gather(accelerator, execution.kind == "eager")):
            return
        with execution.paused():
            eager = max(gather(accelerator, self._trial_seconds(1)))
        compiled = math.inf
        if left > max(MIN_COMPILE_SECONDS, MIN_COMPILE_STEPS * eager):
            logger.info(_COMPILING)
            own = self._trial_seconds(2) if execution.kind == "compiled" else math.inf
            compiled = max(gather(accelerator, own))
        logger.info("train.execution=auto: the gradients of a step take %.3f s eagerly, %.3f s compiled", eager, compiled)
        if compiled >= eager:
            execution.kind = "eager"

    def _trial_seconds(self, repeats: int) -> float:
        """Return the least seconds of the gradients of this step, after a first time; infinity where it does not run."""
        batches, times = self._next_batches(), list[float]()
        try:
            for _ in range(1 + repeats):
                started = time.monotonic()
                self.gradients.compute(batches, self.state.carries, self.pieces, 1e-3, sync=False).copy.wait()
                times.append(time.monotonic() - started)
        except DoesNotRun as error:
            self.gradients.execution.give_up(error)
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
        self.state.optimizer.zero_grad(set_to_none=True)
        return min(times[1:]) if len(times) == 1 + repeats else math.inf

    def _compute(self, batches: Mapping[int, StepBatch], scale: Tensor, depth: float) -> Computed:
        """Compute the gradients of all packs; again in more micro-batches if memory runs out, or eagerly if need be."""
        while True:
            try:
                return self.gradients.compute(batches, self.state.carries, self.pieces, scale, depth=depth)
            except (RuntimeError, MemoryError) as error:
                if not ran_out_of_memory(error):
                    raise
                message: str | None = first_line(error)
            except DoesNotRun as error:
                self.gradients.execution.give_up(error)
                message = None
            self.state.optimizer.zero_grad(set_to_none=True)  # only here has the error released its memory
            free_cache(self.state.accelerator.device)
            if message is not None:
                self._cut_smaller(max(len(batch.samples) for batch in batches.values()), message)

    def _cut_smaller(self, most: int, message: str) -> None:
        """Double the micro-batches of a pack, of which there can be `most`, after an error with this `message`.

        Raises OutOfMemory where that does not help, or where other processes have already done their part of the step.
        """
        step, processes = self.state.progress.step, self.state.accelerator.num_processes
        if self.pieces >= most:
            raise OutOfMemory(
                f"step {step}: out of memory with a single sequence in each micro-batch; "
                f"a smaller train.pack_tokens leaves more room for it ({message})"
            )
        if processes > 1:
            way = "its packs as one" if self.pieces == JOINED else f"train.pieces={self.pieces}"
            raise OutOfMemory(
                f"step {step}: process {self.state.accelerator.process_index} of {processes} is out of memory with "
                f"{way}; go on with --resume --set train.pieces={cut_finer(self.pieces)}"
            )
        self.pieces = cut_finer(self.pieces)
        self.memory_retries += 1
        logger.warning("step %d: out of memory; it is repeated with %d micro-batches to a pack", step, self.pieces)

    def measure_pieces(self, memory: CudaMemory) -> int:
        """Return into how many micro-batches packs are cut to fit into `memory`, the same number in every process."""
        with self.gradients.execution.paused():
            return measure_pieces(self.state, partial(self.gradients.compute, sync=False), memory)

    def _read_pending(self) -> bool:
        """Wait for the pending step, if any, and add its losses to the running totals; return whether it counts.

        Raises FloatingPointError where its loss is not finite, in every process. Where losses are scaled, as in float16, it may
        have overflowed: up to MOST_OVERFLOWS in a row are left out.
        """
        pending, self.pending = self.pending, None
        if pending is None:
            return True
        sequences, broken = pending.shared.wait().tolist()
        if broken:  # somewhere
            tasks = sorted(self.state.dataset.task_ids[task] for task in pending.computed.broken)
            named = show_names(tasks) or "of another process"
            message = f"step {pending.step}: the loss is not finite; among the tasks {named}"
            self.overflows += 1
            if self.state.accelerator.scaler is None or self.overflows > MOST_OVERFLOWS:  # every process stops
                raise FloatingPointError(message)
            logger.warning("%s; the step is left out", message)
            return False
        self.overflows = 0
        self.state.totals.add(pending.computed.totals)
        self.state.progress.sequences += int(sequences)
        return True

    def _count_processor_time(self) -> None:
        before, self.processor_counted = self.processor_counted, time.process_time()
        self.state.totals.processor_seconds += self.processor_counted - before

    def _log(self, writer: MetricsWriter, done: float, left: float) -> None:
        """Add a line to the metrics: means since the last one, over all processes. No step is pending."""
        self._count_processor_time()
        totals, self.state.totals = self.state.summed_totals(), Totals()
        self.state.progress.processor_seconds += totals.processor_seconds
        if not totals.sequences:  # all steps were left out
            return
        progress = self.state.progress
        factor = rate_factor(self.state.config.optimizer, progress.step, done, progress.reached)
        progress.last = metrics_line(totals, progress, factor)
        writer.write(self.state.progress.last, done, left)

    def save(self) -> None:
        """Write a checkpoint of this step, all processes together.

        Raises, in every process, FloatingPointError where the weights are not finite and CheckpointFailed where the disk does
        not take it: the last good checkpoint stays.
        """
        self._read_pending()
        if self.state.saved_step == self.state.progress.step:
            return
        if not self.state.weights_are_finite():
            raise FloatingPointError(f"step {self.state.progress.step}: the weights are not finite, no checkpoint is written")
        started = time.monotonic()
        self._count_processor_time()
        save_checkpoint(self.state)
        self.save_seconds = time.monotonic() - started


def set_up_trainer(
    accelerator: Accelerator, dtype: torch.dtype, network: Network, dataset: Dataset, config: Config, out: Path, resume: bool,
    start: FindStart = lambda: None,
) -> Trainer:  # fmt: skip
    """Return the trainer of `network`, with `resume` at the newest checkpoint in `out`, which gets the config.

    Where there is none that can be read, at the weights that `start` finds, if any, which become the first checkpoint: they
    predict where training fails early. Raises InputError where a checkpoint is of another run or the weights of another
    network, FloatingPointError where these are not finite, OSError where the disk does not take the config.
    """
    trainer = Trainer(accelerator, dtype, network, dataset, config, out)
    weights = None if resume and load_checkpoint(trainer.state) else start()
    if weights:
        begin_with(trainer.state, weights)
    if accelerator.is_main_process:
        write_json(out / CONFIG_FILE, config.to_json())
    if weights:
        try:
            trainer.save()
        except CheckpointFailed as error:
            logger.error("the weights that training starts from cannot be kept (%s); training goes on", error)
    return trainer
