"""Whatever a run directory holds is shown as text in its report: read by `html.parser`, as a browser reads it."""

import json
from pathlib import Path

import numpy as np
import pytest

from augment.task import Pair, Task
from pipeline.cli.main import main
from pipeline.data.sources import Source, load_source
from tests.eval.report.examples import Reader
from tests.pipeline.tiny import write_kaggle
from tests.pipeline.tinyrun import write_run

MARKUP = (
    "</script></title><body onload=alert(1)><!--",
    '"><img src=x onerror=alert(2)>&lt;svg/onload=alert(3)&gt;',
    "'\"` onmouseover=alert(4) x=",
)
PLAIN = "nothing special"


def make_report(folder: Path, words: str) -> str:
    """Return the report of a run in which every text that can be chosen is `words`."""
    grid = np.array([[1, 2]], np.uint8)
    tasks = tuple(Task(f"{words}{number}", (Pair(grid, grid),), (grid,)) for number in range(2))
    data = folder / f"data {words.replace('/', '-')}"
    spec = write_kaggle(data, Source("made", tasks, {task.id: (grid,) for task in tasks}), "evaluation", with_solutions=True)
    run = folder / f"run {words.replace('/', '-')}"
    run.mkdir()
    write_run(run, load_source(spec), [(0, grid, 0.5), (1, grid.T.copy(), 0.5)])
    votes = json.loads((run / "votes.json").read_bytes())
    (run / "votes.json").write_text(json.dumps(votes | {"sources": [words], "audit": None}))
    record = {"sources": [spec], "train_sources": [words], "preset": words, "settings": [words], "time_limit": words}
    record |= {"weights": words, "started": words, "device": words, "seconds": {words: 3.0, "train": 1.0}}
    (run / "run.json").write_text(json.dumps(record))
    names = ("kind", "layers", "hidden_size", "mixing", "segments")
    (run / "config.json").write_text(json.dumps({part: dict.fromkeys(names, words) for part in ("model", "memory", "predict")}))
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "seconds": 1.0, "loss": 2.0, words: words}) + "\n")
    manifest = json.loads((run / "dataset" / "manifest.json").read_bytes())
    manifest |= {"data_hash": words, "audit": {"leaks": [words], "leakage": words, "tests_checked": 1, "tests_unchecked": 0}}
    (run / "dataset" / "manifest.json").write_text(json.dumps(manifest))
    (run / "drafts.safetensors").write_bytes(words.encode())
    assert main(["report", str(run)]) == 0
    return (run / "report.html").read_text()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """The report of a run without markup in its words."""
    page = Reader(make_report(tmp_path_factory.mktemp("plain"), PLAIN))
    assert page.text.count(PLAIN) >= 12
    assert {"h1", "dl", "script", "svg", "table"} <= set(page.tags)
    return page


@pytest.mark.parametrize("words", MARKUP)
def test_markup_in_a_run_directory_is_text_in_its_report(words: str, plain: Reader, tmp_path: Path) -> None:
    page = Reader(make_report(tmp_path, words))
    assert page.tags == plain.tags, "the same elements, whatever the words are"
    assert page.attributes == plain.attributes
    assert not any(name.startswith("on") for name in page.attributes)
    assert page.comments == plain.comments == 0
    assert page.text.count(words) >= 12, "and they are all there to be read"
