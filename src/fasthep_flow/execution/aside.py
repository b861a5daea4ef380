"""What lies at a task's outputs, set aside: nothing is removed, and nothing is overwritten.

It goes into the attempt's folder by being renamed, which takes no room and no time. Where that
cannot be, since the folder is on another file system or the disk is full, it gets another name
beside its own, which begins with a dot, so that no pattern fits it. What is renamed is the name in
its folder: links are not followed, and no folder but that one is touched.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Struct

__all__ = [
    "NOTE",
    "Aside",
    "Note",
    "Parents",
    "bring_to_disk",
    "is_within",
    "parents_of",
    "place_of",
    "printable",
    "read_note",
    "set_aside",
    "set_aside_left",
    "write_note",
]

NOTE: Final = "outputs.json"
"""In an attempt's folder: where its outputs lie, and whether they are still its own."""

Parents: TypeAlias = Mapping[str, str]
"""By output, the real path of the folder that it lies in, as it was before the attempt."""

_Where: TypeAlias = Literal["before", "left"]

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LONGEST_NAME: Final = 255
_NOT_THERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
_LARGEST_NOTE: Final = 2**26
_NO_SYNC: Final = frozenset(
    {errno.EINVAL, errno.EROFS, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF}
)
"""What file systems say that know of no such thing."""


class Aside(NamedTuple):
    """What became of what lay at outputs; those at which nothing lay are in neither.

    Args:
        moved: Where each of them lies now.
        stuck: Why those that still lie there do, in words.
    """

    moved: dict[str, str]
    stuck: dict[str, str]


