"""A ready folder holds what Kaggle needs and nothing else, appears whole, and its notebook finds the source wherever it is."""

import ast
import json
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from submission.notebook import make_notebook, read_ready_folder, write_ready_folder
from submission.settings import KaggleSettings
from tests.pipeline.tiny import refusal

SETTINGS = KaggleSettings(user="alice", competition="some-competition", overrides=("train.seed=1",))
PROJECT = Path(__file__).parents[2]
TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def project(tmp_path):
    """Return a small project of the same layout, with files that must stay at home."""
    folder = tmp_path / "project"
    for package in ("augment", "eval", "submission", "pipeline"):
        (folder / package / "__pycache__").mkdir(parents=True)
        (folder / package / "__init__.py").write_text("")
        (folder / package / "__pycache__" / "x.py").write_text("")
    for name in ("pipeline/__main__.py", "pipeline/data.json", "pipeline/.hidden.py", "LICENSE", ".env", "kaggle.toml"):
        (folder / name).write_text(name)
    for name in ("tests/test_x.py", "pipeline/rehearsal/x.py"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("")
    return folder


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def code_cells(settings=SETTINGS):
    return [cell["source"] for cell in make_notebook(settings)["cells"] if cell["cell_type"] == "code"]


def test_only_what_runs_on_kaggle_is_in_the_folder(tmp_path, project):
    write_ready_folder(tmp_path / "entry", SETTINGS, project)
    dataset = json.loads((tmp_path / "entry/code/dataset-metadata.json").read_text())
    assert dataset == {"id": "alice/arc-trm-code", "title": "arc-trm-code", "licenses": [{"name": "other"}]}
    packages = {f"code/{name}/__init__.py" for name in ("augment", "eval", "submission", "pipeline")}
    assert set(files(tmp_path / "entry")) == packages | {
        *("settings.json", "notebook/arc-trm.ipynb", "notebook/kernel-metadata.json"),
        *("code/pipeline/__main__.py", "code/LICENSE", "code/dataset-metadata.json"),
    }
    assert names(tmp_path) == ["entry", "home", "project"]
    assert read_ready_folder(tmp_path / "entry") == SETTINGS


def test_weights_and_wheels_are_copied(tmp_path, project):
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    (tmp_path / "x.whl").write_bytes(b"wheel")
    write_ready_folder(tmp_path / "entry", SETTINGS, project, tmp_path / "w.safetensors", tmp_path)
    assert (tmp_path / "entry/code/weights/weights.safetensors").read_bytes() == b"weights"
    assert (tmp_path / "entry/code/wheels/x.whl").read_bytes() == b"wheel"


def test_the_project_itself_can_be_made_ready_and_holds_what_the_notebook_imports(tmp_path):
    write_ready_folder(tmp_path / "entry", SETTINGS, PROJECT)
    found = files(tmp_path / "entry/code")
    assert not [name for name in found if name.endswith(".safetensors")]  # those that come with the program stay here
    wanted = {"pipeline/kaggle/kernel.py", "submission/settings.py", "augment/grid.py", "LICENSE", "requirements.txt"}
    assert wanted <= found.keys()
    assert not [name for name in found if "rehearsal" in name or "test" in name or name.endswith((".png", ".pyc"))]


def test_the_metadata_of_the_notebook_are_what_the_client_reads(tmp_path, project):
    further = ("rearc:bob/made@0.5", "json:bob/weights/tasks.json")
    settings = replace(SETTINGS, weights_dataset="bob/weights", train_datasets=further, docker_image="image@sha256:1")
    write_ready_folder(tmp_path / "entry", settings, project)
    assert json.loads((tmp_path / "entry/notebook/kernel-metadata.json").read_text()) == {
        "id": "alice/arc-trm",
        "title": "ARC TRM",
        "code_file": "arc-trm.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": True,
        "enable_tpu": False,
        "enable_internet": False,
        "dataset_sources": ["alice/arc-trm-code", "bob/weights", "bob/made"],
        "competition_sources": ["some-competition"],
        "kernel_sources": [],
        "model_sources": [],
        "machine_shape": "NvidiaL4",
        "docker_image": "image@sha256:1",
        "docker_image_pinning_type": "original",
    }
    write_ready_folder(tmp_path / "entry", replace(SETTINGS, accelerator="none"), project)
    found = json.loads((tmp_path / "entry/notebook/kernel-metadata.json").read_text())
    assert found["enable_gpu"] is False and found["dataset_sources"] == ["alice/arc-trm-code"]
    assert not {"machine_shape", "docker_image", "docker_image_pinning_type"} & set(found)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("train_datasets", (("re-arc:bob/made",), ("rearc:made",), ("rearc:bob/made@0",), ("rearc:bob/made@.5",))),
        ("train_datasets", (("json:bob/made@0.0",), ("json:bob/made@1.2.3",), ("json:bob/ma_de",))),
        ("test_weight", (0.0, 1e-5, 1e6, float("nan"))),
    ],
)
def test_tasks_that_no_run_could_read_and_weights_beyond_reason_are_refused(name, values):
    for value in values:
        with pytest.raises(ValueError, match=f"^{name} = .*: expected "):
            replace(SETTINGS, **{name: value})


def test_of_an_installed_program_only_its_own_license_goes_with_it(tmp_path, project, monkeypatch):
    installed = project.rename(tmp_path / "site-packages")
    (installed / "README.md").write_text("of another package")
    about = installed / "arc_trm_pipeline-1.dist-info"
    (about / "licenses").mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.4\nName: arc-trm-pipeline\nVersion: 1\n")
    (about / "RECORD").write_text(f"{about.name}/licenses/LICENSE,,\npipeline/__init__.py,,\n")
    (about / "licenses" / "LICENSE").write_text("MIT-0")
    monkeypatch.syspath_prepend(installed)
    write_ready_folder(tmp_path / "entry", SETTINGS, installed)
    assert (tmp_path / "entry/code/LICENSE").read_text() == "MIT-0"
    assert not (tmp_path / "entry/code/README.md").exists()


