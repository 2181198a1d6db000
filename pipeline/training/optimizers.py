"""Optimizers and the learning-rate schedule."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from itertools import chain, groupby
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from pipeline.config import OptimizerConfig
from pipeline.models.reasoner import Attention
from pipeline.training.communication import Collectives


class AdamAtan2(Optimizer):
    """Adam with atan2 in place of the division (arXiv 2407.05872), in plain PyTorch: no epsilon, bounded steps, rate 0 allowed.

    The step is rate / c1 * atan2(m, sqrt(v / c2)) with the corrections c = 1 - beta^step of the moments, after decoupled weight
    decay, as in the package adam-atan2, which the HRM and TRM authors use.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.95), weight_decay: float = 0.1
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; a closure is not supported."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["step"] = torch.zeros(())
                self.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
                self.state[parameter]["exp_avg_sq"] = torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = group["betas"]
        torch._foreach_add_([state["step"] for state in states], 1)
        steps = [state["step"].item() for state in states]  # kept on the CPU: no wait for the device
        gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
        means, squares = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
        deviations = torch._foreach_div(squares, [1 - beta2**step for step in steps])
        torch._foreach_sqrt_(deviations)
        updates = [mean.atan2(deviation) for mean, deviation in zip(means, deviations, strict=True)]
        torch._foreach_div_(updates, [1 - beta1**step for step in steps])
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, updates, alpha=-group["lr"])


class Muon(Optimizer):
    """Momentum whose update is made orthogonal, for matrices; `scale` is `OptimizerConfig.matrix_scale`.

    The rule of `torch.optim.Muon`, whose `adjust_lr_fn` is our `scale`, with matrices of one shape worked on together, and in
    bfloat16 only where training is (`dtype`), which torch's own uses regardless (BENCHMARKS.md has the difference). The
    processes of `collectives` share the matrices out, and all take what each has made orthogonal.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        newton_schulz: str = "muon-5",
        scale: str = "match-rms-adamw",
        collectives: Collectives | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """A group of parameters whose rows are several matrices, one below the other, has their number as "matrices"."""
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "matrices": 1})
        self.newton_schulz, self.scale, self.collectives, self.dtype = newton_schulz, scale, collectives, dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient; a closure is not supported."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        if not group["lr"]:  # frozen; the momentum is there when that ends
            return
        directions = torch._foreach_lerp(gradients, momenta, group["momentum"])
        count = group["matrices"]
        updates = self._orthogonalize(list(chain.from_iterable(direction.chunk(count) for direction in directions)))
        torch._foreach_mul_(updates, [self._factor(*update.shape) for update in updates])
        if count > 1:
            updates = [torch.cat(updates[first : first + count]) for first in range(0, len(updates), count)]
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, updates, alpha=-group["lr"])

    def _factor(self, rows: int, columns: int) -> float:
        """Return what an orthogonal update of a matrix of this shape is multiplied by, besides the rate."""
        return math.sqrt(max(1.0, rows / columns)) if self.scale == "original" else 0.2 * math.sqrt(max(rows, columns))

    def _orthogonalize(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        """Return `matrices` made orthogonal, those of one shape together; this process has made its share so."""
        wide = [matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT for matrix in matrices]
        mine = sorted(range(len(matrices)), key=lambda number: (wide[number].numel(), wide[number].shape))
        together = self.collectives if self.collectives and self.collectives.accelerator.num_processes > 1 else None
        if together:
            mine = mine[together.accelerator.process_index :: together.accelerator.num_processes]
        found: dict[int, Tensor] = {}
        for _, numbers in groupby(mine, key=lambda number: wide[number].shape):
            alike = list(numbers)
            made = orthogonalize(torch.stack([wide[number] for number in alike]), self.newton_schulz, self.dtype)
            found |= zip(alike, made.unbind(), strict=True)
        if together:
            sizes = [matrix.numel() for matrix in matrices]
            shared = matrices[0].new_zeros(sum(sizes))
            for number, place in enumerate(shared.split(sizes)):
                if number in found:
                    place.view_as(wide[number]).copy_(found[number])
            parts = zip(together.share(shared).split(sizes), wide, strict=True)
            found = {number: part.view_as(matrix) for number, (part, matrix) in enumerate(parts)}
        return [found[n] if wide[n] is matrices[n] else found[n].mT for n in range(len(matrices))]


_MUON = (3.4445, -4.7750, 2.0315)
POLYNOMIALS: Mapping[str, Sequence[tuple[float, float, float]]] = {
    "muon-5": [_MUON] * 5,
    "muon-3": [_MUON] * 3,
    "charm-5": [
        (7.2086, -15.5131, 9.0178),
        (3.9623, -2.5813, 0.4542),
        (3.9466, -2.5765, 0.4544),
        (3.8991, -2.5671, 0.4566),
        (3.7186, -2.5308, 0.4653),
    ],
}
"""Coefficients of x, x^3 and x^5 in each step of Newton-Schulz, by `OptimizerConfig.newton_schulz`."""


def orthogonalize(matrices: Tensor, newton_schulz: str = "muon-5", dtype: torch.dtype = torch.float32) -> Tensor:
    """Return matrices (K, m, n) with singular values near 1, by the steps of Newton-Schulz that `POLYNOMIALS` names.

    Products run in `dtype` if the polynomials tolerate it (those of Muon in bfloat16), else in float32.

    Each step multiplies X by a polynomial of its Gram matrix X X^T. Where that is smaller than X, in float32, which is exact
    enough for it, the next Gram matrix comes from the one before, and X is multiplied once, by the product of the polynomials.
    """
    own = newton_schulz.startswith("muon")  # made for bfloat16; the others are not
    fast = own and dtype == torch.bfloat16
    x = matrices.bfloat16() if fast else matrices.float()
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT.contiguous()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    gram, factors = x @ x.mT, list[Tensor]()
    for step, (a, b, c) in enumerate(POLYNOMIALS[newton_schulz]):
        if not own or fast or x.shape[1] == x.shape[2]:
            gram = x @ x.mT if step else gram
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        else:
            gram = factors[-1] @ gram @ factors[-1] if step else gram
            factors.append(torch.baddbmm(gram, gram, gram, beta=b, alpha=c))
            factors[-1].diagonal(dim1=1, dim2=2).add_(a)
    x = reduce(torch.matmul, [*factors, x])
    return (x if wide else x.mT).to(matrices.dtype)


WARMUP_SHARE = 0.05
"""The warm-up ends with this share of the run, of its steps or of its time, where `warmup_steps` would take longer."""


def rate_factor(config: OptimizerConfig, step: int, progress: float, reached: float = 0.0) -> float:
    """Return the factor on all rates at `step` (from 0) with `progress` 0..1 of the run done: warm-up, flat, decay.

    `reached` is the largest share that was done: a further leg, which makes the run longer, does not warm up again.
    """
    warmup = 1.0
    if config.warmup_steps:
        warmup = min(1.0, max((step + 1) / config.warmup_steps, max(progress, reached) / WARMUP_SHARE))
    if progress <= config.decay_from or config.decay_from == 1:
        return warmup
    left = max(0.0, 1 - progress) / (1 - config.decay_from)
    if config.decay == "cosine":
        left = 0.5 - 0.5 * math.cos(math.pi * left)
    return warmup * (config.final_rate + (1 - config.final_rate) * left)


class OptimizerChain(Optimizer):
    """Several optimizers stepped as one, so that loss scaling checks and unscales all gradients once.

    `optimizers` keep their own states; their parameter groups are shared.
    """

    def __init__(self, optimizers: list[Optimizer]) -> None:
        self.optimizers = optimizers
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Step every optimizer; a closure is not supported."""
        for optimizer in self.optimizers:
            optimizer.step()

    def set_rates(self, factor: float, memory_only: bool = False) -> None:
        """Set every group's rate to `factor` times its base rate; with `memory_only`, that of all but task memory to 0."""
        for group in self.param_groups:
            group["lr"] = group["base_lr"] * factor if group["is_memory"] or not memory_only else 0.0

    def clear_states(self) -> None:
        """Forget the state of every parameter."""
        for optimizer in self.optimizers:
            optimizer.state.clear()

    def states(self) -> dict[Tensor, dict[str, Tensor]]:
        """Return the state of every parameter that has one."""
        return {parameter: state for optimizer in self.optimizers for parameter, state in optimizer.state.items()}

    def load_states(self, states: dict[Tensor, dict[str, Tensor]]) -> None:
        """Continue from what `states` returned for the same parameters.

        A parameter that another rule trained before, in an earlier version, begins anew.
        """
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    known = parameter in states
                    if known and ("momentum_buffer" in states[parameter]) == isinstance(optimizer, Muon):
                        optimizer.state[parameter] = states[parameter]


