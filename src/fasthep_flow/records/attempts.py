"""An attempt of a task as its run recorded it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from msgspec import Struct

from fasthep_flow.environments.host.reading import read_whole
from fasthep_flow.errors import RecordError
from fasthep_flow.model import Job, JobResult, from_json
from fasthep_flow.records.record import (
    attempt_numbers,
    planned_tasks,
    read_run,
    resolve_run,
)

__all__ = ["Attempt", "last_attempt", "run_folder"]

_LARGEST_JOB: Final = 64 * 2**20


class Attempt(Struct, frozen=True, kw_only=True):
    """An attempt that was begun.

    Args:
        run: The run's folder.
        directory: Its own.
        job: What was to run.
        result: How it ended; ``None`` where nobody has recorded that.
        is_running: Whether its run goes on and has not seen its end.
    """

    run: Path
    directory: Path
    job: Job
    result: JobResult | None
    is_running: bool

    @property
    def did_not_succeed(self) -> bool:
        """Whether it has ended otherwise."""
        if self.is_running:
            return False
        return self.result is None or self.result.status not in {"succeeded", "reused"}


def run_folder(output: Path, run: str) -> Path:
    """The folder of a run.

    Args:
        output: The folder under which runs lie.
        run: Its id, ``latest``, or a path of its folder or of another such folder.

    Raises:
        RecordError: There is none.
    """
    for path in (output / run, Path(run)):
        if path.is_dir():
            return resolve_run(path)
    raise RecordError(
        f"there is no run {run!r} in {output}",
        hint="'latest', the name of a folder there, or a path",
    )


def last_attempt(run: Path, task: str) -> Attempt | None:
    """The last attempt of a task in a run; ``None`` where it was not begun there.

    Args:
        run: The run's folder.
        task: The task's name.

    Raises:
        RecordError: The records cannot be read.
    """
    record = read_run(run)
    try:
        tasks = [run / "tasks" / one.slug for one in planned_tasks(run) if one.name == task]
        numbered = {
            number: folder / str(number)
            for folder in tasks
            for number in attempt_numbers(folder)
            if (folder / str(number) / "job.json").exists()
        }
        if not numbered:
            return None
        directory = numbered[max(numbered)]
        job = from_json(Job, read_whole(directory / "job.json", _LARGEST_JOB))
    except (OSError, ValueError) as error:
        raise RecordError(
            f"the records of task {task!r} in {run} cannot be read: {error}",
            hint="--fresh needs none of them",
        ) from error
    result = record.results.get(task)
    if result is not None and result.attempt != job.attempt:
        result = None
    return Attempt(
        run=run,
        directory=directory,
        job=job,
        result=result,
        is_running=record.status == "running" and result is None,
    )
