"""The shape of a workflow file: which keys there are and what their values must be.

The only module with pydantic in it. Its errors are told in plain words, with their place;
a mapping with errors in it is read once more without what is wrong, so that everything
else about it can still be checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from fasthep_flow.language.document import Steps
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.placeholders import placeholders
from fasthep_flow.language.platforms import parse_platform
from fasthep_flow.language.quantities import parse_cpus, parse_memory, parse_time
from fasthep_flow.language.refusals import Refusal, nearest, shown
from fasthep_flow.model import DataMode, Enforce, Network, ProcessOn, Pull

__all__ = [
    "GLOBAL",
    "MOST_RETRIES",
    "NOT_YET",
    "CredentialModel",
    "DataModel",
    "EnvironmentModel",
    "GlobalModel",
    "ImageModel",
    "OneImageModel",
    "PythonModel",
    "ResourcesModel",
    "ScriptModel",
    "SettingsModel",
    "TaskModel",
    "WorkflowFile",
    "WorkflowModel",
    "read_file",
    "read_flow",
    "read_settings_keys",
    "read_task",
]

NOT_YET: Final = frozenset(
    {
        "foreach",
        "inputs",
        "outputs",
        "params",
        "variations",
    }
)
"""Keys of the language that this version cannot honour yet: empty, they ask for nothing."""


GLOBAL: Final = "global"
"""The key of the settings that hold for every task."""

EXAMPLE_VERSION: Final = "3.12"
"""Of Python, for messages."""

MOST_RETRIES: Final = 1000
"""What fails more often than that has another trouble than bad luck."""

_TEXTS: Final = TypeAdapter(list[str])

_LEFT_OUT: Final = object()
"""Stands in a list where something was wrong: those behind it keep their numbers."""

_ENTRIES: Final = frozenset({"credentials", "extra_data", "setup"})
"""Lists of what is judged one by one; what was wrong is read as ``None``."""


def _names(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _long(key: str, value: object) -> object:
    """The long form of what may be text alone: a mapping with the text at its key."""
    if isinstance(value, str):
        return {key: value}
    if value is not None and not isinstance(value, dict):
        raise Refusal(f"must be text or a mapping, not {_kind(value)}")
    return value


def _long_image(value: object) -> object:
    return _long("name", value)


def _long_python(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise Refusal(
            "the version must be text: as a number 3.10 would be 3.1",
            f'put it in quotes, such as "{EXAMPLE_VERSION}"',
        )
    return _long("version", value)


def _version(value: object) -> object:
    return value if isinstance(value, str | None) else _long_python(value)


def _lines(value: object) -> object:
    if isinstance(value, list):
        return _TEXTS.validate_python(value, strict=True)
    if value is None or isinstance(value, str):
        return value
    raise Refusal(
        f"must be a list, or the path of a requirements file, not {_kind(value)}",
        "start each requirement with '- '",
    )


def _listed(value: object) -> object:
    """A list of what may be one thing alone."""
    if value is None or isinstance(value, list):
        return value
    if isinstance(value, str | dict):
        return [value]
    raise Refusal(f"must be text, a mapping, or a list of these, not {_kind(value)}")


def _text_or(model: type[BaseModel], value: object) -> object:
    """Text as it is; a mapping as what it must be."""
    if isinstance(value, str):
        return value
    if value is _LEFT_OUT:
        return None
    if not isinstance(value, dict):
        raise Refusal(f"must be text or a mapping, not {_kind(value)}")
    return model.model_validate(value)


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True
    )


class ResourcesModel(_Model):
    """``resources``: what a task needs of a machine."""

    cpus: Annotated[float, BeforeValidator(parse_cpus)] | None = None
    memory: Annotated[int, BeforeValidator(parse_memory)] | None = None
    gpus: Annotated[int, Field(ge=0)] | None = None
    process_on: ProcessOn | None = None
    walltime: Annotated[float, BeforeValidator(parse_time)] | None = None
    enforce: Enforce | None = None


class OneImageModel(_Model):
    """One image: a name, or a mapping that also says how to come by it."""

    name: str | None = None
    pull: Pull | None = None
    platform: Annotated[str, BeforeValidator(parse_platform)] | None = None


class ImageModel(OneImageModel):
    """``image``: one, or one for each kind of device; and what runs it."""

    cpu: Annotated[OneImageModel | None, BeforeValidator(_long_image)] = None
    gpu: Annotated[OneImageModel | None, BeforeValidator(_long_image)] = None
    runtime: str | None = None
    options: list[str] | None = None


class ScriptModel(_Model):
    """``setup`` in the long form: a script and its arguments."""

    script: str | None = None
    arguments: Annotated[list[str] | None, BeforeValidator(_names)] = None


class PythonModel(_Model):
    """``python``: a version, or a mapping that also says what is installed."""

    version: Annotated[str | None, BeforeValidator(_version)] = None
    requirements: Annotated[Any, BeforeValidator(_lines)] = None


class CredentialModel(_Model):
    """One of ``credentials`` in the long form."""

    kind: str | None = None
    file: str | None = None
    variable: str | None = None


class DataModel(_Model):
    """One of ``extra_data`` in the long form."""

    source: str | None = None
    target: str | None = None
    digest: str | None = None
    mode: DataMode | None = None


_Script = Annotated[Any, BeforeValidator(partial(_text_or, ScriptModel))]
_Credential = Annotated[Any, BeforeValidator(partial(_text_or, CredentialModel))]
_Data = Annotated[Any, BeforeValidator(partial(_text_or, DataModel))]


class RunnerModel(BaseModel):
    """``workflow.kwargs``: the runner, and options that are its own affair."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    runner: str | None = None


