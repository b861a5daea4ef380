"""Entering a container, where something about it is odd; the suites try what is usual."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fasthep_flow.environments import ContainerSpec, Mount, find_runtime
from fasthep_flow.environments.host.attended import Brood, attend, shell_code
from fasthep_flow.environments.host.owner import owner_labels
from fasthep_flow.environments.native import NATIVE
from fasthep_flow.errors import EnvironmentRefused, RunInterrupted
from fasthep_flow.execution.entering import enter_job
from fasthep_flow.greeting import command_text
from fasthep_flow.model import Call, Command, Image, Job

LEAVES = "import os, sys, time; os.fork() or (os.setsid(), os.fork() or time.sleep(600))"


@contextlib.contextmanager
def quiet_streams(folder: Path) -> Iterator[None]:
    """Files in the place of this process's standard streams."""
    kept = [os.dup(number) for number in range(3)]
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        os.dup2(null, 0)
        for number, name in ((1, "out"), (2, "err")):
            opened = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(opened, number)
            os.close(opened)
        yield
    finally:
        for number, descriptor in enumerate(kept):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(null)


def enter(runtime: str, image: str, folder: Path, *argv: str, **variables: str | None) -> int:
    found = find_runtime(runtime)
    spec = ContainerSpec(
        name=f"fasthep-test-{uuid.uuid4().hex}",
        image=found.resolve(Image(name=image)),
        labels=owner_labels(),
        mounts=(Mount(source=str(folder), target=str(folder)),),
    )
    environment = {"FASTHEP_TASK_DIRECTORY": str(folder), **variables}
    with quiet_streams(folder):
        return found.enter(spec, argv, environment=environment, working_directory=str(folder))


def test_an_image_with_python_alone_can_be_entered(
    container_runtime: str, pythononly_image: str, tmp_path: Path
) -> None:
    line = "import os, sys; print(os.environ['LUMI'], os.getcwd()); sys.exit(7)"
    code = enter(container_runtime, pythononly_image, tmp_path, "python3", "-c", line, LUMI="4\n9")
    assert code == 7
    assert (tmp_path / "out").read_text() == f"4\n9 {tmp_path}\n"
    if container_runtime != "charliecloud":
        with pytest.raises(EnvironmentRefused, match="no program no-such-program"):
            enter(container_runtime, pythononly_image, tmp_path, "no-such-program")


def test_an_image_in_which_nothing_can_be_started_is_told(
    engine: str, noshell_image: str, tmp_path: Path
) -> None:
    with pytest.raises(EnvironmentRefused, match="has no python3"):
        enter(engine, noshell_image, tmp_path, "/bin/echo")


def test_a_container_that_somebody_removes_is_no_exit_code(
    engine: str, busybox_image: str, tmp_path: Path
) -> None:
    def remove() -> None:
        while not (tmp_path / "up").exists():
            time.sleep(0.02)
        mark = f"label=fasthep.pid={os.getpid()}"
        names = subprocess.run(
            [engine, "ps", "--quiet", "--filter", mark], capture_output=True, text=True, check=True
        ).stdout.split()
        subprocess.run([engine, "rm", "--force", *names], capture_output=True, check=True)

    thread = threading.Thread(target=remove)
    thread.start()
    with pytest.raises(EnvironmentRefused, match="container"):
        enter(engine, busybox_image, tmp_path, "sh", "-c", ": >up; sleep 600")
    thread.join()


def test_a_variable_that_no_shell_can_set_is_refused(
    container_runtime: str, busybox_image: str, tmp_path: Path
) -> None:
    if container_runtime == "charliecloud":
        assert enter(container_runtime, busybox_image, tmp_path, "true", **{"a.b": "c"}) == 0
        return
    with pytest.raises(EnvironmentRefused, match=r"'a\.b'"):
        enter(container_runtime, busybox_image, tmp_path, "true", **{"a.b": "c"})


def test_a_brood_is_ended_though_it_left_its_parents() -> None:
    before = {process.pid for process in psutil.Process().children()}
    with Brood():
        subprocess.run([sys.executable, "-c", LEAVES], check=True)
    left = [one for one in psutil.Process().children() if one.pid not in before]
    assert not [one for one in left if one.status() != psutil.STATUS_ZOMBIE]


def test_a_brood_leaves_the_processes_of_others_alone() -> None:
    other = subprocess.Popen(["sleep", "600"])
    try:
        with Brood() as brood:
            brood.kill()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_who_is_told_to_stop_before_the_start_stops() -> None:
    ended: list[str] = []

    def start(process: subprocess.Popen[bytes]) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        ended.append(str(process.pid))

    with Brood() as brood, pytest.raises(RunInterrupted) as stopped:
        attend(
            ["sleep", "600"],
            environment=os.environ,
            working_directory="/",
            ask=brood.terminate,
            kill=brood.kill,
            started=start,
        )
    assert stopped.value.signal_number == signal.SIGHUP


def test_exit_codes_are_those_of_a_shell() -> None:
    assert [shell_code(code) for code in (0, 3, 255, -9, -15)] == [0, 3, 255, 137, 143]


def test_limits_of_processors_are_held_for_who_enters(tmp_path: Path) -> None:
    from fasthep_flow.model import Resources

    spec = ContainerSpec(name="test", resources=Resources(cpus=1))
    line = "import os; print(len(os.sched_getaffinity(0)))"
    with quiet_streams(tmp_path):
        assert (
            NATIVE.enter(
                spec, (sys.executable, "-c", line), environment={}, working_directory=str(tmp_path)
            )
            == 0
        )
    assert (tmp_path / "out").read_text() == "1\n"


def test_a_job_is_entered_as_itself(tmp_path: Path) -> None:
    attempt = tmp_path / "run" / "task"
    attempt.mkdir(parents=True)
    job = Job(
        run_id="r",
        task="t",
        slug="task",
        attempt=1,
        invocations={"cpu": Command(argv=("true",))},
        directory=str(attempt),
        working_directory=str(tmp_path),
        run_directory=str(tmp_path / "run"),
        variables=("LUMI",),
    )
    line = 'echo "$LUMI $FASTHEP_TASK_NAME $FASTHEP_RUN_ID $FASTHEP_TASK_DIRECTORY"'
    with quiet_streams(tmp_path):
        assert enter_job(job, {"LUMI": "4"}, ("sh", "-c", line)) == 0
    assert (tmp_path / "out").read_text() == f"4 t r {attempt}\n"
    with pytest.raises(EnvironmentRefused, match="LUMI"):
        enter_job(job, {}, ("true",))


@pytest.mark.parametrize(
    ("invocation", "text"),
    [
        (Command(argv=("bash", "-c", "a b\n")), "bash -c 'a b'"),
        (Command(argv=("fit", "--token", "hunter2")), "fit --token ***"),
        (Command(argv=("get", "https://me:pw@host/x")), "get https://***@host/x"),
        (
            Call(target="mine:fit", args=(1, "x"), kwargs={"y": None}),
            """python3 -c 'import mine; print(mine.fit(1, '"'"'x'"'"', **{'"'"'y'"'"': None}))'""",
        ),
        (Command(argv=("echo", "\x1b[2J")), r"echo '\x1b[2J'"),
    ],
)
def test_a_command_can_be_copied_and_shows_no_secret(invocation: Command | Call, text: str) -> None:
    assert command_text(invocation, frozenset({"hunter2"})) == text
