"""What a job can leave in a container beside its own layer of files, seen from the host.

An engine mounts more than an image: ``/etc/hosts``, ``/dev``, volumes that the image or the
author asks for. And whoever runs as the same user may change the limits, the priority and the
processors of what serves there, which all that it starts inherits. All of that is looked at
before the first job and after each.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

__all__ = ["Traces", "traces_of"]

_KERNELS_OWN: Final = frozenset({"proc", "sysfs", "cgroup", "cgroup2", "devpts"})
_MOST_FILES: Final = 2000
"""A volume with more than that takes longer to look at than a new container."""

_OCTAL: Final = re.compile(r"\\([0-7]{3})")
_NICE: Final = 16
"""Of the fields behind a program's name, the one that proc(5) calls ``nice``."""


class Traces(Struct, frozen=True, kw_only=True):
    """What is to be the same before each job.

    Args:
        server: Limits, priority and processors of what serves in the container.
        files: Of all that is mounted and can be written to: kind, rights, owner, size, time.
    """

    server: tuple[str, ...]
    files: dict[str, tuple[int, ...]]


def traces_of(pid: int, ours: Collection[str]) -> Traces | None:
    """How things stand in a container; ``None`` where that is not to be seen from here.

    Args:
        pid: Of what serves there, of the host's numbers.
        ours: Where it sees folders of the host's that are looked after otherwise.
    """
    try:
        files: dict[str, tuple[int, ...]] = {}
        for target in _writable(pid, ours):
            for name, facts in _files(f"/proc/{pid}/root{target}", target):
                files[name] = facts
                if len(files) > _MOST_FILES:
                    return None
        return Traces(server=_server(pid), files=files)
    except (OSError, ValueError, IndexError):
        return None


def _server(pid: int) -> tuple[str, ...]:
    folder = Path("/proc", str(pid))
    status = (folder / "status").read_text(encoding="utf-8", errors="replace").splitlines()
    allowed = next((line for line in status if line.startswith("Cpus_allowed:")), "")
    fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
    return (
        (folder / "limits").read_text(encoding="utf-8", errors="replace"),
        (folder / "oom_score_adj").read_text(encoding="ascii"),
        (folder / "coredump_filter").read_text(encoding="ascii"),
        fields.split()[_NICE],
        allowed,
    )


def _writable(pid: int, ours: Collection[str]) -> Iterator[str]:
    """Where something is mounted that can be written to, but for the root (proc(5), mountinfo)."""
    text = Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    for line in text.splitlines():
        front, _, back = line.partition(" - ")
        fields = front.split(" ")
        target = _OCTAL.sub(lambda found: chr(int(found[1], 8)), fields[4])
        target = target.encode("latin-1", "surrogateescape").decode("utf-8", "surrogateescape")
        if back.split(" ")[0] in _KERNELS_OWN or target == "/" or "ro" in fields[5].split(","):
            continue
        if not any(target == one or target.startswith(f"{one}/") for one in ours):
            yield target


def _files(path: str, name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What lies in a mount, by its name in the container; what is mounted in there not."""
    found = os.lstat(path)
    yield name, _facts(found)
    if stat.S_ISDIR(found.st_mode):
        yield from _below(path, name, found.st_dev)


def _below(path: str, name: str, device: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for entry in os.scandir(path):
        found = entry.stat(follow_symlinks=False)
        here = f"{name}/{entry.name}"
        if found.st_dev != device:
            continue
        yield here, _facts(found)
        if stat.S_ISDIR(found.st_mode):
            yield from _below(entry.path, here, device)


def _facts(found: os.stat_result) -> tuple[int, ...]:
    facts = (found.st_mode, found.st_uid, found.st_gid, found.st_ino)
    if stat.S_ISREG(found.st_mode):
        # A folder's time tells of files that came and went, a device's of every use.
        return (*facts, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return facts
