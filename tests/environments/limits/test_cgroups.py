"""Control groups of the kernel's own, of whichever version this machine has."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.waiting import SOON_S, wait_until

from fasthep_flow.environments.host.owner import owner_labels
from fasthep_flow.environments.limits import cgroups
from fasthep_flow.environments.limits.accounts import Account, Counters
from fasthep_flow.environments.limits.cgroupfs import groups_below, mounts
from fasthep_flow.environments.limits.cgroups import (
    GROUPS,
    REPORT,
    ControlGroups,
    Group,
    read_report,
)

MEBI = 2**20
HOG = "import sys; x = b'x' * int(sys.argv[1]); print(len(x))"
SPIN = "while True: pass"


def ours() -> list[str]:
    """The groups that there are of this process's."""
    mark = f"-{os.getpid()}-"
    tops = dict.fromkeys(mount.point for mount in mounts())
    return [group for top in tops for group in groups_below(top) if mark in group]


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    assert ours() == []


@pytest.fixture
def groups() -> ControlGroups:
    for limit in ("memory", "cpus"):
        if (why_not := GROUPS.why_not(limit)) is not None:
            pytest.skip(why_not)
    return GROUPS


class Run:
    """Programs in a group."""

    def __init__(self, folder: Path) -> None:
        self.report = str(folder / REPORT)

    def __call__(
        self, group: Group, *argv: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            group.enter_argv(argv, self.report), capture_output=True, check=False, env=env
        )

    def start(self, group: Group, *argv: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(group.enter_argv(argv, self.report), stdout=subprocess.DEVNULL)
        wait_until(lambda: process.pid in group.pids() or process.poll() is not None)
        return process


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


class TestEntering:
    """A program in a group finds all as if it had been started directly."""

    def test_it_is_in_the_group_and_so_is_what_it_starts(
        self, groups: ControlGroups, run: Run
    ) -> None:
        with groups.group("a task", memory=64 * MEBI, cpus=1) as group:
            said = run(group, "sh", "-c", "cat /proc/self/cgroup; cat /proc/$$/cgroup")
            assert said.stdout.count(b"-a-task") >= 2
            process = run.start(group, "sleep", "600")
            assert group.pids() == {process.pid}
            process.kill()
            process.wait()

    def test_its_environment_is_the_same(self, groups: ControlGroups, run: Run) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "BASH_FUNC_module%%": "() {  echo loaded\n}",
            "a.b": "1",
            "bytes": "\udcff",
            "PYTHONPATH": "/nowhere",
            "PYTHONHOME": "/nowhere",
            "LD_BIND_NOW": "",
        }
        with groups.group("env", memory=64 * MEBI) as group:
            said = run(group, "env", "-0", env=environment)
            bare = run(group, shutil.which("env") or "", "-0", env={})
        assert dict(entry.split(b"=", 1) for entry in said.stdout.split(b"\0") if entry) == {
            os.fsencode(name): os.fsencode(value) for name, value in environment.items()
        }
        assert bare.stdout == b""

    def test_its_words_are_the_same(self, groups: ControlGroups, run: Run) -> None:
        words = ["", " ", "-c", "--", "a\nb", "$HOME", "ü", os.fsdecode(b"\xff\xfe")]
        code = "import os, sys; sys.stdout.buffer.write(b'|'.join(map(os.fsencode, sys.argv[1:])))"
        with groups.group("words", memory=64 * MEBI) as group:
            said = run(group, sys.executable, "-X", "utf8", "-c", code, *words)
        assert said.stdout == b"|".join(map(os.fsencode, words))

    def test_its_signals_are_the_same(self, groups: ControlGroups, run: Run) -> None:
        status = ["grep", "-E", "^Sig(Ign|Blk|Cgt)", "/proc/self/status"]
        with groups.group("signals", memory=64 * MEBI) as group:
            said = run(group, *status)
        assert said.stdout == subprocess.run(status, capture_output=True, check=True).stdout

    def test_its_files_are_the_same(self, groups: ControlGroups, run: Run) -> None:
        with groups.group("files", memory=64 * MEBI) as group:
            said = run(group, "ls", "/proc/self/fd")
        assert said.stdout.split() == [b"0", b"1", b"2", b"3"], "3 is the folder that is listed"

    def test_it_ends_as_it_does(self, groups: ControlGroups, run: Run) -> None:
        with groups.group("ends", memory=64 * MEBI) as group:
            assert run(group, "sh", "-c", "exit 127").returncode == 127
            assert run(group, "sh", "-c", "kill -USR1 $$").returncode == -signal.SIGUSR1
            assert read_report(run.report) is None

    @pytest.mark.parametrize(
        ("argv", "kind"),
        [
            (["no-such-program"], FileNotFoundError),
            (["/no/such/program"], FileNotFoundError),
            (["/etc"], PermissionError),
            (["sh", "x" * 200_000], OSError),
        ],
    )
    def test_what_cannot_be_started_says_why(
        self, groups: ControlGroups, run: Run, argv: Sequence[str], kind: type[OSError]
    ) -> None:
        with pytest.raises(kind) as direct:
            subprocess.run(argv, check=False)
        with groups.group("missing", memory=64 * MEBI) as group:
            if len(argv) > 1:  # too long for whatever it is handed to
                with pytest.raises(OSError, match="too long"):
                    run(group, *argv)
                return
            assert run(group, *argv).returncode == 127
        why = read_report(run.report)
        assert why is not None
        assert why.entered
        assert why.error.errno == direct.value.errno
        assert read_report(run.report) is None, "it is read once"

    def test_no_program_starts_without_its_group(
        self, groups: ControlGroups, run: Run, tmp_path: Path
    ) -> None:
        with groups.group("gone", memory=64 * MEBI) as group:
            argv = group.enter_argv(["touch", str(tmp_path / "made")], run.report)
        assert subprocess.run(argv, check=False).returncode == 127
        why = read_report(run.report)
        assert why is not None
        assert not why.entered
        assert not (tmp_path / "made").exists()