def test_a_folder_of_an_earlier_call_is_replaced_and_has_not_been_pushed(tmp_path, project):
    write_ready_folder(tmp_path / "entry", SETTINGS, project)
    (tmp_path / "entry/pushed.json").write_text("{}")
    write_ready_folder(tmp_path / "entry", replace(SETTINGS, notebook_title="Other title"), project)
    assert (tmp_path / "entry/notebook/other-title.ipynb").is_file()
    assert names(tmp_path / "entry") == ["code", "notebook", "settings.json"]


@pytest.mark.parametrize("ready", [False, True])
def test_a_file_of_the_user_is_not_deleted(tmp_path, project, ready):
    mine = tmp_path / "mine"
    if ready:
        write_ready_folder(mine, SETTINGS, project)
    else:  # another folder with the same names in it
        (mine / "notebook").mkdir(parents=True)
        (mine / "code").mkdir()
        (mine / "settings.json").write_text('{"editor": 1}')
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"mine holds thesis\.txt" if ready else "mine is there already"):
        write_ready_folder(mine, SETTINGS, project)
    assert (mine / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("bad", ["out is a file", "out is the folder one is in", "no weights", "no wheels", "no project"])
def test_bad_input_is_a_value_error_of_one_line_and_leaves_nothing(tmp_path, project, monkeypatch, bad):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = names(tmp_path)
    out = {"out is a file": tmp_path / "file", "out is the folder one is in": Path()}.get(bad, tmp_path / "entry")
    weights = tmp_path if bad == "no weights" else None
    wheels = tmp_path if bad == "no wheels" else None
    source = tmp_path / "here" if bad == "no project" else project
    refusal(lambda: write_ready_folder(out, SETTINGS, source, weights, wheels))
    assert names(tmp_path) == before and names(tmp_path / "here") == []


def test_a_project_that_holds_the_token_is_refused(tmp_path, project, monkeypatch):
    monkeypatch.setenv("KAGGLE_KEY", TOKEN)
    (project / "pipeline/config.py").write_text(f"KEY = '{TOKEN}'")
    before = names(tmp_path)
    with pytest.raises(ValueError, match=r"code/pipeline/config\.py") as caught:
        write_ready_folder(tmp_path / "entry", SETTINGS, project)
    assert TOKEN not in str(caught.value)
    assert names(tmp_path) == before


def test_the_notebook_is_valid_begins_with_clock_and_settings_and_imports_only_this_project():
    nbformat.validate(nbformat.from_dict(make_notebook(SETTINGS)))
    trees = [ast.parse(source) for source in code_cells()]
    assert [ast.unparse(statement) for statement in trees[0].body[:2]] == ["import time", "STARTED = time.monotonic()"]
    assert ast.unparse(trees[2]) == "outcome.show()"
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert names == {"time", "os", "sys", "pathlib", "pipeline.kaggle.kernel", "submission.settings"}
    image = "quo'te \" {title} \\ back"
    assigned = ast.parse(code_cells(replace(SETTINGS, docker_image=image))[0]).body[2]
    values = ast.literal_eval(assigned.value)
    assert values["docker_image"] == image and values["overrides"] == ["train.seed=1"]


def fake_source(folder, name):
    for package in ("pipeline/kaggle", "submission"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text("")
    (folder / "pipeline/__init__.py").write_text("")
    (folder / "pipeline/__main__.py").write_text("")
    (folder / "submission/settings.py").write_text("def parse_settings(values): return values['user']\n")
    (folder / "pipeline/kaggle/kernel.py").write_text(f"""\
class Outcome:
    def show(self): print('shown')
def solve(user, started):
    print(user, started > 0, {name!r})
    return Outcome()
""")


def executed(root, monkeypatch):
    """Return the notebook after it ran with `root` as /kaggle, and whether it failed."""
    monkeypatch.setenv("ARC_KAGGLE_ROOT", str(root))
    notebook = nbformat.from_dict(make_notebook(SETTINGS))
    try:
        NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    except CellExecutionError:
        return notebook, True
    return notebook, False


def test_the_notebook_finds_its_own_source_under_both_layouts(tmp_path, monkeypatch):
    fake_source(tmp_path / "old/input/arc-trm-code", "old")
    fake_source(tmp_path / "new/input/another-code", "another")
    fake_source(tmp_path / "new/input/datasets/alice/arc-trm-code", "new")
    for layout in ("old", "new"):
        notebook, failed = executed(tmp_path / layout, monkeypatch)
        assert not failed
        assert notebook.cells[2].outputs[0].text == f"alice True {layout}\n"
        assert notebook.cells[3].outputs[0].text == "shown\n"


def test_without_source_the_notebook_stops_with_one_line_that_names_the_dataset(tmp_path, monkeypatch):
    (tmp_path / "input").mkdir()
    notebook, failed = executed(tmp_path, monkeypatch)
    assert failed
    errors = [output for output in notebook.cells[2].outputs if output.output_type == "error"]
    assert [error.ename for error in errors] == ["SystemExit"]
    assert "alice/arc-trm-code" in errors[0].evalue and "\n" not in errors[0].evalue
    assert len("\n".join(errors[0].traceback).splitlines()) <= 4
    assert notebook.cells[3].outputs == []
