"""What is compiled for CPUs, where a C++ compiler is at hand: blocks, whose passes over memory it fuses.

`compiled_on_cpu` marks functions of tensors whose plain formula a compiler takes. They run as they are until `enable_compiler`
has found that compiled code works here, and again after any of them failed to compile. Nothing needs it: without a compiler
the same is computed, more slowly.
"""

import math
from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from pipeline.device_limits import fall_back, kernel_works

P = ParamSpec("P")
R = TypeVar("R")
COMPILE_SECONDS = 90.0
"""What it may take. With less left nothing is compiled for a CPU, whatever the settings say."""
MIN_COMPILE_SECONDS = 240.0
"""Of training or prediction that is left: "auto" compiles for no less."""
MOST_VARIANTS = 64
"""Times that a function or block is compiled in a process: with and without gradients, for other dtypes, networks, shapes."""
_enabled = False
_failed = False
"""Whether a function could not be compiled; then nothing is any more."""


def time_to_compile(execution: str, left: float) -> bool:
    """Return whether `execution`, as in `train.execution`, compiles for a CPU with `left` seconds of training or prediction.

    It says so where there is too little time for what the settings ask for.
    """
    enough = left > {"auto": MIN_COMPILE_SECONDS, "compiled": COMPILE_SECONDS}.get(execution, math.inf)
    if execution == "compiled" and not enough:
        fall_back(f"train.execution=compiled: no time to compile with {left:.0f} s left, eager")
    return enough


def is_enabled() -> bool:
    """Return whether marked functions are compiled."""
    return _enabled


def enable_compiler(on: bool = True) -> bool:
    """Turn compilation of marked functions on, if a trial succeeds, or off; return whether it is on."""
    global _enabled  # noqa: PLW0603 (one compiler for all networks of a process)
    _enabled = on and not _failed and kernel_works("the compiler for CPUs", trial_error)
    return _enabled


def disable_compiler() -> None:
    """Compile nothing any more in this process."""
    global _failed  # noqa: PLW0603
    _failed = True
    enable_compiler(False)


def reason_of(error: BaseException) -> str:
    """Return the first paragraph of what a compiler says, in one line."""
    return " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__


def configure_compiler() -> None:
    """Have the compiler take functions and blocks whole, and as often as they come in another variant."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_VARIANTS)
    torch._dynamo.config.optimize_ddp = False  # it would cut what a distributed module calls at the sizes of gradient buckets


def compiler_errors() -> tuple[type[Exception], ...]:
    """Return what code raises that cannot be compiled, or not once more for other kinds of arguments."""
    return torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit  # imported when they are raised


def compiled_on_cpu(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function of tensors on a CPU, of any sizes, that a compiler takes whole."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling() or not _enabled:
            return function(*args, **kwargs)
        try:
            return _compile(function)(*args, **kwargs)
        except compiler_errors() as error:
            disable_compiler()
            fall_back(f"{function.__qualname__} cannot be compiled, everything is computed without: {reason_of(error)}")
            return function(*args, **kwargs)

    return call


@cache
def _compile(function: Callable[P, R]) -> Callable[P, R]:
    """Return what compiles `function` when it is called, once for sizes of any kind.

    Indices are those of a layout and are not checked: checks take a quarter of the time of a convolution.
    """
    configure_compiler()
    return torch.compile(function, dynamic=True, fullgraph=True, options={"assert_indirect_indexing": False})


def _trial(x: Tensor, there: Tensor) -> Tensor:
    wide = x[there].float()
    return torch.sigmoid(wide) * (wide.square().mean(-1, keepdim=True) + 1).rsqrt()


def trial_error() -> float:
    """Return how far a compiled function is off its formula, relative to the largest value."""
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(0)).bfloat16()
    there = torch.tensor([4, 0, 1, 3, 2])
    plain, fused = _trial(x, there), _compile(_trial)(x, there)
    return float((fused - plain).abs().max() / plain.abs().max())
