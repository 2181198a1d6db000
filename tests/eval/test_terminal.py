"""Grids as text: exact colors, digits without colors, and never wider than the terminal."""

import io
import re

import numpy as np
import pytest

from eval.draw import Panel
from eval.terminal import Look, draw_panels, look_of
from tests.grids import grid

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def plain(lines: list[str]) -> list[str]:
    return [ESCAPE.sub("", line) for line in lines]


SMALL = grid([0, 1], [2, 9], [3, 3])


class Terminal(io.StringIO):
    encoding = "UTF-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "colors"),
    [
        ({"COLORTERM": "truecolor", "TERM": "xterm-256color"}, "truecolor"),
        ({"TERM": "xterm-256color"}, "256"),
        ({"COLORTERM": "truecolor", "TERM": "dumb"}, "none"),
        ({"COLORTERM": "truecolor", "NO_COLOR": "1"}, "none"),
        ({"COLORTERM": "truecolor", "NO_COLOR": ""}, "truecolor"),
    ],
)
def test_colors_are_as_good_as_the_terminal_says(environ: dict[str, str], colors: str) -> None:
    assert look_of(Terminal(), "auto", environ).colors == colors
    assert look_of(Terminal(), "never", environ).colors == "none"


def test_a_file_gets_no_colors_unless_they_are_asked_for_and_the_width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look_of(io.StringIO(), "auto", {"COLORTERM": "truecolor"}).colors == "none"
    assert look_of(io.StringIO(), "always", {}).colors == "truecolor"
    monkeypatch.setenv("COLUMNS", "123")
    assert look_of(Terminal(), "auto", {}).width == 123


def test_digits_mark_wrong_cells_with_a_star_and_a_missing_attempt_is_an_empty_frame() -> None:
    lines = draw_panels([[Panel("attempt 1", SMALL, "1 WRONG", SMALL == 9)]], Look())
    assert lines == ["attempt 1", "1 WRONG", "+-----+", "| 0 1 |", "| 2*9 |", "| 3 3 |", "+-----+"]
    assert "|none|" in draw_panels([[Panel("attempt 2", None)]], Look())


def test_two_columns_of_the_exact_color_are_a_cell_and_a_cross_marks_a_wrong_one() -> None:
    lines = draw_panels([[Panel("x", SMALL, "", SMALL == 9)]], Look("truecolor", 80, True))
    assert plain(lines)[3:6] == ["│    │", "│  ><│", "│    │"]
    assert "\x1b[48;2;0;0;0m  \x1b[48;2;0;116;217m  \x1b[0m" in lines[3]
    assert "\x1b[48;2;135;12;37m" in lines[4]  # color 9, #870C25
    assert lines[5].count("48;2;46;204;64") == 1, "equal neighbors share a code"


def test_half_blocks_put_two_rows_on_a_line_where_a_pair_is_too_wide() -> None:
    pair = [Panel("in", np.full((5, 30), 1, np.uint8), arrow=True), Panel("out", np.full((5, 30), 2, np.uint8))]
    lines = draw_panels([pair], Look("truecolor", 80, True))
    assert [line.count("▀") for line in lines] == [0, 0, 0, 60, 60, 60, 0]
    assert any("→" in line for line in lines)
    assert "\x1b[49m▀" in lines[5], "the last row has nothing below it"
    assert max(map(len, plain(lines))) <= 80


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("look", [Look(), Look("256", unicode=True), Look("truecolor", unicode=True)])
def test_rows_fit_the_width_and_every_panel_is_drawn(width: int, look: Look) -> None:
    groups = [[Panel(f"in {i}", SMALL, arrow=True), Panel(f"out {i}", SMALL.T.copy())] for i in range(5)]
    lines = plain(draw_panels(groups, Look(look.colors, width, look.unicode)))
    assert max(map(len, lines)) <= width
    assert all(any(f"out {i}" in line for line in lines) for i in range(5))
    if width == 200:
        assert len(lines) == 7, "all side by side"
