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
from typing import Final, NamedTuple

from msgspec import Struct

from fasthep_flow.environments import RUNTIMES
from fasthep_flow.language.document import Steps
from fasthep_flow.language.engine_options import check_options
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.images import ImageReference, parse_image
from fasthep_flow.language.refusals import Refusal, nearest, shown
from fasthep_flow.language.schema import GLOBAL, EnvironmentModel, ImageModel, OneImageModel
from fasthep_flow.model import Device, Image, ProcessOn, Pull

__all__ = ["ContainerSettings", "ImageReader", "OneImage"]

_DEVICES: Final[tuple[Device, ...]] = ("cpu", "gpu")
_HOST: Final = "native"
_OTHER_NAMES: Final[Mapping[str, str]] = {"singularity": "apptainer"}
_UNREADABLE: Final = ImageReference("")
"""Stands for an image whose name is refused: there is one, so that nobody asks for it."""

_AUTOMOUNTED: Final = "/cvmfs/"
_NO_IMAGE_MODEL: Final = ImageModel()


class OneImage(Struct, frozen=True, kw_only=True):
    """An image, and how to come by it."""

    reference: ImageReference | None = None
    pull: Pull | None = None
    platform: str | None = None

    @property
    def image(self) -> Image | None:
        """The same for a plan; ``None`` for the host itself."""
        if self.reference is None:
            return None
        return Image(
            name=self.reference.name,
            form=self.reference.form,
            pull=self.pull or "missing",
            platform=self.platform,
        )


_NONE: Final = OneImage()


class ContainerSettings(Struct, frozen=True, kw_only=True):
    """What a container is made of on either kind of device."""

    cpu: OneImage = _NONE
    gpu: OneImage = _NONE
    runtime: str | None = None
    options: tuple[str, ...] = ()

    @property
    def is_host(self) -> bool:
        """Whether there is no image, so that all the rest is of no account."""
        return self.cpu.reference is None and self.gpu.reference is None

    def on(self, device: Device) -> OneImage:
        """The image on that kind of device."""
        return self.gpu if device == "gpu" else self.cpu

    def images(self, process_on: ProcessOn) -> tuple[Image | None, Image | None]:
        """The image of a task that runs there, and what takes its place on a gpu, if anything."""
        if process_on != "gpu_if_available":
            return self.on(process_on).image, None
        other = None if self.gpu == self.cpu else self.gpu.image
        return self.cpu.image, other


class _Named(NamedTuple):
    """A name, or that there is none, if anything is said of it."""

    reference: ImageReference | None
    is_said: bool


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
        common = self._named(model.image, here, is_written="image" in model.model_fields_set)
        if setting.cpu is None and setting.gpu is None and general.cpu is general.gpu:
            cpu = gpu = self._merge_one(common, setting, None, general.cpu)
        else:
            cpu, gpu = self._merge_both(common, setting, here, general)
        imageless = is_task and cpu.reference is None and gpu.reference is None
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
        if setting.name is not None and setting.pull == "always" and _is_file(cpu.reference):
            self._warn_of_pull(here)
        return ContainerSettings(cpu=cpu, gpu=gpu, runtime=runtime, options=options)

    def check(self, settings: ContainerSettings, process_on: ProcessOn, steps: Steps) -> None:
        """Refuse a task that has an image on one kind of device, and may run on the other.

        Args:
            settings: What a task's environment came to.
            process_on: Where it may run.
            steps: The place of the environment.
        """
        if settings.cpu is settings.gpu or settings.is_host:
            return
        for device in _DEVICES:
            if process_on in {device, "gpu_if_available"} and not settings.on(device).reference:
                here: Steps = (*steps, "image")
                may = "may run" if process_on == "gpu_if_available" else "runs"
                self.findings.refuse(
                    here if self.findings.document.has(here) else (GLOBAL, "image"),
                    f"there is no image for the {device}, on which the task {may}",
                    f"add '{device}: ...', the image that it has there",
                )

    def _merge_both(
        self, common: _Named, setting: ImageModel, here: Steps, general: ContainerSettings
    ) -> tuple[OneImage, OneImage]:
        merged = []
        for device in _DEVICES:
            own = getattr(setting, device)
            if setting.name is not None and device in setting.model_fields_set:
                self.findings.refuse(
                    (*here, "name"),
                    f"'name' is the image for both kinds of device, and {device!r} is one of them",
                    "write 'cpu' and 'gpu' alone, or 'name' alone",
                    key=True,
                )
            named = common
            if device in setting.model_fields_set:
                place = (*here, device)
                named = self._named(own, place, is_written=True)
                if own is not None and own.pull == "always" and _is_file(named.reference):
                    self._warn_of_pull(place)
            merged.append(self._merge_one(named, setting, own, general.on(device)))
        cpu, gpu = merged
        return cpu, gpu

    def _merge_one(
        self,
        named: _Named,
        setting: ImageModel,
        own: OneImageModel | None,
        general: OneImage,
    ) -> OneImage:
        pull, platform = setting.pull or general.pull, setting.platform or general.platform
        if own is not None:
            pull, platform = own.pull or pull, own.platform or platform
        return OneImage(
            reference=named.reference if named.is_said else general.reference,
            pull=pull,
            platform=platform,
        )

    def _named(self, setting: OneImageModel | None, here: Steps, *, is_written: bool) -> _Named:
        """What is said of an image's name: another one, none at all, or nothing."""
        if setting is None:
            return _Named(None, is_said=is_written)
        if setting.name is None:
            return _Named(None, is_said="name" in setting.model_fields_set)
        return _Named(self._reference(setting.name, here), is_said=True)

    def _warn_of_pull(self, here: Steps) -> None:
        self.findings.warn(
            (*here, "pull"), "a file or folder is never pulled", "remove 'pull: always'"
        )

    def _refuse_without_image(self, setting: ImageModel, here: Steps) -> None:
        if self.findings.document.value((*here, "name")) is not None:
            return
        for key in setting.model_fields_set - {"name", "cpu", "gpu"}:
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
