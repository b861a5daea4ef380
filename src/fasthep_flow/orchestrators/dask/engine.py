"""Jobs on the workers of a Dask cluster."""

from __future__ import annotations

from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.model import FlowSpec
from fasthep_flow.orchestrators import remote
from fasthep_flow.orchestrators.admission import Capacity
from fasthep_flow.orchestrators.runner import Done, Errand

if TYPE_CHECKING:
    import distributed

__all__ = ["DaskEngine", "abstract_resources", "connect", "import_dask", "stop_jobs"]


class DaskEngine:
    """Starts jobs on the workers of a Dask cluster of this run's own.

    Args:
        client: Of the cluster; whoever opened it closes it.
    """

    name = "Dask"

    def __init__(self, client: distributed.Client) -> None:
        self._client: Final[Any] = client

    def start(self, errand: Errand, done: Done) -> None:
        """See :meth:`fasthep_flow.orchestrators.runner.Engine.start`."""
        handle = self._client.submit(
            remote.run_job,
            errand.job_text,
            errand.sealed,
            key=f"{errand.label}-{uuid4().hex}",
            resources=abstract_resources(errand.demand),
            retries=0,
            pure=False,
        )
        handle.add_done_callback(partial(self._finish, done))

    def stop_jobs(self) -> None:
        """See :meth:`fasthep_flow.orchestrators.runner.Engine.stop_jobs`."""
        stop_jobs(self._client)

    def close(self) -> None:
        """See :meth:`fasthep_flow.orchestrators.runner.Engine.close`."""
        self._client.close()

    @staticmethod
    def _finish(done: Done, handle: Any) -> None:  # noqa: ANN401 - a distributed.Future
        outcome: str | BaseException
        try:
            outcome = handle.result()
        except (Exception, CancelledError) as problem:  # noqa: BLE001 - the callee tells it
            outcome = problem
        # Without this reference the scheduler and the worker forget the reply.
        handle.release()
        done(outcome)


def stop_jobs(client: Any) -> None:  # noqa: ANN401 - a distributed.Client, untyped
    """Stop all jobs on the workers of a cluster that serves this run alone."""

    def ask() -> None:
        with suppress(Exception):
            client.run(remote.stop_jobs, on_error="ignore")

    # Nobody waits for workers that do not answer.
    remote.in_background("fasthep-stop", ask)


def abstract_resources(capacity: Capacity) -> dict[str, float]:
    """What Dask schedules by: names and amounts; zero is left out."""
    return {name: float(value) for name, value in capacity._asdict().items() if value}


def connect(cluster: Any) -> Any:  # noqa: ANN401 - Dask's classes are untyped
    """A client of a cluster; not the one that Dask's own collections would use."""
    import distributed

    client: Any = distributed.Client
    return client(cluster, set_as_default=False)


def import_dask(flow: FlowSpec) -> tuple[Any, Any]:
    """The packages dask and distributed.

    Raises:
        OrchestratorUnavailable: They are not installed.
    """
    try:
        import dask
        import dask.config
        import distributed
    except ImportError as error:
        raise OrchestratorUnavailable(
            f"{flow} needs Dask, which cannot be imported: {error}",
            hint="pip install 'fasthep-flow[dask]'",
        ) from error
    return dask, distributed
