"""Who says what runs the tasks: the command line, the file, settings files, and the tasks.

The flow of the whole workflow is that of the command line, else the global setting, else what
the user's settings say, else the site's, else the default runner of the transform that the
tasks name, else the default one of ``local``. A task may choose another runner of the same
transform.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

from fasthep_flow.errors import PlanError, Problem
from fasthep_flow.language.document import Document, Steps, read_text
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.flows import Broken, Flows
from fasthep_flow.language.orchestrations import Level, refuse_both, refuse_secrets
from fasthep_flow.language.refusals import Refusal
from fasthep_flow.language.schema import EnvironmentModel, WorkflowModel, read_flow
from fasthep_flow.model import FlowSpec

__all__ = [
    "COMMAND",
    "PYTHON",
    "Asked",
    "FlowSetting",
    "choose_flow",
    "flow_of",
    "flow_of_command",
    "flow_of_settings",
    "meant_by",
]

DEFAULT: Final = "default"
"""The origin of what nobody set."""

_LAST_RESORT: Final = "local"


class Asked(NamedTuple):
    """What the two settings beside a file are called where they are given.

    Args:
        flow: The short form.
        workflow: The long form.
        who: Who gives either.
    """

    flow: str
    workflow: str
    who: str


COMMAND: Final = Asked("--flow", "--workflow", "the command line")
"""Options of a command."""
PYTHON: Final = Asked("Workflow(flow=...)", "Workflow(workflow=...)", "the Python program")
"""Arguments of :class:`fasthep_flow.Workflow`."""


@dataclass(frozen=True, slots=True)
class FlowSetting:
    """A flow that somebody set, and where.

    Args:
        flow: Transform, runner and options.
        origin: Where it is set: ``file:line``, or the option of the command line.
        steps: Where it is written in the workflow file; ``None`` where it is not.
        is_short: Whether it is a name alone, without options.
        level: Whose definition the name is of; ``None`` for that of a runner itself.
    """

    flow: FlowSpec
    origin: str
    steps: Steps | None
    is_short: bool
    level: Level | None = None


def flow_of(
    environment: EnvironmentModel | None, steps: Steps, flows: Flows, findings: Findings
) -> FlowSetting | None:
    """What ``flow`` or ``workflow`` of an environment says; what is wrong becomes findings."""
    if environment is None or (environment.flow is None and environment.workflow is None):
        return None
    if environment.flow is not None and environment.workflow is not None:
        refuse_both(steps, findings)
        return None
    return _setting_of(environment.flow, environment.workflow, steps, flows, findings)


def _setting_of(
    flow: str | None,
    workflow: WorkflowModel | None,
    steps: Steps,
    flows: Flows,
    findings: Findings,
) -> FlowSetting | None:
    """What one of both says that stand at a place; what is wrong becomes findings.

    Args:
        flow: The short form.
        workflow: The long form.
        steps: Where either stands.
        flows: What names mean.
        findings: Of the document that it is written in.
    """
    if flow is None and workflow is None:
        return None
    here = (*steps, "flow" if flow is not None else "workflow")
    origin = _line_of(findings.document, here)
    try:
        if flow is not None:
            meant, level = flows.short(flow)
            return FlowSetting(meant, origin, here, is_short=True, level=level)
    except Refusal as refusal:
        findings.block(here, refusal.message, refusal.hint)
        return None
    except Broken as broken:
        findings.add_planning(*broken.problems)
        return None
    refuse_secrets(workflow, here, findings)
    found = flows.long(workflow or WorkflowModel(), here, findings)
    return None if found is None else FlowSetting(found, origin, here, is_short=False)


def flow_of_command(
    flow: str | None,
    workflow: str | None,
    flows: Flows,
    directory: Path,
    asked: Asked = COMMAND,
) -> FlowSetting | None:
    """What ``--flow`` or ``--workflow`` says, or is said in their place from Python.

    Args:
        flow: ``transform::runner``, or a transform alone for its default runner.
        workflow: The long form as YAML or JSON text.
        flows: What names mean.
        directory: Where the command was given.
        asked: What both are called there.

    Raises:
        WorkflowError: It is not the setting of a flow, or of none that there is.
    """
    if flow is not None and workflow is not None:
        raise PlanError(
            Problem(
                f"{asked.flow} and {asked.workflow} say the same thing twice",
                hint="keep one of them",
            )
        )
    if flow is not None:
        try:
            meant, level = flows.short(flow)
        except Refusal as refusal:
            raise PlanError(_problem(asked.flow, refusal.message, refusal.hint)) from refusal
        except Broken as broken:
            if not broken.problems:
                # The workflow file's own: it is told of with the file.
                return None
            raise PlanError(*broken.problems) from broken
        return FlowSetting(meant, asked.flow, None, is_short=True, level=level)
    if workflow is None:
        return None
    document = read_text(workflow, file=asked.workflow, directory=directory)
    findings = Findings(document)
    findings.add(*document.complaints())
    model = read_flow(document.data, findings)
    refuse_secrets(model, (), findings)
    findings.check()
    found = flows.long(model, (), findings)
    if found is None:
        raise PlanError(*(_of_option(problem, asked.workflow) for problem in findings.problems))
    return FlowSetting(found, asked.workflow, None, is_short=False)


def _of_option(problem: Problem, name: str) -> Problem:
    """A problem with the whole of the option's text has no place in it."""
    if problem.location is not None and problem.location.path:
        return problem
    return _problem(name, problem.message, problem.hint)


