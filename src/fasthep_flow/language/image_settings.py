"""What an environment says of its image: which one, how to come by it, and what runs it.

The keys of an image are merged one by one: a long form without a ``name`` keeps the global
image, and a name alone keeps the rest. ``image: null`` at a task means the host itself, though
there is a global image. ``options`` are for the runtime that they stand beside: a task that
names another runtime has none but its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fasthep_flow.environments import RUNTIMES
from fasthep_flow.language.document import Steps
from fasthep_flow.language.engine_options import check_options
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.images import ImageReference, parse_image
from fasthep_flow.language.refusals import Refusal, nearest, shown
from fasthep_flow.language.schema import EnvironmentModel, ImageModel
from fasthep_flow.model import Image, Pull

__all__ = ["ContainerSettings", "ImageReader"]

_HOST: Final = "native"
_OTHER_NAMES: Final[Mapping[str, str]] = {"singularity": "apptainer"}
_UNREADABLE: Final = ImageReference("")
"""Stands for an image whose name is refused: there is one, so that nobody asks for it."""

_AUTOMOUNTED: Final = "/cvmfs/"
_NO_IMAGE_MODEL: Final = ImageModel()


@dataclass(frozen=True, slots=True)
class ContainerSettings:
    """What a container is made of; all but the reference is of no account without that."""

    reference: ImageReference | None = None
    pull: Pull | None = None
    platform: str | None = None
    runtime: str | None = None
    options: tuple[str, ...] = ()

    @property
    def image(self) -> Image | None:
        """The image and how to come by it; ``None`` for the host itself."""
        if self.reference is None:
            return None
        return Image(
            name=self.reference.name,
            form=self.reference.form,
            pull=self.pull or "missing",
            platform=self.platform,
        )


@dataclass(slots=True)
class ImageReader:
    """Merges what environments say of their images; what is wrong becomes findings."""

    findings: Findings
    _plugged_in: frozenset[str] | None = None
    _images: dict[str, ImageReference | Refusal] = field(default_factory=dict)
    _looked_at: set[str] = field(default_factory=set)

    def merge(
        self,
        model: EnvironmentModel,
        steps: Steps,
        general: ContainerSettings,
        *,
        is_task: bool,
    ) -> ContainerSettings:
        """What an environment says of its image, over the general settings.

        Args:
            model: The environment.
            steps: Its place.
            general: What holds where nothing else is said.
            is_task: Whether it is a task's; all but the image is a global setting, too.
        """
        here = (*steps, "image")
        setting = model.image or _NO_IMAGE_MODEL
        reference = self._named(model, here, general)
        imageless = is_task and reference is None
        if imageless:
            self._refuse_without_image(setting, here)
        runtime, options = general.runtime, general.options
        if setting.runtime is not None:
            runtime = _OTHER_NAMES.get(setting.runtime, setting.runtime)
            self._check_runtime(runtime, (*here, "runtime"))
            if runtime != general.runtime:
                options = ()
        if setting.options is not None:
            options = tuple(setting.options)
        if setting.options and not imageless:
            self._check_options(options, runtime, (*here, "options"))
        if setting.name is not None and setting.pull == "always" and _is_file(reference):
            self.findings.warn(
                (*here, "pull"), "a file or folder is never pulled", "remove 'pull: always'"
            )
        return ContainerSettings(
            reference=reference,
            pull=setting.pull or general.pull,
            platform=setting.platform or general.platform,
            runtime=runtime,
            options=options,
        )

    def _named(
        self, model: EnvironmentModel, here: Steps, general: ContainerSettings
    ) -> ImageReference | None:
        setting = model.image
        if setting is not None and setting.name is not None:
            return self._reference(setting.name, here)
        says_none = model.model_fields_set if setting is None else setting.model_fields_set
        return None if ("image" if setting is None else "name") in says_none else general.reference

    def _refuse_without_image(self, setting: ImageModel, here: Steps) -> None:
        if self.findings.document.value((*here, "name")) is not None:
            return
        for key in setting.model_fields_set - {"name"}:
            if getattr(setting, key) is not None:
                what = "a runtime needs" if key == "runtime" else f"{key!r} needs"
                self.findings.refuse((*here, key), f"{what} an image", "add the image's 'name'")

    def _reference(self, name: str, here: Steps) -> ImageReference:
        steps = (*here, "name")
        read = self._images.get(name)
        if read is None:
            try:
                read = parse_image(name, self.findings.document.directory)
            except Refusal as refusal:
                read = refusal
            self._images[name] = read
        if isinstance(read, Refusal):
            self.findings.refuse(steps, read.message, read.hint)
            return _UNREADABLE
        for message, hint in read.remarks:
            self.findings.warn(steps, message, hint)
        if name not in self._looked_at:
            self._looked_at.add(name)
            self._look(read, steps)
        return read

    def _look(self, reference: ImageReference, steps: Steps) -> None:
        """Warn of a file that is not there; it may be where the task runs, or come to be."""
        image = Image(name=reference.name, form=reference.form)
        # Whatever is looked for below /cvmfs is mounted over the network.
        if image.path is None or image.path.startswith(_AUTOMOUNTED):
            return
        path = Path(image.path)
        is_folder = image.form in {"folder", "oci"}
        what = "folder" if is_folder else "file"
        try:
            fits = path.is_dir() if is_folder else path.is_file()
            there = fits or path.exists()
        except OSError:
            return
        if not there:
            self.findings.warn(
                steps,
                f"there is no such {what} on this machine",
                f"it was looked for as {shown(image.path)[1:-1]}",
            )
        elif not fits:
            is_nameless = image.form == "folder"
            self.findings.warn(
                steps,
                f"this is a {'file' if is_folder else 'folder'}, and a {what} is meant",
                "the name of an image file ends in .sif"
                if is_nameless
                else "write a '/' behind the name of a folder"
                if image.form == "sif"
                else None,
            )

    def _check_options(self, options: tuple[str, ...], runtime: str | None, steps: Steps) -> None:
        if runtime is None:
            self.findings.refuse(
                steps,
                "options are words of one runtime's command line, and none is named",
                "add the 'runtime' that they are for",
                key=True,
            )
            return
        for number, refusal in check_options(options, runtime):
            self.findings.refuse((*steps, number), refusal.message, refusal.hint)

    def _check_runtime(self, runtime: str, steps: Steps) -> None:
        if runtime == _HOST:
            self.findings.refuse(
                steps, "'native' takes no image", "write 'image: null' to run on the host itself"
            )
        elif runtime not in self._runtimes():
            self.findings.refuse(
                steps, f"there is no runtime {shown(runtime)}", nearest(runtime, self._runtimes())
            )

    def _runtimes(self) -> Iterable[str]:
        if self._plugged_in is None:
            from importlib.metadata import entry_points

            plugged_in = entry_points(group="fasthep_flow.runtimes")
            self._plugged_in = frozenset(entry.name for entry in plugged_in)
        known = dict.fromkeys([*RUNTIMES, *sorted(self._plugged_in)])
        return [name for name in known if name != _HOST]


def _is_file(reference: ImageReference | None) -> bool:
    return reference is not None and reference.form not in {"registry", "oras", "docker-daemon"}
