"""One Prefect flow run, held open by a thread while jobs come and go.

Prefect runs a flow as a function from its beginning to its end, in one thread. Ours serves
calls: whatever must happen inside the flow run (opening a task runner, submitting to it) is
handed to that thread. So any number of task runners share one flow run.

Where the caller is inside a flow run already, as in a deployment, that is the one: the thread
works in a copy of the caller's context, and how the flow run ends is its owner's to say.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, TypeVar
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.context import FlowRunContext, SettingsContext
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    get_current_settings,
    temporary_settings,
)
from prefect.states import Cancelled, Completed, Failed

from fasthep_flow.errors import FlowError, OrchestratorUnavailable
from fasthep_flow.orchestrators import remote
from fasthep_flow.orchestrators.prefect.server import temporary_server
from fasthep_flow.orchestrators.prefect.worker import drain

__all__ = ["FlowRun", "keep_settings", "open_flow_run", "prefect_name"]

_T = TypeVar("_T")
_DRAIN_S: Final = 20.0
_LOG: Final = logging.getLogger("fasthep_flow")
_CANCELS: Final = frozenset({StateType.CANCELLING, StateType.CANCELLED})
_LOOK_S: Final = 2.0
"""How often to look whether the flow run was cancelled."""
_STALL_S: Final = 5.0
"""How long to wait for the next record of the server's."""
_FINAL: Final = ["COMPLETED", "FAILED", "CANCELLED", "CRASHED"]
_BANNED: Final = str.maketrans(dict.fromkeys("/%&<>", "-"))
"""What Prefect refuses in names."""

_CURRENT: Final[ContextVar[FlowRun]] = ContextVar("fasthep_flow_prefect_run")


def serve() -> State[None]:
    """The flow's function. Prefect sends it to workers by name, so it holds nothing."""
    return _CURRENT.get().serve()


def prefect_name(name: str) -> str:
    """A workflow's name as Prefect takes it."""
    return name.translate(_BANNED) or "workflow"


