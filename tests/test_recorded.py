"""Records on their way to the disk."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from fasthep_flow.errors import RecordError
from fasthep_flow.recorded import Recorded, Synced


class Disk:
    """Takes as long as it is told to."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.syncs = 0
        self.error: RecordError | None = None

    def sync(self) -> None:
        self.syncs += 1
        assert self.may_end.wait(60)
        if self.error is not None:
            raise self.error


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def told() -> SimpleQueue[Synced]:
    return SimpleQueue()


@pytest.fixture
def recorded(disk: Disk, told: SimpleQueue[Synced]) -> Iterator[Recorded[str]]:
    with Recorded[str](disk.sync, told.put) as made:
        yield made
        disk.may_end.set()


def test_what_is_awaited_is_given_back_once_it_is_on_disk(
    recorded: Recorded[str], disk: Disk, told: SimpleQueue[Synced]
) -> None:
    assert not recorded
    recorded.add("a", is_awaited=True)
    assert recorded.on_disk(at_once=False) == []
    assert recorded
    disk.may_end.set()
    assert recorded.synced(told.get()) == ["a"]
    assert not recorded


def test_what_is_recorded_meanwhile_goes_with_the_next_one_together(
    recorded: Recorded[str], disk: Disk, told: SimpleQueue[Synced]
) -> None:
    recorded.add("a", is_awaited=True)
    recorded.on_disk(at_once=False)
    for name in "bcd":
        recorded.add(name, is_awaited=True)
        assert recorded.on_disk(at_once=False) == []
    disk.may_end.set()
    assert recorded.synced(told.get()) == ["a"]
    assert recorded.on_disk(at_once=False) == []
    assert recorded.synced(told.get()) == ["b", "c", "d"]
    assert disk.syncs == 2


def test_all_of_it_is_waited_for_where_nothing_else_is_to_be_done(
    recorded: Recorded[str], disk: Disk
) -> None:
    disk.may_end.set()
    recorded.add("a", is_awaited=False)
    recorded.add("b", is_awaited=True)
    assert recorded.on_disk(at_once=True) == ["a", "b"]
    assert recorded.on_disk(at_once=True) == []
    assert disk.syncs == 1


def test_what_nothing_waits_for_does_not_wait_for_ever(
    recorded: Recorded[str], disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    disk.may_end.set()
    recorded.add("a", is_awaited=False)
    assert recorded.on_disk(at_once=True) == ["a"]
    recorded.add("b", is_awaited=False)
    assert recorded.on_disk(at_once=False) == []
    assert recorded.longest_wait_s is not None
    assert disk.syncs == 1
    now_s += 2 * recorded.longest_wait_s
    recorded.on_disk(at_once=False)
    assert recorded.longest_wait_s is None


@pytest.mark.parametrize("at_once", [False, True])
def test_a_disk_that_fails_is_an_error_and_nothing_is_given_back(
    recorded: Recorded[str], disk: Disk, told: SimpleQueue[Synced], at_once: bool
) -> None:
    disk.error = RecordError("the disk is full")
    disk.may_end.set()
    recorded.add("a", is_awaited=True)
    with pytest.raises(RecordError, match="full"):
        recorded.on_disk(at_once=at_once) or recorded.synced(told.get())
