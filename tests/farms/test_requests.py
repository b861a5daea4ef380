"""What tasks ask for, as the batch system's own records have it."""

from tests.farms.batch import Asked, BatchSystem, FarmSite
from tests.faults.conftest import shell

# What a worker takes besides its task, in MiB.
WORKER = 512


def test_each_task_asks_for_its_own(batch: BatchSystem, site: FarmSite) -> None:
    site.write_for(
        batch,
        shell(
            "small",
            "env | grep '^[^=]*DASK' || true",
            needs=[],
            environment={"resources": {"memory": "60Mi"}},
        ),
        shell("large", "true", needs=[], environment={"resources": {"memory": "200Mi", "cpus": 2}}),
        shell("small too", "true", needs=[], environment={"resources": {"memory": "60Mi"}}),
    )
    said = site.run()
    assert said.code == 0, said.both
    asked = batch.asked(site.root)
    assert set(asked.values()) == {Asked(1, 60 + WORKER), Asked(2, 200 + WORKER)}
    # Nothing of the worker's own is handed down.
    assert (site.folder("small", 1) / "stdout.log").read_text() == ""
    jobs = {name: site.claim(name)["batch_job"].split(".")[0] for name in ("small", "large")}
    assert asked[jobs["small"]].memory_mib == 60 + WORKER
    assert asked[jobs["large"]].memory_mib == 200 + WORKER
    assert batch.alive(site.root) == set()
    assert site.left() == {}


def test_tasks_share_workers_of_the_size_that_is_said(batch: BatchSystem, site: FarmSite) -> None:
    small = {"resources": {"memory": "60Mi"}}
    tasks = [shell(f"t{number}", "true", needs=[], environment=small) for number in range(8)]
    site.write_for(batch, *tasks, cores=2, memory="1Gi", maximum_jobs=1)
    said = site.run()
    assert said.code == 0, said.both
    assert list(batch.asked(site.root).values()) == [Asked(2, 1024)]
    assert len({site.claim(task["name"])["pid"] for task in tasks}) == 1
