"""Folders on this machine for what is needed for a while, marked as this process's own.

Where the process is killed, whoever cleans up finds them by that. A container's ``/tmp`` and
``/var/tmp`` lie here: on the machine's own disk, as large as that is, and seen by nobody else.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from fasthep_flow.environments.host.owner import is_gone, owner_labels

__all__ = [
    "SCRATCH_FOLDERS",
    "is_orphaned",
    "mark_owned",
    "new_scratch",
    "orphaned_scratch",
    "remove_orphaned_scratch",
    "scratch_folder",
    "user_folder",
]

SCRATCH_FOLDERS: Final = {"tmp": "/tmp", "var_tmp": "/var/tmp"}  # noqa: S108 - in a container
"""Folders of a container's scratch folder, and what they are inside."""

_OWNER: Final = "owner.json"
_OTHERS: Final = ("fasthep-flow-dask-*", "ff-ray-*")
"""Below the folder for temporary things: what else is marked as a process's own."""

_SHORT: Final = "/tmp"  # noqa: S108 - sockets of Ray have short paths


def user_folder(folder: Path | None = None) -> Path:
    """A folder for temporary things that is this user's own.

    Args:
        folder: To be it; one below ``TMPDIR`` if not given.

    Raises:
        OSError: There is none, and it cannot be made.
    """
    if folder is None:
        folder = Path(tempfile.gettempdir(), f"fasthep-flow-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    # In a folder that everyone may write to, another user may have been first.
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise PermissionError(f"{folder} is not this user's")
    return folder


def new_scratch() -> Path:
    """A new and empty folder; whoever asked for it removes it.

    Raises:
        OSError: It cannot be made.
    """
    above = user_folder() / "containers"
    above.mkdir(mode=0o700, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="", dir=above))
    mark_owned(folder)
    return folder


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder with nothing but whose it is; it goes with the block.

    Raises:
        OSError: It cannot be made.
    """
    folder = new_scratch()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def mark_owned(folder: Path) -> None:
    """Write down in a folder that it is this process's.

    Args:
        folder: That is to go with this process.

    Raises:
        OSError: It cannot be written to.
    """
    (folder / _OWNER).write_text(json.dumps(owner_labels()), encoding="utf-8")


def is_orphaned(folder: Path) -> bool:
    """Whether the process that marked the folder as its own is gone.

    Args:
        folder: Of this user's; a link is none.
    """
    with suppress(OSError, ValueError):
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            return False
        labels = json.loads((folder / _OWNER).read_text(encoding="utf-8"))
        return isinstance(labels, dict) and is_gone(
            {key: str(value) for key, value in labels.items()}
        )
    return False


def orphaned_scratch() -> list[Path]:
    """The folders of processes that are gone."""
    found: list[Path] = []
    with suppress(OSError):
        found += (user_folder() / "containers").iterdir()
    for above in {tempfile.gettempdir(), _SHORT}:
        for pattern in _OTHERS:
            with suppress(OSError):
                found += Path(above).glob(pattern)
    return [folder for folder in sorted(found) if is_orphaned(folder)]


def remove_orphaned_scratch() -> int:
    """Remove the folders of processes that are gone; how many there were."""
    found = orphaned_scratch()
    for folder in found:
        shutil.rmtree(folder, ignore_errors=True)
    return len(found)
