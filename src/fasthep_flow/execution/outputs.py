"""The files and folders that a task makes: whether they are there, whole, and what they are.

Before an attempt what lies at them is set aside; after it they are either all there, read, on the
disk and named by their digests, or what there is of them is set aside as well. The digest of a file
is that of its bytes, as ``sha256sum`` has it; of a folder that of its files' names and digests, see
:mod:`fasthep_flow.environments.data.listing`. So neither times nor modes count.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

import msgspec
from msgspec import UNSET

from fasthep_flow.errors import EnvironmentRefused
from fasthep_flow.execution.aside import (
    Aside,
    Note,
    Parents,
    bring_to_disk,
    is_within,
    parents_of,
    place_of,
    printable,
    read_note,
    set_aside,
    set_aside_left,
    write_note,
)
from fasthep_flow.execution.process import end_daemons
from fasthep_flow.model import Failure, FailureKind, Job, JobResult

__all__ = ["abandon_outputs", "begin_outputs", "end_outputs"]

_ON_HOST: Final = frozenset({"native", "charliecloud"})
"""Whose processes are the host's own: in other containers nothing outlives the task."""

_CHUNK: Final = 2**20
_AT_ONCE: Final = 16
_BATCH: Final = 256
"""Files that are read beside each other: one alone would have the disk wait for each."""

_NAMED: Final = 3
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_KINDS: Final = (
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISBLK, "device"),
    (stat.S_ISCHR, "device"),
)


class _Refused(Exception):  # noqa: N818 - no error: it is what there is to say
    def __init__(self, message: str, hint: str | None = None, kind: FailureKind = "output") -> None:
        super().__init__(message)
        self.failure: Final = Failure(kind=kind, message=message, hint=hint)


class _Stopped(Exception):  # noqa: N818 - no error
    """The run was told to stop while an output was read."""


def begin_outputs(job: Job) -> Parents:
    """Set aside what lies at the job's outputs, for :func:`end_outputs`; where they are to lie.

    It goes to the folder ``before`` of the attempt. Folders for the outputs are made, in the
    folder where the task works; others are the author's.

    Args:
        job: What is about to start. Its folder is there, and no earlier attempt runs any more.

    Raises:
        EnvironmentRefused: An output is no place for one, or what lies there cannot be set aside.
        OSError: There is no room for a folder.
    """
    for earlier in _unfinished(job):
        _require_moved(set_aside_left(job.outputs, earlier))
    _make_folders(job)
    parents = parents_of(job.outputs)
    _require_apart(job, parents)
    # Who finds this note and no end of the attempt knows that what lies there may be half-made.
    write_note(job.directory, Note(parents=parents))
    aside = set_aside(job.outputs, parents, job.directory, "before")
    _require_moved(aside)
    if aside.moved:
        write_note(job.directory, Note(parents=parents, before=aside.moved))
    return parents


def end_outputs(
    job: Job, parents: Parents, result: JobResult, *, is_stopped: Callable[[], bool]
) -> JobResult:
    """The result of an attempt that has ended, its outputs judged; nothing changes them any more.

    After a success they are read and brought to the disk. Where one is not as it has to be, and
    after any other end, what there is of them goes to the folder ``left`` of the attempt.

    Args:
        job: What ran.
        parents: As :func:`begin_outputs` found them.
        result: What became of it otherwise.
        is_stopped: Whether the run was told to stop; what is still to be read is not read then.
    """
    if job.runtime in _ON_HOST and (ended := end_daemons(job.directory)):
        whom = "a process" if ended == 1 else f"{ended} processes"
        result = _with_remarks(result, [f"{whom} that the task left running had to be ended"])
    if result.status == "succeeded":
        result = _judged(job, parents, result, is_stopped)
    aside = Aside({}, {})
    if result.status != "succeeded":
        aside = set_aside(job.outputs, parents, job.directory, "left")
        result = _with_remarks(result, _remarks_on(aside))
    if not aside.stuck:
        _settle(job, parents, aside)
    return result


def abandon_outputs(job: Job, result: JobResult) -> JobResult:
    """The result of an attempt that did not begin, or is not known to have.

    Args:
        job: What was to run; nothing of it does.
        result: What became of it.
    """
    note = read_note(job.directory)
    if note is None or note.is_settled:
        return result
    return _with_remarks(result, _remarks_on(set_aside_left(job.outputs, job.directory)))


def _unfinished(job: Job) -> Iterator[str]:
    """The folders of attempts of this task that nobody saw end: their workers were lost."""
    above = os.path.dirname(job.directory)  # noqa: PTH120 - text
    for number in range(1, job.attempt):
        if (note := read_note(f"{above}/{number}")) is not None and not note.is_settled:
            yield f"{above}/{number}"
    # An engine that lost a worker hands its jobs to another one, attempt number and all.
    if (note := read_note(job.directory)) is not None and not note.is_settled:
        yield job.directory


