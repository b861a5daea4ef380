"""Whether the tasks that are ready need run at all, found out beside the scheduler's loop.

To compare a large file takes minutes; what tasks of a plan without files ask for, microseconds.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Generic, NamedTuple, Self, TypeVar

from fasthep_flow.errors import RecordError
from fasthep_flow.model import JobResult, Plan, TaskSpec
from fasthep_flow.records.cache import CACHE_FOLDER, Cache
from fasthep_flow.records.digests import Digests, Stopped
from fasthep_flow.records.identity import Identities, Identity, NeedIdentity
from fasthep_flow.records.image_digests import image_digests
from fasthep_flow.records.key import Key, user_key
from fasthep_flow.records.record import Ended
from fasthep_flow.records.reuse import Decision, Former, Reuse

__all__ = ["Decided", "Deciding", "Known", "reuse_of"]

_T = TypeVar("_T")
_Found = TypeVar("_Found")


def reuse_of(
    plan: Plan,
    runtimes: Mapping[str, str],
    *,
    run_id: str = "",
    before: Ended | None = None,
    no_cache: bool = False,
    forced: Collection[str] = (),
    noticed: Callable[[str], None] = lambda _: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Reuse:
    """What decides for the tasks of a plan.

    Args:
        plan: What runs, or would.
        runtimes: The runtime that was chosen for each task, by name.
        run_id: Of the run.
        before: What former drivers of the run left.
        no_cache: Whether nothing of earlier runs stands for a task.
        forced: The names of tasks that run in any case.
        noticed: Is told of what was damaged.
        is_stopped: Whether the run was told to stop, while a file is read.
    """
    folder = Path(plan.output_directory, CACHE_FOLDER)
    digests = Digests(folder / "digests.json", is_stopped=is_stopped)
    identities = Identities(
        plan,
        lambda: _key(noticed),
        image_digest=image_digests(runtimes),
        digests=digests,
    )
    former = {} if before is None else before.results
    known = {} if before is None else before.identities
    return Reuse(
        identities,
        digests,
        run_id=run_id,
        cache=Cache(folder, plan.source, noticed=noticed),
        former={name: Former(result, known.get(name)) for name, result in former.items()},
        no_cache=no_cache,
        forced=forced,
    )


def _key(noticed: Callable[[str], None]) -> Key:
    """The user's key; where it cannot be had, one that no other run has."""
    try:
        return user_key(noticed=noticed)
    except RecordError as error:
        hint = "" if error.hint is None else f"; {error.hint}"
        noticed(f"{error.message}{hint}: no earlier result stands for a task with variables")
        return Key.of(secrets.token_bytes(32))


class Decided(NamedTuple):
    """What was found out of a task that is ready.

    Args:
        task: Of the plan.
        future: Ended, with the decision or the error.
    """

    task: TaskSpec
    future: Future[Decision]

    @property
    def decision(self) -> Decision | None:
        """Whether the task need not run; ``None`` where the run was stopped meanwhile.

        Raises:
            RecordError: It cannot be told.
        """
        try:
            return self.future.result()
        except (Stopped, CancelledError):
            return None


class Known(NamedTuple, Generic[_T]):
    """What is to be recorded with a success.

    Args:
        item: As it was given.
        result: How the attempt ended.
        future: Ended, with the identity or the error.
        before: The identity as it was decided.
    """

    item: _T
    result: JobResult
    future: Future[Identity]
    before: Identity

    @property
    def identity(self) -> Identity:
        """What the attempt was made of."""
        try:
            return self.future.result()
        except (Stopped, CancelledError):
            # Without what the task made by the way: then it may run once more for nothing.
            return self.before


class Deciding(Generic[_T]):
    """Asks :class:`~fasthep_flow.records.reuse.Reuse` for the scheduler.

    Args:
        plan: What runs.
        reuse: That decides.
        stop: Set when the run is to end: then no file is read any further.
    """

    def __init__(self, plan: Plan, reuse: Reuse, stop: threading.Event) -> None:
        self._reuse: Final = reuse
        self._stop: Final = stop
        has_files = any(task.inputs or task.outputs for task in plan.tasks)
        self._thread: Final = (
            ThreadPoolExecutor(1, thread_name_prefix="fasthep-flow-reuse") if has_files else None
        )
        self._pending = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        self._reuse.save()
        if kind is None:
            self._reuse.prune()

    def __bool__(self) -> bool:
        """Whether something is yet to be told."""
        return bool(self._pending)

    def stop(self) -> None:
        """Find out no more: what is asked for is told soon, as not known."""
        self._stop.set()

    def ask(
        self,
        task: TaskSpec,
        needs: Mapping[str, NeedIdentity],
        tell: Callable[[Decided], None],
    ) -> Decided | None:
        """Find out whether a task need not run; ``None`` where that is told later.

        Args:
            task: That is ready.
            needs: What it sees of those that it needs.
            tell: Is told then, in another thread.
        """
        future = self._begin(lambda: self._reuse.decide(task, needs))
        if self._thread is None:
            return Decided(task, future)
        future.add_done_callback(lambda done: tell(Decided(task, done)))
        return None

    def know(
        self,
        item: _T,
        task: TaskSpec,
        before: Identity,
        result: JobResult,
        tell: Callable[[Known[_T]], None],
    ) -> Known[_T] | None:
        """Find out what is to be recorded with a success; ``None`` where that is told later.

        Args:
            item: Is given back.
            task: That succeeded.
            before: Its identity, as it was decided.
            result: How the attempt ended.
            tell: As for :meth:`ask`.
        """
        future = self._begin(lambda: self._reuse.ended(task, before, result))
        if self._thread is None:
            return Known(item, result, future, before)
        future.add_done_callback(lambda done: tell(Known(item, result, done, before)))
        return None

    def told(self) -> None:
        """Something that was told later has arrived."""
        self._pending -= 1

    def _begin(self, find_out: Callable[[], _Found]) -> Future[_Found]:
        if self._thread is not None:
            self._pending += 1
            return self._thread.submit(find_out)
        future: Future[_Found] = Future()
        try:
            future.set_result(find_out())
        except Exception as error:  # noqa: BLE001 - told through the future
            future.set_exception(error)
        return future
