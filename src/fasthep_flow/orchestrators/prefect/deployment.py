"""A workflow as a flow object of Prefect's: to call, to serve, to deploy.

Prefect runs the flow's function in the main thread and ends it by an exception there, when
the flow run is cancelled. So the workflow runs in a thread beside it: what Prefect raises
becomes a stop of the workflow, and goes its way once the tasks have ended.

Imports Prefect, so it is imported by the orchestrator alone.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, wait
from contextvars import copy_context
from logging import Logger, LoggerAdapter
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from prefect import Flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.states import Completed, Failed

from fasthep_flow.model import JobResult
from fasthep_flow.orchestrators.prefect.flow_run import prefect_name

__all__ = ["Ended", "Origin", "Reporter", "Run", "flow_object"]

_T = TypeVar("_T")
_GOOD: Final = frozenset({"succeeded", "reused"})
_SHOWN: Final = 3
"""So many failures are told in the flow run's state, which is one line."""


class Origin(Protocol):
    """Where a flow object belongs: what Prefect's deployments find it again by."""

    @property
    def name(self) -> str:
        """Of the workflow, which is the flow's."""
        ...

    @property
    def module(self) -> str:
        """The module that holds the flow object."""
        ...

    @property
    def variable(self) -> str:
        """The flow object's name there."""
        ...

    @property
    def digest(self) -> str:
        """Of the workflow file: the flow's version."""
        ...


class Ended(Protocol):
    """What became of a run; see :class:`fasthep_flow.workflow.Report`."""

    @property
    def run_id(self) -> str:
        """Of the run."""
        ...

    @property
    def directory(self) -> Any:  # noqa: ANN401 - a path, as text or not
        """The run folder."""
        ...

    @property
    def results(self) -> Mapping[str, JobResult]:
        """By the task's name."""
        ...

    @property
    def allowed(self) -> Collection[str]:
        """The names of those that failed, and may."""
        ...


class Reporter:
    """A listener that writes to the log of a flow run, and can stop what it listens to.

    Args:
        log: Of the flow run.
    """

    def __init__(self, log: Logger | LoggerAdapter[Any]) -> None:
        self._log: Final = log
        self._lock: Final = threading.Lock()
        self._scheduler: Any = None
        self._asked: list[int] = []

    def preparing(self, message: str) -> None:
        """See :meth:`fasthep_flow.workflow.Listener.preparing`."""
        self._log.info(message)

    def told(self, message: str) -> None:
        """See :meth:`fasthep_flow.workflow.Listener.told`."""
        self._log.info(message)

    def noticed(self, message: str) -> None:
        """See :meth:`fasthep_flow.workflow.Listener.noticed`."""
        self._log.warning(message)

    def started(self, folder: Any, /, scheduler: Any) -> None:  # noqa: ANN401 - of layers above
        """See :meth:`fasthep_flow.workflow.Listener.started`."""
        self._log.info("Run %s, records in %s", folder.run_id, folder.path)
        with self._lock:
            self._scheduler = scheduler
            asked = list(self._asked)
        for number in asked:
            scheduler.stop(number)

    def ended(self, outcome: Any) -> None:  # noqa: ANN401 - of a layer above
        """See :meth:`fasthep_flow.workflow.Listener.ended`."""
        result = outcome.result
        if result.status not in _GOOD:
            self._log.warning("Task %r %s", result.task, _fate(result))

    def stop(self, number: int) -> None:
        """Stop the run as that signal does; asked again, end what still has its time to stop."""
        with self._lock:
            self._asked.append(number)
            scheduler = self._scheduler
        if scheduler is not None:
            scheduler.stop(number)


Run: TypeAlias = Callable[..., Ended]
"""Runs the workflow: is given a :class:`Reporter` and the flow's parameters by keyword."""


