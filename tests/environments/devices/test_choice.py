"""Where a task runs, and on which devices: decided by rules alone, without any process."""

from collections.abc import Sequence
from typing import Any, get_args

import pytest

from fasthep_flow.environments.devices.choice import HIDDEN, choose_device, lendable, shown
from fasthep_flow.errors import DeviceUnavailable
from fasthep_flow.model import Device, Gpu, ProcessOn

TWO = (Gpu(id="GPU-a", name="H200"), Gpu(id="GPU-b", name="H200"))
AMD = (Gpu(id="GPU-c", vendor="amd", name="MI300X"), Gpu(id="GPU-d", vendor="amd", name="MI300X"))
NONE = "no NVIDIA driver answers: NVML Shared Library Not Found"


def gives(_: Sequence[Gpu]) -> None:
    """A runtime that can give any device."""


def gives_none(_: Sequence[Gpu]) -> str:
    return "the runtime cannot give any"


def choose(
    process_on: ProcessOn,
    *,
    gpus: int | None = None,
    versions: tuple[Device, ...] = ("cpu", "gpu"),
    devices: tuple[Gpu, ...] | str = TWO,
    lends: Any = gives,
) -> tuple[Device, str, tuple[str, ...]]:
    choice = choose_device(process_on, gpus=gpus, versions=versions, devices=devices, lends=lends)
    return choice.device, choice.reason, tuple(gpu.id for gpu in choice.devices)


class TestCpu:
    def test_hides_the_devices(self) -> None:
        assert choose("cpu") == ("cpu", "process_on is cpu", ())
        choice = choose_device("cpu", gpus=None, versions={"cpu"}, devices=TWO, lends=gives)
        assert shown(choice, contained=False) == HIDDEN
        assert set(HIDDEN.values()) == {""}
        # A container has none in the first place.
        assert shown(choice, contained=True) == {}

    def test_needs_a_cpu_version(self) -> None:
        with pytest.raises(DeviceUnavailable, match="gpu version alone"):
            choose("cpu", versions=("gpu",))


