"""Training: learning, resuming bit for bit, two processes like one, stopping where the loss is not finite."""

import os
import re
import signal
import sys
import time
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import accelerate.commands.launch
import numpy as np
import pytest
import torch
import yaml

from pipeline.cli.main import main
from pipeline.config import Config, override
from pipeline.models.config import ReasonerConfig
from pipeline.models.network import REASONERS
from pipeline.models.reasoner import Reasoner, Update, apply_blocks
from pipeline.presets import PRESETS
from pipeline.system.signals import interruptible
from pipeline.system.time_limit import NO_LIMIT, Budget
from pipeline.training.checkpoint import load_checkpoint
from pipeline.training.metrics import read_metrics
from pipeline.training.state import count_packs
from pipeline.weights.files import load_weights
from pipeline.weights.find import checkpoint_name, checkpoints
from tests.pipeline.tiny import tiny_config, tiny_dataset
from tests.pipeline.trainers import (
    ROOT,
    SYSTEMS,
    assert_equal_runs,
    assert_same_samples,
    finish_ranks,
    free_port,
    last_checkpoint,
    make_trainer,
    metrics,
    start_ranks,
    train_command,
)


@pytest.mark.parametrize(
    "system",
    [
        ("memory.kind=table", "optimizer.kind=adamw"),
        ("memory.kind=compositional", "optimizer.kind=muon"),
        ("memory.kind=table", "model.kind=hrm", "model.gradient=last-step", "train.halting=q-learning"),
    ],
)
def test_a_tiny_network_learns_a_rule(tmp_path: Path, system: tuple[str, ...]) -> None:
    config = tiny_config("train.steps=20", "train.log_steps=5", "optimizer.rate=0.01", *system)
    trainer = make_trainer(config, tmp_path, tiny_dataset(rule=np.zeros_like))
    before = {name: tensor.clone() for name, tensor in trainer.state.network.named_parameters()}
    trainer.fit(NO_LIMIT)
    for name, tensor in trainer.state.network.named_parameters():
        assert "blocks" not in name or not torch.equal(tensor, before[name]), name
    losses = [loss for (loss,) in metrics(tmp_path, "loss")]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("stopped_after", "by_signal", "settings"),
    [
        (1, False, ("memory.kind=table",)),
        (4, False, ("memory.kind=table", "memory.tokens=2", "optimizer.kind=adamw")),
        (5, False, ("train.halting=q-learning", "model.kind=hrm", "model.gradient=last-step")),
        (3, True, ("memory.residual=3",)),
        (3, False, ("optimizer.kind=muon", "train.canvas=full", "model.H_cycles=1")),
        (4, False, ("optimizer.kind=muon", "optimizer.matrices=all", "train.depth=thirds", "optimizer.ema_start=5")),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_after: int, by_signal: bool, settings: tuple[str, ...]
) -> None:
    """Whether it was killed, and continues from an earlier checkpoint, or got a signal in a step and wrote one after it."""
    config = tiny_config("train.steps=7", "train.checkpoint_steps=2", "train.log_steps=3", "optimizer.ema=0.5", *settings)
    make_trainer(config, tmp_path / "whole").fit(NO_LIMIT)

    cut = make_trainer(config, tmp_path / "cut")
    step = cut._step

    def stop_there(done: float) -> None:
        if cut.state.progress.step == stopped_after - by_signal:
            if not by_signal:
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGTERM)
        step(done)

    monkeypatch.setattr(cut, "_step", stop_there)
    with interruptible(), pytest.raises(KeyboardInterrupt, match="the checkpoint of step 3 is written" if by_signal else None):
        cut.fit(NO_LIMIT)
    resumed = make_trainer(config, tmp_path / "cut")
    assert load_checkpoint(resumed.state) == (stopped_after >= 2)
    assert resumed.state.progress.step == (stopped_after if by_signal else stopped_after // 2 * 2)
    resumed.fit(NO_LIMIT)

    assert_equal_runs(tmp_path / "whole", tmp_path / "cut")


def run_machine(environment: dict[str, str], command: list[str]) -> None:
    os.environ |= {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    sys.argv[1:] = ["--machine_rank", environment["RANK"], *command]
    accelerate.commands.launch.main()


def test_two_machines_with_the_config_of_the_readme_train_on_the_samples_of_one(tmp_path: Path) -> None:
    """Two launchers on this machine that meet as two machines do; their processes compute on CPUs, and look ahead."""
    readme = (ROOT / "README.md").read_text()
    (config,) = re.findall(r"^```yaml\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    ((preset, command),) = re.findall(
        r"^accelerate launch --config_file machines.yaml .*--preset (\w+)(.*\n.*\n)", readme, re.MULTILINE
    )
    step = override(PRESETS[preset], re.findall(r"--set (\S+)", command))
    assert step.train.packs % yaml.safe_load(config)["num_processes"] == 0
    here = {"num_processes": 2, "main_process_ip": "127.0.0.1", "main_process_port": free_port()}
    (tmp_path / "machines.yaml").write_text(yaml.safe_dump(yaml.safe_load(config) | here))
    tiny_dataset().save(tmp_path / "data")
    settings = (*SYSTEMS["hrm"], "train.steps=8", "train.packs=2", "train.log_steps=1", "optimizer.kind=muon")
    two = train_command(tmp_path / "data", tmp_path / "two", *settings, "train.pieces=3")
    machines = start_ranks(["--config_file", str(tmp_path / "machines.yaml"), "-m", "pipeline", *two], run_machine)
    assert main(train_command(tmp_path / "data", tmp_path / "one", *settings)) == 0
    finish_ranks(machines)
    assert_same_samples(tmp_path / "one", tmp_path / "two", steps=8)


def test_a_process_that_stands_still_ends_the_launch_which_can_be_resumed(tmp_path: Path) -> None:
    tiny_dataset().save(tmp_path / "data")
    settings = ("train.packs=2", "train.log_steps=1", "train.checkpoint_steps=2", "optimizer.kind=adamw")
    limit = ("train.steps=100000", "train.standstill_seconds=6")
    ranks = start_ranks(train_command(tmp_path / "data", tmp_path / "run", *settings, *limit))
    path = tmp_path / "run" / "metrics.jsonl"
    latest = time.monotonic() + 120
    while not (path.is_file() and path.read_bytes().count(b"\n") > 4):
        assert time.monotonic() < latest
        assert ranks[0].is_alive() and ranks[1].is_alive()
        time.sleep(0.05)
    assert ranks[1].pid is not None
    os.kill(ranks[1].pid, signal.SIGSTOP)
    try:
        ranks[0].join(timeout=60)
        assert ranks[0].exitcode == 1, "it waits for the one that stands still"
    finally:
        for rank in ranks:
            rank.kill()
    steps = int(last_checkpoint(tmp_path / "run").name.removeprefix("step-")) + 2
    assert main(train_command(tmp_path / "data", tmp_path / "run", *settings, f"train.steps={steps}")) == 0
    assert [int(step) for (step,) in metrics(tmp_path / "run", "step")] == list(range(1, steps + 1))


@pytest.mark.parametrize(("packs", "processes"), [(1, 2), (4, 8), (3, 2), (6, 4), (8, 3)])
def test_packs_that_the_processes_cannot_share_are_refused_with_settings_of_as_large_a_step(packs: int, processes: int) -> None:
    config = tiny_config(f"train.packs={packs}", "train.pack_tokens=1200")
    with pytest.raises(ValueError, match=f"^train.packs = {packs} must be a multiple of the {processes} processes: ") as caught:
        count_packs(config, processes)
    assert "\n" not in str(caught.value)
    advised = override(config, re.findall(r"--set (\S+)", str(caught.value)))
    assert count_packs(advised, processes) == advised.train.packs
    assert advised.train.packs * advised.train.pack_tokens == packs * 1200


@pytest.mark.parametrize(("packs", "processes", "resumed", "expected"), [(0, 3, False, 3), (6, 3, False, 6), (4, 3, True, 4)])
def test_packs_that_the_processes_can_share_are_taken(packs: int, processes: int, resumed: bool, expected: int) -> None:
    """A resumed run shares them unevenly, too, as long as every process has one."""
    assert count_packs(tiny_config(f"train.packs={packs}"), processes, resumed=resumed) == expected
    with pytest.raises(ValueError, match=r"^train\.packs = 4 must be a multiple of the 5 processes"):
        count_packs(tiny_config("train.packs=4"), 5, resumed=resumed)


def test_a_pause_is_no_end_of_the_run(tmp_path: Path) -> None:
    trainer = make_trainer(tiny_config("train.steps=0", "train.log_steps=1", "optimizer.decay_from=0"), tmp_path)
    whole = Budget.lasting(4.0)
    reached = [trainer.fit(whole, pause).reached for pause in (Budget.lasting(1.0), NO_LIMIT)]
    assert 0 < reached[0] < 0.5
    assert reached[1] > 0.8
    rates = [rate for (rate,) in metrics(tmp_path, "rate_factor")]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.3


def test_segments_grow_in_thirds_of_the_run_whose_last_steps_have_full_depth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    depths: list[float] = []
    updates = Reasoner.updates

    def watched(self: Reasoner, depth: float = 1.0, cycles: int | None = None) -> tuple[list[Update], int]:
        depths.append(depth)
        return updates(self, depth, cycles)

    monkeypatch.setattr(Reasoner, "updates", watched)
    make_trainer(tiny_config("train.steps=10", "train.depth=thirds"), tmp_path / "thirds").fit(NO_LIMIT)
    assert depths == [1 / 3] * 3 + [2 / 3] * 3 + [1.0] * 4
    depths.clear()
    make_trainer(tiny_config("train.steps=3"), tmp_path / "full").fit(NO_LIMIT)
    assert depths == [1.0] * 3


def test_a_gradient_that_is_too_long_is_shortened_and_others_are_left(tmp_path: Path) -> None:
    norms = {}
    for clip in (0.0, 1e-3, 1e6):
        trainer = make_trainer(tiny_config("train.steps=1", f"optimizer.clip={clip}"), tmp_path / str(clip))
        step = trainer.state.optimizer.step

        def watched(closure: None = None, clip: float = clip, step: Any = step, trainer: Any = trainer) -> None:
            gradients = [parameter.grad for parameter in trainer.state.network.parameters() if parameter.grad is not None]
            norms[clip] = torch.nn.utils.get_total_norm(gradients).item()
            step()

        trainer.state.optimizer.step = watched  # type: ignore[method-assign]
        trainer.fit(NO_LIMIT)
    assert norms[0.0] == norms[1e6] > 0.01
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-3)


def test_an_average_may_begin_late_and_the_halting_loss_may_weigh_nothing(tmp_path: Path) -> None:
    config = tiny_config("train.steps=4", "train.segments=1", "optimizer.ema_start=1000", "train.halting_weight=0")
    trainer = make_trainer(config, tmp_path)
    trainer.fit(NO_LIMIT)
    weights, head = trainer.state.network.state_dict(), trainer.state.network.reasoner.halting_head
    assert all(torch.equal(tensor, weights[name]) for name, tensor in load_weights(tmp_path).tensors.items())
    assert torch.equal(head.bias, torch.full_like(head.bias, head.bias[0].item()))  # only decayed
    trainer = make_trainer(tiny_config("train.steps=4"), tmp_path / "other")
    trainer.fit(NO_LIMIT)
    head = trainer.state.network.reasoner.halting_head
    assert head.bias[0] != head.bias[1]


@pytest.mark.parametrize("kind", ["table", "compositional"])
def test_task_memory_may_be_trained_alone_at_first(tmp_path: Path, kind: str) -> None:
    settings = ("train.steps=4", "train.checkpoint_steps=2", "train.checkpoints_kept=9", f"memory.kind={kind}")
    trainer = make_trainer(tiny_config(*settings, "optimizer.memory_first=0.5"), tmp_path)
    found = [deepcopy(trainer.state.network.state_dict())]
    trainer.fit(NO_LIMIT)
    found += [load_weights(folder).tensors for folder in checkpoints(tmp_path / "checkpoints")]
    assert len(found) == 3
    early, late = ({name for name in one if not torch.equal(one[name], other[name])} for one, other in pairwise(found))
    assert early == {"memory.rows"}
    assert early < late

    longer = ("train.steps=16", "train.checkpoint_steps=5", *settings[2:], "optimizer.memory_first=0.5")
    trainer = make_trainer(tiny_config(*longer), tmp_path)  # a quarter of a longer run is over: what was trained then goes on
    assert load_checkpoint(trainer.state)
    trainer.fit(NO_LIMIT)
    before, after = (load_weights(tmp_path / "checkpoints" / checkpoint_name(step)).tensors for step in (4, 5))
    assert {name for name in before if not torch.equal(before[name], after[name])} == late


def test_what_comes_before_the_first_step_is_no_part_of_the_warm_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config("train.steps=0", "train.log_steps=1", "optimizer.warmup_steps=1000", "train.checkpoint_seconds=0")
    trainer = make_trainer(config, tmp_path)
    step, set_up = trainer._step, trainer._set_up

    def three_steps(done: float) -> None:
        if trainer.state.progress.step == 3:
            raise FloatingPointError
        step(done)

    def slowly(budget: Budget) -> None:
        set_up(budget)
        time.sleep(2.0)

    monkeypatch.setattr(trainer, "_step", three_steps)
    monkeypatch.setattr(trainer, "_set_up", slowly)
    with pytest.raises(FloatingPointError):
        trainer.fit(Budget.lasting(30.0))
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert lines[0]["seconds"] > 2.0
    assert lines[1]["rate_factor"] < 0.9


class Flat(Reasoner):
    """A reasoner as short as one can be: one state, one update a cycle."""

    states = ("thought",)

    def cycle(self) -> list[Update]:
        return [lambda state, given: (apply_blocks(self.blocks, state[0] + given.tokens, given),)]


def test_a_reasoner_of_ones_own_is_a_class_and_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^model\.kind must be one of trm, hrm, urm, got 'flat'$"):
        tiny_config("model.kind=flat")
    monkeypatch.setitem(REASONERS, "flat", Flat)
    monkeypatch.setitem(ReasonerConfig.__annotations__, "kind", Literal["trm", "hrm", "urm", "flat"])
    config = tiny_config("model.kind=flat", "train.steps=2", "train.log_steps=1", "optimizer.rate=0.01")
    assert Config.from_json(config.to_json()) == config
    trainer = make_trainer(config, tmp_path)
    assert type(trainer.state.network.reasoner) is Flat
    assert trainer.state.network.reasoner.learned_share() == 1 / config.model.H_cycles
    before = trainer.state.network.reasoner.embedding.detach().clone()
    trainer.fit(NO_LIMIT)
    assert not torch.equal(trainer.state.network.reasoner.embedding, before)
    assert load_weights(tmp_path).config.model.kind == "flat"


def test_a_loss_that_is_not_finite_stops_training_and_says_where(tmp_path: Path) -> None:
    trainer = make_trainer(tiny_config("train.steps=10", "train.checkpoint_steps=2"), tmp_path)
    step = trainer._step

    def break_weights(done: float) -> None:
        if trainer.state.progress.step == 5:
            with torch.no_grad():
                trainer.state.network.reasoner.embedding.fill_(float("nan"))
        step(done)

    trainer._step = break_weights  # type: ignore[method-assign]
    with pytest.raises(FloatingPointError, match=r"step 5: the loss is not finite; among the tasks tiny"):
        trainer.fit(NO_LIMIT)
    weights = load_weights(tmp_path)
    assert weights.step == 4
    assert all(torch.isfinite(tensor).all() for tensor in weights.tensors.values())


def test_training_ends_with_its_time(tmp_path: Path) -> None:
    trainer, started = make_trainer(tiny_config(), tmp_path), time.monotonic()
    progress = trainer.fit(Budget(1.0, started))
    assert time.monotonic() - started < 5
    assert progress.step > 1
    assert load_weights(tmp_path).step == progress.step


def test_training_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="training needs an end: --time-limit"):
        make_trainer(tiny_config(), tmp_path).fit(NO_LIMIT)


