"""All that a workflow uses, brought in before it runs: into this machine, or into a folder.

The folder serves as ``FASTHEP_FLOW_CACHE`` on another machine: images, data and what Python
environments are made of lie in it. No task runs; a setup script is sourced where a Python
environment stands on it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from fasthep_flow.environments import RUNTIMES, Runtime, find_runtime
from fasthep_flow.errors import DataUnavailable, EnvironmentRefused, ImageUnavailable
from fasthep_flow.locking.lock import (
    data_key,
    data_of,
    image_key,
    images_of,
    in_each_image,
    pythons_of,
)
from fasthep_flow.model import DataItem, Image, Plan, PythonSpec, TaskSpec

__all__ = ["Pulled", "pull"]

_CACHE: Final = "FASTHEP_FLOW_CACHE"
_NATIVE: Final = "native"
_IN_REGISTRY: Final = frozenset({"registry", "oras"})


State: TypeAlias = Literal["was here", "fetched", "left out"]


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
    state: State
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
        if folder is not None:
            _keep_downloads()
        before = _Before(plan, progress)
        started_s = time.time()
        tasks = tuple(_fetched_alone(task) for task in in_each_image(plan.tasks))
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
        found += [_data(item, plan.directory, before, folder) for item in data_of(plan)]
        for wanted in pythons_of(tasks, plan.directory).values():
            found.append(_python(wanted[0], chosen[wanted[0].name], plan, started_s))
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


def _fetched_alone(task: TaskSpec) -> TaskSpec:
    """The task without what is no matter of fetching.

    A setup script is one if it may bring the Python of an environment.
    """
    environment = task.environment
    if environment.python is not None and environment.setup is not None:
        return task
    return msgspec.structs.replace(
        task, environment=msgspec.structs.replace(environment, setup=None, credentials=())
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
            if not was_here:
                before.progress(f"{runtime.name}: saves the image {image}")
            archive = runtime.bundle(image)
            place, size = str(archive), archive.stat().st_size
    elif Path(place).exists():
        size = _bytes_below(Path(place))
    # What lies with the workflow goes with it.
    lies_within = (
        folder is None
        or Path(place).is_relative_to(folder)
        or Path(image.path or "/").is_relative_to(directory)
    )
    if folder is not None and Path(place).is_relative_to(folder) and place.startswith("/"):
        kept = Path(place)
        try:
            # An unpacked image has what is known of it beside itself.
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


def _keep_downloads() -> None:
    """Have uv keep in the folder what it fetches: elsewhere the environments are made anew."""
    from fasthep_flow.environments.software.keys import private_folder

    private_folder("uv", "host")


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


def _data(item: DataItem, directory: str, before: _Before, folder: Path | None) -> Pulled:
    from fasthep_flow.environments.data import fetch
    from fasthep_flow.environments.data.fetching import kept_content

    # Asked already; only of files on this machine the digest need not be known yet.
    found = fetch(item, with_digest=item.source.startswith("/"), progress=before.progress)
    name, size = data_key(item, directory), None
    state: State = "was here" if before.had_data(item, found.digest) else "fetched"
    place = ""
    if item.source.startswith("/"):
        state = "was here" if folder is None or name.startswith("./") else "left out"
        place = item.source
    elif (content := kept_content(found)) is not None:
        size = _bytes_below(content[0])
    return Pulled(
        what="data", name=name, digest=found.digest or "", size=size, state=state, place=place
    )


def _python(task: TaskSpec, runtime: str, plan: Plan, started_s: float) -> Pulled:
    from fasthep_flow.locking.grounds import look_on

    python = task.environment.python or PythonSpec()
    there = look_on(task, runtime, plan)
    is_new = there is not None and there.stat().st_mtime >= started_s
    return Pulled(
        what="python",
        name=", ".join(python.requirements) or f"Python {python.version or ''}".rstrip(),
        runtime=runtime,
        size=None if there is None else _bytes_below(there),
        state="fetched" if is_new else "was here",
        place="" if there is None else str(there),
    )


def _nothing(_: str) -> None:
    """For what is not to be told."""
