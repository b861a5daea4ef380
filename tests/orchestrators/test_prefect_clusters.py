"""Prefect on Dask clusters of somebody else's kind, and what is known of runners before a run."""

import os
import signal
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest

from fasthep_flow.errors import EnvironmentRefused, WorkerLost
from fasthep_flow.model import FlowSpec, Resources
from fasthep_flow.orchestrators.admission import machine_capacity
from fasthep_flow.orchestrators.prefect import PREFECT
from fasthep_flow.testing.runners import Workbench, reply_of, wait_until

pytestmark = pytest.mark.prefect

# As small as Dask makes it, and with pages on a port that no other cluster has.
_SMALL = {
    "n_workers": 1,
    "threads_per_worker": 2,
    "memory_limit": "1GiB",
    "dashboard_address": "127.0.0.1:0",
    "silence_logs": "CRITICAL",
}


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


def _flow(runner: str = "DaskTaskRunner", **options: object) -> FlowSpec:
    return FlowSpec(transform="prefect", runner=runner, options=options)


def _cluster(**options: object) -> FlowSpec:
    options["cluster_class"] = "distributed.LocalCluster"
    return FlowSpec(transform="prefect", runner="DaskTaskRunner", options=options)


@pytest.mark.usefixtures("prefect_server")
def test_a_cluster_of_any_class_runs_what_its_workers_have_room_for(bench: Workbench) -> None:
    flow = _cluster(cluster_kwargs=_SMALL)
    with PREFECT.open(flow, bench.plan(flow), bench.workers) as runner:
        all_of_it = Resources(cpus=2)
        first = runner.submit(bench.held("first"), {}, all_of_it, "first")
        bench.await_file("first.started")
        second = runner.submit(bench.job("second", "true"), {}, Resources(), "second")
        assert not second.running()
        for resources in (Resources(cpus=3), Resources(memory=2 * 1024**3)):
            with pytest.raises(EnvironmentRefused, match="'large' asks for more than any worker"):
                runner.submit(bench.job("large", "true"), {}, resources, "large")
        bench.make_file("go")
        assert {reply_of(job).status for job in (first, second)} == {"succeeded"}


@pytest.mark.usefixtures("prefect_server")
def test_a_lost_worker_of_such_a_cluster_is_told_and_the_next_attempt_runs(
    bench: Workbench,
) -> None:
    flow = _cluster(cluster_kwargs=_SMALL, allowed_failures=1)
    with PREFECT.open(flow, bench.plan(flow), bench.workers) as runner:
        assert runner.allowed_failures == 1
        doomed = runner.submit(bench.held("doomed"), {}, Resources(), "doomed")
        bench.await_file("doomed.started")
        worker, job = map(int, (bench.directory / "doomed.started").read_text().split())
        os.kill(worker, signal.SIGKILL)
        problem = doomed.exception(timeout=60)
        assert isinstance(problem, WorkerLost)
        assert "died" in problem.message
        wait_until(lambda: not psutil.pid_exists(job), "the lost worker's job lives on")
        again = runner.submit(bench.job("again", "true"), {}, Resources(), "again")
        assert reply_of(again).status == "succeeded"


@pytest.mark.usefixtures("prefect_server")
def test_an_adaptive_cluster_gets_workers_for_what_waits(bench: Workbench) -> None:
    flow = _cluster(
        cluster_kwargs=_SMALL | {"n_workers": 0}, adapt_kwargs={"minimum": 0, "maximum": 1}
    )
    with PREFECT.open(flow, bench.plan(flow), bench.workers) as runner:
        jobs = [
            runner.submit(bench.job(str(number), "true"), {}, Resources(), f"job {number}")
            for number in range(3)
        ]
        assert {reply_of(job).status for job in jobs} == {"succeeded"}
        running = runner.submit(bench.held("running"), {}, Resources(cpus=2), "running")
        bench.await_file("running.started")
        waiting: Future[str] = runner.submit(
            bench.held("waiting"), {}, Resources(cpus=2), "waiting"
        )
        bench.request_cancel()
        runner.cancel()
        assert reply_of(running).status == "cancelled"
        assert waiting.cancelled() or reply_of(waiting).status == "cancelled"
        assert not (bench.directory / "waiting.started").exists()


def test_options_are_known_without_the_engine() -> None:
    assert PREFECT.options("SequentialTaskRunner") == frozenset()
    assert PREFECT.options("ThreadPoolTaskRunner") == frozenset({"max_workers"})
    assert PREFECT.options("ProcessPoolTaskRunner") == frozenset(
        {"max_workers", "allowed_failures"}
    )
    dask, ray = PREFECT.options("DaskTaskRunner"), PREFECT.options("RayTaskRunner")
    assert dask is not None
    assert {"address", "cluster_class", "cluster_kwargs", "adapt_kwargs"} < dask
    assert "cluster" not in dask
    assert ray == frozenset({"address", "init_kwargs", "allowed_failures"})
    assert PREFECT.options("NoSuchRunner") is None


def test_what_is_missing_is_told_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PREFECT.why_not(_flow()) is None
    assert PREFECT.why_not(_flow(cluster_class="no_such_package.Cluster")) == (
        "there is no package no_such_package, of the option cluster_class"
    )
    monkeypatch.setattr(
        "fasthep_flow.orchestrators.prefect.is_installed", lambda package: package != "prefect_ray"
    )
    assert PREFECT.why_not(_flow("RayTaskRunner")) == (
        "the package prefect-ray is not installed: pip install 'fasthep-flow[ray]'"
    )


@pytest.mark.parametrize("runner", PREFECT.runners)
def test_what_no_worker_here_has_is_refused_before_anything_is_opened(runner: str) -> None:
    with pytest.raises(EnvironmentRefused, match="'large' asks for more than a worker of prefect"):
        PREFECT.require(_flow(runner), Resources(cpus=1e6), "large")
    PREFECT.require(_flow(runner), Resources(cpus=machine_capacity().cpus), "all of it")


def test_what_other_clusters_have_is_theirs_to_say() -> None:
    for flow in (
        _flow(address="tcp://127.0.0.1:9"),
        _cluster(),
        _flow("RayTaskRunner", address="x"),
    ):
        PREFECT.require(flow, Resources(cpus=1e6), "large")
