"""Charts are well-formed SVG that shows the numbers it was given."""

import math
from xml.etree import ElementTree

import pytest

from eval.report.charts import HEIGHT, MOST_POINTS, draw_curve, draw_histogram, draw_shares, thin_out


def places(svg: str) -> list[tuple[float, float]]:
    """The corners of the curve."""
    line = ElementTree.fromstring(svg).find("polyline")
    assert line is not None
    return [(float(x), float(y)) for x, y in (point.split(",") for point in line.attrib["points"].split())]


def test_a_curve_is_drawn_to_scale() -> None:
    (x0, y0), (x1, y1), (x2, y2) = places(draw_curve([(0, 0.0), (60, 5.0), (120, 10.0)], "Loss", ""))
    assert x1 - x0 == pytest.approx(x2 - x1)
    assert y0 - y1 == pytest.approx(y1 - y2)
    assert y2 < y0  # more is higher


def test_a_curve_says_in_words_what_it_shows() -> None:
    svg = ElementTree.fromstring(draw_curve([(30, 2.0), (600, 0.25)], "Loss <x>", ""))
    assert svg.attrib["aria-label"] == "Loss <x>: from 2 to 0.25 over 10 minutes of training"
    assert "minutes of training" in [element.text for element in svg.iter("text")]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.25, "0.25"),
        (999.4, "999"),
        (999.7, "1000"),
        (9999.4, "9999"),
        (9999.7, "10k"),
        (999_400.0, "999k"),
        (999_700.0, "1M"),
    ],
)
def test_numbers_are_short_and_never_in_powers_of_ten(value: float, text: str) -> None:
    assert f"to {text} over" in draw_curve([(30, 1.0), (600, value)], "Loss", "")


def test_what_is_not_finite_is_left_out() -> None:
    assert len(places(draw_curve([(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0), (math.nan, 1.0)], "Loss", ""))) == 2
    assert draw_curve([(0, math.nan)], "Loss", "") == ""
    assert draw_curve([], "Loss", "") == ""


@pytest.mark.parametrize("points", [[(0.0, 0.0)], [(5.0, 3.0)], [(0.0, 2.0), (9.0, 2.0)], [(1.0, -3e-9), (2.0, 4e12)]])
def test_single_equal_and_extreme_values_are_drawn_within_the_frame(points: list[tuple[float, float]]) -> None:
    svg = ElementTree.fromstring(draw_curve(points, "Loss", ""))
    dot = svg.find("circle")
    found = [(float(dot.attrib["cx"]), float(dot.attrib["cy"]))] if dot is not None else places(draw_curve(points, "Loss", ""))
    assert all(0 <= x <= 360 and 0 <= y <= HEIGHT for x, y in found)


def test_a_long_curve_is_thinned_out_and_keeps_its_ends() -> None:
    points = [(float(i), math.sin(i / 50)) for i in range(9999)]
    thin = thin_out(points)
    assert len(thin) <= MOST_POINTS
    assert thin[-1] == points[-1]
    assert thin[0][0] < 50
    assert [x for x, _ in thin] == sorted(x for x, _ in thin)
    assert thin_out(points[:MOST_POINTS]) == points[:MOST_POINTS]


def test_shares_are_as_wide_as_their_amounts() -> None:
    svg = ElementTree.fromstring(draw_shares([("train", 75.0), ("predict", 25.0)], ["a", "b"]))
    first, second = (float(rect.attrib["width"]) for rect in svg.iter("rect"))
    assert first / second == pytest.approx(3, abs=0.05)
    assert svg.attrib["aria-label"] == "train 75%, predict 25%"
    assert [rect.attrib["class"] for rect in svg.iter("rect")] == ["a", "b"]
    assert draw_shares([("train", 0.0)], ["a"]) == ""


def test_columns_of_a_histogram_stand_on_each_other() -> None:
    svg = ElementTree.fromstring(draw_histogram([[2] + [0] * 9, [1] + [0] * 8 + [4]], ["right", "wrong"], "Votes"))
    columns = [rect for rect in svg.iter("rect") if rect.attrib.get("class", "").startswith("series")]
    assert [rect[0].text for rect in columns] == ["0% to 10%: 2 right", "0% to 10%: 1 wrong", "90% to 100%: 4 wrong"]
    right, wrong, _ = columns
    assert float(wrong.attrib["y"]) + float(wrong.attrib["height"]) == pytest.approx(float(right.attrib["y"]), abs=0.11)
