"""Where a task runs: on which kind of device, on which of them, and why there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

from msgspec import Struct

from fasthep_flow.errors import DeviceUnavailable
from fasthep_flow.model import Device, Gpu, ProcessOn

__all__ = ["HIDDEN", "NO_GPU", "DeviceChoice", "choose_device", "lendable", "on_the_cpu", "shown"]

HIDDEN: Final = {
    "CUDA_VISIBLE_DEVICES": "",
    "HIP_VISIBLE_DEVICES": "",
    "ROCR_VISIBLE_DEVICES": "",
}
"""The variables by which a task on the processor sees no device."""

NO_GPU: Final = "no gpu: "
"""How the reason begins for which a task runs on the processor, though it would rather not."""


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
    found = lendable(devices, count, lends) if "gpu" in versions else "the task has no gpu version"
    if not isinstance(found, str):
        chosen = found[:count]
        names = ", ".join(sorted({gpu.name for gpu in chosen if gpu.name}))
        return DeviceChoice(
            device="gpu",
            reason=f"process_on is {process_on}" + (f": {names}" if names else ""),
            devices=chosen,
        )
    if process_on == "gpu":
        hint = None
        if "cpu" in versions:
            hint = "with 'process_on: gpu_if_available' it would run on the cpu"
        raise DeviceUnavailable(f"the task asks for {_gpus(count)}: {found}", hint=hint)
    return on_the_cpu(found, versions)


def on_the_cpu(why: str, versions: Collection[Device]) -> DeviceChoice:
    """The choice of a task that would rather have had a device.

    Raises:
        DeviceUnavailable: There is nothing to run there.
    """
    if "cpu" not in versions:
        raise DeviceUnavailable(f"the task has no cpu version, and {why}")
    return DeviceChoice(device="cpu", reason=f"{NO_GPU}{why}")


def lendable(
    devices: tuple[Gpu, ...] | str,
    count: int,
    lends: Callable[[Sequence[Gpu]], str | None],
) -> tuple[Gpu, ...] | str:
    """Those that a runtime can give to a task which asks for so many; or why it cannot.

    All of them are of one vendor, and several are whole or slices: no program uses both.

    Args:
        devices: To choose from, or why there are none.
        count: How many are asked for.
        lends: ``None`` where these devices can be given together, else why not.
    """
    if isinstance(devices, str):
        return devices

    def kind(gpu: Gpu) -> tuple[str, bool]:
        return gpu.vendor, count > 1 and gpu.id.startswith("MIG-")

    groups = [
        tuple(gpu for gpu in devices if kind(gpu) == one)
        for one in dict.fromkeys(map(kind, devices))
    ]
    most = max(map(len, groups), default=0)
    if most < count:
        return f"{_are(count)} asked for, and {most} can be used here"
    # By what is left of them without the name of the device: all may lack the same.
    obstacles: dict[str, str] = {}
    for group in groups:
        if len(group) < count:
            continue
        refused = {gpu.id: why for gpu in group if (why := lends((gpu,))) is not None}
        left = tuple(gpu for gpu in group if gpu.id not in refused)
        if len(left) < count:
            for identity, why in refused.items():
                obstacles.setdefault(why.replace(identity, ""), why)
        elif (why_not := lends(left[:count])) is not None:
            obstacles.setdefault(why_not, why_not)
        else:
            return left
    return "; ".join(obstacles.values())


def shown(choice: DeviceChoice, *, contained: bool) -> dict[str, str | None]:
    """The variables that show the task its devices, and no others; ``None`` for one to be absent.

    Args:
        choice: Where it runs.
        contained: Whether in a container, which on the processor sees no devices anyway.
    """
    if choice.device == "cpu":
        return {} if contained else {**HIDDEN}
    ids = ",".join(gpu.id for gpu in choice.devices)
    if all(gpu.vendor == "nvidia" for gpu in choice.devices):
        return {**({} if contained else HIDDEN), "CUDA_VISIBLE_DEVICES": ids}
    # HIP counts what these two name among what ROCr has left, and PyTorch takes an empty one
    # for no device at all.
    variables: dict[str, str | None] = {"CUDA_VISIBLE_DEVICES": None, "HIP_VISIBLE_DEVICES": None}
    if not contained or not any(gpu.id.isdecimal() for gpu in choice.devices):
        variables["ROCR_VISIBLE_DEVICES"] = ids
    return variables


def _gpus(count: int) -> str:
    return "a gpu" if count == 1 else f"{count} gpus"


def _are(count: int) -> str:
    return "1 device is" if count == 1 else f"{count} devices are"
