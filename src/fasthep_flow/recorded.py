"""What is recorded, and is not acted on before it is on disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, Generic, NamedTuple, Self, TypeVar

__all__ = ["Recorded", "Synced"]

_INTERVAL_S: Final = 0.02
"""How long what nothing waits for may wait for others, to go to disk with them."""

_T = TypeVar("_T")


class Synced(NamedTuple):
    """What was recorded is on disk, or could not be brought there.

    Args:
        future: Ended, with the error if there was one.
    """

    future: Future[None]


class Recorded(Generic[_T]):
    """Brings records to the disk: many at once, and while others are made.

    A disk takes longer than a short task does.

    Args:
        sync: Has on disk what was recorded before it is called.
        tell: Is told when it has, in another thread.
    """

    def __init__(self, sync: Callable[[], None], tell: Callable[[Synced], None]) -> None:
        self._sync: Final = sync
        self._tell: Final = tell
        self._thread: Final = ThreadPoolExecutor(1, thread_name_prefix="fasthep-flow-disk")
        self._recorded: list[_T] = []
        self._syncing: list[_T] = []
        self._is_awaited = False
        self._due_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown()

    def __bool__(self) -> bool:
        return bool(self._recorded or self._syncing)

    @property
    def longest_wait_s(self) -> float | None:
        """How long at most to wait before the next :meth:`on_disk`."""
        return _INTERVAL_S if self._recorded and not self._syncing else None

    def add(self, item: _T, *, is_awaited: bool) -> None:
        """Something was recorded.

        Args:
            item: Is given back once that is on disk.
            is_awaited: Whether something waits for that.
        """
        self._recorded.append(item)
        self._is_awaited |= is_awaited

    def on_disk(self, *, at_once: bool) -> list[_T]:
        """What is on disk, of what was added; the rest is brought there if it is time to.

        Args:
            at_once: Whether to wait for all of it: nothing else is to be done.

        Raises:
            RecordError: It cannot be brought there.
        """
        if not self._recorded or self._syncing:
            return []
        if not (at_once or self._is_awaited or time.monotonic() > self._due_s):
            return []
        self._syncing, self._recorded = self._recorded, []
        self._is_awaited = False
        self._due_s = time.monotonic() + _INTERVAL_S
        if at_once:
            self._sync()
            return self._given_back()
        self._thread.submit(self._sync).add_done_callback(lambda done: self._tell(Synced(done)))
        return []

    def synced(self, told: Synced) -> list[_T]:
        """What is on disk now.

        Args:
            told: As it was told.

        Raises:
            RecordError: It could not be brought there.
        """
        told.future.result()
        return self._given_back()

    def _given_back(self) -> list[_T]:
        given_back, self._syncing = self._syncing, []
        return given_back
