"""Why a program of this machine's did not start, in words."""

from __future__ import annotations

import errno
import os

from fasthep_flow.model import Failure

__all__ = ["why_not_started"]


def why_not_started(error: OSError | ValueError, program: str, working_directory: str) -> Failure:
    """What an error of a start says, in words."""
    if isinstance(error, ValueError):
        return Failure(kind="not_started", message=f"cannot start {program}: {error}")
    if not os.path.isdir(working_directory):  # noqa: PTH112 - a hot path has no Path to ask
        return Failure(
            kind="environment",
            message=f"the working directory {working_directory} is not there",
            hint="every machine that runs tasks must see the workflow's folder",
        )
    match error.errno:
        case errno.ENOENT if os.path.exists(program) and "/" in program:  # noqa: PTH110
            message = f"the interpreter that the first line of {program} names is not there"
            hint = None
        case errno.ENOENT:
            message = f"no such program: {program}"
            hint = "is it installed, and on the PATH of the task?"
        case errno.EACCES:
            message = f"{program} may not be executed"
            hint = f"chmod +x {program}" if "/" in program else None
        case errno.ENOEXEC:
            message = f"{program} is no program of this machine's"
            hint = "a script says in its first line what reads it, such as #!/bin/bash"
        case errno.E2BIG:
            message = f"the arguments and variables of {program} are longer than the system allows"
            hint = "hand over long texts in a file"
        case _:
            message = f"cannot start {program}: {error.strerror}"
            hint = None
    return Failure(kind="not_started", message=message, hint=hint)
