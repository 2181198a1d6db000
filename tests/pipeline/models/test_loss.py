"""Losses against plain loops in float64."""

import math

import pytest
import torch
from torch import Tensor

from pipeline.models.layout import Layout, make_layout
from pipeline.models.loss import _cross_entropy, going_on_target, segment_loss

SHAPES = torch.tensor([[1, 2], [2, 2], [2, 2], [3, 1]])
VOCABULARY = 12


def make_case(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Layout]:
    """Random logits, halting logits and labels; the second sequence has one label and the third none."""
    generator = torch.Generator().manual_seed(seed)
    layout = make_layout(SHAPES, torch.zeros_like(SHAPES), 1)
    cells = int(SHAPES.prod(dim=1).sum())
    labels = torch.randint(0, VOCABULARY, (cells,), generator=generator)
    labels[3:10] = -100
    logits = 3 * torch.randn(cells, VOCABULARY, generator=generator)
    return logits, torch.randn(len(SHAPES), 2, generator=generator), labels, layout


def cells_of_sequences() -> list[range]:
    ends = SHAPES.prod(dim=1).cumsum(0).tolist()
    return [range(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def plain_loss(logits: Tensor, labels: Tensor, kind: str, smoothing: float = 0.0) -> float:
    """Sum over sequences of the mean cross-entropy of labelled cells, by the definition."""
    total = 0.0
    for cells in cells_of_sequences():
        terms = []
        for cell in cells:
            if labels[cell] == -100:
                continue
            row = [float(x) for x in logits[cell].double()]
            mass = [math.exp(x) if kind == "softmax" else (x + 1 if x >= 0 else 1 / (1 - x)) for x in row]
            wanted = [smoothing / VOCABULARY + (1 - smoothing) * (token == int(labels[cell])) for token in range(VOCABULARY)]
            terms.append(-sum(share * math.log(each / sum(mass)) for share, each in zip(wanted, mass, strict=True)))
        total += sum(terms) / len(terms) if terms else 0.0
    return total


@pytest.mark.parametrize("kind", ["stablemax", "softmax"])
@pytest.mark.parametrize("seed", range(3))
def test_the_token_loss_is_the_sum_over_sequences_of_their_mean_cross_entropy(seed: int, kind: str) -> None:
    logits, halting, labels, layout = make_case(seed)
    loss = segment_loss(logits, halting, labels, layout, kind)
    assert loss.token.item() == pytest.approx(plain_loss(logits, labels, kind), rel=1e-5)


@pytest.mark.parametrize("kind", ["stablemax", "softmax"])
def test_smoothing_spreads_a_share_of_every_label_over_all_tokens(kind: str) -> None:
    logits, halting, labels, layout = make_case()
    loss = segment_loss(logits, halting, labels, layout, kind, smoothing=0.2)
    assert loss.token.item() == pytest.approx(plain_loss(logits, labels, kind, 0.2), rel=1e-5)
    assert loss.token.item() != pytest.approx(plain_loss(logits, labels, kind), rel=1e-3)


def right_answers(labels: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(labels.clamp(min=0), VOCABULARY).float()


def test_exact_means_that_every_labelled_cell_is_right() -> None:
    _, halting, labels, layout = make_case()
    logits = right_answers(labels)
    loss = segment_loss(logits, halting, labels, layout)
    assert loss.exact.tolist() == [True, True, False, True]
    logits[labels == -100] = torch.roll(logits[labels == -100], 3, dims=1)  # wrong, but without a label
    assert segment_loss(logits, halting, labels, layout).exact.tolist() == [True, True, False, True]
    logits[-1] = torch.roll(logits[-1], 1)
    assert segment_loss(logits, halting, labels, layout).exact.tolist() == [True, True, False, False]


def test_the_halting_head_is_to_tell_whether_the_answer_is_exact() -> None:
    logits, halting, labels, layout = make_case()
    logits[-3:] = 5 * right_answers(labels)[-3:]
    loss = segment_loss(logits, halting, labels, layout)
    assert loss.exact.tolist() == [False, False, False, True]
    terms = []
    for logit, exact in zip(halting[[0, 1, 3], 0].tolist(), (False, False, True), strict=True):  # the third has no label
        probability = 1 / (1 + math.exp(-logit))
        terms.append(-math.log(probability if exact else 1 - probability))
    assert loss.halting.item() == pytest.approx(sum(terms), rel=1e-5)
    for weight in (0.0, 0.5, 2.0):
        total = segment_loss(logits, halting, labels, layout, halting_weight=weight).total.item()
        assert total == pytest.approx(loss.token.item() + weight * loss.halting.item())
    assert loss.total.item() == pytest.approx(loss.token.item() + 0.5 * loss.halting.item())


def test_going_on_is_worth_the_best_that_may_follow() -> None:
    following = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 4.0], [-2.0, -3.0]], requires_grad=True)
    target = going_on_target(following, torch.tensor([False, False, True, True]))
    assert target.tolist() == pytest.approx([1 / (1 + math.exp(-q)) for q in (2.0, 3.0, 0.5, -2.0)])
    assert not target.requires_grad


