import contextlib
import os
import signal
import sys
import warnings
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlsplit

import msgspec
import psutil
import pytest

from fasthep_flow.errors import (
    FlowError,
    LimitUnenforceable,
    OrchestratorUnavailable,
    WorkerLost,
)
from fasthep_flow.model import FlowSpec, Job, Resources, from_json, to_json
from fasthep_flow.orchestrators import Orchestrator
from fasthep_flow.orchestrators.admission import machine_capacity
from fasthep_flow.orchestrators.dask import DASK
from fasthep_flow.orchestrators.dask import local as dask_module
from fasthep_flow.testing.runners import TaskRunnerSuite, Workbench, reply_of, wait_until

pytestmark = pytest.mark.dask


class TestLocalCluster(TaskRunnerSuite):
    __test__ = True

    @classmethod
    def orchestrator(cls) -> Orchestrator:
        return DASK

    @classmethod
    def flow(cls) -> FlowSpec:
        return FlowSpec(transform="dask", runner="local")


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


def _flow(**options: object) -> FlowSpec:
    return FlowSpec(transform="dask", runner="local", options=options)


def test_jobs_spread_over_as_many_workers_as_asked_for(bench: Workbench) -> None:
    flow = _flow(n_workers=2, threads_per_worker=1)
    with DASK.open(flow, bench.plan(flow), bench.workers) as runner:
        jobs = [runner.submit(bench.held(name), {}, Resources(), name) for name in "ab"]
        third = runner.submit(bench.held("c"), {}, Resources(), "c")
        bench.await_file("a.started")
        bench.await_file("b.started")
        assert not third.running()
        workers = {(bench.directory / f"{name}.started").read_text().split()[0] for name in "ab"}
        assert len(workers) == 2
        bench.make_file("go")
        assert {reply_of(job).status for job in (*jobs, third)} == {"succeeded"}


def test_a_lost_worker_takes_no_other_workers_job_along(bench: Workbench) -> None:
    flow = _flow(n_workers=2, threads_per_worker=1)
    with DASK.open(flow, bench.plan(flow), bench.workers) as runner:
        doomed = runner.submit(bench.held("doomed"), {}, Resources(), "doomed")
        other = runner.submit(bench.held("other"), {}, Resources(), "other")
        bench.await_file("doomed.started")
        bench.await_file("other.started")
        worker = int((bench.directory / "doomed.started").read_text().split()[0])
        os.kill(worker, signal.SIGKILL)
        assert isinstance(doomed.exception(timeout=60), FlowError)
        assert not other.done()
        bench.make_file("go")
        assert reply_of(other).status == "succeeded"


def test_a_worker_that_hangs_is_lost_and_another_takes_its_place(bench: Workbench) -> None:
    """As with a host that goes: no connection is closed, there is only no sign of life."""
    import dask.config

    flow = _flow()
    settings = dask.config.set({"distributed.scheduler.worker-ttl": "1s"})
    with settings, DASK.open(flow, bench.plan(flow), bench.workers) as runner:
        job = runner.submit(bench.held("doomed"), {}, Resources(), "doomed")
        bench.await_file("doomed.started")
        worker, task = map(int, (bench.directory / "doomed.started").read_text().split())
        os.kill(worker, signal.SIGSTOP)
        problem = job.exception(timeout=60)
        assert isinstance(problem, WorkerLost)
        assert f"worker {worker} on " in problem.message
        wait_until(lambda: not psutil.pid_exists(task), "what it ran lives on")
        wait_until(lambda: not psutil.pid_exists(worker), "the worker lives on")
        again = runner.submit(bench.job("again", "true"), {}, Resources(), "again")
        assert reply_of(again).status == "succeeded"


def test_how_often_a_task_may_lose_its_worker_is_an_option(bench: Workbench) -> None:
    flow = _flow(allowed_failures=0)
    with DASK.open(flow, bench.plan(flow), bench.workers) as runner:
        assert runner.allowed_failures == 0
    with (
        pytest.raises(OrchestratorUnavailable, match="allowed_failures of dask::local is -1"),
        DASK.open(_flow(allowed_failures=-1), bench.plan(flow), bench.workers),
    ):
        pytest.fail("it was opened")


