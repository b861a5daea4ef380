"""Images that CVMFS has unpacked already: folders that any runtime of ours can start from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from fasthep_flow.environments.registries.platforms import machine_platform, same_platform
from fasthep_flow.environments.registries.registry import split_reference
from fasthep_flow.model import Image

__all__ = ["find_unpacked"]

_ROOT: Final = "/cvmfs/unpacked.cern.ch"
_NAMES: Final = {"docker.io": "registry.hub.docker.com"}


def find_unpacked(image: Image, root: str | None = None) -> Path | None:
    """The folder that has the image unpacked; ``None`` where there is none to be used.

    Only a tag can be looked for: which digest a folder was made of, CVMFS does not say. And
    it follows the registry with a delay, so it is no answer for who asks to pull always.

    Args:
        image: In a registry.
        root: Where to look; ``FASTHEP_FLOW_UNPACKED`` or ``/cvmfs/unpacked.cern.ch`` if
            ``None``. See https://gitlab.cern.ch/unpacked/sync for what is there.
    """
    if image.form != "registry" or image.pull == "always":
        return None
    if image.platform is not None and not same_platform(image.platform, machine_platform()):
        return None
    parts = split_reference(image.reference)
    if parts.tag is None or parts.digest is not None:
        return None
    folder = Path(
        root or os.environ.get("FASTHEP_FLOW_UNPACKED") or _ROOT,
        _NAMES.get(parts.registry, parts.registry),
        f"{parts.repository}:{parts.tag}",
    )
    try:
        return folder if folder.is_dir() else None
    except OSError:
        # A repository that cannot be mounted now.
        return None
