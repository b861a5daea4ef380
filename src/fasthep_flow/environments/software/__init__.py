"""Software beside the image: what a setup script provides, and Python environments."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from fasthep_flow.environments import Addition, ContainerSpec, Mount, Runtime, find_runtime
from fasthep_flow.environments.software.wording import DEVICES
from fasthep_flow.errors import SoftwareUnavailable
from fasthep_flow.model import PythonSpec, Setup

if TYPE_CHECKING:
    from fasthep_flow.environments.software.pythons import Ground, Made
    from fasthep_flow.environments.software.setups import Provided

__all__ = ["look", "look_setup", "resolve", "software"]

_INTERPRETER: Final = "FASTHEP_PYTHON"
"""Names to the host's runtime what calls the task's callable there."""


class _Around(NamedTuple):
    """What a task's software stands on."""

    runtime: Runtime
    spec: ContainerSpec
    environment: Mapping[str, str | None]
    working_directory: str
    secrets: tuple[str, ...] = ()

    @property
    def is_contained(self) -> bool:
        return self.spec.image is not None

    @property
    def where(self) -> str:
        image = self.spec.image
        return "" if image is None else f" in the image {image.name}"

    def own(self) -> dict[str, str | None]:
        """What is to be absent of this tool's own Python."""
        return {} if self.is_contained else _without_own_python(self.environment)

    def found(self) -> dict[str, str | None]:
        """The variables that are found by scripts, and by what makes environments."""
        found = {
            name: value
            for name, value in self.environment.items()
            if name not in DEVICES and not name.startswith("FASTHEP_")
        }
        if self.is_contained:
            return found
        return {**dict.fromkeys(DEVICES & os.environ.keys()), **found, **self.own()}

    def found_by_scripts(self) -> dict[str, str | None]:
        if not self.is_contained:
            return self.found()
        # A task's home there is its attempt's folder, which no script may count upon.
        return {"HOME": self.working_directory, **self.found()}

    def ground(self, provides: Mapping[str, str | None], *, offline: bool) -> Ground:
        from fasthep_flow.environments.software.pythons import Ground

        return Ground(
            runtime=self.runtime,
            spec=self.spec,
            environment={**self.found(), **provides},
            setup=provides,
            working_directory=self.working_directory,
            offline=offline,
            secrets=self.secrets,
        )


