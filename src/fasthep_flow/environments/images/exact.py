"""What an image's name stands for at the moment: its digest, by which every machine knows it."""

from __future__ import annotations

from pathlib import Path

from fasthep_flow.environments.host.digests import file_digest
from fasthep_flow.environments.images.archives import read_archive
from fasthep_flow.environments.images.digests import folder_digest, is_flat
from fasthep_flow.environments.images.stored import asked_of_docker
from fasthep_flow.environments.registries.platforms import machine_platform
from fasthep_flow.environments.registries.registry import digest_now, split_reference
from fasthep_flow.errors import ImageUnavailable
from fasthep_flow.model import Image

__all__ = ["exact_digest", "why_inexact"]


def why_inexact(image: Image) -> str | None:
    """``None`` for an image that has a digest on every machine, else why it has none."""
    if image.form == "registry":
        parts = split_reference(image.reference)
        if parts.registry == "localhost" and parts.digest is None:
            return "it was built on this machine, and no registry names its digest"
    if image.form == "folder" and not is_flat(Path(image.name)):
        return "it is a folder, and nothing but CVMFS names what is in one"
    return None


def exact_digest(image: Image) -> str:
    """The digest that the image's name stands for now; fetches nothing.

    Of an image in a registry it is what the registry says: of one for several platforms the
    digest of their list. One that the author has named by digest is not asked for. Of a file it
    is that of its bytes, of an OCI layout that of the manifest, of docker's own image its id.

    Args:
        image: One for which :func:`why_inexact` gives no reason.

    Raises:
        EngineUnavailable: It is docker's, and docker does not answer.
        ImageUnavailable: There is no such image, no permission, or no registry.
    """
    match image.form:
        case "registry" | "oras":
            return split_reference(image.reference).digest or digest_now(image.reference)
        case "docker-daemon":
            return asked_of_docker(image)
        case "oci":
            return read_archive(image, image.platform or machine_platform()).digest
        case "folder":
            return _of_path(image, is_folder=True)
        case _:
            return _of_path(image, is_folder=False)


def _of_path(image: Image, *, is_folder: bool) -> str:
    path = Path(image.path or "")
    try:
        return folder_digest(path) if is_folder else file_digest(path)
    except OSError as error:
        raise ImageUnavailable(
            f"the image {image} cannot be read: {error.strerror}",
            hint="is the path right, and may you read it?",
        ) from None
