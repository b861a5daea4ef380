import sys
from types import ModuleType, SimpleNamespace
from typing import Any, Literal, get_args

import pytest

from fasthep_flow.environments.devices.choice import HIDDEN, choose_device, shown
from fasthep_flow.environments.devices.inventory import inventory, permitted
from fasthep_flow.errors import EnvironmentRefused
from fasthep_flow.model import Device, Gpu, ProcessOn

TWO = (Gpu(id="GPU-a", name="H200"), Gpu(id="GPU-b", name="H200"))
NONE = "no NVIDIA driver answers: NVML Shared Library Not Found"


def choose(
    process_on: ProcessOn,
    *,
    gpus: int | None = None,
    versions: tuple[Device, ...] = ("cpu", "gpu"),
    devices: tuple[Gpu, ...] | str = TWO,
    image: bool = False,
) -> tuple[Device, str, tuple[str, ...]]:
    choice = choose_device(process_on, gpus=gpus, versions=versions, devices=devices, image=image)
    return choice.device, choice.reason, choice.visible


class TestCpu:
    def test_hides_the_devices(self) -> None:
        assert choose("cpu") == ("cpu", "process_on is cpu", ())
        choice = choose_device("cpu", gpus=None, versions={"cpu"}, devices=TWO, image=False)
        assert shown(choice) == HIDDEN
        assert set(HIDDEN.values()) == {""}

    def test_needs_a_cpu_version(self) -> None:
        with pytest.raises(EnvironmentRefused, match="gpu version alone"):
            choose("cpu", versions=("gpu",))


class TestGpu:
    def test_shows_as_many_as_are_asked_for(self) -> None:
        assert choose("gpu") == ("gpu", "process_on is gpu: H200", ("GPU-a",))
        assert choose("gpu", gpus=2)[2] == ("GPU-a", "GPU-b")
        choice = choose_device("gpu", gpus=2, versions={"gpu"}, devices=TWO, image=False)
        assert shown(choice) == {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}

    @pytest.mark.parametrize(
        ("request_", "words"),
        [
            ({"devices": NONE}, "NVML Shared Library Not Found"),
            ({"devices": ()}, "1 devices are asked for, and 0"),
            ({"gpus": 3}, "3 devices are asked for, and 2"),
            ({"versions": ("cpu",)}, "no gpu version"),
            ({"image": True}, "containers are not given devices yet"),
        ],
    )
    def test_is_refused_with_the_reason(self, request_: dict[str, Any], words: str) -> None:
        with pytest.raises(EnvironmentRefused) as caught:
            choose("gpu", **request_)
        assert words in caught.value.message
        device, reason, visible = choose("gpu_if_available", **request_)
        assert (device, visible) == ("cpu", ())
        assert words in reason


def test_gpu_if_available_takes_one_that_is() -> None:
    assert choose("gpu_if_available")[::2] == ("gpu", ("GPU-a",))
    with pytest.raises(EnvironmentRefused, match="no cpu version, and no NVIDIA driver"):
        choose("gpu_if_available", versions=("gpu",), devices=NONE)


@pytest.mark.parametrize("process_on", get_args(ProcessOn))
@pytest.mark.parametrize("versions", [("cpu",), ("gpu",), ("cpu", "gpu")])
@pytest.mark.parametrize("devices", [TWO, (), NONE])
@pytest.mark.parametrize("image", [False, True])
def test_never_chooses_what_there_is_not(
    process_on: ProcessOn,
    versions: tuple[Device, ...],
    devices: tuple[Gpu, ...] | str,
    image: Literal[True, False],
) -> None:
    try:
        device, reason, visible = choose(
            process_on, versions=versions, devices=devices, image=image
        )
    except EnvironmentRefused:
        return
    assert device in versions
    assert reason
    assert bool(visible) == (device == "gpu")
    assert device == "cpu" or (process_on != "cpu" and devices == TWO and not image)


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


class FakeNvml(ModuleType):
    """The package nvidia-ml-py on a machine that a test makes up."""

    class NVMLError(Exception):
        pass

    def __init__(self, *names: str | bytes, fails_at: str = "") -> None:
        super().__init__("pynvml")
        self.names = names
        self.fails_at = fails_at
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

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle: int) -> str | bytes:  # noqa: N802
        return self.names[handle]

    def nvmlDeviceGetMemoryInfo(self, _: int) -> SimpleNamespace:  # noqa: N802
        self.fail("memory")
        return SimpleNamespace(total=100, free=60)


class TestInventory:
    @pytest.fixture(autouse=True)
    def _nothing_hidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def test_lists_what_the_driver_lists(self, monkeypatch: pytest.MonkeyPatch) -> None:
        nvml = FakeNvml("H200", b"H100")
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        assert inventory() == (
            Gpu(id="GPU-0", name="H200", memory=100, free=60),
            Gpu(id="GPU-1", name="H100", memory=100, free=60),
        )
        assert not nvml.open
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        assert inventory() == (Gpu(id="GPU-1", name="H100", memory=100, free=60),)

    def test_does_without_the_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", FakeNvml("H200", fails_at="memory"))
        assert inventory() == (Gpu(id="GPU-0", name="H200"),)

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
        found = inventory()
        assert isinstance(found, str)
        assert words in found
        assert nvml is None or not nvml.open

    @pytest.mark.gpu
    def test_finds_the_devices_of_this_machine(self) -> None:
        found = inventory()
        assert not isinstance(found, str)
        assert all(gpu.id.startswith("GPU-") and gpu.memory > 0 for gpu in found)
