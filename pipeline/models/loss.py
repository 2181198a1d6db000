"""Losses of one segment: the tokens of the answer, and the halting head (TRM section 2.4; stablemax from arXiv 2501.04697)."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from augment.canvas import IGNORED
from augment.errors import InputError
from pipeline.models.layout import Layout

TokenLoss = Literal["stablemax", "softmax"]


@dataclass(frozen=True)
class SegmentLoss:
    """Sums over the samples of a pack that have labels, each a sequence or the best of its latents, in float32."""

    token: Tensor
    """() sum over sequences of the mean cross-entropy of their labelled cells."""
    halting: Tensor
    """() sum of the binary cross-entropy of the halting logits, and of those of going on where they are trained."""
    exact: Tensor
    """(B,) bool: every labelled cell of a sample is right. False for one without labels."""
    winner: Tensor | None
    """(B,) the sequence of each sample that counts, of several latents; None where each sample is one sequence."""
    total: Tensor
    """() what is minimised: `token` and a share of `halting`."""


def segment_loss(
    logits: Tensor,
    halting: Tensor,
    labels: Tensor,
    layout: Layout,
    kind: TokenLoss = "stablemax",
    going_on: Tensor | None = None,
    halting_weight: float = 0.5,
    smoothing: float = 0.0,
    *,
    latents: int = 1,
) -> SegmentLoss:
    """Score one segment: `logits` (C, V), `halting` (B, 2), `labels` (C,) int64 with -100 where ignored.

    `going_on` (B,) in 0..1 is what going on is worth (`going_on_target`); without it that logit is not trained. With a
    `halting_weight` of 0 the halting head is not trained. `smoothing` (0..1) of a label is spread evenly over all V tokens. Of
    every `latents` sequences side by side, which are one sample, only the one with the least token loss counts.
    """
    sequence = layout.sequence[layout.cells]
    valid = labels != IGNORED
    per_sequence = torch.zeros(layout.sequences, device=logits.device)
    counts = per_sequence.index_add(0, sequence, valid.float())
    labelled = counts > 0
    cross_entropy = torch.where(valid, _cross_entropy(logits.float(), labels.clamp(min=0), kind, smoothing), 0.0)
    of_cell = cross_entropy / counts.clamp(min=1)[sequence]
    wrong = per_sequence.index_add(0, sequence, (valid & (logits.argmax(-1) != labels)).float())
    exact = labelled & (wrong == 0)
    halting_terms = F.binary_cross_entropy_with_logits(halting[:, 0], exact.float(), reduction="none")
    if going_on is not None:
        halting_terms = halting_terms + F.binary_cross_entropy_with_logits(halting[:, 1], going_on, reduction="none")
    halting_terms = torch.where(labelled, halting_terms, 0.0)
    if latents == 1:
        token, halting_loss, winner = of_cell.sum(), halting_terms.sum(), None
    else:
        of_sequence = per_sequence.index_add(0, sequence, of_cell)
        first = torch.arange(0, layout.sequences, latents, device=logits.device)
        winner = first + of_sequence.detach().unflatten(0, (-1, latents)).argmin(dim=1)
        token, halting_loss, exact = of_sequence[winner].sum(), halting_terms[winner].sum(), exact[winner]
    return SegmentLoss(token, halting_loss, exact, winner, token + halting_weight * halting_loss)


def going_on_target(following: Tensor, last: Tensor) -> Tensor:
    """Return (B,) the worth of going on: the best of the next segment's two Q values, only that of halting after the `last`.

    `following` (B, 2) are the next segment's halting logits, `last` (B,) bool says that no further one is allowed (HRM).
    """
    return torch.where(last, following[:, 0], following.amax(dim=1)).sigmoid().detach()


def log_probabilities(logits: Tensor, kind: TokenLoss) -> Tensor:
    """Return (C, V) the logarithm of how likely each token is, by `logits` (C, V) float32 of a network trained with `kind`."""
    if kind == "softmax":
        return logits.log_softmax(-1)
    mass = _mass(logits)
    return mass.log() - mass.sum(-1, keepdim=True).log()


def _mass(logits: Tensor) -> Tensor:
    """Return stablemax's stand-in for the exponential: x + 1, and 1 / (1 - x) below 0."""
    return torch.where(logits < 0, 1 / (1 - logits.clamp(max=0)), logits.clamp(min=0) + 1)


def _cross_entropy(logits: Tensor, labels: Tensor, kind: TokenLoss, smoothing: float) -> Tensor:
    """Return (C,) the cross-entropy of smoothed `labels` (C,) under `logits` (C, V) float32."""
    if kind == "softmax":
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    if kind != "stablemax":
        raise InputError(f"unknown token loss {kind!r}; one of: stablemax, softmax")
    mass = _mass(logits)
    right = mass.gather(-1, labels[:, None]).squeeze(-1).log()
    if smoothing:
        right = torch.lerp(right, mass.log().mean(-1), smoothing)
    return mass.sum(-1).log() - right
