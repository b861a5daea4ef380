"""Folders of inputs and outputs that a container does not see as it is, examined."""

from __future__ import annotations

from fasthep_flow.environments.preflight.demands import Demand
from fasthep_flow.environments.preflight.verdicts import Check, passed, refused
from fasthep_flow.errors import EnvironmentRefused

__all__ = ["check_folders"]


def check_folders(demand: Demand) -> list[Check]:
    """A row for each of them."""
    if not demand.folders:
        return []
    from fasthep_flow.environments.outside import mounts_outside

    checks = []
    for folder, is_written in demand.folders:
        try:
            mounts_outside({folder: is_written})
        except EnvironmentRefused as error:
            checks.append(refused("folder", error))
        else:
            what = "outputs are made there" if is_written else "inputs are read there"
            checks.append(passed("folder", f"{folder}: {what}"))
    return checks
