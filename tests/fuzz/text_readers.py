"""Readers of files that people and other systems write: tasks, solutions, submissions, puzzles, settings, options."""

import gzip
import json
import zipfile
from pathlib import Path

from augment.errors import InputError
from augment.task import Task
from eval.formatting import parse_duration
from eval.puzzle_score import PuzzlePrediction, read_predictions, write_predictions
from eval.score import format_score, score_predictions
from pipeline.cli.show import parse_transform
from pipeline.config import Config, override
from pipeline.data.puzzles.kinds import KindName
from pipeline.data.puzzles.sources import load_puzzles
from pipeline.data.sources import Source, load_source, read_solutions
from pipeline.published.identifiers import read_identifiers
from submission.client import push, submit
from submission.format import list_notes, list_problems, read_partial_submission
from submission.notebook import make_notebook, read_ready_folder
from submission.settings import KaggleSettings, read_settings, write_settings
from tests.fuzz.mutate import Rng, mutate_bytes, mutate_json, mutate_lines, pick
from tests.fuzz.reader import Reader
from tests.fuzz.tensors import mutate_zip
from tests.pipeline.tiny import tiny_source, write_kaggle
from tests.pipeline.tinypuzzles import tiny_puzzles, write_csv

CHALLENGES, SOLUTIONS = "arc-agi_test_challenges.json", "arc-agi_test_solutions.json"
ODD_ROWS = (
    *(b"", b",", b"question,answer", b'"', b'"\n"', b"a,b,c,d", b"x" * 200_000, b"\xff\xfe", b"a,.,1,1", b"\x00", b'a,"1",,'),
)
ODD_TOML = (
    *(b"[", b"[a]", b"[[a]]", b"seed = 1", b"seed = -1", b"seed = 1e9", b"user = 1", b'user = "<b>"', b"a = [" + b"[" * 3000),
    *(b'time_limit = "' + b"9" * 400 + b's"', b'reserve = "0s"', b"seed = " + b"9" * 5000, b"commit_tasks = true"),
    *(b"overrides = [1]", b'overrides = ["\\u0000"]', b'notebook_title = "' + b"x" * 10_000 + b'"', b"x = {a = 1}"),
)
FLAGS = (
    *("train.steps=10", "train.exploration=0.5", "model.kind=trm", "optimizer.rate=1e-3", "4.5h", "90s", "3.463582197"),
    *("463582197", "sudoku:generated:side=4,clues=6,count=1,seed=0", "maze:generated:side=5,count=1"),
)
FLAG_PIECES = (
    *("", "=", ".", ":", ",", "-1", "9" * 5000, "nan", "inf", "1e999", "_", "\n", "\x00", "é", "\udcff", "train", "x" * 3000),
)


def _source(rng: Rng, tasks: int) -> Source:
    return tiny_source(int(rng.integers(1 << 30)), tasks)


def _pairs(task: Task) -> list[dict[str, list[list[int]]]]:
    return [{"input": pair.input.tolist(), "output": pair.output.tolist()} for pair in task.train]


def _solvable(folder: Path, rng: Rng) -> None:
    write_kaggle(folder, _source(rng, int(rng.integers(1, 4))), "test", with_solutions=True)


def _task_folder(folder: Path, rng: Rng) -> None:
    (folder / "tasks").mkdir(exist_ok=True)
    for name, task in zip(("one", "two"), _source(rng, 2).tasks, strict=True):
        test = [{"input": grid.tolist(), "output": grid.tolist()} for grid in task.test]
        (folder / "tasks" / f"{name}.json").write_text(json.dumps({"train": _pairs(task), "test": test}))


def _task_lines(folder: Path, rng: Rng) -> None:
    lines = [
        {"id": task.id, "train": _pairs(task), "test": [{"input": task.test[0].tolist()}]} for task in _source(rng, 3).tasks
    ]
    (folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, lines)))


def _packed_tasks(folder: Path, rng: Rng) -> None:
    _task_folder(folder, rng)
    for path in sorted((folder / "tasks").glob("*.json")):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


def _mutate_packed(rng: Rng, data: bytes) -> bytes:
    """Damage the content, or the bytes around it."""
    return gzip.compress(mutate_json(rng, gzip.decompress(data))) if rng.random() < 0.5 else mutate_bytes(rng, data)


def _rearc_folder(folder: Path, rng: Rng) -> None:
    (folder / "tasks").mkdir(exist_ok=True)
    for name, content in _rearc(rng).items():
        (folder / "tasks" / name).write_text(content)


