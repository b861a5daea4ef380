"""Files that are whole and sound, or are not believed.

They are JSON whose last key is ``crc``, the CRC-32 of all bytes before it: what was cut short, or
has another byte than was written, is told from what is sound. They appear under their names when
they are finished, and nobody but the user can read them. A seal is no signature: it guards against
accidents.
"""

from __future__ import annotations

import os
import re
import uuid
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

from fasthep_flow.environments.host.reading import read_whole

__all__ = ["read_whole", "sealed", "set_aside", "unsealed", "write_whole"]

_SEAL: Final = re.compile(rb'"crc":"([0-9a-f]{8})"\}\n?')
_SEAL_LENGTH: Final = len('"crc":"01234567"}\n')
_MOST_ASIDE: Final = 100
"""Damaged files that are kept for people to look at."""


def sealed(text: bytes) -> bytes:
    """A JSON object with its seal.

    Args:
        text: Of the object, nothing behind its end.
    """
    body = text[:-1] if text == b"{}" else text[:-1] + b","
    return b'%s"crc":"%08x"}' % (body, zlib.crc32(body))


def unsealed(text: bytes) -> bytes | None:
    """The JSON object without its seal; ``None`` where that is not what was written.

    Args:
        text: Of the object; there may be the end of the line behind it.
    """
    tail = text[-_SEAL_LENGTH:]
    found = _SEAL.search(tail)
    if found is None or found.end() != len(tail):
        return None
    body = text[: len(text) - len(tail) + found.start()]
    if body[:1] != b"{" or b"%08x" % zlib.crc32(body) != found[1]:
        return None
    return b"%s}" % body.removesuffix(b",")


def write_whole(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Have a file of the user's own with these bytes, or as it was before.

    Args:
        path: In a folder that is there.
        data: All of it.
        sync: Whether to wait until it is on the disk. Without, it may be damaged after a power
            cut, and is then known to be.

    Raises:
        OSError: It cannot be written.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            rest = data
            while len(rest) > (written := os.write(descriptor, rest)):
                rest = rest[written:]
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def set_aside(path: Path, folder: Path) -> Path | None:
    """Move a damaged file away, to be looked at; where it lies now.

    Args:
        path: Of the file.
        folder: Where those are kept that were damaged; it is made where it is not there.

    Returns:
        ``None`` where it was moved or removed already, or cannot be moved.
    """
    target = folder / f"{path.name}.{uuid.uuid4().hex[:8]}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        path.rename(target)
        _remove_oldest(folder)
        return target
    return None


def _remove_oldest(folder: Path) -> None:
    with os.scandir(folder) as entries:
        found = [(entry.stat(follow_symlinks=False).st_ctime_ns, entry.path) for entry in entries]
    for _, path in sorted(found)[:-_MOST_ASIDE]:
        Path(path).unlink()
