"""Orchestrators of other packages, found by their entry points.

A package says in its ``pyproject.toml``::

    [project.entry-points."fasthep_flow.orchestrators"]
    threads = "mypackage:THREADS"      # a transform: threads::..., as its runners are called
    "dask.pbs" = "mypackage:PBS"       # a runner of a transform that there is: dask::pbs

Looking for them reads the metadata of every installed package, so it is done only for a name
that is none of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Final, cast

from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.model import FlowSpec
from fasthep_flow.orchestrators import Orchestrator, TaskRunner

__all__ = [
    "GROUP",
    "find_plug_in",
    "load_plug_in",
    "package_of",
    "plug_ins",
    "require_task_runner",
]

GROUP: Final = "fasthep_flow.orchestrators"
"""Of the entry points."""

_BASE: Final = "fasthep_flow.orchestrators"


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
        lacking = _lacking(found, Orchestrator)
    # Whatever a package does when it is imported is an error of that package.
    except Exception as error:
        raise OrchestratorUnavailable(
            f"{what} cannot be imported from {entry.value}: {type(error).__name__}: {error}",
            hint="install a version of it that fits, or remove it",
        ) from error
    if lacking or isinstance(found, type):
        why = "a class, and not one of it" if isinstance(found, type) else _without(lacking)
        raise OrchestratorUnavailable(
            f"{what} is no orchestrator: {entry.value} is {why}", hint=_derive(Orchestrator)
        )
    return cast("Orchestrator", found)


def require_task_runner(runner: object, flow: FlowSpec) -> None:
    """Refuse what a plug-in opened where it is no task runner.

    Args:
        runner: What it opened.
        flow: Whose.

    Raises:
        OrchestratorUnavailable: With all that it lacks.
    """
    if lacking := _lacking(runner, TaskRunner):
        raise OrchestratorUnavailable(
            f"what {flow} opened is no task runner: {type(runner).__name__} is {_without(lacking)}",
            hint=_derive(TaskRunner),
        )


def _lacking(found: object, base: type) -> list[str]:
    """What it has not: whoever derives from the base has all of it."""
    needed = (name for name in vars(base) if not name.startswith("_"))
    return [name for name in needed if not hasattr(found, name)]


def _without(names: Sequence[str]) -> str:
    return f"without {' and '.join(map(repr, names))}"


def _derive(base: type) -> str:
    return f"its author derives it from {_BASE}.{base.__name__}"


def package_of(entry: EntryPoint) -> str:
    """The package that a plug-in is of, with its version."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "a package"
