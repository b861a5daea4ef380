"""Jobs in containers, on real engines."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.execution.conftest import Bench, cause

from fasthep_flow.environments import find_runtime
from fasthep_flow.environments.engine import Engine
from fasthep_flow.environments.oci import DOCKER, PODMAN, OciRuntime
from fasthep_flow.environments.preflight.gate import preflight
from fasthep_flow.environments.survivors import end_orphans, end_run
from fasthep_flow.errors import EngineUnavailable, ImageUnavailable, Location
from fasthep_flow.execution.process import Watch
from fasthep_flow.model import (
    Command,
    Environment,
    FlowSpec,
    Image,
    JobResult,
    Resources,
    TaskSpec,
    from_json,
    to_json,
)
from fasthep_flow.testing.runtimes import NASTY_VARIABLES

SOON_S = 60.0
SECRET = "hunter2-XYZ"  # noqa: S105 - stands for one
MEBI = 2**20


def wait_until(true: Callable[[], bool]) -> None:
    until_s = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < until_s, "it did not come true"
        time.sleep(0.02)


def ask(engine: str, *arguments: str, **options: str) -> str:
    done = subprocess.run(
        [engine, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **options},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def containers(bench: Bench) -> list[str]:
    """The containers of the run, running or not."""
    return ask(bench.runtime, "ps", "-aq", "--filter", f"label=fasthep.run={bench.run_id}").split()


@pytest.fixture
def python_bench(tmp_path: Path, engine: str, python_image: str) -> Iterator[Bench]:
    """In an image with bash and python3; nothing is left of its containers."""
    bench = Bench(tmp_path / "a:b, c", python_image, engine)
    bench.directory.mkdir()
    yield bench
    assert containers(bench) == []


@pytest.fixture
def busybox_bench(tmp_path: Path, engine: str, busybox_image: str) -> Iterator[Bench]:
    """In an image with neither bash nor python3."""
    bench = Bench(tmp_path / "work", busybox_image, engine)
    bench.directory.mkdir()
    yield bench
    assert containers(bench) == []


@pytest.fixture
def built(engine: str, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Makes an image of a folder's files, with changes as a Dockerfile says them."""
    made: list[str] = []

    def build(files: dict[str, Path | str], *changes: str) -> str:
        root = tmp_path / f"root-{len(made)}"
        for name, content in files.items():
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copy(content, target)
            else:
                target.write_text(content)
            target.chmod(0o755)
        (root / "tmp").mkdir(parents=True, exist_ok=True)
        name = f"localhost/fasthep-test:{uuid.uuid4().hex[:12]}"
        changed = [option for change in changes for option in ("--change", change)]
        archive = tmp_path / "root.tar"
        subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
        ask(engine, "import", *changed, str(archive), name)
        made.append(name)
        return name

    yield build
    for name in made:
        subprocess.run([engine, "rmi", "-f", name], capture_output=True, check=False)


@pytest.fixture
def busybox() -> Path:
    found = shutil.which("busybox")
    if found is None:
        pytest.skip("there is no busybox on the host to make an image of")
    return Path(found)


