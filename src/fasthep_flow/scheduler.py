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
from typing import Final, NamedTuple, TypeAlias

import msgspec

from fasthep_flow.deciding import Decided, Deciding, Known
from fasthep_flow.errors import (
    EnvironmentRefused,
    OrchestratorUnavailable,
    RunInterrupted,
)
from fasthep_flow.execution.aside import set_aside_left
from fasthep_flow.jobs import holds_secrets, job_of
from fasthep_flow.model import (
    Failure,
    Job,
    JobResult,
    Plan,
    TaskSpec,
    to_json,
)
from fasthep_flow.orchestrators import TaskRunner
from fasthep_flow.orchestrators.admission import demand_of
from fasthep_flow.orchestrators.opened import flow_key, require_tasks
from fasthep_flow.outcomes import ALLOWED, Outcome, failed, is_lost, reply_of, unstarted
from fasthep_flow.ready import Kind, Ready
from fasthep_flow.records.identity import Identity, NeedIdentity, need_identity
from fasthep_flow.records.report import seconds_text
from fasthep_flow.records.reuse import Decision
from fasthep_flow.records.run import RunFolder
from fasthep_flow.tries import Try, Waiting, following, resources_of, told

__all__ = ["Outcome", "Scheduler"]

_IN_FLIGHT: Final = 10_000
"""Most jobs of a kind handed out at once: it bounds the driver's memory, not the farm."""
_BATCH: Final = 100
"""Jobs submitted in one go: what ends meanwhile is not to wait long for its record."""
_SYNC_INTERVAL_S: Final = 0.02
"""How long a result that nothing waits for may wait for others, to go to disk with them."""
_PATIENCE_S: Final = 30.0
"""How long cancelled jobs may take to end; the runtimes' own grace is shorter."""


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