def test_nothing_lies_in_the_run_folder_where_no_worker_needs_it(bench: Workbench) -> None:
    flow = _flow()
    with DASK.open(flow, bench.plan(flow), bench.workers):
        assert not bench.workers.exists()


def test_nothing_lies_in_the_temporary_folder_afterwards(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    flow = _flow()
    with DASK.open(flow, bench.plan(flow), bench.workers) as runner:
        assert (
            reply_of(runner.submit(bench.job("a", "true"), {}, Resources(), "a")).status
            == "succeeded"
        )
        assert [path.name for path in folder.glob("*/dask-scratch-space*")]
    assert not [path for path in folder.iterdir() if "dask" in path.name]


def test_the_users_own_folder_for_dasks_files_is_used(bench: Workbench, tmp_path: Path) -> None:
    flow = _flow(local_directory=str(tmp_path / "mine"))
    with DASK.open(flow, bench.plan(flow), bench.workers):
        assert (tmp_path / "mine").is_dir()


def test_dasks_own_log_stays_off_the_terminal(
    bench: Workbench, capfd: pytest.CaptureFixture[str]
) -> None:
    flow = _flow()
    with DASK.open(flow, bench.plan(flow), bench.workers) as runner:
        job = runner.submit(bench.held("doomed"), {}, Resources(), "doomed")
        bench.await_file("doomed.started")
        os.kill(int((bench.directory / "doomed.started").read_text().split()[0]), signal.SIGKILL)
        assert isinstance(job.exception(timeout=60), WorkerLost)
    shown = "".join(capfd.readouterr())
    assert "marked as failed" not in shown
    assert "distributed." not in shown


def test_a_share_of_the_machine_is_what_one_worker_offers(bench: Workbench) -> None:
    flow = _flow(n_workers=2 * int(machine_capacity().cpus))
    with (
        DASK.open(flow, bench.plan(flow), bench.workers) as runner,
        pytest.raises(LimitUnenforceable, match="a Dask worker has: 2 cpus of 1 cpus"),
    ):
        runner.submit(bench.job("two", "true"), {}, Resources(cpus=2), "two")


def test_nothing_is_left_in_the_scheduler_once_a_reply_is_here(bench: Workbench) -> None:
    flow = _flow()
    with DASK.open(flow, bench.plan(flow), bench.workers) as runner:
        jobs = [runner.submit(bench.job(name, "true"), {}, Resources(), name) for name in "abc"]
        assert {reply_of(job).status for job in jobs} == {"succeeded"}
        client = cast("Any", runner)._engine._client
        wait_until(
            lambda: not client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)),
            "the scheduler keeps jobs that ended",
        )


def test_scheduler_and_workers_speak_tls_and_serve_no_pages_if_told_so(bench: Workbench) -> None:
    flow = _flow(dashboard_address=None)
    with DASK.open(flow, bench.plan(flow), bench.workers) as runner:
        scheduler = cast("Any", runner)._engine._client.cluster.scheduler
        assert scheduler.address.startswith("tls://127.0.0.1:")
        assert runner.dashboard is None
        for page in ("/status", "/info/main/workers.html", "/json/index.html", "/health"):
            with contextlib.closing(HTTPConnection("127.0.0.1", scheduler.http_server.port)) as web:
                web.request("GET", page)
                assert web.getresponse().status == HTTPStatus.NOT_FOUND


@pytest.mark.parametrize("value", [0, -1, "2", True, 1.5])
def test_a_number_of_workers_that_is_none_is_refused(bench: Workbench, value: object) -> None:
    flow = _flow(n_workers=value)
    with (
        pytest.raises(OrchestratorUnavailable, match="n_workers of dask::local is"),
        DASK.open(flow, bench.plan(flow), bench.workers),
    ):
        pytest.fail("it was opened")


def test_an_unknown_option_comes_with_the_nearest_known_one(bench: Workbench) -> None:
    flow = _flow(n_worker=2)
    with (
        pytest.raises(OrchestratorUnavailable, match="did you mean 'n_workers'"),
        DASK.open(flow, bench.plan(flow), bench.workers),
    ):
        pytest.fail("it was opened")


def test_what_dask_refuses_is_told_in_its_words(bench: Workbench) -> None:
    flow = _flow(scheduler_port="no number")
    with (
        pytest.raises(OrchestratorUnavailable, match=r"did not start a cluster: .*no number"),
        DASK.open(flow, bench.plan(flow), bench.workers),
    ):
        pytest.fail("it was opened")


