"""The file itself: its keys, ``global``, one of ``tasks``; and those of a settings file."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

from fasthep_flow.language.quantities import parse_time
from fasthep_flow.language.schema.environment import EnvironmentModel, Model, WorkflowModel
from fasthep_flow.language.schema.forms import long_retries, names, parse_delay, text_or
from fasthep_flow.model import RetryCause

__all__ = [
    "GLOBAL",
    "MOST_BACKOFF",
    "MOST_RETRIES",
    "GlobalModel",
    "OutputModel",
    "RetriesModel",
    "SettingsModel",
    "TaskModel",
    "VersionsModel",
    "WorkflowFile",
]

GLOBAL: Final = "global"
"""The key of the settings that hold for every task."""

MOST_RETRIES: Final = 1000
"""What fails more often than that has another trouble than bad luck."""


MOST_BACKOFF: Final = 100
"""What grows faster is a slip of the keys."""


class OutputModel(Model):
    """``output``: where the run folders lie."""

    directory: str | None = None


class GlobalModel(EnvironmentModel):
    """``global``: what holds for every task that does not say otherwise."""

    output: OutputModel | None = None


class RetriesModel(Model):
    """``retries``: how often a task is tried again, when, and after what."""

    times: Annotated[int, Field(ge=0, le=MOST_RETRIES)] | None = None
    delay: Annotated[float, BeforeValidator(parse_delay)] | None = None
    backoff: Annotated[float, Field(ge=1, le=MOST_BACKOFF)] | None = None
    on: Annotated[list[RetryCause] | None, BeforeValidator(names)] = None


class TaskModel(Model):
    """One of ``tasks``."""

    name: str | None = None
    type: str | None = None
    kwargs: dict[str, Any] | None = None
    with_: dict[str, Any] | None = Field(None, alias="with")
    needs: Annotated[list[str] | None, BeforeValidator(names)] = None
    dependencies: Annotated[list[str] | None, BeforeValidator(names)] = None
    environment: EnvironmentModel | None = None
    inputs: Annotated[list[str] | None, BeforeValidator(names)] = None
    outputs: Annotated[list[str] | None, BeforeValidator(names)] = None
    cache: bool | None = None
    retries: Annotated[RetriesModel | None, BeforeValidator(long_retries)] = None
    timeout: Annotated[float, BeforeValidator(parse_time)] | None = None
    allow_failure: bool | None = None


class VersionsModel(Model):
    """A registered function that is another one for each kind of device."""

    cpu: str | None = None
    gpu: str | None = None


_Registered = Annotated[Any, BeforeValidator(partial(text_or, VersionsModel))]


class WorkflowFile(Model):
    """The file itself, its tasks unread."""

    name: str | None = None
    global_: GlobalModel | None = Field(None, alias="global")
    orchestrations: dict[str, WorkflowModel] | None = None
    register_: dict[str, _Registered] | None = Field(None, alias="register")
    tasks: Any = None
    stages: Any = None


class SettingsModel(Model):
    """A settings file, of a user or of a site."""

    flow: str | None = None
    workflow: WorkflowModel | None = None
    orchestrations: dict[str, WorkflowModel] | None = None
