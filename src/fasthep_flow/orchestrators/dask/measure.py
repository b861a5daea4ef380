"""How many workers a pool is to have: as many as hold the tasks that are ready, within bounds.

Imports Dask, so it is imported when a runner is opened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from distributed.deploy.adaptive import Adaptive

from fasthep_flow.orchestrators.admission import Capacity
from fasthep_flow.orchestrators.dask.requests import Request

__all__ = ["ToMeasure", "bounds_of", "workers_for"]

_MAXIMUM_JOBS: Final = 100
"""Most batch jobs of a pool at once, unless an option says."""
_IDLE_CHECKS: Final = 30
"""Seconds that a worker without a task is kept: the next layer of tasks finds it."""


class ToMeasure(Adaptive):
    """As many workers as the tasks need, in place of a guess from how long tasks took."""

    def __init__(self, cluster: Any, *, wanted: Callable[[], int], **options: Any) -> None:  # noqa: ANN401
        super().__init__(cluster, **options)
        self._wanted: Final = wanted

    async def target(self) -> int:
        """How many workers there should be."""
        return self._wanted()

    async def workers_to_close(self, target: int) -> list[Any]:
        """Names of workers that have nothing to do."""
        cluster: Any = self.cluster
        workers = cluster.scheduler.workers.values()
        idle = [state.name for state in workers if not state.processing]
        return idle[: max(0, len(self.plan) - target)]


def bounds_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of Dask's ``cluster.adapt``, where the user says none ours.

    Args:
        options: The user's.
    """
    return {
        "minimum_jobs": options.get("minimum_jobs") or 0,
        "maximum_jobs": options.get("maximum_jobs") or _MAXIMUM_JOBS,
        "interval": options.get("interval") or "1s",
        "wait_count": options.get("wait_count") or _IDLE_CHECKS,
    }


def workers_for(demands: Sequence[Capacity], request: Request) -> int:
    """How many workers hold these tasks together.

    Args:
        demands: What each task takes.
        request: The size of the workers' jobs.
    """
    if not demands:
        return 0
    room = request.room
    if request.threads == 1:
        return len(demands)
    shares: list[float] = [
        sum(amounts) / whole
        for amounts, whole in zip(zip(*demands, strict=True), room, strict=True)
        if whole
    ]
    return max(1, math.ceil(max([*shares, len(demands) / request.threads])))
