"""What the scheduler waits for."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty

import pytest

from fasthep_flow.arrivals import Arrivals
from fasthep_flow.execution.reaper import Reaper


class Offering:
    """A runner that offers its processes."""

    def __init__(self) -> None:
        self.reapers: list[Reaper] = []
        self.is_attended = False

    @contextmanager
    def attend(self, reaper: Reaper) -> Iterator[None]:
        self.reapers.append(reaper)
        self.is_attended = True
        yield
        self.is_attended = False


@pytest.fixture(params=[[], [Offering(), object(), Offering()]], ids=["nobody", "runners"])
def arrivals(request: pytest.FixtureRequest) -> Iterator[Arrivals[int]]:
    made: Arrivals[int] = Arrivals()
    with made.attending(request.param):
        yield made


def test_items_come_in_order(arrivals: Arrivals[int]) -> None:
    arrivals.put(1)
    arrivals.put(2)
    assert [arrivals.get(wait=True), arrivals.get(wait=False)] == [1, 2]


def test_what_has_not_come_is_not_waited_for_longer_than_said(arrivals: Arrivals[int]) -> None:
    arrivals.look()
    with pytest.raises(Empty):
        arrivals.get(wait=False)
    with pytest.raises(Empty):
        arrivals.get(wait=True, timeout_s=0.01)


def test_another_thread_ends_the_waiting(arrivals: Arrivals[int]) -> None:
    thread = threading.Thread(target=arrivals.put, args=(7,))
    thread.start()
    assert arrivals.get(wait=True) == 7
    thread.join()


def test_a_signal_ends_the_waiting(arrivals: Arrivals[int]) -> None:
    before = signal.signal(signal.SIGALRM, lambda *_: arrivals.put(9, is_signal=True))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert arrivals.get(wait=True) == 9
    finally:
        signal.signal(signal.SIGALRM, before)


def test_runners_that_offer_their_processes_share_one_waiting() -> None:
    arrivals: Arrivals[int] = Arrivals()
    one, other = Offering(), Offering()
    with arrivals.attending([one, object(), other]):
        assert [one.is_attended, other.is_attended] == [True, True]
        assert one.reapers == other.reapers
    assert [one.is_attended, other.is_attended] == [False, False]


def test_where_the_system_cannot_do_that_runners_wait_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Reaper, "is_possible", staticmethod(lambda: False))
    arrivals: Arrivals[int] = Arrivals()
    runner = Offering()
    with arrivals.attending([runner]):
        assert not runner.is_attended
        arrivals.put(1)
        assert arrivals.get(wait=True) == 1