def _problem(name: str, message: str, hint: str | None) -> Problem:
    return Problem(f"{name}: {message}", hint=hint)


def flow_of_settings(flows: Flows, findings: Findings) -> FlowSetting | None:
    """What the nearest settings file says that says something; problems become findings.

    Args:
        flows: What names mean, and the settings.
        findings: Of the workflow file.
    """
    for one in flows.settings:
        if one.flow is None and one.workflow is None:
            continue
        own = Findings(one.document)
        setting = _setting_of(one.flow, one.workflow, (), flows, own)
        findings.add_planning(*own.problems)
        if setting is None:
            return None
        return FlowSetting(
            setting.flow, setting.origin, None, is_short=setting.is_short, level=setting.level
        )
    return None


def choose_flow(
    command: FlowSetting | None,
    general: FlowSetting | None,
    of_tasks: Sequence[FlowSetting],
    flows: Flows,
    findings: Findings,
) -> FlowSetting:
    """The flow of the whole workflow; tasks that name another transform become findings.

    Args:
        command: What the command line says.
        general: What the global setting says.
        of_tasks: What tasks say.
        flows: What names mean, and what settings files say.
        findings: Of the workflow file.
    """
    chosen = command or general or flow_of_settings(flows, findings)
    if chosen is None and of_tasks:
        origin = f"{of_tasks[0].origin}, the flow of a task"
        chosen = _default(of_tasks[0].flow.transform, origin, flows, findings)
    elif chosen is None:
        return _default(_LAST_RESORT, DEFAULT, flows, findings)
    for setting in of_tasks:
        if setting.flow.transform != chosen.flow.transform and setting.steps is not None:
            message, hint = _of_another(setting, chosen, of_tasks[0], command, findings)
            findings.block(setting.steps, message, hint)
    return chosen if general is None else meant_by(chosen, [general])


def meant_by(setting: FlowSetting, others: Sequence[FlowSetting]) -> FlowSetting:
    """What a setting means: a name alone means the flow of that name that is in force.

    What the workflow file itself defines under that name goes before.
    """
    if setting.is_short and setting.level != "workflow":
        for other in others:
            if str(other.flow) == str(setting.flow):
                return replace(setting, flow=other.flow, is_short=other.is_short)
    return setting


def _default(transform: str, origin: str, flows: Flows, findings: Findings) -> FlowSetting:
    """The default runner of a transform, be it defined otherwise."""
    try:
        flow, level = flows.short(transform)
    except Refusal as refusal:
        findings.add_planning(Problem(refusal.message, hint=refusal.hint))
    except Broken as broken:
        findings.add_planning(*broken.problems)
    else:
        return FlowSetting(flow, origin, None, is_short=True, level=level)
    return FlowSetting(FlowSpec(transform=transform, runner=""), origin, None, is_short=True)


def _of_another(
    setting: FlowSetting,
    chosen: FlowSetting,
    first: FlowSetting,
    command: FlowSetting | None,
    findings: Findings,
) -> tuple[str, str]:
    """How a task's flow of another transform is refused: why, and what to do."""
    its, transform = setting.flow.transform, chosen.flow.transform
    hint = f"name one of {transform!r} here, or change the other"
    said = chosen.flow
    if command is not None:
        who = PYTHON.who if command.origin in PYTHON else COMMAND.who
        why = f"{who} says"
        hint = f"give {who} one of {its!r}, or remove the task's"
    elif chosen.steps is not None:
        why = f"the global setting in line {findings.document.place(chosen.steps).line} says"
    elif chosen.origin.startswith(first.origin) and first.steps is not None:
        why = f"the task in line {findings.document.place(first.steps).line} says"
        said = first.flow
    else:
        why = f"the settings in {chosen.origin} say"
        hint = f"name one of {its!r} under 'global', or on the command line with --flow"
    message = f"this task's flow is one of {its!r}, but {why} {str(said)!r}"
    return message, f"all flows of a workflow are of one transform: {hint}"


def _line_of(document: Document, steps: Steps) -> str:
    return f"{document.file}:{document.place(steps).line}"
