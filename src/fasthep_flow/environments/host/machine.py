"""What this machine has, and whether it is enough."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from fasthep_flow.errors import LimitUnenforceable
from fasthep_flow.model import Resources

__all__ = [
    "bytes_text",
    "cpu_count",
    "cpu_limits",
    "memory_bytes",
    "memory_limits",
    "require_machine",
]


def cpu_count() -> int:
    """The processors that this process may use: the machine's, or the share of a batch slot."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return min(count, _cpu_share())


@functools.cache
def _cpu_share() -> int:
    """Whole processors of the smallest share; one at the least."""
    least = min(cpu_limits(), default=math.inf)
    return sys.maxsize if least == math.inf else max(1, math.floor(least))


@functools.cache
def memory_bytes() -> int:
    """The memory that this process may use: the machine's, or the share of a batch slot."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *memory_limits()])


def memory_limits(
    groups_file: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup"
) -> Iterator[int]:
    """The limits of the control groups that this process is in, of either version.

    Args:
        groups_file: What the kernel says of the groups.
        root: Where the kernel shows them.
    """
    for group, is_unified in _groups("memory", groups_file, root):
        name = "memory.max" if is_unified else "memory.limit_in_bytes"
        with suppress(OSError, ValueError):  # "max" is no number, and no limit
            yield int((group / name).read_text(encoding="ascii"))


def cpu_limits(
    groups_file: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup"
) -> Iterator[float]:
    """How many processors' time the control groups that this process is in may use.

    Args:
        groups_file: What the kernel says of the groups.
        root: Where the kernel shows them.
    """
    for group, is_unified in _groups("cpu", groups_file, root):
        names = ("cpu.max",) if is_unified else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        with suppress(OSError, ValueError):  # as above
            text = " ".join((group / name).read_text(encoding="ascii") for name in names)
            quota, period = map(int, text.split())
            if quota > 0:  # -1 is no limit
                yield quota / period


def _groups(controller: str, groups_file: str, root: str) -> Iterator[tuple[Path, bool]]:
    """The groups with a controller that this process is in, and whether they are of version 2."""
    try:
        lines = Path(groups_file).read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return
    for line in filter(None, lines):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top = Path(root)
        elif controller in controllers.split(","):
            top = Path(root, controller)
        else:
            continue
        # In a container the path may be that of the host, and its own group lies at the top.
        group = PurePosixPath(path.lstrip("/"))
        for one in (group, *group.parents):
            yield top / one, not controllers


def bytes_text(count: int) -> str:
    """Bytes as the author writes them: ``64Mi``, ``1.5Gi``."""
    for exponent, unit in ((60, "Ei"), (50, "Pi"), (40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")):
        if count >= 2**exponent:
            return f"{count / 2**exponent:.4g}{unit}"
    return str(count)


def require_machine(resources: Resources) -> None:
    """Refuse what this machine can never give.

    Raises:
        LimitUnenforceable: More is asked for than there is.
    """
    asked, given = [], []
    if resources.cpus is not None and resources.cpus > cpu_count():
        asked.append(f"{resources.cpus:g} cpus")
        given.append(f"gives {cpu_count()}")
    if resources.memory is not None and resources.memory > memory_bytes():
        asked.append(f"{bytes_text(resources.memory)} of memory")
        given.append(f"has {bytes_text(memory_bytes())}")
    if asked:
        raise LimitUnenforceable(
            f"{' and '.join(asked)} are asked for, and this machine {' and '.join(given)}",
            hint="ask for less, or run the workflow where there is more",
        )
