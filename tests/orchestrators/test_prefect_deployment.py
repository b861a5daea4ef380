"""Workflows as flow objects, on a server that was started as a user starts one."""

# ruff: noqa: S310, S105 - a server of the test on the loopback interface

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psutil
import pytest

from fasthep_flow import Workflow
from fasthep_flow.errors import OrchestratorUnavailable, WorkflowError
from fasthep_flow.records.run import read_run
from fasthep_flow.testing.runners import wait_until

pytestmark = pytest.mark.prefect

_PREFECT = str(Path(sys.executable).with_name("prefect"))
_SECRET = "hunter2-5ecret"
_WORKFLOW = f"""
name: greetings
global:
  flow: prefect::ThreadPoolTaskRunner
tasks:
  - name: greet
    type: fasthep_flow.operators.BashOperator
    kwargs: {{bash_command: "echo hello; touch greeted; sleep ${{NAP:-0}}"}}
    environment:
      variables: {{TOKEN: {_SECRET}}}
  - name: count
    type: fasthep_flow.operators.BashOperator
    kwargs: {{bash_command: "echo '6 * 7 =' $((6 * 7)); exit ${{CODE:-0}}"}}
"""
_FLOWS = """
import sys
from pathlib import Path

from fasthep_flow import Workflow

flow = Workflow(Path(__file__).with_name("workflow.yaml")).to_prefect()

if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        flow.serve("local")
    elif sys.argv[1:] == ["deploy"]:
        flow.from_source(str(Path(__file__).parent), "flows.py:flow").deploy(
            "remote", work_pool_name="farm"
        )
    else:
        print(flow())
"""


class _Server(NamedTuple):
    url: str
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if "PREFECT" not in name},
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            # Where Prefect looks for the interpreter of its own processes.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def ask(self, path: str, **query: Any) -> Any:
        request = urllib.request.Request(
            f"{self.url}{path}",
            data=json.dumps(query).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def flow_runs(self) -> list[Any]:
        return list(self.ask("/flow_runs/filter", sort="START_TIME_ASC"))

    def task_runs(self, flow_run: Any) -> dict[str, tuple[str, str]]:
        """The state of each task run, once all of them have an end."""
        found: dict[str, tuple[str, str]] = {}

        def ended() -> bool:
            runs = self.ask("/task_runs/filter", flow_runs={"id": {"any_": [flow_run["id"]]}})
            found.clear()
            found.update(
                {run["name"]: (run["state"]["name"], run["state"]["message"]) for run in runs}
            )
            return bool(found) and not {state for state, _ in found.values()} & {
                "Pending",
                "Running",
            }

        wait_until(ended, "the server lacks the end of a task run")
        return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Server]:
    home = tmp_path_factory.mktemp("own-server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = _Server(f"http://127.0.0.1:{port}/api", home)
    with (
        (home / "server.log").open("wb") as log,
        _running([_PREFECT, "server", "start", "--port", str(port), "--no-ui"], server, log=log),
    ):

        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"{server.url}/health", timeout=5) as answer:
                    return bool(answer.status == HTTPStatus.OK)
            except OSError:
                return False

        wait_until(answers, "the server does not answer")
        yield server


class _running:  # noqa: N801 - reads as a function
    def __init__(self, argv: list[str], server: _Server, log: Any, **options: Any) -> None:
        self.process = subprocess.Popen(
            argv, env=server.environment | options.pop("env", {}), stdout=log, stderr=log, **options
        )

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self.process

    def __exit__(self, *_: object) -> None:
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for left in psutil.wait_procs(children, timeout=30)[1]:
            left.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "workflow.yaml").write_text(_WORKFLOW)
    (tmp_path / "flows.py").write_text(_FLOWS)
    return tmp_path


