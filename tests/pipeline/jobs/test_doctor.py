"""doctor: what it says of this machine, and of machines that will not do."""

import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
import torch

from pipeline.device import fit_config
from pipeline.jobs import doctor
from pipeline.jobs.doctor import WillNotDo, describe_gpu, has_kernels
from pipeline.jobs.time_split import Speed
from pipeline.system.processors import NEEDS_GPU
from tests.pipeline.tiny import TINY, set_options, tiny_config, tiny_dataset, tiny_source, write_kaggle
from tests.pipeline.tinyrun import call, write_weights

HIDDEN_TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("built", "capability", "there"),
    [
        (["sm_75", "sm_80", "sm_90"], (9, 0), True),
        (["sm_75", "sm_80", "sm_90"], (8, 9), True),
        (["sm_75", "sm_80", "sm_90"], (6, 0), False),
        (["sm_75", "sm_86"], (8, 0), False),
        (["sm_90a"], (9, 0), True),
        (["sm_80"], (12, 0), False),
        (["sm_80", "compute_90"], (12, 0), True),
        (["sm_100", "sm_120"], (12, 0), True),
        (["compute_90"], (8, 9), False),
        ([], (9, 0), False),
    ],
)
def test_kernels_run_on_their_major_capability_and_ptx_on_later_ones(
    built: list[str], capability: tuple[int, int], there: bool
) -> None:
    assert has_kernels(built, *capability) == there


@pytest.fixture
def old_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "cuda_is_used", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name="P100", total_memory=16 << 30))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90"])


def test_a_gpu_without_kernels_is_told_before_anything_is_tried(old_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WillNotDo, match=r"no kernels for P100 \(sm_60\), only sm_75, sm_90: choose another machine"):
        describe_gpu(0)
    assert call("doctor", "--preset", "demo") == 1
    out, err = capsys.readouterr()
    assert err.startswith("this machine will not do: this PyTorch has no kernels for P100")
    assert "speed" not in out


def test_a_machine_without_the_gpu_that_it_should_have_will_not_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv(NEEDS_GPU, "1")
    assert call("doctor", "--preset", "demo") == 1
    assert capsys.readouterr().err.startswith("this machine will not do: this is to be computed on a GPU")


