"""Which run goes on, and that nothing of its former drivers does."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from fasthep_flow.beside import Outputs
from fasthep_flow.environments.host.scratch import remove_orphaned_scratch
from fasthep_flow.environments.survivors import end_run
from fasthep_flow.errors import RecordError, RunClaimed
from fasthep_flow.execution.aside import Aside, set_aside_left
from fasthep_flow.fit import runs_elsewhere
from fasthep_flow.model import Job, Plan, from_json
from fasthep_flow.orchestrators.dask.ends import end_former_jobs
from fasthep_flow.records.claim import refusal
from fasthep_flow.records.history import (
    Former,
    History,
    choosing,
    forget_begun,
    latest_run,
    note_begun,
)
from fasthep_flow.records.record import attempt_numbers
from fasthep_flow.records.run import RunFolder

__all__ = ["open_run", "require_no_driver", "settle"]

_LARGEST_JOB: Final = 64 * 2**20
_MOST_NAMED: Final = 5


def require_no_driver(plan: Plan, *, fresh: bool = False, resume: Path | None = None) -> None:
    """Refuse at once to go on with a run that another driver has, or to make what another one does.

    Only a look: who goes on with the run claims it, see :func:`open_run`.

    Args:
        plan: What is to be run.
        fresh: As for :func:`open_run`.
        resume: As for :func:`open_run`.

    Raises:
        RunClaimed: Another driver has it, or is at what it makes.
    """
    try:
        history = latest_run(Path(plan.output_directory), plan.source, plan.selection)
    except OSError:
        # Who is to write there finds out.
        return
    _require_free(history, Outputs.of(plan.tasks), _chosen(history, fresh, resume), is_certain=True)


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
    that ask for it at once, one gets it, and the other one is told so. Nor do two of them have
    runs whose tasks make the same files.

    Args:
        plan: What is to be run.
        version: Of this package.
        argv: The command, for people who look at the record.
        fresh: Whether to start anew in any case.
        resume: The folder of the run that is to go on in any case.
        gone: Names of machines whose processes are known to be gone.
        noticed: Is told of runs whose records cannot be read.

    Raises:
        RunClaimed: Another driver has the run, or one whose tasks make the same.
        RecordError: The folder cannot be read or written.
    """
    create = partial(RunFolder.create, plan, version=version, argv=argv)
    reopen = partial(RunFolder.reopen, plan=plan, version=version, argv=argv, gone=gone)
    # A signal may come at any moment: whatever is open by then is told how the run ended.
    with ExitStack() as stack:
        with choosing(Path(plan.output_directory), plan.source, plan.selection) as history:
            for line in () if fresh or resume is not None else history.damaged:
                noticed(line)
            chosen = _chosen(history, fresh, resume)
            _require_free(history, Outputs.of(plan.tasks), chosen, gone=gone)
            folder = stack.enter_context(create() if chosen is None else reopen(chosen))
            note_begun(folder.path)
        yield folder
        # Still claimed: nobody else can have noted it meanwhile.
        forget_begun(folder.path)


def _chosen(history: History, fresh: bool, resume: Path | None) -> Path | None:
    """The run that goes on; ``None`` for a new one."""
    if resume is not None or fresh:
        return resume
    latest = history.latest
    return None if latest is None or latest.state == "succeeded" else latest.path


def _require_free(
    history: History,
    outputs: Outputs,
    chosen: Path | None,
    *,
    gone: Collection[str] = (),
    is_certain: bool = False,
) -> None:
    """Refuse where a driver has the run that is to go on, or one whose tasks make the same.

    Args:
        history: What there is of runs.
        outputs: Of the plan.
        chosen: The folder of the run that is to go on; ``None`` for a new one.
        gone: Names of machines whose processes are known to be gone.
        is_certain: Whether only what is proven counts.
    """
    own = None if chosen is None else chosen.resolve()
    latest = history.latest
    for run in (*([] if latest is None else [latest]), *history.begun):
        found = run.claimed
        if found is None or not _is_held(run, gone) or (is_certain and not found.is_certain):
            continue
        shared = outputs.shared_with(run.path)
        if own is not None and run.path.resolve() == own:
            raise refusal(found, f"the run {run.run_id}", is_apart=shared is None)
        if shared is not None:
            raise refusal(found, f"the run {run.run_id}, {shared},")


def _is_held(run: Former, gone: Collection[str]) -> bool:
    """Whether a driver has the run, or may have it."""
    holder = None if run.claimed is None else run.claimed.holder
    is_gone = holder is not None and holder.state(gone) == "gone"
    return run.state == "claimed" and not is_gone


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
