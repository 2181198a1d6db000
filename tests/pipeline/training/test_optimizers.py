"""Optimizers against plain formulas, and a moving average that is exact although it is lazy."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from pipeline.config import OptimizerConfig
from pipeline.models.config import MemoryConfig, ReasonerConfig
from pipeline.models.network import Network, make_network
from pipeline.training.ema import MovingAverage
from pipeline.training.optimizers import AdamAtan2, Muon, make_optimizer, orthogonalize, rate_factor
from pipeline.training.state import trainable
from tests.pipeline.products import Products

MODEL = ReasonerConfig(hidden_size=16, heads=2, inner_multiple=8, layers=1, H_cycles=1, L_cycles=1, convolution=3)
ROWS = 9
DECAY = 0.8
TABLE, COMPOSITIONAL = MemoryConfig("table", 2), MemoryConfig("compositional", 2)
RESIDUAL = replace(COMPOSITIONAL, residual=4)
MEMORIES = pytest.mark.parametrize("memory", [TABLE, COMPOSITIONAL, RESIDUAL])


def make_tiny(memory: MemoryConfig) -> Network:
    return make_network(MODEL, memory, 3, ROWS, 0)


def plain_adam_atan2(
    value: npt.NDArray[np.float64], gradients: list[npt.NDArray[np.float64]], rate: float, decay: float
) -> npt.NDArray[np.float64]:
    mean, square = np.zeros_like(value), np.zeros_like(value)
    for step, gradient in enumerate(gradients, 1):
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.95 * square + 0.05 * gradient**2
        deviation = np.sqrt(square / (1 - 0.95**step))
        value = value * (1 - rate * decay) - rate / (1 - 0.9**step) * np.arctan2(mean, deviation)
    return value


@pytest.mark.parametrize(("rate", "decay"), [(0.05, 0.0), (0.05, 0.3), (0.0, 0.3)])
def test_adam_atan2_follows_its_formula_with_decoupled_decay(rate: float, decay: float) -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(size=(4, 3))
    gradients = [rng.normal(size=(4, 3)) * 10.0 ** rng.integers(-6, 6) for _ in range(6)]
    parameter = torch.nn.Parameter(torch.tensor(start))
    optimizer = AdamAtan2([parameter], lr=rate, betas=(0.9, 0.95), weight_decay=decay)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    np.testing.assert_allclose(parameter.detach().numpy(), plain_adam_atan2(start, gradients, rate, decay), rtol=1e-10)


def test_nothing_moves_without_a_gradient() -> None:
    without, zero, matrix = (torch.nn.Parameter(torch.ones(2, 3)) for _ in range(3))
    zero.grad = torch.zeros(2, 3)
    optimizer = AdamAtan2([without, zero], lr=0.1, weight_decay=0.0)
    optimizer.step()
    Muon([matrix], lr=0.1).step()
    assert all(torch.equal(parameter, torch.ones(2, 3)) for parameter in (without, zero, matrix))
    assert without not in optimizer.state


@pytest.mark.parametrize("shape", [(6, 6), (4, 10), (10, 4)])
def test_orthogonalizing_brings_singular_values_near_one_and_keeps_the_directions(shape: tuple[int, int]) -> None:
    matrices = (
        torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    )
    found = orthogonalize(matrices)
    values = torch.linalg.svdvals(found)
    assert (values > 0.5).all()
    assert (values < 1.3).all()
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    turned = left.mT @ found @ right.mT
    torch.testing.assert_close(turned, torch.diag_embed(turned.diagonal(dim1=1, dim2=2)), atol=1e-3, rtol=0)
    for matrix, alone in zip(matrices, found, strict=True):
        torch.testing.assert_close(orthogonalize(matrix[None])[0], alone)


CHARM = [
    *((7.2086, -15.5131, 9.0178), (3.9623, -2.5813, 0.4542), (3.9466, -2.5765, 0.4544), (3.8991, -2.5671, 0.4566)),
    (3.7186, -2.5308, 0.4653),
]
"""As its authors' code has them."""


