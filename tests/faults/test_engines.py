"""Engines that stop, and containers that somebody ends or removes, while tasks run and between."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from tests.faults.conftest import (
    ENGINES,
    Site,
    in_image,
    kept_image,
    said_by,
    shell,
    wait_until,
)
from tests.faults.daemon import Daemon

WAIT = "until [ -e {0} ]; do sleep 0.05; done"
# Of what it starts, some has no variable by which it could be found.
LONG = ": > up; env -i sleep {nap} & sleep {nap}; echo never"


@pytest.fixture
def daemon(docker_archive: Path) -> Iterator[Daemon]:
    started = Daemon(Path(tempfile.mkdtemp(prefix="fault-")))
    try:
        assert started.ask("load", "--input", str(docker_archive)) == 0
        yield started
    finally:
        started.close()


def with_a_task_in_it(site: Site, runtime: str, image: str) -> subprocess.Popen[str]:
    """A run whose first task runs; the second is on the host, the third comes after that."""
    environment = {"environment": in_image(runtime, image)}
    site.write(
        shell("long", LONG.format(nap=site.nap), **environment),
        shell("beside", WAIT.format("go")),
        shell("later", "echo later", needs=["beside"], **environment),
    )
    driver = site.start()
    wait_until(lambda: site.up("up"), "the task runs")
    assert any(site.nap in words for words in site.processes().values())
    return driver


def lives(identity: str) -> bool:
    """Whether any process is in the control group of that container."""
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                groups = Path(f"/proc/{process.pid}/cgroup").read_text()
                if identity in groups:
                    return True
        except (OSError, psutil.Error):
            continue
    return False


@pytest.mark.fault(
    27,
    "docker's daemon goes while a task runs",
    "its tasks have failed, with the engine named as the cause; those on the host go on",
)
@pytest.mark.docker
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_daemon_that_goes_while_a_task_runs(
    site: Site, daemon: Daemon, number: signal.Signals
) -> None:
    site.variables["DOCKER_HOST"] = daemon.host
    driver = with_a_task_in_it(site, "docker", kept_image("docker", "busybox", Path()))
    (identity,) = (line.split()[0] for line in site.containers("docker", DOCKER_HOST=daemon.host))
    assert lives(identity)
    daemon.process.send_signal(number)
    daemon.process.wait(60)
    result = site.attempt("long") / "result.json"
    wait_until(result.exists, "the task is told of")
    (site.work / "go").touch()
    said = said_by(driver)
    assert said.code == 1, said
    status, kind, words = site.cause("long")
    assert (status, kind) == ("failed", "environment")
    assert "the engine is gone" in words or "killed from outside" in words
    assert site.cause("beside")[0] == "succeeded"
    status, kind, words = site.cause("later")
    assert (status, kind) == ("failed", "environment")
    assert "docker does not answer" in words
    assert not lives(identity)
    assert site.left() == {}


def kill(found: Callable[[psutil.Process], bool]) -> None:
    killed = 0
    for process in psutil.process_iter():
        try:
            if found(process):
                process.kill()
                killed += 1
        except psutil.Error:
            continue
    assert killed


def remove_container(runtime: str, site: Site) -> None:
    """What `rm -f` is to an engine; where there is none, to kill the container's processes."""
    if runtime in ENGINES:
        for line in site.containers(runtime):
            # Without it podman asks first, and waits ten seconds for an answer.
            now = ["--time", "0"] if runtime == "podman" else []
            argv = [runtime, "rm", "--force", *now, line.split()[0]]
            subprocess.run(argv, capture_output=True, check=True)
        return
    children = psutil.Process(site.drivers[-1]).children(recursive=True)
    first = "appinit" if runtime == "apptainer" else "busybox"
    pids = set()
    for child in children:
        # What only helped to start it may end by itself meanwhile.
        with suppress(psutil.NoSuchProcess):
            if child.name() == first or site.nap in str(child.cmdline()):
                pids.add(child.pid)
    kill(lambda process: process.pid in pids)


