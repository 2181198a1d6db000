"""Watching a network learn: trains on one task in slices of a few seconds, prints a draft of each test input after each."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from augment.errors import InputError
from augment.grid import Grid, grid_key
from augment.task import Task
from eval.draw import Panel
from eval.explain import explain, wrong_cells
from eval.formatting import format_duration, size_text
from eval.results import Attempt
from eval.terminal import Look, draw_panels, heading
from pipeline.config import Config
from pipeline.data.build import build
from pipeline.data.dataset import TaskDataset
from pipeline.data.packs import TaskPackMaker
from pipeline.data.sources import Source
from pipeline.device import fit_config, make_accelerator
from pipeline.inference.candidates import join_candidates, to_candidates
from pipeline.inference.forward import InferenceRunner
from pipeline.jobs.time_split import fit_packs, measure_speed
from pipeline.models.network import Network
from pipeline.system.time_limit import NO_LIMIT, Budget
from pipeline.training.state import trainable
from pipeline.training.trainer import Trainer
from pipeline.weights.files import load_weights, make_network_for, transplant


def debug(task: Task, source: Source, config: Config, start_from: Path | None, limit: float, look: Look) -> None:
    """Train on one task of `source` for `limit` seconds, from the weights `start_from` if there are any; print the drafts.

    Raises InputError for a task without test inputs, and InputError or FileNotFoundError for weights that cannot be read.
    """
    if not task.test:
        raise InputError(f"{task.id} of {source.name} has no test inputs, so there is nothing to show drafts of")
    truth, weights = source.solutions.get(task.id), load_weights(start_from) if start_from else None
    dataset = build([replace(source, tasks=(task,))], [], config.build, leakage="drop")
    config = fit_config(config, dataset)
    accelerator, dtype = make_accelerator(config.train.precision)
    if accelerator.num_processes > 1:
        raise InputError("debug is for one process: start it with python -m pipeline debug")
    network = make_network_for(config, dataset)
    if weights is not None:
        print(transplant(weights, network, dataset))
    print(
        f"{task.id} of {source.name}: {len(dataset.pair_task)} demonstrations in {len(dataset.transforms)} views, "
        f"{trainable(network)} values, {format_duration(limit)} of training"
    )
    logging.disable(logging.INFO)  # the drafts show the progress
    try:
        with tempfile.TemporaryDirectory() as folder:
            trainer = TaskTrainer(accelerator, dtype, network, dataset, config, Path(folder), limit)
            _print_drafts(trainer, task, truth, look)
            _print_segments(trainer, task, truth, look)
    finally:
        logging.disable(logging.NOTSET)


class TaskTrainer:
    """Trains on one task in slices of time and predicts drafts after each."""

    def __init__(
        self, accelerator: Accelerator, dtype: torch.dtype, network: Network, dataset: TaskDataset, config: Config, out: Path,
        seconds: float,
    ) -> None:  # fmt: skip
        """`seconds` is for training, five or, if that is less, a twelfth of all a slice; 0 leaves the network as it is."""
        self.seconds, self.slice = seconds, max(1.0, min(5.0, seconds / 12))
        network = network.to(accelerator.device)
        speed = measure_speed(network, dataset, config, dtype, accelerator)
        step = max(1, config.train.packs) * speed.step_seconds(config)
        if seconds:
            config = fit_packs(config, step, seconds)
        self.config, self.dtype, self.device, self.dataset = config, dtype, accelerator.device, dataset
        self.trainer = Trainer(accelerator, dtype, network, dataset, config, out)
        self.averaged = make_network_for(config, dataset)
        self.averaged.load_state_dict(network.state_dict())
        self.maker = TaskPackMaker(dataset, config.train.canvas, config.memory.tokens, "tests", config.predict.latents)

    def slices(self) -> Iterator[tuple[float, str]]:
        """Train; yield after each slice the seconds so far and a few words about training."""
        yield 0.0, "before training"
        clock = Budget.lasting(self.seconds)
        last_one = self.seconds <= 0
        while not last_one:
            step, left = self.trainer.state.progress.step, clock.remaining()
            last_one = left < 1.5 * self.slice  # what a slice leaves over at its end is too short for another
            progress = self.trainer.fit(clock, NO_LIMIT if last_one else Budget.lasting(self.slice))
            if progress.step == step:
                self.slice *= 2  # no step fits
                continue
            self.averaged.load_state_dict(dict(self.trainer.state.weights()))
            last = progress.last
            words = f"step {progress.step}"
            if "loss" in last and "exact" in last:
                words += f", loss {last['loss']:.3f}, {last['exact']:.0%} of the training sequences right"
            yield self.seconds - max(0.0, clock.remaining()), words

    def drafts(self, segments: int | None = None) -> list[Attempt]:
        """Return the draft of each test input after so many segments, by default as many as predictions run."""
        predict = self.config.predict if segments is None else replace(self.config.predict, segments=segments)
        runner = InferenceRunner(self.device, self.dtype, self.averaged, self.maker, predict)
        parts = []
        for output in runner.predict(self.maker.plain(), NO_LIMIT):
            codes = np.zeros(len(output.samples), np.uint32)  # the identity
            parts.append(to_candidates(output.samples.example, output.pack, codes, output.tokens, output.probability))
        found = {test: Attempt(grid, probability=probability) for test, grid, probability in join_candidates(parts).grids()}
        return [found[test] for test in range(len(self.dataset.test_task))]


def _print_drafts(trainer: TaskTrainer, task: Task, truth: Sequence[Grid] | None, look: Look) -> None:
    """Print the drafts after each slice, the grids where they changed."""
    before: list[bytes | None] = []
    for seconds, words in trainer.slices():
        drafts = trainer.drafts()
        now = [None if draft.grid is None else grid_key(draft.grid) for draft in drafts]
        print(heading(f"\n{format_duration(seconds)}: {words}", look), flush=True)
        for number, draft in enumerate(drafts):
            name = f"test input {number + 1}: " if len(drafts) > 1 else ""
            if before and before[number] == now[number]:
                print(f"{name}the same draft, halting {draft.probability:.2f}")
                continue
            known = truth[number] if truth else None
            if draft.grid is None:
                print(f"{name}halting {draft.probability:.2f}, no grid is drawn")
                continue
            verdict = "the truth is not known" if known is None else explain(draft.grid, known)
            print(f"{name}halting {draft.probability:.2f}, {verdict}")
            panels = [
                Panel("test input", task.test[number], size_text(task.test[number]), arrow=True),
                _panel(draft.grid, known, "draft", size_text(draft.grid)),
            ]
            panels += [Panel("truth", known, size_text(known))] if known is not None else []
            print("\n".join(draw_panels([panels], look)), flush=True)
        before = now


def _print_segments(trainer: TaskTrainer, task: Task, truth: Sequence[Grid] | None, look: Look) -> None:
    count = trainer.config.predict.segments
    print(heading(f"\nsegment by segment ({count} of them)", look))
    if count == 1:
        print("predictions run one segment; --set train.segments=4 --set predict.segments=4 trains and shows several")
    drawn = [trainer.drafts(segments) for segments in range(1, count + 1)]
    for number in range(len(task.test)):
        known = truth[number] if truth else None
        panels = [
            _panel(drafts[number].grid, known, f"segment {segment}", f"halting {drafts[number].probability:.2f}")
            for segment, drafts in enumerate(drawn, start=1)
        ]
        panels += [Panel("truth", known, size_text(known))] if known is not None else []
        print("\n".join(draw_panels([[panel] for panel in panels], look)))


def _panel(grid: Grid | None, truth: Grid | None, title: str, note: str) -> Panel:
    return Panel(title, grid, note, None if truth is None else wrong_cells(grid, truth))
