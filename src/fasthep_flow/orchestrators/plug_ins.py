"""Orchestrators of other packages, found by their entry points.

A package says in its ``pyproject.toml``::

    [project.entry-points."fasthep_flow.orchestrators"]
    threads = "mypackage:THREADS"      # a transform: threads::..., as its runners are called
    "dask.pbs" = "mypackage:PBS"       # a runner of a transform that there is: dask::pbs

Looking for them reads the metadata of every installed package, so it is done only for a name
that is none of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Final, cast

from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.orchestrators import Orchestrator

__all__ = ["GROUP", "find_plug_in", "load_plug_in", "package_of", "plug_ins"]

GROUP: Final = "fasthep_flow.orchestrators"
"""Of the entry points."""

_NEEDED: Final = ("runners", "open", "options", "why_not", "require")


def plug_ins() -> dict[str, EntryPoint]:
    """All that there are, by the names of their entry points; none is imported."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def find_plug_in(
    transform: str, runner: str = "", found: Mapping[str, EntryPoint] | None = None
) -> EntryPoint | None:
    """The plug-in that has the runner, or else the transform; it is not imported.

    Args:
        transform: Of the flow.
        runner: Of the flow; empty for any.
        found: All plug-ins, where the caller knows them already.
    """
    found = plug_ins() if found is None else found
    added = found.get(f"{transform}.{runner}") if runner else None
    return added or found.get(transform)


def load_plug_in(entry: EntryPoint) -> Orchestrator:
    """Import a plug-in.

    Raises:
        OrchestratorUnavailable: It cannot be imported, is no orchestrator, or another package
            brings one of that name, too.
    """
    same = [one for one in entry_points(group=GROUP) if one.name == entry.name]
    if len(same) > 1:
        packages = " and ".join(sorted({package_of(one) for one in same}))
        raise OrchestratorUnavailable(
            f"the orchestrator {entry.name!r} is brought by {packages}", hint="remove one of them"
        )
    what = f"the orchestrator {entry.name!r} of {package_of(entry)}"
    try:
        found = entry.load()
        lacking = [name for name in _NEEDED if not hasattr(found, name)]
    # Whatever a package does when it is imported is an error of that package.
    except Exception as error:
        raise OrchestratorUnavailable(
            f"{what} cannot be imported from {entry.value}: {type(error).__name__}: {error}",
            hint="install a version of it that fits, or remove it",
        ) from error
    if lacking or isinstance(found, type):
        why = "a class, and not one of it" if isinstance(found, type) else f"without {lacking[0]!r}"
        raise OrchestratorUnavailable(
            f"{what} is no orchestrator: {entry.value} is {why}",
            hint="its author derives it from fasthep_flow.orchestrators.Orchestrator",
        )
    return cast("Orchestrator", found)


def package_of(entry: EntryPoint) -> str:
    """The package that a plug-in is of, with its version."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "a package"
