"""Whether what tasks ask for fits into the flows that are to run them; nothing is opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from fasthep_flow.environments.host.machine import bytes_text, cpu_count, memory_bytes
from fasthep_flow.environments.preflight.verdicts import Check, Examined, noted, passed, refused
from fasthep_flow.errors import EnvironmentRefused, OrchestratorUnavailable
from fasthep_flow.model import FlowSpec, Resources, TaskSpec
from fasthep_flow.orchestrators import find_orchestrator
from fasthep_flow.orchestrators.admission import demand_of, machine_capacity
from fasthep_flow.orchestrators.opened import flow_key

__all__ = [
    "Misfit",
    "as_here",
    "leads_elsewhere",
    "misfits",
    "require_fit",
    "require_flows",
    "with_flows",
]

_OF_SIZE = frozenset({"device", "limits"})
"""Rows that say of this machine what a flow that runs here would say again."""


class Misfit(NamedTuple):
    """A request that no worker of a flow could ever be given.

    Args:
        tasks: Those that make it.
        error: With what is asked for and what there is.
        is_of_machine: Whether this machine itself has less than that.
    """

    tasks: tuple[str, ...]
    error: EnvironmentRefused
    is_of_machine: bool


def misfits(tasks: Iterable[TaskSpec]) -> tuple[Misfit, ...]:
    """What is more than a flow can give; one for each flow and request, of whichever attempt.

    Args:
        tasks: Of the plan.
    """
    alike: dict[tuple[str, int, Resources], list[TaskSpec]] = {}
    for task in tasks:
        environment = task.environment
        key = flow_key(environment.flow)
        for number, resources in enumerate((environment.resources, *task.growth)):
            alike.setdefault((key, number, resources), []).append(task)
    found: list[Misfit] = []
    told: set[str] = set()
    for (_, number, resources), asking in sorted(alike.items(), key=lambda item: item[0][1]):
        # Of a task whose first size is too large the others are, too.
        group = [task for task in asking if task.name not in told]
        if not group:
            continue
        flow = group[0].environment.flow
        try:
            # Whether it can be found and opened at all is another question.
            find_orchestrator(flow.transform, flow.runner).require(flow, resources, group[0].name)
        except OrchestratorUnavailable:
            continue
        except EnvironmentRefused as error:
            names = tuple(task.name for task in group)
            told.update(names)
            # A look at this machine tells of the first size alone.
            lacks = (
                not number
                and not runs_elsewhere(group[0])
                and not machine_capacity().holds(demand_of(resources))
            )
            of_attempt = _of_attempt(error, number + 1) if number else error
            found.append(Misfit(names, _of_all(of_attempt, len(group)), lacks))
    return tuple(found)


def require_fit(found: Iterable[Misfit]) -> None:
    """Refuse what is more than a flow can give.

    Args:
        found: What is.

    Raises:
        EnvironmentRefused: Names all such requests. One of the classes below it where all of
            them are of that class.
    """
    errors = [misfit.error for misfit in found]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        kinds = {type(error) for error in errors}
        kind = kinds.pop() if len(kinds) == 1 else EnvironmentRefused
        raise kind("\n".join([f"{len(errors)} requests cannot be honoured", *map(str, errors)]))


def as_here(tasks: Iterable[TaskSpec]) -> tuple[TaskSpec, ...]:
    """The tasks, as far as this machine can speak for where they run.

    In images, engines and limits that can be held, workers are taken to be like this machine.
    Where they may be on others, those may be larger, and have devices: how large and which is
    between the flow and the task.

    Args:
        tasks: Of the plan.
    """
    hardest = map(_hardest, tasks)
    return tuple(_as_here(task) if runs_elsewhere(task) else task for task in hardest)


def _hardest(task: TaskSpec) -> TaskSpec:
    """The task with the size that is hardest to hold, of whichever attempt.

    Whether there is as much is another question: on the host a share of a processor needs what
    whole ones do not.
    """
    environment = task.environment
    if environment.image is not None or not task.growth:
        return task
    sizes = (environment.resources, *task.growth)
    shares = [one for one in sizes if one.cpus is not None and not one.cpus.is_integer()]
    if not shares:
        return task
    resources = msgspec.structs.replace(environment.resources, cpus=shares[0].cpus)
    return msgspec.structs.replace(
        task, environment=msgspec.structs.replace(environment, resources=resources)
    )


def _as_here(task: TaskSpec) -> TaskSpec:
    environment = task.environment
    asked = environment.resources
    image = environment.image
    if asked.process_on == "gpu" and environment.gpu_image is not None:
        image = environment.gpu_image
    resources = msgspec.structs.replace(
        asked,
        cpus=None if asked.cpus is None else min(asked.cpus, cpu_count()),
        memory=None if asked.memory is None else min(asked.memory, memory_bytes()),
        gpus=None,
        process_on="cpu",
    )
    return msgspec.structs.replace(
        task,
        environment=msgspec.structs.replace(
            environment, resources=resources, image=image, gpu_image=None
        ),
        # A version for a device that may be there and is not here.
        invocations={"cpu": next(iter(task.invocations.values()))},
    )


def runs_elsewhere(task: TaskSpec) -> bool:
    """Whether a task runs on other machines than the driver does."""
    return leads_elsewhere(task.environment.flow)


def leads_elsewhere(flow: FlowSpec) -> bool:
    """Whether what a flow runs is on other machines than the driver."""
    try:
        return find_orchestrator(flow.transform, flow.runner).is_elsewhere(flow)
    except OrchestratorUnavailable:
        return False


def with_flows(examined: Sequence[Examined], tasks: Sequence[TaskSpec]) -> tuple[Examined, ...]:
    """What was found, and beside it what there is to say of the flows.

    Args:
        examined: This machine, and the environments.
        tasks: Of the plan.
    """
    machine, *environments = examined
    too_large = {name: misfit for misfit in misfits(tasks) for name in misfit.tasks}
    return (
        _more(machine, _flow_checks(tasks)),
        *(
            _more(
                _as_asked(one, tasks), [*_device_checks(one, tasks), *_size_checks(one, too_large)]
            )
            for one in environments
        ),
    )


def _as_asked(one: Examined, tasks: Iterable[TaskSpec]) -> Examined:
    """What was looked at as if it were for this machine, told with what workers are asked for."""
    names = set(one.tasks)
    asked = [
        task.environment.resources for task in tasks if task.name in names and runs_elsewhere(task)
    ]
    texts = {
        **_texts("cpus", [f"{each.cpus:g}" for each in asked if each.cpus is not None]),
        **_texts("memory", [bytes_text(each.memory) for each in asked if each.memory is not None]),
    }
    checks = tuple(
        msgspec.structs.replace(check, detail=_with_amounts(check.detail, texts))
        if check.what == "limits" and check.verdict in {"ok", "note"}
        else check
        for check in one.checks
    )
    return msgspec.structs.replace(one, checks=checks)


def _texts(limit: str, amounts: Iterable[str]) -> dict[str, str]:
    distinct = list(dict.fromkeys(amounts))
    return {limit: " and ".join(distinct)} if distinct else {}


def _with_amounts(detail: str, texts: Mapping[str, str]) -> str:
    limit, _, rest = detail.partition(" ")
    if limit not in texts:
        return detail
    amount = rest.split(" ", 1)[0].rstrip(":")
    how = rest.removeprefix(amount)
    return f"{limit} {texts[limit]}{how}, where a worker is like this machine"


def _device_checks(one: Examined, tasks: Iterable[TaskSpec]) -> list[Check]:
    names = set(one.tasks)
    flows = {
        str(task.environment.flow)
        for task in tasks
        if task.name in names
        and task.environment.resources.process_on != "cpu"
        and runs_elsewhere(task)
    }
    return [noted("device", f"looked for where a worker of {flow} runs") for flow in sorted(flows)]


def require_flows(tasks: Iterable[TaskSpec]) -> None:
    """Refuse a flow that cannot be opened, as far as that is known before it is.

    Args:
        tasks: Of the plan.

    Raises:
        OrchestratorUnavailable: Of the first one.
    """
    for flow in _flows_of(tasks):
        _require_flow(flow)


def _flows_of(tasks: Iterable[TaskSpec]) -> list[FlowSpec]:
    flows = {flow_key(task.environment.flow): task.environment.flow for task in tasks}
    # This process can always run tasks by itself.
    return [flow for flow in flows.values() if flow.transform != "local"]


def _require_flow(flow: FlowSpec) -> None:
    orchestrator = find_orchestrator(flow.transform, flow.runner)
    why_not = orchestrator.why_not(flow)
    if why_not is not None:
        raise OrchestratorUnavailable(
            why_not if str(flow) in why_not else f"{flow}: {why_not}",
            hint="choose another one with --flow",
        )
    orchestrator.require_answer(flow)


def _flow_checks(tasks: Iterable[TaskSpec]) -> list[Check]:
    return [_flow_check(flow) for flow in _flows_of(tasks)]


def _flow_check(flow: FlowSpec) -> Check:
    try:
        _require_flow(flow)
    except OrchestratorUnavailable as error:
        return Check(
            what="flow",
            verdict="refused",
            detail=error.message,
            hint=error.hint or "choose another one with --flow",
            error=OrchestratorUnavailable.__name__,
        )
    return passed("flow", f"nothing speaks against {flow}; it is opened when a run begins")


def _size_checks(one: Examined, too_large: Mapping[str, Misfit]) -> list[Check]:
    if any(check.verdict == "refused" and check.what in _OF_SIZE for check in one.checks):
        return []
    found = {id(too_large[name]): too_large[name] for name in one.tasks if name in too_large}
    return [refused("flow", misfit.error) for misfit in found.values()]


def _more(one: Examined, checks: Sequence[Check]) -> Examined:
    return msgspec.structs.replace(one, checks=(*one.checks, *checks)) if checks else one


def _of_attempt(error: EnvironmentRefused, attempt: int) -> EnvironmentRefused:
    return type(error)(f"{error.message}, in attempt {attempt}", hint=error.hint)


def _of_all(error: EnvironmentRefused, count: int) -> EnvironmentRefused:
    if count == 1:
        return error
    others = "does 1 other task" if count == 2 else f"do {count - 1} other tasks"  # noqa: PLR2004
    return type(error)(f"{error.message} (so {others})", hint=error.hint)
