"""A job's environment, entered by a person: for a shell, or a command of their own.

It is made as the job's own is, by :func:`fasthep_flow.execution.prepare.prepared`. What is
different is told by the person, not by the job: which program runs, and that it has their
standard streams. Nothing stops it in the end but the person: no time limit is held.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from fasthep_flow.environments import find_runtime
from fasthep_flow.execution.execute import own_variables
from fasthep_flow.execution.prepare import Prepared, prepared
from fasthep_flow.model import Job, Secrets

__all__ = ["enter_job"]

_SHELL: Final = (
    "/bin/sh",
    "-c",
    "command -v bash >/dev/null 2>&1 && exec bash --noprofile --norc; exec /bin/sh",
)
"""A shell of the image's: bash where there is one. What it would read first would change the
variables that the task has.
"""

_OF_TERMINAL: Final = ("TERM", "COLORTERM")


def enter_job(
    job: Job,
    values: Secrets,
    argv: Sequence[str] = (),
    *,
    start_in: str | None = None,
    data_directory: str | None = None,
    ready: Callable[[Prepared], None] = lambda _: None,
    waits: Callable[[str], None] = lambda _: None,
) -> int:
    """Run a program in a job's environment, on the caller's standard streams; its exit code.

    Args:
        job: Whose environment it is. Its folder is there.
        values: Of the job's variables.
        argv: The program and its arguments; a shell if there are none.
        start_in: Absolute path of the folder to start in; the job's own if not given.
        data_directory: Absolute path of the folder for its extra data, where that may not lie
            in the job's folder.
        ready: Is told what it will be, before anything starts; what it raises ends it.
        waits: Is told for what it waits, where it does.

    Raises:
        EnvironmentRefused: Something of it cannot be had, or the program cannot be started.
        RunInterrupted: The caller was told to stop; the program has ended.
    """
    variables = own_variables(job, values)
    runtime = find_runtime(job.runtime)
    enforced = runtime.check(job.resources, job.network)
    with prepared(
        job,
        variables,
        runtime,
        enforced=enforced,
        data_directory=data_directory,
        waits=waits,
    ) as made:
        ready(made)
        # The attempt's own name may be another container's: two people may look at it.
        name = f"{made.spec.name}-{secrets.token_hex(4)}"
        return runtime.enter(
            msgspec.structs.replace(made.spec, name=name),
            argv or _SHELL,
            environment={
                **_of_terminal(made),
                **made.environment,
                **({} if argv else _of_shell(_prompt(job, made))),
            },
            working_directory=start_in or job.working_directory,
        )


def _of_terminal(made: Prepared) -> dict[str, str | None]:
    """What a program must know of the terminal that it is given."""
    if made.resolved is None or not (os.isatty(0) and os.isatty(1)):
        return {}
    return {name: os.environ[name] for name in _OF_TERMINAL if name in os.environ}


def _of_shell(prompt: str) -> dict[str, str | None]:
    # Bash and busybox would write what is typed into HOME, where only the task is to write;
    # and what bash is told to do before its prompt would be to show another one.
    return {"PS1": prompt, "HISTFILE": "", "PROMPT_COMMAND": None}


def _prompt(job: Job, made: Prepared) -> str:
    """What a shell shows before a line: the task, and the image where there is one.

    Shells expand what is in a prompt: nothing but plain signs may be there.
    """
    where = "" if made.resolved is None else f", {_plain(_last_part(made.resolved.name))}"
    return f"({_plain(job.task)}{where}) $ "


def _last_part(image: str) -> str:
    """``debian:12`` of ``docker.io/library/debian:12@sha256:...``, and ``x.sif`` of a path."""
    return image.partition("@")[0].rstrip("/").rpartition("/")[2] or "/"


def _plain(text: str) -> str:
    return "".join(
        sign if sign.isascii() and (sign.isalnum() or sign in " -_.:+,=@#%()[]") else "?"
        for sign in text
    )
