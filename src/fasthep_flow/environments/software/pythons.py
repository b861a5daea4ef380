"""Isolated Python environments: made once with uv, and kept by what they are made of.

One that is there is whole: it was made under another name, and appeared when it was finished. What
was taken away since, as those do who clean up old files of a disk, is looked for once in a process,
and it is made anew then.

It is found again by the Python that is asked for, the requirements and the files of this machine
that these lead to, uv's settings of where packages come from, the machine or the image, and what a
setup script provides. With resolved requirements, which have digests, those settings do not
count.

In an image it is made by a uv that is handed in, so that the wheels and the compilers are the
image's, and mounted read-only at the same path for tasks.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from fasthep_flow.environments import ContainerSpec, Mount, Runtime
from fasthep_flow.environments.host.cache import make_once
from fasthep_flow.environments.host.locks import shared_lock
from fasthep_flow.environments.software import requirements, uv
from fasthep_flow.environments.software.keys import (
    host_identity,
    keyed,
    private_folder,
    software_folder,
)
from fasthep_flow.environments.software.place import Place, Ran
from fasthep_flow.errors import SoftwareUnavailable
from fasthep_flow.model import PythonSpec
from fasthep_flow.redaction import secret_values

__all__ = ["Ground", "Made", "kept", "made", "resolved"]

_VERSION: Final = 1
_LIMIT_S: Final = 2 * 3600.0
_SHORT_LIMIT_S: Final = 120.0
_INFO: Final = "fasthep-flow.json"
_LARGEST: Final = 16 * 2**20
_UV_INSIDE: Final = "/opt/fasthep-flow/uv"
_ASK: Final = (
    "import json, os, sys;"
    "print(json.dumps(['fasthep', '%d.%d.%d' % sys.version_info[:3], os.environ.get('PATH', '')]))"
)
_RELEASE: Final = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")


class Ground(Struct, frozen=True, kw_only=True):
    """What an environment stands on.

    Args:
        runtime: What the task runs on.
        spec: Of its container, or of the host.
        environment: The task's variables, those that a setup script provides among them.
        setup: The latter alone.
        working_directory: Absolute path.
        offline: Whether nothing may be fetched.
        secrets: The names of variables that the author lists as such.
    """

    runtime: Runtime
    spec: ContainerSpec
    environment: Mapping[str, str | None]
    setup: Mapping[str, str | None]
    working_directory: str
    offline: bool = False
    secrets: tuple[str, ...] = ()

    @property
    def is_contained(self) -> bool:
        """Whether it is in a container."""
        return self.spec.image is not None

    def variables(self) -> dict[str, str]:
        """The whole environment on the host."""
        names = {**os.environ, **self.environment}
        return {name: value for name, value in names.items() if value is not None}


class Made(Struct, frozen=True, kw_only=True):
    """An environment that is there.

    Args:
        path: Absolute path, the same in a container.
        version: Of its Python.
        search_path: The ``PATH`` that its place has by itself.
        mounts: What a container must see for it.
    """

    path: str
    version: str
    search_path: str
    mounts: tuple[Mount, ...] = ()


def kept(python: PythonSpec, ground: Ground) -> Made | None:
    """The environment, if it is there; nothing is made or fetched."""
    try:
        interpreter = _interpreter(python, ground, may_install=False)
        target = _target(python, ground, interpreter)
        return _read(target, ground)
    except (SoftwareUnavailable, OSError):
        return None


def made(
    python: PythonSpec, ground: Ground, *, starting: Callable[[], None] = lambda: None
) -> Made:
    """The environment, which is made if it is not there.

    Args:
        python: What is asked for.
        ground: What it stands on.
        starting: Called before it is made.

    Raises:
        SoftwareUnavailable: It cannot be made; with uv's reasons.
        OSError: There is no room for it.
    """
    interpreter = _interpreter(python, ground, may_install=not ground.offline)
    target = _target(python, ground, interpreter)
    if (found := _read(target, ground)) is not None:
        return found
    if target.exists():
        _set_aside(target, ground)
    begun = False

    def make(part: Path) -> None:
        nonlocal begun
        begun = True
        starting()
        _make(part, python, ground, interpreter)

    make_once(target, make)
    if begun and not ground.is_contained:
        _seal(target)
    if (found := _read(target, ground)) is None:
        raise SoftwareUnavailable(f"the Python environment {target} cannot be read")
    return found


def _set_aside(target: Path, ground: Ground) -> None:
    """Make room where somebody took from an environment, or from under it."""
    with shared_lock(target.with_name(f".{target.name}.aside.lock")):
        # Another process may have made it anew meanwhile.
        if target.exists() and _read(target, ground) is None:
            _unseal(target)
            target.rename(target.with_name(f".{target.name}.{uuid.uuid4().hex}.part"))


def resolved(python: PythonSpec, ground: Ground) -> tuple[str, ...]:
    """The very distributions that the requirements mean now, a line each, with digests.

    Raises:
        SoftwareUnavailable: They cannot be resolved; with uv's reasons.
        OSError: There is no room.
    """
    interpreter = _interpreter(python, ground, may_install=not ground.offline)
    with _bench(ground) as bench:
        output = bench.place.scratch / "resolved.txt"
        ran = bench.uv(
            *("pip", "compile", "-", "--generate-hashes", "--no-header", "--no-annotate"),
            *("--output-file", str(output), "--python", interpreter),
            stdin=_text(python.requirements),
        )
        if not ran.is_well:
            raise bench.unmet(python, ran)
        if output.is_symlink() or not output.is_file() or output.stat().st_size > _LARGEST:
            raise SoftwareUnavailable("uv says nothing that can be read of what it resolved")
        return requirements.joined(output.read_text(encoding="utf-8", errors="replace"))


def _target(python: PythonSpec, ground: Ground, interpreter: str) -> Path:
    lines = _lines(python)
    image = ground.spec.image
    place: tuple[Any, ...]
    if image is None:
        place = (*host_identity(), *_identity(interpreter))
    else:
        place = (image.reference, image.digest, *ground.spec.options)
    key = keyed(
        "python",
        _VERSION,
        python.version,
        lines,
        requirements.local_digests(lines, python.directory or ground.working_directory),
        place,
        dict(ground.setup),
        {} if python.resolved else uv.settings_that_choose(dict(os.environ)),
    )
    return private_folder("python") / key


def _identity(interpreter: str) -> tuple[Any, ...]:
    path = os.path.realpath(interpreter)
    found = os.stat(path)  # noqa: PTH116
    return path, found.st_size, found.st_mtime_ns


def _lines(python: PythonSpec) -> tuple[str, ...]:
    """What is installed; of what was asked for the lines that say where from stay."""
    if not python.resolved:
        return python.requirements
    return (*requirements.options(python.requirements, python.directory), *python.resolved)


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


_FOUND: Final[dict[tuple[str, str], str]] = {}
_FINDING: Final = threading.Lock()


def _interpreter(python: PythonSpec, ground: Ground, *, may_install: bool) -> str:
    """What uv is asked for: in an image the version, on the host the very program."""
    if ground.is_contained:
        return python.version or "python3"
    search_path = ground.variables().get("PATH", "")
    if python.version is None:
        if "PATH" in ground.setup and (found := shutil.which("python3", path=search_path)):
            return found
        return str(getattr(sys, "_base_executable", "") or sys.executable)
    key = python.version, search_path
    with _FINDING:
        if key not in _FOUND or not os.access(_FOUND[key], os.X_OK):
            _FOUND[key] = _found(python.version, ground, may_install=may_install)
        return _FOUND[key]


def _found(version: str, ground: Ground, *, may_install: bool) -> str:
    with _bench(ground) as bench:
        ran = bench.uv("python", "find", "--no-project", "--system", version)
        if not ran.is_well and may_install:
            installed = bench.uv("python", "install", "--no-bin", version)
            if installed.is_well:
                ran = bench.uv("python", "find", "--no-project", "--system", version)
            else:
                ran = installed
        if ran.is_well and (path := ran.stdout.strip().rpartition("\n")[2]).startswith("/"):
            return path
        words = bench.words(ran)
    hint = "'uv python list' shows the versions that can be had"
    if ground.offline:
        hint = "offline, nothing is fetched; 'fasthep-flow pull' fetches it beforehand"
    raise SoftwareUnavailable(
        f"Python {version} is not on this machine, and cannot be had: {words}", hint=hint
    )


class _Bench:
    """A place with uv in it."""

    def __init__(self, place: Place, ground: Ground, variables: Mapping[str, str | None]) -> None:
        self.place: Final = place
        self._ground: Final = ground
        self._variables: Final = variables
        self._program: Final = _UV_INSIDE if ground.is_contained else uv.uv_program()
        known = {**os.environ, **ground.environment}
        self._secrets: Final = secret_values(known, ground.secrets)

    def uv(self, *arguments: str, stdin: str | None = None) -> Ran:
        """Run uv."""
        return self.place.run(
            (self._program, "--no-progress", "--color", "never", *arguments),
            environment=self._environment(),
            stdin=stdin,
            limit_s=_LIMIT_S,
        )

    def program(self, *argv: str) -> Ran:
        """Run another program, with the ``PATH`` that the place has."""
        environment = self._environment()
        environment.pop("PATH", None)
        return self.place.run(argv, environment=environment, limit_s=_SHORT_LIMIT_S)

    def words(self, ran: Ran) -> str:
        """What uv says, or what became of it."""
        if ran.is_late:
            return f"uv does not come to its end within {_LIMIT_S:g} s"
        if ran.outcome.failure is not None:
            return ran.outcome.failure.message
        folders = {str(self.place.scratch): "...", f"{private_folder('python')}/": ""}
        words = uv.uv_words(ran, self._secrets, folders)
        return words or f"uv ends with the code {ran.outcome.exit_code}"

    def unmet(self, python: PythonSpec, ran: Ran) -> SoftwareUnavailable:
        """Why the requirements cannot be had."""
        names = requirements.names(python.requirements)
        where = f" in {self.place.name}" if self._ground.is_contained else ""
        hint = "look at the requirements, and at where packages come from (uv's settings)"
        if self._ground.offline:
            hint = "offline, nothing is fetched; 'fasthep-flow pull' makes it beforehand"
        elif self._ground.spec.network == "none":
            hint = "the task has no network, so nothing can be fetched in its image"
        return SoftwareUnavailable(
            f"no Python environment with {names} can be made{where}: {self.words(ran)}", hint=hint
        )

    def _environment(self) -> dict[str, str | None]:
        environment = {**self._ground.environment, **uv.without_python(), **self._variables}
        if self._ground.offline:
            environment["UV_OFFLINE"] = "1"
        return environment


@contextmanager
def _bench(ground: Ground, mounts: Sequence[Mount] = ()) -> Iterator[_Bench]:
    variables: dict[str, str | None] = {}
    if ground.is_contained:
        image = ground.spec.image
        downloads = private_folder("uv", keyed("uv", None if image is None else image.digest))
        handed, files = uv.handed_in(dict(os.environ))
        variables = {
            **handed,
            "UV_CACHE_DIR": str(downloads),
            "UV_PYTHON_INSTALL_DIR": str(_pythons()),
            "UV_PYTHON_PREFERENCE": handed.get("UV_PYTHON_PREFERENCE", "system"),
            "UV_LINK_MODE": "copy",
        }
        mounts = (
            Mount(source=uv.uv_program(), target=_UV_INSIDE, read_only=True),
            Mount(source=str(downloads), target=str(downloads)),
            Mount(source=str(_pythons()), target=str(_pythons())),
            *files,
            *mounts,
        )
    elif (downloads := software_folder() / "uv" / "host").is_dir():
        # A cache that is carried from machine to machine has what uv fetched in it.
        variables = {"UV_CACHE_DIR": str(downloads)}
    seen = {mount.target for mount in ground.spec.mounts}
    mounts = [mount for mount in mounts if mount.target not in seen]
    with Place(ground.runtime, ground.spec, ground.working_directory, mounts) as place:
        yield _Bench(place, ground, variables)


def _pythons() -> Path:
    """Where uv keeps the Pythons that it fetches for images."""
    return private_folder("pythons")


def _make(part: Path, python: PythonSpec, ground: Ground, interpreter: str) -> None:
    part.mkdir()
    lines = _lines(python)
    directory = python.directory or ground.working_directory
    mounts = [Mount(source=str(part), target=str(part))]
    if ground.is_contained:
        mounts += [
            Mount(source=path, target=path, read_only=True)
            for path in _outermost(requirements.seen_paths(lines, directory))
            if not any(_lies_in(path, mount.target) for mount in ground.spec.mounts)
        ]
    with _bench(ground, mounts) as bench:
        ran = bench.uv(
            *("venv", "--relocatable", "--no-project", "--python", interpreter, str(part))
        )
        if not ran.is_well:
            raise _no_environment(bench, python, ground, ran)
        if lines:
            hashed = all("--hash=" in line for line in python.resolved) and python.resolved
            ran = bench.uv(
                *("pip", "install", "--compile-bytecode", "--python", f"{part}/bin/python"),
                *(["--require-hashes"] if hashed else []),
                *("-r", "-"),
                stdin=_text(lines),
            )
            if not ran.is_well:
                raise bench.unmet(python, ran)
        ran = bench.program(f"{part}/bin/python", "-I", "-c", _ASK)
        version, search_path = _answer(ran, bench)
    info = {
        "version": version,
        "search_path": search_path,
        "directory": directory,
        # This file is not there yet.
        "files": _count(part) + 1,
    }
    (part / _INFO).write_text(json.dumps(info), encoding="ascii")


def _answer(ran: Ran, bench: _Bench) -> tuple[str, str]:
    """What the environment's own Python says of itself."""
    with suppress(ValueError):
        found = json.loads(ran.stdout.strip().rpartition("\n")[2])
        match found:
            case ["fasthep", str(version), str(search_path)] if _RELEASE.fullmatch(version):
                return version, search_path
    raise SoftwareUnavailable(
        f"the Python of a new environment does not run in {bench.place.name}: {bench.words(ran)}"
    )


