"""What names the bytes of images that lie in folders."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["folder_digest", "is_flat"]

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_FLAT: Final = re.compile(r"/\.(?:flat|images)/([^/]{2})/([^/]+)$")


def folder_digest(folder: Path) -> str:
    """What names the content of an unpacked image.

    CVMFS keeps unpacked images under names that say what is in them: ``sha256:<id>`` is that
    of the folder that the name leads to (``/cvmfs/unpacked.cern.ch/.flat/<2>/<id>``), the id
    alone where it is no digest. Of any other folder it is a digest of the listing: path, kind
    and permissions, size and time of change of every file, target of every link; what is in
    the files is not read.

    Raises:
        OSError: It cannot be read.
    """
    if (flat := _FLAT.search(str(folder.resolve()))) is not None:
        start, identity = flat.groups()
        if not identity.startswith(start):
            identity = start + identity
        return f"sha256:{identity}" if _SHA256.fullmatch(identity) else identity
    listing = hashlib.sha256()
    for line in _listing(str(folder), ""):
        listing.update(line.encode("utf-8", "surrogateescape") + b"\0")
    return f"sha256:{listing.hexdigest()}"


def is_flat(folder: Path) -> bool:
    """Whether the folder's name says what is in it, as CVMFS has it."""
    return _FLAT.search(str(folder.resolve())) is not None


def _listing(folder: str, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        path = f"{prefix}{entry.name}"
        facts = entry.stat(follow_symlinks=False)
        if entry.is_symlink():
            yield f"{path}\0link\0{os.readlink(entry.path)}"  # noqa: PTH115 - the text as it is
        elif entry.is_dir(follow_symlinks=False):
            yield f"{path}\0{facts.st_mode:o}"
            # What the user may not read, a container of the user's cannot either.
            with suppress(PermissionError):
                yield from _listing(entry.path, f"{path}/")
        elif stat.S_ISREG(facts.st_mode):
            yield f"{path}\0{facts.st_mode:o}\0{facts.st_size}\0{facts.st_mtime_ns}"
        else:
            yield f"{path}\0{facts.st_mode:o}"