class TestMemory:
    def test_what_is_used_is_counted(self, groups: ControlGroups, run: Run) -> None:
        with groups.group("small", memory=256 * MEBI) as group:
            assert run(group, sys.executable, "-c", HOG, str(50 * MEBI)).returncode == 0
            counted = group.counters()
        assert counted.oom_kills == 0
        assert counted.peak_memory is not None
        assert 50 * MEBI < counted.peak_memory < 100 * MEBI

    def test_it_is_not_exceeded(self, groups: ControlGroups, run: Run) -> None:
        with groups.group("hog", memory=64 * MEBI) as group:
            said = run(group, sys.executable, "-c", HOG, str(200 * MEBI))
            counted = group.counters()
        assert said.returncode == -signal.SIGKILL
        assert said.stdout == b""
        assert counted.oom_kills is not None
        assert counted.oom_kills > 0
        assert counted.peak_memory is not None
        assert counted.peak_memory <= 64 * MEBI

    def test_a_child_that_is_killed_is_counted_and_takes_all_along(
        self, groups: ControlGroups, run: Run
    ) -> None:
        hog = f"{sys.executable} -c 'x = b\"x\" * {200 * MEBI}'; sleep 600"
        with groups.group("child", memory=64 * MEBI) as group:
            # The shell may see its children killed, and end, before its own turn comes.
            code = run(group, "sh", "-c", hog).returncode
            assert code in {-signal.SIGKILL, 128 + signal.SIGKILL}
            assert group.counters().oom_kills
            wait_until(lambda: not group.pids())

    def test_processes_share_it(self, groups: ControlGroups, run: Run) -> None:
        hog = f"{sys.executable} -c 'import time; x = b\"x\" * {45 * MEBI}; time.sleep(600)'"
        with groups.group("shared", memory=100 * MEBI) as group:
            run(group, "sh", "-c", f"{hog} & {hog} & {hog} & wait")
            assert group.counters().oom_kills

    def test_less_than_a_page_is_too_little_for_anything(
        self, groups: ControlGroups, run: Run
    ) -> None:
        with groups.group("nothing", memory=1) as group:
            assert run(group, "true").returncode != 0
            assert group.counters().oom_kills

    def test_the_peak_can_be_counted_anew(self, groups: ControlGroups, run: Run) -> None:
        with groups.group("again", memory=256 * MEBI) as group:
            run(group, sys.executable, "-c", HOG, str(100 * MEBI))
            if not group.reset_peak():
                pytest.skip("this kernel does not count anew")
            run(group, sys.executable, "-c", HOG, str(20 * MEBI))
            peak = group.counters().peak_memory
        assert peak is not None
        assert 20 * MEBI < peak < 100 * MEBI