def _make_folders(job: Job) -> None:
    outputs = [output.rstrip("/") for output in job.outputs]
    for output in outputs:
        parent, _ = place_of(output)
        # What is made in another output is that one's.
        is_free = not any(is_within(parent, other) for other in outputs)
        if is_free and is_within(parent, job.working_directory):
            os.makedirs(parent, exist_ok=True)  # noqa: PTH103 - text


def _require_apart(job: Job, parents: Parents) -> None:
    folders = (job.working_directory, job.run_directory, job.directory)
    for output, parent in parents.items():
        name = place_of(output)[1]
        if name in {"", ".", ".."}:
            raise EnvironmentRefused(f"the output {output!r} names no file or folder")
        for folder in folders:
            if is_within(os.path.realpath(folder), f"{parent.rstrip('/')}/{name}"):
                raise EnvironmentRefused(
                    f"the output {output} holds {folder}: to set it aside before the task starts"
                    " would take that away",
                    hint="name what the task makes, or a folder of its own",
                )


def _require_moved(aside: Aside) -> None:
    for output, why in aside.stuck.items():
        raise EnvironmentRefused(
            f"what lies at the output {output} cannot be set aside: {why}",
            hint="move it away, or have its folder be one that you may write to",
        )


def _judged(
    job: Job, parents: Parents, result: JobResult, is_stopped: Callable[[], bool]
) -> JobResult:
    digests: dict[str, str] = {}
    remarks: list[str] = []
    try:
        _require_made(job.outputs, parents)
        for output in job.outputs:
            digests[output], is_empty = _made(
                output, parents[output], job.working_directory, is_stopped
            )
            if is_empty:
                remarks.append(f"the output {printable(output)} is empty")
    except _Refused as refused:
        failure = refused.failure
    except _Stopped:
        message = "stopped with the run, while what the task had made was read"
        failure = Failure(kind="cancelled", message=message)
        return msgspec.structs.replace(result, status="cancelled", failure=failure, value=UNSET)
    except Exception as error:  # noqa: BLE001 - the reply says failed, whatever it is
        message = f"a mistake of fasthep-flow's: {type(error).__name__}: {error}"
        failure = Failure(kind="internal", message=message)
    else:
        result = msgspec.structs.replace(result, outputs=digests)
        return _with_remarks(result, remarks)
    return msgspec.structs.replace(result, status="failed", failure=failure, value=UNSET)


