"""The three ways of the grid convolution give the same: on images, by neighbors, and fused by Triton's own interpreter."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.device_limits import TOLERANCE
from pipeline.models.layers import _ConvolveGrids, _ConvolveNeighbors, choose_fused, convolve_gated, fused_error
from pipeline.models.layout import Layout, make_layout

DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def on_images(x: Tensor, weight: Tensor, layout: Layout) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return F.silu(_ConvolveGrids.apply(F.silu(gate) * up, weight, layout))


def by_neighbors(x: Tensor, weight: Tensor, layout: Layout) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return F.silu(_ConvolveNeighbors.apply(F.silu(gate) * up, weight.flatten(1), layout.reach))


@pytest.mark.parametrize(("shapes", "kernel", "memory_tokens"), [([(1, 1), (3, 4), (3, 4), (9, 2)], 3, 2), ([(5, 6)], 5, 0)])
def test_every_way_convolves_alike(
    shapes: list[tuple[int, int]], kernel: int, memory_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More tokens than one program goes through, channels that do not fill one; shifted, so that positions are not places."""
    monkeypatch.setattr("pipeline.models.triton_convolution.TILES", 2)
    sizes, generator = torch.tensor(shapes), torch.Generator().manual_seed(len(shapes))
    layout = make_layout(sizes, 30 - sizes, memory_tokens, DEVICE)
    channels = 72
    x, given = (torch.randn(layout.tokens, width, generator=generator).to(DEVICE) for width in (2 * channels, channels))
    weight = torch.randn(channels, 1, kernel, kernel, generator=generator).to(DEVICE)
    found = []
    for way in (on_images, by_neighbors, convolve_gated):
        leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
        out = way(*leaves, layout)
        found.append((out.detach(), *torch.autograd.grad(out, leaves, given)))
    for other in found[1:]:
        for exact, each in zip(found[0], other, strict=True):
            torch.testing.assert_close(each, exact, rtol=1e-5, atol=1e-5 * float(exact.abs().max()))


def test_the_trial_sees_rounding_only_and_a_cpu_takes_no_triton() -> None:
    assert 1e-3 < fused_error(str(DEVICE), torch.bfloat16, 3) < TOLERANCE
    assert not choose_fused(torch.device("cpu"), torch.float32, 3)


def test_cudnn_makes_no_plan_for_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    enabled = list[bool]()

    def watched(convolve: Callable[..., Any]) -> Callable[..., Any]:
        def convolve_and_note(*arguments: Any, **options: Any) -> Any:
            enabled.append(torch.backends.cudnn.enabled)
            return convolve(*arguments, **options)

        return convolve_and_note

    for place, name in ((F, "conv2d"), (torch.ops.aten, "convolution_backward")):
        monkeypatch.setattr(place, name, watched(getattr(place, name)))
    layout = make_layout(torch.tensor([[2, 3], [4, 4]]), torch.zeros(2, 2, dtype=torch.int64), 1, DEVICE)
    x, weight = (torch.ones(shape, device=DEVICE, requires_grad=True) for shape in ((layout.tokens, 4), (2, 1, 3, 3)))
    on_images(x, weight, layout).sum().backward()
    assert enabled == [False] * 2 * len(layout.images)
    assert torch.backends.cudnn.enabled
