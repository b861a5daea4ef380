"""One Prefect flow run, held open by a thread while jobs come and go.

Prefect runs a flow as a function from its beginning to its end, in one thread. Ours serves
calls: whatever must happen inside the flow run (opening a task runner, submitting to it) is
handed to that thread. So any number of task runners share one flow run.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from prefect import Flow
from prefect.client.schemas.objects import State
from prefect.context import SettingsContext
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    get_current_settings,
    temporary_settings,
)
from prefect.states import Cancelled, Completed, Failed

from fasthep_flow.errors import FlowError, OrchestratorUnavailable
from fasthep_flow.orchestrators import remote
from fasthep_flow.orchestrators.prefect_server import temporary_server
from fasthep_flow.orchestrators.prefect_worker import drain

__all__ = ["FlowRun", "keep_settings", "open_flow_run"]

_T = TypeVar("_T")
_DRAIN_S: Final = 20.0
_BANNED: Final = str.maketrans(dict.fromkeys("/%&<>", "-"))
"""What Prefect refuses in names."""

_CURRENT: Final[ContextVar[FlowRun]] = ContextVar("fasthep_flow_prefect_run")


def serve() -> State[None]:
    """The flow's function. Prefect sends it to workers by name, so it holds nothing."""
    return _CURRENT.get().serve()


class FlowRun:
    """A flow run that a thread holds open.

    Args:
        name: Of the flow and of its run.
    """

    def __init__(self, name: str) -> None:
        self._name: Final = name.translate(_BANNED) or "workflow"
        self._calls: Final[SimpleQueue[Callable[[], None] | None]] = SimpleQueue()
        self._opened: Final[Future[None]] = Future()
        self._thread: Final = threading.Thread(
            target=self._run, name="fasthep-flow-prefect", daemon=True
        )
        self._outcome: State[None] | None = None
        self._failed = 0
        self._cancelled = False

    def start(self) -> None:
        """Open the flow run.

        Raises:
            OrchestratorUnavailable: Prefect's server does not start or answer.
        """
        # The thread, and all threads and processes that come of it, inherit the mask.
        with remote.interrupts_held():
            self._thread.start()
        self._opened.result()

    def post(self, function: Callable[[], None]) -> None:
        """Have ``function`` called inside the flow run, some time; it must not raise."""
        self._calls.put(function)

    def call(self, function: Callable[[], _T]) -> _T:
        """Call ``function`` inside the flow run and wait for what it returns or raises."""
        answer: Future[_T] = Future()

        def run() -> None:
            try:
                answer.set_result(function())
            except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
                answer.set_exception(error)

        self._calls.put(run)
        return answer.result()

    def note(self, *, failed: bool = False, cancelled: bool = False) -> None:
        """What the flow run's final state is to say of one task."""
        self._failed += failed
        self._cancelled |= cancelled

    def close(self) -> None:
        """End the flow run, and the server if it is ours."""
        self._calls.put(None)
        self._thread.join()

    def serve(self) -> State[None]:
        """Inside the flow run: answer calls until it is closed; the final state."""
        self._opened.set_result(None)
        while (function := self._calls.get()) is not None:
            function()
        if self._cancelled:
            return Cancelled(message="the run was stopped")
        if self._failed:
            return Failed(message=f"{self._failed} task runs failed")
        return Completed()

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
            with _api():
                flow(return_state=True)
                self._check_opened("the flow run ended before it began")
        except BaseException as error:  # noqa: BLE001 - told to whoever opened the run
            self._check_opened(remote.words_of(error), error)
        # Whatever comes now comes too late.
        while not self._calls.empty():
            function = self._calls.get()
            if function is not None:
                function()

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
def open_flow_run(name: str) -> Iterator[FlowRun]:
    """A flow run for as long as the context lasts.

    Raises:
        OrchestratorUnavailable: Prefect's server does not start or answer.
    """
    run = FlowRun(name)
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
def _api() -> Iterator[None]:
    """The user's Prefect server, or one of our own."""
    settings = get_current_settings()
    with ExitStack() as stack:
        if settings.api.url is None:
            if not settings.server.ephemeral.enabled:
                raise OrchestratorUnavailable(
                    "Prefect has no server to talk to",
                    hint="set PREFECT_API_URL, or choose a profile with a temporary server",
                )
            environment = settings.to_environment_variables(exclude_unset=True)
            server = stack.enter_context(temporary_server(environment))
            stack.enter_context(
                temporary_settings(
                    {
                        PREFECT_API_URL: server.api_url,
                        PREFECT_API_AUTH_STRING: server.auth_string,
                    }
                )
            )
        try:
            yield
        finally:
            asyncio.run(drain(_DRAIN_S))
