"""Readers of files that the program writes, and of published checkpoints: datasets, weights, checkpoints, candidates, runs."""

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from augment.errors import InputError
from eval.files import write_json
from eval.provenance import PUZZLES
from eval.puzzle_score import PuzzlePrediction
from eval.report.page import make_page
from pipeline.array_files import read_metadata
from pipeline.config import Config, read_config
from pipeline.data.dataset import Dataset, load_dataset
from pipeline.data.sources import load_source
from pipeline.inference.candidates import tally
from pipeline.inference.drafts import DRAFTS_FILE, Drafts, write_drafts
from pipeline.inference.facts import leave_predictions
from pipeline.jobs.provenance import provenance_beside, scored_answers
from pipeline.published.checkpoint import import_checkpoint
from pipeline.reports.report import read_report
from pipeline.reports.run_folder import RunFolder
from pipeline.system.time_limit import Budget
from pipeline.training.checkpoint import load_checkpoint
from pipeline.weights.files import export_weights, load_weights, network_from
from pipeline.weights.find import settings_of
from tests.fuzz.mutate import Rng, mutate_json, mutate_lines
from tests.fuzz.reader import Reader
from tests.fuzz.tensors import mutate_archive
from tests.pipeline.published.examples import ATTENTION, HRM, MIXER, Published
from tests.pipeline.tiny import tiny_config, tiny_dataset, tiny_source, write_kaggle
from tests.pipeline.tinypuzzles import tiny_puzzle_dataset
from tests.pipeline.tinyrun import write_run, write_weights
from tests.pipeline.trainers import make_trainer, train_command

HARM = "harm"
"""The folder that a malicious pickle would make."""
ODD_YAML = (
    *(b"arch:", b"  hidden_size: 99999999999999999999", b"  hidden_size: 1000000", b"  L_layers: 100000000"),
    *(b"- a", b"a: &a [1]"),
    *(b"b: *a", b"x: !!python/object/apply:os.mkdir [harm]", b"lr: " + b"9" * 400, b"lr: .nan", b"lr: 1e999", b"<<: {a: 1}"),
    *(b"k: " + b"[" * 2000, b"k: " + b"9" * 5000, b"? [a, b]", b"  mlp_t: true", b"  H_layers: 2", b"\t", b"a: 2001-99-99"),
    *(b"ema: 1", b"a: &a [x,x]", b"b: &b [*a,*a]", b"  num_heads: 0", b"  expansion: -1", b"  loss: {loss_type: [1]}"),
    *(b"  forward_dtype: {}",),
)


def _dataset(folder: Path, rng: Rng) -> Dataset:
    dataset = tiny_dataset(int(rng.integers(1 << 30)), 3)
    dataset.save(folder / "data")
    return dataset


def _puzzle_dataset(folder: Path, rng: Rng) -> None:
    tiny_puzzle_dataset("sudoku" if rng.random() < 0.5 else "maze").save(folder)


def _weights(folder: Path, rng: Rng) -> None:
    dataset = _dataset(folder, rng)
    residual = "memory.residual=2" if rng.random() < 0.5 else "memory.residual=0"
    settings = (residual,) if rng.random() < 0.7 else ("memory.kind=table",)
    write_weights(folder / "weights", dataset, tiny_config(*settings))
    if rng.random() < 0.5:
        export_weights(load_weights(folder / "weights"), folder / "weights" / "weights.safetensors")


def _read_weights(folder: Path) -> None:
    read_metadata(folder / "weights" / "weights.safetensors")
    settings_of(folder / "weights")
    weights = load_weights(folder / "weights")
    network_from(weights, load_dataset(folder / "data"))


@cache
def _trained() -> dict[str, bytes]:
    """Return the files of a checkpoint and of its dataset."""
    with TemporaryDirectory() as made:
        folder = Path(made)
        trainer = make_trainer(tiny_config("train.steps=2"), folder / "run")
        trainer.fit(Budget(None, 0.0))
        trainer.state.dataset.save(folder / "run" / "data")
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


STEP = "run/checkpoints/step-00000002"


