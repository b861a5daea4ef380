from concurrent.futures import Future
from functools import partial
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasthep_flow.errors import LimitUnenforceable
from fasthep_flow.model import Resources
from fasthep_flow.orchestrators.admission import (
    Admission,
    Capacity,
    Room,
    demand_of,
    require_room,
    shared_room,
)

ONE = Capacity(1, 0, 0)


class _Engine:
    """Keeps the futures of what was started, in order."""

    def __init__(self) -> None:
        self.started: dict[str, Future[str]] = {}

    def enter(self, gate: Admission, name: str, demand: Capacity = ONE) -> Future[str]:
        return gate.enter(demand, lambda future: self.started.__setitem__(name, future))

    def end(self, name: str) -> None:
        self.started[name].set_result(name)


def test_what_fits_starts_and_the_rest_waits_for_room() -> None:
    gate, engine = Admission(Room(Capacity(2, 0, 0)), None), _Engine()
    futures = [engine.enter(gate, name) for name in "abc"]
    assert list(engine.started) == ["a", "b"]
    assert [future.running() for future in futures] == [True, True, False]
    engine.end("b")
    assert list(engine.started) == ["a", "b", "c"]


def test_no_more_start_than_there_are_slots() -> None:
    gate, engine = Admission(None, 1), _Engine()
    for name in "ab":
        engine.enter(gate, name)
    assert list(engine.started) == ["a"]
    engine.end("a")
    assert list(engine.started) == ["a", "b"]


def test_a_small_job_does_not_wait_for_a_large_one() -> None:
    gate, engine = Admission(Room(Capacity(2, 0, 0)), None), _Engine()
    engine.enter(gate, "first")
    engine.enter(gate, "large", Capacity(2, 0, 0))
    engine.enter(gate, "small")
    assert list(engine.started) == ["first", "small"]
    engine.end("first")
    engine.end("small")
    assert list(engine.started) == ["first", "small", "large"]


def test_jobs_that_ask_for_the_same_start_in_their_order() -> None:
    gate, engine = Admission(Room(ONE), None), _Engine()
    names = [str(number) for number in range(20)]
    for name in names:
        engine.enter(gate, name)
    for name in names:
        engine.end(name)
    assert list(engine.started) == names


def test_memory_and_devices_are_room_too() -> None:
    gate, engine = Admission(Room(Capacity(8, 100, 1)), None), _Engine()
    engine.enter(gate, "device", Capacity(1, 60, 1))
    engine.enter(gate, "memory", Capacity(1, 60, 0))
    engine.enter(gate, "second device", Capacity(1, 0, 1))
    assert list(engine.started) == ["device"]
    engine.end("device")
    assert set(engine.started) == {"device", "memory", "second device"}


def test_tenths_of_a_processor_add_up_again() -> None:
    whole = Capacity(4, 0, 0)
    gate, engine = Admission(Room(whole), None), _Engine()
    tenth = demand_of(Resources(cpus=0.1))
    for number in range(31):
        engine.enter(gate, str(number), tenth)
    engine.enter(gate, "whole", whole)
    for number in range(31):
        engine.end(str(number))
    assert "whole" in engine.started


def test_dropping_cancels_what_waits_and_leaves_what_runs() -> None:
    gate, engine = Admission(Room(ONE), None), _Engine()
    running, waiting = engine.enter(gate, "running"), engine.enter(gate, "waiting")
    gate.drop()
    assert waiting.cancelled()
    assert running.running()
    engine.end("running")
    assert list(engine.started) == ["running"]
    engine.enter(gate, "later")
    assert list(engine.started) == ["running", "later"]


def test_a_closed_gate_cancels_what_comes() -> None:
    gate, engine = Admission(Room(ONE), None), _Engine()
    gate.close()
    assert engine.enter(gate, "late").cancelled()
    assert not engine.started


def test_a_job_that_its_owner_cancelled_takes_no_room() -> None:
    gate, engine = Admission(Room(ONE), None), _Engine()
    engine.enter(gate, "first")
    second = engine.enter(gate, "second")
    engine.enter(gate, "third")
    assert second.cancel()
    engine.end("first")
    assert list(engine.started) == ["first", "third"]


