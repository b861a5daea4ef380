"""One task: its name, its operator's invocations, what it needs, where it runs."""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

from fasthep_flow.errors import ArgumentError
from fasthep_flow.language.document import Document, Steps
from fasthep_flow.language.environment import GLOBAL, EnvironmentReader, Settings
from fasthep_flow.language.files import FileReader, TaskFiles
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.placeholders import placeholders, shell_placeholders
from fasthep_flow.language.refusals import nearest, shown
from fasthep_flow.language.register import Register, is_ours
from fasthep_flow.language.retries import read_retries
from fasthep_flow.language.schema import TaskModel, read_task
from fasthep_flow.model import Device, Invocation, Retries
from fasthep_flow.operators import OPERATORS, Operator, find_operator
from fasthep_flow.operators.arguments import UnknownArgumentsError
from fasthep_flow.operators.bash import own_variables
from fasthep_flow.operators.function import FunctionOperator, callable_target

__all__ = ["Task", "TaskReader", "is_printable"]

_UNPRINTABLE: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_SHELL: Final = "bash_command"
_NO_MAPPING: Final[dict[str, Any]] = {}


@dataclass(frozen=True, slots=True)
class Task:
    """A task as written, its parts understood.

    Args:
        steps: Where it is written.
        model: What is written there.
        name: Its name; empty if it has none that could be read.
        says_needs: Whether the author says what it needs, be it nothing.
        needs_key: How the author spelt ``needs``.
        needs: The names that stand there.
        settings: Its environment over the global one.
        invocations: What its operator makes of its arguments.
        files: What it reads and makes.
        retries: When it is tried again.
    """

    steps: Steps
    model: TaskModel
    name: str
    says_needs: bool
    needs_key: str
    needs: tuple[str, ...]
    settings: Settings
    invocations: dict[Device, Invocation]
    files: TaskFiles
    retries: Retries