def test_a_checkpoint_of_other_data_is_not_resumed(tmp_path: Path) -> None:
    config = tiny_config("train.steps=2")
    make_trainer(config, tmp_path).fit(NO_LIMIT)
    with pytest.raises(ValueError, match=r"its train.seed is 0 and that of this run 3"):
        load_checkpoint(make_trainer(tiny_config("train.steps=2", "train.seed=3"), tmp_path).state)
    with pytest.raises(ValueError, match="its data_hash is "):
        load_checkpoint(make_trainer(config, tmp_path, tiny_dataset(seed=1)).state)
    assert [folder.name for folder in checkpoints(tmp_path / "checkpoints")] == ["step-00000002"]


def test_halting_replaces_sequences_before_the_last_segment(tmp_path: Path) -> None:
    trainer = make_trainer(tiny_config("train.steps=4", "train.exploration=0", "train.segments=4"), tmp_path)
    with torch.no_grad():
        trainer.state.network.reasoner.halting_head.bias.fill_(50.0)  # every sequence wants to halt at once
    trainer.fit(NO_LIMIT)
    assert [segments for (segments,) in metrics(tmp_path, "segments")] == [1.0] * 2


def one_step(out: Path, *settings: str) -> tuple[torch.Tensor, float]:
    """The head's weight for going on (D,) and the halting loss, after a step of a network that wants to halt."""
    trainer = make_trainer(tiny_config("train.steps=1", "train.log_steps=1", "optimizer.ema=0", *settings), out)
    head = trainer.state.network.reasoner.halting_head
    with torch.no_grad():
        head.bias.copy_(torch.tensor([1.0, -1.0]))
    trainer.fit(NO_LIMIT)
    return head.weight[1], trainer.state.progress.last["halting_loss"]


