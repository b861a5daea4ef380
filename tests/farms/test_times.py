"""Workers whose time runs out: what a task asks for is there, or it goes to another, or fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.farms.batch import BatchSystem, FarmSite
from tests.faults.conftest import shell

# As after a start that took a minute; of as many workers as the file says.
_LATE = """import os, psutil, time

def dask_setup(worker):
    for number in range({count}):
        try:
            os.close(os.open("{mark}" + str(number), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        started = time.time() - 60
        psutil.Process.create_time = lambda self: started
        return
"""


def _late(folder: Path, count: int) -> dict[str, Any]:
    """Options for workers of 110 seconds, as many of which begin late."""
    folder.mkdir(parents=True, exist_ok=True)
    preload = folder / "late.py"
    preload.write_text(_LATE.format(count=count, mark=folder / "late."))
    return {
        "cores": 1,
        "memory": "600Mi",
        "walltime": "00:01:50",
        "worker_extra_args": ["--preload", str(preload)],
    }


def test_a_worker_that_has_not_enough_time_left_takes_no_more_and_ends(
    batch: BatchSystem, site: FarmSite
) -> None:
    small = {"resources": {"memory": "50Mi"}}
    long = {"resources": {"memory": "50Mi", "walltime": "45s"}}
    site.write_for(
        batch,
        shell("first", "true", needs=[], environment=small),
        # As long as a minute of its 110 seconds is gone, 45 and what a worker needs are not left.
        shell("second", "true", needs=["first"], environment=long),
        **_late(site.root / "preload", 1),
    )
    said = site.run()
    assert said.code == 0, said.both
    # No attempt of it was begun on the first worker, and none is used up.
    assert [result.status for result in site.attempts("second")] == ["succeeded"]
    jobs = {site.claim(name)["batch_job"] for name in ("first", "second")}
    assert len(jobs) == 2
    assert len(batch.asked(site.root)) == 2
    assert site.left() == {}


def test_a_task_for_which_even_a_new_worker_has_no_time_fails_at_once(
    batch: BatchSystem, site: FarmSite
) -> None:
    long = {"resources": {"memory": "50Mi", "walltime": "45s"}}
    site.write_for(
        batch,
        shell("long", "true", needs=[], environment=long),
        **_late(site.root / "preload", 9),
    )
    said = site.run()
    assert said.code == 1, said.both
    assert "task 'long' asks for 45 s, and worker " in said.both
    assert "which has only just begun, has to end in " in said.both
    assert "the walltime of the options has to hold a task's" in said.both
    assert len(batch.asked(site.root)) == 1
    assert site.left() == {}