class Note(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an attempt says of its outputs.

    Args:
        is_settled: Whether what lies there is none of this attempt's leftovers: it made all of
            them in full, or what it left was set aside.
        parents: See :data:`Parents`.
        before: What lay there when it began, and where that is now.
        left: What it left there, and where that is now.
    """

    is_settled: bool = False
    parents: dict[str, str] = {}
    before: dict[str, str] = {}
    left: dict[str, str] = {}


_DECODE: Final = msgspec.json.Decoder(Note).decode


def place_of(output: str) -> tuple[str, str]:
    """The folder in which an output lies, and its name there.

    Args:
        output: Absolute path; a ``/`` at its end says nothing.
    """
    return os.path.split(output.rstrip("/") or "/")


def parents_of(outputs: Iterable[str]) -> dict[str, str]:
    """Where they lie at the moment, whatever links lead there."""
    return {output: os.path.realpath(place_of(output)[0]) for output in outputs}


def set_aside_left(outputs: Iterable[str], attempt_directory: str) -> Aside:
    """Set aside what an attempt that nobody saw end has left at its outputs.

    For whoever goes on after a worker was lost or a driver was killed, once no process of the
    attempt is left, and before any task starts that could read them. It goes to the folder
    ``left`` of the attempt. Safe to call again, also after this was cut short; of an attempt that
    made its outputs in full, or whose leftovers were set aside already, nothing is touched.

    Args:
        outputs: Of its task: absolute paths.
        attempt_directory: Absolute path of the attempt's folder.
    """
    note = read_note(attempt_directory)
    if note is not None and note.is_settled:
        return Aside({}, {})
    aside = set_aside(outputs, None if note is None else note.parents, attempt_directory, "left")
    if not aside.stuck:
        note = note or Note()
        left = {**note.left, **aside.moved}
        with suppress(OSError):
            _make_folder(attempt_directory)
            write_note(attempt_directory, msgspec.structs.replace(note, is_settled=True, left=left))
    return aside


def set_aside(
    outputs: Iterable[str], parents: Parents | None, attempt_directory: str, where: _Where
) -> Aside:
    """Rename what lies at the outputs into a folder of the attempt's.

    Args:
        outputs: Absolute paths.
        parents: Where they are to lie; where that is not known, nothing is touched to which a
            link leads.
        attempt_directory: Absolute path of the attempt's folder; it is made where it is gone.
        where: The name of the folder in there; it is made where something goes there.
    """
    aside = Aside({}, {})
    # What holds others goes first, and they go with it.
    for output in sorted(set(outputs)):
        parent, name = place_of(output)
        expected = os.path.normpath(parent) if parents is None else parents.get(output)
        if expected is None or name in {"", ".", ".."}:
            continue
        real = os.path.realpath(parent)
        if real != expected:
            if os.path.lexists(f"{real}/{name}"):
                words = f"{printable(parent)} leads to {printable(real)}"
                aside.stuck[output] = f"{words}, and nothing is touched there"
            continue
        if is_within(os.path.realpath(attempt_directory), f"{real.rstrip('/')}/{name}"):
            aside.stuck[output] = "the attempt's own folder lies in it"
            continue
        try:
            with _opened(real) as folder:
                if _is_there(name, folder):
                    aside.moved[output] = _moved(folder, real, name, attempt_directory, where)
        except OSError as error:
            if error.errno in _NOT_THERE and not os.path.lexists(f"{real}/{name}"):
                continue
            aside.stuck[output] = error.strerror or str(error)
    return aside


def is_within(path: str, folder: str) -> bool:
    """Whether a path is the folder's or one below it, as text."""
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def read_note(attempt_directory: str) -> Note | None:
    """What the attempt says; ``None`` where it says nothing that can be read."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with suppress(OSError, ValueError), _opened(attempt_directory) as folder:
        descriptor = os.open(NOTE, flags, dir_fd=folder)
        with os.fdopen(descriptor, "rb") as file:
            return _DECODE(file.read(_LARGEST_NOTE))
    return None


def write_note(attempt_directory: str, note: Note) -> None:
    """Have the attempt say this.

    Raises:
        OSError: It cannot be written.
    """
    part = f".{NOTE}.part"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    text = msgspec.json.format(msgspec.json.encode(note), indent=2)
    with _opened(attempt_directory) as folder:
        with suppress(FileNotFoundError):
            os.unlink(part, dir_fd=folder)
        try:
            with os.fdopen(os.open(part, flags, 0o666, dir_fd=folder), "wb") as file:
                file.write(text)
            os.replace(part, NOTE, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            with suppress(OSError):
                os.unlink(part, dir_fd=folder)
            raise


def bring_to_disk(descriptor: int) -> None:
    """Have what was written to a file or folder on the disk, where the file system can do that.

    Raises:
        OSError: It cannot be brought there.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def printable(path: str) -> str:
    """A path as text: bytes that are none are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _moved(folder: int, real: str, name: str, attempt_directory: str, where: _Where) -> str:
    """Where it lies now.

    Raises:
        OSError: It can be renamed neither there nor beside.
    """
    with suppress(OSError):
        _make_folder(attempt_directory)
        with _opened(attempt_directory) as attempt:
            new = _moved_into(where, attempt, folder, name)
            return printable(f"{attempt_directory}/{where}/{new}")
    run, _, slug, number = _last_parts(attempt_directory, 4)
    new = _free(f".{name}", f".{where}-{run}-{slug}-{number}", folder)
    os.rename(name, new, src_dir_fd=folder, dst_dir_fd=folder)
    _bring_to_disk_if_possible(folder)
    return printable(f"{real}/{new}")


def _moved_into(where: _Where, attempt: int, folder: int, name: str) -> str:
    try:
        os.mkdir(where, dir_fd=attempt)
        is_new = True
    except FileExistsError:
        is_new = False
    with _opened(where, attempt) as target:
        new = _free(name, "", target)
        try:
            os.rename(name, new, src_dir_fd=folder, dst_dir_fd=target)
        except OSError:
            if is_new:
                os.rmdir(where, dir_fd=attempt)
            raise
        _bring_to_disk_if_possible(folder, target, attempt)
    return new


def _bring_to_disk_if_possible(*descriptors: int) -> None:
    # It is where it belongs; and if the power fails now, the next attempt sets it aside again.
    for descriptor in descriptors:
        with suppress(OSError):
            os.fsync(descriptor)


def _make_folder(path: str) -> None:
    if not os.path.isdir(path):  # noqa: PTH112 - text
        os.makedirs(path, exist_ok=True)  # noqa: PTH103 - text


def _last_parts(path: str, count: int) -> list[str]:
    return [*[""] * count, *path.split("/")][-count:]


def _free(name: str, suffix: str, folder: int) -> str:
    """A name of which there is none in the folder, and that is not too long for one."""
    for number in itertools.count(1):
        end = os.fsencode(suffix if number == 1 else f"{suffix}~{number}")
        new = os.fsdecode(os.fsencode(name)[: _LONGEST_NAME - len(end)] + end)
        if not _is_there(new, folder):
            return new
    raise AssertionError


def _is_there(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        # No file system has one whose name is longer than its names can be.
        if error.errno in _NOT_THERE:
            return False
        raise
    return True


@contextmanager
def _opened(path: str, folder: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, _FOLDER, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
