"""The source files of a Python callable or script: found by reading, with nothing imported.

A module of the workflow's folder counts, and each module that it imports from there, and so on:
by what is written in ``import`` and ``from``, wherever that stands. What is installed counts by
the name and version of its distribution; one that is installed from a folder of sources, as
``pip install -e`` does it, counts by these. Which module a name means is asked of this Python's
own finders, which import nothing for that. What a program works out by itself, such as the name of
a module, cannot be read.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import re
import site
import sys
import sysconfig
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import machinery, metadata
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec

from fasthep_flow.records.sealed import read_whole

__all__ = ["Sources", "module_sources", "script_sources"]

_MOST_FILES: Final = 2_000
_LARGEST: Final = 4 * 2**20
"""Bytes of a file that is read for its imports; larger ones are data that look like a module."""

_LINES: Final = re.compile(
    r"^[ \t]*(?:from[ \t]+(\.*)([\w.]*)[ \t]+import[ \t]+\(?([\w \t,]+)"
    r"|import[ \t]+([\w. \t,]+))",
    re.MULTILINE,
)
_LOADERS: Final = (
    (machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES),
    (machinery.SourceFileLoader, machinery.SOURCE_SUFFIXES),
    (machinery.SourcelessFileLoader, machinery.BYTECODE_SUFFIXES),
)


class Sources(NamedTuple):
    """What a callable stands on.

    Args:
        files: Absolute paths; the first one is that of the module or script itself, where it is
            one that was found.
        packages: The versions of installed distributions, by name.
        unknown: The modules of which nobody can tell what stands for them.
        missing: Those that were not found.
        looks_elsewhere: Whether the code itself says where else modules are.
    """

    files: tuple[str, ...]
    packages: Mapping[str, str]
    unknown: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    looks_elsewhere: bool = False


class _Module(NamedTuple):
    name: str
    file: str | None
    folders: tuple[str, ...]
    """Of a package: where its modules are."""


class _Import(NamedTuple):
    name: str
    items: tuple[str, ...] = ()


_ELSEWHERE: Final = _Import("sys.path")
"""Stands for code that says where else modules are."""


def module_sources(
    module: str, folders: Sequence[str], *, installed: bool = True, is_run: bool = False
) -> Sources:
    """What the module of a callable stands on.

    Args:
        module: Its dotted name. Its end may be the name of a class in the module.
        folders: Absolute paths of those that Python looks in, before its own ones.
        installed: Whether this Python's own packages are those of the task.
        is_run: Whether it is run by ``python -m``.
    """
    search = _Search(folders, installed=installed)
    search.follow(module)
    if is_run:
        search.follow(f"{module}.__main__")
    first = search.own_file(module)
    rest = [file for file in search.files if file != first]
    return search.found((first, *rest) if first else rest)


def script_sources(path: str, folders: Sequence[str] = (), *, installed: bool = True) -> Sources:
    """What a Python script stands on: itself first.

    Args:
        path: Its absolute path.
        folders: Absolute paths of those that Python looks in, behind the script's own.
        installed: Whether this Python's own packages are those of the task.
    """
    search = _Search((os.path.dirname(path), *folders), installed=installed)  # noqa: PTH120 - text
    search.add(_Module("__main__", path, ()))
    search.run()
    return search.found(search.files)


class _Search:
    """One walk along the imports."""

    def __init__(self, folders: Sequence[str], *, installed: bool) -> None:
        self._folders: Final = tuple(dict.fromkeys(folders))
        self._installed: Final = installed
        self._modules: Final[dict[str, _Module | None]] = {}
        self._pending: Final[deque[_Module]] = deque()
        self._finders: Final[dict[str, machinery.FileFinder]] = {}
        self.files: Final[dict[str, None]] = {}
        self._packages: Final[dict[str, str]] = {}
        self._unknown: Final[dict[str, None]] = {}
        self._missing: Final[dict[str, None]] = {}
        self._looks_elsewhere = False

    def found(self, files: Iterable[str]) -> Sources:
        """All that was found.

        Args:
            files: Of it, in their order.
        """
        return Sources(
            tuple(files),
            self._packages,
            tuple(self._unknown),
            tuple(self._missing),
            self._looks_elsewhere,
        )

    def follow(self, module: str) -> None:
        """Take a module, and all that it leads to."""
        self._reach(module)
        self.run()

    def own_file(self, module: str) -> str | None:
        """The file of a module that was reached, or of the one that its class is in."""
        while module:
            found = self._modules.get(module)
            if found is not None and found.file is not None:
                return found.file
            module = module.rpartition(".")[0]
        return None

    def add(self, module: _Module) -> None:
        """Take its file, to be read."""
        if module.file is None or module.file in self.files:
            return
        if len(self.files) >= _MOST_FILES:
            self._unknown[module.name] = None
            return
        self.files[module.file] = None
        self._pending.append(module)

    def run(self) -> None:
        """Follow all imports."""
        while self._pending:
            module = self._pending.popleft()
            for one in _imports(module):
                if one is _ELSEWHERE:
                    self._looks_elsewhere |= self._is_authors(module.file or "")
                elif self._reach(one.name):
                    for item in one.items:
                        self._reach(f"{one.name}.{item}")

    def _is_authors(self, file: str) -> bool:
        return any(file.startswith(f"{folder}/") for folder in self._folders)

    def _reach(self, name: str) -> bool:
        """Take a module with the packages around it; whether it is one of files."""
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            if self._module(".".join(parts[:count])) is None:
                return False
        return True

    def _module(self, name: str) -> _Module | None:
        if name not in self._modules:
            parent, _, _ = name.rpartition(".")
            if parent:
                around = self._modules.get(parent)
                found = None if around is None else self._find(name, around.folders)
            else:
                found = self._find(name, self._folders) or self._outside(name)
            self._modules[name] = found
            if found is not None:
                self.add(found)
        return self._modules[name]

    def _outside(self, name: str) -> _Module | None:
        """A module of sources that are installed from where they are; note any other one."""
        if name in sys.stdlib_module_names or not name.isidentifier():
            return None
        distributions = _distributions(name) if self._installed else []
        places = [(one, _editable(one)) for one in distributions]
        found = _as_imported(name) if self._installed else None
        if found is not None and (any(each for _, each in places) or not _is_installed(found)):
            return found
        for distribution, folders in places:
            if not folders:
                with suppress(KeyError):
                    self._packages[distribution.metadata["Name"]] = distribution.version
            elif (found := self._find(name, folders)) is not None:
                return found
            else:
                self._unknown[name] = None
        if not distributions:
            self._missing[name] = None
        return None

    def _find(self, name: str, folders: Sequence[str]) -> _Module | None:
        portions: list[str] = []
        for folder in folders:
            finder = self._finders.get(folder)
            if finder is None:
                finder = self._finders[folder] = machinery.FileFinder(folder, *_LOADERS)
            spec = finder.find_spec(name)
            if spec is None:
                continue
            inside = tuple(spec.submodule_search_locations or ())
            if spec.loader is not None:
                return _Module(name, spec.origin, inside)
            # A folder without __init__.py may go on in the next one.
            portions += inside
        return _Module(name, None, tuple(portions)) if portions else None


def _imports(module: _Module) -> Iterator[_Import]:
    """What the text of a module asks for."""
    package = module.name if module.folders else module.name.rpartition(".")[0]
    text = _text(module.file or "", is_script=module.name == "__main__")
    if text is None:
        return
    tree = _tree(text)
    if tree is None:
        yield from _plain_imports(text.decode(errors="replace"), package)
        return
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (_Import(alias.name) for alias in names)
            case ast.ImportFrom(module=name, names=names, level=level):
                base = _absolute(name or "", package, level)
                if base:
                    yield _Import(base, tuple(alias.name for alias in names if alias.name != "*"))
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str() as name), *_],
            ) if not name.startswith("."):
                yield _Import(name)
            case (
                ast.Attribute(value=ast.Name(id="sys"), attr="path")
                | ast.Attribute(attr="addsitedir")
            ):
                yield _ELSEWHERE
            case _:
                continue


def _absolute(name: str, package: str, level: int) -> str:
    if not level:
        return name
    parts = package.split(".")
    if level > len(parts):
        return ""
    base = ".".join(parts[: len(parts) - level + 1])
    return f"{base}.{name}" if name and base else base or name


def _text(path: str, *, is_script: bool) -> bytes | None:
    # A script may have any name.
    if not is_script and not path.endswith((".py", ".pyw")):
        return None
    with suppress(OSError, ValueError):
        return read_whole(Path(path).resolve(), _LARGEST)
    return None


def _tree(text: bytes) -> ast.Module | None:
    """The text as Python reads it; ``None`` for what this one does not, as another one may."""
    with suppress(SyntaxError, ValueError, RecursionError, MemoryError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text)
    return None


def _plain_imports(text: str, package: str) -> Iterator[_Import]:
    """What the lines of a text ask for that look like Python's."""
    for found in _LINES.finditer(text):
        names = [one.split()[0] for one in (found[3] or found[4]).split(",") if one.strip()]
        if found[4]:
            yield from map(_Import, names)
        elif base := _absolute(found[2], package, len(found[1])):
            yield _Import(base, tuple(names))


