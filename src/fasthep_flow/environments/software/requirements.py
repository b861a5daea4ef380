"""What stands in lines of a requirements file, and which files on this machine they lead to."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from fasthep_flow.redaction import without_credentials

__all__ = ["joined", "local_digests", "names", "options", "seen_paths"]

_COMMENT: Final = re.compile(r"(?:^|\s)#.*$")
_FILES: Final = re.compile(r"(?:-r|--requirements?|-c|--constraints?)(?:[= ]\s*|(?=[^-\s]))(\S.*)")
_EDITABLE: Final = re.compile(r"(?:-e|--editable)[= ]\s*(\S.*)")
_PLACES: Final = re.compile(
    r"(?:-f|--find-links|-i|--index-url|--extra-index-url|--index|--default-index)[= ]\s*(\S+)"
)
_NAME: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?=$|[\s\[<>=!~;@,])")
_LEFT_OUT: Final = frozenset(
    {".git", ".hg", ".venv", "__pycache__", "build", "dist", "node_modules", "output"}
)
_MOST_FILES: Final = 20_000
_MOST_NESTED: Final = 20
_NAMES_SHOWN: Final = 4


def joined(text: str) -> tuple[str, ...]:
    """The lines of a requirements file, those that go on in the next one joined; no comments."""
    lines = re.sub(r"\\\r?\n", " ", text).splitlines()
    found = (" ".join(_COMMENT.sub("", line).split()) for line in lines)
    return tuple(line for line in found if line)


def names(lines: Iterable[str]) -> str:
    """The packages in a few words, for people: ``numpy, uproot``."""
    found = []
    for line in joined("\n".join(lines)):
        if (nested := _FILES.match(line)) is not None:
            if line.startswith(("-r", "--req")):
                found.append(nested[1])
        elif (editable := _EDITABLE.match(line)) is not None:
            found.append(without_credentials(editable[1]))
        elif not line.startswith("-"):
            name = _NAME.match(line)
            is_path = line.startswith((".", "/"))
            found.append(name[1] if name and not is_path else without_credentials(line))
    rest = len(found) - _NAMES_SHOWN
    words = ", ".join(found[:_NAMES_SHOWN]) or "no packages"
    return f"{words} and {rest} more" if rest > 0 else words


def options(lines: Iterable[str], directory: str) -> tuple[str, ...]:
    """The lines that say where packages come from, also those of files that they include."""
    return tuple(
        line
        for line, _ in _walked(lines, directory)
        if line.startswith("-") and not _FILES.match(line) and not _EDITABLE.match(line)
    )


def local_digests(lines: Iterable[str], directory: str) -> dict[str, str | None]:
    """What the files and folders are that the lines name, by absolute path; included ones, too.

    Of a folder it is what its files are called, how large they are and when they were changed.
    """
    found: dict[str, str | None] = {}
    for line, base in _walked(lines, directory):
        for path in _paths(line, base):
            found[path] = _digest(path)
    return found


def seen_paths(lines: Iterable[str], directory: str) -> tuple[str, ...]:
    """The absolute paths of all that is to be seen where the lines are installed."""
    paths: dict[str, None] = {}
    for line, base in _walked(lines, directory):
        for path in _paths(line, base):
            paths[path] = None
        if (place := _PLACES.match(line)) is not None and (path := _path(place[1], base)):
            paths[path] = None
    return tuple(paths)


def _walked(lines: Iterable[str], directory: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """The lines, each with the folder that its paths start from; included files' lines, too."""
    for line in joined("\n".join(lines)):
        yield line, directory
        if depth > _MOST_NESTED or (nested := _FILES.match(line)) is None:
            continue
        path = _path(nested[1], directory)
        try:
            text = Path(path).read_text(encoding="utf-8", errors="replace") if path else ""
        except OSError:
            continue
        # uv reads what a file includes from that file's folder.
        yield from _walked(text.splitlines(), os.path.dirname(path), depth + 1)  # noqa: PTH120


def _paths(line: str, directory: str) -> Sequence[str]:
    """The files and folders of this machine that a line asks for."""
    if (found := _FILES.match(line) or _EDITABLE.match(line)) is not None:
        path = _path(found[1], directory)
        return [path] if path else []
    if line.startswith("-"):
        return []
    # Behind a path there may be extras, a marker, and a digest.
    text = re.split(r"\s;|\s--hash", line)[0].strip()
    if " @ " in text:
        text = text.partition(" @ ")[2].strip()
    elif "/" not in text and not text.endswith((".whl", ".tar.gz", ".zip")):
        return []
    path = _path(re.sub(r"\[[^\]/]*\]$", "", text), directory)
    return [path] if path and os.path.exists(path) else []  # noqa: PTH110


def _path(text: str, directory: str) -> str:
    """The absolute path that a text names; empty where it names none of this machine's."""
    text = text.strip().strip("\"'")
    if text.startswith("file:"):
        text = unquote(urlsplit(text).path)
    elif "://" in text or "\0" in text:
        return ""
    return os.path.normpath(os.path.join(directory or "/", text))  # noqa: PTH118


def _digest(path: str) -> str | None:
    digest = hashlib.sha256()
    try:
        if not os.path.isdir(path):  # noqa: PTH112
            digest.update(Path(path).read_bytes())
            return digest.hexdigest()
        count = 0
        for folder, folders, files in os.walk(path):
            folders[:] = sorted(
                name for name in folders if name not in _LEFT_OUT and ".egg-info" not in name
            )
            for name in sorted(files):
                full = os.path.join(folder, name)  # noqa: PTH118
                found = os.lstat(full)
                digest.update(f"{full}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
                count += 1
                if count > _MOST_FILES:
                    return digest.hexdigest()
    except OSError:
        return None
    except UnicodeEncodeError:
        return None
    return digest.hexdigest()
