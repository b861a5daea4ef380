"""A resolved workflow, and its tasks."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from msgspec import Struct

from fasthep_flow.errors import Location
from fasthep_flow.model.environment import Device, Environment, FlowSpec, Resources

__all__ = ["Call", "Command", "Invocation", "Plan", "Retries", "RetryCause", "TaskSpec"]

RetryCause: TypeAlias = Literal[
    "failed",  # by itself, whatever it is that is none of the others
    "timed_out",
    "lost",  # with its worker, more often than its runner starts it again by itself
    "out_of_memory",
]


class Command(Struct, frozen=True, kw_only=True, tag="command", omit_defaults=True):
    """A program and its arguments; no shell but the one that ``argv`` names.

    Args:
        argv: The program and its arguments.
        stdin: Text for its standard input; ``None`` for an empty one.
    """

    argv: tuple[str, ...]
    stdin: str | None = None


class Call(Struct, frozen=True, kw_only=True, tag="call"):
    """A Python callable and its arguments.

    Args:
        target: ``module:name``.
        args: Positional arguments, plain data.
        kwargs: Keyword arguments, plain data.
    """

    target: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}


Invocation: TypeAlias = Command | Call


class Retries(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How often, and when, a task is tried again.

    Args:
        times: How many more attempts follow at most.
        delay_s: Seconds between the end of an attempt and the next one.
        backoff: By how much that grows from one to the next: 2 doubles it.
        on: After which ends of an attempt.
    """

    times: int = 0
    delay_s: float = 0.0
    backoff: float = 1.0
    on: tuple[RetryCause, ...] = ("failed", "timed_out", "out_of_memory")


class TaskSpec(Struct, frozen=True, kw_only=True):
    """A task of the plan: names resolved, global settings merged.

    Args:
        name: As the author wrote it; unique in the workflow.
        slug: The name of the task's folder; unique in the workflow, also where case
            does not matter.
        operator: The full name of the operator.
        invocations: What the operator makes of the task's arguments, by device.
        needs: Names of the tasks that must succeed first.
        environment: What the task asks of the place where it runs.
        retries: Of an attempt that did not succeed.
        growth: What the second attempt needs of a machine, the third and so on, where that is
            not what the first one does; the last one counts for all that follow.
        timeout_s: Seconds after which an attempt is stopped; ``None`` for no limit.
        inputs: Files that it reads, beside what it needs: absolute paths, which may hold ``*``,
            ``?`` and ``[...]``.
        outputs: Files and folders that it makes: absolute paths.
        cache: Whether what the callable returned may stand for another run of it.
        allow_failure: Whether the run goes on, and succeeds, where the task does not.
        location: Where the author wrote it.
    """

    name: str
    slug: str
    operator: str
    invocations: dict[Device, Invocation]
    needs: tuple[str, ...] = ()
    environment: Environment
    retries: Retries = Retries()
    growth: tuple[Resources, ...] = ()
    timeout_s: float | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    cache: bool = False
    allow_failure: bool = False
    location: Location


class Plan(Struct, frozen=True, kw_only=True):
    """A resolved workflow.

    Args:
        name: Of the workflow.
        tasks: In an order in which every task stands behind those that it needs.
        flow: The orchestrator and runner of the whole workflow.
        flow_origin: Who named it: an option, ``file:line``, or ``default``.
        directory: The absolute path of the workflow file's folder: every task's working
            directory.
        source: The absolute path of the workflow file.
        output_directory: The absolute path under which the run folders lie.
        digest: ``sha256:...`` of the workflow's text.
        warnings: What the author should know, in the form of a compiler's messages.
        offline: Whether nothing may be fetched.
        selection: The names of the tasks that the user asked for; empty for all of them.
    """

    name: str
    tasks: tuple[TaskSpec, ...]
    flow: FlowSpec
    directory: str
    source: str
    output_directory: str
    digest: str
    flow_origin: str = "default"
    warnings: tuple[str, ...] = ()
    offline: bool = False
    selection: tuple[str, ...] = ()
