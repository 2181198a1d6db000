"""The ready folder of a Kaggle entry: a generated notebook with its metadata, and the project's source as a dataset.

    DIR/notebook/       SLUG.ipynb, kernel-metadata.json
    DIR/code/           pipeline/ augment/ eval/ submission/, weights/ and wheels/ if there are any, dataset-metadata.json
    DIR/settings.json   the settings that it was made from; weights are named as they lie in code/

`submission.client` sends it. Everything that runs on Kaggle starts from the notebook's third cell.
"""

import importlib.metadata
import json
import logging
import pprint
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from augment.errors import InputError
from eval.files import read_object, write_json
from eval.formatting import show_path
from submission.secret import refuse_tokens
from submission.settings import ACCELERATORS, KaggleSettings, parse_settings

logger = logging.getLogger(__name__)

PACKAGES = ("augment", "eval", "submission", "pipeline")
BESIDE = ("LICENSE", "requirements.txt", "README.md")
INSTALLED = "arc-trm-pipeline"
"""What the program is called where it is installed."""
LEFT_OUT = ("bench", "rehearsal", "pictures", "__pycache__")
"""Folders of the packages that nothing on Kaggle needs."""
SUFFIXES = (".py", ".css", ".js", ".html")
WEIGHTS_IN_CODE = "weights/weights.safetensors"
"""Where the code dataset has the weights that go with it."""
OWN_NAMES = ("notebook", "code", "settings.json", "pushed.json")
"""All that is at the top of a ready folder."""
_MARKDOWN = """\
# {title}

From the competition's tasks to `submission.json` with a tiny recursive network, trained in this notebook. Committed, it solves
and scores a few public evaluation tasks; rerun by Kaggle, it solves the hidden ones. A complete `submission.json` is there from
the first minute on. The source is the dataset `{code}`; this notebook was generated from its settings."""
_CLOCK = """\
import time

STARTED = time.monotonic()  # the time limit counts from here
SETTINGS = {settings}"""

_SOLVE = """\
import os
import sys
from pathlib import Path

inputs = Path(os.environ.get("ARC_KAGGLE_ROOT", "/kaggle")) / "input"
name = SETTINGS["code_dataset"]
found = [main.parents[1] for depth in range(1, 6) for main in sorted(inputs.glob("*/" * depth + "pipeline/__main__.py"))]
found.sort(key=lambda folder: name not in folder.parts)  # should there be several, that of the settings
if not found:
    raise SystemExit(f"There is no source under {inputs}: add the dataset {SETTINGS['user']}/{name} to this notebook.")
sys.path.insert(0, str(found[0]))

from pipeline.kaggle.kernel import solve
from submission.settings import parse_settings

outcome = solve(parse_settings(SETTINGS), STARTED)"""


def write_ready_folder(
    out: Path, settings: KaggleSettings, project: Path, weights: Path | None = None, wheels: Path | None = None
) -> None:
    """Write the folder `out` in one step; one of an earlier call is replaced.

    `project` is the folder that holds the packages, `weights` a weights file, `wheels` a folder of *.whl. Raises InputError for
    other things in their place, where `out` is another folder, and for any file that holds a Kaggle token.
    """
    settings = replace(settings, weights=WEIGHTS_IN_CODE if weights else "")  # where they are there, not here
    out = out.resolve()  # a link stays, and what it points to is replaced
    _refuse_to_replace(out)
    if weights is not None and not weights.is_file():
        raise InputError(f"{weights}: expected a weights file, such as checkpoints/step-00001000/weights.safetensors of a run")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        made = Path(temporary) / "made"
        _write_code(made / "code", settings, project, weights, wheels)
        _write_notebook(made / "notebook", settings)
        write_json(made / "settings.json", asdict(settings))
        for path in sorted(made.rglob("*")):
            if path.is_file():
                refuse_tokens(path, str(path.relative_to(made)))
        if out.exists():
            out.rename(Path(temporary) / "earlier")
        made.rename(out)


def _refuse_to_replace(out: Path) -> None:
    """Raise InputError where anything but an earlier ready folder would be lost."""
    if out == Path.cwd().resolve():
        raise InputError(f"{out} is the folder that you are in; name another one, such as kaggle-entry")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        read_ready_folder(out)
    except (InputError, FileNotFoundError):
        raise InputError(f"{out} is there already and is no folder of this command; choose another one") from None
    foreign = sorted(path.name for path in out.iterdir() if path.name not in OWN_NAMES)
    if foreign:
        raise InputError(f"{out} holds {foreign[0]}, which is not of this command; move it away, or choose another folder")


