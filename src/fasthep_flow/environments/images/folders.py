"""Images as unpacked folders: made once, kept in the cache, and never written to again.

What comes from a registry is fetched here, with the logins and by the rules that the engines
on this machine know; no engine is needed. Beside each folder lies what its configuration
says. Folders that somebody else has unpacked are used as they are.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from fasthep_flow.environments import ImageFacts, ResolvedImage
from fasthep_flow.environments.engine import DOCKER_ENGINE, ask, last_lines
from fasthep_flow.environments.host.cache import cache_folder, file_name, make_once
from fasthep_flow.environments.host.digests import file_digest
from fasthep_flow.environments.images.archives import ArchivedImage, read_archive
from fasthep_flow.environments.images.blobs import fetch_blob, fetched
from fasthep_flow.environments.images.bundled import require_seal
from fasthep_flow.environments.images.cache import ImageAbsent, image_folder, require_writable
from fasthep_flow.environments.images.digests import folder_digest
from fasthep_flow.environments.images.known import KnownImages
from fasthep_flow.environments.images.packed import Packed, open_packed
from fasthep_flow.environments.images.rootfs import BadLayerError, apply_layer
from fasthep_flow.environments.images.sif import sif_platform
from fasthep_flow.environments.images.sqfs import unpack_sif
from fasthep_flow.environments.images.stored import asked_of_docker
from fasthep_flow.environments.images.unpacked import find_unpacked
from fasthep_flow.environments.images.variables import variables_of_config, variables_of_folder
from fasthep_flow.environments.registries.platforms import (
    machine_platform,
    same_platform,
    why_foreign,
)
from fasthep_flow.environments.registries.registry import Access, Manifest, located, split_reference
from fasthep_flow.errors import ImageUnavailable
from fasthep_flow.model import Image

__all__ = ["FolderStore", "variables_of"]

_ROOT: Final = "root"
_FACTS: Final = "image.json"
_SAVE_LIMIT_S: Final = 2 * 3600.0
_SIF_LAYER: Final = "application/vnd.sylabs.sif.layer.v1.sif"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_OWN_LOGIN: Final = "CH_IMAGE_USERNAME"


class _Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is noted beside a folder.

    Args:
        platform: ``os/architecture[/variant]``; empty where the image does not say.
        variables: That the image sets.
    """

    platform: str = ""
    variables: dict[str, str] = {}


class FolderStore:
    """Has images as folders; see :class:`fasthep_flow.environments.Runtime`."""

    def __init__(self) -> None:
        # Whoever made room on the disk did not tell us.
        self._known: Final = KnownImages(lambda image: Path(image.reference).is_dir())

    def look(self, image: Image) -> ImageFacts:
        """What there is of the image; nothing is fetched or unpacked.

        Raises:
            EngineUnavailable: It is docker's, and docker does not answer.
            ImageUnavailable: There is no such image, no permission, no registry, or no place
                where it could be kept.
        """
        match image.form:
            case "registry" | "oras":
                return _look_in_registry(image)
            case "folder":
                folder = _present(image)
                variables_of_folder(image.name, str(folder))
                return ImageFacts(is_local=True, digest=_digest(image, folder, folder_digest))
            case "sif":
                file = _present(image)
                platform, digest = sif_platform(file), _digest(image, file, file_digest)
                return ImageFacts(
                    is_local=True,
                    digest=digest,
                    platforms=() if platform is None else (platform,),
                    note=_note(image, digest),
                )
            case "docker-daemon":
                digest = asked_of_docker(image)
                return ImageFacts(is_local=True, digest=digest, note=_note(image, digest))
            case _:
                found = read_archive(image, image.platform or machine_platform())
                return ImageFacts(
                    is_local=True,
                    digest=found.digest,
                    platforms=(found.platform,) if found.platform else (),
                    note=_note(image, found.digest),
                )

    def have(self, image: Image) -> ResolvedImage:
        """Have the image on this machine, asked once in a process; its reference is a folder.

        Raises:
            EngineUnavailable: It is docker's, and docker does not answer.
            ImageUnavailable: It cannot be had; says why.
        """
        return self._known.have(image, _have)


def variables_of(image: ResolvedImage) -> dict[str, str]:
    """The variables that an image sets.

    Args:
        image: As :meth:`FolderStore.have` returned it.

    Raises:
        ImageUnavailable: They cannot be told without running a script of it.
    """
    folder = Path(image.reference)
    if folder.name == _ROOT:
        try:
            text = folder.with_name(_FACTS).read_bytes()
            return dict(msgspec.json.decode(text, type=_Facts).variables)
        except (OSError, ValueError):
            # A folder of somebody else's may well have that name.
            pass
    return variables_of_folder(image.name, image.reference)


def _have(image: Image) -> ResolvedImage:
    match image.form:
        case "registry" | "oras":
            return _from_registry(image)
        case "folder":
            folder = _present(image)
            # What it sets is asked now, so that a task does not fail for it later.
            variables_of_folder(image.name, str(folder))
            digest = _digest(image, folder, folder_digest)
            return ResolvedImage(name=image.name, reference=str(folder), digest=digest)
        case "sif":
            return _from_sif(image, _present(image))
        case "docker-daemon":
            return _from_docker(image)
        case _:
            return _from_archive(image)


