"""Locks between the user's processes on one machine."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["lock_file", "machine_lock"]


@contextmanager
def machine_lock(name: str) -> Iterator[bool]:
    """One process of the user's on this machine at a time; the lock dies with its holder.

    What it guards must be safe without it, if slower: where no lock can be had (no folder
    of the user's own, a file system without locks), there is none.

    Args:
        name: What is locked.

    Yields:
        Whether there is a lock.
    """
    try:
        descriptor = lock_file(name)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def lock_file(name: str) -> int:
    """A descriptor of the file that stands for ``name``; the caller closes it.

    Raises:
        OSError: There is no folder for it that is the user's own.
    """
    path = _folder() / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.lock"
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _folder() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        folder = Path(runtime, "fasthep-flow")
    else:
        folder = Path(tempfile.gettempdir(), f"fasthep-flow-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    # In a folder that everyone may write to, another user may have been first.
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise PermissionError(f"{folder} is not this user's")
    return folder
