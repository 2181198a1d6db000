"""Prediction: candidates come back to the original frame, no view is predicted twice, and the time limit holds."""

import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from augment.grid import grid_key
from augment.transform import Transform, transform_to_int
from pipeline import device
from pipeline.config import BuildConfig, override
from pipeline.data.build import build
from pipeline.data.dataset import TaskDataset
from pipeline.device import make_accelerator
from pipeline.device_limits import OutOfMemory
from pipeline.inference import predictor as predict
from pipeline.inference.candidates import Candidates, Origin, read_candidates
from pipeline.inference.forward import InferenceRunner
from pipeline.inference.predictor import Predictor
from pipeline.jobs.run_record import PREDICTING
from pipeline.jobs.time_split import measure_speed
from pipeline.models.batch import Batch
from pipeline.models.network import make_network
from pipeline.system.time_limit import NO_LIMIT, Budget
from pipeline.tensor_files import read_checksum, read_tensors, write_tensors
from pipeline.weights.files import Weights, load_weights, save_weights
from tests.pipeline.published.examples import VIEWS, Published
from tests.pipeline.tiny import TINY, set_options, tiny_config, tiny_dataset, tiny_source, write_kaggle
from tests.pipeline.tinyrun import call, write_weights


def make_weights(folder: Path, dataset: TaskDataset, *settings: str) -> Weights:
    write_weights(folder, dataset, tiny_config(*settings))
    return load_weights(folder)


def make_predictor(folder: Path, dataset: TaskDataset, *settings: str) -> Predictor:
    return predictor_of(make_weights(folder, dataset, *settings), dataset)


def predictor_of(weights: Weights, dataset: TaskDataset) -> Predictor:
    return Predictor(*make_accelerator("float32"), weights, dataset, weights.config.predict)


class Echo:
    """Stands in for a network: answers each cell with its own token, so every view predicts its test input."""

    def __init__(self) -> None:
        start = lambda layout, dtype, latents: (torch.zeros(layout.tokens, 1, dtype=dtype),)  # noqa: E731
        self.reasoner = SimpleNamespace(start=start, config=SimpleNamespace(H_cycles=2))

    def __call__(self, state: tuple[torch.Tensor], batch: Batch, cycles: int | None = None) -> SimpleNamespace:
        logits = torch.nn.functional.one_hot(batch.inputs, 12).float()
        return SimpleNamespace(state=state, logits=logits, halting=torch.zeros(batch.layout.sequences, 2))


def predict_all(predictor: Predictor, folder: Path, budget: Budget = NO_LIMIT) -> list[tuple[Candidates, Origin]]:
    folder.mkdir()
    return list(predictor.rounds(folder, budget))


@pytest.mark.parametrize("canvas", ["fitted", "full"])
def test_every_view_comes_back_to_the_original_frame(tmp_path: Path, canvas: str) -> None:
    dataset = tiny_dataset(tasks=6, augmentations=40)
    predictor = make_predictor(tmp_path, dataset, "predict.views=41", "predict.round_views=20", f"train.canvas={canvas}")
    predictor.runner.network = Echo()  # type: ignore[assignment]
    rounds = predict_all(predictor, tmp_path / "candidates")
    asked = np.zeros(len(dataset.test_task), int)
    for path in sorted((tmp_path / "candidates").iterdir()):
        candidates, _ = read_candidates(path)
        for test, grid, probability in candidates.grids():
            assert grid_key(grid) == grid_key(dataset.grid(dataset.test_input[test]))
            assert probability == 0.5
            asked[test] += 1
    known = np.diff(dataset.transform_start)[dataset.test_task]
    assert asked.tolist() == np.minimum(known, 41).tolist()
    assert sum(len(found.test) for found, _ in rounds) == asked.sum()
    assert all(origin.complete for _, origin in rounds)


def test_a_probability_that_is_not_a_number_counts_as_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predictor = make_predictor(tmp_path, tiny_dataset(), "predict.views=1")
    echo = Echo()
    predictor.runner.network = lambda *given, **named: replace_halting(echo(*given, **named))  # type: ignore[assignment]
    predictor.runner.network.reasoner = echo.reasoner  # type: ignore[assignment]
    ((candidates, _),) = predict_all(predictor, tmp_path / "candidates")
    assert candidates.probability.tolist() == [0.0] * len(candidates.test)
    assert "halting probabilities that are not finite count as 0" in caplog.text


