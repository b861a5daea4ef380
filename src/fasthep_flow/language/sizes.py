"""What a task asks for from attempt to attempt: ``memory: [4Gi, 8Gi, 16Gi]``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from fasthep_flow.language.document import Steps
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.refusals import shown
from fasthep_flow.language.schema import ResourcesModel
from fasthep_flow.model import Resources

__all__ = ["Sizes", "check_sizes", "merge_sizes"]

_T = TypeVar("_T")


class Sizes(Struct, frozen=True, kw_only=True):
    """One size for each attempt; the last one holds for all that follow.

    Args:
        cpus: Processors; none where there is no limit.
        memory: Bytes; the same.
        walltime: Seconds; the same.
    """

    cpus: tuple[float, ...] = ()
    memory: tuple[int, ...] = ()
    walltime: tuple[float, ...] = ()

    @property
    def further(self) -> int:
        """How many attempts behind the first one ask for a size of their own."""
        return max(len(self.cpus), len(self.memory), len(self.walltime), 1) - 1

    def first(self, resources: Resources) -> Resources:
        """The resources as the first attempt asks for them."""
        return self._at(0, resources)

    def growth(self, resources: Resources, timeout_s: float | None) -> tuple[Resources, ...]:
        """What the attempts behind the first one ask for.

        Args:
            resources: What it asks for besides.
            timeout_s: Seconds after which the author stops any attempt.
        """
        grown = [self._at(number, resources) for number in range(1, self.further + 1)]
        if timeout_s is None or len(self.walltime) <= 1:
            return tuple(grown)
        return tuple(
            replace(one, walltime_s=min(timeout_s, one.walltime_s or timeout_s)) for one in grown
        )

    def _at(self, number: int, resources: Resources) -> Resources:
        return replace(
            resources,
            cpus=_size(self.cpus, number),
            memory=_size(self.memory, number),
            walltime_s=_size(self.walltime, number),
        )


def _size(sizes: Sequence[_T], number: int) -> _T | None:
    return sizes[min(number, len(sizes) - 1)] if sizes else None


def merge_sizes(model: ResourcesModel, general: Sizes) -> Sizes:
    """What stands at a place over the general sizes: of each resource the nearest list.

    Args:
        model: What stands there.
        general: What holds where nothing else is said.
    """
    return Sizes(
        cpus=general.cpus if model.cpus is None else tuple(model.cpus),
        memory=general.memory if model.memory is None else tuple(model.memory),
        walltime=general.walltime if model.walltime is None else tuple(model.walltime),
    )


def check_sizes(model: ResourcesModel, steps: Steps, findings: Findings) -> None:
    """Refuse a size that is less than the one before it.

    Args:
        model: What stands at a place.
        steps: The place.
        findings: What is found.
    """
    for key in ("cpus", "memory", "walltime"):
        sizes = getattr(model, key) or ()
        for number, (before, after) in enumerate(pairwise(sizes), start=1):
            if after < before:
                here: Steps = (*steps, key, number)
                written = [
                    findings.document.value((*steps, key, at)) for at in (number - 1, number)
                ]
                findings.refuse(
                    here,
                    f"{shown(written[1])} is less than {shown(written[0])} before it: what was not"
                    " enough once would be less",
                    "write the sizes of the attempts from the least to the most",
                )
                break
