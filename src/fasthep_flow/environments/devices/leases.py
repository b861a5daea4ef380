"""Devices of a task's own: no other task of the user's on this machine has them meanwhile."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

import msgspec

from fasthep_flow.environments.devices.choice import (
    DeviceChoice,
    choose_device,
    lendable,
    on_the_cpu,
)
from fasthep_flow.environments.devices.inventory import inventory
from fasthep_flow.environments.host.leases import lease
from fasthep_flow.environments.host.locks import lock_file
from fasthep_flow.errors import DeviceUnavailable
from fasthep_flow.model import Device, Gpu, Resources

__all__ = ["device_for"]

_LOOK_EVERY_S: Final = 0.1
"""A kernel lock that several may give back cannot be waited for; a look costs a microsecond."""


@contextmanager
def device_for(
    resources: Resources,
    *,
    versions: Collection[Device],
    lends: Callable[[Sequence[Gpu]], str | None],
    is_stopped: Callable[[], bool] = lambda: False,
    waits: Callable[[str], None] = lambda _: None,
) -> Iterator[DeviceChoice]:
    """Where a task runs; its devices are its own for as long as the context lasts.

    A task that must have devices waits until so many are free: one after the other, so that
    one which asks for several is not left waiting by those which ask for one. A task that can
    do without takes what is free, and nothing that another one waits for.

    Args:
        resources: What it asks for.
        versions: The kinds of device that there is something to run on.
        lends: ``None`` where its runtime can give it these devices, else why not.
        is_stopped: Whether nobody waits for it any more.
        waits: Is told for what it waits, where it does.

    Raises:
        DeviceUnavailable: It cannot run there; with the reason.
    """
    asked, count = resources.process_on, resources.gpus or 1
    found = () if asked == "cpu" else inventory()
    if not isinstance(found, str):
        found = tuple(sorted(found, key=lambda gpu: -gpu.free))
    choice = choose_device(asked, gpus=count, versions=versions, devices=found, lends=lends)
    usable = lendable(found, count, lends) if choice.device == "gpu" else ""
    if isinstance(usable, str):
        yield choice
        return
    must_wait = asked == "gpu" or "cpu" not in versions
    with ExitStack() as held:
        own = _own(usable, count, held, is_stopped if must_wait else None, waits)
        if isinstance(own, str):
            yield on_the_cpu(own, versions)
            return
        yield msgspec.structs.replace(choice, devices=tuple(gpu for gpu in usable if gpu.id in own))


def _own(
    usable: Sequence[Gpu],
    count: int,
    held: ExitStack,
    is_stopped: Callable[[], bool] | None,
    waits: Callable[[str], None],
) -> tuple[str, ...] | str:
    """The ids of those that are the task's own; or why there are none, where it does not wait.

    Raises:
        DeviceUnavailable: It waited, and nobody waits for it any more; or there are no locks.
    """
    kind, ids = _kind(), [gpu.id for gpu in usable]

    def taken() -> tuple[str, ...]:
        with ExitStack() as attempt:
            own = attempt.enter_context(lease(kind, ids, count))
            if own:
                held.push(attempt.pop_all())
            return own

    # Who waits has the queue to itself; who only looks shares it with others that look.
    with _queue(kind, ids) as enter:
        has_entered = enter(fcntl.LOCK_SH)
        if has_entered and (own := taken()):
            return own
        in_use = _in_use(len(usable), count, is_waited_for=not has_entered)
        if is_stopped is None:
            return in_use
        waits(f"waiting for {'a gpu' if count == 1 else f'{count} gpus'}: {in_use}")
        while not enter(fcntl.LOCK_EX):
            _wait(is_stopped)
        while not (own := taken()):
            _wait(is_stopped)
        return own


@contextmanager
def _queue(kind: str, ids: Sequence[str]) -> Iterator[Callable[[int], bool]]:
    """What enters the queue for devices, in one of flock(2)'s ways; whether that could be.

    Each device has a queue of its own, and who enters is in those of all that it could use: two
    jobs of a batch system that share no device are not in each other's way.

    Raises:
        DeviceUnavailable: There is no place for locks.
    """
    with ExitStack() as opened:
        descriptors = []
        try:
            for identity in sorted(ids):
                descriptors.append(lock_file(f"{kind} queue {identity}"))
                opened.callback(os.close, descriptors[-1])
        except OSError as error:
            raise DeviceUnavailable(
                "no device can be kept for a task alone, for there is no place for locks:"
                f" {error.strerror or error}",
                hint="set XDG_RUNTIME_DIR to a folder of your own",
            ) from None

        def enter(how: int) -> bool:
            try:
                for descriptor in descriptors:
                    fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            except BlockingIOError:
                for descriptor in descriptors:
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
                return False
            except OSError as error:
                raise DeviceUnavailable(
                    "no device can be kept for a task alone, for there are no locks:"
                    f" {error.strerror}",
                    hint="set XDG_RUNTIME_DIR to a folder on a disk of this machine",
                ) from None
            return True

        yield enter


def _wait(is_stopped: Callable[[], bool]) -> None:
    if is_stopped():
        raise DeviceUnavailable("the run was stopped while the task waited for a free device")
    time.sleep(_LOOK_EVERY_S)


def _kind() -> str:
    """What the locks are named by.

    The devices of a task that itself runs a workflow are shared among the tasks of that one:
    the outer task holds them, and would wait for the inner ones for ever.
    """
    outer = os.environ.get("FASTHEP_TASK_DIRECTORY")
    return f"gpu of {outer}" if outer and os.environ.get("FASTHEP_DEVICE") == "gpu" else "gpu"


def _in_use(usable: int, count: int, *, is_waited_for: bool) -> str:
    if is_waited_for:
        return "other tasks wait for the devices here"
    if count == 1:
        return f"{usable} of {usable} devices are in use by other tasks"
    return f"{count} devices are asked for, and fewer of the {usable} here are free of other tasks"