def test_a_gpu_that_torch_does_not_find_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\n")
    (tmp_path / "nvidia-smi").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("CUDA_VISIBLE_DEVICES", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    assert call("doctor", "--preset", "demo") == 1
    assert "finds no GPU, but nvidia-smi 1 GPU (GPU 0: NVIDIA H100): it needs a newer driver" in capsys.readouterr().err
    spec = write_kaggle(tmp_path, tiny_source(1, 3, "t"), "evaluation", with_solutions=True)
    run = ("run", "--preset", "demo", "--source", spec, *set_options((*TINY, "train.steps=1")), "--no-report", "--out")
    assert call(*run, tmp_path / "out") == 0
    assert "finds no GPU" in caplog.text
    assert "finds no GPU" in str(orjson.loads((tmp_path / "out" / "run.json").read_bytes())["fallbacks"])
    caplog.clear()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert call(*run, tmp_path / "as asked") == 0
    assert "finds no GPU" not in caplog.text


def test_a_compiler_is_one_that_works_for_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    tools = {"gcc", "c++"}
    monkeypatch.setattr(shutil, "which", lambda name: name if name in tools else None)
    assert doctor.find_compiler() == "C++"
    monkeypatch.setattr(doctor, "cuda_is_used", lambda: True)
    monkeypatch.setattr(doctor, "find_spec", lambda _: object())
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    assert "Triton needs gcc and" in doctor.find_compiler()
    (tmp_path / "Python.h").touch()
    assert doctor.find_compiler() == "Triton"
    tools.clear()
    assert f"apt install gcc python3.{sys.version_info.minor}-dev" in doctor.find_compiler()
    monkeypatch.setenv("CC", "gcc-13")
    assert doctor.find_compiler() == "Triton"
    monkeypatch.setattr(doctor, "cuda_is_used", lambda: False)
    assert doctor.find_compiler().startswith("none")


def test_a_full_disk_and_an_old_torch_will_not_do(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(folder: Path) -> SimpleNamespace:
        measured.add(folder)
        return SimpleNamespace(free=1 << 30)

    measured: set[Path] = set()
    monkeypatch.setattr(shutil, "disk_usage", measure)
    spec = write_kaggle(tmp_path, tiny_source(1, 4, "t"), "evaluation", with_solutions=True)
    tiny = set_options(TINY)
    for kept, limit, code in ((2, "9000h", 0), (100_000, "1h", 0), (100_000, "9000h", 1)):  # an hour leaves few
        settings = [*tiny, "--set", f"train.checkpoints_kept={kept}", "--time-limit", limit]
        assert call("doctor", "--preset", "demo", "--source", spec, *settings, "--out", tmp_path / "new" / "run") == code
    assert "only 1.00 GiB of disk are free, and checkpoints of preset demo need " in capsys.readouterr().err
    assert measured == {tmp_path}  # what there is of the folder
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    assert call("doctor", "--preset", "demo") == 1
    assert "PyTorch 2.9.1+cu128 is too old: 2.10 or newer is needed" in capsys.readouterr().err


def test_the_screen_ends_with_what_a_run_comes_to_and_shows_no_token(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAGGLE_KEY", HIDDEN_TOKEN)
    spec = write_kaggle(tmp_path, tiny_source(1, 4, "t"), "evaluation", with_solutions=True)
    settings = set_options(TINY)
    assert call("doctor", "--preset", "demo", "--source", spec, "--time-limit", "2h", *settings, "--out", tmp_path) == 0
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines()[:-1])
    assert HIDDEN_TOKEN not in str(lines)
    assert lines["Kaggle token"] == "there"
    assert lines["computes in"] in ("float32, attention fused", "bfloat16, attention products")
    assert re.fullmatch(r"about [\d,]+ tokens a second in training, by a trial of a few seconds", lines["speed"])
    assert re.fullmatch(r"about [\d,.]+ passes over the [\d,]+ pairs of the tasks to solve on this CPU", lines["2h00m"])
    assert "steps" not in lines  # the demo has as many as there is time for


def test_a_preset_for_puzzles_is_tried_on_puzzles(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("doctor", "--preset", "demo-sudoku", "--time-limit", "1h", *set_options(TINY)) == 0
    out = capsys.readouterr().out
    assert "1,000 training puzzles of sudoku:generated:side=4,count=100 + sudoku:generated:side=4,count=1000" in out
    assert re.search(r"^1h00m +at most [\d,.]+ passes over the 1,000 training puzzles on this CPU$", out, re.MULTILINE)


def test_weights_of_puzzles_are_tried_on_puzzles(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("doctor", "--weights", Path(__file__).parents[2] / "fixtures/old_run/sudoku", "--time-limit", "1h") == 0
    assert "1,000 training puzzles of sudoku:generated:side=4,count=100 + sudoku" in capsys.readouterr().out


def test_a_network_whose_first_pass_does_not_fit_will_not_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(doctor, "measure_speed", fail)
    spec = write_kaggle(tmp_path, tiny_source(1, 4, "t"), "evaluation", with_solutions=True)
    assert call("doctor", "--preset", "demo", "--source", spec, *set_options(TINY)) == 1
    assert "preset demo does not fit into memory: CUDA out of memory" in capsys.readouterr().err


def test_a_task_memory_that_does_not_fit_will_not_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 358135252992 bytes.")

    monkeypatch.setattr(doctor, "make_network_for", fail)
    spec = write_kaggle(tmp_path, tiny_source(1, 4, "t"), "evaluation", with_solutions=True)
    assert call("doctor", "--preset", "demo", "--source", spec) == 1
    assert "will not do: the weights of preset demo, with their task memory, do not fit into memory" in capsys.readouterr().err


def test_weights_bring_the_network_of_the_run_in_question(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, dataset = write_kaggle(tmp_path, tiny_source(1, 4, "t"), "evaluation", with_solutions=True), tiny_dataset()
    found = []
    for width in (16, 32):
        config = fit_config(tiny_config(f"model.hidden_size={width}"), dataset)
        write_weights(tmp_path / "weights", dataset, config)
        assert call("doctor", "--weights", tmp_path / "weights", "--source", spec, "--out", tmp_path) == 0
        (values,) = re.findall(r"^this network +([\d,]+) values, 4 tasks", capsys.readouterr().out, re.MULTILINE)
        found.append(int(values.replace(",", "")))
    assert 2 * found[0] < found[1]


def test_passes_count_the_tokens_of_the_task_memory(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "measure_speed", lambda *_: Speed(1000.0, 1, 1.0))
    spec = write_kaggle(tmp_path, tiny_source(1, 4, "t"), "evaluation", with_solutions=True)
    few, many = (passes_over(spec, capsys, f"memory.tokens={tokens}") for tokens in (1, 60))
    assert few > 2 * many


def passes_over(spec: str, capsys: pytest.CaptureFixture[str], *settings: str, train: str = "") -> float:
    options = [*set_options((*TINY, "train.segments=1", *settings)), *(["--train-source", train] if train else [])]
    assert call("doctor", "--preset", "demo", "--source", spec, *options, "--time-limit", "20h") == 0
    return float(re.findall(r"about ([\d,.]+) passes", capsys.readouterr().out)[0].replace(",", ""))


def test_further_tasks_take_their_share_of_the_passes(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "measure_speed", lambda *_: Speed(1000.0, 1, 1.0))
    spec = write_kaggle(tmp_path / "a", tiny_source(1, 4, "t"), "evaluation", with_solutions=True)
    further = write_kaggle(tmp_path / "b", tiny_source(2, 4, "u"), "training", with_solutions=True)
    alone, beside, twice = (
        passes_over(spec, capsys),
        passes_over(spec, capsys, train=further),
        passes_over(f"{spec}@2", capsys, train=further),
    )
    assert 0.35 * alone < beside < 0.65 * alone
    assert beside < twice < 0.85 * alone


def test_further_tasks_that_a_run_leaves_out_are_left_out(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_kaggle(tmp_path / "a", tiny_source(1, 4, "t"), "evaluation", with_solutions=True)
    (tmp_path / "further").mkdir()
    pairs = [{"input": grid.tolist(), "output": grid.tolist()} for grid in tiny_source(1, 4, "u").tasks[0].test]
    for name, task in (("good", {"train": pairs, "test": pairs}), ("no-test", {"train": pairs})):
        (tmp_path / "further" / f"{name}.json").write_bytes(orjson.dumps(task))
    assert passes_over(spec, capsys, train=f"json:{tmp_path / 'further'}") > 0


def test_a_recipe_of_so_many_steps_is_told_how_many_there_is_time_for(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_kaggle(tmp_path, tiny_source(1, 4, "t"), "evaluation", with_solutions=True)
    settings = set_options((*TINY, "train.steps=1000000000"))
    assert call("doctor", "--preset", "demo", "--source", spec, "--time-limit", "1h", *settings) == 0
    assert re.search(r"^steps +about [\d,]+ of the 1,000,000,000 that the recipe has$", capsys.readouterr().out, re.MULTILINE)


def test_more_time_is_more_passes_and_a_preset_that_is_none_is_refused(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("doctor", "--preset", "slow") == 2
    assert "slow" in capsys.readouterr().err
    assert call("doctor", "--preset", "demo", "--source", "json:nowhere") == 2
