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
    for name in (*HIDING, "SLURM_JOB_ID", "_CONDOR_JOB_AD"):
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
        ("0,1,", ("GPU-a", "GPU-b")),
        ("01", ("GPU-b",)),
        # The first that an abbreviation fits.
        ("GPU-", ("GPU-a",)),
        ("GPU-a,MIG-x,GPU-b", ("GPU-a",)),
    ],
)
def test_only_what_the_batch_system_gave_counts(visible: str | None, ids: tuple[str, ...]) -> None:
    found = permitted(TWO, visible)
    assert not isinstance(found, str)
    assert tuple(gpu.id for gpu in found) == ids


@pytest.mark.parametrize(
    "visible",
    [
        *("", " ", ",", "-1", "NoDevFiles", "none", "all", "7", "+1", "1.0", "GPU-c", "gpu-a"),
        # No device of this machine has such an id, and no driver would take it.
        *("MIG-x", "MIG-GPU-a", "MIG-GPU-a/2", "MIG-GPU-a/2/x", "MIG-"),
        # Digits, though not those of C.
        *("\uff11", "\u0661", "\u00b2"),
    ],
)
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
        ("0,1", ("MIG-a1", "GPU-b")),
        ("2", None),
        ("MIG-a2,GPU-b", ("MIG-a2", "GPU-b")),
        ("MIG-a3,GPU-b", None),
        ("MIG-GPU-a/2/0", ("MIG-GPU-a/2/0",)),
        ("MIG-GPU-a/2/0,MIG-a1", ("MIG-GPU-a/2/0", "MIG-a1")),
        ("MIG-GPU-8f6d1a2e-07c5-b2a9-aa0c-1f4e32f3c9d1/12/0", "the same"),
        ("1,1", ("GPU-b",)),
    ],
)
def test_slices_are_devices(visible: str, ids: tuple[str, ...] | str | None) -> None:
    found = permitted(SLICES, visible)
    if ids is None:
        assert found == f"CUDA_VISIBLE_DEVICES is {visible!r}, which hides all devices"
        return
    assert not isinstance(found, str)
    assert tuple(gpu.id for gpu in found) == ((visible,) if ids == "the same" else ids)


def test_slices_without_files_are_devices_of_their_own() -> None:
    """What the driver does not tell cannot be grouped; no two of them are taken for one."""
    slices = (Gpu(id="MIG-a"), Gpu(id="MIG-b"))
    assert permitted(slices, "0,1") == slices


def test_the_slice_that_is_permitted_keeps_what_is_known_of_it() -> None:
    assert permitted(SLICES, "MIG-a2") == SLICES[1:2]


