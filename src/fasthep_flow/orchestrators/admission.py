"""Room for tasks, and the gate that lets them through as it becomes free.

An engine is handed only what it can start at once. So the engine's own queue stays empty:
what has not started can be dropped exactly, and a lost worker takes no job along that it
had not begun.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections import deque
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


class _Waiting(NamedTuple):
    number: int
    start: Start
    future: Future[str]


class Room:
    """What the jobs behind one gate, or behind several, may use together.

    Args:
        capacity: All of it.
    """

    def __init__(self, capacity: Capacity) -> None:
        self._free = capacity
        self._lock: Final = threading.Lock()
        self._gates: Final[weakref.WeakSet[Admission]] = weakref.WeakSet()

    def serve(self, gate: Admission) -> None:
        """Tell this gate, too, when there is more room."""
        with self._lock:
            self._gates.add(gate)

    def take(self, demand: Capacity) -> bool:
        """Whether there was room for ``demand``; it is taken then."""
        with self._lock:
            if not self._free.holds(demand):
                return False
            self._free = self._free.minus(demand)
            return True

    def give_back(self, demand: Capacity) -> None:
        """The room is free again for whoever waits at any of the gates."""
        with self._lock:
            self._free = self._free.plus(demand)
            gates = tuple(self._gates)
        for gate in gates:
            gate.look_again()


@functools.cache
def shared_room(capacity: Capacity) -> Room:
    """The one room of that size: all runners of this process that have it share it.

    So the tasks of several runners never get more of the machine than it has.
    """
    return Room(capacity)


class Admission:
    """A gate: what fits goes through at once, the rest waits.

    The first that fits goes, so that a small task does not wait for a large one.

    Args:
        room: What the jobs inside may use together; ``None`` for any amount.
        slots: How many jobs may be inside at once; ``None`` for any number.
    """

    def __init__(self, room: Room | None, slots: int | None) -> None:
        self._room: Final = room
        self._slots = slots
        self._lock: Final = threading.Lock()
        # By demand: few are distinct, so looking for one that fits is cheap however many wait.
        self._waiting: Final[dict[Capacity, deque[_Waiting]]] = {}
        self._number = 0
        self._pumping = False
        self._again = False
        self._closed = False
        if room is not None:
            room.serve(self)

    def enter(self, demand: Capacity, start: Start) -> Future[str]:
        """Call ``start`` with the returned future as soon as there is room for ``demand``.

        The future says that it runs once ``start`` is called; the room is given back when
        it ends. What ``start`` raises becomes its exception. A closed gate cancels it.
        """
        future: Future[str] = Future()
        with self._lock:
            if self._closed:
                _cancel(future)
                return future
            self._number += 1
            queue = self._waiting.setdefault(demand, deque())
            queue.append(_Waiting(self._number, start, future))
        self._pump()
        return future

    def drop(self) -> None:
        """Cancel the future of every job that waits."""
        with self._lock:
            waiting = [item for queue in self._waiting.values() for item in queue]
            self._waiting.clear()
        for item in waiting:
            _cancel(item.future)

    def close(self) -> None:
        """Let nothing through any more."""
        with self._lock:
            self._closed = True
        self.drop()

    def look_again(self) -> None:
        """Let through what has room now."""
        self._pump()

    def _pump(self) -> None:
        with self._lock:
            # Not re-entrant: jobs that end while they are started must not deepen the stack.
            self._again = True
            if self._pumping:
                return
            self._pumping = True
        while True:
            with self._lock:
                taken = self._take() if self._again else None
                if taken is None:
                    self._again = self._pumping = False
                    return
            demand, item = taken
            if not item.future.set_running_or_notify_cancel():
                self._leave(demand, item.future)
                continue
            item.future.add_done_callback(partial(self._leave, demand))
            try:
                item.start(item.future)
            except BaseException as error:  # noqa: BLE001 - the future is where it is raised
                if not item.future.done():
                    item.future.set_exception(error)

    def _take(self) -> tuple[Capacity, _Waiting] | None:
        if self._slots == 0:
            return None
        first = sorted((queue[0].number, demand) for demand, queue in self._waiting.items())
        for _, demand in first:
            if self._room is None or self._room.take(demand):
                break
        else:
            return None
        queue = self._waiting[demand]
        item = queue.popleft()
        if not queue:
            del self._waiting[demand]
        if self._slots is not None:
            self._slots -= 1
        return demand, item

    def _leave(self, demand: Capacity, _: Future[str]) -> None:
        with self._lock:
            if self._slots is not None:
                self._slots += 1
        if self._room is None:
            self._pump()
        else:
            self._room.give_back(demand)


def _cancel(future: Future[str]) -> None:
    # The second call is what tells those who wait for the future.
    if future.cancel():
        future.set_running_or_notify_cancel()
