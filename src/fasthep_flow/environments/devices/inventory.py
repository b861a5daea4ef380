"""Which devices there are here, or why there are none."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from fasthep_flow.environments.devices.amd import amd_devices
from fasthep_flow.environments.devices.nvidia import nvidia_devices
from fasthep_flow.model import Gpu

__all__ = ["inventory", "machine_devices", "permitted"]

_OLD_SLICE: Final = re.compile(r"MIG-GPU-[0-9A-Fa-f-]+/\d+/\d+", re.ASCII)
"""As older drivers call a slice: by the whole device, and two numbers."""

_NVIDIA_VARIABLES: Final = ("CUDA_VISIBLE_DEVICES",)
_AMD_VARIABLES: Final = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
"""In the order in which they are applied: the second counts what the first has left."""


def inventory() -> tuple[Gpu, ...] | str:
    """The devices that this process may use, or why there are none. Never raises.

    A batch system that gives a job some of a machine's devices says so in
    ``CUDA_VISIBLE_DEVICES``, ``ROCR_VISIBLE_DEVICES`` or ``HIP_VISIBLE_DEVICES``; the others
    do not count.
    """
    found = machine_devices()
    return found if isinstance(found, str) else _permitted_by(found, os.environ)


def machine_devices() -> tuple[Gpu, ...] | str:
    """All devices of this machine, or why there are none. Never raises.

    A test that needs a machine with devices puts a function of its own in this one's place:
    nothing else asks a driver.
    """
    listed: list[Callable[[], tuple[Gpu, ...] | str]] = [nvidia_devices, amd_devices]
    devices: list[Gpu] = []
    obstacles = []
    for devices_of in listed:
        found = devices_of()
        if isinstance(found, str):
            obstacles.append(found)
        else:
            devices += found
    return tuple(devices) or "; ".join(obstacles)


def _permitted_by(devices: Sequence[Gpu], variables: Mapping[str, str]) -> tuple[Gpu, ...] | str:
    left: list[Gpu] = []
    obstacles = []
    for vendor, names in (("nvidia", _NVIDIA_VARIABLES), ("amd", _AMD_VARIABLES)):
        found: tuple[Gpu, ...] | str = tuple(gpu for gpu in devices if gpu.vendor == vendor)
        for name in names:
            if found and not isinstance(found, str):
                found = permitted(found, variables.get(name), variable=name)
        if isinstance(found, str):
            obstacles.append(found)
        else:
            left += found
    return tuple(left) or "; ".join(obstacles)


def permitted(
    devices: Sequence[Gpu], visible: str | None, *, variable: str = "CUDA_VISIBLE_DEVICES"
) -> tuple[Gpu, ...] | str:
    """Those of the machine's devices that a variable leaves visible.

    https://docs.nvidia.com/cuda/cuda-c-programming-guide (environment variables) and
    https://rocm.docs.amd.com/en/latest/conceptual/gpu-isolation.html

    Args:
        devices: In the driver's order, of one vendor.
        visible: The variable's value; ``None`` where it is not set.
        variable: Its name.
    """
    if visible is None:
        return tuple(devices)
    whole = _whole(devices)
    chosen: dict[str, Gpu] = {}
    for word in (part.strip() for part in visible.split(",")):
        if word.isascii() and word.isdecimal() and int(word) < len(whole):
            # Of a device that is divided, programs are shown the first slice alone.
            found = whole[int(word)][0]
        elif named := [gpu for gpu in devices if gpu.id == word]:
            found = named[0]
        elif _OLD_SLICE.fullmatch(word):
            # CUDA still knows it by that; the driver may list it by another name.
            found = Gpu(id=word)
        elif word.startswith("GPU-") and (
            named := [gpu for gpu in devices if gpu.id.startswith(word)]
        ):
            found = named[0]
        else:
            # As CUDA reads it: the first id that is none ends the list.
            break
        chosen[found.id] = found
    return tuple(chosen.values()) or f"{variable} is {visible!r}, which hides all devices"


def _whole(devices: Sequence[Gpu]) -> list[list[Gpu]]:
    """The slices of each device, or it alone: those that share a file of NVIDIA's are of one."""
    whole: dict[str, list[Gpu]] = {}
    for gpu in devices:
        is_slice = gpu.id.startswith("MIG-") and gpu.nodes
        whole.setdefault(gpu.nodes[0] if is_slice else gpu.id, []).append(gpu)
    return list(whole.values())
