"""What a flow means: ``prefect::DaskTaskRunner``, ``dask::cern``, and the long form of either.

A name is one of a runner, or of an orchestration that is defined in the workflow file or in
the settings of the user or the site; the nearest one of a name holds.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from fasthep_flow.errors import OrchestratorUnavailable, PlanError, Problem
from fasthep_flow.language.document import Steps
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.orchestrations import KEY, SEPARATOR, Level, Orchestration
from fasthep_flow.language.placeholders import placeholders
from fasthep_flow.language.refusals import Refusal, nearest, shown
from fasthep_flow.language.schema import WorkflowModel
from fasthep_flow.language.settings import SettingsFile
from fasthep_flow.model import FlowSpec

__all__ = ["Broken", "Catalogue", "Flows"]

_LEVELS: Final[Sequence[Level]] = ("workflow", "user", "site")


class Catalogue(Protocol):
    """What runners there are, and what each takes."""

    def transforms(self) -> Sequence[str]:
        """Those that are known by name."""
        ...

    def runners(self, transform: str) -> Sequence[str]:
        """The runners of a transform, the default one first; empty if there is none such.

        Raises:
            OrchestratorUnavailable: It is there, and cannot be imported.
        """
        ...

    def has(self, transform: str, runner: str) -> bool:
        """Whether a transform has that runner.

        Raises:
            OrchestratorUnavailable: It is there, and cannot be imported.
        """
        ...

    def called(self, transform: str, runner: str) -> str:
        """The name of the runner that may be called otherwise."""
        ...

    def options(self, flow: FlowSpec) -> Collection[str] | None:
        """The names of the options that a runner takes; ``None`` where nobody can say.

        Raises:
            OrchestratorUnavailable: It cannot be imported.
        """
        ...

    def inner_options(self, flow: FlowSpec) -> Mapping[str, Collection[str]]:
        """The names that options take which hold options themselves, by the option.

        Raises:
            OrchestratorUnavailable: It cannot be imported.
        """
        ...

    def misfits(self, flow: FlowSpec) -> Mapping[str, str]:
        """What is wrong with the values of a runner's options, by their names.

        Raises:
            OrchestratorUnavailable: It cannot be imported.
        """
        ...

    def inner_misfits(self, flow: FlowSpec, options: Mapping[str, Any]) -> Mapping[str, str]:
        """The same of options that one of them holds, as far as a name alone says it."""
        ...


class Broken(Exception):  # noqa: N818  # a statement about the file, not a failure
    """A name whose definition has problems of its own."""

    def __init__(self, problems: Sequence[Problem] = ()) -> None:
        super().__init__()
        self.problems = problems


@dataclass
class Flows:
    """What a name or a long form means: runners, and the orchestrations that are defined.

    Args:
        catalogue: The runners that there are.
        settings: The settings files, the nearest first.
    """

    catalogue: Catalogue
    settings: Sequence[SettingsFile] = ()
    _defined: dict[str, Orchestration] = field(default_factory=dict)
    _twins: dict[str, Orchestration] = field(default_factory=dict)
    _broken: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for one in self.settings:
            for orchestration in one.orchestrations:
                key = self.key(orchestration.name)
                first = self._defined.setdefault(key, orchestration)
                if first is not orchestration and first.document is orchestration.document:
                    self._twins.setdefault(key, orchestration)

    def key(self, name: str) -> str:
        """What is the same for all spellings of a name."""
        transform, separator, runner = name.partition(SEPARATOR)
        return f"{transform}{separator}{self.catalogue.called(transform, runner)}"

    def define(self, orchestrations: Iterable[Orchestration], findings: Findings) -> None:
        """Add those of the workflow file, and check all of them.

        Args:
            orchestrations: As they were read.
            findings: Of the workflow file.
        """
        # A name that was refused is defined all the same: whoever uses it made no mistake.
        written = findings.document.value((KEY,))
        self._broken = {self.key(name) for name in written} if isinstance(written, dict) else set()
        first: dict[str, Orchestration] = {}
        for one in orchestrations:
            key = self.key(one.name)
            if (other := first.setdefault(key, one)) is not one:
                _refuse_twin(one, other, findings)
                continue
            self._defined[key] = one
            if self._resolve(one, findings) is not None:
                self._broken.discard(key)

    def defined(self) -> Sequence[Orchestration]:
        """The orchestrations that hold, those of the workflow file first."""
        return sorted(self._defined.values(), key=lambda one: _LEVELS.index(one.level))

    def resolve(self, one: Orchestration) -> FlowSpec:
        """What a definition stands for.

        Raises:
            PlanError: There is no such runner, or it has no such option; or the same file
                defines the name in another spelling, too.
        """
        findings = Findings(one.document)
        flow = self._resolve(one, findings)
        twin = self._twins.get(self.key(one.name))
        if twin is not None and twin.document is one.document:
            _refuse_twin(twin, one, findings)
            flow = None
        if flow is None:
            raise PlanError(*findings.problems)
        return flow

    def short(self, text: str) -> tuple[FlowSpec, Level | None]:
        """What a name means, and whose definition it is of, if it is of one.

        Raises:
            Refusal: Nothing.
            Broken: It is defined, and that has problems.
        """
        _refuse_placeholders(text)
        transform, separator, runner = text.partition(SEPARATOR)
        if separator and not runner:
            raise Refusal(f"{shown(text)} names no runner", nearest("", self._names()))
        if separator and (key := self.key(text)) in self._broken:
            raise Broken
        if separator and (one := self._defined.get(key)) is not None:
            try:
                return self.resolve(one), one.level
            except PlanError as error:
                raise Broken(error.problems) from error
        known = self._runners(transform)
        if not known:
            what = "transform" if separator else "flow"
            named = transform if separator else text
            raise Refusal(
                f"there is no {what} {shown(named)}", self._nearest_flow(transform, runner)
            )
        if not separator:
            # Its default runner may be defined otherwise.
            return self.short(f"{transform}{SEPARATOR}{known[0]}")
        return FlowSpec(transform=transform, runner=self._runner(transform, runner, own=True)), None

    def long(
        self, model: WorkflowModel, steps: Steps, findings: Findings, *, name: str = ""
    ) -> FlowSpec | None:
        """What a long form means; what is wrong with it becomes findings.

        Args:
            model: What is written.
            steps: Where.
            findings: Of the document that it is written in.
            name: Under which it is defined, if it is.
        """
        count = len(findings.problems)
        options = dict(model.kwargs.model_extra or {}) if model.kwargs is not None else {}
        here = (*steps, "transform") if model.transform else steps
        try:
            transform = self._transform(model, name)
            if model.kwargs is not None and model.kwargs.runner is not None:
                here = (*steps, "kwargs", "runner")
            runner = self._runner_of(transform, model, name)
        except Refusal as refusal:
            findings.block(here, refusal.message, refusal.hint)
            return None
        flow = FlowSpec(transform=transform, runner=runner, options=options, orchestration=name)
        if options:
            self._check_options(flow, steps, findings)
        return flow if len(findings.problems) == count else None

    def _resolve(self, one: Orchestration, findings: Findings) -> FlowSpec | None:
        flow = self.long(one.model, one.steps, findings, name=one.name)
        if flow is None:
            return None
        return FlowSpec(
            transform=flow.transform,
            runner=flow.runner,
            options=flow.options,
            orchestration=one.name,
            origin=one.origin,
        )

    def _transform(self, model: WorkflowModel, name: str) -> str:
        transform = model.transform or name.partition(SEPARATOR)[0]
        if not transform:
            raise Refusal("'workflow' names no transform", nearest("", self.catalogue.transforms()))
        _refuse_placeholders(transform)
        if not self._runners(transform):
            raise Refusal(
                f"there is no transform {shown(transform)}",
                nearest(transform, self.catalogue.transforms()),
            )
        return transform

    def _runner_of(self, transform: str, model: WorkflowModel, name: str) -> str:
        """The runner that a long form names, else the one that it is defined as."""
        known = self._runners(transform)
        own = name.partition(SEPARATOR)[2]
        its_name = self.catalogue.called(transform, own)
        runner = model.kwargs.runner if model.kwargs is not None else None
        if runner is None:
            is_a_runner = bool(own) and self._has(transform, its_name)
            return its_name if is_a_runner else known[0]
        _refuse_placeholders(runner)
        runner = self._runner(transform, runner, defines=bool(name))
        # With a runner said, the name is one of its own: other packages are not searched for it.
        is_a_runner = its_name in known
        if is_a_runner and runner != its_name:
            raise Refusal(
                f"{shown(name)} is the name of a runner, and this is another, {shown(runner)}",
                f"what is defined under that name is {shown(its_name)} with options of its own",
            )
        return runner

    def _check_options(self, flow: FlowSpec, steps: Steps, findings: Findings) -> None:
        here = (*steps, "kwargs")
        named = f"{flow.transform}{SEPARATOR}{flow.runner}"
        try:
            known = self.catalogue.options(flow)
            inner = self.catalogue.inner_options(flow)
            misfits = self.catalogue.misfits(flow)
        except OrchestratorUnavailable as error:
            findings.block(steps, error.message, error.hint)
            return
        for option in flow.options if known is not None else ():
            if option not in (known or ()):
                hint = nearest(option, sorted({*(known or ()), "runner"}))
                hint = hint if known else "it takes none"
                message = f"{named} knows no option {shown(option)}"
                findings.block((*here, option), message, hint, key=True)
        for option, message in misfits.items():
            if known is None or option in known:
                findings.block((*here, option), message)
        for option in inner.keys() & flow.options.keys():
            self._check_inner(flow, option, inner[option], here, findings)

    def _check_inner(
        self, flow: FlowSpec, option: str, known: Collection[str], here: Steps, findings: Findings
    ) -> None:
        """Check an option that holds options itself."""
        held = flow.options[option]
        if not isinstance(held, dict):
            if held is not None:
                findings.block((*here, option), "must be a mapping")
            return
        for name in held:
            if name not in known:
                message = f"{flow.transform}{SEPARATOR}{flow.runner} knows no option {shown(name)}"
                hint = nearest(str(name), sorted(known))
                findings.block((*here, option, name), f"{message} in {option}", hint, key=True)
        for name, message in self.catalogue.inner_misfits(flow, held).items():
            if name in known:
                findings.block((*here, option, name), message)

    def _runners(self, transform: str) -> Sequence[str]:
        try:
            return self.catalogue.runners(transform)
        except OrchestratorUnavailable as error:
            raise Refusal(error.message, error.hint) from error

    def _has(self, transform: str, runner: str) -> bool:
        try:
            return self.catalogue.has(transform, runner)
        except OrchestratorUnavailable as error:
            raise Refusal(error.message, error.hint) from error

    def _runner(
        self, transform: str, written: str, *, own: bool = False, defines: bool = False
    ) -> str:
        """The runner that is called so.

        Args:
            transform: Of the runner.
            written: As the author calls it.
            own: Whether a defined name would do as well.
            defines: Whether it is what a name is defined as.
        """
        runner = self.catalogue.called(transform, written)
        if self._has(transform, runner):
            return runner
        known = self._runners(transform)
        if " | " in runner:
            raise Refusal(f"{shown(runner)} is a choice to make", f"name one: {', '.join(known)}")
        message = f"{transform!r} has no runner {shown(runner)}"
        name = f"{transform}{SEPARATOR}{runner}"
        if self.key(name) in {*self._defined, *self._broken}:
            hint = f"the orchestration of that name is meant by 'flow: {name}'"
            if defines:
                hint = f"a name stands for a runner, not for another name: {', '.join(known)}"
            raise Refusal(message, hint)
        defined = [
            one.name.partition(SEPARATOR)[2]
            for one in self._defined.values()
            if own and one.transform == transform
        ]
        raise Refusal(message, nearest(runner, dict.fromkeys([*known, *defined])))

    def _names(self) -> list[str]:
        ours = [
            f"{transform}{SEPARATOR}{name}"
            for transform in self.catalogue.transforms()
            for name in _runners_of(self.catalogue, transform)
        ]
        # Those that somebody chose come first: a hint names the first dozen.
        return list(dict.fromkeys([*(one.name for one in self.defined()), *ours]))

    def _nearest_flow(self, transform: str, runner: str = "") -> str:
        """A hint for a transform that there is not: names that can be copied as they are."""
        defined = (one.transform for one in self.defined())
        transforms = dict.fromkeys([*self.catalogue.transforms(), *defined])
        near = difflib.get_close_matches(transform.casefold(), transforms, n=1)
        prefix = f"{near[0]}{SEPARATOR}" if near else ""
        known = [name for name in self._names() if near and name.startswith(prefix)]
        if not known:
            written = f"{transform}{SEPARATOR}{runner}" if runner else transform
            return nearest(written, self._names())
        meant = [name for name in known if name == f"{prefix}{runner}"] or known
        return f"did you mean {' or '.join(map(shown, meant))}?"


def _runners_of(catalogue: Catalogue, transform: str) -> Sequence[str]:
    """Its runners, for a hint: a package that cannot be imported has none to name."""
    try:
        return catalogue.runners(transform)
    except OrchestratorUnavailable:
        return ()


def _refuse_twin(one: Orchestration, other: Orchestration, findings: Findings) -> None:
    findings.refuse(
        one.steps,
        f"{shown(one.name)} and {shown(other.name)} are the same name",
        "keep one of them",
        key=True,
    )


def _refuse_placeholders(text: str) -> None:
    found = placeholders(text)
    if found:
        raise Refusal(
            f"{shown(found[0])} is a placeholder", "name a flow, such as local::concurrent"
        )