def _no_environment(
    bench: _Bench, python: PythonSpec, ground: Ground, ran: Ran
) -> SoftwareUnavailable:
    if ground.is_contained and not bench.uv("--version").is_well:
        return SoftwareUnavailable(
            f"uv does not run in {bench.place.name}, so no Python environment can be made there:"
            f" {bench.words(ran)}",
            hint="choose an image with glibc, as those of Debian, Ubuntu and Alma are; or have"
            " the packages in the image",
        )
    asked = f"Python {python.version}" if python.version else "python3"
    hint = "choose an image with it, or another version"
    if ground.spec.network == "none":
        hint = "the task has no network, so no Python can be fetched in its image"
    elif ground.offline:
        hint = "offline, nothing is fetched; 'fasthep-flow pull' makes it beforehand"
    elif python.version is None:
        hint = "name a 'version' to have one fetched, or choose an image with python3"
    return SoftwareUnavailable(
        f"{bench.place.name} has no {asked} for a Python environment: {bench.words(ran)}",
        hint=hint if ground.is_contained else None,
    )


_WHOLE: Final[set[str]] = set()
"""Environments whose files this process has counted."""


def _count(folder: Path) -> int:
    """How many files there are; of what Python compiles for itself none is missed."""
    return sum(
        len(names)
        for path, _, names in os.walk(folder)
        if os.path.basename(path) != "__pycache__"  # noqa: PTH119 - text
    )


