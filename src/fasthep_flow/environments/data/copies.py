"""Copies of files and folders: shared on the disk where the file system can do that."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["copy", "remove"]

_FICLONE: Final = 0x40049409
"""Of ioctl_ficlonerange(2)."""

_AT_ONCE: Final = 2**27
_NO_WAY: Final = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.ETXTBSY}
)
_WRITE: Final = 0o222


def copy(source: str, target: str, *, is_writable: bool) -> None:
    """Copy a file, or a folder with all that is in it; links are copied as links.

    Args:
        source: Absolute path; no link.
        target: Absolute path; nothing is there.
        is_writable: Whether its user may write to the copy.

    Raises:
        OSError: There is no room, or something cannot be read.
    """
    found = os.lstat(source)
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(source), target)  # noqa: PTH115, PTH211 - the text as it is
        return
    if stat.S_ISDIR(found.st_mode):
        os.mkdir(target, 0o700)  # noqa: PTH102 - text
        with os.scandir(source) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            copy(f"{source}/{name}", f"{target}/{name}", is_writable=is_writable)
    elif stat.S_ISREG(found.st_mode):
        _copy_file(source, target)
    else:
        raise OSError(errno.EINVAL, f"{source} is neither file nor folder")
    mode = stat.S_IMODE(found.st_mode) & 0o777 | 0o400
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
    os.chmod(target, mode | 0o200 if is_writable else mode & ~_WRITE)  # noqa: PTH101 - text


def _copy_file(source: str, target: str) -> None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with (
        open(os.open(source, flags), "rb", buffering=0) as read,  # noqa: PTH123 - a descriptor
        # Buffered: what is not writes less than it is told to where there is no more room.
        open(target, "xb") as written,  # noqa: PTH123 - text
    ):
        if sys.platform == "linux":
            with suppress(OSError):
                fcntl.ioctl(written.fileno(), _FICLONE, read.fileno())
                return
            try:
                while os.copy_file_range(read.fileno(), written.fileno(), _AT_ONCE):
                    pass
            except OSError as error:
                if error.errno not in _NO_WAY:
                    raise
        # All of it, or what the kernel has left.
        shutil.copyfileobj(read, written, 2**20)


def remove(path: str) -> None:
    """Remove a file, or a folder with all that is in it, whatever may be written there."""
    found = Path(path)
    with suppress(OSError):
        if found.is_symlink() or not found.is_dir():
            found.unlink(missing_ok=True)
            return
        for folder, _, _ in os.walk(path):
            os.chmod(folder, 0o700)  # noqa: PTH101 - text; links are not walked into
        shutil.rmtree(path, ignore_errors=True)
