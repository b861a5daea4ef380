"""Prefect's task runners as engines, and those of this machine: threads and processes.

Imports Prefect, so it is imported when a runner is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from typing import Any, Final, Protocol

from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from fasthep_flow.environments.containers.pool import Pool
from fasthep_flow.errors import FlowError, WorkerLost
from fasthep_flow.execution.process import Watch
from fasthep_flow.orchestrators import remote
from fasthep_flow.orchestrators.prefect.flow_run import FlowRun, keep_settings
from fasthep_flow.orchestrators.prefect.worker import TASK, settle_process
from fasthep_flow.orchestrators.runner import Done, Errand

__all__ = [
    "PrefectEngine",
    "Processes",
    "Submitter",
    "Threads",
    "parameters_of",
]


class Submitter(Protocol):
    """One of Prefect's task runners. It is opened, used and closed inside the flow run."""

    def submit(self, errand: Errand) -> Any:  # noqa: ANN401
        """A future, of the kind that the task runner wraps, of the task run's final state."""
        ...

    def stop_jobs(self) -> None:
        """Stop what runs; from any thread, at once."""
        ...

    def close(self) -> None:
        """End the task runner."""
        ...


class PrefectEngine:
    """Starts jobs as task runs of an open flow run.

    Args:
        run: The flow run.
        opener: Opens one of Prefect's task runners; called inside the flow run.

    Raises:
        OrchestratorUnavailable: It cannot be opened.
    """

    name = "Prefect"

    def __init__(self, run: FlowRun, opener: Callable[[], Submitter]) -> None:
        self._run: Final = run
        self._submitter: Final = run.call(opener)

    @property
    def submitter(self) -> Submitter:
        """What the opener opened."""
        return self._submitter

    def start(self, errand: Errand, done: Done) -> None:
        """See :meth:`fasthep_flow.orchestrators.runner.Engine.start`."""
        self._run.post(partial(self._submit, errand, done))

    def stop_jobs(self) -> None:
        """See :meth:`fasthep_flow.orchestrators.runner.Engine.stop_jobs`."""
        self._run.note_cancel()
        self._submitter.stop_jobs()

    def close(self) -> None:
        """See :meth:`fasthep_flow.orchestrators.runner.Engine.close`."""
        self._run.call(self._submitter.close)

    def _submit(self, errand: Errand, done: Done) -> None:
        try:
            handle = self._submitter.submit(errand)
        except Exception as problem:  # noqa: BLE001 - the callee tells it
            done(problem)
        else:
            handle.add_done_callback(partial(self._finish, errand, done))

    def _finish(self, errand: Errand, done: Done, handle: Any) -> None:  # noqa: ANN401
        try:
            state = handle.result()
        except (Exception, CancelledError) as problem:  # noqa: BLE001 - the callee tells it
            self._run.note_loss(errand.label)
            done(_loss(errand, problem))
            return
        outcome: str | BaseException
        try:
            outcome = self._run.reply_of(errand.label, state)
        except Exception as problem:  # noqa: BLE001 - as above
            outcome = problem
        done(outcome)


def parameters_of(errand: Errand) -> dict[str, Any]:
    """What the task of :mod:`fasthep_flow.orchestrators.prefect.worker` is called with."""
    return {"job_text": errand.job_text, "sealed": errand.sealed, "label": errand.label}


def _loss(errand: Errand, problem: BaseException) -> BaseException:
    """What became of the worker process that had begun the job, if one had."""
    if isinstance(problem, FlowError):
        return problem
    claim = remote.claim_of(errand.job_text)
    if claim is None or not claim.pid:
        return problem
    return WorkerLost(f"its worker, process {claim.pid} on {claim.host}, died")


class Threads:
    """Threads of this process.

    Args:
        workers: How many.
    """

    def __init__(self, workers: int) -> None:
        self._task_runner: Final = ThreadPoolTaskRunner[Any](workers).__enter__()
        self._watch: Final = Watch()
        self._pool: Final = Pool()

    def submit(self, errand: Errand) -> Future[Any]:
        """See :meth:`Submitter.submit`."""
        parameters = parameters_of(errand) | {"watch": self._watch, "pool": self._pool}
        return self._task_runner.submit(TASK, parameters).wrapped_future

    def stop_jobs(self) -> None:
        """See :meth:`Submitter.stop_jobs`."""
        self._watch.cancel()

    def close(self) -> None:
        """See :meth:`Submitter.close`."""
        self._task_runner.__exit__(None, None, None)
        self._pool.close()
        self._watch.close()


class Processes:
    """Processes of this machine.

    Args:
        workers: How many.
    """

    def __init__(self, workers: int) -> None:
        # Set one after the other: the first stops the jobs, the second kills them.
        self._asked: Final = [get_context("spawn").Event() for _ in range(2)]
        self._task_runner = ProcessPoolTaskRunner(
            max_workers=workers,
            # Called in the thread that forwards what the processes report.
            subprocess_message_processor_factories=[keep_settings()],
            initializer=settle_process,
            initargs=tuple(asked.wait for asked in self._asked),
        ).__enter__()
        self._broken = False

    def submit(self, errand: Errand) -> Future[Any]:
        """See :meth:`Submitter.submit`."""
        if self._broken:
            # A pool that lost a process takes nothing more; the next attempt gets a new one.
            fresh = self._task_runner.duplicate()
            self._task_runner.__exit__(None, None, None)
            self._task_runner = fresh.__enter__()
            self._broken = False
        handle = self._task_runner.submit(TASK, parameters_of(errand)).wrapped_future
        handle.add_done_callback(self._look)
        return handle

    def stop_jobs(self) -> None:
        """See :meth:`Submitter.stop_jobs`."""
        for asked in self._asked:
            if not asked.is_set():
                asked.set()
                return

    def close(self) -> None:
        """See :meth:`Submitter.close`."""
        self._task_runner.__exit__(None, None, None)

    def _look(self, handle: Future[Any]) -> None:
        if not handle.cancelled() and isinstance(handle.exception(), BrokenProcessPool):
            self._broken = True
