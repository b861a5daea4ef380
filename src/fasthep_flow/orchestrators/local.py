"""This machine runs the tasks: no server, no extra package.

``local::concurrent`` starts as many tasks at once as the machine has room for: a task
counts with the processors, the memory and the devices that it asks for, and with one
processor if it asks for none. ``local::sequential`` runs one after the other.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Final, NamedTuple

from fasthep_flow.environments.containers.pool import Pool
from fasthep_flow.environments.host.machine import cpu_count
from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.execution.execute import (
    Begun,
    begin_job,
    begins_at_once,
    end_job,
    execute_job,
)
from fasthep_flow.execution.process import Watch
from fasthep_flow.execution.reaper import Reaper
from fasthep_flow.model import FlowSpec, Job, Plan, Resources, Secrets, from_json
from fasthep_flow.orchestrators import RUNNERS, Orchestrator, TaskRunner
from fasthep_flow.orchestrators.admission import (
    Admission,
    Capacity,
    demand_of,
    machine_capacity,
    require_room,
    shared_room,
)
from fasthep_flow.orchestrators.options import whole_number

__all__ = ["LOCAL", "LocalOrchestrator", "LocalRunner"]


class _Started(NamedTuple):
    job_text: str
    secrets: Secrets
    future: Future[str]


class _Begun(NamedTuple):
    job: Begun
    future: Future[str]


class LocalRunner(TaskRunner):
    """Runs jobs on this machine; each job is a process of its own.

    They are started in threads, so that none waits for the start of another. Where the scheduler
    offers that, processes are waited for by its own thread: one that waits for each of them would
    take turns with it at Python's lock. What does not begin at once keeps its thread to its end.

    Args:
        capacity: What tasks may use together.
        slots: How many tasks may run at once, whatever they ask for.
    """

    def __init__(self, capacity: Capacity, slots: int) -> None:
        self._capacity: Final = capacity
        self._admission: Final = Admission(shared_room(capacity), slots)
        self._started: Final[SimpleQueue[_Started | _Begun | None]] = SimpleQueue()
        self._threads: Final[list[threading.Thread]] = []
        self._lock: Final = threading.Lock()
        self._busy = 0
        self._reaper: Reaper | None = None
        self._attended: Final[dict[Future[str], _Begun]] = {}
        self._watch: Final = Watch()
        self._pool: Final = Pool()

    @property
    def allowed_failures(self) -> int:
        """See :attr:`fasthep_flow.orchestrators.TaskRunner.allowed_failures`."""
        # Its threads cannot be lost without the driver.
        return 0

    @property
    def dashboard(self) -> str | None:
        """See :attr:`fasthep_flow.orchestrators.TaskRunner.dashboard`."""
        return None

    def require(self, resources: Resources, label: str) -> None:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.require`."""
        require_room("this machine", self._capacity, demand_of(resources), label)

    def size(self, resources: Resources) -> float:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.size`."""
        return self._admission.size(demand_of(resources))

    def submit(
        self, job_text: str, secrets: Secrets, resources: Resources, label: str
    ) -> Future[str]:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.submit`."""
        self.require(resources, label)
        demand = demand_of(resources)
        return self._admission.enter(
            demand, lambda future: self._hand_over(_Started(job_text, secrets, future))
        )

    def cancel(self) -> None:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.cancel`."""
        self._admission.drop()
        self._watch.cancel()

    @contextmanager
    def attend(self, reaper: Reaper) -> Iterator[None]:
        """See :meth:`fasthep_flow.execution.reaper.Attended.attend`."""
        self._reaper = reaper
        try:
            yield
        finally:
            self._reaper = None
            self._end_all_elsewhere()

    def close(self) -> None:
        """Stop what still runs and end the threads."""
        self._admission.close()
        self._watch.cancel()
        self._end_all_elsewhere()
        for _ in self._threads:
            self._started.put(None)
        for thread in self._threads:
            thread.join()
        self._pool.close()
        self._watch.close()

    def _ended(self, item: _Begun) -> None:
        is_gone = False
        # Somebody else may have reaped it: then the reply says so.
        with suppress(OSError):
            is_gone = item.job.reap is not None and item.job.reap()
        if not is_gone:
            self._end_elsewhere(item.future)
        elif self._attended.pop(item.future, None) is not None:
            item.future.set_result(end_job(item.job, watch=self._watch))

    def _end_elsewhere(self, future: Future[str]) -> None:
        item = self._attended.pop(future, None)
        if item is not None:
            self._hand_over(item)

    def _end_all_elsewhere(self) -> None:
        for future in list(self._attended):
            self._end_elsewhere(future)

    def _hand_over(self, item: _Started | _Begun) -> None:
        with self._lock:
            self._busy += 1
            if self._busy > len(self._threads):
                thread = threading.Thread(target=self._work, name="fasthep-flow-task", daemon=True)
                self._threads.append(thread)
                thread.start()
        self._started.put(item)

    def _work(self) -> None:
        while (item := self._started.get()) is not None:
            try:
                text = self._run(item)
            except BaseException as error:  # noqa: BLE001 - the future is where it is raised
                self._end_one()
                item.future.set_exception(error)
            else:
                self._end_one()
                if text is not None:
                    item.future.set_result(text)

    def _run(self, item: _Started | _Begun) -> str | None:
        """The job's reply; ``None`` where its process is waited for elsewhere."""
        if isinstance(item, _Begun):
            return end_job(item.job, watch=self._watch)
        reaper = self._reaper
        job = None if reaper is None else _quick_job(item.job_text)
        if reaper is not None and job is not None:
            return self._begin(job, item, reaper)
        return execute_job(item.job_text, item.secrets, watch=self._watch, pool=self._pool)

    def _begin(self, job: Job, item: _Started, reaper: Reaper) -> str | None:
        begun = begin_job(job, item.secrets, watch=self._watch)
        if isinstance(begun, str):
            return begun
        if begun.reap is None:
            return end_job(begun, watch=self._watch)
        started = self._attended[item.future] = _Begun(begun, item.future)
        try:
            reaper.add(begun.process.pid, partial(self._ended, started))
        except (OSError, ValueError):
            # There are no descriptors left for now, or nobody waits any more.
            if self._attended.pop(item.future, None) is not None:
                return end_job(begun, watch=self._watch)
        return None

    def _end_one(self) -> None:
        # Before the future ends: what it lets start next finds this thread free.
        with self._lock:
            self._busy -= 1


