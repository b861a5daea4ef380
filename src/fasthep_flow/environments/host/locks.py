"""Locks between the user's processes: on one machine, and on all that share a file system."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fasthep_flow.environments.host.scratch import user_folder

if TYPE_CHECKING:
    from flufl.lock import Lock

__all__ = ["lock_file", "machine_lock", "shared_lock"]

_LIFETIME_S: Final = 60
"""How long a lock is believed in whose holder says nothing; ten seconds more for its clock."""


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


@contextmanager
def shared_lock(path: Path, *, lifetime_s: int = _LIFETIME_S) -> Iterator[bool]:
    """One process at a time among those that see the folder, on whatever host they run.

    For folders that machines share, where the kernel's locks often are no locks: it is a hard
    link, which NFS too makes for one alone. Its holder renews it for as long as it lives; one
    that is dead is known by that, on this machine at once, or elsewhere when the lifetime is
    over. A holder that was suspended for longer than that may not be alone any more: so what
    the lock guards must be safe without it, if slower. Where there is no lock to be had (a file
    system without hard links), there is none.

    Args:
        path: Of the lock, in a folder that is there.
        lifetime_s: How long a holder is taken to live that says nothing.

    Yields:
        Whether there is a lock.
    """
    from flufl.lock import Lock

    # On one machine the kernel's own is quicker, and dies with its holder.
    with machine_lock(f"shared {path}"):
        lock = Lock(str(path), lifetime=lifetime_s)
        if not _taken(lock, lifetime_s):
            yield False
            return
        ended = threading.Event()
        renewal = threading.Thread(target=_renew, args=(lock, ended, lifetime_s / 3), daemon=True)
        renewal.start()
        try:
            yield True
        finally:
            ended.set()
            renewal.join()
            with suppress(OSError):
                lock.unlock(unconditionally=True)


def _taken(lock: Lock, lifetime_s: int) -> bool:
    """Wait for the lock; whether there is one to be had."""
    from flufl.lock import TimeOutError

    try:
        while True:
            _remove_dead(lock, lifetime_s)
            with suppress(TimeOutError):
                lock.lock(timeout=lifetime_s)
                return True
    except BaseException as error:
        with suppress(OSError):
            Path(lock.claimfile).unlink()
        if isinstance(error, OSError):
            return False
        raise


def _remove_dead(lock: Lock, lifetime_s: int) -> None:
    """Remove a lock of this machine's whose holder is gone, and one that names no holder."""
    from flufl.lock import LockState, NotLockedError

    path = Path(lock.lockfile)
    with suppress(FileNotFoundError):
        if lock.state is LockState.stale:
            claim = path.with_name(path.read_text(encoding="utf-8").rpartition("/")[2])
            path.unlink()
            if claim.name.startswith(path.name):
                claim.unlink()
        try:
            _ = lock.details
        except NotLockedError:
            # Left by a power cut: nobody could ever tell that its holder is dead.
            if path.stat().st_mtime + lifetime_s < time.time():
                path.unlink()


def _renew(lock: Lock, ended: threading.Event, every_s: float) -> None:
    from flufl.lock import NotLockedError

    while not ended.wait(every_s):
        try:
            lock.refresh()
        except NotLockedError:
            return
        except OSError:
            # The file server may answer again in time.
            continue


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
        return user_folder(Path(runtime, "fasthep-flow"))
    return user_folder()