def _rearc_zip(folder: Path, rng: Rng) -> None:
    with zipfile.ZipFile(folder / "tasks.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _rearc(rng).items():
            archive.writestr(f"re_arc/tasks/{name}", content)


def _rearc(rng: Rng) -> dict[str, str]:
    return {f"{task.id}.json": json.dumps(_pairs(task)) for task in _source(rng, 2).tasks}


def _submission(folder: Path, rng: Rng) -> None:
    source = _source(rng, 3)
    write_kaggle(folder, source, "test", with_solutions=True)
    entries = {
        task.id: [{"attempt_1": grid.tolist(), "attempt_2": task.test[0].tolist()} for grid in source.solutions[task.id]]
        for task in source.tasks
    }
    (folder / "submission.json").write_text(json.dumps(entries))


def _results(folder: Path, rng: Rng) -> None:
    """A submission as ARC Prize's benchmarking writes it: a file a task, answers beside other facts."""
    _submission(folder, rng)
    (folder / "results").mkdir(exist_ok=True)
    for task, entries in json.loads((folder / "submission.json").read_bytes()).items():
        told = [{name: {"answer": grid, "cost": 0.1} for name, grid in entry.items()} for entry in entries]
        (folder / "results" / f"{task}.json").write_text(json.dumps(told))


def _read_submission(folder: Path) -> None:
    """Read it as Kaggle's check does and as the score does; refused where either refuses it."""
    path = folder / "submission.json"
    solutions = read_solutions(folder / SOLUTIONS)
    given = read_partial_submission(path)
    text = format_score(score_predictions(given, solutions), "fuzzed")
    assert text.splitlines()[0].isprintable(), text
    tasks = load_source(f"kaggle:{folder}", with_solutions=False).tasks
    if not list_problems(path, tasks):
        list_notes(path, tasks)


def _reader_of_puzzles(kind: KindName) -> Reader:
    name = f"{kind}.csv"
    return Reader(
        f"{kind} csv",
        lambda folder, rng: write_csv(folder / name, tiny_puzzles(kind, 4, int(rng.integers(1 << 30)))),
        (name,),
        lambda folder: load_puzzles(f"{kind}:{folder / name}", "test"),
        lambda folder: ["score", str(folder / name), "--source", f"{kind}:{folder / name}"],
        damages={name: lambda rng, data: mutate_lines(rng, data, ODD_ROWS)},
    )


def _predictions(folder: Path, rng: Rng) -> None:
    puzzles = tiny_puzzles("sudoku", 4, int(rng.integers(1 << 30)))
    write_csv(folder / "sudoku.csv", puzzles)
    texts = zip(puzzles.question_texts(), puzzles.answer_texts() or [], strict=True)
    (first, its_answer), *others = texts
    missing = PuzzlePrediction(first, None, None, its_answer)
    write_predictions(folder / "predictions.csv", [missing, *(PuzzlePrediction(q, a, 0.5, a) for q, a in others)])


def _settings(folder: Path, _: Rng) -> None:
    (folder / "kaggle.toml").unlink(missing_ok=True)
    write_settings(folder / "kaggle.toml")
    text = (folder / "kaggle.toml").read_text().replace('user = ""', 'user = "somebody"')
    (folder / "kaggle.toml").write_text(text.replace('competition = ""', 'competition = "arc-prize"'))


def _ready_folder(folder: Path, _: Rng) -> None:
    settings = KaggleSettings("somebody", "arc-prize")
    for part in ("notebook", "code"):
        (folder / part).mkdir(exist_ok=True)
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(settings).items()}
    (folder / "settings.json").write_text(json.dumps(values))
    metadata = {"id": settings.notebook, "title": settings.notebook_title, "code_file": "arc-trm.ipynb"}
    (folder / "notebook" / "kernel-metadata.json").write_text(json.dumps(metadata))
    (folder / "code" / "dataset-metadata.json").write_text(json.dumps({"id": "somebody/arc-trm-code", "title": "arc-trm-code"}))
    (folder / "pushed.json").write_text(json.dumps({"notebook": settings.notebook, "version": 3}))


def _read_ready_folder(folder: Path) -> None:
    read_ready_folder(folder)
    push(folder, dry_run=True)
    submit(folder, "fuzzed", None, dry_run=True)


def _identifiers(folder: Path, rng: Rng) -> None:
    names = ["<blank>", "b", "b|||t3|||0463582197", "a|||t1|||0123456798", "a", "b_t0_0213456789", "a_t6_0689137425"]
    (folder / "identifiers.json").write_text(json.dumps(names))


def _damage_flag(rng: Rng, data: bytes) -> bytes:
    text = data.decode()
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(text) + 1))
        text = text[:at] + str(pick(rng, FLAG_PIECES)) + text[at + int(rng.integers(0, 3)) :]
    return text.encode("utf-8", "surrogateescape")


def _read_flag(folder: Path) -> None:
    """Parse one text as every kind of option value; refused where all refuse it, each in one line."""
    text = (folder / "flag.txt").read_bytes().decode("utf-8", "surrogateescape")
    refusals = []
    for read in (lambda text: override(Config(), [text]), parse_duration, parse_transform, _as_source):
        try:
            read(text)
        except (InputError, FileNotFoundError) as error:
            assert str(error).isprintable(), f"{str(error)[:200]!r}"
            refusals.append(str(error))
    if len(refusals) == 4:
        raise InputError(f"{folder}: {max(refusals, key=len)}")


def _as_source(text: str) -> None:
    if text.startswith(("sudoku:gen", "maze:gen")):
        if len(text) < 100 and "count=1" in text and not any(part in text for part in ("side=9", "count=1" + "0")):
            return  # generating puzzles takes long
        raise InputError("not tried")
    load_source(text)


