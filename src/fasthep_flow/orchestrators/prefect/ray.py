"""Ray as one of Prefect's task runners: a Ray of this run's own, or one that runs already.

Ray keeps a process for every task that runs, and starts a few more: a store of what it knows,
a manager of the machine, agents. Ours end with the run. Whoever can speak to a Ray can run
code as its user, so ours asks for a token of this process, and its folder is closed to others.

Imports Ray, so it is imported when a runner is opened.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import resource
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import psutil
import ray
from prefect.context import serialize_context
from prefect.states import Cancelled
from prefect_ray.task_runners import RayTaskRunner  # type: ignore[import-untyped]
from ray.exceptions import LocalRayletDiedError, RaySystemError, TaskCancelledError

from fasthep_flow.environments.host.scratch import mark_owned
from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.model import FlowSpec, Resources
from fasthep_flow.orchestrators import remote
from fasthep_flow.orchestrators.admission import Admission, Capacity, demand_of, require_room
from fasthep_flow.orchestrators.options import check_options
from fasthep_flow.orchestrators.prefect.engines import PrefectEngine, parameters_of
from fasthep_flow.orchestrators.prefect.worker import ray_variables, run_on_ray
from fasthep_flow.orchestrators.runner import EngineRunner, Errand, cancelled_reply

__all__ = ["ForeignRayRunner", "RayCluster", "check_ray_options"]

_LOG: Final = logging.getLogger("fasthep_flow")
_TOKEN: Final = secrets.token_hex(32)
"""Of this process: one at a time is connected to a Ray of its own."""
_OURS: Final = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": _TOKEN,
    # Limits are the runtimes' to keep: it would end tasks because of what others use.
    "RAY_memory_monitor_refresh_ms": "0",
}
_LOCK: Final = threading.Lock()
_SOCKET_PATH: Final = 107
"""The longest path of a socket that Linux takes."""
_SESSION: Final = (
    "/ff-ray-12345678/r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
)
_KNOCK_S: Final = 15.0
_TOO_LATE: Final = "timed out during startup"
_STORE_BYTES: Final = 128 * 1024**2
"""Jobs and replies are text of some kilobytes; Ray would take a third of the memory."""


def check_ray_options(flow: FlowSpec, init: Mapping[str, Any]) -> None:
    """Refuse what ``ray.init`` would refuse, before anything is started.

    Raises:
        OrchestratorUnavailable: One of the options is unknown.
    """
    known = {
        parameter.name
        for parameter in inspect.signature(ray.init).parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    # It has more, which it does not promise to keep.
    spelled = [name for name in init if not str(name).startswith("_")]
    check_options(flow, spelled, known - {"address"}, " in init_kwargs")


class RayCluster:
    """A Ray of this run's own on this machine, or one at an address.

    Args:
        flow: For messages.
        address: Of a Ray that runs already; ``None`` to start one.
        init: Keyword arguments of ``ray.init``.
        cpus: How many processors one of our own is to have.

    Raises:
        OrchestratorUnavailable: It does not start, or cannot be reached.
    """

    def __init__(
        self, flow: FlowSpec, address: str | None, init: Mapping[str, Any], cpus: int
    ) -> None:
        self._own: Final = address is None
        self._lock: Final = threading.Lock()
        self._running: Final[set[Any]] = set()
        self._asked = 0
        if not _LOCK.acquire(blocking=False):
            raise _already(flow)
        self._folder: Path | None = None
        arguments = {"log_to_driver": False, "configure_logging": False, **init}
        if self._own:
            self._folder = _private_folder(arguments.pop("_temp_dir", None))
            arguments = {
                "num_cpus": cpus,
                "include_dashboard": False,
                "object_store_memory": _STORE_BYTES,
                "_node_ip_address": "127.0.0.1",
                **arguments,
                # Ray opens the folder that it is given to everybody.
                "_temp_dir": str(self._folder / "r"),
            }
        try:
            if ray.is_initialized():
                raise _already(flow)  # noqa: TRY301 - released below
            _knock(address)
            with _ray_environment(own=self._own), remote.interrupts_held():
                self._task_runner: Final = self._open(address, arguments)
        except BaseException as error:
            self._release()
            if isinstance(error, OrchestratorUnavailable) or not isinstance(error, Exception):
                raise
            raise OrchestratorUnavailable(
                f"{flow}: Ray did not "
                f"{'start' if self._own else f'answer at {address}'}: {remote.words_of(error)}"
            ) from error
        if not arguments["log_to_driver"]:
            # What it prints of a lost worker is told where its task is.
            printing: Any = importlib.import_module("ray._private.worker")
            printing._worker_logs_enabled = False  # noqa: SLF001 - no public way
        self._function: Final[Any] = ray.remote(max_retries=0)(run_on_ray)

    def _open(self, address: str | None, arguments: Mapping[str, Any]) -> Any:  # noqa: ANN401
        # Without an address, Ray would look for one that somebody left running.
        open_one = partial(RayTaskRunner, address=address or "local", init_kwargs=arguments)
        try:
            return open_one().__enter__()
        except Exception as error:
            if not self._own or _TOO_LATE not in str(error):
                raise
            # It waits half a minute and no more for what it starts, however busy the machine.
            self._end_processes()
            return open_one().__enter__()

    def _end_processes(self) -> None:
        """Kill what a start that failed left behind."""
        left = [
            process
            for process in psutil.Process().children(recursive=True)
            if _mentions(process, str(self._folder))
        ]
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=_KNOCK_S)

    @staticmethod
    def machines() -> list[Capacity]:
        """What each machine of the cluster has."""
        nodes: Any = ray.nodes  # untyped
        return [
            Capacity(has.get("CPU", 0), has.get("memory", 0), has.get("GPU", 0))
            for has in (node["Resources"] for node in nodes() if node["Alive"])
        ]

    def submit(self, errand: Errand) -> Future[Any]:
        """See :meth:`fasthep_flow.orchestrators.prefect.engines.Submitter.submit`."""
        # Prefect's runner does just this, without the resources and with Ray's own retries.
        reference = self._function.options(**self._options(errand)).remote(
            parameters_of(errand),
            uuid4(),
            serialize_context(),
            ray_variables() if self._own else None,
        )
        with self._lock:
            self._running.add(reference)
            asked = self._asked
        if asked:
            self._cancel([reference], force=asked > 1)
        handle: Future[Any] = Future()
        handle.set_running_or_notify_cancel()
        reference.future().add_done_callback(partial(self._finish, errand, reference, handle))
        return handle

    def stop_jobs(self) -> None:
        """See :meth:`fasthep_flow.orchestrators.prefect.engines.Submitter.stop_jobs`."""
        with self._lock:
            self._asked += 1
            running = list(self._running)
            force = self._asked > 1
        remote.in_background("fasthep-stop", partial(self._cancel, running, force=force))

    def close(self) -> None:
        """See :meth:`fasthep_flow.orchestrators.prefect.engines.Submitter.close`."""
        try:
            self._task_runner.__exit__(None, None, None)
        finally:
            self._release()

    def _options(self, errand: Errand) -> dict[str, Any]:
        options: dict[str, Any] = {"name": errand.label, "num_cpus": 0}
        if not self._own:
            # What one of our own may start is decided before.
            cpus, memory, gpus = errand.demand
            options |= {"num_cpus": cpus, "num_gpus": gpus, "memory": int(memory) or None}
        return options

    @staticmethod
    def _cancel(references: list[Any], *, force: bool) -> None:
        # Interrupts the worker's main thread, which then stops its job; or ends the worker.
        for reference in references:
            with suppress(Exception):
                ray.cancel(reference, force=force, recursive=False)

    def _finish(
        self,
        errand: Errand,
        reference: object,
        handle: Future[Any],
        done: Future[Any],
    ) -> None:
        with self._lock:
            self._running.discard(reference)
        try:
            handle.set_result(done.result())
        except TaskCancelledError:
            # It had not begun.
            reply = cancelled_reply(errand)
            handle.set_result(Cancelled(message="it was stopped before it began", data=reply))
        except (LocalRayletDiedError, RaySystemError) as problem:
            gone = OrchestratorUnavailable(
                f"the Ray of this run is gone: {remote.words_of(problem)}",
                hint="run the workflow once more",
            )
            handle.set_exception(gone)
        except (Exception, CancelledError) as problem:  # noqa: BLE001 - told through the future
            handle.set_exception(problem)

    def _release(self) -> None:
        if self._folder is not None:
            self._end_processes()
            shutil.rmtree(self._folder, ignore_errors=True)
        _LOCK.release()


def _mentions(process: psutil.Process, folder: str) -> bool:
    try:
        return any(folder in word for word in process.cmdline())
    except psutil.Error:
        return False


def _reread_token() -> None:
    """Have Ray look again at what the environment says of tokens: it did at its import."""
    core: Any = importlib.import_module("ray._raylet")
    try:
        # In this order, as Ray's own tests have it.
        core.Config.initialize("")
        core.AuthenticationTokenLoader.instance().reset_cache()
    except AttributeError:
        _LOG.warning("this release of Ray has no tokens: others can reach what it starts")


class ForeignRayRunner(EngineRunner):
    """Tasks on somebody else's Ray, which has a queue of its own.

    Args:
        flow: For messages.
        engine: Opened, on a :class:`RayCluster`; this closes it.
        machines: What each machine of the cluster has.
        allowed_failures: How often a task is started again because its worker was lost.
    """

    def __init__(
        self,
        flow: FlowSpec,
        engine: PrefectEngine,
        machines: Sequence[Capacity],
        allowed_failures: int,
    ) -> None:
        self._machines: Final = machines
        place = f"any machine of {flow}"
        super().__init__(
            engine,
            Admission(None, None),
            None,
            place=place,
            on_this_machine=False,
            allowed_failures=allowed_failures,
        )

    def require(self, resources: Resources, label: str) -> None:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.require`."""
        demand = demand_of(resources)
        if not any(machine.holds(demand) for machine in self._machines):
            largest = max(self._machines, default=Capacity(0, 0, 0))
            require_room(self._place, largest, demand, label)


