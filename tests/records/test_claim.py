"""One driver a run: real processes that hold a claim, are killed, stopped, and race for it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec
import pytest

from fasthep_flow.errors import RecordError, RunClaimed
from fasthep_flow.records import claim as claims
from fasthep_flow.records.claim import Claim, Found, claim, found_claim
from fasthep_flow.records.holder import Holder, own_holder, read_holder, write_holder

HOLDS = """
import sys
from pathlib import Path
from fasthep_flow.records.claim import claim
with claim(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
ELSEWHERE = {"host": "elsewhere", "machine": "another", "boot": "another", "space": "another"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "20260314T092653Z-1f0c"
    path.mkdir()
    return path


@pytest.fixture
def held_by(run: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a process that holds the run."""
    with ExitStack() as stack:

        def start() -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", HOLDS, run],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            return process

        yield start


def written(run: Path, holder: Holder, *, number: int = 1, age_s: float = 0.0) -> Path:
    """A claim as another driver left it, which was renewed so long ago."""
    path = run / "drivers" / f"{number}.json"
    path.parent.mkdir(exist_ok=True)
    write_holder(path, holder)
    renewed_s = path.stat().st_mtime - age_s
    os.utime(path, (renewed_s, renewed_s))
    return path


def of_another(**changes: str | int) -> Holder:
    return msgspec.structs.replace(own_holder(), **(ELSEWHERE | changes))


def test_a_second_driver_is_told_who_has_the_run(
    run: Path, held_by: Callable[[], subprocess.Popen[str]]
) -> None:
    process = held_by()
    with pytest.raises(RunClaimed) as refused, claim(run):
        pass
    assert refused.value.exit_code == 7
    assert run.name in refused.value.message
    assert f"process {process.pid} on {socket.gethostname()} since 20" in refused.value.message
    assert refused.value.hint == "wait for its end"
    assert list((run / "drivers").iterdir()) == [run / "drivers" / "1.json"]


def test_a_driver_that_ended_leaves_the_run_to_the_next_one(
    run: Path, held_by: Callable[[], subprocess.Popen[str]]
) -> None:
    process = held_by()
    process.communicate("")
    with claim(run) as held:
        assert held.number == 2
        assert held.former is not None
        assert held.former.state == "released"
    with claim(run) as held:
        assert held.number == 3


@pytest.mark.parametrize("is_reaped", [True, False])
def test_a_driver_that_was_killed_loses_the_run_at_once(
    run: Path, held_by: Callable[[], subprocess.Popen[str]], is_reaped: bool
) -> None:
    process = held_by()
    process.kill()
    if is_reaped:
        process.wait()
    else:
        # It is still there, as a zombie.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with claim(run) as held:
        assert held.former is not None
        assert held.former.state == "gone"
        assert held.former.holder is not None
        assert held.former.holder.pid == process.pid
        assert held.former.holder.is_of_this_machine


def test_a_number_that_another_process_has_now_is_no_sign_of_life(run: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        try:
            written(run, msgspec.structs.replace(own_holder(), pid=other.pid))
            with claim(run) as held:
                assert held.number == 2
                assert held.former is not None
                assert held.former.state == "gone"
        finally:
            other.kill()


def test_a_driver_that_is_stopped_keeps_the_run_for_however_long(
    run: Path, held_by: Callable[[], subprocess.Popen[str]]
) -> None:
    process = held_by()
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    os.utime(run / "drivers" / "1.json", (0, 0))
    with pytest.raises(RunClaimed, match="which is stopped") as refused, claim(run):
        pass
    assert f"kill -CONT {process.pid}" in str(refused.value)


def test_a_driver_on_another_host_is_believed_to_live_for_five_minutes(run: Path) -> None:
    path = written(run, of_another(pid=4242), age_s=200)
    with pytest.raises(RunClaimed, match="process 4242 on elsewhere") as refused, claim(run):
        pass
    assert "gave a sign of life 200 s ago" in str(refused.value)
    assert "known in 100 s" in str(refused.value)
    os.utime(path, (path.stat().st_mtime - 101,) * 2)
    with claim(run) as held:
        assert held.former is not None
        assert held.former.state == "silent"
        assert held.former.holder is not None
        assert not held.former.holder.is_of_this_machine


@pytest.mark.parametrize("offset_s", [-86_400.0, 86_400.0])
def test_no_clock_of_a_machine_matters(
    run: Path, monkeypatch: pytest.MonkeyPatch, offset_s: float
) -> None:
    true_s = time.time
    monkeypatch.setattr("time.time", lambda: true_s() + offset_s)
    written(run, of_another(), age_s=200)
    with pytest.raises(RunClaimed), claim(run):
        pass
    written(run, of_another(), number=2, age_s=400)
    with claim(run) as held:
        assert held.number == 3


@pytest.mark.parametrize("offset_s", [-86_400.0, 86_400.0])
def test_a_file_server_has_a_clock_of_its_own(run: Path, offset_s: float) -> None:
    path = written(run, of_another(), age_s=-offset_s)

    def take(silent_s: float) -> Claim:
        return Claim.take(
            run / "drivers", what="it", file_clock=lambda _: path.stat().st_mtime + silent_s
        )

    with pytest.raises(RunClaimed):
        take(299.0)
    # Its clock was set back: nobody can tell, and nothing is taken from anybody.
    with pytest.raises(RunClaimed, match="a sign of life 0 s ago"):
        take(-3600.0)
    taken = take(301.0)
    assert taken.number == 2
    taken.release()


def test_a_host_that_is_told_to_be_gone_has_no_drivers(run: Path) -> None:
    written(run, of_another())
    with pytest.raises(RunClaimed, match="--host-is-gone elsewhere"), claim(run):
        pass
    with pytest.raises(RunClaimed), claim(run, gone=["another"]):
        pass
    with claim(run, gone=["elsewhere"]) as held:
        assert held.former is not None
        assert held.former.state == "gone"


def test_a_driver_that_lives_here_is_not_taken_for_gone_on_anybodys_word(
    run: Path, held_by: Callable[[], subprocess.Popen[str]]
) -> None:
    held_by()
    with pytest.raises(RunClaimed), claim(run, gone=[socket.gethostname()]):
        pass


@pytest.mark.skipif(not own_holder().machine, reason="this machine has no number of its own")
def test_a_machine_that_was_started_anew_has_no_drivers_of_before(run: Path) -> None:
    before = msgspec.structs.replace(own_holder(), boot="before", space="before 1")
    written(run, before)
    with claim(run) as held:
        assert held.former is not None
        assert held.former.state == "gone"
    written(run, msgspec.structs.replace(before, machine="of that name too"), number=3)
    with pytest.raises(RunClaimed), claim(run):
        pass


@pytest.mark.parametrize("damage", [b"", b"{", b"\0" * 400, os.urandom(900), b'{"pid": 1}\n'])
def test_a_damaged_claim_counts_until_it_is_silent(run: Path, damage: bytes) -> None:
    path = written(run, own_holder())
    path.write_bytes(damage)
    with pytest.raises(RunClaimed, match=r"1\.json is damaged") as refused, claim(run):
        pass
    assert "remove that file" in str(refused.value)
    os.utime(path, (path.stat().st_mtime - 301,) * 2)
    with claim(run) as held:
        assert held.former is not None
        assert held.former.holder is None


def test_a_claim_of_which_any_byte_is_another_one_is_not_believed(run: Path) -> None:
    path = written(run, own_holder())
    whole = path.read_bytes()
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        assert read_holder(path) is None
        path.write_bytes(whole[:index])
        assert read_holder(path) is None or index == len(whole) - 1


def test_of_many_threads_that_find_a_dead_driver_one_takes_the_run(tmp_path: Path) -> None:
    for number in range(200):
        run = tmp_path / str(number)
        run.mkdir()
        if number % 2:
            written(run, of_another(), age_s=400)
        else:
            written(run, msgspec.structs.replace(own_holder(), started="0"))
        barrier = threading.Barrier(6)
        taken: list[Claim] = []

        def take(run: Path, barrier: threading.Barrier, taken: list[Claim]) -> None:
            barrier.wait()
            with suppress(RunClaimed):
                taken.append(Claim.take(run / "drivers", what="it"))

        threads = [threading.Thread(target=take, args=(run, barrier, taken)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [winner] = taken
        assert winner.number == 2
        winner.release()


RACES = """
import sys
from pathlib import Path
from fasthep_flow.errors import RunClaimed
from fasthep_flow.records.claim import Claim
held = []
print("ready", flush=True)
for line in sys.stdin:
    run = Path(line.strip())
    while not (run / "go").exists():
        pass
    try:
        held.append(Claim.take(run / "drivers", what="it"))
        print("taken", flush=True)
    except RunClaimed:
        print("refused", flush=True)
"""


def test_of_many_processes_that_find_a_dead_driver_one_takes_the_run(tmp_path: Path) -> None:
    with ExitStack() as stack:
        takers = []
        for _ in range(4):
            taker = subprocess.Popen(
                [sys.executable, "-c", RACES],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
            takers.append(stack.enter_context(taker))
            stack.callback(taker.kill)
        pipes = [(one.stdin, one.stdout) for one in takers]
        for _, answers in pipes:
            assert answers is not None
            assert answers.readline() == "ready\n"
        for number in range(60):
            run = tmp_path / str(number)
            run.mkdir()
            written(run, of_another(), age_s=400)
            for orders, _ in pipes:
                assert orders is not None
                orders.write(f"{run}\n")
            (run / "go").touch()
            told = sorted(answers.readline() for _, answers in pipes if answers is not None)
            assert told == ["refused\n", "refused\n", "refused\n", "taken\n"]


def test_a_number_that_was_given_long_ago_is_not_given_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody is slow: between its look at a dead holder and its claim, others come and go."""
    first = written(run, msgspec.structs.replace(own_holder(), started="0"))
    look = claims._found
    seen = look(run / "drivers", (), None)
    with claim(run):
        pass
    with claim(run) as third:
        third.forget_former()
        assert not first.exists()
        answers = [seen, seen]

        def slow(
            folder: Path,
            gone: Collection[str],
            file_clock: Callable[[], float] | None,
            *,
            at_least: int = 0,
        ) -> Found | None:
            return answers.pop() if answers else look(folder, gone, file_clock, at_least=at_least)

        monkeypatch.setattr(claims, "_found", slow)
        with pytest.raises(RunClaimed), claim(run):
            pass
        assert not answers
        assert [path.name for path in (run / "drivers").iterdir()] == ["3.json"]


def test_a_driver_whose_run_was_taken_over_notices_before_it_writes(run: Path) -> None:
    now = [0.0]
    held = Claim.take(run / "drivers", what="the run r", clock=lambda: now[0])
    written(run, of_another(pid=77), number=2)
    held.require()  # so soon nobody else can have taken it
    now[0] = 151.0
    with pytest.raises(RunClaimed, match="taken over by process 77 on elsewhere"):
        held.require()
    assert held.is_lost
    held.release()
    after = read_holder(run / "drivers" / "1.json")
    assert after is not None
    assert after.released is None


def test_a_driver_notices_in_time_that_its_run_was_taken_over(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.02)
    noticed = threading.Event()
    with claim(run) as held:
        held.when_lost(noticed.set)
        written(run, of_another(), number=2)
        assert noticed.wait(20)
        with pytest.raises(RunClaimed):
            held.require()


def test_a_driver_gives_signs_of_life(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.02)
    with claim(run) as held:
        os.utime(held.path, (0, 0))
        deadline_s = time.monotonic() + 20
        while not held.path.stat().st_mtime:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)


@pytest.mark.parametrize("damage", [b"", os.urandom(300)])
def test_a_driver_mends_its_claim(run: Path, damage: bytes) -> None:
    now = [0.0]
    held = Claim.take(run / "drivers", what="it", clock=lambda: now[0])
    held.path.write_bytes(damage)
    now[0] = 151.0
    held.require()
    assert read_holder(held.path) == held.holder
    held.release()


def test_a_driver_whose_claim_was_removed_stops(run: Path) -> None:
    now = [0.0]
    held = Claim.take(run / "drivers", what="it", clock=lambda: now[0])
    shutil.rmtree(run)
    now[0] = 151.0
    with pytest.raises(RunClaimed, match="is gone"):
        held.require()
    held.release()


def test_a_forked_process_does_not_let_go_of_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Claim.take(run / "drivers", what="it")
    with monkeypatch.context() as patched:
        patched.setattr("os.getpid", lambda: held.holder.pid + 1)
        held.release()
    found = found_claim(run)
    assert found is not None
    assert found.is_held


def test_it_works_without_hard_links(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    with claim(run) as held:
        assert held.number == 1
        with pytest.raises(RunClaimed), claim(run):
            pass
    with claim(run) as held:
        assert held.number == 2


def test_a_folder_that_cannot_be_written_is_told_in_one_line(run: Path) -> None:
    (run / "drivers").write_text("in the way")
    with pytest.raises(RecordError) as refused, claim(run):
        pass
    assert "\n" not in refused.value.message
    assert not isinstance(refused.value, RunClaimed)


UNSHARED = ("unshare", "--user", "--map-root-user", "--mount")
READ_ONLY = """
mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$2" -c "$3" "$1"
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare")
def test_a_read_only_folder_is_told_in_one_line(run: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from fasthep_flow.errors import RecordError\n"
        "from fasthep_flow.records.claim import claim\n"
        "try:\n"
        "    with claim(Path(sys.argv[1])): pass\n"
        "except RecordError as error: print('refused:', error.message)\n"
    )
    done = subprocess.run(
        [*UNSHARED, "sh", "-c", READ_ONLY, "sh", run, sys.executable, script],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no mount of its own: {done.stderr.strip()}")
    [line] = done.stdout.splitlines()
    assert line.startswith(f"refused: cannot write in {run}")
    assert "Read-only file system" in line


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")
def test_no_lock_of_the_kernels_is_needed(run: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from fasthep_flow.records.claim import claim\n"
        "with claim(Path(sys.argv[1])) as held: print(held.number)\n"
    )
    log = run.parent / "calls"
    # Python itself cannot start without fcntl, which is asked for other things too.
    traced = ["strace", "-f", "-o", str(log), "-e", "trace=flock,fcntl"]
    traced += ["-e", "inject=flock:error=ENOLCK"]
    done = subprocess.run(
        [*traced, sys.executable, "-c", script, run],
        capture_output=True,
        text=True,
        check=False,
    )
    if "ptrace" in done.stderr:
        pytest.skip("no process may be traced here")
    assert done.stdout == "1\n", done.stderr
    assert not re.search(r"flock\(|F_(OFD_)?(SET|GET)LK", log.read_text())


def test_somebody_who_looks_changes_nothing(run: Path) -> None:
    assert found_claim(run) is None
    assert not list(run.iterdir())
    written(run, of_another(), age_s=10_000)
    before = sorted(run.rglob("*"))
    found = found_claim(run)
    assert found is not None
    # Whether it is dead only the file system's clock can tell, and that takes a write.
    assert found.is_held
    assert not found.is_certain
    assert sorted(run.rglob("*")) == before
