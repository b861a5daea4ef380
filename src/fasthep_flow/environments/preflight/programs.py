"""What only a container tells: whether options are taken, and whether the programs are there."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from fasthep_flow.environments import ImageFacts, Runtime
from fasthep_flow.environments.preflight.demands import Demand
from fasthep_flow.environments.preflight.images import NOT_YET
from fasthep_flow.environments.preflight.inside import (
    OLDEST_PYTHON,
    Inside,
    known_inside,
    look_inside,
    needs_shell,
    try_options,
)
from fasthep_flow.environments.preflight.verdicts import Check, passed, refused, unknown
from fasthep_flow.errors import EnvironmentRefused
from fasthep_flow.model import Image, Network

__all__ = ["Programs"]

_PROGRAMS: Final[Mapping[str, frozenset[str]]] = {
    "shell": frozenset({"sh", "bash"}),
    "python": frozenset({"python3"}),
}


class Programs:
    """Looks into images that are here; starts a container of each, with the same options, once.

    Args:
        directories: Absolute paths of the folders that every container is to see; the first is
            where tasks work.
    """

    def __init__(self, directories: Sequence[str]) -> None:
        self._directories: Final = directories
        self._insides: Final[
            dict[tuple[str, Image, tuple[str, ...]], Inside | EnvironmentRefused | None]
        ] = {}
        self._tried: Final[
            dict[tuple[str, Image, tuple[str, ...], Network], EnvironmentRefused | None]
        ] = {}

    def check(
        self,
        runtime: Runtime,
        demand: Demand,
        image: Image,
        facts: ImageFacts | EnvironmentRefused,
    ) -> list[Check]:
        """Whether a container starts as it is asked for, and has the programs of the tasks.

        Args:
            runtime: That was chosen.
            demand: What is asked for.
            image: The demand's, or the one for the device that was chosen.
            facts: What the runtime knows of it.
        """
        checks = self._options(runtime, demand, image, facts)
        if any(check.verdict == "refused" for check in checks):
            return checks
        return [*checks, *self._programs(runtime, demand, image, facts)]

    def _options(
        self,
        runtime: Runtime,
        demand: Demand,
        image: Image,
        facts: ImageFacts | EnvironmentRefused,
    ) -> list[Check]:
        """Whether the runtime takes the author's own words: nobody but it can tell."""
        if not demand.options:
            return []
        if isinstance(facts, EnvironmentRefused):
            return [refused("image", facts)]
        if not facts.is_local:
            return [unknown("options", NOT_YET)]
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

    def _programs(
        self,
        runtime: Runtime,
        demand: Demand,
        image: Image,
        facts: ImageFacts | EnvironmentRefused,
    ) -> list[Check]:
        """Whether the image has the programs that the tasks need."""
        wanted = demand.programs if needs_shell(runtime.name) else demand.programs - {"sh"}
        if not wanted:
            return []
        found = self._inside(runtime, demand, image, facts)
        whats = [what for what, names in _PROGRAMS.items() if wanted & names]
        if isinstance(found, EnvironmentRefused):
            return [refused("image", found)]
        if found is None:
            return [unknown(what, NOT_YET) for what in whats]
        checks = []
        if "shell" in whats:
            checks.append(_shell(image, wanted, found))
        if "python" in whats:
            checks.append(_python(image, found))
        return checks

    def _inside(
        self,
        runtime: Runtime,
        demand: Demand,
        image: Image,
        facts: ImageFacts | EnvironmentRefused,
    ) -> Inside | EnvironmentRefused | None:
        key = (runtime.name, image, demand.options)
        if key not in self._insides:
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
