"""Files of a run folder: written, written whole, and kept under a second name.

They have the mode that the user's mask gives them: others of the same experiment read them. What
may hold a secret is for the user alone.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from fasthep_flow.errors import RecordError

__all__ = ["as_record_error", "keep", "record_error", "write", "write_all", "write_whole"]

_MODE: Final = 0o666
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def record_error(error: OSError, path: Path | str, verb: str) -> RecordError:
    """What is told of a record that cannot be written or read.

    Args:
        error: Of the system.
        path: What it is about, where the error does not say.
        verb: What was to be done with it, such as ``write``.
    """
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    return RecordError(
        f"cannot {verb} {error.filename or path}: {error.strerror or error}",
        hint="make room there, or choose another folder with --output"
        if full
        else "choose another folder with --output",
    )


@contextmanager
def as_record_error(path: Path, verb: str) -> Iterator[None]:
    """What the system refuses in the block, as an error of the records.

    Args:
        path: What it is about, where the error does not say.
        verb: What was to be done with it.

    Raises:
        RecordError: In place of an error of the system.
    """
    try:
        yield
    except OSError as error:
        raise record_error(error, path, verb) from error


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it; nothing where it does not fit, as far as the file system lets go of it.

    Raises:
        OSError: It cannot be written.
    """
    rest = data
    try:
        while len(rest) > (written := os.write(descriptor, rest)):
            rest = rest[written:]
    except OSError:
        if len(rest) < len(data):
            # The disk was full in the middle: what follows is to begin a line of its own.
            with suppress(OSError):
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - len(data) + len(rest))
        raise


def write(
    path: str, data: bytes, *, sync: bool = False, mode: int = _MODE, folder: int | None = None
) -> None:
    """Have a file with these bytes.

    Args:
        path: Of the file; a link is not followed.
        data: All of it.
        sync: Whether to wait until it is on the disk.
        mode: What may be done with it, where the user's mask lets it.
        folder: A descriptor of the folder from which the path starts.

    Raises:
        OSError: It cannot be written.
    """
    try:
        descriptor = os.open(path, _NEW, mode, dir_fd=folder)
    except FileExistsError:
        # Of a driver that was killed, or a task put it there: a link, or a pipe.
        os.unlink(path, dir_fd=folder)
        descriptor = os.open(path, _NEW, mode, dir_fd=folder)
    try:
        write_all(descriptor, data)
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(
    path: Path | str,
    data: bytes,
    *,
    sync: bool = False,
    mode: int = _MODE,
    folder: int | None = None,
) -> None:
    """The same; a reader finds all of it, or what was there before.

    Args:
        path: Of the file.
        data: All of it.
        sync: Whether to wait until it is on the disk.
        mode: What may be done with it, where the user's mask lets it.
        folder: A descriptor of the folder from which the path starts.

    Raises:
        OSError: It cannot be written.
    """
    temporary = f"{path}.tmp"
    try:
        write(temporary, data, sync=sync, mode=mode, folder=folder)
        os.replace(temporary, path, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


def keep(path: Path, kept: Path) -> None:
    """Have a file under a second name too, as it is, before another one takes its place.

    Args:
        path: Of the file. What is none, as a link or a pipe, gets the second name alone.
        kept: The second name, which nothing has.

    Raises:
        OSError: It cannot be kept there.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        path.rename(kept)
        return
    try:
        kept.hardlink_to(path)
    except FileNotFoundError:
        raise
    except OSError:
        # Some file systems have no hard links, and nobody may make one to a file of others.
        shutil.copy(path, kept)
