"""Values from outside are shown on one short, printable line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.formatting import show_name, show_path, show_value


def test_shown_values_are_one_short_line_however_large_and_deep() -> None:
    deep: object = []
    for _ in range(5000):
        deep = [deep]
    values = [deep, {"a" * 1000: deep}, "x\n" * 1000, 10**5000, list(range(10_000)), None, b"\n" * 1000, ("a", ["b", deep])]
    for value in values:
        assert len(show_value(value)) < 300
        assert show_value(value).isprintable()
    assert show_value("a b") == "'a b'"
    assert show_value(-3) == "-3"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("007bbfb7", "007bbfb7"),
        ("Extract.Objects-10_a", "Extract.Objects-10_a"),
        ("", "''"),
        ("a b", "'a b'"),
        ("\u202eabc\u2028", "'\\u202eabc\\u2028'"),
        ("\ud800", "'\\ud800'"),
        ("x" * 60, "x" * 60),
        ("x" * 61, "'" + "x" * 56 + "..."),
    ],
)
def test_odd_names_are_quoted_and_cut(name: str, shown: str) -> None:
    assert show_name(name) == shown


@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=100))
def test_shown_names_are_short_and_print(name: str) -> None:
    assert show_name(name).isprintable()
    assert len(show_name(name)) <= 60
    assert show_path(name).isprintable()


def test_paths_are_shown_in_full() -> None:
    assert show_path("/a b/" + "d/" * 100) == "/a b/" + "d/" * 100
    assert show_path("a\nb") == "'a\\nb'"
