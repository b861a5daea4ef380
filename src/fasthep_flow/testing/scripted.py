"""A task runner without processes: it answers as a script says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from fasthep_flow.model import (
    FlowSpec,
    Job,
    JobResult,
    Plan,
    Resources,
    Secrets,
    from_json,
    to_json,
)
from fasthep_flow.orchestrators import Orchestrator
from fasthep_flow.orchestrators.admission import demand_of

__all__ = ["ScriptedOrchestrator", "ScriptedRunner", "Submission", "succeed"]


class Submission(NamedTuple):
    """What a runner was handed.

    Args:
        job: The job.
        secrets: Values of its variables.
        resources: What the orchestrator schedules by.
        label: The task's name.
    """

    job: Job
    secrets: Secrets
    resources: Resources
    label: str


def succeed(job: Job) -> JobResult:
    """The reply of a job that went well."""
    return JobResult(task=job.task, attempt=job.attempt, status="succeeded", exit_code=0)


class ScriptedRunner:
    """Answers every job with ``reply(job)``; an exception stands for a lost worker.

    Args:
        reply: What becomes of a job.
        hold: Keep the jobs back until :meth:`release`.
        allowed_failures: How often a task is started again because its worker was lost.
        dashboard: What it says to show.
    """

    def __init__(
        self,
        reply: Callable[[Job], JobResult] = succeed,
        *,
        hold: bool = False,
        allowed_failures: int = 0,
        dashboard: str | None = None,
    ) -> None:
        self.allowed_failures: Final = allowed_failures
        self.dashboard: Final = dashboard
        self._reply: Final = reply
        self._hold: Final = hold
        self._held: Final[deque[tuple[Job, Future[str]]]] = deque()
        self.submissions: Final[list[Submission]] = []
        self.cancelled = 0

    def require(self, resources: Resources, label: str) -> None:
        """Has room for everything; see :meth:`fasthep_flow.orchestrators.TaskRunner.require`."""

    def size(self, resources: Resources) -> float:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.size`."""
        return demand_of(resources).cpus

    def submit(
        self, job_text: str, secrets: Secrets, resources: Resources, label: str
    ) -> Future[str]:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.submit`."""
        job = from_json(Job, job_text)
        self.submissions.append(Submission(job, dict(secrets), resources, label))
        future: Future[str] = Future()
        self._held.append((job, future))
        if not self._hold:
            self.release()
        return future

    def release(self) -> None:
        """Answer every job that is held back, in the order of submission."""
        while self._held:
            job, future = self._held.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(to_json(self._reply(job)))
            except Exception as error:  # noqa: BLE001 - the future is where it is raised
                future.set_exception(error)

    def on_stop(self, stop: Callable[[], None]) -> None:
        """Nobody does; see :meth:`fasthep_flow.orchestrators.TaskRunner.on_stop`."""

    def cancel(self) -> None:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.cancel`."""
        self.cancelled += 1
        while self._held:
            self._held.popleft()[1].cancel()


class ScriptedOrchestrator(Orchestrator):
    """Opens always the same runner.

    Args:
        runner: What :meth:`open` yields.
    """

    def __init__(self, runner: ScriptedRunner) -> None:
        self._runner: Final = runner
        self.opened: Final[list[FlowSpec]] = []
        self.directories: Final[list[Path]] = []

    @property
    def runners(self) -> Sequence[str]:
        """See :attr:`fasthep_flow.orchestrators.Orchestrator.runners`."""
        return ("scripted",)

    @contextmanager
    def open(self, flow: FlowSpec, plan: Plan, directory: Path) -> Iterator[ScriptedRunner]:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.open`."""
        assert plan.tasks, "a plan without tasks is never run"  # noqa: S101
        self.opened.append(flow)
        self.directories.append(directory)
        yield self._runner
