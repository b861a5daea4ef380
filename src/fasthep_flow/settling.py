"""That nothing of former drivers runs on, and that nothing reads what they left half-made."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import msgspec
from msgspec import Struct

from fasthep_flow.beside import Outputs
from fasthep_flow.environments.host.scratch import remove_orphaned_scratch
from fasthep_flow.environments.survivors import end_run
from fasthep_flow.errors import RecordError, RunClaimed
from fasthep_flow.execution.aside import set_aside_left
from fasthep_flow.fit import leads_elsewhere
from fasthep_flow.model import FlowSpec, Job, Plan, TaskSpec, from_json
from fasthep_flow.orchestrators.dask.ends import end_former_jobs
from fasthep_flow.records.history import forget_begun
from fasthep_flow.records.record import (
    Ended,
    PlannedTask,
    UnderWay,
    attempt_numbers,
    ended_tasks,
    read_run_file,
)
from fasthep_flow.records.run import RunFolder
from fasthep_flow.records.sealed import read_whole

__all__ = ["settle", "settle_other"]

_LARGEST_JOB: Final = 64 * 2**20
_LARGEST_PLAN: Final = 2**30
_MOST_NAMED: Final = 5
_DONE: Final = frozenset({"succeeded", "reused"})


class _Place(Struct, frozen=True):
    flow: FlowSpec


class _Task(PlannedTask, frozen=True):
    """What is wanted of a task in a ``plan.json``."""

    environment: _Place
    outputs: tuple[str, ...] = ()


class _Planned(Struct, frozen=True):
    tasks: tuple[_Task, ...]


_DECODE: Final = msgspec.json.Decoder(_Planned).decode
_AnyTask: TypeAlias = TaskSpec | PlannedTask


class _Attempt(NamedTuple):
    """An attempt of a task that is not done."""

    directory: Path
    job: Job


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
    for one in _out_of_sight(before, plan.tasks, gone):
        makes = any(task.outputs for task in plan.tasks if task.name == one.task)
        raise _unknown(folder.run_id, one, beside="" if makes else "; --fresh starts another run")
    attempts = list(_attempts(folder.path, _done_slugs(plan.tasks, before)))
    _end(folder.path, attempts, "a former driver", noticed, runtimes)
    planned = _outputs(folder.path, plan.tasks)
    _require_moved(_set_aside(attempts, planned, noticed))


def settle_other(
    run: Path,
    outputs: Outputs,
    *,
    gone: Collection[str] = (),
    noticed: Callable[[str], None] = lambda _: None,
) -> None:
    """The same of another run than the one that goes on, if its tasks make what is made there.

    It can still go on, later. Once it is settled, it is not looked at again until then.

    Args:
        run: Its folder; no driver has it.
        outputs: Of what is to be run now.
        gone: Names of machines whose processes are known to be gone.
        noticed: Is told of what was found.

    Raises:
        RunClaimed: Attempts that make some of them were under way on another machine.
        RecordError: What an attempt left there cannot be set aside.
    """
    if not run.is_dir():
        # Somebody has removed it.
        forget_begun(run)
        return
    if outputs.shared_with(run) is None:
        return
    tasks = _planned(run)
    before = _ended(run, tasks)
    makes = {task.name: task.outputs for task in tasks if isinstance(task, _Task)}
    unknown = set()
    for one in () if before is None else _out_of_sight(before, tasks, gone):
        if one.task not in makes or outputs.shared(makes[one.task]) is not None:
            raise _unknown(run.name, one)
        unknown.add(one.directory)
    done = set() if before is None else _done_slugs(tasks, before)
    attempts = list(_attempts(run, done))
    whose = f"the run {run.name}, whose driver is gone,"
    _end(run, attempts, whose, noticed)
    in_sight = [one for one in attempts if str(one.directory) not in unknown]
    planned = _outputs(run, tasks)
    for directory, job in in_sight:
        # Of a run whose plan is damaged, too, what is to be made now is nobody's but this one's.
        shared = {path for path in job.outputs if outputs.shared([path]) is not None}
        planned.setdefault(directory.parent.name, set()).update(shared)
    stuck = _set_aside(in_sight, planned, noticed)
    _require_moved({path: why for path, why in stuck.items() if outputs.shared([path]) is not None})
    if not stuck and not unknown:
        forget_begun(run)


def _planned(run: Path) -> Sequence[_AnyTask]:
    """The tasks of a run; where its plan is damaged, those that were begun."""
    with suppress(OSError, ValueError):
        return _DECODE(read_whole(run / "plan.json", _LARGEST_PLAN)).tasks
    begun = {one.job.task: one.directory.parent.name for one in _attempts(run, ())}
    return [PlannedTask(name, slug) for name, slug in begun.items()]


def _ended(run: Path, tasks: Iterable[_AnyTask]) -> Ended | None:
    """What became of the tasks of a run; ``None`` where nobody can tell."""
    try:
        return ended_tasks(run, tasks, read_run_file(run), with_tails=False)
    except RecordError:
        return None


def _done_slugs(tasks: Iterable[_AnyTask], before: Ended) -> set[str]:
    """The folders of tasks that are done.

    What lies at the outputs of these is what they made: no earlier attempt left it.
    """
    done = {name for name, result in before.results.items() if result.status in _DONE}
    return {task.slug for task in tasks if task.name in done}


def _out_of_sight(
    before: Ended, tasks: Iterable[_AnyTask], gone: Collection[str]
) -> Iterator[UnderWay]:
    """Attempts that were under way on machines that cannot be looked at from here."""
    # A batch system is asked what became of its jobs, wherever they ran.
    elsewhere = {
        task.name
        for task in tasks
        if isinstance(task, TaskSpec | _Task) and leads_elsewhere(task.environment.flow)
    }
    here = {"", socket.gethostname(), *gone}
    for one in before.under_way:
        if one.host not in here and one.task not in elsewhere:
            yield one


def _unknown(run_id: str, one: UnderWay, *, beside: str = "") -> RunClaimed:
    return RunClaimed(
        f"task {one.task!r} of the run {run_id} was under way when its driver ended on"
        f" {one.host}: whether it still runs there cannot be told from {socket.gethostname()}",
        hint=f"go on with the run on {one.host}; if that machine was restarted, or nothing"
        f" of it runs there: resume {run_id} --host-is-gone {one.host}{beside}",
    )


def _end(
    run: Path,
    attempts: Iterable[_Attempt],
    whose: str,
    noticed: Callable[[str], None],
    runtimes: Iterable[str] = (),
) -> None:
    """End what still runs of a run."""
    # Of runners that the plan may not name any more, too.
    end_former_jobs(run / "workers", noticed)
    places = {*runtimes, *(one.job.runtime for one in attempts)}
    if ended := end_run(run.name, str(run), sorted(places)):
        what = "process or container" if ended == 1 else "processes or containers"
        noticed(f"{ended} {what} of {whose} still ran, and had to be ended")
    # Once what used them is gone.
    remove_orphaned_scratch()


def _outputs(run: Path, tasks: Iterable[_AnyTask]) -> dict[str, set[str]]:
    """What drivers planned that tasks make, by the names of their folders.

    A task may have written anything into the folder of its attempt, other people's files as its
    outputs among it.

    Args:
        run: Its folder.
        tasks: Of the plan that counts now.
    """
    found = [task for task in tasks if isinstance(task, TaskSpec | _Task)]
    for plan in (run / "plan.json", *sorted((run / "former").glob("*/plan.json"))):
        with suppress(OSError, ValueError):
            found += _DECODE(read_whole(plan, _LARGEST_PLAN)).tasks
    outputs: dict[str, set[str]] = {}
    for task in found:
        outputs.setdefault(task.slug, set()).update(task.outputs)
    return outputs


def _set_aside(
    attempts: Iterable[_Attempt],
    planned: Mapping[str, Collection[str]],
    noticed: Callable[[str], None],
) -> dict[str, str]:
    """Set aside what attempts left at their outputs; why what is still there cannot be."""
    stuck: dict[str, str] = {}
    for directory, job in attempts:
        known = planned.get(directory.parent.name, ())
        if foreign := [output for output in job.outputs if output not in known]:
            noticed(
                f"{directory / 'job.json'} is not as its driver wrote it: {foreign[0]!r} is no"
                " output of its task, and is left alone"
            )
        outputs = [output for output in job.outputs if output in known]
        if not outputs:
            continue
        aside = set_aside_left(outputs, str(directory))
        for output, place in aside.moved.items():
            noticed(f"{output}, as attempt {job.attempt} of {job.task!r} left it, is in {place}")
        stuck.update(aside.stuck)
    return stuck


def _require_moved(stuck: dict[str, str]) -> None:
    if not stuck:
        return
    named = ", ".join(f"{output} ({why})" for output, why in list(stuck.items())[:_MOST_NAMED])
    raise RecordError(
        f"what a former attempt left at {named} cannot be set aside",
        hint="move it away: it may be half an output",
    )


def _attempts(run: Path, done: Collection[str]) -> Iterator[_Attempt]:
    """The attempts of tasks that are not done, as far as they can be read."""
    tasks = run / "tasks"
    for task in sorted(tasks.iterdir()) if tasks.is_dir() else ():
        if task.name in done:
            continue
        for number in sorted(attempt_numbers(task)):
            file = task / str(number) / "job.json"
            try:
                job = from_json(Job, read_whole(file, _LARGEST_JOB))
            except (OSError, ValueError):
                # It was cut short before its task began.
                continue
            yield _Attempt(file.parent, job)
