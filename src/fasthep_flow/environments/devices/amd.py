"""AMD's devices, as the kernel's compute driver (KFD) lists them.

https://docs.kernel.org/gpu/amdgpu/driver-misc.html, and what ROCm's own runtime reads:
https://github.com/ROCm/ROCR-Runtime (libhsakmt, topology.c).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

from fasthep_flow.model import Gpu

__all__ = ["COMPUTE_NODE", "amd_devices"]

COMPUTE_NODE: Final = "/dev/kfd"
"""What every process needs beside its device's own file."""

_TOPOLOGY: Final = "sys/class/kfd/kfd/topology/nodes"
_GRAPHICS: Final = "sys/class/drm"


def amd_devices(root: Path = Path("/")) -> tuple[Gpu, ...] | str:
    """The devices of this machine in the driver's order, or why there are none. Never raises.

    Its name for a device is what ROCm takes in ``ROCR_VISIBLE_DEVICES``: the unique number that
    was burnt in, or the device's place among the others where it has none of its own: older drivers
    give the parts of a divided device one number.

    Args:
        root: The folder below which ``dev`` and ``sys`` lie.
    """
    if not (root / COMPUTE_NODE.lstrip("/")).exists():
        return f"no AMD driver: there is no {COMPUTE_NODE}"
    try:
        nodes = [path for path in (root / _TOPOLOGY).iterdir() if path.name.isdecimal()]
    except OSError as error:
        return f"the AMD driver does not list its devices: {error.strerror or error}"
    listed = [
        (node, _facts(node / "properties"))
        for node in sorted(nodes, key=lambda path: int(path.name))
    ]
    # Processors are listed, too: these have no such units.
    found = [(node, facts) for node, facts in listed if facts.get("simd_count", 0) > 0]
    shared = Counter(facts.get("unique_id", 0) for _, facts in found)
    devices = [
        _gpu(root, node, facts, index, has_number=shared[facts.get("unique_id", 0)] == 1)
        for index, (node, facts) in enumerate(found)
    ]
    return tuple(devices) or "the AMD driver has no device that this user may use"


def _facts(path: Path) -> dict[str, int]:
    """Lines of a name and a number; empty for what may not be read, as others' devices may not."""
    try:
        words = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError):
        return {}
    return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdecimal()}  # noqa: PLR2004


def _gpu(root: Path, node: Path, facts: dict[str, int], index: int, *, has_number: bool) -> Gpu:
    # No device's file has the number 0: it stands for none.
    minor = facts.get("drm_render_minor", 0)
    render = f"renderD{minor}"
    card = root / _GRAPHICS / render / "device"
    unique = facts.get("unique_id", 0)
    memory = _number(card / "mem_info_vram_total") or sum(
        bank.get("size_in_bytes", 0)
        for bank in map(_facts, sorted(node.glob("mem_banks/*/properties")))
    )
    used = _number(card / "mem_info_vram_used")
    return Gpu(
        id=f"GPU-{unique:016x}" if unique and has_number else str(index),
        vendor="amd",
        name=_text(card / "product_name") or _text(node / "name"),
        memory=memory,
        free=max(0, memory - used),
        nodes=(COMPUTE_NODE, *((f"/dev/dri/{render}",) if minor else ())),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if text.isdecimal() else 0
