"""The facade: load, lint, plan, run.

::

    plan = load_plan(Path("workflow.yaml"))
    report = run_plan(plan)
    report.outcomes["Select events"].result.status  # 'succeeded'
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from fasthep_flow.language import make_plan, read_workflow, select_tasks
from fasthep_flow.language.flow_settings import COMMAND, Asked
from fasthep_flow.language.settings import read_settings
from fasthep_flow.model import Plan
from fasthep_flow.orchestrators.catalogue import Catalogue

if TYPE_CHECKING:
    # What runs a plan is imported when a plan is run: `lint` answers at once.
    from fasthep_flow.environments.preflight.verdicts import Check, Examined
    from fasthep_flow.language.entries import Explained
    from fasthep_flow.locking.pulling import Pulled
    from fasthep_flow.outcomes import Outcome
    from fasthep_flow.records.run import RunFolder
    from fasthep_flow.scheduler import Scheduler

__all__ = [
    "Listener",
    "LockReport",
    "Report",
    "Silent",
    "check_plan",
    "explain_task",
    "kept_offline",
    "load_plan",
    "lock_plan",
    "pull_plan",
    "run_plan",
]

_DONE: Final = frozenset({"succeeded", "reused"})


class LockReport(NamedTuple):
    """What became of a lock file.

    Args:
        path: The file.
        changes: What is different from the one that was there, a line for each thing.
        is_changed: Whether another text is, or would be, written.
        counted: How much is in it, in words.
        unlockable: What no digest can be known of, and why.
    """

    path: Path
    changes: tuple[str, ...]
    is_changed: bool
    counted: str
    unlockable: tuple[str, ...]


class Report(NamedTuple):
    """What became of a run.

    Args:
        run_id: Of the run.
        directory: The run folder.
        wall_s: Seconds from the first task's submission to the last one's end.
        outcomes: By the task's name, in the plan's order.
    """

    run_id: str
    directory: Path
    wall_s: float
    outcomes: dict[str, Outcome]

    @property
    def succeeded(self) -> bool:
        """Whether every task did, but for those that may fail."""
        return all(item.is_good for item in self.outcomes.values())


class Listener(Protocol):
    """Is told what happens in a run; its methods must return soon."""

    def preparing(self, message: str) -> None:
        """Something goes on before the first task: an image is pulled, a runner opened."""
        ...

    def told(self, message: str) -> None:
        """Something is good to know as long as the run lasts."""
        ...

    def noticed(self, message: str) -> None:
        """Something is to be known that is no error, and not to be passed over."""
        ...

    def started(self, folder: RunFolder, /, scheduler: Scheduler) -> None:
        """The first task is about to be submitted."""
        ...

    def ended(self, outcome: Outcome) -> None:
        """A task has ended and is recorded."""
        ...


class Silent:
    """A listener that says nothing."""

    def preparing(self, message: str) -> None:
        """See :meth:`Listener.preparing`."""

    def told(self, message: str) -> None:
        """See :meth:`Listener.told`."""

    def noticed(self, message: str) -> None:
        """See :meth:`Listener.noticed`."""

    def started(self, folder: RunFolder, /, scheduler: Scheduler) -> None:
        """See :meth:`Listener.started`."""

    def ended(self, outcome: Outcome) -> None:
        """See :meth:`Listener.ended`."""


def load_plan(
    path: Path,
    *,
    flow: str | None = None,
    workflow: str | None = None,
    output: Path | None = None,
    tasks: Sequence[str] = (),
    asked: Asked = COMMAND,
) -> Plan:
    """The plan of a workflow file. Imports and runs nothing of the author's.

    Args:
        path: The workflow file.
        flow: What runs the workflow, ``transform::runner``; in place of the file's.
        workflow: The same in the long form, YAML or JSON text.
        output: The folder under which run folders lie; in place of the file's.
        tasks: Only these tasks and those that they need; all if empty.
        asked: What ``flow`` and ``workflow`` are called where they are given.

    Raises:
        WorkflowError: With every problem of the file.
    """
    plan = make_plan(
        read_workflow(path),
        runners=Catalogue(),
        settings=read_settings(os.environ),
        flow=flow,
        workflow=workflow,
        output_directory=output,
        asked=asked,
    )
    return select_tasks(plan, tasks) if tasks else plan


def explain_task(
    path: Path,
    task: str,
    *,
    flow: str | None = None,
    workflow: str | None = None,
    whole_host: bool = False,
) -> Explained:
    """The final environment of a task, and where each part of it came from.

    Args:
        path: The workflow file.
        task: The name of the task.
        flow: What runs the workflow, ``transform::runner``; in place of the file's.
        workflow: The same in the long form, YAML or JSON text.
        whole_host: Whether to tell all of the host's environment, where that is the base.

    Raises:
        WorkflowError: With every problem of the file; or there is no such task.
    """
    from fasthep_flow.language.origins import explain

    document = read_workflow(path)
    settings = read_settings(os.environ)
    plan = make_plan(document, runners=Catalogue(), settings=settings, flow=flow, workflow=workflow)
    option = "--flow" if flow is not None else "--workflow" if workflow is not None else None
    return explain(
        document,
        select_tasks(plan, [task]),
        task,
        runners=Catalogue(),
        settings=settings,
        host=os.environ,
        flow_option=option,
        whole_host=whole_host,
    )


def kept_offline(plan: Plan) -> Plan:
    """The plan, for which nothing may be fetched or asked for.

    Args:
        plan: What would run.
    """
    import msgspec

    return msgspec.structs.replace(plan, offline=True)


def lock_plan(
    plan: Plan, *, writes: bool = True, progress: Callable[[str], None] = lambda _: None
) -> LockReport:
    """Write down all that the plan uses, to the very bytes, beside the workflow file.

    Args:
        plan: Of the whole workflow.
        writes: Whether to write the file, or to tell only whether it would change.
        progress: Is told of what may take long.

    Raises:
        EnvironmentRefused: Something cannot be had; nothing is written.
        RecordError: The file cannot be written.
    """
    from fasthep_flow.locking.changes import changes, counted, unlockable
    from fasthep_flow.locking.current import current_lock
    from fasthep_flow.locking.file import lock_path, lock_text, previous_lock, write_lock

    path = lock_path(Path(plan.source))
    before, text_before = previous_lock(path)
    after = current_lock(plan, progress=progress)
    text = lock_text(after, Path(plan.source).name)
    if writes and text != text_before:
        write_lock(path, text)
    lost = ("changed  the whole file: what was there cannot be read",)
    return LockReport(
        path=path,
        changes=(
            *(lost if before is None and text_before is not None else ()),
            *changes(before, after),
        ),
        is_changed=text != text_before,
        counted=counted(after),
        unlockable=unlockable(after),
    )


def pull_plan(
    plan: Plan,
    *,
    folder: Path | None = None,
    locked: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Pulled, ...]:
    """Have all that the plan uses on this machine, or in a folder. Runs no task.

    A setup script is sourced where a Python environment stands on it.

    Args:
        plan: Whose images, data and Python environments.
        folder: Where it is to lie, to be carried elsewhere; this user's cache if ``None``.
        locked: Whether to take what the lock file names.
        progress: Is told of what may take long.

    Raises:
        EnvironmentRefused: Something cannot be had.
    """
    from fasthep_flow.locking.drift import locked_plan
    from fasthep_flow.locking.pulling import pull

    plan = locked_plan(plan, progress=progress) if locked else plan
    return pull(plan, folder=None if folder is None else folder.absolute(), progress=progress)


def check_plan(plan: Plan, *, locked: bool = False) -> tuple[Examined, ...]:
    """What there is to say of every environment and flow that the plan asks for.

    Runs no task and fetches no image.

    Args:
        plan: What would run.
        locked: Whether it is held against its lock file.
    """
    from fasthep_flow.environments.preflight.gate import examine
    from fasthep_flow.fit import as_here, with_flows

    held: list[Check] = []
    if locked:
        from fasthep_flow.locking.drift import held_against

        plan, held = held_against(plan)
    machine, *others = examine(
        as_here(plan.tasks),
        working_directory=plan.directory,
        output_directory=plan.output_directory,
        offline=plan.offline,
    )
    if held:
        import msgspec

        machine = msgspec.structs.replace(machine, checks=(*machine.checks, *held))
    return with_flows((machine, *others), plan.tasks)


def run_plan(
    plan: Plan,
    *,
    fail_fast: bool = False,
    argv: Sequence[str] = (),
    listener: Listener | None = None,
    locked: bool = False,
    fresh: bool = False,
    resume: Path | None = None,
    gone: Collection[str] = (),
    no_cache: bool = False,
    forced: Collection[str] = (),
) -> Report:
    """Run a plan to its end and record it.

    Where the latest run of the workflow has not come to its end, or not all of its tasks have
    succeeded, it goes on: what is done, and has not changed, is not done again.

    Args:
        plan: What to run.
        fail_fast: Stop everything at the first failure.
        argv: The command, for the record.
        listener: Is told what happens.
        locked: Whether to use what the lock file names, and nothing else.
        fresh: Whether to start anew in any case.
        resume: The folder of the run that is to go on in any case.
        gone: Names of machines whose processes are known to be gone.
        no_cache: Whether nothing of earlier runs stands for a task.
        forced: The names of tasks that run in any case.

    Raises:
        EnvironmentRefused: A task asks for what cannot be had; no task was started.
        OrchestratorUnavailable: A runner cannot be opened; no task was started.
        RecordError: The run folder cannot be written.
        RunClaimed: Another driver has the run.
        RunInterrupted: A signal ended the run.
    """
    from importlib.metadata import version

    import msgspec

    from fasthep_flow.deciding import Deciding, reuse_of
    from fasthep_flow.environments.preflight.gate import pinned, preflight
    from fasthep_flow.fit import as_here, misfits, require_fit, require_flows
    from fasthep_flow.orchestrators.opened import open_runners
    from fasthep_flow.resuming import open_run, require_no_driver
    from fasthep_flow.scheduler import Scheduler
    from fasthep_flow.settling import settle
    from fasthep_flow.signals import Signals

    listener = listener or Silent()
    with Signals() as signals:
        preparing = signals.checked(listener.preparing)
        # Before anything is fetched.
        require_no_driver(plan, fresh=fresh, resume=resume)
        require_flows(plan.tasks)
        too_large = misfits(plan.tasks)
        # Before any image is fetched. What this machine lacks, a look at it tells better.
        require_fit(one for one in too_large if not one.is_of_machine)
        wanted = plan
        if locked:
            from fasthep_flow.locking.drift import locked_plan

            wanted = locked_plan(plan, progress=preparing)
        runtimes = preflight(
            as_here(wanted.tasks),
            progress=preparing,
            directories=(plan.directory, plan.output_directory),
            offline=plan.offline,
        )
        signals.check()
        require_fit(too_large)
        exact = msgspec.structs.replace(
            wanted, tasks=pinned(wanted.tasks, runtimes, offline=plan.offline)
        )
        if not locked:
            _tell_differences(plan, exact, runtimes, listener)
        stop = threading.Event()
        signals.check()
        with ExitStack() as stack:
            folder = stack.enter_context(
                open_run(
                    plan,
                    version=version("fasthep-flow"),
                    argv=tuple(argv),
                    fresh=fresh,
                    resume=resume,
                    gone=gone,
                    noticed=listener.noticed,
                )
            )
            if folder.before is not None:
                _tell_former(folder, exact, listener)
                settle(folder, exact, {*runtimes.values()}, gone=gone, noticed=listener.noticed)
            runners = stack.enter_context(
                open_runners(plan, folder.path / "workers", preparing, listener.told)
            )
            reuse = reuse_of(
                exact,
                runtimes,
                run_id=folder.run_id,
                before=folder.before,
                no_cache=no_cache,
                forced=forced,
                noticed=listener.noticed,
                is_stopped=stop.is_set,
            )
            deciding = stack.enter_context(Deciding[Any](exact, reuse, stop))
            # What was read and planned stays to the end: the collector need not look again.
            gc.freeze()
            scheduler = Scheduler(
                exact,
                folder,
                runners,
                runtimes,
                fail_fast=fail_fast,
                on_end=listener.ended,
                tell=listener.told,
                deciding=deciding,
            )
            folder.when_lost(partial(scheduler.stop, signal.SIGTERM))
            listener.started(folder, scheduler)
            for runner in runners.values():
                runner.on_stop(partial(scheduler.stop, signal.SIGTERM))
            started_s = time.monotonic()
            with signals.to(scheduler):
                outcomes = scheduler.run()
            return Report(folder.run_id, folder.path, time.monotonic() - started_s, outcomes)


def _tell_former(folder: RunFolder, plan: Plan, listener: Listener) -> None:
    """Tell that a run goes on, and how much of it is done."""
    before = folder.before
    if before is None:
        return
    done = [
        task
        for task in plan.tasks
        if task.name in before.results and before.results[task.name].status in _DONE
    ]
    listener.told(
        f"going on with the run {folder.run_id}: {len(done)} of {len(plan.tasks)} tasks are done"
        " (--fresh starts another run)"
    )


def _tell_differences(
    plan: Plan, exact: Plan, runtimes: Mapping[str, str], listener: Listener
) -> None:
    """Tell what is not as the lock file says, if there is one: the run follows what is there."""
    if not Path(plan.source).with_suffix(".lock").exists():
        return
    from fasthep_flow.locking.drift import notes

    for line in notes(plan, exact, runtimes):
        listener.noticed(line)
