"""The driver is killed as it writes down what it knows: at each call that brings it to the disk.

By default at some of them, ``FASTHEP_TEST_KILLS=200`` at every one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.conftest import REQUIRED
from tests.faults.conftest import COMMAND, Site, shell

EVERY = 1 if os.environ.get("FASTHEP_TEST_KILLS") else 6
AT_ONCE = 3
CALLS = ("fsync", "fdatasync", "rename", "link", "symlink", "mkdir", "write")


@pytest.fixture
def strace() -> str:
    """The program by that name."""
    if (found := shutil.which("strace")) is None:
        (pytest.fail if REQUIRED else pytest.skip)("strace is not installed; tests/testbed/up.sh")
    return found


@pytest.fixture
def sites(tmp_path: Path, warm_cache: Path) -> Iterator[Sites]:
    made = Sites(tmp_path, warm_cache)
    yield made
    every = Site(tmp_path / "every", warm_cache)
    every.root = tmp_path
    every.end()


class Sites:
    """As many folders for a small run as are wanted."""

    def __init__(self, root: Path, cache: Path) -> None:
        self._root = root
        self._cache = cache

    def new(self, name: str) -> Site:
        """One with a workflow: three tasks, each of which tells at its end that it was there."""
        site = Site(self._root / name, self._cache)
        ended = f">> {site.root}/ended"
        site.write(
            shell("first", f"printf one > first; echo first {ended}", outputs=["first"], needs=[]),
            shell(
                "second",
                f"cat first first > second; echo second {ended}",
                inputs=["first"],
                outputs=["second"],
                needs=["first"],
            ),
            shell("third", f"cat second; echo third {ended}", needs=["second"]),
        )
        return site


def traced(strace: str, site: Site, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [strace, "-f", "-o", str(site.root / "trace"), *words, COMMAND, "run"],
        cwd=site.work,
        env=site.environment(PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        text=True,
        check=False,
    )


def ended(site: Site) -> Counter[str]:
    path = site.root / "ended"
    return Counter(path.read_text().split()) if path.exists() else Counter()


def survive(strace: str, site: Site, call: str, number: int) -> bool:
    """Kill the driver there, and go on; whether it was killed."""
    killed = traced(
        strace, site, "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}"
    )
    where = f"{call} number {number}"
    then = ended(site)
    said = site.run()
    assert said.code == 0, f"{where}: {said.both}"
    assert "Traceback" not in said.both, f"{where}: {said.both}"
    assert (site.work / "first").read_text() == "one", where
    assert (site.work / "second").read_text() == "oneone", where
    # What came to its end, and was not recorded, runs once more.
    assert set(ended(site)) == {"first", "second", "third"}, where
    assert max((ended(site) - then).values(), default=1) == 1, where
    assert {path.name for path in site.work.iterdir()} == {
        "workflow.yaml",
        "first",
        "second",
        "output",
    }, where
    return killed.returncode != 0


@pytest.mark.fault(
    2,
    "the driver is killed with -9 at any call that brings its state to the disk",
    "the same command goes on, and the same bytes are there in the end",
)
def test_the_driver_is_killed_at_its_writes(sites: Sites, strace: str) -> None:
    site = sites.new("whole")
    assert traced(strace, site, "-e", f"trace={','.join(CALLS)}").returncode == 0
    # What is counted, and killed at, is each thread's own number.
    seen: Counter[tuple[str, str]] = Counter()
    for line in (site.root / "trace").read_text().splitlines():
        if found := re.match(r"(\d+) +(\w+)\(", line):
            seen[found[2], found[1]] += 1
    most: dict[str, int] = {}
    for (call, _), number in seen.items():
        most[call] = max(number, most.get(call, 0))
    assert {"fsync", "fdatasync", "rename", "mkdir"} <= set(most)
    moments = [
        (call, number)
        for call in CALLS
        for number in range(1, most.get(call, 0) + 1)
        if not (number - 1) % EVERY
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        killed = list(
            pool.map(lambda one: survive(strace, sites.new(f"{one[0]}-{one[1]}"), *one), moments)
        )
    assert sum(killed) > len(moments) / 2


@pytest.mark.fault(
    16,
    "the disk fails, or a quota is used up, as state is brought to it",
    "one error that names the file; the same command goes on",
)
@pytest.mark.parametrize(
    ("call", "error"),
    [("fdatasync", "EIO"), ("fsync", "EDQUOT"), ("rename", "EDQUOT")],
)
def test_the_disk_fails(sites: Sites, strace: str, call: str, error: str) -> None:
    # Each time in another thread's work, or at another place of the driver's.
    for number in (1, 3):
        site = sites.new(f"{call}-{error}-{number}")
        failed = traced(
            strace, site, "-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={number}"
        )
        both = failed.stdout + failed.stderr
        assert "Traceback" not in both, both
        assert "mistake of fasthep-flow" not in both, both
        said = site.run()
        assert said.code == 0, said
        assert "Traceback" not in said.both
        assert (site.work / "second").read_text() == "oneone"
        assert set(ended(site)) == {"first", "second", "third"}


@pytest.mark.fault(
    17,
    "no variable but `PATH` is set, and files of others are not to be read (`umask 077`)",
    "all works",
)
def test_a_bare_environment(sites: Sites) -> None:
    site = sites.new("bare")
    kept = '"FASTHEP_FLOW_KEY=$FASTHEP_FLOW_KEY" "FASTHEP_FLOW_CACHE=$FASTHEP_FLOW_CACHE"'
    done = subprocess.run(
        ["sh", "-c", f'umask 077; exec env -i "PATH=$PATH" {kept} "$0" run', str(COMMAND)],
        cwd=site.work,
        env=site.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done
    assert (site.work / "second").read_text() == "oneone"
