"""Images of podman and docker: found, fetched once, and named by their bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from fasthep_flow.environments import ImageFacts, ResolvedImage
from fasthep_flow.environments.engine import Engine, EngineFacts, ask, last_lines
from fasthep_flow.environments.host.locks import machine_lock
from fasthep_flow.environments.host.machine import bytes_text
from fasthep_flow.environments.images.archives import ArchivedImage, identity_in, read_archive
from fasthep_flow.environments.images.bundled import (
    Bundled,
    damaged,
    find_bundled,
    put_in,
    require_seal,
)
from fasthep_flow.environments.images.fetching import LOCAL_SILENCE_S, SilenceError, fetch
from fasthep_flow.environments.images.reasons import (
    not_here,
    why_no_image,
    why_nowhere,
    why_silent,
)
from fasthep_flow.environments.images.stored import (
    StoredImage,
    inspected,
    repository,
    require_platform,
    stored_image,
)
from fasthep_flow.environments.registries.platforms import machine_platform
from fasthep_flow.errors import ImageUnavailable
from fasthep_flow.model import Image, ImageForm

__all__ = [
    "bundle",
    "have_image",
    "look_at_image",
    "size_of",
    "why_not_taken",
]

_ARCHIVES: Final[frozenset[ImageForm]] = frozenset({"docker-archive", "oci-archive", "oci"})
_LOADS_OCI: Final = 25
"""The version of docker that first loads OCI archives."""


def why_not_taken(engine: Engine, image: Image) -> str | None:
    """``None`` for a form of image that the engine runs, else why not; asks nobody."""
    if image.form in {"registry", "docker-daemon", "docker-archive", "oci-archive"}:
        return None
    if image.form == "oci":
        if engine.program != "docker":
            return None
        return "docker loads no OCI layouts that are folders; pack it, and name it oci-archive:"
    kind = {
        "sif": "no image files of apptainer's",
        "oras": "no image files of apptainer's out of registries",
        "folder": "no unpacked folders",
    }[image.form]
    return f"{engine.program} runs {kind}; apptainer does"


def look_at_image(engine: Engine, facts: EngineFacts, image: Image) -> ImageFacts:
    """What there is of the image, here or where it would come from; fetches nothing.

    Raises:
        EngineUnavailable: The engine does not answer.
        ImageUnavailable: It cannot be had; says why.
    """
    if image.form in _ARCHIVES:
        archived = _archived(engine, facts, image)
        there = stored_image(engine, archived.identity, image)
        return ImageFacts(
            is_local=there is not None,
            digest=archived.digest,
            platforms=tuple(filter(None, (archived.platform,))),
            note="" if there is not None else "to be loaded",
        )
    found = _there(engine, facts, image)
    if found is not None and (image.pull != "always" or image.form == "docker-daemon"):
        return ImageFacts(is_local=True, digest=found.digest, platforms=(found.platform,))
    if image.form == "docker-daemon":
        identity = _in_docker(image)
        return ImageFacts(is_local=False, digest=identity, note="to be copied from docker")
    if image.pull != "always" and (bundled := find_bundled(image)) is not None:
        return ImageFacts(is_local=False, digest=bundled.digest, note="to be loaded")
    if image.pull == "never":
        raise not_here(engine, image)
    # Most images are here: what asks registries is imported where one has to be asked.
    from fasthep_flow.environments.registries.registry import manifest

    try:
        there_is = manifest(
            _name(image),
            platform=image.platform,
            engine="podman" if facts.podman else engine.program,
        )
    except ImageUnavailable as error:
        raise why_nowhere(engine, image) or error from None
    return ImageFacts(
        is_local=False,
        digest=there_is.list_digest or there_is.digest,
        platforms=there_is.platforms,
        note=f"{bytes_text(there_is.size)} to be pulled",
    )


def have_image(engine: Engine, facts: EngineFacts, image: Image) -> ResolvedImage:
    """Have the image on this machine.

    One that is there is used as it is, if it fits this machine or the platform that is asked
    for. Else it is fetched, by one process at a time, with the logins that the engine knows.

    Raises:
        EngineUnavailable: The engine does not answer.
        ImageUnavailable: It cannot be had; says why.
    """
    if image.form in _ARCHIVES:
        return _have_archived(engine, facts, image)
    if image.form == "docker-daemon":
        return _have_dockers(engine, facts, image)
    if image.pull != "always" and (found := _there(engine, facts, image)) is not None:
        return _resolved(image, found)
    if image.pull != "always" and (bundled := find_bundled(image)) is not None:
        return _loaded(engine, image, bundled)
    if image.pull == "never":
        raise not_here(engine, image)
    from fasthep_flow.environments.registries.registry import RegistryStalled

    try:
        look_at_image(engine, facts, image)
    except RegistryStalled:
        # The engine would wait for hours.
        raise
    except ImageUnavailable:
        # The engine has the last word: it may know more of the registry than this process.
        if why_nowhere(engine, image) is not None:
            raise
    with machine_lock(f"pull {engine.program} {image.name}"):
        # Another process may have had the lock first.
        if image.pull != "always" and (found := _there(engine, facts, image)) is not None:
            return _resolved(image, found)
        retry = ("--retry", "0") if facts.retries_pulls else ()
        platform = () if image.platform is None else ("--platform", image.platform)
        # Docker's client can be seen to get on by what it shows alone.
        quiet = ("--quiet",) if facts.podman else ()
        _fetch(engine, image, "pull", *quiet, *retry, *platform, _name(image))
        found = stored_image(engine, _name(image), image)
    return _fetched(engine, image, found)


def bundle(engine: Engine, image: Image, resolved: ResolvedImage) -> Path:
    """Have an image of a registry, which the engine has, in the cache too; the archive.

    Args:
        engine: Whose image it is.
        image: As the author named it.
        resolved: As the engine has it.

    Raises:
        EngineUnavailable: The engine does not answer.
        ImageUnavailable: The engine does not hand it out, or there is no room.
    """
    bundled = find_bundled(image)
    if bundled is not None and bundled.identity == resolved.reference:
        return bundled.archive
    name = repository(image.reference)
    done = ask(engine, "image", "inspect", "--format", "{{json .RepoDigests}}", resolved.reference)
    try:
        known = [str(one).partition("@") for one in json.loads(done.stdout) or ()]
    except (TypeError, ValueError):
        known = []
    return put_in(
        engine,
        image,
        identity=resolved.reference,
        digest=resolved.digest,
        digests=[digest for one, _, digest in known if repository(one) == name],
    ).archive


def size_of(engine: Engine, resolved: ResolvedImage) -> int | None:
    """Bytes of an image that the engine has; ``None`` where it does not say.

    Raises:
        EngineUnavailable: The engine does not answer.
    """
    said = ask(engine, "image", "inspect", "--format", "{{.Size}}", resolved.reference).stdout
    return int(said) if said.strip().isdecimal() else None


def _have_archived(engine: Engine, facts: EngineFacts, image: Image) -> ResolvedImage:
    """An image of a file: loaded where the engine has no image of these bytes yet."""
    archived = _archived(engine, facts, image)
    found = stored_image(engine, archived.identity, image)
    if found is None:
        with machine_lock(f"load {engine.program} {archived.identity}"):
            found = stored_image(engine, archived.identity, image)
            if found is None:
                if facts.podman:
                    said = _fetch(engine, image, "pull", "--quiet", image.name)
                else:
                    said = _fetch(engine, image, "load", "--quiet", "--input", image.path or "")
                found = _as_loaded(engine, archived.identity, said, image)
    resolved = _fetched(engine, image, found)
    # The same on every engine, and on the machine from which the file came.
    return ResolvedImage(name=resolved.name, reference=resolved.reference, digest=archived.digest)


def _loaded(engine: Engine, image: Image, bundled: Bundled) -> ResolvedImage:
    """An image that was carried here: loaded once, and run by its identity."""
    found = stored_image(engine, bundled.identity, image)
    if found is None:
        with machine_lock(f"load {engine.program} {bundled.identity}"):
            found = stored_image(engine, bundled.identity, image)
            if found is None:
                found = _load(engine, image, bundled)
    wanted = image.name.partition("@")[2]
    digest = wanted or bundled.digest
    return ResolvedImage(name=image.name, reference=found.identity, digest=digest)


def _load(engine: Engine, image: Image, bundled: Bundled) -> StoredImage:
    try:
        identity = identity_in(bundled.archive)
    except OSError as error:
        raise damaged(image, bundled, error.strerror or str(error)) from None
    require_seal(image, bundled.archive)
    if identity != bundled.identity:
        raise damaged(image, bundled, f"it holds {identity or 'no image'}")
    archive = str(bundled.archive)
    try:
        # The engine checks the layers against the configuration, and that is what was checked.
        done = fetch(engine, "load", "--quiet", "--input", archive, silence_s=LOCAL_SILENCE_S)
    except SilenceError as error:
        raise why_silent(image, error) from None
    if done.returncode:
        raise damaged(image, bundled, last_lines(done.stderr or done.stdout))
    found = _as_loaded(engine, bundled.identity, done.stdout, image)
    if found is None:
        raise damaged(image, bundled, f"{engine.program} loaded it, but does not have it")
    return found


def _as_loaded(engine: Engine, identity: str, said: str, image: Image) -> StoredImage | None:
    """The image as it is in the engine's store, by what that said of it."""
    # Where docker keeps images in containerd, it knows them by another digest.
    loaded = said.strip().rpartition("Loaded image: ")[2].rpartition(" ID: ")[2]
    return stored_image(engine, identity, image) or stored_image(engine, loaded, image)


