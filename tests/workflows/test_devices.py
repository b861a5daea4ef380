"""Devices, from the file to what a task sees of them: whole runs of the command.

No machine needs a device for these: which there are is handed in, and the rest is real, such as
podman that gives a container files as a description in ``/etc/cdi`` says. What needs a device is
marked ``gpu``.
"""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fasthep_flow.environments import ContainerSpec, Mount, find_runtime
from fasthep_flow.environments.containers.lending import why_no_driver_files
from fasthep_flow.environments.devices.inventory import inventory
from fasthep_flow.errors import ExitCode
from fasthep_flow.model import Call, Command, Gpu, Image

REFUSED = ExitCode.ENVIRONMENT
LIMIT_S = 300
SPECS = Path("/etc/cdi")
HIDING = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


class Ran(NamedTuple):
    """A command that came to its end."""

    code: int
    said: str


class Bench(NamedTuple):
    """A workflow's folder.

    Args:
        directory: The folder.
        locks: Where devices are set aside for tasks: other runs on this machine have theirs
            elsewhere.
    """

    directory: Path
    locks: Path

    def write(self, tasks: str, **files: str) -> None:
        text = "name: devices\ntasks:\n" + textwrap.indent(textwrap.dedent(tasks), "  ")
        (self.directory / "workflow.yaml").write_text(text)
        for name, content in files.items():
            (self.directory / f"{name}.py").write_text(textwrap.dedent(content))

    def start(
        self, devices: Sequence[Gpu] | None, *words: str, directory: Path | None = None
    ) -> subprocess.Popen[str]:
        """The command on a machine with these devices; ``None`` for the machine's own."""
        module = ["fasthep_flow"]
        if devices is not None:
            told = [{"id": gpu.id, "name": gpu.name, "nodes": gpu.nodes} for gpu in devices]
            module = ["fasthep_flow.testing.devices", json.dumps(told)]
        environment = {name: value for name, value in os.environ.items() if name not in HIDING}
        return subprocess.Popen(
            [sys.executable, "-m", *module, *words],
            cwd=directory or self.directory,
            env={**environment, "XDG_RUNTIME_DIR": str(self.locks), "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, devices: Sequence[Gpu] | None, *words: str) -> Ran:
        with self.start(devices, *(words or ("run",))) as process:
            said, _ = process.communicate(timeout=LIMIT_S)
        return Ran(process.returncode, said)

    def result(self, task: str, directory: Path | None = None) -> dict[str, Any]:
        """What the record says of the task."""
        latest = (directory or self.directory) / "output" / "latest" / "tasks"
        for path in latest.glob("*/*/result.json"):
            found: dict[str, Any] = json.loads(path.read_text())
            if found["task"] == task:
                return found
        raise AssertionError(task)

    def seen(self, name: str) -> list[str]:
        """The lines that tasks wrote."""
        path = self.directory / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path / "work", tmp_path / "locks")
    made.directory.mkdir()
    made.locks.mkdir(mode=0o700)
    return made


def gpus(count: int) -> tuple[Gpu, ...]:
    return tuple(Gpu(id=f"GPU-{index}", name="Example 9") for index in range(count))


def bash(name: str, line: str, *, resources: str = "", **more: str) -> str:
    """A task of the file."""
    lines = [
        f"- name: {name}",
        "  type: fasthep_flow.operators.BashOperator",
        f"  kwargs: {{bash_command: {json.dumps(line)}}}",
        f"  needs: {more.pop('needs', '[]')}",
    ]
    if resources:
        more["resources"] = f"{{{resources}}}"
    if more:
        lines.append("  environment:")
        lines += [f"    {key}: {value}" for key, value in more.items()]
    return "\n".join(lines) + "\n"


HOLD = """
exec 9>>"lock $CUDA_VISIBLE_DEVICES" 8>>used
flock -n 9 || echo "$FASTHEP_TASK_NAME shares $CUDA_VISIBLE_DEVICES" >> shared
echo "$FASTHEP_TASK_NAME $CUDA_VISIBLE_DEVICES" >&8
while [ "$(wc -l < used)" -lt 4 ]; do sleep 0.02; done
"""
"""Has its device to itself, and does not end before four tasks have run beside each other."""

SMALL = "cpus: 100m, enforce: best_effort"


class TestConcurrentTasks:
    def test_eight_tasks_on_four_devices_never_share_one(self, bench: Bench) -> None:
        names = [f"task {index}" for index in range(8)]
        resources = f"process_on: gpu, {SMALL}"
        bench.write("".join(bash(name, HOLD, resources=resources) for name in names))
        ran = bench.run(gpus(4))
        assert ran.code == 0, ran.said
        assert bench.seen("shared") == []
        saw = dict(line.rsplit(" ", 1) for line in bench.seen("used"))
        assert set(saw) == set(names)
        # Four ran at once, on one each.
        assert {line.rsplit(" ", 1)[1] for line in bench.seen("used")[:4]} == {
            gpu.id for gpu in gpus(4)
        }
        for name in names:
            assert bench.result(name)["devices"] == [saw[name]]

    def test_nor_do_the_tasks_of_two_runs(self, bench: Bench) -> None:
        resources = f"process_on: gpu, {SMALL}"
        running = []
        for one in ("first", "second"):
            folder = bench.directory / one
            folder.mkdir()
            line = f"cd {bench.directory}\n{HOLD}"
            tasks = "".join(bash(f"{one} {i}", line, resources=resources) for i in range(4))
            Bench(folder, bench.locks).write(tasks)
            running.append(bench.start(gpus(4), "run", directory=folder))
        for process in running:
            said, _ = process.communicate(timeout=LIMIT_S)
            assert process.returncode == 0, said
        assert bench.seen("shared") == []
        assert len(bench.seen("used")) == 8

    def test_a_task_may_have_several(self, bench: Bench) -> None:
        line = 'for one in ${CUDA_VISIBLE_DEVICES//,/ }; do echo "$one" >> seen; done'
        bench.write(bash("both", line, resources="gpus: 2, process_on: gpu"))
        ran = bench.run(gpus(2))
        assert ran.code == 0, ran.said
        assert "2 gpus" in ran.said
        assert sorted(bench.seen("seen")) == ["GPU-0", "GPU-1"]

    def test_who_can_do_without_does_while_all_are_in_use(self, bench: Bench) -> None:
        bench.write(
            bash(
                "holds",
                "touch held; while [ ! -e done ]; do sleep 0.02; done",
                resources=f"process_on: gpu, {SMALL}",
            )
            + bash("sees", "while [ ! -e held ]; do sleep 0.02; done", resources=SMALL)
            + bash(
                "falls back",
                'echo "$FASTHEP_DEVICE [$CUDA_VISIBLE_DEVICES]" > seen; touch done',
                resources=f"process_on: gpu_if_available, {SMALL}",
                needs="[sees]",
            )
        )
        ran = bench.run(gpus(1))
        assert ran.code == 0, ran.said
        assert bench.seen("seen") == ["cpu []"]
        reason = "no gpu: 1 of 1 devices are in use by other tasks"
        result = bench.result("falls back")
        assert (result["device"], result["device_reason"]) == ("cpu", reason)
        (line,) = [line for line in ran.said.splitlines() if line.startswith("✓ falls back")]
        assert line.endswith(f"on the cpu, {reason}")


class TestWithoutDevices:
    def test_a_task_that_can_do_without_says_why_it_does(self, bench: Bench) -> None:
        line = 'echo "$FASTHEP_DEVICE [$CUDA_VISIBLE_DEVICES]" > seen'
        bench.write(bash("Fit", line, resources="process_on: gpu_if_available"))
        ran = bench.run(())
        assert ran.code == 0, ran.said
        assert bench.seen("seen") == ["cpu []"]
        assert bench.result("Fit")["device_reason"] == "no gpu: there is none"
        assert "on the cpu, no gpu: there is none" in ran.said

    @pytest.mark.parametrize(
        ("devices", "resources", "words"),
        [
            ((), "gpus: 1, process_on: gpu", "task 'Fit': the task asks for a gpu: there is none"),
            (gpus(1), "gpus: 2, process_on: gpu", "2 devices are asked for, and 1 can be used"),
        ],
    )
    def test_who_cannot_is_refused_before_the_first_task(
        self, bench: Bench, devices: tuple[Gpu, ...], resources: str, words: str
    ) -> None:
        bench.write(
            bash("Before", "touch ran") + bash("Fit", "true", resources=resources, needs="[Before]")
        )
        ran = bench.run(devices)
        assert (ran.code, ran.said.count(words)) == (REFUSED, 1)
        assert "gpu_if_available" in ran.said
        assert "Traceback" not in ran.said
        assert not (bench.directory / "ran").exists()

    def test_a_batch_systems_word_counts(self, bench: Bench) -> None:
        bench.write(bash("Fit", "true", resources="process_on: gpu"))
        (bench.directory / "go.sh").write_text(
            f'CUDA_VISIBLE_DEVICES= exec "{sys.executable}" "$@"'
        )
        done = subprocess.run(
            ["sh", "go.sh", "-m", "fasthep_flow.testing.devices", '[{"id": "GPU-0"}]', "run"],
            cwd=bench.directory,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == REFUSED
        assert "CUDA_VISIBLE_DEVICES is '', which hides all devices" in done.stderr

    def test_is_refused_on_every_runtime(
        self, bench: Bench, container_runtime: str, busybox_image: str
    ) -> None:
        image = f"{{name: {busybox_image}, runtime: {container_runtime}}}"
        bench.write(
            bash("Before", "touch ran")
            + bash("Fit", "true", resources="gpus: 1, process_on: gpu", image=image)
        )
        ran = bench.run(())
        assert ran.code == REFUSED
        assert ran.said.count("task 'Fit': the task asks for a gpu: there is none") == 1
        assert not (bench.directory / "ran").exists()

    def test_what_a_runtime_cannot_give_is_refused(
        self, bench: Bench, container_runtime: str, busybox_image: str
    ) -> None:
        """The device is there; and nothing tells the engine how to give it to a container."""
        device = Gpu(id=f"GPU-{uuid.uuid4()}", name="Example 9", nodes=("/dev/null",))
        if find_runtime(container_runtime).lends([device]) is None:
            pytest.skip(f"{container_runtime} is set up for devices here")
        words = {
            "podman": "podman finds no description of the device",
            "docker": "nvidia-container-toolkit",
            "apptainer": "'ldconfig -p' does not list libcuda.so",
            "charliecloud": "not the libraries of NVIDIA's driver",
        }[container_runtime]
        image = f"{{name: {busybox_image}, runtime: {container_runtime}}}"
        for policy in ("gpu", "gpu_if_available"):
            program = {"bash_command": "/bin/sh", "arguments": ["-c", "echo $FASTHEP_DEVICE"]}
            bench.write(
                "- name: Fit\n"
                "  type: fasthep_flow.operators.BashOperator\n"
                f"  kwargs: {json.dumps(program)}\n"
                "  environment:\n"
                f"    image: {image}\n"
                f"    resources: {{process_on: {policy}}}\n"
            )
            ran = bench.run([device])
            assert words in ran.said
            assert ran.code == (REFUSED if policy == "gpu" else 0), ran.said
        result = bench.result("Fit")
        assert (result["device"], result["stdout_tail"]) == ("cpu", "cpu\n")
        assert words in result["device_reason"]


@pytest.fixture
def describe() -> Iterator[Callable[..., Path]]:
    """Describes a device to podman, in a file of its own that nobody else asks for."""
    path = SPECS / f"fasthep-flow-test-{uuid.uuid4().hex}.json"
    was_there = SPECS.exists()
    if not os.access(SPECS if was_there else SPECS.parent, os.W_OK):
        pytest.skip(f"{SPECS} cannot be written to")
    SPECS.mkdir(exist_ok=True)

    def write(
        name: str,
        nodes: Mapping[str, str],
        *,
        mounts: Mapping[Path, str] | None = None,
        control: bool = True,
    ) -> Path:
        own = [{"path": inside, "hostPath": outside} for inside, outside in nodes.items()]
        every: dict[str, Any] = {}
        if control:
            every["deviceNodes"] = [{"path": "/dev/nvidiactl", "hostPath": "/dev/null"}]
        if mounts:
            every["mounts"] = [
                {"hostPath": str(source), "containerPath": target, "options": ["ro", "bind"]}
                for source, target in mounts.items()
            ]
        described = {
            "cdiVersion": "0.5.0",
            "kind": "nvidia.com/gpu",
            "devices": [{"name": name, "containerEdits": {"deviceNodes": own}}],
            "containerEdits": every,
        }
        # As a whole, or not at all: all of podman's containers read what is there.
        new = path.with_suffix(".new")
        new.write_text(json.dumps(described))
        new.replace(path)
        return path

    yield write
    path.unlink(missing_ok=True)
    if not was_there and not any(SPECS.iterdir()):
        SPECS.rmdir()


LOOK = (
    "(ls /dev | grep -c nvidia || true) > seen; "
    "echo ${CUDA_VISIBLE_DEVICES-} $NVIDIA_VISIBLE_DEVICES >> seen"
)


def described_gpu() -> Gpu:
    # A number that no other file in that folder describes.
    return Gpu(id=f"GPU-{uuid.uuid4()}", name="Example 9", nodes=("/dev/nvidia97",))


class Described(NamedTuple):
    """What a description says, and what the container's own look at it finds.

    Args:
        nodes: Files in the container, and what they are on the host.
        has_control: Whether the file that all devices share is among them.
        lists: The device that a program ``nvidia-smi`` lists there; ``None`` for no program.
        words: Of the refusal.
    """

    nodes: Mapping[str, str] = {"/dev/nvidia97": "/dev/zero"}
    has_control: bool = True
    lists: str | None = None
    words: str | None = None


@pytest.mark.podman
class TestPodman:
    def test_gives_the_device_and_no_other(
        self, bench: Bench, describe: Callable[..., Path], python_image: str
    ) -> None:
        gpu = described_gpu()
        describe(gpu.id, {"/dev/nvidia97": "/dev/zero"})
        image = f"{{name: {python_image}, runtime: podman}}"
        bench.write(
            bash("gpu", f"{LOOK}; stat -c %F /dev/nvidia97 >> seen", image=image).replace(
                "    image", "    resources: {process_on: gpu}\n    image"
            )
            + bash("cpu", LOOK.replace("seen", "cpu_seen"), image=image)
        )
        ran = bench.run([gpu])
        assert ran.code == 0, ran.said
        assert bench.seen("seen") == ["2", f"{gpu.id} void", "character special file"]
        # The other one sees neither, on the same machine.
        assert bench.seen("cpu_seen") == ["0", "void"]
        result = bench.result("gpu")
        assert (result["device"], result["devices"]) == ("gpu", [gpu.id])
        assert result["device_reason"] == "process_on is gpu: Example 9"

    def test_finds_it_by_its_number_where_it_is_described_so(
        self, bench: Bench, describe: Callable[..., Path], python_image: str
    ) -> None:
        gpu = described_gpu()
        describe("97", {"/dev/nvidia97": "/dev/zero"})
        image = f"{{name: {python_image}, runtime: podman}}"
        bench.write(bash("gpu", LOOK, image=image, resources="process_on: gpu"))
        ran = bench.run([gpu])
        assert ran.code == 0, ran.said
        assert bench.seen("seen") == ["2", f"{gpu.id} void"]

    def test_image_and_version_follow_the_device(
        self,
        bench: Bench,
        describe: Callable[..., Path],
        python_image: str,
        pythononly_image: str,
    ) -> None:
        gpu = described_gpu()
        describe(gpu.id, {"/dev/nvidia97": "/dev/zero"})
        text = f"""\
            name: devices
            global:
              image: {{cpu: {python_image}, gpu: {pythononly_image}, runtime: podman}}
            register:
              mine::fit: {{cpu: fits.on_cpu, gpu: fits.on_gpu}}
            tasks:
              - name: Fit
                type: mine::fit
                environment:
                  resources: {{process_on: gpu_if_available}}
            """
        (bench.directory / "workflow.yaml").write_text(textwrap.dedent(text))
        (bench.directory / "fits.py").write_text(
            "import os\n"
            "def on_cpu(): return ['cpu', os.path.exists('/bin/sh'), os.listdir('/dev')]\n"
            "def on_gpu(): return ['gpu', os.path.exists('/bin/sh'), os.listdir('/dev')]\n"
        )
        for devices, has_shell, image in (
            ([gpu], False, pythononly_image),
            ([], True, python_image),
        ):
            shutil.rmtree(bench.directory / "output", ignore_errors=True)
            ran = bench.run(devices)
            assert ran.code == 0, ran.said
            result = bench.result("Fit")
            kind, shell, dev = result["value"]
            assert (kind, shell) == ("gpu" if devices else "cpu", has_shell)
            assert ("nvidia97" in dev) == bool(devices)
            assert (result["image"], result["device"]) == (image, kind)

    @pytest.mark.parametrize("image_of", ["python_image", "pythononly_image"])
    @pytest.mark.parametrize(
        "case",
        [
            # Podman takes these descriptions, and starts the container.
            Described({"/dev/nvidia98": "/dev/zero"}, words="/dev/nvidia97 is no device there"),
            Described(has_control=False, words="/dev/nvidiactl is no device there"),
            Described(lists="GPU-another", words="nvidia-smi does not list GPU-"),
            Described(lists="the device"),
        ],
    )
    def test_is_looked_at_inside_before_the_task_starts(
        self,
        bench: Bench,
        describe: Callable[..., Path],
        request: pytest.FixtureRequest,
        image_of: str,
        case: Described,
    ) -> None:
        gpu = described_gpu()
        mounts = {}
        if case.lists is not None:
            listing = bench.directory / "nvidia-smi"
            told = gpu.id if case.lists == "the device" else case.lists
            listing.write_text(f"#!/usr/bin/env python3\nprint('GPU 0: Example (UUID: {told})')\n")
            listing.chmod(0o755)
            mounts = {listing: "/usr/local/bin/nvidia-smi"}
        describe(gpu.id, case.nodes, mounts=mounts, control=case.has_control)
        image = f"{{name: {request.getfixturevalue(image_of)}, runtime: podman}}"
        (bench.directory / "fits.py").write_text("def fit(): open('ran', 'w').close()\n")
        bench.write(
            "- name: Fit\n"
            "  type: fasthep_flow.operators.PythonOperator\n"
            "  kwargs: {python_callable: fits.fit}\n"
            "  environment:\n"
            f"    image: {image}\n"
            "    resources: {process_on: gpu}\n"
        )
        ran = bench.run([gpu])
        assert (bench.directory / "ran").exists() == (case.words is None)
        if case.words is None:
            assert ran.code == 0, ran.said
            return
        assert ran.code == ExitCode.TASK_FAILED
        failure = bench.result("Fit")["failure"]
        assert failure["kind"] == "environment"
        for expected in (case.words, gpu.id, "Example 9", "that podman made"):
            assert expected in failure["message"]
        assert failure["message"] in ran.said


@pytest.mark.apptainer
@pytest.mark.parametrize("is_call", [False, True])
def test_apptainer_starts_without_the_device_and_the_task_does_not(
    tmp_path: Path,
    python_image: str,
    is_call: bool,
) -> None:
    """With ``--nv`` it warns where it finds nothing, and goes on."""
    gpu = Gpu(id="GPU-a", name="Example 9", nodes=("/dev/nvidia97",))
    apptainer = find_runtime("apptainer")
    image = apptainer.resolve(Image(name=python_image))
    attempt = tmp_path / "attempt"
    attempt.mkdir()
    spec = ContainerSpec(
        name=f"test-{uuid.uuid4().hex}",
        image=image,
        mounts=(Mount(source=str(tmp_path), target=str(tmp_path)),),
        devices=(gpu,),
    )
    command = Command(argv=("touch", f"{tmp_path}/ran"))
    with apptainer.open(spec) as container:
        process = container.start(
            Call(target="os:mkdir", args=(f"{tmp_path}/ran",)) if is_call else command,
            environment={},
            working_directory=str(tmp_path),
            directory=str(attempt),
        )
        failure = process.wait().failure
    assert failure is not None
    assert failure.kind == "environment"
    assert "the gpu GPU-a (Example 9), which cannot be used in the container" in failure.message
    assert "that apptainer made: /dev/nvidia" in failure.message
    assert not (tmp_path / "ran").exists()


def real_gpus() -> tuple[Gpu, ...]:
    found = inventory()
    assert not isinstance(found, str), found
    return found


CUDA = """
import ctypes, json, os

def count():
    cuda = ctypes.CDLL("libcuda.so.1")
    number = ctypes.c_int()
    codes = [cuda.cuInit(0), cuda.cuDeviceGetCount(ctypes.byref(number))]
    return {"codes": codes, "count": number.value, "ids": os.environ["CUDA_VISIBLE_DEVICES"]}

def torch_sum():
    import torch
    values = torch.arange(1000.0, device="cuda")
    return {"sum": float(values.sum()), "count": torch.cuda.device_count()}

def cupy_sum():
    import cupy
    return {"sum": float(cupy.arange(1000.0).sum()), "count": cupy.cuda.runtime.getDeviceCount()}
"""


def call_task(name: str, *, image: str = "") -> str:
    return (
        "- name: Fit\n"
        "  type: fasthep_flow.operators.PythonOperator\n"
        f"  kwargs: {{python_callable: fits.{name}}}\n"
        "  environment:\n"
        "    resources: {process_on: gpu}\n" + image
    )


@pytest.mark.gpu
class TestRealDevice:
    def test_nvidia_smi_lists_the_one_that_the_record_names(self, bench: Bench) -> None:
        if shutil.which("nvidia-smi") is None:
            pytest.skip("there is no nvidia-smi")
        line = "nvidia-smi -L > listed; echo $CUDA_VISIBLE_DEVICES > seen"
        bench.write(bash("Fit", line, resources="process_on: gpu"))
        ran = bench.run(None)
        assert ran.code == 0, ran.said
        (seen,) = bench.seen("seen")
        assert bench.result("Fit")["devices"] == [seen]
        assert seen in {gpu.id for gpu in real_gpus()}
        assert any(seen in line for line in bench.seen("listed"))

    def test_cuda_counts_one(self, bench: Bench) -> None:
        bench.write(call_task("count"), fits=CUDA)
        ran = bench.run(None)
        assert ran.code == 0, ran.said
        result = bench.result("Fit")
        assert result["value"] == {"codes": [0, 0], "count": 1, "ids": result["devices"][0]}

    def test_cuda_counts_none_on_the_cpu(self, bench: Bench) -> None:
        task = call_task("count").replace("process_on: gpu", "process_on: cpu")
        bench.write(task, fits=CUDA)
        ran = bench.run(None)
        assert ran.code == 0, ran.said
        assert bench.result("Fit")["value"]["count"] == 0

    @pytest.mark.parametrize("library", ["torch", "cupy"])
    def test_a_library_computes_there(self, bench: Bench, library: str) -> None:
        pytest.importorskip(library, reason=f"{library} is not installed")
        bench.write(call_task(f"{library}_sum"), fits=CUDA)
        ran = bench.run(None)
        assert ran.code == 0, ran.said
        assert bench.result("Fit")["value"] == {"sum": 499500.0, "count": 1}

    def test_more_than_there_are_is_refused(self, bench: Bench) -> None:
        count = len(real_gpus()) + 1
        bench.write(bash("Fit", "true", resources=f"process_on: gpu, gpus: {count}"))
        ran = bench.run(None)
        assert ran.code == REFUSED
        assert f"{count} devices are asked for, and {count - 1} can be used here" in ran.said

    def test_a_container_sees_its_own_alone(
        self, bench: Bench, container_runtime: str, python_image: str
    ) -> None:
        why_not = find_runtime(container_runtime).lends(real_gpus()[:1])
        if why_not is not None:
            pytest.skip(why_not)
        image = f"    image: {{name: {python_image}, runtime: {container_runtime}}}\n"
        bench.write(call_task("count", image=image), fits=CUDA)
        ran = bench.run(None)
        assert ran.code == 0, ran.said
        result = bench.result("Fit")
        assert result["value"] == {"codes": [0, 0], "count": 1, "ids": result["devices"][0]}

    def test_apptainer_finds_the_drivers_files(self) -> None:
        if shutil.which("ldconfig") is None and not Path("/sbin/ldconfig").exists():
            pytest.skip("there is no ldconfig")
        done = subprocess.run(
            [shutil.which("ldconfig") or "/sbin/ldconfig", "-p"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert (why_no_driver_files() is None) == ("libcuda.so" in done.stdout)
