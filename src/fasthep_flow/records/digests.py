"""What names the content of files and folders, read once for as long as they stay the same.

A digest is remembered with the device, the number, the size and the times of change of its file,
once that has been quiet for two seconds: what was written just now may be written to again within
what the file system's clock can tell apart. What is remembered lies in one file, of bounded size.
Where it is damaged it is not believed, and files are read again; where two runs write it at once,
some files may be read again.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from fasthep_flow.records.sealed import read_whole, sealed, unsealed, write_whole

__all__ = ["Digests", "Stopped"]

_CHUNK: Final = 2**20
_QUIET_S: Final = 2.0
_MOST: Final = 100_000
"""Files that are remembered, those that were looked at last."""

_MOST_FOLLOWED: Final = 1_000
"""Folders that links in one folder lead to."""

_DEEPEST: Final = 100
"""Such folders, each led to from the one before."""

_LARGEST: Final = 128 * 2**20
_FORMAT: Final = 1

_Facts: TypeAlias = tuple[int, int, int, int, int]


class Stopped(Exception):  # noqa: N818 - nothing failed
    """Nobody wants to know any more."""


class _Memo(Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    files: list[tuple[str, _Facts, str]]


_DECODE: Final = msgspec.json.Decoder(_Memo, strict=True).decode


class Digests:
    """Digests of files and folders; not for several threads at once.

    Args:
        memo: Where they are remembered from one run to the next; nowhere if ``None``.
        clock: Seconds since the epoch.
        is_stopped: Whether the run was told to stop, while a file is read.
    """

    def __init__(
        self,
        memo: Path | None = None,
        *,
        clock: Callable[[], float] = time.time,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._path: Final = memo
        self._is_stopped: Final = is_stopped
        self._clock: Final = clock
        self._known: Final = {} if memo is None else _read(memo)
        self._has_new = False
        self.bytes_read = 0

    def of(self, path: str, *, follows: bool = False) -> str | None:
        """``sha256:...`` of a file's bytes, or of a folder's listing; ``None`` if there is none.

        A folder's is that of the names and digests of all files below it; links in it count as
        what they say.

        Args:
            path: Absolute.
            follows: Whether what links lead to counts as well. One that leads to a folder that
                counts anyway, such as one around it, adds nothing.

        Raises:
            OSError: It cannot be read, is neither file nor folder, or a link leads to a folder
                around all of it, or links to more folders than anybody follows.
            Stopped: The run was told to stop.
        """
        try:
            found = os.stat(path)  # noqa: PTH116 - for every task: a Path costs more than the call
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISDIR(found.st_mode):
            return self._of_folder(path, {} if follows else None)
        return self._of_file(path, found)

    def save(self) -> None:
        """Remember what was read for other runs; where there is no room for it, do not."""
        if self._path is None or not self._has_new:
            return
        others = _read(self._path)
        for path in self._known:
            others.pop(path, None)
        merged = [*others.items(), *self._known.items()][-_MOST:]
        files = [(path, facts, digest) for path, (facts, digest) in merged if _is_text(path)]
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(self._path, sealed(msgspec.json.encode(_Memo(_FORMAT, files))))
            self._has_new = False

    def _of_folder(self, path: str, followed: dict[str, str] | None) -> str:
        """Of a folder's listing.

        Args:
            path: Of it.
            followed: What is known of those that links lead to, by their real paths; ``None``
                where links are not followed.
        """
        from fasthep_flow.environments.data.listing import Listed, files_below, listing_digest

        if followed is not None:
            # Whatever leads back to it.
            followed[os.path.realpath(path)] = ""
        listed = []
        for file, name in files_below(Path(path)):
            text = os.fspath(file)
            found = os.lstat(text)
            if not stat.S_ISLNK(found.st_mode):
                digest = self._of_file(text, found).partition(":")[2]
                listed.append(Listed(name=name, digest=digest))
                continue
            listed.append(Listed(name=name, link=os.readlink(text)))  # noqa: PTH115 - text
            if followed is not None and (target := self._of_target(text, followed)):
                listed.append(Listed(name=name, digest=target.partition(":")[2]))
        return f"sha256:{listing_digest(listed)}"

    def _of_target(self, link: str, followed: dict[str, str]) -> str:
        """Of what a link leads to; empty if that is not there, or counts anyway.

        Raises:
            OSError: It cannot be told.
        """
        try:
            found = os.stat(link)  # noqa: PTH116 - text
        except (FileNotFoundError, NotADirectoryError):
            return ""
        if not stat.S_ISDIR(found.st_mode):
            return self._of_file(link, found)
        real = os.path.realpath(link)
        if real in followed:
            return followed[real]
        root = next(iter(followed))
        if f"{root}/".startswith(f"{real.rstrip('/')}/"):
            raise OSError(f"{link} leads to {real}, which holds it")
        if len(followed) > _MOST_FOLLOWED:
            raise OSError(f"{link} is one of more than {_MOST_FOLLOWED} links to folders")
        # Those that are not finished yet.
        if list(followed.values()).count("") > _DEEPEST:
            raise OSError(f"{link} is the end of more than {_DEEPEST} links to folders")
        followed[real] = self._of_folder(real, followed)
        return followed[real]

    def _of_file(self, path: str, found: os.stat_result) -> str:
        known = self._known.get(path)
        if known is not None:
            if known[0] == _facts(found):
                # Those that were used last are the last ones to be forgotten.
                self._known[path] = self._known.pop(path)
                return known[1]
            del self._known[path]
        began_s = self._clock()
        digest, before, after = _read_digest(path, self._is_stopped)
        self.bytes_read += after.st_size
        quiet_since_s = max(after.st_mtime, after.st_ctime)
        if _facts(before) == _facts(after) and began_s - quiet_since_s >= _QUIET_S:
            self._known[path] = (_facts(after), digest)
            self._has_new = True
        return digest


def _read_digest(
    path: str, is_stopped: Callable[[], bool]
) -> tuple[str, os.stat_result, os.stat_result]:
    """The digest of a file's bytes, and its facts before and after they were read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise OSError(f"{path} is neither file nor folder")
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            if is_stopped():
                raise Stopped
            digest.update(chunk)
        return f"sha256:{digest.hexdigest()}", before, os.fstat(descriptor)


def _facts(found: os.stat_result) -> _Facts:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _read(memo: Path) -> dict[str, tuple[_Facts, str]]:
    """What is remembered; nothing where that is damaged."""
    with suppress(OSError, ValueError):
        text = unsealed(read_whole(memo, _LARGEST))
        if text is not None and (found := _DECODE(text)).format == _FORMAT:
            return {path: (facts, digest) for path, facts, digest in found.files}
    return {}


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
