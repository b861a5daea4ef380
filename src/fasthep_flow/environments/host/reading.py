"""Files that a task may have put there: read within bounds, and never waited for."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["TooLargeError", "read_whole"]


class TooLargeError(OSError):
    """A file is larger than it may be."""


def read_whole(path: Path | str, most: int) -> bytes:
    """The bytes of a file; it is never waited for, as for a pipe.

    Args:
        path: Of the file, and no link.
        most: So many bytes at most.

    Raises:
        OSError: It cannot be read, is no file, or is larger.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is no file")
        data = file.read(most + 1)
    if len(data) > most:
        raise TooLargeError(f"{path} is larger than {most} bytes")
    return data
