"""Ctrl-C and SIGTERM end a program in an orderly way."""

import os
import signal
import threading
import time

import pytest

from pipeline.system import signals
from pipeline.system.signals import interruptible, interrupts_deferred


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_repeated_signals_are_one_interrupt(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interruptible():
        try:
            os.kill(os.getpid(), number)
        finally:
            for again in (signal.SIGTERM, signal.SIGINT):  # as a launcher repeats it during the clean-up
                os.kill(os.getpid(), again)
    assert signal.getsignal(number) == before


def test_a_second_signal_after_a_while_interrupts_at_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(signals, "PATIENCE_SECONDS", 0.01)
    with pytest.raises(KeyboardInterrupt), interruptible(), interrupts_deferred() as should_end:
        assert not should_end()
        os.kill(os.getpid(), signal.SIGINT)
        assert should_end()
        time.sleep(0.02)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err.startswith("ending in order, after this step; interrupt again after two seconds")


def test_a_deferred_signal_is_raised_after_the_block_with_the_message_of_its_error() -> None:
    with pytest.raises(KeyboardInterrupt, match=r"^$"), interruptible(), interrupts_deferred():
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="the disk is full"), interruptible(), interrupts_deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        raise OSError("the disk is full")
    with pytest.raises(OSError, match="the disk is full"), interruptible(), interrupts_deferred():
        raise OSError("the disk is full")


def test_without_a_handler_and_in_other_threads_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interrupts_deferred() as should_end:
        assert not should_end()
    found = []

    def elsewhere() -> None:
        with interruptible():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [before]
