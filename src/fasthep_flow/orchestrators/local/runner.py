"""Tasks as processes of this machine, as many at once as there is room for."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Final, NamedTuple

from fasthep_flow.environments.containers.pool import Pool
from fasthep_flow.execution.execute import execute_job
from fasthep_flow.execution.process import Watch
from fasthep_flow.model import Resources, Secrets
from fasthep_flow.orchestrators import TaskRunner
from fasthep_flow.orchestrators.admission import (
    Admission,
    Capacity,
    demand_of,
    require_room,
    shared_room,
)

__all__ = ["LocalRunner"]


class _Started(NamedTuple):
    job_text: str
    secrets: Secrets
    future: Future[str]


class LocalRunner(TaskRunner):
    """Runs jobs in threads of this process; each job is a process of its own.

    Args:
        capacity: What tasks may use together.
        slots: How many tasks may run at once, whatever they ask for.
    """

    def __init__(self, capacity: Capacity, slots: int) -> None:
        self._capacity: Final = capacity
        self._admission: Final = Admission(shared_room(capacity), slots)
        self._started: Final[SimpleQueue[_Started | None]] = SimpleQueue()
        self._threads: Final[list[threading.Thread]] = []
        self._lock: Final = threading.Lock()
        self._busy = 0
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
            demand, lambda future: self._start(_Started(job_text, secrets, future))
        )

    def cancel(self) -> None:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.cancel`."""
        self._admission.drop()
        self._watch.cancel()

    def close(self) -> None:
        """Stop what still runs and end the threads."""
        self._admission.close()
        self._watch.cancel()
        for _ in self._threads:
            self._started.put(None)
        for thread in self._threads:
            thread.join()
        self._pool.close()
        self._watch.close()

    def _start(self, item: _Started) -> None:
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
                text = execute_job(item.job_text, item.secrets, watch=self._watch, pool=self._pool)
            except BaseException as error:  # noqa: BLE001 - the future is where it is raised
                self._end_one()
                item.future.set_exception(error)
            else:
                self._end_one()
                item.future.set_result(text)

    def _end_one(self) -> None:
        # Before the future ends: what it lets start next finds this thread free.
        with self._lock:
            self._busy -= 1
