"""Layers against their definitions: norm, positions, attention, the gate, convolutions, the token mixer, initial weights."""

import math
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from pipeline.models import layout as layout_module
from pipeline.models.attention import rotary_angles, rotate
from pipeline.models.config import ReasonerConfig
from pipeline.models.layers import (
    CastLinear,
    GridConvolution,
    SequenceConvolution,
    SwiGLU,
    TokenMixer,
    _ConvolveGrids,
    _Gate,
    cast_weights,
    rms_norm,
    truncated_normal,
)
from pipeline.models.layout import Layout, make_layout
from pipeline.models.reasoner import Attention, Block


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


def test_without_positions_attention_does_not_see_the_order_of_tokens() -> None:
    generator = torch.Generator().manual_seed(6)
    layout = layout_of((2, 3))
    angles = rotary_angles(layout, 8, "none", 30)
    assert angles is None
    attention = Attention(16, 2, generator)
    x = torch.randn(9, 16, generator=generator)
    order = torch.randperm(9, generator=generator)
    torch.testing.assert_close(attention(x[order], layout, angles), attention(x, layout, angles)[order])
    numbered = rotary_angles(layout, 8, "1d", 30)
    assert not torch.allclose(attention(x[order], layout, numbered), attention(x, layout, numbered)[order], atol=1e-3)


def test_what_attention_gathers_may_be_normed_before_it_is_joined() -> None:
    layout = layout_of((2, 3))
    x = torch.randn(9, 16, generator=torch.Generator().manual_seed(6))
    plain, normed = (Attention(16, 2, torch.Generator().manual_seed(5), normed) for normed in (False, True))
    plain.out.weight = torch.nn.Parameter(torch.eye(16))  # shows what was gathered
    torch.testing.assert_close(normed(x, layout, None), normed.out(rms_norm(plain(x, layout, None))))


