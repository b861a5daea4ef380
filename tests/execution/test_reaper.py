"""Many processes waited for in one thread."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fasthep_flow.execution.reaper import Attended, Reaper
from fasthep_flow.orchestrators.admission import machine_capacity
from fasthep_flow.orchestrators.local import LocalRunner

pytestmark = pytest.mark.skipif(not Reaper.is_possible(), reason="no pidfd_open on this system")


def started(text: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen((sys.executable, "-c", text), stdin=subprocess.PIPE)


def let_end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def test_each_process_is_told_of_once_it_has_ended() -> None:
    told: list[int] = []
    with Reaper() as reaper:
        processes = [started("input()") for _ in range(3)]
        for process in processes:
            reaper.add(process.pid, lambda pid=process.pid: told.append(pid))  # type: ignore[misc]  # a default
        reaper.wait(0.0)
        assert not told
        for process in reversed(processes):
            let_end(process)
            while process.pid not in told:
                reaper.wait()
            # Whoever is told of it reaps it: until then its number is nobody else's.
            assert os.waitpid(process.pid, 0)[0] == process.pid
            process.returncode = 0
    assert told == [process.pid for process in reversed(processes)]


def test_a_process_that_ended_before_is_told_of_too() -> None:
    told: list[int] = []
    process = started("")
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with Reaper() as reaper:
        reaper.add(process.pid, lambda: told.append(1))
        reaper.wait()
        reaper.wait(0.0)
    process.communicate()
    assert told == [1]


def test_it_can_be_rung_from_another_thread() -> None:
    with Reaper() as reaper:
        ringing = threading.Thread(target=reaper.ring)
        ringing.start()
        reaper.wait()
        ringing.join()


def test_a_bell_that_is_rung_late_harms_nobody() -> None:
    with Reaper() as reaper:
        pass
    # The number of what was closed may be another file's by now.
    read, write = os.pipe()
    reaper.ring()
    os.set_blocking(read, False)
    with pytest.raises(BlockingIOError):
        os.read(read, 1)
    os.close(read)
    os.close(write)


def test_a_process_may_be_added_while_another_thread_waits() -> None:
    told = threading.Event()
    with Reaper() as reaper:
        waiting = threading.Thread(target=reaper.wait)
        waiting.start()
        process = started("")
        reaper.add(process.pid, told.set)
        waiting.join()
    process.communicate()
    assert told.is_set()


def test_what_is_told_of_while_others_are_started_is_told_of_once() -> None:
    # A child has copies of all descriptors until it is another program.
    told: list[int] = []
    with Reaper() as reaper:
        left = 40
        while left or told.count(0) < 40:
            if left:
                process = subprocess.Popen(("true",))
                process.returncode = 0

                def ended(pid: int = process.pid) -> None:
                    os.waitpid(pid, 0)
                    told.append(0)

                reaper.add(process.pid, ended)
                left -= 1
            reaper.wait(None if not left else 0.0)
    assert told == [0] * 40


def test_there_is_nothing_to_add_to_once_it_is_closed() -> None:
    process = started("input()")
    before = set(Path("/proc/self/fd").iterdir())
    with Reaper() as reaper:
        pass
    with pytest.raises(ValueError, match="closed"):
        reaper.add(process.pid, print)
    del reaper
    assert set(Path("/proc/self/fd").iterdir()) == before
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_process_that_is_not_there_is_refused() -> None:
    process = started("")
    process.communicate()
    with Reaper() as reaper, pytest.raises(ProcessLookupError):
        reaper.add(process.pid, print)


def test_the_runner_of_this_machine_offers_its_processes() -> None:
    runner = LocalRunner(machine_capacity(), 1)
    try:
        assert isinstance(runner, Attended)
    finally:
        runner.close()
