"""What a signal does to a run, in this process."""

import contextlib
import os
import signal

import pytest

from fasthep_flow.errors import RunInterrupted
from fasthep_flow.signals import Signals

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


class Noted:
    def __init__(self) -> None:
        self.numbers: list[int] = []

    def stop(self, signal_number: int) -> None:
        self.numbers.append(signal_number)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_ends_what_the_driver_does(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(RunInterrupted, match=number.name) as stopped, Signals():
        os.kill(os.getpid(), number)
    assert stopped.value.exit_code == 128 + number
    assert signal.getsignal(number) is before


def reading_a_file() -> None:
    """As a library does that takes every exception for one of its own."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except Exception as error:
        message = "the configuration is malformed"
        raise ValueError(message) from error


def test_a_library_that_takes_every_exception_for_its_own_does_not_keep_it() -> None:
    with pytest.raises(RunInterrupted), Signals():
        reading_a_file()


def test_a_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = Noted()
    with Signals() as signals:
        with signals.to(noted):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
        assert noted.numbers == [signal.SIGINT, signal.SIGTERM]
    # What nohup ignores stays ignored.
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_IGN)
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with contextlib.ExitStack() as stack:
        stack.callback(signal.signal, signal.SIGHUP, previous)
        stack.enter_context(Signals())
        os.kill(os.getpid(), signal.SIGHUP)


def test_what_fails_by_itself_says_so() -> None:
    with pytest.raises(ValueError, match="of its own"), Signals():
        int("of its own")
