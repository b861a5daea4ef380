"""From a document to a plan: settings merged, names resolved, the graph checked.

Order: if no task says ``needs``, they run in the order written, each after the one before.
If one says it, be it an empty list, the needs of all of them are the graph, and a task
without any starts at once.

Older spellings are read too: ``dependencies`` for ``needs``, ``with`` for ``kwargs``,
``stages`` for ``tasks``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from fasthep_flow.errors import PlanError, Problem
from fasthep_flow.language import graph
from fasthep_flow.language.document import Document
from fasthep_flow.language.environment import GLOBAL, EnvironmentReader, Settings
from fasthep_flow.language.files import FileReader
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.flow_settings import (
    COMMAND,
    Asked,
    FlowSetting,
    choose_flow,
    flow_of_command,
    meant_by,
)
from fasthep_flow.language.flows import Catalogue, Flows
from fasthep_flow.language.makers import check_files
from fasthep_flow.language.orchestrations import read_orchestrations
from fasthep_flow.language.placeholders import EXPRESSION, placeholders
from fasthep_flow.language.refusals import nearest, shown
from fasthep_flow.language.register import Register, read_register
from fasthep_flow.language.schema import WorkflowFile, read_file
from fasthep_flow.language.settings import SettingsFile
from fasthep_flow.language.slugs import make_slugs
from fasthep_flow.language.tasks import Task, TaskReader, is_printable
from fasthep_flow.language.tree import paused_collector
from fasthep_flow.language.variables import VariableReader
from fasthep_flow.model import Environment, Plan, TaskSpec

__all__ = ["make_plan", "select_tasks"]

_DEFAULT_OUTPUT: Final = "output"
_PLAIN_NAMES: Final = frozenset({"workflow", "flow", "fasthep-flow"})
_SHOWN_CYCLE: Final = 10
_COMPARED_NAMES: Final = 100_000


def make_plan(
    document: Document,
    *,
    runners: Catalogue,
    settings: Sequence[SettingsFile] = (),
    flow: str | None = None,
    workflow: str | None = None,
    output_directory: Path | None = None,
    host: Mapping[str, str] | None = None,
    asked: Asked = COMMAND,
) -> Plan:
    """Plan the workflow of a document. Nothing of the author's is imported or run.

    Args:
        document: The workflow.
        runners: Those that there are.
        settings: The settings files of the user and the site, in this order.
        flow: ``--flow``: replaces the global setting.
        workflow: ``--workflow``: the long form of that, YAML or JSON text.
        output_directory: Under which the run folders lie; replaces the global setting.
        host: The host's environment, for variables that are passed through; this
            process's if it is not given.
        asked: What ``--flow`` and ``--workflow`` are called where they are given.

    Raises:
        PlanError: The file is a workflow, but it cannot be planned.
        WorkflowError: The file is not a workflow; every problem was found and is told.
    """
    with paused_collector():
        findings = Findings(document)
        flows = Flows(runners, settings)
        planner = _Planner(document, flows, findings, os.environ if host is None else host)
        command = partial(flow_of_command, flow, workflow, flows, Path.cwd(), asked)
        return planner.plan(command, output_directory)


def select_tasks(plan: Plan, names: Sequence[str]) -> Plan:
    """The plan of the named tasks and all that they need.

    Raises:
        PlanError: There is no task of that name.
    """
    # In the order of the file, as a hint lists them; a plan is in the order of the needs.
    in_file = sorted(plan.tasks, key=lambda task: (task.location.line, task.location.column))
    known = {task.name: task.needs for task in in_file}
    problems = [
        Problem(f"there is no task {shown(name)}", hint=nearest(name, known))
        for name in dict.fromkeys(names)
        if name not in known
    ]
    if problems:
        raise PlanError(*problems)
    chosen = graph.closure(names, known)
    kept = tuple(task for task in plan.tasks if task.name in chosen)
    asked_for = () if len(kept) == len(plan.tasks) else tuple(sorted(set(names)))
    return msgspec.structs.replace(plan, tasks=kept, selection=asked_for)


class _Planner:
    """The steps of one planning; each goes on where the one before found problems."""

    def __init__(
        self, document: Document, flows: Flows, findings: Findings, host: Mapping[str, str]
    ) -> None:
        self.document = document
        self.flows = flows
        self.findings = findings
        variables = VariableReader(document, host, findings)
        self.environments = EnvironmentReader.of(findings, flows, variables)

    def plan(
        self, read_command: Callable[[], FlowSetting | None], output_directory: Path | None
    ) -> Plan:
        findings, document = self.findings, self.document
        findings.add(*document.complaints())
        data = document.data
        if not isinstance(data, dict):
            self._refuse_root()
            data = {}
        self._refuse_expressions()
        file = read_file(data, findings)
        defined = read_orchestrations(file.orchestrations, "workflow", findings)
        self.flows.define(defined, findings)
        command = read_command()
        name = self._name(file)
        output = self._output(file, output_directory)
        settings = self.environments.merge(file.global_, (GLOBAL,), Settings(), is_task=False)
        # What a task inherits is the flow of the workflow, which the command line can replace.
        general = msgspec.structs.replace(settings, flow=None)
        register = read_register(file.register_, findings)
        tasks = self._tasks(data, general, register, FileReader(findings, output))
        self.environments.check_global_secrets(settings, [task.settings for task in tasks])
        needs = self._needs(tasks)
        ordered = graph.order(needs)
        if len(ordered) < len(tasks):
            self._report_cycles(tasks, needs)
        check_files(tasks, needs, ordered, findings)
        of_tasks = [task.settings.flow for task in tasks if task.settings.flow is not None]
        chosen = choose_flow(command, settings.flow, of_tasks, self.flows, findings)
        findings.check()
        in_force = [chosen] if settings.flow is None else [chosen, settings.flow]
        return Plan(
            name=name,
            tasks=self._specify(tasks, needs, ordered, general, in_force),
            flow=chosen.flow,
            flow_origin=chosen.origin,
            directory=str(document.directory),
            source=str(document.source),
            output_directory=output,
            digest=document.digest,
            warnings=tuple(str(warning) for warning in findings.warnings),
        )

    def _refuse_root(self) -> None:
        if self.document.data is None:
            self.findings.refuse((), "the file is empty", "a workflow has the key 'tasks'")
        else:
            self.findings.refuse(
                (), "a workflow is a mapping", "start the file with 'tasks:' and indent the rest"
            )
        self.findings.check()

    def _refuse_expressions(self) -> None:
        if EXPRESSION not in self.document.text:
            return
        for steps, value in self.document.scalars():
            if isinstance(value, str) and EXPRESSION in value:
                self.findings.refuse(
                    steps, "expressions, ${{ ... }}, are not supported yet", "write the value"
                )

    def _name(self, file: WorkflowFile) -> str:
        if file.name is not None:
            if not file.name.strip() or not is_printable(file.name):
                self.findings.refuse(
                    ("name",), "the workflow's name is empty or holds control characters"
                )
            return file.name
        source = self.document.source
        return source.parent.name if source.stem in _PLAIN_NAMES else source.stem

    def _output(self, file: WorkflowFile, given: Path | None) -> str:
        """The folder of the run folders: the file's is relative to the file."""
        if given is not None:
            return str(given.resolve())
        written = file.global_.output if file.global_ is not None else None
        name = _DEFAULT_OUTPUT
        if written is not None and written.directory is not None:
            name = written.directory
            steps = (GLOBAL, "output", "directory")
            if placeholders(name):
                self.findings.refuse(steps, f"{shown(placeholders(name)[0])} is a placeholder")
            elif not name.strip() or "\0" in name:
                self.findings.refuse(steps, "this is not the name of a folder")
                name = _DEFAULT_OUTPUT
        return str((self.document.directory / name).resolve())

    def _tasks(
        self, data: dict[str, Any], general: Settings, register: Register, files: FileReader
    ) -> list[Task]:
        key = "tasks" if "tasks" in data or "stages" not in data else "stages"
        if "tasks" in data and "stages" in data:
            self.findings.refuse(
                ("stages",),
                "'tasks' and 'stages' say the same thing twice",
                "keep 'tasks'",
                key=True,
            )
        listed = data.get(key)
        if not listed:
            self.findings.refuse((key,), "the workflow has no tasks", "list them under 'tasks'")
            return []
        if not isinstance(listed, list):
            self.findings.refuse((key,), "tasks must be a list", "start each one with '- name:'")
            return []
        reader = TaskReader(
            self.document, self.findings, self.environments, general, register, files
        )
        tasks = []
        for number, item in enumerate(listed):
            tasks.append(reader.read(item, (key, number)))
            if self.findings.is_full:
                break
        first: dict[str, Task] = {}
        for task in tasks:
            earlier = first.setdefault(task.name, task)
            if earlier is not task and task.name:
                place = self.document.place((*earlier.steps, "name"))
                self.findings.refuse(
                    (*task.steps, "name"),
                    f"a task is called {shown(task.name)} already, at {place}",
                    "every task has a name of its own",
                )
        return tasks

    def _needs(self, tasks: Sequence[Task]) -> list[list[int]]:
        """For every task the numbers of those that it needs; unknown ones become findings."""
        if not any(task.says_needs for task in tasks):
            return [[number - 1] if number else [] for number in range(len(tasks))]
        numbers: dict[str, int] = {}
        for number, task in enumerate(tasks):
            if task.name:
                numbers.setdefault(task.name, number)
        compared = 0
        needs = []
        for number, task in enumerate(tasks):
            known: dict[int, None] = {}
            for position, name in enumerate(task.needs):
                steps = (*task.steps, task.needs_key, position)
                other = numbers.get(name)
                if other is None:
                    # Comparing with a hundred thousand names takes two seconds.
                    hint = nearest(name, numbers) if compared < _COMPARED_NAMES else None
                    compared += len(numbers)
                    self.findings.block(steps, f"there is no task {shown(name)}", hint)
                elif other == number:
                    self.findings.block(steps, f"{shown(name)} needs itself")
                elif other in known:
                    self.findings.warn(steps, f"{shown(name)} is named twice")
                else:
                    known[other] = None
            needs.append(list(known))
        return needs

    def _report_cycles(self, tasks: Sequence[Task], needs: Sequence[Sequence[int]]) -> None:
        for cycle in graph.cycles(needs):
            way = []
            for number in cycle[:_SHOWN_CYCLE]:
                line = self.document.place(tasks[number].steps).line
                way.append(f"{shown(tasks[number].name)} (line {line})")
            if len(cycle) > _SHOWN_CYCLE:
                way.append(f"... {len(cycle) - _SHOWN_CYCLE} more")
            way.append(shown(tasks[cycle[0]].name))
            first = tasks[cycle[0]]
            self.findings.block(
                (*first.steps, first.needs_key),
                f"these tasks wait for each other: {' -> '.join(way)}",
                "each needs the next one; one of these needs must go",
            )

    def _specify(
        self,
        tasks: Sequence[Task],
        needs: Sequence[Sequence[int]],
        ordered: Sequence[int],
        general: Settings,
        in_force: Sequence[FlowSetting],
    ) -> tuple[TaskSpec, ...]:
        slugs = make_slugs([task.name for task in tasks])
        environments = {id(general): _environment(general, in_force)}
        specified = []
        for number in ordered:
            task = tasks[number]
            settings = task.settings
            environment = environments.get(id(settings)) or _environment(settings, in_force)
            limits = [
                limit
                for limit in (task.model.timeout, settings.resources.walltime_s)
                if limit is not None
            ]
            specified.append(
                TaskSpec(
                    name=task.name,
                    slug=slugs[number],
                    operator=task.model.type or "",
                    invocations=task.invocations,
                    needs=tuple(tasks[other].name for other in needs[number]),
                    environment=environment,
                    retries=task.retries,
                    growth=settings.sizes.growth(settings.resources, task.model.timeout)
                    if settings.sizes.further
                    else (),
                    timeout_s=min(limits, default=None),
                    inputs=tuple(file.path for file in task.files.inputs),
                    outputs=tuple(file.path for file in task.files.outputs),
                    cache=bool(task.model.cache),
                    allow_failure=bool(task.model.allow_failure),
                    location=self.document.place(task.steps),
                )
            )
        return tuple(specified)


def _environment(settings: Settings, in_force: Sequence[FlowSetting]) -> Environment:
    chosen = in_force[0] if settings.flow is None else meant_by(settings.flow, in_force)
    container = settings.container
    image, gpu_image = container.images(settings.resources.process_on)
    return Environment(
        image=image,
        gpu_image=gpu_image,
        runtime=container.runtime if image is not None else None,
        options=container.options if image is not None else (),
        network=settings.network,
        reuse=settings.reuse,
        variables=settings.variables,
        secrets=settings.secrets,
        setup=settings.setup,
        python=settings.python,
        credentials=settings.credentials,
        extra_data=settings.extra_data,
        flow=chosen.flow,
        resources=settings.resources,
    )
