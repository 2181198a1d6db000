"""Losses of one segment: the tokens of the answer, and the halting head (TRM section 2.4; stablemax from arXiv 2501.04697)."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.reasoner.layout import Layout

IGNORED = -100
TokenLoss = Literal["stablemax", "softmax"]


@dataclass(frozen=True)
class SegmentLoss:
    """Sums over the sequences of a pack that have labels, in float32; divide by `sequences` for means."""

    token: Tensor
    """() sum over sequences of the mean cross-entropy of their labelled cells."""
    halting: Tensor
    """() sum of the binary cross-entropy of the halting logits."""
    exact: Tensor
    """(B,) bool: every labelled cell is right. False for a sequence without labels."""
    labelled: Tensor
    """(B,) bool: the sequence has a label."""

    @property
    def total(self) -> Tensor:
        return self.token + 0.5 * self.halting


def segment_loss(logits: Tensor, halting: Tensor, labels: Tensor, layout: Layout, kind: TokenLoss = "stablemax") -> SegmentLoss:
    """Score one segment: `logits` (C, V), `halting` (B, 2), `labels` (C,) int64 with -100 where ignored."""
    sequence = layout.sequence[layout.cells]
    valid = labels != IGNORED
    per_sequence = torch.zeros(layout.sequences, device=logits.device)
    counts = per_sequence.index_add(0, sequence, valid.float())
    labelled = counts > 0
    cross_entropy = torch.where(valid, -_log_probability(logits.float(), labels.clamp(min=0), kind), 0.0)
    token = (cross_entropy / counts.clamp(min=1)[sequence]).sum()
    wrong = per_sequence.index_add(0, sequence, (valid & (logits.argmax(-1) != labels)).float())
    exact = labelled & (wrong == 0)
    halting_terms = F.binary_cross_entropy_with_logits(halting[:, 0], exact.float(), reduction="none")
    return SegmentLoss(token, torch.where(labelled, halting_terms, 0.0).sum(), exact, labelled)


def _log_probability(logits: Tensor, labels: Tensor, kind: TokenLoss) -> Tensor:
    """Return (C,) log-probabilities of `labels` (C,) under `logits` (C, V) float32."""
    if kind == "softmax":
        return -F.cross_entropy(logits, labels, reduction="none")
    if kind != "stablemax":
        raise ValueError(f"unknown token loss {kind!r}; one of: stablemax, softmax")
    negative = logits < 0
    mass = torch.where(negative, 1 / (1 - logits.clamp(max=0)), logits.clamp(min=0) + 1)
    chosen = mass.gather(-1, labels[:, None]).squeeze(-1)
    return chosen.log() - mass.sum(-1).log()
