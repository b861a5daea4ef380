"""What names the bytes of images that lie in files and folders."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from fasthep_flow.environments.host.cache import cache_folder

__all__ = ["file_digest", "folder_digest"]

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_FLAT: Final = re.compile(r"/\.(?:flat|images)/([^/]{2})/([^/]+)$")


class _Known(msgspec.Struct, frozen=True, kw_only=True):
    """A file whose digest was once read, as it was then."""

    path: str
    size: int
    mtime_ns: int
    inode: int
    digest: str = ""


def file_digest(path: Path) -> str:
    """``sha256:...`` of the file's bytes, read once for as long as the file stays the same.

    Raises:
        OSError: It cannot be read.
    """
    path = path.resolve()
    found = path.stat()
    now = _Known(path=str(path), size=found.st_size, mtime_ns=found.st_mtime_ns, inode=found.st_ino)
    key = hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()
    note = cache_folder() / "digests" / f"{key[:32]}.json"
    with suppress(OSError, ValueError):
        known = msgspec.json.decode(note.read_bytes(), type=_Known)
        if msgspec.structs.replace(known, digest="") == now:
            return known.digest
    with path.open("rb") as file:
        digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    # Where it cannot be noted, it is read again the next time.
    with suppress(OSError):
        _write(note, msgspec.json.encode(msgspec.structs.replace(now, digest=digest)))
    return digest


def _write(path: Path, text: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(text)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


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
