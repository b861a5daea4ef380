"""Whose a container is, and whether that process still lives."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["is_gone", "owner_labels", "process_space", "start_of"]

_HOST: Final = "fasthep.host"
_SPACE: Final = "fasthep.space"
_USER: Final = "fasthep.user"
_PID: Final = "fasthep.pid"
_STARTED: Final = "fasthep.started"
_ENDED: Final = frozenset("ZX")


def owner_labels() -> dict[str, str]:
    """What tells that a container is this process's."""
    return dict(_labels_of(os.getpid()))


@functools.lru_cache(maxsize=1)
def _labels_of(pid: int) -> dict[str, str]:  # a forked worker is another process
    return {
        _HOST: socket.gethostname(),
        _SPACE: process_space(),
        _USER: str(os.getuid()),
        _PID: str(pid),
        _STARTED: start_of(pid) or "",
    }


def is_gone(labels: Mapping[str, str]) -> bool:
    """Whether the process of this user's whose container this is has ended.

    Only of processes that have their numbers where this one has its own can that be said;
    all others are taken to live, and so are those of other users.

    Args:
        labels: Of the container.
    """
    own = owner_labels()
    if any(not own[key] or labels.get(key) != own[key] for key in (_HOST, _SPACE, _USER)):
        return False
    pid, started = labels.get(_PID, ""), labels.get(_STARTED, "")
    if not pid.isdecimal() or not int(pid) or not started:
        return False
    # Other users' processes may be hidden from /proc, but not from this.
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return start_of(int(pid)) not in (started, None)


def start_of(pid: int) -> str | None:
    """When a process started; empty where it has ended, ``None`` where that cannot be told.

    In ticks since the machine started: a clock that is set does not change it.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The program's name, in brackets, may hold anything.
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in _ENDED else fields[19]


def process_space() -> str:
    """Where process numbers mean the same; empty where that cannot be told.

    A container may have the host's name and numbers of its own, and another machine the
    same name.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # A path of the kernel's making: what it points to is no file.
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:
        return ""
