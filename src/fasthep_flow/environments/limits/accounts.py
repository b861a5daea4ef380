"""What the kernel counts of a control group's processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from fasthep_flow.environments.limits.cgroupfs import field, number, write

__all__ = ["Account", "Counters"]

_CLOSE: Final = 0.95


class Counters(Struct, frozen=True, kw_only=True):
    """What the kernel counted of a group's processes; ``None`` where it does not.

    Args:
        peak_memory: Bytes at the most, the files in the page cache included.
        oom_kills: How many processes the kernel killed for want of memory.
        cpu_s: Processor time, user and system.
        throttled: In how many periods the group used up its share of the processors.
    """

    peak_memory: int | None = None
    oom_kills: int | None = None
    cpu_s: float | None = None
    throttled: int | None = None


class Account:
    """What the kernel counts of the processes in a group.

    Args:
        folders: Where it shows that, by controller.
    """

    def __init__(self, folders: Mapping[str, str]) -> None:
        self._folders: Final = dict(folders)
        self._peak: int | None = None
        self._before = 0

    def counters(self) -> Counters:
        """What can be read of them now; raises nothing."""
        memory, cpu = self._folders.get("memory", ""), self._folders.get("cpu", "")
        # Each version has files that the other does not.
        used_us = field(f"{cpu}/cpu.stat", "usage_usec")
        used_ns = number(f"{self._folders.get('cpuacct', '')}/cpuacct.usage")
        kills = field(f"{memory}/memory.events", "oom_kill")
        if kills is None:
            kills = field(f"{memory}/memory.oom_control", "oom_kill")
        if used_us is None and used_ns is not None:
            used_us = used_ns // 1000
        return Counters(
            peak_memory=self._peak_of(memory),
            oom_kills=kills,
            cpu_s=None if used_us is None else used_us / 1e6,
            throttled=field(f"{cpu}/cpu.stat", "nr_throttled"),
        )

    def reset_peak(self) -> bool:
        """Count the peak anew, from now on; whether the kernel can.

        It can in version 1, and in version 2 from Linux 6.12 on: there for this object alone.
        What is in use now are files of earlier programs above all, which the kernel keeps in
        memory as long as there is room. To have it forget them would slow down whoever reads
        them next, so they are taken off the peak that is told.
        """
        memory = self._folders.get("memory", "")
        self._before = 0
        with contextlib.suppress(OSError):
            write(f"{memory}/memory.max_usage_in_bytes", "0")
            self._before = self._height_of(memory) or 0
            return True
        with contextlib.suppress(OSError):
            if self._peak is None:
                self._peak = os.open(f"{memory}/memory.peak", os.O_RDWR | os.O_CLOEXEC)
            os.write(self._peak, b"0")
            self._before = self._height_of(memory) or 0
            return True
        self.close()
        return False

    def close(self) -> None:
        """Give back what :meth:`reset_peak` opened."""
        if self._peak is not None:
            os.close(self._peak)
            self._peak = None

    def _peak_of(self, memory: str) -> int | None:
        """Bytes since the last reset, without what was in use then."""
        peak = self._height_of(memory)
        if not peak or not self._before:
            return peak
        limit = number(f"{memory}/memory.max") or number(f"{memory}/memory.limit_in_bytes")
        # Close to the limit the kernel gave up those files first: all of it was in use.
        if limit is not None and peak >= _CLOSE * limit:
            return peak
        return max(peak - self._before, 0)

    def _height_of(self, memory: str) -> int | None:
        if self._peak is not None:
            with contextlib.suppress(OSError, ValueError):
                return int(os.pread(self._peak, 32, 0))
        peak = number(f"{memory}/memory.peak")
        return number(f"{memory}/memory.max_usage_in_bytes") if peak is None else peak
