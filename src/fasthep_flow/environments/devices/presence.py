"""Whether devices are where a task is about to start: what chose them looked some time before."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from fasthep_flow.environments.devices.nvidia import CONTROL_NODE
from fasthep_flow.model import Failure, Gpu

__all__ = ["described", "lost", "missing_from", "nodes_of"]


def nodes_of(devices: Sequence[Gpu]) -> tuple[str, ...]:
    """The absolute paths of all files without which a process cannot use the devices."""
    nodes: dict[str, None] = {}
    for gpu in devices:
        if gpu.nodes and gpu.vendor == "nvidia":
            nodes[CONTROL_NODE] = None
        nodes |= dict.fromkeys(gpu.nodes)
    return tuple(nodes)


def missing_from(devices: Sequence[Gpu]) -> str | None:
    """Why a process of the host's cannot use one of them any more; ``None`` where all can be."""
    for node in nodes_of(devices):
        try:
            mode = os.stat(node).st_mode  # noqa: PTH116 - Path costs more than the call
        except OSError as error:
            return f"{node}: {error.strerror}"
        if not stat.S_ISCHR(mode):
            return f"{node} is no device"
    return None


def lost(devices: Sequence[Gpu], where: str, why: str) -> Failure:
    """A device that was chosen, and is not there when the task is to start.

    Args:
        devices: Those that were chosen.
        where: ``on this machine``, or of which container.
        why: How that was found.
    """
    return Failure(
        kind="environment",
        message=f"the task was given {described(devices)}, which cannot be used {where}: {why}",
        hint="nothing of the task ran; 'fasthep-flow check' looks for devices anew",
    )


def described(devices: Sequence[Gpu]) -> str:
    """For people: ``the gpu GPU-5d0e... (NVIDIA H200)``."""
    names = [f"{gpu.id} ({gpu.name})" if gpu.name else gpu.id for gpu in devices]
    return f"the gpu {names[0]}" if len(names) == 1 else f"the gpus {', '.join(names)}"