def replace_halting(segment: SimpleNamespace) -> SimpleNamespace:
    segment.halting = torch.full_like(segment.halting, float("nan"))
    return segment


def test_the_first_round_is_the_identity_of_every_test_and_no_view_comes_twice(tmp_path: Path) -> None:
    dataset = tiny_dataset(augmentations=20)
    predict_all(make_predictor(tmp_path, dataset, "predict.views=15", "predict.round_views=4"), tmp_path / "candidates")
    rounds = [read_candidates(path) for path in sorted((tmp_path / "candidates").iterdir())]
    first, origin = rounds[0]
    assert sorted(first.test.tolist()) == list(range(len(dataset.test_task)))
    assert not first.transform.any()
    assert "step 1" in origin.source
    seen = [pair for found, _ in rounds for pair in zip(found.test.tolist(), found.transform.tolist(), strict=True)]
    assert len(seen) == len(set(seen)) == 15 * len(dataset.test_task)


def test_no_time_gives_no_round_and_little_time_ends_soon(tmp_path: Path) -> None:
    dataset = tiny_dataset(augmentations=200)
    predictor = make_predictor(tmp_path, dataset, "predict.views=100000", "predict.round_views=3")
    assert predict_all(predictor, tmp_path / "none", Budget(0.0, time.monotonic())) == []
    started = time.monotonic()
    rounds = predict_all(predictor, tmp_path / "some", Budget(1.0, started))
    assert time.monotonic() - started < 5
    assert rounds


def views_predicted(folder: Path, dataset: TaskDataset) -> dict[str, list[int]]:
    """The codes that the candidates of a folder come from, sorted, by the task; the tests of a task must have the same."""
    of_test: dict[int, list[int]] = {}
    for path in sorted(folder.iterdir()):
        candidates, _ = read_candidates(path)
        for test, transform in zip(candidates.test.tolist(), candidates.transform.tolist(), strict=True):
            of_test.setdefault(test, []).append(transform)
    asked: dict[str, list[int]] = {}
    for test, transforms in sorted(of_test.items()):
        task_id = dataset.task_ids[dataset.test_task[test]]
        assert asked.setdefault(task_id, sorted(transforms)) == sorted(transforms)
    return asked


def test_a_table_predicts_the_views_it_was_trained_on_and_of_an_unknown_task_those_of_the_dataset(tmp_path: Path) -> None:
    trained = build([tiny_source(tasks=3)], [], BuildConfig(9, "all", 1, 1), leakage="allow")
    weights = make_weights(tmp_path, trained, "memory.kind=table", "memory.tokens=2", "predict.views=50")
    dataset = build([tiny_source(tasks=5)], [], BuildConfig(4, "all", 2, 1), leakage="allow")  # draws others, and fewer
    predictor = predictor_of(weights, dataset)
    assert predictor.most_views == 10
    predict_all(predictor, tmp_path / "candidates")
    asked = views_predicted(tmp_path / "candidates", dataset)
    assert asked.keys() == set(dataset.task_ids)

    def views(of: TaskDataset, task_id: str) -> list[int]:
        task = of.task_ids.index(task_id)
        return sorted(of.transforms[slice(*of.transform_start[task : task + 2])].tolist())

    for task_id, codes in asked.items():
        assert codes == views(trained if task_id in trained.task_ids else dataset, task_id)
        assert task_id not in trained.task_ids or codes != views(dataset, task_id)


def test_every_view_that_an_imported_checkpoint_has_a_row_for_is_predicted(tmp_path: Path) -> None:
    published = Published(tmp_path)
    published.config["arch"] |= {"seq_len": 900, "H_cycles": 1, "L_cycles": 1, "halt_max_steps": 1}
    weights = published.imported()
    made = tiny_source(tasks=2)
    named = [replace(task, id=task_id) for task, task_id in zip(made.tasks, ("a", "b"), strict=True)]
    dataset = build([replace(made, tasks=tuple(named), solutions={})], [], BuildConfig(1, "all", 0, 1), leakage="allow")
    predict_all(predictor_of(weights, dataset), tmp_path / "candidates")
    codes = {
        task: sorted(transform_to_int(Transform.parse(text)) for of, text, _ in VIEWS if of == task) for task in ("a", "b")
    }
    assert views_predicted(tmp_path / "candidates", dataset) == codes