@pytest.mark.parametrize(
    ("name", "steps"),
    [("muon-5", [(3.4445, -4.7750, 2.0315)] * 5), ("muon-3", [(3.4445, -4.7750, 2.0315)] * 3), ("charm-5", CHARM)],
)
@pytest.mark.parametrize("shape", [(6, 6), (4, 40), (40, 4)])
def test_the_steps_are_those_of_their_authors(
    shape: tuple[int, int], name: str, steps: list[tuple[float, float, float]]
) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -2, shape[1])
    x = matrix.double() / matrix.double().norm()
    for a, b, c in steps:
        x = a * x + b * (x @ x.T) @ x + c * (x @ x.T) @ (x @ x.T) @ x
    torch.testing.assert_close(orthogonalize(matrix[None], name)[0], x.float(), atol=2e-5, rtol=0)


def test_charms_steps_bring_small_singular_values_nearer_to_one() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(32, 32, generator=generator))[0] for _ in range(2))
    matrix = left @ torch.diag(torch.logspace(0, -3, 32)) @ right
    least = [torch.linalg.svdvals(orthogonalize(matrix[None], name)[0]).min().item() for name in ("muon-5", "charm-5")]
    assert least[1] > 1.4 * least[0]


@pytest.mark.parametrize("scale", ["match-rms-adamw", "original"])
def test_muon_goes_where_the_one_of_torch_goes(scale: str) -> None:
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(shape, generator=generator) for shape in ((8, 12), (12, 8), (8, 12))]
    ours, theirs = ([torch.nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    settings = {"lr": 0.1, "weight_decay": 0.2}
    optimizers = Muon(ours, **settings, scale=scale), torch.optim.Muon(theirs, **settings, adjust_lr_fn=scale.replace("-", "_"))
    for _ in range(4):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for start, mine, other in zip(starts, ours, theirs, strict=True):
        difference = (mine - other).norm() / (other - start).norm()
        assert difference.item() < 0.02  # torch's works in bfloat16


def test_the_rate_rises_stays_and_falls() -> None:
    config = OptimizerConfig(warmup_steps=4, decay_from=0.5, final_rate=0.2)
    assert [rate_factor(config, step, 0.0) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert rate_factor(config, 9, 0.5) == 1.0
    assert rate_factor(config, 9, 0.75) == pytest.approx(0.6)
    assert rate_factor(config, 9, 1.0) == pytest.approx(0.2)
    assert rate_factor(config, 9, 1.3) == pytest.approx(0.2)
    constant = OptimizerConfig(warmup_steps=0, decay_from=1.0, final_rate=0.5)
    assert [rate_factor(constant, step, progress) for step, progress in ((0, 0.0), (5, 0.99), (9, 1.0))] == [1.0] * 3


def test_the_warmup_of_a_short_run_ends_with_a_twentieth_of_it() -> None:
    config = OptimizerConfig(warmup_steps=1000, decay_from=0.5)
    assert rate_factor(config, 0, 0.025) == pytest.approx(0.5)
    assert rate_factor(config, 0, 0.05) == rate_factor(config, 0, 0.4) == 1.0
    assert rate_factor(config, 1, 0.75) == pytest.approx(0.5)
    assert rate_factor(config, 499, 0.001) == pytest.approx(0.5)
    assert rate_factor(config, 499, 0.001, reached=0.2) == 1.0  # a further leg, of a longer run


def test_a_cosine_decays_slowly_at_both_ends() -> None:
    config = OptimizerConfig(warmup_steps=0, decay_from=0.2, decay="cosine", final_rate=0.1)
    assert rate_factor(config, 9, 0.2) == 1.0
    assert rate_factor(config, 9, 0.6) == pytest.approx(0.55)
    assert rate_factor(config, 9, 0.3) == pytest.approx(0.1 + 0.9 * (1 + np.cos(np.pi / 8)) / 2)
    assert rate_factor(config, 9, 1.0) == rate_factor(config, 9, 1.2) == pytest.approx(0.1)


def set_gradients(network: Network, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("kind", ["adam-atan2", "adamw", "muon"])
def test_every_parameter_is_in_one_group_and_is_stepped(kind: str) -> None:
    network = make_tiny(RESIDUAL)
    optimizer = make_optimizer(network, OptimizerConfig(kind=kind, weight_decay=0.0, memory_decay=0.0))
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(map(id, network.parameters()))
    before = deepcopy(network.state_dict())
    set_gradients(network, 0)
    optimizer.step()
    for name, parameter in network.named_parameters():
        assert (parameter != before[name]).all(), name


def test_rates_are_those_of_the_config_times_the_factor() -> None:
    config = OptimizerConfig(kind="muon", rate=0.5, matrix_rate=0.25, memory_rate=2.0, weight_decay=0.3, memory_decay=0.7)
    network = make_tiny(RESIDUAL)
    optimizer = make_optimizer(network, config)
    optimizer.set_rates(0.5)
    optimizer.set_rates(0.1)
    settings = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        matrix = name.startswith("reasoner.blocks.") and parameter.ndim == 2
        rate, decay = (2.0, 0.7) if name == "memory.rows" else (0.25 if matrix else 0.5, 0.3)
        assert settings[id(parameter)] == pytest.approx((0.1 * rate, decay)), name
    for memory_only, factor in ((False, 0.0), (True, 0.1)):
        optimizer.set_rates(factor, memory_only)
        before = deepcopy(network.state_dict())
        set_gradients(network, 1)
        optimizer.step()
        changed = [name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])]
        assert changed == ["memory.rows"] * memory_only


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_muon_works_on_a_matrix_and_the_transpose_of_another_together(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(6, 3), (3, 6), (3, 9), (9, 3)]]
    found = []
    for alone in (False, True):
        trained = [torch.nn.Parameter(matrix.detach().clone()) for matrix in matrices]
        for place, matrix in enumerate(trained):
            matrix.grad = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(place))
        optimizers = [Muon([matrix], 0.1, dtype=dtype) for matrix in trained] if alone else [Muon(trained, 0.1, dtype=dtype)]
        with Products() as products:
            for optimizer in optimizers:
                optimizer.step()
        found.append((products.count, [matrix.detach() for matrix in trained]))
    (few, together), (many, apart) = found
    assert few == many / 2  # two shapes, not four matrices
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6 if dtype == torch.float32 else 1e-3, rtol=0)


