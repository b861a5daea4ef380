"""Put the input file beside the workflow and check that it is the right one."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import skhep_testdata


def fetch(target: str, sha256: str) -> dict[str, object]:
    """Copy the events out of the scikit-hep-testdata package.

    Args:
        target: Where to put the file; folders on the way are made.
        sha256: Of the file that the later steps were written for.

    Raises:
        ValueError: The package carries another file under this name.
    """
    path = Path(target)
    source = Path(skhep_testdata.data_path(path.name))
    found = hashlib.sha256(source.read_bytes()).hexdigest()
    if found != sha256:
        raise ValueError(f"{source}: sha256 is {found}, and not {sha256}")
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, path)
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": found}
