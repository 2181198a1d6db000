"""Layouts: where every token of a pack lies, against a plain loop."""

import numpy as np
import pytest
import torch

from pipeline.models import layout as layout_module
from pipeline.models.layout import Group, make_layout


def neighbors(rng: np.random.Generator, kinds: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Shapes (B, 2), equal ones side by side, and random offsets (B, 2)."""
    drawn = {tuple(rng.integers(1, 6, size=2).tolist()) for _ in range(kinds)}
    shapes = [shape for shape in sorted(drawn) for _ in range(rng.integers(1, 4))]
    return torch.tensor(shapes), torch.from_numpy(rng.integers(0, 20, size=(len(shapes), 2)))


@pytest.mark.parametrize("memory_tokens", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_every_token_has_its_sequence_row_and_column(seed: int, memory_tokens: int) -> None:
    shapes, offsets = neighbors(np.random.default_rng(seed))
    layout = make_layout(shapes, offsets, memory_tokens)
    expected: list[tuple[int, int, int]] = []
    first, cells = [], []
    for i, ((height, width), (down, right)) in enumerate(zip(shapes.tolist(), offsets.tolist(), strict=True)):
        first.append(len(expected))
        expected += [(i, -1, -1)] * memory_tokens
        for row in range(height):
            for column in range(width):
                cells.append(len(expected))
                expected.append((i, row + down, column + right))
    assert list(zip(layout.sequence.tolist(), layout.row.tolist(), layout.column.tolist(), strict=True)) == expected
    assert layout.first.tolist() == first
    assert layout.bounds.tolist() == [*first, len(expected)]
    assert layout.longest == memory_tokens + shapes.prod(dim=1).max()
    assert layout.memory.tolist() == [token for token in range(len(expected)) if token not in cells]
    assert layout.cells.tolist() == cells
    assert (layout.tokens, layout.sequences) == (len(expected), len(shapes))


def test_groups_are_runs_of_equal_shapes() -> None:
    shapes = torch.tensor([[2, 3], [2, 3], [3, 2], [1, 6]])
    layout = make_layout(shapes, torch.zeros_like(shapes), 2)
    assert layout.groups == (Group(2, 2, 3, 8), Group(1, 3, 2, 8), Group(1, 1, 6, 8))


def test_equal_shapes_apart_are_refused() -> None:
    shapes = torch.tensor([[2, 3], [3, 2], [2, 3]])
    with pytest.raises(ValueError, match="equal canvas shape must be neighbors"):
        make_layout(shapes, torch.zeros_like(shapes), 1)


def test_split_gives_each_sequence_its_tokens() -> None:
    shapes, offsets = neighbors(np.random.default_rng(7))
    layout = make_layout(shapes, offsets, 2)
    flat = torch.stack((torch.arange(layout.tokens), layout.sequence), dim=1)
    parts = list(layout.split(flat))
    assert [group for group, _ in parts] == list(layout.groups)
    seen = 0
    for group, part in parts:
        assert part.shape == (group.count, group.length, 2)
        for sequence in part:
            assert sequence[:, 1].unique().tolist() == [seen]
            assert sequence[0, 0] == layout.first[seen]
            seen += 1
    assert torch.equal(torch.cat([part.flatten(0, 1) for _, part in parts]), flat)


@pytest.mark.parametrize(("room", "images"), [(10**6, 1), (0, 2), (60, 2), (-(10**6), 4)])
def test_images_hold_every_cell_once_at_its_row_and_column(monkeypatch: pytest.MonkeyPatch, room: int, images: int) -> None:
    monkeypatch.setattr(layout_module, "IMAGE_CELLS", room)
    shapes, offsets = torch.tensor([[1, 1], [1, 2], [1, 2], [6, 7], [7, 6]]), torch.arange(10).reshape(5, 2)
    layout = make_layout(shapes, offsets, 2)
    row, column = (place - offsets[layout.sequence, axis] for axis, place in enumerate((layout.row, layout.column)))
    assert len(layout.images) == images
    assert torch.cat([torch.arange(layout.tokens)[image.tokens] for image in layout.images]).tolist() == list(
        range(layout.tokens)
    )
    before = 0
    for image in layout.images:
        cells = layout.cells[(layout.cells >= image.tokens.start) & (layout.cells < image.tokens.stop)]
        sequence = layout.sequence[cells] - before
        assert sequence.unique().tolist() == list(range(image.count))
        places = image.places[cells - image.tokens.start]
        assert places.tolist() == ((sequence * image.height + row[cells]) * image.width + column[cells]).tolist()
        assert image.drawn.shape == (image.count * image.height * image.width,)
        assert image.drawn[places].tolist() == cells.tolist()
        assert (image.drawn == layout.tokens).sum() == len(image.drawn) - len(cells)
        assert len(image.places) == image.tokens.stop - image.tokens.start
        assert (row[cells] < image.height).all()
        assert (column[cells] < image.width).all()
        before += image.count
