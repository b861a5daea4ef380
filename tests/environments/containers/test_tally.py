"""What processes use, counted from outside."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from fasthep_flow.environments.containers.tally import Tally, descendants

# The child starts another one, says so, and lives until its input ends.
FAMILY = """
import subprocess, sys
{before}
with subprocess.Popen(["cat"], stdin=0) as child:
    print("up", flush=True)
"""


def family(before: str = "") -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-c", FAMILY.format(before=before)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process


@pytest.mark.parametrize("kernel_tells", [True, False])
def test_all_that_a_process_started_is_found(
    kernel_tells: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernel_tells:
        monkeypatch.setattr(os.path, "exists", lambda _: False)
    with family() as leader:
        found = descendants(psutil.Process())
        assert leader.pid in {one.pid for one in found}
        below = descendants(psutil.Process(leader.pid))
        assert [one.name() for one in below] == ["cat"]
        assert set(below) < set(found)
        gone = psutil.Process(leader.pid)
        leader.communicate()
    assert descendants(gone) == []


def test_memory_is_looked_at_while_a_job_runs() -> None:
    # What other tests started and use for longer is below this process, too.
    others = sum(one.memory_info().rss for one in descendants(psutil.Process()))
    tally = Tally(psutil.Process, None)
    try:
        with family("x = b'x' * 200_000_000") as leader:
            until_s = time.monotonic() + 60
            while tally._seen_peak < others + 200_000_000:
                assert time.monotonic() < until_s
                time.sleep(0.02)
            counters = tally.counters()
            assert counters.peak_memory is not None
            assert counters.peak_memory < others + 400_000_000
            assert counters.cpu_s is not None
            assert counters.cpu_s > 0
            leader.communicate()
        # The next job starts from nothing.
        assert tally.reset_peak()
        assert (tally.counters().peak_memory or 0) < others + 200_000_000
    finally:
        tally.close()


def test_what_is_not_there_uses_nothing() -> None:
    tally = Tally(lambda: None, None)
    assert tally.counters().peak_memory is None
    assert tally.counters().cpu_s is None
    tally.close()
