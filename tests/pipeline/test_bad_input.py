"""Files that once led to a traceback, a hang or gigabytes of memory: each is one line now."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from eval.formatting import parse_duration
from pipeline.cli.main import main
from pipeline.config import Config, override, read_config
from pipeline.data.sources import load_source
from pipeline.inference.candidates import read_candidates
from pipeline.reports.report import read_report
from pipeline.reports.run_folder import RunFolder
from pipeline.tensor_files import read_tensors
from pipeline.weights.files import read_weights
from submission.notebook import read_ready_folder
from submission.settings import read_settings
from tests.pipeline.tiny import refusal, tiny_config, tiny_dataset, tiny_source
from tests.pipeline.tinyrun import write_run, write_weights

DEEP = b"[" * 5000


@pytest.mark.parametrize(
    ("read", "name", "contents"),
    [
        (read_settings, "kaggle.toml", (b"a = " + DEEP, b'x = "' + b"y" * 100_000 + b'"', b"user = 1", b"a" * (2 << 20))),
        (
            lambda path: read_ready_folder(path.parent),
            "settings.json",
            (b"3", b"[]", DEEP, b'{"' + b"x" * 10_000 + b'": 1}', b"\xff"),
        ),
        (
            read_config,
            "config.json",
            (b"[]", DEEP, b'{"train": {"steps": ' + b"[" * 900 + b"]" * 900 + b"}}", b'{"x": {}, "x": {}}'),
        ),
        (
            lambda path: read_report(path.parent),
            "score.json",
            (b'{"exact_accuracy": "x"}', b'{"exact_accuracy": 1.0, "solved": 1, "puzzles": 1, "predicted": []}'),
        ),
    ],
    ids=["settings of kaggle", "folder for kaggle", "config", "score of puzzles"],
)
def test_a_file_is_refused_in_one_short_line(
    read: Callable[[Path], object], name: str, contents: tuple[bytes, ...], tmp_path: Path
) -> None:
    for part in ("notebook", "code"):
        (tmp_path / part).mkdir()
    (tmp_path / "predictions.csv").touch()
    for content in contents:
        (tmp_path / name).write_bytes(content)
        assert str(tmp_path / name) in refusal(lambda: read(tmp_path / name))


def test_settings_and_durations_from_the_command_line_are_not_repeated_at_length() -> None:
    for setting in ("train." + "x" * 5000 + "=1", "train.steps=" + "9" * 5000, "x" * 5000, "model.kind=" + "x" * 5000):
        with pytest.raises(ValueError) as caught:
            override(Config(), [setting])
        assert len(str(caught.value)) < 500
    for text in ("9" * 400 + "s", "x" * 5000, "10001h"):
        with pytest.raises(ValueError, match="a duration") as caught:
            parse_duration(text)
        assert len(str(caught.value)) < 200


def test_tensors_of_unusual_kinds_and_shapes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "round-0001.safetensors"
    kinds = (("F8_E4M3", [8], 8), ("F4", [8], 8), ("C64", [8], 64), ("BF16", [8], 8))
    for dtype, shape, size in (*kinds, ("U8", [(1 << 63) + 5, 0], 0), ("U8", [1] * 70, 1)):
        header = json.dumps({"cells": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
        assert str(path) in refusal(lambda: read_candidates(path))
        if dtype == "U8":
            assert str(path) in refusal(lambda: read_tensors(path))


def test_a_header_that_claims_ten_gigabytes_is_damage(tmp_path: Path) -> None:
    write_weights(tmp_path, tiny_dataset(), tiny_config())
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes((10 << 30).to_bytes(8, "little") + weights.read_bytes()[8:])
    assert str(weights) in refusal(lambda: read_weights(weights))
    with weights.open("r+b") as file:
        file.truncate(20 << 30)
    assert str(weights) in refusal(lambda: read_weights(weights))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    source = tiny_source(0, 2)
    grids = [grid for task in source.tasks for grid in source.solutions[task.id]]
    (tmp_path / "run").mkdir()
    write_run(tmp_path / "run", source, [(number, grid, 0.5) for number, grid in enumerate(grids)])
    return tmp_path / "run"


def test_a_dataset_that_does_not_name_its_sources_has_no_public_ones(run: Path) -> None:
    path = run / "dataset" / "manifest.json"
    manifest = orjson.loads(path.read_bytes())
    for sources in (3, [3], ["x"], [{"role": "solve"}], None, {}):
        path.write_bytes(orjson.dumps(manifest | {"sources": sources}))
        assert RunFolder(run).source_names() == []


def test_metrics_of_any_size_are_drawn_or_left_out(run: Path) -> None:
    numbers, lists = b'{"seconds": 1e308, "loss": 1e308}', b'{"seconds": [], "loss": {}, "step": -1}'
    for line in (numbers, b'{"seconds": 5e-324, "loss": -1e308}', lists, b"3"):
        (run / "metrics.jsonl").write_bytes(b'{"seconds": 1.0, "loss": 2.0, "step": 1}\n' + line + b"\n" + line)
        assert main(["report", str(run)]) == 0


def test_a_record_of_nonsense_is_refused_or_shown(run: Path) -> None:
    for values in ({"seconds": {"train": -1}}, {"seconds": {"train": 1e308}}, {"max_side": 0}):
        (run / "run.json").write_bytes(orjson.dumps({"sources": [], **values}))
        assert str(run / "run.json") in refusal(lambda: read_report(run))
    (run / "run.json").write_bytes(orjson.dumps({"sources": [], "preset": DEEP.decode()}))
    read_report(run)


def test_a_pipe_among_task_files_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.json")
    assert f"{tmp_path / 'x.json'}: is no regular file" in refusal(lambda: load_source(f"json:{tmp_path}"))
    assert f"{tmp_path / 'x.json'}: is no regular file" in refusal(lambda: load_source(f"rearc:{tmp_path}"))
