from concurrent.futures import Future
from itertools import pairwise
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


@given(
    room=st.integers(1, 8),
    slots=st.integers(1, 8),
    demands=st.lists(st.integers(1, 80), max_size=30),
    order=st.randoms(use_true_random=False),
)
def test_the_room_is_never_exceeded_and_everything_runs(
    room: int, slots: int, demands: list[int], order: Random
) -> None:
    gate, engine = Admission(Room(Capacity(room, 0, 0)), slots), _Engine()
    asked = {
        str(number): demand_of(Resources(cpus=min(tenths / 10, room)))
        for number, tenths in enumerate(demands)
    }
    for name, demand in asked.items():
        engine.enter(gate, name, demand)
    while inside := [name for name, future in engine.started.items() if not future.done()]:
        assert sum(asked[name].cpus for name in inside) <= room
        assert len(inside) <= slots
        engine.end(order.choice(inside))
    assert engine.started.keys() == asked.keys()
    same = [name for name in engine.started if asked[name] == ONE]
    assert all(int(one) < int(other) for one, other in pairwise(same))


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