def test_a_container_that_is_removed_while_its_task_runs(
    site: Site, container_runtime: str, busybox_of: Callable[[str], str]
) -> None:
    driver = with_a_task_in_it(site, container_runtime, busybox_of(container_runtime))
    remove_container(container_runtime, site)
    (site.work / "go").touch()
    said = said_by(driver)
    assert said.code == 1, said
    status, kind, words = site.cause("long")
    assert status == "failed"
    if container_runtime == "charliecloud":
        # There is no container but the task's own process.
        assert (kind, words) == ("signal", "killed by SIGKILL")
    else:
        assert kind == "environment"
        assert "from outside" in words
    assert site.cause("beside")[0] == "succeeded"
    assert site.result("later").stdout_tail == "later\n"
    assert site.left(container_runtime) == {}


@pytest.mark.parametrize(
    "runtime",
    [pytest.param(name, marks=getattr(pytest.mark, name)) for name in (*ENGINES, "apptainer")],
)
def test_a_container_that_is_removed_between_two_tasks(
    site: Site, runtime: str, busybox_of: Callable[[str], str]
) -> None:
    environment = {"environment": in_image(runtime, busybox_of(runtime))}
    site.write(
        shell("first", "echo $$", **environment),
        shell("between", f": > up; {WAIT.format('go')}", needs=["first"]),
        shell("second", "echo second", needs=["between"], **environment),
    )
    driver = site.start()
    wait_until(lambda: site.up("up"), "the first task has ended")
    remove_container(runtime, site)
    (site.work / "go").touch()
    said = said_by(driver)
    assert said.code == 0, said
    assert site.result("second").stdout_tail == "second\n"
    assert site.left(runtime) == {}


@pytest.mark.fault(
    27, "podman's monitor is killed", "the task has failed, with that cause; no container is left"
)
@pytest.mark.podman
def test_podmans_monitor_is_killed(site: Site, busybox_of: Callable[[str], str]) -> None:
    driver = with_a_task_in_it(site, "podman", busybox_of("podman"))
    (identity,) = (line.split()[0] for line in site.containers("podman"))
    kill(lambda process: process.name() == "conmon" and identity in process.cmdline())
    (site.work / "go").touch()
    said = said_by(driver)
    assert said.code == 1, said
    status, kind, words = site.cause("long")
    assert (status, kind) == ("failed", "environment")
    assert words.startswith("the engine is gone: podman's monitor")
    assert site.result("later").stdout_tail == "later\n"
    assert not lives(identity)
    assert site.left("podman") == {}


@pytest.mark.fault(
    27,
    "what holds a container of apptainer's is killed",
    "the task has failed, with that cause; nothing is left",
)
@pytest.mark.apptainer
@pytest.mark.parametrize("which", ["starter", "squashfuse_ll"])
def test_what_holds_a_container_of_apptainers_is_killed(
    site: Site, busybox_of: Callable[[str], str], which: str
) -> None:
    driver = with_a_task_in_it(site, "apptainer", busybox_of("apptainer"))
    children = psutil.Process(driver.pid).children(recursive=True)
    holders = {child.pid for child in children if child.name() == which}
    kill(lambda process: process.pid in holders)
    if which == "squashfuse_ll":
        # Without its image a task sleeps on, and comes to grief when it wakes up.
        kill(lambda process: site.nap in process.cmdline())
    (site.work / "go").touch()
    said = said_by(driver)
    assert said.code == 1, said
    assert site.cause("long")[:2] == ("failed", "environment")
    assert site.result("later").stdout_tail == "later\n"
    assert not [pid for pid in holders if psutil.pid_exists(pid)]
    assert site.left("apptainer") == {}


def test_a_container_of_another_run_that_goes_while_it_is_looked_at(
    site: Site, engine: str, busybox_of: Callable[[str], str]
) -> None:
    program = site.root / "bin" / engine
    program.parent.mkdir()
    real = shutil.which(engine)
    # Names one that went since; is else the engine itself.
    program.write_text(f'#!/bin/sh\n[ "$1" != ps ] || exec echo {"0" * 12}\nexec {real} "$@"\n')
    program.chmod(0o755)
    site.variables["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    site.write(shell("inside", "echo hi", environment=in_image(engine, busybox_of(engine))))
    said = site.run()
    assert said.code == 0, said
    assert site.left(engine) == {}
