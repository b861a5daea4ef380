"""Which run goes on, and that nothing of its former drivers does."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from fasthep_flow.environments.host.scratch import remove_orphaned_scratch
from fasthep_flow.environments.survivors import end_run
from fasthep_flow.errors import RecordError, RunClaimed
from fasthep_flow.execution.aside import Aside, set_aside_left
from fasthep_flow.fit import runs_elsewhere
from fasthep_flow.model import Job, Plan, from_json
from fasthep_flow.orchestrators.dask.ends import end_former_jobs
from fasthep_flow.records.claim import refusal
from fasthep_flow.records.history import choosing, latest_run
from fasthep_flow.records.record import attempt_numbers
from fasthep_flow.records.run import RunFolder

__all__ = ["open_run", "require_no_driver", "settle"]

_LARGEST_JOB: Final = 64 * 2**20
_MOST_NAMED: Final = 5


def require_no_driver(plan: Plan) -> None:
    """Refuse at once to go on with a run that another driver has.

    Only a look: who goes on with the run claims it, see :func:`open_run`.

    Args:
        plan: What is to be run.

    Raises:
        RunClaimed: Another driver has it.
    """
    try:
        latest = latest_run(Path(plan.output_directory), plan.source, plan.selection).latest
    except OSError:
        # Who is to write there finds out.
        return
    if latest is not None and latest.state == "claimed" and latest.claimed is not None:
        found = latest.claimed
        if found.is_certain:
            raise refusal(found, f"the run {latest.run_id}")


@contextmanager
def open_run(
    plan: Plan,
    *,
    version: str,
    argv: tuple[str, ...] = (),
    fresh: bool = False,
    resume: Path | None = None,
    gone: Collection[str] = (),
    noticed: Callable[[str], None] = lambda _: None,
) -> Iterator[RunFolder]:
    """The folder of the run that goes on, or of a new one; it is claimed.

    The latest run of the workflow goes on if not all of its tasks have succeeded. Of two drivers
    that ask for it at once, one gets it, and the other one is told so.

    Args:
        plan: What is to be run.
        version: Of this package.
        argv: The command, for people who look at the record.
        fresh: Whether to start anew in any case.
        resume: The folder of the run that is to go on in any case.
        gone: Names of machines whose processes are known to be gone.
        noticed: Is told of runs whose records cannot be read.

    Raises:
        RunClaimed: Another driver has the run.
        RecordError: The folder cannot be read or written.
    """
    create = partial(RunFolder.create, plan, version=version, argv=argv)
    reopen = partial(RunFolder.reopen, plan=plan, version=version, argv=argv, gone=gone)
    # A signal may come at any moment: whatever is open by then is told how the run ended.
    with ExitStack() as stack:
        if resume is not None:
            folder = stack.enter_context(reopen(resume))
        elif fresh:
            folder = stack.enter_context(create())
        else:
            with choosing(Path(plan.output_directory), plan.source, plan.selection) as history:
                for line in history.damaged:
                    noticed(line)
                latest = history.latest
                if latest is None or latest.state == "succeeded":
                    folder = stack.enter_context(create())
                else:
                    folder = stack.enter_context(reopen(latest.path))
        yield folder


def settle(
    folder: RunFolder,
    plan: Plan,
    runtimes: Collection[str] = (),
    *,
    gone: Collection[str] = (),
    noticed: Callable[[str], None] = lambda _: None,
) -> None:
    """Make sure that no attempt of a former driver runs, and that nothing reads what it left.

    Args:
        folder: Of the run that goes on.
        plan: What is to be run now.
        runtimes: Of its tasks: containers are looked for there, too.
        gone: Names of machines whose processes are known to be gone.
        noticed: Is told of what was found.

    Raises:
        RunClaimed: Attempts were under way on another machine, where nobody can look from here.
        RecordError: What an attempt left cannot be set aside.
    """
    before = folder.before
    if before is None:
        return
    _require_here(folder, plan, gone)
    # Of runners that the plan may not name any more, too.
    end_former_jobs(folder.path / "workers", noticed)
    # What lies at the outputs of these is what they made: no earlier attempt left it.
    done = {
        name for name, result in before.results.items() if result.status in {"succeeded", "reused"}
    }
    slugs = {task.slug for task in plan.tasks if task.name in done}
    former = list(_jobs(folder.path / "tasks", slugs))
    places = {*runtimes, *(job.runtime for _, job in former)}
    if ended := end_run(folder.run_id, str(folder.path), sorted(places)):
        what = "process or container" if ended == 1 else "processes or containers"
        noticed(f"{ended} {what} of a former driver still ran, and had to be ended")
    # Once what used them is gone.
    remove_orphaned_scratch()
    stuck: list[str] = []
    for directory, job in former:
        aside = set_aside_left(job.outputs, str(directory)) if job.outputs else Aside({}, {})
        for output, place in aside.moved.items():
            noticed(f"{output}, as attempt {job.attempt} of {job.task!r} left it, is in {place}")
        stuck += (f"{output} ({reason})" for output, reason in aside.stuck.items())
    if stuck:
        raise RecordError(
            f"what a former attempt left at {', '.join(stuck[:_MOST_NAMED])} cannot be set aside",
            hint="move it away: it may be half an output",
        )


def _require_here(folder: RunFolder, plan: Plan, gone: Collection[str]) -> None:
    """Refuse where attempts were under way on a machine that cannot be looked at."""
    before = folder.before
    if before is None:
        return
    # A batch system is asked what became of its jobs, wherever they ran.
    elsewhere = {task.name for task in plan.tasks if runs_elsewhere(task)}
    here = socket.gethostname()
    for one in before.under_way:
        if one.host in {"", here, *gone} or one.task in elsewhere:
            continue
        raise RunClaimed(
            f"task {one.task!r} was under way when its driver ended on {one.host}: whether it"
            f" still runs there cannot be told from {here}",
            hint=f"go on with the run on {one.host}; if that machine was restarted, or nothing"
            f" of it runs there: resume {folder.run_id} --host-is-gone {one.host};"
            " --fresh starts another run",
        )


def _jobs(tasks: Path, done: Collection[str]) -> Iterator[tuple[Path, Job]]:
    """The attempts of tasks that are not done, as far as they can be read."""
    for task in sorted(tasks.iterdir()):
        if task.name in done:
            continue
        for number in sorted(attempt_numbers(task)):
            file = task / str(number) / "job.json"
            try:
                if file.stat().st_size > _LARGEST_JOB:
                    continue
                job = from_json(Job, file.read_bytes())
            except (OSError, ValueError):
                # It was cut short before its task began.
                continue
            yield file.parent, job
