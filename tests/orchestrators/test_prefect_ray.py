import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from fasthep_flow.errors import EnvironmentRefused, OrchestratorUnavailable, WorkerLost
from fasthep_flow.model import FlowSpec, Resources
from fasthep_flow.orchestrators import Orchestrator, TaskRunner
from fasthep_flow.orchestrators.prefect import PREFECT
from fasthep_flow.testing.runners import TaskRunnerSuite, Workbench, reply_of

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_server")]


def _flow(**options: object) -> FlowSpec:
    return FlowSpec(transform="prefect", runner="RayTaskRunner", options=options)


class TestRay(TaskRunnerSuite):
    """A Ray takes ten seconds to start: all tests share one, but for that of its end."""

    __test__ = True
    folder: ClassVar[Path]
    """Where Ray's own files lie; with a path that is short enough for its sockets."""
    before: ClassVar[dict[str, str]]
    """The environment before anything was started."""

    @classmethod
    def orchestrator(cls) -> Orchestrator:
        return PREFECT

    @classmethod
    def flow(cls) -> FlowSpec:
        return _flow(init_kwargs={"num_cpus": 2, "_temp_dir": str(cls.folder)})

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def short_folder(cls) -> Iterator[None]:
        with tempfile.TemporaryDirectory(prefix="ff-") as folder:
            cls.folder = Path(folder)
            yield

    @pytest.fixture(scope="class")
    @classmethod
    def kept(cls, short_folder: None) -> Iterator[ExitStack]:
        """What holds the shared runner, as long as no test wants one of its own."""
        del short_folder
        with ExitStack() as stack:
            yield stack

    @pytest.fixture(scope="class")
    @classmethod
    def shared(cls, kept: ExitStack, tmp_path_factory: pytest.TempPathFactory) -> TaskRunner:
        bench = Workbench(tmp_path_factory.mktemp("shared"))
        cls.before = dict(os.environ)
        return kept.enter_context(
            cls.orchestrator().open(cls.flow(), bench.plan(cls.flow()), bench.workers)
        )

    @pytest.fixture
    def fresh(self, shared: TaskRunner) -> AbstractContextManager[TaskRunner]:
        # Those that leave it as they do not find it are the last ones, in the order below.
        return nullcontext(shared)

    @pytest.fixture
    def engine_folders(self, prefect_home: Path) -> list[Path]:
        return [prefect_home, self.folder]

    def test_it_is_closed_to_others_and_keeps_no_secret(
        self, shared: TaskRunner, bench: Workbench
    ) -> None:
        value = "hunter2-5ecret"
        varies = {"PYTEST_CURRENT_TEST"}
        assert {*os.environ.items()} ^ {*self.before.items()} <= {
            (name, text)
            for known in (self.before, os.environ)
            for name, text in known.items()
            if name in varies
        }
        (session,) = self.folder.iterdir()
        assert session.stat().st_mode & 0o777 == 0o700
        doomed = shared.submit(
            bench.job("die", "kill -9 $PPID"), {"TOKEN": value}, Resources(), "die"
        )
        assert isinstance(doomed.exception(60), WorkerLost)
        files = [path for path in session.rglob("*") if path.is_file()]
        assert any(path.name.startswith("gcs_server") for path in files)
        assert [path for path in files if value.encode() in path.read_bytes()] == []
        # Not before: it changes the environment, which the runner restores.
        import ray

        address = ray.get_runtime_context().gcs_address
        stranger = subprocess.run(
            [sys.executable, "-c", f"import ray; ray.init({address!r}, log_to_driver=False)"],
            env=self.before | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert stranger.returncode != 0
        assert "InvalidAuthToken" in stranger.stderr
        other = _flow(init_kwargs={"num_cpus": 2})
        with (
            pytest.raises(OrchestratorUnavailable, match="connected to a Ray already"),
            PREFECT.open(other, bench.plan(other), bench.workers),
        ):
            pytest.fail("it was opened")

    def test_cancelling_ends_every_future(
        self, fresh: AbstractContextManager[TaskRunner], bench: Workbench
    ) -> None:
        """The runner takes no more jobs after this."""
        super().test_cancelling_ends_every_future(fresh, bench)

    @pytest.fixture
    def another(self, kept: ExitStack, bench: Workbench) -> AbstractContextManager[TaskRunner]:
        # A process has one Ray.
        kept.close()
        assert list(self.folder.iterdir()) == []
        return self.orchestrator().open(self.flow(), bench.plan(self.flow()), bench.workers)

    # The one above is another parameter, which pytest gives a fixture of its own.
    def test_closing_stops_what_runs_and_leaves_no_process(  # type: ignore[override]
        self,
        another: AbstractContextManager[TaskRunner],
        bench: Workbench,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        """Nor a file, nor a word."""
        super().test_closing_stops_what_runs_and_leaves_no_process(another, bench)
        assert list(self.folder.iterdir()) == []
        assert capfd.readouterr() == ("", "")


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a path that is short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="ff-") as folder:
        yield Path(folder)


@contextmanager
def _head(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Ray that runs; on a busy machine it gives up now and then, after half a minute."""
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    for _ in range(3):
        with (
            log.open("wb") as out,
            subprocess.Popen(command, stdout=out, stderr=out, env=environment) as head,
        ):
            try:
                while b"Ray runtime started" not in log.read_bytes() and head.poll() is None:
                    time.sleep(0.1)
                if head.poll() is None:
                    yield head
                    return
            finally:
                if head.poll() is None:
                    children = psutil.Process(head.pid).children(recursive=True)
                    head.terminate()
                    for left in psutil.wait_procs(children, timeout=30)[1]:
                        left.kill()
    pytest.fail(log.read_text())


def test_a_ray_that_is_there_is_asked_for_what_tasks_ask_for(bench: Workbench, short: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    command += ["--port", str(port), "--num-cpus", "2", "--temp-dir", str(short / "r")]
    command += ["--node-ip-address", "127.0.0.1", "--include-dashboard", "false"]
    command += ["--object-store-memory", "100000000", "--disable-usage-stats"]
    # As many as it says, be they there or not.
    command += ["--num-gpus", "1"]
    with _head(command, short / "head.log") as head:
        flow = _flow(address=f"127.0.0.1:{port}")
        with PREFECT.open(flow, bench.plan(flow), bench.workers) as runner:
            for large in (Resources(cpus=3), Resources(gpus=2, process_on="gpu")):
                with pytest.raises(EnvironmentRefused, match="'large' asks for more than any mach"):
                    runner.require(large, "large")
            on_gpu = Resources(gpus=1, process_on="gpu")
            one = runner.submit(bench.job("one", "true"), {}, on_gpu, "one")
            assert reply_of(one).status == "succeeded"
            first = runner.submit(bench.held("first"), {}, Resources(cpus=2), "first")
            bench.await_file("first.started")
            second = runner.submit(
                bench.job("second", "test -e go"), {}, Resources(cpus=2), "second"
            )
            bench.make_file("go")
            assert {reply_of(job).status for job in (first, second)} == {"succeeded"}
        assert head.poll() is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"init_kwargs": 3}, "init_kwargs of prefect::RayTaskRunner is not a mapping"),
        ({"init_kwargs": {"num_cpu": 3}}, "knows no option 'num_cpu' in init_kwargs"),
        ({"init_kwargs": {"num_cpus": "many"}}, "num_cpus of prefect::RayTaskRunner is 'many'"),
        ({"addres": "x"}, "knows no option 'addres'"),
        ({"address": "127.0.0.1:9"}, "Ray did not answer at 127.0.0.1:9"),
    ],
)
def test_what_is_wrong_with_a_ray_runner_is_told(
    bench: Workbench, options: dict[str, object], words: str
) -> None:
    flow = _flow(**options)
    with (
        pytest.raises(OrchestratorUnavailable, match=re.escape(words)),
        PREFECT.open(flow, bench.plan(flow), bench.workers),
    ):
        pytest.fail("it was opened")