class TestResult:
    def test_of_a_success(self, python_bench: Bench) -> None:
        result = python_bench.sh(
            "echo out; echo err >&2; pwd", resources=Resources(cpus=1, memory=64 * MEBI)
        )
        assert (result.status, result.exit_code, result.failure) == ("succeeded", 0, None)
        assert result.stdout_tail == f"out\n{python_bench.directory}\n"
        assert result.stderr_tail == "err\n"
        assert (result.runtime, result.image) == (python_bench.runtime, python_bench.image)
        assert result.image_digest is not None
        assert result.image_digest.startswith("sha256:")
        assert result.enforced == {"memory": "cgroup", "cpus": "cgroup"}
        assert result.cpu_s is not None
        assert result.cpu_s > 0
        assert result.peak_memory is not None
        assert MEBI // 2 < result.peak_memory <= 64 * MEBI
        names = sorted(path.name for path in python_bench.attempt().iterdir())
        assert names == ["stderr.log", "stdout.log"]

    def test_of_a_callable(self, python_bench: Bench) -> None:
        (python_bench.directory / "mine.py").write_text(
            "import os, sys\n"
            "def f(x):\n    return [x, os.environ['TOKEN'], sys.executable]\n"
            "def g():\n    raise ValueError('no')\n"
            "def h():\n    os.kill(os.getpid(), 11)\n"
        )
        result = python_bench.call("mine:f", 1, variables={"TOKEN": "a\n"})
        assert result.value == [1, "a\n", "/usr/bin/python3"]
        result = python_bench.call("mine:g", slug="raises")
        assert cause(result) == ("failed", "exception", "ValueError: no")
        result = python_bench.call("mine:h", slug="dies")
        assert cause(result) == ("failed", "signal", "killed by SIGSEGV")
        result = python_bench.call("nowhere:f", slug="missing")
        assert cause(result) == ("failed", "not_started", "there is no module 'nowhere'")

    @pytest.mark.parametrize("code", [1, 125, 126, 127, 255])
    def test_of_an_exit_code_that_engines_have_too(self, busybox_bench: Bench, code: int) -> None:
        result = busybox_bench.sh(f"exit {code}")
        assert cause(result) == ("failed", "exit", f"exit code {code}")
        assert result.exit_code == code

    def test_of_what_the_image_lacks(self, busybox_bench: Bench) -> None:
        image = busybox_bench.image
        result = busybox_bench.execute(Command(argv=("bash", "-c", "true")))
        assert cause(result) == ("failed", "not_started", f"the image {image} has no program bash")
        assert "'arguments'" in str(result.failure)
        result = busybox_bench.call("mine:f", slug="call")
        assert cause(result) == ("failed", "not_started", f"the image {image} has no python3")
        names = {path.name for path in busybox_bench.attempt("call").iterdir()}
        assert names == {"stderr.log", "stdout.log"}

    def test_of_an_image_without_a_shell(
        self, tmp_path: Path, engine: str, built: Callable[..., str]
    ) -> None:
        image = built({"hello": "not a program"})
        bench = Bench(tmp_path, image, engine)
        result = bench.execute(Command(argv=("/hello",)))
        assert cause(result) == ("failed", "not_started", f"the image {image} has no /bin/sh")

    def test_of_an_image_for_another_kind_of_machine(
        self, tmp_path: Path, engine: str, built: Callable[..., str]
    ) -> None:
        image = built({"bin/sh": "not a program"})
        bench = Bench(tmp_path, image, engine)
        result = bench.execute(Command(argv=("true",)))
        assert cause(result)[:2] == ("failed", "environment")
        assert f"the image {image} is for another kind of machine" in cause(result)[2]

    def test_of_a_mount_that_cannot_be(self, busybox_bench: Bench, tmp_path: Path) -> None:
        result = busybox_bench.sh("true", working_directory=str(tmp_path / "gone"))
        assert cause(result)[:2] == ("failed", "environment")
        assert "gone" in cause(result)[2]
        log = busybox_bench.attempt() / "engine.log"
        assert "gone" in log.read_text()
        assert busybox_bench.sh("true").status == "succeeded"
        assert not log.exists()