def flow_object(origin: Origin, run: Run) -> Flow[..., Any]:
    """A flow whose run is a run of the workflow.

    Its parameters are some of the options of ``fasthep-flow run``. A flow run ends as
    ``Completed`` if every task succeeded, else as ``Failed``; its message says which.

    Args:
        origin: Where the flow object belongs.
        run: Runs the workflow, inside the flow run. It travels to other processes.
    """

    def flow(
        tasks: list[str] | None = None,
        output_directory: str | None = None,
        fail_fast: bool = False,
        locked: bool = False,
    ) -> Any:  # noqa: ANN401 - a state, which Prefect makes the flow run's
        """Run the workflow.

        Args:
            tasks: Only these tasks and those that they need; all of them by default.
            output_directory: The folder under which run folders lie, in place of the file's.
            fail_fast: Whether to stop everything at the first failure.
            locked: Whether to use what the lock file names, and nothing else.
        """
        from fasthep_flow.orchestrators.prefect.deployment import Reporter, final_state, stoppable

        reporter = Reporter(get_run_logger())
        ended = stoppable(
            lambda: run(
                reporter,
                tasks=tasks or (),
                output_directory=output_directory,
                fail_fast=fail_fast,
                locked=locked,
            ),
            reporter.stop,
        )
        return final_state(ended)

    # By these Prefect's deployments find the object again, where it is made.
    flow.__module__ = origin.module
    flow.__name__ = flow.__qualname__ = origin.variable
    return Flow(
        fn=flow,
        name=prefect_name(origin.name),
        version=origin.digest.removeprefix("sha256:")[:12],
        # Retries are the scheduler's; a run that failed is started anew by whoever wants that.
        retries=0,
        persist_result=False,
        log_prints=False,
    )


def stoppable(function: Callable[[], _T], stop: Callable[[int], None]) -> _T:
    """Call ``function`` in a thread and wait for it; what is raised here meanwhile stops it.

    Args:
        function: Called in a copy of this context.
        stop: Makes ``function`` return or raise soon.

    Raises:
        BaseException: What ``function`` raises; or what interrupted the wait, once
            ``function`` has ended.
    """
    answer: Future[_T] = Future()

    def work() -> None:
        try:
            answer.set_result(function())
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits
            answer.set_exception(error)

    threading.Thread(
        target=copy_context().run, args=(work,), name="fasthep-flow-run", daemon=True
    ).start()
    interruption: BaseException | None = None
    while not answer.done():
        try:
            wait([answer])
        except BaseException as raised:  # noqa: BLE001 - raised once the run has ended
            interruption = interruption or raised
            interrupted = isinstance(raised, KeyboardInterrupt)
            number = raised.signal if isinstance(raised, TerminationSignal) else signal.SIGTERM
            stop(signal.SIGINT if interrupted else number)
    if interruption is not None:
        raise interruption
    return answer.result()


def final_state(ended: Ended) -> State[Any]:
    """The state of the flow run, with a message for people and a summary for callers."""
    results = ended.results
    bad = {name: result for name, result in results.items() if result.status not in _GOOD}
    counted = f"{len(results) - len(bad)} of {len(results)} tasks succeeded"
    for name in ended.allowed:
        bad.pop(name, None)
    if ended.allowed:
        counted += f", {len(ended.allowed)} failed and may"
    where = f"run folder {ended.directory}"
    if not bad:
        summary = {
            "run_id": ended.run_id,
            "directory": str(ended.directory),
            "tasks": {name: str(result.status) for name, result in results.items()},
        }
        return Completed(message=f"{counted}; {where}", data=summary)
    # What was skipped only follows from what failed.
    told = {name: item for name, item in bad.items() if item.status != "skipped"} or bad
    words = [f"{name!r} {_fate(item)}" for name, item in list(told.items())[:_SHOWN]]
    if len(told) > _SHOWN:
        words.append(f"{len(told) - _SHOWN} more")
    # Without data: Prefect then raises the message itself.
    return Failed(message=f"{counted}; {'; '.join(words)}; {where}")


def _fate(result: JobResult) -> str:
    words = result.status.replace("_", " ")
    return words if result.failure is None else f"{words}: {result.failure.message}"