class WorkflowModel(_Model):
    """``workflow``: the long form of ``flow``."""

    transform: str | None = None
    kwargs: RunnerModel | None = None


class EnvironmentModel(_Model):
    """``environment``: where a task runs."""

    image: Annotated[ImageModel | None, BeforeValidator(_long_image)] = None
    network: Network | None = None
    reuse: bool | None = None
    variables: Any = None
    secrets: Annotated[list[str] | None, BeforeValidator(_names)] = None
    setup: Annotated[list[_Script] | None, BeforeValidator(_listed)] = None
    python: Annotated[PythonModel | None, BeforeValidator(_long_python)] = None
    credentials: Annotated[list[_Credential] | None, BeforeValidator(_listed)] = None
    extra_data: Annotated[list[_Data] | None, BeforeValidator(_listed)] = None
    flow: str | None = None
    workflow: WorkflowModel | None = None
    resources: ResourcesModel | None = None


class OutputModel(_Model):
    """``output``: where the run folders lie."""

    directory: str | None = None


class GlobalModel(EnvironmentModel):
    """``global``: what holds for every task that does not say otherwise."""

    output: OutputModel | None = None


class TaskModel(_Model):
    """One of ``tasks``."""

    name: str | None = None
    type: str | None = None
    kwargs: dict[str, Any] | None = None
    with_: dict[str, Any] | None = Field(None, alias="with")
    needs: Annotated[list[str] | None, BeforeValidator(_names)] = None
    dependencies: Annotated[list[str] | None, BeforeValidator(_names)] = None
    environment: EnvironmentModel | None = None
    retries: Annotated[int, Field(ge=0, le=MOST_RETRIES)] | None = None
    timeout: Annotated[float, BeforeValidator(parse_time)] | None = None


class VersionsModel(_Model):
    """A registered function that is another one for each kind of device."""

    cpu: str | None = None
    gpu: str | None = None


_Registered = Annotated[Any, BeforeValidator(partial(_text_or, VersionsModel))]


class WorkflowFile(_Model):
    """The file itself, its tasks unread."""

    name: str | None = None
    global_: GlobalModel | None = Field(None, alias="global")
    orchestrations: dict[str, WorkflowModel] | None = None
    register_: dict[str, _Registered] | None = Field(None, alias="register")
    tasks: Any = None
    stages: Any = None


class SettingsModel(_Model):
    """A settings file, of a user or of a site."""

    flow: str | None = None
    workflow: WorkflowModel | None = None
    orchestrations: dict[str, WorkflowModel] | None = None


_M = TypeVar("_M", bound=BaseModel)

