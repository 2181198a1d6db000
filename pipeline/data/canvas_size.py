"""Canvas sizes: an upper bound on the size of an unknown output, from the sizes in the demonstrations of its task.

The build stage stores the canvas of every pair and test input, and packs hold no more cells than that. A canvas that is too
small loses the true output and one that is too large costs tokens, so certain rules add nothing and the others leave room.
`measure_size_rules` counts both.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from augment.grid import MAX_SIDE, Grid
from pipeline.data.sources import Source
from pipeline.system.progress_bar import watch

Sizes = npt.NDArray[np.int64]
"""(N, 2) heights and widths."""
SIZE_RULES = ("same", "constant", "ratio", "within", "bounded", "fallback")
"""Names of the rules, the more certain first. Height and width have one each.

same: an output is as long as its input.
constant: all outputs have one length.
ratio: an output is a fixed whole multiple, or a fixed fraction 1/n, of its input.
within: no output is longer than its input, in at least `WITHIN_DEMONSTRATIONS` demonstrations.
bounded: longest output + (longest - shortest output) + `MARGIN`, of the demonstrations.
fallback: 30, where there are not two demonstrations to compare, nor one whose output is as large as its input.
"""

MARGIN = 2
"""Cells that "bounded" adds to what it extrapolates: 0, 1, 2 and 3 lose 6, 6, 3 and 2 of 2,558 public test outputs."""
WITHIN_DEMONSTRATIONS = 6
"""With the usual three demonstrations, one output in thirty outgrows its input though none in a demonstration did."""


class AxisRule(NamedTuple):
    """An upper bound on the length of an output along one axis: length of the input * multiply // divide + add."""

    name: str
    """One of `SIZE_RULES`."""
    multiply: int = 0
    divide: int = 1
    add: int = 0


@dataclass(frozen=True)
class SizeRule:
    """An upper bound on output sizes."""

    height: AxisRule
    width: AxisRule

    @property
    def name(self) -> str:
        """The less certain of the two rules."""
        return max(self.height.name, self.width.name, key=SIZE_RULES.index)

    def bound(self, input_sizes: Sizes) -> Sizes:
        """Return the largest sizes (N, 2) that outputs of inputs of `input_sizes` (N, 2) may have, at most 30."""
        multiply, divide, add = np.array([self.height[1:], self.width[1:]]).T
        return np.minimum(input_sizes * multiply // divide + add, MAX_SIDE)

    def canvas(self, input_sizes: Sizes, output_sizes: Sizes | None = None) -> Sizes:
        """Return canvas sizes (N, 2) that hold each input and the bound of its output, and the true output if it is given."""
        canvas = np.maximum(self.bound(input_sizes), input_sizes)
        return canvas if output_sizes is None else np.maximum(canvas, output_sizes)


def grid_sizes(grids: Iterable[Grid]) -> Sizes:
    """Return the sizes (N, 2) of N grids."""
    return np.array([grid.shape for grid in grids], dtype=np.int64).reshape(-1, 2)


def size_rule(input_sizes: Sizes, output_sizes: Sizes) -> SizeRule:
    """Return the rule that demonstrations with inputs and outputs of these sizes, (N, 2) each, suggest; N may be 0."""
    inputs, outputs = input_sizes.T.tolist(), output_sizes.T.tolist()
    if len(input_sizes) < 2 and (len(input_sizes) == 0 or inputs != outputs):  # nothing to compare
        return SizeRule(*[AxisRule("fallback", add=MAX_SIDE)] * 2)
    return SizeRule(*(_axis_rule(given, wanted) for given, wanted in zip(inputs, outputs, strict=True)))


def _axis_rule(inputs: list[int], outputs: list[int]) -> AxisRule:
    """Return the first of the rules that the lengths of inputs and outputs along one axis allow."""
    if inputs == outputs:
        return AxisRule("same", multiply=1)
    shortest, longest = min(outputs), max(outputs)
    if shortest == longest:
        return AxisRule("constant", add=longest)
    given, wanted = inputs[0], outputs[0]
    multiply, divide = (wanted // given, 1) if wanted >= given else (1, given // wanted)
    if all(given * multiply == wanted * divide for given, wanted in zip(inputs, outputs, strict=True)):
        return AxisRule("ratio", multiply, divide)
    if len(inputs) >= WITHIN_DEMONSTRATIONS and all(wanted <= given for given, wanted in zip(inputs, outputs, strict=True)):
        return AxisRule("within", multiply=1)
    return AxisRule("bounded", add=longest + (longest - shortest) + MARGIN)


class SizeRuleRow(NamedTuple):
    """The cost of a rule on test outputs that are known. Tokens are cells, on average."""

    rule: str
    """One of `SIZE_RULES`, or "all"."""
    outputs: int
    misses: int
    """Outputs that do not fit on their canvas."""
    canvas_tokens: float
    box_tokens: float
    """Of the smallest canvas that holds both input and output."""


def measure_size_rules(sources: Iterable[Source]) -> tuple[SizeRuleRow, ...]:
    """Return one row for each rule that some task of `sources` with known solutions follows, and last one for all together."""
    measured: dict[str, list[Sizes]] = {}
    for source in sources:
        for task in watch(source.tasks, f"measuring {source.name}", unit="tasks"):
            if task.id not in source.solutions:
                continue
            rule = size_rule(grid_sizes(pair.input for pair in task.train), grid_sizes(pair.output for pair in task.train))
            inputs, outputs = grid_sizes(task.test), grid_sizes(source.solutions[task.id])
            sizes = np.stack([rule.canvas(inputs), outputs, np.maximum(inputs, outputs)], axis=1)  # (N, 3, 2)
            measured.setdefault(rule.name, []).append(sizes)
    groups = {name: measured[name] for name in SIZE_RULES if name in measured}
    rows = []
    for name, group in [*groups.items(), ("all", list(chain.from_iterable(groups.values())))] if groups else ():
        canvas, output, box = np.concatenate(group).transpose(1, 0, 2)  # (N, 2) each
        misses, tokens, box_tokens = (output > canvas).any(axis=1).sum(), canvas.prod(axis=1).mean(), box.prod(axis=1).mean()
        rows.append(SizeRuleRow(name, len(canvas), int(misses), float(tokens), float(box_tokens)))
    return tuple(rows)


def format_size_rules(rows: Sequence[SizeRuleRow]) -> str:
    """Return `rows` as a table in text; a full canvas has 900 tokens."""
    lines = ["rule      outputs  too small  tokens  of 900  exact box"]
    for row in rows:
        share = f"{row.canvas_tokens / MAX_SIDE**2:6.1%}"
        lines.append(f"{row.rule:8}  {row.outputs:7}  {row.misses:9}  {row.canvas_tokens:6.1f}  {share}  {row.box_tokens:9.1f}")
    return "\n".join(lines)