def _require_made(outputs: Iterable[str], parents: Parents) -> None:
    missing = []
    for output in outputs:
        parent, name = place_of(output)
        if (real := os.path.realpath(parent)) != parents[output]:
            raise _Refused(
                f"the folder of the output {output} was exchanged while the task ran: {parent}"
                f" leads to {printable(real)} now",
                hint="have the task write into the folder that is there",
            )
        try:
            os.lstat(f"{real}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            missing.append(output)
        except OSError as error:
            raise _Refused(f"the output {output} cannot be looked at: {error.strerror}") from None
    if missing:
        raise _Refused(
            f"the task ended with success, but did not make {_list(missing)}",
            hint="look at the paths, which start from the workflow file, and at what the task does",
        )


def _list(names: list[str]) -> str:
    rest = len(names) - _NAMED
    shown = ", ".join(names[:_NAMED])
    return f"{shown} and {rest} more" if rest > 0 else shown


def _made(
    output: str, parent: str, working_directory: str, is_stopped: Callable[[], bool]
) -> tuple[str, bool]:
    """The digest of an output, and whether it is empty; it is on the disk then.

    Args:
        output: As it is declared.
        parent: The real path of its folder.
        working_directory: Of the task.
        is_stopped: Whether to give up.
    """
    folder, name = place_of(output)
    path = f"{parent.rstrip('/')}/{name}"
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            raise _Refused(
                f"the output {output} is a link, to {printable(os.readlink(path))}",  # noqa: PTH115
                hint="have the task write the file itself there: what it leads to is not kept",
            )
        if stat.S_ISDIR(mode):
            digest, is_empty = _folder(output, path, is_stopped)
        elif stat.S_ISREG(mode) and output.endswith("/"):
            raise _Refused(
                f"the output {output} is a file",
                hint="have the task make a folder there, or leave out the '/' behind its name",
            )
        elif stat.S_ISREG(mode):
            digest, size = _file(path, is_stopped)
            is_empty = not size
        else:
            raise _special(output, mode)
        _bring_folders_to_disk(folder, working_directory)
    except OSError as error:
        raise _unreadable(output, error) from None
    return f"sha256:{digest}", is_empty


def _unreadable(output: str, error: OSError) -> _Refused:
    where = output if error.filename is None else printable(str(error.filename))
    words = error.strerror or str(error)
    if error.errno in _FULL:
        return _Refused(f"disk full: the output {where}: {words}", kind="environment")
    return _Refused(f"the output {where} cannot be read, or brought to the disk: {words}")


def _special(path: str, mode: int) -> _Refused:
    kind = next((name for is_one, name in _KINDS if is_one(mode)), "thing of another kind")
    return _Refused(f"the output {printable(path)} is a {kind}: neither file nor folder")


def _file(path: str, is_stopped: Callable[[], bool]) -> tuple[str, int]:
    """The hexadecimal digits of a file's digest, and its size."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise _special(path, before.st_mode)
        total = hashlib.sha256(usedforsecurity=False)
        size = 0
        for count in itertools.count():
            if count % 64 == 63:  # noqa: PLR2004 - often enough
                _require_going(is_stopped)
            chunk = os.read(descriptor, _CHUNK)
            total.update(chunk)
            size += len(chunk)
            if not chunk:
                break
        after = os.fstat(descriptor)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise _Refused(
                f"the output {printable(path)} was still written to when the task had ended",
                hint="have the task wait for all that it starts",
            )
        bring_to_disk(descriptor)
    except OSError as error:
        error.filename = error.filename or path
        raise
    finally:
        os.close(descriptor)
    return total.hexdigest(), size


def _folder(output: str, path: str, is_stopped: Callable[[], bool]) -> tuple[str, bool]:
    """The hexadecimal digits of a folder's digest, and whether there is no file in it."""
    from fasthep_flow.environments.data.listing import Entry, Listed, Listing, below

    given_up = threading.Event()

    def is_over() -> bool:
        return given_up.is_set() or is_stopped()

    def listed(entry: Entry) -> Listed:
        mode = os.lstat(entry.path).st_mode
        if stat.S_ISLNK(mode):
            return Listed(name=entry.name, link=_link_within(entry.path, path))
        if not stat.S_ISREG(mode):
            raise _special(f"{output.rstrip('/')}/{entry.name}", mode)
        return Listed(name=entry.name, digest=_file(entry.path, is_over)[0])

    listing = Listing()
    is_empty = True
    entries = below(path)
    _bring_folder_to_disk(path)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fasthep-flow-digest") as pool:
        try:
            while batch := list(itertools.islice(entries, _BATCH)):
                for file in pool.map(listed, [one for one in batch if not one.is_folder]):
                    listing.add(file)
                    is_empty = False
                folders = [one.path for one in batch if one.is_folder]
                for _ in pool.map(_bring_folder_to_disk, folders):
                    pass
                _require_going(is_stopped)
        except BaseException:
            given_up.set()
            pool.shutdown(cancel_futures=True)
            raise
    return listing.hexdigest(), is_empty


def _require_going(is_stopped: Callable[[], bool]) -> None:
    if is_stopped():
        raise _Stopped


def _link_within(path: str, folder: str) -> str:
    """What a link in a folder says.

    Args:
        path: Of the link.
        folder: Absolute path, without links.
    """
    text = os.readlink(path)  # noqa: PTH115 - text
    if not is_within(os.path.realpath(path), folder):
        raise _Refused(
            f"in the output {printable(folder)}, {printable(path)} is a link that leads out of it,"
            f" to {printable(text)}",
            hint="have the task copy what it leads to, or leave it out",
        )
    return text


def _bring_folders_to_disk(folder: str, above: str) -> None:
    """The name of an output, and those of the folders that were made for it."""
    while True:
        _bring_folder_to_disk(folder)
        if folder == above or not is_within(folder, above):
            return
        folder = os.path.dirname(folder)  # noqa: PTH120 - text


def _bring_folder_to_disk(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        bring_to_disk(descriptor)
    finally:
        os.close(descriptor)


def _settle(job: Job, parents: Parents, aside: Aside) -> None:
    # Where this is lost, the next attempt sets aside what lies there once more.
    with suppress(OSError):
        note = read_note(job.directory) or Note(parents=dict(parents))
        os.makedirs(job.directory, exist_ok=True)  # noqa: PTH103 - the task may have removed it
        write_note(job.directory, msgspec.structs.replace(note, is_settled=True, left=aside.moved))


def _remarks_on(aside: Aside) -> list[str]:
    moved = [
        f"what the task left at {printable(output)} is no result, and was set aside: {where}"
        for output, where in aside.moved.items()
    ]
    stuck = [
        f"what the task left at {printable(output)} is no result, and cannot be set aside: {why}"
        for output, why in aside.stuck.items()
    ]
    return moved + stuck


def _with_remarks(result: JobResult, remarks: list[str]) -> JobResult:
    if not remarks:
        return result
    return msgspec.structs.replace(result, remarks=(*result.remarks, *remarks))
