"""Software beside the image: what a setup script provides, and Python environments."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fasthep_flow.environments import Addition, ContainerSpec, Runtime
from fasthep_flow.model import PythonSpec, Setup

__all__ = ["software"]


def software(
    setup: Setup | None,
    python: PythonSpec | None,
    *,
    runtime: Runtime,
    spec: ContainerSpec,
    environment: Mapping[str, str | None],
    working_directory: str,
    offline: bool,
    progress: Callable[[str], None] = lambda _: None,
) -> Addition:
    """What a task's own software comes to; made and computed once, and kept.

    Args:
        setup: What is to be sourced, first.
        python: The Python environment, which lies above what the setup provides.
        runtime: What the task runs on.
        spec: Of the task's container, or of the host: what is made inside is made in one like
            it.
        environment: Variables that a setup script finds; none of those that tell one task
            from another.
        working_directory: Absolute path of the folder where the script is sourced.
        offline: Whether nothing may be fetched.
        progress: Is told of what may take long.

    Returns:
        Mounts, and all variables that are to differ from ``environment``; and, to be recorded,
        such as ``{"python": "3.12.4"}``.

    Raises:
        SoftwareUnavailable: A script fails, with its line; a requirement cannot be resolved;
            the image has no bash, or cannot have such an environment.
    """
    if setup is not None or python is not None:
        raise NotImplementedError
    return Addition()
