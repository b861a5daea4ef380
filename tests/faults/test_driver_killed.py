"""The driver is killed at any moment, and the same plain command goes on.

By default at some moments, drawn anew from one seed; ``FASTHEP_TEST_KILLS=200`` at so many.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.faults import forty
from tests.faults.conftest import Site

MOMENTS = int(os.environ.get("FASTHEP_TEST_KILLS") or 20)
AT_ONCE = 3


@pytest.fixture
def sites(tmp_path: Path, warm_cache: Path) -> Iterator[list[Site]]:
    made = [Site(tmp_path / str(number), warm_cache) for number in range(MOMENTS)]
    yield made
    made[0].root = tmp_path
    made[0].end()


def kill_and_resume(site: Site, moments: list[float]) -> int:
    """Kill a driver at each of the moments after its start; how many had begun a task."""
    forty.begin(site)
    before = []
    begun = 0
    for moment_s in moments:
        driver = site.start()
        time.sleep(moment_s)
        driver.kill()
        driver.communicate()
        if forty.has_succeeded(site):
            # It had nothing more to do: the same command would start another run.
            forty.judge(site)
            return begun
        before.append((forty.recorded(site), forty.completions(site)))
        begun += any(site.work.glob("output/*/tasks/*/*"))
    said = site.run()
    forty.resume(site, said, before)
    if before[-1][0] and len(before[-1][0]) < len(forty.NAMES):
        assert "going on with the run" in said.both
        assert len(list(site.work.glob("output/2*"))) == 1
    return begun


@pytest.mark.fault(
    1,
    "the driver is killed with -9 at any moment of 40 tasks",
    "the same command goes on: what was under way is ended first, what finished is not done"
    " again, no half output is read",
)
def test_forty_tasks_are_as_if_nothing_had_happened(sites: list[Site]) -> None:
    undisturbed = sites[0]
    forty.begin(undisturbed)
    started_s = time.monotonic()
    forty.resume(undisturbed, undisturbed.run(), [])
    # Others run beside it.
    whole_s = 1.5 * (time.monotonic() - started_s)
    drawn = random.Random(20260314)  # noqa: S311 - no secret
    moments = [
        [drawn.uniform(0.1, whole_s) for _ in range(1 if number % 4 else 2)]
        for number in range(1, MOMENTS)
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        begun = sum(pool.map(kill_and_resume, sites[1:], moments))
    assert begun > MOMENTS / 4
    assert {one: left for one in sites for left in [one.processes()] if left} == {}
