"""``dask::scheduler``: a Dask cluster that is there already, and stays.

Its workers may serve others meanwhile: nothing of theirs is stopped, and nothing is closed.

Imports Dask, so it is imported when a runner is opened.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import dask.config
import distributed

from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.model import FlowSpec, Job, Resources, Secrets, from_json
from fasthep_flow.orchestrators import TaskRunner, remote
from fasthep_flow.orchestrators.admission import (
    Admission,
    Capacity,
    Room,
    demand_of,
    require_room,
)
from fasthep_flow.orchestrators.dask.address import scheduler_address
from fasthep_flow.orchestrators.dask.engine import DaskEngine, connect
from fasthep_flow.orchestrators.dask.fitting import Fitting, misfit_of
from fasthep_flow.orchestrators.runner import ALLOWED_FAILURES, EngineRunner

__all__ = ["ExistingRunner", "fit_workers", "open_existing", "workers_of"]

_LOG: Final = logging.getLogger("fasthep_flow")
_TIMEOUT_S: Final = 30.0
_CHECK_S: Final = 30.0
_LOOK_S: Final = 0.5
_RECONNECT_S: Final = 15.0
"""How long a scheduler may be away in the middle of a run."""


class ExistingRunner(EngineRunner):
    """Tasks on the workers of somebody else's cluster.

    Args:
        flow: For messages.
        client: Of the cluster.
        engine: What starts jobs there, of the client and of what :class:`DaskEngine` is told.
    """

    def __init__(
        self,
        flow: FlowSpec,
        client: Any,  # noqa: ANN401 - untyped
        engine: Callable[..., DaskEngine] = DaskEngine,
    ) -> None:
        self._flow: Final = flow
        self._client: Final = client
        self._room: Final = Room(Capacity(0, 0, 0))
        self._known: Final[dict[str, Capacity]] = {}
        self._folders: Final[set[str]] = set()
        self._shut: Final = threading.Event()
        self._dask: Final = engine(
            client,
            stop=self._ask_to_stop,
            gone=f"the Dask scheduler of {flow} does not answer any more",
        )
        self._has_lost = False
        super().__init__(
            self._dask,
            Admission(self._room, None),
            None,
            place=f"a worker of {flow}",
            on_this_machine=False,
            allowed_failures=flow.options.get("allowed_failures", ALLOWED_FAILURES),
        )
        self.look()
        with remote.interrupts_held():
            remote.in_background("fasthep-workers", self._look_often)

    def require(self, resources: Resources, label: str) -> None:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.require`."""
        workers = list(self._known.values())
        demand = demand_of(resources)
        if workers and not any(room.holds(demand) for room in workers):
            largest = max(workers, key=lambda room: (room.cpus, room.memory))
            best = Capacity(*(max(amounts) for amounts in zip(*workers, strict=True)))
            # Where no one worker has all of it, the largest one says so better.
            shown = largest if best.holds(demand) else best
            require_room(f"any worker of {self._flow}", shown, demand, label)

    def submit(
        self, job_text: str, secrets: Secrets, resources: Resources, label: str
    ) -> Future[str]:
        """See :meth:`fasthep_flow.orchestrators.TaskRunner.submit`."""
        with suppress(ValueError):
            self._folders.add(from_json(Job, job_text).run_directory)
        return super().submit(job_text, secrets, resources, label)

    def close(self) -> None:
        """Stop what still runs of this run, and leave the cluster."""
        self._shut.set()
        super().close()

    def look(self) -> None:
        """Let in as many tasks as the workers that fit have room for."""
        there = {
            address: Capacity(*(info["resources"].get(name, 0.0) for name in Capacity._fields))
            for address, info in workers_of(self._client).items()
        }
        there = {address: room for address, room in there.items() if room.cpus}
        for address in there.keys() | self._known.keys():
            before = self._known.get(address, _NOTHING)
            now = there.get(address, _NOTHING)
            if before != now:
                self._room.change(Capacity(*(a - b for a, b in zip(now, before, strict=True))))
        gone = self._known.keys() - there.keys()
        self._known.clear()
        self._known.update(there)
        if gone:
            self._has_lost = True
            self._dask.mourn(gone)
        if there and self._has_lost:
            self._dask.hand_out_again()

    def _look_often(self) -> None:
        away_since_s: float | None = None
        while not self._shut.wait(_LOOK_S):
            try:
                self.look()
                away_since_s = None
            except Exception:  # noqa: BLE001 - Dask's, of many kinds
                away_since_s = away_since_s or time.monotonic()
            if away_since_s is not None and time.monotonic() - away_since_s > _RECONNECT_S:
                self.fail(
                    OrchestratorUnavailable(
                        f"the Dask scheduler of {self._flow} does not answer any more",
                        hint="start it anew, and run the workflow once more",
                    )
                )
                self._room.change(Capacity(1e18, 1e18, 1e18))
                return

    def _ask_to_stop(self) -> None:
        # Its workers cannot be told to stop everything: they look for this file.
        for folder in self._folders:
            with suppress(OSError):
                Path(folder).mkdir(parents=True, exist_ok=True)
                Path(folder, "cancel").touch()


