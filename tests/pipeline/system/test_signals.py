"""Ctrl-C and SIGTERM end a program in order."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pipeline.system import signals as interrupts
from pipeline.system.signals import interruptible, interrupts_deferred
from tests.pipeline.tiny import tiny_config
from tests.pipeline.trainers import NO_LIMIT, assert_equal_runs, make_trainer


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_one_interrupt_however_often_it_is_sent(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interruptible():
        try:
            os.kill(os.getpid(), number)
        finally:
            for again in (signal.SIGTERM, signal.SIGINT):  # as a launcher repeats it while things are put in order
                os.kill(os.getpid(), again)
    assert signal.getsignal(number) == before


def test_somebody_impatient_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "PATIENCE_SECONDS", 0.01)
    with pytest.raises(KeyboardInterrupt), interruptible(), interrupts_deferred() as asked_to_end:
        assert not asked_to_end()
        os.kill(os.getpid(), signal.SIGINT)
        assert asked_to_end()
        time.sleep(0.02)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_that_nobody_asked_for_in_the_block_is_raised_after_it() -> None:
    with pytest.raises(KeyboardInterrupt, match=r"^$"), interruptible(), interrupts_deferred():
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="the disk is full"), interruptible(), interrupts_deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        raise OSError("the disk is full")
    with pytest.raises(OSError, match="the disk is full"), interruptible(), interrupts_deferred():
        raise OSError("the disk is full")


def test_where_nobody_listens_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interrupts_deferred() as asked_to_end:
        assert not asked_to_end()
    found = []

    def elsewhere() -> None:
        with interruptible():  # signals are for the main thread alone
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [before]


def test_training_that_is_interrupted_in_a_step_leaves_its_checkpoint_and_goes_on_as_if_nothing_had_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("train.steps=6", "train.log_steps=1")
    trainer = make_trainer(config, tmp_path / "asked")
    step = trainer._step

    def asked_in_step_3(done: float) -> None:
        if trainer.state.progress.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        step(done)

    trainer._step = asked_in_step_3  # type: ignore[method-assign]
    with interruptible(), pytest.raises(KeyboardInterrupt, match="the checkpoint of step 3 is written"):
        trainer.fit(NO_LIMIT)
    assert [path.name for path in (tmp_path / "asked" / "checkpoints").iterdir()] == ["step-00000003"]
    again = make_trainer(config, tmp_path / "asked")
    assert again.resume()
    again.fit(NO_LIMIT)
    make_trainer(config, tmp_path / "whole").fit(NO_LIMIT)
    assert_equal_runs(tmp_path / "asked", tmp_path / "whole")
