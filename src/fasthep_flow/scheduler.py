"""The loop: ready, submit, retry, skip, cancel, record.

The driver alone decides the order and writes the records. A runner only ever sees jobs that
are ready, so every mix of runners works and the order has this one implementation.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple

import msgspec

from fasthep_flow.errors import (
    EnvironmentRefused,
    FlowError,
    OrchestratorUnavailable,
    RunInterrupted,
    WorkerLost,
)
from fasthep_flow.jobs import holds_secrets, job_of
from fasthep_flow.model import (
    Failure,
    FailureKind,
    Job,
    JobResult,
    Plan,
    Status,
    TaskSpec,
    from_json,
    to_json,
)
from fasthep_flow.orchestrators import TaskRunner
from fasthep_flow.orchestrators.admission import demand_of
from fasthep_flow.orchestrators.opened import flow_key
from fasthep_flow.ready import Kind, Ready
from fasthep_flow.records.report import seconds_text
from fasthep_flow.records.run import RunFolder
from fasthep_flow.tries import Try, Waiting, following, resources_of, told

__all__ = ["Outcome", "Scheduler"]

_IN_FLIGHT: Final = 10_000
"""Most jobs of a kind handed out at once: it bounds the driver's memory, not the farm."""
_BATCH: Final = 100
"""Jobs submitted in one go: what ends meanwhile is not to wait long for its record."""
_SYNC_INTERVAL_S: Final = 0.02
"""How long a result that nothing waits for may wait for others, to go to disk with them."""
_GOOD: Final = frozenset({"succeeded", "reused"})
_ALLOWED: Final = frozenset({"failed", "timed_out"})
"""Ends that a task may be allowed to have."""
_PATIENCE_S: Final = 30.0
"""How long cancelled jobs may take to end; the runtimes' own grace is shorter."""


class Outcome(NamedTuple):
    """A task's last result and where its logs are.

    Args:
        task: As planned.
        result: How it ended.
        directory: The folder of its last attempt; ``None`` if it never started.
    """

    task: TaskSpec
    result: JobResult
    directory: Path | None

    @property
    def is_allowed(self) -> bool:
        """Whether the task failed, and was allowed to."""
        return self.task.allow_failure and self.result.status in _ALLOWED

    @property
    def is_good(self) -> bool:
        """Whether the run can succeed with it, and what needs the task may run."""
        return self.result.status in _GOOD or self.is_allowed


class _Stop(NamedTuple):
    signal_number: int


class _Running(NamedTuple):
    task: TaskSpec
    job: Job
    future: Future[str]
    this: Try


class _Ended(NamedTuple):
    item: _Running
    result: JobResult
    again: Try | None


