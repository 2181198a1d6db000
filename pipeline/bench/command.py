"""The command `bench`: measures stages, prints a table and writes everything as JSON.

A stage is a function that takes the plan and the machine. It returns rows for the table and leaves details for the JSON.
"""

import argparse
import logging
import platform
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from eval.files import write_result
from pipeline.bench.measure import Timings, Work, copy_speed, peak_bytes, peak_operations, time_sides
from pipeline.bench.published_way import CANVAS_BYTES
from pipeline.bench.stages import (
    DIFFERENCES,
    GPU,
    QUICK,
    SIDES,
    Computing,
    Draws,
    Plan,
    Stage,
    build_mix,
    build_once,
    gpu_sides,
    on_samples,
    prepare_votes,
    work_once,
)
from pipeline.config import OptimizerConfig
from pipeline.data.dataset import TaskDataset
from pipeline.data.packs import Samples
from pipeline.device import compute_dtype
from pipeline.system.processors import usable_cores
from pipeline.training.optimizers import make_optimizer

logger = logging.getLogger(__name__)

TWO_SIDES = ("published", "ours")


@dataclass(frozen=True)
class Row:
    """One figure of each side."""

    name: str
    values: Mapping[str, float]
    """By side, of those that were measured."""
    more_is_better: bool = True
    unit: str = ""
    """B for bytes, % for shares, s for seconds, exponent; otherwise a plain number."""

    @property
    def ratio(self) -> float | None:
        """How many times better ours is than the published way; None for shares, exponents and where one is missing."""
        published, ours = self.values.get("published"), self.values.get("ours")
        if not published or not ours or self.unit in ("%", "exponent"):
            return None
        return ours / published if self.more_is_better else published / ours


@dataclass
class Bench:
    """What the stages of one benchmark share."""

    plan: Plan
    device: torch.device
    dtype: torch.dtype
    """Ours computes in it; the published way in float32."""
    details: dict[str, Any] = field(default_factory=dict)
    """Everything, for the JSON."""

    @cached_property
    def dataset(self) -> TaskDataset:
        """The dataset of the mix."""
        started = time.perf_counter()
        dataset = build_mix(self.plan)
        self.details["mix"] = {**dataset.manifest["totals"], "seconds": time.perf_counter() - started}
        return dataset

    @cached_property
    def peaks(self) -> dict[torch.dtype, float]:
        """Floating-point operations a second of a large matrix product, by dtype."""
        dtypes = {torch.float32, torch.bfloat16, self.dtype}
        return {dtype: peak_operations(dtype, self.device, self.plan.peak_side) for dtype in dtypes}

    @cached_property
    def copy_speed(self) -> float:
        """Bytes a second that a copy reads and writes."""
        return copy_speed(self.device, self.plan.copied_bytes)

    @cached_property
    def sides(self) -> dict[str, Computing]:
        """The sides of training and prediction."""
        return {side: Computing(side, self.dataset, self.plan, self.device, self.dtype_of(side)) for side in SIDES}

    def dtype_of(self, side: str) -> torch.dtype:
        """Return what a side computes in."""
        return self.dtype if side == "ours" else torch.float32

    def time(self, name: str, sides: Mapping[str, Callable[[int], Work]], sizes: tuple[int, ...]) -> dict[str, Timings]:
        """Time the sides of a stage and keep the details."""
        logger.info("%s: %s, sizes %s, %d repeats", name, " and ".join(sides), sizes, self.plan.repeats)
        timings = time_sides(sides, sizes, self.plan.repeats, self.device)
        self.details[name] = {
            side: asdict(timed) | {"medians": timed.medians, "exponent": timed.exponent} for side, timed in timings.items()
        }
        return timings

    def model_rows(
        self, stage: Stage, sides: Mapping[str, Computing], samples: Samples, timings: dict[str, Timings]
    ) -> list[Row]:
        """Return the rows of the predicted rate, and of the share of the floating-point peak of the dtype of each side."""
        counted = {name: side.counted(samples, stage == "train") for name, side in sides.items()}
        self.details[f"{stage}, operations and bytes"] = counted
        predicted, shares = {}, {}
        for name, (operations, moved) in counted.items():
            at_peak = operations / self.peaks[sides[name].dtype]
            predicted[name] = len(samples) / (at_peak + moved / self.copy_speed)
            shares[name] = at_peak / timings[name].medians[-1]
        return [
            Row(f"{stage}, predicted {'sequences' if stage == 'train' else 'views'}/s", predicted),
            Row(f"{stage}, share of the peak of its dtype", shares, unit="%"),
        ]

    def memory_rows(self, stage: Stage, timings: dict[str, Timings]) -> list[Row]:
        """Return the row of peak memory of processes or, with the time of the host, of a GPU; none where the plan says so."""
        if self.device.type == "cuda" and stage != "build":
            size = next(iter(timings.values())).sizes[-1]
            seconds = {side: median(timed.host_seconds[-1]) for side, timed in timings.items()}
            device_peaks = {side: timed.device_bytes or 0 for side, timed in timings.items()}
            return [
                Row(f"{stage}, time of {size} until the GPU has it all", seconds, False, "s"),
                Row(f"{stage}, peak memory of the device", device_peaks, False, "B"),
            ]
        if not self.plan.memory:
            return []
        logger.info("%s: peak memory, a process for each side", stage)
        sides = TWO_SIDES if stage == "build" else SIDES
        peaks = {side: peak_bytes(work_once, stage, side, self.plan, self.dtype_of(side)) for side in sides}
        return [Row(f"{stage}, peak memory of the process", peaks, False, "B")]


