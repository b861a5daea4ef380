"""Which devices there are here, or why there are none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

from fasthep_flow.model import Gpu

__all__ = ["inventory", "permitted"]


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
