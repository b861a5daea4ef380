"""What an earlier driver or worker started and did not live to stop."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Mapping
from typing import Final

from fasthep_flow.environments import find_runtime
from fasthep_flow.environments.host.scratch import remove_orphaned_scratch
from fasthep_flow.environments.host.spawn import end_processes
from fasthep_flow.environments.limits.cgroups import GROUPS
from fasthep_flow.environments.oci import DOCKER, PODMAN, OciRuntime
from fasthep_flow.errors import EngineUnavailable

__all__ = ["ENGINES", "end_orphans", "end_run", "end_task"]

ENGINES: Final = {runtime.name: runtime for runtime in (PODMAN, DOCKER)}
"""Those whose containers live on when the process is killed that started them."""


def end_run(run_id: str, run_directory: str, runtimes: Iterable[str] = ENGINES) -> int:
    """End all processes and containers of a run on this machine; how many there were.

    For a driver that goes on with a run whose driver is gone: before it starts a task
    again, that task is to run nowhere.

    Args:
        run_id: Of the run.
        run_directory: Absolute path of its folder.
        runtimes: That its tasks use: where to look.
    """
    # Containers first: their processes are the host's as well, and are not to count twice.
    return _end_containers({"fasthep.run": run_id}, runtimes) + end_processes(run_directory)


def end_orphans(runtimes: Iterable[str]) -> int:
    """End the containers on this machine whose driver or worker is gone; how many there were.

    A process that was killed could not end them, and an engine lets them run for ever. The
    containers of processes that live, and of other hosts, are left alone.

    Args:
        runtimes: Where to look.
    """
    ended = 0
    for name in runtimes:
        runtime = find_runtime(name)
        if isinstance(runtime, OciRuntime):
            with contextlib.suppress(EngineUnavailable):
                ended += runtime.remove_orphans()
    GROUPS.remove_leftovers()
    # Once what used them is gone.
    remove_orphaned_scratch()
    return ended


def end_task(run_id: str, task: str, task_directory: str, runtime: str) -> int:
    """End all earlier attempts of a task on this machine; how many there were.

    Args:
        run_id: Of the run.
        task: The task's name.
        task_directory: Absolute path of its folder, in which those of the attempts lie.
        runtime: Of the task: where to look.
    """
    labels = {"fasthep.run": run_id, "fasthep.task": task}
    return _end_containers(labels, [runtime]) + end_processes(task_directory)


def _end_containers(labels: Mapping[str, str], runtimes: Iterable[str]) -> int:
    ended = 0
    for name in runtimes:
        # An engine that is not there has no containers that could still write.
        if name in ENGINES and shutil.which(name) is not None:
            with contextlib.suppress(EngineUnavailable):
                ended += ENGINES[name].remove_all(labels)
    return ended
