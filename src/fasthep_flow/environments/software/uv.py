"""uv, which makes Python environments: its program, what it is told, and what it says.

Where packages come from is the user's own settings of uv's: its files, and ``UV_...``. They are
handed on and never shown.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from fasthep_flow.environments import Mount
from fasthep_flow.environments.software.place import Ran
from fasthep_flow.environments.software.wording import masked
from fasthep_flow.errors import SoftwareUnavailable

__all__ = ["handed_in", "settings_that_choose", "uv_program", "uv_words", "without_python"]

_CHOOSING: Final = re.compile(
    r"UV_(?:DEFAULT_INDEX|INDEX|INDEX_URL|EXTRA_INDEX_URL|INDEX_STRATEGY|FIND_LINKS|NO_INDEX"
    r"|CONSTRAINT|OVERRIDE|EXCLUDE|BUILD_CONSTRAINT|PRERELEASE|RESOLUTION|EXCLUDE_NEWER"
    r"|NO_BINARY\w*|ONLY_BINARY\w*|NO_BUILD\w*|NO_SOURCES|CONFIG_FILE|NO_CONFIG|TORCH_BACKEND)",
    re.ASCII,
)
# Of this machine's: where things lie, and what its own processes need.
_STAYING: Final = re.compile(
    r"UV_(?:CACHE_DIR|PYTHON|PYTHON_INSTALL_DIR|PYTHON_BIN_DIR|TOOL_\w+|INSTALL_DIR|PROJECT\w*"
    r"|RUN_RECURSION_DEPTH|SYSTEM_PYTHON|BREAK_SYSTEM_PACKAGES|WORKING_DIR\w*|LINK_MODE|INTERNAL_\w+)",
    re.ASCII,
)
_PROXIES: Final = re.compile(r"(?:https?|all|no)_proxy", re.ASCII | re.IGNORECASE)
_FILES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR", "UV_CONFIG_FILE", "NETRC", "SSL_CLIENT_CERT")
_LONGEST: Final = 1200
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^\s`'\"<>]+", re.IGNORECASE)
_SIGNS: Final = re.compile(r"^[^\w`'(\[\"]+")
_PROGRESS: Final = ("Using ", "Resolved ", "Downloading ", "Creating ", "Prepared ", "Building ")


@functools.cache
def uv_program() -> str:
    """The absolute path of uv.

    Raises:
        SoftwareUnavailable: It is not there.
    """
    try:
        from uv import find_uv_bin

        return str(Path(find_uv_bin()).resolve())
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if found is None:
        raise SoftwareUnavailable(
            "there is no uv on this machine, which makes Python environments",
            hint="python -m pip install uv",
        )
    return str(Path(found).resolve())


def settings_that_choose(environment: Mapping[str, str]) -> dict[str, str]:
    """Those of uv's settings on which it depends what is installed."""
    return {name: value for name, value in environment.items() if _CHOOSING.fullmatch(name)}


def without_python() -> dict[str, str | None]:
    """What is absent while uv runs: what would lead it to another environment."""
    names = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH", "UV_PYTHON")
    return dict.fromkeys((*names, "UV_SYSTEM_PYTHON", "UV_PROJECT_ENVIRONMENT", "UV_WORKING_DIR"))


def handed_in(environment: Mapping[str, str]) -> tuple[dict[str, str], list[Mount]]:
    """The user's settings for a uv in a container: variables, and the files that it reads."""
    variables = {
        name: value
        for name, value in environment.items()
        if (name.startswith("UV_") and not _STAYING.fullmatch(name)) or _PROXIES.fullmatch(name)
    }
    mounts: dict[str, None] = {}
    home = Path.home()
    config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    usual = {
        "UV_CONFIG_FILE": next(
            (path for path in (config / "uv/uv.toml", Path("/etc/uv/uv.toml")) if path.is_file()),
            None,
        ),
        "NETRC": home / ".netrc",
    }
    for name in _FILES:
        given = environment.get(name)
        path = Path(given) if given else usual.get(name)
        if path is not None and path.is_absolute() and path.exists():
            variables[name] = str(path)
            mounts[str(path)] = None
    for name in ("UV_FIND_LINKS", "UV_INDEX", "UV_DEFAULT_INDEX", "UV_CONSTRAINT", "UV_OVERRIDE"):
        for word in re.split(r"[\s,]+", environment.get(name, "")):
            place = urlsplit(word).path if word.startswith("file:") else word
            if place.startswith("/") and os.path.exists(place):  # noqa: PTH110
                mounts[place] = None
    return variables, [Mount(source=path, target=path, read_only=True) for path in mounts]


def uv_words(ran: Ran, secrets: frozenset[str], folders: Mapping[str, str]) -> str:
    """What uv says of why it failed, on one line.

    Args:
        ran: What became of it.
        secrets: Texts that are not shown.
        folders: Paths of ours that nobody needs to know, and what is said instead.
    """
    text = ran.stderr
    for path, word in folders.items():
        text = text.replace(path, word)
    # An index is shown by its host and path: a name alone may be a token, too.
    text = masked(_URL.sub(_without_login, text), secrets)
    lines = [_SIGNS.sub("", line).strip() for line in text.splitlines()]
    kept = [line for line in lines if line and not line.startswith(_PROGRESS)]
    words = " ".join(kept).removeprefix("error: ").replace(" cause: ", ": ")
    words = words.removeprefix("No solution found when resolving dependencies: ")
    words = words.replace("in `-` at", "in the requirements at")
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}..."


def _without_login(found: re.Match[str]) -> str:
    scheme, _, rest = found[0].partition("://")
    host, slash, path = rest.partition("/")
    login, at, host = host.rpartition("@")
    return f"{scheme}://{'***@' if login or at else ''}{host}{slash}{path}"
