"""Processes of a container whose engine is gone: nobody else ends them any more."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Final

__all__ = ["end_strays", "groups_of"]

_LIMIT_S: Final = 3.0
_SHORTEST_IDENTITY: Final = 32


def end_strays(identity: str) -> int:
    """Kill the container's processes, as far as this user may; how many there were.

    Engines name a container's control group after it: ``docker/ID``, ``docker-ID.scope``,
    ``libpod-ID``. Nothing is found where an engine makes none.

    Args:
        identity: Of the container, as the engine gave it: 64 digits.
    """
    if len(identity) < _SHORTEST_IDENTITY or not identity.isalnum():
        return 0
    ended: set[int] = set()
    until_s = time.monotonic() + _LIMIT_S
    while (members := _members(identity)) and time.monotonic() < until_s:
        for pid in members:
            with contextlib.suppress(OSError):
                os.kill(pid, 9)
        ended.update(members)
        time.sleep(0.01)
    return len(ended)


def groups_of(pid: int) -> str:
    """The control groups of a process, as the kernel writes them; empty where it does not say."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
    return ""


def _members(identity: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        with contextlib.suppress(OSError, ValueError):
            # A process that nobody has reaped yet is in the root group, or in none.
            if identity in path.read_text(encoding="utf-8", errors="replace") and _lives(path):
                found.append(int(path.parent.name))
    return found


def _lives(path: Path) -> bool:
    stat = path.with_name("stat").read_text(encoding="utf-8", errors="replace")
    # The program's name, in brackets, may hold anything.
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}