_BY_KEY: Final[Mapping[str, type[BaseModel]]] = {
    "cpu": OneImageModel,
    "credentials": CredentialModel,
    "environment": EnvironmentModel,
    "extra_data": DataModel,
    "global": GlobalModel,
    "gpu": OneImageModel,
    "image": ImageModel,
    "output": OutputModel,
    "python": PythonModel,
    "resources": ResourcesModel,
    "setup": ScriptModel,
    "workflow": WorkflowModel,
}
_INNER: Final[Mapping[str, frozenset[str]]] = {
    "image": frozenset(ImageModel.model_fields) - {"name", "cpu", "gpu"},
    "resources": frozenset(ResourcesModel.model_fields),
    "python": frozenset(PythonModel.model_fields),
}
_WANTED: Final[Mapping[str, str]] = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
}
_IN_ORCHESTRATION: Final = 2
"""Keys around those of an orchestration: ``orchestrations`` and its name."""
_CHOICES: Final[Mapping[str, str]] = {
    "enforce": "a way to hold limits",
    "mode": "a way to hand data over",
    "network": "a network",
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
        key = str(loc[-1])
        choices = detail["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        what = _CHOICES.get(key, "one of the choices")
        if isinstance(value, str):
            findings.refuse(where, f"{shown(value)} is not {what}", nearest(value, choices))
        else:
            findings.refuse(where, f"must be text, not {_kind(value)}", nearest("", choices))
    elif kind == "greater_than_equal":
        findings.refuse(where, f"{shown(value)} is less than {detail['ctx']['ge']}")
    elif kind == "less_than_equal":
        most = detail["ctx"]["le"]
        findings.refuse(where, f"{shown(value)} is more than {most}", f"{most} is the most")
    elif kind in _WANTED:
        wanted = _WANTED[kind]
        hint = _kind_hint(wanted, value, loc)
        findings.refuse(where, f"must be {wanted}, not {_kind(value)}", hint)
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
    hint = _key_hint(model, key, loc)
    findings.refuse(where, f"there is no key {shown(key)} here", hint, key=True)


def _key_hint(model: type[BaseModel], key: str, loc: Steps) -> str:
    """Where a key belongs that is none where it stands, or which one was meant."""
    around = [str(step) for step in loc[:-1] if not isinstance(step, int)]
    owner = _BY_KEY.get(around[-1], model) if around else model
    if around[:1] == ["register"]:
        owner = VersionsModel
    elif around[:1] == ["orchestrations"] and len(around) == _IN_ORCHESTRATION:
        owner = WorkflowModel
    known = [field.alias or name for name, field in owner.model_fields.items()]
    inner = next((name for name, keys in _INNER.items() if key in keys and name in known), None)
    hint = nearest(key, known)
    if owner is SettingsModel:
        hint = _settings_hint(key, hint)
    elif owner is TaskModel and key in EnvironmentModel.model_fields:
        hint = f"put it under 'environment': a task's {key} is part of that"
    elif owner is WorkflowFile and key in GlobalModel.model_fields:
        hint = f"put it under 'global': {key} for every task is part of that"
    elif owner is OneImageModel and key in ImageModel.model_fields:
        hint = f"put it beside {around[-1]!r}: {key} is the same for both"
    elif issubclass(owner, OneImageModel) and key in EnvironmentModel.model_fields:
        hint = f"put it beside 'image': {key} is no part of that"
    elif owner is not WorkflowFile and key in {"orchestrations", "register"}:
        hint = "put it at the top, beside 'tasks'"
    elif inner is not None:
        hint = f"put it under {inner!r}: {key} is part of that"
    return hint


def _settings_hint(key: str, hint: str) -> str:
    """Settings are few, so that a workflow means the same to everybody who runs it."""
    if key == GLOBAL:
        return "put 'flow' at the top of this file: there is no 'global' around it"
    if any(key in model.model_fields for model in (WorkflowFile, GlobalModel, ResourcesModel)):
        own = ", ".join(SettingsModel.model_fields)
        return f"put it in the workflow file: settings are {own}"
    return hint


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
                _LEFT_OUT if number in wrong else one for number, one in enumerate(entries)
            ]
        elif isinstance(inner, dict) and all(rests):
            copied[str(step)] = _without(inner, rests)
    return copied


def _kind(value: object) -> str:
    """What a value is, in an author's words, without the value."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int):
        return "a number"
    if isinstance(value, float):
        return "a number with a fraction"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "a mapping"