def _checkpoint(folder: Path, rng: Rng) -> None:
    """Write a checkpoint; half of the time without the checksums of its files, so that their content is checked too."""
    for name, content in _trained().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    if rng.random() < 0.5:
        path = folder / STEP / "training.json"
        state = {name: value for name, value in json.loads(path.read_bytes()).items() if name not in ("files", "checksum")}
        path.write_text(json.dumps(state))


def _resume(folder: Path) -> None:
    """Resume from the checkpoint. Setting a damaged one aside, with a message, is a refusal too."""
    step = folder / STEP
    trainer = make_trainer(tiny_config("train.steps=2"), folder / "run", load_dataset(folder / "run" / "data"))
    try:
        resumed = load_checkpoint(trainer.state)
    finally:
        renamed = step.with_name(f"damaged-{step.name}")
        if renamed.is_dir():
            renamed.rename(step)
    if resumed is False or trainer.state.progress.step == 0:
        raise InputError(f"{step}: damaged")


def _run(folder: Path, rng: Rng) -> None:
    """Write a run folder with everything that a run writes."""
    source = tiny_source(int(rng.integers(1 << 30)), 3)
    spec = write_kaggle(folder / "kaggle", source, "evaluation", with_solutions=True)
    run = folder / "run"
    run.mkdir(exist_ok=True)
    shutil.rmtree(run / "candidates", ignore_errors=True)
    grids = [grid for task in source.tasks for grid in source.solutions[task.id]]
    votes = [(test, grid, 0.5) for test, grid in enumerate(grids)] + [(0, grids[1], 0.25), (1, None, 0.1)]
    dataset = write_run(run, load_source(spec), votes)
    write_json(run / "config.json", tiny_config().to_json())
    lines = [{"step": 20 * i, "seconds": 10.0 * i, "loss": 2.0 / i, "exact": 0.1 * i, "rate": 1e-3} for i in range(1, 6)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = {"sources": [spec], "preset": "demo", "settings": ["train.steps=2"], "seed": 3, "starts": 2, "max_side": 9}
    record |= {"seconds": {"build": 1.0, "train": 9.5}, "started": "2026-11-24T10:00:00+00:00"}
    (run / "run.json").write_text(json.dumps(record))
    ranks = {task.id: [1] * len(task.test) for task in source.tasks}
    (run / "score.json").write_text(json.dumps({"truth_ranks": ranks, "views": 2, "sources": ["step 1"]}))
    count = len(dataset.test_task)
    names = [(dataset.task_ids[dataset.test_task[i]], int(dataset.test_index[i])) for i in range(count)]
    drafts = Drafts(
        np.arange(count, dtype=np.int32), np.full((count, 2), 3, np.uint8), np.full((2, count), 0.5, np.float32),
        np.ones((2, 9 * count), np.uint8),
    )  # fmt: skip
    write_drafts(run / DRAFTS_FILE, drafts, names, "segment")


def _report(folder: Path) -> None:
    make_page(read_report(folder / "run")).encode("utf-8", "xmlcharrefreplace")


def _look_back(folder: Path) -> None:
    """Read a run as `show` and `compare` do."""
    run = RunFolder(folder / "run")
    run.source_names()
    for known in run.tasks([load_source(f"kaggle:{folder / 'kaggle'}:evaluation")], "kaggle"):
        for test in run.result(known).tests:
            test.reasons()


def _count(folder: Path) -> None:
    dataset = load_dataset(folder / "run" / "dataset")
    tally([folder / "run" / "candidates"], dataset)


def _puzzle_run(folder: Path, rng: Rng) -> None:
    run = folder / "run"
    run.mkdir(exist_ok=True)
    _puzzle_dataset(run / "dataset", rng)
    leave_predictions(run / "predictions.csv", [PuzzlePrediction("1...", None, None)], "step 7", tiny_puzzle_dataset())
    score: dict[str, object] = {"puzzles": 6, "predicted": 5, "solved": 4, "exact_accuracy": 0.7, "cell_accuracy": 0.9}
    scored = scored_answers({"1...": "1234"}, ["sudoku:x.csv"])
    score["provenance"] = replace(provenance_beside(run / "predictions.csv", PUZZLES), scored=scored).to_json()
    (run / "score.json").write_text(json.dumps(score | {"mean_halting_probability": 0.5, "unknown": 0}))
    (run / "run.json").write_text(json.dumps({"sources": ["sudoku:x.csv"], "preset": "demo-sudoku", "seconds": {"train": 3.0}}))


def _published(folder: Path, rng: Rng) -> None:
    Published(folder, (ATTENTION, MIXER, HRM)[int(rng.integers(3))]).write()


def _import(folder: Path) -> None:
    """Import a published checkpoint; whether it is refused or not, no pickle may be executed."""
    try:
        import_checkpoint(folder / "step_1", folder / "all_config.yaml", folder / "ids.json", folder / "out")
    finally:
        assert not (folder / HARM).exists() and not Path(HARM).exists(), "a pickle was executed"


TENSOR_READERS = (
    Reader(
        "dataset", _dataset, ("data/manifest.json", "data/store.safetensors"),
        lambda folder: load_dataset(folder / "data"),
        lambda folder: ["vote", "--data", str(folder / "data"), "--candidates", str(folder), "--out", str(folder / "o.json")],
    ),
    Reader(
        "dataset of puzzles", lambda folder, rng: _puzzle_dataset(folder / "data", rng),
        ("data/manifest.json", "data/store.safetensors"),
        lambda folder: load_dataset(folder / "data"),
        lambda folder: [
            *("train", "--data", str(folder / "data"), "--preset", "demo-sudoku", "--out", str(folder / "o")),
            *("--set", "train.steps=1", "--set", "train.pack_tokens=40", "--set", "model.hidden_size=16"),
        ],
    ),
    Reader(
        "weights", _weights, ("weights/weights.safetensors",), _read_weights,
        lambda folder: [
            *("predict", "--data", str(folder / "data"), "--weights", str(folder / "weights"), "--out", str(folder / "o")),
            *("--views", "1"),
        ],
        slow=2,
    ),
    Reader(
        "checkpoint", _checkpoint,
        tuple(f"{STEP}/{name}" for name in ("training.json", "training.safetensors", "carry-0.safetensors")), _resume,
        lambda folder: train_command(folder / "run" / "data", folder / "run", "train.steps=2"),
        renew=50, slow=8,
    ),
    Reader(
        "published checkpoint", _published, ("step_1", "all_config.yaml", "ids.json"), _import,
        lambda folder: [
            *("import-checkpoint", str(folder / "step_1"), "--config", str(folder / "all_config.yaml")),
            *("--identifiers", str(folder / "ids.json"), "--out", str(folder / "out")),
        ],
        damages={
            "step_1": lambda rng, data: mutate_archive(rng, data, HARM),
            "all_config.yaml": lambda rng, data: mutate_lines(rng, data, ODD_YAML),
            "ids.json": mutate_json,
        },
        slow=4,
    ),
    Reader(
        "config.json", lambda folder, _: write_json(folder / "config.json", Config().to_json()), ("config.json",),
        lambda folder: read_config(folder / "config.json"),
        lambda folder: [
            *("run", "--source", "json:none", "--preset", "demo", "--time-limit", "1m", "--out", str(folder), "--resume"),
        ],
    ),
    Reader(
        "candidates", _run, ("run/candidates/round-0001.safetensors",), _count,
        lambda folder: [
            *("vote", "--data", str(folder / "run" / "dataset"), "--candidates", str(folder / "run" / "candidates")),
            *("--out", str(folder / "o.json")),
        ],
    ),
    Reader(
        "report of a run", _run,
        tuple(
            f"run/{name}"
            for name in (
                "run.json", "votes.json", "score.json", "config.json", "metrics.jsonl", "submission.json", "drafts.safetensors",
                "dataset/manifest.json",
            )
        ),
        _report,
        lambda folder: ["report", str(folder / "run")],
        slow=3,
    ),
    Reader(
        "report of puzzles", _puzzle_run,
        tuple(f"run/{name}" for name in ("run.json", "score.json", "predictions.json", "dataset/manifest.json")),
        _report,
        lambda folder: ["report", str(folder / "run")],
    ),
    Reader(
        "show and compare", _run,
        tuple(f"run/{name}" for name in ("submission.json", "dataset/manifest.json", "dataset/store.safetensors")),
        _look_back,
        lambda folder: ["compare", str(folder / "run"), "--source", f"kaggle:{folder / 'kaggle'}:evaluation"],
        slow=2,
    ),
)  # fmt: skip