@dataclass(slots=True)
class TaskReader:
    """Reads the tasks of one document; what is wrong with them becomes findings."""

    document: Document
    findings: Findings
    environments: EnvironmentReader
    general: Settings
    register: Register
    files: FileReader
    _operators: dict[str, Operator | None] = field(default_factory=dict)

    def read(self, data: object, steps: Steps) -> Task:
        """The task at a place; parts that cannot be read are empty."""
        model = read_task(data, steps, self.findings)
        written = data if isinstance(data, dict) else _NO_MAPPING
        needs_key = self._one_of(written, steps, "needs", "dependencies")
        needs = model.needs if needs_key == "needs" else model.dependencies
        name = self._name(model, steps, written)
        settings = self.environments.merge(
            model.environment, (*steps, "environment"), self.general, is_task=True
        )
        invocations = self._invocations(model, steps, written)
        self._check_variables(settings, invocations, steps)
        if len(invocations) == 1:
            self._check_version(settings, next(iter(invocations)), steps)
        return Task(
            steps=steps,
            model=model,
            name=name,
            says_needs=needs_key in written,
            needs_key=needs_key,
            needs=tuple(needs or ()),
            settings=settings,
            invocations=invocations,
            files=self.files.read(model, invocations.values(), steps),
            retries=read_retries(model.retries, settings.sizes, steps, self.findings),
        )

    def _check_variables(
        self, settings: Settings, invocations: dict[Device, Invocation], steps: Steps
    ) -> None:
        """Refuse variables that a shell replaces: it would do so without a word."""
        if not settings.variables:
            return
        in_image = not settings.container.is_host
        as_root = os.geteuid() == 0
        for invocation in invocations.values():
            own = own_variables(invocation, in_image=in_image, as_root=as_root)
            for name in settings.variables.keys() & own:
                here, is_written = self._place_of_variable(name, steps)
                self.findings.refuse(
                    here,
                    f"bash sets {name} itself: the value would not reach the command",
                    "give it another name"
                    + ("" if is_written else f" in {settings.variables[name].origin}"),
                )

    def _check_version(self, settings: Settings, only: Device, steps: Steps) -> None:
        """Refuse a task of one version that shall run on the other kind of device."""
        process_on = settings.resources.process_on
        if process_on == only:
            return
        missing: Device = "cpu" if only == "gpu" else "gpu"
        here: Steps = (*steps, "type")
        name = shown(self.document.value(here))
        if process_on == "gpu_if_available":
            then = "runs on the cpu in any case" if missing == "gpu" else "needs a gpu in any case"
            self.findings.warn(
                here,
                f"{name} has no {missing} version: the task {then}",
                f"register one, or write 'process_on: {only}'",
            )
            return
        for owner in ((*steps, "environment"), (GLOBAL,)):
            place: Steps = (*owner, "resources", "process_on")
            if self.document.value(place) is not None:
                here = place
                break
        self.findings.refuse(
            here,
            f"{name} has no {missing} version, and the task is to run on the {missing}",
            f"register one, or write 'process_on: {only}' at the task",
        )

    def _place_of_variable(self, name: str, steps: Steps) -> tuple[Steps, bool]:
        """Where a variable is set, and whether it is set there by name or in a file."""
        nearest_place: Steps = steps
        for owner in ((*steps, "environment"), (GLOBAL,)):
            here: Steps = (*owner, "variables")
            value = self.document.value(here)
            if value is None:
                continue
            if nearest_place == steps:
                nearest_place = here
            listed = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
            for number, item in reversed(listed):
                if isinstance(item, dict) and name in item:
                    return ((*here, name) if number is None else (*here, number, name)), True
        return nearest_place, False

    def _one_of(self, written: dict[str, Any], steps: Steps, key: str, other: str) -> str:
        """Which of two spellings of the same key the author used."""
        if key in written and other in written:
            places = [self.document.place((*steps, name), key=True) for name in (key, other)]
            self.findings.refuse(
                (*steps, other),
                f"{key!r} (line {places[0].line}) and {other!r} (line {places[1].line}) "
                "say the same thing twice",
                f"keep {key!r}",
                key=True,
            )
        return key if key in written or other not in written else other

    def _name(self, model: TaskModel, steps: Steps, written: dict[str, Any]) -> str:
        name = model.name
        if name is None:
            if written is not _NO_MAPPING and written.get("name") is None:
                self.findings.refuse(steps, "the task has no name", "add 'name: ...'")
            return ""
        if not name.strip():
            self.findings.refuse((*steps, "name"), "the task's name is empty")
            return ""
        if not is_printable(name):
            self.findings.refuse(
                (*steps, "name"),
                f"the name {shown(name)} holds control characters",
                "names are printed: keep them on one line",
            )
        return name

    def _invocations(
        self, model: TaskModel, steps: Steps, written: dict[str, Any]
    ) -> dict[Device, Invocation]:
        key = self._one_of(written, steps, "kwargs", "with")
        kwargs = (model.kwargs if key == "kwargs" else model.with_) or {}
        is_read = key not in written or written[key] is None or isinstance(written[key], dict)
        operator = self._operator(model, steps, written)
        if self.document.non_finite and self._refuse_non_finite((*steps, key)):
            return {}
        command = kwargs.get(_SHELL)
        found: tuple[str, ...] = ()
        if isinstance(command, str) and "arguments" not in kwargs:
            found = shell_placeholders(command)
        if found:
            self.findings.refuse(
                (*steps, key, _SHELL),
                f"{shown(found[0])} is a placeholder",
                "write your own value, or put it in quotes if it is meant so",
            )
        if operator is None or not is_read:
            return {}
        arguments = {**kwargs, **self._spelled(operator, (*steps, key))}
        try:
            return operator.prepare((), arguments)
        except UnknownArgumentsError as error:
            for each in error.each:
                self._refuse_argument(each, steps, key, at_key=True)
            if error.has_slips:
                # What else there is to say would be of an argument that is not there.
                return {}
            unknown = {each.path[1] for each in error.each}
        except ArgumentError as error:
            self._refuse_argument(error, steps, key)
            return {}
        try:
            operator.prepare(
                (), {name: value for name, value in arguments.items() if name not in unknown}
            )
        except ArgumentError as error:
            self._refuse_argument(error, steps, key)
        return {}

    def _refuse_argument(
        self, error: ArgumentError, steps: Steps, key: str, *, at_key: bool = False
    ) -> None:
        """Tell what an operator says of an argument, with its place as the author spelt it."""
        path = tuple(
            key if step == "kwargs" and not number else step
            for number, step in enumerate(error.path)
        )
        self.findings.refuse((*steps, *path), error.message, error.hint, key=at_key)

    def _refuse_non_finite(self, steps: Steps) -> bool:
        """Whether there are numbers that no job could hold; they become findings."""
        found = False
        for here, value in self.document.scalars(steps):
            if isinstance(value, float) and not math.isfinite(value):
                found = True
                self.findings.refuse(
                    here,
                    f"{value} cannot be handed to a task: JSON has no such number",
                    "put it in quotes, or let the task know it",
                )
        return found

    def _spelled(self, operator: Operator, steps: Steps) -> dict[str, Any]:
        """The arguments that the operator takes as text, as they are written."""
        names: Collection[str] = getattr(operator, "spelled", ())
        written = self.document.value(steps)
        spelled: dict[str, Any] = {}
        if not names or not isinstance(written, dict):
            return spelled
        for name, value, index in self.document.items(written):
            if name in names and isinstance(value, list):
                spelled[name] = self.document.spelled(value)
            elif name in names and isinstance(value, bool | int | float):
                spelled[name] = self.document.spelling(value, index)
        return spelled

    def _operator(self, model: TaskModel, steps: Steps, written: dict[str, Any]) -> Operator | None:
        name = model.type
        here = (*steps, "type")
        if name is None:
            if written is not _NO_MAPPING and written.get("type") is None:
                self.findings.refuse(
                    steps, "the task has no type", f"add 'type: {next(iter(OPERATORS))}'"
                )
            return None
        if name not in self._operators:
            try:
                self._operators[name] = self._find(name)
            except (ImportError, AttributeError) as error:
                self.findings.block(here, f"the operator {shown(name)} cannot be loaded: {error}")
                return None
        operator = self._operators[name]
        if operator is None and name not in self.register.refused:
            self.findings.refuse(here, *_unknown(name, self.register.operators))
        return operator

    def _find(self, name: str) -> Operator | None:
        """What a task's type stands for: a registered name, an operator, or a function."""
        if "::" in name:
            return self.register.operators.get(name)
        operator = find_operator(name)
        if operator is not None or is_ours(name) or _is_operators_name(name):
            return operator
        target = callable_target(name)
        return None if target is None else FunctionOperator(dict.fromkeys(("cpu", "gpu"), target))


