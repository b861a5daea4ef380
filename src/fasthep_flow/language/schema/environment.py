"""``environment`` in the file: where a task runs, with what, and on whose orders."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from fasthep_flow.language.platforms import parse_platform
from fasthep_flow.language.quantities import parse_cpus, parse_memory, parse_time
from fasthep_flow.language.schema.forms import (
    lines,
    listed,
    long_image,
    long_python,
    long_version,
    names,
    sizes,
    text_or,
)
from fasthep_flow.model import DataMode, Enforce, Network, ProcessOn, Pull

__all__ = [
    "CredentialModel",
    "DataModel",
    "EnvironmentModel",
    "ImageModel",
    "Model",
    "OneImageModel",
    "PythonModel",
    "ResourcesModel",
    "ScriptModel",
    "WorkflowModel",
]


class Model(BaseModel):
    """A mapping of which all keys are known, and no value is taken for another."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True
    )


_Cpus = Annotated[float, BeforeValidator(parse_cpus)]
_Memory = Annotated[int, BeforeValidator(parse_memory)]
_Time = Annotated[float, BeforeValidator(parse_time)]


class ResourcesModel(Model):
    """``resources``: what a task needs of a machine; some of it from attempt to attempt."""

    cpus: Annotated[list[_Cpus] | None, BeforeValidator(sizes)] = None
    memory: Annotated[list[_Memory] | None, BeforeValidator(sizes)] = None
    gpus: Annotated[int, Field(ge=0)] | None = None
    process_on: ProcessOn | None = None
    walltime: Annotated[list[_Time] | None, BeforeValidator(sizes)] = None
    enforce: Enforce | None = None


class OneImageModel(Model):
    """One image: a name, or a mapping that also says how to come by it."""

    name: str | None = None
    pull: Pull | None = None
    platform: Annotated[str, BeforeValidator(parse_platform)] | None = None


class ImageModel(OneImageModel):
    """``image``: one, or one for each kind of device; and what runs it."""

    cpu: Annotated[OneImageModel | None, BeforeValidator(long_image)] = None
    gpu: Annotated[OneImageModel | None, BeforeValidator(long_image)] = None
    runtime: str | None = None
    options: list[str] | None = None


class ScriptModel(Model):
    """``setup`` in the long form: a script and its arguments."""

    script: str | None = None
    arguments: Annotated[list[str] | None, BeforeValidator(names)] = None


class PythonModel(Model):
    """``python``: a version, or a mapping that also says what is installed."""

    version: Annotated[str | None, BeforeValidator(long_version)] = None
    requirements: Annotated[Any, BeforeValidator(lines)] = None


class CredentialModel(Model):
    """One of ``credentials`` in the long form."""

    kind: str | None = None
    file: str | None = None
    variable: str | None = None


class DataModel(Model):
    """One of ``extra_data`` in the long form."""

    source: str | None = None
    target: str | None = None
    digest: str | None = None
    mode: DataMode | None = None


_Script = Annotated[Any, BeforeValidator(partial(text_or, ScriptModel))]
_Credential = Annotated[Any, BeforeValidator(partial(text_or, CredentialModel))]
_Data = Annotated[Any, BeforeValidator(partial(text_or, DataModel))]


class RunnerModel(BaseModel):
    """``workflow.kwargs``: the runner, and options that are its own affair."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    runner: str | None = None


class WorkflowModel(Model):
    """``workflow``: the long form of ``flow``."""

    transform: str | None = None
    kwargs: RunnerModel | None = None


class EnvironmentModel(Model):
    """``environment``: where a task runs."""

    image: Annotated[ImageModel | None, BeforeValidator(long_image)] = None
    network: Network | None = None
    reuse: bool | None = None
    variables: Any = None
    secrets: Annotated[list[str] | None, BeforeValidator(names)] = None
    setup: Annotated[list[_Script] | None, BeforeValidator(listed)] = None
    python: Annotated[PythonModel | None, BeforeValidator(long_python)] = None
    credentials: Annotated[list[_Credential] | None, BeforeValidator(listed)] = None
    extra_data: Annotated[list[_Data] | None, BeforeValidator(listed)] = None
    flow: str | None = None
    workflow: WorkflowModel | None = None
    resources: ResourcesModel | None = None
