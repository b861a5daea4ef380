"""The environment of a task: its own settings over the global ones, key by key.

Variables and resources are merged name by name, secrets are united, and of the image see
:mod:`fasthep_flow.language.image_settings`; all else is replaced, and null or an empty list at a
task takes the global one away:

- A task that says ``process_on`` but no ``gpus`` gets the number that fits: the global one
  if that is not 0, one device for ``gpu``, none for ``cpu``.
- ``flow: transform::runner`` of the very runner of the global setting means that one, with
  its options.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from fasthep_flow.environments.devices.choice import HIDDEN
from fasthep_flow.language.credentials import TOKEN, names_set, read_credentials
from fasthep_flow.language.data import DataReader
from fasthep_flow.language.document import Steps
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.flow_settings import FlowSetting, flow_of
from fasthep_flow.language.flows import Flows
from fasthep_flow.language.image_settings import ContainerSettings, ImageReader
from fasthep_flow.language.refusals import nearest
from fasthep_flow.language.schema import GLOBAL, EnvironmentModel, ResourcesModel
from fasthep_flow.language.sizes import Sizes, check_sizes, merge_sizes
from fasthep_flow.language.software import SoftwareReader
from fasthep_flow.language.variables import VariableReader, is_name
from fasthep_flow.model import (
    Credential,
    DataItem,
    Network,
    PythonSpec,
    Resources,
    Setup,
    Variable,
)

__all__ = ["GLOBAL", "EnvironmentReader", "Settings"]

_OTHERS: Final = ("setup", "python", "credentials", "extra_data")
_NOTHING: Final = Resources()
_NO_SIZES: Final = Sizes()
_NO_DEVICE: Final = frozenset({"", "-1"})
"""What hides all devices."""

_NO_CONTAINER: Final = ContainerSettings()


class Settings(Struct, frozen=True, kw_only=True):
    """An environment all of whose parts are known but the flow of the whole workflow."""

    container: ContainerSettings = _NO_CONTAINER
    network: Network = "host"
    reuse: bool = True
    variables: dict[str, Variable] = {}
    secrets: tuple[str, ...] = ()
    setup: Setup | None = None
    python: PythonSpec | None = None
    credentials: tuple[Credential, ...] = ()
    extra_data: tuple[DataItem, ...] = ()
    flow: FlowSetting | None = None
    resources: Resources = _NOTHING
    sizes: Sizes = _NO_SIZES


@dataclass(slots=True)
class EnvironmentReader:
    """Merges environments; what is wrong with one becomes findings."""

    findings: Findings
    flows: Flows
    variables: VariableReader
    images: ImageReader
    software: SoftwareReader
    data: DataReader

    @classmethod
    def of(cls, findings: Findings, flows: Flows, variables: VariableReader) -> EnvironmentReader:
        """One that has its own readers of all but variables."""
        return cls(
            findings,
            flows,
            variables,
            ImageReader(findings),
            SoftwareReader(findings),
            DataReader(findings),
        )

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
                self._check_task(general, steps)
            return general
        container = self.images.merge(model, steps, general.container, is_task=is_task)
        variables = general.variables
        if model.variables is not None:
            own = self.variables.read(model.variables, (*steps, "variables"))
            variables = {**variables, **own}
        resources, sizes = general.resources, general.sizes
        place: Steps = (GLOBAL, "resources")
        if model.resources is not None:
            place = (*steps, "resources")
            check_sizes(model.resources, place, self.findings)
            sizes = merge_sizes(model.resources, sizes)
            resources = sizes.first(_merge_resources(model.resources, resources))
        # A number of devices alone contradicts nothing until a task inherits it.
        if is_task or (model.resources and model.resources.process_on):
            self._check_devices(resources, place)
        secrets = general.secrets
        if model.secrets:
            own_secrets = self._secrets(model.secrets, (*steps, "secrets"))
            # What a script sets nobody knows before it is sourced.
            if is_task and not (model.setup or general.setup):
                on_host = container.is_host
                self._warn_of_secrets(own_secrets, steps, variables, on_host=on_host)
            secrets = tuple(dict.fromkeys((*secrets, *own_secrets)))
        settings = Settings(
            container=container,
            network=model.network or general.network,
            reuse=general.reuse if model.reuse is None else model.reuse,
            variables=variables,
            secrets=secrets,
            setup=general.setup,
            python=general.python,
            credentials=general.credentials,
            extra_data=general.extra_data,
            flow=flow_of(model, steps, self.flows, self.findings),
            resources=resources,
            sizes=sizes,
        )
        said = model.model_fields_set
        if not said.isdisjoint(_OTHERS):
            settings = replace(settings, **self._others(model, said, steps))
        if is_task:
            self._check_task(settings, steps)
        return settings

    def _check_task(self, settings: Settings, steps: Steps) -> None:
        """Refuse what does not go together, wherever each of it is said."""
        self._check_network(settings, steps)
        self.images.check(settings.container, settings.resources.process_on, steps)
        if settings.credentials:
            self._check_names(settings, steps)
        self._warn_of_devices(settings, steps)

    def _others(
        self, model: EnvironmentModel, said: Collection[str], steps: Steps
    ) -> dict[str, Any]:
        """What is asked for beside image, variables and resources; a null takes it away."""
        others: dict[str, Any] = {}
        if "setup" in said:
            others["setup"] = self.software.setup(model.setup or (), (*steps, "setup"))
        if "python" in said:
            others["python"] = model.python and self.software.python(
                model.python, (*steps, "python")
            )
        if "credentials" in said:
            others["credentials"] = read_credentials(
                model.credentials or (), (*steps, "credentials"), self.findings
            )
        if "extra_data" in said:
            others["extra_data"] = self.data.read(model.extra_data or (), (*steps, "extra_data"))
        return others

    def _check_names(self, settings: Settings, steps: Steps) -> None:
        """Refuse a variable that is to name a file of credentials, and is set besides."""
        for credential in settings.credentials:
            for name in names_set(credential):
                if name not in settings.variables:
                    continue
                place: Steps = (*steps, "credentials")
                if not self.findings.document.has(place):
                    place = (GLOBAL, "credentials")
                self.findings.refuse(
                    place,
                    "the token is to be that of a file, and BEARER_TOKEN is set under"
                    " 'variables', too"
                    if name == TOKEN and credential.variable != TOKEN
                    else f"{name} is to name the file, and is set under 'variables', too",
                    f"remove it from one of the two; it is set at"
                    f" {settings.variables[name].origin}",
                )

    def _warn_of_devices(self, settings: Settings, steps: Steps) -> None:
        """Warn of a variable by which the task sees other devices than it is given."""
        is_cpu = settings.resources.process_on == "cpu"
        for name in HIDDEN:
            variable = settings.variables.get(name)
            if variable is None or (is_cpu and variable.value in _NO_DEVICE):
                continue
            place: Steps = (*steps, "variables")
            if not self.findings.document.has(place):
                place = (GLOBAL, "variables")
            message = (
                f"{name} is set, and that is what the task sees, whatever devices"
                f" 'process_on: {settings.resources.process_on}' gives it"
            )
            hint = "remove it: 'process_on' and 'gpus' say which devices a task gets"
            problem = self.findings.document.problem(place, message, hint=hint)
            # Of a global one each task would tell.
            if problem not in self.findings.warnings:
                self.findings.add_warning(problem)

    def check_global_secrets(self, general: Settings, tasks: Iterable[Settings]) -> None:
        """Warn of names under the global ``secrets`` that no task has as a variable.

        A setup script may set any of them.
        """
        if not general.secrets:
            return
        known = dict(general.variables)
        on_host = False
        for settings in tasks:
            if settings.setup is not None:
                return
            known |= settings.variables
            on_host = on_host or settings.container.is_host
        self._warn_of_secrets(general.secrets, (GLOBAL,), known, on_host=on_host)

    def _check_network(self, settings: Settings, steps: Steps) -> None:
        """Refuse a task on the host that shall have no network: nothing there keeps it away."""
        if settings.network == "host" or not settings.container.is_host:
            return
        document = self.findings.document
        own = document.value((*steps, "network")) is not None
        place: Steps = (*steps, "network") if own else (*steps, "image")
        if not own and not document.has(place):
            place = (GLOBAL, "network")
        self.findings.refuse(
            place,
            "'network: none' needs an image: nothing keeps a task of this machine off the network",
            "name an image, or write 'network: host' at the task",
        )

    def _secrets(self, names: Iterable[str], steps: Steps) -> tuple[str, ...]:
        """The names that are names; what is none could be a secret, and is not repeated."""
        known = []
        for number, name in enumerate(names):
            if is_name(name):
                known.append(name)
            else:
                self.findings.refuse(
                    self.findings.written((*steps, number)),
                    "secrets are names of variables, not their values",
                    "letters, digits and '_', and no digit first",
                )
        return tuple(known)

    def _warn_of_secrets(
        self, names: Iterable[str], steps: Steps, known: Mapping[str, Variable], *, on_host: bool
    ) -> None:
        for number, name in enumerate(names):
            if name in known or (on_host and name in self.variables.host):
                continue
            self.findings.warn(
                self.findings.written((*steps, "secrets", number)),
                "no task has a variable of this name"
                if steps == (GLOBAL,)
                else "this task has no variable of this name",
                nearest(name, known),
            )

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
    """All but what may have several sizes."""
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
    return Resources(gpus=gpus, process_on=process_on, enforce=model.enforce or general.enforce)
