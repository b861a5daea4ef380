"""All that a workflow uses, brought in before it runs: into this machine, or into a folder.

The folder serves as ``FASTHEP_FLOW_CACHE`` on another machine: images, data and what Python
environments are made of lie in it. Nothing of the author's runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

import msgspec

from fasthep_flow.environments import RUNTIMES, Runtime, find_runtime
from fasthep_flow.errors import DataUnavailable, EnvironmentRefused, ImageUnavailable
from fasthep_flow.locking.lock import data_key, data_of, image_key, images_of
from fasthep_flow.model import DataItem, Device, Image, Plan, TaskSpec

__all__ = ["Pulled", "pull"]

_CACHE: Final = "FASTHEP_FLOW_CACHE"
_NATIVE: Final = "native"
_IN_REGISTRY: Final = frozenset({"registry", "oras"})
_ON_GPU: Final = " (on a gpu)"


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is on this machine, or in the folder, now.

    Args:
        what: ``image``, ``data`` or ``python``.
        name: As in the lock file; of a Python environment the tasks' own words.
        runtime: That an image is for.
        digest: ``sha256:...``, where there is one.
        size: Bytes; ``None`` where that is not known.
        state: Whether it was there, is there now, or cannot lie in the folder.
        place: Where it lies.
    """

    what: Literal["image", "data", "python"]
    name: str
    runtime: str = ""
    digest: str = ""
    size: int | None = None
    state: Literal["was here", "fetched", "left out"]
    place: str = ""


def pull(
    plan: Plan, *, folder: Path | None = None, progress: Callable[[str], None]
) -> tuple[Pulled, ...]:
    """Have all that the plan uses, as a run on this machine would choose it.

    Args:
        plan: Whose images and so on.
        folder: Where it is to lie, to be carried elsewhere; this user's cache if ``None``.
        progress: Is told of what may take long.

    Raises:
        EnvironmentRefused: Something cannot be had; names all of it.
    """
    from fasthep_flow.environments.preflight.gate import preflight

    with _cache_in(folder):
        before = _Before(plan, progress)
        tasks = tuple(_fetched_alone(plan.tasks))
        chosen = preflight(
            tasks, progress=progress, directories=(plan.directory, plan.output_directory)
        )
        runtimes: dict[tuple[str, Image], None] = {}
        for task in tasks:
            if task.environment.image is not None:
                runtimes[chosen[task.name], task.environment.image] = None
        found = [
            _image(find_runtime(name), image, plan.directory, before=before, folder=folder)
            for name, image in runtimes
        ]
        found += [_data(item, before, plan.directory) for item in data_of(plan)]
    return tuple(found)


class _Before:
    """What was on this machine before anything was fetched."""

    def __init__(self, plan: Plan, progress: Callable[[str], None]) -> None:
        self._images: Final[dict[tuple[str, Image], str]] = {}
        self._data: Final[dict[DataItem, str | None]] = {}
        self.progress: Final = progress
        progress("looking at what is here")
        asked = {task.environment.runtime for task in plan.tasks}
        for name in RUNTIMES:
            if name == _NATIVE or not asked & {None, name}:
                continue
            runtime = find_runtime(name)
            if runtime.probe() is None:
                self._look(runtime, plan)
        for item in data_of(plan):
            self._look_for(item)

    def had_image(self, runtime: str, image: Image, digest: str) -> bool:
        """Whether the image was there, of these very bytes."""
        return self._images.get((runtime, image)) == digest

    def had_data(self, item: DataItem, digest: str | None) -> bool:
        """Whether the data was there, of these very bytes."""
        return item in self._data and self._data[item] == digest

    def _look_for(self, item: DataItem) -> None:
        from fasthep_flow.environments.data import fetch

        with suppress(DataUnavailable):
            found = fetch(item, offline=True, with_digest=True, progress=_nothing)
            self._data[item] = found.digest

    def _look(self, runtime: Runtime, plan: Plan) -> None:
        for image in images_of(plan):
            if runtime.takes(image) is not None:
                continue
            unasked = image
            if image.form in _IN_REGISTRY:
                unasked = msgspec.structs.replace(image, pull="never")
            try:
                facts = runtime.look(unasked)
            except EnvironmentRefused:
                continue
            # Of a file, something may have to be made yet.
            if facts.is_local and facts.digest and (image.form in _IN_REGISTRY or not facts.note):
                self._images[runtime.name, image] = facts.digest


