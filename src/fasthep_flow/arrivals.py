"""What the scheduler waits for: messages of other threads, and processes."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue
from typing import Final, Generic, TypeVar

from fasthep_flow.execution.reaper import Attended, Reaper

__all__ = ["Arrivals"]

_T = TypeVar("_T")


class Arrivals(Generic[_T]):
    """A queue that any thread fills and one empties, which may wait for processes meanwhile."""

    def __init__(self) -> None:
        self._queue: Final[SimpleQueue[_T]] = SimpleQueue()
        self._reaper: Reaper | None = None
        self._thread = 0

    @contextmanager
    def attending(self, runners: Iterable[object]) -> Iterator[None]:
        """Who waits here waits for the processes of these runners, too, in this context.

        Args:
            runners: Those that are no :class:`~fasthep_flow.execution.reaper.Attended` wait for
                their processes themselves.
        """
        attended = [runner for runner in runners if isinstance(runner, Attended)]
        if not attended or not Reaper.is_possible():
            yield
            return
        with Reaper() as reaper, ExitStack() as stack:
            for runner in attended:
                stack.enter_context(runner.attend(reaper))
            self._thread, self._reaper = threading.get_ident(), reaper
            try:
                yield
            finally:
                self._reaper = None

    def put(self, item: _T, *, is_signal: bool = False) -> None:
        """Add an item; from any thread.

        Args:
            item: What arrives.
            is_signal: Whether a signal handler adds it, which may have interrupted the waiting.
        """
        self._queue.put(item)
        reaper = self._reaper
        if reaper is not None and (is_signal or threading.get_ident() != self._thread):
            reaper.ring()

    def get(self, *, wait: bool, timeout_s: float | None = None) -> _T:
        """The first item that arrived.

        Processes that have ended are seen to before that.

        Args:
            wait: Whether to wait for one.
            timeout_s: For how long; ``None`` for as long as that takes.

        Raises:
            queue.Empty: There is none, or the waiting ended before there was one.
        """
        reaper = self._reaper
        if reaper is None:
            return self._queue.get(wait, timeout_s)
        reaper.wait(timeout_s if wait and self._queue.empty() else 0.0)
        return self._queue.get_nowait()

    def look(self) -> None:
        """See to the processes that have ended."""
        if self._reaper is not None:
            self._reaper.wait(0.0)
