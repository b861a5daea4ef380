"""What a workflow uses at the moment: asked of registries, sources and indices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from fasthep_flow.errors import EnvironmentRefused, SoftwareUnavailable
from fasthep_flow.locking.lock import (
    Lock,
    LockedData,
    LockedImage,
    LockedPython,
    PythonKey,
    data_key,
    data_of,
    image_key,
    images_of,
    in_each_image,
    pythons_of,
)
from fasthep_flow.model import DataItem, Image, Plan
from fasthep_flow.redaction import looks_secret

__all__ = ["current_data", "current_image", "current_lock", "refusal", "tasks_text"]

_NAMES_SHOWN = 3
_Key = TypeVar("_Key")
_T = TypeVar("_T")


def current_lock(plan: Plan, *, progress: Callable[[str], None]) -> Lock:
    """All that the plan uses, to the very bytes.

    Data is fetched where its digest is not known; images, where Python is resolved in them.

    Args:
        plan: Of the whole workflow.
        progress: Is told of what may take long.

    Raises:
        EnvironmentRefused: Something cannot be had, or has a secret in it; names all of these.
    """
    refusals: list[tuple[EnvironmentRefused, list[str]]] = []
    images: dict[tuple[str, str], LockedImage] = {}
    data: dict[str, LockedData] = {}
    python: dict[PythonKey, LockedPython] = {}
    for image, names in images_of(plan).items():
        progress(f"image {image}")
        try:
            one = current_image(image, plan.directory)
            images[one.key] = one
        except EnvironmentRefused as error:
            refusals.append((error, names))
    for item, names in data_of(plan).items():
        source = data_key(item, plan.directory)
        try:
            found = current_data(item, progress=progress)
            data.setdefault(source, LockedData(source=source, digest=found))
        except EnvironmentRefused as error:
            refusals.append((error, names))
    for key, found_lines in _pythons(plan, refusals, progress).items():
        version, requirements, directory, image_name, setup = key
        python[key] = LockedPython(
            version=version,
            requirements=requirements,
            directory=directory,
            image=image_name,
            setup=setup,
            resolved=found_lines,
        )
    if refusals:
        raise refusal("cannot be locked", refusals)
    return Lock(
        images=_ordered(images),
        data=_ordered(data),
        python=tuple(sorted(python.values(), key=lambda one: one.key)),
    )


def _pythons(
    plan: Plan,
    refusals: list[tuple[EnvironmentRefused, list[str]]],
    progress: Callable[[str], None],
) -> dict[PythonKey, tuple[str, ...]]:
    """The distributions of every Python environment, resolved where it would be made."""
    wanted = pythons_of(in_each_image(plan.tasks), plan.directory)
    if not wanted:
        return {}
    from fasthep_flow.environments.preflight.gate import preflight
    from fasthep_flow.locking.grounds import resolve_on, without_python

    found = {}
    for key, tasks in wanted.items():
        names = [task.name for task in tasks]
        try:
            # An image has a Python of its own: it must be here.
            (runtime,) = preflight(
                [without_python(tasks[0])], progress=progress, directories=(plan.directory,)
            ).values()
            lines = resolve_on(tasks[0], runtime, plan, progress=progress)
            found[key] = _without_secrets(lines)
        except EnvironmentRefused as error:
            refusals.append((error, names))
    return found


def current_image(image: Image, directory: str) -> LockedImage:
    """The image and its digest, or why it has none.

    Raises:
        EngineUnavailable: It is docker's, and docker does not answer.
        ImageUnavailable: There is no such image, no permission, or no registry.
    """
    from fasthep_flow.environments.images.exact import exact_digest, why_inexact

    name, platform = image_key(image, directory)
    if (why := why_inexact(image)) is not None:
        return LockedImage(name=name, platform=platform, unlockable=why)
    return LockedImage(name=name, platform=platform, digest=exact_digest(image))


def current_data(item: DataItem, *, progress: Callable[[str], None]) -> str:
    """The digest of the item.

    Raises:
        DataUnavailable: It cannot be had.
    """
    from fasthep_flow.environments.data import fetch

    found = fetch(item, with_digest=True, anew=True, progress=progress)
    if found.digest is None:
        raise AssertionError(f"no digest of {item.source}")
    return found.digest


def refusal(what: str, refusals: list[tuple[EnvironmentRefused, list[str]]]) -> EnvironmentRefused:
    """One error of all of them, each with its tasks; of their class, if they have one.

    Args:
        what: What is the matter with all of them.
        refusals: Errors, and the names of the tasks that they concern.
    """
    kinds = {type(error) for error, _ in refusals}
    kind = kinds.pop() if len(kinds) == 1 else EnvironmentRefused
    if len(refusals) == 1:
        error, names = refusals[0]
        return kind(f"{tasks_text(names)}: {error.message}", hint=error.hint)
    hints = {error.hint for error, _ in refusals}
    lines = [f"{len(refusals)} things {what}"]
    for error, names in refusals:
        lines.append(f"{tasks_text(names)}: {error.message}")
        if error.hint is not None and len(hints) > 1:
            lines.append(f"  {error.hint}")
    return kind("\n".join(lines), hint=hints.pop() if len(hints) == 1 else None)


def tasks_text(names: list[str]) -> str:
    """The tasks, the first of them by name."""
    if len(names) == 1:
        return f"task {names[0]!r}"
    shown = ", ".join(repr(name) for name in names[:_NAMES_SHOWN])
    rest = len(names) - _NAMES_SHOWN
    return f"tasks {shown} and {rest} more" if rest > 0 else f"tasks {shown}"


def _without_secrets(lines: tuple[str, ...]) -> tuple[str, ...]:
    for line in lines:
        if looks_secret(line):
            raise SoftwareUnavailable(
                "a requirement has a password in its URL, which would stand in the lock file",
                hint="put it into ~/.netrc, and take it out of the URL",
            )
    return lines


def _ordered(entries: Mapping[_Key, _T]) -> tuple[_T, ...]:
    return tuple(entries[key] for key in sorted(entries, key=repr))