class TestProcessors:
    @pytest.mark.parametrize("cpus", [0.01, 0.05])
    def test_a_share_is_not_exceeded(self, groups: ControlGroups, run: Run, cpus: float) -> None:
        """The kernel says that it has held the group back."""
        with groups.group("spin", cpus=cpus) as group:
            spinning = [run.start(group, "sh", "-c", "while :; do :; done") for _ in range(2)]
            wait_until(lambda: group.counters().throttled)
            group.kill()
            for process in spinning:
                process.wait()

    def test_all_that_there_is_holds_nothing_back(self, groups: ControlGroups, run: Run) -> None:
        with groups.group("free", cpus=os.cpu_count() or 1) as group:
            run(group, "sh", "-c", "i=0; while [ $i -lt 1000 ]; do i=$((i+1)); done")
            assert group.counters().throttled == 0


class TestEnd:
    def test_nothing_lives_on(self, groups: ControlGroups, run: Run) -> None:
        """Nor what left the session, its parent and its environment behind."""
        with groups.group("daemon", memory=64 * MEBI) as group:
            run(group, "sh", "-c", "env -i setsid sleep 600 >/dev/null 2>&1 &")
            wait_until(group.pids)
            (daemon,) = group.pids()
        wait_until(lambda: not Path(f"/proc/{daemon}").exists())

    def test_what_ends_by_itself_is_waited_for(
        self, groups: ControlGroups, run: Run, tmp_path: Path
    ) -> None:
        late = tmp_path / "late"
        with groups.group("late", memory=64 * MEBI) as group:
            run(
                group, "sh", "-c", f"setsid sh -c 'sleep 0.2; echo done > {late}' >/dev/null 2>&1 &"
            )
            assert group.end(linger_s=SOON_S)
        assert late.read_text() == "done\n"

    def test_groups_that_a_task_made_in_its_own_end_too(self, groups: ControlGroups) -> None:
        with groups.group("outer", cpus=1) as group:
            inner = Path(group._own()[0], "inner")
            inner.mkdir()
            with subprocess.Popen(["sleep", "600"]) as process:
                (inner / "cgroup.procs").write_text(str(process.pid))
                assert group.pids() == {process.pid}
                assert group.end()
                assert process.wait() == -signal.SIGKILL

    def test_some_can_be_asked_to_end(self, groups: ControlGroups, run: Run) -> None:
        with groups.group("some", memory=64 * MEBI) as group:
            first, second = (run.start(group, "sleep", "600") for _ in range(2))
            # One that is not in the group is none of its business.
            with subprocess.Popen(["sleep", "600"]) as other:
                group.signal(signal.SIGTERM, only={first.pid, other.pid})
                assert first.wait() == -signal.SIGTERM
                assert group.pids() == {second.pid}
                assert other.poll() is None
                other.kill()
            group.kill()
            assert second.wait() == -signal.SIGKILL

    def test_an_error_leaves_no_group(self, groups: ControlGroups) -> None:
        with suppress(InterruptedError), groups.group("error", memory=64 * MEBI, cpus=1):
            assert ours()
            raise InterruptedError
        assert ours() == []

    def test_what_a_killed_owner_left_is_removed_by_the_next(self, groups: ControlGroups) -> None:
        code = (
            "import subprocess, sys, time\n"
            "from fasthep_flow.environments.limits.cgroups import GROUPS\n"
            "with GROUPS.group('left', memory=2**26, cpus=1) as group:\n"
            "    print(subprocess.Popen(group.enter_argv(['sleep', '600'], '/dev/null'),"
            " start_new_session=True).pid, flush=True)\n"
            "    time.sleep(600)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
        ) as owner:
            assert owner.stdout is not None
            task = int(owner.stdout.readline())
            wait_until(lambda: b"sleep" in Path(f"/proc/{task}/cmdline").read_bytes()[:6])
            groups.remove_leftovers()
            os.kill(task, 0)
            owner.kill()
        assert groups.remove_leftovers() >= 1
        wait_until(lambda: not Path(f"/proc/{task}").exists())
        assert groups.remove_leftovers() == 0