def test_frozen_matrices_are_not_made_orthogonal_but_keep_their_momentum() -> None:
    frozen, free = (torch.nn.Parameter(torch.ones(3, 4)) for _ in range(2))
    optimizers = [Muon([matrix], rate) for matrix, rate in ((frozen, 0.0), (free, 0.1))]
    for matrix, optimizer in zip((frozen, free), optimizers, strict=True):
        matrix.grad = torch.arange(12.0).view(3, 4)
        with Products() as products:
            optimizer.step()
        assert (products.count == 0) == (matrix is frozen)
    assert torch.equal(frozen, torch.ones(3, 4)) and not torch.equal(free, frozen)
    buffers = [optimizer.state[matrix]["momentum_buffer"] for matrix, optimizer in zip((frozen, free), optimizers, strict=True)]
    assert torch.equal(*buffers)


@pytest.mark.parametrize("scale", ["match-rms-adamw", "original"])
def test_muon_may_take_the_queries_keys_and_values_of_every_head_for_themselves(scale: str) -> None:
    config = OptimizerConfig(kind="muon", heads="apart", matrix_scale=scale, matrix_rate=0.1, matrix_decay=0.2)
    network = make_tiny(TABLE)
    set_gradients(network, 0)
    name = "reasoner.blocks.0.attention.qkv.weight"
    whole = dict(network.named_parameters())[name]
    alone = [torch.nn.Parameter(part.detach().clone()) for part in whole.chunk(3 * MODEL.heads)]
    for part, gradient in zip(alone, whole.grad.chunk(3 * MODEL.heads), strict=True):
        part.grad = gradient.clone()
    make_optimizer(network, config).step()
    Muon(alone, 0.1, 0.2, scale=scale).step()
    torch.testing.assert_close(whole, torch.cat(list(alone)), atol=1e-6, rtol=0)
    plain = make_tiny(TABLE)
    set_gradients(plain, 0)
    make_optimizer(plain, replace(config, heads="together")).step()
    for other, parameter in plain.named_parameters():
        assert torch.allclose(parameter, dict(network.named_parameters())[other], atol=1e-6) == (other != name), other


