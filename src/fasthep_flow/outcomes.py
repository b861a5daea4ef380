"""What became of a task, in the words of its result."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Final, NamedTuple

from fasthep_flow.errors import (
    EnvironmentRefused,
    FlowError,
    OrchestratorUnavailable,
    WorkerLost,
)
from fasthep_flow.model import (
    Failure,
    FailureKind,
    Job,
    JobResult,
    Status,
    TaskSpec,
    from_json,
)

__all__ = ["ALLOWED", "Outcome", "failed", "is_lost", "reply_of", "unstarted"]

_GOOD: Final = frozenset({"succeeded", "reused"})
ALLOWED: Final = frozenset({"failed", "timed_out"})
"""Ends that a task may be allowed to have."""


class Outcome(NamedTuple):
    """A task's last result and where its logs are.

    Args:
        task: As planned.
        result: How it ended.
        directory: The folder of its last attempt; ``None`` if it never started.
        is_former: Whether it was done already, before this driver went on with the run.
    """

    task: TaskSpec
    result: JobResult
    directory: Path | None
    is_former: bool = False

    @property
    def is_allowed(self) -> bool:
        """Whether the task failed, and was allowed to."""
        return self.task.allow_failure and self.result.status in ALLOWED

    @property
    def is_good(self) -> bool:
        """Whether the run can succeed with it, and what needs the task may run."""
        return self.result.status in _GOOD or self.is_allowed


def reply_of(job: Job, future: Future[str], halted: Failure | None) -> JobResult:
    """How an attempt ended.

    Args:
        job: Of the attempt.
        future: Of its reply; ended.
        halted: Why the run was stopped, if it was.

    Raises:
        OrchestratorUnavailable: The engine is gone, with all that it ran.
    """
    if future.cancelled():
        cause = halted or Failure(kind="cancelled", message="the runner dropped it")
        return failed(job, "cancelled", cause)
    error = future.exception()
    if error is None:
        try:
            return from_json(JobResult, future.result())
        except ValueError as damaged:
            error = damaged
    if isinstance(error, OrchestratorUnavailable):
        raise error
    kind: FailureKind = "environment" if isinstance(error, EnvironmentRefused) else "worker"
    if isinstance(error, FlowError):
        failure = Failure(kind=kind, message=error.message, hint=error.hint)
    else:
        failure = Failure(kind=kind, message=f"{type(error).__name__}: {error}")
    return failed(job, "failed", failure)


def is_lost(future: Future[str]) -> bool:
    """Whether an attempt was lost with its worker."""
    if not future.done() or future.cancelled():
        return False
    return isinstance(future.exception(), WorkerLost)


def failed(job: Job, status: Status, failure: Failure) -> JobResult:
    """The result of an attempt that has none of its own.

    Args:
        job: Of the attempt.
        status: How it ended.
        failure: Why.
    """
    return JobResult(
        task=job.task,
        attempt=job.attempt,
        status=status,
        failure=failure,
        runtime=job.runtime,
        image=None if job.image is None else job.image.name,
    )


def unstarted(task: TaskSpec, runtime: str, status: Status, cause: Failure) -> JobResult:
    """The result of a task that never started.

    Args:
        task: Of the plan.
        runtime: That was chosen for it.
        status: What became of it.
        cause: Why.
    """
    image = task.environment.image
    return JobResult(
        task=task.name,
        attempt=0,
        status=status,
        failure=cause,
        runtime=runtime,
        image=None if image is None else image.name,
    )
