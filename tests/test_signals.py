"""What a signal does to a run, in this process."""

import contextlib
import os
import signal
from collections.abc import Callable

import pytest

from fasthep_flow.errors import EnvironmentRefused, RecordError, RunInterrupted
from fasthep_flow.signals import Signals

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]


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


def keeping_it() -> None:
    """As a callback does whose exceptions nobody can take, and a finalizer."""
    with contextlib.suppress(BaseException):
        os.kill(os.getpid(), signal.SIGTERM)


def one_step_more(told: list[str]) -> None:
    with Signals() as signals:
        keeping_it()
        signals.checked(told.append)("the next image")


def one_run_more(told: list[str]) -> None:
    with Signals() as signals:
        keeping_it()
        with signals.to(Noted()):
            told.append("begun")


def nothing_more(_: list[str]) -> None:
    with Signals():
        keeping_it()


@pytest.mark.parametrize("do", [one_step_more, one_run_more, nothing_more])
def test_one_that_a_library_keeps_to_itself_ends_the_context_at_the_next_step(
    do: Callable[[list[str]], None],
) -> None:
    told: list[str] = []
    with pytest.raises(RunInterrupted, match="SIGTERM"):
        do(told)
    assert told == []


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (EnvironmentRefused("the image cannot be fetched"), RunInterrupted),
        (RecordError("the disk is full"), RecordError),
    ],
)
def test_where_one_was_kept_that_something_cannot_be_had_does_not_hide_it(
    error: Exception, told: type[Exception]
) -> None:
    def fail() -> None:
        with Signals():
            keeping_it()
            raise error

    with pytest.raises(told):
        fail()


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
