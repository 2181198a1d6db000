from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytest

from augment.errors import InputError
from eval.decode import decode


@dataclass(frozen=True)
class Inner:
    count: int
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    name: str
    kind: Literal["a", "b"] = "a"
    rate: float = 0.5
    limit: int | None = 3
    views: tuple[int, float] = (1, 2.0)
    inner: Inner | None = None
    by_name: Mapping[str, tuple[Inner, ...]] = field(default_factory=dict)
    more: Any = None

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise InputError("rate must not be negative")


def test_what_was_encoded_comes_back() -> None:
    value = Outer("x", "b", 2.0, None, (3, 4.0), Inner(1, ("y",)), {"z": (Inner(2), Inner(3))}, [1, "two"])
    values = {**asdict(value), "views": [3, 4], "inner": {"count": 1, "words": ["y"]}}
    values["by_name"] = {"z": [{"count": 2, "words": []}, {"count": 3}]}
    assert decode(Outer, values) == value


def test_what_is_missing_or_null_has_its_default_and_unknown_fields_are_left_out_where_that_is_asked() -> None:
    assert decode(Outer, {"name": "x", "rate": None, "kind": None}) == Outer("x")
    assert decode(Outer, {"name": "x", "limit": None}).limit is None  # null is a value there
    assert decode(Outer, {"name": "x", "later": 1}, ignore_unknown=True) == Outer("x")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"^f\.json: expected an object, got \[\]$"),
        ({}, r"^f\.json: name is missing$"),
        ({"name": None}, r"^f\.json: name must be of type str, got None$"),
        ({"name": "x", "later": 1}, r"^f\.json: unknown field .later.; one of: name, kind, "),
        ({"name": 1}, r"^f\.json: name must be of type str, got 1$"),
        ({"name": "x", "kind": "c"}, r"^f\.json: kind must be one of a, b, got 'c'$"),
        ({"name": "x", "kind": ["a"]}, r"^f\.json: kind must be one of a, b, got \['a'\]$"),
        ({"name": "x", "rate": True}, "rate must be of type float, got True$"),
        ({"name": "x", "rate": float("nan")}, "rate must be finite, got nan$"),
        ({"name": "x", "rate": 10**400}, "rate must be finite, got inf$"),
        ({"name": "x", "rate": -1.0}, r"^f\.json: rate must not be negative$"),
        ({"name": "x", "limit": 1.0}, "limit must be of type int, got 1.0$"),
        ({"name": "x", "views": [1]}, r"views must be a list, got \[1\]$"),
        ({"name": "x", "views": [1, "2"]}, "views must be of type float, got '2'$"),
        ({"name": "x", "inner": {"count": 1, "words": "y"}}, r"^f\.json: inner: words must be a list, got 'y'$"),
        ({"name": "x", "by_name": []}, r"by_name must be an object, got \[\]$"),
        ({"name": "x", "by_name": {"t\n": [{}]}}, r"^f\.json: by_name, 't\\n': count is missing$"),
    ],
)
def test_what_does_not_fit_is_named(values: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(Outer, values, "f.json")
