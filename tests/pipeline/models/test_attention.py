"""The ways of attention agree with each other and with the definition; the way is chosen by what works."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from pipeline import device_limits
from pipeline.device_limits import TOLERANCE
from pipeline.models import attention, length_classes
from pipeline.models.attention import attend, choose_way, packed_error
from pipeline.models.layout import PACKED, Layout, make_layout
from pipeline.models.length_classes import classes_of
from tests.pipeline.packed_on_cpu import register_kernels

HEADS, SIZE = 2, 8
CPU = torch.device("cpu")


def several_shapes() -> Layout:
    shapes = torch.tensor([[1, 1], [1, 3], [1, 3], [4, 2]])
    return make_layout(shapes, torch.zeros_like(shapes), 2)


def random_parts(layout: Layout, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    qkv = 2 * torch.randn(layout.tokens, 3 * HEADS, SIZE, generator=generator, dtype=torch.float64)
    return qkv[:, : 2 * HEADS].to(dtype), qkv[:, 2 * HEADS :].to(dtype)


def by_hand(query_key: Tensor, value: Tensor, layout: Layout) -> Tensor:
    """Sequence by sequence and head by head."""
    rows = []
    for start, stop in zip(layout.bounds[:-1].tolist(), layout.bounds[1:].tolist(), strict=True):
        heads = [
            (query_key[start:stop, h] @ query_key[start:stop, HEADS + h].T / math.sqrt(SIZE)).softmax(-1) @ value[start:stop, h]
            for h in range(HEADS)
        ]
        rows.append(torch.cat(heads, dim=-1))
    return torch.cat(rows)


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A machine that has tried no kernel yet; the trial is forgotten afterwards, too."""
    register_kernels()
    device_limits._known.clear()
    yield monkeypatch
    device_limits._known.clear()


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("way", ["fused", "products", *PACKED])
def test_every_way_is_attention_within_each_sequence(packed: pytest.MonkeyPatch, way: attention.Way, gradient: bool) -> None:
    layout = several_shapes()
    query_key, value = (part.requires_grad_(gradient) for part in random_parts(layout))
    torch.testing.assert_close(attend(query_key, value, layout, way), by_hand(query_key, value, layout))


@pytest.mark.parametrize("gradient", [False, True])
def test_every_class_of_lengths_has_its_own_rows(monkeypatch: pytest.MonkeyPatch, gradient: bool) -> None:
    monkeypatch.setattr(length_classes, "CLASS_SCORES", 0)
    monkeypatch.setattr(length_classes, "LENGTH_MULTIPLE", 5)
    layout = several_shapes()
    assert {part.padded for part in classes_of(layout, HEADS).classes} == {True, False}
    query_key, value = (part.requires_grad_(gradient) for part in random_parts(layout))
    torch.testing.assert_close(attend(query_key, value, layout, "products"), by_hand(query_key, value, layout))


def test_the_gradient_of_the_products_is_right() -> None:
    layout = several_shapes()
    assert [part.padded for part in classes_of(layout, HEADS).classes] == [True]
    parts = [part.requires_grad_() for part in random_parts(layout)]
    assert torch.autograd.gradcheck(lambda query_key, value: attend(query_key, value, layout, "products"), parts)


@pytest.mark.parametrize(("way", "gradient"), [("fused", False), ("products", False), ("products", True)])
def test_products_are_as_exact_in_bfloat16_as_fused_attention(way: attention.Way, gradient: bool) -> None:
    layout = several_shapes()
    exact = attend(*random_parts(layout), layout, "fused")
    query_key, value = (part.requires_grad_(gradient) for part in random_parts(layout, torch.bfloat16))
    error = attend(query_key, value, layout, way).double() - exact
    assert error.norm() / exact.norm() < 0.008


def test_a_cpu_multiplies_in_bfloat16_and_fuses_otherwise() -> None:
    assert choose_way(CPU, torch.bfloat16, SIZE) == "products"
    assert choose_way(CPU, torch.float32, SIZE) == "fused"


@pytest.mark.parametrize(
    ("capability", "dtype", "way"),
    [
        ((7, 5), torch.float16, "efficient"),  # T4
        ((8, 9), torch.bfloat16, "packed"),  # L4
        ((9, 0), torch.float32, "efficient"),
    ],
)
def test_the_way_on_a_gpu_depends_on_what_it_can(
    packed: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype, way: attention.Way
) -> None:
    packed.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    packed.setattr(attention, "packed_error", lambda *_: 0.0)
    assert choose_way(torch.device("cuda:0"), dtype, SIZE) == way


@pytest.mark.parametrize(("failing", "way"), [(PACKED[:1], "efficient"), (PACKED, "fused")])
def test_a_kernel_for_packs_that_fails_its_trial_is_not_used(
    packed: pytest.MonkeyPatch, failing: tuple[str, ...], way: str
) -> None:
    packed.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    packed.setattr(attention, "packed_error", lambda tried, *_: 0.5 if tried in failing else 0.0)
    assert choose_way(torch.device("cuda:0"), torch.bfloat16, SIZE) == way


@pytest.mark.parametrize("way", PACKED)
def test_the_trial_tells_a_right_kernel_from_a_wrong_one(packed: pytest.MonkeyPatch, way: attention.Way) -> None:
    assert packed_error(way, "cpu", torch.float32, SIZE) < 1e-5
    kernel = attention._attend_packed
    packed.setattr(attention, "_attend_packed", lambda *given: kernel(*given) * 1.05)
    assert packed_error(way, "cpu", torch.float32, SIZE) > TOLERANCE
