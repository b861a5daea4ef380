"""One container of podman's or docker's, with what serves in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fasthep_flow.environments import ContainerSpec, Outcome
from fasthep_flow.environments.containers.commandline import IDENTITY, MONITOR, run_argv
from fasthep_flow.environments.containers.enclosure import EndedClient
from fasthep_flow.environments.containers.layers import has_changed, upper_folder
from fasthep_flow.environments.containers.lending import lacks_cdi
from fasthep_flow.environments.containers.shell import Dialect, server_argv, terminate_argv
from fasthep_flow.environments.containers.tally import Tally
from fasthep_flow.environments.containers.traces import Traces, traces_of
from fasthep_flow.environments.devices.presence import lost
from fasthep_flow.environments.engine import Engine, EngineFacts, ask, last_lines
from fasthep_flow.environments.host.machine import bytes_text
from fasthep_flow.environments.host.scratch import SCRATCH_FOLDERS
from fasthep_flow.environments.host.strays import end_strays
from fasthep_flow.environments.limits.cgroups import GROUPS, Account
from fasthep_flow.errors import EngineUnavailable
from fasthep_flow.model import Failure

if TYPE_CHECKING:
    import psutil

__all__ = ["OciEnclosure", "why_no_container"]

_HELPER_LIMIT_S: Final = 30.0
_ENGINE_ERROR: Final = 125
_LOOK_EVERY_S: Final = 1.0
_CLIENT_LIMIT_S: Final = 5.0
"""How long podman's client may take to end once what it waits for has ended."""