def _archived(engine: Engine, facts: EngineFacts, image: Image) -> ArchivedImage:
    major = facts.version.partition(".")[0]
    is_old = not facts.podman and major.isdecimal() and int(major) < _LOADS_OCI
    if image.form == "oci-archive" and is_old:
        raise ImageUnavailable(
            f"the image {image} cannot be used: {engine.program} {facts.version} loads no OCI"
            f" archives, {_LOADS_OCI} and newer do",
            hint="choose podman, or save the image with 'docker save' as a docker-archive",
        )
    found = read_archive(image, image.platform or machine_platform())
    require_platform(image, found.platform)
    return found


def _have_dockers(engine: Engine, facts: EngineFacts, image: Image) -> ResolvedImage:
    """An image of the docker on this machine: used by it as it is, copied by podman."""
    if not facts.podman:
        found = _there(engine, facts, image)
        if found is None:
            raise not_here(engine, image)
        return _resolved(image, found)
    with machine_lock(f"copy {engine.program} {image.name}"):
        found = _there(engine, facts, image)
        if found is None:
            _fetch(engine, image, "pull", "--quiet", image.name)
            found = stored_image(engine, _in_docker(image), image)
    return _fetched(engine, image, found)


def _there(engine: Engine, facts: EngineFacts, image: Image) -> StoredImage | None:
    """The image in the engine's store, if it is one that can run here as it is asked for."""
    if image.form == "docker-daemon" and facts.podman:
        return stored_image(engine, _in_docker(image), image)
    return stored_image(engine, _name(image), image)


