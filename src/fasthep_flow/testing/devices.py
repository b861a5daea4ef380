"""A machine with the devices that a test makes up.

In this process::

    with machine_with(Gpu(id="GPU-a"), Gpu(id="GPU-b")):
        run("workflow.yaml")

and for a whole command, whose first argument lists the devices as JSON::

    python -m fasthep_flow.testing.devices '[{"id": "GPU-a"}]' run workflow.yaml

Tasks and containers are started as on any machine. Only what is asked for the devices answers
otherwise, and only in that process: a worker that is a process of its own finds the real ones.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from fasthep_flow.environments.devices import inventory
from fasthep_flow.model import Gpu

__all__ = ["machine_with"]


@contextmanager
def machine_with(*devices: Gpu, why_none: str = "there is none") -> Iterator[None]:
    """This process's machine has these devices, as long as the context lasts.

    Args:
        devices: In the driver's order.
        why_none: What is said where there are none.
    """
    real = inventory.machine_devices
    inventory.machine_devices = lambda: devices or why_none
    try:
        yield
    finally:
        inventory.machine_devices = real


def _main() -> None:
    from fasthep_flow.__main__ import main

    devices = msgspec.json.decode(sys.argv.pop(1), type=tuple[Gpu, ...])
    with machine_with(*devices):
        main()


if __name__ == "__main__":
    _main()
