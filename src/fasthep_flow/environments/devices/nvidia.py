"""NVIDIA's devices, as their driver lists them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from fasthep_flow.model import Gpu

__all__ = ["CONTROL_NODE", "nvidia_devices"]

CONTROL_NODE: Final = "/dev/nvidiactl"
"""What every process needs beside its device's own file."""

_CAPABILITIES: Final = Path("/proc/driver/nvidia/capabilities")


def nvidia_devices(capabilities: Path = _CAPABILITIES) -> tuple[Gpu, ...] | str:
    """The devices of this machine in the driver's order, or why there are none. Never raises.

    Of a device that is divided (MIG) its slices are listed, and not the device itself: no
    program could use that. https://docs.nvidia.com/datacenter/tesla/mig-user-guide

    Args:
        capabilities: The folder where the driver says which files stand for a slice.
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
        devices = [
            gpu
            for index in range(pynvml.nvmlDeviceGetCount())
            for gpu in _read(pynvml, index, capabilities)
        ]
    except pynvml.NVMLError as error:
        return f"the NVIDIA driver does not list its devices: {error}"
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
    return tuple(devices) or "the NVIDIA driver has no device"


def _read(pynvml: Any, index: int, capabilities: Path) -> Iterator[Gpu]:  # noqa: ANN401 - untyped
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    try:
        minor = int(pynvml.nvmlDeviceGetMinorNumber(handle))
        nodes: tuple[str, ...] = (f"/dev/nvidia{minor}",)
    except pynvml.NVMLError:
        minor, nodes = index, ()
    slices = list(_slices(pynvml, handle, capabilities / f"gpu{minor}" / "mig", nodes))
    if slices or _is_divided(pynvml, handle):
        yield from slices
    else:
        yield _gpu(pynvml, handle, nodes)


def _is_divided(pynvml: Any, handle: Any) -> bool:  # noqa: ANN401 - untyped
    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(handle)
    except (AttributeError, pynvml.NVMLError):
        # Most devices cannot be divided.
        return False
    return bool(current == 1)


def _slices(
    pynvml: Any,  # noqa: ANN401 - untyped
    handle: Any,  # noqa: ANN401 - untyped
    capabilities: Path,
    nodes: tuple[str, ...],
) -> Iterator[Gpu]:
    if not _is_divided(pynvml, handle):
        return
    for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            one = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
        except pynvml.NVMLError:
            # There is room for more slices than there are.
            continue
        own: tuple[str, ...] = ()
        with contextlib.suppress(OSError, ValueError, pynvml.NVMLError):
            whole = capabilities / f"gi{pynvml.nvmlDeviceGetGpuInstanceId(one)}"
            part = whole / f"ci{pynvml.nvmlDeviceGetComputeInstanceId(one)}"
            own = (_capability(whole / "access"), _capability(part / "access"))
        yield _gpu(pynvml, one, (*nodes, *own))


def _capability(access: Path) -> str:
    """The file that stands for what the driver says this of: ``DeviceFileMinor: 12``."""
    for line in access.read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(":")
        if key == "DeviceFileMinor":
            return f"/dev/nvidia-caps/nvidia-cap{int(value)}"
    raise ValueError(f"{access} names no file")


def _gpu(pynvml: Any, handle: Any, nodes: tuple[str, ...]) -> Gpu:  # noqa: ANN401 - untyped
    identity = _text(pynvml.nvmlDeviceGetUUID(handle))
    try:
        name = _text(pynvml.nvmlDeviceGetName(handle))
    except pynvml.NVMLError:
        name = ""
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = int(memory.total), int(memory.free)
    except pynvml.NVMLError:
        total = free = 0
    return Gpu(id=identity, name=name, memory=total, free=free, nodes=nodes)


def _text(value: str | bytes) -> str:
    # Older releases of the package answer with bytes.
    return value.decode() if isinstance(value, bytes) else value
