"""Several latents and early ends: each input gets the output of the latent that is surest, of its first segment that halts."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.config import Config, PredictConfig
from pipeline.data.dataset import Dataset
from pipeline.data.packs import Samples, make_pack_maker
from pipeline.device import fit_config, to_batch
from pipeline.inference import forward
from pipeline.inference.forward import InferenceRunner
from pipeline.models.layout import Layout
from pipeline.models.network import Network, make_network
from pipeline.models.reasoner import State
from pipeline.system.time_limit import NO_LIMIT
from tests.pipeline.tiny import tiny_config, tiny_dataset
from tests.pipeline.tinypuzzles import tiny_puzzle_dataset

CPU, SEGMENTS = torch.device("cpu"), 6


def make_case(puzzles: bool) -> tuple[Network, Dataset, Config]:
    """A network whose halting head says something else of every input and segment."""
    dataset: Dataset = tiny_puzzle_dataset(count=24) if puzzles else tiny_dataset(tasks=16)
    config = fit_config(tiny_config(*(("memory.kind=table",) if puzzles else ())), dataset)
    tasks, views = (1, 1) if puzzles else (len(dataset.task_ids), len(dataset.transforms))  # type: ignore[union-attr]
    network = make_network(config.model, config.memory, tasks, views, 0).eval()
    with torch.no_grad():
        head = network.reasoner.halting_head
        head.weight.normal_(0.0, 1.0, generator=torch.Generator().manual_seed(1))
        assert head.bias is not None
        head.bias.zero_()
    return network, dataset, config


def let_some_go_on(runner: InferenceRunner, samples: Samples, latents: int) -> None:
    """Make one in five of the inputs and segments halt, whichever are surest; nothing else changes."""
    sure = [probability for segment in plain_segments(runner, samples, latents) for probability, _ in segment]
    head = runner.network.reasoner.halting_head
    with torch.no_grad():
        assert head.bias is not None
        head.bias.sub_(float(torch.tensor(sure).logit().quantile(0.8)))


def make_runner(
    case: tuple[Network, Dataset, Config], latents: int, halting: str, segments: int = SEGMENTS
) -> tuple[InferenceRunner, Samples]:
    network, dataset, config = case
    maker = make_pack_maker(dataset, config.train.canvas, config.memory.tokens, "tests", latents)
    predict = PredictConfig(segments=segments, latents=latents, halting=halting)  # type: ignore[arg-type]
    samples = maker.plain()
    return InferenceRunner(CPU, torch.float32, network, maker, predict), samples[maker.order(samples)]


def plain_segments(runner: InferenceRunner, samples: Samples, latents: int) -> list[list[tuple[float, list[int]]]]:
    """For each segment and input: the halting probability of its surest latent, and that one's tokens."""
    batch = to_batch(runner.maker.make(samples[np.repeat(np.arange(len(samples)), latents)]), runner.maker.memory_tokens, CPU)
    state, found = runner.network.reasoner.start(batch.layout, torch.float32, latents), []
    for _ in range(SEGMENTS):
        with torch.no_grad():
            segment = runner.network(state, batch)
        state = segment.state
        sequence = batch.layout.sequence[batch.layout.cells]
        tokens = [segment.logits.argmax(-1)[sequence == number].tolist() for number in range(batch.layout.sequences)]
        sure = segment.halting[:, 0].sigmoid().tolist()
        ranges = [range(latents * n, latents * (n + 1)) for n in range(len(samples))]
        best = [max(of_input, key=lambda number: sure[number]) for of_input in ranges]
        found.append([(sure[number], tokens[number]) for number in best])
    return found


