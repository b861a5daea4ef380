"""How batch jobs end: no task starts again while the job that it was lost on may still run it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from fasthep_flow.orchestrators.dask.queues import QUEUES, Queue, QueueSilent

__all__ = [
    "NOTES",
    "await_ends",
    "await_former",
    "end_former_jobs",
    "left_jobs",
    "note_job",
    "tail_of",
]

NOTES: Final = "jobs.jsonl"
"""The batch jobs of a runner, in its folder."""

_FIRST_LOOK_S: Final = 0.25
_LAST_LOOK_S: Final = 5.0
"""A batch system serves others too: it is asked less and less often."""
_FIRST_TOLD_S: Final = 60.0
"""A job that is told to end may take that long: Slurm gives it half a minute before it kills."""
_TOLD_AGAIN_S: Final = 600.0
_SMALL_TALK: Final = re.compile(r"^\S+ \S+ - distributed\.\S+ - (DEBUG|INFO) - ")
_LAST_LINES: Final = 8
_LAST_BYTES: Final = 4096


def await_ends(
    queue: Queue,
    jobs: Collection[str],
    extra: Sequence[str],
    tell: Callable[[str], None],
    stop: threading.Event,
    *,
    first_told_s: float = _FIRST_TOLD_S,
) -> list[str]:
    """Cancel batch jobs, and return once none of them can run any more.

    However long that takes: where a batch system cannot reach a job's host, the job may well run
    there, and a task must not run twice.

    Args:
        queue: The batch system.
        jobs: Their ids.
        extra: Further arguments for its commands.
        tell: Told now and then what is waited for, and what to do about it.
        stop: Set when the run is to end: then this returns at once.
        first_told_s: After how many seconds that is first told.

    Returns:
        Those that the batch system still lists, or cannot be asked about; empty unless ``stop``
        was set.
    """
    left, look_s, tell_at_s = sorted(jobs), _FIRST_LOOK_S, time.monotonic() + first_told_s
    queue.cancel(left, extra)
    while left:
        reason = f"{queue.name} still lists"
        try:
            left = sorted(queue.states(left, extra))
        except QueueSilent as silence:
            reason = f"{queue.name} cannot be asked ({silence}) about"
        if not left or stop.wait(look_s):
            break
        look_s = min(2 * look_s, _LAST_LOOK_S)
        if time.monotonic() >= tell_at_s:
            tell_at_s = time.monotonic() + _TOLD_AGAIN_S
            tell(
                f"{reason} batch job {', '.join(left)}, which was cancelled: what ran in it may "
                f"still run, so it is waited for its end before that starts again. "
                f"{queue.advice.format(job=left[0])}; or stop the run with Ctrl-C"
            )
            queue.cancel(left, extra)
    return left


class _Noted(Struct, frozen=True):
    queue: str
    job: str
    extra: tuple[str, ...] = ()


def note_job(file: Path, queue: str, job: str, extra: Sequence[str] = ()) -> None:
    """Write down a job that was submitted, for a run that goes on after this process was killed.

    Args:
        file: Where the run's jobs are written down, a line each.
        queue: The name of the batch system.
        job: Its id.
        extra: Further arguments of the batch system's commands.
    """
    line = msgspec.json.encode(_Noted(queue, job, tuple(extra)))
    with suppress(OSError), file.open("ab") as notes:
        notes.write(line + b"\n")


def await_former(
    file: Path, tell: Callable[[str], None], queues: Mapping[str, Queue] = QUEUES
) -> None:
    """Cancel what a run that was cut short left with batch systems, and wait for its end.

    Args:
        file: Where :func:`note_job` wrote; it is removed.
        tell: As for :func:`await_ends`.
        queues: The batch systems, by name.
    """
    with suppress(OSError):
        for (name, extra), jobs in _noted(file).items():
            queue = queues[name]
            try:
                left: Collection[str] = queue.states(jobs, extra)
            except QueueSilent:
                left = jobs
            await_ends(queue, left, extra, tell, threading.Event())
        file.unlink()


def left_jobs(file: Path, queues: Mapping[str, Queue] = QUEUES) -> list[tuple[str, str]]:
    """Which jobs that were written down have not ended: their batch system's name, and the id.

    Args:
        file: Where :func:`note_job` wrote.
        queues: The batch systems, by name.

    Raises:
        QueueSilent: A batch system cannot be asked.
    """
    with suppress(OSError):
        return [
            (name, job)
            for (name, extra), jobs in _noted(file).items()
            for job in queues[name].states(jobs, extra)
        ]
    return []


def end_former_jobs(workers: Path, tell: Callable[[str], None]) -> None:
    """Cancel what a run that was cut short left with batch systems, whichever runners it had.

    Args:
        workers: The folder in which each runner of the run has one.
        tell: As for :func:`await_ends`.
    """
    for file in sorted(workers.glob(f"*/{NOTES}")):
        await_former(file, tell)


def _noted(file: Path) -> dict[tuple[str, tuple[str, ...]], list[str]]:
    """The jobs that were written down, by their batch system and how it is asked."""
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for line in file.read_bytes().splitlines():
        # The last line of a driver that was killed while it wrote: that job ends by itself.
        with suppress(msgspec.DecodeError):
            one = msgspec.json.decode(line, type=_Noted)
            found.setdefault((one.queue, one.extra), []).append(one.job)
    return found


def tail_of(log: Path) -> str:
    """The last lines of a worker's log, without what Dask says of every worker; or nothing."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _LAST_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line for line in text.splitlines() if line.strip() and not _SMALL_TALK.search(line)]
    return "\n".join(lines[-_LAST_LINES:])
