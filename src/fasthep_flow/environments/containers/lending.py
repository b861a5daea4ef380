"""How an engine is told to give a container some of the machine's devices, and no others.

NVIDIA's are given by podman, and by docker where it is set up so, as the Container Device
Interface (CDI) describes them: files that ``nvidia-ctk cdi generate`` writes, with the driver's
libraries and programs besides. Of AMD's all that is needed beside the image are their files in
``/dev``. Podman takes docker's ``--gpus``, too, and does nothing where it finds none: it is
never used.

https://github.com/cncf-tags/container-device-interface,
https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/cdi-support.html,
https://rocm.docs.amd.com/projects/install-on-linux/en/latest/how-to/docker.html
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

from fasthep_flow.environments.devices.presence import missing_from, nodes_of
from fasthep_flow.environments.engine import Engine, EngineFacts, ask, last_lines
from fasthep_flow.environments.host.scratch import new_scratch
from fasthep_flow.model import Gpu

__all__ = [
    "CDI_HINT",
    "NO_DEVICES",
    "CdiNames",
    "device_options",
    "lacks_cdi",
    "sif_options",
    "why_no_driver_files",
    "why_not_lent",
    "why_not_shown",
]

NO_DEVICES: Final = "void"
"""What ``NVIDIA_VISIBLE_DEVICES`` is where a container is to be given none.

An image of NVIDIA's asks for all of them with it, and what NVIDIA installs in engines obeys.
"""

CDI_HINT: Final = (
    "'nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml' writes it, as root; it is part of"
    " NVIDIA's container toolkit"
)

_KIND: Final = "nvidia.com/gpu"
_TRIAL: Final = "/fasthep-flow-trial"
"""A program that is nowhere: where podman complains of it, it had all that comes before."""

_MINOR: Final = re.compile(r"/dev/nvidia(\d+)")
_FLAGS: Final = {"nvidia": "--nv", "amd": "--rocm"}
_LIBRARY_LISTS: Final = ("/sbin/ldconfig", "/usr/sbin/ldconfig", "ldconfig")


class CdiNames:
    """What the devices are called in the files that an engine reads; asked once for each.

    A name is found by trial: which files count, and what is in them, only podman can say.

    Args:
        engine: Podman.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine: Final = engine
        self._known: dict[str, str] = {}

    @property
    def known(self) -> Mapping[str, str]:
        """Those that were found, by the device's id."""
        return self._known

    def forget(self) -> None:
        """Ask anew."""
        self._known = {}

    def find(self, gpu: Gpu) -> str | None:
        """Find the name of a device; ``None`` where there is one, else why not.

        Raises:
            EngineUnavailable: Podman does not answer.
        """
        if gpu.id in self._known:
            return None
        # Older toolkits write numbers alone. That it is the right one is seen inside.
        numbers = [found[1] for node in gpu.nodes if (found := _MINOR.fullmatch(node))]
        said = ""
        for name in (gpu.id, *numbers[: not gpu.id.startswith("MIG-")]):
            words = self._why_unknown(name)
            if words is None:
                self._known[gpu.id] = name
                return None
            said = said or words
        return said

    def _why_unknown(self, name: str) -> str | None:
        scratch = new_scratch()
        try:
            done = ask(
                self._engine,
                *("run", "--rm", "--network", "none", "--log-driver", "none"),
                *("--security-opt", "label=disable", "--device", f"{_KIND}={name}"),
                *("--rootfs", str(scratch), _TRIAL),
            )
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return None if _TRIAL in done.stderr else last_lines(done.stderr) or "it does not say why"


def lacks_cdi(said: str) -> bool:
    """Whether an engine says that it cannot find a device which it is to give a container."""
    lowered = said.lower()
    return "cdi device" in lowered or _KIND in lowered or "select device driver" in lowered


