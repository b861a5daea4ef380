"""What Python environments stand on: the host, or an image in which they are resolved and made."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec

from fasthep_flow.environments import ContainerSpec, Mount, find_runtime
from fasthep_flow.environments.host.owner import owner_labels
from fasthep_flow.model import Plan, PythonSpec, TaskSpec

__all__ = ["look_on", "resolve_on", "without_python"]


def without_python(task: TaskSpec) -> TaskSpec:
    """The task as far as a runtime must be known for it, and its image be here."""
    return msgspec.structs.replace(
        task,
        environment=msgspec.structs.replace(
            task.environment, python=None, setup=None, credentials=(), extra_data=()
        ),
    )


def resolve_on(
    task: TaskSpec, runtime: str, plan: Plan, *, progress: Callable[[str], None]
) -> tuple[str, ...]:
    """The very distributions of the task's Python environment, where the task would run.

    A setup script that it stands on is sourced: it may bring the Python.

    Args:
        task: One with a Python environment, and one image or none.
        runtime: That was chosen for it.
        plan: Whose task it is.
        progress: Is told of what may take long.

    Raises:
        EnvironmentRefused: They cannot be resolved; or the script fails.
    """
    from fasthep_flow.environments.software import resolve

    python = task.environment.python or PythonSpec()
    return resolve(
        python,
        setup=task.environment.setup,
        runtime=find_runtime(runtime),
        spec=_spec(task, runtime, plan),
        environment=_variables(task),
        working_directory=plan.directory,
        secrets=task.environment.secrets,
        progress=progress,
    )


def look_on(task: TaskSpec, runtime: str, plan: Plan) -> Path | None:
    """The folder of the task's Python environment, if it is there."""
    from fasthep_flow.environments.software import look

    return look(
        task.environment.python or PythonSpec(),
        setup=task.environment.setup,
        runtime=find_runtime(runtime),
        spec=_spec(task, runtime, plan),
        environment=_variables(task),
        working_directory=plan.directory,
    )


def _spec(task: TaskSpec, runtime: str, plan: Plan) -> ContainerSpec:
    environment = task.environment
    name = f"fasthep-lock-{uuid.uuid4().hex[:16]}"
    if environment.image is None:
        return ContainerSpec(name=name)
    return ContainerSpec(
        name=name,
        image=find_runtime(runtime).resolve(environment.image),
        labels={"fasthep.run": "look", **owner_labels()},
        mounts=(Mount(source=plan.directory, target=plan.directory),),
        network=environment.network,
        options=environment.options,
    )


def _variables(task: TaskSpec) -> dict[str, str | None]:
    return {name: variable.value for name, variable in task.environment.variables.items()}
