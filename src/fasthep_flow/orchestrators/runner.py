"""A task runner made of an engine that can start jobs: what all engines have in common."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import Final, NamedTuple, Protocol, TypeAlias

from fasthep_flow.errors import FlowError, WorkerLost
from fasthep_flow.model import Failure, Job, JobResult, Resources, Secrets, from_json, to_json
from fasthep_flow.orchestrators import TaskRunner, remote
from fasthep_flow.orchestrators.admission import Admission, Capacity, demand_of, require_room

__all__ = ["ALLOWED_FAILURES", "Done", "Engine", "EngineRunner", "Errand", "cancelled_reply"]

ALLOWED_FAILURES: Final = 3
"""How often a task is started again because its worker was lost, unless an option says."""


class Errand(NamedTuple):
    """A job on its way to an engine.

    Args:
        job_text: The JSON of a :class:`~fasthep_flow.model.Job`.
        sealed: The values of its variables.
        label: The task's name.
        demand: What it takes of the engine's room.
        is_early: Whether it is to begin when another one ends, behind all that may begin now.
    """

    job_text: str
    sealed: remote.Sealed
    label: str
    demand: Capacity
    is_early: bool = False


Done: TypeAlias = Callable[[str | BaseException], None]
"""Told the job's reply, or why there is none; from any thread, once."""


class Engine(Protocol):
    """What can start jobs on workers, by :func:`fasthep_flow.orchestrators.remote.run_job`."""

    name: str

    def start(self, errand: Errand, done: Done) -> None:
        """Start a job. ``done`` is told how it ended, unless this raises."""
        ...

    def stop_jobs(self) -> None:
        """Stop the jobs that run, as far as they can be reached; returns at once.

        They also see the run's cancel file by themselves.
        """
        ...

    def close(self) -> None:
        """End the engine, with what still runs."""
        ...


class EngineRunner(TaskRunner):
    """A :class:`fasthep_flow.orchestrators.TaskRunner` over an engine.

    Args:
        engine: Opened; this closes it.
        gate: What lets jobs through to it.
        largest: The most that one task may use; ``None`` where nobody knows.
        place: What has that, for messages.
        on_this_machine: Whether all workers are processes of this machine.
        allowed_failures: How often a task is started again because its worker was lost.
        dashboard: Where the engine shows what it does, if it does.
    """

    def __init__(
        self,
        engine: Engine,
        gate: Admission,
        largest: Capacity | None,
        *,
        place: str,
        on_this_machine: bool,
        allowed_failures: int = ALLOWED_FAILURES,
        dashboard: str | None = None,
    ) -> None:
        self._engine: Final = engine
        self._gate: Final = gate
        self._largest: Final = largest
        self._place: Final = place
        self._on_this_machine: Final = on_this_machine
        self._allowed_failures: Final = allowed_failures
        self._dashboard: Final = dashboard
        self._failure: FlowError | None = None
        self._stop: Callable[[], None] | None = None
        self._was_asked = False
        self._inside: Final[dict[Future[str], Errand]] = {}
        self._lock: Final = threading.Lock()

    @property
    def allowed_failures(self) -> int:
        """See :attr:`fasthep_flow.orchestrators.TaskRunner.allowed_failures`."""
        return self._allowed_failures

    @property
    def dashboard(self) -> str | None:
        """See :attr:`fasthep_flow.orchestrators.TaskRunner.dashboard`."""
        return self._dashboard

    def require(self, resources: Resources, label: str) -> None:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.require`."""
        if self._largest is not None:
            require_room(self._place, self._largest, demand_of(resources), label)

    def size(self, resources: Resources) -> float:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.size`."""
        return self._gate.size(demand_of(resources))

    def submit(
        self, job_text: str, secrets: Secrets, resources: Resources, label: str
    ) -> Future[str]:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.submit`."""
        self.require(resources, label)
        demand = demand_of(resources)
        errand = Errand(job_text, remote.Sealed(secrets), label, demand)
        return self._gate.enter(demand, partial(self._start, errand))

    def on_stop(self, stop: Callable[[], None]) -> None:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.on_stop`."""
        with self._lock:
            self._stop = stop
            was_asked = self._was_asked
        if was_asked:
            stop()

    def ask_for_stop(self) -> None:
        """The engine has been told to end the run."""
        with self._lock:
            self._was_asked, stop = True, self._stop
        if stop is not None:
            stop()

    def cancel(self) -> None:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.cancel`."""
        self._gate.drop()
        self._engine.stop_jobs()

    def fail(self, error: FlowError) -> None:
        """End whatever is handed to the engine from now on with this error: there is none."""
        self._failure = error

    def close(self) -> None:
        """Stop what still runs, wait for its end as long as that may take, close the engine."""
        self._gate.close()
        if left := self._left():
            self.cancel()
            wait(left, timeout=remote.PATIENCE_S)
        self._engine.close()
        for future in self._left():
            self._end(future, FlowError("the engine was closed while it ran"))

    def _start(self, errand: Errand, future: Future[str]) -> None:
        if self._gate.is_early(future):
            errand = errand._replace(is_early=True)
        with self._lock:
            self._inside[future] = errand
        try:
            if self._failure is not None:
                raise self._failure  # noqa: TRY301 - told as what an engine raises is
            self._engine.start(errand, partial(self._end, future))
        except Exception as problem:  # noqa: BLE001 - told through the future
            self._end(future, problem)

    def _end(self, future: Future[str], outcome: str | BaseException) -> None:
        with self._lock:
            errand = self._inside.pop(future, None)
        if errand is None:
            return
        if isinstance(outcome, str):
            future.set_result(outcome)
            return
        if isinstance(outcome, FlowError) and not isinstance(outcome, WorkerLost):
            # No other worker would do better.
            future.set_exception(outcome)
            return
        if self._on_this_machine:
            remote.end_leftovers(errand.job_text)
        # Lines of the worker's own log, where there are any.
        hint = outcome.hint if isinstance(outcome, WorkerLost) else None
        words = outcome.message if isinstance(outcome, WorkerLost) else remote.words_of(outcome)
        message = f"{self._engine.name} lost task {errand.label!r}: {words}"
        future.set_exception(WorkerLost(message, hint=hint))

    def _left(self) -> list[Future[str]]:
        with self._lock:
            return list(self._inside)


def cancelled_reply(errand: Errand) -> str:
    """The reply of a job that was stopped before it began."""
    job = from_json(Job, errand.job_text)
    failure = Failure(kind="cancelled", message="it was stopped before it began")
    return to_json(
        JobResult(task=job.task, attempt=job.attempt, status="cancelled", failure=failure)
    )