def is_printable(name: str) -> bool:
    """Whether a name can stand in a line of text."""
    return name.isprintable() or not any(
        unicodedata.category(character) in _UNPRINTABLE for character in name
    )


def _is_operators_name(name: str) -> bool:
    """Whether the last word is an operator's: what is in front of it was misremembered."""
    last = name.rpartition(".")[2]
    return any(operator.rpartition(".")[2].casefold() == last.casefold() for operator in OPERATORS)


def _unknown(name: str, registered: Collection[str]) -> tuple[str, str]:
    """Why a task's type is none, and what could be written."""
    if placeholders(name):
        return f"{shown(name)} is a placeholder", nearest("", OPERATORS)
    from importlib.metadata import entry_points

    plugged_in = sorted(entry_points(group="fasthep_flow.operators").names)
    known = list(dict.fromkeys([*OPERATORS, *plugged_in]))
    short = name.rpartition(".")[2].rpartition("::")[2]
    hint = nearest(name, known)
    for operator in known:
        if operator.rpartition(".")[2].casefold() in {
            short.casefold(),
            f"{short}operator".casefold(),
        }:
            return f"there is no operator {shown(name)}", f"did you mean {operator!r}?"
    if "::" in name:
        hint = nearest(name, registered) if registered else "add it under 'register'"
        return f"there is no registered name {shown(name)}", hint
    return f"there is no operator {shown(name)}", hint