@pytest.mark.parametrize("puzzles", [True, False])
@pytest.mark.parametrize("latents", [1, 3])
@pytest.mark.parametrize("halting", ["off", "first"])
def test_the_surest_latent_of_the_first_segment_that_halts_counts(puzzles: bool, latents: int, halting: str) -> None:
    runner, samples = make_runner(make_case(puzzles), latents, halting)
    let_some_go_on(runner, samples, latents)
    segments = plain_segments(runner, samples, latents)
    last = [SEGMENTS - 1] * len(samples)
    if halting == "first":
        for number in range(len(samples)):
            last[number] = next((k for k in range(SEGMENTS) if segments[k][number][0] > 0.5), SEGMENTS - 1)
        assert len(set(last)) > 2
    output = runner.forward(samples, keep_drafts=True)
    assert len(output.drafts) == SEGMENTS
    for step, draft in enumerate([*output.drafts, output]):
        wanted = [segments[min(step, end)][number] for number, end in enumerate(last)]
        assert draft.tokens.tolist() == [token for _, tokens in wanted for token in tokens]
        np.testing.assert_allclose(draft.probability, [sure for sure, _ in wanted], rtol=1e-4)
    assert runner.token_segments == sum(
        (end + 1) * tokens for end, tokens in zip(last, runner.maker.tokens(samples), strict=True)
    )


def test_a_pack_by_itself_or_in_parts_comes_to_the_same() -> None:
    case = make_case(puzzles=True)
    runner, samples = make_runner(case, 2, "first")
    let_some_go_on(runner, samples, 2)
    whole = runner.forward(samples)
    parts = [runner.forward(samples[index : index + 1]) for index in range(len(samples))]
    assert whole.tokens.tolist() == [token for part in parts for token in part.tokens.tolist()]
    cost = runner.token_segments
    runner.most_tokens = 1
    again = list(runner.predict(samples, NO_LIMIT))
    assert [len(output.samples) for output in again] == [1] * len(samples)
    assert whole.tokens.tolist() == [token for output in again for token in output.tokens.tolist()]
    assert runner.token_segments == cost // 2 * 3


def test_time_is_planned_as_if_nothing_halted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed is that of tokens that run all segments, so that a pack in which nothing halts is in time as well."""
    case, now = make_case(puzzles=True), [0.0]
    monkeypatch.setattr(forward, "time", SimpleNamespace(monotonic=lambda: now[0]))
    case[0].register_forward_hook(lambda *_: now.__setitem__(0, now[0] + 1.0))  # a segment takes a second
    with torch.no_grad():
        case[0].reasoner.halting_head.weight.zero_()
        case[0].reasoner.halting_head.bias.fill_(9.0)  # all halt at once
    for halting in ("off", "first"):
        runner, samples = make_runner(case, 1, halting)
        (_,) = runner.predict(samples, NO_LIMIT)
        assert runner.tokens_per_second == runner.maker.tokens(samples).sum() / SEGMENTS


def test_without_latents_a_pack_is_made_once() -> None:
    runner, samples = make_runner(make_case(puzzles=False), 1, "off")
    made, make = [], runner.maker.make
    runner.maker.make = lambda samples: made.append(len(samples)) or make(samples)  # type: ignore[method-assign]
    runner.forward(samples)
    assert made == [len(samples)]


def test_a_latent_that_is_not_a_number_does_not_count() -> None:
    case = make_case(puzzles=True)
    runner, samples = make_runner(case, 2, "off")
    start = case[0].reasoner.start

    def broken(layout: Layout, dtype: torch.dtype, latents: int) -> State:
        *others, latent = start(layout, dtype, latents)
        return (*others, torch.where((layout.sequence % 2 == 0)[:, None], float("nan"), latent))

    sane, _ = runner.forward(samples), setattr(case[0].reasoner, "start", broken)
    output = runner.forward(samples)
    assert (output.probability > 0).all()
    assert output.tokens.shape == sane.tokens.shape


def test_cycles_of_a_single_segment_end_nothing() -> None:
    for halting in ("off", "first"):
        runner, samples = make_runner(make_case(puzzles=False), 1, halting, segments=1)
        with_drafts, without = runner.forward(samples, keep_drafts=True), runner.forward(samples)
        assert with_drafts.tokens.tolist() == without.tokens.tolist()
        assert len(with_drafts.drafts) == runner.network.reasoner.config.H_cycles
