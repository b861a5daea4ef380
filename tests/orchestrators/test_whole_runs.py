"""The command with an engine: what the terminal shows, and how all of it comes to an end."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from fasthep_flow.testing.runners import wait_until

_HELD = """\
echo $$ > task.starting; mv task.starting task.started
trap 'echo asked > task.asked; exit 1' TERM
n=0; while [ $n -lt 1200 ]; do sleep 0.05; n=$((n+1)); done
"""

FLOWS = [
    pytest.param("dask::local", marks=pytest.mark.dask),
    # These bring a server of their own along.
    pytest.param("prefect::ProcessPoolTaskRunner", marks=pytest.mark.prefect),
    pytest.param("prefect::DaskTaskRunner", marks=pytest.mark.prefect),
]


class _Run:
    """A run of the command in a session of its own, as from a terminal."""

    def __init__(self, directory: Path, flow: str, home: Path, line: str) -> None:
        (directory / "task.sh").write_text(line)
        (directory / "workflow.yaml").write_text(
            "name: whole\n"
            "tasks:\n"
            "  - name: the task\n"
            "    type: fasthep_flow.operators.BashOperator\n"
            "    kwargs: {bash_command: . ./task.sh}\n"
        )
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")
        }
        self.directory = directory
        self.process = subprocess.Popen(
            [sys.executable, "-Wdefault", "-m", "fasthep_flow", "run", "--flow", flow],
            cwd=directory,
            env=environment | {"PREFECT_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def await_task(self) -> None:
        def started() -> bool:
            return (self.directory / "task.started").exists() or self.process.poll() is not None

        wait_until(started, "the task did not start")
        assert self.process.poll() is None, self.process.communicate()[0]

    def family(self) -> list[psutil.Process]:
        me = psutil.Process(self.process.pid)
        return [me, *me.children(recursive=True)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home of runs")


@pytest.fixture
def held(tmp_path: Path, home: Path, request: pytest.FixtureRequest) -> Iterator[_Run]:
    run = _Run(tmp_path, request.param, home, _HELD)
    family: list[psutil.Process] = []
    try:
        run.await_task()
        family = run.family()
        yield run
    finally:
        run.process.kill()
        run.process.communicate()
        for process in family:
            if process.is_running():
                process.kill()


@pytest.mark.parametrize("flow", FLOWS)
def test_the_engine_says_nothing_and_leaves_nothing(flow: str, tmp_path: Path, home: Path) -> None:
    run = _Run(tmp_path, flow, home, "echo hello")
    before = {process.pid for process in psutil.process_iter()}
    output, _ = run.process.communicate(timeout=120)
    assert run.process.returncode == 0, output
    noise = ("prefect.", "distributed", "Warning", "Traceback", "INFO", "ERROR", "127.0.0.1")
    said = [line for line in output.splitlines() if any(word in line for word in noise)]
    # The user will want to look at it.
    assert [line for line in said if not line.startswith(f"dashboard of {flow}: http")] == []
    assert "hello" in output
    left = [
        process
        for process in psutil.process_iter()
        if process.pid not in before and _is_of(process, tmp_path)
    ]
    assert left == []


def _is_of(process: psutil.Process, directory: Path) -> bool:
    try:
        return process.cwd() == str(directory)
    except psutil.Error:
        return False


@pytest.mark.prefect
def test_the_server_of_a_run_has_written_everything_down(tmp_path: Path, home: Path) -> None:
    run = _Run(tmp_path, "prefect::ThreadPoolTaskRunner", home, "exit 3")
    output, _ = run.process.communicate(timeout=120)
    assert run.process.returncode == 1, output
    with closing(sqlite3.connect(home / "prefect.db")) as database:
        rows = database.execute(
            "select flow_run.state_name, task_run.name, task_run.state_name from flow_run"
            " join task_run on task_run.flow_run_id = flow_run.id"
            " order by flow_run.created desc limit 1"
        ).fetchall()
    assert rows == [("Failed", "the task", "Failed")]


@pytest.mark.parametrize(
    ("held", "number"),
    [
        *(pytest.param(*flow.values, signal.SIGINT, marks=flow.marks) for flow in FLOWS),
        *(
            pytest.param("dask::local", number, marks=pytest.mark.dask)
            for number in (signal.SIGTERM, signal.SIGHUP)
        ),
    ],
    indirect=["held"],
)
def test_a_signal_to_all_processes_ends_the_task_in_order(
    held: _Run, number: signal.Signals
) -> None:
    family = held.family()
    os.killpg(held.process.pid, number)
    output, _ = held.process.communicate(timeout=60)
    assert held.process.returncode == 128 + number, output
    assert (held.directory / "task.asked").exists()
    assert "lost" not in output
    _, left = psutil.wait_procs(family, timeout=30)
    assert left == []


@pytest.mark.parametrize("held", FLOWS, indirect=True)
def test_the_engine_does_not_outlive_a_driver_that_is_killed(held: _Run) -> None:
    task = psutil.Process(int((held.directory / "task.started").read_text()))
    engine = set(held.family()) - {task, *task.children(recursive=True)}
    held.process.kill()
    held.process.communicate(timeout=60)
    # The shell's latest sleep came and went in between: only what lasts is looked at.
    _, left = psutil.wait_procs(engine, timeout=30)
    assert left == []
