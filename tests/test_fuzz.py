"""Over a thousand of the damaged files of `python -m tests.fuzz`, and tests of the fuzzing itself."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from augment.errors import InputError
from pipeline.cli.main import _parser
from tests.fuzz.__main__ import all_readers, format_table, main
from tests.fuzz.reader import PLACES, Hang, Reader, Workplace, fault_of_line, put, time_limit, try_to_read
from tests.fuzz.run import fuzz
from tests.fuzz.tensors import Harm

INPUTS = 64
"""Of each reader, fewer of slow ones."""
READERS = {reader.name: reader for reader in all_readers()}


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused_in_one_line(name: str) -> None:
    reader = READERS[name]
    result = fuzz(reader, 7, range(max(8, INPUTS // reader.slow)))
    assert result.failures == []
    assert result.refused > result.inputs / 4
    assert result.accepted > 0


@pytest.mark.parametrize(
    "name", ["task file", "submission", "sudoku csv", "dataset", "weights", "report of a run", "kaggle.toml"]
)
def test_something_that_is_not_a_file_is_refused_at_once(name: str, tmp_path: Path) -> None:
    reader, workplace = READERS[name], Workplace(READERS[name], tmp_path, 0)
    workplace.lay_out(0)
    for place in PLACES:
        workplace.restore()
        put(place, tmp_path / reader.damaged[0])
        accepted, fault = try_to_read(reader, tmp_path)
        assert fault == "", place
        assert not accepted or (name == "report of a run" and place in ("missing", "loop"))  # run.json may be missing


def test_an_input_is_the_same_every_time(tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        Workplace(READERS["submission"], tmp_path, seed=3).lay_out(41)
        seen.append((tmp_path / "submission.json").read_bytes())
    assert seen[0] == seen[1]


def careless(folder: Path) -> None:
    """A bad reader: raises unexpected errors and messages of two lines."""
    content = (folder / "x.json").read_bytes()
    if b"9" in content:
        raise KeyError("a number")
    if b"[" * 100 in content:
        raise InputError("two\nlines")


def test_failures_of_a_careless_reader_are_found_and_their_files_kept(tmp_path: Path) -> None:
    def prepare(folder: Path, _: np.random.Generator) -> None:
        (folder / "x.json").write_text('{"a": [1, 2, 3]}')

    reader = Reader("careless", prepare, ("x.json",), careless, lambda _: [], places=False)
    result = fuzz(reader, 0, range(60), tmp_path / "kept")
    faults = {fault.split(":")[0] for _, _, fault in result.failures}
    assert faults == {"KeyError", "not one printable line"}
    number = result.failures[0][0]
    assert (tmp_path / "kept" / str(number) / "x.json").is_file()
    assert "| careless |" in format_table([result])


def test_a_reader_that_hangs_is_stopped() -> None:
    with pytest.raises(Hang), time_limit(0.05):
        while True:
            pass


def test_unclear_refusals_are_faults(tmp_path: Path) -> None:
    assert fault_of_line(f"{tmp_path}/x: not JSON", ValueError, tmp_path) == ""
    assert "names no file" in fault_of_line("not JSON", ValueError, tmp_path)
    assert "characters" in fault_of_line(f"{tmp_path}/{'x' * 1000}", ValueError, tmp_path)
    assert "printable" in fault_of_line(f"{tmp_path}/\x1b[2J", ValueError, tmp_path)


def test_inputs_are_read_in_a_child_process_and_the_first_ones_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--reader", "solutions", "--inputs", "20", "--sample", "1", "--kept", str(tmp_path)]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert [(row[0], row[1], row[4]) for row in rows[2:]] == [("| solutions", "21", "0"), ("| all", "21", "0")]


def test_the_command_of_each_reader_is_one_of_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "flag.txt").touch()
    for reader in READERS.values():
        _parser().parse_args(reader.command(tmp_path))  # ends the process for words that it does not know


def test_an_unknown_reader_is_refused_with_the_names_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--reader", "nobody"]) == 2
    assert "the readers are challenges and solutions, " in capsys.readouterr().err


def test_loading_the_malicious_pickle_would_do_harm(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Harm(str(tmp_path / "harm"))))
    assert (tmp_path / "harm").is_dir()
