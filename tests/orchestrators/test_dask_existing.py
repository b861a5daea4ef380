"""``dask::scheduler``: a real scheduler and real workers that somebody else has started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from fasthep_flow.errors import EnvironmentRefused, OrchestratorUnavailable, WorkerLost
from fasthep_flow.model import FlowSpec, Resources
from fasthep_flow.orchestrators import Orchestrator, TaskRunner
from fasthep_flow.orchestrators.dask import DASK
from fasthep_flow.testing.runners import TaskRunnerSuite, Workbench, reply_of, wait_until

pytestmark = pytest.mark.dask

GIB = 2**30


class Cluster(NamedTuple):
    """A scheduler with workers, as `dask scheduler` and `dask worker` start them.

    Args:
        folder: For its files.
        processes: The scheduler first, and all workers.
        tls: Options of the command line.
    """

    folder: Path
    processes: list[subprocess.Popen[bytes]]
    tls: tuple[str, ...] = ()

    @property
    def file(self) -> Path:
        return self.folder / "scheduler.json"

    @property
    def address(self) -> str:
        return str(json.loads(self.file.read_text())["address"])

    def start(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        log = self.folder / f"{len(self.processes)}.log"
        with log.open("wb") as stream:
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]],
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    cwd=self.folder,
                    env=os.environ | (environment or {}),
                )
            )

    def scheduler(self) -> None:
        self.start(
            "scheduler",
            *("--host", "127.0.0.1", "--port", "0", "--no-dashboard"),
            *("--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(self.file)),
            *self.tls,
        )
        wait_until(self._is_there, "no scheduler")

    def _is_there(self) -> bool:
        # It is written at the end, and not at once.
        return self.file.exists() and self.file.read_text().rstrip().endswith("}")

    def worker(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.start(
            "worker",
            *("--scheduler-file", str(self.file), "--host", "127.0.0.1", "--no-dashboard"),
            *("--dashboard-address", "127.0.0.1:0", *self.tls, *arguments),
            environment=environment,
        )

    def end(self) -> None:
        for process in reversed(self.processes):
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A scheduler; workers are the test's to start."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    made = Cluster(folder, [])
    try:
        made.scheduler()
        yield made
    finally:
        made.end()


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    folder = tmp_path / "run here"
    folder.mkdir()
    return Workbench(folder)


def _flow(cluster: Cluster, **options: object) -> FlowSpec:
    return FlowSpec(
        transform="dask", runner="scheduler", options={"address": cluster.address, **options}
    )


def _await_workers(cluster: Cluster, count: int, **security: Any) -> None:
    import distributed

    make: Any = distributed.Client
    made: Any = distributed.Security
    with make(
        cluster.address, set_as_default=False, security=made(**security) if security else None
    ) as client:
        client.wait_for_workers(count, timeout=60)


class TestExisting(TaskRunnerSuite):
    """The suite, on a cluster whose one worker declares nothing."""

    __test__ = True
    _cluster: Cluster

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _served(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        cls._cluster = Cluster(tmp_path_factory.mktemp("cluster"), [])
        try:
            cls._cluster.scheduler()
            cls._cluster.worker("--nthreads", "2", "--memory-limit", "2GiB")
            _await_workers(cls._cluster, 1)
            yield
        finally:
            cls._cluster.end()

    @classmethod
    def orchestrator(cls) -> Orchestrator:
        return DASK

    @classmethod
    def flow(cls) -> FlowSpec:
        return _flow(cls._cluster)

    @classmethod
    def everything(cls) -> Resources:
        return Resources(cpus=2)

    def test_a_job_inherits_the_drivers_environment(
        self, shared: TaskRunner, bench: Workbench
    ) -> None:
        """Its worker's, here: with what Dask's own nanny has put there, and nothing more."""
        nanny = {"MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED"}
        nanny |= {"MALLOC_TRIM_THRESHOLD_", "__DASK_PARENT_PID"}
        text = bench.job("list", f"unset {' '.join(nanny)}; env -0")
        assert reply_of(shared.submit(text, {}, Resources(), "list")).status == "succeeded"
        lines = os.fsdecode((bench.attempt("list") / "stdout.log").read_bytes()).split("\0")
        theirs = dict(line.split("=", 1) for line in lines if line)
        assert theirs["PATH"] == os.environ["PATH"]
        known = {"PWD", "OLDPWD", "SHLVL", "_", "COLUMNS", "LINES"}
        assert {
            name for name in theirs.keys() - os.environ.keys() - known if "FASTHEP_" not in name
        } <= {"CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"}


def test_a_worker_offers_its_threads_and_its_memory(cluster: Cluster, bench: Workbench) -> None:
    cluster.worker("--nthreads", "3", "--memory-limit", "2GiB")
    _await_workers(cluster, 1)
    flow = _flow(cluster)
    with DASK.open(flow, bench.plan(flow), bench.workers) as runner:
        runner.require(Resources(cpus=3, memory=2 * GIB), "all")
        with pytest.raises(
            EnvironmentRefused, match=r"any worker .*: 4 cpus of 3 cpus, 2Gi memory"
        ):
            runner.require(Resources(cpus=4), "large")
        with pytest.raises(EnvironmentRefused, match="3Gi memory of 3 cpus, 2Gi memory"):
            runner.require(Resources(memory=3 * GIB), "fat")
        job = runner.submit(bench.job("all", "true"), {}, Resources(cpus=3, memory=2 * GIB), "all")
        assert reply_of(job).status == "succeeded"


def test_what_a_worker_declares_itself_holds(cluster: Cluster, bench: Workbench) -> None:
    cluster.worker("--nthreads", "3", "--resources", "cpus=1")
    _await_workers(cluster, 1)
    flow = _flow(cluster)
    with DASK.open(flow, bench.plan(flow), bench.workers) as runner:
        with pytest.raises(EnvironmentRefused, match="2 cpus of 1 cpus"):
            runner.require(Resources(cpus=2), "large")
        job = runner.submit(bench.job("small", "true"), {}, Resources(), "small")
        assert reply_of(job).status == "succeeded"


def test_tasks_wait_for_workers_that_come_later(
    cluster: Cluster, bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    flow = _flow(cluster)
    with DASK.open(flow, bench.plan(flow), bench.workers) as runner:
        assert "has no workers yet: tasks wait for them" in caplog.text
        runner.require(Resources(cpus=1000), "nobody knows")
        job = runner.submit(bench.job("first", "true"), {}, Resources(), "first")
        cluster.worker("--nthreads", "1")
        assert reply_of(job).status == "succeeded"


def test_a_lost_worker_is_named_and_the_next_attempt_goes_to_another(
    cluster: Cluster, bench: Workbench
) -> None:
    cluster.worker("--nthreads", "1", "--name", "alpha", "--no-nanny")
    _await_workers(cluster, 1)
    flow = _flow(cluster)
    with DASK.open(flow, bench.plan(flow), bench.workers) as runner:
        job = runner.submit(bench.held("doomed"), {}, Resources(), "doomed")
        bench.await_file("doomed.started")
        process = int((bench.directory / "doomed.started").read_text().split()[1])
        cluster.worker("--nthreads", "1", "--name", "beta", "--no-nanny")
        _await_workers(cluster, 2)
        cluster.processes[1].kill()
        problem = job.exception(timeout=60)
        assert isinstance(problem, WorkerLost)
        assert "worker alpha on " in problem.message
        wait_until(lambda: not psutil.pid_exists(process), "what it ran lives on")
        again = runner.submit(bench.job("again", "true"), {}, Resources(), "again")
        assert reply_of(again).status == "succeeded"
    claim = json.loads((bench.attempt("again") / "worker.json").read_text())
    assert claim["worker"] == "beta"


def test_a_worker_that_is_told_to_end_stops_its_tasks_first(
    cluster: Cluster, bench: Workbench
) -> None:
    """As a batch system does it: somebody else's workers run on one, too."""
    cluster.worker("--nthreads", "1", "--name", "alpha", "--no-nanny")
    cluster.worker("--nthreads", "1", "--name", "beta", "--no-nanny")
    _await_workers(cluster, 2)
    flow = _flow(cluster)
    with DASK.open(flow, bench.plan(flow), bench.workers) as runner:
        job = runner.submit(bench.held("doomed"), {}, Resources(), "doomed")
        bench.await_file("doomed.started")
        worker, process = map(int, (bench.directory / "doomed.started").read_text().split())
        os.kill(worker, signal.SIGTERM)
        assert isinstance(job.exception(timeout=60), WorkerLost)
        wait_until(lambda: not psutil.pid_exists(process), "what it ran lives on")


