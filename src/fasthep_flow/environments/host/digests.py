"""What names the bytes of a file, read once for as long as the file stays the same."""

from __future__ import annotations

import hashlib
import uuid
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import msgspec

from fasthep_flow.environments.host.cache import cache_folder

__all__ = ["ALGORITHMS", "Sum", "file_digest", "new_sum", "note_digest"]

ALGORITHMS: Final = ("sha256", "sha512", "sha1", "md5", "adler32", "crc32")
"""Those whose digests can be looked at; the last two are what XRootD and EOS keep."""

_CHUNK: Final = 2**20


class Sum(Protocol):
    """What is told the bytes of a file, piece by piece."""

    def update(self, data: bytes, /) -> None:
        """Take these as well."""
        ...

    def hexdigest(self) -> str:
        """Of all that it was told."""
        ...


class _Short:
    """A checksum of 32 bits."""

    def __init__(self, algorithm: str) -> None:
        self._sum = zlib.adler32 if algorithm == "adler32" else zlib.crc32
        self._value = self._sum(b"")

    def update(self, data: bytes, /) -> None:
        self._value = self._sum(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


class _Known(msgspec.Struct, frozen=True, kw_only=True):
    """A file whose digest was once read, as it was then."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int  # as the other can be put back by whoever changes the bytes
    inode: int
    digest: str = ""


def new_sum(algorithm: str) -> Sum:
    """An empty sum.

    Args:
        algorithm: One of :data:`ALGORITHMS`.
    """
    if algorithm in {"adler32", "crc32"}:
        return _Short(algorithm)
    return hashlib.new(algorithm, usedforsecurity=False)


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """``sha256:...`` of the file's bytes, read once for as long as the file stays the same.

    Args:
        path: Of the file.
        algorithm: One of :data:`ALGORITHMS`.

    Raises:
        OSError: It cannot be read.
    """
    path = path.resolve()
    now = _as_it_is(path)
    note = _note(path, algorithm)
    with suppress(OSError, ValueError):
        known = msgspec.json.decode(note.read_bytes(), type=_Known)
        if msgspec.structs.replace(known, digest="") == now:
            return known.digest
    total = new_sum(algorithm)
    with path.open("rb", buffering=0) as file:
        while data := file.read(_CHUNK):
            total.update(data)
    digest = f"{algorithm}:{total.hexdigest()}"
    _keep(note, now, digest)
    return digest


def note_digest(path: Path, digest: str) -> None:
    """Note what is known of a file, so that it need not be read for it.

    Args:
        path: Of the file.
        digest: ``sha256:...``.
    """
    path = path.resolve()
    with suppress(OSError):
        _keep(_note(path, digest.partition(":")[0]), _as_it_is(path), digest)


def _as_it_is(path: Path) -> _Known:
    found = path.stat()
    return _Known(
        path=str(path),
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        ctime_ns=found.st_ctime_ns,
        inode=found.st_ino,
    )


def _note(path: Path, algorithm: str) -> Path:
    name = str(path) if algorithm == "sha256" else f"{algorithm}:{path}"
    key = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    return cache_folder() / "digests" / f"{key[:32]}.json"


def _keep(note: Path, now: _Known, digest: str) -> None:
    # Where it cannot be noted, it is read again the next time.
    with suppress(OSError, UnicodeEncodeError):
        text = msgspec.json.encode(msgspec.structs.replace(now, digest=digest))
        note.parent.mkdir(parents=True, exist_ok=True)
        part = note.with_name(f".{note.name}.{uuid.uuid4().hex}.part")
        try:
            part.write_bytes(text)
            part.replace(note)
        finally:
            part.unlink(missing_ok=True)