def _already(flow: FlowSpec) -> OrchestratorUnavailable:
    return OrchestratorUnavailable(
        f"{flow} cannot be opened: this process is connected to a Ray already",
        hint="a process has one Ray: give all its tasks the same options of RayTaskRunner",
    )


def _knock(address: str | None) -> None:
    """Raise where nobody is at the address: Ray would try for minutes, and then tell at length."""
    host, _, port = (address or "").rpartition(":")
    if port.isdecimal() and "://" not in host:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S):
            pass


def _private_folder(parent: str | None) -> Path:
    place = parent or tempfile.gettempdir()
    if parent is None and len(place + _SESSION) > _SOCKET_PATH:
        place = "/tmp"  # noqa: S108 - the folder in it is new, and closed to others
    folder = Path(tempfile.mkdtemp(prefix="ff-ray-", dir=place))
    mark_owned(folder)
    return folder


@contextmanager
def _ray_environment(*, own: bool) -> Iterator[None]:
    """What Ray reads from the environment of whoever starts or joins it.

    It sets variables of its own besides, which the tasks of other runners would inherit.
    """
    before = dict(os.environ)
    # It tells, among other things, that it leaves the handlers of signals to us.
    talk = logging.getLogger("ray")
    level = talk.level
    talk.setLevel(max(level, logging.ERROR))
    # It makes room for itself, which programs would inherit that count their descriptors.
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Of a driver that `uv run` started, it would send the working directory to its workers.
    constants: Any = importlib.import_module("ray._private.ray_constants")
    constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False
    if own:
        os.environ.update(_OURS)
    _reread_token()
    try:
        yield
    finally:
        talk.setLevel(level)
        resource.setrlimit(resource.RLIMIT_NOFILE, files)
        remote.restore_environment(dict.fromkeys(os.environ.keys() - before.keys()) | before)
