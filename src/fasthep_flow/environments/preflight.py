"""Before the first task: can every environment that the workflow asks for be had here?

All that cannot be honoured is refused at once, while nothing has been done yet. An image
that is not on the machine is pulled now, so that no task waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from fasthep_flow.environments import RUNTIMES, Runtime, find_runtime
from fasthep_flow.environments.gpu import Gpu, choose_device, inventory
from fasthep_flow.environments.machine import require_machine
from fasthep_flow.errors import EngineUnavailable, EnvironmentRefused, ImageUnavailable
from fasthep_flow.model import Device, Image, Network, Resources, TaskSpec, Variable

__all__ = ["preflight"]

_NATIVE: Final = "native"
_NAMES_SHOWN: Final = 3
_UNSAYABLE: Final = "\r\n"
"""Engines take it for a line feed, even within quotes."""


class _Request(NamedTuple):
    """What tasks ask for alike."""

    image: Image | None
    runtime: str | None
    resources: Resources
    network: Network
    versions: frozenset[Device]
    no_text: tuple[str, ...]
    """Names of variables with values that no container can be handed."""


def preflight(
    tasks: Iterable[TaskSpec],
    *,
    progress: Callable[[str], None] | None = None,
    devices: Callable[[], tuple[Gpu, ...] | str] = inventory,
    directories: Sequence[str] = (),
) -> dict[str, str]:
    """The name of the runtime of every task.

    Engines that these use are rid of the containers that no process is there for any more.

    Args:
        tasks: Of the plan.
        progress: Is told of what may take long.
        devices: What lists this machine's devices.
        directories: Absolute paths of the folders that every container is to see.

    Raises:
        EnvironmentRefused: A request cannot be honoured; names all of them, each with its
            tasks. One of the classes below it where all of them are of that class.
    """
    groups: dict[_Request, list[str]] = {}
    for task in tasks:
        environment = task.environment
        request = _Request(
            environment.image,
            environment.runtime,
            environment.resources,
            environment.network,
            frozenset(task.invocations),
            () if environment.image is None else _no_text(environment.variables),
        )
        groups.setdefault(request, []).append(task.name)
    check = _Check(progress or _say_nothing, devices, directories)
    chosen: dict[str, str] = {}
    refusals: dict[tuple[type[EnvironmentRefused], str, str | None], list[str]] = {}
    for request, names in groups.items():
        try:
            runtime = check.runtime_for(request)
        except EnvironmentRefused as error:
            refusals.setdefault((type(error), error.message, error.hint), []).extend(names)
        else:
            chosen.update(dict.fromkeys(names, runtime))
    if refusals:
        raise _refusal(refusals)
    engines = {
        chosen[names[0]]: None for request, names in groups.items() if request.image is not None
    }
    if engines:
        _end_orphans(engines, progress or _say_nothing)
    return chosen


def _end_orphans(engines: Iterable[str], progress: Callable[[str], None]) -> None:
    from fasthep_flow.environments.survivors import end_orphans

    if ended := end_orphans(engines):
        containers = "1 container" if ended == 1 else f"{ended} containers"
        progress(f"ended {containers} that a killed run had left behind")


class _Check:
    """Asks each engine, and for each image, once."""

    def __init__(
        self,
        progress: Callable[[str], None],
        devices: Callable[[], tuple[Gpu, ...] | str],
        directories: Sequence[str],
    ) -> None:
        self._progress: Final = progress
        self._inventory: Final = devices
        self._directories: Final = directories
        self._devices: tuple[Gpu, ...] | str | None = None
        self._images: dict[tuple[str, Image], ImageUnavailable | None] = {}
        self._obstacles: dict[str, str | None] = {}
        self._said: Final[set[str]] = set()

    def runtime_for(self, request: _Request) -> str:
        """The name of the runtime that honours the request."""
        if request.image is None:
            if request.runtime not in (None, _NATIVE):
                raise EnvironmentRefused(
                    f"the runtime {request.runtime!r} is asked for, but no image",
                    hint="name an image, or leave the runtime out",
                )
            runtime = find_runtime(_NATIVE)
            runtime.check(request.resources, request.network)
        else:
            self._require_passable(request)
            # No engine can change that.
            require_machine(request.resources)
            runtime = self._runtime_with(request, request.image)
        self._require_device(request)
        return runtime.name

    def _require_passable(self, request: _Request) -> None:
        """Refuse what a container could not be handed, whatever the engine."""
        for directory in self._directories:
            if _UNSAYABLE in directory:
                raise EnvironmentRefused(
                    f"no container can see the folder {directory!r}: its path has a carriage"
                    " return and a line feed in a row",
                    hint="rename the folder",
                )
        if request.no_text:
            names = ", ".join(request.no_text)
            values = "value of the variable" if len(request.no_text) == 1 else "values of"
            raise EnvironmentRefused(
                f"no container can be handed the {values} {names}: not Unicode text",
                hint="set it to text in the workflow, or take it out",
            )

    def _require_device(self, request: _Request) -> None:
        asked = request.resources.process_on
        if self._devices is None and asked != "cpu":
            self._devices = self._inventory()
        choose_device(
            asked,
            gpus=request.resources.gpus,
            versions=request.versions,
            devices=self._devices or (),
            image=request.image is not None,
        )

    def _runtime_with(self, request: _Request, image: Image) -> Runtime:
        """The runtime that was asked for, or the first that is there and can do it all."""
        if request.runtime is not None:
            runtime = find_runtime(request.runtime)
            if (obstacle := self._obstacle(runtime)) is not None:
                raise EngineUnavailable(
                    f"the runtime {request.runtime!r} cannot be used: {obstacle}"
                )
            self._require(runtime, request, image)
            return runtime
        runtimes = [find_runtime(name) for name in RUNTIMES if name != _NATIVE]
        refusals: dict[str, EnvironmentRefused] = {}
        for runtime in runtimes:
            if self._obstacle(runtime) is not None:
                continue
            try:
                self._require(runtime, request, image)
            except EnvironmentRefused as error:
                refusals[runtime.name] = error
            else:
                self._say_passed_over(refusals)
                return runtime
        obstacles = {one.name: why for one in runtimes if (why := self._obstacle(one)) is not None}
        raise _no_engine(refusals, obstacles)

    def _require(self, runtime: Runtime, request: _Request, image: Image) -> None:
        """Refuse what this runtime cannot do."""
        # Before the image: to pull that may take long.
        runtime.check(request.resources, request.network)
        self._require_image(runtime, image)

    def _say_passed_over(self, refusals: Mapping[str, EnvironmentRefused]) -> None:
        for name, error in refusals.items():
            words = f"{name} is passed over: {error.message}"
            if words not in self._said:
                self._said.add(words)
                self._progress(words)

    def _obstacle(self, runtime: Runtime) -> str | None:
        if runtime.name not in self._obstacles:
            self._obstacles[runtime.name] = runtime.probe()
        return self._obstacles[runtime.name]

    def _require_image(self, runtime: Runtime, image: Image) -> None:
        key = (runtime.name, image)
        if key not in self._images:
            self._progress(f"{runtime.name}: image {image}")
            try:
                runtime.resolve(image)
            except ImageUnavailable as error:
                self._images[key] = error
            else:
                self._images[key] = None
        known = self._images[key]
        if known is not None:
            raise known


def _no_engine(
    refusals: Mapping[str, EnvironmentRefused], obstacles: Mapping[str, str]
) -> EnvironmentRefused:
    """Why none of the engines will do: those that work and refuse, and those that do not work."""
    if not refusals:
        reasons = "; ".join(f"{name}: {obstacle}" for name, obstacle in obstacles.items())
        return EngineUnavailable(
            f"no container engine can be used ({reasons})",
            hint="install podman, or run the task without an image",
        )
    kinds = {type(error) for error in refusals.values()}
    kind = kinds.pop() if len(kinds) == 1 else EnvironmentRefused
    reasons_of = {name: error.message for name, error in refusals.items()}
    if kind is not ImageUnavailable:
        # Another engine could hold the limit; an image that one cannot have, few others can.
        reasons_of.update(obstacles)
    hints = dict.fromkeys(error.hint for error in refusals.values() if error.hint is not None)
    hint = "; or ".join(hints) or None
    if len(set(reasons_of.values())) == 1:
        return kind(next(iter(reasons_of.values())), hint=hint)
    reasons = "; ".join(f"{name}: {reason}" for name, reason in reasons_of.items())
    return kind(f"no container engine can run it ({reasons})", hint=hint)


def _no_text(variables: Mapping[str, Variable]) -> tuple[str, ...]:
    """The names of those whose values have bytes of the host's that are not Unicode."""
    names = []
    for name, variable in variables.items():
        try:
            variable.value.encode()
        except UnicodeEncodeError:
            names.append(name)
    return tuple(names)


def _say_nothing(_: str) -> None:
    """For a caller who does not want to know."""


def _refusal(
    refusals: dict[tuple[type[EnvironmentRefused], str, str | None], list[str]],
) -> EnvironmentRefused:
    kinds = {kind for kind, _, _ in refusals}
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
