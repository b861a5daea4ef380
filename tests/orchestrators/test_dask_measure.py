"""How many workers there are to be for the tasks that are ready."""

from __future__ import annotations

import pytest

from fasthep_flow.model import FlowSpec, Resources
from fasthep_flow.orchestrators.admission import Capacity
from fasthep_flow.orchestrators.dask.measure import bounds_of, workers_for
from fasthep_flow.orchestrators.dask.requests import Sizes

pytestmark = pytest.mark.dask

GIB = 2**30
SMALL = Capacity(1, GIB, 0)


def test_a_worker_that_is_as_large_as_a_task_has_one() -> None:
    flow = FlowSpec(transform="dask", runner="slurm")
    request = Sizes(flow, {}).request(Resources(memory=GIB), "fit")
    assert [workers_for([SMALL] * count, request) for count in (0, 1, 7)] == [0, 1, 7]


@pytest.mark.parametrize(
    ("demands", "workers"),
    [
        ([], 0),
        ([SMALL], 1),
        # By processors, of which each has four.
        ([SMALL] * 4, 1),
        ([SMALL] * 5, 2),
        # By memory, of which each has eight.
        ([Capacity(0.5, 4 * GIB, 0)] * 3, 2),
        # By how many may run at once, if each takes next to nothing.
        ([Capacity(0.01, 0, 0)] * 65, 2),
    ],
)
def test_workers_that_are_shared_are_as_many_as_hold_all(
    demands: list[Capacity], workers: int
) -> None:
    options = {"cores": 4, "memory": "8.5Gi"}
    flow = FlowSpec(transform="dask", runner="slurm", options=options)
    request = Sizes(flow, options).request(Resources(), "fit")
    assert workers_for(demands, request) == workers


def test_the_users_bounds_hold() -> None:
    assert bounds_of({}) == {
        "minimum_jobs": 0,
        "maximum_jobs": 100,
        "interval": "1s",
        "wait_count": 30,
    }
    mine = {"minimum_jobs": 2, "maximum_jobs": 3, "interval": "5s", "wait_count": 1}
    assert bounds_of(mine | {"queue": "long"}) == mine
