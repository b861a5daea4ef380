"""On which kind of device a demand's tasks run here, and whether a runtime can give it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fasthep_flow.environments import Runtime
from fasthep_flow.environments.devices.choice import NO_GPU, DeviceChoice, choose_device
from fasthep_flow.environments.preflight.demands import Demand
from fasthep_flow.environments.preflight.verdicts import Check, passed, refused
from fasthep_flow.errors import DeviceUnavailable
from fasthep_flow.model import Device, Gpu, Image

__all__ = ["Placing"]


class Placing:
    """Decides for demands; lists the devices once, and only where one is asked for.

    What another task uses counts as there: it may be free when a task starts.

    Args:
        inventory: What lists this machine's devices.
    """

    def __init__(self, inventory: Callable[[], tuple[Gpu, ...] | str]) -> None:
        self._inventory: Final = inventory
        self._devices: tuple[Gpu, ...] | str | None = None
        self._choices: Final[dict[tuple[object, ...], DeviceChoice | DeviceUnavailable]] = {}

    def refusal(self, demand: Demand) -> list[Check]:
        """Why the demand cannot be honoured here, whatever the runtime; empty where it may be."""
        choice = self._choice(demand, None)
        return [refused("device", choice)] if isinstance(choice, DeviceUnavailable) else []

    def check(self, demand: Demand, runtime: Runtime) -> list[Check]:
        """What the runtime can do of it; empty where no runtime can do anything."""
        if demand.resources.process_on == "cpu" or self.refusal(demand):
            return []
        choice = self._choice(demand, runtime)
        if isinstance(choice, DeviceUnavailable):
            return [refused("device", choice)]
        return [passed("device", f"{choice.device}: {choice.reason}")]

    def device(self, demand: Demand, runtime: Runtime) -> Device:
        """Where it would run here."""
        choice = self._choice(demand, runtime)
        if isinstance(choice, DeviceUnavailable):
            return "gpu" if demand.resources.process_on == "gpu" else "cpu"
        return choice.device

    def why_none(self, demand: Demand, runtime: Runtime) -> str | None:
        """Why the runtime gives it no device, though the task would rather have one."""
        choice = self._choice(demand, runtime)
        if isinstance(choice, DeviceUnavailable) or not choice.reason.startswith(NO_GPU):
            return None
        return choice.reason.removeprefix(NO_GPU)

    def images(self, demand: Demand, runtime: Runtime, image: Image) -> tuple[Image, Image | None]:
        """The image in which it would run here; and the one in which it would run elsewhere."""
        if demand.gpu_image is None:
            return image, None
        if self.device(demand, runtime) == "gpu":
            return demand.gpu_image, image
        return image, demand.gpu_image

    def _choice(self, demand: Demand, runtime: Runtime | None) -> DeviceChoice | DeviceUnavailable:
        asked = demand.resources.process_on
        if self._devices is None and asked != "cpu":
            self._devices = self._inventory()
        name = None if runtime is None else runtime.name
        key = (name, asked, demand.resources.gpus, demand.versions)
        if key not in self._choices:
            try:
                self._choices[key] = choose_device(
                    asked,
                    gpus=demand.resources.gpus,
                    versions=demand.versions,
                    devices=self._devices or (),
                    lends=(lambda _: None) if runtime is None else runtime.lends,
                )
            except DeviceUnavailable as error:
                self._choices[key] = error
        return self._choices[key]