class FakeNvml(ModuleType):
    """The package nvidia-ml-py on a machine that a test makes up."""

    class NVMLError(Exception):
        pass

    def __init__(
        self,
        *names: str | bytes,
        fails_at: str = "",
        divided: int = -1,
        places: tuple[int, ...] = (0, 2),
    ) -> None:
        super().__init__("pynvml")
        self.names = names
        self.fails_at = fails_at
        self.divided = divided
        self.places = places
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
        if index not in self.places:
            raise self.NVMLError("Not Found")
        return (handle, index)

    def nvmlDeviceGetGpuInstanceId(self, handle: tuple[int, int]) -> int:  # noqa: N802
        self.fail("instance")
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

    def test_a_divided_device_without_a_slice_is_none(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """No program can use a device in that mode as a whole."""
        monkeypatch.setitem(sys.modules, "pynvml", FakeNvml("H200", divided=0, places=()))
        assert nvidia_devices(tmp_path) == "the NVIDIA driver has no device"
        monkeypatch.setitem(sys.modules, "pynvml", FakeNvml("H200", "H100", divided=0, places=()))
        found = nvidia_devices(tmp_path)
        assert [gpu.id for gpu in found if isinstance(gpu, Gpu)] == ["GPU-1"]

    def test_each_slice_is_a_device_with_files_of_its_own(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        for instance in (1, 2, 3):
            for place, minor in ((f"gi{instance}", 9 * instance), (f"gi{instance}/ci0", 100)):
                access = tmp_path / "gpu4" / "mig" / place / "access"
                access.parent.mkdir(parents=True, exist_ok=True)
                access.write_text(f"DeviceFileMinor: {minor + instance}\n")
        monkeypatch.setitem(sys.modules, "pynvml", FakeNvml("H200", divided=0, places=(0, 1, 2)))
        found = nvidia_devices(tmp_path)
        assert not isinstance(found, str)
        assert [gpu.id for gpu in found] == ["MIG-0-0", "MIG-0-1", "MIG-0-2"]
        assert [gpu.nodes for gpu in found] == [
            (
                "/dev/nvidia4",
                f"/dev/nvidia-caps/nvidia-cap{10 * instance}",
                f"/dev/nvidia-caps/nvidia-cap{100 + instance}",
            )
            for instance in (1, 2, 3)
        ]
        # One of the three is what a batch system would leave.
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-0-1")
        monkeypatch.setattr(module, "nvidia_devices", lambda: found)
        assert inventory() == (found[1],)

    @pytest.mark.parametrize(
        ("access", "fails_at"),
        [
            ("", ""),
            ("DeviceFileMode: 444\n", ""),
            ("DeviceFileMinor: many\n", ""),
            ("DeviceFileMinor\n", ""),
            ("DeviceFileMinor: \u00e9\n", ""),
            ("DeviceFileMinor: 12\n", "instance"),
        ],
    )
    def test_a_slice_whose_files_are_not_known_is_there_all_the_same(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, access: str, fails_at: str
    ) -> None:
        for place in ("gi1", "gi1/ci0"):
            path = tmp_path / "gpu4" / "mig" / place / "access"
            path.parent.mkdir(parents=True)
            path.write_text(access, encoding="utf-8")
        nvml = FakeNvml("H200", divided=0, places=(0,), fails_at=fails_at)
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        found = nvidia_devices(tmp_path)
        assert not isinstance(found, str)
        assert [(gpu.id, gpu.nodes) for gpu in found] == [("MIG-0-0", ("/dev/nvidia4",))]

    def test_an_older_package_knows_of_no_slices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        nvml = FakeNvml("H200")
        monkeypatch.delattr(FakeNvml, "nvmlDeviceGetMigMode")
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        assert isinstance(nvidia_devices(), tuple)

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
SECOND = MI300X.replace("129", "131").replace("7044573201461305932", "1")
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

    def test_of_two_alike_each_has_its_number(self, tmp_path: Path) -> None:
        write(
            tmp_path,
            {
                "dev/kfd": "",
                f"{NODES}/0/properties": PROCESSOR,
                # In the order of numbers, not of letters.
                f"{NODES}/9/properties": MI300X,
                f"{NODES}/9/name": "aqua_vanjaram\n",
                f"{NODES}/10/properties": SECOND,
                f"{NODES}/10/mem_banks/0/properties": "size_in_bytes 4096\n",
                f"{NODES}/10/mem_banks/1/properties": "size_in_bytes 1024\n",
                # Beside the nodes there may be anything.
                f"{NODES}/generation_id/properties": MI300X,
            },
        )
        found = amd_devices(tmp_path)
        assert not isinstance(found, str)
        assert [(gpu.id, gpu.name, gpu.memory, gpu.nodes[1]) for gpu in found] == [
            ("GPU-61c35a00c356624c", "aqua_vanjaram", 0, "/dev/dri/renderD129"),
            ("GPU-0000000000000001", "", 5120, "/dev/dri/renderD131"),
        ]

    @pytest.mark.parametrize(
        ("properties", "nodes"),
        [
            # Without a display's part: what a program needs of it is not known.
            ("simd_count 64\nunique_id 5\n", ("/dev/kfd",)),
            ("simd_count 64\nunique_id 5\ndrm_render_minor 0\n", ("/dev/kfd",)),
            ("simd_count 64\nunique_id 5\ndrm_render_minor -1\n", ("/dev/kfd",)),
            (
                "garbage\nsimd_count 64 8\nsimd_count 64\nunique_id 5\ndrm_render_minor 128\n",
                ("/dev/kfd", "/dev/dri/renderD128"),
            ),
        ],
    )
    def test_odd_facts_are_read_as_far_as_they_go(
        self, tmp_path: Path, properties: str, nodes: tuple[str, ...]
    ) -> None:
        write(tmp_path, {"dev/kfd": "", f"{NODES}/1/properties": properties})
        found = amd_devices(tmp_path)
        assert found == (Gpu(id="GPU-0000000000000005", vendor="amd", nodes=nodes),)

    def test_parts_of_one_device_that_share_its_number_are_counted(self, tmp_path: Path) -> None:
        """Else one task's lock and variable would stand for another's part."""
        parts = {
            f"{NODES}/{number}/properties": MI300X.replace("129", f"{128 + number}")
            for number in (4, 5, 6)
        }
        write(tmp_path, {"dev/kfd": "", **parts, f"{NODES}/7/properties": SECOND})
        found = amd_devices(tmp_path)
        assert not isinstance(found, str)
        assert [gpu.id for gpu in found] == ["0", "1", "2", "GPU-0000000000000001"]
        assert len({gpu.nodes for gpu in found}) == 4

    def test_more_used_than_there_is_leaves_nothing(self, tmp_path: Path) -> None:
        write(
            tmp_path,
            {
                "dev/kfd": "",
                f"{NODES}/1/properties": MI300X,
                f"{CARD}/mem_info_vram_total": "1000\n",
                f"{CARD}/mem_info_vram_used": "3000\n",
                f"{CARD}/product_name": "\n",
            },
        )
        found = amd_devices(tmp_path)
        assert not isinstance(found, str)
        assert [(gpu.memory, gpu.free, gpu.name) for gpu in found] == [(1000, 0, "")]

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
            (
                {"dev/kfd": "", f"{NODES}/1/properties": "\u00e9"},
                "the AMD driver has no device that this user may use",
            ),
            (
                {"dev/kfd": "", NODES: "no folder"},
                "the AMD driver does not list its devices: Not a directory",
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

    @pytest.mark.parametrize(
        ("job", "said"),
        [
            ({"SLURM_JOB_ID": "7"}, "Slurm gave this job (7) none of the machine's devices"),
            ({"_CONDOR_JOB_AD": "/x/.job.ad"}, "HTCondor gave this job none of the machine's dev"),
        ],
    )
    def test_is_empty_in_a_batch_job_that_was_given_none(
        self, monkeypatch: pytest.MonkeyPatch, job: Mapping[str, str], said: str
    ) -> None:
        for name, value in job.items():
            monkeypatch.setenv(name, value)
        with machine_with(*TWO):
            reason = inventory()
            assert isinstance(reason, str)
            assert reason.startswith(said)
            assert reason.endswith("neither SLURM_JOB_GPUS nor CUDA_VISIBLE_DEVICES is set")
        with machine_with():
            assert isinstance(inventory(), str)

    @pytest.mark.parametrize("given", ["SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "GPU_DEVICE_ORDINAL"])
    def test_is_what_can_be_seen_in_a_batch_job_that_was_given_some(
        self, monkeypatch: pytest.MonkeyPatch, given: str
    ) -> None:
        # Where a job sees its own devices alone, they may be said by other names.
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv(given, "1")
        with machine_with(*TWO):
            assert inventory() == TWO
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
            assert inventory() == TWO[1:]

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
