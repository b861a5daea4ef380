"""The journal of a run: a sealed line an event, appended as it happens.

A line is believed if its seal fits (:mod:`~fasthep_flow.records.sealed`), and no other one is.
What a driver that was killed left of its last line is no damage: that event has not happened.
Whatever else does not fit is named, and kept for people to look at before a driver goes on with
the journal. No line, and no file, can make a reader's memory grow without bounds.
"""

from __future__ import annotations

import functools
import os
import stat
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Struct

from fasthep_flow.environments.host.reading import open_file
from fasthep_flow.model import JobResult
from fasthep_flow.records.files import keep, record_error, write_all
from fasthep_flow.records.sealed import sealed, unsealed

__all__ = ["Event", "Journal", "Reader", "mend", "now_text"]

_LONGEST_LINE: Final = 32 * 2**20
"""Bytes; the largest value that a task may return has half of it."""

_LARGEST: Final = 16 * 2**30
_MOST_NAMED: Final = 5
"""Damaged lines that are named; of the others there is the number."""

_BEGINNING: Final = b'{"time":"'
"""Of every line that a driver began."""

_APPEND: Final = (
    os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
)
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

_Condition: TypeAlias = Literal["sound", "cut", "damaged"]


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the journal.

    Args:
        time: UTC, as ISO 8601.
        event: ``run_started``, ``run_resumed``, ``task_submitted``, ``task_finished``,
            ``task_retried``, ``task_reused``, ``task_skipped``, ``note`` or ``run_finished``.
        task: The task's name.
        attempt: Counted from 1.
        status: How the attempt or the run ended.
        message: The cause of a failure, or a note.
        host: Where the driver runs that started the run, or went on with it.
        result: Of an attempt that ended, without the ends of its logs.
        identity: Of an attempt that succeeded: the parts of what could change its answer.
    """

    time: str
    event: str
    task: str | None = None
    attempt: int | None = None
    status: str | None = None
    message: str | None = None
    host: str | None = None
    result: JobResult | None = None
    identity: dict[str, str] | None = None


def now_text() -> str:
    """This moment in UTC, as ISO 8601."""
    second, rest = divmod(time.time_ns() // 1_000_000, 1000)
    return f"{_second_text(second)}.{rest:03d}Z"


@functools.lru_cache(maxsize=1)  # many events share a second
def _second_text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class Journal:
    """A journal that is appended to, by one driver alone.

    Args:
        path: Of the file, made where it is not there.

    Raises:
        RecordError: It cannot be written; of every method.
    """

    def __init__(self, path: Path) -> None:
        self._path: Final = path
        try:
            self._descriptor = os.open(path, _APPEND, 0o666)
        except OSError as error:
            raise record_error(error, path, "write") from error
        self._encode: Final = msgspec.json.Encoder().encode

    def append(self, event: Event) -> None:
        """Add a line."""
        try:
            write_all(self._descriptor, sealed(self._encode(event)) + b"\n")
        except OSError as error:
            raise record_error(error, self._path, "write") from error

    def sync(self, *, is_last: bool = False) -> None:
        """Have on disk what was appended.

        Args:
            is_last: Whether nothing follows, so that all of the file's facts are wanted there.
        """
        try:
            (os.fsync if is_last else os.fdatasync)(self._descriptor)
        except OSError as error:
            raise record_error(error, self._path, "write") from error

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)


class _Line(NamedTuple):
    number: int
    text: bytes
    condition: _Condition
    event: Event | None = None
    reason: str = ""


class Reader:
    """Reads a journal from its beginning to its end.

    Args:
        path: Of the journal; one that is not there has no lines.
        is_sealed: Whether its lines have seals; those of an older format have none.
    """

    def __init__(self, path: Path, *, is_sealed: bool = True) -> None:
        self._path: Final = path
        self._is_sealed: Final = is_sealed
        self._damaged: list[str] = []
        self._not_named = 0
        self.is_whole = True
        """Whether all that was read so far was sound."""
        self.is_empty = True
        """Whether there was no event in it so far."""

    @property
    def damaged(self) -> tuple[str, ...]:
        """What was not, in sentences."""
        more = self._not_named
        told = [f"{self._path}: {more} more lines are damaged"] if more else []
        return (*self._damaged, *told)

    def __iter__(self) -> Iterator[Event]:
        """The events that are sound, in order."""
        try:
            for line in _lines(self._path, is_sealed=self._is_sealed):
                if line.event is not None:
                    self.is_empty = False
                    yield line.event
                    continue
                self.is_whole = False
                if line.condition == "damaged":
                    self._name(f"{self._path}:{line.number}: {line.reason}")
        except FileNotFoundError:
            return
        except OSError as error:
            self.is_whole = False
            self._name(f"{self._path}: cannot be read: {error.strerror or error}")

    def _name(self, damage: str) -> None:
        if len(self._damaged) < _MOST_NAMED:
            self._damaged.append(damage)
        else:
            self._not_named += 1


def mend(path: Path, aside: Path) -> Path | None:
    """Have the sound lines of a journal, and no others, where it lies.

    For a driver that goes on with it, before it is opened. A crash meanwhile leaves it as it was.

    Args:
        path: Of the journal.
        aside: The folder for what is damaged.

    Returns:
        Where the journal lies as it was, if lines of it were damaged, or it is no file.

    Raises:
        OSError: It cannot be written.
    """
    kept = aside / f"{path.name}.{uuid.uuid4().hex[:8]}"
    if not stat.S_ISREG(path.lstat().st_mode):
        aside.mkdir(mode=0o700, exist_ok=True)
        path.rename(kept)
        return kept
    temporary = path.with_name(f".{kept.name}.part")
    is_damaged = False
    descriptor = os.open(temporary, _NEW, 0o666)
    with os.fdopen(descriptor, "wb") as sound:
        for line in _lines(path):
            if line.condition == "sound":
                sound.write(line.text)
                if not line.text.endswith(b"\n"):
                    sound.write(b"\n")
            is_damaged = is_damaged or line.condition == "damaged"
        sound.flush()
        os.fsync(descriptor)
    if is_damaged:
        aside.mkdir(mode=0o700, exist_ok=True)
        keep(path, kept)
    temporary.replace(path)
    return kept if is_damaged else None


def _lines(path: Path, *, is_sealed: bool = True) -> Iterator[_Line]:
    """Every line of a file, and whether it is to be believed."""
    decode = msgspec.json.Decoder(Event).decode
    number = size = 0
    with os.fdopen(open_file(path), "rb", buffering=2**20) as file:
        while text := file.readline(_LONGEST_LINE):
            number += 1
            size += len(text)
            if size > _LARGEST:
                yield _Line(number, b"", "damaged", reason=f"is beyond {_LARGEST >> 30} GiB")
                return
            if not text.endswith(b"\n") and len(text) == _LONGEST_LINE:
                yield _Line(number, b"", "damaged", reason="has no end")
                size += _pass_over(file)
                continue
            body = unsealed(text) if is_sealed else text
            if body is not None:
                try:
                    yield _Line(number, text, "sound", event=decode(body))
                    continue
                except msgspec.DecodeError as error:
                    reason = f"is no event: {error}"
            else:
                reason = "is not as it was written"
            is_cut = not text.endswith(b"\n") and _BEGINNING.startswith(text[: len(_BEGINNING)])
            yield _Line(number, b"", "cut" if is_cut else "damaged", reason=reason)


def _pass_over(file: BinaryIO) -> int:
    """Read to the end of the line, and keep nothing; how many bytes there were."""
    size = 0
    while size < _LARGEST and (text := file.readline(2**20)):
        size += len(text)
        if text.endswith(b"\n"):
            break
    return size
