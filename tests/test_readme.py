"""Every command in README.md, CONTRIBUTING.md and `--help` is valid and runs; links, records and tables are complete.

The first tests parse each command as written, with the real parser, presets, settings and public tasks. The last ones run all
from top to bottom in one folder, as a reader would, with long work made small: `shortened` lists how. Blocks marked `text`
show output and are skipped; blocks marked `python` are run too.
"""

import argparse
import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

import pipeline.bench.command
import pipeline.cli.kaggle
import pipeline.cli.show
import pipeline.data.sources
import pipeline.jobs.time_split
import pipeline.kaggle.rehearsal.simulate
import pipeline.run
from eval.report.screenshot import find_browser
from eval.score import score_predictions
from pipeline.cli.main import _parser, main
from pipeline.cli.options import add_selection
from pipeline.config import override, read_config
from pipeline.data.puzzles.sources import is_puzzle_source
from pipeline.data.same_ids import _rename
from pipeline.data.sources import PUBLIC_SOURCES, SPLITS, Selection, load_source
from pipeline.data.task_files import Reading, TasksAndSolutions
from pipeline.presets import PRESETS, preset
from pipeline.reports.benchmark_record import headline
from pipeline.reports.report import write_report
from submission.format import fallback_submission, read_submission, write_submission
from submission.settings import write_settings
from tests.pipeline.bench.test_bench_command import TINY as TINY_BENCH
from tests.pipeline.published.examples import Published
from tests.pipeline.tiny import TINY, set_options, tiny_source, write_kaggle

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md")
RECORDS = sorted(folder for folder in (ROOT / "records").iterdir() if folder.is_dir())
RECORD_PAGES = [str(page.relative_to(ROOT)) for page in sorted((ROOT / "records").rglob("README.md"))]
SUBMISSIONS = [path for folder in RECORDS for path in sorted(folder.glob("submission-*.json"))]
ELSEWHERE = (
    *("source .venv/bin/activate", "cd /kaggle/", "kaggle competitions submit "),
    *("make test", "make lint", "make torture"),
)
"""How commands begin that are not run here: shell, Kaggle's own client, and the targets that run these tests."""
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`((?:python -m pipeline|accelerate launch) [^`]+)`")
_TASK = re.compile(r"\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*[0-9])[0-9a-f]{8}\b")


def blocks(page: str, language: str) -> list[str]:
    return [body for named, body in _BLOCK.findall((ROOT / page).read_text()) if named == language]


def commands(page: str) -> list[str]:
    """The commands of a page in order, each on one line: first those of its blocks, then those inside sentences."""
    lines = []
    for body in blocks(page, ""):
        joined = body.replace("\\\n", " ")
        lines += [re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.splitlines()]
    inline = [text for text in _INLINE.findall((ROOT / page).read_text()) if "COMMAND" not in text]
    return [" ".join(line.split()) for line in [*lines, *inline] if line]


def of_make(command: str) -> list[str]:
    """The pipeline commands that `make TARGET ...` would run."""
    target = [*shlex.split(command)[1:], "VENV=.venv"]  # whatever `make test VENV=...` hands down
    dry = subprocess.run(["make", "-n", *target], cwd=ROOT, check=True, capture_output=True, text=True)
    lines = dry.stdout.replace("\\\n", " ").splitlines()
    recipe = [" ".join(line.split()).removeprefix(".venv/bin/") for line in lines]
    return [line for line in recipe if line.startswith("python -m pipeline ")]


def arguments_of(command: str) -> list[str]:
    """The arguments that a command gives to `main`."""
    match = re.fullmatch(r"(?:python|accelerate launch(?: --config_file \S+)?) -m pipeline (.*)", command)
    assert match, f"{command}: neither a pipeline command nor in ELSEWHERE; if it is correct, add how to run it to this test"
    return shlex.split(match[1])


def pipeline_commands(page: str) -> list[str]:
    """The commands of a page that start the pipeline, with make targets expanded."""
    found = []
    for command in commands(page):
        if not command.startswith(ELSEWHERE):
            found += of_make(command) if command.startswith("make ") else [command]
    return found


def examples() -> list[str]:
    """The examples of all `--help` texts in order: first steps, then command by command."""
    parser = _parser()
    subparsers = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    texts = {"": parser.epilog or ""} | {name: command.epilog or "" for name, command in subparsers.choices.items()}
    assert [name for name, text in texts.items() if f"python -m pipeline {name}" not in text] == []  # without an example
    return [line.strip() for text in texts.values() for line in text.splitlines() if line.startswith("  python -m pipeline ")]


def test_commands_are_found() -> None:
    names = {arguments_of(command)[0] for command in pipeline_commands("README.md")}
    assert names >= {"run", "build", "train", "predict", "vote", "score", "show", "compare", "debug", "import-checkpoint"}
    assert len(commands("CONTRIBUTING.md")) >= 4
    assert len(examples()) >= 13


@pytest.mark.parametrize(
    "command", sorted({*pipeline_commands("README.md"), *pipeline_commands("CONTRIBUTING.md"), *examples()})
)
def test_every_option_preset_setting_source_and_task_exists(command: str) -> None:
    arguments = vars(_parser().parse_args(arguments_of(command)))
    config = preset(arguments.get("preset") or "demo")
    override(config, arguments.get("set", []))
    specs = [*(arguments.get("source") or []), *arguments.get("train_source", [])]
    for spec in specs:
        if is_puzzle_source(spec):
            assert spec.endswith(".csv") or ":generated" in spec
        elif spec.startswith("kaggle:"):
            assert spec.endswith(tuple(f":{split}" for split in SPLITS))
        elif spec.startswith("json:"):
            assert spec in ("json:DIR", "json:CONCEPTARC.json")  # `workplace` has them
        else:
            assert spec in PUBLIC_SOURCES
    if arguments.get("task"):
        assert public_tasks()[arguments["task"]] in (specs or PUBLIC_SOURCES)


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {command.split()[1] for page in PAGES for command in commands(page) if command.startswith("make ")}
    assert named
    assert named <= targets


def test_the_table_of_commands_is_complete() -> None:
    table = (ROOT / "README.md").read_text().split("| command | what it does |")[1].split("\n\n")[0]
    subparsers = next(action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    firsts = "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`([\w-]+)`", firsts)) == set(subparsers.choices)


def test_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for name in {arguments_of(example)[0] for example in examples()}:
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])
        assert "example:" in capsys.readouterr().out


def test_presets_are_named_alike_everywhere() -> None:
    table = (ROOT / "README.md").read_text().split("## Results")[1].split("| recipe | read |")[0]
    named = re.findall(r"`([a-z0-9]+-[a-z0-9-]+)(?: --set ([^`]*))?`", table)
    assert {name for name, _ in named} == set(PRESETS) - {"demo", "demo-sudoku", "fast"}
    for name, settings in named:
        override(PRESETS[name], [each.strip() for each in settings.split("--set ")] if settings else [])


@pytest.mark.parametrize("page", [*PAGES, "BENCHMARKS.md", "docs/log.md", *RECORD_PAGES])
def test_files_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"
    for module in re.findall(r"\b(?:augment|eval|submission|pipeline|tests)/[\w/]+\.py\b", text):
        assert (ROOT / module).exists(), f"{page}: {module}"


@pytest.mark.parametrize("folder", RECORDS, ids=lambda folder: folder.name)
def test_a_record_has_the_median_of_three_seeds_or_says_that_it_has_not_and_a_config_that_can_be_read(folder: Path) -> None:
    result, page = json.loads((folder / "result.json").read_text()), (folder / "README.md").read_text()
    if len({run["seed"] for run in result["runs"]}) >= 3:
        for places, rules in result["median"].items():
            for rule, value in rules.items():
                assert value == median(run[places][rule] for run in result["runs"])
    else:
        assert "median" not in result
        assert "single seed" in page
    read_config(folder / "config.json")
    score = f"{headline(result)[1]:.1%}"
    track = folder.name[len("2026-11-24") :]
    newest = folder == max(other for other in RECORDS if other.name[len("2026-11-24") :] == track)
    for name in (*["README.md"] * newest, "BENCHMARKS.md", "records/README.md", f"records/{folder.name}/README.md"):
        assert score in (ROOT / name).read_text(), name


@pytest.mark.parametrize("path", SUBMISSIONS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_submission_of_a_record_has_the_score_that_the_record_gives(path: Path) -> None:
    result = json.loads((path.parent / "result.json").read_text())
    (run,) = [run for run in result["runs"] if path.stem == f"submission-{run['seed']}"]
    options = argparse.ArgumentParser()
    options.add_argument("--source", action="append")
    add_selection(options)
    told, _ = options.parse_known_args(shlex.split(result["command"]))
    _, sources = Selection(told.max_side, told.hold_out).load(told.source)
    solutions = {task: grids for source in sources for task, grids in source.solutions.items()}
    score = score_predictions(read_submission(path), solutions)
    for places in ("pass_at_2", "pass_at_1"):
        for rule, value in run[places].items():
            assert round(getattr(getattr(score, rule), places), 4) == value


def shortened(arguments: list[str], folder: Path) -> list[str]:
    """Make a command quick. All options stay except for these values:

    1. Files of /kaggle are in `folder`, which has a competition of four tasks.
    2. A source of puzzles has a handful of generated ones; two are used for training.
    3. `run`, `train`, `doctor` and `debug` train a tiny network for two steps: the smallest preset of its kind with the
       settings of the other tests, or that of given weights; `debug` gets one second.
    4. `build` draws three views of a task.
    5. `bench` gets --quick, and measures how datasets are built.
    6. `kaggle push` and `submit` are dry runs; `kaggle simulate` plays a notebook without data, which `workplace` replaces.
    """
    words = [word.replace("/kaggle/", f"{folder}/kaggle/") for word in arguments]
    words = [re.sub(r"^(sudoku|maze):([\w/]+\.csv|generated:.*)$", _generated, word) for word in words]
    puzzles = any(is_puzzle_source(word) for word in words)
    command, *rest = words
    values = {"--limit": "2", "--test-limit": "2", "--processes": "1", "--networks": "1"}
    if command in ("run", "train", "doctor"):
        values |= {"--preset": "demo-sudoku" if puzzles else "demo", "--time-limit": "5m"}
        own = ["predict.views=2", "train.pack_tokens=64"] if "start" in rest else [*TINY, "train.segments=2"]
        rest += set_options([*own, "train.steps=2", "train.packs=1"])
    if command == "debug":
        rest += ["--time-limit", "1s", *set_options((*TINY, "train.packs=1"))]
    if command == "build":
        rest += ["--augmentations", "3"]
    if command == "bench":
        rest += ["--quick"]
    if rest[:1] in (["push"], ["submit"]) and "--dry-run" not in rest:
        rest += ["--dry-run"]
    if rest[:1] == ["simulate"]:
        values |= {"--fault": "no-data", "--hidden-tasks": "3"}
        rest += [] if "--fault" in rest else ["--fault", "no-data"]
    return [command, *(values.get(before, word) for before, word in zip([command, *rest], rest, strict=False))]


def _generated(match: re.Match[str]) -> str:
    return f"{match[1]}:generated:side={4 if match[1] == 'sudoku' else 7},count=4"


@cache
def public_tasks() -> dict[str, str]:
    """Task id -> its public source, the first where there are several."""
    return {task.id: spec for spec in reversed(PUBLIC_SOURCES) for task in load_source(spec).tasks}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that a page expects; the public sources have three tasks and those that the pages name."""
    text = "".join((*((ROOT / page).read_text() for page in PAGES), *examples()))
    places = {task: public_tasks()[task] for task in sorted(set(_TASK.findall(text)))}
    fakes = {}
    for number, name in enumerate(PUBLIC_SOURCES):
        made = tiny_source(number, 3 + len(places), f"t{number}")
        named = (task for task, place in places.items() if place == name)
        fakes[name] = _rename(made, dict(zip((task.id for task in made.tasks), named, strict=False)))

    def load(spec: str, _: str, reading: Reading) -> TasksAndSolutions:
        return fakes[spec].tasks, fakes[spec].solutions if reading.with_solutions else {}

    def without_data(_: object, results: Path, __: bool) -> int:
        results.mkdir()
        (results / "notebook.log").write_text("There is nothing to solve")
        return 1

    for kind in ("arc1", "arc2"):
        monkeypatch.setitem(pipeline.data.sources._LOADERS, kind, load)
    monkeypatch.setattr(pipeline.kaggle.rehearsal.simulate, "run_notebook", without_data)
    monkeypatch.setattr(pipeline.run, "leave_report", lambda out, _: write_report(out))  # without a process of its own
    monkeypatch.setattr(pipeline.jobs.time_split, "MEASURE_SECONDS", 0.01)
    monkeypatch.setattr(pipeline.bench.command, "QUICK", TINY_BENCH)
    monkeypatch.setitem(pipeline.bench.command.STAGES, "train", pipeline.bench.command.STAGES["build"])
    monkeypatch.setattr(pipeline.cli.kaggle, "status", lambda *_: "complete")  # nothing was sent
    monkeypatch.chdir(tmp_path)
    competition = tmp_path / "kaggle" / "input" / "competitions" / "SLUG"
    write_kaggle(competition, tiny_source(5, 4, "hidden"), "test", with_solutions=False)
    write_kaggle(competition, tiny_source(6, 2, "known"), "training", with_solutions=True)
    write_kaggle(competition, tiny_source(7, 2, "public"), "evaluation", with_solutions=True)
    (tmp_path / "DIR").mkdir()
    tiny = tiny_source(8, 1, "own").tasks[0]
    pairs = [{"input": grid.tolist(), "output": grid.tolist()} for grid in tiny.test]
    (tmp_path / "DIR" / "own.json").write_text(json.dumps({"train": pairs, "test": pairs}))
    (tmp_path / "CONCEPTARC.json").write_text(json.dumps({"concept": {"train": pairs, "test": pairs}}))
    published = Published(tmp_path)
    published.checkpoint, published.identifiers = tmp_path / "step_723914", tmp_path / "identifiers.json"
    published.write()
    return tmp_path


def prepare(arguments: list[str], folder: Path) -> None:
    """Make what a command needs and no earlier command makes: copies of existing files under the names that it uses."""
    if "/kaggle/input/WEIGHTS" in arguments:
        shutil.copytree("runs/fast", folder / "kaggle" / "input" / "WEIGHTS")
    if arguments[:2] in (["kaggle", "notebook"], ["kaggle", "simulate"]):  # what the user fills in
        settings = Path("kaggle.toml")
        if not settings.exists():
            write_settings(settings)
        settings.write_text(settings.read_text().replace('user = ""', 'user = "you"').replace('ition = ""', 'ition = "arc-x"'))
    if arguments[:2] == ["kaggle", "submit"]:
        Path("kaggle-entry", "pushed.json").write_text('{"notebook": "you/arc-trm", "version": 1}')
    if arguments[:2] in (["kaggle", "push"], ["kaggle", "status"], ["kaggle", "submit"]):
        assert Path("kaggle-entry").is_dir()
    if arguments[:2] == ["kaggle", "check"]:
        tasks = load_source(write_kaggle(folder, tiny_source(5, 4, "hidden"), "test", with_solutions=False)).tasks
        write_submission(Path(arguments[2]), fallback_submission(tasks), tasks)
    if "--solutions" in arguments:  # of the submission that `kaggle check` has checked
        solutions = {name: [grid.tolist() for grid in grids] for name, grids in tiny_source(5, 4, "hidden").solutions.items()}
        Path(arguments[arguments.index("--solutions") + 1]).write_text(json.dumps(solutions))
    for word in arguments:
        path = Path(word)
        if arguments[0] == "vote" and word.startswith("runs/") and not path.exists():
            shutil.copytree("runs/fast-256", path)
        if word.startswith("runs/demo-") and "run" not in arguments and not path.exists():
            shutil.copytree("runs/first", path)
        if arguments[0] == "curve" and word == "runs/mixer-0":
            puzzles = "--source sudoku:a.csv --train-source sudoku:b.csv --preset demo-sudoku"
            run_it(f"python -m pipeline run {puzzles} --out runs/mixer-0", folder)
            shutil.copytree(path, "runs/attention-0")


def run_it(command: str, folder: Path) -> None:
    """Run a command and check that it succeeds, prints something and writes the files that it names."""
    arguments = arguments_of(command)
    prepare(arguments, folder)
    printed, failed = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(failed):
        code = main(shortened(arguments, folder))
    if arguments[0] == "report" and "--png" in arguments and find_browser() is None:
        assert (code, "apt install chromium" in failed.getvalue()) == (2, True)
        return
    assert code == 0, f"{command}: {failed.getvalue()}"
    files = ("--out", "--png", "--pool", "--json") if arguments[0] != "doctor" else ()  # it only looks at the place
    written = [word.replace("/kaggle/", f"{folder}/kaggle/") for option, word in pairwise(arguments) if option in files]
    assert printed.getvalue().strip() or written, f"{command} prints nothing"
    for path in written:
        assert Path(path).exists(), f"{command}: no {path}"


def test_the_pages_run_from_top_to_bottom(workplace: Path) -> None:
    for command in (*pipeline_commands("README.md"), *pipeline_commands("CONTRIBUTING.md")):
        run_it(command, workplace)
    for block in blocks("README.md", "python"):
        *statements, last = block.strip().splitlines()
        names: dict[str, object] = {}
        exec("\n".join(statements), names)
        assert eval(last, names)._repr_png_().startswith(b"\x89PNG")


def test_examples_of_help_run_in_their_order(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.cli.show, "draw_page", lambda _, __, path, *___: path.write_bytes(b"as README's was drawn"))
    (workplace / "pictures").mkdir()
    for number, command in enumerate(examples()):
        if number > 2 and " run " in command:
            shutil.rmtree("runs/first")  # the example of run makes it again
        run_it(command, workplace)
