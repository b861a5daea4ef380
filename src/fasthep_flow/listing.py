"""What can run tasks here: every runner, and every orchestration that is defined."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from fasthep_flow.errors import OrchestratorUnavailable, PlanError, Problem, WorkflowError
from fasthep_flow.language.document import Document, read_workflow
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.flow_settings import FlowSetting, choose_flow, flow_of
from fasthep_flow.language.flows import Flows
from fasthep_flow.language.orchestrations import (
    KEY,
    SEPARATOR,
    Orchestration,
    read_orchestrations,
)
from fasthep_flow.language.planner import make_plan
from fasthep_flow.language.schema import GLOBAL, WorkflowFile, read_file
from fasthep_flow.language.settings import SettingsFile, read_settings
from fasthep_flow.model import FlowSpec
from fasthep_flow.orchestrators import RUNNERS, find_orchestrator
from fasthep_flow.orchestrators.catalogue import Catalogue
from fasthep_flow.orchestrators.plug_ins import load_plug_in, package_of, plug_ins

__all__ = ["Default", "Listed", "list_orchestrations"]

_OURS: Final = "fasthep-flow"
_AT_ONCE: Final = 8
"""Engines that are asked side by side: those of others may take seconds to answer."""


class Default(Struct, frozen=True, kw_only=True):
    """What runs a workflow that is run as it is.

    Args:
        name: As ``--flow`` takes it; empty where what is said is none.
        origin: Who says so: ``file:line``, or ``default``.
        options: Those that are said there, and not under the name.
        why_not: What is wrong with what is said.
    """

    name: str
    origin: str
    options: dict[str, Any] = {}
    why_not: str | None = None


class Listed(Struct, frozen=True, kw_only=True):
    """A name for ``flow``.

    Args:
        name: Of a runner, or of an orchestration.
        transform: The orchestrator.
        runner: Its runner; empty where there is none that could be found.
        options: Of the runner, as they are defined.
        origin: Where it is defined: a package, or ``file:line``.
        replaced: Where else the name is defined, and does not hold; the nearest first.
        can_run: Whether it can run tasks here, as far as can be told without starting it.
        why_not: Why it cannot, and what to do.
    """

    name: str
    transform: str
    runner: str
    options: dict[str, Any] = {}
    origin: str
    replaced: tuple[str, ...] = ()
    can_run: bool = True
    why_not: str | None = None


def list_orchestrations(path: Path | None) -> tuple[Default, list[Listed]]:
    """All that there is, a transform's own definitions before its runners; and the default.

    Starts nothing. That a batch system or a server does not answer is told by
    a check, and before a run begins.

    Args:
        path: A workflow file; ``None`` for settings alone.

    Raises:
        WorkflowError: The workflow file or a settings file cannot be read, or its
            orchestrations are none.
    """
    settings = read_settings(os.environ)
    flows = Flows(Catalogue(), settings)
    document = None if path is None else read_workflow(path)
    general, wrong = (None, []) if document is None else _define(document, flows)
    defined = [_listed(one, flows) for one in flows.defined()]
    runners = [*_our_runners(), *_plug_in_runners()]
    # A name that is defined is no longer that of the runner alone.
    taken = {flows.key(one.name): one for one in defined}
    replaced = {name: list(_farther(name, one, flows)) for name, one in taken.items()}
    rows = [
        *(replace(one, replaced=tuple(replaced[flows.key(one.name)])) for one in defined),
        *(one for one in runners if one.name not in taken),
    ]
    transforms = list(dict.fromkeys([*RUNNERS, *(one.transform for one in rows)]))
    rows.sort(key=lambda one: transforms.index(one.transform))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        judged = list(pool.map(_judged, rows))
    default = _no_default(wrong[0]) if wrong else _default(document, general, flows, settings)
    return default, judged


def _define(document: Document, flows: Flows) -> tuple[FlowSetting | None, list[Problem]]:
    """Add the orchestrations of a workflow file; what its global setting says of the flow.

    What is wrong with that is no reason to list nothing.
    """
    findings = Findings(document)
    findings.add(*document.complaints())
    data = document.data if isinstance(document.data, dict) else {}
    general = data.get(GLOBAL)
    said = (
        {key: general.get(key) for key in ("flow", "workflow")} if isinstance(general, dict) else {}
    )
    # What else may be wrong with the file is for `lint` to tell.
    keys = {
        KEY: data.get(KEY),
        GLOBAL: {key: item for key, item in said.items() if item is not None},
    }
    file: WorkflowFile = read_file(keys, findings)
    orchestrations = read_orchestrations(file.orchestrations, "workflow", findings)
    findings.check()
    flows.define(orchestrations, Findings(document))
    wrong = Findings(document)
    return flow_of(file.global_, (GLOBAL,), flows, wrong), wrong.problems


def _listed(one: Orchestration, flows: Flows) -> Listed:
    kwargs = one.model.kwargs
    options = dict(kwargs.model_extra or {}) if kwargs is not None else {}
    try:
        flow = flows.resolve(one)
    except PlanError as error:
        return Listed(
            name=one.name,
            transform=one.transform,
            runner=(kwargs.runner if kwargs is not None else None) or "",
            options=options,
            origin=one.origin,
            can_run=False,
            why_not="; ".join(
                problem.message + (f" ({problem.hint})" if problem.hint else "")
                for problem in error.problems
            ),
        )
    return Listed(
        name=one.name,
        transform=flow.transform,
        runner=flow.runner,
        options=flow.options,
        origin=one.origin,
    )


def _farther(key: str, one: Listed, flows: Flows) -> Iterator[str]:
    """Where a name is defined besides, farther away than where it holds."""
    for settings in flows.settings:
        for other in settings.orchestrations:
            if flows.key(other.name) == key and other.origin != one.origin:
                yield other.origin


def _our_runners() -> Iterator[Listed]:
    for transform, runners in RUNNERS.items():
        for runner in runners:
            name = f"{transform}{SEPARATOR}{runner}"
            yield Listed(name=name, transform=transform, runner=runner, origin=_OURS)


def _plug_in_runners() -> Iterator[Listed]:
    for name, entry in sorted(plug_ins().items()):
        transform = name.partition(".")[0]
        if name in RUNNERS:
            continue
        yield from _of_plug_in(entry, transform)


def _of_plug_in(entry: EntryPoint, transform: str) -> Iterator[Listed]:
    origin = package_of(entry)
    try:
        runners = tuple(load_plug_in(entry).runners)
    except OrchestratorUnavailable as error:
        yield Listed(
            name=entry.name.replace(".", SEPARATOR),
            transform=transform,
            runner="",
            origin=origin,
            can_run=False,
            why_not=_words(error),
        )
        return
    for runner in runners:
        name = f"{transform}{SEPARATOR}{runner}"
        yield Listed(name=name, transform=transform, runner=runner, origin=origin)


def _judged(one: Listed) -> Listed:
    if not one.can_run:
        return one
    flow = FlowSpec(transform=one.transform, runner=one.runner, options=one.options)
    try:
        why_not = find_orchestrator(one.transform, one.runner).why_not(flow)
    except OrchestratorUnavailable as error:
        why_not = _words(error)
    # The code of others, whose mistake is not to hide what else there is.
    except Exception as error:  # noqa: BLE001
        why_not = f"{type(error).__name__}: {error}"
    return replace(one, can_run=why_not is None, why_not=why_not)


def _words(error: OrchestratorUnavailable) -> str:
    return error.message if error.hint is None else f"{error.message} ({error.hint})"


def _default(
    document: Document | None,
    general: FlowSetting | None,
    flows: Flows,
    settings: Sequence[SettingsFile],
) -> Default:
    if document is not None:
        try:
            plan = make_plan(document, runners=Catalogue(), settings=settings)
        except WorkflowError:
            pass
        else:
            return _default_of(plan.flow, plan.flow_origin)
    if document is None and not settings:
        return _default_of(flows.short("local")[0], "default")
    wrong = Findings(document or settings[0].document)
    chosen = choose_flow(None, general, [], flows, wrong)
    if wrong.problems:
        return _no_default(wrong.problems[0])
    return _default_of(chosen.flow, chosen.origin)


def _no_default(problem: Problem) -> Default:
    hint = f" ({problem.hint})" if problem.hint else ""
    return Default(name="", origin=str(problem.location), why_not=f"{problem.message}{hint}")


def _default_of(flow: FlowSpec, origin: str) -> Default:
    options = {} if flow.orchestration else flow.options
    return Default(name=str(flow), origin=origin, options=options)
