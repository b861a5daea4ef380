"""The variables that an unpacked image sets, told without running anything of it.

Where they are written depends on who unpacked it: ch-image writes ``/ch/environment``
(charliecloud's form: one ``NAME=VALUE`` a line), apptainer scripts in ``/.singularity.d/env``.
Of the latter those are read that docker's ``ENV`` became, and the author's own as far as they
set literal values; a script that does more only a shell in the container could tell.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Final

from fasthep_flow.environments.images.rootfs import BadLayerError, within_root
from fasthep_flow.errors import ImageUnavailable

__all__ = ["DEFAULT_PATH", "variables_of_config", "variables_of_folder"]

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""As docker and podman have it for an image that says nothing of it."""

_LARGEST: Final = 2**20
_SCRIPTS: Final = ("10-docker2singularity.sh", "10-docker.sh", "90-environment.sh")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
# As apptainer writes what docker's ENV says: export PATH="${PATH:-"/usr/bin:/bin"}"
_DEFAULTED: Final = re.compile(r'export (?P<name>\w+)="\$\{(?P=name):-"(?P<value>.*)"\}"', re.ASCII)
_DOUBLE_QUOTED: Final = re.compile(r'export (?P<name>\w+)="(?P<value>(?:[^"\\]|\\.)*)"', re.ASCII)
_ESCAPED: Final = re.compile(r"\\(.)")


def variables_of_config(entries: object) -> dict[str, str]:
    """What ``Env`` of an image's configuration says.

    Args:
        entries: A list of ``NAME=VALUE``, or what a damaged image has in its place.
    """
    variables = {}
    for entry in entries if isinstance(entries, list) else ():
        name, equals, value = str(entry).partition("=")
        if name and equals and "\0" not in entry:
            variables[name] = value
    return variables


def variables_of_folder(image: str, folder: str) -> dict[str, str]:
    """What the files of an unpacked image say.

    Args:
        image: Its name, for messages.
        folder: Absolute path of its root folder.

    Raises:
        ImageUnavailable: A script sets them that would have to be run.
    """
    text = _text(folder, "ch/environment")
    if text is not None:
        return dict(_of_charliecloud(line) for line in text.splitlines() if "=" in line)
    variables: dict[str, str] = {}
    for name in _SCRIPTS:
        path = f".singularity.d/env/{name}"
        for line in (_text(folder, path) or "").splitlines():
            words = line.strip()
            if not words or words.startswith("#"):
                continue
            found = _of_script(words)
            if found is None:
                raise ImageUnavailable(
                    f"the image {image} sets variables with a script, /{path}: {words!r} would"
                    " have to be run",
                    hint="write 'runtime: apptainer', which does that",
                )
            variables.update(found)
    return variables


def _text(folder: str, path: str) -> str | None:
    """The text of a file in the image; links lead nowhere out of it."""
    try:
        found = within_root(os.path.realpath(folder), path)
        if not Path(found).is_file():
            return None
        with Path(found).open("rb") as file:
            return os.fsdecode(file.read(_LARGEST))
    except (OSError, BadLayerError):
        return None


def _of_charliecloud(line: str) -> tuple[str, str]:
    name, _, value = line.partition("=")
    # ch-run takes single quotes around a value away, and knows no others.
    if len(value) > 1 and value[0] == value[-1] == "'":
        value = value[1:-1]
    return name, value


def _of_script(line: str) -> dict[str, str] | None:
    """The literal values that a line sets; ``None`` where it does anything else."""
    for pattern in (_DEFAULTED, _DOUBLE_QUOTED):
        found = pattern.fullmatch(line)
        if found is not None and not re.search(r"(?<!\\)[$`]", found["value"]):
            return {found["name"]: _ESCAPED.sub(r"\1", found["value"])}
    if re.search(r"[$`;&|<>()]", line):
        return None
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return None
    if words[:1] == ["export"]:
        words = words[1:]
    pairs = [word.partition("=") for word in words]
    if any(not _NAME.fullmatch(name) or not equals for name, equals, _ in pairs):
        return None
    return {name: value for name, _, value in pairs}