class TestContract:
    def test_the_entrypoint_is_not_run(
        self, tmp_path: Path, engine: str, built: Callable[..., str], busybox: Path
    ) -> None:
        image = built(
            {"bin/sh": busybox, "bin/echo": busybox, "bin/env": busybox},
            'ENTRYPOINT ["/bin/echo", "the entrypoint"]',
            'CMD ["and its words"]',
            "ENV OF_IMAGE=image",
            "ENV OVER=image",
        )
        bench = Bench(tmp_path, image, engine)
        result = bench.sh("env", variables={"OVER": "task"})
        assert "the entrypoint" not in result.stdout_tail
        assert {"OF_IMAGE=image", "OVER=task"} <= set(result.stdout_tail.splitlines())
        assert containers(bench) == []

    def test_the_hosts_variables_stay_outside(
        self, busybox_bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FROM_HOST", "x")
        result = busybox_bench.sh("env | sort", variables={"MINE": "1"})
        names = {line.partition("=")[0] for line in result.stdout_tail.splitlines()}
        assert "FROM_HOST" not in names
        assert {"MINE", "HOME", "FASTHEP_DEVICE", "FASTHEP_RUN_ID"} <= names
        assert not [name for name in names if name.startswith("FASTHEP_V")]

    def test_home_is_a_folder_that_can_be_written_to(self, busybox_bench: Bench) -> None:
        result = busybox_bench.sh("cd && pwd && touch x")
        assert result.stdout_tail == f"{busybox_bench.attempt()}\n"
        assert result.status == "succeeded"

    def test_variables_arrive_byte_for_byte(self, busybox_bench: Bench) -> None:
        # The conformance suite dumps them with python3; this image has nothing of the kind.
        result = busybox_bench.execute(Command(argv=("env", "-0")), variables=NASTY_VARIABLES)
        if result.status != "succeeded":
            result = busybox_bench.sh(
                "tr '\\0' '\\001' </proc/self/environ", variables=NASTY_VARIABLES
            )
            separator = b"\1"
        else:
            separator = b"\0"
        seen = set((busybox_bench.attempt() / "stdout.log").read_bytes().split(separator))
        assert {f"{name}={value}".encode() for name, value in NASTY_VARIABLES.items()} <= seen

    def test_variables_that_cannot_be_handed_over_are_named(self, busybox_bench: Bench) -> None:
        result = busybox_bench.sh("true", variables={"a.b": "x"})
        assert cause(result)[:2] == ("failed", "environment")
        assert "'a.b'" in cause(result)[2]

    def test_variables_may_be_any_bytes(self, busybox_bench: Bench) -> None:
        value = bytes(range(1, 256))
        line = 'printf %s "$BYTES"'
        assert busybox_bench.sh(line, variables={"BYTES": os.fsdecode(value)}).exit_code == 0
        assert (busybox_bench.attempt() / "stdout.log").read_bytes() == value

    def test_the_network_is_the_hosts(self, python_bench: Bench) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            (python_bench.directory / "mine.py").write_text(
                "import socket\ndef f(port):\n"
                "    return socket.create_connection(('127.0.0.1', port)).getpeername()[1]\n"
            )
            assert python_bench.call("mine:f", port).value == port

    def test_files_belong_to_the_caller(self, busybox_bench: Bench) -> None:
        result = busybox_bench.sh("mkdir made; touch made/file; id -u; id -g")
        assert result.stdout_tail.split() == [str(os.getuid()), str(os.getgid())]
        foreign = [
            path
            for path in busybox_bench.directory.rglob("*")
            if (path.stat().st_uid, path.stat().st_gid) != (os.getuid(), os.getgid())
        ]
        assert foreign == []

    @pytest.mark.parametrize("name", ["two\nlines\n", "a\rb\r"])
    def test_a_folder_may_have_line_breaks_in_its_name(
        self, busybox_bench: Bench, name: str
    ) -> None:
        directory = busybox_bench.directory / name
        directory.mkdir()
        result = busybox_bench._replace(directory=directory).sh("pwd; : > made")
        assert (result.status, result.stdout_tail) == ("succeeded", f"{directory}\n")
        assert (directory / "made").exists()

    def test_standard_input_is_the_tasks(self, busybox_bench: Bench) -> None:
        result = busybox_bench.execute(Command(argv=("cat",), stdin="a\nµ"))
        assert result.stdout_tail == "a\nµ"
        assert busybox_bench.sh("cat", slug="none").stdout_tail == ""

    def test_a_link_in_the_path_of_the_run_is_followed(
        self, tmp_path: Path, engine: str, busybox_image: str
    ) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        bench = Bench(tmp_path / "work", busybox_image, engine)
        bench.directory.mkdir()
        (bench.directory / "output").symlink_to(elsewhere)
        bench.run_directory.mkdir()
        result = bench.sh("echo x > $FASTHEP_TASK_DIRECTORY/made; pwd")
        assert result.status == "succeeded"
        assert (elsewhere / "run" / "tasks" / "task" / "1" / "made").read_text() == "x\n"

    @pytest.mark.parametrize(
        "slug", ["a b", "ü", "u\u0308", "-rf", "f[nom=1]", "$(touch x)", "x" * 200]
    )
    def test_odd_names_of_tasks_do_no_harm(self, busybox_bench: Bench, slug: str) -> None:
        result = busybox_bench.sh("echo $FASTHEP_TASK_NAME; pwd", slug=slug, task=f"{slug}\n'\",")
        assert result.status == "succeeded"
        assert list(busybox_bench.directory.iterdir()) == [busybox_bench.directory / "output"]

    def test_interrupts_are_not_ignored(self, python_bench: Bench) -> None:
        result = python_bench.sh("grep SigIgn /proc/self/status")
        ignored = int(result.stdout_tail.split()[1], 16)
        expected = (signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGTERM)
        assert not [number.name for number in expected if ignored & 1 << (number - 1)]


class TestSecrets:
    def test_are_on_no_command_line_and_in_no_file(self, python_bench: Bench) -> None:
        seen: dict[int, bytes] = {}

        def look() -> bool:
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    seen[int(process.parent.name)] = process.read_bytes()
            return (python_bench.directory / "up").exists()

        (python_bench.directory / "mine.py").write_text(
            "import os, time\n"
            "def f():\n"
            "    open('up', 'w').close()\n"
            "    while not os.path.exists('go'): time.sleep(0.01)\n"
            "    return len(os.environ['TOKEN'])\n"
        )
        wait_for_go = ": > up; while [ ! -e go ]; do sleep 0.05; done; : $TOKEN"
        variables = {"TOKEN": SECRET}
        for start in (
            lambda: python_bench.sh(wait_for_go, variables=variables),
            lambda: python_bench.call("mine:f", variables=variables, slug="call"),
        ):
            results: list[JobResult] = []
            worker = threading.Thread(target=lambda s=start, r=results: r.append(s()))
            worker.start()
            wait_until(look)
            look()
            (container,) = containers(python_bench)
            assert SECRET not in ask(python_bench.runtime, "inspect", container)
            written = [
                path
                for path in python_bench.directory.rglob("*")
                if path.is_file() and SECRET.encode() in path.read_bytes()
            ]
            (python_bench.directory / "go").touch()
            worker.join(SOON_S)
            assert results[0].status == "succeeded"
            assert SECRET not in to_json(results[0])
            assert written == []
            for name in ("up", "go"):
                (python_bench.directory / name).unlink()
        assert not [line for line in seen.values() if SECRET.encode() in line]
        assert not [
            path
            for path in python_bench.directory.rglob("*")
            if path.is_file() and SECRET.encode() in path.read_bytes()
        ]


class TestMemory:
    HOG = "python3 -c 'x = b\"x\" * (200 << 20)'"

    def test_over_its_limit_a_task_fails(self, python_bench: Bench, limited: Resources) -> None:
        result = python_bench.sh(f"exec {self.HOG}", resources=limited)
        assert cause(result) == ("failed", "out_of_memory", "out of memory: limit 48Mi")
        assert result.peak_memory is not None
        assert result.peak_memory > 40 * MEBI

    @pytest.mark.parametrize("after", ["exit 3", "exit 0"])
    def test_a_child_is_enough(self, python_bench: Bench, limited: Resources, after: str) -> None:
        result = python_bench.sh(f"{self.HOG}; {after}", resources=limited)
        assert cause(result) == ("failed", "out_of_memory", "out of memory: limit 48Mi")

    def test_a_callable_is_told_the_same(self, python_bench: Bench, limited: Resources) -> None:
        (python_bench.directory / "mine.py").write_text(
            "def f():\n    return len(b'x' * (200 << 20))\n"
        )
        result = python_bench.call("mine:f", resources=limited)
        assert cause(result) == ("failed", "out_of_memory", "out of memory: limit 48Mi")

    def test_within_its_limit_it_succeeds(self, python_bench: Bench, limited: Resources) -> None:
        line = "python3 -c 'x = b\"x\" * (16 << 20)'"
        assert python_bench.sh(line, resources=limited).status == "succeeded"

    def test_the_least_of_a_processor_is_a_limit(self, busybox_bench: Bench) -> None:
        result = busybox_bench.sh("true", resources=Resources(cpus=0.01))
        assert (result.status, result.failure) == ("succeeded", None)
        assert result.enforced == {"cpus": "cgroup"}
        result = busybox_bench.sh("true", resources=Resources(cpus=0.009))
        assert cause(result)[1:] == ("environment", "0.009 cpus are too few for a container")

    def test_processors_are_limited(self, python_bench: Bench) -> None:
        line = (
            "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us "
            "/sys/fs/cgroup/cpu/cpu.cfs_period_us 2>/dev/null"
        )
        result = python_bench.sh(f"{line}; true", resources=Resources(cpus=0.5))
        quota, period = map(int, result.stdout_tail.split())
        assert quota / period == 0.5


class TestStopping:
    def test_a_timeout_ends_the_container(self, python_bench: Bench) -> None:
        loop = "while :; do sleep 0.05; done"
        line = f"trap 'echo tidy; exit 0' TERM; setsid sleep 600 & echo up; {loop}"
        result = python_bench.execute(Command(argv=("bash", "-c", line)), timeout_s=5)
        assert cause(result) == ("timed_out", "timeout", "timed out after 5 s")
        assert result.stdout_tail == "up\ntidy\n"
        assert containers(python_bench) == []

    def test_a_callable_is_asked_as_well(self, python_bench: Bench) -> None:
        (python_bench.directory / "mine.py").write_text(
            "import signal, sys, time\n"
            "def f():\n"
            "    signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('tidy')))\n"
            "    open('up', 'w').close()\n"
            "    time.sleep(600)\n"
        )
        with Watch() as watch:
            result = self.cancelled(
                python_bench, watch, lambda: python_bench.call("mine:f", watch=watch)
            )
        assert result.status == "cancelled"
        assert result.stdout_tail == "tidy\n"

    def test_what_does_not_listen_is_killed(self, python_bench: Bench) -> None:
        line = "trap '' TERM INT HUP; : > up; while :; do sleep 0.05; done"
        with Watch(grace_s=0.2) as watch:
            result = self.cancelled(python_bench, watch, lambda: python_bench.sh(line, watch=watch))
        assert cause(result) == ("cancelled", "cancelled", "stopped with the run")

    def cancelled(self, bench: Bench, watch: Watch, start: Callable[[], JobResult]) -> JobResult:
        """What becomes of a task that makes the file up and then goes on for long."""
        results: list[JobResult] = []
        worker = threading.Thread(target=lambda: results.append(start()))
        worker.start()
        wait_until((bench.directory / "up").exists)
        watch.cancel()
        worker.join(SOON_S)
        return results[0]

    def test_at_any_moment_nothing_is_left(self, busybox_bench: Bench) -> None:
        for delay_s in (0, 0.02, 0.05, 0.1, 0.2, 0.3):
            with Watch(grace_s=0.1) as watch:
                worker = threading.Thread(
                    target=lambda w=watch, d=delay_s: busybox_bench.sh(
                        "sleep 600", watch=w, slug=f"after-{d}"
                    )
                )
                worker.start()
                worker.join(delay_s)
                watch.cancel()
                worker.join(SOON_S)
                assert not worker.is_alive()
            assert containers(busybox_bench) == []

    def test_killed_from_outside_is_told(self, busybox_bench: Bench) -> None:
        results: list[JobResult] = []
        worker = threading.Thread(
            target=lambda: results.append(busybox_bench.sh(": > up; sleep 600"))
        )
        worker.start()
        wait_until((busybox_bench.directory / "up").exists)
        (container,) = containers(busybox_bench)
        ask(busybox_bench.runtime, "kill", container)
        worker.join(SOON_S)
        assert cause(results[0]) == (
            "failed",
            "environment",
            "the container was killed from outside",
        )


class TestAgain:
    SCRIPT = """
        import sys
        from fasthep_flow.execution import execute, prepare
        host = sys.argv[1:]
        if host:
            labels = prepare.owner_labels
            prepare.owner_labels = lambda: {**labels(), "fasthep.host": host[0]}
        execute.execute_job(sys.stdin.read(), {})
    """

    @contextlib.contextmanager
    def driver(self, bench: Bench, *host: str) -> Iterator[subprocess.Popen[str]]:
        """One that runs a container which writes for ever; under that name of a host."""
        line = ": > up; while :; do echo x >> trace; sleep 0.02; done"
        job = to_json(bench.job(Command(argv=("sh", "-c", line))))
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(self.SCRIPT), *host],
            stdin=subprocess.PIPE,
            text=True,
        ) as driver:
            assert driver.stdin is not None
            driver.stdin.write(job)
            driver.stdin.close()
            wait_until((bench.directory / "up").exists)
            yield driver
            driver.kill()

    @pytest.fixture
    def orphaned(self, busybox_bench: Bench) -> Bench:
        """A container whose driver was killed; it writes on."""
        # Of another host, lest another test's run ends it.
        with self.driver(busybox_bench, "elsewhere"):
            pass
        assert len(containers(busybox_bench)) == 1
        return busybox_bench

    @pytest.mark.parametrize("attempt", [1, 2])
    def test_an_earlier_attempt_ends_first(self, orphaned: Bench, attempt: int) -> None:
        result = orphaned.sh("wc -l < trace; sleep 0.2; wc -l < trace", attempt=attempt)
        before, after = result.stdout_tail.split()
        assert before == after
        assert result.status == "succeeded"

    def test_a_new_driver_ends_what_the_last_one_left(self, orphaned: Bench) -> None:
        folder, runtimes = str(orphaned.run_directory), ["native", orphaned.runtime]
        assert end_run(orphaned.run_id, folder, runtimes) == 1
        assert containers(orphaned) == []
        assert end_run(orphaned.run_id, folder, runtimes) == 0

    def test_what_a_killed_driver_left_ends_with_the_next_run(self, busybox_bench: Bench) -> None:
        said: list[str] = []
        flow = FlowSpec(transform="local", runner="concurrent")
        task = TaskSpec(
            name="next",
            slug="next",
            operator="o",
            invocations={"cpu": Command(argv=("true",))},
            environment=Environment(
                flow=flow,
                image=Image(name=busybox_bench.image or ""),
                runtime=busybox_bench.runtime,
            ),
            location=Location("w.yaml", 1, 1),
        )
        with self.driver(busybox_bench) as driver:
            preflight([task], progress=said.append)
            assert len(containers(busybox_bench)) == 1, "its driver lives"
            driver.kill()
            # Not waited for yet, it keeps its number.
            preflight([task], progress=said.append)
            # Another test's run may have been first.
            wait_until(lambda: containers(busybox_bench) == [])
        assert all(
            words.startswith("ended ") or words.endswith(f"image {busybox_bench.image}")
            for words in said
        )

    def test_what_another_host_runs_is_left_alone(self, orphaned: Bench) -> None:
        end_orphans([orphaned.runtime, "native"])
        assert len(containers(orphaned)) == 1
        folder = str(orphaned.run_directory)
        assert end_run(orphaned.run_id, folder, [orphaned.runtime]) == 1


