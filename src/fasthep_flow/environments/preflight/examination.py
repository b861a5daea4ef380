"""One environment, examined: which runtime can honour it here, and all that it takes."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from fasthep_flow.environments import RUNTIMES, ImageFacts, ResolvedImage, Runtime, find_runtime
from fasthep_flow.environments.host.machine import bytes_text, require_machine
from fasthep_flow.environments.images.cache import ImageAbsent
from fasthep_flow.environments.preflight.demands import Demand
from fasthep_flow.environments.preflight.inside import (
    OLDEST_PYTHON,
    Inside,
    known_inside,
    look_inside,
    needs_shell,
    try_options,
)
from fasthep_flow.environments.preflight.needs import Needs
from fasthep_flow.environments.preflight.placing import Placing
from fasthep_flow.environments.preflight.verdicts import Check, noted, passed, refused, unknown
from fasthep_flow.environments.registries.platforms import (
    machine_platform,
    same_platform,
    why_foreign,
)
from fasthep_flow.errors import (
    DeviceUnavailable,
    EngineUnavailable,
    EnvironmentRefused,
    ImageUnavailable,
    LimitUnenforceable,
)
from fasthep_flow.model import Gpu, Image, Network, Resources

__all__ = ["Examiner"]

_NATIVE: Final = "native"
_UNSAYABLE: Final = "\r\n"
"""Engines take it for a line feed, even within quotes."""

_NOT_YET: Final = "not known before the image is here"
_DIGEST_SHOWN: Final = len("sha256:") + 12


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
        self._offline: Final = offline
        self._needs: Final = Needs(
            progress=progress, directories=directories, may_fetch=may_fetch, offline=offline
        )
        self._obstacles: Final[dict[str, str | None]] = {}
        self._images: Final[dict[tuple[str, Image], ImageFacts | EnvironmentRefused]] = {}
        self._insides: Final[
            dict[tuple[str, Image, tuple[str, ...]], Inside | EnvironmentRefused | None]
        ] = {}
        self._tried: Final[
            dict[tuple[str, Image, tuple[str, ...], Network], EnvironmentRefused | None]
        ] = {}
        self._said: Final[set[str]] = set()

    def examine(self, demand: Demand) -> tuple[str | None, list[Check]]:
        """The name of the runtime that honours the demand, if one does; and what was found."""
        checks: list[Check] = []
        if demand.image is None:
            runtime = self._host(demand, checks)
        else:
            _check_passable(demand, self._directories, checks)
            runtime = self._contained(demand, demand.image, checks)
        if demand.env_files:
            checks.append(passed("variables", f"read from {', '.join(demand.env_files)}"))
        is_refused = any(check.verdict == "refused" for check in checks)
        image = demand.image
        if runtime is not None and image is not None:
            image, _ = self._placing.images(demand, runtime, image)
        has_software = bool(demand.setup or demand.python)
        resolved = self._resolved(runtime, image) if has_software and not is_refused else None
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
            checks += self._options(runtime, demand, image)
        if runtime is not None and not any(check.verdict == "refused" for check in checks):
            checks += self._programs(runtime, demand, image)
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
        if image.platform is not None and (foreign := why_foreign(image.platform)) is not None:
            error = ImageUnavailable(
                f"the image {image} is asked for on another kind of machine than this one:"
                f" {foreign}",
                hint="ask for a platform of this machine, or leave it out",
            )
            checks.append(refused("platform", error))
        if self._may_fetch and any(check.verdict == "refused" for check in checks):
            return checks
        found = self._image(runtime, image)
        if isinstance(found, EnvironmentRefused):
            what = "runtime" if isinstance(found, EngineUnavailable) else "image"
            return [*checks, refused(what, found)]
        checks.append(passed("image", _image_text(found)))
        if image.platform is None or why_foreign(image.platform) is None:
            checks.append(_platform(image, found))
        if other is not None:
            checks.append(self._other_image(runtime, other))
        return checks

    def _other_image(self, runtime: Runtime, image: Image) -> Check:
        """The image for the other kind of device: elsewhere, or while all here are in use."""
        try:
            found = runtime.look(image)
        except ImageAbsent as error:
            return refused("image", _absent(image) if self._offline else error)
        except (EngineUnavailable, ImageUnavailable) as error:
            return refused("image", error)
        return passed("image", f"{image}, on the other kind of device: {_image_text(found)}")

    def _obstacle(self, runtime: Runtime) -> str | None:
        if runtime.name not in self._obstacles:
            self._obstacles[runtime.name] = runtime.probe()
        return self._obstacles[runtime.name]

    def _image(self, runtime: Runtime, image: Image) -> ImageFacts | EnvironmentRefused:
        key = (runtime.name, image)
        if key not in self._images:
            try:
                if self._may_fetch:
                    self._progress(f"{runtime.name}: image {image}")
                    digest = runtime.resolve(image).digest
                    self._images[key] = ImageFacts(is_local=True, digest=digest)
                else:
                    self._images[key] = runtime.look(image)
            except ImageAbsent as error:
                self._images[key] = _absent(image) if self._offline else error
            except (EngineUnavailable, ImageUnavailable) as error:
                self._images[key] = error
        return self._images[key]

    def _resolved(self, runtime: Runtime | None, image: Image | None) -> ResolvedImage | None:
        """The image, where it is on this machine."""
        if runtime is None or image is None:
            return None
        facts = self._images.get((runtime.name, image))
        is_here = isinstance(facts, ImageFacts) and facts.is_local
        return runtime.resolve(image) if is_here else None

    def _options(self, runtime: Runtime, demand: Demand, image: Image) -> list[Check]:
        """Whether the runtime takes the author's own words: nobody but it can tell."""
        if not demand.options:
            return []
        facts = self._images[runtime.name, image]
        if isinstance(facts, EnvironmentRefused):
            return [refused("image", facts)]
        if not facts.is_local:
            return [unknown("options", _NOT_YET)]
        key = (runtime.name, image, demand.options, demand.network)
        if key not in self._tried:
            self._tried[key] = None
            try:
                try_options(
                    runtime,
                    runtime.resolve(image),
                    demand.options,
                    network=demand.network,
                    working_directory=next(iter(self._directories), None),
                )
            except EnvironmentRefused as error:
                self._tried[key] = error
        error_found = self._tried[key]
        if error_found is not None:
            return [refused("options", error_found)]
        return [passed("options", f"{shlex.join(demand.options)}: a container starts with them")]

    def _programs(self, runtime: Runtime, demand: Demand, image: Image) -> list[Check]:
        """Whether the image has the programs that the tasks need."""
        wanted = demand.programs if needs_shell(runtime.name) else demand.programs - {"sh"}
        if not wanted:
            return []
        found = self._inside(runtime, demand, image)
        whats = [what for what, names in _PROGRAMS.items() if wanted & names]
        if isinstance(found, EnvironmentRefused):
            return [refused("image", found)]
        if found is None:
            return [unknown(what, _NOT_YET) for what in whats]
        checks = []
        if "shell" in whats:
            checks.append(_shell(image, wanted, found))
        if "python" in whats:
            checks.append(_python(image, found))
        return checks

    def _inside(
        self, runtime: Runtime, demand: Demand, image: Image
    ) -> Inside | EnvironmentRefused | None:
        key = (runtime.name, image, demand.options)
        if key not in self._insides:
            facts = self._images[runtime.name, image]
            if isinstance(facts, EnvironmentRefused):
                self._insides[key] = facts
                return facts
            try:
                known = known_inside(runtime, image, facts.digest)
                if known is None and facts.is_local:
                    known = look_inside(
                        runtime,
                        image,
                        runtime.resolve(image),
                        options=demand.options,
                        network=demand.network,
                    )
                self._insides[key] = known
            except EnvironmentRefused as error:
                self._insides[key] = error
        return self._insides[key]

    def _say_passed_over(self, refusals: Mapping[str, Check]) -> None:
        for name, check in refusals.items():
            words = f"{name} is passed over: {check.detail}"
            if words not in self._said:
                self._said.add(words)
                self._progress(words)


