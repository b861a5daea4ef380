"""Which runs there are under an output folder, and which one of a workflow is to go on."""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

__all__ = ["new_run_folder", "run_ids"]

_RUN_ID: Final = re.compile(r"([0-9]{8}T[0-9]{6}Z)-([0-9a-f]{4})")
_STAMP: Final = "%Y%m%dT%H%M%SZ"
_LAST_SUFFIX: Final = 0xFFFF


def run_ids(output: Path) -> list[str]:
    """The ids of the runs under an output folder, those that were started last first.

    Raises:
        OSError: The folder cannot be read.
    """
    try:
        names = os.listdir(output)  # noqa: PTH208 - names, not paths
    except FileNotFoundError:
        return []
    return sorted(filter(_RUN_ID.fullmatch, names), reverse=True)


def new_run_folder(output: Path) -> Path:
    """A folder whose name comes behind those of all earlier runs, however the clock was set."""
    while True:
        stamp = datetime.now(UTC).strftime(_STAMP)
        # The first one of a second leaves room for others.
        least, most = 0, _LAST_SUFFIX // 2
        if (ids := run_ids(output)) and (last := _RUN_ID.fullmatch(ids[0])) and last[1] >= stamp:
            stamp, least = last[1], int(last[2], 16) + 1
            most = min(_LAST_SUFFIX, least + 0xFF)
            if least > _LAST_SUFFIX:
                second = datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
                stamp, least = (second + timedelta(seconds=1)).strftime(_STAMP), 0
        path = output / f"{stamp}-{least + secrets.randbelow(most - least + 1):04x}"
        with suppress(FileExistsError):
            path.mkdir()
            return path
