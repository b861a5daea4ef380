"""The folder of an attempt, as the worker that runs it has it: open, from its start to its end.

A task may put anything in its place. What is read from it after the task's end is read in the
folder that was made for it, wherever the path leads by then.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import Final

from fasthep_flow.environments.host.below import open_below, restore_below
from fasthep_flow.errors import EnvironmentRefused
from fasthep_flow.model import Failure, Job

__all__ = ["TAIL_BYTES", "make_room", "open_place", "tail_of", "why_exchanged"]

TAIL_BYTES: Final = 64 * 2**10
"""Of a log: what is shown and recorded of it at most."""

_CONTINUATION: Final = bytes(range(0x80, 0xC0))
_WRITTEN: Final = ("stdout.log", "stderr.log", "call.json", "reply.json", "stdin", "engine.log")
"""What an attempt leaves behind that did not come to its end."""


def make_room(job: Job) -> int:
    """Have the attempt's folder, and nothing that still writes there; its descriptor.

    Args:
        job: What is about to start; the caller closes the descriptor when it has ended.

    Raises:
        EnvironmentRefused: What lies there is no folder.
        OSError: The folder cannot be made.
    """
    folder = open_place(job)
    try:
        _end_earlier(job, folder)
    except BaseException:
        os.close(folder)
        raise
    return folder


def open_place(job: Job) -> int:
    """The attempt's folder, made where it is not there; its descriptor, which the caller closes.

    Args:
        job: What is about to start.

    Raises:
        EnvironmentRefused: What lies there is no folder.
        OSError: The folder cannot be made.
    """
    top, names = _way(job)
    try:
        return open_below(top, names)
    except FileNotFoundError:
        os.makedirs(top, exist_ok=True)  # noqa: PTH103 - text
        return restore_below(top, names)[0]
    except NotADirectoryError:
        raise EnvironmentRefused(
            f"the task's folder {job.directory} was replaced before the task began: it is no"
            " folder, or lies behind a link",
            hint="look for a task that writes in the folders of others",
        ) from None


def why_exchanged(job: Job, folder: int) -> Failure | None:
    """What there is to say where the path leads to another folder by now, or to none.

    Then what lies there is moved aside, so that nothing that is written there later is led out.

    Args:
        job: What has ended.
        folder: As :func:`make_room` opened it.

    Returns:
        ``None`` also where nothing is there any more: that is the driver's to remark.
    """
    try:
        if os.path.samestat(os.lstat(job.directory), os.fstat(folder)):
            return None
    except FileNotFoundError:
        return None
    except OSError:
        pass
    top, names = _way(job)
    told = ""
    with suppress(OSError):
        descriptor, aside = restore_below(top, names, mode=0o700)
        os.close(descriptor)
        told = "".join(f"; what lay there was set aside, as {top}/{one}" for one in aside)
    return Failure(
        kind="output",
        message=f"the task's folder {job.directory} was replaced while the task ran{told}",
        hint="have the task leave its folder where it is: its logs and its result lie there",
    )


def tail_of(folder: int, name: str) -> str:
    """The end of a log; bytes that are no UTF-8 are escaped.

    Args:
        folder: A descriptor of the folder that it lies in.
        name: Of the log.
    """
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return ""
    # A task may have put anything in its place: what is no file of its own is not shown.
    if not (size := found.st_size) or not stat.S_ISREG(found.st_mode):
        return ""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=folder)
    with os.fdopen(descriptor, "rb", buffering=0) as log:
        log.seek(max(0, size - TAIL_BYTES))
        text = log.read(TAIL_BYTES)
    if size > TAIL_BYTES:
        # The cut may lie within a character.
        text = text.lstrip(_CONTINUATION)
    return text.decode("utf-8", "backslashreplace")


def _way(job: Job) -> tuple[str, list[str]]:
    """A folder that is trusted to be what it is, and the names that lead on from there."""
    if job.directory.startswith(f"{job.run_directory}/"):
        return job.run_directory, job.directory[len(job.run_directory) + 1 :].split("/")
    above, name = os.path.split(job.directory)
    return above, [name]


def _end_earlier(job: Job, folder: int) -> None:
    # An engine that lost a worker hands its jobs to another one, attempt number and all.
    begun = _is_there(folder, "stdout.log")
    if job.attempt == 1 and not begun:
        return
    # All engines of containers come with it.
    from fasthep_flow.environments.survivors import end_task

    end_task(job.run_id, job.task, os.path.dirname(job.directory), job.runtime)  # noqa: PTH120
    if begun:
        for name in _WRITTEN:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)


def _is_there(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
