"""Where each part of a task's environment came from, and what it replaced.

A part is set by layers, the later over the earlier: the default, the global settings, the
command line, the task. The layers are merged one by one, by the code that plans; whatever one
of them says, or changes by what it says, is told as its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from fasthep_flow.environments.devices.choice import HIDDEN as NO_DEVICES
from fasthep_flow.language.credentials import NAMED_BY, TOKEN
from fasthep_flow.language.document import Document, Steps
from fasthep_flow.language.entries import DEFAULT, Chain, Entry, Explained, Former, redacted
from fasthep_flow.language.environment import GLOBAL, EnvironmentReader, Settings
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.flow_settings import flow_of_settings
from fasthep_flow.language.flows import Catalogue, Flows
from fasthep_flow.language.orchestrations import SEPARATOR, read_orchestrations
from fasthep_flow.language.schema import EnvironmentModel, TaskModel, read_file, read_task
from fasthep_flow.language.setting_origins import Layer, place_of, setting_entry, settings_of
from fasthep_flow.language.settings import SettingsFile
from fasthep_flow.language.variables import VariableReader
from fasthep_flow.model import Environment, Plan, Retries, TaskSpec
from fasthep_flow.redaction import is_secret

__all__ = ["explain"]

_OURS: Final = "fasthep-flow"
_OF_HOST: Final = "the host"
_DATA: Final = "FASTHEP_DATA"
_FOLDER: Final = "the folder of the attempt"
_OF_IMAGE: Final = frozenset({"form", "pull", "platform", "runtime", "options", "reuse"})
"""Settings that mean nothing to a task without an image."""


def explain(
    document: Document,
    plan: Plan,
    task: str,
    *,
    runners: Catalogue,
    host: Mapping[str, str],
    settings: Sequence[SettingsFile] = (),
    flow_option: str | None = None,
    whole_host: bool = False,
) -> Explained:
    """Where each part of a task's environment came from.

    Args:
        document: The workflow.
        plan: What was planned of it: it has no problems.
        task: The name of one of its tasks.
        runners: Those that there are.
        host: The host's environment.
        settings: The settings files of the user and the site.
        flow_option: The option of the command line that set the flow.
        whole_host: Whether to tell all of the host's environment, where it is the base.
    """
    spec = next(one for one in plan.tasks if one.name == task)
    explanation = _Explanation(
        document, plan, spec, flows=Flows(runners, settings), host=host, flow_option=flow_option
    )
    return explanation.explain(whole_host=whole_host)


class _Explanation:
    """Merges the layers of one task once more."""

    def __init__(
        self,
        document: Document,
        plan: Plan,
        spec: TaskSpec,
        *,
        flows: Flows,
        host: Mapping[str, str],
        flow_option: str | None,
    ) -> None:
        self._document: Final = document
        self._plan: Final = plan
        self._spec: Final = spec
        self._host: Final = host
        self._flow_option: Final = flow_option
        # The plan has told all that there was to find.
        findings = Findings(document)
        self._variables: Final = VariableReader(document, host, findings)
        reader = EnvironmentReader.of(findings, flows, self._variables)
        file = read_file(_mapping(document.data), findings)
        flows.define(read_orchestrations(file.orchestrations, "workflow", findings), findings)
        self._of_settings: Final = flow_of_settings(flows, findings)
        self._steps: Final = self._find()
        self._model: Final[TaskModel] = read_task(
            document.value(self._steps), self._steps, findings
        )
        self._global: Final = file.global_
        own = (*self._steps, "environment")
        default = Settings()
        general = reader.merge(file.global_, (GLOBAL,), default, is_task=False)
        merged = reader.merge(self._model.environment, own, general, is_task=True)
        self._layers: Final = (
            Layer((), default),
            Layer((GLOBAL,), general),
            Layer(own, merged),
        )
        self._settings: Final = merged

    def explain(self, *, whole_host: bool) -> Explained:
        """All of it."""
        has_image = self._spec.environment.image is not None
        settings = [
            setting_entry(self._document, setting, self._layers)
            for setting in settings_of(self._spec.environment)
        ]
        rows = [
            *(entry for entry in settings if entry is not None),
            self._secrets(),
            *self._flow(),
            *self._limits(),
        ]
        rows.append(
            Entry(
                name="working directory",
                value=self._plan.directory,
                origin=self._document.file,
            )
        )
        if not has_image:
            rows = [row for row in rows if row.name not in _OF_IMAGE]
        variables = self._variable_entries()
        known = {entry.name for entry in variables}
        return Explained(
            task=self._spec.name,
            location=str(self._spec.location),
            base="image" if has_image else "host",
            settings=tuple(rows),
            variables=variables,
            host=tuple(
                self._variable(name, [Former(value=value, origin=_OF_HOST)])
                for name, value in sorted(self._host.items())
                if name not in known
            )
            if whole_host and not has_image
            else (),
        )

    def _find(self) -> Steps:
        data = _mapping(self._document.data)
        key = "tasks" if "tasks" in data else "stages"
        for number, item in enumerate(data[key]):
            if isinstance(item, dict) and item.get("name") == self._spec.name:
                return (key, number)
        raise LookupError(self._spec.name)

    def _place(self, steps: Steps) -> str:
        return place_of(self._document, steps)

    def _secrets(self) -> Entry:
        origins = [
            self._place((*layer.steps, "secrets"))
            for layer in self._layers[1:]
            if self._document.value((*layer.steps, "secrets"))
        ]
        names = list(self._settings.secrets)
        return Entry(
            name="secrets",
            value=names,
            note="" if names else "none listed",
            origin=", ".join(origins) or DEFAULT,
        )

    def _flow(self) -> Iterator[Entry]:
        flow = self._spec.environment.flow
        chain = Chain()
        chain.add(None, DEFAULT)
        if (of_settings := self._of_settings) is not None:
            chain.add(str(of_settings.flow), of_settings.origin)
        general, own = self._layers[1], self._layers[2]
        if general.settings.flow is not None:
            chain.add(str(general.settings.flow.flow), self._place_of_flow(general.steps))
        elif (
            of_settings is None
            and self._flow_option is None
            and (other := self._task_with_flow()) is not None
        ):
            chain.add(str(self._plan.flow), f"{self._place_of_flow(other)}, the flow of a task")
        if self._flow_option is not None:
            chain.add(str(self._plan.flow), self._flow_option)
        own_environment = self._model.environment
        if own_environment is not None and _says_flow(own_environment):
            chain.add(str(flow), self._place_of_flow(own.steps))
        origin = chain.values[-1].origin
        chain.values[-1] = Former(value=str(flow), origin=origin)
        yield chain.entry("flow")
        if flow.orchestration:
            runner = f"{flow.transform}{SEPARATOR}{flow.runner}"
            yield Entry(name="runner", value=runner, origin=flow.origin)
        if flow.options:
            options = redacted(flow.options)
            yield Entry(name="flow options", value=options, origin=flow.origin or origin)

    def _written(self, path: tuple[str, ...]) -> str:
        """Where the last layer that says something of a setting does so."""
        for layer in reversed(self._layers[1:]):
            if self._document.value((*layer.steps, *path)) is not None:
                return self._place((*layer.steps, *path))
        return DEFAULT

    def _task_with_flow(self) -> Steps | None:
        key = self._steps[0]
        listed = self._document.value((key,))
        for number in range(len(listed) if isinstance(listed, list) else 0):
            steps = (key, number, "environment")
            if any(self._document.value((*steps, name)) for name in ("flow", "workflow")):
                return steps
        return None

    def _place_of_flow(self, steps: Steps) -> str:
        is_short = self._document.value((*steps, "flow")) is not None
        return self._place((*steps, "flow" if is_short else "workflow"))

    def _limits(self) -> Iterator[Entry]:
        """The time after which an attempt is stopped: the shorter of two; and the retries."""
        limits = []
        if self._model.timeout is not None:
            limits.append((self._model.timeout, self._place((*self._steps, "timeout"))))
        walltime = self._settings.resources.walltime_s
        if walltime is not None:
            limits.append((walltime, f"{self._written(('resources', 'walltime'))} (walltime)"))
        chain = Chain()
        chain.add(None, DEFAULT)
        for seconds, origin in sorted(limits, reverse=True):
            chain.add(seconds, origin)
        if len(self._settings.sizes.walltime) > 1:
            each = [self._spec.timeout_s, *(size.walltime_s for size in self._spec.growth)]
            chain.values[-1] = msgspec.structs.replace(chain.values[-1], value=each)
        yield chain.entry("timeout", note="" if limits else "no limit")
        yield from self._retries()
        for key in ("inputs", "outputs", "cache", "allow_failure"):
            if written := self._document.value((*self._steps, key)):
                value = list(getattr(self._spec, key)) if key.endswith("s") else written
                yield Entry(name=key, value=value, origin=self._place((*self._steps, key)))

    def _retries(self) -> Iterator[Entry]:
        """How often, when and after what: what is as it always is has no row of its own."""
        retries, steps = self._spec.retries, (*self._steps, "retries")
        sized = [
            self._written(("resources", name))
            for name in ("cpus", "memory", "walltime")
            if len(getattr(self._settings.sizes, name)) > 1
        ]

        def origin(*keys: str) -> str:
            for place in ((*steps, *keys), steps):
                value = self._document.value(place)
                if value is not None and (place != steps or not isinstance(value, dict)):
                    return self._place(place)
            return ", ".join(dict.fromkeys(sized)) or DEFAULT

        yield Entry(name="retries", value=retries.times, origin=origin("times"))
        if retries.times and set(retries.on) != set(Retries().on):
            yield Entry(name="retries on", value=list(retries.on), origin=origin("on"))
        if retries.delay_s:
            yield Entry(name="retries delay", value=retries.delay_s, origin=origin("delay"))
            if retries.backoff > 1:
                yield Entry(name="retries backoff", value=retries.backoff, origin=origin("backoff"))

    def _variable_entries(self) -> tuple[Entry, ...]:
        chains: dict[str, Chain] = {}

        def lay(name: str, value: object, origin: str) -> None:
            chain = chains.setdefault(name, Chain())
            if origin.startswith(f"{_OF_HOST}, "):
                # Passed through: what lies under it is the very same.
                chain.values = [former for former in chain.values if former.origin != _OF_HOST]
            chain.add(value, origin)

        environment = self._spec.environment
        names = set(environment.variables)
        ours = dict(_ours(environment))
        names |= ours.keys()
        if environment.image is None:
            for name in self._host.keys() & names:
                lay(name, self._host[name], _OF_HOST)
        for name, (value, _) in ours.items():
            lay(name, value, _OURS)
        for written, steps in self._written_variables():
            for layer in self._variables.layers(written, steps):
                for name, variable in layer.items():
                    lay(name, variable.value, variable.origin)
        shown = {entry.name: entry for entry in self._shown()}
        for entry in shown.values():
            lay(entry.name, None, entry.origin)
        names |= shown.keys()
        entries = [
            msgspec.structs.replace(
                self._variable(name, chains[name].values, ours.get(name, (None, ""))[1]),
                **({"note": shown[name].note, "hidden": False} if name in shown else {}),
            )
            for name in sorted(chains.keys() & names)
        ]
        return (*entries, *self._told())

    def _shown(self) -> Iterator[Entry]:
        """The variables that name what is shown to the task: values known where it runs."""
        environment = self._spec.environment
        for credential in environment.credentials:
            name = credential.variable or NAMED_BY.get(credential.kind)
            origin = self._written(("credentials",))
            if credential.kind == "bearer" and credential.file is None and self._has_token():
                yield Entry(name=TOKEN, value=None, note="the token itself", origin=origin)
            elif name is not None:
                kind = credential.kind
                what = credential.file if kind == "file" else f"the {kind} credential"
                yield Entry(name=name, value=None, note=f"where it sees {what}", origin=origin)
        if environment.extra_data:
            yield Entry(name=_DATA, value=None, note="the folder of its extra data", origin=_OURS)

    def _has_token(self) -> bool:
        """Whether the user's token is in a variable, as a task would find it on this machine."""
        own = self._spec.environment.variables
        return bool(own[TOKEN].value if TOKEN in own else self._host.get(TOKEN))

    def _written_variables(self) -> Iterable[tuple[object, Steps]]:
        for model, layer in zip(
            (self._global, self._model.environment), self._layers[1:], strict=True
        ):
            if model is not None and model.variables is not None:
                yield model.variables, (*layer.steps, "variables")

    def _variable(self, name: str, values: list[Former], unknown: str = "") -> Entry:
        hidden = is_secret(name, self._settings.secrets)
        note = unknown if values[-1].value is None and not hidden else ""
        return Chain(values).entry(name, hidden=hidden, note=note)

    def _told(self) -> Iterator[Entry]:
        """What a task is told about itself: see the reference of environment variables."""
        resources = self._spec.environment.resources
        # Where there is a choice, it is made where the task runs.
        device = None if resources.process_on == "gpu_if_available" else resources.process_on
        facts: list[tuple[str, str | None, str]] = [
            ("FASTHEP_RUN_ID", None, "the id of the run"),
            ("FASTHEP_TASK_NAME", self._spec.name, ""),
            ("FASTHEP_TASK_DIRECTORY", None, _FOLDER),
            ("FASTHEP_DEVICE", device, "cpu or gpu"),
        ]
        if resources.cpus is not None:
            facts.append(("FASTHEP_CPUS", f"{resources.cpus:g}", ""))
        if resources.memory is not None:
            facts.append(("FASTHEP_MEMORY_BYTES", str(resources.memory), ""))
        for name, value, note in facts:
            yield Entry(name=name, value=value, note=note if value is None else "", origin=_OURS)


def _ours(environment: Environment) -> Iterator[tuple[str, tuple[str | None, str]]]:
    """Variables that are set unless the author sets them: values, or what to say instead."""
    is_cpu = environment.resources.process_on == "cpu"
    if environment.image is not None:
        yield "HOME", (None, _FOLDER)
    elif is_cpu:
        for name, value in NO_DEVICES.items():
            yield name, (value, "")
    if not is_cpu:
        yield "CUDA_VISIBLE_DEVICES", (None, "the devices that the task gets")


def _says_flow(environment: EnvironmentModel) -> bool:
    return environment.flow is not None or environment.workflow is not None


def _mapping(data: object) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise TypeError("a workflow is a mapping")
    return data
