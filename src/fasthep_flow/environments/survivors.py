"""What an earlier driver or worker started and did not live to stop."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence

from fasthep_flow.environments.oci import DOCKER, PODMAN, OciRuntime
from fasthep_flow.environments.spawn import end_processes
from fasthep_flow.errors import EngineUnavailable

__all__ = ["end_run", "end_task"]


def end_run(run_id: str, run_directory: str) -> int:
    """End all processes and containers of a run on this machine; how many there were.

    For a driver that goes on with a run whose driver is gone: before it starts a task
    again, that task is to run nowhere.

    Args:
        run_id: Of the run.
        run_directory: Absolute path of its folder.
    """
    return end_processes(run_directory) + _end_containers({"fasthep.run": run_id})


def end_task(run_id: str, task: str, task_directory: str, runtime: str) -> int:
    """End all earlier attempts of a task on this machine; how many there were.

    Args:
        run_id: Of the run.
        task: The task's name.
        task_directory: Absolute path of its folder, in which those of the attempts lie.
        runtime: Of the task: where to look.
    """
    if runtime not in (PODMAN.name, DOCKER.name):
        return end_processes(task_directory)
    labels = {"fasthep.run": run_id, "fasthep.task": task}
    return _end_containers(labels, [one for one in (PODMAN, DOCKER) if one.name == runtime])


def _end_containers(
    labels: Mapping[str, str], runtimes: Sequence[OciRuntime] = (PODMAN, DOCKER)
) -> int:
    ended = 0
    for runtime in runtimes:
        # An engine that is not there has no containers that could still write.
        if shutil.which(runtime.name) is not None:
            with contextlib.suppress(EngineUnavailable):
                ended += runtime.remove_all(labels)
    return ended