class Scheduler:
    """Runs a plan once.

    Args:
        plan: What to run.
        folder: Where the records go.
        runners: Opened runners by :func:`flow_key`.
        runtimes: The runtime that was chosen for each task, by name.
        fail_fast: Stop everything at the first failure.
        on_end: Called with the outcome of every task, as soon as it is recorded.
        tell: Is told what is good to know as the run goes on.
    """

    def __init__(
        self,
        plan: Plan,
        folder: RunFolder,
        runners: Mapping[str, TaskRunner],
        runtimes: Mapping[str, str],
        *,
        fail_fast: bool = False,
        on_end: Callable[[Outcome], None] = lambda _: None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._plan: Final = plan
        self._folder: Final = folder
        self._runners: Final = runners
        self._runtimes: Final = runtimes
        self._fail_fast: Final = fail_fast
        self._on_end: Final = on_end
        self._tell: Final = tell
        self._arrivals: Final[SimpleQueue[_Running | _Stop]] = SimpleQueue()
        # Few flows are distinct, and to spell one takes longer than to look it up.
        flows = {id(task.environment.flow): task.environment.flow for task in plan.tasks}
        self._keys: Final = {number: flow_key(flow) for number, flow in flows.items()}
        self._dependants: Final[dict[str, list[TaskSpec]]] = {}
        self._missing: Final[dict[str, int]] = {}
        for task in plan.tasks:
            self._missing[task.name] = len(task.needs)
            for need in task.needs:
                self._dependants.setdefault(need, []).append(task)
        self._ready: Final = Ready(self._kind_of, _IN_FLIGHT)
        for task in plan.tasks:
            if not task.needs:
                self._ready.add(task)
        self._in_flight: Final[dict[str, _Running]] = {}
        self._waiting: Final[Waiting[_Ended]] = Waiting()
        self._outcomes: Final[dict[str, Outcome]] = {}
        self._stop: _Stop | None = None
        self._halted: Failure | None = None
        self._engine_lost: OrchestratorUnavailable | None = None
        self._deadline_s = 0.0
        self._recorded: list[_Ended] = []
        self._sync_at_s = 0.0

    def stop(self, signal_number: int) -> None:
        """Ask the loop to stop all tasks; safe from a signal handler and other threads."""
        self._arrivals.put(_Stop(signal_number))

    def running(self) -> list[str]:
        """Names of the tasks that run now, as far as their runners say so."""
        return [name for name, item in list(self._in_flight.items()) if item.future.running()]

    @property
    def total(self) -> int:
        """How many tasks there are."""
        return len(self._plan.tasks)

    @property
    def ended(self) -> int:
        """How many tasks have ended."""
        return len(self._outcomes)

    @property
    def waiting(self) -> int:
        """How many tasks wait for their time to be tried again."""
        return len(self._waiting)

    def run(self) -> dict[str, Outcome]:
        """Run every task, and record it; the outcomes by name, in the plan's order.

        Raises:
            EnvironmentRefused: A runner could never run one of its tasks; none was started.
            OrchestratorUnavailable: An engine is gone; all tasks were stopped and recorded.
            RunInterrupted: :meth:`stop` was called; all tasks were stopped and recorded.
            RecordError: The run folder cannot be written; all tasks were stopped.
        """
        self._require_room()
        try:
            more = self._submit_ready()
            while self._in_flight or self._recorded or self._waiting:
                self._receive(wait=not more)
                more = self._submit_ready()
        except BaseException:
            for runner in self._runners.values():
                runner.cancel()
            raise
        for task in self._plan.tasks:
            if task.name not in self._outcomes:
                cause = self._halted or Failure(kind="cancelled", message="the run was stopped")
                self._end(task, self._unstarted(task, "cancelled", cause), None)
        outcomes = {task.name: self._outcomes[task.name] for task in self._plan.tasks}
        if self._stop is not None:
            self._folder.finish("cancelled")
            raise RunInterrupted(self._stop.signal_number)
        if self._engine_lost is not None:
            self._folder.finish("failed")
            raise self._engine_lost
        succeeded = all(item.is_good for item in outcomes.values())
        self._folder.finish("succeeded" if succeeded else "failed")
        return outcomes

    def _require_room(self) -> None:
        refusals = []
        for task in self._plan.tasks:
            environment = task.environment
            runner = self._runners[self._keys[id(environment.flow)]]
            for resources in (environment.resources, *task.growth):
                try:
                    runner.require(resources, task.name)
                except EnvironmentRefused as refusal:
                    refusals.append(refusal)
                    break
        if len(refusals) == 1:
            raise refusals[0]
        if refusals:
            raise EnvironmentRefused("\n".join(str(refusal) for refusal in refusals))

    def _submit_ready(self) -> bool:
        """Submit some of what is ready; whether more of it could go at once."""
        if self._waiting:
            self._submit_due()
        for _ in range(_BATCH):
            task = None if self._halted is not None else self._ready.hand_out()
            if task is None:
                return False
            self._submit(task, Try())
        return True

    def _submit_due(self) -> None:
        """Submit what has waited long enough to be tried again."""
        for item, _, again in self._waiting.due():
            if again is not None:
                self._submit(item.task, again)

    def _kind_of(self, task: TaskSpec) -> Kind:
        flow, resources = task.environment.flow, task.environment.resources
        key = self._keys[id(flow)]
        return Kind(self._runners[key].size(resources), (key, demand_of(resources)))

    def _submit(self, task: TaskSpec, this: Try) -> None:
        environment = task.environment
        attempt, resources = this.attempt, resources_of(task, this)
        job = job_of(
            task,
            self._plan,
            run_id=self._folder.run_id,
            runtime=self._runtimes[task.name],
            attempt=attempt,
            directory=self._folder.attempt_directory(
                task.slug, attempt, is_private=holds_secrets(environment)
            ),
            run_directory=str(self._folder.path),
            resources=resources,
        )
        text = to_json(job)
        secrets = {name: variable.value for name, variable in environment.variables.items()}
        self._folder.write_job(job, text)
        self._folder.append("task_submitted", task=task.name, attempt=attempt)
        runner = self._runners[self._keys[id(environment.flow)]]
        try:
            future = runner.submit(text, secrets, resources, task.name)
        except EnvironmentRefused as error:
            future = Future()
            future.set_exception(error)
        item = _Running(task, job, future, this)
        self._in_flight[task.name] = item
        future.add_done_callback(lambda _: self._arrivals.put(item))

    def _receive(self, *, wait: bool) -> None:
        """Record what has arrived, and act on it once that is on disk."""
        if self._deadline_s and time.monotonic() > self._deadline_s:
            self._abandon()
            return
        urgent = False
        try:
            arrival = self._arrivals.get(block=wait, timeout=self._longest_wait_s())
            while True:
                if isinstance(arrival, _Stop):
                    self._obey(arrival)
                elif self._in_flight.pop(arrival.task.name, None) is not None:
                    ended = self._record(arrival, self._reply(arrival))
                    self._recorded.append(ended)
                    urgent = urgent or self._is_awaited(ended)
                arrival = self._arrivals.get_nowait()
        except Empty:
            pass
        if urgent or not self._in_flight or time.monotonic() > self._sync_at_s:
            self._act_on_recorded()

    def _longest_wait_s(self) -> float | None:
        if self._recorded:
            return _SYNC_INTERVAL_S
        if self._waiting:
            return self._waiting.left_s
        return 1.0 if self._deadline_s else None

    def _is_awaited(self, ended: _Ended) -> bool:
        succeeded = ended.result.status == "succeeded"
        return not succeeded or ended.item.task.name in self._dependants

    def _obey(self, order: _Stop) -> None:
        if self._stop is not None:
            # Asked twice: the runners end what still has its time to stop.
            for runner in self._runners.values():
                runner.cancel()
            return
        self._stop = order
        name = signal.Signals(order.signal_number).name
        self._halt(Failure(kind="cancelled", message=f"the run was stopped by {name}"))

    def _halt(self, cause: Failure) -> None:
        if self._halted is not None:
            return
        self._halted = cause
        self._folder.append("note", message=cause.message)
        self._folder.request_cancel()
        self._deadline_s = time.monotonic() + _PATIENCE_S
        for runner in self._runners.values():
            runner.cancel()
        for ended in self._waiting.dropped():
            self._drop(ended, cause)

    def _drop(self, ended: _Ended, cause: Failure) -> None:
        """End a task that is not tried again, since the run was stopped before its time came."""
        item, result, _ = ended
        was = "" if result.failure is None else f"; before that: {result.failure.message}"
        failure = Failure(kind="cancelled", message=f"{cause.message}{was}")
        stopped = msgspec.structs.replace(result, status="cancelled", failure=failure)
        self._end(item.task, stopped, Path(item.job.directory))

    def _lose_engine(self, error: OrchestratorUnavailable) -> None:
        if self._engine_lost is None and self._halted is None:
            self._engine_lost = error
            self._halt(Failure(kind="cancelled", message=f"the run was stopped: {error.message}"))

    def _abandon(self) -> None:
        for item in list(self._in_flight.values()):
            del self._in_flight[item.task.name]
            failure = Failure(
                kind="worker",
                message=f"no answer within {_PATIENCE_S:g} s of being told to stop",
                hint="look for processes of this task that are left",
            )
            self._recorded.append(self._record(item, self._failed(item, "cancelled", failure)))
        self._act_on_recorded()

    def _reply(self, item: _Running) -> JobResult:
        if item.future.cancelled():
            cause = self._halted or Failure(kind="cancelled", message="the runner dropped it")
            return self._failed(item, "cancelled", cause)
        error = item.future.exception()
        if error is None:
            try:
                return from_json(JobResult, item.future.result())
            except ValueError as damaged:
                error = damaged
        if isinstance(error, OrchestratorUnavailable):
            # One error for the run, and none for each of its tasks.
            self._lose_engine(error)
            lost = Failure(kind="worker", message=error.message, hint=error.hint)
            return self._failed(item, "cancelled", lost)
        kind: FailureKind = "environment" if isinstance(error, EnvironmentRefused) else "worker"
        if isinstance(error, FlowError):
            failure = Failure(kind=kind, message=error.message, hint=error.hint)
        else:
            failure = Failure(kind=kind, message=f"{type(error).__name__}: {error}")
        return self._failed(item, "failed", failure)

    @staticmethod
    def _failed(item: _Running, status: Status, failure: Failure) -> JobResult:
        return JobResult(
            task=item.task.name,
            attempt=item.job.attempt,
            status=status,
            failure=failure,
            runtime=item.job.runtime,
            image=None if item.job.image is None else item.job.image.name,
        )

    def _record(self, item: _Running, result: JobResult) -> _Ended:
        again = None
        if self._halted is None and result.status in _ALLOWED:
            runner = self._runners[self._keys[id(item.task.environment.flow)]]
            again = following(
                item.task,
                item.this,
                result,
                is_lost=_is_lost(item),
                allowed_losses=runner.allowed_failures,
            )
        event = "task_finished" if again is None else "task_retried"
        self._folder.write_result(event, item.job, result)
        return _Ended(item, result, again)

    def _act_on_recorded(self) -> None:
        if not self._recorded:
            return
        self._folder.sync()
        self._sync_at_s = time.monotonic() + _SYNC_INTERVAL_S
        recorded, self._recorded = self._recorded, []
        for ended in recorded:
            item, result, again = ended
            task = item.task
            if again is not None:
                self._try_again(ended, again)
                continue
            self._ready.ended(task)
            self._end(task, result, Path(item.job.directory))
            if self._outcomes[task.name].is_good:
                self._release_dependants(task)
            else:
                self._skip_dependants(task)
                self._fail(task)

    def _try_again(self, ended: _Ended, again: Try) -> None:
        """Submit a task once more, or let it wait for its time; not once all is stopped."""
        task = ended.item.task
        if self._halted is not None:
            self._drop(ended, self._halted)
            return
        self._tell(told(task, ended.result, ended.item.job.resources, again))
        if not again.waited_s:
            self._submit(task, again)
            return
        self._folder.append(
            "note",
            task=task.name,
            attempt=again.attempt,
            message=f"it starts in {seconds_text(again.waited_s)}",
        )
        self._waiting.add(ended, again.waited_s)

    def _fail(self, task: TaskSpec) -> None:
        if self._fail_fast:
            cause = f"the run was stopped: task {task.name!r} failed"
            self._halt(Failure(kind="cancelled", message=cause))

    def _release_dependants(self, done: TaskSpec) -> None:
        for dependant in self._dependants.get(done.name, ()):
            self._missing[dependant.name] -= 1
            if not self._missing[dependant.name]:
                self._ready.add(dependant)

    def _skip_dependants(self, failed: TaskSpec) -> None:
        if self._halted is not None:
            return
        status = self._outcomes[failed.name].result.status
        fate = {"timed_out": "timed out", "cancelled": "was stopped"}.get(status, "failed")
        pending = deque(self._dependants.get(failed.name, ()))
        while pending:
            task = pending.popleft()
            if task.name in self._outcomes:
                continue
            cause = Failure(kind="upstream", message=f"needs {failed.name!r}, which {fate}")
            self._folder.append("task_skipped", task=task.name, message=cause.message)
            self._end(task, self._unstarted(task, "skipped", cause), None)
            pending.extend(self._dependants.get(task.name, ()))

    def _unstarted(self, task: TaskSpec, status: Status, cause: Failure) -> JobResult:
        image = task.environment.image
        return JobResult(
            task=task.name,
            attempt=0,
            status=status,
            failure=cause,
            runtime=self._runtimes[task.name],
            image=None if image is None else image.name,
        )

    def _end(self, task: TaskSpec, result: JobResult, directory: Path | None) -> None:
        outcome = Outcome(task, result, directory)
        self._outcomes[task.name] = outcome
        self._on_end(outcome)


def _is_lost(item: _Running) -> bool:
    future = item.future
    if not future.done() or future.cancelled():
        return False
    return isinstance(future.exception(), WorkerLost)
