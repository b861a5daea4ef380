"""A workflow file as an object: what the commands do, from Python.

::

    from fasthep_flow import Workflow

    workflow = Workflow("workflow.yaml", flow="prefect::ThreadPoolTaskRunner")
    workflow.run().succeeded
    flow = workflow.to_prefect()  # a prefect.Flow
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.language.flow_settings import PYTHON
from fasthep_flow.workflow import check_plan, load_plan, run_plan

if TYPE_CHECKING:
    from fasthep_flow.environments.preflight.verdicts import Examined
    from fasthep_flow.model import JobResult, Plan
    from fasthep_flow.workflow import Listener, Report

__all__ = ["Workflow"]


class _Settings(NamedTuple):
    """What a workflow is planned by, as plain data: it travels to other processes."""

    path: str
    flow: str | None
    workflow: str | None
    output_directory: str | None
    tasks: tuple[str, ...]

    def plan(self, *, tasks: Sequence[str] = (), output_directory: str | None = None) -> Plan:
        output = output_directory or self.output_directory
        return load_plan(
            Path(self.path),
            flow=self.flow,
            workflow=self.workflow,
            output=None if output is None else Path(output),
            tasks=tuple(tasks) or self.tasks,
            asked=PYTHON,
        )


class _Origin(NamedTuple):
    name: str
    module: str
    variable: str
    digest: str


class _Ended(NamedTuple):
    run_id: str
    directory: Path
    results: Mapping[str, JobResult]
    allowed: tuple[str, ...]


class Workflow:
    """A workflow file, with what is said about it beside the file.

    Nothing is read before it is asked for, and then each time anew: an object of this class
    never knows an older state of the file.

    Args:
        path: The workflow file.
        flow: What runs the workflow, ``transform::runner``; in place of the file's.
        workflow: The same in the long form, YAML or JSON text.
        output_directory: The folder under which run folders lie; in place of the file's.
        tasks: Only these tasks and those that they need; all if empty.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        flow: str | None = None,
        workflow: str | None = None,
        output_directory: str | os.PathLike[str] | None = None,
        tasks: Sequence[str] = (),
    ) -> None:
        self._settings: Final = _Settings(
            os.fspath(path),
            flow,
            workflow,
            None if output_directory is None else os.fspath(output_directory),
            tuple(tasks),
        )

    def __repr__(self) -> str:
        return f"Workflow({self._settings.path!r})"

    def plan(self) -> Plan:
        """What would run. Imports and runs nothing of the author's.

        Raises:
            WorkflowError: With every problem of the file.
        """
        return self._settings.plan()

    def lint(self) -> tuple[str, ...]:
        """What the author should know of the file, in the form of a compiler's messages.

        Raises:
            WorkflowError: With every problem of the file.
        """
        return self.plan().warnings

    def check(self, *, locked: bool = False) -> tuple[Examined, ...]:
        """What there is to say of every environment that is asked for, on this machine.

        Args:
            locked: Whether it is held against its lock file.

        Raises:
            WorkflowError: With every problem of the file.
        """
        return check_plan(self.plan(), locked=locked)

    def run(
        self,
        *,
        fail_fast: bool = False,
        locked: bool = False,
        listener: Listener | None = None,
    ) -> Report:
        """Run the workflow to its end and record it.

        Called inside a flow of Prefect's, on one of Prefect's runners, its tasks are task runs
        of that flow run.

        Args:
            fail_fast: Stop everything at the first failure.
            locked: Whether to use what the lock file names, and nothing else.
            listener: Is told what happens.

        Raises:
            WorkflowError: With every problem of the file.
            EnvironmentRefused: A task asks for what cannot be had; no task was started.
            OrchestratorUnavailable: A runner cannot be opened; no task was started.
            RecordError: The run folder cannot be written.
            RunInterrupted: A signal ended the run.
        """
        return run_plan(self.plan(), fail_fast=fail_fast, locked=locked, listener=listener)

    def to_prefect(self, *, variable: str = "flow") -> Any:  # noqa: ANN401 - a prefect.Flow
        """The workflow as a ``prefect.Flow``: to call, to serve, to deploy.

        A run of it is a run of the workflow, on the runner that the workflow says; its task
        runs bear the names of the tasks. It ends as ``Failed`` if a task does, and its message
        says which. Cancelled from Prefect, it stops the tasks. Its parameters are ``tasks``,
        ``output_directory``, ``fail_fast`` and ``locked``.

        Args:
            variable: The name that the calling module gives the object. Prefect's deployments
                find the flow again by it: ``flow = Workflow(...).to_prefect()``.

        Raises:
            WorkflowError: With every problem of the file.
            OrchestratorUnavailable: Prefect is not installed, or the workflow's runner is none
                of Prefect's.
        """
        plan = self.plan()
        if plan.flow.transform != "prefect":
            raise OrchestratorUnavailable(
                f"{self._settings.path} runs on {plan.flow}, which is no runner of Prefect's",
                hint="name one: Workflow(..., flow='prefect::ThreadPoolTaskRunner')",
            )
        from fasthep_flow.orchestrators.prefect import import_deployment

        # A flow run may start elsewhere than this program did.
        settings = self._settings._replace(path=plan.source)
        if settings.output_directory is not None:
            output = str(Path(settings.output_directory).absolute())
            settings = settings._replace(output_directory=output)
        caller = sys._getframe(1).f_globals.get("__name__", "__main__")  # noqa: SLF001
        origin = _Origin(plan.name, caller, variable, plan.digest)
        return import_deployment(plan.flow).flow_object(origin, partial(_run_in_flow, settings))


def _run_in_flow(
    settings: _Settings,
    listener: Listener,
    *,
    tasks: Sequence[str],
    output_directory: str | None,
    fail_fast: bool,
    locked: bool,
) -> _Ended:
    plan = settings.plan(tasks=tasks, output_directory=output_directory)
    for warning in plan.warnings:
        listener.noticed(warning)
    report = run_plan(plan, fail_fast=fail_fast, locked=locked, listener=listener)
    results = {name: outcome.result for name, outcome in report.outcomes.items()}
    allowed = tuple(name for name, outcome in report.outcomes.items() if outcome.is_allowed)
    return _Ended(report.run_id, report.directory, results, allowed)
