"""What a terminal or a batch system sends to end a run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, Protocol, Self

from fasthep_flow.errors import EnvironmentRefused, OrchestratorUnavailable, RunInterrupted

__all__ = ["Signals", "Stoppable"]


_NUMBERS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Stoppable(Protocol):
    """What can be asked to stop, from a signal handler."""

    def stop(self, signal_number: int) -> None:
        """Begin to stop; returns at once."""
        ...


class _Interruption(KeyboardInterrupt):
    """A signal, on its way out of whatever the driver is doing.

    No :class:`Exception`: libraries catch those, and would take it for a failure of their own.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class Signals:
    """INT, TERM, HUP and QUIT stop a run, for as long as the context lasts.

    Before the scheduler runs they end the context with :class:`RunInterrupted`, wherever the
    driver is; then they tell the scheduler. None is lost: where a library swallows what ends the
    context, the next step ends it. Outside the main thread, where Python takes no handlers, they
    stay as they are.
    """

    def __init__(self) -> None:
        self._scheduler: Stoppable | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._asked = 0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _NUMBERS:
                # What nohup or a shell's background job ignores stays ignored.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        # What else went wrong on the way out is worth telling. That something cannot be had is
        # what a library makes of what it has swallowed.
        if self._asked and (
            error is None
            or isinstance(error, _Interruption | EnvironmentRefused | OrchestratorUnavailable)
        ):
            raise RunInterrupted(self._asked) from error

    def check(self) -> None:
        """End the context if a signal was to, and whatever the driver was doing went on.

        An exception that is thrown into a callback of a library in C, or into a finalizer, is
        printed and gone.
        """
        if self._asked and threading.current_thread() is threading.main_thread():
            raise _Interruption(self._asked)

    def checked(self, tell: Callable[[str], None]) -> Callable[[str], None]:
        """The same callable, which looks for a signal first."""

        def told(words: str) -> None:
            self.check()
            tell(words)

        return told

    @contextmanager
    def to(self, scheduler: Stoppable) -> Iterator[None]:
        """Tell this scheduler instead of raising."""
        self._scheduler = scheduler
        try:
            # From here on none is missed, so one that was is found.
            self.check()
            yield
        finally:
            self._scheduler = None

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._scheduler is None:
            self._asked = number
            raise _Interruption(number)
        self._scheduler.stop(number)
