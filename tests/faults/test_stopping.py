"""Tasks that do not want to end: with their time, with Ctrl-C, and with a driver that is killed.

One run has a task on every runtime: the seconds that a task is given to end pass once.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.conftest import RUNTIMES
from tests.faults.conftest import (
    ENGINES,
    Said,
    Site,
    in_image,
    said_by,
    shell,
    standing,
    wait_until,
)

# Ignored signals stay so in all that it starts: these outlive whoever only asks.
STUBBORN = """\
trap '' TERM INT HUP QUIT
(setsid sleep {nap} &)
((sleep {nap} &) &)
env -i sleep {nap} &
env -i setsid sh -c 'trap "" TERM; cd /; sleep {nap}; sleep {nap}' &
: > up-{name}
while :; do sleep {nap}; done
"""


class Stopped(NamedTuple):
    """A run that was stopped, and how."""

    site: Site
    said: Said
    how: str


def write(site: Site, image_of: Callable[[str], str], **more: str) -> list[str]:
    names = [*standing(), "native"]
    # Of its own, so that what has it mounted is known to be of this run.
    own = site.root / "busybox.sif"
    if "apptainer" in names:
        shutil.copy(image_of("apptainer"), own)

    def image(name: str) -> str:
        return str(own) if name == "apptainer" else image_of(name)

    site.write(
        *(
            shell(
                name,
                STUBBORN.format(nap=site.nap, name=name),
                **({} if name == "native" else {"environment": in_image(name, image(name))}),
                **more,
            )
            for name in names
        ),
        # Room for all of them at once.
        resources={"cpus": 0.25},
    )
    return names


@pytest.fixture(scope="module", params=["timeout", "Ctrl-C", "TERM", "KILL"])
def stopped(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    warm_cache: Path,
    busybox_of: Callable[[str], str],
) -> Iterator[Stopped]:
    site = Site(tmp_path_factory.mktemp("stopped"), warm_cache)
    try:
        if request.param == "timeout":
            write(site, busybox_of, timeout="2s")
            yield Stopped(site, site.run(), request.param)
            return
        names = write(site, busybox_of)
        driver = site.start()
        wait_until(lambda: all(site.up(f"up-{name}") for name in names), "all tasks run")
        # What is not to be left is seen while it is there.
        assert sum(site.nap in words for words in site.processes().values()) >= 4 * len(names)
        assert site.files()
        mounted = any("squashfuse_ll" in words for words in site.processes().values())
        assert mounted or "apptainer" not in names
        assert all(site.containers(name) for name in names if name in ENGINES)
        match request.param:
            case "Ctrl-C":
                os.killpg(driver.pid, signal.SIGINT)
            case "TERM":
                driver.terminate()
            case _:
                driver.kill()
        said = said_by(driver)
        if request.param == "KILL":
            # Nobody could end anything: the next run that uses an engine does.
            site.write(
                *(
                    shell(name, "echo next", environment=in_image(name, busybox_of(name)))
                    for name in standing()
                )
            )
            said = site.run()
        yield Stopped(site, said, request.param)
    finally:
        site.end()


@pytest.fixture(
    params=["native", *(pytest.param(name, marks=getattr(pytest.mark, name)) for name in RUNTIMES)]
)
def place(request: pytest.FixtureRequest) -> str:
    """Where the task ran: on the host, and on each runtime that works."""
    return str(request.param)


def test_the_run_says_how_it_ended(stopped: Stopped) -> None:
    codes = {"timeout": 1, "Ctrl-C": 130, "TERM": 143, "KILL": 0}
    assert stopped.said.code == codes[stopped.how], stopped.said
    assert "Traceback" not in stopped.said.both


@pytest.mark.fault(
    20,
    "a task does not end within its `timeout`",
    "it has timed out: TERM, ten seconds later KILL, to all that it started",
)
def test_the_task_is_told_of(stopped: Stopped, place: str) -> None:
    if stopped.how == "KILL":
        assert place == "native" or stopped.site.result(place).stdout_tail == "next\n"
        return
    cause = stopped.site.cause(place)
    if stopped.how == "timeout":
        assert cause == ("timed_out", "timeout", "timed out after 2 s")
    else:
        assert cause == ("cancelled", "cancelled", "stopped with the run")


@pytest.mark.fault(
    7,
    "tasks that ignore signals, fork daemons and leave their session run out of time, are stopped,"
    " or lose their driver; on the host and in containers",
    "no process, container, mount or file of them is left",
)
def test_nothing_is_left(stopped: Stopped, place: str) -> None:
    assert stopped.site.left(place) == {}
