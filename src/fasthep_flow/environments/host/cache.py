"""Where fetched and made things are kept: images, data, Python environments.

The cache may lie on a file system that several machines share. So nothing in it is ever
written in place: it is made under a temporary name in the same folder, and renamed.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from fasthep_flow.environments.host.locks import shared_lock

__all__ = ["cache_folder", "file_name", "make_once"]

_PART: Final = ".part"
_LONGEST_NAME: Final = 180
_ABANDONED_S: Final = 24 * 3600.0
_SIGNS: Final = str.maketrans("/:", "+=")


def cache_folder() -> Path:
    """The folder of this user's fetched things: ``FASTHEP_FLOW_CACHE``, else the system's usual.

    It need not be there yet.
    """
    if chosen := os.environ.get("FASTHEP_FLOW_CACHE"):
        return Path(chosen).absolute()
    from platformdirs import user_cache_path

    return user_cache_path("fasthep-flow", appauthor=False)


def file_name(text: str) -> str:
    """A name for a file that can be read, and that no other text has.

    ``docker.io/library/debian:12`` is ``docker.io+library+debian=12``.
    """
    # Of these two signs none is left as it is, so that nothing else becomes them.
    name = quote(text, safe="/:@", errors="surrogateescape").translate(_SIGNS)
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{name[:_LONGEST_NAME]}~{digest[:16]}"


def make_once(target: Path, make: Callable[[Path], None]) -> None:
    """Have ``target``, which one process makes, also where several ask for it at once.

    What is there is whole: it appears under its name when it is finished. The lock between
    the processes and hosts only avoids that it is made twice.

    Args:
        target: A file or folder in the cache.
        make: Makes it at the path that it is handed, on the same file system. What it raises
            is passed on, and nothing is left of what it had made.

    Raises:
        OSError: There is no room, or no permission.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with shared_lock(target.with_name(f".{target.name}.lock")) as is_locked:
        if target.exists():
            return
        _remove_parts(target, older_than_s=0.0 if is_locked else _ABANDONED_S)
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex}{_PART}")
        try:
            make(part)
            _write_out(part)
            part.rename(target)
        except OSError:
            # Another host may have been quicker, and have swept this away.
            if not target.exists():
                raise
        finally:
            _remove(part)


def _remove_parts(target: Path, *, older_than_s: float) -> None:
    """Remove what others left who were killed before they had finished."""
    before_s = time.time() - older_than_s
    for path in target.parent.glob(f".{glob.escape(target.name)}.*{_PART}"):
        with suppress(OSError):
            if path.lstat().st_mtime <= before_s:
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _write_out(path: Path) -> None:
    """Wait until a file is on the disk: after a power cut its name must not stand for less."""
    if path.is_file():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
