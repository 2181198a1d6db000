"""Decodes JSON of this program into dataclasses and checks each field against its annotation; `__post_init__` does the rest."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from augment.errors import InputError
from eval.files import read_object
from eval.formatting import show_name, show_path, show_value

T = TypeVar("T")


def decode(kind: type[T], values: object, where: str = "", ignore_unknown: bool = False) -> T:
    """Return the dataclass `kind` that holds the JSON object `values`, checked field by field against its annotations.

    Understood are int, float, str, bool, Any, Literal, unions with None, tuple[X, ...], tuple[X, Y], Mapping[str, X] and
    dataclasses. A field that is missing, or null where null does not fit, has its default. Raises InputError of one line that
    begins with `where` and names the field: for one that is missing without a default, does not fit, or, unless
    `ignore_unknown`, does not exist. What `__post_init__` refuses is raised in the same way.
    """
    begin = f"{where}: " if where else ""
    if not isinstance(values, Mapping):
        raise InputError(f"{begin}expected an object, got {show_value(values)}")
    hints, known = get_type_hints(kind), {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in known and not ignore_unknown:
            raise InputError(f"{begin}unknown field {show_value(name)}; one of: {', '.join(known)}")
    given = {}
    for name, field in known.items():
        value = values.get(name)
        optional = field.default is not MISSING or field.default_factory is not MISSING
        if name not in values or (value is None and optional and NoneType not in get_args(hints[name])):
            if not optional:
                raise InputError(f"{begin}{name} is missing")
            continue
        given[name] = decode_value(hints[name], value, f"{begin}{name}")
    try:
        return kind(**given)
    except InputError as error:
        raise InputError(f"{begin}{error}") from None


def read_dataclass(kind: type[T], path: Path) -> T | None:
    """Return what `decode` makes of a JSON file, of another version too; None where there is none. Raises InputError."""
    return decode(kind, read_object(path), show_path(path), ignore_unknown=True) if path.exists() else None


def decode_value(kind: Any, value: object, name: str) -> Any:  # noqa: PLR0911 (one for each kind)
    """Return the JSON value `value` as the annotated type `kind`. Raises InputError that begins with `name`, as `decode`."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value not in parts:
            raise InputError(f"{name} must be one of {', '.join(map(str, parts))}, got {show_value(value)}")
        return value
    if origin in (Union, UnionType):
        if value is None and NoneType in parts:
            return None
        return decode_value(next(part for part in parts if part is not NoneType), value, name)
    if origin is tuple and isinstance(value, list):
        inner = [parts[0]] * len(value) if parts[-1] is Ellipsis else parts
        if len(inner) == len(value):
            return tuple(decode_value(part, item, name) for part, item in zip(inner, value, strict=True))
    if origin is Mapping and isinstance(value, dict):
        return {key: decode_value(parts[1], item, f"{name}, {show_name(key)}") for key, item in value.items()}
    if is_dataclass(kind) and isinstance(kind, type):
        return decode(kind, value, name)
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 1 << 1023 else math.inf
    if type(value) is float and kind is float and not math.isfinite(value):
        raise InputError(f"{name} must be finite, got {value}")
    if kind is Any or type(value) is kind:
        return value
    words = "a list" if origin is tuple else "an object" if origin is Mapping else f"of type {kind.__name__}"
    raise InputError(f"{name} must be {words}, got {show_value(value)}")
