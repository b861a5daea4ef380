"""What a workflow uses, held against its lock file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from fasthep_flow.environments.preflight.verdicts import Check, passed, refused
from fasthep_flow.errors import (
    DataUnavailable,
    EngineUnavailable,
    EnvironmentRefused,
    ImageUnavailable,
    LockDrift,
)
from fasthep_flow.locking.current import current_data, current_image, refusal, tasks_text
from fasthep_flow.locking.file import lock_path, read_lock
from fasthep_flow.locking.lock import (
    Lock,
    LockedImage,
    PythonKey,
    data_key,
    data_of,
    image_key,
    images_of,
    in_each_image,
    python_key,
    pythons_of,
)
from fasthep_flow.model import DataItem, Image, Plan, TaskSpec

__all__ = ["held_against", "locked_plan", "notes"]

_LOCK: Final = "if that is as it should be: fasthep-flow lock"
_IN_REGISTRY: Final = frozenset({"registry", "oras"})
_LONGEST: Final = 3
_LOCK_NAME: Final = "{lock}"
"""Stands for the name of the file."""


def locked_plan(plan: Plan, *, progress: Callable[[str], None]) -> Plan:
    """The plan, all that it uses named as its lock file names it.

    Registries and sources are asked whether they still have what the lock names, unless the plan
    is offline; files on this machine are looked at in any case.

    Args:
        plan: What would run.
        progress: Is told of what may take long.

    Raises:
        LockDrift: There is no lock file, or something is not as it says; names all of it.
        EnvironmentRefused: Something cannot be asked.
        WorkflowError: The lock file is damaged, or of a newer version.
    """
    keeper = _Keeper(plan, progress, may_fetch=True)
    if keeper.refusals:
        raise refusal(f"are not as {keeper.name} says", keeper.refusals)
    return keeper.locked()


def held_against(plan: Plan) -> tuple[Plan, list[Check]]:
    """The plan as its lock file names what it uses, and what was found; fetches nothing.

    Args:
        plan: What would run.

    Returns:
        The plan as it is where there is no lock file.

    Raises:
        WorkflowError: The lock file is damaged, or of a newer version.
    """
    try:
        keeper = _Keeper(plan, _nothing, may_fetch=False)
    except LockDrift as missing:
        return plan, [refused("lock", missing)]
    checks = []
    for error, names in keeper.refusals:
        said = type(error)(f"{tasks_text(names)}: {error.message}", hint=error.hint)
        checks.append(refused("lock", said))
    if not checks:
        asked = ", and nobody was asked" if plan.offline else ""
        checks.append(passed("lock", f"all is as {keeper.name} says{asked}"))
    return keeper.locked(), checks


class _Keeper:
    """Holds each thing against the lock, once."""

    def __init__(self, plan: Plan, progress: Callable[[str], None], *, may_fetch: bool) -> None:
        path = lock_path(Path(plan.source))
        lock = read_lock(path)
        if lock is None:
            raise LockDrift(f"there is no lock file {path}", hint="write one: fasthep-flow lock")
        self.name: Final = path.name
        self.refusals: Final[list[tuple[EnvironmentRefused, list[str]]]] = []
        self._plan: Final = plan
        self._lock: Final = lock
        self._progress: Final = progress
        self._may_fetch: Final = may_fetch
        self._images: Final[dict[tuple[str, str], str]] = {}
        self._data: Final[dict[tuple[str, str | None], str]] = {}
        self._pythons: Final[dict[PythonKey, tuple[str, ...]]] = {}
        for image, names in images_of(plan).items():
            self._note(names, lambda image=image: self._image(image))  # type: ignore[misc]
        for item, names in data_of(plan).items():
            self._note(names, lambda item=item: self._item(item))  # type: ignore[misc]
        for key, tasks in pythons_of(in_each_image(plan.tasks), plan.directory).items():
            names = [task.name for task in tasks]
            self._note(names, lambda key=key: self._python(key))  # type: ignore[misc]

    def locked(self) -> Plan:
        """The plan, all that it uses named as the lock names it."""
        return msgspec.structs.replace(
            self._plan, tasks=tuple(self._locked(task) for task in self._plan.tasks)
        )

    def _locked(self, task: TaskSpec) -> TaskSpec:
        environment = task.environment
        python = environment.python
        if python is not None:
            key = python_key(environment, environment.image, self._plan.directory)
            python = msgspec.structs.replace(python, resolved=self._pythons.get(key, ()))
        return msgspec.structs.replace(
            task,
            environment=msgspec.structs.replace(
                environment,
                image=self._by_digest(environment.image),
                gpu_image=self._by_digest(environment.gpu_image),
                extra_data=tuple(
                    msgspec.structs.replace(
                        one, digest=self._data.get((one.source, one.digest), one.digest)
                    )
                    for one in environment.extra_data
                ),
                python=python,
            ),
        )

    def _note(self, names: list[str], look: Callable[[], None]) -> None:
        try:
            look()
        except EnvironmentRefused as error:
            self.refusals.append((error, names))

    def _image(self, image: Image) -> None:
        key = image_key(image, self._plan.directory)
        locked = self._lock.image(key)
        shown = f"{key[0]} for {key[1]}" if key[1] else key[0]
        if locked is None:
            raise LockDrift(f"the image {shown} is not in {self.name}", hint=_LOCK)
        if locked.unlockable:
            raise LockDrift(
                f"the image {shown} cannot be locked: {locked.unlockable}",
                hint="push it to a registry, or make a SIF file of it; or run without --locked",
            )
        self._images[key] = locked.digest
        if self._plan.offline and image.form in _IN_REGISTRY and "@" not in image.name:
            return
        self._progress(f"image {image}")
        try:
            now = current_image(image, self._plan.directory).digest
        except (ImageUnavailable, EngineUnavailable) as error:
            if image.form not in _IN_REGISTRY:
                raise
            raise type(error)(error.message, hint=_or_offline(error.hint)) from None
        if now != locked.digest:
            where = "in its registry now" if image.form in _IN_REGISTRY else "now"
            if "@" in image.name:
                where = "in the workflow"
            raise LockDrift(
                f"the image {shown} is {now} {where}, and {locked.digest} in {self.name}",
                hint=_LOCK,
            )

    def _item(self, item: DataItem) -> None:
        key = data_key(item, self._plan.directory)
        locked = self._lock.item(key)
        if locked is None:
            raise LockDrift(f"the data {key} is not in {self.name}", hint=_LOCK)
        self._data[item.source, item.digest] = locked.digest
        given = item.digest
        if given is not None and _comparable(given, locked.digest) and given != locked.digest:
            raise LockDrift(
                f"the data {key} is to be {given} by the workflow, and is {locked.digest} in"
                f" {self.name}",
                hint=_LOCK,
            )
        if not _is_local(item) and (self._plan.offline or not self._may_fetch):
            # That it is so is looked at where it is had.
            return
        try:
            now = current_data(item, progress=self._progress)
        except DataUnavailable as error:
            if _is_local(item):
                raise
            raise DataUnavailable(error.message, hint=_or_offline(error.hint)) from None
        if now != locked.digest:
            raise LockDrift(
                f"the data {key} is {now} now, and {locked.digest} in {self.name}", hint=_LOCK
            )

    def _python(self, key: PythonKey) -> None:
        locked = self._lock.environment(key)
        if locked is None:
            raise LockDrift(f"{_asked(key)} is not in {self.name}", hint=_LOCK)
        self._pythons[key] = locked.resolved

    def _by_digest(self, image: Image | None) -> Image | None:
        if image is None or image.form not in _IN_REGISTRY:
            return image
        digest = self._images.get(image_key(image, self._plan.directory))
        if digest is None:
            return image
        name = image.name if "@" in image.name else f"{image.name}@{digest}"
        return msgspec.structs.replace(
            image, name=name, pull="never" if image.pull == "never" else "missing"
        )


def notes(plan: Plan, exact: Plan, runtimes: Mapping[str, str]) -> tuple[str, ...]:
    """What a run that is not locked finds different from the lock file, a line for each.

    Args:
        plan: What the author asks for.
        exact: The same as it is going to run: on this machine, and with the digests of data.
        runtimes: What was chosen for each task.

    Raises:
        WorkflowError: The lock file is damaged, or of a newer version.
    """
    path = lock_path(Path(plan.source))
    lock = read_lock(path)
    if lock is None:
        return ()
    lines: dict[str, None] = {}
    for asked, task in zip(plan.tasks, exact.tasks, strict=True):
        found = _task_notes(asked, task, runtimes[task.name], lock, plan.directory)
        lines.update(dict.fromkeys(line.replace(_LOCK_NAME, path.name) for line in found))
    return tuple(lines)


def _task_notes(
    asked: TaskSpec, task: TaskSpec, runtime: str, lock: Lock, directory: str
) -> Iterator[str]:
    wanted, used = asked.environment, task.environment
    for image, here in ((wanted.image, used.image), (wanted.gpu_image, used.gpu_image)):
        if image is not None and here is not None:
            locked = lock.image(image_key(image, directory))
            yield from _image_note(image, here, runtime, locked=locked, directory=directory)
    for item, fetched in zip(wanted.extra_data, used.extra_data, strict=True):
        yield from _data_note(item, fetched, lock, directory)
    if wanted.python is not None:
        key = python_key(wanted, wanted.image, directory)
        if lock.environment(key) is None:
            yield f"{_asked(key)} is not in {_LOCK_NAME}"


def _image_note(
    image: Image, used: Image, runtime: str, *, locked: LockedImage | None, directory: str
) -> Iterator[str]:
    name = image_key(image, directory)[0]
    if locked is None:
        yield f"image {name} is not in {_LOCK_NAME}"
        return
    if locked.unlockable:
        return
    if image.form in _IN_REGISTRY:
        now = _digest_here(used, image, runtime, locked.digest)
    else:
        now = current_image(image, directory).digest
    if now is not None and now != locked.digest:
        yield f"image {name} is now {now}, {_LOCK_NAME} has {locked.digest}"


def _digest_here(used: Image, image: Image, name: str, locked: str) -> str | None:
    """The digest of what is on this machine; the locked one, if that is the very same."""
    from fasthep_flow.environments import find_runtime

    runtime = find_runtime(name)
    try:
        here = runtime.resolve(msgspec.structs.replace(used, pull="never"))
    except EnvironmentRefused:
        # For devices that the task does not run on here.
        return None
    if here.digest == locked or "@" in image.name:
        return here.digest
    # An image for several platforms has a digest of its own, and one for their list.
    by_digest = msgspec.structs.replace(image, name=f"{image.name}@{locked}", pull="never")
    try:
        same = runtime.resolve(by_digest).reference == here.reference
    except EnvironmentRefused:
        return here.digest
    return locked if same else here.digest


def _data_note(item: DataItem, fetched: DataItem, lock: Lock, directory: str) -> Iterator[str]:
    key = data_key(item, directory)
    locked = lock.item(key)
    if locked is None:
        yield f"data {key} is not in {_LOCK_NAME}"
        return
    now = current_data(item, progress=_nothing) if _is_local(item) else fetched.digest
    if now is not None and _comparable(now, locked.digest) and now != locked.digest:
        yield f"data {key} is now {now}, {_LOCK_NAME} has {locked.digest}"


def _is_local(item: DataItem) -> bool:
    return item.source.startswith(("/", "file:"))


def _comparable(one: str, other: str) -> bool:
    """Whether both are digests of the same kind."""
    return one.partition(":")[0] == other.partition(":")[0]


def _asked(key: PythonKey) -> str:
    version, requirements, _, image, _ = key
    lines = [*requirements[:_LONGEST]]
    more = len(requirements) - len(lines)
    if more > 0:
        lines.append(f"{more} more")
    what = ", ".join(lines) or f"Python {version}".rstrip()
    return f"the Python environment of {what}" + (f" in {image}" if image else "")


def _or_offline(hint: str | None) -> str:
    words = "or run with --offline, which takes what is here without asking"
    return words if hint is None else f"{hint}; {words}"


def _nothing(_: str) -> None:
    """For what is not to be told."""
