"""Images as apptainer runs them: SIF files, built or pulled once, and unpacked folders."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

from fasthep_flow.environments import ImageFacts, ResolvedImage
from fasthep_flow.environments.engine import Engine, last_lines
from fasthep_flow.environments.host.cache import cache_folder, file_name, make_once
from fasthep_flow.environments.host.digests import file_digest
from fasthep_flow.environments.host.scratch import new_scratch
from fasthep_flow.environments.images.archives import read_archive
from fasthep_flow.environments.images.bundled import require_seal
from fasthep_flow.environments.images.cache import ImageAbsent, image_folder, require_writable
from fasthep_flow.environments.images.digests import folder_digest
from fasthep_flow.environments.images.fetching import LOCAL_SILENCE_S, SilenceError, fetch
from fasthep_flow.environments.images.reasons import why_no_image, why_silent
from fasthep_flow.environments.images.stored import asked_of_docker
from fasthep_flow.environments.images.unpacked import find_unpacked
from fasthep_flow.environments.registries.logins import login_to
from fasthep_flow.environments.registries.platforms import machine_platform, same_platform
from fasthep_flow.environments.registries.registry import (
    Manifest,
    Reference,
    manifest,
    split_reference,
)
from fasthep_flow.errors import ImageUnavailable
from fasthep_flow.model import Image

__all__ = ["SifStore", "sif_platform"]

_MAGIC: Final = b"SIF_MAGIC\0"
_MAGIC_AT: Final = 32
_HEADER_LENGTH: Final = 48
_ARCHITECTURES: Final = {
    b"01": "386",
    b"02": "amd64",
    b"03": "arm",
    b"04": "arm64",
    b"05": "ppc64",
    b"06": "ppc64le",
    b"11": "s390x",
    b"12": "riscv64",
}
"""As https://github.com/apptainer/sif/blob/v2.21.1/pkg/sif/arch.go numbers them."""

_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")

_NO_LOGIN: Final[Mapping[str, str]] = {}

Ask: TypeAlias = Callable[..., Manifest]


