"""Files as parts of an identity: by which name, and what stands for their content."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from fasthep_flow.execution.inputs import matches
from fasthep_flow.records.digests import Digests
from fasthep_flow.records.framing import clear, digest_of_parts
from fasthep_flow.records.sealed import read_whole

__all__ = ["ABSENT", "PENDING", "UNKNOWN", "Content"]

ABSENT: Final = "absent"
"""Stands for a file that is not there."""

PENDING: Final = "pending"
"""Stands for what another task is yet to make."""

UNKNOWN: Final = "unknown"
"""Stands for what nobody can tell; it is never the same as anything."""

_LARGE: Final = 64 * 2**20
"""Bytes of a file that a command names, and no more; what is larger counts by size and time."""

_SCRIPT: Final = 2**20
"""Bytes of a script that is read for what it sets."""

_FIRST_LINE: Final = 256
"""Bytes of it that Linux looks at."""

_SIGNS: Final = frozenset("*?[")


class Content:
    """What stands for the content of files.

    Args:
        folder: Absolute path of the workflow's folder, without ``..``.
        digests: Of files and folders.
    """

    def __init__(self, folder: str, digests: Digests) -> None:
        self.folder: Final = folder
        self._inside: Final = f"{folder}/"
        self._digests: Final = digests
        self._names: Final[dict[str, str]] = {}

    def label(self, kind: str, path: str) -> str:
        """The name of a file's part: its path below the workflow's folder, else the whole.

        So a folder that is moved elsewhere, as a whole, has the same parts there.
        """
        name = self._names.get(path)
        if name is None:
            name = self._names[path] = clear(path.removeprefix(self._inside))
        return f"{kind} {name}"

    def of(self, path: str) -> str:
        """Of a file, a folder, or all that a pattern fits; what links lead to counts as well.

        Args:
            path: Absolute. Where nothing has just this name, it may be a pattern.
        """
        path = path.rstrip("/") or "/"
        digest = self._one(path)
        if digest != ABSENT or _SIGNS.isdisjoint(path):
            return digest
        found = {clear(one.removeprefix(self._inside)): self._one(one) for one in matches(path)}
        if not found or UNKNOWN in found.values():
            return UNKNOWN if found else ABSENT
        return digest_of_parts("", found)

    def of_named(self, path: str, *, is_read: bool) -> str | None:
        """Of a file that a command may name; ``None`` if there is no such file.

        Args:
            path: Absolute.
            is_read: Whether its bytes count, if it is not too large for that.
        """
        found = _facts(path)
        if found is None or not stat.S_ISREG(found.st_mode):
            return None
        digest = self._one(path) if is_read and found.st_size <= _LARGE else UNKNOWN
        # What may not be read is no reason to run for ever anew.
        return f"size {found.st_size} changed {found.st_mtime_ns}" if digest == UNKNOWN else digest

    def is_file(self, path: str) -> bool:
        """Whether there is one."""
        found = _facts(path)
        return found is not None and stat.S_ISREG(found.st_mode)

    def text(self, path: str) -> str:
        """What a file says; nothing where it cannot be read, or is too large to be a script."""
        with suppress(OSError, ValueError):
            return read_whole(Path(path).resolve(), _SCRIPT).decode(errors="replace")
        return ""

    def is_python(self, path: str) -> bool:
        """Whether a file without a suffix says in its first line that Python is to run it."""
        if "." in path.rpartition("/")[2] or not self.is_file(path):
            return False
        with suppress(OSError, ValueError), Path(path).open("rb") as file:
            start = file.read(_FIRST_LINE).partition(b"\n")[0]
            return start.startswith(b"#!") and b"python" in start
        return False

    def is_folder(self, path: str) -> bool:
        """Whether there is one."""
        found = _facts(path)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def _one(self, path: str) -> str:
        try:
            return self._digests.of(path, follows=True) or ABSENT
        except (OSError, ValueError):
            return UNKNOWN


def _facts(path: str) -> os.stat_result | None:
    # Most words of a command are no files: an exception for each would cost more than all else.
    try:
        return os.stat(path) if os.access(path, os.F_OK) else None  # noqa: PTH116 - as above
    except (OSError, ValueError):
        return None
