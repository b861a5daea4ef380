"""Images as authors name them: in a registry, as a file, as an unpacked folder.

What kind of name it is tells the name alone, not what lies on this machine: the same text
means the same everywhere. The prefixes are those of containers-transports(5) and of apptainer,
which writes ``//`` behind the colon; both are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from fasthep_flow.language.placeholders import placeholders
from fasthep_flow.language.references import EXAMPLE, HUB, Reference, parse_reference
from fasthep_flow.language.refusals import Refusal, listed, shown
from fasthep_flow.model import ImageForm

__all__ = ["ImageReference", "Remark", "parse_image"]

Remark: TypeAlias = tuple[str, str]
"""What the author should know of an image, and what could be written instead."""


@dataclass(frozen=True, slots=True)
class ImageReference:
    """An image in full.

    Args:
        name: As :class:`fasthep_flow.model.Image` has it.
        form: What kind of name that is.
        remarks: What the author should know of it.
    """

    name: str
    form: ImageForm = "registry"
    remarks: tuple[Remark, ...] = ()


_IMAGE_FILES: Final = (".sif", ".simg", ".img")
_ARCHIVES: Final = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_SQUASHED: Final = (".sqsh", ".sqfs", ".squashfs")
_IN_ARCHIVE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]*")

# People copy the address of the page that shows the image.
_WEB_SITES: Final[Mapping[str, str]] = {
    "github.com": "ghcr.io",
    "gitlab.cern.ch": "gitlab-registry.cern.ch",
    "gitlab.com": "registry.gitlab.com",
    "hub.docker.com": HUB,
}


def parse_image(text: str, directory: Path) -> ImageReference:
    """The image that an author named, in full.

    Args:
        text: What the author wrote.
        directory: Where relative paths start: the workflow file's folder.

    Raises:
        Refusal: It names no image, a placeholder, or one of a kind that nothing here runs.
    """
    found = placeholders(text)
    if found:
        raise Refusal(
            f"{listed(found)} {'is a placeholder' if len(found) == 1 else 'are placeholders'}",
            f"name your own image, {EXAMPLE}",
        )
    if not text.strip():
        raise Refusal("the image has no name", "'image: null' runs on the host itself")
    for prefix, read in _READERS.items():
        # 'oci:1.2' is a name with a tag as well; docker's own readers see the transport.
        if text.startswith(prefix):
            return read(text, text.removeprefix(prefix), directory)
    for prefix, (why, instead) in _REFUSED.items():
        if text.startswith(prefix):
            raise Refusal(f"{shown(prefix)} images cannot be had: {why}", instead)
    if "://" not in text and _is_path(text):
        return _file_or_folder(text, text, directory)
    return _in_registry(text, text, directory)


def _in_registry(text: str, rest: str, _: Path) -> ImageReference:
    reference = parse_reference(rest, text)
    remarks = _remarks(reference)
    if reference.registry in _WEB_SITES:
        other = reference._replace(registry=_WEB_SITES[reference.registry])
        remarks = (
            *remarks,
            (f"{reference.registry} is not a registry", f"did you mean {other}?"),
        )
    return ImageReference(str(reference), "registry", remarks)


def _oras(text: str, rest: str, _: Path) -> ImageReference:
    reference = parse_reference(rest, text, needs_registry=True)
    return ImageReference(f"oras://{reference}", "oras", _remarks(reference, "oras://"))


def _docker_daemon(text: str, rest: str, _: Path) -> ImageReference:
    reference = parse_reference(rest.removeprefix("//"), text)
    prefix = "docker-daemon:"
    return ImageReference(f"{prefix}{reference}", "docker-daemon", _remarks(reference, prefix))


def _remarks(reference: Reference, prefix: str = "") -> tuple[Remark, ...]:
    if not reference.is_tagged:
        return (
            (
                "the image has no tag: 'latest' is meant",
                f"write {prefix}{reference}, or a version",
            ),
        )
    is_moving = reference.tag == "latest" and reference.digest is None
    # What was built on this machine is called 'latest' by those who build it.
    if is_moving and reference.registry != "localhost" and prefix != "docker-daemon:":
        return (
            (
                "'latest' is another image from one day to the next",
                "write a version, or a digest",
            ),
        )
    return ()


def _docker_archive(text: str, rest: str, directory: Path) -> ImageReference:
    path, name = _archive(text, rest, directory)
    inner = f":{parse_reference(name, text)}" if name else ""
    return ImageReference(f"docker-archive:{path}{inner}", "docker-archive")


def _oci_archive(text: str, rest: str, directory: Path) -> ImageReference:
    path, name = _archive(text, rest, directory)
    return ImageReference(f"oci-archive:{path}{_inner(text, name)}", "oci-archive")


def _oci_layout(text: str, rest: str, directory: Path) -> ImageReference:
    path, name = _archive(text, rest, directory)
    return ImageReference(f"oci:{path}{_inner(text, name)}", "oci")


def _archive(text: str, rest: str, directory: Path) -> tuple[str, str]:
    """The absolute path behind a prefix, and the name of the image in there."""
    written, colon, name = rest.removeprefix("//").partition(":")
    if not written:
        raise Refusal(f"{shown(text)} names no file", "write the path behind the ':'")
    if colon and not name:
        raise Refusal(f"{shown(text)} ends with a ':'", "remove it, or name the image in there")
    path = _absolute(text, written, directory)
    if ":" in path:
        raise Refusal(
            f"the path {shown(path)} holds a ':', and behind it the image's name would start",
            "move it to a folder without one",
        )
    return path, name


def _inner(text: str, name: str) -> str:
    if name and not _IN_ARCHIVE.fullmatch(name):
        raise Refusal(
            f"{shown(text)} names no image that could be in there",
            "remove what stands behind the last ':'",
        )
    return f":{name}" if name else ""


def _file_address(text: str, rest: str, directory: Path) -> ImageReference:
    """A ``file://`` address, as RFC 8089 has it."""
    from urllib.parse import unquote

    path = rest.removeprefix("localhost")
    if not path.startswith("/"):
        raise Refusal(
            f"{shown(text)} is no address of a file", "write the path alone, or three slashes"
        )
    return _file_or_folder(text, unquote(path), directory)