_Arrival: TypeAlias = "_Running | _Stop | Decided | Known[_Running]"


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
        deciding: Finds out which tasks need not run; they all do if ``None``.
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
        deciding: Deciding[_Running] | None = None,
    ) -> None:
        self._plan: Final = plan
        self._folder: Final = folder
        self._runners: Final = runners
        self._runtimes: Final = runtimes
        self._fail_fast: Final = fail_fast
        self._on_end: Final = on_end
        self._tell: Final = tell
        self._deciding: Final = deciding
        self._identities: Final[dict[str, Identity]] = {}
        self._made: Final[dict[str, NeedIdentity]] = {}
        self._arrivals: Final[SimpleQueue[_Arrival]] = SimpleQueue()
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
        require_tasks(self._plan.tasks, self._runners)
        try:
            more = self._submit_ready()
            while self._in_flight or self._recorded or self._waiting or self._deciding:
                self._receive(wait=not more)
                more = self._submit_ready()
        except BaseException:
            for runner in self._runners.values():
                runner.cancel()
            raise
        for task in self._plan.tasks:
            if task.name not in self._outcomes:
                cause = self._halted or Failure(kind="cancelled", message="the run was stopped")
                runtime = self._runtimes[task.name]
                self._end(task, unstarted(task, runtime, "cancelled", cause), None)
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

    def _submit_ready(self) -> bool:
        """Submit some of what is ready; whether more of it could go at once."""
        if self._waiting:
            self._submit_due()
        for _ in range(_BATCH):
            task = None if self._halted is not None else self._ready.hand_out()
            if task is None:
                return False
            self._begin(task)
        return True

    def _begin(self, task: TaskSpec) -> None:
        """Submit a task, unless it need not run."""
        if self._deciding is None:
            self._submit(task, Try())
            return
        needs = {name: self._made[name] for name in task.needs}
        decided = self._deciding.ask(task, needs, self._arrivals.put)
        if decided is not None:
            self._decide(decided)

    def _decide(self, decided: Decided) -> None:
        task, decision = decided.task, decided.decision
        if decision is None or self._halted is not None:
            return
        self._identities[task.name] = decision.identity
        if decision.reused is None:
            self._submit(task, Try(), "; ".join(decision.reasons))
        else:
            self._stand(task, decision, decision.reused)

    def _stand(self, task: TaskSpec, decision: Decision, result: JobResult) -> None:
        """Let an earlier result stand for a task."""
        before = self._folder.before
        is_former = before is not None and before.results.get(task.name) is result
        directory = None
        if not is_former:
            self._folder.append(
                "task_reused",
                task=task.name,
                status=result.status,
                message=result.remarks[-1] if result.remarks else None,
                result=result,
                identity=decision.identity.parts,
            )
        elif result.attempt:
            directory = self._folder.path / "tasks" / task.slug / str(result.attempt)
        self._ready.ended(task)
        self._end(task, result, directory, is_former=is_former)
        self._release_dependants(task)

    def _submit_due(self) -> None:
        """Submit what has waited long enough to be tried again."""
        for item, _, again in self._waiting.due():
            if again is not None:
                self._submit(item.task, again)

    def _kind_of(self, task: TaskSpec) -> Kind:
        flow, resources = task.environment.flow, task.environment.resources
        key = self._keys[id(flow)]
        return Kind(self._runners[key].size(resources), (key, demand_of(resources)))

    def _submit(self, task: TaskSpec, this: Try, why: str = "") -> None:
        environment = task.environment
        resources = resources_of(task, this)
        # In a run that goes on there are attempts of its former drivers.
        attempt = self._folder.next_attempt(task.name, task.slug)
        attempt = max(attempt, this.attempt)
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
        self._folder.append("task_submitted", task=task.name, attempt=attempt, message=why or None)
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
                match arrival:
                    case _Stop():
                        self._obey(arrival)
                    case Decided():
                        self._note_told()
                        self._decide(arrival)
                    case Known():
                        self._note_told()
                        urgent |= self._record(arrival.item, arrival.result, arrival.identity)
                    case _Running() if self._in_flight.pop(arrival.task.name, None) is not None:
                        urgent |= self._take(arrival)
                arrival = self._arrivals.get_nowait()
        except Empty:
            pass
        if urgent or not self._in_flight or time.monotonic() > self._sync_at_s:
            self._act_on_recorded()

    def _note_told(self) -> None:
        if self._deciding is not None:
            self._deciding.told()

    def _take(self, item: _Running) -> bool:
        """Record how an attempt ended, at once or later; whether something waits for that."""
        task = item.task
        try:
            result = reply_of(item.job, item.future, self._halted)
        except OrchestratorUnavailable as error:
            # One error for the run, and none for each of its tasks.
            self._lose_engine(error)
            cause = Failure(kind="worker", message=error.message, hint=error.hint)
            result = failed(item.job, "cancelled", cause)
        identity = self._identities.get(task.name)
        if self._deciding is None or identity is None or result.status != "succeeded":
            return self._record(item, result)
        known = self._deciding.know(item, task, identity, result, self._arrivals.put)
        return known is not None and self._record(item, result, known.identity)

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
        if self._deciding is not None:
            self._deciding.stop()
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
            self._record(item, failed(item.job, "cancelled", failure))
        self._act_on_recorded()

    def _record(self, item: _Running, result: JobResult, identity: Identity | None = None) -> bool:
        """Record how an attempt ended; whether something waits for that to be on disk."""
        again = None
        lost = is_lost(item.future)
        if item.job.outputs and lost:
            # Nobody else did: its worker is gone, and proven to be.
            set_aside_left(item.job.outputs, item.job.directory)
        if self._halted is None and result.status in ALLOWED:
            runner = self._runners[self._keys[id(item.task.environment.flow)]]
            again = following(
                item.task,
                item.this,
                result,
                is_lost=lost,
                allowed_losses=runner.allowed_failures,
            )
        event = "task_finished" if again is None else "task_retried"
        parts = None if identity is None else identity.parts
        self._folder.write_result(event, item.job, result, identity=parts)
        ended = _Ended(item, result, again)
        self._recorded.append(ended)
        return self._is_awaited(ended)

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
        job = ended.item.job
        self._tell(told(task, ended.result, job.resources, again, number=job.attempt + 1))
        if not again.waited_s:
            self._submit(task, again)
            return
        self._folder.append(
            "note",
            task=task.name,
            attempt=job.attempt + 1,
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
            self._end(task, unstarted(task, self._runtimes[task.name], "skipped", cause), None)
            pending.extend(self._dependants.get(task.name, ()))

    def _end(
        self,
        task: TaskSpec,
        result: JobResult,
        directory: Path | None,
        *,
        is_former: bool = False,
    ) -> None:
        outcome = Outcome(task, result, directory, is_former)
        self._outcomes[task.name] = outcome
        if self._deciding is not None:
            self._made[task.name] = need_identity(task, result, self._folder.run_id)
        self._on_end(outcome)
