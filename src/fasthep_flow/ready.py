"""What could run at once, and in which order runners are handed it."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Hashable
from typing import Final, NamedTuple

from fasthep_flow.model import TaskSpec

__all__ = ["Kind", "Ready"]


class Kind(NamedTuple):
    """What a runner makes no difference between.

    Args:
        size: How large a share of its runner's room such a task takes.
        key: The runner, and what the task asks of it.
    """

    size: float
    key: Hashable


class _Entry(NamedTuple):
    minus_size: float
    number: int
    task: TaskSpec
    key: Hashable


class Ready:
    """Tasks that need nothing any more: the largest first, and of the same size in order.

    A runner is handed so many of a kind at once, and others all the same: where large tasks
    wait for room, small ones that fit beside them must not wait behind them.

    Args:
        kind: Of a task.
        most: How many of a kind may be handed out at once.
    """

    def __init__(self, kind: Callable[[TaskSpec], Kind], most: int) -> None:
        self._kind: Final = kind
        self._most: Final = most
        self._number = 0
        self._entries: Final[list[_Entry]] = []
        self._held_back: Final[dict[Hashable, deque[_Entry]]] = {}
        self._handed_out: Final[Counter[Hashable]] = Counter()

    def add(self, task: TaskSpec) -> None:
        """It could run now."""
        kind = self._kind(task)
        self._number += 1
        heapq.heappush(self._entries, _Entry(-kind.size, self._number, task, kind.key))

    def hand_out(self) -> TaskSpec | None:
        """The next one to be submitted; ``None`` if there is none for now."""
        while self._entries:
            entry = heapq.heappop(self._entries)
            if self._handed_out[entry.key] < self._most:
                self._handed_out[entry.key] += 1
                return entry.task
            self._held_back.setdefault(entry.key, deque()).append(entry)
        return None

    def ended(self, task: TaskSpec) -> None:
        """One that was handed out has ended: another one of its kind may go."""
        key = self._kind(task).key
        self._handed_out[key] -= 1
        waiting = self._held_back.get(key)
        if waiting:
            heapq.heappush(self._entries, waiting.popleft())
