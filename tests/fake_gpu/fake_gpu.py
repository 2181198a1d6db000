"""A GPU that does not exist: CUDA tensors have shapes but no values, and whatever a real GPU would have to do is counted.

Tensors on the CPU are real, so that packs and layouts are made as ever. What is on the device is a FakeTensor: an operation on
tensors of two devices, a read of a value, or a result whose shape depends on values fails there. It needs the device of
guard.cpp.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from pipeline.bench.measure import kernel_bytes, tensor_bytes

DEVICE = torch.device("cuda:0")
_ROOT = Path(__file__).parents[2]


class FakeGpu(TorchDispatchMode):
    """Runs what is on DEVICE without values, and counts kernels, bytes that they move, and waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode()
        self.capability = 9, 0
        self.begin()

    def begin(self) -> None:
        """Begin a step: count from zero. What was started before it may be waited for."""
        self.kernels = self.bytes = 0
        self.waits: list[str] = []
        """Where in the project the CPU waited for what the device had been given in this step."""
        self.started: set[object] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.ops.prim.device.default:
            return args[0].fake_device
        if torch.is_inference_mode_enabled():  # without autograd, an operation made of others comes in one piece
            with self:
                result = function.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        real = [tensor for tensor in given if not isinstance(tensor, FakeTensor)]
        if len(real) == len(given) and torch.device(kwargs.get("device") or "cpu").type == "cpu":
            result = function(*args, **kwargs)
            if kwargs.get("pin_memory") or function is torch.ops.aten._pin_memory.default:
                result.is_pinned_here = True
            return result
        faked = (args, kwargs)
        if real:
            faked = tree_map_only(
                Tensor, lambda each: each if isinstance(each, FakeTensor) else self.fake.from_tensor(each), faked
            )
        result = self.fake.dispatch(function, types, *faked)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self._count(function, given, made)
        host = [tensor for tensor in (*given, *made) if tensor.device.type == "cpu"]
        if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default) and host:
            arguments = dict(zip((argument.name for argument in function._schema.arguments), args, strict=False)) | kwargs
            if not (arguments.get("non_blocking") and hasattr(host[0], "is_pinned_here")):
                self.wait("a copy that blocks")
        if isinstance(result, FakeTensor) and result.device.type == "cpu":  # what has come from the device
            return real[0].zero_() if function._schema.is_mutable else torch.zeros(result.shape, dtype=result.dtype)
        return result

    def _count(self, function: Any, given: list[Tensor], made: list[Tensor]) -> None:
        moved = kernel_bytes(function, given, made)
        if moved is not None:
            foreach = function.overloadpacket.__name__.startswith("_foreach")
            self.kernels += max(1, len(given) // 60) if foreach else 1  # as many tensors go into one
            self.bytes += moved

    def launch(self, *tensors: Tensor) -> None:
        """Count one kernel that reads or writes `tensors`."""
        self.kernels += 1
        self.bytes += sum(map(tensor_bytes, tensors))

    def wait(self, what: str) -> None:
        """Note that the CPU waits for the device here."""
        frames = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(_ROOT / "pipeline")]
        where = [f"{Path(frame.filename).relative_to(_ROOT)}:{frame.lineno} {frame.name}" for frame in frames[-2:]]
        self.waits.append(f"{what} at {' < '.join(reversed(where))}")

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Make `torch.cuda` that of an H100, or of a GPU of another `capability`, without values."""
        gpu = self

        class Event:
            """A place in the work of the device, which may be waited for when the step is over."""

            def record(self, stream: object = None) -> None:
                gpu.started.add(self)

            def synchronize(self) -> None:
                if self in gpu.started:
                    gpu.wait("an event of this step")

        make = torch.tensor
        cuda = mock.patch.multiple(
            torch.cuda,
            Event=Event,
            _lazy_init=lambda: None,
            synchronize=lambda device=None: gpu.wait("a synchronization"),
            get_device_capability=lambda device=None: gpu.capability,
            is_bf16_supported=lambda including_emulation=True: True,
            reset_peak_memory_stats=lambda device=None: None,
            max_memory_allocated=lambda device=None: 0,
        )
        tensor = mock.patch.object(torch, "tensor", lambda data, device=None, **more: make(data, **more).to(device))
        norm = mock.patch.object(F, "rms_norm", lambda x, shape, eps: _FusedNorm.apply(x, gpu))
        with cuda, tensor, norm, self:
            yield


class _FusedNorm(torch.autograd.Function):
    """`F.rms_norm` as a GPU has it, in one kernel each way; a CPU build of PyTorch has only a formula of ten."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gpu: FakeGpu) -> Tensor:
        ctx.gpu, normed = gpu, torch.empty_like(x)
        gpu.launch(x, normed)
        return normed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.gpu.launch(gradient, gradient, gradient)  # the gradient, what was normed, and its gradient
        return torch.empty_like(gradient), None
