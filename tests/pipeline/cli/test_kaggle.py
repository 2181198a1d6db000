"""The command `kaggle`: what a person types, reads and gets back."""

import codecs
import json
from pathlib import Path

import pytest

from pipeline.cli import kaggle as kaggle_commands
from pipeline.cli.main import main
from pipeline.data.sources import load_source
from pipeline.device import fit_config
from pipeline.presets import PRESETS
from submission.client import KaggleError
from submission.format import fallback_submission, write_submission
from submission.notebook import read_ready_folder
from tests.pipeline.tiny import tiny_dataset, tiny_source, write_kaggle
from tests.pipeline.tinypuzzles import tiny_puzzle_dataset
from tests.pipeline.tinyrun import write_weights


def kaggle(*arguments: object) -> int:
    return main(["kaggle", *map(str, arguments)])


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A settings file that was filled in, in the current folder."""
    monkeypatch.chdir(tmp_path)
    assert kaggle("init") == 0
    path = tmp_path / "kaggle.toml"
    path.write_text(path.read_text().replace('user = ""', 'user = "ann"').replace('competition = ""', 'competition = "arc-x"'))
    return path


def test_five_commands_lead_to_a_submission(
    settings: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kaggle("notebook") == 0
    assert "next: python -m pipeline kaggle" in capsys.readouterr().out
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(kaggle_commands, "push", lambda *given: calls.append(given) or 3)
    monkeypatch.setattr(kaggle_commands, "status", lambda *given: calls.append(given) or "complete")
    monkeypatch.setattr(kaggle_commands, "submit", lambda *given: calls.append(given) or "Successfully submitted")
    assert kaggle("push") == kaggle("status", "--wait") == kaggle("submit", "-m", "first try") == 0
    folder = Path("kaggle-entry")
    assert calls == [(folder, False), (folder, True), (folder, "first try", None, False)]
    metadata = json.loads((folder / "notebook" / "kernel-metadata.json").read_text())
    assert (metadata["id"], metadata["competition_sources"]) == ("ann/arc-trm", ["arc-x"])
    shown = capsys.readouterr().out
    assert "version 3 is running" in shown
    assert "Successfully submitted" in shown


@pytest.mark.parametrize(
    ("limit", "reserve", "told"),
    [("12h", "20m", False), ("12h", "14m", True), ("13h", "20m", True), ("11h50m", "5m", False), ("2h", "5m", False)],
)
def test_limits_that_are_unsafe_on_kaggle_are_told(
    settings: Path, caplog: pytest.LogCaptureFixture, limit: str, reserve: str, told: bool
) -> None:
    text = settings.read_text().replace('\ntime_limit = "12h"', f'\ntime_limit = "{limit}"')
    settings.write_text(text.replace('reserve = "20m"', f'reserve = "{reserve}"'))
    assert kaggle("notebook") == 0
    assert [message.split(":")[0] for message in caplog.messages] == [
        f"time_limit = '{limit}' and reserve = '{reserve}'"
    ] * told


def test_a_folder_that_was_made_before_a_change_is_told_when_it_is_pushed(
    settings: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kaggle_commands, "push", lambda *_: 3)
    assert kaggle("notebook") == kaggle("push") == 0
    assert not caplog.messages
    Path("kaggle-entry/code/pipeline/run.py").write_text("")
    Path("kaggle-entry/code/augment/gone.py").write_text("")
    settings.write_text(settings.read_text().replace("seed = 0", "seed = 1"))
    assert kaggle("push") == 0
    code, changed = caplog.messages
    assert "kaggle-entry has other code, in 2 files, such as augment/gone.py; `python -m pipeline kaggle notebook" in code
    assert "kaggle-entry was not made from kaggle.toml as it is" in changed


def test_weights_that_have_changed_since_are_told_when_a_folder_is_pushed(
    settings: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kaggle_commands, "push", lambda *_: 3)
    dataset = tiny_dataset()
    write_weights(settings.parent / "own", dataset, fit_config(PRESETS["fast"], dataset))
    weights = settings.parent / "own" / "weights.safetensors"
    assert kaggle("notebook", "--weights", weights) == kaggle("push") == 0
    assert not caplog.messages, "they were given by hand"
    settings.write_text(settings.read_text().replace('\nweights = ""', f'\nweights = "{weights}"'))
    assert kaggle("push") == 0
    assert not caplog.messages, "they are the same"
    write_weights(weights.parent, dataset, fit_config(PRESETS["demo"], dataset))
    assert kaggle("push") == 0
    assert "kaggle-entry was not made from kaggle.toml as it is" in caplog.text


def test_settings_that_are_there_stay_and_those_that_are_empty_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert kaggle("notebook") == 2
    assert "no such settings file; `python -m pipeline kaggle init` writes one" in capsys.readouterr().err
    assert kaggle("init") == 0
    assert kaggle("init") == 2
    assert "is there already" in capsys.readouterr().err
    assert kaggle("notebook") == 2
    assert "kaggle.toml: user is empty" in capsys.readouterr().err


def test_a_failure_at_kaggle_is_one_line_and_exit_code_one(
    settings: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise KaggleError("no submission is left today")

    monkeypatch.setattr(kaggle_commands, "submit", fail)
    assert kaggle("submit", "-m", "again") == 1
    assert capsys.readouterr().err == "python -m pipeline kaggle: no submission is left today\n"


def test_a_file_in_the_place_of_a_folder_is_bad_input(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("taken").touch()
    assert kaggle("notebook", "--out", "taken/entry") == 2
    assert main(["build", "--train-source", "arc1:training", "--out", "taken"]) == 2
    assert "taken: a file, not a folder" in capsys.readouterr().err


def test_push_and_submit_need_a_ready_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in (("push",), ("status",), ("submit", "-m", "x")):
        assert kaggle(part[0], tmp_path, *part[1:]) == 2
        assert "not a ready folder; `python -m pipeline kaggle notebook --out" in capsys.readouterr().err


def test_weights_that_are_none_are_refused_before_they_are_sent(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("weights.safetensors").write_text("no weights at all")
    assert kaggle("notebook", "--weights", "weights.safetensors") == 2
    assert "weights.safetensors: damaged or not a safetensors file (" in capsys.readouterr().err
    assert not Path("kaggle-entry").exists()


@pytest.mark.parametrize(
    ("written", "instead", "message"),
    [
        ('preset = "fast"', 'preset = "fats"', "unknown preset 'fats'"),
        ('cpu_preset = "demo"', 'cpu_preset = "nope"', "unknown preset 'nope'"),
        ("overrides = []", 'overrides = ["predict.view=512"]', "predict has no field 'view'"),
        ('preset = "fast"', 'preset = "arc1-cpu"', "NvidiaL4 has 4 GPUs, and a step of preset arc1-cpu 2 packs: "),
    ],
)
def test_presets_and_overrides_that_will_not_do_are_refused_before_they_are_sent(
    settings: Path, capsys: pytest.CaptureFixture[str], written: str, instead: str, message: str
) -> None:
    text = settings.read_text()
    assert text.count(f"\n{written}") == 1
    settings.write_text(text.replace(f"\n{written}", f"\n{instead}"))
    assert kaggle("notebook") == 2
    assert message in capsys.readouterr().err
    assert not Path("kaggle-entry").exists()


def test_weights_go_with_the_code_unless_the_settings_name_others_or_change_the_network(
    settings: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_weights(Path("trained"), tiny_dataset(), fit_config(PRESETS["demo"], tiny_dataset()))
    filled = settings.read_text().replace('accelerator = "NvidiaL4" ', 'accelerator = "NvidiaTeslaT4" ')
    sent = Path("kaggle-entry/code/weights/weights.safetensors")
    settings.write_text(
        filled.replace('weights = ""', 'weights = "trained"').replace("overrides = []", 'overrides = ["train.packs=4"]')
    )
    assert kaggle("notebook") == 0
    assert sent.read_bytes() == Path("trained/weights.safetensors").read_bytes()
    assert read_ready_folder(Path("kaggle-entry")).weights == "weights/weights.safetensors"  # and not where they are here
    settings.write_text(filled)
    assert kaggle("notebook") == 0
    assert not sent.exists()
    assert kaggle("notebook", "--weights", "trained") == 0
    assert sent.exists()
    settings.write_text(filled.replace('weights_dataset = ""', 'weights_dataset = "ann/weights"'))
    assert kaggle("notebook", "--weights", "trained") == 2
    assert "only one of them can be what training starts from" in capsys.readouterr().err
    for overrides, message in (
        ('"model.layers=3"', "the network of these weights stays as it is, without model.layers=3"),
        ('"train.packs=3"', 'NvidiaTeslaT4 has 2 GPUs, and a step of these weights 3 packs: overrides = ["train.packs=2"]'),
    ):
        settings.write_text(filled.replace("overrides = []", f"overrides = [{overrides}]"))
        assert kaggle("notebook", "--weights", "trained") == 2
        assert message in capsys.readouterr().err
    for seed in (-1, 1 << 63):
        settings.write_text(filled.replace("seed = 0", f"seed = {seed}"))
        assert kaggle("notebook") == 2
        assert f"seed = {seed}: expected 0 to 2^63 - 1" in capsys.readouterr().err
    elsewhere = filled.replace('weights_dataset = ""', 'weights_dataset = "ann/weights"')
    settings.write_text(elsewhere.replace("overrides = []", 'overrides = ["train.sed=1"]'))
    assert kaggle("notebook") == 0
    assert "with the weights they may: train has no field 'sed'" in caplog.text
    dataset = tiny_puzzle_dataset()
    write_weights(Path("of-puzzles"), dataset, fit_config(PRESETS["demo-sudoku"], dataset))
    settings.write_text(filled)
    assert kaggle("notebook", "--weights", "of-puzzles") == 2
    assert "not of a network for ARC tasks" in capsys.readouterr().err


def test_a_machine_that_is_not_known_here_is_passed_on_with_a_warning(
    settings: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.write_text(settings.read_text().replace('"NvidiaL4" ', '"NvidiaB200" '))
    assert kaggle("notebook") == 0
    assert "accelerator = NvidiaB200: not known here" in caplog.text + capsys.readouterr().err
    metadata = json.loads(Path("kaggle-entry/notebook/kernel-metadata.json").read_text())
    assert (metadata["machine_shape"], metadata["enable_gpu"]) == ("NvidiaB200", True)
    settings.write_text(settings.read_text().replace('"NvidiaB200" ', '"" '))
    assert kaggle("notebook") == 2
    assert "accelerator = '': expected a machine shape such as NvidiaTeslaT4" in capsys.readouterr().err


def test_settings_may_begin_with_a_byte_order_mark(settings: Path) -> None:
    settings.write_bytes(codecs.BOM_UTF8 + settings.read_bytes())
    assert kaggle("notebook") == 0


def test_a_submission_is_checked_as_kaggle_would(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_kaggle(tmp_path, tiny_source(1, 30, "t"), "test", False)
    challenges, path = tmp_path / "arc-agi_test_challenges.json", tmp_path / "submission.json"
    tasks = load_source(f"json:{challenges}", with_solutions=False).tasks
    write_submission(path, fallback_submission(tasks), tasks)
    assert kaggle("check", path, "--challenges", challenges) == 0
    assert "30 tasks, 45 test inputs, nothing that Kaggle would refuse" in capsys.readouterr().out
    document = json.loads(path.read_text())
    path.write_text(json.dumps({task_id: entries for task_id, entries in document.items() if task_id < "t005"}))
    assert kaggle("check", path, "--challenges", challenges) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21
    assert lines[0].endswith("task 't005': missing")
    assert lines[-1] == "and 5 more"
    assert kaggle("check", tmp_path / "nothing.json", "--challenges", challenges) == 2


@pytest.mark.parametrize("part", ["init", "notebook", "simulate", "push", "status", "submit", "check"])
def test_every_part_has_help_with_an_example(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        kaggle(part, "--help")
    assert ended.value.code == 0
    assert f"example:\n  python -m pipeline kaggle {part}" in capsys.readouterr().out
