"""The image of an environment: whether it is here or can be had, and for which machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fasthep_flow.environments import ImageFacts, ResolvedImage, Runtime
from fasthep_flow.environments.images.cache import ImageAbsent
from fasthep_flow.environments.preflight.verdicts import Check, passed, refused, unknown
from fasthep_flow.environments.registries.platforms import (
    machine_platform,
    same_platform,
    why_foreign,
)
from fasthep_flow.errors import EngineUnavailable, EnvironmentRefused, ImageUnavailable
from fasthep_flow.model import Image

__all__ = ["NOT_YET", "Images", "foreign", "image_checks"]

NOT_YET: Final = "not known before the image is here"
_DIGEST_SHOWN: Final = len("sha256:") + 12


class Images:
    """What runtimes know of images; asks each runtime for each image once.

    Args:
        progress: Is told of what may take long.
        may_fetch: Whether to have the images on this machine, or to look only.
        offline: Whether nothing may be fetched or asked for.
    """

    def __init__(
        self, *, progress: Callable[[str], None], may_fetch: bool, offline: bool = False
    ) -> None:
        self._progress: Final = progress
        self._may_fetch: Final = may_fetch
        self._offline: Final = offline
        self._known: Final[dict[tuple[str, Image], ImageFacts | EnvironmentRefused]] = {}

    def facts(self, runtime: Runtime, image: Image) -> ImageFacts | EnvironmentRefused:
        """What the runtime knows of the image, or why it cannot be had."""
        key = (runtime.name, image)
        if key not in self._known:
            try:
                if self._may_fetch:
                    self._progress(f"{runtime.name}: image {image}")
                    digest = runtime.resolve(image).digest
                    self._known[key] = ImageFacts(is_local=True, digest=digest)
                else:
                    self._known[key] = runtime.look(image)
            except ImageAbsent as error:
                self._known[key] = _absent(image) if self._offline else error
            except (EngineUnavailable, ImageUnavailable) as error:
                self._known[key] = error
        return self._known[key]

    def resolved(self, runtime: Runtime | None, image: Image | None) -> ResolvedImage | None:
        """The image, where it was found to be on this machine."""
        if runtime is None or image is None:
            return None
        facts = self._known.get((runtime.name, image))
        is_here = isinstance(facts, ImageFacts) and facts.is_local
        return runtime.resolve(image) if is_here else None

    def other(self, runtime: Runtime, image: Image) -> Check:
        """The image for the other kind of device: elsewhere, or while all here are in use."""
        try:
            found = runtime.look(image)
        except ImageAbsent as error:
            return refused("image", _absent(image) if self._offline else error)
        except (EngineUnavailable, ImageUnavailable) as error:
            return refused("image", error)
        return passed("image", f"{image}, on the other kind of device: {_image_text(found)}")


def foreign(image: Image) -> list[Check]:
    """The refusal of an image that is asked for on a machine of a kind that this one is not."""
    if image.platform is None or (why := why_foreign(image.platform)) is None:
        return []
    error = ImageUnavailable(
        f"the image {image} is asked for on another kind of machine than this one: {why}",
        hint="ask for a platform of this machine, or leave it out",
    )
    return [refused("platform", error)]


def image_checks(image: Image, found: ImageFacts) -> list[Check]:
    """What there is to say of an image that can be had.

    Args:
        image: As it is asked for; what :func:`foreign` says is not said again.
        found: What the runtime knows of it.
    """
    checks = [passed("image", _image_text(found))]
    if image.platform is None or why_foreign(image.platform) is None:
        checks.append(_platform(image, found))
    return checks


def _absent(image: Image) -> ImageUnavailable:
    return ImageUnavailable(
        f"the image {image} is not on this machine, and nothing is to be fetched",
        hint="bring it in where there is a network: fasthep-flow pull"
        + (" --locked" if "@" in image.name else ""),
    )


def _image_text(found: ImageFacts) -> str:
    where = "is here" if found.is_local else found.note or "is to be fetched"
    digest = "" if found.digest is None else f", {found.digest[:_DIGEST_SHOWN]}"
    return f"{where}{digest}"


def _platform(image: Image, found: ImageFacts) -> Check:
    own = machine_platform()
    if image.platform is not None:
        how = "" if same_platform(own, image.platform) else ", by what this machine emulates"
        return passed("platform", f"{image.platform}{how}")
    if not found.platforms:
        if found.is_local:
            # Nothing says otherwise; and it is looked into before the first task.
            return passed("platform", own)
        return unknown("platform", NOT_YET)
    reasons = {there: why_foreign(there) for there in found.platforms}
    fitting = [there for there, why in reasons.items() if why is None]
    if not fitting:
        why = next(iter(reasons.values()))
        error = ImageUnavailable(
            f"the image {image} is for another kind of machine than this one: {why}",
            hint="look for one that fits this processor",
        )
        return refused("platform", error)
    there = next((one for one in fitting if same_platform(own, one)), fitting[0])
    how = "" if same_platform(own, there) else ", by what this machine emulates"
    return passed("platform", f"{there}{how}")
