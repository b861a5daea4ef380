"""Which GPUs there are, why not, and which of them a task gets."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Sequence
from typing import Any, Final

from msgspec import Struct

from fasthep_flow.errors import EnvironmentRefused
from fasthep_flow.model import Device, ProcessOn

__all__ = ["HIDDEN", "DeviceChoice", "Gpu", "choose_device", "inventory", "shown"]

HIDDEN: Final = {
    "CUDA_VISIBLE_DEVICES": "",
    "HIP_VISIBLE_DEVICES": "",
    "ROCR_VISIBLE_DEVICES": "",
}
"""The variables by which a task on the processor sees no device."""


class Gpu(Struct, frozen=True, kw_only=True):
    """A device that this process may use.

    Args:
        id: What ``CUDA_VISIBLE_DEVICES`` calls it: its UUID.
        name: Of the product.
        memory: Bytes.
        free: Bytes that nobody uses at the moment.
    """

    id: str
    name: str = ""
    memory: int = 0
    free: int = 0


class DeviceChoice(Struct, frozen=True, kw_only=True):
    """Where a task runs.

    Args:
        device: The kind.
        reason: Why, for the record.
        visible: The ids of the devices that the task sees.
    """

    device: Device
    reason: str
    visible: tuple[str, ...] = ()


def inventory() -> tuple[Gpu, ...] | str:
    """The devices that this process may use, or why there are none. Never raises.

    A batch system that gives a job some of a machine's devices says so in
    ``CUDA_VISIBLE_DEVICES``; the others do not count.
    """
    try:
        import pynvml  # type: ignore[import-untyped]
    except ImportError as error:
        return f"the package nvidia-ml-py is not there: {error}"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return f"no NVIDIA driver answers: {error}"
    try:
        devices = [_read(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        return f"the NVIDIA driver does not list its devices: {error}"
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
    if not devices:
        return "the NVIDIA driver has no device"
    return permitted(devices, os.environ.get("CUDA_VISIBLE_DEVICES"))


def _read(pynvml: Any, index: int) -> Gpu:  # noqa: ANN401 - the package has no types
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    identity, name = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = int(memory.total), int(memory.free)
    except pynvml.NVMLError:
        total = free = 0
    # Older releases of the package answer with bytes.
    return Gpu(id=_text(identity), name=_text(name), memory=total, free=free)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def permitted(devices: Sequence[Gpu], visible: str | None) -> tuple[Gpu, ...] | str:
    """Those of the machine's devices that ``CUDA_VISIBLE_DEVICES`` leaves visible.

    Args:
        devices: In the driver's order.
        visible: The variable's value; ``None`` where it is not set.
    """
    if visible is None:
        return tuple(devices)
    chosen = []
    for word in (part.strip() for part in visible.split(",")):
        if word.isdecimal() and int(word) < len(devices):
            chosen.append(devices[int(word)])
        elif word.startswith("MIG-"):
            # A slice of a device: the driver lists only the whole one.
            chosen.append(Gpu(id=word))
        elif word.startswith("GPU-") and (
            named := [gpu for gpu in devices if gpu.id.startswith(word)]
        ):
            chosen.append(named[0])
        else:
            # As CUDA reads it: the first id that is none ends the list.
            break
    return tuple(chosen) or f"CUDA_VISIBLE_DEVICES is {visible!r}, which hides all devices"


def choose_device(
    process_on: ProcessOn,
    *,
    gpus: int | None,
    versions: Collection[Device],
    devices: tuple[Gpu, ...] | str,
    image: bool,
) -> DeviceChoice:
    """Where a task runs that asks for ``process_on``.

    Args:
        process_on: What the task asks for.
        gpus: How many devices it asks for; one if it does not say.
        versions: The kinds of device that there is something to run on.
        devices: The devices of this machine, the one to take first foremost, or why there
            are none.
        image: Whether it runs in a container.

    Raises:
        EnvironmentRefused: It cannot run there; with the reason.
    """
    if process_on == "cpu":
        if "cpu" not in versions:
            raise EnvironmentRefused("the task asks for a cpu, and has a gpu version alone")
        return DeviceChoice(device="cpu", reason="process_on is cpu")
    count = gpus or 1
    if "gpu" not in versions:
        obstacle = "the task has no gpu version"
    elif image:
        obstacle = "containers are not given devices yet"
    elif isinstance(devices, str):
        obstacle = devices
    elif len(devices) < count:
        obstacle = f"{count} devices are asked for, and {len(devices)} can be used here"
    else:
        chosen = devices[:count]
        names = ", ".join(sorted({gpu.name for gpu in chosen if gpu.name}))
        return DeviceChoice(
            device="gpu",
            reason=f"process_on is {process_on}" + (f": {names}" if names else ""),
            visible=tuple(gpu.id for gpu in chosen),
        )
    if process_on == "gpu":
        raise EnvironmentRefused(
            f"the task asks for a gpu: {obstacle}",
            hint="with 'process_on: gpu_if_available' it would run on the cpu",
        )
    if "cpu" not in versions:
        raise EnvironmentRefused(f"the task has no cpu version, and {obstacle}")
    return DeviceChoice(device="cpu", reason=f"no gpu: {obstacle}")


def shown(choice: DeviceChoice) -> dict[str, str]:
    """The variables that show the task its devices, and no others."""
    if choice.device == "cpu":
        return dict(HIDDEN)
    return {"CUDA_VISIBLE_DEVICES": ",".join(choice.visible)}
