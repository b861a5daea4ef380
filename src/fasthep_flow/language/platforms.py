"""Platforms as OCI images name them: ``linux/arm64``, ``linux/arm/v7``.

The names are Go's, which the image specification of OCI takes over.
"""

from __future__ import annotations

import re
from typing import Final

from fasthep_flow.language.refusals import Refusal, nearest, shown

__all__ = ["parse_platform"]

_ARCHITECTURES: Final = (
    "amd64",
    "arm64",
    "arm",
    "386",
    "loong64",
    "mips64le",
    "ppc64le",
    "riscv64",
    "s390x",
)
_OTHER_NAMES: Final = {
    "aarch64": "arm64",
    "armhf": "arm/v7",
    "armv7l": "arm/v7",
    "i386": "386",
    "i686": "386",
    "x64": "amd64",
    "x86": "386",
    "x86-64": "amd64",
    "x86_64": "amd64",
}
_VARIANT: Final = re.compile(r"v[0-9]+(?:\.[0-9]+)?")
_SYSTEM: Final = "linux"


def parse_platform(value: object) -> str:
    """The platform that an author wrote.

    Raises:
        Refusal: It is none, or none of a container's.
    """
    if not isinstance(value, str):
        raise Refusal(f"{shown(value)} is not a platform", "such as linux/arm64")
    system, _, rest = value.partition("/")
    architecture, slash, variant = rest.partition("/")
    if not rest and (system in _ARCHITECTURES or system in _OTHER_NAMES):
        meant = _OTHER_NAMES.get(system, system)
        raise Refusal(
            f"{shown(value)} is not a platform", f"did you mean {shown(f'{_SYSTEM}/{meant}')}?"
        )
    if system != _SYSTEM:
        raise Refusal(f"{shown(value)} is not a platform of containers", "such as linux/arm64")
    if architecture in _OTHER_NAMES:
        meant = f"{_SYSTEM}/{_OTHER_NAMES[architecture]}"
        raise Refusal(f"{shown(value)} is not a platform", f"did you mean {shown(meant)}?")
    if architecture not in _ARCHITECTURES:
        raise Refusal(
            f"{shown(value)}: there is no architecture {shown(architecture)}",
            nearest(architecture, _ARCHITECTURES),
        )
    if slash and not _VARIANT.fullmatch(variant):
        raise Refusal(f"{shown(value)}: {shown(variant)} is no variant", "such as linux/arm/v7")
    return value
