"""Files that a task may have put there: read within bounds, and never waited for."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

__all__ = ["TooLargeError", "open_file", "read_whole"]

_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class TooLargeError(OSError):
    """A file is larger than it may be."""


def open_file(path: Path | str, folder: int | None = None) -> int:
    """A descriptor to read a file; it is never waited for, as for a pipe.

    Args:
        path: Of the file, and no link.
        folder: A descriptor of the folder from which the path starts.

    Raises:
        OSError: It cannot be opened, or is no file.
    """
    try:
        descriptor = os.open(path, _FLAGS, dir_fd=folder)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EMLINK}:
            raise OSError(f"{path} is a link, and is not followed") from None
        if error.errno == errno.ENXIO:
            raise OSError(f"{path} is no file") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is no file")
    return descriptor


def read_whole(path: Path | str, most: int, folder: int | None = None) -> bytes:
    """The bytes of a file; it is never waited for, as for a pipe.

    Args:
        path: Of the file, and no link.
        most: So many bytes at most.
        folder: A descriptor of the folder from which the path starts.

    Raises:
        OSError: It cannot be read, is no file, or is larger.
    """
    with os.fdopen(open_file(path, folder), "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise TooLargeError(f"{path} is larger than {most} bytes")
    return data
