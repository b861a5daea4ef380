"""Processes of the host's, for real."""

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.waiting import SOON_S, wait_until

from fasthep_flow.environments.host.spawn import Spawned, end_processes, open_log, processes_of


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def spawn(tmp_path: Path, out: Path) -> Iterator[Callable[..., Spawned]]:
    spawned: list[Spawned] = []

    def start(*argv: str, cookie: bool = True) -> Spawned:
        log = open_log(str(out))
        try:
            spawned.append(
                Spawned(
                    argv,
                    environment={**os.environ, "FASTHEP_TASK_DIRECTORY": str(tmp_path)},
                    working_directory=str(tmp_path),
                    stdin=None,
                    stdout=log,
                    stderr=log,
                    task_directory=str(tmp_path) if cookie else None,
                )
            )
        finally:
            os.close(log)
        return spawned[-1]

    yield start
    end_processes(str(tmp_path))


Spawn = Callable[..., Spawned]


def test_it_leads_a_session_without_a_terminal(spawn: Spawn, out: Path) -> None:
    process = spawn("sh", "-c", "echo $$; ps -o pid= -o sid= -o tty= -p $$")
    assert process.wait().exit_code == 0
    own, pid, session, terminal = out.read_text().split()
    assert int(own) == int(pid) == int(session) == process.pid
    assert terminal == "?"


def test_how_it_ended_is_told(spawn: Spawn) -> None:
    ended = spawn("sh", "-c", "exit 7").wait()
    assert (ended.exit_code, ended.signal) == (7, None)
    ended = spawn("sh", "-c", "kill -SEGV $$").wait()
    assert (ended.exit_code, ended.signal) == (None, signal.SIGSEGV)


def test_signals_are_as_a_program_expects_them(spawn: Spawn, out: Path) -> None:
    assert spawn("grep", "SigIgn", "/proc/self/status").wait().exit_code == 0
    ignored = int(out.read_text().split()[1], 16)
    expected = (signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGTERM)
    assert not [number.name for number in expected if ignored & 1 << (number - 1)]


def test_processor_time_counts_children(spawn: Spawn) -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    ended = spawn("sh", "-c", f"{sys.executable} -c '{burn}'; true").wait()
    assert ended.cpu_s >= 0.3


def test_a_peak_is_told_where_it_can_be(spawn: Spawn) -> None:
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    small = spawn("true").wait()
    assert small.peak_memory_is_bound
    assert small.peak_memory > 0
    size = own + 64 * 2**20
    peak = spawn(sys.executable, "-c", f"b'x' * {size}").wait().peak_memory
    assert peak is not None
    assert size < peak < 2 * size


def test_what_cannot_be_started_says_so(spawn: Spawn, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        spawn("no-such-program")
    (tmp_path / "unfit").touch()
    with pytest.raises(PermissionError):
        spawn("./unfit")


def test_to_terminate_reaches_the_group_and_what_left_it(spawn: Spawn, out: Path) -> None:
    line = "timeout 600 sleep 600 & setsid sleep 601 & (setsid sleep 602 &); echo up; wait"
    process = spawn("bash", "-c", line)
    wait_until(lambda: len(processes_of(str(out.parent))) >= 5)
    started = [found.pid for found in processes_of(str(out.parent))]
    assert len({os.getsid(pid) for pid in started}) > 1
    process.terminate()
    assert process.wait().signal == signal.SIGTERM
    assert not [pid for pid in started if is_alive(pid)]


def test_to_kill_ends_what_does_not_want_to(spawn: Spawn, out: Path) -> None:
    stubborn = "trap '' TERM HUP INT; echo up; while :; do sleep 1; done"
    process = spawn("bash", "-c", f'setsid bash -c "{stubborn}" & {stubborn}')
    wait_until(lambda: out.read_text().count("up") == 2)
    started = [found.pid for found in processes_of(str(out.parent))]
    process.terminate()
    process.kill()
    assert process.wait().signal == signal.SIGKILL
    assert not [pid for pid in started if is_alive(pid)]


def test_a_daemon_of_a_stopped_program_does_not_outlive_it(spawn: Spawn, out: Path) -> None:
    stubborn = 'trap "" TERM; echo up; while :; do sleep 1; done'
    process = spawn("bash", "-c", f"(setsid bash -c '{stubborn}' &); sleep 600")
    wait_until(lambda: "up" in out.read_text())
    process.terminate()
    assert process.wait().signal == signal.SIGTERM
    assert not [found for found in processes_of(str(out.parent)) if is_alive(found.pid)]


def test_what_a_program_leaves_in_its_group_is_ended(spawn: Spawn, out: Path) -> None:
    process = spawn("sh", "-c", "sleep 600 & echo $!")
    assert process.wait().exit_code == 0
    assert not is_alive(int(out.read_text()))


def test_what_ends_by_itself_may(spawn: Spawn, tmp_path: Path) -> None:
    line = "echo whole > >(sleep 0.2; cat > written)"
    assert spawn("bash", "-c", line).wait().exit_code == 0
    assert (tmp_path / "written").read_text() == "whole\n"


def test_after_its_end_nobody_is_signalled(spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    process = spawn("true", cookie=False)
    process.wait()
    monkeypatch.setattr("os.killpg", lambda *_: pytest.fail("signalled"))
    process.terminate()
    process.kill()


def test_many_threads_may_wait_and_signal_at_once(spawn: Spawn) -> None:
    processes = [spawn("sh", "-c", f"exit {code}", cookie=False) for code in range(40)]
    codes: dict[int, int | None] = {}
    waiters = [
        threading.Thread(target=lambda c=code, p=process: codes.update({c: p.wait().exit_code}))
        for code, process in enumerate(processes)
    ]
    for waiter in waiters:
        waiter.start()
    for process in processes:
        process._signal(0)
    for waiter in waiters:
        waiter.join(SOON_S)
    assert codes == {code: code for code in range(40)}


def test_processes_are_found_by_their_folder(tmp_path: Path) -> None:
    def start(folder: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "FASTHEP_TASK_DIRECTORY": folder}
        return subprocess.Popen(["sleep", "600"], env=environment)

    run = str(tmp_path / "run")
    inside, beside = start(f"{run}/tasks/a/1"), start(f"{run}-2/tasks/a/1")
    try:
        wait_until(lambda: bool(processes_of(f"{run}-2")))
        wait_until(lambda: bool(processes_of(run)))
        assert [found.pid for found in processes_of(run)] == [inside.pid]
        assert [found.pid for found in processes_of(f"{run}/tasks/a")] == [inside.pid]
        assert end_processes(run) == 1
        assert inside.wait(SOON_S) == -signal.SIGTERM
        assert beside.poll() is None
    finally:
        for process in (inside, beside):
            process.kill()
            process.wait()
