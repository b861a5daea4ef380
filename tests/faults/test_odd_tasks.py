"""Tasks that do what no task should: to their outputs, to their own folders, to the machine."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.conftest import (
    Site,
    in_image,
    said_by,
    shell,
    wait_until,
)

MEBI = 2**20


@pytest.mark.fault(
    11,
    "a task fails with half of its output written",
    "that is moved to `left` in its attempt's folder before another task can read it",
)
def test_half_an_output_of_a_task_that_failed(site: Site) -> None:
    half = "printf half > made; test -e mended && printf whole > made"
    site.write(
        shell("make", half, outputs=["made"], needs=[]),
        shell("read", "cat made", inputs=["made"], needs=["make"]),
    )
    assert site.run().code == 1
    assert not site.up("made")
    assert (site.attempt("make") / "left" / "made").read_text() == "half"
    assert not site.attempt("read").exists()
    (site.work / "mended").touch()
    assert site.run().code == 0
    assert (site.attempt("read") / "stdout.log").read_text() == "whole"


@pytest.mark.fault(
    12,
    "a task ends with success, and its output is not there, or empty",
    "not there: the task has failed, the file is named; empty: that is remarked",
)
def test_an_output_that_is_not_made(site: Site) -> None:
    site.write(
        shell("none", "true", outputs=["nothing"]),
        shell("empty", ": > empty", outputs=["empty"]),
    )
    said = site.run()
    assert said.code == 1
    status, kind, message = site.cause("none")
    assert (status, kind) == ("failed", "output")
    assert "nothing" in message
    assert site.cause("empty")[0] == "succeeded"
    assert any("empty" in remark for remark in site.result("empty").remarks)


@pytest.mark.fault(
    31,
    "an output is a link out of the workflow's folder, or its folder is swapped for one",
    "the task has failed; what the link leads to is neither read nor changed",
)
def test_an_output_that_is_a_link(site: Site) -> None:
    outside = site.root / "outside"
    outside.mkdir()
    (outside / "secret").write_text("mine")
    site.write(
        shell("link", f"ln -s {outside}/secret link", outputs=["link"]),
        shell("inside", f"mkdir in; ln -s {outside} in/out", outputs=["in/"]),
        shell(
            "swap", f"rm -rf there; ln -s {outside} there; : > there/made", outputs=["there/made"]
        ),
    )
    said = site.run()
    assert said.code == 1
    assert "Traceback" not in said.both
    for name in ("link", "inside", "swap"):
        assert site.cause(name)[:2] == ("failed", "output"), name
    assert (outside / "secret").read_text() == "mine"
    assert {path.name for path in outside.iterdir()} <= {"secret", "made"}


@pytest.mark.fault(
    46,
    "a task deletes its own attempt's folder, or all of the run's tasks",
    "its logs are gone, which is remarked; the other tasks go on",
)
@pytest.mark.parametrize("what", ["$FASTHEP_TASK_DIRECTORY", "output/latest/tasks"])
def test_a_task_deletes_its_own_folder(site: Site, what: str) -> None:
    site.write(
        shell("first", "echo one > first", outputs=["first"], needs=[]),
        shell("delete", f"rm -rf {what}", needs=["first"]),
        shell("last", "cat first > last", inputs=["first"], outputs=["last"], needs=["delete"]),
    )
    said = site.run()
    assert said.code == 0, said
    assert "Traceback" not in said.both
    assert (site.work / "last").read_text() == "one\n"
    assert any("its folder was removed" in remark for remark in site.result("delete").remarks)
    assert site.left() == {}


@pytest.mark.fault(
    46,
    "a task deletes the folder of its whole run",
    "the run ends with that error; the same command goes on, with what was kept of its outputs",
)
def test_a_task_deletes_its_run(site: Site) -> None:
    site.write(
        shell("first", f"echo >> {site.root}/ended; echo one > first", outputs=["first"], needs=[]),
        shell("delete", "test -e mended || rm -rf output/latest/", needs=["first"]),
    )
    said = site.run()
    assert said.code == 6, said
    assert "Traceback" not in said.both
    (site.work / "mended").touch()
    said = site.run()
    assert said.code == 0, said
    assert (site.root / "ended").read_text() == "\n"
    assert site.left() == {}


@pytest.mark.fault(
    18,
    "a task needs more memory than it asked for",
    "out of memory, with its limit; the driver and the other tasks go on",
)
def test_a_task_fills_its_memory(site: Site) -> None:
    hog = "a=xxxxxxxxxxxxxxxx; while :; do a=$a$a; done"
    limit = {"environment": {"resources": {"memory": "64Mi"}}}
    site.write(
        shell("hog", hog, **limit),
        shell("other", "sleep 1; echo well"),
        resources={"cpus": 0.25},
    )
    said = site.run()
    assert said.code == 1
    status, kind, message = site.cause("hog")
    assert (status, kind) == ("failed", "out_of_memory")
    assert "64" in message
    assert site.result("other").stdout_tail == "well\n"
    assert site.left() == {}


@pytest.mark.fault(
    19,
    "a child of a task is killed for want of memory, and the task itself ends with 0",
    "the task has failed: out of memory",
)
def test_a_child_fills_the_memory(site: Site) -> None:
    hog = "sh -c 'a=xxxxxxxxxxxxxxxx; while :; do a=$a$a; done' | cat; true"
    site.write(shell("child", hog, environment={"resources": {"memory": "64Mi"}}))
    assert site.run().code == 1
    assert site.cause("child")[:2] == ("failed", "out_of_memory")


@pytest.mark.fault(
    47,
    "a task forks as much as it can, and its time is up",
    "every one of them is ended; nothing is left",
)
def test_a_task_forks_without_end(site: Site) -> None:
    # As many as are let be: this machine is not to fall over.
    fork = (
        "n=0; while [ $n -lt 150 ]; do n=$((n+1));"
        f" (setsid sh -c 'trap \"\" TERM; sleep {site.nap} & sleep {site.nap}' &) ; done;"
        f" touch forked; sleep {site.nap}"
    )
    site.write(shell("bomb", fork, timeout="3s"))
    said = site.run()
    assert said.code == 1
    assert site.cause("bomb")[0] == "timed_out"
    assert site.left() == {}


def peak_memory(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.fault(
    33,
    "a task prints 200 MB and no line end",
    "all of it is in its log; the driver stays below 200 MB",
)
def test_a_task_prints_much(site: Site) -> None:
    wait = "touch up; until test -e go; do sleep 0.05; done"
    site.write(
        shell("print", "head -c 200000000 /dev/zero | tr '\\0' x", needs=[]),
        shell("wait", wait, needs=["print"]),
    )
    driver = site.start()
    wait_until(lambda: site.up("up"), "all is printed")
    assert peak_memory(driver.pid) < 200 * MEBI
    (site.work / "go").touch()
    assert said_by(driver).code == 0
    log = site.attempt("print") / "stdout.log"
    assert log.stat().st_size == 200_000_000
    log.unlink()


@pytest.mark.fault(
    44,
    "a task's output appears a moment after it has ended",
    "an input is waited for three seconds; an output that a process of the task still makes is not:"
    " its processes are ended with it, and the task has failed",
)
def test_an_output_comes_late(site: Site) -> None:
    site.write(shell("late", "(sleep 5; echo late > late) & true", outputs=["late"]))
    assert site.run().code == 1
    assert site.cause("late")[:2] == ("failed", "output")
    assert not site.up("late")
    assert site.left() == {}


@pytest.mark.fault(
    26,
    "the driver is killed, and its container goes on writing",
    "it is ended before the next attempt starts, and what it left is moved aside",
)
def test_a_container_of_a_dead_driver_still_writes(
    site: Site, container_runtime: str, busybox_of: Callable[[str], str]
) -> None:
    image = in_image(container_runtime, busybox_of(container_runtime))
    beats = site.work / "beats"
    line = (
        "read id < /proc/sys/kernel/random/uuid; printf half > made;"
        " until test -e go; do printf more >> made; echo $id >> beats; sleep 0.05; done;"
        " printf whole > made"
    )
    site.write(shell("write", line, outputs=["made"], environment=image))
    driver = site.start()
    wait_until(beats.exists, "the container runs")
    driver.kill()
    said_by(driver)
    (one,) = set(beats.read_text().split())
    # It does, wherever the engine lets it; what is wanted is that it does not any more.
    second = site.start()
    wait_until(lambda: sum(beat != one for beat in beats.read_text().split()) > 10, "the next one")
    (site.work / "go").touch()
    said = said_by(second)
    assert said.code == 0, said
    told = beats.read_text().split()
    began = next(number for number, beat in enumerate(told) if beat != one)
    assert one not in told[began:]
    assert (site.work / "made").read_text() == "whole"
    (left,) = site.work.glob("output/2*/tasks/write/1/left/made")
    assert left.read_text().startswith("halfmore")
    assert site.left(container_runtime) == {}
