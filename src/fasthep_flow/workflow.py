"""The facade: load, lint, plan, run.

::

    plan = load_plan(Path("workflow.yaml"))
    report = run_plan(plan)
    report.outcomes["Select events"].result.status  # 'succeeded'
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fasthep_flow.language import make_plan, read_workflow, select_tasks
from fasthep_flow.model import Plan
from fasthep_flow.orchestrators import RUNNERS

if TYPE_CHECKING:
    # What runs a plan is imported when a plan is run: `lint` answers at once.
    from fasthep_flow.environments.preflight.verdicts import Examined
    from fasthep_flow.language.entries import Explained
    from fasthep_flow.records.run import RunFolder
    from fasthep_flow.scheduler import Outcome, Scheduler

__all__ = ["Listener", "Report", "Silent", "check_plan", "explain_task", "load_plan", "run_plan"]


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
        """Whether every task did."""
        return all(item.result.status == "succeeded" for item in self.outcomes.values())


class Listener(Protocol):
    """Is told what happens in a run; its methods must return soon."""

    def preparing(self, message: str) -> None:
        """Something goes on before the first task: an image is pulled, a runner opened."""
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
) -> Plan:
    """The plan of a workflow file. Imports and runs nothing of the author's.

    Args:
        path: The workflow file.
        flow: What runs the workflow, ``transform::runner``; in place of the file's.
        workflow: The same in the long form, YAML or JSON text.
        output: The folder under which run folders lie; in place of the file's.
        tasks: Only these tasks and those that they need; all if empty.

    Raises:
        WorkflowError: With every problem of the file.
    """
    plan = make_plan(
        read_workflow(path),
        runners=RUNNERS,
        flow=flow,
        workflow=workflow,
        output_directory=output,
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
    plan = make_plan(document, runners=RUNNERS, flow=flow, workflow=workflow)
    option = "--flow" if flow is not None else "--workflow" if workflow is not None else None
    return explain(
        document,
        select_tasks(plan, [task]),
        task,
        runners=RUNNERS,
        host=os.environ,
        flow_option=option,
        whole_host=whole_host,
    )


def check_plan(plan: Plan) -> tuple[Examined, ...]:
    """What there is to say of every environment that the plan asks for, on this machine.

    Runs no task and fetches no image.

    Args:
        plan: What would run.
    """
    from fasthep_flow.environments.preflight.gate import examine

    return examine(
        plan.tasks,
        working_directory=plan.directory,
        output_directory=plan.output_directory,
        offline=plan.offline,
    )


def run_plan(
    plan: Plan,
    *,
    fail_fast: bool = False,
    argv: Sequence[str] = (),
    listener: Listener | None = None,
) -> Report:
    """Run a plan to its end and record it.

    Args:
        plan: What to run.
        fail_fast: Stop everything at the first failure.
        argv: The command, for the record.
        listener: Is told what happens.

    Raises:
        EnvironmentRefused: A task asks for what cannot be had; no task was started.
        OrchestratorUnavailable: A runner cannot be opened; no task was started.
        RecordError: The run folder cannot be written.
        RunInterrupted: A signal ended the run.
    """
    from importlib.metadata import version

    import msgspec

    from fasthep_flow.environments.preflight.gate import pinned, preflight
    from fasthep_flow.records.run import RunFolder
    from fasthep_flow.scheduler import Scheduler, Signals, open_runners

    listener = listener or Silent()
    with Signals() as signals:
        runtimes = preflight(
            plan.tasks,
            progress=listener.preparing,
            directories=(plan.directory, plan.output_directory),
            offline=plan.offline,
        )
        exact = msgspec.structs.replace(
            plan, tasks=pinned(plan.tasks, runtimes, offline=plan.offline)
        )
        with (
            RunFolder.create(plan, version=version("fasthep-flow"), argv=tuple(argv)) as folder,
            open_runners(plan, listener.preparing) as runners,
        ):
            # What was read and planned stays to the end: the collector need not look again.
            gc.freeze()
            scheduler = Scheduler(
                exact, folder, runners, runtimes, fail_fast=fail_fast, on_end=listener.ended
            )
            listener.started(folder, scheduler)
            started_s = time.monotonic()
            with signals.to(scheduler):
                outcomes = scheduler.run()
            return Report(folder.run_id, folder.path, time.monotonic() - started_s, outcomes)