def test_without_dask_the_error_says_what_to_install(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(OrchestratorUnavailable) as caught,
        DASK.open(_flow(), bench.plan(_flow()), bench.workers),
    ):
        pytest.fail("it was opened")
    assert caught.value.hint == "pip install 'fasthep-flow[dask]'"


def test_without_cryptography_a_warning_says_who_can_reach_the_cluster(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dask_module, "find_spec", lambda _: None)
    with DASK.open(_flow(), bench.plan(_flow()), bench.workers) as runner:
        assert reply_of(runner.submit(bench.job("a", "true"), {}, Resources(), "a")).exit_code == 0
    assert "other users of this machine can reach the cluster" in caplog.text


def _read(link: str, page: str) -> tuple[int, bytes]:
    where = urlsplit(link)
    assert where.hostname is not None
    with contextlib.closing(HTTPConnection(where.hostname, where.port or 80)) as web:
        web.request("GET", page)
        reply = web.getresponse()
        return reply.status, reply.read()


@pytest.mark.parametrize("options", [{}, {"dashboard_address": "127.0.0.1:0"}])
def test_a_dashboard_is_served_to_this_machine_and_its_link_told(
    bench: Workbench, options: dict[str, str]
) -> None:
    flow = _flow(**options)
    with DASK.open(flow, bench.plan(flow), bench.workers) as runner:
        assert runner.dashboard is not None
        assert runner.dashboard.startswith("http://127.0.0.1:")
        assert runner.dashboard.endswith("/status")
        assert _read(runner.dashboard, "/health")[0] == HTTPStatus.OK
        status, text = _read(runner.dashboard, "/status")
        assert (status, b"bokeh" in text.lower()) == (HTTPStatus.OK, True)
        scheduler = cast("Any", runner)._engine._client.cluster.scheduler
        sockets = scheduler.http_server._sockets.values()
        assert {socket.getsockname()[0] for socket in sockets} == {"127.0.0.1"}


def test_two_clusters_at_once_have_dashboards_of_their_own(bench: Workbench) -> None:
    flow = _flow()
    with (
        warnings.catch_warnings(),
        DASK.open(flow, bench.plan(flow), bench.workers) as first,
        DASK.open(flow, bench.plan(flow), bench.workers) as second,
    ):
        warnings.simplefilter("error")
        assert None not in {first.dashboard, second.dashboard}
        assert first.dashboard != second.dashboard


def test_no_page_shows_a_secret_while_its_task_runs(bench: Workbench) -> None:
    value = "hunter2-0n-n0-page"
    flow = _flow()
    with DASK.open(flow, bench.plan(flow), bench.workers) as runner:
        text = bench.held("reader")
        job = from_json(Job, text)
        text = to_json(msgspec.structs.replace(job, variables=("TOKEN",)))
        future = runner.submit(text, {"TOKEN": value}, Resources(), "reader")
        bench.await_file("reader.started")
        link = runner.dashboard or ""
        scheduler = cast("Any", runner)._engine._client.cluster.scheduler
        [worker] = scheduler.workers
        [task] = scheduler.tasks
        pages = ["/status", "/tasks", "/workers", "/graph", "/system", "/profile", "/metrics"]
        pages += ["/info/main/workers.html", "/info/main/logs.html", "/json/counts.json"]
        pages += [
            f"/info/task/{quote(task, safe='')}.html",
            f"/info/worker/{quote(worker, safe='')}.html",
        ]
        pages += [f"/info/call-stack/{quote(task, safe='')}.html"]
        pages += [f"/info/call-stacks/{quote(worker, safe='')}.html"]
        pages += [
            f"/info/logs/{quote(worker, safe='')}.html",
            "/json/identity.json",
            "/json/index.html",
        ]
        replies = {page: _read(link, page) for page in pages}
        bench.make_file("go")
        assert reply_of(future).status == "succeeded"
    read = [page for page, (status, _) in replies.items() if status == HTTPStatus.OK]
    assert {"/status", "/info/main/workers.html", "/json/identity.json"} <= set(read)
    assert any("/info/task/" in page for page in read)
    assert any("/info/call-stack/" in page for page in read)
    assert [page for page, (_, text_) in replies.items() if value.encode() in text_] == []