def test_a_scheduler_that_dies_is_one_error_and_no_wait(cluster: Cluster, bench: Workbench) -> None:
    cluster.worker("--nthreads", "1")
    _await_workers(cluster, 1)
    flow = _flow(cluster)
    with DASK.open(flow, bench.plan(flow), bench.workers) as runner:
        running = runner.submit(bench.held("running"), {}, Resources(), "running")
        waiting = runner.submit(bench.job("waiting", "true"), {}, Resources(), "waiting")
        bench.await_file("running.started")
        process = int((bench.directory / "running.started").read_text().split()[1])
        cluster.processes[0].kill()
        for future in (running, waiting):
            problem = future.exception(timeout=60)
            assert isinstance(problem, OrchestratorUnavailable)
            assert "does not answer any more" in problem.message
        wait_until(lambda: not psutil.pid_exists(process), "the task lives on")


def test_nobody_at_the_address_is_told_with_the_address(bench: Workbench) -> None:
    flow = FlowSpec(
        transform="dask",
        runner="scheduler",
        options={"address": "tcp://127.0.0.1:9", "timeout": 2},
    )
    with (
        pytest.raises(OrchestratorUnavailable, match=r"scheduler at tcp://127\.0\.0\.1:9 cannot"),
        DASK.open(flow, bench.plan(flow), bench.workers),
    ):
        pytest.fail("it was opened")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "needs the address of a Dask scheduler"),
        ({"address": ""}, "needs the address of a Dask scheduler"),
        ({"scheduler_file": "/nowhere/scheduler.json"}, "scheduler_file of dask::scheduler cannot"),
        (
            {"scheduler_file": "/nowhere/scheduler.json", "address": "tcp://127.0.0.1:1"},
            "address and scheduler_file of dask::scheduler say the same thing twice",
        ),
        ({"address": "tls://127.0.0.1:9", "tls_ca_file": "/nowhere/ca.pem"}, "there is no file"),
        ({"adress": "tcp://127.0.0.1:9"}, "knows no option 'adress'"),
    ],
)
def test_options_that_lead_nowhere_are_refused_at_once(
    bench: Workbench, options: dict[str, object], words: str
) -> None:
    flow = FlowSpec(transform="dask", runner="scheduler", options=options)
    with (
        pytest.raises(OrchestratorUnavailable, match=words),
        DASK.open(flow, bench.plan(flow), bench.workers),
    ):
        pytest.fail("it was opened")


