"""The shape of a workflow file: which keys there are and what their values must be.

The only room with pydantic in it. Its errors are told in plain words, with their place;
a mapping with errors in it is read once more without what is wrong, so that everything
else about it can still be checked.
"""

from __future__ import annotations

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
    MOST_RETRIES,
    GlobalModel,
    RetriesModel,
    SettingsModel,
    TaskModel,
    VersionsModel,
    WorkflowFile,
)
from fasthep_flow.language.schema.forms import EXAMPLE_VERSION
from fasthep_flow.language.schema.reading import (
    NOT_YET,
    read_file,
    read_flow,
    read_settings_keys,
    read_task,
)

__all__ = [
    "EXAMPLE_VERSION",
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
    "RetriesModel",
    "ScriptModel",
    "SettingsModel",
    "TaskModel",
    "VersionsModel",
    "WorkflowFile",
    "WorkflowModel",
    "read_file",
    "read_flow",
    "read_settings_keys",
    "read_task",
]
