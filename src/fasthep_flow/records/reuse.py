"""Whether a task need not run: it is done in this run already, or an earlier run did the same.

::

    decision = reuse.decide(task, needs)
    if decision.reused is None:
        ...                                     # it runs; decision.reasons say why
        parts = reuse.ended(task, decision.identity, result).parts  # to be recorded with it
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

import msgspec

from fasthep_flow.model import JobResult, TaskSpec
from fasthep_flow.records.cache import Cache, Cached, changed_output, is_reusable
from fasthep_flow.records.differences import differences
from fasthep_flow.records.digests import Digests
from fasthep_flow.records.framing import clear
from fasthep_flow.records.identity import PENDING, Identities, Identity, NeedIdentity

__all__ = ["Decision", "Former", "Reuse"]

_FATES: Final[Mapping[str, str]] = {
    "failed": "it failed before",
    "timed_out": "it ran out of time before",
    "cancelled": "it was stopped before",
    "skipped": "it was skipped before",
}
_NEVER: Final = "it has not run before"
_NOT_KEPT: Final = "it declares no outputs, by which an earlier run could stand for it"
_FORCED: Final = "it was asked for"
_NO_CACHE: Final = "what earlier runs did is not to stand for it"


class Former(NamedTuple):
    """What became of a task in the run that goes on.

    Args:
        result: Its last one.
        parts: Of its identity; ``None`` where that is not recorded.
    """

    result: JobResult
    parts: Mapping[str, str] | None


class Decision(NamedTuple):
    """Whether a task need not run.

    Args:
        reused: The result that stands for it; ``None`` if it is to run.
        identity: Of the task as it would run now.
        reasons: Why it is to run, a clause each; one at least, unless it need not.
    """

    reused: JobResult | None
    identity: Identity
    reasons: tuple[str, ...]


class _Last(NamedTuple):
    """What there is to compare with."""

    result: JobResult
    parts: Mapping[str, str] | None


class Reuse:
    """Decides for the tasks of a run; used by one thread.

    Args:
        identities: Of the plan's tasks.
        digests: Of files and folders.
        run_id: Of the run.
        cache: What earlier runs did; ``None`` where that is not to count, nor to be added to.
        former: What became of tasks in this run already, by name.
        no_cache: Whether what earlier runs did is not to stand for anything. What this run does
            is kept all the same.
        forced: The names of tasks that run in any case.
    """

    def __init__(
        self,
        identities: Identities,
        digests: Digests,
        *,
        run_id: str,
        cache: Cache | None = None,
        former: Mapping[str, Former] | None = None,
        no_cache: bool = False,
        forced: Collection[str] = (),
    ) -> None:
        self._identities: Final = identities
        self._digests: Final = digests
        self._run_id: Final = run_id
        self._cache: Final = cache
        self._former: Final = former or {}
        self._no_cache: Final = no_cache
        self._forced: Final = frozenset(forced)

    def decide(
        self,
        task: TaskSpec,
        needs: Mapping[str, NeedIdentity],
        *,
        pending: Collection[str] = (),
    ) -> Decision:
        """Whether a task that could run now need not.

        Args:
            task: Of the plan.
            needs: What it sees of those that it needs. Where one is missing, as in a forecast, the
                task is not reused, and the reasons are those that do not depend on it: there may
                be none.
            pending: Absolute paths of files and folders that are yet to be made; as above.

        Raises:
            RecordError: There is no key for values of variables.
        """
        former = self._former.get(task.name)
        latest = None
        if former is None or former.parts is None:
            latest = self._latest(task)
        past = _past(former, latest)
        identity = self._identities.of(task, needs, past=past, pending=pending)
        if task.name in self._forced:
            return Decision(None, identity, (_FORCED,))
        is_whole = needs.keys() >= set(task.needs) and PENDING not in identity.parts.values()
        reasons: tuple[str, ...] = ()
        if former is not None:
            reasons = self._against(task, identity, former, needs)
            if not reasons and is_whole:
                return Decision(former.result, identity, ())
        if is_whole and (found := self._looked_up(task, identity)) is not None:
            changed = changed_output(task, found.result, self._digests)
            if changed is None:
                return Decision(_as_reused(found), identity, ())
            reasons = reasons or (changed,)
        if former is None:
            reasons = reasons or self._why_new(task, identity, needs, latest)
        if is_whole:
            reasons = reasons or (_NEVER,)
        return Decision(None, identity, reasons)

    def ended(self, task: TaskSpec, identity: Identity, result: JobResult) -> Identity:
        """The identity to be recorded with a success; the result is kept for other runs.

        Args:
            task: Of the plan.
            identity: As it was decided.
            result: How the attempt ended; it is recorded, and on disk.
        """
        if result.status != "succeeded":
            return identity
        identity = self._identities.after(task, identity)
        if self._cache is not None:
            # Not waited for: a record that a power cut damaged is not believed.
            self._cache.store(task, identity, result, self._run_id, sync=False)
        return identity

    def _latest(self, task: TaskSpec) -> Cached | None:
        if self._cache is None or not (task.outputs or task.cache):
            return None
        return self._cache.latest(task.name)

    def _looked_up(self, task: TaskSpec, identity: Identity) -> Cached | None:
        if self._cache is None or self._no_cache or not (task.outputs or task.cache):
            return None
        found = self._cache.look_up(identity)
        return found if found is not None and is_reusable(task, found.result) else None

    def _against(
        self,
        task: TaskSpec,
        identity: Identity,
        former: Former,
        needs: Mapping[str, NeedIdentity],
    ) -> tuple[str, ...]:
        """Why what became of it in this run does not stand; empty if it does."""
        status = former.result.status
        if status not in {"succeeded", "reused"}:
            return (_FATES.get(status, _NEVER),)
        if former.parts is None:
            return ("it is not recorded what it was made of",)
        return self._changed(task, identity, _Last(former.result, former.parts), needs)

    def _why_new(
        self,
        task: TaskSpec,
        identity: Identity,
        needs: Mapping[str, NeedIdentity],
        latest: Cached | None,
    ) -> tuple[str, ...]:
        """Why no earlier run stands for it."""
        if not (task.outputs or task.cache):
            return (_NOT_KEPT,)
        if self._no_cache or self._cache is None:
            return (_NO_CACHE,)
        if latest is None:
            # Of what nobody can tell nothing is kept.
            return differences(identity.parts, identity.parts) or (_NEVER,)
        return self._changed(task, identity, _Last(latest.result, latest.parts), needs)

    def _changed(
        self,
        task: TaskSpec,
        identity: Identity,
        last: _Last,
        needs: Mapping[str, NeedIdentity],
    ) -> tuple[str, ...]:
        open_needs = {f"need {clear(name)}" for name in task.needs if name not in needs}
        parts = {name: one for name, one in (last.parts or {}).items() if name not in open_needs}
        if found := differences(parts, identity.parts):
            return found
        changed = changed_output(task, last.result, self._digests)
        return () if changed is None else (changed,)


def _past(former: Former | None, latest: Cached | None) -> Mapping[str, str] | None:
    if former is not None and former.parts is not None:
        return former.parts
    return None if latest is None else latest.parts


def _as_reused(found: Cached) -> JobResult:
    """The result of another run as one of this one: it took no time."""
    return msgspec.structs.replace(
        found.result,
        attempt=0,
        status="reused",
        remarks=(*found.result.remarks, f"made by the run {found.run_id}"),
        started_s=time.time(),
        wall_s=0.0,
        cpu_s=None,
        peak_memory=None,
        peak_memory_is_bound=False,
        enforced={},
    )