def bench_build(bench: Bench) -> list[Row]:
    """Build datasets of a few tasks both ways, and that of the whole mix our way."""
    sizes = bench.plan.build_sizes
    timings = bench.time("build", {side: partial(partial, build_once, side, bench.plan) for side in TWO_SIDES}, sizes)
    built = {side: build_once(side, bench.plan, sizes[-1]) for side in TWO_SIDES}
    rates = {side: views / sizes[-1] / timings[side].seconds_per_unit for side, (views, _) in built.items()}
    dataset = bench.dataset
    examples = np.bincount(np.concatenate((dataset.pair_task, dataset.test_task)), minlength=len(dataset.task_ids))
    canvases = 2 * CANVAS_BYTES * int((np.diff(dataset.transform_start) * examples).sum())
    sizes_of_mix = {"published": canvases, "ours": sum(array.nbytes for array in dataset.arrays().values())}
    return [
        Row("build, augmented tasks/s", rates),
        Row("build of the mix, augmented tasks/s", {"ours": len(dataset.transforms) / bench.details["mix"]["seconds"]}),
        exponent_row("build", timings),
        Row("build, bytes of the same tasks", {side: size for side, (_, size) in built.items()}, False, "B"),
        Row(f"dataset of the mix, {len(dataset.transforms):,} views (published: counted)", sizes_of_mix, False, "B"),
        *bench.memory_rows("build", timings),
    ]


def bench_train(bench: Bench) -> list[Row]:
    """Train on the same sequences: published, without padding, ours; on a GPU also compiled."""
    draws = Draws(bench.dataset, "pairs")
    sides = bench.sides | gpu_sides(bench.sides, draws)
    timings = bench.time("train", {name: on_samples(side.train, draws) for name, side in sides.items()}, bench.plan.train_sizes)
    samples = draws.samples(timings["ours"].sizes[-1])
    weights = {name: sum(tensor.nbytes for tensor in side.network.state_dict().values()) for name, side in bench.sides.items()}
    steps = {side: make_optimizer(found.network, OptimizerConfig()).step for side, found in bench.sides.items()}
    prepared = {side: partial(lambda step, _: step, step) for side, step in steps.items()}
    stepped = time_sides(prepared, (1,), bench.plan.repeats, bench.device)
    tokens = {name: side.batch(samples).layout.tokens / len(samples) for name, side in bench.sides.items()}
    return [
        rate_row("train, sequences/s", timings),
        *bench.model_rows("train", sides, samples, timings),
        rate_row("train, useful tokens/s", timings, float(draws.box[samples.example].prod(axis=1).mean())),
        exponent_row("train", timings),
        Row("checkpoint, weights", weights, False, "B"),
        Row("optimizer step (AdamATan2)", {side: timed.seconds_per_unit for side, timed in stepped.items()}, False, "s"),
        Row("train, tokens a sequence", tokens, more_is_better=False),
        *bench.memory_rows("train", timings),
    ]


def bench_predict(bench: Bench) -> list[Row]:
    """Predict the same views, then count the same candidates."""
    draws, sizes = Draws(bench.dataset, "tests"), bench.plan.view_sizes
    timings = bench.time("predict", {name: on_samples(side.predict, draws) for name, side in bench.sides.items()}, sizes)
    rows = [
        rate_row("predict, views/s (one segment)", timings),
        *bench.model_rows("predict", bench.sides, draws.samples(timings["ours"].sizes[-1]), timings),
        exponent_row("predict", timings),
        *bench.memory_rows("predict", timings),
    ]
    once = Draws(bench.dataset, "tests", tries=1)
    sides = {side: partial(prepare_votes, bench.dataset, once, side) for side in TWO_SIDES}
    votes = bench.time("vote", sides, bench.plan.vote_sizes)
    return [*rows, rate_row("vote, candidates/s", votes), exponent_row("vote", votes)]


