"""A Dask worker as a batch job runs it: how it ends, and what it takes before it must."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec
import psutil
import pytest

from fasthep_flow.errors import LimitUnenforceable, WorkerLost
from fasthep_flow.model import Image, Job, JobResult, Resources, from_json, to_json
from fasthep_flow.orchestrators import remote
from fasthep_flow.orchestrators.admission import Capacity
from fasthep_flow.orchestrators.dask import worker as worker_module
from fasthep_flow.orchestrators.dask.engine import DaskEngine
from fasthep_flow.orchestrators.dask.worker import SECONDS_VARIABLE, batch_job
from fasthep_flow.orchestrators.runner import Errand
from fasthep_flow.testing.runners import Workbench, wait_until

pytestmark = pytest.mark.dask


class Served(NamedTuple):
    """A scheduler in this process, and workers of our own beside it."""

    client: Any
    folder: Path
    processes: list[subprocess.Popen[bytes]]

    def start(
        self, name: str, address: str | None = None, **environment: str
    ) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "distributed.cli.dask_worker"),
                    *(address or self.client.scheduler.address, "--name", name, "--no-nanny"),
                    *("--nthreads", "1", "--preload", worker_module.__name__, "--memory-limit"),
                    *("0", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"),
                    *("--death-timeout", "10"),
                ],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=os.environ | environment,
            )
        self.processes.append(process)
        return process

    def submit(self, text: str, name: str) -> Any:
        return self.client.submit(
            remote.answer_job, text, remote.Sealed({}), workers=[name], pure=False, retries=0
        )


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    import distributed

    make: Any = distributed.LocalCluster
    client: Any = distributed.Client
    options: dict[str, Any] = {"n_workers": 0, "dashboard_address": None, "host": "127.0.0.1"}
    options |= {"scheduler_kwargs": {"dashboard": False, "dashboard_address": "127.0.0.1:0"}}
    with make(**options) as cluster, client(cluster, set_as_default=False) as opened:
        made = Served(opened, tmp_path, [])
        try:
            yield made
        finally:
            for process in made.processes:
                process.kill()
                process.wait()


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


def _limited(text: str, walltime_s: float) -> str:
    job = from_json(Job, text)
    return to_json(msgspec.structs.replace(job, resources=Resources(walltime_s=walltime_s)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_task_first_and_counts_as_a_loss(
    served: Served, bench: Workbench, number: signal.Signals
) -> None:
    process = served.start("alpha", SLURM_JOB_ID="4711")
    served.client.wait_for_workers(1, timeout=60)
    future = served.submit(bench.held("doomed", until="never"), "alpha")
    bench.await_file("doomed.started")
    task = int((bench.directory / "doomed.started").read_text().split()[1])
    process.send_signal(number)
    answer = future.result(timeout=60)
    assert isinstance(answer, WorkerLost)
    assert "worker alpha of batch job 4711 on " in answer.message
    assert number.name in answer.message
    assert not psutil.pid_exists(task)
    process.wait(timeout=60)


def test_a_task_that_dies_of_the_batch_systems_signal_did_not_fail(
    served: Served, bench: Workbench
) -> None:
    """Slurm signals every process of a job at once; the task may be the first to die."""
    process = served.start("alpha", SLURM_JOB_ID="4711")
    served.client.wait_for_workers(1, timeout=60)
    future = served.submit(bench.held("doomed", until="never"), "alpha")
    bench.await_file("doomed.started")
    task = int((bench.directory / "doomed.started").read_text().split()[1])
    os.kill(task, signal.SIGTERM)
    process.terminate()
    assert isinstance(future.result(timeout=60), WorkerLost)


def test_a_task_that_fails_on_a_worker_that_stays_has_failed(
    served: Served, bench: Workbench
) -> None:
    served.start("alpha", SLURM_JOB_ID="4711")
    served.client.wait_for_workers(1, timeout=60)
    answer = served.submit(bench.job("a", "kill -TERM $$"), "alpha").result(timeout=60)
    assert from_json(JobResult, answer).status == "failed"


def test_what_no_worker_has_begun_is_stopped_without_one(served: Served, bench: Workbench) -> None:
    # As when its worker was lost, and the next one waits in the batch system's queue.
    engine = DaskEngine(served.client)
    told: SimpleQueue[str | BaseException] = SimpleQueue()
    job = bench.job("waits", "touch ran")
    engine.start(Errand(job, remote.Sealed({}), "waits", Capacity(1, 0, 0)), told.put)
    engine.stop_jobs()
    answer = told.get(timeout=60)
    assert isinstance(answer, str)
    assert from_json(JobResult, answer).status == "cancelled"
    # Nor does one that comes too late.
    wait_until(lambda: not served.client.futures, "Dask still has it")
    served.start("late", DASK_DISTRIBUTED__WORKER__RESOURCES__CPUS="1")
    served.client.wait_for_workers(1, timeout=60)
    assert served.submit(bench.job("next", "true"), "late").result(timeout=60)
    assert not (bench.directory / "ran").exists()


def test_the_claim_says_where_an_attempt_began(served: Served, bench: Workbench) -> None:
    process = served.start("alpha", SLURM_JOB_ID="4711")
    text = bench.job("a", "true")
    assert remote.claim_of(text) is None
    served.client.wait_for_workers(1, timeout=60)
    assert isinstance(served.submit(text, "alpha").result(timeout=60), str)
    claim = remote.claim_of(text)
    assert claim is not None
    assert (claim.pid, claim.worker, claim.batch_job) == (process.pid, "alpha", "4711")


def test_an_attempt_that_was_begun_is_begun_by_nobody_else(
    served: Served, bench: Workbench
) -> None:
    served.start("alpha")
    served.start("beta")
    served.client.wait_for_workers(2, timeout=60)
    text = bench.job("a", "echo once >> times")
    assert isinstance(served.submit(text, "alpha").result(timeout=60), str)
    answer = served.submit(text, "beta").result(timeout=60)
    assert isinstance(answer, WorkerLost)
    assert "alpha" in answer.message
    assert (bench.directory / "times").read_text() == "once\n"


def test_a_worker_without_the_time_for_a_task_leaves_it_and_ends(
    served: Served, bench: Workbench
) -> None:
    process = served.start("short", **{SECONDS_VARIABLE: "120"})
    served.client.wait_for_workers(1, timeout=60)
    fits = served.submit(_limited(bench.held("fits"), 10), "short")
    bench.await_file("fits.started")
    bench.make_file("go")
    assert isinstance(fits.result(timeout=60), str)
    long = _limited(bench.job("long", "true"), 3600)
    answer = served.submit(long, "short").result(timeout=60)
    assert isinstance(answer, remote.NotTaken)
    assert remote.claim_of(long) is None, "it is free for another worker"
    assert process.wait(timeout=60) == 0


def test_a_task_that_even_a_new_worker_has_no_time_for_is_refused(
    served: Served, bench: Workbench
) -> None:
    process = served.start("short", **{SECONDS_VARIABLE: "120"})
    served.client.wait_for_workers(1, timeout=60)
    long = _limited(bench.job("long", "true"), 3600)
    answer = served.submit(long, "short").result(timeout=60)
    assert isinstance(answer, LimitUnenforceable)
    assert answer.message.startswith("task 'long' asks for 3600 s, and worker short on ")
    assert re.search(r"which has only just begun, has to end in 1\d\d s", answer.message)
    assert answer.hint
    # It stays for others.
    assert isinstance(served.submit(bench.job("a", "true"), "short").result(timeout=60), str)
    assert process.poll() is None


def test_an_engine_does_not_look_for_another_worker_then(served: Served, bench: Workbench) -> None:
    served.start(
        "short",
        DASK_DISTRIBUTED__WORKER__RESOURCES__CPUS="1",
        **{SECONDS_VARIABLE: "120"},
    )
    served.client.wait_for_workers(1, timeout=60)
    engine = DaskEngine(served.client)
    told: SimpleQueue[str | BaseException] = SimpleQueue()
    long = _limited(bench.job("long", "true"), 3600)
    engine.start(Errand(long, remote.Sealed({}), "long", Capacity(1, 0, 0)), told.put)
    assert isinstance(told.get(timeout=60), LimitUnenforceable)


def test_a_worker_whose_scheduler_is_gone_stops_its_task_and_ends(
    tmp_path: Path, bench: Workbench
) -> None:
    """As after kill -9 of the driver."""
    import distributed

    file = tmp_path / "scheduler.json"
    options = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--dashboard-address")
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "distributed.cli.dask_scheduler", *options, "127.0.0.1:0"),
            *("--scheduler-file", str(file)),
        ],
        stderr=subprocess.DEVNULL,
    ) as scheduler:
        wait_until(lambda: file.exists() and "}" in file.read_text(), "no scheduler")
        client: Any = distributed.Client
        opened = client(scheduler_file=str(file), set_as_default=False)
        served = Served(opened, tmp_path, [])
        process = served.start("alpha")
        try:
            opened.wait_for_workers(1, timeout=60)
            served.submit(bench.held("orphan", until="never"), "alpha")
            bench.await_file("orphan.started")
            task = int((bench.directory / "orphan.started").read_text().split()[1])
            scheduler.kill()
            process.wait(timeout=60)
            wait_until(lambda: not psutil.pid_exists(task), "the task lives on")
        finally:
            process.kill()
            opened.close(timeout=1)


def test_a_worker_that_never_finds_its_scheduler_ends(tmp_path: Path) -> None:
    process = Served(None, tmp_path, []).start("late", "tcp://127.0.0.1:9")
    assert process.wait(timeout=60) != 0


def test_the_job_of_a_worker_is_found_in_what_the_batch_system_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", "_CONDOR_JOB_AD"):
        monkeypatch.delenv(name, raising=False)
    assert batch_job() == ""
    advertisement = tmp_path / ".job.ad"
    advertisement.write_text('Cmd = "/bin/sh"\nClusterId = 12\nProcId = 3\n')
    monkeypatch.setenv("_CONDOR_JOB_AD", str(advertisement))
    assert batch_job() == "12.3"
    monkeypatch.setenv("_CONDOR_JOB_AD", str(tmp_path / "none"))
    assert batch_job() == ""
    monkeypatch.setenv("SLURM_JOB_ID", "99")
    assert batch_job() == "99"


def test_a_claim_that_a_network_file_system_hides_is_found_by_listing(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = bench.job("a", "true")
    folder = bench.attempt("a")
    listed = []

    def see(path: str) -> list[str]:
        # What another machine has made is seen from then on.
        listed.append(path)
        if path == str(folder):
            folder.mkdir(parents=True)
            (folder / "worker.json").write_text('{"host": "node01", "pid": 7}')
        return []

    monkeypatch.setattr("os.listdir", see)
    assert remote.claim_of(text) == remote.Claim(host="node01", pid=7)
    assert listed == [str(folder.parent), str(folder)]


def test_what_is_on_a_worker_is_not_handed_out_again(
    served: Served, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fasthep_flow.orchestrators.dask.engine._OVERLOOKED_S", 0)
    served.start("alpha", DASK_DISTRIBUTED__WORKER__RESOURCES__CPUS="1")
    served.client.wait_for_workers(1, timeout=60)
    engine = DaskEngine(served.client)
    told: SimpleQueue[str | BaseException] = SimpleQueue()
    job = bench.held("fit", until="go")
    engine.start(Errand(job, remote.Sealed({}), "fit", Capacity(1, 0, 0)), told.put)
    bench.await_file("fit.started")
    with monkeypatch.context() as patch:
        # As long as the file system hides it.
        patch.setattr(remote, "claim_of", lambda _: None)
        engine.hand_out_again()
    bench.make_file("go")
    answer = told.get(timeout=60)
    assert isinstance(answer, str)
    assert from_json(JobResult, answer).status == "succeeded"


def test_what_dask_overlooks_is_handed_out_again(
    served: Served, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fasthep_flow.orchestrators.dask.engine._OVERLOOKED_S", 0)
    engine = DaskEngine(served.client)
    told: SimpleQueue[str | BaseException] = SimpleQueue()
    job = bench.job("fit", "true")
    engine.start(Errand(job, remote.Sealed({}), "fit", Capacity(1, 0, 0)), told.put)
    [first] = served.client.futures
    engine.hand_out_again()
    wait_until(lambda: {first} != set(served.client.futures) != set(), "it is still the first")
    served.start("alpha", DASK_DISTRIBUTED__WORKER__RESOURCES__CPUS="1")
    answer = told.get(timeout=60)
    assert isinstance(answer, str)
    assert from_json(JobResult, answer).status == "succeeded"


def test_a_claim_that_was_cut_short_is_one_all_the_same(bench: Workbench) -> None:
    text = bench.job("a", "true")
    bench.attempt("a").mkdir(parents=True)
    (bench.attempt("a") / "worker.json").write_text('{"host": "no')
    assert remote.claim_of(text) == remote.Claim(host="", pid=0)
    assert isinstance(remote.answer_job(text, remote.Sealed({})), WorkerLost)


def _containers(run_id: str) -> list[str]:
    listed = ["podman", "ps", "--all", "--quiet", "--filter", f"label=fasthep.run={run_id}"]
    return subprocess.check_output(listed, text=True).split()


@pytest.mark.podman
@pytest.mark.parametrize("end", ["SIGINT", "SIGTERM", "SIGKILL", "retired"])
def test_kept_containers_live_and_end_with_their_worker(
    served: Served, bench: Workbench, busybox_image: str, end: str
) -> None:
    run_id = f"kept-{uuid4().hex}"
    process = served.start("alpha")
    served.client.wait_for_workers(1, timeout=60)
    for name in ("first", "second"):
        job = msgspec.structs.replace(
            from_json(Job, bench.job(name, "echo $HOSTNAME")),
            run_id=run_id,
            runtime="podman",
            image=Image(name=busybox_image),
        )
        answer = served.submit(to_json(job), "alpha").result(timeout=120)
        assert from_json(JobResult, answer).status == "succeeded", answer
    assert len(_containers(run_id)) == 1, "it serves one job after the other"
    if end == "retired":
        served.client.retire_workers(names=["alpha"], close_workers=True)
    else:
        process.send_signal(signal.Signals[end])
    process.wait(timeout=60)
    wait_until(lambda: not _containers(run_id), "a container outlives its worker")
