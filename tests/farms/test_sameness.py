"""One workflow on every runner: what it gives, and what it leaves in the logs, is the same."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.farms.batch import FarmSite
from tests.faults.conftest import shell

from fasthep_flow.model import JobResult
from fasthep_flow.orchestrators import RUNNERS
from fasthep_flow.orchestrators.prefect.server import temporary_server
from fasthep_flow.testing.runners import wait_until

# These run one task at a time.
ONE_BY_ONE = {"local::sequential", "prefect::SequentialTaskRunner"}
FLOWS = [f"{transform}::{runner}" for transform, runners in RUNNERS.items() for runner in runners]
MARKS = {
    "dask": [pytest.mark.dask],
    "prefect": [pytest.mark.prefect],
    "slurm": [pytest.mark.slurm],
    "htcondor": [pytest.mark.htcondor],
}
OPTIONS: dict[str, dict[str, Any]] = {
    # Small, and all in one worker of that size.
    "dask::slurm": {"cores": 4, "memory": "1Gi", "maximum_jobs": 1},
    "dask::htcondor": {"cores": 4, "memory": "1Gi", "maximum_jobs": 1},
}


def _marks_of(flow: str) -> list[pytest.MarkDecorator]:
    transform, runner = flow.split("::")
    return MARKS.get(transform, []) + MARKS.get(runner, [])


class Told(NamedTuple):
    """What a run tells of a task, but for when and where it was."""

    status: str
    exit_code: int | None
    value: object
    failure: tuple[str, str] | None
    stdout: bytes
    stderr: bytes

    @classmethod
    def of(cls, result: JobResult, folder: Path, work: Path) -> "Told":
        failure = result.failure
        # A traceback names the workflow's folder.
        stderr = (folder / "stderr.log").read_bytes().replace(os.fsencode(work), b"WORK")
        return cls(
            result.status,
            result.exit_code,
            result.value,
            None if failure is None else (failure.kind, failure.message),
            (folder / "stdout.log").read_bytes(),
            stderr,
        )


def _python(name: str, function: str, *arguments: Any, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "type": "fasthep_flow.operators.PythonOperator",
        "kwargs": {"python_callable": f"steps.{function}", "op_args": list(arguments)},
        **more,
    }


_STEPS = """\
import sys


def count(path):
    print("counting")
    with open(path) as file:
        return {"lines": sum(1 for _ in file), "odd": [1.5, None, "ü"]}


def fail():
    print("about to fail", file=sys.stderr)
    raise ValueError("no such muon")
"""


def _tasks(*, meet: bool = True) -> list[dict[str, Any]]:
    """Two branches that meet, one that fails, and what comes after it.

    Args:
        meet: The branches end well only if each runs while the other one does.
    """
    log = "echo $FASTHEP_TASK_NAME >> order.txt"
    branches = []
    for name, other, line in (
        ("left", "right", "echo $GREETING; echo aside >&2"),
        ("right", "left", "printf 'no line \\377 end'; pwd | wc -l"),
    ):
        wait = f"touch {name}.here; n=0; while [ ! -e {other}.here ] && [ $n -lt 1200 ]; "
        wait += f"do sleep 0.05; n=$((n+1)); done; [ -e {other}.here ] || exit 1; "
        environment = {
            "variables": {"GREETING": "good day"},
            "resources": {"cpus": 0.5, "enforce": "best_effort"},
        }
        whole = f"{log}; {wait if meet else ''}{line}"
        branches.append(shell(name, whole, needs=["first"], environment=environment))
    return [
        shell("first", f"{log}; printf 'a\\nb\\n' > lines.txt", needs=[]),
        *branches,
        shell("last", f"{log}; cat lines.txt", needs=["left", "right"]),
        _python("count", "count", "lines.txt", needs=["last"]),
        _python("wrong", "fail", needs=["first"]),
        shell("code", "echo gone; exit 7", needs=["first"]),
        shell("after", "true", needs=["wrong"]),
    ]


def _write(site: FarmSite, flow: str, options: dict[str, Any], *tasks: dict[str, Any]) -> None:
    transform, runner = flow.split("::")
    (site.work / "steps.py").write_text(_STEPS)
    setting = {"transform": transform, "kwargs": {"runner": runner, **options}}
    file = {"global": {"workflow": setting}, "tasks": list(tasks)}
    (site.work / "workflow.yaml").write_text(json.dumps(file))


def _told(site: FarmSite) -> dict[str, Told]:
    said = site.run("run", "--format", "json")
    assert said.code == 1, said.both
    tasks = {task["name"]: task for task in _tasks()}
    return {
        name: Told.of(site.result(name), site.attempt(name), site.work)
        for name in tasks
        if name != "after"
    }


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Told]:
    """What the run on this machine alone tells."""
    folder = tmp_path_factory.mktemp("local")
    site = FarmSite(folder / "site", folder / "cache")
    _write(site, "local::concurrent", {}, *_tasks())
    return _told(site)


@contextlib.contextmanager
def _scheduler(folder: Path) -> Iterator[str]:
    """A Dask cluster that is there already; its address."""
    file = folder / "scheduler.json"
    where = ["--host", "127.0.0.1", "--no-dashboard", "--no-show", "--port", "0"]
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--scheduler-file", str(file)]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file)]
    room = ["--nthreads", "4", "--no-nanny", "--no-dashboard", "--resources", "cpus=4,memory=1e9"]
    with contextlib.ExitStack() as stack:
        for argv in ([*dask, *where], [*worker, *room]):
            process = subprocess.Popen(
                argv, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            wait_until(file.exists, "the scheduler does not start")
        yield json.loads(file.read_text())["address"]


@pytest.fixture(scope="session")
def prefect_variables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Where one Prefect server for all runs here is."""
    home = {"PREFECT_HOME": str(tmp_path_factory.mktemp("prefect-home")), "DO_NOT_TRACK": "1"}
    with temporary_server(home) as server:
        yield {
            **home,
            "PREFECT_API_URL": server.api_url,
            "PREFECT_API_AUTH_STRING": server.auth_string,
        }


@pytest.fixture(params=[pytest.param(flow, marks=_marks_of(flow)) for flow in FLOWS])
def flow(request: pytest.FixtureRequest, site: FarmSite) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every runner in turn, and what it takes to run small."""
    name = str(request.param)
    if name.startswith("prefect"):
        site.variables |= request.getfixturevalue("prefect_variables")
    with contextlib.ExitStack() as stack:
        options = OPTIONS.get(name, {})
        if name == "dask::scheduler":
            options = {"address": stack.enter_context(_scheduler(site.root))}
        yield name, options


def test_order_overlap_results_and_logs_are_those_of_this_machine(
    flow: tuple[str, dict[str, Any]], site: FarmSite, expected: dict[str, Told]
) -> None:
    name, options = flow
    _write(site, name, options, *_tasks(meet=name not in ONE_BY_ONE))
    assert _told(site) == expected
    order = (site.work / "order.txt").read_text().split()
    assert order[0] == "first"
    assert set(order[1:3]) == {"left", "right"}
    assert order[3:] == ["last"]