def software(
    setup: Setup | None,
    python: PythonSpec | None,
    *,
    runtime: Runtime,
    spec: ContainerSpec,
    environment: Mapping[str, str | None],
    working_directory: str,
    offline: bool,
    secrets: Collection[str] = (),
    decided: Collection[str] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> Addition:
    """What a task's own software comes to; made and computed once, and kept.

    Args:
        setup: What is to be sourced, first.
        python: The Python environment, which lies above what the setup provides.
        runtime: What the task runs on.
        spec: Of the task's container, or of the host: what is made inside is made in one like
            it.
        environment: Variables that a setup script finds; none of those that tell one task
            from another.
        working_directory: Absolute path of the folder where the script is sourced.
        offline: Whether nothing may be fetched.
        secrets: The names of variables that the author lists as such, beside those whose names
            say so.
        decided: The names of variables that a script may not change: those of credentials.
        progress: Is told of what may take long.

    Returns:
        Mounts, and all variables that are to differ from ``environment``; and, to be recorded,
        such as ``{"python": "3.12.4"}``.

    Raises:
        SoftwareUnavailable: A script fails, with its line, or would take a credential away; a
            requirement cannot be resolved; the image has no bash, or cannot have such an
            environment.
    """
    if setup is None and python is None:
        return Addition()
    around = _Around(runtime, spec, environment, working_directory, tuple(secrets))
    variables = around.own()
    provides: dict[str, str | None] = {}
    facts: dict[str, str] = {}
    mounts: tuple[Mount, ...] = ()
    names = around.found() if around.is_contained else {**os.environ, **around.found()}
    search_path = names.get("PATH")
    with _kept():
        if setup is not None:
            provided = _provided(setup, around, progress)
            provides = provided.variables
            _require_credentials(setup, provides, environment, decided)
            variables.update(provides)
            search_path = provides.get("PATH", provided.path)
        if python is not None:
            there = _made(python, setup, around, provides, offline=offline, progress=progress)
            facts, mounts = {"python": there.version}, there.mounts
            if search_path is None and around.is_contained:
                search_path = there.search_path
            search_path = f"{there.path}/bin:{search_path}" if search_path else f"{there.path}/bin"
            variables |= {
                "PATH": search_path,
                "VIRTUAL_ENV": there.path,
                "PYTHONNOUSERSITE": "1",
                "PYTHONHOME": None,
            }
            if "PYTHONPATH" not in environment:
                variables["PYTHONPATH"] = None
    if not around.is_contained:
        variables[_INTERPRETER] = _first_python(search_path or "", working_directory)
    return Addition(mounts=mounts, variables=variables, facts=facts)


def resolve(
    python: PythonSpec,
    *,
    setup: Setup | None = None,
    runtime: Runtime | None = None,
    spec: ContainerSpec | None = None,
    environment: Mapping[str, str | None] | None = None,
    working_directory: str = "",
    offline: bool = False,
    secrets: Collection[str] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[str, ...]:
    """The very distributions that the requirements mean now, a line each, with digests.

    They are :attr:`fasthep_flow.model.PythonSpec.resolved`.

    Args:
        python: Of which the requirements are resolved.
        setup: See :func:`software`.
        runtime: See :func:`software`; ``None`` for the host.
        spec: See :func:`software`.
        environment: See :func:`software`.
        working_directory: See :func:`software`; if it is empty, the requirements' own.
        offline: Whether nothing may be fetched.
        secrets: See :func:`software`.
        progress: Is told of what may take long.

    Raises:
        SoftwareUnavailable: They cannot be resolved; with the reason.
    """
    if not python.requirements:
        return ()
    from fasthep_flow.environments.software.pythons import resolved

    around = _around(python, runtime, spec, environment, working_directory, secrets=secrets)
    with _kept():
        provides = {} if setup is None else _provided(setup, around, progress).variables
        return resolved(python, around.ground(provides, offline=offline))


def look(
    python: PythonSpec,
    *,
    setup: Setup | None = None,
    runtime: Runtime | None = None,
    spec: ContainerSpec | None = None,
    environment: Mapping[str, str | None] | None = None,
    working_directory: str = "",
) -> Path | None:
    """The folder of the Python environment, if it is there; nothing is made, fetched or sourced.

    Args:
        python: What is asked for.
        setup: See :func:`software`.
        runtime: See :func:`software`; ``None`` for the host.
        spec: See :func:`software`.
        environment: See :func:`software`.
        working_directory: See :func:`software`; if it is empty, the requirements' own.
    """
    from fasthep_flow.environments.software.pythons import kept

    around = _around(python, runtime, spec, environment, working_directory)
    provides: dict[str, str | None] = {}
    if setup is not None:
        known = _known(setup, around)
        if known is None:
            return None
        provides = known.variables
    there = kept(python, around.ground(provides, offline=True))
    return None if there is None else Path(there.path)


def look_setup(
    setup: Setup,
    *,
    runtime: Runtime,
    spec: ContainerSpec,
    environment: Mapping[str, str | None],
    working_directory: str,
) -> dict[str, str | None] | None:
    """The variables that a setup script changes, if they are kept; nothing is sourced.

    Args:
        setup: See :func:`software`.
        runtime: See :func:`software`.
        spec: See :func:`software`.
        environment: See :func:`software`.
        working_directory: See :func:`software`.
    """
    known = _known(setup, _Around(runtime, spec, environment, working_directory))
    return None if known is None else known.variables


def _around(
    python: PythonSpec,
    runtime: Runtime | None,
    spec: ContainerSpec | None,
    environment: Mapping[str, str | None] | None,
    working_directory: str,
    *,
    secrets: Collection[str] = (),
) -> _Around:
    return _Around(
        runtime or find_runtime("native"),
        spec or ContainerSpec(name="software"),
        environment or {},
        working_directory or python.directory or str(Path.cwd()),
        tuple(secrets),
    )


def _provided(setup: Setup, around: _Around, progress: Callable[[str], None]) -> Provided:
    from fasthep_flow.environments.software.setups import provided

    return provided(
        setup,
        runtime=around.runtime,
        spec=around.spec,
        environment=around.found_by_scripts(),
        working_directory=around.working_directory,
        secrets=around.secrets,
        starting=lambda: progress(f"sourcing the setup script{around.where}"),
    )


def _known(setup: Setup, around: _Around) -> Provided | None:
    from fasthep_flow.environments.software.setups import known

    return known(
        setup,
        runtime=around.runtime,
        spec=around.spec,
        environment=around.found_by_scripts(),
        working_directory=around.working_directory,
    )


def _made(
    python: PythonSpec,
    setup: Setup | None,
    around: _Around,
    provides: Mapping[str, str | None],
    *,
    offline: bool,
    progress: Callable[[str], None],
) -> Made:
    from fasthep_flow.environments.software.pythons import made
    from fasthep_flow.environments.software.requirements import names

    _require_no_python_path(setup, provides, around.environment)
    words = f"making a Python environment ({names(python.requirements)}){around.where}"
    return made(
        python,
        around.ground(provides, offline=offline),
        starting=lambda: progress(words),
    )


def _first_python(search_path: str, working_directory: str) -> str:
    """The python3 that a program of the task's would find."""
    folders = [os.path.join(working_directory, one) for one in search_path.split(":")]  # noqa: PTH118
    return shutil.which("python3", path=":".join(folders)) or "python3"


@contextmanager
def _kept() -> Iterator[None]:
    """What the cache folder cannot hold is refused, with the reason."""
    try:
        yield
    except OSError as error:
        from fasthep_flow.environments.software.keys import software_folder

        raise SoftwareUnavailable(
            f"no software can be kept in {software_folder()}: {error.strerror or error}",
            hint="FASTHEP_FLOW_CACHE names another folder",
        ) from error


def _without_own_python(environment: Mapping[str, str | None]) -> dict[str, str | None]:
    """What is to be absent of this tool's own Python: it would get in the way of others."""
    own: dict[str, str | None] = dict.fromkeys(
        name
        for name in ("PYTHONPATH", "PYTHONHOME")
        if name in os.environ and name not in environment
    )
    active = os.environ.get("VIRTUAL_ENV")
    if active and "VIRTUAL_ENV" not in environment and _same(active, sys.prefix):
        own |= dict.fromkeys(
            name for name in ("VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT") if name in os.environ
        )
        search_path = os.environ.get("PATH")
        if search_path and "PATH" not in environment:
            bins = (f"{active}/bin", f"{sys.prefix}/bin")
            folders = [
                folder for folder in search_path.split(":") if folder.rstrip("/") not in bins
            ]
            own["PATH"] = ":".join(folders)
    return own


def _same(path: str, other: str) -> bool:
    return os.path.realpath(path) == os.path.realpath(other)


def _require_credentials(
    setup: Setup,
    provides: Mapping[str, str | None],
    environment: Mapping[str, str | None],
    decided: Collection[str],
) -> None:
    """Refuse a script after which a task would look for its credentials elsewhere."""
    for name in sorted(decided):
        if name in provides and provides[name] != environment.get(name):
            verb = "unsets" if provides[name] is None else "sets"
            where = f" ({setup.origin})" if setup.origin else ""
            raise SoftwareUnavailable(
                f"the setup script{where} {verb} {name}, and so the task would not find the"
                " credential that it asks for",
                hint=f"write 'unset {name}' behind it"
                if environment.get(name) is None
                else f"have it keep {name}, or take the credential out of 'credentials'",
            )


def _require_no_python_path(
    setup: Setup | None,
    provides: Mapping[str, str | None],
    environment: Mapping[str, str | None],
) -> None:
    for name in ("PYTHONPATH", "PYTHONHOME"):
        if provides.get(name) and provides[name] != environment.get(name):
            where = f" ({setup.origin})" if setup is not None and setup.origin else ""
            raise SoftwareUnavailable(
                f"the setup script{where} sets {name}, which would come before the packages of"
                " the Python environment that is asked for, too",
                hint=f"leave 'python' out, or write 'unset {name}' behind the script",
            )
