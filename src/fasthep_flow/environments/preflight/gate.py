"""Before the first task: can every environment that the workflow asks for be had here?

All that cannot be honoured is refused at once, while nothing has been done yet. A run has the
images fetched now, so that no task waits for one, and looks inside them; a check fetches
nothing, and says what only then would be known.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from fasthep_flow.environments import Runtime, find_runtime
from fasthep_flow.environments.devices.inventory import inventory
from fasthep_flow.environments.preflight.demands import Demand, demands_of
from fasthep_flow.environments.preflight.examination import Examiner
from fasthep_flow.environments.preflight.verdicts import Check, Examined, passed, refused
from fasthep_flow.errors import (
    EnvironmentRefused,
)
from fasthep_flow.model import Gpu, Image, TaskSpec

__all__ = ["examine", "pinned", "preflight"]

_NAMES_SHOWN: Final = 3
_WITH_TAGS: Final = frozenset({"registry", "oras"})
_KINDS: Final[list[type[EnvironmentRefused]]] = [
    EnvironmentRefused,
    *EnvironmentRefused.__subclasses__(),
]
_ERRORS: Final = {kind.__name__: kind for kind in _KINDS}


def preflight(
    tasks: Iterable[TaskSpec],
    *,
    progress: Callable[[str], None] | None = None,
    devices: Callable[[], tuple[Gpu, ...] | str] = inventory,
    directories: Sequence[str] = (),
    offline: bool = False,
) -> dict[str, str]:
    """The name of the runtime of every task.

    Images are fetched and looked into. Engines that these use are rid of the containers that no
    process is there for any more.

    Args:
        tasks: Of the plan.
        progress: Is told of what may take long.
        devices: What lists this machine's devices.
        directories: Absolute paths of the folders that every container is to see; the first is
            where tasks work.
        offline: Whether nothing may be fetched or asked for.

    Raises:
        EnvironmentRefused: A request cannot be honoured; names all of them, each with its
            tasks. One of the classes below it where all of them are of that class.
    """
    progress = progress or _say_nothing
    examiner = Examiner(
        progress=progress,
        devices=devices,
        directories=directories,
        may_fetch=True,
        offline=offline,
    )
    chosen: dict[str, str] = {}
    refusals: dict[tuple[str, str, str | None], list[str]] = {}
    engines: dict[str, None] = {}
    demands = demands_of(_kept_off(tasks, offline=offline), directories)
    for demand, names in demands.items():
        runtime, checks = examiner.examine(demand)
        for check in checks:
            if check.verdict == "refused":
                key = (check.error or "", check.detail, check.hint)
                refusals.setdefault(key, []).extend(names)
        if runtime is not None:
            chosen.update(dict.fromkeys(names, runtime))
            if demand.image is not None:
                engines[runtime] = None
    if refusals:
        raise _refusal(refusals)
    if engines:
        _end_orphans(engines, progress)
    return chosen


def pinned(
    tasks: Iterable[TaskSpec], runtimes: Mapping[str, str], *, offline: bool = False
) -> tuple[TaskSpec, ...]:
    """The tasks, their data named by digest, and images that are asked for anew for each run.

    A tag may move while a run goes on, and so may a file behind a URL. What was fetched before
    the first task is what all of them get, also those on other machines.

    Args:
        tasks: Of the plan.
        runtimes: What :func:`preflight` chose for each.
        offline: Whether nothing may be fetched or asked for.
    """
    images: dict[tuple[str, Image], Image] = {}
    result = []
    for each in _kept_off(tasks, offline=offline):
        task = _with_digests(each, offline=offline) if each.environment.extra_data else each
        asked = task.environment
        moving = [one for one in (asked.image, asked.gpu_image) if one is not None and _moves(one)]
        if not moving:
            result.append(task)
            continue
        name = runtimes[task.name]
        for image in moving:
            if (name, image) not in images:
                is_fetched = asked.gpu_image is None
                images[name, image] = _by_digest(image, find_runtime(name), is_fetched=is_fetched)
        fixed = {image: images[name, image] for image in moving}
        environment = msgspec.structs.replace(
            asked,
            image=asked.image and fixed.get(asked.image, asked.image),
            gpu_image=asked.gpu_image and fixed.get(asked.gpu_image, asked.gpu_image),
        )
        result.append(msgspec.structs.replace(task, environment=environment))
    return tuple(result)


def _moves(image: Image) -> bool:
    return image.pull == "always" and image.form in _WITH_TAGS


def _by_digest(image: Image, runtime: Runtime, *, is_fetched: bool) -> Image:
    name = image.name
    if "@" not in name:
        # Of two images only the one for the device that there is here has been fetched.
        digest = None if is_fetched else runtime.look(image).digest
        name = f"{name}@{digest or runtime.resolve(image).digest}"
    return msgspec.structs.replace(image, name=name, pull="missing")


def _kept_off(tasks: Iterable[TaskSpec], *, offline: bool) -> Iterator[TaskSpec]:
    """The tasks; where nothing may be fetched, with images that are never pulled."""
    for task in tasks:
        environment = task.environment
        image, gpu_image = environment.image, environment.gpu_image
        if not offline or (image is None and gpu_image is None):
            yield task
            continue
        environment = msgspec.structs.replace(
            environment, image=_never_pulled(image), gpu_image=_never_pulled(gpu_image)
        )
        yield msgspec.structs.replace(task, environment=environment)


def _never_pulled(image: Image | None) -> Image | None:
    if image is None or image.form not in _WITH_TAGS:
        return image
    return msgspec.structs.replace(image, pull="never")


def _with_digests(task: TaskSpec, *, offline: bool) -> TaskSpec:
    from fasthep_flow.environments.data import fetch

    items = tuple(
        fetch(item, offline=offline, progress=_say_nothing) for item in task.environment.extra_data
    )
    environment = msgspec.structs.replace(task.environment, extra_data=items)
    return msgspec.structs.replace(task, environment=environment)


def examine(
    tasks: Iterable[TaskSpec],
    *,
    working_directory: str,
    output_directory: str,
    offline: bool = False,
    devices: Callable[[], tuple[Gpu, ...] | str] = inventory,
) -> tuple[Examined, ...]:
    """What there is to say of every distinct environment, and of this machine; fetches nothing.

    Images that are here are started once, to look inside; of others is said what a registry
    knows.

    Args:
        tasks: Of the plan.
        working_directory: Absolute path of the folder where the tasks work.
        output_directory: Absolute path of the folder where run folders go.
        offline: Whether nothing may be asked for.
        devices: What lists this machine's devices.
    """
    examiner = Examiner(
        progress=_say_nothing,
        devices=devices,
        directories=(working_directory, output_directory),
        may_fetch=False,
        offline=offline,
    )
    found = [_machine(working_directory, output_directory)]
    demands = demands_of(_kept_off(tasks, offline=offline), (working_directory, output_directory))
    for demand, names in demands.items():
        runtime, checks = examiner.examine(demand)
        found.append(_examined(demand, names, runtime, checks))
    return tuple(found)


def _examined(
    demand: Demand, names: Sequence[str], runtime: str | None, checks: Sequence[Check]
) -> Examined:
    return Examined(
        tasks=tuple(names),
        image=None if demand.image is None else demand.image.name,
        runtime=runtime,
        checks=tuple(checks),
    )


def _machine(working_directory: str, output_directory: str) -> Examined:
    checks = []
    if os.access(working_directory, os.R_OK | os.X_OK):
        written = "" if os.access(working_directory, os.W_OK) else ", which cannot be written to"
        checks.append(passed("folder", f"tasks work in {working_directory}{written}"))
    else:
        error = EnvironmentRefused(f"the folder {working_directory} may not be entered")
        checks.append(refused("folder", error))
    there = next(
        one for one in (Path(output_directory), *Path(output_directory).parents) if one.exists()
    )
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        checks.append(passed("folder", f"runs are recorded in {output_directory}"))
    else:
        error = EnvironmentRefused(
            f"runs cannot be recorded in {output_directory}: {there} cannot be written to",
            hint="choose another folder with --output",
        )
        checks.append(refused("folder", error))
    return Examined(tasks=(), image=None, runtime=None, checks=tuple(checks))


def _end_orphans(engines: Iterable[str], progress: Callable[[str], None]) -> None:
    from fasthep_flow.environments.survivors import end_orphans

    if ended := end_orphans(engines):
        containers = "1 container" if ended == 1 else f"{ended} containers"
        progress(f"ended {containers} that a killed run had left behind")


def _say_nothing(_: str) -> None:
    """For a caller who does not want to know."""


def _refusal(refusals: dict[tuple[str, str, str | None], list[str]]) -> EnvironmentRefused:
    kinds = {_ERRORS[kind] for kind, _, _ in refusals}
    kind = kinds.pop() if len(kinds) == 1 else EnvironmentRefused
    if len(refusals) == 1:
        ((_, message, hint), names) = next(iter(refusals.items()))
        return kind(f"{_tasks(names)}: {message}", hint=hint)
    lines = [f"{len(refusals)} requests cannot be honoured on this machine"]
    for (_, message, hint), names in refusals.items():
        lines.append(f"{_tasks(names)}: {message}")
        if hint is not None:
            lines.append(f"  {hint}")
    return kind("\n".join(lines))


def _tasks(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"task {names[0]!r}"
    shown = ", ".join(repr(name) for name in names[:_NAMES_SHOWN])
    rest = len(names) - _NAMES_SHOWN
    return f"tasks {shown} and {rest} more" if rest > 0 else f"tasks {shown}"