class FlowRun:
    """A flow run that a thread holds open.

    Args:
        name: Of the flow and of its run.
        around: The context of the caller's own flow run, to work in that; ``None`` to open one.
        may_fail: The names of the tasks whose failure is none of the flow run's.
    """

    def __init__(
        self,
        name: str,
        around: Context | None = None,
        *,
        may_fail: Collection[str] = frozenset(),
    ) -> None:
        self._name: Final = prefect_name(name)
        self._around: Final = around
        self._may_fail: Final = may_fail
        self._calls: Final[SimpleQueue[Callable[[], None] | None]] = SimpleQueue()
        self._opened: Final[Future[None]] = Future()
        self._thread: Final = threading.Thread(
            target=self._run if around is None else partial(around.run, self._visit),
            name="fasthep-flow-prefect",
            daemon=True,
        )
        self._id: str | None = None
        self._lock: Final = threading.Lock()
        self._ended = 0
        # By task: a later attempt may make good.
        self._failed: Final[dict[str, bool]] = {}
        self._cancelled = False
        self._watched = False
        self._shut: Final = threading.Event()
        self._listener: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin to open the flow run."""
        # The thread, and all threads and processes that come of it, inherit the mask.
        with remote.interrupts_held():
            self._thread.start()

    def post(self, function: Callable[[], None]) -> None:
        """Have ``function`` called inside the flow run, some time; it must not raise."""
        self._calls.put(function)

    def call(self, function: Callable[[], _T]) -> _T:
        """Call ``function`` inside the flow run and wait for what it returns or raises.

        Raises:
            OrchestratorUnavailable: Prefect's server did not start or answer.
        """
        self._opened.result()
        answer: Future[_T] = Future()

        def run() -> None:
            try:
                answer.set_result(function())
            except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
                answer.set_exception(error)

        self._calls.put(run)
        return answer.result()

    def reply_of(self, label: str, state: Any) -> str:  # noqa: ANN401 - what Prefect handed on
        """The reply that the final state of a task run holds, of which Prefect knows.

        Args:
            label: The task's name.
            state: Of its task run.

        Raises:
            BaseException: What was raised around the job, or that there is no reply.
        """
        reply: Any = state.result(raise_on_failure=False)
        with self._lock:
            self._ended += 1
            self._failed[label] = not state.is_completed()
        if isinstance(reply, str):
            return str(reply)
        # Where Prefect's own machinery failed around the job, the exception has its words.
        raise (
            reply
            if isinstance(reply, BaseException)
            else TypeError(f"Prefect answered with {state!r}")
        )

    def note_loss(self, label: str) -> None:
        """A task run was lost, with the process that was to tell Prefect of its end."""
        with self._lock:
            self._failed[label] = True

    def note_cancel(self) -> None:
        """The run is being stopped."""
        self._cancelled = True

    def on_cancel(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called, from another thread, when the flow run is cancelled in Prefect.

        The first one alone: the runners of a flow run are all of one run. Not where the flow run
        is the caller's own: whoever runs that is told by Prefect.
        """
        self._listener = self._listener or listener

    def close(self) -> None:
        """End the flow run, and the server if it is ours."""
        self._calls.put(None)
        self._thread.join()

    def serve(self) -> State[None]:
        """Inside the flow run: answer calls until it is closed; the final state."""
        context = FlowRunContext.get()
        if context is not None and context.flow_run is not None:
            self._id = str(context.flow_run.id)
            if self._watched:
                watch = partial(copy_context().run, self._watch, context.flow_run.id)
                remote.in_background("fasthep-flow-cancel", watch)
        self._answer_calls()
        if self._cancelled:
            return Cancelled(message="the run was stopped")
        bad = [label for label, has_failed in self._failed.items() if has_failed]
        if failed := sum(label not in self._may_fail for label in bad):
            return Failed(message=f"{failed} of {len(self._failed)} tasks failed")
        return Completed()

    def _answer_calls(self) -> None:
        self._opened.set_result(None)
        while (function := self._calls.get()) is not None:
            function()
        self._shut.set()

    def _watch(self, flow_run_id: UUID) -> None:
        """Ask now and then whether the flow run is to go on: Prefect tells nobody."""
        with get_client(sync_client=True) as client:
            while not self._shut.wait(_LOOK_S):
                # A server that is away for a while may be back the next time.
                with suppress(Exception):
                    state = client.read_flow_run(flow_run_id).state
                    if state is None or state.type not in _CANCELS or self._listener is None:
                        continue
                    _LOG.warning("the flow run was cancelled in Prefect")
                    self._listener()
                    return

    def _visit(self) -> None:
        self._answer_calls()
        self._answer_the_late()

    def _run(self) -> None:
        _CURRENT.set(self)
        flow = Flow(
            fn=serve,
            name=self._name,
            # A format string: braces in a workflow's name are just that.
            flow_run_name=self._name.replace("{", "{{").replace("}", "}}"),
            retries=0,
            persist_result=False,
            log_prints=False,
            validate_parameters=False,
        )
        try:
            with _api() as server_is_ours:
                # Of ours, nobody else has the password.
                self._watched = not server_is_ours
                try:
                    flow(return_state=True)
                    self._check_opened("the flow run ended before it began")
                finally:
                    asyncio.run(drain(_DRAIN_S))
                if server_is_ours:
                    self._await_records()
        except BaseException as error:  # noqa: BLE001 - told to whoever opened the run
            self._check_opened(remote.words_of(error), error)
        self._answer_the_late()

    def _answer_the_late(self) -> None:
        while not self._calls.empty():
            function = self._calls.get()
            if function is not None:
                function()

    def _await_records(self) -> None:
        """Let the server write down what it was told: it does so behind its answers."""
        query = {
            "flow_runs": {"id": {"any_": [self._id]}},
            "task_runs": {"state": {"type": {"any_": _FINAL}}},
        }
        recorded, until_s = 0, time.monotonic() + _STALL_S
        with get_client(sync_client=True) as client:
            while recorded < self._ended and time.monotonic() < until_s:
                time.sleep(0.05)
                count = client.request("POST", "/task_runs/count", json=query).json()
                if count > recorded:
                    recorded, until_s = count, time.monotonic() + _STALL_S

    def _check_opened(self, words: str, cause: BaseException | None = None) -> None:
        if self._opened.done():
            return
        if isinstance(cause, FlowError):
            self._opened.set_exception(cause)
            return
        problem = OrchestratorUnavailable(
            f"Prefect did not open a flow run: {words}",
            hint="is the server of PREFECT_API_URL up?",
        )
        problem.__cause__ = cause
        self._opened.set_exception(problem)


@contextmanager
def open_flow_run(name: str, *, may_fail: Collection[str] = frozenset()) -> Iterator[FlowRun]:
    """A flow run for as long as the context lasts; it is still being opened at first.

    It is the caller's own, where the caller is inside one.

    Args:
        name: Of the flow and of its run.
        may_fail: The names of the tasks whose failure is none of the flow run's.
    """
    around = None if FlowRunContext.get() is None else copy_context()
    run = FlowRun(name, around, may_fail=may_fail)
    run.start()
    try:
        yield run
    finally:
        run.close()


def keep_settings() -> Callable[[], Any]:
    """For a thread of Prefect's that starts without a context: gives it this one's settings.

    Without, it would not know of our server, and start another. What it returns is a factory
    of processors of messages, which the thread calls before anything else.
    """
    known = SettingsContext.get()

    def forward(message_type: str, message_payload: Any) -> tuple[str, Any]:  # noqa: ANN401
        return message_type, message_payload

    def factory() -> Callable[[str, Any], tuple[str, Any]]:
        if known is not None:
            known.model_copy().__enter__()
        return forward

    return factory


@contextmanager
def _api() -> Iterator[bool]:
    """The user's Prefect server, or one of our own; whether it is ours."""
    settings = get_current_settings()
    if settings.api.url is not None:
        yield False
        return
    if not settings.server.ephemeral.enabled:
        raise OrchestratorUnavailable(
            "Prefect has no server to talk to",
            hint="set PREFECT_API_URL, or choose a profile with a temporary server",
        )
    environment = settings.to_environment_variables(exclude_unset=True)
    with temporary_server(environment) as server:
        updates = {
            PREFECT_API_URL: server.api_url,
            PREFECT_API_AUTH_STRING: server.auth_string,
        }
        with temporary_settings(updates):
            yield True
