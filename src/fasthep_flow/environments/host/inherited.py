"""The variables that a task on the host has from this process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

__all__ = ["laid_over_ours"]

_OURS: Final = (
    "FASTHEP_CPUS",
    "FASTHEP_DATA",
    "FASTHEP_DEVICE",
    "FASTHEP_MEMORY_BYTES",
    "FASTHEP_PYTHON",
    "FASTHEP_RUN_ID",
    "FASTHEP_TASK_DIRECTORY",
    "FASTHEP_TASK_NAME",
)
"""What a workflow that is itself a task of another one must not hand on."""


def laid_over_ours(environment: Mapping[str, str | None]) -> dict[str, str]:
    """The whole environment of a task on the host.

    It is taken anew for each: what an engine sets for itself, and takes back, is no task's.

    Args:
        environment: The task's own variables; ``None`` for one that is to be absent.
    """
    variables = {name: value for name, value in os.environ.items() if name not in _OURS}
    for name, value in environment.items():
        if value is None:
            variables.pop(name, None)
        else:
            variables[name] = value
    return variables
