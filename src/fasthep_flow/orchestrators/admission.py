"""Room for tasks, and the gate that lets them through as it becomes free.

An engine is handed only what it can start at once. So the engine's own queue stays empty:
what has not started can be dropped exactly, and a lost worker takes no job along that it
had not begun.
"""

from __future__ import annotations

import bisect
import functools
import math
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from fasthep_flow.environments.devices.inventory import inventory
from fasthep_flow.environments.host.machine import bytes_text, cpu_count, memory_bytes
from fasthep_flow.errors import LimitUnenforceable
from fasthep_flow.model import Resources

__all__ = [
    "Admission",
    "Capacity",
    "Room",
    "Start",
    "demand_of",
    "machine_capacity",
    "require_room",
    "shared_room",
]

Start: TypeAlias = Callable[[Future[str]], None]
"""Hands a job to the engine; the future that it is given must end."""


class Capacity(NamedTuple):
    """Room for tasks.

    Args:
        cpus: Processors.
        memory: Bytes.
        gpus: Devices.
    """

    cpus: float
    memory: float
    gpus: float

    def holds(self, other: Capacity) -> bool:
        """Whether there is room for ``other``."""
        return self.cpus >= other.cpus and self.memory >= other.memory and self.gpus >= other.gpus

    def plus(self, other: Capacity) -> Capacity:
        """Room that is given back."""
        return Capacity(self.cpus + other.cpus, self.memory + other.memory, self.gpus + other.gpus)

    def minus(self, other: Capacity) -> Capacity:
        """Room that is left when ``other`` is taken."""
        return Capacity(self.cpus - other.cpus, self.memory - other.memory, self.gpus - other.gpus)

    def __str__(self) -> str:
        """For people: ``2 cpus, 8Gi memory``; what is zero is left out."""
        parts = [f"{self.cpus:g} cpus"]
        if self.memory:
            parts.append(f"{bytes_text(int(self.memory))} memory")
        if self.gpus:
            parts.append(f"{self.gpus:g} gpus")
        return ", ".join(parts)


def machine_capacity() -> Capacity:
    """What this machine has: the processors that this process may use, memory, devices."""
    devices = inventory()
    return Capacity(cpu_count(), memory_bytes(), 0 if isinstance(devices, str) else len(devices))


def demand_of(resources: Resources) -> Capacity:
    """What a task takes of a runner's room; one processor if it asks for none."""
    # Only a task that must have a device waits for one to be free.
    gpus = (resources.gpus or 1) if resources.process_on == "gpu" else 0
    cpus = 1.0 if resources.cpus is None else resources.cpus
    # To the nearest 1024th: sums and differences of these are exact in binary, so the room
    # that tenths give back adds up to what they took, and a large task is not left waiting.
    return Capacity(round(cpus * 1024) / 1024, resources.memory or 0, gpus)


def require_room(place: str, room: Capacity, demand: Capacity, label: str) -> None:
    """Refuse what would wait for ever.

    Args:
        place: What has the room, for the message: ``this machine``, ``a worker``.
        room: The most that one task may have there.
        demand: What the task asks for.
        label: The task's name.

    Raises:
        LimitUnenforceable: ``demand`` is more than ``room``.
    """
    if not room.holds(demand):
        raise LimitUnenforceable(
            f"task {label!r} asks for more than {place} has: {demand} of {room}",
            hint="ask for less, or choose another flow with --flow",
        )


class _Admitted(Future[str]):
    """Of a job; one that was let through early does not run before there is room for it."""

    is_early = False

    def running(self) -> bool:
        return super().running() and not self.is_early


class _Waiting(NamedTuple):
    number: int
    start: Start
    future: _Admitted


class _Place(NamedTuple):
    """Where a job stands among all that wait: the smallest goes first."""

    minus_size: float
    number: int


