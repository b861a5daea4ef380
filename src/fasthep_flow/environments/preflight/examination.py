"""One environment, examined: which runtime can honour it here, and all that it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from fasthep_flow.environments import RUNTIMES, Runtime, find_runtime
from fasthep_flow.environments.host.machine import bytes_text, require_machine
from fasthep_flow.environments.preflight.demands import Demand
from fasthep_flow.environments.preflight.folders import check_folders
from fasthep_flow.environments.preflight.images import Images, foreign, image_checks
from fasthep_flow.environments.preflight.needs import Needs
from fasthep_flow.environments.preflight.placing import Placing
from fasthep_flow.environments.preflight.programs import Programs
from fasthep_flow.environments.preflight.verdicts import Check, noted, passed, refused
from fasthep_flow.errors import (
    DeviceUnavailable,
    EngineUnavailable,
    EnvironmentRefused,
    ImageUnavailable,
    LimitUnenforceable,
)
from fasthep_flow.model import Gpu, Image, Resources

__all__ = ["Examiner"]

_NATIVE: Final = "native"
_UNSAYABLE: Final = "\r\n"
"""Engines take it for a line feed, even within quotes."""


class Examiner:
    """Examines demands; asks each engine, and for each image, once.

    Args:
        progress: Is told of what may take long.
        devices: What lists this machine's devices.
        directories: Absolute paths of the folders that every container is to see; the first is
            where tasks work.
        may_fetch: Whether to have the images on this machine, or to look only.
        offline: Whether nothing may be fetched or asked for.
    """

    def __init__(
        self,
        *,
        progress: Callable[[str], None],
        devices: Callable[[], tuple[Gpu, ...] | str],
        directories: Sequence[str],
        may_fetch: bool,
        offline: bool = False,
    ) -> None:
        self._progress: Final = progress
        self._placing: Final = Placing(devices)
        self._directories: Final = directories
        self._may_fetch: Final = may_fetch
        self._needs: Final = Needs(
            progress=progress, directories=directories, may_fetch=may_fetch, offline=offline
        )
        self._obstacles: Final[dict[str, str | None]] = {}
        self._images: Final = Images(progress=progress, may_fetch=may_fetch, offline=offline)
        self._programs: Final = Programs(directories)
        self._said: Final[set[str]] = set()

    def examine(self, demand: Demand) -> tuple[str | None, list[Check]]:
        """The name of the runtime that honours the demand, if one does; and what was found."""
        checks: list[Check] = []
        if demand.image is None:
            runtime = self._host(demand, checks)
        else:
            _check_passable(demand, self._directories, checks)
            checks += check_folders(demand)
            runtime = self._contained(demand, demand.image, checks)
        if demand.env_files:
            checks.append(passed("variables", f"read from {', '.join(demand.env_files)}"))
        is_refused = any(check.verdict == "refused" for check in checks)
        image = demand.image
        if runtime is not None and image is not None:
            image, _ = self._placing.images(demand, runtime, image)
        has_software = bool(demand.setup or demand.python)
        resolved = (
            self._images.resolved(runtime, image) if has_software and not is_refused else None
        )
        checks += self._needs.examine(demand, None if is_refused else runtime, resolved)
        is_refused = any(check.verdict == "refused" for check in checks)
        return (None if runtime is None or is_refused else runtime.name), checks

    def _host(self, demand: Demand, checks: list[Check]) -> Runtime | None:
        if demand.runtime not in (None, _NATIVE):
            error = EnvironmentRefused(
                f"the runtime {demand.runtime!r} is asked for, but no image",
                hint="name an image, or leave the runtime out",
            )
            checks.append(refused("runtime", error))
            return None
        runtime = find_runtime(_NATIVE)
        checks.append(passed("runtime", "runs on this machine itself"))
        checks += _limits(runtime, demand)
        checks += self._placing.refusal(demand) or self._placing.check(demand, runtime)
        return runtime

    def _contained(self, demand: Demand, image: Image, checks: list[Check]) -> Runtime | None:
        try:
            # No engine can change that.
            require_machine(demand.resources)
        except LimitUnenforceable as error:
            checks.append(refused("limits", error))
        checks += self._placing.refusal(demand)
        if self._may_fetch and any(check.verdict == "refused" for check in checks):
            return None
        runtime = (
            self._asked_for(demand, image, checks)
            if demand.runtime
            else (self._first(demand, image, checks))
        )
        if runtime is not None:
            image, _ = self._placing.images(demand, runtime, image)
        if runtime is not None and not any(check.verdict == "refused" for check in checks):
            facts = self._images.facts(runtime, image)
            checks += self._programs.check(runtime, demand, image, facts)
        return runtime

    def _asked_for(self, demand: Demand, image: Image, checks: list[Check]) -> Runtime | None:
        try:
            runtime = find_runtime(demand.runtime or "")
        except EngineUnavailable as error:
            checks.append(refused("runtime", error))
            return None
        if (obstacle := self._obstacle(runtime)) is not None:
            why = f"the runtime {demand.runtime!r} cannot be used: {obstacle}"
            checks.append(refused("runtime", EngineUnavailable(why)))
            return None
        checks.append(passed("runtime", f"{runtime.name} answers; it is asked for"))
        checks += self._on(runtime, demand, image)
        return runtime

    def _first(self, demand: Demand, image: Image, checks: list[Check]) -> Runtime | None:
        """The first runtime that is there and can do it all."""
        refusals: dict[str, Check] = {}
        obstacles: dict[str, str] = {}
        working = []
        for runtime in (find_runtime(name) for name in RUNTIMES if name != _NATIVE):
            if (obstacle := self._obstacle(runtime)) is not None:
                obstacles[runtime.name] = obstacle
            else:
                working.append(runtime)
        # One that can give a device goes before one that cannot.
        behind = {one.name: self._placing.why_none(demand, one) for one in working}
        working.sort(key=lambda one: behind[one.name] is not None)
        for runtime in working:
            found = self._on(runtime, demand, image)
            refusal = next((check for check in found if check.verdict == "refused"), None)
            if refusal is None:
                self._say_passed_over(refusals)
                if behind[runtime.name] is None:
                    obstacles |= {name: why for name, why in behind.items() if why is not None}
                checks.append(passed("runtime", _chosen(runtime.name, refusals, obstacles)))
                checks += found
                return runtime
            refusals[runtime.name] = refusal
        checks.append(_none_will_do(refusals, obstacles))
        return None

    def _on(self, runtime: Runtime, demand: Demand, image: Image) -> list[Check]:
        """What the runtime can do of it; what may take long only if all else is well."""
        image, other = self._placing.images(demand, runtime, image)
        for one in (image, other):
            if one is not None and (why := runtime.takes(one)) is not None:
                return [refused("image", ImageUnavailable(why))]
        checks = [*_limits(runtime, demand), *self._placing.check(demand, runtime)]
        checks += foreign(image)
        if self._may_fetch and any(check.verdict == "refused" for check in checks):
            return checks
        found = self._images.facts(runtime, image)
        if isinstance(found, EnvironmentRefused):
            what = "runtime" if isinstance(found, EngineUnavailable) else "image"
            return [*checks, refused(what, found)]
        checks += image_checks(image, found)
        if other is not None:
            checks.append(self._images.other(runtime, other))
        return checks

    def _obstacle(self, runtime: Runtime) -> str | None:
        if runtime.name not in self._obstacles:
            self._obstacles[runtime.name] = runtime.probe()
        return self._obstacles[runtime.name]

    def _say_passed_over(self, refusals: Mapping[str, Check]) -> None:
        for name, check in refusals.items():
            words = f"{name} is passed over: {check.detail}"
            if words not in self._said:
                self._said.add(words)
                self._progress(words)


def _check_passable(demand: Demand, directories: Sequence[str], checks: list[Check]) -> None:
    """Refuse what a container could not be handed, whatever the engine."""
    for directory in directories:
        if _UNSAYABLE in directory:
            error = EnvironmentRefused(
                f"no container can see the folder {directory!r}: its path has a carriage"
                " return and a line feed in a row",
                hint="rename the folder",
            )
            checks.append(refused("folder", error))
    if demand.unpassable:
        names = ", ".join(demand.unpassable)
        values = "value of the variable" if len(demand.unpassable) == 1 else "values of"
        error = EnvironmentRefused(
            f"no container can be handed the {values} {names}: not Unicode text",
            hint="set it to text in the workflow, or take it out",
        )
        checks.append(refused("variables", error))


def _limits(runtime: Runtime, demand: Demand) -> list[Check]:
    try:
        held = runtime.check(demand.resources, demand.network)
    except LimitUnenforceable as error:
        return [refused("limits", error)]
    checks = [_limit(demand.resources, name, how) for name, how in held.items()]
    if demand.resources.walltime_s is not None:
        walltime = _duration(demand.resources.walltime_s)
        checks.append(passed("limits", f"walltime {walltime}: timed, and the task stopped"))
    if demand.network == "none":
        checks.append(passed("network", "none: kept away"))
    return checks


def _duration(seconds: float) -> str:
    """As authors write it: ``2h``, ``90m``, ``1.5s``."""
    for size, unit in ((3600, "h"), (60, "m")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def _limit(resources: Resources, name: str, how: str) -> Check:
    asked = {
        "memory": bytes_text(resources.memory or 0),
        "cpus": f"{resources.cpus or 0:g}",
    }.get(name, "")
    if how.startswith("not enforced"):
        return noted("limits", f"{name} {asked} is {how}")
    ways = {
        "cgroup": "held by the kernel's control groups",
        "measured": "measured, and the task stopped",
    }
    return passed("limits", f"{name} {asked}: {ways.get(how, how)}")


def _chosen(name: str, refusals: Mapping[str, Check], obstacles: Mapping[str, str]) -> str:
    others = {one: check.detail for one, check in refusals.items()} | dict(obstacles)
    if not others:
        return f"{name} answers"
    reasons = "; ".join(f"{one}: {why.removeprefix(f'{one} ')}" for one, why in others.items())
    return f"{name} is the first that can ({reasons})"


def _none_will_do(refusals: Mapping[str, Check], obstacles: Mapping[str, str]) -> Check:
    """Why none of the engines will do: those that work and refuse, and those that do not work."""
    if not refusals:
        reasons = "; ".join(f"{name}: {obstacle}" for name, obstacle in obstacles.items())
        error = EngineUnavailable(
            f"no container engine can be used ({reasons})",
            hint="install podman, or run the task without an image",
        )
        return refused("runtime", error)
    kinds = {check.error for check in refusals.values()}
    kind = kinds.pop() if len(kinds) == 1 else EnvironmentRefused.__name__
    what = _WHATS.get(kind or "", "runtime")
    reasons_of = {name: check.detail for name, check in refusals.items()}
    if kind != ImageUnavailable.__name__:
        # Another engine could hold the limit; an image that one cannot have, few others can.
        reasons_of.update(obstacles)
    hints = dict.fromkeys(check.hint for check in refusals.values() if check.hint is not None)
    hint = "; or ".join(hints) or None
    names_of: dict[str, list[str]] = {}
    for name, reason in reasons_of.items():
        names_of.setdefault(reason, []).append(name)
    if len(names_of) == 1:
        detail = next(iter(names_of))
    else:
        reasons = "; ".join(f"{', '.join(names)}: {why}" for why, names in names_of.items())
        detail = f"no container engine can run it ({reasons})"
    return Check(what=what, verdict="refused", detail=detail, hint=hint, error=kind)


_WHATS: Final[Mapping[str, str]] = {
    DeviceUnavailable.__name__: "device",
    ImageUnavailable.__name__: "image",
    LimitUnenforceable.__name__: "limits",
}
