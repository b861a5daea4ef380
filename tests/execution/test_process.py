"""The watch, with processes that a test makes up and with real ones."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.execution.conftest import Bench

from fasthep_flow.environments import Outcome
from fasthep_flow.environments.host.spawn import Cookies, Spawned, open_log, processes_of
from fasthep_flow.execution.process import Watch, end_daemons, memory_in_use

SOON_S = 60.0
MEBI = 2**20


def wait_until(true: Callable[[], bool]) -> None:
    until_s = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < until_s, "it did not come true"
        time.sleep(0.01)


class Puppet:
    """A process that ends when it is told to."""

    def __init__(self, *, obeys: bool = True, dies: int = 1) -> None:
        self.pid = 0
        self.asked = 0
        self.killed = 0
        self._obeys = obeys
        self._dies = dies
        self._ended = threading.Event()

    def wait(self) -> Outcome:
        assert self._ended.wait(SOON_S), "nobody ended it"
        return Outcome(signal=9 if self.killed else 15)

    def end(self) -> None:
        self._ended.set()

    def terminate(self) -> None:
        self.asked += 1
        if self._obeys:
            self.end()

    def kill(self) -> None:
        self.killed += 1
        if self.killed >= self._dies:
            self.end()


@pytest.fixture
def watch() -> Iterator[Watch]:
    with Watch(grace_s=SOON_S) as watch:
        yield watch


@pytest.fixture
def impatient() -> Iterator[Watch]:
    with Watch(grace_s=0.01) as watch:
        yield watch


def test_without_limits_there_is_no_thread(watch: Watch) -> None:
    puppet = Puppet()
    with watch.over(puppet) as held:
        puppet.end()
        puppet.wait()
    assert watch._thread is None
    assert (held.verdict, puppet.asked, puppet.killed) == (None, 0, 0)
    assert not watch.stopped()


def test_a_time_limit_is_asked_to_be_kept(watch: Watch) -> None:
    puppet = Puppet()
    with watch.over(puppet, timeout_s=0.01) as held:
        puppet.wait()
    assert (held.verdict, puppet.asked, puppet.killed) == ("timeout", 1, 0)


def test_what_does_not_end_in_time_is_killed(impatient: Watch) -> None:
    puppet = Puppet(obeys=False)
    with impatient.over(puppet, timeout_s=0.01) as held:
        assert puppet.wait().signal == 9
    assert (held.verdict, puppet.asked) == ("timeout", 1)


def test_what_ends_in_time_is_left_alone(watch: Watch) -> None:
    puppet, other = Puppet(), Puppet()
    with watch.over(puppet, timeout_s=SOON_S) as held:
        puppet.end()
        puppet.wait()
    # The thread has looked at everything once more when the next one is stopped.
    with watch.over(other, timeout_s=0.01):
        other.wait()
    assert (held.verdict, puppet.asked, puppet.killed) == (None, 0, 0)


def test_an_earlier_limit_that_comes_later_counts(watch: Watch) -> None:
    first, second = Puppet(), Puppet()
    with watch.over(first, timeout_s=SOON_S), watch.over(second, timeout_s=0.01) as held:
        second.wait()
        assert first.asked == 0
        first.end()
    assert held.verdict == "timeout"


class TestCancel:
    def test_stops_all_and_lets_nothing_start(self, watch: Watch) -> None:
        puppets = [Puppet() for _ in range(3)]
        with (
            watch.over(puppets[0]) as first,
            watch.over(puppets[1], timeout_s=SOON_S) as second,
        ):
            watch.cancel()
            assert watch.stopped()
            puppets[0].wait()
            puppets[1].wait()
            with watch.over(puppets[2]) as late:
                puppets[2].wait()
        assert [held.verdict for held in (first, second, late)] == ["cancelled"] * 3
        assert [puppet.asked for puppet in puppets] == [1, 1, 1]

    def test_asked_twice_kills_at_once(self, watch: Watch) -> None:
        puppet = Puppet(obeys=False)
        with watch.over(puppet) as held:
            watch.cancel()
            wait_until(lambda: puppet.asked == 1)
            assert puppet.killed == 0
            watch.cancel()
            puppet.wait()
        assert held.verdict == "cancelled"

    def test_keeps_the_first_verdict(self, watch: Watch) -> None:
        puppet = Puppet(obeys=False)
        with watch.over(puppet, timeout_s=0.01) as held:
            wait_until(lambda: puppet.asked == 1)
            watch.cancel()
            watch.cancel()
            puppet.wait()
        assert held.verdict == "timeout"

    def test_kills_again_what_was_not_there_yet(
        self, impatient: Watch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("fasthep_flow.execution.process._KILL_AGAIN_S", 0.01)
        puppet = Puppet(obeys=False, dies=3)
        with impatient.over(puppet):
            impatient.cancel()
            puppet.wait()
        assert puppet.killed == 3

    def test_one_that_cannot_be_stopped_does_not_keep_others_from_it(self, watch: Watch) -> None:
        class Broken(Puppet):
            def terminate(self) -> None:
                raise RuntimeError("a mistake of a plug-in's")

        broken, puppet = Broken(), Puppet()
        with watch.over(broken), watch.over(puppet):
            watch.cancel()
            puppet.wait()
            broken.end()
        assert puppet.asked == 1

    def test_to_close_stops_what_runs(self) -> None:
        watch = Watch(grace_s=SOON_S)
        puppet = Puppet()

        def run() -> None:
            with watch.over(puppet):
                puppet.wait()

        worker = threading.Thread(target=run)
        worker.start()
        wait_until(lambda: bool(watch._held))
        watch.close()
        worker.join(SOON_S)
        assert not worker.is_alive()
        assert puppet.asked == 1
        assert watch._thread is not None
        assert not watch._thread.is_alive()


class TestCancelFile:
    @pytest.fixture
    def remote(self) -> Iterator[Watch]:
        with Watch(grace_s=SOON_S, cancel_file_poll_s=0.01) as watch:
            yield watch

    def test_stops_the_run_that_it_is_of(self, remote: Watch, tmp_path: Path) -> None:
        mine, other = tmp_path / "mine", tmp_path / "other"
        mine.mkdir()
        puppet, bystander = Puppet(), Puppet()
        with (
            remote.over(puppet, run_directory=str(mine)) as held,
            remote.over(bystander, run_directory=str(other)) as beside,
        ):
            assert not remote.stopped(str(mine))
            (mine / "cancel").touch()
            puppet.wait()
            assert remote.stopped(str(mine))
            assert not remote.stopped(str(other))
            bystander.end()
        assert (held.verdict, beside.verdict, bystander.asked) == ("cancelled", None, 0)

    def test_is_not_looked_for_where_the_driver_can_call(
        self, watch: Watch, tmp_path: Path
    ) -> None:
        (tmp_path / "cancel").touch()
        assert not watch.stopped(str(tmp_path))
        with watch.over(Puppet(), run_directory=str(tmp_path)) as held:
            assert watch._thread is None
        assert held.verdict is None


class TestMemory:
    @pytest.fixture
    def start(self, tmp_path: Path) -> Iterator[Callable[[str], Spawned]]:
        started: list[Spawned] = []
        folder = str(tmp_path / "attempt")

        def start(code: str) -> Spawned:
            log = open_log(str(tmp_path / "log"))
            started.append(
                Spawned(
                    [sys.executable, "-c", code],
                    environment={**os.environ, "FASTHEP_TASK_DIRECTORY": folder},
                    working_directory=str(tmp_path),
                    stdin=None,
                    stdout=log,
                    stderr=log,
                    task_directory=folder,
                )
            )
            os.close(log)
            return started[-1]

        yield start
        for process in started:
            process.end()

    def test_over_its_limit_a_process_is_killed(
        self, watch: Watch, start: Callable[[str], Spawned]
    ) -> None:
        process = start(f"import time; x = b'x' * {200 * MEBI}; time.sleep(600)")
        with watch.over(_Native(process), memory_limit=100 * MEBI) as held:
            assert process.wait().signal == 9
        assert held.verdict == "memory"
        assert held.peak_memory > 100 * MEBI

    def test_within_its_limit_it_is_not(
        self, watch: Watch, start: Callable[[str], Spawned], tmp_path: Path
    ) -> None:
        code = (
            f"import os, time; x = b'x' * {50 * MEBI}\nwhile not os.path.exists('go'):"
            " time.sleep(0.01)"
        )
        process = start(code)
        with watch.over(_Native(process), memory_limit=200 * MEBI) as held:
            wait_until(lambda: held.peak_memory > 50 * MEBI)
            (tmp_path / "go").touch()
            assert process.wait().exit_code == 0
        assert held.verdict is None

    def test_descendants_count_also_in_a_session_of_their_own(
        self, watch: Watch, start: Callable[[str], Spawned]
    ) -> None:
        hog = f"import time; x = b'x' * {60 * MEBI}; time.sleep(600)"
        process = start(
            "import subprocess, sys, time\n"
            f"for new in (False, True): subprocess.Popen([sys.executable, '-c', {hog!r}],"
            " start_new_session=new)\n"
            "time.sleep(600)"
        )
        with watch.over(_Native(process), memory_limit=110 * MEBI) as held:
            process.wait()
        assert held.verdict == "memory"

    def test_what_left_its_session_and_its_parent_counts(
        self, watch: Watch, start: Callable[[str], Spawned], tmp_path: Path
    ) -> None:
        hog = f"import time; x = b'x' * {200 * MEBI}; time.sleep(600)"
        process = start(
            "import os, subprocess, sys, time\n"
            "if not os.fork():\n"
            f"    subprocess.Popen([sys.executable, '-c', {hog!r}], start_new_session=True)\n"
            "    os._exit(0)\n"
            "os.wait()\n"
            "time.sleep(600)"
        )
        directory = str(tmp_path / "attempt")
        with watch.over(_Native(process), memory_limit=100 * MEBI, directory=directory) as held:
            assert process.wait().signal == 9
        assert held.verdict == "memory"
        assert held.peak_memory > 100 * MEBI
        assert processes_of(directory) == []

    def test_what_another_task_started_does_not_count(
        self, watch: Watch, start: Callable[[str], Spawned], tmp_path: Path
    ) -> None:
        process = start(f"import time; x = b'x' * {200 * MEBI}; time.sleep(600)")
        bystander = start("import time; time.sleep(600)")
        other = str(tmp_path / "attempt2")
        wait_until(lambda: psutil.Process(process.pid).memory_info().rss > 200 * MEBI)
        with watch.over(_Native(process)), watch.over(_Native(bystander), directory=other) as held:
            (used,) = memory_in_use([held], Cookies())
        assert used < 100 * MEBI

    def test_pages_that_are_shared_count_once(
        self, watch: Watch, start: Callable[[str], Spawned], tmp_path: Path
    ) -> None:
        process = start(
            f"import os, time; x = b'x' * {100 * MEBI}\n"
            "for _ in range(3):\n"
            "    if not os.fork(): break\n"
            "open(f'up{os.getpid()}', 'w')\n"
            "time.sleep(600)"
        )
        with watch.over(_Native(process), memory_limit=200 * MEBI) as held:
            wait_until(lambda: len(list(tmp_path.glob("up*"))) == 4)
            (shared,) = memory_in_use([held], Cookies())
            assert 100 * MEBI < shared < 200 * MEBI
            process.kill()
            process.wait()

    def test_a_height_between_two_looks_is_seen(
        self, watch: Watch, start: Callable[[str], Spawned], tmp_path: Path
    ) -> None:
        """Of a child that has given the memory back by the time of the first look."""
        child = f"x = b'x' * {200 * MEBI}; del x; open('down', 'w'); import time; time.sleep(600)"
        process = start(
            f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
        )
        wait_until((tmp_path / "down").exists)
        with watch.over(_Native(process), memory_limit=300 * MEBI) as held:
            wait_until(lambda: held.peak_memory > 0)
            process.kill()
            process.wait()
        assert held.peak_memory > 200 * MEBI
        assert held.verdict is None


class _Native:
    def __init__(self, spawned: Spawned) -> None:
        self.pid = spawned.pid
        self.terminate = spawned.terminate
        self.kill = spawned.kill

    def wait(self) -> Outcome:
        raise NotImplementedError


class TestDaemons:
    def test_none_changes_an_output_once_that_is_judged(self, bench: Bench) -> None:
        """It does what it does only once the task has ended, and ignores being asked to end."""
        daemon = "trap '' TERM; echo up > up; until test -e go; do sleep 0.01; done; echo late >> a"
        line = f'echo one > a; (setsid sh -c "{daemon}" &); until test -e up; do sleep 0.01; done'
        with Watch() as watch:
            result = bench.sh(line, outputs=(str(bench.directory / "a"),), watch=watch)
            assert processes_of(str(bench.attempt())) == []
        assert result.status == "succeeded"
        assert (bench.directory / "a").read_text() == "one\n"
        assert result.remarks
        assert "that the task left running had to be ended" in result.remarks[0]

    def test_that_of_another_attempt_is_let_be(self, bench: Bench) -> None:
        output = str(bench.directory / "a")
        with Watch() as watch:
            bench.sh("(setsid sleep 600 &)", watch=watch, attempt=10)
            result = bench.sh("echo one > a", outputs=(output,), watch=watch)
            assert len(processes_of(str(bench.attempt(number=10)))) == 1
        assert result.remarks == ()

    def test_where_there_is_nothing_to_look_through_all_are_asked(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Watch() as watch:
            bench.sh("(setsid sleep 600 &)", watch=watch)
            listed = os.listdir

            def without_proc(path: str) -> list[str]:
                if path == "/proc":
                    raise FileNotFoundError(path)
                return listed(path)

            monkeypatch.setattr("fasthep_flow.execution.process.os.listdir", without_proc)
            assert end_daemons(str(bench.attempt())) == 1
