"""A task on the host: its limits, held by a control group or without one, and its mounts."""

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from tests.waiting import wait_until

from fasthep_flow.environments import ContainerSpec, Mount, Outcome, Process, Runtime
from fasthep_flow.environments.host.mounts import UNMOUNTED, why_no_mounts
from fasthep_flow.environments.limits.cgroups import GROUPS, REPORT, ControlGroups
from fasthep_flow.environments.native import Host, NativeRuntime
from fasthep_flow.errors import EnvironmentRefused, LimitUnenforceable
from fasthep_flow.model import Command, Image, ImageForm, Invocation, Resources
from fasthep_flow.testing.runtimes import RuntimeSuite

MEBI = 2**20
HOG = f"{sys.executable} -c 'x = b\"x\" * {200 * MEBI}'"


@pytest.fixture
def grouped() -> NativeRuntime:
    """On a machine with control groups."""
    for limit in ("memory", "cpus"):
        if (why_not := GROUPS.why_not(limit)) is not None:
            pytest.skip(why_not)
    return NativeRuntime()


@pytest.fixture
def bare(tmp_path: Path) -> NativeRuntime:
    """On a machine without control groups."""
    return NativeRuntime(ControlGroups(str(tmp_path / "no proc")))


class Place:
    """An attempt's folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()

    def run(
        self,
        runtime: NativeRuntime,
        *argv: str,
        resources: Resources,
        meanwhile: Callable[[Process], None] = lambda _: None,
        stdin: str | None = None,
        mounts: tuple[Mount, ...] = (),
    ) -> Outcome:
        invocation: Invocation = Command(argv=argv, stdin=stdin)
        spec = ContainerSpec(name="a task", resources=resources, mounts=mounts)
        with runtime.open(spec) as container:
            process = container.start(
                invocation,
                environment={"FASTHEP_TASK_DIRECTORY": str(self.directory)},
                working_directory=str(self.directory),
                directory=str(self.directory),
            )
            meanwhile(process)
            return process.wait()

    def stdout(self) -> str:
        return (self.directory / "stdout.log").read_text()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "attempt")


class TestCheck:
    """How each limit is held, or why it is not."""

    def test_without_limits_nothing_is_held(self, bare: NativeRuntime) -> None:
        assert bare.check(Resources()) == {}

    def test_by_control_groups(self, grouped: NativeRuntime) -> None:
        held = grouped.check(Resources(memory=64 * MEBI, cpus=0.5))
        assert held == {"memory": "cgroup", "cpus": "cgroup"}

    def test_without_them(self, bare: NativeRuntime) -> None:
        held = bare.check(Resources(memory=64 * MEBI, cpus=1))
        assert held == {"memory": "measured", "cpus": "affinity"}

    def test_a_part_of_a_processor_takes_one(self, bare: NativeRuntime) -> None:
        with pytest.raises(LimitUnenforceable) as caught:
            bare.check(Resources(cpus=0.5))
        assert caught.value.message == (
            "a task can be bound to whole processors here, and not held to 0.5 "
            "(No such file or directory)"
        )
        assert caught.value.hint == (
            "ask for 1, or leave cpus out, or write 'enforce: best_effort' under resources"
        )
        held = bare.check(Resources(cpus=0.5, enforce="best_effort"))
        assert held == {"cpus": "affinity: 1 for 0.5"}

    def test_less_than_the_kernel_shares_out_is_refused(self, grouped: NativeRuntime) -> None:
        with pytest.raises(LimitUnenforceable, match=r"^0\.009 cpus are less than"):
            grouped.check(Resources(cpus=0.009))

    def test_where_nothing_is_bound_it_is_refused(
        self, bare: NativeRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As on macOS."""
        monkeypatch.delattr("os.sched_setaffinity")
        with pytest.raises(LimitUnenforceable, match="cannot hold a task to processors"):
            bare.check(Resources(cpus=1))
        held = bare.check(Resources(cpus=1, enforce="best_effort"))
        assert held["cpus"].startswith("not enforced: this system cannot hold a task to processors")

    def test_more_than_there_is_is_refused(self, bare: NativeRuntime) -> None:
        with pytest.raises(LimitUnenforceable, match="are asked for"):
            bare.check(Resources(memory=2**60, cpus=10_000, enforce="best_effort"))

    def test_no_network_is_refused(self, bare: NativeRuntime) -> None:
        with pytest.raises(LimitUnenforceable, match="has the host's network"):
            bare.check(Resources(), "none")


