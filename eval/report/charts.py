"""Charts of a report as inline SVG, each labelled for screen readers: curves, a bar of shares, a histogram."""

import math
from collections.abc import Sequence
from html import escape

Point = tuple[float, float]
WIDTH, HEIGHT = 360, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 18, 12, 40
MOST_POINTS = 240
"""A curve is thinned out to so many points, each the mean of its neighbors."""


def draw_curve(points: Sequence[Point], name: str, unit: str, floor: float | None = None) -> str:
    """Return the SVG of (seconds, value) `points` against minutes, from `floor` or the least value up; "" for no finite one."""
    finite = [(seconds / 60, value) for seconds, value in points if math.isfinite(seconds) and math.isfinite(value)]
    if not finite:
        return ""
    shown = thin_out(finite)
    low = min(value for _, value in shown) if floor is None else floor
    rows = _ticks(low, max(*(value for _, value in shown), low))
    columns = _ticks(0.0, max(minutes for minutes, _ in shown))
    right, bottom, top = columns[-1], rows[0], rows[-1]

    def across(minutes: float) -> str:
        return f"{_LEFT + (WIDTH - _LEFT - _RIGHT) * minutes / right:.1f}"

    def down(value: float) -> str:
        return f"{HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (value - bottom) / (top - bottom):.1f}"

    parts = [_rule(down(value), value) for value in rows]
    parts += [_column(across(minutes), _short(minutes)) for minutes in columns]
    parts.append(_caption("minutes of training"))
    if len(shown) > 1:
        line = " ".join(f"{across(minutes)},{down(value)}" for minutes, value in shown)
        parts.append(f'<polyline class="curve" points="{line}"/>')
    else:
        parts.append(f'<circle class="dot" cx="{across(shown[0][0])}" cy="{down(shown[0][1])}" r="3"/>')
    first, last = finite[0][1], finite[-1][1]
    label = f"{name}: from {_short(first)} to {_short(last)}{unit} over {_short(finite[-1][0])} minutes of training"
    return _svg(label, parts)


def draw_shares(shares: Sequence[tuple[str, float]], marks: Sequence[str]) -> str:
    """Return the SVG of a bar cut into parts in proportion, `shares` being (name, amount), with a class of `marks` each."""
    total = sum(amount for _, amount in shares)
    if total <= 0:
        return ""
    parts, x = [], 0.0
    for (name, amount), mark in zip(shares, marks, strict=True):
        width = 600 * amount / total
        tip = f"<title>{escape(name)}</title>"
        parts.append(f'<rect class="{mark}" x="{x:.2f}" y="0" width="{max(width - 1, 0.5):.2f}" height="22">{tip}</rect>')
        x += width
    label = ", ".join(f"{name} {amount / total:.0%}" for name, amount in shares)
    return _svg(label, parts, 600, 22, "none")


def draw_histogram(counts: Sequence[Sequence[int]], names: Sequence[str], label: str) -> str:
    """Return the SVG of ten stacked columns, 0% to 100%: ten `counts` for each of `names`, the second of which is hatched."""
    rows = [value for value in _ticks(0, max(1, *map(sum, zip(*counts, strict=True)))) if value == int(value)]
    parts = [
        '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect class="hatch-ground" width="6" height="6"/><line class="hatch-line" x1="0" x2="0" y1="0" y2="6"/></pattern>'
        "</defs>"
    ]
    scale, column = (HEIGHT - _TOP - _BOTTOM) / rows[-1], (WIDTH - _LEFT - _RIGHT) / 10
    parts += [_rule(f"{HEIGHT - _BOTTOM - value * scale:.1f}", value) for value in rows]
    for number in range(10):
        y = float(HEIGHT - _BOTTOM)
        for series, name in enumerate(names):
            height = counts[series][number] * scale
            y -= height
            if height:
                tip = f"{10 * number}% to {10 * number + 10}%: {counts[series][number]} {name}"
                x = _LEFT + number * column + 2
                parts.append(
                    f'<rect class="series-{series}" x="{x:.1f}" y="{y:.1f}" width="{column - 4:.1f}" height="{height:.1f}">'
                    f"<title>{escape(tip)}</title></rect>"
                )
    parts += [_column(f"{_LEFT + number * column:.1f}", f"{10 * number}%") for number in range(0, 11, 2)]
    return _svg(label, [*parts, _caption("views that predicted attempt 1")])


def thin_out(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Return `points`, in order, as at most `most`: means of neighbors, the last point as it is."""
    if len(points) <= most:
        return list(points)
    size = math.ceil((len(points) - 1) / (most - 1))
    groups = [points[start : min(start + size, len(points) - 1)] for start in range(0, len(points) - 1, size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups] + [points[-1]]


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return round numbers, equally far apart, the first at most `low` and the last at least `high`."""
    span = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / count))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if span / (factor * step) <= count)
    start = math.floor(low / step + 1e-9)
    stop = max(math.ceil(high / step - 1e-9), start + 1)
    return [number * step for number in range(start, stop + 1)]


def _short(value: float) -> str:
    if abs(value) >= 999.5e3:
        return f"{value / 1e6:.3g}M"
    return f"{value / 1e3:.3g}k" if abs(value) >= 9999.5 else f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def _rule(y: str, value: float) -> str:
    line = f'<line class="rule" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
    return f'{line}<text x="{_LEFT - 6}" y="{y}" dy="0.32em" text-anchor="end">{_short(value)}</text>'


def _column(x: str, text: str) -> str:
    return f'<text x="{x}" y="{HEIGHT - 24}" text-anchor="middle">{text}</text>'


def _caption(text: str) -> str:
    return f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{text}</text>'


def _svg(label: str, parts: Sequence[str], width: int = WIDTH, height: int = HEIGHT, aspect: str = "xMidYMid meet") -> str:
    return (
        f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height}" preserveAspectRatio="{aspect}">'
        f"{''.join(parts)}</svg>"
    )