def make_optimizer(
    network: nn.Module, config: OptimizerConfig, collectives: Collectives | None = None, dtype: torch.dtype = torch.float32
) -> OptimizerChain:
    """Return the optimizer of all parameters, for training in `dtype`; a group has its rate at factor 1 as `base_lr`."""
    matrices, rows, rest = [], [], []
    for name, parameter in network.named_parameters():
        muon = config.kind == "muon" and parameter.ndim == 2 and name != "memory.color_slots"  # no matrix: codes side by side
        if muon and (config.matrices == "all" or re.match(r"reasoner\.\w*blocks\.", name)):
            matrices.append(parameter)
        elif (
            name == "memory.rows"
        ):  # a parameter of compositional memory; tables are trained by pipeline.training.memory_tables
            rows.append(parameter)
        else:
            rest.append(parameter)
    groups = [{"params": rest, "lr": config.rate, "weight_decay": config.weight_decay}]
    if rows:
        groups.append({"params": rows, "lr": config.memory_rate, "weight_decay": config.memory_decay, "is_memory": True})
    betas = (config.beta1, config.beta2)
    way = {"fused": True} if rest[0].device.type == "cpu" else {"foreach": True}
    first = AdamAtan2(groups, betas=betas) if config.kind == "adam-atan2" else AdamW(groups, betas=betas, **way)
    optimizers: list[Optimizer] = [first]
    if matrices:
        decay = config.weight_decay if config.matrix_decay < 0 else config.matrix_decay
        rate, polynomial, scale = config.matrix_rate, config.newton_schulz, config.matrix_scale
        parts = [part for part in network.modules() if isinstance(part, Attention)] if config.heads == "apart" else []
        heads = {id(part.qkv.weight) for part in parts}
        cut = [{"params": [part.qkv.weight for part in parts], "matrices": 3 * parts[0].heads}] if parts else []
        whole = {"params": [matrix for matrix in matrices if id(matrix) not in heads]}
        optimizers.append(Muon([whole, *cut], rate, decay, config.momentum, polynomial, scale, collectives, dtype))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
            group.setdefault("is_memory", False)
    return OptimizerChain(optimizers)
