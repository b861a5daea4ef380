"""The words by which engines are told to give a container devices."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fasthep_flow.environments import ContainerSpec, ResolvedImage
from fasthep_flow.environments.charliecloud import CHARLIECLOUD
from fasthep_flow.environments.containers import lending
from fasthep_flow.environments.containers.commandline import run_argv
from fasthep_flow.environments.containers.lending import (
    CdiNames,
    device_options,
    lacks_cdi,
    why_not_lent,
    why_not_shown,
)
from fasthep_flow.environments.containers.sif_container import (
    ApptainerFacts,
    SifEnclosure,
    exec_argv,
)
from fasthep_flow.environments.devices import presence
from fasthep_flow.environments.engine import Engine, EngineFacts
from fasthep_flow.environments.limits.cgroups import ControlGroups
from fasthep_flow.environments.native import NATIVE
from fasthep_flow.errors import DeviceUnavailable
from fasthep_flow.model import Gpu

A = Gpu(id="GPU-a", nodes=("/dev/nvidia0",))
B = Gpu(id="GPU-b", nodes=("/dev/nvidia1",))
AMD = Gpu(id="GPU-c", vendor="amd", nodes=("/dev/null", "/dev/dri/renderD128"))
VOID = ["--env", "NVIDIA_VISIBLE_DEVICES=void"]
IMAGE = ResolvedImage(name="i", reference="sha256:1", digest="sha256:1")


def facts(*, podman: bool = True, rootless: bool = False, **more: object) -> EngineFacts:
    return EngineFacts(
        version="25",
        podman=podman,
        rootless=rootless,
        limits=frozenset(),
        cgroups="2",
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("engine", "devices", "words"),
    [
        (facts(), (), VOID),
        (facts(podman=False, lends_gpus=True), (), VOID),
        (facts(), (A,), ["--device", "nvidia.com/gpu=GPU-a", *VOID]),
        (
            facts(),
            (A, B),
            ["--device", "nvidia.com/gpu=GPU-a", "--device", "nvidia.com/gpu=1", *VOID],
        ),
        # One word of CSV: a comma would part options; and no word on what the toolkit sets.
        (facts(podman=False, lends_gpus=True), (A, B), ["--gpus", '"device=GPU-a,GPU-b"']),
        (
            facts(podman=False, cdi_devices=frozenset({"nvidia.com/gpu=GPU-a"})),
            (A,),
            ["--device", "nvidia.com/gpu=GPU-a", *VOID],
        ),
        (facts(), (AMD,), ["--device", "/dev/null", "--device", "/dev/dri/renderD128", *VOID]),
        (
            facts(rootless=True),
            (AMD,),
            [
                *("--device", "/dev/null", "--device", "/dev/dri/renderD128"),
                *("--group-add", "keep-groups"),
                *VOID,
            ],
        ),
    ],
)
def test_options(engine: EngineFacts, devices: Sequence[Gpu], words: list[str]) -> None:
    names = {"GPU-b": "1"}
    assert device_options(engine, devices, names) == words
    spec = ContainerSpec(name="c", image=IMAGE, devices=tuple(devices), options=("--own",))
    argv = run_argv(
        Engine(program="e", not_there=""), engine, spec, ("sh",), scratch="/s", names=names
    )
    start = argv.index(words[0], argv.index("--mount"))
    # Before the author's own.
    assert argv[start : start + len(words) + 1] == [*words, "--own"]
    assert "--gpus" not in argv or not engine.podman


def test_what_docker_is_not_set_up_for_is_refused() -> None:
    engine = Engine(program="docker", not_there="")
    names = CdiNames(engine)
    refused = why_not_lent(engine, facts(podman=False), [A], names)
    assert refused is not None
    assert "nvidia-container-toolkit" in refused
    assert why_not_lent(engine, facts(podman=False, lends_gpus=True), [A, B], names) is None
    described = facts(podman=False, cdi_devices=frozenset({"nvidia.com/gpu=GPU-a"}))
    assert why_not_lent(engine, described, [A], names) is None
    assert why_not_lent(engine, described, [A, B], names) is not None


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        (("/dev/null",), "podman cannot be told which file stands for the device GPU-c"),
        (
            ("/dev/null", "/dev/dri/renderD999"),
            "the device GPU-c cannot be used (/dev/dri/renderD999: No such file or directory)",
        ),
    ],
)
def test_amd_is_given_by_its_files(nodes: tuple[str, ...], why: str) -> None:
    engine = Engine(program="podman", not_there="")
    gpu = Gpu(id="GPU-c", vendor="amd", nodes=nodes)
    assert why_not_lent(engine, facts(), [gpu], CdiNames(engine)) == why


def test_charliecloud_gives_what_needs_no_library() -> None:
    refused = CHARLIECLOUD.lends([A])
    assert refused is not None
    assert "not the libraries of NVIDIA's driver" in refused
    assert CHARLIECLOUD.lends([]) is None


def test_native_gives_all_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "CONTROL_NODE", "/dev/null")
    there = Gpu(id="GPU-d", nodes=("/dev/zero",))
    assert NATIVE.lends([there, Gpu(id="GPU-e")]) is None
    lost = Gpu(id="GPU-f", name="H200", nodes=("/dev/fasthep-flow-none",))
    why = "cannot be used on this machine: /dev/fasthep-flow-none: No such file or directory"
    assert NATIVE.lends([lost]) == f"the gpu GPU-f (H200) {why}"
    # One that was there when it was chosen, and goes before the task starts.
    with (
        pytest.raises(DeviceUnavailable) as caught,
        NATIVE.open(ContainerSpec(name="a", devices=(there, lost))),
    ):
        pass
    assert caught.value.message == (f"the task was given the gpus GPU-d, GPU-f (H200), which {why}")


class TestApptainer:
    @pytest.fixture
    def ldconfig(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        program = tmp_path / "ldconfig"
        monkeypatch.setattr(lending, "_LIBRARY_LISTS", (str(program),))
        lending.why_no_driver_files.cache_clear()
        yield program
        lending.why_no_driver_files.cache_clear()

    @pytest.mark.parametrize(
        ("lists", "why"),
        [
            ("libcuda.so.1 (libc6,x86-64) => /usr/lib/libcuda.so.1", None),
            ("libc.so.6", "'ldconfig -p' does not list libcuda.so"),
            (None, "there is no ldconfig to find libraries with"),
        ],
    )
    def test_needs_the_drivers_libraries(
        self, ldconfig: Path, lists: str | None, why: str | None
    ) -> None:
        if lists is not None:
            ldconfig.write_text(f"#!/bin/sh\necho '{lists}'\n")
            ldconfig.chmod(0o755)
        said = why_not_shown("apptainer", [A])
        expected = f"'apptainer exec --nv' would not find the driver's files: {why}"
        assert said == (None if why is None else expected)

    def test_cannot_tell_devices_without_numbers_apart(self) -> None:
        said = why_not_shown("apptainer", [Gpu(id="1", vendor="amd", nodes=AMD.nodes)])
        assert said is not None
        assert "could not be told from others" in said

    @pytest.mark.parametrize(
        ("devices", "flag", "visible"),
        [((), None, "void"), ((A, B), "--nv", "GPU-a,GPU-b"), ((AMD,), "--rocm", "void")],
    )
    def test_is_told_by_vendor(
        self, devices: tuple[Gpu, ...], flag: str | None, visible: str
    ) -> None:
        own = ApptainerFacts(program="apptainer", version="1.4.5")
        spec = ContainerSpec(name="c", image=IMAGE, devices=devices)
        argv = exec_argv(own, spec, ("sh",), scratch="/s")
        assert [word for word in argv if word in {"--nv", "--rocm"}] == ([flag] if flag else [])
        enclosure = SifEnclosure(own, spec, ControlGroups("/nowhere"))
        variables = enclosure.client_environment()
        assert variables["APPTAINERENV_NVIDIA_VISIBLE_DEVICES"] == visible


@pytest.mark.parametrize(
    ("said", "is_so"),
    [
        ("Error: setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=GPU-a", True),
        ("could not select device driver: [[gpu]]", True),
        ("no such image", False),
        ("CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=GPU-a", True),
    ],
)
def test_an_engine_that_lacks_a_device_is_understood(said: str, is_so: bool) -> None:
    assert lacks_cdi(said) is is_so