def test_the_logit_of_going_on_is_trained_where_its_worth_is_given() -> None:
    logits, halting, labels, layout = make_case()
    worth = torch.tensor([0.2, 0.9, 0.5, 0.4])
    without = segment_loss(logits, halting, labels, layout)
    halting.requires_grad_()
    loss = segment_loss(logits, halting, labels, layout, going_on=worth)
    terms = []
    for logit, target in zip(halting[[0, 1, 3], 1].tolist(), worth[[0, 1, 3]].tolist(), strict=True):
        probability = 1 / (1 + math.exp(-logit))
        terms.append(-target * math.log(probability) - (1 - target) * math.log(1 - probability))
    assert loss.halting.item() == pytest.approx(without.halting.item() + sum(terms), rel=1e-5)
    assert torch.equal(loss.token, without.token)
    loss.total.backward()
    expected = 0.5 * (halting[:, 1].detach().sigmoid() - worth)
    expected[2] = 0  # it has no label
    torch.testing.assert_close(halting.grad[:, 1], expected)


@pytest.mark.parametrize("going_on", [False, True])
def test_what_is_said_of_a_sequence_without_labels_does_not_count(going_on: bool) -> None:
    logits, halting, labels, layout = make_case()
    totals = []
    for value in (-50.0, 0.0, 50.0):
        halting[2] = value
        worth = torch.full((4,), 0.5) if going_on else None
        if worth is not None:
            worth[2] = 0.5 + value / 100
        logits[6:10] = value * torch.arange(VOCABULARY)
        totals.append(segment_loss(logits, halting, labels, layout, going_on=worth).total.item())
    assert totals[0] == totals[1] == totals[2]


@pytest.mark.parametrize("kind", ["stablemax", "softmax"])
@pytest.mark.parametrize(("scale", "shift"), [(0.0, 0.0), (1e6, 0.0), (0.0, 1.0), (0.0, -1.0)])
def test_losses_and_gradients_are_finite_at_extreme_and_special_logits(kind: str, scale: float, shift: float) -> None:
    logits, halting, labels, layout = make_case()
    logits = (scale * logits + shift).requires_grad_()
    loss = segment_loss(logits, scale * halting, labels, layout, kind).total
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_logits_of_half_precision_are_scored_in_float32() -> None:
    logits, halting, labels, layout = make_case()
    loss = segment_loss(logits.bfloat16(), halting, labels, layout)
    assert loss.token.dtype == torch.float32
    assert loss.token.item() == pytest.approx(plain_loss(logits.bfloat16(), labels, "stablemax"), rel=1e-5)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_stablemax_in_float32_differs_from_float64_by_its_rounding_alone(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    given = scale * torch.randn(5000, 12, generator=generator)
    labels = torch.randint(12, (5000,), generator=generator)
    losses, gradients = [], []
    for dtype in (torch.float64, torch.float32):
        logits = given.to(dtype).requires_grad_()
        loss = _cross_entropy(logits, labels, "stablemax", 0.0).mean()
        losses.append(loss.item())
        gradients.append(torch.autograd.grad(loss, logits)[0].double())
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert (gradients[1] - gradients[0]).norm() < 1e-6 * gradients[0].norm()


@pytest.mark.parametrize("seed", range(4))
def test_of_several_latents_only_the_one_with_the_least_token_loss_counts(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    layout, one = (make_layout(torch.full((count, 2), 2), torch.zeros(count, 2, dtype=torch.int64), 1) for count in (6, 1))
    labels = torch.randint(0, VOCABULARY, (2, 1, 4), generator=generator).expand(2, 3, 4).reshape(-1)
    labels[:12] = torch.where(torch.arange(12) % 4 == 1, -100, labels[:12])
    logits = (3 * torch.randn(24, VOCABULARY, generator=generator)).requires_grad_()
    halting = torch.randn(6, 2, generator=generator)
    alone = [
        segment_loss(logits[4 * n : 4 * n + 4], halting[n : n + 1], labels[4 * n : 4 * n + 4], one).token.item()
        for n in range(6)
    ]
    best = [min(range(3), key=lambda n: alone[n]), min(range(3, 6), key=lambda n: alone[n])]
    chosen = [segment_loss(logits[4 * n : 4 * n + 4], halting[n : n + 1], labels[4 * n : 4 * n + 4], one) for n in best]
    loss = segment_loss(logits, halting, labels, layout, latents=3)
    assert loss.winner is not None and loss.winner.tolist() == best
    assert loss.exact.tolist() == [bool(each.exact) for each in chosen]
    for name in ("token", "halting", "total"):
        assert getattr(loss, name).item() == pytest.approx(sum(getattr(each, name).item() for each in chosen), rel=1e-5)
    loss.total.backward()
    learned = logits.grad.abs().sum(dim=1).unflatten(0, (6, 4)).sum(dim=1) > 0
    assert learned.nonzero().flatten().tolist() == best


def test_an_unknown_loss_lists_the_alternatives() -> None:
    with pytest.raises(ValueError, match="unknown token loss 'hinge'; one of: stablemax, softmax"):
        segment_loss(*make_case(), kind="hinge")
