"""Software beside the image, examined: made or tried before a run, or looked at."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from fasthep_flow.environments import Addition, ContainerSpec, Mount, ResolvedImage, Runtime
from fasthep_flow.environments.host.owner import owner_labels
from fasthep_flow.environments.preflight.demands import Demand
from fasthep_flow.environments.preflight.verdicts import Check, passed, refused, unknown
from fasthep_flow.errors import EnvironmentRefused
from fasthep_flow.model import PythonSpec, Setup

__all__ = ["check_software"]

_NOT_YET: Final = "not known before the image is here"
_OFFLINE_HINT: Final = "'fasthep-flow pull' makes it beforehand"


def check_software(
    setup: Setup | None,
    python: PythonSpec | None,
    *,
    runtime: Runtime,
    image: ResolvedImage | None,
    demand: Demand,
    variables: Mapping[str, str | None],
    mounts: Sequence[Mount],
    working_directory: str,
    may_run: bool,
    offline: bool,
    decided: Collection[str],
    progress: Callable[[str], None],
) -> list[Check]:
    """A row for the setup script and one for the Python environment.

    Args:
        setup: What is to be sourced.
        python: The Python environment.
        runtime: What the tasks run on.
        image: ``None`` for the host, or where it is not on this machine yet.
        demand: What else is asked for.
        variables: That a setup script finds.
        mounts: That the container has.
        working_directory: Absolute path of the folder where tasks work.
        may_run: Whether to source and to make, or to look at what is kept only.
        offline: Whether nothing may be fetched.
        decided: The names of variables that a script may not change.
        progress: Is told of what may take long.
    """
    if setup is None and python is None:
        return []
    if demand.image is not None and image is None:
        asked = {"setup": setup, "python": python}
        return [unknown(what, _NOT_YET) for what, one in asked.items() if one is not None]
    # As execution/prepare.py has it for the task, or what is made now is not found there.
    spec = ContainerSpec(
        name="software",
        image=image,
        labels={"fasthep.run": "software", **owner_labels()} if image is not None else {},
        # The folder of the runs may not be there yet.
        mounts=tuple(mount for mount in mounts if Path(mount.source).exists()),
        network=demand.network,
        options=demand.options,
    )
    if not may_run:
        return _looked_at(
            setup,
            python,
            runtime=runtime,
            spec=spec,
            variables=variables,
            working_directory=working_directory,
            offline=offline,
        )
    from fasthep_flow.environments.software import software

    def have(setup: Setup | None, python: PythonSpec | None) -> Addition:
        return software(
            setup,
            python,
            runtime=runtime,
            spec=spec,
            environment=variables,
            working_directory=working_directory,
            offline=offline,
            secrets=demand.secrets,
            decided=decided,
            progress=progress,
        )

    checks = []
    if setup is not None:
        try:
            have(setup, None)
        except EnvironmentRefused as error:
            return [refused("setup", error)]
        checks.append(passed("setup", f"sourced: {_script_text(setup)}"))
    if python is not None:
        try:
            version = have(setup, python).facts["python"]
        except EnvironmentRefused as error:
            return [*checks, refused("packages", error)]
        checks.append(passed("packages", f"{version} with {_packages(python)}"))
    return checks


def _looked_at(
    setup: Setup | None,
    python: PythonSpec | None,
    *,
    runtime: Runtime,
    spec: ContainerSpec,
    variables: Mapping[str, str | None],
    working_directory: str,
    offline: bool,
) -> list[Check]:
    """What is kept of it already; nothing of the author's is run."""
    from fasthep_flow.environments.software import look, look_setup

    checks = []
    if setup is not None:
        found = look_setup(
            setup,
            runtime=runtime,
            spec=spec,
            environment=variables,
            working_directory=working_directory,
        )
        text = _script_text(setup)
        if found is None:
            checks.append(unknown("setup", f"sourced when the run starts: {text}"))
        else:
            checks.append(passed("setup", f"kept, {_count(found)}: {text}"))
    if python is not None:
        there = look(
            python,
            setup=setup,
            runtime=runtime,
            spec=spec,
            environment=variables,
            working_directory=working_directory,
        )
        if there is not None:
            checks.append(passed("packages", f"an environment with {_packages(python)} is kept"))
        else:
            words = f"an environment with {_packages(python)} is made when the run starts"
            if offline:
                words += f", if uv has all of it already; {_OFFLINE_HINT}"
            checks.append(unknown("python", words))
    return checks


def _count(variables: Mapping[str, str | None]) -> str:
    return "1 variable" if len(variables) == 1 else f"{len(variables)} variables"


def _script_text(setup: Setup) -> str:
    if len(setup.scripts) == 1 and "\n" not in setup.lines:
        return setup.scripts[0]
    count = setup.lines.count("\n") + 1
    lines = "1 line" if count == 1 else f"{count} lines"
    return f"{lines} of bash ({setup.origin})" if setup.origin else f"{lines} of bash"


def _packages(python: PythonSpec) -> str:
    from fasthep_flow.environments.software.requirements import names

    return names(python.requirements)
