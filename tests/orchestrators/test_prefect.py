import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fasthep_flow.errors import FlowError, OrchestratorUnavailable
from fasthep_flow.model import FlowSpec, Plan, Resources
from fasthep_flow.orchestrators import Orchestrator
from fasthep_flow.orchestrators.admission import machine_capacity
from fasthep_flow.orchestrators.dask.local import open_local_cluster
from fasthep_flow.orchestrators.prefect import PREFECT
from fasthep_flow.orchestrators.prefect.server import _IN_BULK
from fasthep_flow.testing.runners import TaskRunnerSuite, Workbench, reply_of, wait_until

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_server")]


class TestThreads(TaskRunnerSuite):
    __test__ = True

    @classmethod
    def orchestrator(cls) -> Orchestrator:
        return PREFECT

    @classmethod
    def flow(cls) -> FlowSpec:
        return FlowSpec(transform="prefect", runner="ThreadPoolTaskRunner")

    @pytest.fixture
    def engine_folders(self, prefect_home: Path) -> list[Path]:
        return [prefect_home]


class TestSequential(TestThreads):
    concurrent = False

    @classmethod
    def flow(cls) -> FlowSpec:
        return FlowSpec(transform="prefect", runner="SequentialTaskRunner")


class TestProcesses(TestThreads):
    @classmethod
    def flow(cls) -> FlowSpec:
        return FlowSpec(
            transform="prefect", runner="ProcessPoolTaskRunner", options={"max_workers": 2}
        )


class TestDask(TestThreads):
    @classmethod
    def flow(cls) -> FlowSpec:
        return FlowSpec(transform="prefect", runner="DaskTaskRunner")


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


def _flow(runner: str, **options: object) -> FlowSpec:
    return FlowSpec(transform="prefect", runner=runner, options=options)


def _named(plan: Plan, name: str) -> Plan:
    return msgspec.structs.replace(plan, name=name)