TEXT_READERS = (
    Reader(
        "challenges and solutions", _solvable, (CHALLENGES, SOLUTIONS),
        lambda folder: load_source(f"kaggle:{folder}"),
        lambda folder: ["audit", "--source", f"kaggle:{folder}"],
    ),
    Reader(
        "folder of tasks", _task_folder, ("tasks/one.json", "tasks/two.json"),
        lambda folder: load_source(f"json:{folder / 'tasks'}"),
        lambda folder: ["audit", "--source", f"json:{folder / 'tasks'}"],
    ),
    Reader(
        "task file", _task_folder, ("tasks/one.json",),
        lambda folder: load_source(f"json:{folder / 'tasks' / 'one.json'}"),
        lambda folder: ["show", "one", "--source", f"json:{folder / 'tasks' / 'one.json'}"],
    ),
    Reader(
        "lines of tasks", _task_lines, ("tasks.jsonl",),
        lambda folder: load_source(f"json:{folder / 'tasks.jsonl'}"),
        lambda folder: ["audit", "--source", f"json:{folder / 'tasks.jsonl'}"],
    ),
    Reader(
        "packed tasks", _packed_tasks, ("tasks/one.json.gz", "tasks/two.json.gz"),
        lambda folder: load_source(f"json:{folder / 'tasks'}"),
        lambda folder: ["audit", "--source", f"json:{folder / 'tasks'}"],
        damages=dict.fromkeys(("tasks/one.json.gz", "tasks/two.json.gz"), _mutate_packed),
    ),
    Reader(
        "folder of re-arc", _rearc_folder, ("tasks/tiny000.json",),
        lambda folder: load_source(f"rearc:{folder / 'tasks'}"),
        lambda folder: ["audit", "--source", f"rearc:{folder / 'tasks'}"],
    ),
    Reader(
        "zip of re-arc", _rearc_zip, ("tasks.zip",),
        lambda folder: load_source(f"rearc:{folder / 'tasks.zip'}"),
        lambda folder: ["audit", "--source", f"rearc:{folder / 'tasks.zip'}"],
        damages={"tasks.zip": mutate_zip}, slow=4,
    ),
    Reader(
        "solutions", _solvable, (SOLUTIONS,),
        lambda folder: read_solutions(folder / SOLUTIONS),
        lambda folder: ["score", str(folder / SOLUTIONS), "--solutions", str(folder / SOLUTIONS)],
    ),
    Reader(
        "submission", _submission, ("submission.json",), _read_submission,
        lambda folder: ["score", str(folder / "submission.json"), "--solutions", str(folder / SOLUTIONS), "--allow-missing"],
    ),
    Reader(
        "folder of results", _results, ("results/tiny000.json", "results/tiny001.json"),
        lambda folder: score_predictions(read_partial_submission(folder / "results"), read_solutions(folder / SOLUTIONS)),
        lambda folder: ["score", str(folder / "results"), "--solutions", str(folder / SOLUTIONS), "--allow-missing"],
    ),
    _reader_of_puzzles("sudoku"),
    _reader_of_puzzles("maze"),
    Reader(
        "predictions csv", _predictions, ("predictions.csv",),
        lambda folder: read_predictions(folder / "predictions.csv"),
        lambda folder: ["score", str(folder / "predictions.csv"), "--source", f"sudoku:{folder / 'sudoku.csv'}"],
        damages={"predictions.csv": lambda rng, data: mutate_lines(rng, data, ODD_ROWS)},
    ),
    Reader(
        "kaggle.toml", _settings, ("kaggle.toml",),
        lambda folder: json.dumps(make_notebook(read_settings(folder / "kaggle.toml"))).encode(),
        lambda folder: ["kaggle", "notebook", "--settings", str(folder / "kaggle.toml"), "--out", str(folder / "entry")],
        damages={"kaggle.toml": lambda rng, data: mutate_lines(rng, data, ODD_TOML)},
    ),
    Reader(
        "kaggle folder", _ready_folder, ("settings.json", "notebook/kernel-metadata.json", "pushed.json"), _read_ready_folder,
        lambda folder: ["kaggle", "push", str(folder), "--dry-run"],
    ),
    Reader(
        "identifiers", _identifiers, ("identifiers.json",),
        lambda folder: read_identifiers(folder / "identifiers.json", 7),
        lambda folder: [
            *("import-checkpoint", str(folder / "identifiers.json"), "--config", str(folder / "identifiers.json")),
            *("--identifiers", str(folder / "identifiers.json"), "--out", str(folder / "out")),
        ],
    ),
    Reader(
        "flags", lambda folder, rng: (folder / "flag.txt").write_text(str(pick(rng, FLAGS))), ("flag.txt",), _read_flag,
        lambda folder: ["audit", "--source", (folder / "flag.txt").read_text(errors="replace").replace("\0", "") or "x"],
        damages={"flag.txt": _damage_flag}, renew=20, places=False,
    ),
)  # fmt: skip
