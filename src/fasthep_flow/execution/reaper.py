"""Waits for many processes in one thread: that of whoever started them."""

from __future__ import annotations

import os
import select
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Protocol, Self, runtime_checkable

__all__ = ["Attended", "Reaper"]

_MOST: Final = 64
"""How many to call back for in one go."""


@runtime_checkable
class Attended(Protocol):
    """What starts processes that somebody else's thread may wait for.

    A thread for each of them would take turns with that one at Python's lock, which costs
    more than all else that is done for a short task.
    """

    def attend(self, reaper: Reaper) -> AbstractContextManager[None]:
        """Have the reaper told of processes, for as long as the context lasts.

        The caller calls :meth:`Reaper.wait` as long; what still runs then is waited for by
        others.
        """
        ...


class Reaper:
    """Calls back when a process ends.

    Processes may be added from any thread, also while another one waits.

    Raises:
        OSError: The system has no more descriptors.
    """

    def __init__(self) -> None:
        self._callbacks: Final[dict[int, Callable[[], object]]] = {}
        self._poll: Final = select.epoll()
        self._bell: Final = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # Not before nobody can ring it any more: its number may be another file's by then.
        weakref.finalize(self, os.close, self._bell)
        self._poll.register(self._bell, select.EPOLLIN)

    @staticmethod
    def is_possible() -> bool:
        """Whether the system can wait for processes in this way; see ``pidfd_open(2)``."""
        if not hasattr(os, "pidfd_open") or not hasattr(select, "epoll"):
            return False
        try:
            # Kernels before 5.3 do not know it, and some sandboxes do not allow it.
            os.close(os.pidfd_open(os.getpid()))
        except OSError:
            return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget what has not ended."""
        self._poll.close()
        for descriptor in list(self._callbacks):
            self._forget(descriptor)

    def add(self, pid: int, ended: Callable[[], object]) -> None:
        """Have ``ended`` called, in the thread that waits, once the process can be reaped.

        Args:
            pid: Of a child of this process that nobody has reaped.
            ended: Must not block, nor raise.

        Raises:
            OSError: The system has no more descriptors, or there is no such process.
            ValueError: Nobody waits any more.
        """
        descriptor = os.pidfd_open(pid)
        self._callbacks[descriptor] = ended
        try:
            # Once: a child that is just being started still has a copy of the descriptor, which
            # would go on to tell of it after it is closed here.
            self._poll.register(descriptor, select.EPOLLIN | select.EPOLLONESHOT)
        except (OSError, ValueError):
            self._forget(descriptor)
            raise

    def ring(self) -> None:
        """Have :meth:`wait` return; safe from a signal handler and other threads."""
        os.eventfd_write(self._bell, 1)

    def wait(self, timeout_s: float | None = None) -> None:
        """Call back for all that has ended; for one thread at a time.

        Args:
            timeout_s: How long to wait for the first that ends, or for :meth:`ring`; ``None``
                for as long as that takes.
        """
        for descriptor, _ in self._poll.poll(timeout_s, _MOST):
            if descriptor == self._bell:
                os.eventfd_read(self._bell)
                continue
            if (ended := self._forget(descriptor)) is not None:
                ended()

    def _forget(self, descriptor: int) -> Callable[[], object] | None:
        ended = self._callbacks.pop(descriptor, None)
        if ended is not None:
            os.close(descriptor)
        return ended