def test_the_file_of_a_scheduler_serves_as_its_address(cluster: Cluster, bench: Workbench) -> None:
    cluster.worker("--nthreads", "1")
    _await_workers(cluster, 1)
    options = {"scheduler_file": str(cluster.file)}
    flow = FlowSpec(transform="dask", runner="scheduler", options=options)
    with DASK.open(flow, bench.plan(flow), bench.workers) as runner:
        job = runner.submit(bench.job("a", "true"), {}, Resources(), "a")
        assert reply_of(job).status == "succeeded"


def test_workers_without_this_package_are_refused_by_name(
    cluster: Cluster, bench: Workbench
) -> None:
    hidden = cluster.folder / "hidden"
    hidden.mkdir()
    (hidden / "fasthep_flow.py").write_text("raise ImportError('there is no fasthep-flow here')\n")
    cluster.worker("--nthreads", "1", environment={"PYTHONPATH": str(hidden)})
    _await_workers(cluster, 1)
    flow = _flow(cluster)
    with (
        pytest.raises(OrchestratorUnavailable, match="no task can run on any of its 1 workers"),
        DASK.open(flow, bench.plan(flow), bench.workers),
    ):
        pytest.fail("it was opened")


def test_a_scheduler_without_this_package_is_refused_by_name(
    tmp_path: Path, bench: Workbench
) -> None:
    """It reads what it is sent before its workers do."""
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "fasthep_flow.py").write_text("raise ImportError('there is no fasthep-flow here')\n")
    bare = Cluster(folder, [])
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(folder))
            bare.scheduler()
        bare.worker("--nthreads", "1")
        _await_workers(bare, 1)
        flow = _flow(bare)
        with (
            pytest.raises(OrchestratorUnavailable, match="its scheduler cannot import"),
            DASK.open(flow, bench.plan(flow), bench.workers),
        ):
            pytest.fail("it was opened")
    finally:
        bare.end()