def test_q_learning_trains_going_on_to_promise_what_the_next_segment_promises(tmp_path: Path) -> None:
    untrained, without = one_step(tmp_path / "learned", "train.halting=learned")
    trained, both = one_step(tmp_path / "q-learning", "train.halting=q-learning")
    assert not untrained.any()
    assert trained.any()
    worth = torch.tensor(1.0).sigmoid()  # of halting after the next segment, as the head's weights are still 0
    term = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor(-1.0), worth)
    assert both - without == pytest.approx(term.item(), abs=1e-4)

    untrained, single = one_step(tmp_path / "single", "train.halting=q-learning", "train.segments=1")
    assert not untrained.any()  # there is nothing to go on to
    assert single == one_step(tmp_path / "learned single", "train.segments=1")[1]


def test_without_halting_every_sequence_runs_all_segments_and_the_halting_head_is_not_trained(tmp_path: Path) -> None:
    settings = ("train.steps=6", "train.halting=off", "train.segments=3", "train.log_steps=3", "optimizer.ema=0")
    config = tiny_config(*settings, "optimizer.rate=0.01", "optimizer.weight_decay=0.5")
    trainer = make_trainer(config, tmp_path)
    head = trainer.state.network.reasoner.halting_head
    with torch.no_grad():
        head.bias.fill_(50.0)  # were it asked, every sequence would halt at once
    trainer.fit(NO_LIMIT)
    assert metrics(tmp_path, "segments") == [(2.0,), (2.0,)]  # all are at their first, second and third segment in turn
    assert not head.weight.any()
    assert head.bias.tolist() == pytest.approx([50 * (1 - 0.01 * 0.5) ** 6] * 2)


def test_bfloat16_trains_on_a_cpu(tmp_path: Path) -> None:
    trainer = make_trainer(tiny_config("train.steps=2", "train.precision=bfloat16"), tmp_path)
    assert trainer.state.dtype == torch.bfloat16
    trainer.fit(NO_LIMIT)
    assert load_weights(tmp_path).step == 2
    assert all(parameter.dtype == torch.float32 for parameter in trainer.state.network.parameters())
