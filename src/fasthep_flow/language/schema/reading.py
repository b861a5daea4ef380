"""What was written, read as a model; what is wrong with it told, and the rest read without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from fasthep_flow.language.document import Steps
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.placeholders import placeholders
from fasthep_flow.language.refusals import Refusal, nearest, shown
from fasthep_flow.language.schema.environment import WorkflowModel
from fasthep_flow.language.schema.file import SettingsModel, TaskModel, WorkflowFile
from fasthep_flow.language.schema.forms import LEFT_OUT, kind_of
from fasthep_flow.language.schema.hints import key_hint

__all__ = ["NOT_YET", "read_file", "read_flow", "read_settings_keys", "read_task"]

NOT_YET: Final = frozenset(
    {
        "foreach",
        "params",
        "variations",
    }
)
"""Keys of the language that this version cannot honour yet: empty, they ask for nothing."""

_ENTRIES: Final = frozenset({"credentials", "extra_data", "setup"})
"""Lists of what is judged one by one; what was wrong is read as ``None``."""

_M = TypeVar("_M", bound=BaseModel)

_WANTED: Final[Mapping[str, str]] = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "float_type": "a number",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
}
_CHOICES: Final[Mapping[str, str]] = {
    "enforce": "a way to hold limits",
    "mode": "a way to hand data over",
    "network": "a network",
    "on": "an end of an attempt",
    "process_on": "a device policy",
    "pull": "a time to fetch an image",
}


def read_file(data: Mapping[str, Any], findings: Findings) -> WorkflowFile:
    """The file's keys but its tasks; what is wrong with them becomes findings."""
    return _read(WorkflowFile, dict(data), (), findings) or WorkflowFile.model_validate({})


def read_task(data: object, steps: Steps, findings: Findings) -> TaskModel:
    """One task; what is wrong with it becomes findings."""
    try:
        return TaskModel.model_validate(data)
    except ValidationError:
        return _read(TaskModel, data, steps, findings) or TaskModel.model_validate({})


def read_flow(data: object, findings: Findings) -> WorkflowModel:
    """A ``workflow`` that is a document of its own; what is wrong becomes findings."""
    return _read(WorkflowModel, data, (), findings) or WorkflowModel.model_validate({})


def read_settings_keys(data: object, findings: Findings) -> SettingsModel:
    """The keys of a settings file; what is wrong with them becomes findings."""
    return _read(SettingsModel, data, (), findings) or SettingsModel.model_validate({})


def _read(model: type[_M], data: object, steps: Steps, findings: Findings) -> _M | None:
    # A second look can show more, but only where the first one took something away.
    for _ in range(3):
        try:
            return model.model_validate(data)
        except ValidationError as error:
            # The text of the errors is ours; what pydantic says holds the author's values.
            details = error.errors(include_url=False)
        for detail in details:
            _report(model, dict(detail), detail["loc"], steps, findings)
        if not isinstance(data, dict):
            return None
        data = _without(data, [detail["loc"] for detail in details])
    return None


def _report(
    model: type[BaseModel], detail: dict[str, Any], loc: Steps, steps: Steps, findings: Findings
) -> None:
    kind = detail["type"]
    value = detail["input"]
    where = findings.written((*steps, *loc))
    if kind == "extra_forbidden":
        _report_unknown(model, value, loc, steps, findings)
    elif kind == "value_error" and isinstance(detail["ctx"]["error"], Refusal):
        refusal = detail["ctx"]["error"]
        findings.refuse(where, refusal.message, refusal.hint)
    elif kind == "literal_error":
        key = next(str(step) for step in reversed(loc) if not isinstance(step, int))
        choices = detail["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        what = _CHOICES.get(key, "one of the choices")
        if isinstance(value, str):
            findings.refuse(where, f"{shown(value)} is not {what}", nearest(value, choices))
        else:
            findings.refuse(where, f"must be text, not {kind_of(value)}", nearest("", choices))
    elif kind == "greater_than_equal":
        findings.refuse(where, f"{shown(value)} is less than {detail['ctx']['ge']:g}")
    elif kind == "less_than_equal":
        most = f"{detail['ctx']['le']:g}"
        findings.refuse(where, f"{shown(value)} is more than {most}", f"{most} is the most")
    elif kind in _WANTED:
        wanted = _WANTED[kind]
        hint = _kind_hint(wanted, value, loc)
        findings.refuse(where, f"must be {wanted}, not {kind_of(value)}", hint)
    else:
        findings.refuse(where, str(detail["msg"]))


def _kind_hint(wanted: str, value: object, loc: Steps) -> str | None:
    """What to write where a value is of the wrong kind."""
    if wanted == "text" and isinstance(value, int | float):
        return "put it in quotes"
    if wanted == "a whole number" and isinstance(value, str) and value.isdecimal():
        return "remove the quotes"
    if wanted == "a list" and isinstance(value, dict):
        return "start each item with '- '"
    if wanted == "a mapping" and loc[-1:] in {("kwargs",), ("with",)}:
        return "start each argument with its name"
    return None


def _report_unknown(
    model: type[BaseModel], value: object, loc: Steps, steps: Steps, findings: Findings
) -> None:
    key = str(loc[-1])
    where = findings.written((*steps, *loc))
    if key in NOT_YET:
        found = placeholders(value) if isinstance(value, str) else ()
        if value == "TBC" or found:
            findings.refuse(
                where,
                f"{shown(found[0] if found else value)} is a placeholder",
                f"remove {key!r}: it is not needed",
            )
        elif value not in (None, [], {}):
            findings.refuse(where, f"{key!r} is not supported yet", "remove it", key=True)
        return
    hint = key_hint(model, key, loc)
    findings.refuse(where, f"there is no key {shown(key)} here", hint, key=True)


def _without(data: dict[str, Any], locs: Sequence[Steps]) -> dict[str, Any]:
    """A copy of ``data`` without what is at ``locs``.

    Of a list that has something wrong in it nothing is left: what remained of it would not
    be what the author meant. Entries that stand for themselves are left out one by one.
    """
    below: dict[str | int, list[Steps]] = {}
    for loc in locs:
        below.setdefault(loc[0], []).append(loc[1:])
    copied = dict(data)
    for step, rests in below.items():
        inner = copied.pop(str(step), None)
        if step in _ENTRIES and isinstance(inner, dict | list) and all(rests):
            wrong = {rest[0] for rest in rests}
            entries = inner if isinstance(inner, list) else [inner]
            copied[str(step)] = [
                LEFT_OUT if number in wrong else one for number, one in enumerate(entries)
            ]
        elif isinstance(inner, dict) and all(rests):
            copied[str(step)] = _without(inner, rests)
    return copied
