"""What this machine has, and whether it is enough."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from fasthep_flow.errors import LimitUnenforceable
from fasthep_flow.model import Resources

__all__ = ["bytes_text", "cpu_count", "memory_bytes", "memory_limits", "require_machine"]


def cpu_count() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
    try:
        lines = Path(groups_file).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, name = Path(root), "memory.max"
        elif "memory" in controllers.split(","):
            top, name = Path(root, "memory"), "memory.limit_in_bytes"
        else:
            continue
        # In a container the path may be that of the host, and its own group lies at the top.
        group = PurePosixPath(path.lstrip("/"))
        for one in (group, *group.parents):
            with suppress(OSError, ValueError):  # "max" is no number, and no limit
                yield int((top / one / name).read_text(encoding="ascii"))


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