class TestEngine:
    def test_says_that_it_works(self, engine: str) -> None:
        assert find_runtime(engine).probe() is None
        facts = {"podman": PODMAN, "docker": DOCKER}[engine].facts()
        assert facts.podman == (engine == "podman")
        assert facts.limits == {"memory", "cpus"}

    def test_that_is_not_installed_is_told(
        self, engine: str, busybox_bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setenv("PATH", "/nowhere")
            runtime = OciRuntime(Engine(program=engine, not_there="install it"))
            assert runtime.probe() == f"{engine} is not installed"
            result = busybox_bench.sh("true")
        assert cause(result)[:2] == ("failed", "environment")

    @pytest.mark.docker
    def test_whose_daemon_is_gone_is_told(
        self, tmp_path: Path, busybox_image: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bench = Bench(tmp_path, busybox_image, "docker")
        assert bench.sh("true").status == "succeeded"
        monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
        result = bench.sh("true", slug="late")
        assert cause(result)[:2] == ("failed", "environment")
        assert "/nowhere/docker.sock" in cause(result)[2]
        assert "the engine is gone" in cause(result)[2]
        runtime = OciRuntime(Engine(program="docker", not_there="start it"))
        obstacle = runtime.probe()
        assert obstacle is not None
        assert "/nowhere/docker.sock" in obstacle
        with pytest.raises(EngineUnavailable):
            runtime.resolve(Image(name=busybox_image))


class TestImages:
    @pytest.fixture
    def runtime(self, engine: str) -> OciRuntime:
        """That has not been asked anything yet."""
        return OciRuntime(Engine(program=engine, not_there="start it"))

    def refusal(self, runtime: OciRuntime, image: str) -> ImageUnavailable:
        with pytest.raises(ImageUnavailable) as caught:
            runtime.resolve(Image(name=image))
        assert image in caught.value.message
        return caught.value

    def test_one_that_is_missing_is_pulled_once(
        self, runtime: OciRuntime, unpulled_image: str
    ) -> None:
        resolved: list[str] = []
        threads = [
            threading.Thread(
                target=lambda: resolved.append(runtime.resolve(Image(name=unpulled_image)).digest)
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(resolved) == 4
        assert len(set(resolved)) == 1
        inspected = json.loads(ask(runtime.name, "image", "inspect", unpulled_image))
        assert any(resolved[0] in digest for digest in inspected[0]["RepoDigests"])

    def test_one_that_is_here_needs_no_registry(
        self, runtime: OciRuntime, built: Callable[..., str]
    ) -> None:
        image = built({"hello": "x"})
        resolved = runtime.resolve(Image(name=image))
        assert resolved.name == image
        assert resolved.reference.startswith("sha256:")

    def test_one_that_is_not_known(self, runtime: OciRuntime, busybox_image: str) -> None:
        registry = busybox_image.partition("/")[0]
        error = self.refusal(runtime, f"{busybox_image.rpartition(':')[0]}:no-such-tag")
        assert f"is not known to {registry}" in error.message
        error = self.refusal(runtime, f"{registry}/no/such/image:1")
        assert f"is not known to {registry}" in error.message
        digest = f"{busybox_image.rpartition(':')[0]}@sha256:{'0' * 64}"
        assert f"is not known to {registry}" in self.refusal(runtime, digest).message

    def test_one_that_is_no_name(self, runtime: OciRuntime) -> None:
        assert (
            "is no name of an image" in self.refusal(runtime, "127.0.0.1:5000/Bad Name:1").message
        )

    def test_one_whose_registry_does_not_answer(self, runtime: OciRuntime) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        error = self.refusal(runtime, f"127.0.0.1:{port}/x:1")
        assert f"127.0.0.1:{port} does not answer" in error.message

    def test_one_that_wants_a_login(
        self,
        runtime: OciRuntime,
        private_image: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        registry = private_image.partition("/")[0]
        logins = tmp_path / "logins"
        logins.mkdir()
        monkeypatch.setenv("DOCKER_CONFIG", str(logins))
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(logins / "auth.json"))
        (logins / "auth.json").write_text("{}")
        subprocess.run([runtime.name, "rmi", private_image], capture_output=True, check=False)
        error = self.refusal(runtime, private_image)
        assert f"{registry} asks for a login" in error.message
        assert error.hint == f"{runtime.name} login {registry}"
        wrong = {"auths": {registry: {"auth": "dGVzdDp3cm9uZw=="}}}
        for name in ("auth.json", "config.json"):
            (logins / name).write_text(json.dumps(wrong))
        assert f"{registry} asks for a login" in self.refusal(runtime, private_image).message
        right = {"auths": {registry: {"auth": "dGVzdDp0ZXN0"}}}
        for name in ("auth.json", "config.json"):
            (logins / name).write_text(json.dumps(right))
        assert runtime.resolve(Image(name=private_image)).digest.startswith("sha256:")
        subprocess.run([runtime.name, "rmi", private_image], capture_output=True, check=False)


def test_no_client_of_an_engine_outlives_its_test() -> None:
    mine = psutil.Process()
    names = {process.name() for process in mine.children(recursive=True)}
    assert names.isdisjoint({"podman", "docker"})


@pytest.mark.docker
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_files_belong_to_an_ordinary_user_of_docker(busybox_image: str) -> None:
    socket_group = Path("/var/run/docker.sock").stat().st_gid
    # Not below pytest's own folder: that one is root's alone.
    folder = Path(tempfile.mkdtemp(prefix="fasthep-"))
    try:
        os.chown(folder, 12345, 23456)
        bench = Bench(folder, busybox_image, "docker")
        child = os.fork()
        if not child:
            try:
                os.setgroups([socket_group])
                os.setgid(23456)
                os.setuid(12345)
                os.environ["HOME"] = str(folder)
                result = bench.sh("id; mkdir made; touch made/file", resources=Resources(cpus=1))
                (folder / "result.json").write_text(to_json(result))
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        result = from_json(JobResult, (folder / "result.json").read_bytes())
        assert result.status == "succeeded", result
        assert result.stdout_tail.startswith("uid=12345 gid=23456")
        assert {
            (path.stat().st_uid, path.stat().st_gid) for path in (folder / "output").rglob("*")
        } == {(12345, 23456)}
        assert (folder / "made" / "file").stat().st_uid == 12345
        assert containers(bench) == []
    finally:
        shutil.rmtree(folder)


RELAY = """
import socket, sys, threading

def pump(source, sink):
    while data := source.recv(65536):
        sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)

server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
while True:
    client = server.accept()[0]
    engine = socket.socket(socket.AF_UNIX)
    engine.connect("/var/run/docker.sock")
    for pair in ((client, engine), (engine, client)):
        threading.Thread(target=pump, args=pair, daemon=True).start()
"""


@pytest.mark.docker
def test_an_engine_that_goes_while_a_task_runs_is_told(
    tmp_path: Path, busybox_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path / "work", busybox_image, "docker")
    bench.directory.mkdir()
    DOCKER.resolve(Image(name=busybox_image))
    relay = tmp_path / "s"
    with subprocess.Popen([sys.executable, "-c", RELAY, str(relay)]) as middleman:
        wait_until(relay.exists)
        with monkeypatch.context() as patch:
            patch.setenv("DOCKER_HOST", f"unix://{relay}")
            results: list[JobResult] = []
            worker = threading.Thread(target=lambda: results.append(bench.sh(": > up; sleep 600")))
            worker.start()
            wait_until((bench.directory / "up").exists)
            middleman.kill()
            worker.join(SOON_S)
    assert cause(results[0])[:2] == ("failed", "environment")
    assert "the engine is gone" in cause(results[0])[2]
    # Out of the engine's reach its processes were ended all the same.
    wait_until(lambda: containers(bench) == [])
    assert bench.sh("echo new", attempt=2).stdout_tail == "new\n"
    assert containers(bench) == []
