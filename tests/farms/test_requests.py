"""What tasks ask for, as the batch system's own records have it."""

import pytest
from tests.farms.batch import Asked, BatchSystem, FarmSite, Slurm
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


# Two devices on every machine, whatever the batch system lets a job see of them.
_DEVICES = """from fasthep_flow.environments.devices import inventory
from fasthep_flow.model import Gpu

def dask_setup(worker):
    inventory.machine_devices = lambda: (Gpu(id="GPU-a"), Gpu(id="GPU-b"))
"""


@pytest.mark.slurm
@pytest.mark.dask
@pytest.mark.parametrize(
    ("lines", "device"), [([], "cpu"), (["--gres=gpu:1"], "gpu")], ids=["not asked", "asked"]
)
def test_only_a_device_that_was_asked_for_is_used(
    site: FarmSite, lines: list[str], device: str
) -> None:
    site.root.mkdir(exist_ok=True)
    preload = site.root / "devices.py"
    preload.write_text(_DEVICES)
    resources = {"memory": "50Mi", "process_on": "gpu_if_available"}
    site.write_for(
        Slurm(),
        shell("fit", "echo $FASTHEP_DEVICE", needs=[], environment={"resources": resources}),
        worker_extra_args=["--preload", str(preload)],
        job_extra_directives=lines,
    )
    said = site.run()
    assert said.code == 0, said.both
    assert (site.folder("fit", 1) / "stdout.log").read_text() == f"{device}\n"
    if device == "cpu":
        assert (
            "none of the machine's devices" in (site.folder("fit", 1) / "result.json").read_text()
        )
    assert site.left() == {}