class SifStore:
    """Has images ready for apptainer; what it makes is in the cache, and used by all hosts.

    Args:
        engine: The client that builds and pulls.
        environment: What the client's environment is made of.
        ask_registry: Like :func:`fasthep_flow.environments.registries.registry.manifest`.
        unpacked: Where CVMFS has unpacked images; ``None`` for the usual place.
    """

    def __init__(
        self,
        engine: Engine,
        environment: Callable[[], Mapping[str, str]] = lambda: os.environ,
        *,
        ask_registry: Ask = manifest,
        unpacked: str | None = None,
    ) -> None:
        self._engine: Final = engine
        self._environment: Final = environment
        self._ask_registry: Final = ask_registry
        self._unpacked: Final = unpacked

    def look(self, image: Image) -> ImageFacts:
        """What there is of the image; nothing is built or pulled.

        Raises:
            EngineUnavailable: It is docker's, and docker does not answer.
            ImageUnavailable: There is no such image, no permission, no registry, or no place
                where it could be kept.
        """
        match image.form:
            case "sif":
                path = _present(image)
                return ImageFacts(
                    is_local=True,
                    digest=_digest_of(image, path),
                    platforms=_platforms(sif_platform(path)),
                )
            case "folder":
                path = _present(image)
                return ImageFacts(is_local=True, digest=_folder_digest_of(image, path))
            case "registry" | "oras":
                return self._look_in_registry(image)
            case _:
                digest, platforms = self._source_facts(image)
                path = _sif_path(_key(image), digest, image.platform)
                require_writable(image, path)
                note = "" if path.exists() else "a SIF file is to be built of it"
                return ImageFacts(is_local=True, digest=digest, platforms=platforms, note=note)

    def have(self, image: Image) -> ResolvedImage:
        """Have the image on this machine; its reference is the path of a SIF file or folder.

        Raises:
            EngineUnavailable: There is no apptainer; or the image is docker's, and docker does
                not answer.
            ImageUnavailable: It cannot be had; says why.
        """
        match image.form:
            case "sif":
                path = _present(image)
                _require_platform(image, _platforms(sif_platform(path)))
                return _resolved(image, path, _digest_of(image, path))
            case "folder":
                path = _present(image)
                return _resolved(image, path, _folder_digest_of(image, path))
            case "registry" | "oras":
                return self._have_from_registry(image)
            case _:
                return self._have_built(image)

    def _look_in_registry(self, image: Image) -> ImageFacts:
        if image.pull != "always" and (local := self._local(image)) is not None:
            path, digest = local
            if path.is_dir():
                return ImageFacts(is_local=True, digest=digest, note=f"unpacked in {path}")
            return ImageFacts(
                is_local=True, digest=digest, platforms=_platforms(sif_platform(path))
            )
        found = self._found(image)
        digest = split_reference(image.reference).digest or found.list_digest or found.digest
        path = _sif_path(_key(image), digest, image.platform)
        require_writable(image, path)
        return ImageFacts(is_local=path.exists(), digest=digest, platforms=found.platforms)

    def _have_from_registry(self, image: Image) -> ResolvedImage:
        if image.pull != "always" and (local := self._local(image)) is not None:
            return _resolved(image, *local)
        parts = split_reference(image.reference)
        found = self._found(image)
        digest = parts.digest or found.list_digest or found.digest
        path = _sif_path(_key(image), digest, image.platform)
        # By digest: the tag may come to mean another one meanwhile.
        scheme = "oras" if image.form == "oras" else "docker"
        source = f"{scheme}://{parts.registry}/{parts.repository}@{found.digest}"
        self._make(image, path, "pull", source, _login(parts))
        with suppress(OSError):
            # Of those of a tag the newest is the one that it means.
            os.utime(path)
        return _resolved(image, path, digest)

    def _local(self, image: Image) -> tuple[Path, str] | None:
        """What is here of an image in a registry, and its digest."""
        if (folder := find_unpacked(image, self._unpacked)) is not None:
            return folder, _folder_digest_of(image, folder)
        pinned = split_reference(image.reference).digest
        found = [
            (path, digest)
            for path, digest in _sifs(_key(image), image.platform)
            if pinned in {None, digest}
        ]
        if not found:
            return None
        newest = max(found, key=lambda one: one[0].stat().st_mtime_ns)
        require_seal(image, newest[0])
        return newest

    def _found(self, image: Image) -> Manifest:
        """What the registry has."""
        if image.pull == "never":
            raise ImageAbsent(
                f"the image {image} is not on this machine, and is never to be pulled",
                hint="leave out 'pull: never', or run the workflow once with 'pull: missing'",
            )
        try:
            found = self._ask_registry(image.reference, platform=image.platform)
        except ImageUnavailable as error:
            raise self._with_own_login(error, image) from None
        _require_platform(image, found.platforms)
        return found

    def _have_built(self, image: Image) -> ResolvedImage:
        digest, platforms = self._source_facts(image)
        _require_platform(image, platforms)
        path = _sif_path(_key(image), digest, image.platform)
        if image.form == "docker-daemon":
            self._make(image, path, "build", image.name)
            return _resolved(image, path, digest)
        scratch = new_scratch()
        try:
            # What stands in the path is no matter so to apptainer's reader of the source.
            link = scratch / "image"
            link.symlink_to(image.path or "")
            inner = image.reference.removeprefix(image.path or "")
            self._make(image, path, "build", f"{image.form}:{link}{inner}")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return _resolved(image, path, digest)

    def _source_facts(self, image: Image) -> tuple[str, tuple[str, ...]]:
        """The digest and the platforms of what is on this machine, and is no SIF file yet."""
        if image.form != "docker-daemon":
            found = read_archive(image, image.platform or machine_platform())
            return found.digest, (found.platform,) if found.platform else ()
        words = "{{.Id}} {{.Os}}/{{.Architecture}}"
        digest, _, platform = asked_of_docker(image, words).partition(" ")
        return digest, (platform,)

    def _make(
        self,
        image: Image,
        path: Path,
        verb: str,
        source: str,
        login: Mapping[str, str] = _NO_LOGIN,
    ) -> None:
        """Build or pull a SIF file, once for all processes and hosts."""
        asked = image.platform or machine_platform()
        arch = () if same_platform(asked, machine_platform()) else ("--arch", asked.split("/")[1])

        def make(part: Path) -> None:
            environment = {**self._environment(), **login}
            scratch = new_scratch()
            environment.setdefault("APPTAINER_TMPDIR", str(scratch))
            try:
                # Its own cache would hold all of it once more, in a home that may be small.
                done = fetch(
                    self._engine,
                    *("--quiet", verb, "--disable-cache", *arch, str(part), source),
                    environment=environment,
                    silence_s=None if image.form in {"registry", "oras"} else LOCAL_SILENCE_S,
                )
            except SilenceError as error:
                raise why_silent(image, error) from None
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            said = _COLOURS.sub("", done.stderr or done.stdout)
            if done.returncode or not part.exists():
                folder = self._environment().get("APPTAINER_TMPDIR") or str(scratch.parent)
                raise self._refusal(image, source, said, folder)

        try:
            make_once(path, make)
        except OSError as error:
            raise ImageUnavailable(
                f"the image {image} cannot be kept in {path.parent}: {error.strerror}",
                hint="set FASTHEP_FLOW_CACHE to a folder where there is room",
            ) from None

    def _refusal(self, image: Image, source: str, said: str, scratch: str) -> ImageUnavailable:
        """The error for what apptainer said when it could not build or pull."""
        words = last_lines(said.rpartition(f"{source}: ")[2]).removeprefix("FATAL:").strip()
        if re.search(r"no space left|disk quota exceeded", said.lower()):
            is_in_cache = str(cache_folder()) in said
            full = cache_folder() if is_in_cache else scratch
            variable = "FASTHEP_FLOW_CACHE" if is_in_cache else "APPTAINER_TMPDIR"
            return ImageUnavailable(
                f"the image {image} cannot be had: disk full, there is no room left in {full}",
                hint=f"make room there, or set {variable} to a folder where there is some",
            )
        if image.form not in {"registry", "oras"}:
            return ImageUnavailable(
                f"the image {image} cannot be made a SIF file: {words}",
                hint=f"is it what 'docker save' writes, or {image.form!r} says?",
            )
        if "invalid layer mediatype" in said.lower():
            return ImageUnavailable(
                f"the image {image} is no SIF file", hint=f"try {image.reference}, without oras://"
            )
        return self._with_own_login(why_no_image(self._engine, image.name, words), image)

    def _with_own_login(self, error: ImageUnavailable, image: Image) -> ImageUnavailable:
        """The error with the words that log in to a registry with apptainer."""
        registry = split_reference(image.reference).registry
        if error.hint is None or not error.hint.endswith(f" login {registry}"):
            return error
        scheme = "oras" if image.form == "oras" else "docker"
        hint = f"{self._engine.program} registry login --username YOU {scheme}://{registry}"
        return ImageUnavailable(error.message, hint=hint)


