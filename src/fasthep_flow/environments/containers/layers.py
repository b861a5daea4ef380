"""A container's own files: what lies on top of its image, and whether a job changed that."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

__all__ = ["has_changed", "upper_folder"]


_OPAQUE: Final = (
    "trusted.overlay.opaque",
    "user.overlay.opaque",
    "user.fuseoverlayfs.opaque",
)
"""How a folder says that those of the same name below it are not to be seen.

See ``filesystems/overlayfs`` in the kernel's documentation.
"""


def upper_folder(
    driver: Mapping[str, Any] | None, pid: int
) -> tuple[Path | None, tuple[Path, ...]]:
    """The folder of the host's where a container's own files lie, and those of its image.

    The former is ``None`` where there is none that this process may look into.

    Args:
        driver: What the engine says of its storage (``GraphDriver``).
        pid: Of the container's first process, of the host's numbers; 0 if that is not known.
    """
    data = (driver or {}).get("Data") or {}
    upper, lower = str(data.get("UpperDir") or ""), str(data.get("LowerDir") or "")
    if not upper:
        upper, lower = _mounted_on(pid)
    path = Path(upper)
    if not upper or not os.access(path, os.R_OK | os.X_OK):
        return None, ()
    return path, tuple(Path(part) for part in lower.split(":") if part)


def _mounted_on(pid: int) -> tuple[str, str]:
    """What the kernel says of the overlay that a process has as its root (proc(5), mountinfo)."""
    with suppress(OSError, ValueError):
        text = Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        for line in text.splitlines():
            front, _, back = line.partition(" - ")
            if front.split()[4] == "/" and back.startswith("overlay "):
                options = dict(
                    option.partition("=")[::2] for option in back.split(" ", 2)[2].split(",")
                )
                return options.get("upperdir", ""), options.get("lowerdir", "")
    return "", ""


def has_changed(upper: Path, lower: tuple[Path, ...], since_ns: int) -> bool:
    """Whether anything in the folder was made, changed or deleted since then.

    A file that came and went leaves a trace in the time of its folder, which counts for
    nothing: what matters is what the next job would find. So a folder that the image has
    counts only if it is not as it is there. That a file of the engine's own was deleted, such
    as ``/.dockerenv``, is not noticed.

    Args:
        upper: Where a container's own files lie.
        lower: Where those of its image lie, the uppermost first.
        since_ns: Nanoseconds since the epoch.
    """
    with suppress(OSError):
        root = upper.lstat()
        if root.st_ctime_ns >= since_ns and not _is_as_before(str(upper), root, upper, lower):
            return True
    above = [str(upper)]
    while above:
        folder = above.pop()
        try:
            entries = list(os.scandir(folder))
        except PermissionError:
            return True
        except FileNotFoundError:
            continue
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                return True
            is_folder = stat.S_ISDIR(found.st_mode)
            if is_folder:
                above.append(entry.path)
            if found.st_ctime_ns < since_ns:
                continue
            if not is_folder or not _is_as_before(entry.path, found, upper, lower):
                return True
    return False


def _is_as_before(path: str, found: os.stat_result, upper: Path, lower: tuple[Path, ...]) -> bool:
    """Whether a folder was there before: in the image, with the same rights and owner."""
    for attribute in _OPAQUE:
        # It was deleted and made again: what the image has in it cannot be seen any more.
        with suppress(OSError):
            os.getxattr(path, attribute, follow_symlinks=False)
            return False
    name = os.path.relpath(path, upper)
    for layer in lower:
        with suppress(OSError):
            before = os.lstat(layer / name)
            return stat.S_ISDIR(before.st_mode) and (
                before.st_mode,
                before.st_uid,
                before.st_gid,
            ) == (found.st_mode, found.st_uid, found.st_gid)
    return False