class _Line:
    """What waits at one gate.

    Few demands are distinct, so looking for the largest that fits is cheap however many
    jobs wait.
    """

    def __init__(self, slots: int | None, ahead: int) -> None:
        self.slots = slots
        self.ahead = ahead
        self.is_closed = False
        self.inside: Final[Counter[Capacity]] = Counter()
        self.early: Final[dict[_Admitted, Capacity]] = {}
        self._sizes: Final[list[float]] = []
        self._queues: Final[dict[float, dict[Capacity, deque[_Waiting]]]] = {}

    def add(self, minus_size: float, demand: Capacity, item: _Waiting) -> None:
        """Let it wait."""
        queues = self._queues.get(minus_size)
        if queues is None:
            bisect.insort(self._sizes, minus_size)
            queues = self._queues[minus_size] = {}
        queues.setdefault(demand, deque()).append(item)

    def first(
        self, free: Capacity, minus_size: float, slots: int | None
    ) -> tuple[_Place, Capacity] | None:
        """The largest that fits in what is free, of which the size is known."""
        if slots == 0:
            return None
        for position in range(bisect.bisect_left(self._sizes, minus_size), len(self._sizes)):
            size = self._sizes[position]
            fitting = [
                (_Place(size, queue[0].number), demand)
                for demand, queue in self._queues[size].items()
                if free.holds(demand)
            ]
            if fitting:
                return min(fitting)
        return None

    def take(self, minus_size: float, demand: Capacity) -> _Waiting:
        """The first of those that ask for that."""
        queues = self._queues[minus_size]
        item = queues[demand].popleft()
        if not queues[demand]:
            del queues[demand]
        if not queues:
            del self._queues[minus_size]
            del self._sizes[bisect.bisect_left(self._sizes, minus_size)]
        return item

    def next_like(self) -> Capacity | None:
        """What all ask for that are inside, where one more of that may come early."""
        if len(self.inside) != 1:
            return None
        ((demand, count),) = self.inside.items()
        return demand if len(self.early) < self.ahead * count else None

    def clear(self) -> list[_Waiting]:
        """All that waited."""
        waiting = [
            item for queues in self._queues.values() for queue in queues.values() for item in queue
        ]
        self._queues.clear()
        self._sizes.clear()
        return waiting


class Room:
    """What the jobs behind one gate, or behind several, may use together.

    Of all that waits the largest that fits goes first, so that small jobs fill what large
    ones leave over; of the same size, the one that came first. The size of a job is the
    largest share that it takes of anything there is. Nothing that fits waits.

    Args:
        capacity: All of it.
    """

    def __init__(self, capacity: Capacity) -> None:
        self._capacity: Final = capacity
        self._free = capacity
        self._lock: Final = threading.Lock()
        self._lines: tuple[_Line, ...] = ()
        self._number = 0
        self._pumping = False
        self._settled = True
        """Nothing that waits fits; it stays so until room is given back."""

    @property
    def free(self) -> Capacity:
        """What nobody uses at the moment."""
        return self._free

    def size(self, demand: Capacity) -> float:
        """The largest share of it that ``demand`` takes of processors, memory or devices."""
        return max(map(_share, demand, self._capacity))

    def change(self, by: Capacity) -> None:
        """There is more room, or less where the numbers are negative: workers come and go.

        What is inside stays there, also if there is room for it no more.
        """
        with self._lock:
            self._free = self._free.plus(by)
            self._settled = False
        self._pump()

    def line(self, slots: int | None, ahead: int) -> _Line:
        """A new line of jobs that wait for room here, and for one of so many slots."""
        line = _Line(slots, ahead)
        with self._lock:
            self._lines = (*self._lines, line)
        return line

    def enter(self, line: _Line, demand: Capacity, start: Start) -> Future[str]:
        """See :meth:`Admission.enter`."""
        future = _Admitted()
        with self._lock:
            is_closed = line.is_closed
            if not is_closed:
                self._number += 1
                line.add(-self.size(demand), demand, _Waiting(self._number, start, future))
                # What waited before does not fit, or is being looked at.
                if line.ahead or (line.slots != 0 and self._free.holds(demand)):
                    self._settled = False
        if is_closed:
            _cancel(future)
        else:
            self._pump()
        return future

    def clear(self, line: _Line, *, closes: bool) -> list[_Waiting]:
        """All that waited in the line, which may let nothing in any more."""
        with self._lock:
            line.is_closed |= closes
            if closes:
                self._lines = tuple(one for one in self._lines if one is not line)
            return line.clear()

    def _pump(self) -> None:
        with self._lock:
            # Not re-entrant: jobs that end while they are started must not deepen the stack.
            if self._pumping:
                return
            self._pumping = True
        while True:
            with self._lock:
                taken = None if self._settled else self._take()
                if taken is None:
                    self._settled = True
                    self._pumping = False
                    return
            line, demand, item = taken
            leave = partial(self._leave, line, demand, item.future)
            if not item.future.set_running_or_notify_cancel():
                leave(item.future)
                continue
            item.future.add_done_callback(leave)
            try:
                item.start(item.future)
            except BaseException as error:  # noqa: BLE001 - the future is where it is raised
                if not item.future.done():
                    item.future.set_exception(error)

    def _take(self) -> tuple[_Line, Capacity, _Waiting] | None:
        found = self._first(self._free)
        if found is None:
            return self._take_early()
        place, line, demand = found
        self._free = self._free.minus(demand)
        if line.slots is not None:
            line.slots -= 1
        line.inside[demand] += 1
        return line, demand, line.take(place.minus_size, demand)

    def _take_early(self) -> tuple[_Line, Capacity, _Waiting] | None:
        """What will be next, whichever of a line's jobs ends first: its engine may have it now."""
        for line in self._lines:
            demand = line.next_like() if line.ahead else None
            if demand is None:
                continue
            found = self._first(self._free.plus(demand), leaver=line)
            if found is not None and found[1:] == (line, demand):
                item = line.take(found[0].minus_size, demand)
                item.future.is_early = True
                line.early[item.future] = demand
                return line, demand, item
        return None

    def _first(
        self, free: Capacity, leaver: _Line | None = None
    ) -> tuple[_Place, _Line, Capacity] | None:
        """The largest that fits in what is free; the first of those."""
        best: tuple[_Place, _Line, Capacity] | None = None
        # What is larger than the largest share that is free fits nowhere.
        bound = -self.size(free)
        for line in self._lines:
            slots = line.slots + 1 if line is leaver and line.slots is not None else line.slots
            found = line.first(free, bound, slots)
            if found is not None and (best is None or found[0] < best[0]):
                best = found[0], line, found[1]
        return best

    def _leave(self, line: _Line, demand: Capacity, job: _Admitted, _: Future[str]) -> None:
        with self._lock:
            # The first of those that came early takes its place, and its room.
            heirs = (heir for heir, wanted in line.early.items() if wanted == demand)
            heir = job if job in line.early else next(heirs, None)
            if heir is not None:
                del line.early[heir]
                heir.is_early = False
            else:
                self._free = self._free.plus(demand)
                if line.slots is not None:
                    line.slots += 1
                line.inside[demand] -= 1
                if not line.inside[demand]:
                    del line.inside[demand]
            self._settled = False
        self._pump()


