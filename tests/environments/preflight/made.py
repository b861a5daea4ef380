"""Tasks and made-up images for the preflight, and what it finds of them."""

from pathlib import Path
from typing import Any

from fasthep_flow.environments import ImageFacts
from fasthep_flow.environments.preflight.gate import examine
from fasthep_flow.environments.preflight.verdicts import Examined
from fasthep_flow.environments.registries.platforms import machine_platform
from fasthep_flow.errors import Location
from fasthep_flow.model import Command, Device, Environment, FlowSpec, Image, TaskSpec
from fasthep_flow.testing.runtimes import FakeRuntime

IMAGE = "registry.invalid/a:1"
OTHER = "registry.invalid/b:1"


def task(
    name: str, *, versions: tuple[Device, ...] = ("cpu", "gpu"), **environment: Any
) -> TaskSpec:
    flow = FlowSpec(transform="local", runner="concurrent")
    if isinstance(environment.get("image"), str):
        environment["image"] = Image(name=environment["image"])
    return TaskSpec(
        name=name,
        slug=name,
        operator="o",
        invocations=dict.fromkeys(versions, Command(argv=("true",))),
        environment=Environment(flow=flow, **environment),
        location=Location("w.yaml", 1, 1),
    )


def no_devices() -> str:
    return "there is none"


def check(*tasks: TaskSpec, folder: Path, **options: Any) -> list[Examined]:
    """What `fasthep-flow check` finds of the tasks' environments; the machine stands first."""
    output = options.pop("output", folder / "output")
    options.setdefault("devices", no_devices)
    found = examine(tasks, working_directory=str(folder), output_directory=str(output), **options)
    return list(found)


def told(one: Examined) -> dict[str, str]:
    return {check.what: check.verdict for check in one.checks}


class Remote(FakeRuntime):
    """Its images are in a registry, and on this machine once they were resolved."""

    def look(self, image: Image) -> ImageFacts:
        found = super().look(image)
        if image.name in self.resolved:
            return found
        return ImageFacts(
            is_local=False, digest=found.digest, platforms=self.platforms, note="1Gi to be pulled"
        )

    platforms: tuple[str, ...] = (machine_platform(),)
