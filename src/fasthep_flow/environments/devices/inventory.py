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
_GIVEN: Final = (
    *("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE", "GPU_DEVICE_ORDINAL"),
    *("_CONDOR_AssignedGPUS", *_NVIDIA_VARIABLES, *_AMD_VARIABLES),
)
"""One of these is there if a batch system has given a job devices: `man sbatch`, and "Environment
Variables for the Job" in the manual of HTCondor."""


def inventory() -> tuple[Gpu, ...] | str:
    """The devices that this process may use, or why there are none. Never raises.

    A batch system that gives a job some of a machine's devices says so in
    ``CUDA_VISIBLE_DEVICES``, ``ROCR_VISIBLE_DEVICES`` or ``HIP_VISIBLE_DEVICES``; the others
    do not count. To a job that was given none it may leave all to be seen: then none counts.
    """
    found = machine_devices()
    if isinstance(found, str):
        return found
    return _not_given(os.environ) or _permitted_by(found, os.environ)


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


def _not_given(variables: Mapping[str, str]) -> str | None:
    """Why the machine's devices are not this batch job's to use; ``None`` if they may be."""
    if number := variables.get("SLURM_JOB_ID"):
        job = f"Slurm gave this job ({number})"
    elif "_CONDOR_JOB_AD" in variables:
        job = "HTCondor gave this job"
    else:
        return None
    if any(name in variables for name in _GIVEN):
        return None
    return f"{job} none of the machine's devices: neither {_GIVEN[0]} nor {_GIVEN[-3]} is set"


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
