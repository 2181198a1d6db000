"""Layers against their definitions: rotary positions, the gate, the grid convolution, initial weights."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.reasoner import layout as layout_module
from pipeline.reasoner.blocks import (
    GridConvolution,
    SwiGLU,
    _ConvolveGrids,
    _Gate,
    rotary_angles,
    rotate,
    truncated_normal,
)
from pipeline.reasoner.layout import Layout, make_layout


def layout_of(shape: tuple[int, int], offset: tuple[int, int] = (0, 0), memory_tokens: int = 3) -> Layout:
    return make_layout(torch.tensor([shape]), torch.tensor([offset]), memory_tokens)


@pytest.mark.parametrize("positions", ["1d", "2d"])
def test_a_fitted_canvas_sees_the_positions_of_the_full_one(positions: str) -> None:
    full, fitted = layout_of((30, 30)), layout_of((2, 3), (4, 26))
    memory = fitted.memory_tokens
    same = [*range(memory), *(memory + row * 30 + column for row in (4, 5) for column in (26, 27, 28))]
    everywhere = rotary_angles(full, 8, positions, 30)
    for angles, all_angles in zip(rotary_angles(fitted, 8, positions, 30), everywhere, strict=True):
        assert torch.equal(angles, all_angles[same])
    assert len(torch.stack(everywhere, -1).flatten(1).unique(dim=0)) == 900 + (memory if positions == "1d" else 1)


def test_1d_positions_number_memory_tokens_and_then_cells() -> None:
    cos, sin = rotary_angles(layout_of((2, 2), memory_tokens=2), 8, "1d", 2)
    for position in range(6):
        for frequency in range(4):
            angle = position * 10_000.0 ** -(frequency / 4)
            assert cos[position, frequency] == pytest.approx(math.cos(angle), abs=1e-5)
            assert sin[position, frequency] == pytest.approx(math.sin(angle), abs=1e-5)


def test_2d_positions_give_half_of_the_frequencies_to_rows() -> None:
    cos, _ = rotary_angles(layout_of((2, 3), (5, 7), memory_tokens=1), 16, "2d", 30)
    by_cell = cos[1:].unflatten(0, (2, 3))
    assert torch.equal(cos[0], torch.ones(8))
    assert torch.equal(by_cell[0, :, :4], by_cell[0, :1, :4].expand(3, 4))
    assert torch.equal(by_cell[:, 0, 4:], by_cell[:1, 0, 4:].expand(2, 4))
    assert by_cell[1, 2, 0] == pytest.approx(math.cos(7), abs=1e-5)
    assert by_cell[1, 2, 4] == pytest.approx(math.cos(10), abs=1e-5)


def test_rotation_turns_halves_of_a_head_against_each_other_and_its_gradient_turns_back() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, 8, generator=generator, dtype=torch.float64)[:, :2]  # as sliced out of a larger tensor
    angle = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    cos, sin = angle.cos(), angle.sin()
    a, b = x[..., :4], x[..., 4:]
    plain = torch.cat((a * cos[:, None] - b * sin[:, None], b * cos[:, None] + a * sin[:, None]), dim=-1)
    torch.testing.assert_close(rotate(x, cos, sin), plain)
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos, sin), (x.requires_grad_(),))


def test_the_gate_is_silu_times_up_with_its_gradient() -> None:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(_Gate.apply(x), F.silu(x[:, :3]) * x[:, 3:])
    assert torch.autograd.gradcheck(_Gate.apply, (x.requires_grad_(),))


def test_the_convolution_sees_neighbors_of_its_own_canvas_only() -> None:
    convolution = GridConvolution(2, 3, torch.Generator().manual_seed(2))
    shapes = torch.tensor([[2, 3], [2, 3], [3, 1]])
    layout = make_layout(shapes, torch.zeros_like(shapes), 1)
    x = torch.randn(layout.tokens, 2, generator=torch.Generator().manual_seed(3))
    given = convolution(x, layout).detach().numpy()
    weight, tokens = convolution.weight.detach().numpy(), x.numpy()
    expected = []
    for start, (height, width) in zip(layout.first.tolist(), shapes.tolist(), strict=True):
        expected.append(tokens[start] * weight[:, 0, 1, 1])
        padded = np.zeros((height + 2, width + 2, 2), np.float32)
        padded[1:-1, 1:-1] = tokens[start + 1 : start + 1 + height * width].reshape(height, width, 2)
        for row in range(height):
            for column in range(width):
                expected.append((padded[row : row + 3, column : column + 3] * weight[:, 0].transpose(1, 2, 0)).sum((0, 1)))
    np.testing.assert_allclose(given, np.stack(expected), atol=1e-5)


@pytest.mark.parametrize(("kernel", "room"), [(3, 4096), (5, 4096), (3, -1000), (1, -1000)])
def test_the_gradient_of_the_convolution_is_right(monkeypatch: pytest.MonkeyPatch, kernel: int, room: int) -> None:
    monkeypatch.setattr(layout_module, "IMAGE_CELLS", room)  # one image of all canvases, or several
    shapes = torch.tensor([[1, 1], [1, 3], [1, 3], [4, 2]])
    layout = make_layout(shapes, torch.zeros_like(shapes), 1)
    assert (len(layout.images) > 1) == (room < 0)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(layout.tokens, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, kernel, kernel, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, weight: _ConvolveGrids.apply(x, weight, layout), (x, weight))


@pytest.mark.parametrize(
    ("size", "expansion", "multiple", "inner"), [(512, 4.0, 256, 1536), (24, 4.0, 16, 64), (16, 1.0, 8, 16)]
)
def test_the_inner_width_is_rounded_up_to_a_multiple(size: int, expansion: float, multiple: int, inner: int) -> None:
    layer = SwiGLU(size, expansion, torch.Generator().manual_seed(0), multiple=multiple)
    assert layer.gate_up.weight.shape == (2 * inner, size)
    assert layer.down.weight.shape == (size, inner)


def test_truncated_normal_has_its_deviation_and_no_tail() -> None:
    drawn = truncated_normal((100_000,), 0.5, torch.Generator().manual_seed(4))
    assert drawn.std().item() == pytest.approx(0.5, rel=0.01)
    assert drawn.mean().item() == pytest.approx(0.0, abs=0.01)
    assert 1.12 < drawn.abs().max().item() <= 2 * 0.5 / 0.8796
