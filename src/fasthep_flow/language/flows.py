"""Who runs what: ``flow: prefect::DaskTaskRunner`` and its long form ``workflow``.

The runner of the whole workflow is that of the command line, else the global setting, else
the default one of the transform that the tasks name, else the default one of ``local``. A
task may choose another runner of the same transform.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fasthep_flow.errors import PlanError, Problem
from fasthep_flow.language.document import Steps, read_text
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.placeholders import placeholders
from fasthep_flow.language.refusals import Refusal, nearest, shown
from fasthep_flow.language.schema import EnvironmentModel, WorkflowModel, read_flow
from fasthep_flow.model import FlowSpec

__all__ = [
    "SEPARATOR",
    "FlowSetting",
    "Runners",
    "choose_flow",
    "flow_of",
    "flow_of_command",
    "meant_by",
]

SEPARATOR: Final = "::"

Runners = Mapping[str, Sequence[str]]
"""The runners of each transform, the default one first."""

_LAST_RESORT: Final = "local"


@dataclass(frozen=True, slots=True)
class FlowSetting:
    """A flow that the author set, and where.

    Args:
        flow: Transform, runner and options.
        steps: Where it is written; ``None`` for the command line.
        is_short: Whether it is a name alone, without options.
    """

    flow: FlowSpec
    steps: Steps | None
    is_short: bool


def flow_of(
    environment: EnvironmentModel | None, steps: Steps, runners: Runners, findings: Findings
) -> FlowSetting | None:
    """What ``flow`` or ``workflow`` of an environment says; what is wrong becomes findings."""
    if environment is None or (environment.flow is None and environment.workflow is None):
        return None
    document = findings.document
    here = (*steps, "flow")
    if environment.flow is not None and environment.workflow is not None:
        places = [document.place((*steps, key), key=True) for key in ("flow", "workflow")]
        findings.block(
            here,
            f"'flow' (line {places[0].line}) and 'workflow' (line {places[1].line}) "
            "say the same thing twice",
            "'flow' is the short form of 'workflow': keep one of them",
            key=True,
        )
        return None
    try:
        if environment.flow is not None:
            return FlowSetting(_short(environment.flow, runners), here, is_short=True)
        here = (*steps, "workflow")
        return FlowSetting(_long(environment.workflow, runners), here, is_short=False)
    except Refusal as refusal:
        findings.block(here, refusal.message, refusal.hint)
        return None


def flow_of_command(
    flow: str | None, workflow: str | None, runners: Runners, directory: Path
) -> FlowSetting | None:
    """What ``--flow`` or ``--workflow`` says.

    Args:
        flow: ``transform::runner``, or a transform alone for its default runner.
        workflow: The long form as YAML or JSON text.
        runners: What there is.
        directory: Where the command was given.

    Raises:
        WorkflowError: It is not the setting of a flow, or of none that there is.
    """
    if flow is not None and workflow is not None:
        raise PlanError(
            Problem("--flow and --workflow say the same thing twice", hint="keep one of them")
        )
    try:
        if flow is not None:
            return FlowSetting(_short(flow, runners), None, is_short=True)
        if workflow is None:
            return None
        document = read_text(workflow, file="--workflow", directory=directory)
        findings = Findings(document)
        findings.add(*document.complaints())
        model = read_flow(document.data, findings)
        findings.check()
        return FlowSetting(_long(model, runners), None, is_short=False)
    except Refusal as refusal:
        option = "--flow" if flow is not None else "--workflow"
        raise PlanError(Problem(f"{option}: {refusal.message}", hint=refusal.hint)) from refusal


def choose_flow(
    command: FlowSetting | None,
    general: FlowSetting | None,
    of_tasks: Sequence[FlowSetting],
    runners: Runners,
    findings: Findings,
) -> FlowSpec:
    """The flow of the whole workflow; tasks that name another transform become findings."""
    if command is not None:
        chosen, why = command, "the command line says"
    elif general is not None and general.steps is not None:
        line = findings.document.place(general.steps).line
        chosen, why = general, f"the global setting in line {line} says"
    elif of_tasks:
        first = of_tasks[0]
        assert first.steps is not None  # noqa: S101  # tasks are in the file
        line = findings.document.place(first.steps).line
        transform = first.flow.transform
        flow = FlowSpec(transform=transform, runner=runners[transform][0])
        chosen, why = FlowSetting(flow, None, is_short=True), f"the task in line {line} says"
    else:
        return FlowSpec(transform=_LAST_RESORT, runner=runners[_LAST_RESORT][0])
    transform = chosen.flow.transform
    for setting in of_tasks:
        if setting.flow.transform != transform and setting.steps is not None:
            findings.block(
                setting.steps,
                f"this task's flow is one of {setting.flow.transform!r}, "
                f"but {why} {str(chosen.flow)!r}",
                "all flows of a workflow are of one transform: "
                + (
                    f"give the command line one of {setting.flow.transform!r}, or remove the task's"
                    if command is not None
                    else f"name one of {transform!r} here, or change the other"
                ),
            )
    return chosen.flow if general is None else meant_by(chosen, [general.flow])


def meant_by(setting: FlowSetting, defined: Sequence[FlowSpec]) -> FlowSpec:
    """The flow that a setting means: a name alone means the defined one of that name."""
    if setting.is_short:
        for flow in defined:
            if str(flow) == str(setting.flow):
                return flow
    return setting.flow


def _short(text: str, runners: Runners) -> FlowSpec:
    _refuse_placeholders(text)
    transform, separator, runner = text.partition(SEPARATOR)
    if separator and not runner:
        raise Refusal(f"{shown(text)} names no runner", nearest("", _names(runners)))
    if not separator and transform not in runners:
        raise Refusal(f"there is no flow {shown(text)}", _nearest_flow(text, runners))
    if transform not in runners:
        raise Refusal(
            f"there is no transform {shown(transform)}", _nearest_flow(transform, runners, runner)
        )
    return _checked(transform, runner or None, runners, {})


def _nearest_flow(transform: str, runners: Runners, runner: str = "") -> str:
    """A hint for a transform that there is not: names that can be copied as they are."""
    near = difflib.get_close_matches(transform.casefold(), runners, n=1)
    if not near:
        return nearest(f"{transform}{SEPARATOR}{runner}" if runner else transform, _names(runners))
    known = runners[near[0]]
    meant = [runner] if runner in known else known
    return f"did you mean {' or '.join(shown(f'{near[0]}{SEPARATOR}{name}') for name in meant)}?"


def _long(model: WorkflowModel | None, runners: Runners) -> FlowSpec:
    if model is None or model.transform is None:
        raise Refusal("'workflow' names no transform", nearest("", runners))
    _refuse_placeholders(model.transform)
    runner = model.kwargs.runner if model.kwargs is not None else None
    if runner is not None:
        _refuse_placeholders(runner)
    options = dict(model.kwargs.model_extra or {}) if model.kwargs is not None else {}
    return _checked(model.transform, runner, runners, options)


def _checked(
    transform: str, runner: str | None, runners: Runners, options: dict[str, object]
) -> FlowSpec:
    if transform not in runners:
        raise Refusal(f"there is no transform {shown(transform)}", nearest(transform, runners))
    known = runners[transform]
    if runner is None:
        runner = known[0]
    if runner not in known:
        if " | " in runner:
            raise Refusal(f"{shown(runner)} is a choice to make", f"name one: {', '.join(known)}")
        raise Refusal(f"{transform!r} has no runner {shown(runner)}", nearest(runner, known))
    return FlowSpec(transform=transform, runner=runner, options=options)


def _refuse_placeholders(text: str) -> None:
    found = placeholders(text)
    if found:
        raise Refusal(
            f"{shown(found[0])} is a placeholder", "name a flow, such as local::concurrent"
        )


def _names(runners: Runners) -> list[str]:
    return [f"{transform}{SEPARATOR}{name}" for transform in runners for name in runners[transform]]