def _look_in_registry(image: Image) -> ImageFacts:
    local = None if image.pull == "always" else _local(image)
    if local is not None:
        folder, digest = local
        if folder.name != _ROOT:
            return ImageFacts(is_local=True, digest=digest, note=f"unpacked in {folder}")
        facts = _facts_of(folder.parent)
        return ImageFacts(
            is_local=True, digest=digest, platforms=(facts.platform,) if facts.platform else ()
        )
    found, _ = _asked(image)
    digest = _digest_of(image, found)
    kept = _kept(image, digest)
    require_writable(image, kept)
    return ImageFacts(is_local=kept.is_dir(), digest=digest, platforms=found.platforms)


def _from_registry(image: Image) -> ResolvedImage:
    local = None if image.pull == "always" else _local(image)
    if local is not None:
        folder, digest = local
        if folder.name != _ROOT:
            variables_of_folder(image.name, str(folder))
        return ResolvedImage(name=image.name, reference=str(folder), digest=digest)
    found, access = _asked(image)
    digest = _digest_of(image, found)
    kept = _kept(image, digest)
    if kept.is_dir():
        with suppress(OSError):
            # Of those of a tag the newest is the one that it means.
            os.utime(kept)
        return _resolved(image, kept, digest)
    is_sif = [layer.media_type for layer in found.layers] == [_SIF_LAYER]
    if is_sif != (image.form == "oras"):
        what = "a SIF file" if is_sif else "no SIF file"
        scheme = f"oras://{image.reference}" if is_sif else image.reference
        raise ImageUnavailable(f"the image {image} is {what}", hint=f"try {scheme}")

    def again() -> Access:
        return _asked(image)[1]

    def make(part: Path) -> None:
        if is_sif:
            file = part / "image.sif"
            fetch_blob(access, image.name, found.layers[0].digest, file, again=again)
            _require_platform(image, sif_platform(file) or "")
            _add_sif(image, file, part)
            file.unlink()
            return
        blob = part / "part"
        said = json.loads(fetched(access, image.name, found.config_digest, blob))
        _require_platform(image, _platform(said))
        root = part / _ROOT
        root.mkdir()
        for layer in found.layers:
            fetch_blob(access, image.name, layer.digest, blob, again=again)
            with blob.open("rb") as content:
                apply_layer(root, content)
            blob.unlink()
        _write_facts(part, said)

    return _made(image, kept, digest, make)


def _from_sif(image: Image, file: Path) -> ResolvedImage:
    digest = _digest(image, file, file_digest)
    _require_platform(image, sif_platform(file) or "")
    return _made(image, _kept(image, digest), digest, lambda part: _add_sif(image, file, part))


def _from_docker(image: Image) -> ResolvedImage:
    digest = asked_of_docker(image)

    def make(part: Path) -> None:
        file = part / "image.tar"
        done = ask(DOCKER_ENGINE, "save", "--output", str(file), digest, limit_s=_SAVE_LIMIT_S)
        if done.returncode:
            if "no space left" in done.stderr.lower():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
            raise ImageUnavailable(
                f"docker does not hand out the image {image} ({last_lines(done.stderr)})"
            )
        packed = ArchivedImage(identity=digest, digest=digest, platform="")
        with open_packed("docker-archive", file, packed) as opened:
            _add_layers(image, opened, part)
        file.unlink()

    return _made(image, _kept(image, digest), digest, make)


def _from_archive(image: Image) -> ResolvedImage:
    found = read_archive(image, image.platform or machine_platform())
    _require_platform(image, found.platform)

    def make(part: Path) -> None:
        with open_packed(image.form, Path(image.path or ""), found) as opened:
            _add_layers(image, opened, part)

    return _made(image, _kept(image, found.digest), found.digest, make)


def _made(image: Image, kept: Path, digest: str, make: Callable[[Path], None]) -> ResolvedImage:
    """Have the folder in the cache, made by one process on one host."""

    def make_part(part: Path) -> None:
        part.mkdir()
        try:
            make(part)
        except BadLayerError as error:
            raise ImageUnavailable(f"the image {image} cannot be unpacked: {error}") from None
        except ValueError as error:
            raise ImageUnavailable(f"the image {image} cannot be used: {error}") from None

    try:
        make_once(kept, make_part)
    except OSError as error:
        full = "disk full: " if error.errno in _FULL else ""
        raise ImageUnavailable(
            f"the image {image} cannot be kept in {cache_folder()}: {full}"
            f"{error.strerror or error}",
            hint="make room there, or set FASTHEP_FLOW_CACHE to a folder where there is some"
            if full
            else "set FASTHEP_FLOW_CACHE to a folder that you may write to",
        ) from None
    return _resolved(image, kept, digest)


