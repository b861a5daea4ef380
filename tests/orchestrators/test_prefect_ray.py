import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from fasthep_flow.errors import EnvironmentRefused, OrchestratorUnavailable, WorkerLost
from fasthep_flow.model import FlowSpec, Resources
from fasthep_flow.orchestrators import Orchestrator, TaskRunner
from fasthep_flow.orchestrators.prefect import PREFECT
from fasthep_flow.testing.runners import TaskRunnerSuite, Workbench, reply_of

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_server")]


class TestRay(TaskRunnerSuite):
    __test__ = True

    @classmethod
    def orchestrator(cls) -> Orchestrator:
        return PREFECT

    @classmethod
    def flow(cls) -> FlowSpec:
        return FlowSpec(
            transform="prefect",
            runner="RayTaskRunner",
            options={"init_kwargs": {"num_cpus": 2}},
        )

    @pytest.fixture(scope="class")
    @classmethod
    def kept(cls) -> Iterator[ExitStack]:
        """What holds the shared runner, as long as no test wants one of its own."""
        with ExitStack() as stack:
            yield stack

    @pytest.fixture(scope="class")
    @classmethod
    def shared(cls, kept: ExitStack, tmp_path_factory: pytest.TempPathFactory) -> TaskRunner:
        bench = Workbench(tmp_path_factory.mktemp("shared"))
        return kept.enter_context(
            cls.orchestrator().open(cls.flow(), bench.plan(cls.flow()), bench.workers)
        )

    @pytest.fixture
    def fresh(self, kept: ExitStack, bench: Workbench) -> AbstractContextManager[TaskRunner]:
        # A process has one Ray. The suite's tests of the shared runner come first.
        kept.close()
        return self.orchestrator().open(self.flow(), bench.plan(self.flow()), bench.workers)

    @pytest.fixture
    def engine_folders(self, prefect_home: Path) -> list[Path]:
        return [prefect_home]


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


def _flow(**options: object) -> FlowSpec:
    return FlowSpec(transform="prefect", runner="RayTaskRunner", options=options)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a path that is short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="ff-") as folder:
        yield Path(folder)


def test_a_ray_of_ours_is_closed_to_others_and_keeps_no_secret(
    bench: Workbench, short: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    value = "hunter2-5ecret"
    before = dict(os.environ)
    flow = _flow(init_kwargs={"num_cpus": 1, "_temp_dir": str(short)})
    with PREFECT.open(flow, bench.plan(flow), bench.workers) as runner:
        assert dict(os.environ) == before
        (session,) = short.iterdir()
        assert session.stat().st_mode & 0o777 == 0o700
        text = bench.job("use", 'test -n "$TOKEN"; exit 3', variables=["TOKEN"])
        used = runner.submit(text, {"TOKEN": value}, Resources(), "use")
        assert reply_of(used).exit_code == 3
        doomed = runner.submit(
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
            env=before | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64},
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
    assert list(short.iterdir()) == []
    assert capfd.readouterr() == ("", "")


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
    with _head(command, short / "head.log") as head:
        flow = _flow(address=f"127.0.0.1:{port}")
        with PREFECT.open(flow, bench.plan(flow), bench.workers) as runner:
            with pytest.raises(EnvironmentRefused, match="'large' asks for more than any machine"):
                runner.require(Resources(cpus=3), "large")
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