def test_what_a_start_raises_is_its_futures_and_gives_the_room_back() -> None:
    gate = Admission(Room(ONE), None)

    def fail(_: Future[str]) -> None:
        raise ConnectionError("the engine is gone")

    # Many, since each lets the next one through: the stack must not grow.
    futures = [gate.enter(ONE, fail) for _ in range(5000)]
    assert all(isinstance(future.exception(), ConnectionError) for future in futures)


def test_many_waiting_jobs_that_end_at_once_do_not_deepen_the_stack() -> None:
    gate, engine = Admission(Room(ONE), None), _Engine()
    engine.enter(gate, "first")
    rest = [gate.enter(ONE, lambda future: future.set_result("")) for _ in range(5000)]
    engine.end("first")
    assert all(future.done() for future in rest)


@pytest.mark.parametrize(
    ("resources", "demand"),
    [
        (Resources(), Capacity(1, 0, 0)),
        (Resources(cpus=0.5, memory=2**30), Capacity(0.5, 2**30, 0)),
        (Resources(process_on="gpu"), Capacity(1, 0, 1)),
        (Resources(process_on="gpu", gpus=2), Capacity(1, 0, 2)),
        # Decided where the task runs: it does not wait for a device.
        (Resources(process_on="gpu_if_available", gpus=2), Capacity(1, 0, 0)),
        (Resources(gpus=2), Capacity(1, 0, 0)),
    ],
)
def test_demand_of_a_task(resources: Resources, demand: Capacity) -> None:
    assert demand_of(resources) == demand


def test_a_refusal_names_the_task_and_both_amounts() -> None:
    with pytest.raises(LimitUnenforceable) as caught:
        require_room("a worker", Capacity(2, 2**33, 0), Capacity(4, 2**34, 1), "fit")
    assert str(caught.value).startswith(
        "task 'fit' asks for more than a worker has: "
        "4 cpus, 16Gi memory, 1 gpus of 2 cpus, 8Gi memory\n"
    )


MACHINE = Capacity(4, 64, 2)
DEMANDS = st.builds(
    Capacity,
    st.integers(0, 4096).map(lambda part: part / 1024),
    st.integers(0, 64),
    st.integers(0, 2),
)


class _Station:
    """Gates of one room, and engines behind them that a test ends the jobs of."""

    def __init__(self, slots: list[int | None]) -> None:
        self.room = Room(MACHINE)
        self.gates = [Admission(self.room, most) for most in slots]
        self.slots = slots
        self.waiting: dict[int, tuple[int, Capacity]] = {}
        self.inside: dict[int, tuple[int, Capacity, Future[str]]] = {}
        self._number = 0

    def enter(self, gate: int, demand: Capacity) -> None:
        self._number += 1
        number = self._number
        self.waiting[number] = gate, demand

        def start(future: Future[str]) -> None:
            places = {one: self._place(one) for one in self.waiting if self.fits(one)}
            # What could have gone in its place was smaller, or came later.
            assert places[number] == min(places.values())
            del self.waiting[number]
            self.inside[number] = gate, demand, future

        self.gates[gate].enter(demand, start)

    def end(self, number: int) -> None:
        self.inside.pop(number)[2].set_result("")

    def free(self) -> Capacity:
        free = MACHINE
        for _, demand, _ in self.inside.values():
            free = free.minus(demand)
        return free

    def fits(self, number: int) -> bool:
        gate, demand = self.waiting[number]
        inside = sum(one[0] == gate for one in self.inside.values())
        most = self.slots[gate]
        return (most is None or inside < most) and self.free().holds(demand)

    def _place(self, number: int) -> tuple[float, int]:
        return -size(self.waiting[number][1]), number


def size(demand: Capacity) -> float:
    return max(demand.cpus / 4, demand.memory / 64, demand.gpus / 2)


@given(
    slots=st.lists(st.none() | st.integers(1, 4), min_size=1, max_size=3),
    steps=st.lists(st.tuples(st.integers(0, 2), DEMANDS) | st.none(), max_size=60),
    order=st.randoms(use_true_random=False),
)
def test_a_room_is_never_overfull_and_never_idle_while_something_fits(
    slots: list[int | None], steps: list[tuple[int, Capacity] | None], order: Random
) -> None:
    station = _Station(slots)

    def look() -> None:
        # Over capacity something of it would be less than nothing.
        assert min(station.free()) >= 0
        assert station.room.free == station.free()
        assert not any(station.fits(number) for number in station.waiting)

    for step in steps:
        if step is not None:
            station.enter(step[0] % len(slots), step[1])
        elif station.inside:
            station.end(order.choice(sorted(station.inside)))
        look()
    while station.inside:
        station.end(order.choice(sorted(station.inside)))
        look()
    # Each of them fits on an empty machine, so all have run; and not a crumb is lost.
    assert not station.waiting
    assert station.room.free == MACHINE