@pytest.mark.parametrize("residual", [0, 3])
def test_compositional_memory_predicts_views_that_were_never_trained(tmp_path: Path, residual: int) -> None:
    weights = make_weights(tmp_path, tiny_dataset(augmentations=3), f"memory.residual={residual}", "predict.views=50")
    wider = tiny_dataset(augmentations=30)
    predictor = predictor_of(weights, wider)
    assert np.array_equal(predictor.dataset.transforms, wider.transforms)
    assert sum(len(found.test) for found, _ in predict_all(predictor, tmp_path / "candidates")) > 4 * len(wider.test_task)


class Small(Echo):
    """A device with memory for so many tokens."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens, self.largest = tokens, 0

    def __call__(self, state: tuple[torch.Tensor], batch: Batch, cycles: int | None = None) -> SimpleNamespace:
        if batch.layout.tokens > self.tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.largest = max(self.largest, batch.layout.tokens)
        return super().__call__(state, batch)


def test_packs_that_are_too_large_for_the_memory_are_halved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = tiny_dataset(tasks=6, augmentations=40)
    predictor = make_predictor(tmp_path, dataset, "predict.views=41", "predict.round_views=40", "predict.pack_tokens=4000")
    small = predictor.runner.network = Small(400)  # type: ignore[assignment]
    rounds = predict_all(predictor, tmp_path / "candidates")
    assert all(origin.complete for _, origin in rounds)
    known = np.diff(dataset.transform_start)[dataset.test_task]
    assert sum(len(found.test) for found, _ in rounds) == np.minimum(known, 41).sum()
    assert small.largest > 100
    assert caplog.text.count("out of memory: packs of") in range(2, 7)


def test_a_single_sequence_that_is_too_large_is_an_error(tmp_path: Path) -> None:
    predictor = make_predictor(tmp_path, tiny_dataset())
    predictor.runner.network = Small(1)  # type: ignore[assignment]
    with pytest.raises(OutOfMemory, match="single test input in a pack"):
        predict_all(predictor, tmp_path / "candidates")


def test_the_measured_speed_counts_one_view_of_every_test_and_not_what_is_set_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call on a GPU may take ten seconds: it must not end the measurement, nor be in it."""
    monkeypatch.setattr("pipeline.jobs.time_split.MEASURE_SECONDS", 0.2)
    dataset, config = tiny_dataset(tasks=6, augmentations=40), tiny_config()
    network = make_network(config.model, config.memory, len(dataset.task_ids), len(dataset.transforms), 0)
    sizes: list[int] = []

    def set_up(_: object, inputs: tuple[object, Batch]) -> None:
        sizes.append(inputs[1].layout.sequences)
        time.sleep(0.5 if len(sizes) == 1 else 0.0)

    network.register_forward_pre_hook(set_up)
    accelerator, dtype = make_accelerator("float32")
    speed = measure_speed(network, dataset, config, dtype, accelerator)
    assert sizes[:4] == [1, 1, 2, 2]
    assert speed.view_tokens == int((dataset.test_canvas.astype(int).prod(axis=1) + 1).sum())
    assert speed.view_tokens / speed.tokens_per_second < 0.5


