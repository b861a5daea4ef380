"""The runners of a run, opened once each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from fasthep_flow.errors import EnvironmentRefused
from fasthep_flow.model import FlowSpec, Plan, TaskSpec
from fasthep_flow.orchestrators import TaskRunner, find_orchestrator
from fasthep_flow.orchestrators.plug_ins import require_task_runner

__all__ = ["flow_key", "open_runners", "require_tasks"]

_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9._]+")


def flow_key(flow: FlowSpec) -> str:
    """What makes two flows the same runner."""
    return f"{flow} {msgspec.json.encode(flow.options, order='deterministic').decode()}"


@contextmanager
def open_runners(
    plan: Plan,
    directory: Path,
    progress: Callable[[str], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[dict[str, TaskRunner]]:
    """Every runner that the plan's tasks name, by :func:`flow_key`; the main one first.

    Args:
        plan: What is to be run.
        directory: Where each runner gets a folder for its engine's files.
        progress: Is told of what may take long.
        tell: Is told what the user will want to know as long as the run lasts.

    Raises:
        OrchestratorUnavailable: One of them cannot be opened, or is no task runner.
    """
    flows = {flow_key(task.environment.flow): task.environment.flow for task in plan.tasks}
    main = flow_key(plan.flow)
    order = sorted(flows, key=lambda key: key != main)
    runners: dict[str, TaskRunner] = {}
    with ExitStack() as stack:
        for key in order:
            flow = flows[key]
            if flow.transform != "local":
                progress(f"starting {flow}")
            orchestrator = find_orchestrator(flow.transform, flow.runner)
            # Runners that differ in their options alone have folders of their own, too.
            place = directory / _NOT_IN_A_NAME.sub("-", f"{len(runners) + 1}-{flow}")
            runner = stack.enter_context(orchestrator.open(flow, plan, place))
            require_task_runner(runner, flow)
            if runner.dashboard is not None:
                tell(f"dashboard of {flow}: {runner.dashboard}")
            runners[key] = runner
        yield runners


def require_tasks(tasks: Iterable[TaskSpec], runners: Mapping[str, TaskRunner]) -> None:
    """Make sure that each task could run some time, whichever attempt of it.

    Args:
        tasks: Of the plan.
        runners: Opened, by :func:`flow_key`.

    Raises:
        EnvironmentRefused: With every task that never could.
    """
    refusals = []
    # Few flows are distinct, and to spell one takes longer than to look it up.
    keys: dict[int, str] = {}
    for task in tasks:
        environment = task.environment
        number = id(environment.flow)
        if number not in keys:
            keys[number] = flow_key(environment.flow)
        runner = runners[keys[number]]
        for resources in (environment.resources, *task.growth):
            try:
                runner.require(resources, task.name)
            except EnvironmentRefused as refusal:
                refusals.append(refusal)
                break
    if len(refusals) == 1:
        raise refusals[0]
    if refusals:
        raise EnvironmentRefused("\n".join(str(refusal) for refusal in refusals))