_PROGRAMS: Final[Mapping[str, frozenset[str]]] = {
    "shell": frozenset({"sh", "bash"}),
    "python": frozenset({"python3"}),
}


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


def _absent(image: Image) -> ImageUnavailable:
    return ImageUnavailable(
        f"the image {image} is not on this machine, and nothing is to be fetched",
        hint="bring it in where there is a network: fasthep-flow pull"
        + (" --locked" if "@" in image.name else ""),
    )


_WHATS: Final[Mapping[str, str]] = {
    DeviceUnavailable.__name__: "device",
    ImageUnavailable.__name__: "image",
    LimitUnenforceable.__name__: "limits",
}


def _image_text(found: ImageFacts) -> str:
    where = "is here" if found.is_local else found.note or "is to be fetched"
    digest = "" if found.digest is None else f", {found.digest[:_DIGEST_SHOWN]}"
    return f"{where}{digest}"


def _platform(image: Image, found: ImageFacts) -> Check:
    own = machine_platform()
    if image.platform is not None:
        how = "" if same_platform(own, image.platform) else ", by what this machine emulates"
        return passed("platform", f"{image.platform}{how}")
    if not found.platforms:
        if found.is_local:
            # Nothing says otherwise; and it is looked into before the first task.
            return passed("platform", own)
        return unknown("platform", _NOT_YET)
    reasons = {there: why_foreign(there) for there in found.platforms}
    fitting = [there for there, why in reasons.items() if why is None]
    if not fitting:
        why = next(iter(reasons.values()))
        error = ImageUnavailable(
            f"the image {image} is for another kind of machine than this one: {why}",
            hint="look for one that fits this processor",
        )
        return refused("platform", error)
    there = next((one for one in fitting if same_platform(own, one)), fitting[0])
    how = "" if same_platform(own, there) else ", by what this machine emulates"
    return passed("platform", f"{there}{how}")


def _shell(image: Image, wanted: frozenset[str], found: Inside) -> Check:
    if "sh" in wanted and not found.sh:
        error = EnvironmentRefused(
            f"the image {image} has no /bin/sh, which starts the programs of tasks",
            hint="choose an image with a shell",
        )
        return refused("shell", error)
    if "bash" in wanted and not found.bash:
        error = EnvironmentRefused(
            f"the image {image} has no bash, which runs a 'bash_command'",
            hint="choose an image with bash; or name a program, and give it 'arguments'",
        )
        return refused("shell", error)
    return passed("shell", "/bin/sh and bash" if "bash" in wanted else "/bin/sh")


def _python(image: Image, found: Inside) -> Check:
    if found.calls:
        return passed("python", f"python3 is {found.python}")
    oldest = ".".join(map(str, OLDEST_PYTHON))
    if found.python is None:
        why = "has no python3, which calls the task's callable"
    elif not found.modules:
        why = f"has a python3 ({found.python}) without the modules of its standard library"
    else:
        why = f"has python3 {found.python}; callables need {oldest} or newer"
    return refused(
        "python",
        EnvironmentRefused(
            f"the image {image} {why}", hint=f"choose an image with python3, {oldest} or newer"
        ),
    )
