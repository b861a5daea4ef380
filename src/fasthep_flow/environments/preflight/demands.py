"""What tasks ask for alike of the place where they run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import NamedTuple

from fasthep_flow.model import (
    Call,
    Credential,
    DataItem,
    Device,
    Image,
    Network,
    PythonSpec,
    Resources,
    Setup,
    TaskSpec,
    Variable,
)

__all__ = ["Demand", "demands_of"]

_BASH = "bash"


class Demand(NamedTuple):
    """An environment as tasks ask for it.

    Args:
        image: ``None`` for the host.
        runtime: The one that is asked for.
        options: Further words for its command line.
        resources: What is asked of the machine.
        network: The host's, or none.
        versions: The kinds of device that there is something to run on.
        unpassable: Names of variables with values that no container can be handed.
        env_files: Where variables were read from, beside the workflow.
        programs: Of ``sh``, ``bash`` and ``python3`` those that must be in the image.
        gpu_image: What takes the image's place on a gpu, if that is another one.
        setup: What is sourced before the task.
        python: The Python environment that it has.
        credentials: What proves who it is.
        extra_data: Files that it needs.
        variables: Its own, where what is asked for beside the image depends on them.
        secrets: Which of them are shown to nobody, beside those whose names say so.
        lasting_s: Seconds that it may take.
        folders: What a container must see beside the folders that it always sees, and whether
            something is to be made there; without those that tasks make.
    """

    image: Image | None
    runtime: str | None
    options: tuple[str, ...]
    resources: Resources
    network: Network
    versions: frozenset[Device]
    unpassable: tuple[str, ...]
    env_files: tuple[str, ...]
    programs: frozenset[str]
    gpu_image: Image | None = None
    setup: Setup | None = None
    python: PythonSpec | None = None
    credentials: tuple[Credential, ...] = ()
    extra_data: tuple[DataItem, ...] = ()
    variables: tuple[tuple[str, Variable], ...] = ()
    secrets: tuple[str, ...] = ()
    lasting_s: float | None = None
    folders: tuple[tuple[str, bool], ...] = ()


def demands_of(
    tasks: Iterable[TaskSpec], directories: Sequence[str] = ()
) -> dict[Demand, list[str]]:
    """The distinct demands, each with the names of its tasks; in the order of the tasks.

    Args:
        tasks: Of the plan.
        directories: Absolute paths of the folders that every container is to see.
    """
    tasks = tuple(tasks)
    made = frozenset(output.rstrip("/") for task in tasks for output in task.outputs)
    demands: dict[Demand, list[str]] = {}
    for task in tasks:
        environment = task.environment
        has_image = environment.image is not None
        demand = Demand(
            image=environment.image,
            runtime=environment.runtime,
            options=environment.options,
            resources=environment.resources,
            network=environment.network,
            versions=frozenset(task.invocations),
            unpassable=_unpassable(environment.variables) if has_image else (),
            env_files=_env_files(task),
            programs=_programs(task) if has_image else frozenset(),
            gpu_image=environment.gpu_image,
            setup=environment.setup,
            python=environment.python,
            credentials=environment.credentials,
            extra_data=environment.extra_data,
            variables=tuple(environment.variables.items()) if _looks_at_variables(task) else (),
            secrets=environment.secrets if _looks_at_variables(task) else (),
            lasting_s=_lasting_s(task) if environment.credentials else None,
            folders=_folders(task, directories, made) if has_image else (),
        )
        demands.setdefault(demand, []).append(task.name)
    return demands


def _folders(
    task: TaskSpec, directories: Sequence[str], made: frozenset[str]
) -> tuple[tuple[str, bool], ...]:
    """Those that must be there before the run: no task makes them, or what they lie in."""
    if not task.inputs and not task.outputs:
        return ()
    from fasthep_flow.environments.outside import folders_outside

    found = folders_outside(task.inputs, task.outputs, directories)
    return tuple(
        (folder, is_written)
        for folder, is_written in sorted(found.items())
        if made.isdisjoint((folder, *map(str, PurePath(folder).parents)))
    )


def _looks_at_variables(task: TaskSpec) -> bool:
    environment = task.environment
    return bool(environment.setup or environment.python or environment.credentials)


def _lasting_s(task: TaskSpec) -> float | None:
    limits = (task.timeout_s, task.environment.resources.walltime_s)
    return min((limit for limit in limits if limit is not None), default=None)


def _unpassable(variables: Mapping[str, Variable]) -> tuple[str, ...]:
    """The names of those whose values have bytes of the host's that are not Unicode."""
    names = []
    for name, variable in variables.items():
        try:
            variable.value.encode()
        except UnicodeEncodeError:
            names.append(name)
    return tuple(names)


def _env_files(task: TaskSpec) -> tuple[str, ...]:
    origins = (variable.origin for variable in task.environment.variables.values())
    # A value of the host's has the place where it is asked for behind a comma.
    files = (origin.rpartition(", ")[2].rpartition(":")[0] for origin in origins)
    return tuple(dict.fromkeys(file for file in files if file and file != task.location.file))


def _programs(task: TaskSpec) -> frozenset[str]:
    """What the image must have for any of the task's versions.

    Where the task has a PATH of its own, programs may come from elsewhere than the image.
    """
    own_path = "PATH" in task.environment.variables
    programs = set()
    for invocation in task.invocations.values():
        if isinstance(invocation, Call):
            if not own_path:
                programs.add("python3")
        else:
            programs.add("sh")
            if invocation.argv[0] == _BASH and not own_path:
                programs.add(_BASH)
    if task.environment.setup is not None:
        programs |= {"sh", _BASH}
    return frozenset(programs)
