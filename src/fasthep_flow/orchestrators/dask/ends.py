"""How batch jobs end: no task starts again while the job that it was lost on may still run it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from fasthep_flow.orchestrators.dask.queues import Queue, QueueSilent

__all__ = ["await_ends", "await_former", "note_job", "tail_of"]

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


def note_job(file: Path, job: str) -> None:
    """Write down a job that was submitted, for a run that goes on after this process was killed."""
    with suppress(OSError), file.open("a") as notes:
        notes.write(f"{job}\n")


def await_former(
    queue: Queue, file: Path, extra: Sequence[str], tell: Callable[[str], None]
) -> None:
    """Cancel what a run that was cut short left with the batch system, and wait for its end.

    Args:
        queue: The batch system.
        file: Where :func:`note_job` wrote; it is removed.
        extra: As for :func:`await_ends`.
        tell: As for :func:`await_ends`.
    """
    with suppress(OSError):
        jobs = file.read_text().split()
        try:
            left: Collection[str] = queue.states(jobs, extra) if jobs else ()
        except QueueSilent:
            left = jobs
        await_ends(queue, left, extra, tell, threading.Event())
        file.unlink()


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
