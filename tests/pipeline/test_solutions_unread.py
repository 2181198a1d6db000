"""The outputs that a run is scored by are read for the audit before it and for the score after it, and never between."""

import sys
from pathlib import Path
from typing import Any

import torch

from pipeline.cli.main import main
from pipeline.data.dataset import load_dataset
from pipeline.data.sources import load_source
from pipeline.tensor_files import read_tensors
from submission.format import read_submission
from tests.pipeline.tiny import TINY, set_options, tiny_source, write_kaggle


def arguments_of(folder: Path) -> list[str]:
    settings = set_options((*TINY, "train.steps=4", "train.checkpoint_steps=2"))
    return ["run", "--source", f"kaggle:{folder}/kaggle:evaluation", "--preset", "demo", *settings, "--out", f"{folder}/run"]


def test_solutions_are_read_before_the_dataset_and_after_the_submission_stands_and_change_neither(tmp_path: Path) -> None:
    write_kaggle(tmp_path / "kaggle", tiny_source(3, 3, "eval"), "evaluation", with_solutions=True)
    events, running = [], [True]

    def record(event: str, values: tuple[Any, ...]) -> None:
        if not running:  # a hook stays for the whole process
            return
        if event == "open" and str(values[0]).endswith("_solutions.json"):
            events.append("solutions")
        elif event == "os.rename":
            events.append("/".join(str(values[1]).split("/")[-2:]))

    sys.addaudithook(record)
    assert main(arguments_of(tmp_path)) == 0
    running.clear()
    built = events.index("dataset/manifest.json")
    final = max(place for place, event in enumerate(events) if event.endswith("/submission.json"))
    assert built < final
    assert "solutions" in events[:built]
    assert "solutions" not in events[built : final + 1]
    assert "solutions" in events[final + 1 :]
    for made in ("checkpoints/step-00000004", "candidates/round-0001.safetensors", "run/votes.json"):
        assert built < events.index(made), made
    run, source = tmp_path / "run", f"kaggle:{tmp_path}/kaggle:evaluation"
    other = tmp_path / "other"
    write_kaggle(other / "kaggle", tiny_source(3, 3, "eval"), "evaluation", with_solutions=False)
    assert main(arguments_of(other)) == 0
    assert load_source(source).solutions
    assert not load_source(f"kaggle:{other}/kaggle:evaluation").solutions
    assert str(read_submission(other / "run" / "submission.json")) == str(read_submission(run / "submission.json"))
    assert load_dataset(other / "run" / "dataset").data_hash == load_dataset(run / "dataset").data_hash
    for name in ("round-0001.safetensors", "round-0002.safetensors"):
        found, same = (read_tensors(each / "candidates" / name)[0] for each in (run, other / "run"))
        assert all(torch.equal(found[key], same[key]) for key in found)
    assert not (other / "run" / "score.json").exists()