def test_the_norm_is_computed_in_float32_at_least_and_its_gradient_is_right() -> None:
    x = 3 * torch.randn(4, 6, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    by_hand = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(rms_norm(x), by_hand, atol=1e-14, rtol=1e-14)
    half = x.bfloat16()
    assert torch.equal(rms_norm(half), rms_norm(half.float()).bfloat16())
    assert torch.autograd.gradcheck(rms_norm, (x.requires_grad_(),))


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
    expected = []
    for start, (height, width) in zip(layout.first.tolist(), shapes.tolist(), strict=True):
        canvas = x[start + 1 : start + 1 + height * width].T.unflatten(1, (height, width))
        expected.append(x[start : start + 1] * convolution.weight[:, 0, 1, 1])
        expected.append(F.conv2d(canvas, convolution.weight, padding=1, groups=2).flatten(1).T)
    torch.testing.assert_close(convolution(x, layout), torch.cat(expected), atol=1e-5, rtol=1e-5)


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


SEQUENCES = torch.tensor([[1, 1], [2, 3], [2, 3], [1, 4]])  # with a memory token 2, 7, 7 and 5 tokens long


def convolve_alone(x: Tensor, weight: Tensor, layout: Layout) -> Tensor:
    """Each sequence of x (N, C) by itself, through torch's convolution of what is padded on the left."""
    mixed = []
    for i in range(layout.sequences):
        padded = F.pad(x[layout.sequence == i].T[None], (weight.shape[-1] - 1, 0))
        mixed.append(F.conv1d(padded, weight, groups=len(weight))[0].T)
    return torch.cat(mixed)


@pytest.mark.parametrize("shapes", [SEQUENCES, SEQUENCES[:1]], ids=["pack", "short"])
@pytest.mark.parametrize("kernel", [1, 2, 6])
def test_the_sequence_convolution_is_that_of_torch_on_each_sequence(kernel: int, shapes: Tensor) -> None:
    generator = torch.Generator().manual_seed(8)
    layout = make_layout(shapes, torch.zeros_like(shapes), 1)
    convolution = SequenceConvolution(4, kernel, generator)
    x = torch.randn(layout.tokens, 4, generator=generator)
    torch.testing.assert_close(convolution(x, layout), convolve_alone(x, convolution.weight, layout))


def test_the_gradient_of_the_sequence_convolution_is_right() -> None:
    layout = make_layout(SEQUENCES, torch.zeros_like(SEQUENCES), 1)
    generator = torch.Generator().manual_seed(10)
    convolution = SequenceConvolution(2, 4, generator)
    x = torch.randn(layout.tokens, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, weight: functional_call(convolution, {"weight": weight}, (x, layout)), (x, weight)
    )


@pytest.mark.parametrize(("axes", "kernel", "kind"), [("2d", 3, GridConvolution), ("1d", 2, SequenceConvolution)])
def test_the_convolution_lies_between_the_gate_and_the_way_down(axes: str, kernel: int, kind: type) -> None:
    generator = torch.Generator().manual_seed(11)
    layout = make_layout(SEQUENCES, torch.zeros_like(SEQUENCES), 1)
    layer = SwiGLU(8, 1.0, generator, convolution=kernel, axes=axes, multiple=8)
    assert type(layer.convolution) is kind
    x = torch.randn(layout.tokens, 8, generator=generator)
    gate, up = layer.gate_up(x).chunk(2, dim=-1)
    by_hand = layer.down(F.silu(layer.convolution(F.silu(gate) * up, layout)))
    torch.testing.assert_close(layer(x, layout), by_hand)


@pytest.mark.parametrize("kernel", [0, 3])
def test_a_normed_gate_is_bounded_whatever_its_inputs(kernel: int) -> None:
    generator = torch.Generator().manual_seed(12)
    layout = make_layout(SEQUENCES, torch.zeros_like(SEQUENCES), 1)
    layer = SwiGLU(8, 1.0, generator, convolution=kernel, multiple=8, gate="normed-sigmoid")
    x = torch.randn(layout.tokens, 8, generator=generator, requires_grad=True)
    gate, up = layer.gate_up(x).chunk(2, dim=-1)
    product = gate * up
    gated = product / (product.square().mean(-1, keepdim=True) + 1e-5).sqrt() / (1 + (-gate).exp())
    by_hand = layer.down(gated if layer.convolution is None else F.silu(layer.convolution(gated, layout)))
    torch.testing.assert_close(layer(x, layout), by_hand)
    assert torch.allclose(*(torch.autograd.grad(way.square().sum(), x)[0] for way in (layer(x, layout), by_hand)), atol=1e-4)
    far = layer(1e6 * x, layout).abs().max()
    assert far < 10 * layer(x, layout).abs().max()


@pytest.mark.parametrize("hidden_size", [8, 11])
def test_a_block_with_a_mixer_is_two_gated_layers_over_tokens_and_over_features(hidden_size: int) -> None:
    shapes, generator = torch.full((3, 2), 3), torch.Generator().manual_seed(12)
    layout = make_layout(shapes, torch.zeros_like(shapes), 2)  # three sequences of 2 + 3 x 3 tokens
    x = torch.randn(layout.tokens, hidden_size, generator=generator, dtype=torch.float64)
    config = ReasonerConfig(
        hidden_size=hidden_size, heads=1, expansion=1.0, inner_multiple=8, mixing="mixer", positions="none", canvas_side=3
    )
    block = Block(config, 2, torch.Generator().manual_seed(13)).double()
    over_tokens, over_features = block.mixer.feed_forward, block.feed_forward
    z = x.unflatten(0, (3, 11))  # (B, L, D)
    gate, up = torch.einsum("gil,bld->gbid", over_tokens.gate_up.weight.unflatten(0, (2, -1)), z)
    z = z + torch.einsum("li,bid->bld", over_tokens.down.weight, gate * gate.sigmoid() * up)
    z = z / (z.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
    gate, up = torch.einsum("gid,bld->gbli", over_features.gate_up.weight.unflatten(0, (2, -1)), z)
    z = z + torch.einsum("di,bli->bld", over_features.down.weight, gate * gate.sigmoid() * up)
    z = z / (z.square().mean(dim=2, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(block(x, layout, None), z.flatten(0, 1))


@pytest.mark.parametrize(("shapes", "length"), [([[2, 2]], 6), ([[3, 3], [3, 4]], 14), ([[1, 1], [3, 3]], 3)])
def test_a_mixer_refuses_sequences_of_another_length(shapes: list[list[int]], length: int) -> None:
    layout = make_layout(torch.tensor(shapes), torch.zeros(len(shapes), 2, dtype=torch.int64), 2)
    mixer = TokenMixer(11, 4.0, torch.Generator().manual_seed(16), multiple=8)
    with pytest.raises(ValueError, match=f"made for sequences of 11 tokens, got one of {length}$"):
        mixer(torch.ones(layout.tokens, 8), layout)


@pytest.mark.parametrize(("size", "expansion", "multiple", "inner"), [(24, 4.0, 16, 64), (16, 1.0, 8, 16)])
def test_the_inner_width_is_rounded_up_to_a_multiple(size: int, expansion: float, multiple: int, inner: int) -> None:
    layer = SwiGLU(size, expansion, torch.Generator().manual_seed(0), multiple=multiple)
    assert layer.gate_up.weight.shape == (2 * inner, size)
    assert layer.down.weight.shape == (size, inner)


def test_truncated_normal_has_its_deviation_and_no_tail() -> None:
    drawn = truncated_normal((100_000,), 0.5, torch.Generator().manual_seed(4))
    assert drawn.std().item() == pytest.approx(0.5, rel=0.01)
    assert drawn.mean().item() == pytest.approx(0.0, abs=0.01)
    assert 1.12 < drawn.abs().max().item() <= 2 * 0.5 / 0.8796
    drawn = truncated_normal((4,), 0.5, torch.Generator().manual_seed(0))  # with any release of PyTorch; the third came twice
    assert drawn.tolist() == pytest.approx([0.8759, -0.1668, 0.2293, 0.3231], abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_that_are_cast_once_give_the_same_and_a_gradient_to_the_float32_weight(dtype: torch.dtype) -> None:
    layer, x = CastLinear(12, 8, torch.Generator().manual_seed(0)), torch.randn(5, 12).to(dtype)
    names = list(layer.state_dict())
    found = []
    for once in (False, True):
        layer.zero_grad()
        with cast_weights([layer], dtype) if once else nullcontext():
            out = layer(x) + layer(2 * x)
            assert list(layer.state_dict()) == names
            assert (layer.cast is not None) == (once and dtype != torch.float32)
        out.float().square().sum().backward()
        assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32
        found.append((out.detach().float(), layer.weight.grad.clone()))
        assert layer.cast is None
    for each, once in zip(*found, strict=True):
        torch.testing.assert_close(once, each, rtol=0, atol=0.01 * float(each.abs().max()))