@pytest.fixture
def call(server: _Server, folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv,
            cwd=folder,
            env=server.environment | env,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return call


def test_calling_the_flow_is_one_flow_run_with_the_workflows_tasks(
    server: _Server, call: Callable[..., subprocess.CompletedProcess[str]], folder: Path
) -> None:
    before = len(server.flow_runs())
    done = call(sys.executable, "flows.py")
    assert done.returncode == 0, done.stderr
    assert "'tasks': {'greet': 'succeeded', 'count': 'succeeded'}" in done.stdout
    (run,) = server.flow_runs()[before:]
    assert run["state"]["name"] == "Completed"
    record = read_run(folder / "output" / "latest")
    assert run["state"]["message"] == f"2 of 2 tasks succeeded; run folder {record.directory}"
    assert server.ask("/flows/filter", flow_runs={"id": {"any_": [run["id"]]}})[0]["name"] == (
        "greetings"
    )
    assert server.task_runs(run) == {"greet": ("Completed", ""), "count": ("Completed", "")}
    assert run["parameters"] == {
        "tasks": None,
        "output_directory": None,
        "fail_fast": False,
        "locked": False,
    }
    kept = [path for path in server.home.rglob("*") if path.is_file()]
    assert [path for path in kept if _SECRET.encode() in path.read_bytes()] == []
    assert _SECRET not in done.stdout + done.stderr


def test_the_command_is_a_flow_run_too_which_bears_the_workflows_name(
    server: _Server, call: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    before = len(server.flow_runs())
    done = call(sys.executable, "-m", "fasthep_flow", "run", CODE="3")
    assert done.returncode == 1, done.stderr
    (run,) = server.flow_runs()[before:]
    assert (run["name"], run["state"]["name"], run["parameters"]) == ("greetings", "Failed", {})
    assert run["state"]["message"] == "1 of 2 tasks failed"
    assert server.task_runs(run) == {
        "greet": ("Completed", ""),
        "count": ("Failed", "exit code 3"),
    }
    # Prefect says nothing of its own.
    assert "prefect." not in done.stdout + done.stderr
    kept = [path for path in server.home.rglob("*") if path.is_file()]
    assert [path for path in kept if _SECRET.encode() in path.read_bytes()] == []


def test_a_task_that_fails_fails_the_flow_run_and_says_which(
    server: _Server, call: Callable[..., subprocess.CompletedProcess[str]], folder: Path
) -> None:
    before = len(server.flow_runs())
    done = call(sys.executable, "flows.py", CODE="3")
    words = "1 of 2 tasks succeeded; 'count' failed: exit code 3; run folder"
    assert done.returncode == 1
    assert words in done.stderr.splitlines()[-1]
    (run,) = server.flow_runs()[before:]
    assert run["state"]["name"] == "Failed"
    assert words in run["state"]["message"]
    assert server.task_runs(run)["count"] == ("Failed", "exit code 3")
    # What a task prints is in its own log alone.
    log = folder / "output" / "latest" / "tasks" / "count" / "1" / "stdout.log"
    assert log.read_text() == "6 * 7 = 42\n"
    assert "= 42" not in done.stdout + done.stderr
    kept = [path for path in server.home.rglob("*") if path.is_file()]
    assert [path for path in kept if b"= 42" in path.read_bytes()] == []


def test_what_is_refused_fails_the_flow_run_before_any_task(
    server: _Server, call: Callable[..., subprocess.CompletedProcess[str]], folder: Path
) -> None:
    before = len(server.flow_runs())
    large = _WORKFLOW.replace("environment:", "environment:\n      resources: {cpus: 100000}")
    (folder / "workflow.yaml").write_text(large)
    done = call(sys.executable, "flows.py")
    assert done.returncode == 1
    assert "100000 cpus" in done.stderr
    (run,) = server.flow_runs()[before:]
    assert run["state"]["name"] == "Failed"
    assert "task 'greet': 100000 cpus are asked for" in run["state"]["message"]


def test_a_flow_that_is_served_takes_parameters_and_is_cancelled_with_its_tasks(
    server: _Server, folder: Path
) -> None:
    with (
        (folder / "serve.log").open("wb") as log,
        _running(
            [sys.executable, "flows.py", "serve"], server, log, cwd=folder, env={"NAP": "600"}
        ),
    ):
        deployments: list[Any] = []

        def deployed() -> bool:
            found = server.ask("/deployments/filter", deployments={"name": {"any_": ["local"]}})
            deployments[:] = found
            return bool(deployments)

        wait_until(deployed, "the flow is not served")
        output = folder / "elsewhere"
        run = server.ask(
            f"/deployments/{deployments[0]['id']}/create_flow_run",
            parameters={"tasks": ["greet"], "output_directory": str(output)},
            state={"type": "SCHEDULED"},
        )
        wait_until((folder / "greeted").exists, "the task did not start")
        task = next(
            process
            for process in psutil.process_iter(["cmdline"])
            if process.info["cmdline"] == ["sleep", "600"] and process.cwd() == str(folder)
        )
        server.ask(
            f"/flow_runs/{UUID(run['id'])}/set_state", state={"type": "CANCELLING"}, force=False
        )
        wait_until(lambda: not task.is_running(), "the task lives on")

        def cancelled() -> bool:
            (now,) = server.ask("/flow_runs/filter", flow_runs={"id": {"any_": [run["id"]]}})
            return bool(now["state"]["type"] == "CANCELLED")

        wait_until(cancelled, "the flow run was not cancelled")
    record = read_run(output / "latest")
    assert {name: result.status for name, result in record.results.items()} == {
        "greet": "cancelled"
    }
    assert server.task_runs(run) == {"greet": ("Cancelled", "stopped with the run")}


@pytest.mark.parametrize("way", ["from_source", "prefect deploy"])
def test_a_flow_is_deployed_to_a_work_pool(
    server: _Server,
    call: Callable[..., subprocess.CompletedProcess[str]],
    folder: Path,
    way: str,
) -> None:
    call(_PREFECT, "work-pool", "create", "farm", "--type", "process")
    if way == "from_source":
        done = call(sys.executable, "flows.py", "deploy")
    else:
        done = call(
            _PREFECT, "--no-prompt", "deploy", "flows.py:flow", "-n", "remote", "--pool", "farm"
        )
    assert done.returncode == 0, done.stdout + done.stderr
    before = len(server.flow_runs())
    done = call(_PREFECT, "deployment", "run", "greetings/remote", "-p", 'tasks=["greet"]')
    assert done.returncode == 0, done.stdout + done.stderr
    done = call(_PREFECT, "worker", "start", "--pool", "farm", "--run-once")
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = server.flow_runs()[before:]
    assert run["state"]["name"] == "Completed", done.stdout + done.stderr
    assert server.task_runs(run) == {"greet": ("Completed", "")}
    assert (folder / "greeted").exists()


def test_a_workflow_that_runs_inside_a_flow_has_its_tasks_there(
    server: _Server, call: Callable[..., subprocess.CompletedProcess[str]], folder: Path
) -> None:
    (folder / "mine.py").write_text(
        "from prefect import flow\n"
        "from fasthep_flow import Workflow\n\n"
        "@flow(name='analysis')\n"
        "def analysis():\n"
        "    return Workflow('workflow.yaml', tasks=['greet']).run().succeeded\n\n"
        "assert analysis()\n"
    )
    before = len(server.flow_runs())
    done = call(sys.executable, "mine.py")
    assert done.returncode == 0, done.stderr
    (run,) = server.flow_runs()[before:]
    assert server.task_runs(run) == {"greet": ("Completed", "")}


def test_a_workflow_on_another_runner_is_no_flow_of_prefects(tmp_path: Path) -> None:
    path = tmp_path / "workflow.yaml"
    path.write_text(_WORKFLOW.replace("prefect::ThreadPoolTaskRunner", "local::sequential"))
    with pytest.raises(OrchestratorUnavailable, match="runs on local::sequential") as caught:
        Workflow(path).to_prefect()
    assert caught.value.hint is not None
    assert "flow='prefect::ThreadPoolTaskRunner'" in caught.value.hint
    path.write_text("tasks: 3")
    with pytest.raises(WorkflowError):
        Workflow(path).to_prefect()