def test_workers_that_do_not_see_the_run_folder_are_refused_by_name(
    cluster: Cluster, bench: Workbench, tmp_path: Path
) -> None:
    """A folder of the same path on another machine: here, in another mount namespace."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a process other mounts")
    cluster.processes.append(
        subprocess.Popen(
            [
                *("unshare", "--mount", "sh", "-c"),
                *(f'mount -t tmpfs none "{bench.directory}" && exec "$@"', "sh"),
                *(sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1"),
                *("--scheduler-file", str(cluster.file), "--no-dashboard", "--host", "127.0.0.1"),
            ],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    )
    _await_workers(cluster, 1)
    flow = _flow(cluster)
    with (
        pytest.raises(OrchestratorUnavailable, match="it does not see the run folder"),
        DASK.open(flow, bench.plan(flow), bench.workers),
    ):
        pytest.fail("it was opened")


def test_the_cluster_and_what_others_run_there_stay(cluster: Cluster, bench: Workbench) -> None:
    import distributed

    cluster.worker("--nthreads", "2")
    _await_workers(cluster, 1)
    make: Any = distributed.Client
    flow = _flow(cluster)
    line = f"while [ ! -e '{bench.directory}/go' ]; do sleep 0.05; done; echo theirs"
    with make(cluster.address, set_as_default=False) as client:
        with DASK.open(flow, bench.plan(flow), bench.workers) as runner:
            theirs = client.submit(subprocess.check_output, ["sh", "-c", line], pure=False)
            ours = runner.submit(bench.held("ours", until="never"), {}, Resources(), "ours")
            bench.await_file("ours.started")
            runner.cancel()
            assert reply_of(ours).status == "cancelled"
        bench.make_file("go")
        assert theirs.result(timeout=60) == b"theirs\n"
        assert len(client.scheduler_info()["workers"]) == 1


class TestTls:
    """A scheduler that speaks TLS alone."""

    @pytest.fixture
    def keys(self, tmp_path: Path) -> dict[str, str]:
        import distributed

        make: Any = distributed.Security.temporary
        security = make()
        files = {}
        for name in ("tls_ca_file", "tls_client_cert", "tls_client_key"):
            path = tmp_path / f"{name}.pem"
            path.write_text(getattr(security, name))
            files[name] = str(path)
        return files

    @pytest.fixture
    def secured(self, tmp_path: Path, keys: dict[str, str]) -> Iterator[Cluster]:
        folder = tmp_path / "secured"
        folder.mkdir()
        tls = ("--tls-ca-file", keys["tls_ca_file"], "--tls-cert", keys["tls_client_cert"])
        made = Cluster(folder, [], (*tls, "--tls-key", keys["tls_client_key"], "--protocol", "tls"))
        try:
            made.scheduler()
            made.worker("--nthreads", "1")
            yield made
        finally:
            made.end()

    def test_its_keys_are_options(
        self, secured: Cluster, keys: dict[str, str], bench: Workbench
    ) -> None:
        assert secured.address.startswith("tls://")
        flow = _flow(secured, **keys)
        with DASK.open(flow, bench.plan(flow), bench.workers) as runner:
            job = runner.submit(bench.job("a", "true"), {}, Resources(), "a")
            assert reply_of(job).status == "succeeded"

    def test_without_them_the_error_says_which(self, secured: Cluster, bench: Workbench) -> None:
        flow = _flow(secured, timeout=5)
        with (
            pytest.raises(OrchestratorUnavailable) as caught,
            DASK.open(flow, bench.plan(flow), bench.workers),
        ):
            pytest.fail("it was opened")
        assert "tls_ca_file" in str(caught.value.hint)
