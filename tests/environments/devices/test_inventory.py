"""Which devices there are, read from drivers that tests make up; and from a real one."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from fasthep_flow.environments.devices import inventory as module
from fasthep_flow.environments.devices.amd import amd_devices
from fasthep_flow.environments.devices.inventory import inventory, permitted
from fasthep_flow.environments.devices.nvidia import nvidia_devices
from fasthep_flow.model import Gpu
from fasthep_flow.testing.devices import machine_with

TWO = (Gpu(id="GPU-a", name="H200"), Gpu(id="GPU-b", name="H200"))
HIDING = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


@pytest.fixture(autouse=True)
def _nothing_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HIDING:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("visible", "ids"),
    [
        (None, ("GPU-a", "GPU-b")),
        ("1", ("GPU-b",)),
        ("1,0", ("GPU-b", "GPU-a")),
        (" 1 , GPU-a", ("GPU-b", "GPU-a")),
        ("0,7,1", ("GPU-a",)),
        ("0,-1,1", ("GPU-a",)),
        ("MIG-x", ("MIG-x",)),
    ],
)
def test_only_what_the_batch_system_gave_counts(visible: str | None, ids: tuple[str, ...]) -> None:
    found = permitted(TWO, visible)
    assert not isinstance(found, str)
    assert tuple(gpu.id for gpu in found) == ids


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles", "7", "GPU-c"])
def test_all_may_be_hidden(visible: str) -> None:
    assert permitted(TWO, visible) == (
        f"CUDA_VISIBLE_DEVICES is {visible!r}, which hides all devices"
    )


SLICES = (
    Gpu(id="MIG-a1", nodes=("/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap1")),
    Gpu(id="MIG-a2", nodes=("/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap2")),
    Gpu(id="GPU-b", nodes=("/dev/nvidia1",)),
)


@pytest.mark.parametrize(
    ("visible", "ids"),
    [
        ("0", ("MIG-a1",)),  # a divided device, by its number, is its first slice
        ("1", ("GPU-b",)),
        ("MIG-a2,GPU-b", ("MIG-a2", "GPU-b")),
        ("MIG-GPU-a/2/0", ("MIG-GPU-a/2/0",)),
        ("1,1", ("GPU-b",)),
    ],
)
def test_slices_are_devices(visible: str, ids: tuple[str, ...]) -> None:
    found = permitted(SLICES, visible)
    assert not isinstance(found, str)
    assert tuple(gpu.id for gpu in found) == ids


class FakeNvml(ModuleType):
    """The package nvidia-ml-py on a machine that a test makes up."""

    class NVMLError(Exception):
        pass

    def __init__(self, *names: str | bytes, fails_at: str = "", divided: int = -1) -> None:
        super().__init__("pynvml")
        self.names = names
        self.fails_at = fails_at
        self.divided = divided
        self.open = False

    def fail(self, where: str) -> None:
        if where == self.fails_at:
            raise self.NVMLError(f"{where} failed")

    def nvmlInit(self) -> None:  # noqa: N802
        self.fail("init")
        self.open = True

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open = False

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self.fail("count")
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetMinorNumber(self, handle: int) -> int:  # noqa: N802
        self.fail("minor")
        return handle + 4

    def nvmlDeviceGetUUID(self, handle: int | tuple[int, int]) -> str:  # noqa: N802
        if isinstance(handle, tuple):
            return f"MIG-{handle[0]}-{handle[1]}"
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle: int | tuple[int, int]) -> str | bytes:  # noqa: N802
        self.fail("name")
        return "a slice" if isinstance(handle, tuple) else self.names[handle]

    def nvmlDeviceGetMemoryInfo(self, _: object) -> SimpleNamespace:  # noqa: N802
        self.fail("memory")
        return SimpleNamespace(total=100, free=60)

    def nvmlDeviceGetMigMode(self, handle: int) -> tuple[int, int]:  # noqa: N802
        if self.divided < 0:
            raise self.NVMLError("Not Supported")
        return (int(handle == self.divided), 0)

    def nvmlDeviceGetMaxMigDeviceCount(self, _: int) -> int:  # noqa: N802
        return 3

    def nvmlDeviceGetMigDeviceHandleByIndex(  # noqa: N802
        self, handle: int, index: int
    ) -> tuple[int, int]:
        if index == 1:
            raise self.NVMLError("Not Found")
        return (handle, index)

    def nvmlDeviceGetGpuInstanceId(self, handle: tuple[int, int]) -> int:  # noqa: N802
        return handle[1] + 1

    def nvmlDeviceGetComputeInstanceId(self, _: tuple[int, int]) -> int:  # noqa: N802
        return 0


class TestNvidia:
    def test_lists_what_the_driver_lists(self, monkeypatch: pytest.MonkeyPatch) -> None:
        nvml = FakeNvml("H200", b"H100")
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        both = (
            Gpu(id="GPU-0", name="H200", memory=100, free=60, nodes=("/dev/nvidia4",)),
            Gpu(id="GPU-1", name="H100", memory=100, free=60, nodes=("/dev/nvidia5",)),
        )
        assert nvidia_devices() == both
        assert not nvml.open
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        assert inventory() == both[1:]

    @pytest.mark.parametrize("lacking", ["memory", "minor", "name"])
    def test_does_without_what_is_not_known(
        self, monkeypatch: pytest.MonkeyPatch, lacking: str
    ) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", FakeNvml("H200", fails_at=lacking))
        found = nvidia_devices()
        assert [gpu.id for gpu in found if isinstance(gpu, Gpu)] == ["GPU-0"]

    def test_lists_the_slices_of_a_divided_device(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        for place, minor in (("gi1", 12), ("gi1/ci0", 13)):
            access = tmp_path / "gpu4" / "mig" / place / "access"
            access.parent.mkdir(parents=True)
            access.write_text(f"DeviceFileMinor: {minor}\nDeviceFileMode: 444\n")
        monkeypatch.setitem(sys.modules, "pynvml", FakeNvml("H200", "H100", divided=0))
        caps = ("/dev/nvidia-caps/nvidia-cap12", "/dev/nvidia-caps/nvidia-cap13")

        def gpu(id_: str, name: str, *nodes: str) -> Gpu:
            return Gpu(id=id_, name=name, memory=100, free=60, nodes=nodes)

        assert nvidia_devices(tmp_path) == (
            gpu("MIG-0-0", "a slice", "/dev/nvidia4", *caps),
            # Its files are not told of.
            gpu("MIG-0-2", "a slice", "/dev/nvidia4"),
            gpu("GPU-1", "H100", "/dev/nvidia5"),
        )

    @pytest.mark.parametrize(
        ("nvml", "words"),
        [
            (None, "nvidia-ml-py is not there"),
            (FakeNvml(fails_at="init"), "no NVIDIA driver answers: init failed"),
            (FakeNvml("H200", fails_at="count"), "does not list its devices: count failed"),
            (FakeNvml(), "has no device"),
        ],
    )
    def test_says_why_there_are_none(
        self, monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml | None, words: str
    ) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        found = nvidia_devices()
        assert isinstance(found, str)
        assert words in found
        assert nvml is None or not nvml.open


def write(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


NODES = "sys/class/kfd/kfd/topology/nodes"
CARD = "sys/class/drm/renderD129/device"
PROCESSOR = "cpu_cores_count 64\nsimd_count 0\ndrm_render_minor 0\nunique_id 0\n"
MI300X = "simd_count 1216\nvendor_id 4098\ndrm_render_minor 129\nunique_id 7044573201461305932\n"
OLD = "simd_count 64\nvendor_id 4098\ndrm_render_minor 130\nunique_id 0\n"


class TestAmd:
    def test_lists_what_the_kernel_lists(self, tmp_path: Path) -> None:
        write(
            tmp_path,
            {
                "dev/kfd": "",
                f"{NODES}/0/properties": PROCESSOR,
                f"{NODES}/10/properties": OLD,
                f"{NODES}/10/name": "fiji\n",
                f"{NODES}/10/mem_banks/0/properties": "heap_type 1\nsize_in_bytes 4096\n",
                f"{NODES}/2/properties": MI300X,
                f"{CARD}/product_name": "AMD Instinct MI300X\n",
                f"{CARD}/mem_info_vram_total": "1000\n",
                f"{CARD}/mem_info_vram_used": "300\n",
                # Another user's: the kernel lets nobody else read it.
                f"{NODES}/3/properties": "",
            },
        )
        assert amd_devices(tmp_path) == (
            Gpu(
                id="GPU-61c35a00c356624c",
                vendor="amd",
                name="AMD Instinct MI300X",
                memory=1000,
                free=700,
                nodes=("/dev/kfd", "/dev/dri/renderD129"),
            ),
            Gpu(
                id="1",
                vendor="amd",
                name="fiji",
                memory=4096,
                free=4096,
                nodes=("/dev/kfd", "/dev/dri/renderD130"),
            ),
        )

    @pytest.mark.parametrize(
        ("files", "why"),
        [
            ({}, "no AMD driver: there is no /dev/kfd"),
            (
                {"dev/kfd": ""},
                "the AMD driver does not list its devices: No such file or directory",
            ),
            (
                {"dev/kfd": "", f"{NODES}/0/properties": PROCESSOR},
                "the AMD driver has no device that this user may use",
            ),
        ],
    )
    def test_says_why_there_are_none(
        self, tmp_path: Path, files: Mapping[str, str], why: str
    ) -> None:
        assert amd_devices(write(tmp_path, files)) == why


class TestInventory:
    def test_is_of_both_vendors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mixed = (*TWO, *(Gpu(id=f"GPU-{name}", vendor="amd") for name in "cde"))
        with machine_with(*mixed):
            assert inventory() == mixed
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
            assert inventory() == mixed[1:]
            monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "GPU-c,2")
            assert inventory() == (mixed[1], mixed[2], mixed[4])
            # HIP counts what ROCr has left.
            monkeypatch.setenv("HIP_VISIBLE_DEVICES", "1")
            assert inventory() == (mixed[1], mixed[4])
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
            assert inventory() == mixed[4:]
            monkeypatch.setenv("HIP_VISIBLE_DEVICES", "-1")
            assert inventory() == (
                "CUDA_VISIBLE_DEVICES is '', which hides all devices; "
                "HIP_VISIBLE_DEVICES is '-1', which hides all devices"
            )

    def test_says_why_there_are_none_of_either(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "nvidia_devices", lambda: "no NVIDIA")
        monkeypatch.setattr(module, "amd_devices", lambda: "no AMD")
        assert inventory() == "no NVIDIA; no AMD"

    @pytest.mark.gpu
    def test_finds_the_devices_of_this_machine(self) -> None:
        found = inventory()
        assert not isinstance(found, str)
        nvidia = [gpu for gpu in found if gpu.vendor == "nvidia"]
        assert all(gpu.id.startswith(("GPU-", "MIG-")) and gpu.memory > 0 for gpu in nvidia)
        assert all(Path(node).is_char_device() for gpu in found for node in gpu.nodes)
        assert len({gpu.id for gpu in found}) == len(found)
