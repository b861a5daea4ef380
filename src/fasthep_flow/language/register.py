"""``register``: names of an author's own for functions and operators."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from fasthep_flow.language.document import Steps
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.paths import check_text
from fasthep_flow.language.refusals import Refusal, shown
from fasthep_flow.language.schema import VersionsModel
from fasthep_flow.model import Device
from fasthep_flow.operators import OPERATORS, Operator, find_operator
from fasthep_flow.operators.function import FunctionOperator, callable_target

__all__ = ["REGISTER", "Register", "is_ours", "read_register"]

REGISTER: Final = "register"

_T = TypeVar("_T")

_NAME: Final = re.compile(r"([A-Za-z_][\w.-]{0,99})::([A-Za-z_][\w.-]{0,99})", re.ASCII)
_OURS: Final = "fasthep"
_EXAMPLE: Final = "such as mine::fit"


@dataclass(frozen=True, slots=True)
class Register:
    """What an author's own names stand for.

    Args:
        operators: By name.
        refused: Names whose value was refused: nobody is told that there is no such name.
    """

    operators: Mapping[str, Operator] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()


def read_register(
    written: Mapping[str, str | VersionsModel] | None, findings: Findings
) -> Register:
    """The names that a file registers; what is wrong with them becomes findings."""
    operators: dict[str, Operator] = {}
    for name, value in (written or {}).items():
        here = (REGISTER, name)
        try:
            _check_name(name)
        except Refusal as refusal:
            findings.refuse(here, refusal.message, refusal.hint, key=True)
            continue
        operator = (
            _function(value, here, findings)
            if isinstance(value, VersionsModel)
            else _read(_operator, value, here, findings)
        )
        if operator is not None:
            operators[name] = operator
    names = findings.document.value((REGISTER,))
    refused = frozenset(names if isinstance(names, dict) else ()) - operators.keys()
    return Register(operators, refused)


def _read(parse: Callable[[str], _T], text: str, here: Steps, findings: Findings) -> _T | None:
    try:
        return parse(text)
    except Refusal as refusal:
        findings.refuse(here, refusal.message, refusal.hint)
    return None


def _function(value: VersionsModel, here: Steps, findings: Findings) -> Operator | None:
    """A function that is another one for each kind of device."""
    written: dict[Device, str | None] = {"cpu": value.cpu, "gpu": value.gpu}
    if not any(text is not None for text in written.values()):
        keys = findings.document.value(here)
        # What could not be read was refused before.
        if not (isinstance(keys, dict) and any(keys.values())):
            findings.refuse(here, "this names no function", "add 'cpu: module.function'")
        return None
    targets: dict[Device, str] = {}
    for device, text in written.items():
        if text is not None:
            target = _read(_target, text, (*here, device), findings)
            if target is None:
                return None
            targets[device] = target
    return FunctionOperator(targets)


def is_ours(name: str) -> bool:
    """Whether a dotted name is one of this package's, which no function of an author's has."""
    first = name.replace(":", ".").partition(".")[0]
    return first == "fasthep_flow"


def _check_name(name: str) -> None:
    check_text(name, "name")
    match = _NAME.fullmatch(name)
    if match is None:
        hint = _EXAMPLE
        if re.fullmatch(r"[A-Za-z_]\w*", name):
            hint = f"did you mean {shown(f'mine::{name}')}?"
        raise Refusal(f"{shown(name)} is no name with a namespace", hint)
    if match[1].lower().startswith(_OURS):
        raise Refusal(
            f"names that start with {shown(_OURS)} are not yours to give",
            f"did you mean {shown(f'mine::{match[2]}')}?",
        )


def _operator(text: str) -> Operator:
    """What a name alone stands for: an operator that there is, or a function."""
    check_text(text, "function")
    known = find_operator(text) if "::" not in text else None
    return known or FunctionOperator(dict.fromkeys(("cpu", "gpu"), _target(text)))


def _target(text: str) -> str:
    check_text(text, "function")
    if "::" in text:
        raise Refusal(
            f"{shown(text)} is a registered name itself", "write the function: module.function"
        )
    if text in OPERATORS:
        raise Refusal(
            f"{shown(text)} serves either kind of device", "write it without 'cpu' and 'gpu'"
        )
    target = callable_target(text.strip())
    if target is None or is_ours(text):
        raise Refusal(
            f"{shown(text)} does not name a function", "write module.function, or module:function"
        )
    return target