@given(demands=st.lists(DEMANDS, min_size=1, max_size=40))
def test_what_waits_goes_largest_first(demands: list[Capacity]) -> None:
    gate, engine = Admission(Room(MACHINE), 1), _Engine()
    engine.enter(gate, "first")
    for number, demand in enumerate(demands):
        engine.enter(gate, str(number), demand)
    for _ in demands:
        engine.end(list(engine.started)[-1])
    wanted = sorted(range(len(demands)), key=lambda number: -size(demands[number]))
    assert list(engine.started) == ["first", *map(str, wanted)]


def test_small_jobs_fill_what_large_ones_leave_over() -> None:
    gate, engine = Admission(Room(Capacity(4, 0, 0)), None), _Engine()
    engine.enter(gate, "all", Capacity(4, 0, 0))
    for name, cpus in (("half", 0.5), ("three", 3), ("two", 2), ("one", 1)):
        engine.enter(gate, name, Capacity(cpus, 0, 0))
    engine.end("all")
    assert list(engine.started) == ["all", "three", "one"]
    engine.end("three")
    assert list(engine.started) == ["all", "three", "one", "two", "half"]


def test_of_jobs_at_several_gates_the_largest_goes_first() -> None:
    room = Room(Capacity(2, 0, 0))
    first, second, engine = Admission(room, None), Admission(room, None), _Engine()
    engine.enter(first, "all", Capacity(2, 0, 0))
    engine.enter(first, "small")
    engine.enter(second, "large", Capacity(2, 0, 0))
    engine.end("all")
    assert list(engine.started) == ["all", "large"]


def test_a_gate_that_is_full_holds_up_no_other() -> None:
    room = Room(Capacity(2, 0, 0))
    first, second, engine = Admission(room, 1), Admission(room, None), _Engine()
    for name in "ab":
        engine.enter(first, name)
    engine.enter(second, "c")
    assert list(engine.started) == ["a", "c"]


def test_without_a_room_jobs_go_in_order() -> None:
    gate, engine = Admission(None, 1), _Engine()
    for name, cpus in (("a", 1), ("small", 1), ("large", 64)):
        engine.enter(gate, name, Capacity(cpus, 0, 0))
    engine.end("a")
    assert list(engine.started) == ["a", "small"]


def test_what_comes_next_may_come_early_where_the_engine_keeps_to_the_room() -> None:
    room = Room(Capacity(2, 0, 0))
    gate, engine = Admission(room, None, ahead=1), _Engine()
    for number in range(6):
        engine.enter(gate, str(number))
    # Two have room, and each of them has one behind it.
    assert list(engine.started) == ["0", "1", "2", "3"]
    early = [name for name, future in engine.started.items() if gate.is_early(future)]
    assert early == ["2", "3"]
    engine.end("0")
    assert list(engine.started) == ["0", "1", "2", "3", "4"]
    assert room.free == Capacity(0, 0, 0)
    # Whichever the engine begins first: the room is that of two.
    for name in ("3", "2", "4", "1", "5"):
        engine.end(name)
    assert room.free == Capacity(2, 0, 0)


def test_nothing_comes_early_that_might_not_be_next() -> None:
    room = Room(Capacity(4, 0, 0))
    gate, engine = Admission(room, None, ahead=3), _Engine()
    engine.enter(gate, "three", Capacity(3, 0, 0))
    engine.enter(gate, "one")
    # Inside are different sizes: nobody knows what will fit.
    engine.enter(gate, "another")
    assert list(engine.started) == ["three", "one"]
    engine.end("one")
    engine.enter(gate, "large", Capacity(3, 0, 0))
    assert list(engine.started) == ["three", "one", "another"]
    engine.end("another")
    assert list(engine.started) == ["three", "one", "another", "large"]
    engine.enter(gate, "larger", Capacity(4, 0, 0))
    engine.enter(gate, "small", ONE)
    # Room for the small one there is; the larger one is not of the size that ends.
    assert list(engine.started) == ["three", "one", "another", "large", "small"]