def _runs_of(name: str, task_runs: int) -> tuple[list[Any], list[Any]]:
    """The flow runs of that name, and their task runs, once the server has written all down."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName

    which = FlowRunFilter(name=FlowRunFilterName(any_=[name]))
    found: list[Any] = []
    with get_client(sync_client=True) as client:

        def written_down() -> bool:
            found[:] = client.read_task_runs(flow_run_filter=which)
            return len([run for run in found if run.state.is_final()]) == task_runs

        wait_until(written_down, "the server lacks task runs")
        return client.read_flow_runs(flow_run_filter=which), found


def test_all_runners_of_a_workflow_are_in_one_flow_run(bench: Workbench) -> None:
    flow = _flow("DaskTaskRunner")
    plan = _named(bench.plan(flow), "mixed {run} 50%")
    with (
        PREFECT.open(flow, plan, bench.workers) as dask,
        PREFECT.open(_flow("SequentialTaskRunner"), plan, bench.workers) as thread,
    ):
        on_dask = dask.submit(bench.job("a", "true"), {}, Resources(), "on dask {x}")
        in_thread = thread.submit(bench.job("b", "exit 3"), {}, Resources(), "in a thread/1%")
        assert reply_of(on_dask).status == "succeeded"
        assert reply_of(in_thread).status == "failed"
    # Prefect refuses a percent sign in a name.
    flow_runs, task_runs = _runs_of("mixed {run} 50-", 2)
    assert [run.state.name for run in flow_runs] == ["Failed"]
    assert "1 of 2 tasks failed" in flow_runs[0].state.message
    assert {run.name: (run.state.name, run.state.message) for run in task_runs} == {
        "on dask {x}": ("Completed", ""),
        "in a thread/1%": ("Failed", "exit code 3"),
    }


def test_a_flow_run_says_how_the_workflow_ended(bench: Workbench) -> None:
    flow = _flow("ThreadPoolTaskRunner")
    with PREFECT.open(flow, _named(bench.plan(flow), "good"), bench.workers) as runner:
        assert reply_of(runner.submit(bench.job("a", "true"), {}, Resources(), "a")).exit_code == 0
    with PREFECT.open(flow, _named(bench.plan(flow), "stopped"), bench.workers) as runner:
        running = runner.submit(bench.held("b"), {}, Resources(), "b")
        bench.await_file("b.started")
        bench.request_cancel()
        runner.cancel()
        assert reply_of(running).status == "cancelled"
    assert [run.state.name for run in _runs_of("good", 1)[0]] == ["Completed"]
    flow_runs, task_runs = _runs_of("stopped", 1)
    assert [run.state.name for run in (*flow_runs, *task_runs)] == ["Cancelled", "Cancelled"]


def test_plans_that_run_at_once_have_flow_runs_of_their_own(bench: Workbench) -> None:
    flow = _flow("ThreadPoolTaskRunner")
    plans = [_named(bench.plan(flow), name) for name in ("this", "that")]
    with (
        PREFECT.open(flow, plans[0], bench.workers) as this,
        PREFECT.open(flow, plans[1], bench.workers) as that,
    ):
        jobs = [
            runner.submit(bench.job(name, "true"), {}, Resources(), name)
            for runner, name in ((this, "a"), (that, "b"))
        ]
        assert {reply_of(job).status for job in jobs} == {"succeeded"}
    assert [run.name for run in _runs_of("this", 1)[1]] == ["a"]
    assert [run.name for run in _runs_of("that", 1)[1]] == ["b"]


def test_the_log_says_once_what_stands_for_the_sequential_runner(
    bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    flow = _flow("SequentialTaskRunner")
    with (
        caplog.at_level("INFO", "fasthep_flow"),
        PREFECT.open(flow, bench.plan(flow), bench.workers),
    ):
        pass
    assert [record.getMessage() for record in caplog.records if record.name == "fasthep_flow"] == [
        "Prefect 3 has no SequentialTaskRunner: a pool of one thread serves"
    ]


def test_more_threads_than_processors_are_room_for_as_many_tasks(bench: Workbench) -> None:
    threads = int(machine_capacity().cpus) + 1
    flow = _flow("ConcurrentTaskRunner", max_workers=threads)
    with PREFECT.open(flow, bench.plan(flow), bench.workers) as runner:
        names = [f"task{number}" for number in range(threads)]
        jobs = [runner.submit(bench.held(name), {}, Resources(), name) for name in names]
        for name in names:
            bench.await_file(f"{name}.started")
        bench.make_file("go")
        assert {reply_of(job).status for job in jobs} == {"succeeded"}


def test_a_cluster_that_runs_already_serves(bench: Workbench) -> None:
    mine = FlowSpec(transform="dask", runner="local", options={"security": False})
    with open_local_cluster(mine, mine.options) as local:
        flow = _flow("DaskTaskRunner", address=local.cluster.scheduler_address)
        with PREFECT.open(flow, bench.plan(flow), bench.workers) as runner:
            job = runner.submit(bench.job("a", "true"), {}, Resources(), "a")
            assert reply_of(job).status == "succeeded"


def test_a_scheduler_that_is_gone_ends_the_wait(bench: Workbench) -> None:
    dask = [sys.executable, "-m", "dask"]
    file = str(bench.directory / "scheduler.json")
    host = ["--host", "127.0.0.1", "--no-dashboard"]
    with (
        subprocess.Popen(
            [*dask, "scheduler", *host, "--port", "0", "--scheduler-file", file],
            stderr=subprocess.DEVNULL,
        ) as scheduler,
        subprocess.Popen(
            [*dask, "worker", *host, "--no-nanny", "--scheduler-file", file],
            stderr=subprocess.DEVNULL,
        ) as worker,
    ):
        try:
            bench.await_file("scheduler.json")
            address = json.loads(Path(file).read_text())["address"]
            flow = _flow("DaskTaskRunner", address=address)
            with PREFECT.open(flow, bench.plan(flow), bench.workers) as runner:
                job = runner.submit(bench.held("a"), {}, Resources(), "the task")
                bench.await_file("a.started")
                scheduler.kill()
                problem = job.exception(timeout=60)
                assert isinstance(problem, FlowError)
                assert "the Dask scheduler of prefect::DaskTaskRunner does not answer" in (
                    problem.message
                )
        finally:
            bench.make_file("go")
            scheduler.kill()
            worker.kill()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cluster_kwargs": {"n_worker": 1}}, "no option 'n_worker' in cluster_kwargs"),
        ({"cluster_kwargs": 3}, "cluster_kwargs of prefect::DaskTaskRunner is not a mapping"),
        ({"cluster": "mine"}, "no option 'cluster'"),
        ({"address": "tcp://127.0.0.1:9", "adapt_kwargs": {"minimum": 1}}, "Cannot specify"),
        ({"address": "tcp://127.0.0.1:9", "client_kwargs": {"timeout": 1}}, "127.0.0.1:9"),
        ({"cluster_class": "no.such.Cluster"}, "no"),
        (
            {"address": "tls://127.0.0.1:9", "client_kwargs": {"security": {"tls_ca": "x"}}},
            "security in client_kwargs of prefect::DaskTaskRunner: ",
        ),
    ],
)
def test_what_is_wrong_with_a_dask_runner_is_told(
    bench: Workbench, options: dict[str, object], words: str
) -> None:
    flow = _flow("DaskTaskRunner", **options)
    with (
        pytest.raises(OrchestratorUnavailable, match=re.escape(words)),
        PREFECT.open(flow, bench.plan(flow), bench.workers),
    ):
        pytest.fail("it was opened")


@pytest.mark.parametrize("missing", ["prefect", "prefect_dask"])
def test_without_prefect_the_error_says_what_to_install(bench: Workbench, missing: str) -> None:
    # In a process of its own: here Prefect is imported for good.
    program = f"""
import sys
from pathlib import Path
from fasthep_flow.errors import FlowError, OrchestratorUnavailable
from fasthep_flow.model import FlowSpec
from fasthep_flow.orchestrators.prefect import PREFECT
from fasthep_flow.testing.runners import Workbench

sys.modules[{missing!r}] = None
flow = FlowSpec(transform="prefect", runner="DaskTaskRunner")
try:
    with PREFECT.open(flow, Workbench(Path()).plan(flow), Path("workers")):
        print("it was opened")
except OrchestratorUnavailable as error:
    print(error.hint)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=bench.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "pip install 'fasthep-flow[prefect]'" in done.stdout, done.stderr


def test_the_temporary_server_sleeps_while_there_is_nothing_to_write() -> None:
    # Prefect takes the whole seconds of an interval; with none it asks again without a pause.
    intervals = {name: value for name, value in _IN_BULK.items() if name.endswith("_INTERVAL")}
    assert len(intervals) == 1
    assert all(int(float(value)) >= 1 for value in intervals.values())


def test_a_server_that_does_not_answer_is_an_error(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.context import refresh_global_settings_context

    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with monkeypatch.context() as patch:
        patch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
        refresh_global_settings_context()
        flow = _flow("ThreadPoolTaskRunner")
        with (
            pytest.raises(OrchestratorUnavailable, match="did not open a flow run") as caught,
            PREFECT.open(flow, bench.plan(flow), bench.workers),
        ):
            pytest.fail("it was opened")
    refresh_global_settings_context()
    assert caught.value.hint == "is the server of PREFECT_API_URL up?"
