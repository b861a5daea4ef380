"""The hint for a key that is none where it stands: where it belongs, or which one was meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel

from fasthep_flow.language.document import Steps
from fasthep_flow.language.refusals import nearest
from fasthep_flow.language.schema.environment import (
    CredentialModel,
    DataModel,
    EnvironmentModel,
    ImageModel,
    OneImageModel,
    PythonModel,
    ResourcesModel,
    ScriptModel,
    WorkflowModel,
)
from fasthep_flow.language.schema.file import (
    GLOBAL,
    GlobalModel,
    OutputModel,
    RetriesModel,
    SettingsModel,
    TaskModel,
    VersionsModel,
    WorkflowFile,
)

__all__ = ["key_hint"]

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
    "retries": RetriesModel,
    "setup": ScriptModel,
    "workflow": WorkflowModel,
}
_INNER: Final[Mapping[str, frozenset[str]]] = {
    "image": frozenset(ImageModel.model_fields) - {"name", "cpu", "gpu"},
    "resources": frozenset(ResourcesModel.model_fields),
    "python": frozenset(PythonModel.model_fields),
}
_IN_ORCHESTRATION: Final = 2
"""Keys around those of an orchestration: ``orchestrations`` and its name."""


def key_hint(model: type[BaseModel], key: str, loc: Steps) -> str:
    """Where a key belongs that is none where it stands, or which one was meant.

    Args:
        model: What was read.
        key: That the author wrote.
        loc: The keys and numbers from what was read to the key, which is the last one.
    """
    around = [str(step) for step in loc[:-1] if not isinstance(step, int)]
    owner = _BY_KEY.get(around[-1], model) if around else model
    if around[:1] == ["register"]:
        owner = VersionsModel
    elif around[:1] == ["orchestrations"] and len(around) == _IN_ORCHESTRATION:
        owner = WorkflowModel
    known = [field.alias or name for name, field in owner.model_fields.items()]
    inner = next((name for name, keys in _INNER.items() if key in keys and name in known), None)
    hint = f"put it under {inner!r}: {key} is part of that" if inner else nearest(key, known)
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
    elif owner in {EnvironmentModel, GlobalModel} and key in TaskModel.model_fields:
        where = "beside 'environment'" if owner is EnvironmentModel else "at the tasks"
        hint = f"put it {where}: {key} is each task's own"
    return hint


def _settings_hint(key: str, hint: str) -> str:
    """Settings are few, so that a workflow means the same to everybody who runs it."""
    if key == GLOBAL:
        return "put 'flow' at the top of this file: there is no 'global' around it"
    if any(key in model.model_fields for model in (WorkflowFile, GlobalModel, ResourcesModel)):
        own = ", ".join(SettingsModel.model_fields)
        return f"put it in the workflow file: settings are {own}"
    return hint
