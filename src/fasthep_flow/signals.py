"""What a terminal or a batch system sends to end a run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol, Self

from fasthep_flow.errors import RunInterrupted

__all__ = ["Signals", "Stoppable"]


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
    """INT, TERM and HUP stop a run, for as long as the context lasts.

    Before the scheduler runs they end the context with :class:`RunInterrupted`, wherever the
    driver is; then they tell the scheduler. Outside the main thread, where Python takes no
    handlers, they stay as they are.
    """

    def __init__(self) -> None:
        self._scheduler: Stoppable | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                # What nohup or a shell's background job ignores stays ignored.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if isinstance(error, _Interruption):
            raise RunInterrupted(error.number) from error

    @contextmanager
    def to(self, scheduler: Stoppable) -> Iterator[None]:
        """Tell this scheduler instead of raising."""
        self._scheduler = scheduler
        try:
            yield
        finally:
            self._scheduler = None

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._scheduler is None:
            raise _Interruption(number)
        self._scheduler.stop(number)
