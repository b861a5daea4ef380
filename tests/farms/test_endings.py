"""Runs that are stopped, and drivers that are killed: nothing is left on the farm."""

import os
import signal

import pytest
from tests.farms.batch import BatchSystem, FarmSite, await_end, held
from tests.faults.conftest import said_by

from fasthep_flow.testing.runners import wait_until


@pytest.mark.podman
def test_ctrl_c_ends_everything(batch: BatchSystem, site: FarmSite, python_image: str) -> None:
    image = {"image": {"name": python_image, "runtime": "podman"}}
    site.write_for(batch, held("plain"), held("contained", environment=image))
    driver = site.start()
    for name in ("plain", "contained"):
        site.await_start(driver, name)
    os.killpg(driver.pid, signal.SIGINT)
    said = said_by(driver)
    assert said.code == 130, said.both
    assert {site.result(name).status for name in ("plain", "contained")} == {"cancelled"}
    assert "Traceback" not in said.both
    assert batch.alive(site.root) == set()
    assert site.left("podman") == {}


def test_a_job_that_waits_is_withdrawn(batch: BatchSystem, site: FarmSite) -> None:
    # More than is free beside the first one.
    site.write_for(batch, held("first"), held("waits", environment={"resources": {"cpus": 8}}))
    driver = site.start()
    site.await_start(driver, "first")
    wait_until(lambda: len(batch.alive(site.root)) == 2, "the second one is not submitted")
    os.kill(driver.pid, signal.SIGINT)
    said = said_by(driver)
    assert said.code == 130, said.both
    assert batch.alive(site.root) == set()
    assert site.left() == {}


@pytest.mark.podman
def test_no_worker_outlives_a_killed_driver(
    batch: BatchSystem, site: FarmSite, python_image: str
) -> None:
    image = {"image": {"name": python_image, "runtime": "podman"}}
    site.write_for(batch, held("plain"), held("contained", environment=image))
    driver = site.start()
    for name in ("plain", "contained"):
        site.await_start(driver, name)
    driver.kill()
    driver.communicate()
    await_end(batch, site.root)
    wait_until(lambda: not site.containers("podman"), "a container is left")
    wait_until(lambda: not site.processes(), "a process is left")
    [folder] = (site.work / "output" / "latest" / "workers").iterdir()
    # Nobody was there any more to remove them; the scheduler that they are for is gone.
    assert sorted(folder.glob(".dask-jobqueue.worker.*"))
    site.release()
    said = site.run()
    assert said.code == 0, said.both
    assert "twice" not in said.both
    assert not [*folder.glob(".*"), *folder.glob("scratch")]
    assert site.left("podman") == {}