@functools.cache
def shared_room(capacity: Capacity) -> Room:
    """The one room of that size: all runners of this process that have it share it.

    So the tasks of several runners never get more of the machine than it has.
    """
    return Room(capacity)


class Admission:
    """A gate: what fits goes through at once, the rest waits; see :class:`Room`.

    Args:
        room: What the jobs inside may use together; ``None`` for any amount.
        slots: How many jobs may be inside at once; ``None`` for any number.
        ahead: How many more jobs, for each that is inside, the engine may be handed before
            there is room, where it keeps to the same room by itself: it has the next one at
            hand when one ends. Only while all that are inside ask for the same, so that the
            next is of that size whichever ends, and none waits behind one that does not fit.
    """

    def __init__(self, room: Room | None, slots: int | None, *, ahead: int = 0) -> None:
        self._room: Final = Room(_BOUNDLESS) if room is None else room
        self._line: Final = self._room.line(slots, ahead)

    def size(self, demand: Capacity) -> float:
        """The largest share of the room that ``demand`` takes; 0 where there is any amount."""
        return self._room.size(demand)

    def enter(self, demand: Capacity, start: Start) -> Future[str]:
        """Call ``start`` with the returned future as soon as there is room for ``demand``.

        The future says that it runs once ``start`` is called; the room is given back when
        it ends. What ``start`` raises becomes its exception. A closed gate cancels it.
        """
        return self._room.enter(self._line, demand, start)

    def is_early(self, future: Future[str]) -> bool:
        """Whether a job was let through before there is room for it."""
        return isinstance(future, _Admitted) and future.is_early

    def drop(self) -> None:
        """Cancel the future of every job that waits."""
        for item in self._room.clear(self._line, closes=False):
            _cancel(item.future)

    def close(self) -> None:
        """Let nothing through any more."""
        for item in self._room.clear(self._line, closes=True):
            _cancel(item.future)


_BOUNDLESS: Final = Capacity(math.inf, math.inf, math.inf)


def _share(part: float, whole: float) -> float:
    if not part or whole == math.inf:
        return 0.0
    return part / whole if whole else math.inf


def _cancel(future: Future[str]) -> None:
    # The second call is what tells those who wait for the future.
    if future.cancel():
        future.set_running_or_notify_cancel()
