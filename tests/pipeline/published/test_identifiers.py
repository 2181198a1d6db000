"""Published identifiers: which row is which view, and what is refused."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from augment.transform import Transform, transform_from_int, transform_to_int
from pipeline.published.identifiers import BLANK, PublishedViews, read_identifiers
from tests.pipeline.published.examples import NAMES, VIEWS
from tests.pipeline.tiny import refusal

GOLDEN = Path(__file__).parents[2] / "golden" / "arc_transforms.json"
FIRST, TURNED = "0.123456789", "2.123456789"
CODES = [code for _, code, _ in VIEWS]


def write(folder: Path, document: object) -> Path:
    path = folder / "identifiers.json"
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    return path


def read(folder: Path, names: list[str]) -> PublishedViews:
    return read_identifiers(write(folder, names), len(names))


def test_a_name_means_what_the_published_augmentation_does(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())["augment"]
    assert len(golden) > 3
    views = read(tmp_path, [BLANK, *(example["name"] for example in golden)])
    for example, task_id, transform in zip(golden, views.task_ids, views.transforms, strict=True):
        assert example["name"].startswith(f"{task_id}|||")
        grid = np.array(example["grid"], dtype=np.uint8)
        assert transform_from_int(int(transform)).apply(grid).tolist() == example["augmented"]


@pytest.mark.parametrize(
    ("names", "task_ids", "transforms", "rows"),
    [
        (NAMES, ("a", "b"), CODES, [4, 3, 6, 1, 2, 5]),
        ([name.replace("|||", "_") for name in NAMES], ("a", "b"), CODES, [4, 3, 6, 1, 2, 5]),
        ([BLANK, "move_to_3_t2_0123456789", "a_t_1", "z"], ("a_t_1", "move_to_3", "z"), [FIRST, TURNED, FIRST], [2, 1, 3]),
        ([BLANK, BLANK, "a", BLANK, "a|||t2|||0123456789"], ("a",), [FIRST, TURNED], [2, 4]),
        ([BLANK], ("puzzle",), [FIRST], [0]),
    ],
    ids=["as TRM writes them", "as HRM writes them", "task names with separators", "several blank rows", "a blank row only"],
)
def test_names_of_every_form_are_read_by_task_with_the_identity_first_and_the_others_as_they_came(
    tmp_path: Path, names: list[str], task_ids: tuple[str, ...], transforms: list[str], rows: list[int]
) -> None:
    views = read(tmp_path, names)
    assert (views.task_ids, views.rows.tolist()) == (task_ids, rows)
    assert views.transforms.tolist() == [transform_to_int(Transform.parse(text)) for text in transforms]
    assert views.transform_start[-1] == len(rows)
    assert (views.transforms.dtype, views.transform_start.dtype, views.rows.dtype) == (np.uint32, np.int64, np.int64)


def test_every_view_keeps_its_row(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colors = [(0, *rng.permutation(np.arange(1, 10)).tolist()) for _ in range(20)] + [tuple(range(10))]
    drawn = rng.permutation(list(itertools.product(range(3), range(8), range(len(colors)))))[:300].tolist()
    wanted = [(("x", "y_1", "é")[task], Transform(dihedral, colors[i])) for task, dihedral, i in drawn]
    names = [f"{task}|||t{view.dihedral}|||{''.join(map(str, view.colors))}" for task, view in wanted]
    views = read(tmp_path, [BLANK, *names, "last"])
    tasks = np.repeat(views.task_ids, np.diff(views.transform_start)).tolist()
    found = {row: (task, transform_from_int(int(c))) for row, task, c in zip(views.rows, tasks, views.transforms, strict=True)}
    assert found == dict(enumerate([*wanted, ("last", Transform.parse(FIRST))], 1))


@pytest.mark.parametrize(
    ("document", "rows", "reason"),
    [
        (b'["<blank>"', 1, "identifiers: "),
        ({BLANK: 0}, 1, "expected a list of names, got an object"),
        ([BLANK, 3], 2, "identifier 1 is a number, expected a name"),
        ([BLANK, ""], 2, "identifier 1 is empty"),
        ([BLANK, "a"], 3, "2 identifiers, expected 3, one for each row"),
        (["a", BLANK], 2, "identifier 0 is a, expected <blank>"),
        ([BLANK, BLANK], 2, "all 2 identifiers are <blank>"),
        ([BLANK, "a|||t8|||0123456789"], 2, "'a|||t8|||0123456789' is no view"),
        ([BLANK, "a|||t1|||0123456788"], 2, "'a|||t1|||0123456788' is no view"),
        ([BLANK, "a_t1_-4321"], 2, "a_t1_-4321 is neither a task nor a view"),
        ([BLANK, "a|||t1|||0123456789|||t1|||0123456789"], 2, "'a|||t1|||0123456789' is neither a task nor a view"),
        ([BLANK, "a|||t1|||٠١٢٣٤٥٦٧٨٩"], 2, "is neither a task nor a view"),
        ([BLANK, "a", "b", "a|||t0|||0123456789"], 4, "identifiers 1 and 3, a and 'a|||t0|||0123456789', are the same view"),
    ],
)
def test_other_identifiers_are_refused_in_one_line(tmp_path: Path, document: object, rows: int, reason: str) -> None:
    path = write(tmp_path, document)
    message = refusal(lambda: read_identifiers(path, rows))
    assert message.startswith(f"{path}: ") and reason in message
