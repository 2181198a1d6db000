"""The figures of a benchmark as lines of a table: what was measured, of which side, and how many times better ours is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.bench.measure import Timings
from pipeline.bench.plan import SIDES


@dataclass(frozen=True)
class Row:
    """One figure of each side."""

    name: str
    values: Mapping[str, float | None]
    """By side; None where it was not measured."""
    more_is_better: bool = True
    unit: str = ""
    """B for bytes, % for shares, s for seconds, exponent; otherwise a plain number."""

    @property
    def ratio(self) -> float | None:
        """How many times better ours is than the published way; None for shares, exponents and where one is missing."""
        published, ours = self.values.get("published"), self.values.get("ours")
        if not published or not ours or self.unit in ("%", "exponent"):
            return None
        return ours / published if self.more_is_better else published / ours

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain values."""
        return {"name": self.name, "unit": self.unit, "ratio": self.ratio, **self.values}


def rate_row(name: str, timings: dict[str, Timings], units: float = 1.0) -> Row:
    """Return the row of how many units are done in a second: `units` of them in one of the input's."""
    return Row(name, {side: units / timed.seconds_per_unit for side, timed in timings.items()})


def exponent_row(name: str, timings: dict[str, Timings]) -> Row:
    """Return the row of how time grows with the input: the exponent, and between which sizes."""
    sizes = next(iter(timings.values())).sizes
    label = f"{name}, exponent of the time for {sizes[0]} to {sizes[-1]}"
    return Row(label, {side: timed.exponent for side, timed in timings.items()}, more_is_better=False, unit="exponent")


def format_rows(rows: Sequence[Row]) -> str:
    """Return `rows` as a table in text."""
    names = [row.name for row in rows]
    width = max(map(len, names), default=0)
    sides = [side for side in SIDES if any(row.values.get(side) is not None for row in rows)]
    sides += sorted({side for row in rows for side in row.values} - set(sides))
    lines = [f"{'':{width}}  " + "  ".join(f"{side:>13}" for side in sides) + "  times better"]
    for row in rows:
        values = "  ".join(f"{_show(row.values.get(side), row.unit):>13}" for side in sides)
        ratio = "" if row.ratio is None else f"{row.ratio:>11.{1 if row.ratio < 100 else 0}f}x"
        lines.append(f"{row.name:{width}}  {values}  {ratio}".rstrip())
    return "\n".join(lines)


def _show(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "B":
        size, name = next((size, name) for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (0, "B")) if value >= size)
        return f"{value / (size or 1):.1f} {name}"
    if unit == "%":
        return f"{100 * value:.1f}%"
    if unit == "s":
        return f"{1e3 * value:.1f} ms"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value < 100 else f"{value:.1f}"
