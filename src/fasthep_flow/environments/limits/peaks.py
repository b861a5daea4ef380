"""The most memory that processes had, as the kernel remembers it for each of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

__all__ = ["descendants", "peak_memory"]

_KIBI = 2**10


def peak_memory(pid: int, proc: str = "/proc") -> int:
    """Bytes that the largest process of a tree had in memory at its height; 0 where none is known.

    Also of a height that passed between two looks. What of several processes came together is
    more than that, and heights at different times are not to be added up: for that, measure.
    A process that became another program counts from there on.

    Args:
        pid: The tree's root.
        proc: Where the kernel tells of processes.
    """
    return max((_peak_of(one, proc) for one in descendants(pid, proc)), default=0)


def descendants(pid: int, proc: str = "/proc") -> Iterator[int]:
    """The process and all that it started, but for what has lost its parent.

    See ``proc(5)``, ``/proc/pid/task/tid/children``. Where the kernel has no such file, the
    process alone.

    Args:
        pid: The tree's root.
        proc: Where the kernel tells of processes.
    """
    found = [pid]
    while found:
        one = found.pop()
        yield one
        with contextlib.suppress(OSError, ValueError):
            for thread in os.listdir(f"{proc}/{one}/task"):  # noqa: PTH208 - ten times a second
                with open(f"{proc}/{one}/task/{thread}/children", "rb") as file:  # noqa: PTH123
                    found.extend(map(int, file.read().split()))


def _peak_of(pid: int, proc: str) -> int:
    with (
        contextlib.suppress(OSError, ValueError, IndexError),
        open(f"{proc}/{pid}/status", "rb") as file,  # noqa: PTH123
    ):
        for line in file:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * _KIBI
    return 0
