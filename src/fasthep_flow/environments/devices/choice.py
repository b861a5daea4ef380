"""Where a task runs: on which kind of device, on which of them, and why there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

from msgspec import Struct

from fasthep_flow.errors import DeviceUnavailable
from fasthep_flow.model import Device, Gpu, ProcessOn

__all__ = ["HIDDEN", "DeviceChoice", "choose_device", "shown"]

HIDDEN: Final = {
    "CUDA_VISIBLE_DEVICES": "",
    "HIP_VISIBLE_DEVICES": "",
    "ROCR_VISIBLE_DEVICES": "",
}
"""The variables by which a task on the processor sees no device."""


class DeviceChoice(Struct, frozen=True, kw_only=True):
    """Where a task runs.

    Args:
        device: The kind.
        reason: Why, for the record.
        devices: Those that the task has, and no others.
    """

    device: Device
    reason: str
    devices: tuple[Gpu, ...] = ()


def choose_device(
    process_on: ProcessOn,
    *,
    gpus: int | None,
    versions: Collection[Device],
    devices: tuple[Gpu, ...] | str,
    lends: Callable[[Sequence[Gpu]], str | None],
) -> DeviceChoice:
    """Where a task runs that asks for ``process_on``.

    Args:
        process_on: What the task asks for.
        gpus: How many devices it asks for; one if it does not say.
        versions: The kinds of device that there is something to run on.
        devices: The devices of this machine, the one to take first foremost, or why there
            are none.
        lends: ``None`` where its runtime can give it these devices, else why not.

    Raises:
        DeviceUnavailable: It cannot run there; with the reason.
    """
    if process_on == "cpu":
        if "cpu" not in versions:
            raise DeviceUnavailable("the task asks for a cpu, and has a gpu version alone")
        return DeviceChoice(device="cpu", reason="process_on is cpu")
    count = gpus or 1
    if "gpu" not in versions:
        obstacle = "the task has no gpu version"
    elif isinstance(devices, str):
        obstacle = devices
    elif len(devices) < count:
        obstacle = f"{count} devices are asked for, and {len(devices)} can be used here"
    elif (why_not := lends(devices[:count])) is not None:
        obstacle = why_not
    else:
        chosen = devices[:count]
        names = ", ".join(sorted({gpu.name for gpu in chosen if gpu.name}))
        return DeviceChoice(
            device="gpu",
            reason=f"process_on is {process_on}" + (f": {names}" if names else ""),
            devices=tuple(chosen),
        )
    if process_on == "gpu":
        raise DeviceUnavailable(
            f"the task asks for a gpu: {obstacle}",
            hint="with 'process_on: gpu_if_available' it would run on the cpu",
        )
    if "cpu" not in versions:
        raise DeviceUnavailable(f"the task has no cpu version, and {obstacle}")
    return DeviceChoice(device="cpu", reason=f"no gpu: {obstacle}")


def shown(choice: DeviceChoice, *, contained: bool) -> dict[str, str]:
    """The variables that show the task its devices, and no others.

    Args:
        choice: Where it runs.
        contained: Whether in a container, which has no other devices anyway.
    """
    if contained:
        return {}
    if choice.device == "cpu":
        return dict(HIDDEN)
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpu.id for gpu in choice.devices)}
