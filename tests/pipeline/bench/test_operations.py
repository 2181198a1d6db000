"""Operations and bytes: what is counted is what runs, and without padding far fewer of both are needed."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from pipeline.bench.measure import segment_operations
from pipeline.bench.published_way import CANVAS_BYTES
from pipeline.bench.stages import CANVAS, MEMORY, Computing, Draws, Plan, build_mix
from pipeline.data.dataset import TaskDataset
from pipeline.data.packs import Samples, TaskPackMaker
from pipeline.device import to_batch
from pipeline.models import length_classes, reasoner
from pipeline.models.batch import Batch
from pipeline.models.config import MemoryConfig, ReasonerConfig
from pipeline.models.layout import Layout, make_layout
from pipeline.models.loss import IGNORED, segment_loss
from pipeline.models.network import make_network

CPU = torch.device("cpu")
FUSED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)}
"""What torch's counter does not know by itself."""
SMALL = ReasonerConfig(hidden_size=32, heads=2, inner_multiple=32, H_cycles=2, L_cycles=2)


@pytest.fixture(scope="module")
def mix() -> TaskDataset:
    """A quarter of the tasks of the benchmark with few views."""
    return build_mix(Plan(augmentations=8, tasks=100))


def layout_of(side: str, samples: Samples, dataset: TaskDataset) -> Layout:
    maker = TaskPackMaker(dataset, CANVAS[side], MEMORY[side].tokens)
    pack = maker.make(samples[maker.order(samples)])
    return make_layout(torch.from_numpy(pack.shapes), torch.from_numpy(pack.offsets), maker.memory_tokens)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["trm", "urm"])  # HRM has a network for each state
def test_the_operations_that_run_are_those_that_are_counted(
    mix: TaskDataset, monkeypatch: pytest.MonkeyPatch, kind: str, training: bool
) -> None:
    monkeypatch.setattr(length_classes, "LENGTH_MULTIPLE", 1)  # padding is no use, and is not counted
    monkeypatch.setattr(length_classes, "CLASS_SCORES", 0)
    plan = Plan(model=ReasonerConfig(**{**SMALL.__dict__, "kind": kind}))
    computing = Computing("unpadded", mix, plan, CPU, torch.bfloat16)
    samples = Draws(mix, "pairs", tries=1).samples(3)
    batch = computing.batch(samples)
    with FlopCounterMode(display=False, custom_mapping=FUSED) as counter, torch.set_grad_enabled(training):
        if training:
            computing.train(samples)
        else:
            computing.network(computing.network.reasoner.initial_state(batch.layout.tokens, torch.bfloat16), batch)
    assert segment_operations(computing.network.reasoner, batch.layout, training) == counter.get_total_flops()


def test_fitted_canvases_need_a_quarter_of_the_tokens_and_a_fifth_of_the_operations(mix: TaskDataset) -> None:
    network = make_network(ReasonerConfig(), MemoryConfig("table", 1), 1, 1, 0)
    samples = Draws(mix, "pairs", tries=1).samples(2000)
    published, ours = (layout_of(side, samples, mix) for side in ("published", "ours"))
    assert published.tokens > 4 * ours.tokens
    operations = [segment_operations(network.reasoner, layout, True) for layout in (published, ours)]
    assert operations[0] > 4.5 * operations[1]
    asked = Draws(mix, "tests", tries=1)
    assert 3 * (asked.mean_cells + 1) < 916


def test_the_dataset_is_a_thousandth_of_the_materialised_one() -> None:
    dataset = build_mix(Plan(augmentations=1000, tasks=40))
    examples = np.bincount(np.concatenate((dataset.pair_task, dataset.test_task)), minlength=len(dataset.task_ids))
    published = 2 * CANVAS_BYTES * int((np.diff(dataset.transform_start) * examples).sum())
    assert published > 1000 * sum(array.nbytes for array in dataset.arrays().values())


def masked_attention(visible: Tensor) -> object:
    """Attention of a pack of full canvases in which only `visible` (N,) tokens are seen."""

    def attend(query_key: Tensor, value: Tensor, layout: Layout, _: object) -> Tensor:
        mixed = []
        for (_, qk), (_, v), (_, seen) in zip(layout.split(query_key), layout.split(value), layout.split(visible), strict=True):
            query, key = qk.transpose(1, 2).chunk(2, dim=1)
            mask = seen[:, None, None, :]
            attended = torch.nn.functional.scaled_dot_product_attention(query, key, v.transpose(1, 2), attn_mask=mask)
            mixed.append(attended.transpose(1, 2).flatten(2).flatten(0, 1))
        return torch.cat(mixed)

    return attend


def test_only_padding_is_removed(mix: TaskDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss on fitted canvases is that on full ones of the same sequences where attention sees no padding."""
    network = make_network(ReasonerConfig(hidden_size=64, heads=2, inner_multiple=64), MemoryConfig("table", 16), 1, 1, 0)
    samples = Draws(mix, "pairs", tries=1).samples(4)
    losses = []
    for canvas in ("fitted", "full"):
        maker = TaskPackMaker(mix, "full" if canvas == "full" else "fitted", 16)
        batch = to_batch(maker.make(samples[maker.order(samples)]), 16, CPU)
        batch.views.row.zero_()
        if canvas == "full":
            batch, visible = hide_padding(batch, samples, mix)
            monkeypatch.setattr(reasoner, "attend", masked_attention(visible))
        state = network.reasoner.initial_state(batch.layout.tokens)
        with torch.no_grad():
            segment = network(state, batch)
            assert batch.labels is not None
            losses.append(segment_loss(segment.logits, segment.halting, batch.labels, batch.layout).total.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0] > 1


def hide_padding(batch: Batch, samples: Samples, dataset: TaskDataset) -> tuple[Batch, Tensor]:
    """Return the batch without labels outside the fitted canvases, and which tokens lie within, (N,) bool."""
    fitted = TaskPackMaker(dataset, "fitted", 16)
    order = TaskPackMaker(dataset, "full", 16).order(samples)
    shapes = torch.from_numpy(fitted.make(samples[order]).shapes)
    shifts = torch.from_numpy(samples[order].shift)
    layout, labels = batch.layout, batch.labels
    assert labels is not None
    place = torch.stack((layout.row, layout.column), dim=1) - shifts[layout.sequence]
    visible = ((place >= 0) & (place < shapes[layout.sequence])).all(dim=1) | (layout.row < 0)
    labels[~visible[layout.cells]] = IGNORED
    return batch, visible
