"""Workers that tell what became of a job with the news that it has ended.

Dask keeps what a task returned where it ran, and fetches it when it is asked for: two calls
more for every job, each of which costs as much as a short task does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from fasthep_flow.errors import LimitUnenforceable, WorkerLost
from fasthep_flow.orchestrators import remote
from fasthep_flow.orchestrators.dask.engine import DaskEngine, abstract_resources
from fasthep_flow.orchestrators.runner import Errand

if TYPE_CHECKING:
    import distributed

__all__ = ["TellingEngine", "tell_answer"]

_MOST_TOLD: Final = 16 * 2**10
"""Characters: Dask's scheduler keeps the last thousand of what was told."""


class TellingEngine(DaskEngine):
    """Starts jobs on the workers of a Dask cluster that serves this run alone.

    Args:
        client: See :class:`fasthep_flow.orchestrators.dask.engine.DaskEngine`.
        bury: See there.
    """

    def __init__(
        self, client: distributed.Client, bury: Callable[[str, str], str] | None = None
    ) -> None:
        super().__init__(client, bury)
        self._topic: Final = f"fasthep-flow-{uuid4().hex}"
        self._told: Final[dict[str, str]] = {}
        self._client.subscribe_topic(self._topic, self._hear)

    def _hear(self, event: tuple[float, tuple[str, str]]) -> None:
        _, (key, answer) = event
        self._told[key] = answer

    def _hand_over(self, errand: Errand) -> Any:  # noqa: ANN401 - a distributed.Future
        key = f"{errand.label}-{uuid4().hex}"
        return self._client.submit(
            tell_answer,
            self._topic,
            key,
            errand.job_text,
            errand.sealed,
            key=key,
            resources=abstract_resources(errand.demand),
            # On its worker the first in this order that does not fit holds up all behind it.
            priority=0 if errand.is_early else 1,
            retries=0,
            pure=False,
        )

    def _reply(self, errand: Errand, handle: Any) -> str:  # noqa: ANN401 - as above
        told = self._told.pop(str(handle.key), None)
        return told if told is not None and handle.done() else super()._reply(errand, handle)


def tell_answer(
    topic: str, key: str, job_text: str, sealed: remote.Sealed
) -> str | remote.NotTaken | WorkerLost | LimitUnenforceable:
    """As :func:`fasthep_flow.orchestrators.remote.answer_job`; its driver is told the answer.

    Args:
        topic: Under which the driver listens.
        key: Of Dask's future.
        job_text: The JSON of a :class:`~fasthep_flow.model.Job`.
        sealed: The values of its variables.
    """
    answer = remote.answer_job(job_text, sealed)
    if isinstance(answer, str) and len(answer) <= _MOST_TOLD:
        from distributed import get_worker

        # On the same way as the news that the task has ended, and before that.
        get_worker().log_event(topic, (key, answer))
    return answer
