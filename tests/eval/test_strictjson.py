"""JSON from outside: what is refused, and how names from outside are shown."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.files import parse_json
from eval.formatting import show_name, show_path

LEAVES = st.none() | st.booleans() | st.integers(-5, 20) | st.text(max_size=4)
DOCUMENTS = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@settings(max_examples=50, deadline=None)
@given(DOCUMENTS, st.booleans())
def test_documents_are_read_as_json_reads_them(document: object, escape: bool) -> None:
    text = json.dumps(document, ensure_ascii=escape)
    assert parse_json(text.encode(), "here") == json.loads(text)


@settings(max_examples=50, deadline=None)
@given(DOCUMENTS, st.text(max_size=3), DOCUMENTS)
def test_key_that_comes_twice_is_found_wherever_it_is(document: object, key: str, value: object) -> None:
    key_text = json.dumps(key)
    twice = f"{{{key_text}: {json.dumps(value)}, {key_text}: 1}}"
    for text in (twice, f"[{json.dumps(document)}, {twice}]", f'{{"a": [{twice}], "b": {json.dumps(document)}}}'):
        with pytest.raises(ValueError, match=r"^here: .*appears twice$"):
            parse_json(text.encode(), "here")


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b'{"t": {"train": [1, {"a": 1, "a": 1}]}}', "here: in t, train, 1: a appears twice"),
        (b'{"a": 1, "a": "b"}', "here: a appears twice"),
        (b'{"a": {"b": "\\"", "c": 1}, "a": 2}', "here: a appears twice"),
        (b'{"\\u0061": 1, "a": 2}', "here: a appears twice"),
        (b'{"a": 1, "a": 1, "b": "' + b"\\n" * 50 + b'"}', "here: a appears twice"),
        (b"", "here: not JSON: "),
        (b"{", "line 1 column 2"),
        (b'{"a": 1}\n{', "line 2 column 1"),
        (b'{"a": "\xff"}', "here: not UTF-8: invalid start byte at byte 7"),
        ('{"a": 1}'.encode("utf-16"), "here: not UTF-8"),
        (b'"\\ud800"', "here: not JSON: "),
        (b"[NaN]", "line 1 column 2"),
        (b"[-Infinity]", "here: not JSON: "),
        (b"[1e999]", "here: not JSON: "),
        (b"1" * 5000, "here: not JSON: "),
        (b"[" * 100_000, "here: not JSON: "),
        (b"[" * 1_000_000 + b"]" * 1_000_000, "here: not JSON: "),
    ],
)
def test_what_is_refused_is_explained_on_one_line(data: bytes, complaint: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_json(data, "here")
    assert str(caught.value).isprintable()
    assert complaint in str(caught.value)


def test_deep_search_for_repeated_keys_gives_an_answer_or_a_refusal() -> None:
    data = b"[" * 990 + b'"a"' + b"]" * 990  # a string in a list starts the search, in which Python 3.11 goes less deep
    try:
        assert isinstance(parse_json(data, "here"), list)
    except ValueError as error:
        assert str(error) == "here: objects and lists are nested too deeply"


def test_nesting_within_bounds_is_read() -> None:
    document = parse_json(b"[" * 1000 + b"]" * 1000, "here")
    assert isinstance(document, list)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("007bbfb7", "007bbfb7"),
        ("Extract.Objects-10_a", "Extract.Objects-10_a"),
        ("", "''"),
        ("a b", "'a b'"),
        ("a\nb", "'a\\nb'"),
        ("\x1b[31m", "'\\x1b[31m'"),
        ("\u202eabc\u2028", "'\\u202eabc\\u2028'"),
        ("\ud800", "'\\ud800'"),
        ("x" * 60, "x" * 60),
        ("x" * 61, "'" + "x" * 56 + "..."),
    ],
)
def test_odd_names_are_quoted_and_cut(name: str, shown: str) -> None:
    assert show_name(name) == shown


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=100))
def test_shown_names_are_short_and_print(name: str) -> None:
    assert show_name(name).isprintable()
    assert len(show_name(name)) <= 60
    assert show_path(name).isprintable()


def test_long_paths_are_shown_in_full() -> None:
    assert show_path("d/" * 100 + "x.json") == "d/" * 100 + "x.json"
    assert show_path("a\nb") == "'a\\nb'"