class TestProcessors:
    def test_a_task_has_its_own(
        self, bare: NativeRuntime, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        before = os.sched_getaffinity(0)
        outcome = place.run(bare, "nproc", resources=Resources(cpus=1))
        assert (outcome.exit_code, place.stdout()) == (0, "1\n")
        assert os.sched_getaffinity(0) == before

    def test_without_free_ones_it_is_still_held_to_as_many(
        self, bare: NativeRuntime, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        everything = ContainerSpec(
            name="all", resources=Resources(cpus=len(os.sched_getaffinity(0)))
        )
        with bare.open(everything):
            place.run(bare, "nproc", resources=Resources(cpus=1))
        assert place.stdout() == "1\n"

    def test_without_a_place_for_locks_it_is_still_held_to_as_many(
        self, bare: NativeRuntime, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "gone"))
        monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "gone"))
        place.run(bare, "nproc", resources=Resources(cpus=1))
        assert place.stdout() == "1\n"

    def test_a_part_of_one_is_held_by_the_kernel(
        self, grouped: NativeRuntime, place: Place
    ) -> None:
        def look(process: Process) -> None:
            # Until it has entered its group, it is in that of this process.
            wait_until(lambda: GROUPS.of_process(process.pid).counters().throttled)
            process.kill()

        spin = ("sh", "-c", "while :; do :; done & while :; do :; done")
        outcome = place.run(grouped, *spin, resources=Resources(cpus=0.02), meanwhile=look)
        assert outcome.signal == signal.SIGKILL

    def test_libraries_find_as_many_as_were_asked_for(
        self, grouped: NativeRuntime, place: Place
    ) -> None:
        place.run(grouped, "nproc", resources=Resources(cpus=0.5))
        assert place.stdout() == "1\n"


class TestMemory:
    limited = Resources(memory=64 * MEBI)

    def test_a_child_without_memory_is_named_though_its_parent_does_not_mind(
        self, grouped: NativeRuntime, place: Place
    ) -> None:
        outcome = place.run(grouped, "sh", "-c", f"{HOG}; exit 0", resources=self.limited)
        assert outcome.out_of_memory
        assert outcome.peak_memory is not None
        assert outcome.peak_memory <= 64 * MEBI
        assert not outcome.peak_memory_is_bound

    def test_what_left_session_parent_and_environment_counts_too(
        self, grouped: NativeRuntime, place: Place
    ) -> None:
        line = 'printf %s "$0" > hog; (env -i setsid sh ./hog &); sleep 600'
        outcome = place.run(grouped, "sh", "-c", line, HOG, resources=self.limited)
        assert outcome.out_of_memory
        assert outcome.signal == signal.SIGKILL, "what waits for it ends as well"

    def test_the_peak_of_a_small_task_is_known(self, grouped: NativeRuntime, place: Place) -> None:
        outcome = place.run(grouped, "true", resources=self.limited)
        assert outcome.exit_code == 0
        assert not outcome.out_of_memory
        assert outcome.peak_memory is not None
        assert 0 < outcome.peak_memory < 8 * MEBI, "ours, or a Python's, would be more"
        assert not outcome.peak_memory_is_bound

    def test_without_a_group_it_is_left_to_the_caller(
        self, bare: NativeRuntime, place: Place
    ) -> None:
        outcome = place.run(bare, "sh", "-c", HOG, resources=self.limited)
        assert outcome.exit_code == 0
        assert outcome.peak_memory is not None
        assert outcome.peak_memory > 200 * MEBI


