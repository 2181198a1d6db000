"""Looks at a pickle without building anything: are its tuples small, as those of every state dict are?

A few bytes can say a tuple of tuples of the same tuples, whose hash takes longer than anybody lives, or one so deep that Python
ends. `torch.load` builds them even with `weights_only`; under `pipeline.published.files` this comes before it.
"""

import pickletools
from collections.abc import Iterator
from typing import Protocol

MOST_VALUES = 1000
"""In a tuple, all that is within its tuples counted. A tensor is made from some twenty."""

MOST_OPERATIONS = 2_000_000
"""Of one pickle, which take some seconds. A tensor takes about sixty."""

LEGACY_PICKLES = 5
"""One after the other, at the beginning of what torch.save wrote before version 1.6: the state dict is the fourth."""

_MARK = -1


class Readable(Protocol):
    """What `pickletools` reads: a file whose `read` never makes room for more than there is."""

    def read(self, size: int = ..., /) -> bytes:
        """Return up to `size` bytes."""

    def readline(self) -> bytes:
        """Return a line."""


def check_tuples(content: Readable, pickles: int = 1) -> None:
    """Raise ValueError when one of so many `pickles` is damaged, too long, or has a tuple of more than `MOST_VALUES`."""
    for _ in range(pickles):
        _check(content)


def _check(content: Readable) -> None:
    stack: list[int] = []  # how many values each has, as far as it is made of tuples; or a mark
    memo: dict[int, int] = {}
    try:
        for number, (operation, argument, _) in enumerate(pickletools.genops(content)):  # type: ignore[arg-type]
            if number == MOST_OPERATIONS:
                raise ValueError(f"a pickle of more than {MOST_OPERATIONS:,} operations, as no state dict is")
            name = operation.name
            taken = list(_take(operation, stack))
            if name == "MARK":
                stack.append(_MARK)
            elif name.endswith("GET"):
                stack.append(memo[int(argument or 0)])
            elif name.endswith("PUT"):
                memo[int(argument or 0)] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = taken[0]
                stack.append(taken[0])
            else:
                joins = name.startswith(("TUPLE", "REDUCE", "NEWOBJ", "FROZENSET", "DUP"))
                size = 1 + (sum(taken) if joins else 0)
                if size > MOST_VALUES:
                    raise ValueError(f"a tuple of more than {MOST_VALUES} values, as no state dict has")
                stack += [size] * len(operation.stack_after)
    except (IndexError, KeyError):
        raise ValueError("a pickle that takes what is not there") from None


def _take(operation: pickletools.OpcodeInfo, stack: list[int]) -> Iterator[int]:
    """Take off `stack`, and yield, the values that an operation uses up."""
    for what in reversed(operation.stack_before):
        if what is pickletools.stackslice:
            while stack[-1] != _MARK:
                yield stack.pop()
        elif what is pickletools.markobject:
            if stack.pop() != _MARK:
                raise IndexError
        elif stack[-1] == _MARK:
            raise IndexError
        else:
            yield stack.pop()
