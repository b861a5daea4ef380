"""What a container's processes use, counted from outside where the kernel does not do it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from fasthep_flow.environments.limits.cgroups import Account, Counters, Group

if TYPE_CHECKING:
    import psutil

__all__ = ["Tally", "descendants"]

_TICK_S: Final = 0.1


def descendants(process: psutil.Process) -> list[psutil.Process]:
    """The children of a process, theirs, and so on; none where it has ended."""
    import psutil

    found: list[psutil.Process] = []
    above = [process.pid]
    with contextlib.suppress(psutil.Error):
        # Most kernels tell a process's children; else all processes have to be looked at.
        if not os.path.exists(f"/proc/{process.pid}/task/{process.pid}/children"):  # noqa: PTH110
            return process.children(recursive=True)
    while above:
        for child in _children_of(above.pop()):
            with contextlib.suppress(psutil.Error):
                found.append(psutil.Process(child))
                above.append(child)
    return found


def _children_of(pid: int) -> list[int]:
    found: list[int] = []
    # Each thread has its own.
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:  # noqa: PTH123
                found += map(int, file.read().split())
    return found


class Tally(Account):
    """What the processes below the first one of a container use.

    Where the kernel counts their memory it is right; else it is looked at a few times a
    second while a job runs, and a height between two looks is missed.

    Args:
        first: The container's first process; ``None`` while there is none.
        group: The control group that they are in; ``None`` where there is none.
    """

    def __init__(self, first: Callable[[], psutil.Process | None], group: Group | None) -> None:
        super().__init__({})
        self._first: Final = first
        self._group: Final = group
        self._changed: Final = threading.Condition()
        self._seen_peak = 0
        self._job_runs = True
        self._closed = False
        self._thread: threading.Thread | None = None
        if group is None or group.counters().peak_memory is None:
            self._thread = threading.Thread(target=self._look, name="fasthep-tally", daemon=True)
            self._thread.start()

    def counters(self) -> Counters:
        """What is known now; nobody looks any more until :meth:`reset_peak`."""
        counted = Counters() if self._group is None else self._group.counters()
        with self._changed:
            self._job_runs = False
        cpu_s = self._cpu_s() if counted.cpu_s is None else counted.cpu_s
        peak = counted.peak_memory or self._seen_peak or None
        return msgspec.structs.replace(counted, cpu_s=cpu_s, peak_memory=peak)

    def reset_peak(self) -> bool:
        """Count the peak anew from what is in use now; whether that can be done."""
        if self._thread is None:
            return self._group is not None and self._group.reset_peak()
        with self._changed:
            self._seen_peak, self._job_runs = 0, True
            self._changed.notify_all()
        return True

    def close(self) -> None:
        """Look no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _look(self) -> None:
        while True:
            started_s = time.monotonic()
            used = self._memory_in_use()
            with self._changed:
                self._seen_peak = max(self._seen_peak, used)
                # Where there are many processes on the machine a look takes its time.
                self._changed.wait(max(_TICK_S, 10 * (time.monotonic() - started_s)))
                while not self._job_runs and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return

    def _memory_in_use(self) -> int:
        import psutil

        first, used = self._first(), 0
        if first is not None:
            for process in descendants(first):
                with contextlib.suppress(psutil.Error):
                    used += process.memory_info().rss
        return used

    def _cpu_s(self) -> float | None:
        """Of what serves in the container, and of all that ended in it and was waited for."""
        import psutil

        first = self._first()
        if first is None or not first.is_running():
            return None
        used_s = 0.0
        try:
            for process in (first, *descendants(first)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    used_s += times.user + times.system
                    used_s += times.children_user + times.children_system
        except psutil.Error:
            return None
        return used_s