def test_the_speed_on_few_small_tests_is_that_of_whole_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a step, of large packs, would seem to take as often what a single call takes: here 10 ms, whatever it computes."""
    clock, seen = [0.0], list[tuple[int, int]]()
    monkeypatch.setattr("pipeline.jobs.time_split.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    dataset, config = tiny_dataset(tasks=2), tiny_config("predict.pack_tokens=2000")
    network = make_network(config.model, config.memory, len(dataset.task_ids), len(dataset.transforms), 0)

    def call_costs(_: object, inputs: tuple[object, Batch], __: object) -> None:
        clock[0] += 0.01
        seen.append((inputs[1].layout.tokens, len(inputs[1].layout.sequence.bincount().unique())))

    network.register_forward_hook(call_costs)
    accelerator, dtype = make_accelerator("float32")
    speed = measure_speed(network, dataset, config, dtype, accelerator)
    tokens = [tokens for tokens, _ in seen]
    assert 1000 < tokens[-1] <= 2000
    assert speed.tokens_per_second == pytest.approx(tokens[-1] / 0.01)
    assert seen[-1][1] == len(np.unique(dataset.test_canvas.astype(int).prod(axis=1))) > 1  # every test is among them


def test_without_a_time_limit_packs_do_not_depend_on_the_speed(tmp_path: Path) -> None:
    dataset = tiny_dataset(tasks=6, augmentations=40)
    predictor, packs = make_predictor(tmp_path, dataset, "predict.views=41", "predict.pack_tokens=60"), []
    for speed in (None, 1.0, 1e9):
        predictor.runner.tokens_per_second = speed
        packs.append([len(output.samples) for output in predictor.runner.predict(predictor.maker.plain(), NO_LIMIT)])
    assert packs[0] == packs[1] == packs[2]
    assert len(packs[0]) > 1


def test_a_round_that_the_disk_does_not_take_counts_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    predictor = make_predictor(tmp_path, tiny_dataset())
    monkeypatch.setattr(predict, "write_candidates", full)
    rounds = predict_all(predictor, tmp_path / "candidates")
    assert all(origin.complete and len(found.test) for found, origin in rounds)
    assert caplog.text.count("the candidates of a round are not kept: [Errno 28] No space left on device") == len(rounds) > 1


def test_drafts_are_written_before_the_candidates_of_the_first_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path, *_: object) -> None:
        raise KeyboardInterrupt

    predictor = make_predictor(tmp_path, tiny_dataset())
    monkeypatch.setattr(predict, "write_candidates", killed)
    with pytest.raises(KeyboardInterrupt):
        predict_all(predictor, tmp_path / "candidates")
    assert (tmp_path / "drafts.safetensors").is_file()


def test_rounds_that_were_computed_otherwise_are_predicted_again(tmp_path: Path) -> None:
    dataset, folder = tiny_dataset(), tmp_path / "candidates"
    weights = make_weights(tmp_path, dataset, "predict.round_views=2", "predict.views=4")
    predict_all(predictor_of(weights, dataset), folder)
    paths = sorted(folder.iterdir())
    assert len(predictor_of(weights, dataset).keep_rounds(folder)) == len(paths) > 1
    for path in paths:  # as earlier versions wrote them
        tensors, metadata = read_tensors(path)
        assert metadata.pop("computation") == f"weights={read_checksum(weights.path)} segments=2 latents=1 halting=off"
        write_tensors(path, tensors, metadata)
    assert len(predictor_of(weights, dataset).keep_rounds(folder)) == len(paths)
    predict_all(predictor_of(weights, dataset), tmp_path / "again")
    for setting in ("predict.segments=3", "predict.latents=2", "predict.halting=first"):
        kept = shutil.copytree(tmp_path / "again", tmp_path / setting)
        changed = replace(weights, config=override(weights.config, [setting]))
        assert not predictor_of(changed, dataset).keep_rounds(kept)
        assert not list(kept.iterdir())
    other_seed = {name: tensor + 1 for name, tensor in weights.tensors.items()}  # of the same name, step and dataset
    save_weights(weights.path, other_seed, weights.config, dataset, weights.step)
    assert not predictor_of(load_weights(weights.path), dataset).keep_rounds(tmp_path / "again")


@pytest.mark.parametrize(
    ("change", "kept"),
    [({"complete": "False"}, 1), ({"tests_hash": "of another dataset"}, 1), ({"first_view": "3"}, 1), ({}, 3)],
)
def test_a_round_that_is_not_whole_or_not_of_these_tests_is_predicted_again(
    tmp_path: Path, change: dict[str, str], kept: int
) -> None:
    predictor = make_predictor(tmp_path, tiny_dataset(), "predict.round_views=2", "predict.views=5")
    predict_all(predictor, tmp_path / "candidates")
    second = tmp_path / "candidates" / "round-0002.safetensors"
    tensors, metadata = read_tensors(second)
    write_tensors(second, tensors, metadata | change)
    assert len(predictor.keep_rounds(tmp_path / "candidates")) == kept
    assert len(list((tmp_path / "candidates").iterdir())) == kept


@pytest.mark.parametrize(("seconds", "views"), [(0.5, 1), (5.5, 5), (100.0, 20)])
def test_a_round_has_as_many_views_as_there_is_time_for(tmp_path: Path, seconds: float, views: int) -> None:
    predictor = make_predictor(tmp_path, tiny_dataset(augmentations=40), "predict.views=41", "predict.round_views=20")
    predictor.tokens_per_second = float(predictor.maker.tokens(predictor.maker.views(1, 2)).sum())  # a view a second
    assert predictor._round_views(1, predictor.most_views, Budget(seconds, time.monotonic())) == views


@pytest.mark.parametrize(("trained", "setting", "used"), [
    ("bfloat16", (), torch.float32),
    ("float16", (), torch.float32),
    ("float32", (), torch.float32),
    ("bfloat16", ("--set", " train.precision = bfloat16"), torch.bfloat16),
])  # fmt: skip
def test_weights_of_a_gpu_predict_in_what_a_cpu_is_fast_in_unless_the_precision_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: str, setting: tuple[str, ...], used: torch.dtype
) -> None:
    dataset = tiny_dataset()
    dataset.save(tmp_path / "data")
    write_weights(tmp_path / "weights", dataset, tiny_config(f"train.precision={trained}"))
    monkeypatch.setattr(device, "bfloat16_speedup", lambda: 0.3)
    dtypes = []

    def spy(self: InferenceRunner, *arguments: Any, **others: Any) -> None:
        dtypes.append(arguments[1])
        original(self, *arguments, **others)

    original = InferenceRunner.__init__
    monkeypatch.setattr(InferenceRunner, "__init__", spy)
    paths = ("--data", tmp_path / "data", "--weights", tmp_path / "weights", "--out", tmp_path / "out")
    assert call("predict", *paths, "--views", 1, *setting) == 0
    assert dtypes == [used]


def test_predictions_are_compiled_or_not_as_the_command_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, settings = write_kaggle(tmp_path, tiny_source(1, 3, "t"), "evaluation", with_solutions=True), set_options(TINY)
    out, used = tmp_path / "out", list[str]()

    def spy(self: InferenceRunner, *arguments: Any, execution: str) -> None:
        used.append(execution)
        original(self, *arguments, execution="eager")

    original = InferenceRunner.__init__
    monkeypatch.setattr(InferenceRunner, "__init__", spy)
    run = ("run", "--source", spec, "--out", out, "--no-report")
    assert call(*run, "--preset", "demo", *settings, "--set", "train.steps=1", "--set", "train.execution=eager") == 0
    (out / PREDICTING).touch()
    assert call(*run, "--resume", "--set", "train.execution=auto") == 0
    predict = ("predict", "--data", out / "dataset", "--weights", out, "--views", 1, "--out")
    assert call(*predict, tmp_path / "as trained") == 0
    assert call(*predict, tmp_path / "compiled", "--set", "train.execution=compiled") == 0
    assert used == ["eager", "auto", "eager", "compiled"]


@pytest.mark.parametrize("fits", [0, 2])
def test_the_speed_is_of_the_packs_that_fit_into_the_memory(fits: int) -> None:
    dataset, config = tiny_dataset(tasks=6), tiny_config()
    network = make_network(config.model, config.memory, len(dataset.task_ids), len(dataset.transforms), 0)

    def run_out(_: object, inputs: tuple[object, Batch]) -> None:
        if inputs[1].layout.sequences > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")

    network.register_forward_pre_hook(run_out)
    accelerator, dtype = make_accelerator("float32")
    if fits:
        assert measure_speed(network, dataset, config, dtype, accelerator).tokens_per_second > 1
    else:
        with pytest.raises(torch.OutOfMemoryError):
            measure_speed(network, dataset, config, dtype, accelerator)