def read_ready_folder(folder: Path) -> KaggleSettings:
    """Return the settings of a ready folder. Raises FileNotFoundError or InputError for another folder."""
    path = folder / "settings.json"
    if not (path.is_file() and (folder / "notebook").is_dir() and (folder / "code").is_dir()):
        raise FileNotFoundError(f"{folder}: not a ready folder; `python -m pipeline kaggle notebook --out {folder}` makes one")
    return parse_settings(read_object(path), show_path(path))


def make_notebook(settings: KaggleSettings) -> dict[str, object]:
    """Return the notebook (nbformat 4.5) of `settings`."""
    values = json.loads(json.dumps(asdict(settings)))  # tuples become lists, as `parse_settings` expects them
    what = _MARKDOWN.format(title=settings.notebook_title, code=f"{settings.user}/{settings.code_dataset}")
    sources = {
        "settings": _CLOCK.format(settings=pprint.pformat(values, sort_dicts=False, width=100)),
        "solve": _SOLVE,
        "show": "outcome.show()",
    }
    code: dict[str, Any] = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
    cells: list[dict[str, Any]] = [{"cell_type": "markdown", "id": "what", "metadata": {}, "source": what}]
    cells += [code | {"id": name, "source": source} for name, source in sources.items()]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _write_notebook(folder: Path, settings: KaggleSettings) -> None:
    folder.mkdir(parents=True)
    name = f"{settings.notebook_slug}.ipynb"
    write_json(folder / name, make_notebook(settings))
    metadata: dict[str, object] = {
        "id": settings.notebook,
        "title": settings.notebook_title,
        "code_file": name,
        "language": "python",
        "kernel_type": "notebook",
        "is_private": settings.private,
        "enable_gpu": settings.accelerator != "none",
        "enable_tpu": False,
        "enable_internet": False,
        "dataset_sources": settings.datasets,
        "competition_sources": [settings.competition],
        "kernel_sources": [],
        "model_sources": [],
    }
    if settings.accelerator != "none":
        metadata["machine_shape"] = settings.accelerator
    if settings.accelerator not in ACCELERATORS:
        logger.warning("accelerator = %s: not known here; Kaggle gets the name as it is", settings.accelerator)
    if settings.docker_image:
        metadata |= {"docker_image": settings.docker_image, "docker_image_pinning_type": "original"}
    write_json(folder / "kernel-metadata.json", metadata)


def _beside(project: Path) -> list[Path]:
    """Return what goes with the packages of `project`; where they are installed, other packages' files lie beside them."""
    if project.name in ("site-packages", "dist-packages"):
        return [Path(str(file.locate())) for file in importlib.metadata.files(INSTALLED) or () if file.name == "LICENSE"]
    return [project / name for name in BESIDE if (project / name).is_file()]


def _write_code(folder: Path, settings: KaggleSettings, project: Path, weights: Path | None, wheels: Path | None) -> None:
    missing = [name for name in PACKAGES if not (project / name / "__init__.py").is_file()]
    if missing:
        raise InputError(f"{project}: holds no package {missing[0]}, so it is not this project's folder")
    for path in _sources(project):
        _copy(project / path, folder / path)
    for path in _beside(project):
        _copy(path, folder / path.name)
    if weights is not None:
        _copy(weights, folder / WEIGHTS_IN_CODE)
    if wheels is not None:
        found = sorted(wheels.glob("*.whl")) if wheels.is_dir() else []
        if not found:
            raise InputError(f"{wheels}: holds no wheels (*.whl)")
        for path in found:
            _copy(path, folder / "wheels" / path.name)
    identity = f"{settings.user}/{settings.code_dataset}"
    licenses = [{"name": "other"}]  # Kaggle's list has no MIT-0; LICENSE is in the dataset
    metadata = {"id": identity, "title": settings.code_dataset, "licenses": licenses}
    write_json(folder / "dataset-metadata.json", metadata)


def _sources(project: Path) -> Iterator[Path]:
    """Yield the files of the packages in `project` that go to Kaggle, relative to it."""
    for package in PACKAGES:
        for path in sorted((project / package).rglob("*")):
            relative = path.relative_to(project)
            left_out = any(part in LEFT_OUT or part.startswith(".") for part in relative.parts)
            if path.is_file() and path.suffix in SUFFIXES and not left_out:
                yield relative


def changed_since(folder: Path, project: Path) -> list[Path]:
    """Return which files of the packages are not the same, or in only one of a ready `folder` and `project`."""
    roots = folder / "code", project
    both = sorted({path for root in roots for path in _sources(root)})
    made, now = ([root / path for path in both] for root in roots)
    return [
        path
        for path, old, new in zip(both, made, now, strict=True)
        if not (old.is_file() and new.is_file()) or old.read_bytes() != new.read_bytes()
    ]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
