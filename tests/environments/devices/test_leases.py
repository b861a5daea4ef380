"""Devices of a task's own, held by the kernel's locks."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fasthep_flow.environments.devices.choice import DeviceChoice
from fasthep_flow.environments.devices.leases import device_for
from fasthep_flow.errors import DeviceUnavailable
from fasthep_flow.model import Device, Gpu, ProcessOn, Resources
from fasthep_flow.testing.devices import machine_with

FOUR = tuple(Gpu(id=f"GPU-{index}", free=index) for index in range(4))


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for name in ("CUDA_VISIBLE_DEVICES", "FASTHEP_TASK_DIRECTORY", "FASTHEP_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    with machine_with(*FOUR):
        yield


def take(
    held: ExitStack,
    process_on: ProcessOn = "gpu",
    gpus: int = 1,
    *,
    versions: tuple[Device, ...] = ("cpu", "gpu"),
    is_stopped: Callable[[], bool] = lambda: False,
    waits: Callable[[str], None] = lambda _: None,
) -> DeviceChoice:
    resources = Resources(process_on=process_on, gpus=gpus)
    return held.enter_context(
        device_for(
            resources,
            versions=versions,
            lends=lambda _: None,
            is_stopped=is_stopped,
            waits=waits,
        )
    )


def ids(choice: DeviceChoice) -> set[str]:
    return {gpu.id for gpu in choice.devices}


def test_the_one_with_the_most_free_memory_is_taken_first() -> None:
    with ExitStack() as held:
        assert [ids(take(held)) for _ in FOUR] == [{f"GPU-{index}"} for index in (3, 2, 1, 0)]
    with ExitStack() as held:
        assert ids(take(held, gpus=3)) == {"GPU-3", "GPU-2", "GPU-1"}
        assert ids(take(held)) == {"GPU-0"}


def test_a_task_that_can_do_without_says_that_all_are_in_use() -> None:
    with ExitStack() as held:
        take(held, gpus=3)
        choice = take(held, "gpu_if_available", 2)
        assert (choice.device, choice.reason) == (
            "cpu",
            "no gpu: 2 devices are asked for, and fewer of the 4 here are free of other tasks",
        )
        assert take(held, "gpu_if_available").device == "gpu"
        choice = take(held, "gpu_if_available")
        assert (choice.device, choice.reason) == (
            "cpu",
            "no gpu: 4 of 4 devices are in use by other tasks",
        )
    with ExitStack() as held:
        assert take(held, "gpu_if_available", 4).device == "gpu"


class Waiting:
    """A task that waits for devices, in a thread."""

    def __init__(self, process_on: ProcessOn = "gpu", gpus: int = 1, **more: tuple[Device]) -> None:
        self.looked = threading.Event()
        self.is_to_stop = False
        self.choice: DeviceChoice | None = None
        self.error: DeviceUnavailable | None = None
        self.may_end = threading.Event()
        self._arguments = process_on, gpus, more
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _is_stopped(self) -> bool:
        self.looked.set()
        return self.is_to_stop

    def _run(self) -> None:
        process_on, gpus, more = self._arguments
        try:
            with ExitStack() as held:
                self.choice = take(held, process_on, gpus, is_stopped=self._is_stopped, **more)  # type: ignore[arg-type]
                self.looked.set()
                self.may_end.wait(60)
        except DeviceUnavailable as error:
            self.error = error

    def devices(self) -> set[str]:
        """The ids of those that it has got by now."""
        return set() if self.choice is None else ids(self.choice)

    def end(self) -> None:
        self.may_end.set()
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.mark.parametrize(
    ("process_on", "versions"),
    [("gpu", ("cpu", "gpu")), ("gpu", ("gpu",)), ("gpu_if_available", ("gpu",))],
)
def test_a_task_that_must_have_one_waits(
    process_on: ProcessOn, versions: tuple[Device, ...]
) -> None:
    with ExitStack() as held:
        take(held, gpus=4)
        waiting = Waiting(process_on, versions=versions)  # type: ignore[arg-type]
        assert waiting.looked.wait(60)
        assert waiting.devices() == set()
    waiting.end()
    assert waiting.devices() == {"GPU-3"}


def test_nothing_is_taken_from_under_a_task_that_waits() -> None:
    with ExitStack() as held:
        take(held, gpus=3)
        waiting = Waiting(gpus=4)
        assert waiting.looked.wait(60)
        choice = take(held, "gpu_if_available")
        assert (choice.device, choice.reason) == (
            "cpu",
            "no gpu: other tasks wait for the devices here",
        )
        behind = Waiting()
        assert behind.looked.wait(60)
        assert behind.devices() == set()
    wait_until_chosen(waiting)
    assert behind.devices() == set()
    waiting.end()
    behind.end()
    assert (len(waiting.devices()), len(behind.devices())) == (4, 1)


def wait_until_chosen(waiting: Waiting) -> None:
    tick = threading.Event()
    for _ in range(6000):
        if waiting.devices():
            return
        tick.wait(0.01)
    raise AssertionError("it still waits")


def test_a_run_that_is_stopped_waits_no_longer() -> None:
    with ExitStack() as held:
        take(held, gpus=4)
        waiting = Waiting()
        assert waiting.looked.wait(60)
        waiting.is_to_stop = True
        waiting.end()
        assert waiting.devices() == set()
        assert "was stopped while the task waited" in str(waiting.error)
        # Nobody is left in the queue.
    with ExitStack() as held:
        assert take(held, "gpu_if_available", 4).device == "gpu"


def test_the_tasks_of_a_task_share_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A workflow within a task would else wait for that task to end."""
    with ExitStack() as held:
        own = next(iter(ids(take(held))))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", own)
        monkeypatch.setenv("FASTHEP_TASK_DIRECTORY", "/analysis/output/run/tasks/outer/1")
        monkeypatch.setenv("FASTHEP_DEVICE", "gpu")
        assert ids(take(held)) == {own}
        assert take(held, "gpu_if_available").reason == (
            "no gpu: 1 of 1 devices are in use by other tasks"
        )