STAGES: Mapping[Stage, Callable[[Bench], list[Row]]] = {"build": bench_build, "train": bench_train, "predict": bench_predict}


def run_bench(arguments: argparse.Namespace, _: float) -> int:
    """Measure the stages that `arguments` names, print the table and write the JSON with --json."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plan = QUICK if arguments.quick else GPU if device.type == "cuda" else Plan()
    bench = Bench(plan, device, compute_dtype("auto", device.type == "cuda"))
    stages = list(STAGES) if arguments.stage == "all" else [arguments.stage]
    machine = describe_machine(bench)
    print(machine["line"])
    rows = {stage: STAGES[stage](bench) for stage in stages}
    print(format_rows([row for stage in stages for row in rows[stage]]))
    for stage in stages:
        print(textwrap.fill(f"{stage}: {DIFFERENCES[stage]}.", 120, subsequent_indent="  "))
    if arguments.json:
        content = {
            "machine": machine,
            "plan": asdict(plan),
            "differences": {stage: DIFFERENCES[stage] for stage in rows},
            "rows": {
                stage: [{"name": row.name, "unit": row.unit, "ratio": row.ratio, **row.values} for row in found]
                for stage, found in rows.items()
            },
            "details": bench.details,
        }
        write_result(arguments.json, content)
    return 0


def describe_machine(bench: Bench) -> dict[str, Any]:
    """Return what the figures were taken on, and the peaks."""
    name = platform.processor() or platform.machine()
    if bench.device.type == "cuda":
        name = torch.cuda.get_device_name(bench.device)
    elif Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    single, half = (bench.peaks[dtype] / 1e9 for dtype in (torch.float32, torch.bfloat16))
    line = (
        f"{name}, {torch.get_num_threads()} threads of {usable_cores()} cores, torch {torch.__version__}; matrix products of "
        f"{bench.plan.peak_side}: {single:,.0f} GFLOP/s in float32, {half:,.0f} in bfloat16; copies: "
        f"{bench.copy_speed / 1e9:,.1f} GB/s; ours computes in {str(bench.dtype).removeprefix('torch.')}"
    )
    return {"line": line, "device": name, "float32_gflops": single, "bfloat16_gflops": half, "threads": torch.get_num_threads()}


def rate_row(name: str, timings: dict[str, Timings], units: float = 1.0) -> Row:
    """Return the row of how many units are done in a second: `units` of them in one of the input's."""
    return Row(name, {side: units / timed.seconds_per_unit for side, timed in timings.items()})


def exponent_row(name: str, timings: dict[str, Timings]) -> Row:
    """Return the row of how time grows with the input: the exponent, and between which sizes."""
    sizes = next(iter(timings.values())).sizes
    label = f"{name}, exponent of the time for {sizes[0]} to {sizes[-1]}"
    return Row(label, {side: timed.exponent for side, timed in timings.items()}, more_is_better=False, unit="exponent")


def format_rows(rows: Sequence[Row]) -> str:
    """Return `rows` as a table in text."""
    width = max(len(row.name) for row in rows)
    found = {side for row in rows for side in row.values}
    sides = [*(side for side in SIDES if side in found), *sorted(found - set(SIDES))]
    columns = [max(13, len(side)) for side in sides]
    lines = [f"{'':{width}}  " + "  ".join(f"{side:>13}" for side in sides) + "  times better"]
    for row in rows:
        values = "  ".join(
            f"{_show(row.values.get(side), row.unit):>{column}}" for side, column in zip(sides, columns, strict=True)
        )
        ratio = "" if row.ratio is None else f"{row.ratio:>11.{1 if row.ratio < 100 else 0}f}x"
        lines.append(f"{row.name:{width}}  {values}  {ratio}".rstrip())
    return "\n".join(lines)


def _show(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "B":
        size, name = next((size, name) for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (0, "B")) if value >= size)
        return f"{value / (size or 1):.1f} {name}"
    if unit == "%":
        return f"{100 * value:.1f}%"
    if unit == "s":
        return f"{1e3 * value:.1f} ms"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value < 100 else f"{value:.1f}"