def _add_sif(image: Image, file: Path, part: Path) -> None:
    unpack_sif(image.name, file, part / _ROOT)
    facts = _Facts(
        platform=sif_platform(file) or "",
        variables=variables_of_folder(image.name, str(part / _ROOT)),
    )
    (part / _FACTS).write_bytes(msgspec.json.encode(facts))


def _add_layers(image: Image, packed: Packed, part: Path) -> None:
    _require_platform(image, _platform(packed.configuration))
    root = part / _ROOT
    root.mkdir()
    for opened, digest in packed.layers:
        with opened() as layer:
            apply_layer(root, layer, digest)
    _write_facts(part, packed.configuration)


def _write_facts(part: Path, configuration: dict[str, Any]) -> None:
    inner = configuration.get("config")
    entries = inner.get("Env") if isinstance(inner, dict) else None
    facts = _Facts(platform=_platform(configuration), variables=variables_of_config(entries))
    (part / _FACTS).write_bytes(msgspec.json.encode(facts))


def _facts_of(kept: Path) -> _Facts:
    try:
        return msgspec.json.decode((kept / _FACTS).read_bytes(), type=_Facts)
    except (OSError, ValueError):
        return _Facts()


def _platform(configuration: dict[str, Any]) -> str:
    parts = (configuration.get(key) for key in ("os", "architecture", "variant"))
    return "/".join(str(part) for part in parts if part)


def _require_platform(image: Image, platform: str) -> None:
    """Refuse what is for another machine, unless that is what was asked for.

    Raises:
        ImageUnavailable: It is for another one.
    """
    if not platform:
        return
    if image.platform is not None:
        if not same_platform(image.platform, platform):
            raise ImageUnavailable(
                f"the image {image} is not there for {image.platform}; there is {platform}",
                hint="ask for a platform that there is",
            )
        return
    if (reason := why_foreign(platform)) is not None:
        raise ImageUnavailable(
            f"the image {image} is for another kind of machine than this one: {reason}",
            hint="look for one that fits this machine",
        )


def _local(image: Image) -> tuple[Path, str] | None:
    """The folder of an image that is here already, and its digest."""
    unpacked = find_unpacked(image)
    if unpacked is not None:
        return unpacked, _digest(image, unpacked, folder_digest)
    wanted = split_reference(image.reference).digest
    suffix = _suffix(image.platform)
    found = []
    for kept in image_folder(_key(image)).glob(f"sha256=*{suffix}"):
        digest = kept.name.removesuffix(suffix).replace("sha256=", "sha256:", 1)
        if wanted in {None, digest}:
            found.append((kept, digest))
    if not found:
        return None
    kept, digest = max(found, key=lambda one: one[0].stat().st_mtime_ns)
    require_seal(image, kept)
    return kept / _ROOT, digest


def _asked(image: Image) -> tuple[Manifest, Access]:
    """What the registry has of it.

    Raises:
        ImageUnavailable: It is not to be asked, or there is nothing to be had.
    """
    if image.pull == "never":
        raise ImageAbsent(
            f"the image {image} is not on this machine, and is never to be pulled",
            hint="leave out 'pull: never', or run the workflow once with 'pull: missing'",
        )
    # Those of ch-image are known by its name alone.
    engine = "charliecloud" if os.environ.get(_OWN_LOGIN) else None
    found, access = located(image.reference, platform=image.platform, engine=engine)
    for platform in found.platforms if len(found.platforms) == 1 else ():
        _require_platform(image, platform)
    return found, access


def _digest_of(image: Image, found: Manifest) -> str:
    return split_reference(image.reference).digest or found.list_digest or found.digest


def _present(image: Image) -> Path:
    """The file or folder of the image, if it is there."""
    path = Path(image.path or "")
    is_there = path.is_dir() if image.form == "folder" else path.is_file()
    if not is_there:
        kind = "folder" if image.form == "folder" else "file"
        raise ImageUnavailable(
            f"the image {image} is not there: no such {kind}",
            hint="is the path right, and seen by every machine that runs tasks?",
        )
    return path


def _digest(image: Image, path: Path, digest_of: Callable[[Path], str]) -> str:
    try:
        return digest_of(path)
    except OSError as error:
        raise ImageUnavailable(
            f"the image {image} cannot be read: {error.strerror}",
            hint=f"may you read {error.filename}?",
        ) from None


def _key(image: Image) -> str:
    """What the image is, whatever its version: registry, repository and tag, or a path."""
    return image.name.partition("@")[0] if image.form in {"registry", "oras"} else image.name


def _kept(image: Image, digest: str) -> Path:
    return image_folder(_key(image)) / f"{file_name(digest)}{_suffix(image.platform)}"


def _suffix(platform: str | None) -> str:
    """A cache may serve machines of several kinds."""
    return f".{file_name((platform or machine_platform()).partition('/')[2])}.unpacked"


def _resolved(image: Image, kept: Path, digest: str) -> ResolvedImage:
    return ResolvedImage(name=image.name, reference=str(kept / _ROOT), digest=digest)


def _note(image: Image, digest: str) -> str:
    kept = _kept(image, digest)
    require_writable(image, kept)
    return "" if kept.is_dir() else "is to be unpacked"
