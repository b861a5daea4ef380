"""Jobs on the host, from text to text."""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.execution.conftest import Bench, cause

from fasthep_flow.environments.devices.inventory import inventory
from fasthep_flow.environments.host.spawn import processes_of
from fasthep_flow.environments.limits.cgroups import ControlGroups
from fasthep_flow.environments.native import NATIVE
from fasthep_flow.errors import LimitUnenforceable
from fasthep_flow.execution import execute
from fasthep_flow.execution.execute import execute_job
from fasthep_flow.execution.process import Watch
from fasthep_flow.model import Command, Gpu, JobResult, Resources, from_json, to_json
from fasthep_flow.testing.devices import machine_with
from fasthep_flow.testing.runtimes import FakeRuntime, installed

SOON_S = 60.0
SECRET = "hunter2-XYZ"  # noqa: S105 - stands for one


def wait_until(true: Callable[[], bool]) -> None:
    until_s = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < until_s, "it did not come true"
        time.sleep(0.01)


class TestResult:
    def test_of_a_success(self, bench: Bench) -> None:
        before_s = time.time()
        result = bench.sh("echo out; echo err >&2")
        assert (result.task, result.attempt, result.status) == ("the task", 1, "succeeded")
        assert (result.exit_code, result.failure) == (0, None)
        assert (result.stdout_tail, result.stderr_tail) == ("out\n", "err\n")
        assert (result.runtime, result.image, result.image_digest) == ("native", None, None)
        assert (result.device, result.device_reason) == ("cpu", "process_on is cpu")
        assert result.host == socket.gethostname()
        assert before_s <= result.started_s <= time.time()
        assert result.wall_s > 0
        assert result.cpu_s is not None
        assert result.enforced == {}
        assert (bench.attempt() / "stdout.log").read_text() == "out\n"
        assert sorted(path.name for path in bench.attempt().iterdir()) == [
            "stderr.log",
            "stdout.log",
        ]

    @pytest.mark.parametrize(
        ("line", "kind", "message"),
        [
            ("exit 3", "exit", "exit code 3"),
            ("exit 125", "exit", "exit code 125"),
            ("no-such-command", "exit", "exit code 127"),
            ("kill -SEGV $$", "signal", "killed by SIGSEGV"),
        ],
    )
    def test_of_a_failure(self, bench: Bench, line: str, kind: str, message: str) -> None:
        assert cause(bench.sh(line)) == ("failed", kind, message)

    def test_of_a_callable(self, bench: Bench) -> None:
        (bench.directory / "mine.py").write_text(
            "import os\ndef f(x):\n    return [x, os.environ['FASTHEP_TASK_NAME'], os.getcwd()]\n"
            "def g():\n    raise ValueError('no')\n"
        )
        result = bench.call("mine:f", {"a": 1})
        assert result.value == [{"a": 1}, "the task", str(bench.directory)]
        assert result.peak_memory is not None
        assert result.peak_memory > 2**20
        result = bench.call("mine:g", slug="other")
        assert cause(result) == ("failed", "exception", "ValueError: no")
        assert result.failure is not None
        assert result.failure.traceback == result.stderr_tail
        files = [path.name for path in bench.run_directory.rglob("*") if path.is_file()]
        assert set(files) == {"stdout.log", "stderr.log"}

    def test_of_what_cannot_be_started(self, bench: Bench) -> None:
        result = bench.execute(Command(argv=("no-such-program", "x")))
        assert cause(result) == ("failed", "not_started", "no such program: no-such-program")
        script = bench.directory / "script"
        script.touch()
        result = bench.execute(Command(argv=("./script",)))
        assert cause(result) == ("failed", "not_started", "./script may not be executed")
        assert result.failure is not None
        assert result.failure.hint == "chmod +x ./script"
        script.chmod(0o755)
        script.write_text("echo x")
        result = bench.execute(Command(argv=("./script",)))
        assert "no program of this machine's" in cause(result)[2]
        script.write_text("#!/no/such/interpreter\n")
        result = bench.execute(Command(argv=(str(script),)))
        assert "the interpreter that the first line" in cause(result)[2]
        result = bench.execute(Command(argv=("true", "x" * 3_000_000)))
        assert "longer than the system allows" in cause(result)[2]
        result = bench.execute(Command(argv=("tr\0ue",)))
        assert cause(result)[:2] == ("failed", "not_started")

    def test_of_a_working_directory_that_is_gone(self, bench: Bench, tmp_path: Path) -> None:
        result = bench.sh("true", working_directory=str(tmp_path / "gone"))
        assert cause(result)[:2] == ("failed", "environment")
        assert str(tmp_path / "gone") in cause(result)[2]

    def test_of_a_folder_that_cannot_be_made(self, bench: Bench) -> None:
        bench.run_directory.mkdir(parents=True)
        (bench.run_directory / "tasks").touch()
        result = bench.sh("true")
        assert cause(result)[:2] == ("failed", "environment")
        assert "it is no folder" in cause(result)[2]

    def test_of_a_job_that_is_none(self) -> None:
        result = from_json(JobResult, execute_job("{", {}))
        assert cause(result)[:2] == ("failed", "internal")
        assert result.host == socket.gethostname()

    def test_of_a_mistake_of_ours(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(execute, "judge", lambda *_, **__: 1 / 0)
        assert cause(bench.sh("true"))[:2] == ("failed", "internal")
        assert "ZeroDivisionError" in cause(bench.sh("true"))[2]

    def test_of_a_runtime_that_is_not_there(self, bench: Bench) -> None:
        result = bench.sh("true", runtime="no-such-runtime")
        assert cause(result) == (
            "failed",
            "environment",
            "there is no runtime 'no-such-runtime'",
        )


class TestLogs:
    def test_a_tail_is_64_kib(self, bench: Bench) -> None:
        result = bench.sh("head -c 1000000 /dev/zero | tr '\\0' x; echo end")
        assert len(result.stdout_tail) == 65536
        assert result.stdout_tail.endswith("xend\n")
        assert (bench.attempt() / "stdout.log").stat().st_size == 1_000_004

    def test_a_tail_is_text_whatever_was_written(self, bench: Bench) -> None:
        result = bench.sh(r"printf 'a\377\000\033[31mb\r'")
        assert result.stdout_tail == "a\\xff\0\x1b[31mb\r"
        assert (bench.attempt() / "stdout.log").read_bytes() == b"a\xff\0\x1b[31mb\r"

    def test_a_tail_does_not_begin_within_a_character(self, bench: Bench) -> None:
        result = bench.sh(f"{sys.executable} -c \"print('µ' * 40000 + 'x', end='')\"")
        assert set(result.stdout_tail) == {"µ", "x"}

    def test_output_never_passes_through_this_process(self, bench: Bench) -> None:
        before = psutil.Process().memory_info().rss
        result = bench.sh("head -c 300000000 /dev/zero | tr '\\0' x")
        assert (bench.attempt() / "stdout.log").stat().st_size == 300_000_000
        assert result.status == "succeeded"
        assert psutil.Process().memory_info().rss - before < 50 * 2**20


class TestVariables:
    def test_lie_over_the_hosts(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FROM_HOST", "host")
        monkeypatch.setenv("OVER", "host")
        monkeypatch.setenv("FASTHEP_MEMORY_BYTES", "from an outer workflow")
        result = bench.sh(
            "echo $FROM_HOST $OVER ${FASTHEP_MEMORY_BYTES-unset}", variables={"OVER": "task"}
        )
        assert result.stdout_tail == "host task unset\n"

    def test_tell_a_task_about_itself(self, bench: Bench) -> None:
        result = bench.sh(
            "env | grep ^FASTHEP_ | grep -v ^FASTHEP_FLOW_ | sort",
            resources=Resources(cpus=1.5, memory=2**30, enforce="best_effort"),
        )
        assert result.stdout_tail.splitlines() == [
            "FASTHEP_CPUS=1.5",
            "FASTHEP_DEVICE=cpu",
            "FASTHEP_MEMORY_BYTES=1073741824",
            f"FASTHEP_RUN_ID={bench.run_id}",
            f"FASTHEP_TASK_DIRECTORY={bench.attempt()}",
            "FASTHEP_TASK_NAME=the task",
        ]

    @settings(
        max_examples=50,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        st.dictionaries(
            st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,10}", fullmatch=True).filter(
                lambda name: not name.upper().startswith(("FASTHEP", "PYTHON", "LD_", "GLIBC"))
            ),
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
            max_size=5,
        )
    )
    def test_arrive_byte_for_byte(self, bench: Bench, variables: dict[str, str]) -> None:
        dump = Command(argv=("/usr/bin/env", "-0"))
        result = bench.execute(dump, variables=variables)
        assert result.status == "succeeded"
        seen = (bench.attempt() / "stdout.log").read_bytes().split(b"\0")
        assert {f"{name}={value}".encode() for name, value in variables.items()} <= set(seen)

    @pytest.mark.parametrize(
        ("variables", "words"),
        [
            ({"": "x"}, "cannot be the name"),
            ({"A=B": "x"}, "cannot be the name"),
            ({"A\0": "x"}, "cannot be the name"),
            ({"TOKEN": f"{SECRET}\0"}, "the variable TOKEN holds a NUL"),
        ],
    )
    def test_that_no_process_can_have_are_refused(
        self, bench: Bench, variables: dict[str, str], words: str
    ) -> None:
        result = bench.sh("true", variables=variables)
        assert cause(result)[:2] == ("failed", "environment")
        assert words in cause(result)[2]
        assert SECRET not in to_json(result)

    def test_whose_values_did_not_arrive_are_named(self, bench: Bench) -> None:
        text = to_json(bench.job(Command(argv=("true",)), variables={"TOKEN": SECRET}))
        assert SECRET not in text
        result = from_json(JobResult, execute_job(text, {}))
        assert cause(result) == (
            "failed",
            "environment",
            "the value of the variable TOKEN did not reach the worker",
        )

    def test_are_not_written_down(self, bench: Bench) -> None:
        (bench.directory / "mine.py").write_text(
            "import os\ndef f():\n    return len(os.environ['TOKEN'])\n"
        )
        for result in (
            bench.sh(": use $TOKEN", variables={"TOKEN": SECRET}),
            bench.call("mine:f", variables={"TOKEN": SECRET}, slug="call"),
            bench.call("mine:nothing", variables={"TOKEN": SECRET}, slug="bad call"),
            bench.execute(Command(argv=("no",)), variables={"TOKEN": SECRET}, slug="bad"),
        ):
            assert SECRET not in to_json(result)
        assert not [
            path
            for path in bench.directory.rglob("*")
            if path.is_file() and SECRET.encode() in path.read_bytes()
        ]


