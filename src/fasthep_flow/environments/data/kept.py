"""Where fetched data is kept: by its content, with a note of where it came from.

``data/sha256/<digest>`` in the cache folder is a file, ``data/folders/<digest>`` the files of a
folder; both are read-only. ``data/sources/`` says of each source what it had last, and what it
said of itself then.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, Self

import msgspec

from fasthep_flow.environments.data.listing import Listed, listing_digest
from fasthep_flow.environments.data.remote import Facts, UnkeptError
from fasthep_flow.environments.data.sources import Source
from fasthep_flow.environments.host.cache import cache_folder, make_once
from fasthep_flow.environments.host.digests import file_digest, new_sum, note_digest
from fasthep_flow.environments.host.locks import shared_lock

__all__ = [
    "Incoming",
    "Record",
    "keep_folder",
    "kept",
    "read_record",
    "source_lock",
    "write_record",
]

_PART: Final = ".part"
_ABANDONED_S: Final = 24 * 3600.0
_FILE_MODE: Final = 0o444


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a source had when it was fetched last.

    Args:
        shown: The source, without credentials.
        sha256: Of the content.
        size: Bytes, of all files.
        is_folder: Whether it is several files.
        digests: Of the content, by other algorithms.
        facts: What the source said of itself; ``None`` of several files, each of which is asked.
        fetched_s: Seconds since the epoch.
        host: Whose clock that was.
    """

    shown: str
    sha256: str
    size: int
    is_folder: bool = False
    digests: dict[str, str] = {}
    facts: Facts | None = None
    fetched_s: float = 0.0
    host: str = ""

    @property
    def digest(self) -> str:
        """``sha256:...``."""
        return f"sha256:{self.sha256}"

    def is_newer(self, than_s: float) -> bool:
        """Whether it was fetched after that moment, by this machine's clock."""
        return self.host == socket.gethostname() and self.fetched_s >= than_s


def kept(sha256: str, *, is_folder: bool) -> Path | None:
    """The content, where it is here and whole; what is damaged is removed."""
    path = _path(sha256, is_folder=is_folder)
    try:
        if not is_folder:
            found = file_digest(path)
        else:
            names = sorted(_names(path), key=os.fsencode)
            listed = [
                Listed(name=name, digest=file_digest(path / name).partition(":")[2])
                for name in names
            ]
            found = f"sha256:{listing_digest(listed)}"
    except OSError:
        return None
    if found == f"sha256:{sha256}":
        return path
    with suppress(OSError):
        _remove(path)
    return None


def _names(folder: Path, prefix: str = "") -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _names(Path(entry.path), f"{prefix}{entry.name}/")
            else:
                yield f"{prefix}{entry.name}"


class Incoming:
    """Bytes on their way into the cache; what is not kept is removed.

    Args:
        source: Where they come from.
        algorithms: Of the digests to be had, beside SHA-256.
        say: Is told how far it is.
    """

    def __init__(
        self, source: Source, algorithms: Sequence[str], say: Callable[[int, int | None], None]
    ) -> None:
        self._source: Final = source
        self._algorithms: Final = dict.fromkeys(("sha256", *algorithms))
        self._say: Final = say
        self._stack: Final = ExitStack()
        self._part: Path | None = None
        self._sums = {name: new_sum(name) for name in self._algorithms}
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def begin(self, facts: Facts) -> Callable[[bytes], None]:
        """Make room; what is returned takes the bytes.

        Raises:
            UnkeptError: There is no room, or no permission.
        """
        self._stack.close()
        self._sums = {name: new_sum(name) for name in self._algorithms}
        self._count = 0
        folder = cache_folder() / "data" / "sha256"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _require_room(folder, facts.size)
            self._part = folder / f".{self._source.key}.{uuid.uuid4().hex}{_PART}"
            part = self._part
            self._stack.callback(lambda: part.unlink(missing_ok=True))
            file = self._stack.enter_context(part.open("wb", buffering=0))
        except OSError as error:
            raise UnkeptError(error) from None

        def take(data: bytes) -> None:
            try:
                left = memoryview(data)
                while left:
                    left = left[file.write(left) :]
            except OSError as error:
                raise UnkeptError(error) from None
            for total in self._sums.values():
                total.update(data)
            self._count += len(data)
            self._say(self._count, facts.size)

        return take

    def keep(self, facts: Facts) -> Record:
        """Have what came under the name of its content.

        Raises:
            UnkeptError: There is no room.
        """
        assert self._part is not None  # noqa: S101 - begin() was called
        part = self._part
        digests = {name: total.hexdigest() for name, total in self._sums.items()}
        sha256 = digests.pop("sha256")
        target = _path(sha256, is_folder=False)

        def move(path: Path) -> None:
            part.rename(path)

        try:
            part.chmod(_FILE_MODE)
            if kept(sha256, is_folder=False) is None:
                make_once(target, move)
                note_digest(target, f"sha256:{sha256}")
        except OSError as error:
            raise UnkeptError(error) from None
        return Record(
            shown=self._source.shown,
            sha256=sha256,
            size=self._count,
            digests=digests,
            facts=facts,
            fetched_s=time.time(),
            host=socket.gethostname(),
        )


