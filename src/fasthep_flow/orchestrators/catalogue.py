"""What runners there are and what they take, as the planner asks for it.

Nothing is imported for a runner of ours that is named without options, and no engine at all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fasthep_flow.errors import OrchestratorUnavailable
from fasthep_flow.model import FlowSpec
from fasthep_flow.orchestrators import ALIASES, RUNNERS, Orchestrator, find_orchestrator
from fasthep_flow.orchestrators.options import misfits

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["Catalogue"]

_T = TypeVar("_T")


class Catalogue:
    """Transforms, their runners, and the options of these.

    What it has found it knows: one is made for each planning, and packages may be installed
    in between.

    Args:
        known: The runners of our transforms, the default one first.
        aliases: What else they may be called.
        plug_ins: Whether to look for those of other packages, too.
    """

    def __init__(
        self,
        known: Mapping[str, Sequence[str]] = RUNNERS,
        aliases: Mapping[str, Mapping[str, str]] = ALIASES,
        *,
        plug_ins: bool = True,
    ) -> None:
        self._known: Final = known
        self._aliases: Final = aliases
        self._plug_ins: Final = plug_ins
        self._found: Final[dict[tuple[str, str], Orchestrator | OrchestratorUnavailable]] = {}

    def transforms(self) -> Sequence[str]:
        """Ours; and those of other packages, if these were looked at already."""
        others = self.__dict__.get("_entries", {})
        return [
            *self._known,
            *sorted(name for name in others if "." not in name and name not in self._known),
        ]

    def runners(self, transform: str) -> Sequence[str]:
        """The runners of a transform, the default one first; empty if there is none such.

        Raises:
            OrchestratorUnavailable: A plug-in cannot be imported.
        """
        if transform in self._known or not self._is_plug_in(transform):
            return self._known.get(transform, ())
        return self._runners_of(transform)

    def has(self, transform: str, runner: str) -> bool:
        """Whether a transform has that runner.

        Raises:
            OrchestratorUnavailable: A plug-in cannot be imported.
        """
        if runner in self.runners(transform):
            return True
        return (
            transform in self._known
            and self._is_plug_in(transform, runner)
            and runner in self._runners_of(transform, runner)
        )

    def called(self, transform: str, runner: str) -> str:
        """The name of the runner that may be called otherwise."""
        return self._aliases.get(transform, {}).get(runner, runner)

    def options(self, flow: FlowSpec) -> Collection[str] | None:
        """The names of the options that a runner takes; ``None`` where nobody can say.

        Raises:
            OrchestratorUnavailable: A plug-in cannot be imported.
        """
        return self._told(flow, lambda one: one.options(flow.runner))

    def inner_options(self, flow: FlowSpec) -> Mapping[str, Collection[str]]:
        """The names that options take which hold options themselves, by the option.

        Raises:
            OrchestratorUnavailable: A plug-in cannot be imported.
        """
        return self._told(flow, lambda one: one.inner_options(flow))

    def misfits(self, flow: FlowSpec) -> Mapping[str, str]:
        """What is wrong with the values of a runner's options, by their names.

        Raises:
            OrchestratorUnavailable: A plug-in cannot be imported.
        """
        told = self._told(flow, lambda one: one.misfits(flow))
        return {**self.inner_misfits(flow, flow.options), **told}

    def inner_misfits(self, flow: FlowSpec, options: Mapping[str, Any]) -> Mapping[str, str]:
        """The same of options that one of them holds, as far as a name alone says it."""
        # What a word means to the runners of others is theirs to say.
        is_ours = flow.runner in self._known.get(flow.transform, ())
        return misfits(options) if is_ours else {}

    def _told(self, flow: FlowSpec, ask: Callable[[Orchestrator], _T]) -> _T:
        orchestrator = self._find(flow.transform, flow.runner)
        try:
            return ask(orchestrator)
        # The code of others: its mistake is told as theirs.
        except Exception as error:
            raise OrchestratorUnavailable(
                f"{flow.transform}::{flow.runner} cannot say what options it has: {error!r}"
            ) from error

    def _find(self, transform: str, runner: str = "") -> Orchestrator:
        key = (transform, runner)
        if key not in self._found:
            try:
                self._found[key] = find_orchestrator(transform, runner)
            except OrchestratorUnavailable as error:
                # A thousand tasks may name it: it need not fail a thousand times.
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, OrchestratorUnavailable):
            raise found
        return found

    def _runners_of(self, transform: str, runner: str = "") -> Sequence[str]:
        orchestrator = self._find(transform, runner)
        try:
            return tuple(orchestrator.runners)
        except Exception as error:
            raise OrchestratorUnavailable(
                f"the orchestrator {transform!r} cannot say what runners it has: {error!r}"
            ) from error

    @cached_property
    def _entries(self) -> dict[str, EntryPoint]:
        from fasthep_flow.orchestrators.plug_ins import plug_ins

        return plug_ins()

    def _is_plug_in(self, transform: str, runner: str = "") -> bool:
        if not self._plug_ins:
            return False
        return bool({transform, f"{transform}.{runner}"} & self._entries.keys())
