"""Which images this machine can run: what it is, and what it pretends to be.

Platforms are written as OCI images write them: ``linux/arm64``, ``linux/arm/v7``.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Final

__all__ = ["machine_platform", "same_platform", "why_foreign"]

_MACHINES: Final = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm/v7",
    "armv6l": "arm/v6",
    "i686": "386",
    "i386": "386",
}
_EMULATORS: Final = {
    "amd64": "x86_64",
    "arm64": "aarch64",
    "386": "i386",
    "mips64le": "mips64el",
    "loong64": "loongarch64",
}
_NATIVE_TOO: Final = frozenset({("amd64", "386"), ("arm64", "arm")})
"""What a processor runs besides its own."""


def machine_platform() -> str:
    """What this machine runs by itself: ``linux/amd64``."""
    name = platform.machine().lower()
    return f"linux/{_MACHINES.get(name, name)}"


def same_platform(asked: str, there: str) -> bool:
    """Whether what is there serves who asks; a variant that only one of them names is no matter.

    ``arm64`` and ``arm64/v8`` are the same; of the variants of 32-bit ``arm`` a machine runs the
    older ones too.
    """
    asked_parts, there_parts = asked.split("/"), there.split("/")
    if asked_parts[:2] != there_parts[:2]:
        return False
    if len(asked_parts) != len(there_parts):
        return True
    if asked_parts[1] == "arm":
        return there_parts[2:] <= asked_parts[2:]
    return asked_parts == there_parts


def why_foreign(there: str, interpreters: str = "/proc/sys/fs/binfmt_misc") -> str | None:
    """Why this machine does not run programs for the platform; ``None`` where it does.

    Another processor's are run by an emulator that the kernel knows. One that is to work within
    a container must have been registered with the flag ``F`` (``fix binary``): else the kernel
    looks for it in the image. https://docs.kernel.org/admin-guide/binfmt-misc.html

    Args:
        there: The platform.
        interpreters: Where the kernel lists the emulators.
    """
    own = machine_platform()
    if same_platform(own, there) or not sys.platform.startswith("linux"):
        # Elsewhere containers run on a Linux of their own, which knows itself what it can.
        return None
    system, _, rest = there.partition("/")
    architecture = rest.partition("/")[0]
    if system != "linux":
        return f"it runs {own}, not {there}"
    if (own.split("/")[1], architecture) in _NATIVE_TOO:
        return None
    name = _EMULATORS.get(architecture, architecture)
    entry = Path(interpreters, f"qemu-{name}")
    try:
        lines = entry.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return f"it runs {own}, and has no emulator for {there}"
    flags = next((line.removeprefix("flags:") for line in lines if line.startswith("flags:")), "")
    if "enabled" not in lines or "F" not in flags:
        return f"it runs {own}, and its emulator for {there} does not work within containers"
    return None
