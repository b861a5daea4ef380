"""Workers that the batch system, or somebody, ends in the middle of a task."""

import os
import signal

import psutil
import pytest
from tests.farms.batch import BatchSystem, FarmSite, Slurm, held, say
from tests.faults.conftest import said_by

from fasthep_flow.testing.runners import wait_until


def _job(site: FarmSite, name: str, attempt: int) -> str:
    """The batch job that an attempt runs in."""
    return str(site.claim(name, attempt)["batch_job"]).split(".")[0]


def _output(site: FarmSite, name: str, attempt: int) -> str:
    return (site.folder(name, attempt) / "stdout.log").read_text()


def test_a_task_whose_job_is_cancelled_runs_again(batch: BatchSystem, site: FarmSite) -> None:
    site.write_for(batch, held("fit"))
    driver = site.start()
    site.await_start(driver, "fit")
    first = _job(site, "fit", 1)
    assert batch.alive(site.root) == {first}
    batch.cancel(first)
    site.await_start(driver, "fit", 2)
    site.release()
    said = said_by(driver)
    assert said.code == 0, said.both
    lost, kept = site.attempts("fit")
    assert lost.failure is not None
    assert (lost.status, lost.failure.kind) == ("failed", "worker")
    assert first in lost.failure.message
    assert kept.status == "succeeded"
    assert _output(site, "fit", 2) == "fit ends\n"
    assert _job(site, "fit", 2) != first
    assert site.left() == {}


@pytest.mark.podman
def test_a_cancelled_job_takes_its_container_along(
    batch: BatchSystem, site: FarmSite, python_image: str
) -> None:
    image = {"image": {"name": python_image, "runtime": "podman"}}
    site.write_for(batch, held("fit", environment=image))
    driver = site.start()
    site.await_start(driver, "fit")
    (first,) = site.containers("podman")
    batch.cancel(_job(site, "fit", 1))
    site.await_start(driver, "fit", 2)
    assert first not in site.containers("podman")
    site.release()
    said = said_by(driver)
    assert said.code == 0, said.both
    assert [result.status for result in site.attempts("fit")] == ["failed", "succeeded"]
    assert site.left("podman") == {}


def test_at_the_limit_it_fails_with_the_workers_last_words(
    batch: BatchSystem, site: FarmSite
) -> None:
    site.write_for(batch, held("fit"), allowed_failures=1)
    driver = site.start()
    for attempt in (1, 2):
        site.await_start(driver, "fit", attempt)
        batch.cancel(_job(site, "fit", attempt))
    said = said_by(driver)
    assert said.code == 1, said.both
    results = site.attempts("fit")
    assert [result.status for result in results] == ["failed", "failed"]
    last = results[-1].failure
    assert last is not None
    assert last.kind == "worker"
    assert f"batch job {_job(site, 'fit', 2)}" in last.message
    # What the batch system, or the worker, wrote to the job's own log.
    assert "SIGTERM" in last.message or "CANCELLED" in last.message
    assert last.message.splitlines()[0] in said.both
    assert site.left() == {}


def test_one_of_two_pools_loses_a_worker(batch: BatchSystem, site: FarmSite) -> None:
    site.write_for(batch, held("small"), held("large", memory="150Mi"))
    driver = site.start()
    for name in ("small", "large"):
        site.await_start(driver, name)
    doomed, other = site.claim("small"), site.claim("large")
    assert doomed["batch_job"] != other["batch_job"]
    os.kill(doomed["pid"], signal.SIGKILL)
    site.await_start(driver, "small", 2)
    site.release()
    said = said_by(driver)
    assert said.code == 0, said.both
    assert [result.status for result in site.attempts("small")] == ["failed", "succeeded"]
    assert [result.status for result in site.attempts("large")] == ["succeeded"]
    assert _output(site, "small", 2) == "small ends\n"
    assert _output(site, "large", 1) == "large ends\n"
    wait_until(lambda: not batch.alive(site.root), "a job is left")
    assert site.left() == {}


def test_a_worker_that_hangs_is_ended_before_its_task_runs_again(
    batch: BatchSystem, site: FarmSite
) -> None:
    site.write_for(batch, held("fit"))
    driver = site.start(DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="4s")
    site.await_start(driver, "fit")
    first = site.claim("fit")["pid"]
    # It hears no signal any more but KILL.
    os.kill(first, signal.SIGSTOP)
    site.await_start(driver, "fit", 2)
    assert not psutil.pid_exists(first)
    site.release()
    said = said_by(driver)
    assert said.code == 0, said.both
    assert [result.status for result in site.attempts("fit")] == ["failed", "succeeded"]
    assert _output(site, "fit", 2) == "fit ends\n"
    assert batch.alive(site.root) == set()
    assert site.left() == {}


def test_a_nanny_that_is_killed_takes_its_workers_along(batch: BatchSystem, site: FarmSite) -> None:
    site.write_for(batch, held("fit"), cores=2, memory="1300Mi", processes=2)
    driver = site.start()
    site.await_start(driver, "fit")
    first = psutil.Process(site.claim("fit")["pid"])
    nanny = first.parent()
    assert nanny is not None
    assert "dask_worker" in " ".join(nanny.cmdline())
    nanny.kill()
    site.await_start(driver, "fit", 2)
    # Whom its end is told reaps it when it likes.
    assert not first.is_running() or first.status() == psutil.STATUS_ZOMBIE
    site.release()
    said = said_by(driver)
    assert said.code == 0, said.both
    assert [result.status for result in site.attempts("fit")] == ["failed", "succeeded"]
    assert _output(site, "fit", 2) == "fit ends\n"
    assert batch.alive(site.root) == set()
    assert site.left() == {}


@pytest.mark.slurm
@pytest.mark.dask
def test_a_task_whose_host_goes_runs_again(site: FarmSite) -> None:
    slurm = Slurm()
    site.write_for(slurm, held("fit"))
    driver = site.start()
    site.await_start(driver, "fit")
    first = _job(site, "fit", 1)
    host = say("squeue", "--noheader", "--format=%N", "--jobs", first).strip()
    # It comes back by itself, but its jobs are gone: state NODE_FAIL.
    say("scontrol", "update", f"NodeName={host}", "State=DOWN", "Reason=test")
    site.await_start(driver, "fit", 2)
    site.release()
    said = said_by(driver)
    assert said.code == 0, said.both
    lost, kept = site.attempts("fit")
    assert lost.failure is not None
    assert (lost.failure.kind, kept.status) == ("worker", "succeeded")
    assert f"batch job {first}" in lost.failure.message
    assert _job(site, "fit", 2) != first
    assert _output(site, "fit", 2) == "fit ends\n"
    assert slurm.alive(site.root) == set()
    assert site.left() == {}