def _login(parts: Reference) -> dict[str, str]:
    """The login that any engine knows, for the environment of apptainer's client."""
    login = login_to(parts.registry, parts.repository)
    if login is None or login.is_token:
        return {}
    return {"APPTAINER_DOCKER_USERNAME": login.user, "APPTAINER_DOCKER_PASSWORD": login.secret}


def sif_platform(path: Path) -> str | None:
    """``linux/...``, for which the SIF file says that it is; ``None`` where it does not say.

    Raises:
        ImageUnavailable: It is no SIF file, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_LENGTH)
    except OSError as error:
        raise ImageUnavailable(
            f"the image {path} cannot be read: {error.strerror}",
            hint="is it a file, and may you read it?",
        ) from None
    start = _MAGIC_AT + len(_MAGIC)
    if header[_MAGIC_AT:start] != _MAGIC:
        raise ImageUnavailable(
            f"{path} is no SIF file",
            hint="'apptainer build' makes one of an image; what 'docker save' writes is"
            " named docker-archive:PATH",
        )
    # Three bytes of the version follow, and as many of the architecture.
    name = _ARCHITECTURES.get(header[start + 3 : start + 5])
    return None if name is None else f"linux/{name}"


def _require_platform(image: Image, there: tuple[str, ...]) -> None:
    """Refuse an image that is for other machines than the one that it is wanted for."""
    wanted = image.platform or machine_platform()
    if not there or any(same_platform(wanted, one) for one in there):
        return
    if image.platform is not None:
        raise ImageUnavailable(
            f"the image {image} is not there for {image.platform}; there is {', '.join(there)}",
            hint="ask for a platform that there is",
        )
    raise ImageUnavailable(
        f"the image {image} is for {', '.join(there)}, and this machine is {wanted}",
        hint="look for one that fits this machine",
    )


def _platforms(platform: str | None) -> tuple[str, ...]:
    return () if platform is None else (platform,)


def _resolved(image: Image, path: Path, digest: str) -> ResolvedImage:
    return ResolvedImage(name=image.name, reference=str(path), digest=digest)


def _present(image: Image) -> Path:
    """The SIF file or the folder, if it is one."""
    path, is_folder = Path(image.name), image.form == "folder"
    if path.is_dir() if is_folder else path.is_file():
        return path
    kind = "folder" if is_folder else "file"
    if path.exists():
        raise ImageUnavailable(f"the image {image} is no {kind}", hint="look at its path")
    raise ImageUnavailable(
        f"the image {image} is not there: no such {kind}",
        hint="is the path right, and seen by every machine that runs tasks?",
    )


def _digest_of(image: Image, path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise _unreadable(image, error) from None


def _folder_digest_of(image: Image, path: Path) -> str:
    try:
        return folder_digest(path)
    except OSError as error:
        raise _unreadable(image, error) from None


def _unreadable(image: Image, error: OSError) -> ImageUnavailable:
    return ImageUnavailable(
        f"the image {image} cannot be read: {error.strerror}",
        hint=f"may you read {error.filename}?",
    )


def _key(image: Image) -> str:
    """What the image is, whatever its version: registry, repository and tag, or a path."""
    name = image.reference.partition("@")[0] if image.form == "registry" else image.name
    return name.partition("@")[0] if image.form == "oras" else name


def _sif_path(key: str, digest: str, platform: str | None) -> Path:
    return image_folder(key) / f"{file_name(digest)}{_suffix(platform)}"


def _sifs(key: str, platform: str | None) -> list[tuple[Path, str]]:
    """The SIF files of all versions of an image, and their digests."""
    suffix = _suffix(platform)
    found = []
    for path in image_folder(key).glob(f"sha256=*{suffix}"):
        digest = path.name.removesuffix(suffix).replace("sha256=", "sha256:", 1)
        found.append((path, digest))
    return found


def _suffix(platform: str | None) -> str:
    """A cache may serve machines of several kinds."""
    return f".{file_name((platform or machine_platform()).partition('/')[2])}.sif"
