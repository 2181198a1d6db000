"""Optimizers, the learning-rate schedule, and the moving average of the weights."""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from pipeline.reasoner.network import Network


class AdamAtan2(Optimizer):
    """Adam with atan2 in place of the division (arXiv 2407.05872), in plain PyTorch: no epsilon, bounded steps, rate 0 allowed.

    The step is rate * atan2(m, sqrt(v)) of the bias-corrected moments, after decoupled weight decay, as the TRM authors use it.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.1,
    ) -> None:
        if lr < 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"rate and decay must not be negative, betas in [0, 1): got {lr}, {weight_decay}, {betas}")
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["step"] = torch.zeros(())
                self.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
                self.state[parameter]["exp_avg_sq"] = torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = group["betas"]
        torch._foreach_add_([state["step"] for state in states], 1)
        steps = [state["step"].item() for state in states]  # kept on the CPU: nothing waits
        gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
        means, squares = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
        deviations = torch._foreach_div(squares, [1 - beta2**step for step in steps])
        torch._foreach_sqrt_(deviations)
        updates = torch._foreach_div(means, [1 - beta1**step for step in steps])
        for update, deviation in zip(updates, deviations, strict=True):
            update.atan2_(deviation)
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, updates, alpha=-group["lr"])


class Muon(Optimizer):
    """Momentum whose update is made orthogonal, for matrices; scaled to the root mean square of AdamW's updates.

    The rule of `torch.optim.Muon(adjust_lr_fn="match_rms_adamw")`, with matrices of one shape worked on together, and in
    float32 where a device has no bfloat16, which torch's own uses regardless (BENCHMARKS.md has the difference).
    """

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.95, weight_decay: float = 0.1) -> None:
        if lr < 0 or weight_decay < 0 or not 0 <= momentum < 1:
            raise ValueError(f"rate and decay must not be negative, momentum in [0, 1): got {lr}, {weight_decay}, {momentum}")
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every matrix that has a gradient; a closure is not supported."""
        assert closure is None, "Muon takes no closure"
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group)
        return None

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        directions = torch._foreach_lerp(gradients, momenta, group["momentum"])
        updates = orthogonalize(torch.stack(directions)).unbind()
        scale = 0.2 * math.sqrt(max(parameters[0].shape))
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, updates, alpha=-group["lr"] * scale)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Return matrices (K, m, n) with singular values near 1, by five Newton-Schulz steps as Muon's authors take."""
    a, b, c = 3.4445, -4.7750, 2.0315
    fast = matrices.is_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    x = matrices.bfloat16() if fast else matrices.float()
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.mT).to(matrices.dtype)