def _quick_job(text: str) -> Job | None:
    try:
        job = from_json(Job, text)
    except ValueError:
        # The reply says what is wrong with it.
        return None
    return job if begins_at_once(job) else None


class LocalOrchestrator(Orchestrator):
    """Opens the runners ``local::concurrent`` and ``local::sequential``.

    The option ``max_workers`` of the former is the most tasks that run at once.
    """

    @property
    def runners(self) -> Sequence[str]:
        """See :attr:`fasthep_flow.orchestrators.Orchestrator.runners`."""
        return RUNNERS["local"]

    def options(self, runner: str) -> frozenset[str]:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.options`."""
        return frozenset({"max_workers"} if runner == "concurrent" else ())

    def require(self, flow: FlowSpec, resources: Resources, label: str) -> None:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.require`."""
        del flow
        require_room("this machine", machine_capacity(), demand_of(resources), label)

    @contextmanager
    def open(self, flow: FlowSpec, plan: Plan, directory: Path) -> Iterator[TaskRunner]:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.open`."""
        del directory
        capacity = machine_capacity()
        options = dict(flow.options)
        if flow.runner not in RUNNERS["local"]:
            raise OrchestratorUnavailable(f"there is no runner {flow}")
        slots = 1
        if flow.runner == "concurrent":
            # Tasks that ask for a share of a processor run beside each other on it.
            slots = whole_number(flow, "max_workers", options, 16 * cpu_count())
            options.pop("max_workers", None)
        if options:
            raise OrchestratorUnavailable(
                f"{flow} knows no option {next(iter(options))!r}",
                hint="known is max_workers, of local::concurrent",
            )
        runner = LocalRunner(capacity, min(slots, len(plan.tasks)))
        try:
            yield runner
        finally:
            runner.close()


LOCAL: Final = LocalOrchestrator()
