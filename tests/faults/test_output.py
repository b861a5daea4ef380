"""Output without end, without line ends, and without sense."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.conftest import RUNTIMES
from tests.faults.conftest import Said, Site, in_image, said_by, shell, standing, wait_until

BLOCK = 2**20
MEBI = 2**20
WHOLE = "native"
"""Writes a whole GiB, the others a quarter each: it is the disk that takes the time."""

# What no terminal is to be sent: half a letter, a title for its window, the end of a text.
ODD = b"1%\r\xff\xfe\x1b]0;x\x07\x00\xc3(\n"
WRITE_ODD = "printf '1%%\\r\\377\\376\\033]0;x\\007\\000\\303(\\n'"
WAIT = "touch {0}-up; until [ -e {0}-go ]; do sleep 0.05; done"


class Loud(NamedTuple):
    """A run with two GiB of output, some of it on every runtime."""

    site: Site
    said: Said
    quiet_bytes: int
    peak_bytes: int


@pytest.fixture(
    params=["native", *(pytest.param(name, marks=getattr(pytest.mark, name)) for name in RUNTIMES)]
)
def place(request: pytest.FixtureRequest) -> str:
    """Where the task ran: on the host, and on each runtime that works."""
    return str(request.param)


def environment(place: str, image_of: Callable[[str], str]) -> dict[str, object]:
    return {} if place == "native" else {"environment": in_image(place, image_of(place))}


def peak_memory(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@pytest.fixture(scope="module")
def loud(
    tmp_path_factory: pytest.TempPathFactory,
    warm_cache: Path,
    busybox_of: Callable[[str], str],
) -> Iterator[Loud]:
    site = Site(tmp_path_factory.mktemp("loud"), warm_cache)
    (site.work / "lines").write_bytes(b"x" * 79 + b"\n" + bytes(BLOCK - 80))
    (site.work / "bytes").write_bytes(b"x" * BLOCK)
    # Half of it has line ends.
    files = " ".join(["lines"] * 64 + ["bytes"] * 64)

    def write(place: str) -> str:
        turns = "0 1 2 3 4 5 6 7" if place == WHOLE else "0 1"
        return f"for turn in {turns}; do cat {files}; done"

    places = [*standing(), "native"]
    site.write(
        shell("before", WAIT.format("before"), needs=[]),
        *(
            shell(name, write(name), needs=["before"], **environment(name, busybox_of))
            for name in places
        ),
        shell("after", WAIT.format("after"), needs=places),
    )
    try:
        driver = site.start()
        wait_until(lambda: site.up("before-up"))
        quiet = peak_memory(driver.pid)
        (site.work / "before-go").touch()
        wait_until(lambda: site.up("after-up"))
        peak = peak_memory(driver.pid)
        (site.work / "after-go").touch()
        yield Loud(site, said_by(driver), quiet, peak)
    finally:
        site.end()
        for log in site.work.glob("output/*/tasks/*/1/stdout.log"):
            log.unlink()


@pytest.mark.fault(
    33,
    "tasks print 2 GiB on the host and in containers, half of it without line ends",
    "all of it is in their logs, none of it in the driver's memory",
)
def test_the_driver_has_none_of_it_in_memory(loud: Loud) -> None:
    assert loud.said.code == 0, loud.said
    assert loud.peak_bytes - loud.quiet_bytes < 64 * MEBI


def test_all_of_it_is_in_the_log(loud: Loud, place: str) -> None:
    log = loud.site.attempt(place) / "stdout.log"
    assert log.stat().st_size == (1024 if place == WHOLE else 256) * BLOCK
    with log.open("rb") as file:
        assert file.read(2 * BLOCK) == 2 * (loud.site.work / "lines").read_bytes()
        file.seek(-2 * BLOCK, 2)
        assert file.read() == b"x" * (2 * BLOCK)
    assert loud.site.result(place).stdout_tail == "x" * 2**16
    assert loud.site.left(place) == {}


@pytest.mark.fault(
    34,
    "a task prints bytes that are no text, and escape sequences",
    "its log keeps every byte; a terminal is shown them escaped",
)
def test_bytes_without_sense_are_kept_and_shown_escaped(
    site: Site, place: str, busybox_of: Callable[[str], str]
) -> None:
    line = f"{WRITE_ODD}; {WRITE_ODD} >&2; exit 3"
    site.write(shell("odd", line, **environment(place, busybox_of)))
    said = site.run()
    assert said.code == 1, said
    for log in ("stdout.log", "stderr.log"):
        assert (site.attempt("odd") / log).read_bytes() == ODD
    assert "\\xff\\xfe" in said.both
    assert not {"\x1b", "\x07", "\0", "\udcff"} & set(said.both)
    assert site.left(place) == {}