@pytest.mark.parametrize("decay", [0.01, 0.0])
def test_muon_may_train_every_matrix_with_a_decay_and_a_momentum_of_its_own(decay: float) -> None:
    config = OptimizerConfig(kind="muon", matrices="all", matrix_decay=decay, momentum=0.6, newton_schulz="charm-5")
    network = make_tiny(RESIDUAL)
    _, muon = make_optimizer(network, config).optimizers
    assert isinstance(muon, Muon)
    assert muon.newton_schulz == "charm-5"
    (group,) = muon.param_groups
    assert (group["weight_decay"], group["momentum"], group["lr"]) == (decay, 0.6, config.matrix_rate)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    trained = {names[id(parameter)] for parameter in group["params"]}
    matrices = {name for name, parameter in network.named_parameters() if parameter.ndim == 2}
    assert trained == matrices - {"memory.color_slots"}  # codes side by side are no matrix
    assert {"reasoner.embedding", "reasoner.head.weight", "memory.rows", "memory.residual.matrix"} < trained


class DenseAverage:
    """What a moving average is by definition: every value of every tensor, at every step."""

    def __init__(self, network: Network, start: int) -> None:
        self.weights = {name: tensor.double().clone() for name, tensor in network.state_dict().items()}
        self.step, self.start = 0, start

    def update(self, network: Network) -> None:
        self.step += 1
        decay = DECAY if self.step > self.start else 0.0
        for name, tensor in network.state_dict().items():
            self.weights[name] = decay * self.weights[name] + (1 - decay) * tensor.double()

    def assert_close(self, averaged: dict[str, Tensor]) -> None:
        assert averaged.keys() == self.weights.keys()
        for name, tensor in averaged.items():
            torch.testing.assert_close(tensor.double(), self.weights[name], atol=1e-5, rtol=1e-5, msg=name)


def change(network: Network, average: MovingAverage, rng: np.random.Generator) -> None:
    """One step of training: parameters, and some table rows, which are announced before they change."""
    tables = network.tables
    for prefix, table in tables.items():
        touched = torch.from_numpy(np.flatnonzero(rng.random(ROWS) < rng.choice([0.0, 0.2, 0.9])))
        average.before_rows(prefix, touched)
        table.rows[touched] += torch.from_numpy(rng.normal(size=(len(touched), table.rows.shape[1]))).float()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.from_numpy(rng.normal(size=parameter.shape)).float())
    average.update()


@MEMORIES
@pytest.mark.parametrize("start", [0, 2])
def test_the_lazy_average_is_the_dense_one(memory: MemoryConfig, start: int) -> None:
    rng = np.random.default_rng(start)
    network = make_tiny(memory)
    average, dense = MovingAverage(network, network.tables, DECAY, start), DenseAverage(network, start)
    for step in range(25):
        change(network, average, rng)
        dense.update(network)
        if step % 4 == 0:
            dense.assert_close(average.state_dict())  # also: reading changes nothing
    dense.assert_close(average.state_dict())


@pytest.mark.parametrize(("memory", "values"), [(TABLE, ROWS * 16), (COMPOSITIONAL, 0), (RESIDUAL, ROWS * 4)])
def test_rows_of_tables_are_trained_values(memory: MemoryConfig, values: int) -> None:
    network = make_tiny(memory)
    assert trainable(network) == sum(p.numel() for p in network.parameters()) + values