def _is_path(text: str) -> bool:
    return (
        text.startswith(("/", "./", "../", "~"))
        or text in {".", ".."}
        or text.endswith("/")
        or text.partition("@")[0].lower().endswith((*_IMAGE_FILES, *_ARCHIVES, *_SQUASHED))
    )


def _file_or_folder(text: str, written: str, directory: Path) -> ImageReference:
    ending = "" if written.endswith("/") else written.lower()
    path = _absolute(text, written, directory)
    if ending.endswith(_ARCHIVES):
        raise Refusal(
            f"{shown(text)} does not say what kind of archive it is",
            f"write {shown(f'docker-archive:{written}')} for what 'docker save' wrote, "
            "oci-archive: for an OCI image",
        )
    if ending.endswith(_SQUASHED):
        raise Refusal(
            f"{shown(text)} is a squashed folder, which not every runtime takes",
            "make an image file of it: apptainer build image.sif FILE",
        )
    return ImageReference(path, "sif" if ending.endswith(_IMAGE_FILES) else "folder")


def _absolute(text: str, written: str, directory: Path) -> str:
    """The path from the root. Links and ``..`` stay: what they mean is known where they are."""
    if not written.isprintable():
        raise Refusal(f"{shown(text)} holds control characters")
    if "@sha256:" in written:
        raise Refusal(
            f"{shown(text)} has a digest, but is a file or folder", "write the path alone"
        )
    path = Path(written)
    if written.startswith("~"):
        try:
            path = path.expanduser()
        except RuntimeError:
            raise Refusal(f"{shown(text)}: there is no such home", "write the whole path") from None
    # pathlib keeps two slashes at the start, which POSIX lets mean anything and Linux does not.
    path = Path("/", *(directory / path).parts[1:])
    if path == Path("/"):
        raise Refusal(
            f"{shown(text)} is this machine itself, not an image",
            "write 'image: null' to run on it",
        )
    return str(path)


_READERS: Final[Mapping[str, Callable[[str, str, Path], ImageReference]]] = {
    "docker://": _in_registry,
    "oras://": _oras,
    "docker-daemon:": _docker_daemon,
    "docker-archive:": _docker_archive,
    "oci-archive:": _oci_archive,
    "oci:": _oci_layout,
    "file://": _file_address,
}
_REFUSED: Final[Mapping[str, Remark]] = {
    "library://": (
        "apptainer has no library of its own any more",
        "write ./image.sif after 'apptainer pull --library URL image.sif library://...'",
    ),
    "shub://": ("Singularity Hub is closed", f"name it in a registry, {EXAMPLE}"),
    "containers-storage:": (
        "this is podman's own store",
        "write the image's name alone: podman looks there first",
    ),
    "dir:": (
        "no engine runs them",
        "make another form of it: skopeo copy dir:FOLDER oci-archive:image.tar",
    ),
    "sif:": ("a file needs no prefix", "write its path alone"),
    "instance://": ("a task has a container of its own", "name the image of that instance"),
}