_NOTHING: Final = Capacity(0, 0, 0)


@contextmanager
def open_existing(flow: FlowSpec, directory: Path) -> Iterator[TaskRunner]:
    """A runner on a cluster that is there, for as long as the context lasts.

    Args:
        flow: With the address of its scheduler.
        directory: On the file system that its workers share.

    Raises:
        OrchestratorUnavailable: The scheduler does not answer, or no task can run on any of
            its workers.
    """
    options = flow.options
    security = _security(flow, options)
    address = scheduler_address(flow)
    with remote.interrupts_held():
        try:
            client = connect(
                address,
                security=security,
                timeout=options.get("timeout") or _TIMEOUT_S,
                name="fasthep-flow",
            )
        except Exception as error:
            raise OrchestratorUnavailable(
                f"{flow}: the Dask scheduler at {address} cannot be reached: "
                f"{remote.words_of(error)}",
                hint="its address begins with tls:// if it speaks TLS, and then needs the "
                "options tls_ca_file, tls_client_cert and tls_client_key",
            ) from error
    try:
        fit_workers(flow, client, directory)
        runner = ExistingRunner(flow, client)
        try:
            yield runner
        finally:
            runner.close()
    finally:
        with suppress(Exception):
            client.close(timeout=5)


def _security(flow: FlowSpec, options: Mapping[str, Any]) -> distributed.Security | None:
    given = {
        name: value
        for name, value in options.items()
        if name.startswith("tls_") or name == "require_encryption"
    }
    if not given:
        # Dask's own configuration may say.
        configured = dask.config.get("distributed.comm.tls.ca-file", None)
        return None if configured is None else _make(given)
    for name, value in given.items():
        if name.startswith("tls_") and not Path(str(value)).is_file():
            raise OrchestratorUnavailable(f"{name} of {flow}: there is no file {value}")
    return _make({"require_encryption": True, **given})


def _make(given: Mapping[str, Any]) -> distributed.Security:
    make: Any = distributed.Security
    security: distributed.Security = make(**given)
    return security


def workers_of(client: Any) -> dict[str, Any]:  # noqa: ANN401 - untyped
    """What the scheduler says of each worker, by address; raises where it does not answer."""
    # What the client knows by itself is some seconds old, and of five workers only.
    found = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=_RECONNECT_S)
    return dict(found["workers"])


def _check_scheduler(flow: FlowSpec, client: Any, package: str) -> None:  # noqa: ANN401
    """Refuse a scheduler that cannot read the tasks that it is sent."""
    try:
        # The second is a function of ours, which it has to import.
        here = client.run_on_scheduler(version, "fasthep-flow")
        client.run_on_scheduler(remote.words_of, ValueError())
    except Exception as error:
        raise OrchestratorUnavailable(
            f"{flow}: its scheduler cannot import fasthep-flow: {remote.words_of(error)}",
            hint="the scheduler and the workers need this version of fasthep-flow",
        ) from error
    if here != package:
        raise OrchestratorUnavailable(
            f"{flow}: its scheduler has fasthep-flow {here}, and this run is of {package}"
        )


def fit_workers(
    flow: FlowSpec,
    client: Any,  # noqa: ANN401 - untyped
    directory: Path,
) -> None:
    """Have the workers ready, and refuse a cluster on which no task could run.

    Args:
        flow: For messages.
        client: Of the cluster.
        directory: On the file system that its workers share.

    Raises:
        OrchestratorUnavailable: None of its workers fits.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    mark, text = directory / "mark", secrets.token_hex(8)
    mark.write_text(text)
    package = version("fasthep-flow")
    _check_scheduler(flow, client, package)
    arguments = (str(mark), text, package)
    try:
        replies = client.run(misfit_of, *arguments, on_error="return", callback_timeout=_CHECK_S)
    except Exception as error:
        raise OrchestratorUnavailable(
            f"{flow}: its workers cannot be asked what they have: {remote.words_of(error)}"
        ) from error
    misfits = {
        address: remote.words_of(reply) if isinstance(reply, BaseException) else reply
        for address, reply in replies.items()
        if reply is not None
    }
    if misfits and len(misfits) == len(replies):
        address, reason = next(iter(misfits.items()))
        raise OrchestratorUnavailable(
            f"{flow}: no task can run on any of its {len(replies)} workers; on {address}: {reason}",
            hint="workers need this version of fasthep-flow, and the run folder at the same path",
        )
    for address, reason in misfits.items():
        _LOG.warning("%s: no task goes to worker %s: %s", flow, address, reason)
    if not replies:
        _LOG.warning("%s has no workers yet: tasks wait for them", flow)
    client.register_plugin(Fitting(*arguments))