class TestGpu:
    def test_shows_as_many_as_are_asked_for(self) -> None:
        assert choose("gpu") == ("gpu", "process_on is gpu: H200", ("GPU-a",))
        assert choose("gpu", gpus=2)[2] == ("GPU-a", "GPU-b")
        choice = choose_device("gpu", gpus=2, versions={"gpu"}, devices=TWO, lends=gives)
        assert shown(choice, contained=False) == {**HIDDEN, "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}
        assert shown(choice, contained=True) == {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}

    def test_of_amd_is_shown_by_its_own_variable(self) -> None:
        choice = choose_device("gpu", gpus=2, versions={"gpu"}, devices=AMD, lends=gives)
        variables = {
            "ROCR_VISIBLE_DEVICES": "GPU-c,GPU-d",
            # These would choose among what that one has left.
            "HIP_VISIBLE_DEVICES": None,
            "CUDA_VISIBLE_DEVICES": None,
        }
        assert shown(choice, contained=False) == variables
        assert shown(choice, contained=True) == variables

    def test_of_amd_without_a_number_of_its_own_is_counted_on_the_host_alone(self) -> None:
        """In a container others are not there, and it is counted anew."""
        old = (Gpu(id="1", vendor="amd"),)
        choice = choose_device("gpu", gpus=1, versions={"gpu"}, devices=old, lends=gives)
        assert shown(choice, contained=False)["ROCR_VISIBLE_DEVICES"] == "1"
        assert "ROCR_VISIBLE_DEVICES" not in shown(choice, contained=True)

    @pytest.mark.parametrize(
        ("request_", "words"),
        [
            ({"devices": NONE}, "NVML Shared Library Not Found"),
            ({"devices": ()}, "1 device is asked for, and 0 can be used here"),
            ({"gpus": 3}, "3 devices are asked for, and 2 can be used here"),
            # No program uses devices of both.
            ({"gpus": 3, "devices": (*TWO, *AMD)}, "3 devices are asked for, and 2"),
            ({"versions": ("cpu",)}, "no gpu version"),
            ({"lends": gives_none}, "the runtime cannot give any"),
        ],
    )
    def test_is_refused_with_the_reason(self, request_: dict[str, Any], words: str) -> None:
        with pytest.raises(DeviceUnavailable) as caught:
            choose("gpu", **request_)
        assert words in caught.value.message
        device, reason, visible = choose("gpu_if_available", **request_)
        assert (device, visible) == ("cpu", ())
        assert words in reason

    def test_goes_where_so_many_of_one_vendor_are(self) -> None:
        assert choose("gpu", devices=(*TWO[:1], *AMD), gpus=2)[2] == ("GPU-c", "GPU-d")

    def test_several_are_whole_or_slices(self) -> None:
        """CUDA shows a program one slice alone, and no whole device beside it."""
        slices = (Gpu(id="MIG-a"), Gpu(id="MIG-b"))
        assert choose("gpu", devices=(*TWO, *slices), gpus=2)[2] == ("GPU-a", "GPU-b")
        assert choose("gpu", devices=(TWO[0], *slices), gpus=2)[2] == ("MIG-a", "MIG-b")
        with pytest.raises(DeviceUnavailable, match="2 devices are asked for, and 1 can be used"):
            choose("gpu", devices=(TWO[0], slices[0]), gpus=2)
        # For one, each will do.
        free = lendable((TWO[0], *slices), 1, gives)
        assert [gpu.id for gpu in free if isinstance(gpu, Gpu)] == ["GPU-a", "MIG-a", "MIG-b"]

    def test_is_one_that_the_runtime_can_give(self) -> None:
        def only(id_: str) -> Any:
            return lambda devices: None if devices[0].id == id_ else f"it gives {id_} alone"

        assert choose("gpu", lends=only("GPU-b"))[2] == ("GPU-b",)
        assert choose("gpu", devices=(*TWO, *AMD), lends=only("GPU-d"))[2] == ("GPU-d",)
        with pytest.raises(DeviceUnavailable, match="2 gpus: it gives GPU-b alone"):
            choose("gpu", gpus=2, lends=only("GPU-b"))

    def test_what_all_of_them_lack_is_told_once(self) -> None:
        """A machine may have eight; the one that is named stands for all."""

        def nothing_of(devices: Sequence[Gpu]) -> str:
            return f"nothing describes {devices[0].id} (no {devices[0].id})"

        with pytest.raises(DeviceUnavailable) as caught:
            choose("gpu", lends=nothing_of)
        assert caught.value.message == (
            "the task asks for a gpu: nothing describes GPU-a (no GPU-a)"
        )
        with pytest.raises(DeviceUnavailable) as caught:
            choose("gpu", lends=lambda devices: {"GPU-a": "it is gone"}.get(devices[0].id, "why?"))
        assert caught.value.message == "the task asks for a gpu: it is gone; why?"


def test_gpu_if_available_takes_one_that_is() -> None:
    assert choose("gpu_if_available")[::2] == ("gpu", ("GPU-a",))
    with pytest.raises(DeviceUnavailable, match="no cpu version, and no NVIDIA driver"):
        choose("gpu_if_available", versions=("gpu",), devices=NONE)


@pytest.mark.parametrize("process_on", get_args(ProcessOn))
@pytest.mark.parametrize("versions", [("cpu",), ("gpu",), ("cpu", "gpu")])
@pytest.mark.parametrize("devices", [TWO, AMD, (), NONE])
@pytest.mark.parametrize("lends", [gives, gives_none])
def test_never_chooses_what_there_is_not(
    process_on: ProcessOn,
    versions: tuple[Device, ...],
    devices: tuple[Gpu, ...] | str,
    lends: Any,
) -> None:
    try:
        device, reason, visible = choose(
            process_on, versions=versions, devices=devices, lends=lends
        )
    except DeviceUnavailable:
        return
    assert device in versions
    assert reason
    assert bool(visible) == (device == "gpu")
    assert device == "cpu" or (process_on != "cpu" and devices in (TWO, AMD) and lends is gives)
