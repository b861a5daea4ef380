"""Devices that go between the check and the task's start."""

import json
import os
import stat
import threading
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.execution.conftest import Bench as Jobs
from tests.execution.conftest import bench as jobs
from tests.workflows.test_devices import Bench, bash, bench, describe, described_gpu, gpus

from fasthep_flow.environments.devices import presence
from fasthep_flow.environments.devices.leases import device_for
from fasthep_flow.errors import ExitCode
from fasthep_flow.execution.process import Watch
from fasthep_flow.model import Command, Gpu, JobResult, Resources
from fasthep_flow.testing.devices import machine_with

__all__ = ["bench", "describe", "jobs"]


@pytest.fixture
def _own_locks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def gpu_job(jobs: Jobs, line: str, **more: object) -> JobResult:
    return jobs.sh(line, resources=Resources(process_on="gpu"), **more)


@pytest.mark.podman
@pytest.mark.parametrize("policy", ["gpu", "gpu_if_available"])
def test_a_description_that_goes_while_a_run_goes_on(
    bench: Bench, describe: Callable[..., Path], python_image: str, policy: str
) -> None:
    """Podman is asked before the first task, and again when it makes the container."""
    gpu = described_gpu()
    path = describe(gpu.id, {"/dev/nvidia97": "/dev/zero"})
    image = f"{{name: {python_image}, runtime: podman}}"
    resources = f"process_on: {policy}"
    bench.write(
        bash("Lose it", f"rm {path}")
        + bash("Fit", "touch ran", needs="[Lose it]", resources=resources, image=image)
        + bash("Goes on", "touch went_on", needs="[Lose it]")
    )
    ran = bench.run([gpu])
    assert ran.code == ExitCode.TASK_FAILED
    failure = bench.result("Fit")["failure"]
    assert failure["kind"] == "environment"
    for words in (f"the gpu {gpu.id} (Example 9), which cannot be used", python_image, "podman"):
        assert words in failure["message"]
    assert "CDI" in failure["message"]
    assert failure["hint"] is not None
    assert not (bench.directory / "ran").exists()
    assert (bench.directory / "went_on").exists()
    assert "Traceback" not in ran.said


@pytest.mark.podman
def test_the_next_run_says_so_before_its_first_task(
    bench: Bench, describe: Callable[..., Path], python_image: str
) -> None:
    gpu = described_gpu()
    describe(gpu.id, {"/dev/nvidia97": "/dev/zero"}).unlink()
    image = f"{{name: {python_image}, runtime: podman}}"
    bench.write(
        bash("Before", "touch ran") + bash("Fit", "true", resources="process_on: gpu", image=image)
    )
    ran = bench.run([gpu])
    assert ran.code == ExitCode.ENVIRONMENT
    assert "podman finds no description of the device" in ran.said
    assert "nvidia-ctk cdi generate" in ran.said
    assert not (bench.directory / "ran").exists()


@pytest.mark.podman
def test_a_file_of_the_devices_that_goes(
    bench: Bench, describe: Callable[..., Path], python_image: str
) -> None:
    """It is still described; and what the description names is not there any more."""
    gpu = described_gpu()
    node = Path(f"/dev/fasthep-flow-{uuid.uuid4().hex}")
    try:
        # One more name for a device that does no harm.
        os.mknod(node, 0o666 | stat.S_IFCHR, Path("/dev/zero").stat().st_rdev)
    except PermissionError:
        pytest.skip("no device file may be made here")
    try:
        describe(gpu.id, {"/dev/nvidia97": str(node)})
        image = f"{{name: {python_image}, runtime: podman}}"
        bench.write(
            bash("Lose it", f"rm {node}")
            + bash("Fit", "touch ran", needs="[Lose it]", resources="process_on: gpu", image=image)
        )
        ran = bench.run([gpu])
    finally:
        node.unlink(missing_ok=True)
    assert ran.code == ExitCode.TASK_FAILED
    failure = bench.result("Fit")["failure"]
    assert failure["kind"] == "environment"
    assert str(node) in failure["message"]
    assert not (bench.directory / "ran").exists()