def test_without_a_place_for_locks_no_device_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(_: str) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("fasthep_flow.environments.devices.leases.lock_file", nowhere)
    with ExitStack() as held, pytest.raises(DeviceUnavailable, match="no place for locks"):
        take(held)


TAKER = """
import json, subprocess, sys
from fasthep_flow.environments.devices.leases import device_for
from fasthep_flow.model import Gpu, Resources
from fasthep_flow.testing.devices import machine_with

ids, process_on, gpus, child = json.loads(sys.argv[1])
tell = lambda said: print(json.dumps(said), flush=True)
resources = Resources(process_on=process_on, gpus=gpus)
with machine_with(*(Gpu(id=one) for one in ids)):
    with device_for(
        resources, versions=("cpu", "gpu"), lends=lambda _: None, waits=tell
    ) as choice:
        if child:
            tell(subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL).pid)
        tell([gpu.id for gpu in choice.devices])
        sys.stdin.read()
"""


class Taker:
    """A process that takes devices, and has them until it is told to end or is killed."""

    def __init__(
        self,
        process_on: ProcessOn = "gpu",
        gpus: int = 1,
        *,
        devices: tuple[str, ...] = ("GPU-0", "GPU-1"),
        child: bool = False,
    ) -> None:
        asked = json.dumps([devices, process_on, gpus, child])
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKER, asked],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def said(self) -> object:
        """What it says next: for what it waits, or which devices it has got."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "it has ended"
        return json.loads(line)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> None:
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0


@pytest.fixture
def takers() -> Iterator[Callable[..., Taker]]:
    started: list[Taker] = []

    def start(*words: ProcessOn | int, **more: object) -> Taker:
        started.append(Taker(*words, **more))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for taker in started:
        taker.kill()


Takers = Callable[..., Taker]


class TestProcesses:
    def test_the_devices_of_one_that_is_killed_are_free(self, takers: Takers) -> None:
        first, second = takers(gpus=2), None
        assert first.said() == ["GPU-0", "GPU-1"]
        second = takers()
        assert second.said() == ("waiting for a gpu: 2 of 2 devices are in use by other tasks")
        first.kill()
        assert second.said() == ["GPU-0"]
        second.end()

    def test_what_it_has_started_does_not_hold_them(self, takers: Takers) -> None:
        """A task that outlives its driver is ended by the next run; it keeps no device."""
        first = takers(gpus=2, child=True)
        pid = first.said()
        assert isinstance(pid, int)
        try:
            assert first.said() == ["GPU-0", "GPU-1"]
            first.kill()
            assert takers("gpu_if_available", 2).said() == ["GPU-0", "GPU-1"]
        finally:
            os.kill(pid, signal.SIGKILL)

    def test_one_that_is_suspended_keeps_them(self, takers: Takers) -> None:
        first = takers(gpus=2)
        assert first.said() == ["GPU-0", "GPU-1"]
        first.process.send_signal(signal.SIGSTOP)
        assert takers("gpu_if_available").said() == []
        first.process.send_signal(signal.SIGCONT)
        first.end()
        assert takers("gpu_if_available").said() == ["GPU-0"]

    def test_one_that_is_killed_while_it_waits_is_waited_for_no_more(self, takers: Takers) -> None:
        one = takers()
        assert one.said() == ["GPU-0"]
        waiting = takers(gpus=2)
        assert isinstance(waiting.said(), str)
        # It is next, so nobody is to take the one that is free.
        assert takers("gpu_if_available").said() == []
        behind = takers()
        assert behind.said() == "waiting for a gpu: other tasks wait for the devices here"
        waiting.kill()
        assert behind.said() == ["GPU-1"]
        behind.end()
        assert takers("gpu_if_available").said() == ["GPU-1"]

    def test_they_are_known_by_their_ids_in_whatever_order(self, takers: Takers) -> None:
        """Two jobs of a batch system may see the devices of a machine by other numbers."""
        assert takers(devices=("GPU-1", "GPU-0")).said() == ["GPU-1"]
        assert takers(devices=("GPU-1",)).said() == (
            "waiting for a gpu: 1 of 1 devices are in use by other tasks"
        )
        assert takers("gpu_if_available", devices=("GPU-2",)).said() == ["GPU-2"]

    def test_more_than_there_are_never_share_one(self, takers: Takers) -> None:
        """Eight processes on four devices; each that ends lets exactly one of the others go on."""
        four = tuple(f"GPU-{index}" for index in range(4))
        running: dict[str, Taker] = {}
        waiting = []
        for _ in range(8):
            taker = takers(devices=four)
            said = taker.said()
            if isinstance(said, list):
                (device,) = said
                assert device not in running
                running[device] = taker
            else:
                waiting.append(taker)
        assert (set(running), len(waiting)) == (set(four), 4)
        for number, device in enumerate(four):
            running[device].end() if number % 2 else running[device].kill()
        # All of them are free: each of the others gets one, and no two the same.
        got = [taker.said() for taker in waiting]
        assert sorted(map(str, got)) == sorted(str([device]) for device in four)
        for taker in waiting:
            taker.end()


def test_who_waits_is_told_for_what() -> None:
    told: list[str] = []
    with ExitStack() as held:
        take(held, gpus=3, waits=told.append)
        assert told == []
        with ExitStack() as other, pytest.raises(DeviceUnavailable):
            take(other, gpus=2, is_stopped=lambda: True, waits=told.append)
    (line,) = told
    assert line.startswith("waiting for 2 gpus: 2 devices are asked for, and fewer of the 4 here")