def _in_docker(image: Image) -> str:
    """The identity that docker knows the image by, which is the same in podman.

    Raises:
        EngineUnavailable: There is no docker.
        ImageUnavailable: It has no such image.
    """
    docker = Engine(program="docker", not_there="'docker info' shows whether its daemon runs")
    done = ask(docker, "image", "inspect", "--format", "{{.Id}}", image.reference)
    if done.returncode:
        raise not_here(docker, image)
    return done.stdout.strip()


def _name(image: Image) -> str:
    """The reference as engines read it: with tag and digest, podman reads none."""
    if image.form != "registry" or "@" not in image.reference:
        return image.reference
    from fasthep_flow.environments.registries.registry import split_reference

    parts = split_reference(image.reference)
    return f"{parts.registry}/{parts.repository}@{parts.digest}"


def _fetch(engine: Engine, image: Image, *arguments: str) -> str:
    silence_s = None if image.form == "registry" else LOCAL_SILENCE_S
    try:
        done = fetch(
            engine, *arguments, on_terminal="--quiet" not in arguments, silence_s=silence_s
        )
    except SilenceError as error:
        raise why_silent(image, error) from None
    if done.returncode:
        said = done.stderr or done.stdout
        raise why_nowhere(engine, image) or why_no_image(engine, image.name, said)
    return done.stdout


def _fetched(engine: Engine, image: Image, found: StoredImage | None) -> ResolvedImage:
    if found is None:
        # It is there now, or it would not have come so far: but not for who asks.
        raw = inspected(engine, _name(image)) if image.form == "registry" else None
        if raw is not None:
            require_platform(image, raw.platform)
        raise ImageUnavailable(f"{engine.program} fetched {image}, but does not have it")
    return _resolved(image, found)


def _resolved(image: Image, found: StoredImage) -> ResolvedImage:
    return ResolvedImage(name=image.name, reference=found.identity, digest=found.digest)
