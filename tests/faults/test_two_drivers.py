"""Two drivers at once, one that is stopped for a while, clocks that are wrong, workflows edited."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.conftest import REQUIRED
from tests.faults.conftest import COMMAND, Site, said_by, shell, wait_until

WAIT = "touch {0}-up; until test -e go; do sleep 0.05; done; "
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


def ended(site: Site) -> Counter[str]:
    path = site.root / "ended"
    return Counter(path.read_text().split()) if path.exists() else Counter()


def write(site: Site, *, second: str = "cat first > second") -> None:
    """Two tasks; the first waits for a file ``go``."""
    mark = f"; echo {{}} >> {site.root}/ended"
    line = WAIT.format("first") + "echo one > first"
    site.write(
        shell("first", line + mark.format("first"), outputs=["first"], needs=[]),
        shell(
            "second",
            second + mark.format("second"),
            inputs=["first"],
            outputs=["second"],
            needs=["first"],
        ),
    )


@pytest.mark.fault(
    8,
    "the same command again while the run goes on",
    "it is refused within seconds, and says which process on which machine has the run;"
    " `--fresh` too, unless no task makes files that are declared",
)
def test_a_second_driver_is_refused(site: Site) -> None:
    write(site)
    driver = site.start()
    wait_until(lambda: site.up("first-up"), "the first driver's task")
    second = site.run()
    assert second.code == 7
    assert str(driver.pid) in second.err
    assert socket.gethostname() in second.err
    assert "--fresh" not in second.err
    beside = site.run("run", "--fresh")
    assert beside.code == 7
    assert f"{site.work}/first too, is driven by process {driver.pid}" in beside.words
    (site.work / "go").touch()
    assert said_by(driver).code == 0
    assert ended(site) == {"first": 1, "second": 1}
    assert len(list(site.work.glob("output/2*"))) == 1


def test_a_second_driver_whose_tasks_make_nothing_runs_beside(site: Site) -> None:
    site.write(shell("first", WAIT.format("first")))
    driver = site.start()
    wait_until(lambda: site.up("first-up"), "the first driver's task")
    assert "--fresh starts another run beside it" in site.run().words
    (site.work / "first-up").unlink()
    beside = site.start("run", "--fresh")
    wait_until(lambda: site.up("first-up"), "the task of the run beside")
    (site.work / "go").touch()
    assert (said_by(driver).code, said_by(beside).code) == (0, 0)
    assert len(list(site.work.glob("output/2*"))) == 2


@pytest.mark.fault(
    8,
    "other tasks of the workflow are asked for, which need what one of the run that goes on makes",
    "that is refused within seconds, and says which file and which process; no task runs twice",
)
def test_a_second_driver_of_other_tasks_is_refused(site: Site) -> None:
    write(site)
    driver = site.start("run", "--tasks", "first")
    wait_until(lambda: site.up("first-up"), "the first driver's task")
    second = site.run("run", "--tasks", "second")
    assert second.code == 7
    assert f"{site.work}/first too, is driven by process {driver.pid}" in second.words
    (site.work / "go").touch()
    assert said_by(driver).code == 0
    assert site.run("run", "--tasks", "second").code == 0
    assert ended(site) == {"first": 1, "second": 1}


@pytest.mark.fault(
    8,
    "six drivers at the same moment, after one was killed",
    "one goes on with the run, the others are refused; no task runs twice",
)
def test_of_six_drivers_at_once_one_goes_on(site: Site) -> None:
    write(site)
    driver = site.start()
    wait_until(lambda: site.up("first-up"), "the first driver's task")
    driver.kill()
    said_by(driver)
    (site.work / "first-up").unlink()
    drivers = [site.start() for _ in range(6)]
    wait_until(lambda: sum(one.poll() is not None for one in drivers) == 5, "five are refused")
    (site.work / "go").touch()
    with ThreadPoolExecutor(len(drivers)) as pool:
        said = list(pool.map(said_by, drivers))
    assert sorted(one.code for one in said) == [0, 7, 7, 7, 7, 7]
    assert ended(site) == {"first": 1, "second": 1}
    assert len(list(site.work.glob("output/2*"))) == 1


@pytest.mark.fault(
    10,
    "the file system knows no locks",
    "none is needed: a run is claimed by a file that only one process can make",
)
def test_no_lock_of_the_kernel_is_needed(site: Site) -> None:
    if (strace := shutil.which("strace")) is None:
        (pytest.fail if REQUIRED else pytest.skip)("strace is not installed; tests/testbed/up.sh")
    write(site)
    (site.work / "go").touch()
    done = subprocess.run(
        [
            *(strace, "-f", "-o", str(site.root / "trace"), "-e", "trace=flock"),
            *("-e", "inject=flock:error=ENOLCK", str(COMMAND), "run"),
        ],
        cwd=site.work,
        env=site.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done


@pytest.mark.fault(
    43,
    "the clock is set back by a day before the run goes on, or starts anew",
    "it goes on with the latest run; a new one comes behind the earlier ones",
)
def test_the_clock_is_set_back(site: Site) -> None:
    if not FAKETIME.exists():
        (pytest.fail if REQUIRED else pytest.skip)("no libfaketime; tests/testbed/up.sh has it")
    write(site, second="test -e mended && cat first > second")
    (site.work / "go").touch()
    assert site.run().code == 1
    (site.work / "mended").touch()
    back = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": "-1d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    said = site.run(**back)
    assert said.code == 0, said
    assert ended(site) == {"first": 1, "second": 2}
    (first,) = site.work.glob("output/2*")
    said = site.run("run", "--fresh", **back)
    assert said.code == 0, said
    runs = sorted(path.name for path in site.work.glob("output/2*"))
    assert runs[0] == first.name
    assert (site.work / "output" / "latest").readlink().name == runs[-1]
    assert not re.search(r"-\d+\.\d+ s", said.both)


@pytest.mark.fault(
    43,
    "inputs and outputs have times in the future, or other ones than before",
    "their bytes decide: what has the same is not done again, what has others is",
)
def test_files_have_odd_times(site: Site) -> None:
    (site.work / "data").write_text("one")
    line = f"cat data > copy; echo copy >> {site.root}/ended"
    site.write(shell("copy", line, inputs=["data"], outputs=["copy"]))
    assert site.run().code == 0
    later_s = time.time() + 86400
    for name in ("data", "copy"):
        os.utime(site.work / name, times=(later_s, later_s))
    assert site.run().code == 0
    assert ended(site) == {"copy": 1}
    before = (site.work / "data").stat()
    (site.work / "data").write_text("two")
    # The same size, and the same time.
    os.utime(site.work / "data", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert site.run().code == 0
    assert ended(site) == {"copy": 2}
    assert (site.work / "copy").read_text() == "two"


@pytest.mark.fault(
    45,
    "the workflow file is edited while it runs",
    "the run keeps what it has read; the next one does anew what was changed, and what needs it",
)
def test_the_workflow_is_edited_in_mid_run(site: Site) -> None:
    write(site)
    driver = site.start()
    wait_until(lambda: site.up("first-up"), "the task")
    before = (site.work / "workflow.yaml").read_bytes()
    write(site, second="cat first first > second")
    (site.work / "go").touch()
    assert said_by(driver).code == 0
    assert (site.work / "second").read_text() == "one\n"
    kept = site.work / "output" / "latest" / "workflow.yaml"
    assert kept.read_bytes() == before
    assert site.run().code == 0
    assert (site.work / "second").read_text() == "one\none\n"
    assert ended(site) == {"first": 1, "second": 2}


@pytest.mark.fault(
    45,
    "the driver is killed, and the workflow edited before the run goes on",
    "unchanged tasks that are done stay, changed ones run, with the reason",
)
def test_the_workflow_is_edited_before_the_run_goes_on(site: Site) -> None:
    write(site, second=WAIT.format("second").replace("go;", "go2;") + "cat first > second")
    (site.work / "go").touch()
    driver = site.start()
    wait_until(lambda: site.up("second-up"), "the second task")
    driver.kill()
    said_by(driver)
    write(site, second="cat first first > second")
    said = site.run()
    assert said.code == 0, said
    assert ended(site) == {"first": 1, "second": 1}
    assert (site.work / "second").read_text() == "one\none\n"
    assert list(site.work.glob("output/2*/former/1/workflow.yaml"))


@pytest.mark.fault(
    43,
    "the driver is stopped for ten seconds (SIGSTOP), and goes on",
    "another one is refused meanwhile, and told how to let it go on; then all goes on as before",
)
def test_the_driver_is_stopped_for_a_while(site: Site) -> None:
    write(site)
    driver = site.start()
    wait_until(lambda: site.up("first-up"), "the task")
    driver.send_signal(signal.SIGSTOP)
    until_s = time.monotonic() + 10
    (site.work / "go").touch()
    second = site.run()
    assert second.code == 7
    assert f"kill -CONT {driver.pid}" in second.err
    wait_until(lambda: ended(site)["first"] == 1, "the task goes on")
    # What is tried is that so much time passes.
    time.sleep(max(0.0, until_s - time.monotonic()))
    driver.send_signal(signal.SIGCONT)
    assert said_by(driver).code == 0
    assert ended(site) == {"first": 1, "second": 1}