class TestEnd:
    """Nothing of a task lives on after it."""

    limited = Resources(memory=256 * MEBI)
    daemon = "env -i setsid sh -c 'trap \"\" TERM; echo up > up; sleep 600' >/dev/null 2>&1 &"

    def test_a_daemon_without_its_environment_ends_with_the_task(
        self, grouped: NativeRuntime, place: Place
    ) -> None:
        pids: set[int] = set()

        def look(process: Process) -> None:
            wait_until((place.directory / "up").exists)
            pids.update(self._in_group_of(process.pid) - {process.pid})
            (place.directory / "go").touch()

        line = f"{self.daemon} while [ ! -e go ]; do sleep 0.01; done"
        outcome = place.run(grouped, "sh", "-c", line, resources=self.limited, meanwhile=look)
        assert outcome.exit_code == 0
        assert pids
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))

    def test_what_ignores_being_asked_is_killed_with_all_it_started(
        self, grouped: NativeRuntime, place: Place
    ) -> None:
        pids: set[int] = set()

        def look(process: Process) -> None:
            wait_until((place.directory / "up").exists)
            process.terminate()
            pids.update(self._in_group_of(process.pid))
            process.kill()

        line = f"trap '' TERM; {self.daemon} while :; do sleep 0.01; done"
        outcome = place.run(grouped, "sh", "-c", line, resources=self.limited, meanwhile=look)
        assert outcome.signal == signal.SIGKILL
        assert not outcome.out_of_memory
        assert len(pids) > 1
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))

    def test_each_process_is_asked_once(self, grouped: NativeRuntime, place: Place) -> None:
        """Asked twice, many programs drop what they have."""

        def look(process: Process) -> None:
            wait_until(lambda: len(list(place.directory.glob("up*"))) == 3)
            process.terminate()

        (place.directory / "loop").write_text(
            'trap "echo asked >> asked$1; sleep 0.3; exit 0" TERM\n'
            "echo up > up$1\nwhile :; do sleep 0.02; done\n"
        )
        line = "setsid sh ./loop 1 & env -i setsid sh ./loop 2 & . ./loop; wait"
        place.run(grouped, "sh", "-c", line, resources=self.limited, meanwhile=look)
        asked = {path.name: path.read_text() for path in place.directory.glob("asked*")}
        assert asked == dict.fromkeys(("asked", "asked1", "asked2"), "asked\n")

    def test_what_needs_a_moment_has_it(self, grouped: NativeRuntime, place: Place) -> None:
        line = "setsid sh -c 'sleep 0.1; echo done > late' >/dev/null 2>&1 &"
        outcome = place.run(grouped, "sh", "-c", line, resources=self.limited)
        assert outcome.exit_code == 0
        assert (place.directory / "late").read_text() == "done\n"

    @staticmethod
    def _in_group_of(pid: int) -> set[int]:
        own = Path(f"/proc/{pid}/cgroup").read_text()
        found = set()
        for path in Path("/proc").glob("[0-9]*/cgroup"):
            try:
                if path.read_text() == own:
                    found.add(int(path.parent.name))
            except OSError:
                continue
        return found


class TestStart:
    """A program starts, or does not, as it would without limits."""

    limited = Resources(memory=256 * MEBI)

    @pytest.mark.parametrize(
        "program", ["no-such-program", "/no/such", "./plain", "./odd", "./text"]
    )
    def test_why_not_is_the_same(self, grouped: NativeRuntime, place: Place, program: str) -> None:
        (place.directory / "plain").write_text("echo hello\n")
        (place.directory / "odd").write_text("#!/no/such/interpreter\n")
        (place.directory / "text").write_text("echo hello\n")
        for name in ("odd", "text"):
            (place.directory / name).chmod(0o755)
        outcome = place.run(grouped, program, resources=self.limited)
        without = place.run(NativeRuntime(), program, resources=Resources())
        assert outcome.failure is not None
        assert outcome.failure == without.failure
        assert outcome.exit_code is None
        assert not (place.directory / REPORT).exists()

    def test_a_folder_that_is_gone_is_said(self, grouped: NativeRuntime, place: Place) -> None:
        with grouped.open(ContainerSpec(name="a", resources=self.limited)) as container:
            process = container.start(
                Command(argv=("true",)),
                environment={},
                working_directory=str(place.directory / "gone"),
                directory=str(place.directory),
            )
            failure = process.wait().failure
        assert failure is not None
        assert "gone is not there" in failure.message

    def test_standard_input_arrives(self, grouped: NativeRuntime, place: Place) -> None:
        place.run(grouped, "cat", resources=self.limited, stdin="hello\n")
        assert place.stdout() == "hello\n"

    def test_an_exit_code_of_127_is_its_own(self, grouped: NativeRuntime, place: Place) -> None:
        outcome = place.run(grouped, "sh", "-c", "exit 127", resources=self.limited)
        assert (outcome.exit_code, outcome.failure) == (127, None)

    def test_without_a_group_after_all_it_is_refused(
        self, grouped: NativeRuntime, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        grouped.check(self.limited)
        monkeypatch.setattr(GROUPS, "_proc", "/nowhere")
        with pytest.raises(LimitUnenforceable, match="no control group to hold"):
            place.run(grouped, "true", resources=self.limited)


def mountable() -> None:
    if (why_not := why_no_mounts()) is not None:
        pytest.skip(why_not)


class MountingRuntime(NativeRuntime):
    """Whatever a task asks for, a folder is mounted for it as well."""

    @contextmanager
    def open(self, spec: ContainerSpec) -> Iterator[Host]:
        mountable()
        with tempfile.TemporaryDirectory() as folder:
            mount = Mount(source="/etc", target=folder, read_only=True)
            mounted = msgspec.structs.replace(spec, mounts=(*spec.mounts, mount))
            with super().open(mounted) as container:
                yield container


class TestAmongMounts(RuntimeSuite):
    """All that a task on the host finds, it finds among its mounts too."""

    __test__ = True

    @classmethod
    def runtime(cls) -> Runtime:
        return MountingRuntime()

    @classmethod
    def image(cls) -> str | None:
        return None

    @classmethod
    def images(cls) -> dict[ImageForm, Image]:
        """None that it would take."""
        return {form: Image(name="/an/image", form=form) for form in get_args(ImageForm)}


@pytest.fixture
def data(tmp_path: Path) -> Mount:
    mountable()
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "events").write_text("42")
    return Mount(source=str(source), target=str(target), read_only=True)