@dataclass(frozen=True)
class OptimizerConfig:
    """How the weights are updated. Defaults: TRM on ARC."""

    kind: Literal["adam-atan2", "adamw", "muon"] = "adam-atan2"
    """muon: matrices of the blocks by Muon, everything else by AdamW."""
    rate: float = 1e-4
    matrix_rate: float = 1e-3
    """Rate of Muon on matrices, scaled to the root mean square of AdamW's updates."""
    memory_rate: float = 1e-2
    """Rate of the task memory: sign descent on tables of rows, the optimizer's own rule on compositional rows."""
    residual_rate: float = 1e-3
    """Rate of sign descent on the residual of compositional memory."""
    weight_decay: float = 0.1
    memory_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    warmup_steps: int = 2000
    decay_from: float = 1.0
    """Share of the run (of its steps, or of its time) after which the rate falls linearly; 1 keeps it constant."""
    final_rate: float = 0.0
    """Share of the rate that is left at the end of the decay."""
    ema: float = 0.999
    """Decay of the moving average of weights and task memory that predictions use; 0 turns it off."""

    def __post_init__(self) -> None:
        if self.kind not in ("adam-atan2", "adamw", "muon"):
            raise ValueError(f"optimizer kind must be adam-atan2, adamw or muon, got {self.kind!r}")
        for name in ("rate", "matrix_rate", "memory_rate", "residual_rate", "weight_decay", "memory_decay", "warmup_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"optimizer {name} must not be negative, got {getattr(self, name)}")
        for name in ("beta1", "beta2", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer {name} must be in [0, 1), got {getattr(self, name)}")
        for name in ("decay_from", "final_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"optimizer {name} must be in [0, 1], got {getattr(self, name)}")


WARMUP_SHARE = 0.05
"""The warm-up ends with this share of the run, of its steps or of its time, where `warmup_steps` would take longer."""


def rate_factor(config: OptimizerConfig, step: int, progress: float) -> float:
    """Return the factor on all rates at `step` (from 0) with `progress` 0..1 of the run done: warm-up, flat, linear decay."""
    warmup = 1.0
    if config.warmup_steps:
        warmup = min(1.0, max((step + 1) / config.warmup_steps, progress / WARMUP_SHARE))
    if progress <= config.decay_from or config.decay_from == 1:
        return warmup
    left = max(0.0, 1 - progress) / (1 - config.decay_from)
    return warmup * (config.final_rate + (1 - config.final_rate) * left)


class OptimizerChain(Optimizer):
    """Several optimizers stepped as one, so that loss scaling checks and unscales all gradients once.

    `optimizers` keep their own states; their parameter groups are shared.
    """

    def __init__(self, optimizers: list[Optimizer]) -> None:
        self.optimizers = optimizers
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step every optimizer; a closure is not supported."""
        assert closure is None, "OptimizerChain takes no closure"
        for optimizer in self.optimizers:
            optimizer.step()
        return None

    def set_rates(self, factor: float) -> None:
        """Set every group's rate to `factor` times its base rate."""
        for group in self.param_groups:
            group["lr"] = group["base_lr"] * factor

    def states(self) -> dict[Tensor, dict[str, Tensor]]:
        """Return the state of every parameter that has one."""
        return {parameter: state for optimizer in self.optimizers for parameter, state in optimizer.state.items()}

    def load_states(self, states: dict[Tensor, dict[str, Tensor]]) -> None:
        """Continue from what `states` returned for the same parameters."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter in states:
                        optimizer.state[parameter] = states[parameter]


_OF_BLOCKS = re.compile(r"reasoner\.\w*blocks\.")
"""Parameters of the blocks, of whichever network of the reasoner."""


def make_optimizer(network: Network, config: OptimizerConfig) -> OptimizerChain:
    """Return the optimizer of all parameters; each group remembers its rate at factor 1 as `base_lr`."""
    matrices, rows, rest = [], [], []
    for name, parameter in network.named_parameters():
        if name == "memory.rows":  # a parameter of compositional memory; tables are trained by pipeline.tables
            rows.append(parameter)
        elif config.kind == "muon" and _OF_BLOCKS.match(name) and parameter.ndim == 2:
            matrices.append(parameter)
        else:
            rest.append(parameter)
    groups = [{"params": rest, "lr": config.rate, "weight_decay": config.weight_decay}]
    if rows:
        groups.append({"params": rows, "lr": config.memory_rate, "weight_decay": config.memory_decay})
    betas = (config.beta1, config.beta2)
    first = AdamAtan2(groups, betas=betas) if config.kind == "adam-atan2" else AdamW(groups, betas=betas, foreach=True)
    optimizers: list[Optimizer] = [first]
    if matrices:
        optimizers.append(Muon(matrices, lr=config.matrix_rate, weight_decay=config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return OptimizerChain(optimizers)


class MovingAverage:
    """Exponential moving average of all weights, buffers and task memory of a network.

    Rows of a table that a step did not touch need no work: since they are constant in between, their average is brought up to
    date when they are next touched, or read.
    """

    def __init__(self, network: Network, decay: float, start: int = 0) -> None:
        """Average the steps after `start`; until then it is the weights themselves, so that a short run forgets the first."""
        self.decay = decay
        self.start = start
        self.network = network
        self.weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        self.tables = network.tables()
        self.table_steps = {
            prefix: torch.zeros(len(table.rows), dtype=torch.int64, device=table.rows.device)
            for prefix, table in self.tables.items()
        }
        self.step = 0

    @torch.no_grad()
    def update(self) -> None:
        """Average the weights in once; call after the optimizers' step (and `before_rows` before rows of a table change)."""
        self.step += 1
        current = cast(dict[str, Tensor], self.network.state_dict())
        lazy = {f"{prefix}.rows" for prefix in self.tables}
        names = [name for name in self.weights if name not in lazy]
        averages, weights = [self.weights[name] for name in names], [current[name] for name in names]
        torch._foreach_lerp_(averages, weights, 1.0 if self.step <= self.start else 1 - self.decay)

    @torch.no_grad()
    def before_rows(self, prefix: str, index: Tensor) -> None:
        """Bring the averages of rows `index` of a table up to the last step, with the values that they had since."""
        average, rows, steps = self.weights[f"{prefix}.rows"], self.tables[prefix].rows, self.table_steps[prefix]
        kept = self._kept(steps[index])
        average[index] = rows[index] + kept * (average[index] - rows[index])
        steps[index] = self.step

    @torch.no_grad()
    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged weights, by the network's names, up to date at the last step."""
        current = dict(self.weights)
        for prefix, table in self.tables.items():
            name = f"{prefix}.rows"
            current[name] = torch.lerp(table.rows, self.weights[name], self._kept(self.table_steps[prefix]))
        return current

    def _kept(self, touched: Tensor) -> Tensor:
        """Return the weight, (R, 1), of an average of step `touched` (R,), for rows that have not changed since."""
        return torch.where(touched < self.start, 0.0, self.decay ** (self.step - touched).float())[:, None]

    def resume_state(self) -> dict[str, Tensor]:
        """Return exactly what `load` needs to go on as if nothing had happened."""
        return self.weights | {f"{prefix}.table_steps": steps for prefix, steps in self.table_steps.items()}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor], step: int) -> None:
        """Continue from a `resume_state` that was taken after `step` updates."""
        for name, tensor in self.weights.items():
            tensor.copy_(state[name])
        self.step = step
        for prefix, steps in self.table_steps.items():
            steps.copy_(state[f"{prefix}.table_steps"])


def trainable(network: Network) -> int:
    """Return the number of trained values, rows of tables included."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return parameters + sum(table.rows.numel() for table in network.tables().values())
