"""The tries of a task: what each of them asks for, whether another one follows, and when."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator
from itertools import count
from typing import Final, Generic, NamedTuple, TypeVar

from fasthep_flow.model import JobResult, Resources, Retries, RetryCause, TaskSpec
from fasthep_flow.records.report import memory_text, seconds_text

__all__ = [
    "LONGEST_WAIT_S",
    "Try",
    "Waiting",
    "cause_of",
    "following",
    "resources_of",
    "timeout_of",
    "told",
]

_T = TypeVar("_T")

LONGEST_WAIT_S: Final = 86_400.0
"""However often it was multiplied: what is not better the day after is looked at by people."""


class Try(NamedTuple):
    """Which attempt of a task this is.

    An attempt that was lost with its worker says nothing about the task: the next one asks for
    no more than it did.

    Args:
        attempt: Counted from 1.
        losses: How many before it were lost.
        excused: How many of these count as no try, since the runner makes up for them.
        waited_s: How long it waited for its time.
    """

    attempt: int = 1
    losses: int = 0
    excused: int = 0
    waited_s: float = 0.0


def resources_of(task: TaskSpec, this: Try) -> Resources:
    """What an attempt asks of a machine.

    Args:
        task: Of the plan.
        this: Which attempt it is.
    """
    grown = this.attempt - this.losses - 1
    if not grown or not task.growth:
        return task.environment.resources
    return task.growth[min(grown, len(task.growth)) - 1]


def timeout_of(task: TaskSpec, resources: Resources) -> float | None:
    """Seconds after which an attempt is stopped.

    Args:
        task: Of the plan.
        resources: What the attempt asks for.
    """
    if task.growth and resources.walltime_s is not None:
        # The planner has held it against the time that the author gives every attempt.
        return resources.walltime_s
    return task.timeout_s


def cause_of(result: JobResult, *, is_lost: bool) -> RetryCause | None:
    """For which of the causes an attempt could be followed by another; ``None`` for none.

    Args:
        result: How it ended.
        is_lost: Whether its worker was lost.
    """
    if is_lost:
        return "lost"
    if result.status == "timed_out":
        return "timed_out"
    if result.status != "failed":
        return None
    is_memory = result.failure is not None and result.failure.kind == "out_of_memory"
    return "out_of_memory" if is_memory else "failed"


def following(
    task: TaskSpec, this: Try, result: JobResult, *, is_lost: bool, allowed_losses: int
) -> Try | None:
    """The attempt that follows one that has ended; ``None`` where none does.

    Args:
        task: Of the plan.
        this: Which attempt has ended.
        result: How.
        is_lost: Whether its worker was lost.
        allowed_losses: How many losses of a task its runner makes up for.
    """
    cause = cause_of(result, is_lost=is_lost)
    if cause is None:
        return None
    attempt, losses = this.attempt + 1, this.losses + is_lost
    if is_lost and losses <= allowed_losses:
        return Try(attempt, losses, this.excused + 1)
    tried = this.attempt - this.excused
    if cause not in task.retries.on or tried > task.retries.times:
        return None
    return Try(attempt, losses, this.excused, _wait_s(task.retries, tried))


def _wait_s(retries: Retries, tried: int) -> float:
    if not retries.delay_s:
        return 0.0
    try:
        return min(retries.delay_s * retries.backoff ** (tried - 1), LONGEST_WAIT_S)
    except OverflowError:
        return LONGEST_WAIT_S


def told(task: TaskSpec, result: JobResult, before: Resources, again: Try, *, number: int) -> str:
    """That a task is tried again, in a sentence: why, when, and with how much more.

    Args:
        task: Of the plan.
        result: Of the attempt that has ended.
        before: What that one asked for.
        again: The attempt that follows.
        number: Of its folder: where a run was gone on with, there are others before.
    """
    why = result.status.replace("_", " ") if result.failure is None else result.failure.message
    sentence = f"{task.name}: {why}; attempt {number} follows"
    after = resources_of(task, again)
    more = []
    if after.cpus is not None and after.cpus != before.cpus:
        more.append(f"{after.cpus:g} cpus")
    if after.memory is not None and after.memory != before.memory:
        more.append(f"{memory_text(after.memory)} of memory")
    if after.walltime_s is not None and after.walltime_s != before.walltime_s:
        more.append(f"{seconds_text(after.walltime_s)} of time")
    if more:
        sentence += f" with {' and '.join(more)}"
    return f"{sentence}, in {seconds_text(again.waited_s)}" if again.waited_s else sentence


class Waiting(Generic[_T]):
    """What waits for its time: the first that is due comes first."""

    def __init__(self) -> None:
        self._heap: Final[list[tuple[float, int, _T]]] = []
        # Of two that are due at once the first one goes first.
        self._numbers: Final = count()

    def __bool__(self) -> bool:
        return bool(self._heap)

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, item: _T, wait_s: float) -> None:
        """It is due in so many seconds."""
        heapq.heappush(self._heap, (time.monotonic() + wait_s, next(self._numbers), item))

    @property
    def left_s(self) -> float:
        """Seconds until the first of them is due; there is one."""
        return max(0.0, self._heap[0][0] - time.monotonic())

    def due(self) -> Iterator[_T]:
        """Take out what is due."""
        while self._heap and self._heap[0][0] <= time.monotonic():
            yield heapq.heappop(self._heap)[2]

    def dropped(self) -> Iterator[_T]:
        """Take out all of it."""
        while self._heap:
            yield heapq.heappop(self._heap)[2]
