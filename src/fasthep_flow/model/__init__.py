"""The nouns: immutable data of builtins, JSON in and out.

*Plan*: a resolved workflow. *Job*: one attempt of one task, fully resolved, plain text.
*Environment*: what a task asks of the place where it runs. Memory is bytes and time is
seconds everywhere.

The values of a task's variables are never part of a job or of a plan's JSON:
:class:`Variable` hides them, and they travel beside the job as its *secrets*.
"""

from __future__ import annotations

from fasthep_flow.model.environment import (
    Credential,
    CredentialKind,
    DataItem,
    DataMode,
    Device,
    Enforce,
    Environment,
    FlowSpec,
    Gpu,
    Image,
    ImageForm,
    Network,
    ProcessOn,
    Pull,
    PythonSpec,
    Resources,
    Secrets,
    Setup,
    Variable,
    Vendor,
)
from fasthep_flow.model.job import Failure, FailureKind, Job, JobResult, Status
from fasthep_flow.model.plan import (
    Call,
    Command,
    Invocation,
    Plan,
    Retries,
    RetryCause,
    TaskSpec,
)
from fasthep_flow.model.text import from_json, to_json

__all__ = [
    "Call",
    "Command",
    "Credential",
    "CredentialKind",
    "DataItem",
    "DataMode",
    "Device",
    "Enforce",
    "Environment",
    "Failure",
    "FailureKind",
    "FlowSpec",
    "Gpu",
    "Image",
    "ImageForm",
    "Invocation",
    "Job",
    "JobResult",
    "Network",
    "Plan",
    "ProcessOn",
    "Pull",
    "PythonSpec",
    "Resources",
    "Retries",
    "RetryCause",
    "Secrets",
    "Setup",
    "Status",
    "TaskSpec",
    "Variable",
    "Vendor",
    "from_json",
    "to_json",
]
