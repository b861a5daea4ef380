"""Locks between processes, on one machine and on several."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from flufl.lock import Lock

from fasthep_flow.environments.host.locks import shared_lock

HOLD = """
import sys, time
from pathlib import Path
from fasthep_flow.environments.host.locks import shared_lock
with shared_lock(Path(sys.argv[1])) as is_locked:
    print(is_locked, flush=True)
    time.sleep(600)
"""


def taken_elsewhere(path: Path, lifetime_s: int = 60) -> Lock:
    """The lock, as a process on another host holds it."""
    lock = Lock(str(path), lifetime=lifetime_s)
    lock._hostname = "elsewhere.invalid"
    lock._set_claimfile()
    lock.lock()
    return lock


def test_one_at_a_time(tmp_path: Path) -> None:
    inside: list[int] = []
    most = 0

    def work() -> None:
        nonlocal most
        with shared_lock(tmp_path / "lock") as is_locked:
            assert is_locked
            inside.append(1)
            most = max(most, len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert list(tmp_path.iterdir()) == []


def test_a_holder_on_another_host_is_waited_for(tmp_path: Path) -> None:
    other = taken_elsewhere(tmp_path / "lock")
    entered = threading.Event()

    def work() -> None:
        with shared_lock(tmp_path / "lock"):
            entered.set()

    thread = threading.Thread(target=work)
    thread.start()
    claims = tmp_path.glob(f"lock|{socket.getfqdn()}|*")
    while not any(claims):
        claims = tmp_path.glob(f"lock|{socket.getfqdn()}|*")
    assert not entered.is_set()
    other.unlock()
    thread.join()
    assert entered.is_set()


def test_a_holder_on_another_host_that_says_nothing_is_dead(tmp_path: Path) -> None:
    taken_elsewhere(tmp_path / "lock")
    past_s = time.time() - 11
    os.utime(tmp_path / "lock", (past_s, past_s))
    with shared_lock(tmp_path / "lock") as is_locked:
        assert is_locked
    assert list(tmp_path.iterdir()) == []


def test_a_holder_that_lives_says_so(tmp_path: Path) -> None:
    with shared_lock(tmp_path / "lock", lifetime_s=3):
        past_s = time.time() - 1000
        os.utime(tmp_path / "lock", (past_s, past_s))
        until_s = time.monotonic() + 60
        while (tmp_path / "lock").stat().st_mtime < time.time():
            assert time.monotonic() < until_s, "the lock is not renewed"
            time.sleep(0.05)


def test_a_killed_holder_on_this_machine_holds_nothing(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        holder.kill()
    assert (tmp_path / "lock").exists()
    before_s = time.monotonic()
    with shared_lock(tmp_path / "lock") as is_locked:
        assert is_locked
        # Not when its lifetime of a minute was over.
        assert time.monotonic() - before_s < 30


def test_a_lock_that_names_no_holder_is_no_lock_for_ever(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    os.utime(tmp_path / "lock", (1, 1))
    with shared_lock(tmp_path / "lock") as is_locked:
        assert is_locked


def test_without_hard_links_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: str, target: str) -> None:
        raise PermissionError(1, "Operation not permitted", source, None, target)

    monkeypatch.setattr(os, "link", link)
    with shared_lock(tmp_path / "lock") as is_locked:
        assert not is_locked
    assert list(tmp_path.iterdir()) == []


def test_what_is_raised_inside_frees_it(tmp_path: Path) -> None:
    with pytest.raises(KeyError), shared_lock(tmp_path / "lock"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