@given(name=st.text())
def test_any_name_tells_whose_a_group_is(name: str) -> None:
    found = cgroups._NAME.fullmatch(cgroups._full_name(name))
    assert found is not None
    assert int(found[2]) == os.getpid()
    assert found[3] == owner_labels()["fasthep.started"]


class TestAccount:
    def test_a_process_has_those_of_its_groups(self, groups: ControlGroups, run: Run) -> None:
        with groups.group("seen", memory=256 * MEBI, cpus=1) as group:
            process = run.start(
                group, sys.executable, "-c", f"x = b'x' * {50 * MEBI}; import time; time.sleep(600)"
            )
            account = groups.of_process(process.pid)
            wait_until(lambda: (account.counters().peak_memory or 0) > 50 * MEBI)
            assert account.counters().oom_kills == 0
            group.kill()
            process.wait()
            peak = account.counters().peak_memory
            assert peak is not None
            assert peak > 50 * MEBI, "also when it has ended"
        assert account.counters().peak_memory is None, "until the group is gone"

    def test_nothing_is_known_of_no_process(self) -> None:
        account = GROUPS.of_process(2**30)
        assert account.counters() == Counters()
        assert not account.reset_peak()
        account.close()

    def test_nothing_is_known_of_no_group(self, tmp_path: Path) -> None:
        account = Account({"memory": str(tmp_path / "gone"), "cpu": str(tmp_path / "gone")})
        assert account.counters() == Counters()


class TestWhereThereAreNone:
    def test_there_is_a_reason(self, tmp_path: Path) -> None:
        groups = ControlGroups(str(tmp_path))
        assert groups.available() == frozenset()
        assert groups.why_not("memory") == "No such file or directory"
        with pytest.raises(FileNotFoundError), groups.group("none", memory=1):
            pytest.fail("there is none")

    def test_without_the_controller_the_reason_names_it(self, tmp_path: Path) -> None:
        (tmp_path / "self").mkdir()
        (tmp_path / "self" / "cgroup").write_text("1:name=systemd:/\n")
        (tmp_path / "self" / "mountinfo").write_text("")
        groups = ControlGroups(str(tmp_path))
        assert groups.why_not("memory") == (
            "the kernel shows no 'memory' controller of control groups here"
        )
        assert "'cpu'" in str(groups.why_not("cpus"))

    def test_where_none_can_be_made_the_reason_names_the_place(self, tmp_path: Path) -> None:
        (tmp_path / "self").mkdir()
        (tmp_path / "self" / "cgroup").write_text("4:memory:/\n")
        mount = "35 31 0:32 / /proc/self rw - cgroup cgroup rw,memory\n"
        (tmp_path / "self" / "mountinfo").write_text(mount)
        why = ControlGroups(str(tmp_path)).why_not("memory")
        assert why is not None
        assert why.startswith("no control group can be made below /proc/self: ")


def test_a_pipe_in_place_of_the_report_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "report")
    assert read_report(str(tmp_path / "report")) is None