def test_gates_of_one_room_keep_their_order_with_one_that_is_ahead() -> None:
    room = Room(ONE)
    first, second, engine = Admission(room, None, ahead=2), Admission(room, None), _Engine()
    engine.enter(first, "a")
    engine.enter(second, "b")
    engine.enter(first, "c")
    # The other gate's is next.
    assert list(engine.started) == ["a"]
    engine.end("a")
    assert list(engine.started) == ["a", "b"]
    engine.end("b")
    assert list(engine.started) == ["a", "b", "c"]


@given(
    ahead=st.integers(1, 3),
    demands=st.lists(st.sampled_from([1, 2, 4]), max_size=30),
    order=st.randoms(use_true_random=False),
)
def test_an_engine_that_has_jobs_early_never_has_more_than_its_room_to_run(
    ahead: int, demands: list[int], order: Random
) -> None:
    room = Room(MACHINE)
    gate = Admission(room, None, ahead=ahead)
    running: list[tuple[int, Future[str]]] = []
    at_hand: list[tuple[int, Future[str]]] = []
    ended = 0

    def start(cpus: int, future: Future[str]) -> None:
        (at_hand if gate.is_early(future) else running).append((cpus, future))

    def begin() -> None:
        # As an engine does: the first at hand that fits in what it has.
        for item in list(at_hand):
            if sum(cpus for cpus, _ in running) + item[0] <= MACHINE.cpus:
                at_hand.remove(item)
                running.append(item)

    for cpus in demands:
        gate.enter(Capacity(cpus, 0, 0), partial(start, cpus))
    while running:
        assert sum(cpus for cpus, _ in running) <= MACHINE.cpus
        assert len(at_hand) <= ahead * len(running)
        item = order.choice(running)
        running.remove(item)
        # The engine goes on by itself before it is known here that a job has ended.
        begin()
        item[1].set_result("")
        ended += 1
    assert ended == len(demands)
    assert not at_hand
    assert room.free == MACHINE


def test_ten_thousand_that_wait_are_looked_through_only_when_room_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = 0
    holds = Capacity.holds

    def counted(self: Capacity, other: Capacity) -> bool:
        nonlocal looks
        looks += 1
        return holds(self, other)

    monkeypatch.setattr(Capacity, "holds", counted)
    gate, engine = Admission(Room(Capacity(2, 20_000, 0)), None), _Engine()
    engine.enter(gate, "first", Capacity(2, 20_000, 0))
    # All different, and none fits.
    for number in range(10_000):
        engine.enter(gate, str(number), Capacity(1, 10_000 + number, 0))
    assert looks < 20_000
    engine.end("first")
    # The largest fits, and then none; one look each at what is not too large anyhow.
    assert list(engine.started) == ["first", "9999"]
    assert looks < 40_000
    engine.end("9999")
    assert list(engine.started)[-1] == "9998"
    assert looks < 40_000


def test_gates_of_one_room_let_through_no_more_than_it_holds() -> None:
    room = Room(Capacity(2, 0, 0))
    first, second, engine = Admission(room, None), Admission(room, 1), _Engine()
    engine.enter(first, "a")
    engine.enter(second, "b")
    waiting = engine.enter(first, "c")
    assert list(engine.started) == ["a", "b"]
    assert not waiting.running()
    engine.end("b")
    assert list(engine.started) == ["a", "b", "c"]


def test_what_waits_at_one_gate_goes_through_when_another_gives_room_back() -> None:
    room = Room(ONE)
    first, second, engine = Admission(room, None), Admission(room, None), _Engine()
    engine.enter(first, "a")
    engine.enter(second, "b")
    assert list(engine.started) == ["a"]
    engine.end("a")
    assert list(engine.started) == ["a", "b"]


def test_runners_of_one_machine_share_its_room() -> None:
    machine = Capacity(2, 100, 0)
    assert shared_room(machine) is shared_room(Capacity(2, 100, 0))
    assert shared_room(machine) is not shared_room(Capacity(8, 100, 0))
