"""Prioritized sampling: a training pair is drawn less often the more often it was answered exactly of late.

As in prioritized experience replay (arXiv 1511.05952), with exact answers in place of a loss.
"""

import numpy as np
import numpy.typing as npt

UPDATE_STEPS = 5
"""Steps between updates: answers of all processes are then put together."""
NEWEST_SHARE = 0.2
"""Of a pair's newest answer in the rate of its exact ones."""


class Priorities:
    """How often each training pair was answered exactly, and how often it is drawn therefore."""

    def __init__(self, pairs: int, learned_weight: float) -> None:
        self.learned_weight = learned_weight
        self.rates = np.zeros(pairs)
        """(P,) 0..1, how often each pair was answered exactly of late."""
        self.answers = np.zeros((2, pairs))
        """Since the last update, in this process: how many answers of each pair there were, and how many were exact."""

    def count(self, pairs: npt.NDArray[np.int64], exact: npt.NDArray[np.bool_]) -> None:
        """Count the answers of `pairs` (B,), of which some were `exact` (B,)."""
        np.add.at(self.answers[0], pairs, 1)
        np.add.at(self.answers[1], pairs, exact)

    def update(self, answers: npt.NDArray[np.float64]) -> None:
        """Move the rates towards those of `answers` (2, P) of all processes, and forget those of this one."""
        count, exact = answers
        kept = (1 - NEWEST_SHARE) ** count
        self.rates = self.rates + (1 - kept) * (exact / np.maximum(count, 1) - self.rates)  # never beyond 0..1
        self.answers = np.zeros_like(self.answers)

    def factors(self) -> npt.NDArray[np.float64]:
        """Return the factors on the weights of the pairs, (P,): 1 where none is answered exactly."""
        return 1 - (1 - self.learned_weight) * self.rates
