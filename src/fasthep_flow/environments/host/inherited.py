"""The variables that a task on the host has from this process."""

from __future__ import annotations

import functools
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

    All tasks of a run inherit what the first one did, in each process that starts some.

    Args:
        environment: The task's own variables; ``None`` for one that is to be absent.
    """
    run_id = environment.get("FASTHEP_RUN_ID")
    variables = _inherited() if run_id is None else _inherited_in(run_id).copy()
    for name, value in environment.items():
        if value is None:
            variables.pop(name, None)
        else:
            variables[name] = value
    return variables


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _OURS}


@functools.lru_cache(maxsize=8)
def _inherited_in(run_id: str) -> dict[str, str]:
    # Python keeps them encoded: going through all of them takes as long as to make a file.
    del run_id
    return _inherited()
