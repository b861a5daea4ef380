"""This machine runs the tasks: no server, no extra package.

``local::concurrent`` starts as many tasks at once as the machine has room for: a task
counts with the processors, the memory and the devices that it asks for, and with one
processor if it asks for none. ``local::sequential`` runs one after the other.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Final, NamedTuple

import psutil

from fasthep_flow.environments.gpu import inventory
from fasthep_flow.errors import LimitUnenforceable, OrchestratorUnavailable
from fasthep_flow.execution.execute import execute_job
from fasthep_flow.execution.process import Watch
from fasthep_flow.model import FlowSpec, Plan, Resources, Secrets
from fasthep_flow.orchestrators import RUNNERS, TaskRunner

__all__ = ["LOCAL", "Capacity", "LocalOrchestrator", "LocalRunner"]


class Capacity(NamedTuple):
    """Room for tasks.

    Args:
        cpus: Processors.
        memory: Bytes.
        gpus: Devices.
    """

    cpus: float
    memory: int
    gpus: int

    def holds(self, other: Capacity) -> bool:
        """Whether there is room for ``other``."""
        return self.cpus >= other.cpus and self.memory >= other.memory and self.gpus >= other.gpus

    def plus(self, other: Capacity) -> Capacity:
        """Room that is given back."""
        return Capacity(self.cpus + other.cpus, self.memory + other.memory, self.gpus + other.gpus)

    def minus(self, other: Capacity) -> Capacity:
        """Room that is left when ``other`` is taken."""
        return Capacity(self.cpus - other.cpus, self.memory - other.memory, self.gpus - other.gpus)


def machine_capacity() -> Capacity:
    """What this machine has: the processors that this process may use, memory, devices."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    devices = inventory()
    return Capacity(
        cpus, psutil.virtual_memory().total, 0 if isinstance(devices, str) else len(devices)
    )


def _demand(resources: Resources) -> Capacity:
    # Only a task that must have a device waits for one to be free.
    gpus = (resources.gpus or 1) if resources.process_on == "gpu" else 0
    return Capacity(1 if resources.cpus is None else resources.cpus, resources.memory or 0, gpus)


class _Waiting(NamedTuple):
    job_text: str
    secrets: Secrets
    demand: Capacity
    future: Future[str]


class LocalRunner:
    """Runs jobs in threads of this process; each job is a process of its own.

    Args:
        capacity: What tasks may use together.
        slots: How many tasks may run at once, whatever they ask for.
    """

    def __init__(self, capacity: Capacity, slots: int) -> None:
        self._total: Final = capacity
        self._slots: Final = slots
        self._free = capacity
        self._waiting: deque[_Waiting] = deque()
        self._changed: Final = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False
        self._watch: Final = Watch()

    def submit(
        self, job_text: str, secrets: Secrets, resources: Resources, label: str
    ) -> Future[str]:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.submit`."""
        demand = _demand(resources)
        if not self._total.holds(demand):
            raise LimitUnenforceable(
                f"task {label!r} asks for more than this machine has: "
                f"{_describe(demand)} of {_describe(self._total)}",
                hint="ask for less, or choose another flow with --flow",
            )
        future: Future[str] = Future()
        with self._changed:
            if self._closed:
                future.cancel()
                return future
            self._waiting.append(_Waiting(job_text, secrets, demand, future))
            if self._idle:
                self._changed.notify()
            elif len(self._threads) < self._slots:
                thread = threading.Thread(target=self._work, name="fasthep-flow-task", daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def cancel(self) -> None:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.cancel`."""
        with self._changed:
            waiting, self._waiting = self._waiting, deque()
        for item in waiting:
            item.future.cancel()
        self._watch.cancel()

    def close(self) -> None:
        """Stop what still runs and end the threads."""
        self.cancel()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._watch.close()

    def _take(self) -> _Waiting | None:
        with self._changed:
            while True:
                for index, item in enumerate(self._waiting):
                    # The first that fits goes: a small task does not wait for a large one.
                    if self._free.holds(item.demand):
                        del self._waiting[index]
                        self._free = self._free.minus(item.demand)
                        return item
                if self._closed:
                    return None
                self._idle += 1
                self._changed.wait()
                self._idle -= 1

    def _give_back(self, demand: Capacity) -> None:
        with self._changed:
            self._free = self._free.plus(demand)
            if self._idle and self._waiting:
                self._changed.notify_all()

    def _work(self) -> None:
        while (item := self._take()) is not None:
            try:
                if item.future.set_running_or_notify_cancel():
                    text = execute_job(item.job_text, item.secrets, watch=self._watch)
                    item.future.set_result(text)
            except BaseException as error:  # noqa: BLE001 - the future is where it is raised
                item.future.set_exception(error)
            finally:
                self._give_back(item.demand)


def _describe(capacity: Capacity) -> str:
    parts = [f"{capacity.cpus:g} cpus"]
    if capacity.memory:
        parts.append(f"{capacity.memory / 2**30:.3g}Gi memory")
    if capacity.gpus:
        parts.append(f"{capacity.gpus} gpus")
    return ", ".join(parts)


class LocalOrchestrator:
    """Opens the runners ``local::concurrent`` and ``local::sequential``.

    The option ``max_workers`` of the former is the most tasks that run at once.
    """

    @contextmanager
    def open(self, flow: FlowSpec, plan: Plan) -> Iterator[TaskRunner]:
        """See :meth:`fasthep_flow.orchestrators.Orchestrator.open`."""
        capacity = machine_capacity()
        options = dict(flow.options)
        if flow.runner not in RUNNERS["local"]:
            raise OrchestratorUnavailable(f"there is no runner {flow}")
        slots = 1
        if flow.runner == "concurrent":
            slots = _whole_number(options.pop("max_workers", None), flow)
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


def _whole_number(value: object, flow: FlowSpec) -> int:
    if value is None:
        # Tasks that ask for a share of a processor run beside each other on it.
        return 16 * max(1, os.cpu_count() or 1)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise OrchestratorUnavailable(
            f"max_workers of {flow} is {value!r}: it is a whole number, 1 or more"
        )
    return value


LOCAL: Final = LocalOrchestrator()
