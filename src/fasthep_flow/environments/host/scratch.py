"""Folders on this machine for what containers need while they run, gone with them.

A container's ``/tmp`` and ``/var/tmp`` lie here: on the machine's own disk, as large as that
is, and seen by nobody else.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from fasthep_flow.environments.host.owner import is_gone, owner_labels

__all__ = ["SCRATCH_FOLDERS", "new_scratch", "remove_orphaned_scratch", "user_folder"]

SCRATCH_FOLDERS: Final = {"tmp": "/tmp", "var_tmp": "/var/tmp"}  # noqa: S108 - in a container
"""Folders of a container's scratch folder, and what they are inside."""

_OWNER: Final = "owner.json"


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
    (folder / _OWNER).write_text(json.dumps(owner_labels()), encoding="utf-8")
    return folder


def remove_orphaned_scratch() -> int:
    """Remove the folders of processes that are gone; how many there were."""
    removed = 0
    with suppress(OSError):
        for folder in (user_folder() / "containers").iterdir():
            with suppress(OSError, ValueError):
                labels = json.loads((folder / _OWNER).read_text(encoding="utf-8"))
                if not isinstance(labels, dict):
                    continue
                if is_gone({key: str(value) for key, value in labels.items()}):
                    shutil.rmtree(folder, ignore_errors=True)
                    removed += 1
    return removed