def _read(target: Path, ground: Ground) -> Made | None:
    """The environment of that path, if it is whole."""
    try:
        info = json.loads((target / _INFO).read_text(encoding="ascii"))
        version, search_path = str(info["version"]), str(info["search_path"])
        link = os.readlink(target / "bin" / "python")  # noqa: PTH115
        if str(target) not in _WHOLE and _count(target) < int(info.get("files", 0)):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    mounts: tuple[Mount, ...] = ()
    fetched = str(_pythons()) if _lies_in(link, str(_pythons())) else None
    if ground.is_contained:
        paths = [str(target), *([fetched] if fetched else [])]
        mounts = tuple(Mount(source=path, target=path, read_only=True) for path in paths)
    if (not ground.is_contained or fetched) and not os.access(link, os.X_OK):
        return None
    _WHOLE.add(str(target))
    return Made(path=str(target), version=version, search_path=search_path, mounts=mounts)


def _outermost(paths: Sequence[str]) -> list[str]:
    there = [path for path in paths if os.path.exists(path)]  # noqa: PTH110
    return [path for path in there if not any(_lies_in(path, one) for one in there if one != path)]


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _seal(target: Path) -> None:
    """Let nobody add to the environment or take from it, by mistake; files may be uv's, too."""
    for folder, _, _ in os.walk(target, topdown=False):
        with suppress(OSError):
            mode = stat.S_IMODE(os.stat(folder).st_mode)  # noqa: PTH116
            os.chmod(folder, mode & ~0o222)  # noqa: PTH101


def _unseal(target: Path) -> None:
    for folder, _, _ in os.walk(target):
        with suppress(OSError):
            mode = stat.S_IMODE(os.stat(folder).st_mode)  # noqa: PTH116
            os.chmod(folder, mode | stat.S_IWUSR)  # noqa: PTH101
