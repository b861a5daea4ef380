"""The environment of a task: its own settings over the global ones, key by key.

Variables and resources are merged name by name, all else is replaced:

- ``image: null`` at a task means the host itself, though there is a global image; a long
  form with a ``runtime`` alone keeps the global image, and the other way round.
- A task that says ``process_on`` but no ``gpus`` gets the number that fits: the global one
  if that is not 0, one device for ``gpu``, none for ``cpu``.
- ``flow: transform::runner`` of the very runner of the global setting means that one, with
  its options.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from fasthep_flow.environments import RUNTIMES
from fasthep_flow.language.document import Steps
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.flows import FlowSetting, Runners, flow_of
from fasthep_flow.language.refusals import nearest, shown
from fasthep_flow.language.schema import EnvironmentModel, ResourcesModel
from fasthep_flow.language.variables import VariableReader
from fasthep_flow.model import Image, Resources, Variable

__all__ = ["GLOBAL", "EnvironmentReader", "Settings"]

GLOBAL: Final = "global"

_HOST: Final = "native"
_NOTHING: Final = Resources()
_RUNTIMES_NOT_YET: Final = frozenset({"apptainer", "singularity", "charliecloud"})


@dataclass(frozen=True, slots=True)
class Settings:
    """An environment all of whose parts are known but the flow of the whole workflow."""

    image: Image | None = None
    runtime: str | None = None
    variables: dict[str, Variable] = field(default_factory=dict)
    flow: FlowSetting | None = None
    resources: Resources = _NOTHING


@dataclass(slots=True)
class EnvironmentReader:
    """Merges environments; what is wrong with one becomes findings."""

    findings: Findings
    runners: Runners
    variables: VariableReader
    _plugged_in: frozenset[str] | None = None

    def merge(
        self, model: EnvironmentModel | None, steps: Steps, general: Settings, *, is_task: bool
    ) -> Settings:
        """The settings that stand at a place, over the general ones.

        Args:
            model: What stands there.
            steps: The place.
            general: What holds where nothing else is said.
            is_task: Whether it is a task's; the runtime alone is a global setting, too.
        """
        if model is None:
            if is_task:
                self._check_devices(general.resources, (GLOBAL, "resources"))
            return general
        image, runtime = self._image(model, steps, general, is_task=is_task)
        variables = general.variables
        if model.variables is not None:
            own = self.variables.read(model.variables, (*steps, "variables"))
            variables = {**variables, **own}
        resources = general.resources
        place: Steps = (GLOBAL, "resources")
        if model.resources is not None:
            place = (*steps, "resources")
            resources = _merge_resources(model.resources, general.resources)
        # A number of devices alone contradicts nothing until a task inherits it.
        if is_task or (model.resources and model.resources.process_on):
            self._check_devices(resources, place)
        return Settings(
            image=image,
            runtime=runtime,
            variables=variables,
            flow=flow_of(model, steps, self.runners, self.findings),
            resources=resources,
        )

    def _image(
        self, model: EnvironmentModel, steps: Steps, general: Settings, *, is_task: bool
    ) -> tuple[Image | None, str | None]:
        here = (*steps, "image")
        setting = model.image
        if setting is None:
            says_host = "image" in model.model_fields_set
            return (None if says_host else general.image), general.runtime
        image, runtime = general.image, general.runtime
        if setting.name is not None:
            image = Image(name=setting.name.full)
            if not setting.name.is_tagged:
                self.findings.warn(
                    here, "the image has no tag: 'latest' is meant", f"write {image}, or a version"
                )
        elif "name" in setting.model_fields_set:
            image = None
        if setting.runtime is not None:
            runtime = setting.runtime
            self._check_runtime(runtime, (*here, "runtime"))
            named = self.findings.document.value((*here, "name"))
            if image is None and is_task and named is None:
                self.findings.refuse(
                    (*here, "runtime"), "a runtime needs an image", "add the image's 'name'"
                )
        return image, runtime

    def _check_runtime(self, runtime: str, steps: Steps) -> None:
        if runtime == _HOST:
            self.findings.refuse(
                steps, "'native' takes no image", "write 'image: null' to run on the host itself"
            )
        elif runtime in _RUNTIMES_NOT_YET:
            self.findings.refuse(
                steps,
                f"the runtime {runtime!r} is not supported yet",
                f"known are {', '.join(self._runtimes())}",
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

    def _check_devices(self, resources: Resources, steps: Steps) -> None:
        gpus, process_on = resources.gpus, resources.process_on
        if gpus and process_on == "cpu":
            self.findings.refuse(
                (*steps, "gpus"),
                f"{gpus} GPU{'s' if gpus > 1 else ''} for a task that runs on the CPU",
                "add 'process_on: gpu' or 'process_on: gpu_if_available'",
            )
        elif gpus == 0 and process_on != "cpu":
            self.findings.refuse(
                (*steps, "gpus"),
                f"no GPU for a task with 'process_on: {process_on}'",
                "remove 'gpus', or write 'process_on: cpu'",
            )


def _merge_resources(model: ResourcesModel, general: Resources) -> Resources:
    process_on = model.process_on or general.process_on
    gpus = model.gpus
    if gpus is None:
        gpus = general.gpus
        if model.process_on == "cpu":
            gpus = None
        elif model.process_on is not None:
            gpus = gpus or None
    if gpus is None and process_on == "gpu":
        gpus = 1
    return Resources(
        cpus=model.cpus if model.cpus is not None else general.cpus,
        memory=model.memory if model.memory is not None else general.memory,
        gpus=gpus,
        process_on=process_on,
        walltime_s=model.walltime if model.walltime is not None else general.walltime_s,
    )