@pytest.mark.usefixtures("_own_locks")
class TestNative:
    def test_a_driver_that_is_gone_when_the_job_starts(self, jobs: Jobs) -> None:
        with machine_with(why_none="no NVIDIA driver answers: Driver Not Loaded"):
            result = gpu_job(jobs, "touch ran")
        assert result.failure is not None
        assert (result.status, result.failure.kind, result.failure.message) == (
            "failed",
            "environment",
            "the task asks for a gpu: no NVIDIA driver answers: Driver Not Loaded",
        )
        assert not (jobs.directory / "ran").exists()

    @pytest.mark.parametrize(
        ("node", "why"),
        [
            ("/dev/nvidia97", "/dev/nvidia97: No such file or directory"),
            ("/etc/hostname", "/etc/hostname is no device"),
        ],
    )
    def test_a_file_that_is_none(
        self, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, node: str, why: str
    ) -> None:
        monkeypatch.setattr(presence, "CONTROL_NODE", "/dev/null")
        with machine_with(Gpu(id="GPU-a", nodes=("/dev/zero", node))):
            result = gpu_job(jobs, "touch ran")
            other = jobs.sh("true", resources=Resources(process_on="gpu_if_available"))
        assert result.failure is not None
        assert result.failure.kind == "environment"
        lost = f"the gpu GPU-a cannot be used on this machine: {why}"
        assert result.failure.message == f"the task asks for a gpu: {lost}"
        assert not (jobs.directory / "ran").exists()
        assert (other.status, other.device_reason) == ("succeeded", f"no gpu: {lost}")

    def test_a_run_says_so_before_its_first_task(self, bench: Bench) -> None:
        """The driver lists it; its file is not there, or hidden from this job."""
        bench.write(bash("Before", "touch ran") + bash("Fit", "true", resources="process_on: gpu"))
        ran = bench.run([Gpu(id="GPU-a", nodes=("/dev/fasthep-flow-none",))])
        assert ran.code == ExitCode.ENVIRONMENT
        assert "the gpu GPU-a cannot be used on this machine: /dev/" in ran.said
        assert not (bench.directory / "ran").exists()

    def test_a_run_that_is_stopped_while_a_task_waits_for_a_device(self, jobs: Jobs) -> None:
        resources = Resources(process_on="gpu")
        with ExitStack() as stack:
            stack.enter_context(machine_with(*gpus(1)))
            stack.enter_context(
                device_for(resources, versions=("cpu", "gpu"), lends=lambda _: None)
            )
            watch = stack.enter_context(Watch())
            has_looked = threading.Event()
            results: list[JobResult] = []
            real = watch.stopped

            def stopped(run_directory: str | None = None) -> bool:
                has_looked.set()
                return real(run_directory)

            stack.enter_context(pytest.MonkeyPatch.context()).setattr(watch, "stopped", stopped)
            command = Command(argv=("touch", "ran"))
            thread = threading.Thread(
                target=lambda: results.append(
                    jobs.execute(command, resources=resources, watch=watch)
                )
            )
            thread.start()
            assert has_looked.wait(60)
            watch.cancel()
            thread.join(60)
        (result,) = results
        assert result.status == "cancelled"
        assert not (jobs.directory / "ran").exists()


def test_what_holds_a_device_dies_with_its_process(bench: Bench) -> None:
    """A driver that is killed leaves no device behind that nobody can have."""
    holds = "touch held; exec sleep 600"
    bench.write(bash("holds", holds, resources="process_on: gpu"))
    with bench.start(gpus(1), "run") as process:
        tick = threading.Event()
        for _ in range(6000):
            if (bench.directory / "held").exists() or process.poll() is not None:
                break
            tick.wait(0.01)
        assert (bench.directory / "held").exists()
        process.kill()
    bench.write(bash("holds", "echo $CUDA_VISIBLE_DEVICES > seen", resources="process_on: gpu"))
    ran = bench.run(gpus(1))
    assert ran.code == 0, ran.said
    assert bench.seen("seen") == ["GPU-0"]
    assert json.dumps("GPU-0") in json.dumps(bench.result("holds")["devices"])