def _fetched_alone(tasks: Sequence[TaskSpec]) -> Iterator[TaskSpec]:
    """The tasks without what is no matter of fetching, each in every image that it may have."""
    for task in tasks:
        environment = task.environment
        variants: dict[Device, Image | None] = {"cpu": environment.image}
        if environment.gpu_image is not None:
            variants["gpu"] = environment.gpu_image
        for device, image in variants.items():
            invocation = task.invocations.get(device) or next(iter(task.invocations.values()))
            yield msgspec.structs.replace(
                task,
                name=task.name if device == "cpu" else f"{task.name}{_ON_GPU}",
                invocations={"cpu": invocation},
                environment=msgspec.structs.replace(
                    environment,
                    image=image,
                    gpu_image=None,
                    setup=None,
                    credentials=(),
                    resources=msgspec.structs.replace(
                        environment.resources, process_on="cpu", gpus=None
                    ),
                ),
            )


def _image(
    runtime: Runtime, image: Image, directory: str, *, before: _Before, folder: Path | None
) -> Pulled:
    from fasthep_flow.environments.images.bundled import seal
    from fasthep_flow.environments.oci import OciRuntime

    resolved = runtime.resolve(image)
    name, platform = image_key(image, directory)
    was_here = before.had_image(runtime.name, image, resolved.digest)
    place, size = resolved.reference, None
    if isinstance(runtime, OciRuntime):
        place, size = f"{runtime.name}'s own store", runtime.size(image)
        if folder is not None and image.form in _IN_REGISTRY:
            from fasthep_flow.environments.images.bundled import find_bundled

            was_here = find_bundled(image) is not None
            before.progress(f"{runtime.name}: saves the image {image}")
            archive = runtime.bundle(image)
            place, size = str(archive), archive.stat().st_size
    elif Path(place).exists():
        size = _bytes_below(Path(place))
    lies_within = folder is None or Path(place).is_relative_to(folder)
    if folder is not None and lies_within and not isinstance(runtime, OciRuntime):
        kept = Path(place)
        try:
            # A folder has what is known of it beside itself; both are carried.
            seal(kept if kept.is_file() else kept.parent)
        except OSError as error:
            raise ImageUnavailable(
                f"the image {image} cannot be kept in {folder}: {error.strerror or error}"
            ) from None
    return Pulled(
        what="image",
        name=f"{name} for {platform}" if platform else name,
        runtime=runtime.name,
        digest=resolved.digest,
        size=size,
        state="left out" if not lies_within else "was here" if was_here else "fetched",
        place=place,
    )


def _bytes_below(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(
        os.lstat(os.path.join(top, name)).st_size  # noqa: PTH118 - of many
        for top, _, names in os.walk(path)
        for name in names
    )


@contextmanager
def _cache_in(folder: Path | None) -> Iterator[None]:
    """Keep in the folder what else would be kept in the user's cache."""
    if folder is None:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentRefused(
            f"nothing can be kept in {folder}: {error.strerror}", hint="choose another folder"
        ) from None
    before = os.environ.get(_CACHE)
    os.environ[_CACHE] = str(folder)
    try:
        yield
    finally:
        del os.environ[_CACHE]
        if before is not None:
            os.environ[_CACHE] = before


def _data(item: DataItem, before: _Before, directory: str) -> Pulled:
    from fasthep_flow.environments.data import fetch

    found = fetch(item, with_digest=True, progress=before.progress)
    return Pulled(
        what="data",
        name=data_key(item, directory),
        digest=found.digest or "",
        state="was here" if before.had_data(item, found.digest) else "fetched",
    )


def _nothing(_: str) -> None:
    """For what is not to be told."""
