"""The Universal Reasoning Model (arXiv 2512.14693): one state, updated by one network that sees the question each time.

`H_cycles` x `L_cycles` recurrent steps, of which the last `L_cycles` are backpropagated (truncated backpropagation). Its blocks
are published with a convolution (`convolution=2, convolution_axes="1d"`). Without it, this is TRM's ablation of a single state.
"""

from typing import ClassVar

from pipeline.models.reasoner import Given, Reasoner, State, Update, apply_blocks


class URM(Reasoner):
    """One state."""

    states: ClassVar[tuple[str, ...]] = ("latent",)

    def cycle(self) -> list[Update]:
        """Return `L_cycles` times the same update."""
        return [self.think] * self.config.L_cycles

    def think(self, state: State, given: Given) -> State:
        """Update the state by the question and itself."""
        (latent,) = state
        return (apply_blocks(self.blocks, latent + given.tokens, given),)
