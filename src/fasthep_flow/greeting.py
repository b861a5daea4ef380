"""What a visitor to a task's environment is told before a shell opens there."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from fasthep_flow.model import Call, Invocation
from fasthep_flow.records.report import one_line, printable
from fasthep_flow.redaction import secret_values, without_credentials, without_values

if TYPE_CHECKING:
    from fasthep_flow.execution.prepare import Prepared
    from fasthep_flow.visit import Visit

__all__ = ["command_text", "greeting_lines", "remark_lines"]

_DIGITS: Final = 12
_LABEL: Final = 9
_FATES: Final = {"timed_out": "timed out", "cancelled": "was stopped"}


def greeting_lines(visit: Visit, made: Prepared) -> Iterator[str]:
    """Where the visitor is, a line each; and how to leave.

    Args:
        visit: About to begin.
        made: The environment.
    """
    job = visit.job
    yield f"{one_line(job.task)}, {_place(made, job.runtime)}"
    facts = []
    if visit.attempt is None:
        facts.append(("folder", f"{one_line(job.directory)}, gone when you leave"))
        facts.append(("you are", f"in {one_line(job.working_directory)}, where the task works"))
    else:
        facts.append(("folder", f"{one_line(job.directory)}, {_fate(visit)}"))
        facts.append(("you are", f"there; the task works in {one_line(job.working_directory)}"))
    if memory := _unheld(made, visit):
        facts.append(("limits", memory))
    facts += [("note", one_line(remark)) for remark in visit.remarks]
    secrets = secret_values(made.environment, job.secrets)
    command = command_text(made.invocation, secrets).split("\n")
    facts.append(("it runs", command[0]))
    for label, text in facts:
        yield f"  {label:<{_LABEL}}{text}"
    yield from command[1:]
    yield "exit, or Ctrl-D, ends it, with all that still runs in it."


def remark_lines(visit: Visit) -> Iterator[str]:
    """What a visitor must know who wants to know nothing else."""
    if visit.attempt is not None:
        yield f"FASTHEP_TASK_DIRECTORY is {one_line(visit.job.directory)}, {_fate(visit)}"
    yield from map(one_line, visit.remarks)


def _place(made: Prepared, runtime: str) -> str:
    device = f"on the {made.choice.device}"
    names = ", ".join(dict.fromkeys(gpu.name for gpu in made.choice.devices if gpu.name))
    if names:
        device += f" ({one_line(names)})"
    if made.resolved is None:
        return f"on this machine, {device}"
    name = one_line(made.resolved.name.partition("@")[0])
    digest = made.resolved.digest.rpartition(":")[2][:_DIGITS]
    return f"in {name} ({digest}), {runtime}, {device}"


def _fate(visit: Visit) -> str:
    """What became of the attempt in whose folder the visit is."""
    attempt = visit.attempt
    if attempt is None:
        return ""
    number = f"attempt {attempt.job.attempt}"
    if attempt.result is None:
        return f"where {number} was cut short"
    fate = _FATES.get(attempt.result.status, "failed")
    code = attempt.result.exit_code
    return f"where {number} {fate}" + (f" with exit code {code}" if code else "")


def _unheld(made: Prepared, visit: Visit) -> str:
    if visit.job.resources.memory is not None and made.spec.resources.memory is None:
        return "the memory limit of a run is not held here"
    return ""


def command_text(invocation: Invocation, secrets: frozenset[str] = frozenset()) -> str:
    """What the task runs, as a line for a shell; without what nobody is to see.

    Args:
        invocation: What it runs.
        secrets: Values that are left out.
    """
    if isinstance(invocation, Call):
        module, _, name = invocation.target.partition(":")
        words = [*map(repr, invocation.args)]
        words += [f"**{invocation.kwargs!r}"] if invocation.kwargs else []
        call = f"import {module}; print({module}.{name}({', '.join(words)}))"
        text = shlex.join(("python3", "-c", call))
    else:
        # As a block in YAML ends.
        text = shlex.join(word.rstrip("\n") for word in invocation.argv)
    lines = without_values(text, secrets).split("\n")
    return printable("\n".join(map(without_credentials, lines)))
