"""The order of tasks: which needs which."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

__all__ = ["closure", "cycles", "order", "reached"]

_MOST_CYCLES: Final = 10
_AT_ONCE: Final = 4096
"""Tasks that are looked for in one go: a bit each for every other task."""


def order(needs: Sequence[Sequence[int]]) -> list[int]:
    """The numbers of all tasks, each behind those that it needs.

    Of the tasks that could come next the one that was written first does, so that an order
    that is right already stays as it is. Tasks in cycles, and those behind them, are left out.

    Args:
        needs: For every task, the numbers of the tasks that it needs.
    """
    waiting = [len(before) for before in needs]
    needed_by = _inverse(needs)
    ready = [task for task, number in enumerate(waiting) if not number]
    ordered = []
    while ready:
        task = heapq.heappop(ready)
        ordered.append(task)
        for follower in needed_by[task]:
            waiting[follower] -= 1
            if not waiting[follower]:
                heapq.heappush(ready, follower)
    return ordered


def cycles(needs: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Cycles that keep the tasks from being ordered, no two with a task in common.

    Each starts with the task that was written first; every task needs the next one of the
    list, and the last one needs the first. There can be more than are told.
    """
    told: set[int] = set()
    for _ in range(_MOST_CYCLES):
        open_needs = [
            [] if task in told else [other for other in before if other not in told]
            for task, before in enumerate(needs)
        ]
        remaining = set(range(len(needs))).difference(order(open_needs))
        if not remaining:
            return
        # Whoever remains needs another one that remains: any way leads into a cycle.
        path: dict[int, None] = {}
        task = min(remaining)
        while task not in path:
            path[task] = None
            task = next(other for other in open_needs[task] if other in remaining)
        cycle = list(path)[list(path).index(task) :]
        first = cycle.index(min(cycle))
        told.update(cycle)
        yield cycle[first:] + cycle[:first]


def closure(names: Sequence[str], needs: Mapping[str, Sequence[str]]) -> set[str]:
    """The named tasks and all that they need, directly or not."""
    found = set(names)
    waiting = list(names)
    while waiting:
        for name in needs[waiting.pop()]:
            if name not in found:
                found.add(name)
                waiting.append(name)
    return found


def reached(
    pairs: Iterable[tuple[int, int]], needs: Sequence[Sequence[int]], ordered: Sequence[int]
) -> set[tuple[int, int]]:
    """Those pairs whose first task needs the second, directly or not.

    Args:
        pairs: Numbers of two tasks each.
        needs: For every task, the numbers of the tasks that it needs.
        ordered: The numbers of all tasks, each behind those that it needs.
    """
    wanted: dict[int, list[int]] = {}
    for task, other in pairs:
        wanted.setdefault(other, []).append(task)
    found = set()
    others = list(wanted)
    for start in range(0, len(others), _AT_ONCE):
        bits = {other: 1 << number for number, other in enumerate(others[start : start + _AT_ONCE])}
        masks = [0] * len(needs)
        for task in ordered:
            mask = 0
            for before in needs[task]:
                mask |= masks[before] | bits.get(before, 0)
            masks[task] = mask
        found |= {
            (task, other)
            for other, bit in bits.items()
            for task in wanted[other]
            if masks[task] & bit
        }
    return found


def _inverse(needs: Sequence[Sequence[int]]) -> list[list[int]]:
    needed_by: list[list[int]] = [[] for _ in needs]
    for task, before in enumerate(needs):
        for other in before:
            needed_by[other].append(task)
    return needed_by