def _require_room(folder: Path, size: int | None) -> None:
    if size is not None and shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def keep_folder(source: Source, files: Sequence[tuple[str, Record]]) -> Record:
    """Have several files together, under their names.

    Args:
        source: Where they come from.
        files: Names with their records, which are in the cache.

    Raises:
        UnkeptError: There is no room.
    """
    listed = [Listed(name=name, digest=record.sha256) for name, record in files]
    sha256 = listing_digest(listed)

    def make(part: Path) -> None:
        part.mkdir()
        for name, record in files:
            target = part / name
            target.parent.mkdir(parents=True, exist_ok=True)
            content = _path(record.sha256, is_folder=False)
            try:
                target.hardlink_to(content)
            except OSError:
                # A file system without them, or too many of one file.
                shutil.copyfile(content, target)
                target.chmod(_FILE_MODE)

    try:
        if kept(sha256, is_folder=True) is None:
            make_once(_path(sha256, is_folder=True), make)
    except OSError as error:
        raise UnkeptError(error) from None
    return Record(
        shown=source.shown,
        sha256=sha256,
        size=sum(record.size for _, record in files),
        is_folder=True,
        fetched_s=time.time(),
        host=socket.gethostname(),
    )


def read_record(source: Source) -> Record | None:
    """What is noted of the source, where its content is here."""
    try:
        record = msgspec.json.decode(_note(source).read_bytes(), type=Record)
    except (OSError, ValueError):
        return None
    return record if kept(record.sha256, is_folder=record.is_folder) is not None else None


def write_record(source: Source, record: Record) -> None:
    """Note it; where it cannot be, the source is asked for all of it again the next time."""
    note = _note(source)
    part = note.with_name(f".{note.name}.{uuid.uuid4().hex}{_PART}")
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(msgspec.json.encode(record))
            part.replace(note)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def source_lock(source: Source) -> Iterator[None]:
    """One process at a time fetches from a source; what one that was killed had is removed.

    Raises:
        UnkeptError: There is no cache, and none can be made.
    """
    folder = cache_folder() / "data" / "sources"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnkeptError(error) from None
    with shared_lock(folder / f".{source.key}.lock") as is_locked:
        before_s = time.time() - (0.0 if is_locked else _ABANDONED_S)
        for part in (cache_folder() / "data" / "sha256").glob(f".{source.key}.*{_PART}"):
            with suppress(OSError):
                if part.stat().st_mtime <= before_s:
                    part.unlink()
        yield


def _path(sha256: str, *, is_folder: bool) -> Path:
    return cache_folder() / "data" / ("folders" if is_folder else "sha256") / sha256


def _note(source: Source) -> Path:
    return cache_folder() / "data" / "sources" / f"{source.key}.json"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