def device_options(
    facts: EngineFacts, devices: Sequence[Gpu], names: Mapping[str, str]
) -> list[str]:
    """The words of podman's or docker's command line that give a container these devices.

    Args:
        facts: What the engine said of itself.
        devices: To be given; none to give none.
        names: What the engine's files call them, where that is not their id.
    """
    nvidia = [gpu for gpu in devices if gpu.vendor == "nvidia"]
    options = []
    for node in nodes_of([gpu for gpu in devices if gpu.vendor == "amd"]):
        options += ["--device", node]
    if options and facts.podman and facts.rootless:
        # The files belong to a group that the caller is in, which a user namespace hides.
        options += ["--group-add", "keep-groups"]
    if nvidia and facts.lends_gpus:
        # It is read as a record of CSV, in which a comma parts options. Its own set-up puts the
        # right value into NVIDIA_VISIBLE_DEVICES.
        return [*options, "--gpus", f'"device={",".join(gpu.id for gpu in nvidia)}"']
    for gpu in nvidia:
        options += ["--device", f"{_KIND}={names.get(gpu.id, gpu.id)}"]
    return [*options, "--env", f"NVIDIA_VISIBLE_DEVICES={NO_DEVICES}"]


def why_not_lent(
    engine: Engine, facts: EngineFacts, devices: Sequence[Gpu], names: CdiNames
) -> str | None:
    """``None`` where podman or docker can give a container these devices, else why not.

    Raises:
        EngineUnavailable: It does not answer.
    """
    for gpu in devices:
        if gpu.vendor == "amd":
            if (why := _why_no_files(engine.program, gpu)) is not None:
                return why
        elif facts.podman:
            if (why := names.find(gpu)) is not None:
                return (
                    f"{engine.program} finds no description of the device {gpu.id} ({why});"
                    f" {CDI_HINT}"
                )
        elif not facts.lends_gpus and f"{_KIND}={gpu.id}" not in facts.cdi_devices:
            return (
                f"{engine.program} is not set up to give containers devices of NVIDIA's:"
                " nvidia-container-toolkit is to be installed, and 'nvidia-ctk runtime configure"
                " --runtime=docker' to be run as root"
            )
    return None


def _why_no_files(program: str, gpu: Gpu) -> str | None:
    """Why an AMD device cannot be given by the files that stand for it."""
    if not any(node.startswith("/dev/dri/") for node in gpu.nodes):
        return f"{program} cannot be told which file stands for the device {gpu.id}"
    why = missing_from([gpu])
    return None if why is None else f"the device {gpu.id} cannot be used ({why})"


def sif_options(devices: Sequence[Gpu]) -> tuple[str, ...]:
    """The words of apptainer's command line that show a container the devices of their vendor.

    All of them: which of these a task uses is chosen by the variables that it is given.
    """
    return tuple(dict.fromkeys(_FLAGS[gpu.vendor] for gpu in devices))


def why_not_shown(program: str, devices: Sequence[Gpu]) -> str | None:
    """``None`` where apptainer can show a container these devices, else why not."""
    for gpu in devices:
        if gpu.vendor == "nvidia":
            if (why := why_no_driver_files()) is not None:
                return f"'{program} exec --nv' would not find the driver's files: {why}"
        elif gpu.id.isdecimal():
            return (
                f"{program} shows a container all devices, and {gpu.id}, which has no number of"
                " its own, could not be told from others"
            )
        elif (why := _why_no_files(program, gpu)) is not None:
            return why
    return None


@functools.cache
def why_no_driver_files() -> str | None:
    """Why the driver's libraries cannot be found in the way that apptainer looks for them.

    It asks ``ldconfig``, and goes on without them where that does not know them.
    https://apptainer.org/docs/user/main/gpu.html
    """
    program = next((one for one in _LIBRARY_LISTS if shutil.which(one)), None)
    if program is None:
        return "there is no ldconfig to find libraries with"
    done = subprocess.run(
        (program, "-p"), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if "libcuda.so" not in done.stdout:
        return "'ldconfig -p' does not list libcuda.so"
    return None