class TestDevices:
    @pytest.fixture
    def machine(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> Iterator[Callable[..., None]]:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        with ExitStack() as stack:
            yield lambda *devices: stack.enter_context(machine_with(*devices))

    def test_the_cpu_hides_them(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        line = "echo [$CUDA_VISIBLE_DEVICES] [$ROCR_VISIBLE_DEVICES] $FASTHEP_DEVICE"
        assert bench.sh(line).stdout_tail == "[] [] cpu\n"

    def test_an_author_who_names_devices_gets_them(self, bench: Bench) -> None:
        result = bench.sh("echo $CUDA_VISIBLE_DEVICES", variables={"CUDA_VISIBLE_DEVICES": "3"})
        assert result.stdout_tail == "3\n"

    def test_none_is_a_failure_or_a_reason(
        self, bench: Bench, machine: Callable[..., None]
    ) -> None:
        machine()
        result = bench.sh("true", resources=Resources(process_on="gpu"))
        assert cause(result) == (
            "failed",
            "environment",
            "the task asks for a gpu: there is none",
        )
        result = bench.sh(
            "echo $FASTHEP_DEVICE", resources=Resources(process_on="gpu_if_available")
        )
        assert (result.device, result.device_reason) == ("cpu", "no gpu: there is none")
        assert result.stdout_tail == "cpu\n"

    def test_the_version_for_the_device_runs(
        self, bench: Bench, machine: Callable[..., None]
    ) -> None:
        machine(Gpu(id="GPU-a", name="H200"))
        job = bench.job(
            Command(argv=("sh", "-c", "echo on $CUDA_VISIBLE_DEVICES")),
            resources=Resources(process_on="gpu_if_available"),
            devices=("gpu",),
        )
        cpu = {"cpu": Command(argv=("echo", "on the cpu"))}
        job = msgspec.structs.replace(job, invocations={**job.invocations, **cpu})
        result = from_json(JobResult, execute_job(to_json(job), {}))
        assert result.stdout_tail == "on GPU-a\n"
        assert (result.device, result.device_reason) == (
            "gpu",
            "process_on is gpu_if_available: H200",
        )

    def test_tasks_at_the_same_time_have_different_ones(
        self, bench: Bench, machine: Callable[..., None]
    ) -> None:
        machine(Gpu(id="GPU-a", free=1), Gpu(id="GPU-b", free=2), Gpu(id="GPU-c", free=3))
        line = "echo $CUDA_VISIBLE_DEVICES; while [ ! -e go ]; do sleep 0.01; done"
        results: list[JobResult] = []

        def run(slug: str) -> None:
            resources = Resources(process_on="gpu")
            results.append(bench.sh(line, slug=slug, resources=resources))

        threads = [threading.Thread(target=run, args=(slug,)) for slug in ("a", "b")]
        for thread in threads:
            thread.start()
        logs = [bench.attempt(slug) / "stdout.log" for slug in ("a", "b")]
        wait_until(lambda: all(log.exists() and log.read_text() for log in logs))
        (bench.directory / "go").touch()
        for thread in threads:
            thread.join()
        assert {result.stdout_tail for result in results} == {"GPU-c\n", "GPU-b\n"}

    @pytest.mark.gpu
    def test_a_real_one_is_seen(self, bench: Bench) -> None:
        devices = inventory()
        assert not isinstance(devices, str)
        result = bench.sh(
            "nvidia-smi -L; echo $CUDA_VISIBLE_DEVICES", resources=Resources(process_on="gpu")
        )
        assert result.device == "gpu"
        assert result.stdout_tail.split()[-1] in {device.id for device in devices}


@pytest.fixture
def no_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NATIVE, "_groups", ControlGroups("/nowhere"))


class TestLimits:
    def test_a_timeout_ends_all_that_was_started(self, bench: Bench) -> None:
        result = bench.sh("setsid sleep 600 & timeout 600 sleep 600 & wait", timeout_s=0.5)
        assert cause(result) == ("timed_out", "timeout", "timed out after 0.5 s")
        assert processes_of(str(bench.run_directory)) == []

    def test_in_a_group_a_timeout_ends_also_what_left_all_behind(
        self, bench: Bench, limited: Resources
    ) -> None:
        """What ignores being asked to end, and a daemon without the task's environment."""
        if NATIVE.check(limited) != {"memory": "cgroup"}:
            pytest.skip("there are no control groups")
        daemon = 'trap "" TERM; echo $$ > daemon; while :; do sleep 0.02; done'
        line = f"trap '' TERM; env -i setsid sh -c '{daemon}' & while :; do sleep 0.02; done"
        with Watch(grace_s=0.2) as watch:
            result = bench.sh(line, timeout_s=1.5, resources=limited, watch=watch)
        assert cause(result) == ("timed_out", "timeout", "timed out after 1.5 s")
        pid = int((bench.directory / "daemon").read_text())
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE

    def test_the_shorter_of_timeout_and_walltime_counts(self, bench: Bench) -> None:
        result = bench.sh("sleep 600", timeout_s=600, resources=Resources(walltime_s=0.25))
        assert cause(result)[2] == "timed out after 0.25 s"

    def test_a_timed_out_task_may_tidy_up(self, bench: Bench) -> None:
        line = "trap 'echo tidy; exit 0' TERM; while :; do sleep 0.02; done"
        result = bench.sh(line, timeout_s=0.3)
        assert result.status == "timed_out"
        assert result.stdout_tail == "tidy\n"

    def test_memory_is_held(self, bench: Bench, limited: Resources) -> None:
        hog = (
            f"{sys.executable} -c 'import time; x = b\"x\" * {200 * 2**20}; time.sleep(600)'; true"
        )
        result = bench.sh(hog, resources=limited)
        assert cause(result) == ("failed", "out_of_memory", "out of memory: limit 48Mi")
        assert result.enforced == NATIVE.check(limited)
        assert result.peak_memory is not None
        assert result.peak_memory >= 48 * 2**20

    @pytest.mark.usefixtures("no_groups")
    def test_without_control_groups_memory_is_measured(
        self, bench: Bench, limited: Resources
    ) -> None:
        hog = (
            f"{sys.executable} -c 'import time; x = b\"x\" * {200 * 2**20}; time.sleep(600)'; true"
        )
        result = bench.sh(hog, resources=limited)
        assert cause(result) == ("failed", "out_of_memory", "out of memory: limit 48Mi")
        assert result.enforced == {"memory": "measured"}
        assert result.peak_memory is not None
        assert result.peak_memory > 48 * 2**20

    @pytest.mark.usefixtures("no_groups")
    def test_memory_of_what_left_the_task_is_measured(
        self, bench: Bench, limited: Resources
    ) -> None:
        hog = f"import time; x = b'x' * {200 * 2**20}; time.sleep(600)"
        line = f'(setsid {sys.executable} -c "{hog}" &); sleep 600'
        result = bench.sh(line, resources=limited)
        assert cause(result) == ("failed", "out_of_memory", "out of memory: limit 48Mi")
        assert processes_of(str(bench.run_directory)) == []

    def test_processors_are_a_tasks_own(
        self, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        before = os.sched_getaffinity(0)
        result = bench.sh("nproc", resources=Resources(cpus=0.5, enforce="best_effort"))
        assert result.stdout_tail == "1\n"
        assert os.sched_getaffinity(0) == before
        result = bench.sh("nproc", resources=Resources(cpus=len(before)))
        assert result.stdout_tail == f"{len(before)}\n"
        assert result.enforced == NATIVE.check(Resources(cpus=1))

    @pytest.mark.usefixtures("no_groups")
    def test_without_control_groups_processors_are_bound(self, bench: Bench) -> None:
        result = bench.sh("nproc", resources=Resources(cpus=1))
        assert result.enforced == {"cpus": "affinity"}
        assert result.stdout_tail == "1\n"
        result = bench.sh("touch made", resources=Resources(cpus=0.5))
        assert cause(result)[:2] == ("failed", "environment")
        assert not (bench.directory / "made").exists()

    def test_what_the_machine_does_not_have_is_refused(self, bench: Bench) -> None:
        result = bench.sh("touch made", resources=Resources(memory=2**60))
        assert cause(result)[:2] == ("failed", "environment")
        assert not (bench.directory / "made").exists()


class TestCancel:
    def test_stops_what_runs_and_what_would(self, bench: Bench) -> None:
        with Watch() as watch:
            results: list[JobResult] = []
            worker = threading.Thread(
                target=lambda: results.append(bench.sh("touch up; sleep 600", watch=watch))
            )
            worker.start()
            wait_until((bench.directory / "up").exists)
            watch.cancel()
            worker.join(SOON_S)
            assert cause(results[0]) == ("cancelled", "cancelled", "stopped with the run")
            result = bench.sh("touch late", slug="late", watch=watch)
            assert cause(result)[:2] == ("cancelled", "cancelled")
            assert not (bench.directory / "late").exists()

    def test_of_a_worker_is_by_file(self, bench: Bench) -> None:
        job = to_json(bench.job(Command(argv=("sh", "-c", "touch up; sleep 600"))))
        results: list[str] = []
        with Watch(cancel_file_poll_s=0.05) as watch:
            worker = threading.Thread(
                target=lambda: results.append(execute_job(job, {}, watch=watch))
            )
            worker.start()
            wait_until((bench.directory / "up").exists)
            (bench.run_directory / "cancel").touch()
            worker.join(SOON_S)
            assert from_json(JobResult, results[0]).status == "cancelled"
            again = execute_job(job, {}, watch=watch)
            assert from_json(JobResult, again).status == "cancelled"

    def test_a_daemon_does_not_outlive_its_driver(self, bench: Bench) -> None:
        with Watch() as watch:
            assert bench.sh("(setsid sleep 600 &)", watch=watch).status == "succeeded"
            (daemon,) = processes_of(str(bench.run_directory))
        assert not daemon.is_running() or daemon.status() == psutil.STATUS_ZOMBIE


class TestAgain:
    """A task whose earlier attempt, or the same one, was lost with its worker."""

    @pytest.mark.parametrize("attempt", [1, 2])
    def test_nothing_of_it_still_runs(self, bench: Bench, attempt: int) -> None:
        first = bench.job(Command(argv=("sh", "-c", "echo old; touch up; sleep 600")))
        lost = threading.Thread(target=lambda: execute_job(to_json(first), {}))
        lost.start()
        wait_until((bench.directory / "up").exists)
        assert len(processes_of(str(bench.run_directory))) >= 1
        result = bench.sh("echo new", attempt=attempt)
        assert (result.status, result.stdout_tail) == ("succeeded", "new\n")
        lost.join(SOON_S)
        assert not lost.is_alive()
        assert (bench.attempt(number=attempt) / "stdout.log").read_text() == "new\n"

    def test_another_task_is_left_alone(self, bench: Bench) -> None:
        other = bench.job(Command(argv=("sh", "-c", "touch up; sleep 600")), slug="task-2")
        with Watch() as watch:
            worker = threading.Thread(target=lambda: execute_job(to_json(other), {}, watch=watch))
            worker.start()
            wait_until((bench.directory / "up").exists)
            assert bench.sh("true", attempt=2).status == "succeeded"
            assert processes_of(str(bench.attempt("task-2")))
            watch.cancel()
            worker.join(SOON_S)


class TestImage:
    def test_is_handed_to_its_runtime(self, bench: Bench) -> None:
        fake = FakeRuntime()
        with installed(fake):
            result = bench.sh("echo $CUDA_VISIBLE_DEVICES", image="r.invalid/a:1", runtime="fake")
        assert result.status == "succeeded"
        assert result.image == "r.invalid/a:1"
        assert (result.image_digest or "").startswith("sha256:")
        (spec,) = fake.opened
        assert spec.labels["fasthep.run"] == bench.run_id
        assert spec.labels["fasthep.task"] == "the task"
        assert spec.labels["fasthep.attempt"] == "1"
        assert spec.labels["fasthep.host"] == socket.gethostname()
        assert spec.labels["fasthep.pid"] == str(os.getpid())
        assert spec.labels["fasthep.started"].isdecimal() == Path("/proc/self/stat").exists()
        assert [(mount.source, mount.target) for mount in spec.mounts] == [
            (str(bench.directory), str(bench.directory)),
            (str(bench.run_directory), str(bench.run_directory)),
        ]
        assert not any(mount.read_only for mount in spec.mounts)

    def test_that_cannot_be_had_is_a_failure(self, bench: Bench) -> None:
        with installed(FakeRuntime(images=())):
            result = bench.sh("true", image="r.invalid/a:1", runtime="fake")
        assert cause(result)[:2] == ("failed", "environment")
        assert "r.invalid/a:1" in cause(result)[2]
        assert result.image == "r.invalid/a:1"

    def test_limits_of_a_runtime_are_recorded(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake = FakeRuntime()
        with installed(fake):
            monkeypatch.setattr(fake, "check", lambda *_: {"memory": "cgroup"})
            more: dict[str, Any] = {"image": "r.invalid/a:1", "runtime": "fake"}
            result = bench.sh("true", resources=Resources(memory=2**30), **more)
            assert result.enforced == {"memory": "cgroup"}

            def refuse(*_: object) -> dict[str, str]:
                raise LimitUnenforceable("no limits here")

            monkeypatch.setattr(fake, "check", refuse)
            result = bench.sh("true", slug="refused", **more)
            assert cause(result) == ("failed", "environment", "no limits here")


def test_a_worker_imports_little() -> None:
    script = (
        "import sys, json, fasthep_flow.execution.execute\n"
        "print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))"
    )
    bench_env = {"PATH": os.environ["PATH"]}
    read, write = os.pipe()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", script],
        bench_env,
        file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)],
    )
    os.close(write)
    with os.fdopen(read) as output:
        modules = set(json.loads(output.read()))
    assert os.waitpid(pid, 0)[1] == 0
    assert modules.isdisjoint(
        {"pydantic", "yaml", "dotenv", "typer", "rich", "dask", "prefect", "psutil", "asyncio"}
    )