def _as_imported(name: str) -> _Module | None:
    """What this Python would import by a name without dots."""
    # Among the finders are others' own.
    with suppress(Exception):
        spec = importlib.util.find_spec(name)
        if spec is not None:
            inside = tuple(spec.submodule_search_locations or ())
            if (spec.has_location and spec.origin) or inside:
                return _Module(name, spec.origin if spec.has_location else None, inside)
    return None


def _is_installed(module: _Module) -> bool:
    """Whether it lies where packages are installed: there it counts by its version."""
    places = [module.file] if module.file is not None else [*module.folders]
    return all(place.startswith(_installed_folders()) for place in places)


@functools.cache
def _installed_folders() -> tuple[str, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = [*map(sysconfig.get_path, names), *site.getsitepackages()]
    return tuple({f"{folder}/" for folder in (*folders, site.getusersitepackages())})


def _distributions(name: str) -> list[metadata.Distribution]:
    """Those that bring a module, as far as this Python knows."""
    try:
        return [metadata.distribution(name)]
    except (metadata.PackageNotFoundError, ValueError):
        found = []
        for one in _providers().get(name, ()):
            with suppress(metadata.PackageNotFoundError):
                found.append(metadata.distribution(one))
        return found


@functools.cache
def _providers() -> dict[str, tuple[str, ...]]:
    # What it reads are files of others.
    with suppress(Exception):
        found = metadata.packages_distributions()
        return {name: tuple(dict.fromkeys(each)) for name, each in found.items()}
    return {}


class _Folder(msgspec.Struct, frozen=True):
    editable: bool = False


class _DirectUrl(msgspec.Struct, frozen=True):
    url: str
    dir_info: _Folder = _Folder()


def _editable(distribution: metadata.Distribution) -> tuple[str, ...]:
    """The folders of its sources, where it is installed from these (PEP 610)."""
    with suppress(OSError, ValueError):
        text = distribution.read_text("direct_url.json")
        if text is not None:
            found = msgspec.json.decode(text.encode(), type=_DirectUrl)
            if found.dir_info.editable:
                folder = unquote(urlsplit(found.url).path)
                return (folder, f"{folder}/src")
    return ()
