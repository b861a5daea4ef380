"""What a lock file says: the digest of every image and data item, the distributions of Python.

Names are as they stand in the file: paths within the workflow's folder start there
(``./image.sif``), so that the file means the same wherever the workflow is checked out; and no
URL shows a password.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from fasthep_flow.model import (
    DataItem,
    Environment,
    Image,
    Invocation,
    Plan,
    PythonSpec,
    TaskSpec,
)
from fasthep_flow.redaction import without_credentials

__all__ = [
    "Lock",
    "LockedData",
    "LockedImage",
    "LockedPython",
    "PythonKey",
    "data_key",
    "data_of",
    "image_key",
    "images_of",
    "in_each_image",
    "python_key",
    "pythons_of",
]

ImageKey: TypeAlias = tuple[str, str]
PythonKey: TypeAlias = tuple[str, tuple[str, ...], str, str, str]

_ON_GPU: Final = " (on a gpu)"
_WITH_PATHS: Final = frozenset({"sif", "folder", "docker-archive", "oci-archive", "oci"})


class LockedImage(Struct, frozen=True, kw_only=True):
    """An image.

    Args:
        name: As the plan has it.
        platform: That is asked for; empty for any machine's own.
        digest: ``sha256:...``; empty where none can be known.
        unlockable: Why there is no digest.
    """

    name: str
    platform: str = ""
    digest: str = ""
    unlockable: str = ""

    @property
    def key(self) -> ImageKey:
        """What tells it from all others."""
        return self.name, self.platform


class LockedData(Struct, frozen=True, kw_only=True):
    """Extra data.

    Args:
        source: A URL or a path.
        digest: ``sha256:...``.
    """

    source: str
    digest: str

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return self.source


class LockedPython(Struct, frozen=True, kw_only=True):
    """A Python environment.

    Args:
        version: That is asked for; empty for any.
        requirements: That are asked for.
        directory: The folder from which relative paths in them start.
        image: For which it is, and its platform; empty for the host.
        setup: ``sha256:...`` of the setup script that it stands on; empty for none.
        resolved: The very distributions, with their digests.
    """

    version: str = ""
    requirements: tuple[str, ...] = ()
    directory: str = "."
    image: str = ""
    setup: str = ""
    resolved: tuple[str, ...] = ()

    @property
    def key(self) -> PythonKey:
        """What tells it from all others."""
        return self.version, self.requirements, self.directory, self.image, self.setup


class Lock(Struct, frozen=True, kw_only=True):
    """All that a workflow uses; each part in the order of its names."""

    images: tuple[LockedImage, ...] = ()
    data: tuple[LockedData, ...] = ()
    python: tuple[LockedPython, ...] = ()

    def image(self, key: ImageKey) -> LockedImage | None:
        """The image of that key."""
        return next((one for one in self.images if one.key == key), None)

    def item(self, key: str) -> LockedData | None:
        """The data item of that key."""
        return next((one for one in self.data if one.key == key), None)

    def environment(self, key: PythonKey) -> LockedPython | None:
        """The Python environment of that key."""
        return next((one for one in self.python if one.key == key), None)


def image_key(image: Image, directory: str) -> ImageKey:
    """What tells an image from all others in the lock of a workflow in ``directory``."""
    name = image.name
    if image.form in _WITH_PATHS:
        prefix, path = name[: len(name) - len(image.reference)], image.reference
        name = prefix + _portable(path, directory)
    return name, image.platform or ""


def data_key(item: DataItem, directory: str) -> str:
    """What tells a data item from all others in the lock of a workflow in ``directory``."""
    if item.source.startswith("/"):
        return _portable(item.source, directory)
    return without_credentials(item.source)


def python_key(environment: Environment, image: Image | None, directory: str) -> PythonKey:
    """What tells an environment's Python from all others in the lock of a workflow there.

    Args:
        environment: One that has a Python environment.
        image: The one of its images that it is for; ``None`` for the host.
        directory: Of the workflow.
    """
    python = environment.python or PythonSpec()
    lines = tuple(without_credentials(line) for line in python.requirements)
    folder = _portable(python.directory, directory) if python.directory else "."
    name = "" if image is None else " for ".join(filter(None, image_key(image, directory)))
    setup = ""
    if environment.setup is not None:
        # The paths of its scripts are absolute.
        text = environment.setup.lines.replace(f"{directory}/", "./")
        setup = f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()}"
    return python.version or "", lines, folder, name, setup


def images_of(plan: Plan) -> dict[Image, list[str]]:
    """The plan's images, those for gpus among them, each with the names of its tasks.

    How an image is to be fetched makes no other one of it.
    """
    found: dict[ImageKey, tuple[Image, list[str]]] = {}
    for task in plan.tasks:
        for image in (task.environment.image, task.environment.gpu_image):
            if image is not None:
                names = found.setdefault((image.name, image.platform or ""), (image, []))[1]
                names.append(task.name)
    return {image: _distinct(names) for image, names in found.values()}


def data_of(plan: Plan) -> dict[DataItem, list[str]]:
    """The plan's extra data, each item with the names of its tasks."""
    found: dict[tuple[str, str | None], tuple[DataItem, list[str]]] = {}
    for task in plan.tasks:
        for item in task.environment.extra_data:
            found.setdefault((item.source, item.digest), (item, []))[1].append(task.name)
    return {item: _distinct(names) for item, names in found.values()}


def pythons_of(tasks: Iterable[TaskSpec], directory: str) -> dict[PythonKey, list[TaskSpec]]:
    """The Python environments of tasks that have one image or none, each with its tasks."""
    found: dict[PythonKey, list[TaskSpec]] = {}
    for task in tasks:
        environment = task.environment
        if environment.python is not None:
            key = python_key(environment, environment.image, directory)
            found.setdefault(key, []).append(task)
    return found


def in_each_image(tasks: Iterable[TaskSpec]) -> Iterator[TaskSpec]:
    """The tasks, in each of the images that they may have; the second is under another name."""
    for task in tasks:
        environment = task.environment
        versions = task.invocations
        gpu = environment.gpu_image
        yield _in_image(task, environment.image, versions.get("cpu"), "")
        if gpu is not None:
            yield _in_image(task, gpu, versions.get("gpu"), _ON_GPU)


def _in_image(
    task: TaskSpec, image: Image | None, invocation: Invocation | None, suffix: str
) -> TaskSpec:
    environment = task.environment
    return msgspec.structs.replace(
        task,
        name=f"{task.name}{suffix}",
        invocations={"cpu": invocation or next(iter(task.invocations.values()))},
        environment=msgspec.structs.replace(
            environment,
            image=image,
            gpu_image=None,
            resources=msgspec.structs.replace(environment.resources, process_on="cpu", gpus=None),
        ),
    )


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _portable(path: str, directory: str) -> str:
    """The path, from the workflow's folder if it lies within."""
    if path == directory:
        return "."
    within = path.removeprefix(directory.rstrip(os.sep) + os.sep)
    return path if within == path else f"./{within}"