class OciEnclosure:
    """What podman and docker supply.

    See :class:`.Enclosure`.

    Args:
        ask_anew: Asks the engine whether it is still there; raises
            :class:`~fasthep_flow.errors.EngineUnavailable` where it is not.
        engine: Whose command line it speaks.
        facts: What the engine said of itself.
        spec: Of the container.
        names: What the engine's files call devices, where that is not their id.
        terminal: Whether it is to have one, of which the client's own is the other end.
    """

    def __init__(
        self,
        ask_anew: Callable[[], object],
        engine: Engine,
        facts: EngineFacts,
        spec: ContainerSpec,
        *,
        names: Mapping[str, str] | None = None,
        terminal: bool = False,
    ) -> None:
        self._names: Final = names or {}
        self._terminal: Final = terminal
        self._ask_anew: Final = ask_anew
        self._engine: Final = engine
        self._facts: Final = facts
        self._spec: Final = spec
        self._scratch = Path()
        self._client_pid = 0
        self._client_ended = threading.Event()
        self._monitor_is_gone = False
        self._started_s = 0.0
        self._kills = 0
        self._helpers: Final[list[subprocess.Popen[bytes]]] = []
        self._lock: Final = threading.Lock()
        self._removed = False
        # Of these the scratch folder is emptied, and the others are there for all jobs.
        self._ours: Final = (
            *SCRATCH_FOLDERS.values(),
            *(mount.target for mount in spec.mounts),
        )
        self._pid = 0
        self._before: Traces | None = None
        self._upper: Path | None = None
        self._lower: tuple[Path, ...] = ()
        self._account: Account | None = None

    @property
    def counts_inside(self) -> bool:
        """See :meth:`.Enclosure.counts_inside`."""
        # Without root's rights there is no group of its own in version 1: it sees the host's.
        return not (self._facts.rootless and self._facts.cgroups == "1")

    def argv(self, program: tuple[str, ...], scratch: Path) -> list[str]:
        """See :meth:`.Enclosure.argv`."""
        self._scratch = scratch
        return run_argv(
            self._engine,
            self._facts,
            self._spec,
            program,
            scratch=str(scratch),
            terminal=self._terminal,
            names=self._names,
        )

    def client_environment(self) -> dict[str, str]:
        """See :meth:`.Enclosure.client_environment`."""
        return dict(os.environ)

    def started(self, client_pid: int) -> None:
        """See :meth:`.Enclosure.started`."""
        with self._lock:
            self._client_pid, self._removed, self._kills = client_pid, False, 0
        self._client_ended, self._monitor_is_gone = threading.Event(), False
        if self._facts.podman and not self._facts.remote:
            threading.Thread(
                target=self._watch_monitor, args=(client_pid, self._client_ended), daemon=True
            ).start()
        self._started_s = time.time() - 1
        self._upper = self._before = None
        self._pid = 0
        self._account = None if self.counts_inside else Tally(self._first, None)

    def account(self) -> Account | None:
        """See :meth:`.Enclosure.account`."""
        return self._account

    def terminate(self, directory: str, dialect: Dialect) -> None:  # noqa: ARG002 - all in it
        """See :meth:`.Enclosure.terminate`."""
        # To end the client would leave the container running; and a signal for the first
        # process would wait for the task, which runs in that one's foreground.
        self._help("exec", self._spec.name, *terminate_argv(dialect))

    def kill(self) -> None:
        """See :meth:`.Enclosure.kill`."""
        self._help("kill", self._spec.name)
        with self._lock:
            self._kills += 1
            if self._kills > 1 and not self._removed:
                # There is no container yet, or no engine any more.
                with suppress(ProcessLookupError):
                    os.killpg(self._client_pid, signal.SIGKILL)

    def explain(self, ended: EndedClient) -> Outcome:
        """See :meth:`.Enclosure.explain`."""
        program, image = server_argv(ended.dialect)[0], self._image_name()
        if self._monitor_is_gone:
            self._end_strays()
            return Outcome(failure=_monitor_gone())
        try:
            self._ask_anew()
            was_oom = self._was_oom(ended)
        except EngineUnavailable as error:
            self._end_strays()
            message = f"the engine is gone: {error.message}"
            return Outcome(failure=Failure(kind="environment", message=message, hint=error.hint))
        if was_oom:
            return Outcome(out_of_memory=True)
        if ended.exit_code == 128 + signal.SIGKILL:
            return Outcome(failure=_killed_from_outside(self._spec.resources.memory))
        if ended.ready and not last_lines(ended.said):
            return Outcome(failure=_removed_from_outside(self._spec.name))
        return Outcome(failure=self._lost_device(ended) or why_no_container(ended, image, program))

    def _lost_device(self, ended: EndedClient) -> Failure | None:
        """What the engine says of a device that it could give a container some time before."""
        if not self._spec.devices or ended.ready or not lacks_cdi(ended.said):
            return None
        where = f"in a container of the image {self._image_name()} that {self._engine.program}"
        return lost(self._spec.devices, f"{where} makes", last_lines(ended.said))

    def lacks_shell(self, ended: EndedClient) -> bool:
        """See :meth:`.Enclosure.lacks_shell`."""
        return not ended.ready and _names_missing(ended.said, server_argv(ended.dialect)[0])

    def is_pristine(self, since_ns: int) -> bool:
        """See :meth:`.Enclosure.is_pristine`."""
        # Who cannot look at the container's own files cannot say that nothing was left there.
        if self._upper is None or self._before is None:
            return False
        if has_changed(self._upper, self._lower, since_ns):
            return False
        return traces_of(self._pid, self._ours) == self._before

    def remove(self, ended: EndedClient) -> None:
        """See :meth:`.Enclosure.remove`."""
        with self._lock:
            self._removed = True
        self._client_ended.set()
        if self._account is not None:
            self._account.close()
            self._account = None
        for helper in self._helpers:
            try:
                helper.wait(_HELPER_LIMIT_S)
            except subprocess.TimeoutExpired:
                helper.kill()
                helper.wait()
        self._helpers.clear()
        # A client that lives to its container's end sees to its removal.
        if 0 <= ended.exit_code != _ENGINE_ERROR and not self._monitor_is_gone:
            return
        # What cannot be removed now carries its labels: once this process is gone, the next
        # run that uses the engine on this machine removes it.
        with suppress(EngineUnavailable):
            # Podman's rm alone asks first, and waits ten seconds for an answer.
            ask(self._engine, "kill", self._spec.name)
            ask(self._engine, "rm", "--force", self._spec.name)

    def _watch_monitor(self, client_pid: int, client_ended: threading.Event) -> None:
        """End podman's client where its monitor was killed: it would wait for ever.

        Nothing tells of that: the monitor is nobody's child.
        """
        import psutil

        with suppress(psutil.Error):
            client, monitor = psutil.Process(client_pid), None
            while not client_ended.wait(_LOOK_EVERY_S) and _lives(client):
                if monitor is None:
                    with suppress(OSError, ValueError, psutil.Error):
                        monitor = psutil.Process(int((self._scratch / MONITOR).read_bytes()))
                elif not _lives(monitor):
                    break
            # In the usual course of things the client is the next to end.
            if not client_ended.wait(_CLIENT_LIMIT_S) and _lives(client):
                self._monitor_is_gone = True
                client.kill()

    def _end_strays(self) -> None:
        """End the container's processes, which no engine ends any more."""
        with suppress(OSError):
            end_strays((self._scratch / IDENTITY).read_text(encoding="ascii").strip())

    def _image_name(self) -> str:
        return "" if self._spec.image is None else self._spec.image.name

    def _was_oom(self, ended: EndedClient) -> bool:
        """Whether memory ran out for the first process of the container."""
        if self._facts.podman:
            # Under version 1 of the control groups podman does not say so, but its monitor
            # leaves a file in the folder where the client works.
            return (ended.folder / "oom").exists()
        said = ask(
            self._engine,
            *("events", "--since", f"{self._started_s:.3f}", "--until", f"{time.time():.3f}"),
            *("--filter", f"container={self._spec.name}", "--filter", "event=oom"),
            *("--format", "{{.Status}}"),
        )
        return "oom" in said.stdout

    def ready(self) -> None:
        """See :meth:`.Enclosure.ready`."""
        what = "{{.State.Pid}} {{json .GraphDriver}}"
        with suppress(EngineUnavailable, ValueError):
            said = ask(self._engine, "inspect", "--format", what, self._spec.name).stdout
            pid, _, driver = said.partition(" ")
            self._upper, self._lower = upper_folder(json.loads(driver), int(pid))
            self._pid = int(pid)
            if self._pid:
                self._before = traces_of(self._pid, self._ours)
            if self._pid and self._account is None:
                self._account = GROUPS.of_process(self._pid)

    def _first(self) -> psutil.Process | None:
        """What serves in the container, once that is there."""
        import psutil

        if not self._pid:
            with suppress(EngineUnavailable, ValueError):
                said = ask(self._engine, "inspect", "--format", "{{.State.Pid}}", self._spec.name)
                self._pid = int(said.stdout)
        with suppress(psutil.Error):
            return psutil.Process(self._pid) if self._pid else None
        return None

    def _help(self, *arguments: str) -> None:
        with self._lock, suppress(OSError):
            if self._removed:
                return
            self._helpers.append(
                subprocess.Popen(
                    (self._engine.program, *arguments),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )


def why_no_container(ended: EndedClient, image: str, program: str) -> Failure:
    """What the engine said when a container did not come to the end of its job."""
    lowered = ended.said.lower()
    words = last_lines(ended.said)
    if "exec format error" in lowered:
        return Failure(
            kind="environment",
            message=f"the image {image} is for another kind of machine ({words})",
        )
    if "no space left" in lowered or "disk quota" in lowered:
        return Failure(kind="environment", message=f"disk full ({words})")
    if _names_missing(ended.said, program):
        hint = "a callable needs python3 in the image, and nothing else"
        if program != "python3":
            hint = "a command needs a shell in the image, if only to be started"
        return Failure(kind="not_started", message=f"the image {image} has no {program}", hint=hint)
    if not words:
        code = ended.exit_code
        words = f"its client ended with {f'signal {-code}' if code < 0 else f'code {code}'}"
        words += " and said nothing"
    return Failure(
        kind="environment",
        message=f"the container did not come to its end: {words}",
        hint="all that the engine said is in engine.log, by the task's logs"
        if ended.said
        else None,
    )


def _names_missing(said: str, program: str) -> bool:
    lowered = said.lower()
    return program in lowered and ("not found" in lowered or "no such file" in lowered)


def _lives(process: psutil.Process) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _monitor_gone() -> Failure:
    return Failure(
        kind="environment",
        message="the engine is gone: podman's monitor of the container, conmon, was killed",
        hint="the machine may be out of memory, or somebody ends processes on it",
    )


def _killed_from_outside(memory: int | None) -> Failure:
    hint = None
    if memory is not None:
        hint = f"it may have run out of memory, of which it was given {bytes_text(memory)}"
    return Failure(kind="environment", message="the container was killed from outside", hint=hint)


def _removed_from_outside(name: str) -> Failure:
    return Failure(
        kind="environment",
        message=f"the container {name} was stopped or removed from outside while the task ran",
        hint="does somebody clean up containers on this machine?",
    )