class TestMounts:
    SCRIPT = 'cat "$1/events"; (echo 43 >"$1/events") 2>/dev/null || echo " refused"'

    def test_without_limits(self, bare: NativeRuntime, place: Place, data: Mount) -> None:
        outcome = place.run(
            *(bare, "/bin/sh", "-c", self.SCRIPT, "sh", data.target),
            resources=Resources(),
            mounts=(data,),
        )
        assert (outcome.exit_code, place.stdout()) == (0, "42 refused\n")
        assert sorted(path.name for path in place.directory.iterdir()) == [
            "stderr.log",
            "stdout.log",
        ]

    def test_in_a_control_group(self, grouped: NativeRuntime, place: Place, data: Mount) -> None:
        resources = Resources(memory=64 * MEBI, cpus=1)
        script = f"{self.SCRIPT}; exit 7"
        outcome = place.run(
            *(grouped, "/bin/sh", "-c", script, "sh", data.target),
            resources=resources,
            mounts=(data,),
        )
        assert (outcome.exit_code, place.stdout()) == (7, "42 refused\n")
        killed = place.run(
            *(grouped, "/bin/sh", "-c", HOG),
            resources=resources,
            mounts=(data,),
        )
        assert killed.out_of_memory

    def test_what_makes_them_is_not_counted_as_the_task(
        self, grouped: NativeRuntime, place: Place, data: Mount
    ) -> None:
        resources = Resources(memory=64 * MEBI)
        alone = place.run(grouped, "true", resources=resources)
        among = place.run(grouped, "true", resources=resources, mounts=(data,))
        assert alone.peak_memory is not None
        assert among.peak_memory is not None
        assert among.peak_memory < alone.peak_memory + 3 * MEBI

    @pytest.mark.parametrize("limit", [None, 64 * MEBI])
    def test_a_program_that_is_not_there(
        self, place: Place, data: Mount, limit: int | None
    ) -> None:
        """Its name is told, and not that of what makes the mounts."""
        outcome = place.run(
            *(NativeRuntime(), "fasthep-no-such-program"),
            resources=Resources(memory=limit),
            mounts=(data,),
        )
        assert outcome.failure is not None
        assert outcome.failure.kind == "not_started"
        assert outcome.failure.message == "no such program: fasthep-no-such-program"

    def test_a_place_that_is_not_there(self, place: Place, data: Mount) -> None:
        lost = msgspec.structs.replace(data, target="/nowhere/at all")
        outcome = place.run(NativeRuntime(), "true", resources=Resources(), mounts=(lost,))
        assert outcome.failure is not None
        assert outcome.failure.kind == "environment"
        assert outcome.failure.message == (
            f"cannot mount {data.source} at /nowhere/at all: No such file or directory"
        )
        assert not (place.directory / UNMOUNTED).exists()

    def test_what_is_there_already_takes_nothing(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As every task in a container has it for its folders."""
        monkeypatch.setattr("fasthep_flow.environments.host.mounts.why_no_mounts", lambda: "no")
        folder = str(place.directory)
        mount = Mount(source=folder, target=folder)
        outcome = place.run(
            NativeRuntime(), "readlink", "/proc/self/ns/mnt", resources=Resources(), mounts=(mount,)
        )
        assert outcome.exit_code == 0
        assert place.stdout() == f"{Path('/proc/self/ns/mnt').readlink()}\n"

    def test_where_there_can_be_none_it_is_refused(
        self, place: Place, data: Mount, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        why = "this system allows no namespace for mounts (Operation not permitted)"
        monkeypatch.setattr("fasthep_flow.environments.host.mounts.why_no_mounts", lambda: why)
        with pytest.raises(EnvironmentRefused) as caught:
            place.run(NativeRuntime(), "true", resources=Resources(), mounts=(data,))
        assert why in caught.value.message
        assert caught.value.hint is not None
