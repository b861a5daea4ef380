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
from fasthep_flow.records.invocation_parts import MADE

__all__ = ["Decision", "Former", "Reuse"]

_FATES: Final[Mapping[str, str]] = {
    "failed": "it failed before",
    "timed_out": "it ran out of time before",
    "cancelled": "it was stopped before",
    "skipped": "it was skipped before",
}
_NEVER: Final = "no earlier run has done it"
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


class _Kept(NamedTuple):
    """What an earlier run did, the identity by which it was looked for, or why there is none."""

    found: Cached | None
    identity: Identity
    reasons: tuple[str, ...]


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
            pending: Absolute paths of files and folders that are yet to be made, without ``/`` at
                their ends; as above.

        Raises:
            RecordError: There is no key for values of variables.
        """
        former = self._former.get(task.name)
        past = None if former is None else former.parts
        if past is None and (self._no_cache or task.name in self._forced):
            # What it made by the way is known from there.
            latest = self._latest(task)
            past = None if latest is None else latest.parts
        identity = self._identities.of(task, needs, past=past, pending=pending)
        if task.name in self._forced:
            return Decision(None, identity, (_FORCED,))
        is_whole = needs.keys() >= set(task.needs) and PENDING not in identity.parts.values()
        reasons: tuple[str, ...] = ()
        if former is not None:
            reasons = self._against(task, identity, former, needs)
            if not reasons and is_whole:
                return Decision(former.result, identity, ())
        kept = self._kept(task, identity, needs, pending, is_whole=is_whole, past=past)
        if kept.found is not None:
            return Decision(_as_reused(kept.found), kept.identity, ())
        reasons = reasons or (() if former is not None else kept.reasons)
        return Decision(None, kept.identity, reasons or ((_NEVER,) if is_whole else ()))

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

    def save(self) -> None:
        """Keep what was found out of files: who looks next need not read them again."""
        self._digests.save()

    def prune(self) -> None:
        """Remove what earlier runs kept and is of no more use; see :meth:`Cache.prune`."""
        if self._cache is not None:
            self._cache.prune()

    def _latest(self, task: TaskSpec) -> Cached | None:
        if self._cache is None or not (task.outputs or task.cache):
            return None
        return self._cache.latest(task.name)

    def _kept(
        self,
        task: TaskSpec,
        identity: Identity,
        needs: Mapping[str, NeedIdentity],
        pending: Collection[str],
        *,
        is_whole: bool,
        past: Mapping[str, str] | None,
    ) -> _Kept:
        """What an earlier run did, or why it does not stand for the task."""
        says_all = bool(task.outputs) or task.cache
        if self._no_cache or self._cache is None or not says_all:
            return _Kept(None, identity, (_NO_CACHE if says_all else _NOT_KEPT,))
        found, changed = self._verified(task, identity) if is_whole else (None, None)
        if found is not None or past is not None:
            return _Kept(found, identity, ())
        latest = self._cache.latest(task.name)
        if latest is None:
            # Of what nobody can tell nothing is kept.
            return _Kept(None, identity, differences(identity.parts, identity.parts) or (_NEVER,))
        if MADE in latest.parts.values():
            identity = self._identities.of(task, needs, past=latest.parts, pending=pending)
            found, changed = self._verified(task, identity) if is_whole else (None, changed)
        if found is not None:
            return _Kept(found, identity, ())
        if changed is not None:
            return _Kept(None, identity, (changed,))
        last = _Last(latest.result, latest.parts)
        return _Kept(None, identity, self._changed(task, identity, last, needs))

    def _verified(self, task: TaskSpec, identity: Identity) -> tuple[Cached | None, str | None]:
        """What is kept for an identity, if its outputs are as they were; else which are not."""
        found = None if self._cache is None else self._cache.look_up(identity)
        if found is None or not is_reusable(task, found.result):
            return None, None
        changed = changed_output(task, found.result, self._digests)
        return (found, None) if changed is None else (None, changed)

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
