"""Devices of a task's own: no other task of the user's on this machine has them meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from fasthep_flow.environments.devices.choice import DeviceChoice, choose_device
from fasthep_flow.environments.devices.inventory import inventory
from fasthep_flow.environments.host.leases import lease
from fasthep_flow.model import Device, Gpu, Resources

__all__ = ["device_for"]


@contextmanager
def device_for(
    resources: Resources,
    *,
    versions: Collection[Device],
    lends: Callable[[Sequence[Gpu]], str | None],
    is_stopped: Callable[[], bool] = lambda: False,  # noqa: ARG001 - nothing waits yet
) -> Iterator[DeviceChoice]:
    """Where a task runs; its devices are its own for as long as the context lasts.

    Args:
        resources: What it asks for.
        versions: The kinds of device that there is something to run on.
        lends: ``None`` where its runtime can give it these devices, else why not.
        is_stopped: Whether nobody waits for it any more.

    Raises:
        DeviceUnavailable: It cannot run there; with the reason.
    """
    asked = resources.process_on
    devices = () if asked == "cpu" else inventory()

    def choose(found: tuple[Gpu, ...] | str) -> DeviceChoice:
        return choose_device(
            asked, gpus=resources.gpus, versions=versions, devices=found, lends=lends
        )

    if isinstance(devices, str) or not devices:
        yield choose(devices)
        return
    by_room = sorted(devices, key=lambda gpu: -gpu.free)
    with lease("gpu", [gpu.id for gpu in by_room], resources.gpus or 1) as own:
        yield choose(tuple(sorted(by_room, key=lambda gpu: gpu.id not in own)))
