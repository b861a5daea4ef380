"""Runs that are stopped, or lose what runs their tasks; and the same command once more."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.faults.conftest import COMMAND, SOON_S, Site, in_image, said_by, shell, wait_until

from fasthep_flow.records.run import read_run


def ended(site: Site) -> Counter[str]:
    path = site.root / "ended"
    return Counter(path.read_text().split()) if path.exists() else Counter()


def write(site: Site, *, line: str = "", settings: dict[str, Any] | None = None) -> None:
    """Three tasks: one that is done, one under way until there is a file ``go``, and a third."""
    mark = f"; echo {{}} >> {site.root}/ended"
    wait = line + f"touch up; until test -e go; do sleep 0.05; done; : {site.nap}"
    site.write(
        shell("done", "echo done > done" + mark.format("done"), outputs=["done"], needs=[]),
        shell("waits", "printf half > made; " + wait + "; printf whole > made"
              + mark.format("waits"), outputs=["made"], needs=["done"]),
        shell("third", "cat made" + mark.format("third"), inputs=["made"], needs=["waits"]),
        **(settings or {}),
    )  # fmt: skip


def go_on(site: Site, *, again: int = 1) -> None:
    """The same command brings it to its end, and what was done is not done once more."""
    assert not site.up("made"), "half an output is there to be read"
    (site.work / "go").touch()
    said = site.run()
    assert said.code == 0, said
    assert "Traceback" not in said.both
    assert ended(site) == {"done": 1, "waits": again, "third": 1}
    assert (site.work / "made").read_text() == "whole"
    assert site.left() == {}


@pytest.mark.fault(
    4,
    "Ctrl-C, once",
    "no new task is started, those that run are ended and recorded as cancelled, exit code 130;"
    " nothing is left; the same command goes on",
)
def test_stopped_once_by_ctrl_c(site: Site) -> None:
    stop(site, signal.SIGINT)


@pytest.mark.fault(5, "TERM to the driver alone", "as with Ctrl-C; exit code 143")
def test_stopped_by_term(site: Site) -> None:
    stop(site, signal.SIGTERM)


@pytest.mark.fault(6, "HUP to the driver alone", "as with Ctrl-C; exit code 129")
def test_stopped_by_hup(site: Site) -> None:
    stop(site, signal.SIGHUP)


def stop(site: Site, number: signal.Signals) -> None:
    write(site)
    driver = site.start()
    wait_until(lambda: site.up("up"), "the second task")
    if number is signal.SIGINT:
        os.killpg(driver.pid, number)
    else:
        driver.send_signal(number)
    said = said_by(driver)
    assert said.code == 128 + number, said
    assert "Traceback" not in said.both
    assert site.left() == {}
    assert read_run(site.work / "output").status == "cancelled"
    assert site.cause("waits")[0] == "cancelled"
    go_on(site)


@pytest.mark.fault(
    4,
    "Ctrl-C twice, with a task that ignores it",
    "it is killed at once; exit code 130, nothing is left; the same command goes on",
)
def test_stopped_twice_by_ctrl_c(site: Site) -> None:
    # A daemon of the task, and a task, that no signal but one ends.
    write(site, line=f"trap '' INT TERM HUP; (setsid sleep {site.nap} &); ")
    driver = site.start()
    wait_until(lambda: site.up("up"), "the second task")
    os.killpg(driver.pid, signal.SIGINT)
    wait_until(lambda: "stopped by" in journal(site), "the first one is heard")
    os.killpg(driver.pid, signal.SIGINT)
    said = said_by(driver)
    assert said.code == 130, said
    assert site.left() == {}
    go_on(site)


def journal(site: Site) -> str:
    return (site.work / "output" / "latest" / "events.jsonl").read_text()


@pytest.mark.fault(
    6, "the terminal is closed", "as with Ctrl-C; exit code 129, or 128 and the signal's number"
)
def test_the_terminal_is_closed(site: Site) -> None:
    write(site)
    pid, terminal = pty.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            os.chdir(site.work)
            os.execve(COMMAND, [str(COMMAND), "run"], site.environment())  # noqa: S606
        os._exit(99)
    site.drivers.append(pid)
    wait_until(lambda: site.up("up"), "the second task")
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    assert site.left() == {}
    go_on(site)


@pytest.mark.fault(
    6,
    "who reads what the command prints goes away (`| head -1`)",
    "the tasks that run are ended, or go on to their ends; the same command goes on",
)
def test_nobody_reads_what_is_printed(site: Site) -> None:
    write(site)
    driver = site.start()
    assert driver.stdout is not None
    assert driver.stderr is not None
    wait_until(lambda: site.up("up"), "the second task")
    driver.stdout.close()
    driver.stderr.close()
    (site.work / "go").touch()
    driver.wait(SOON_S)
    said = site.run()
    assert said.code == 0, said
    assert ended(site)["done"] == 1
    assert (site.work / "made").read_text() == "whole"
    assert site.left() == {}


@pytest.mark.fault(
    7,
    "a task ignores signals and forks a daemon, and the driver is killed with -9",
    "all of it is ended before the task starts again",
)
def test_a_stubborn_task_of_a_dead_driver(site: Site) -> None:
    write(site, line=f"trap '' INT TERM HUP; (setsid sleep {site.nap} &); ")
    driver = site.start()
    wait_until(lambda: site.up("up"), "the second task")
    driver.kill()
    said_by(driver)
    (site.work / "go").touch()
    said = site.run()
    assert said.code == 0, said
    assert "made" in said.both or ended(site)["waits"] == 1
    assert (site.work / "made").read_text() == "whole"
    assert site.left() == {}


@pytest.mark.fault(
    7,
    "the driver is killed with -9, its task goes on, and another run is started",
    "what the task still runs is ended, and what it left moved aside, before anything is started",
)
def test_the_task_of_a_dead_driver_when_another_run_is_started(site: Site) -> None:
    own = "until test -e go; do echo $FASTHEP_RUN_ID >> made; sleep 0.05; done"
    site.write(
        shell("makes", f"{own}; echo $FASTHEP_RUN_ID >> made", outputs=["made"]),
        shell("other", "true"),
    )
    driver = site.start("run", "--tasks", "makes")
    wait_until(lambda: site.up("made"), "the task")
    driver.kill()
    said_by(driver)
    [former] = site.work.glob("output/2*")
    another = site.start("run", "--fresh")
    wait_until(lambda: len(list(site.work.glob("output/2*/tasks/makes"))) == 2, "the other run")
    (site.work / "go").touch()
    said = said_by(another)
    assert said.code == 0, said
    assert f"of the run {former.name}, whose driver is gone, still ran" in said.words
    assert former.name not in (site.work / "made").read_text()
    assert set((former / "tasks/makes/1/left/made").read_text().split()) == {former.name}
    assert site.left() == {}


@pytest.mark.dask
@pytest.mark.fault(
    21,
    "a Dask worker is killed with -9 while a task runs",
    "its processes are ended, what it left is moved aside, and it is started again on another"
    " worker; the other results stand",
)
def test_a_dask_worker_is_killed(site: Site) -> None:
    write(site, settings={"flow": "dask::local"})
    driver = site.start()
    wait_until(lambda: site.up("up"), "the second task")
    found = list(site.work.glob("output/2*/tasks/waits/1/worker.json"))
    assert found
    (site.work / "up").unlink()
    worker = psutil.Process(int(pid_of(found[0])))
    worker.kill()
    wait_until(lambda: site.up("up"), "it is started again")
    (site.work / "go").touch()
    said = said_by(driver)
    assert said.code == 0, said
    assert ended(site) == {"done": 1, "waits": 1, "third": 1}
    assert (site.work / "made").read_text() == "whole"
    assert [path.read_text() for path in site.work.glob("output/2*/tasks/waits/1/left/made")] == [
        "half"
    ]
    assert site.left() == {}


def pid_of(path: Path) -> str:
    return str(json.loads(path.read_bytes())["pid"])


@pytest.mark.dask
@pytest.mark.fault(
    1,
    "the driver of a Dask cluster is killed with -9",
    "its workers and their tasks are ended before the run goes on",
)
def test_the_driver_of_a_cluster_is_killed(site: Site) -> None:
    write(site, settings={"flow": "dask::local"})
    driver = site.start()
    wait_until(lambda: site.up("up"), "the second task")
    driver.kill()
    said_by(driver)
    (site.work / "go").touch()
    said = site.run()
    assert said.code == 0, said
    assert ended(site)["done"] == 1
    assert (site.work / "made").read_text() == "whole"
    assert site.left() == {}


@pytest.mark.dask
@pytest.mark.fault(
    22,
    "the scheduler of a Dask cluster of one's own is killed with -9",
    "the run ends with one error, its tasks with it; with another scheduler it goes on",
)
def test_the_scheduler_of_a_cluster_is_killed(site: Site) -> None:
    def start(*words: str) -> subprocess.Popen[bytes]:
        words = (*words, "--host", "127.0.0.1", "--scheduler-file", "scheduler.json")
        words = (*words, "--dashboard-address", "127.0.0.1:0", "--no-dashboard")
        return subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{words[0]}", *words[1:]],
            cwd=site.root,
            env=site.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def is_there() -> bool:
        return file.exists() and file.read_text().rstrip().endswith("}")

    file = site.root / "scheduler.json"
    runner = {"runner": "scheduler", "scheduler_file": str(file)}
    write(site, settings={"workflow": {"transform": "dask", "kwargs": runner}})
    description = json.loads((site.work / "workflow.yaml").read_text())
    del description["global"]["flow"]
    (site.work / "workflow.yaml").write_text(json.dumps(description))
    for last in (False, True):
        file.unlink(missing_ok=True)
        with contextlib.ExitStack() as stack:
            scheduler = start("scheduler", "--port", "0")
            stack.callback(scheduler.wait)
            stack.callback(scheduler.kill)
            wait_until(is_there, "a scheduler")
            worker = start("worker", "--nthreads", "1", "--death-timeout", "5")
            stack.callback(worker.wait)
            stack.callback(worker.terminate)
            driver = site.start()
            if not last:
                wait_until(lambda: site.up("up"), "the second task")
                scheduler.kill()
                said = said_by(driver)
                assert said.code == 5, said
                assert "does not answer any more" in said.err
                (site.work / "go").touch()
                continue
            said = said_by(driver)
            assert said.code == 0, said
    assert ended(site)["done"] == 1
    assert (site.work / "made").read_text() == "whole"


@pytest.mark.fault(
    27,
    "the program that holds a container is killed with -9: the engine's client, or its monitor",
    "the task has failed, or been lost, with its cause; no container is left; the same command"
    " goes on",
)
@pytest.mark.parametrize("what", ["client", "monitor"])
def test_what_holds_a_container_is_killed(
    site: Site, engine: str, what: str, busybox_of: Callable[[str], str]
) -> None:
    if (engine, what) == ("docker", "monitor"):
        pytest.skip("docker's is a part of the daemon, which others use: see test_engines.py")
    image = in_image(engine, busybox_of(engine))
    wait = (
        "printf half > made; touch up; until test -e go; do sleep 0.05; done; printf whole > made"
    )
    site.write(shell("waits", wait, outputs=["made"], environment=image))
    driver = site.start()
    wait_until(lambda: site.up("up"), "the container")
    name = {"client": engine, "monitor": "conmon"}[what]
    holding = [pid for pid, words in site.processes().items() if name in words.split(" ", 1)[0]]
    assert holding
    for pid in holding:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    said = said_by(driver)
    assert said.code in {1, 5}, said
    assert "Traceback" not in said.both
    assert not site.up("made")
    (site.work / "go").touch()
    said = site.run()
    assert said.code == 0, said
    assert (site.work / "made").read_text() == "whole"
    assert site.left(engine) == {}
