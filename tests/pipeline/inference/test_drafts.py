"""Drafts are those of the predictions themselves, come back from their file by task, and a damaged file is named."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from augment.canvas import decode
from pipeline.inference.candidates import read_candidates
from pipeline.inference.drafts import Drafts, join_drafts, read_drafts, write_drafts
from tests.pipeline.inference.test_predictor import make_predictor, predict_all
from tests.pipeline.tiny import tiny_dataset

DRAFTS = Drafts(
    test=np.array([1, 0], np.int32),
    shape=np.array([[1, 2], [2, 3]], np.uint8),
    probability=np.array([[0.1, 0.2], [0.3, np.nan]], np.float32),
    tokens=np.array([[2, 3, 4, 5, 6, 7, 8, 9], [2, 3, 1, 1, 1, 0, 0, 0]], np.uint8),
)
ABOUT = '{"names": [["b", 1], ["a", 0]], "unit": "cycle"}'


@pytest.mark.parametrize(("settings", "unit", "count"), [((1, 3), "cycle", 3), ((2, 3), "segment", 2), ((1, 1), "cycle", 1)])
def test_the_last_draft_is_the_prediction_of_the_first_view(
    tmp_path: Path, settings: tuple[int, int], unit: str, count: int
) -> None:
    dataset = tiny_dataset()
    asked = (f"predict.segments={settings[0]}", f"model.H_cycles={settings[1]}")
    predict_all(make_predictor(tmp_path, dataset, *asked), tmp_path / "candidates")
    stored_unit, stored = read_drafts(tmp_path / "drafts.safetensors")
    candidates, _ = read_candidates(tmp_path / "candidates" / "round-0001.safetensors")
    assert stored_unit == unit
    assert len(stored) == len(dataset.test_task)
    for test, grid, probability in candidates.grids():
        drafts = stored[dataset.task_ids[dataset.test_task[test]], int(dataset.test_index[test])]
        assert len(drafts) == count
        tokens, said = drafts[-1]
        drawn = decode(tokens)
        assert (drawn is None) == (grid is None)
        assert drawn is None or np.array_equal(drawn, grid)
        assert said == pytest.approx(probability)


def test_drafts_come_back_by_task_and_are_always_the_same_bytes(tmp_path: Path) -> None:
    for number in range(8):
        write_drafts(tmp_path / str(number), DRAFTS, [("b", 1), ("a", 0)], "cycle")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    unit, stored = read_drafts(tmp_path / "0")
    assert unit == "cycle"
    (first, _), (second, probability) = stored["a", 0]
    assert first.tolist() == [[4, 5, 6], [7, 8, 9]]
    assert second.tolist() == [[1, 1, 1], [0, 0, 0]]
    assert np.isnan(probability)
    assert [tokens.tolist() for tokens, _ in stored["b", 1]] == [[[2, 3]], [[2, 3]]]


def test_parts_are_joined_in_order() -> None:
    joined = join_drafts([DRAFTS, DRAFTS])
    assert joined.test.tolist() == [1, 0, 1, 0]
    assert joined.tokens.shape == (2, 16)
    assert join_drafts([]) is None


@pytest.mark.parametrize(
    ("change", "about"),
    [
        ({"tokens": DRAFTS.tokens[:, :-1]}, ABOUT),
        ({"tokens": DRAFTS.tokens + np.uint8(9)}, ABOUT),
        ({"probability": DRAFTS.probability[:1]}, ABOUT),
        ({"test": DRAFTS.test.astype(np.int64)}, ABOUT),
        ({"shape": DRAFTS.shape[0]}, ABOUT),
        *(({}, about) for about in ("[", "{}", '{"names": [["a", 0]], "unit": "cycle"}', ABOUT.replace("cycle", "week"))),
    ],
)
def test_a_file_that_contradicts_itself_is_named(tmp_path: Path, change: dict[str, np.ndarray], about: str) -> None:
    arrays = {name: np.ascontiguousarray(array) for name, array in (vars(DRAFTS) | change).items()}
    (tmp_path / "x").write_bytes(safetensors.numpy.save(arrays, {"about": about}))
    with pytest.raises(ValueError, match=r"x: (damaged|not a file of drafts)" if change else "x: "):
        read_drafts(tmp_path / "x")
