"""Software beside the image, examined: made or tried before a run, or looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fasthep_flow.environments import Mount, ResolvedImage, Runtime
from fasthep_flow.environments.preflight.demands import Demand
from fasthep_flow.environments.preflight.verdicts import Check
from fasthep_flow.model import PythonSpec, Setup

__all__ = ["check_software"]


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
        progress: Is told of what may take long.
    """
    if setup is not None or python is not None:
        raise NotImplementedError
    return []
