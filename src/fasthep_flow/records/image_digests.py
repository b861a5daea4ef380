"""The digests of the images that tasks run in, as the runtime of each task has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fasthep_flow.environments import find_runtime
from fasthep_flow.errors import EnvironmentRefused
from fasthep_flow.model import Image, TaskSpec

__all__ = ["image_digests"]


def image_digests(runtimes: Mapping[str, str]) -> Callable[[TaskSpec, Image], str | None]:
    """What tells the digest of an image of a task's; ``None`` where that is not known.

    Each is asked for once, and nothing is fetched. What is not on this machine, such as an image
    for GPUs on a machine without, may be asked of its registry.

    Args:
        runtimes: The runtime of each task, by its name.
    """
    known: dict[tuple[str, Image], str | None] = {}

    def digest(task: TaskSpec, image: Image) -> str | None:
        runtime = runtimes.get(task.name)
        if runtime is None:
            return None
        if (runtime, image) not in known:
            try:
                known[runtime, image] = find_runtime(runtime).look(image).digest
            except EnvironmentRefused:
                known[runtime, image] = None
        return known[runtime, image]

    return digest
