"""Container engines: how their command lines differ, and how they are asked."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from fasthep_flow.errors import EngineUnavailable

__all__ = ["DOCKER_ENGINE", "Engine", "EngineFacts", "ask", "last_lines", "read_facts"]

_ANSWER_LIMIT_S: Final = 60.0
_GONE: Final = (
    "cannot connect to the docker daemon",
    "is the docker daemon running",
    "error during connect",
    "unable to connect to podman",
    "cannot connect to podman",
)


class Engine(Struct, frozen=True, kw_only=True):
    """What is special about an engine's command line.

    Args:
        program: Looked for on the ``PATH``.
        not_there: What to do where it does not answer.
    """

    program: str
    not_there: str


DOCKER_ENGINE: Final = Engine(
    program="docker",
    not_there="'docker info' shows whether its daemon runs and whether you may use it",
)
"""The docker on this machine."""


class EngineFacts(Struct, frozen=True, kw_only=True):
    """What an engine says of itself.

    Args:
        version: Of the engine that runs the containers.
        podman: Whether it is podman, which also comes under the name of docker.
        rootless: Whether it runs without root's rights.
        remapped: Whether docker gives containers user numbers of their own.
        limits: Which of ``memory`` and ``cpus`` it can hold containers to.
        cgroups: The version of the kernel's control groups, ``1`` or ``2``.
        remote: Whether podman's client asks a service for all it does.
        lends_gpus: Whether docker was set up by NVIDIA's toolkit to give containers devices.
        cdi_devices: Devices that docker has read descriptions of, ``nvidia.com/gpu=0``.
    """

    version: str
    podman: bool
    rootless: bool
    remapped: bool = False
    limits: frozenset[str]
    cgroups: str
    remote: bool = False
    lends_gpus: bool = False
    cdi_devices: frozenset[str] = frozenset()

    @property
    def retries_pulls(self) -> bool:
        """Whether it can be told not to ask a registry four times."""
        major = self.version.partition(".")[0]
        return self.podman and major.isdecimal() and int(major) >= 5  # noqa: PLR2004


def ask(
    engine: Engine,
    *arguments: str,
    limit_s: float | None = _ANSWER_LIMIT_S,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the engine's client and wait for it.

    Args:
        engine: Whose client it is.
        arguments: Of the client.
        limit_s: How long it may take.
        environment: The client's whole environment; this process's if ``None``.

    Raises:
        EngineUnavailable: There is no such program, or the engine does not answer.
    """
    argv = (engine.program, *arguments)
    try:
        # Ctrl-C at the terminal is the driver's to handle.
        with subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
            start_new_session=True,
            env=environment,
        ) as client:
            try:
                said, told = client.communicate(timeout=limit_s)
            except BaseException:
                # With all that it started: nobody waits for a pull any more.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(client.pid, signal.SIGKILL)
                raise
            done = subprocess.CompletedProcess(argv, client.returncode, said, told)
    except FileNotFoundError:
        raise EngineUnavailable(
            f"{engine.program} is not installed", hint=engine.not_there
        ) from None
    except PermissionError as error:
        raise EngineUnavailable(f"{engine.program} cannot be started: {error}") from None
    except subprocess.TimeoutExpired:
        raise EngineUnavailable(
            f"{engine.program} does not answer: 'fasthep-flow' waited {limit_s:g} s for "
            f"'{engine.program} {arguments[0]}'",
            hint=engine.not_there,
        ) from None
    if done.returncode and is_gone(done.stderr):
        raise EngineUnavailable(
            f"{engine.program} does not answer: {last_lines(done.stderr)}", hint=engine.not_there
        )
    return done


def is_gone(text: str) -> bool:
    """Whether a client says that its engine does not answer."""
    lowered = text.lower()
    return any(phrase in lowered for phrase in _GONE) or (
        "permission denied" in lowered and ".sock" in lowered
    )


def last_lines(text: str, count: int = 3) -> str:
    """The end of what a client said, in one line."""
    lines = [
        line.strip()
        for line in text.splitlines()
        if line.strip() and "docker run --help" not in line and "level=warning" not in line
    ]
    return "; ".join(lines[-count:])


def read_facts(engine: Engine) -> EngineFacts:
    """What the engine says of itself.

    Raises:
        EngineUnavailable: It is not there, or does not answer.
    """
    done = ask(engine, "info", "--format", "{{json .}}")
    try:
        facts = json.loads(done.stdout)
    except ValueError:
        facts = {}
    if not isinstance(facts, dict) or done.returncode:
        facts = {}
    if "host" in facts:
        return _podman_facts(facts)
    if facts.get("ServerVersion"):
        return _docker_facts(facts)
    said = last_lines(done.stderr) or "its answer cannot be read"
    raise EngineUnavailable(f"{engine.program} does not answer: {said}", hint=engine.not_there)


def _podman_facts(facts: dict[str, Any]) -> EngineFacts:
    host = facts["host"]
    controllers = host.get("cgroupControllers") or ()
    rootless = bool(host.get("security", {}).get("rootless"))
    cgroups = str(host.get("cgroupVersion", "")).removeprefix("v")
    if rootless and cgroups == "1":
        # Without root's rights nobody may make a control group there.
        controllers = ()
    limits = {"memory": "memory", "cpu": "cpus"}
    return EngineFacts(
        version=str((facts.get("version") or {}).get("Version", "")),
        podman=True,
        rootless=rootless,
        limits=frozenset(limits[name] for name in controllers if name in limits),
        cgroups=cgroups,
        remote=bool(host.get("serviceIsRemote")),
    )


def _docker_facts(facts: dict[str, Any]) -> EngineFacts:
    options = " ".join(facts.get("SecurityOptions") or ())
    limits = {"MemoryLimit": "memory", "CpuCfsQuota": "cpus"}
    return EngineFacts(
        version=str(facts["ServerVersion"]),
        podman=False,
        rootless="name=rootless" in options,
        remapped="name=userns" in options,
        limits=frozenset(limit for fact, limit in limits.items() if facts.get(fact)),
        cgroups=str(facts.get("CgroupVersion", "1")),
        lends_gpus="nvidia" in (facts.get("Runtimes") or ()),
        # Docker 28.2 and newer say so.
        cdi_devices=frozenset(
            str(one.get("ID")) for one in facts.get("DiscoveredDevices") or () if one
        ),
    )
