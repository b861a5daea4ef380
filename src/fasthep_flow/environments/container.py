"""One container of podman's or docker's, and the one process that it is made for."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from fasthep_flow.environments import (
    ContainerSpec,
    Outcome,
    Process,
)
from fasthep_flow.environments.commandline import run_argv
from fasthep_flow.environments.engine import (
    Engine,
    EngineFacts,
    ask,
    last_lines,
)
from fasthep_flow.environments.machine import bytes_text
from fasthep_flow.environments.native import NotStarted
from fasthep_flow.environments.spawn import Ended, Spawned, open_log
from fasthep_flow.environments.wrapper import Status, Wrapped, alias, read_status, unsettable, wrap
from fasthep_flow.errors import EngineUnavailable
from fasthep_flow.model import Call, Command, Failure, Invocation

__all__ = ["OciContainer"]

_ENGINE_FOLDER: Final = "engine"
"""In the attempt's folder, where the client works: it stays if the engine failed."""

_ENGINE_LOG: Final = "client.log"
_HELPER_LIMIT_S: Final = 30.0


class OciContainer:
    """One container and the process that it is made for.

    Args:
        ask_anew: Asks the engine whether it is still there; raises
            :class:`~fasthep_flow.errors.EngineUnavailable` where it is not.
        engine: Whose command line it speaks.
        facts: What the engine said of itself.
        spec: Of the container.
    """

    def __init__(
        self,
        ask_anew: Callable[[], object],
        engine: Engine,
        facts: EngineFacts,
        spec: ContainerSpec,
    ) -> None:
        self._ask_anew: Final = ask_anew
        self._engine: Final = engine
        self._facts: Final = facts
        self._spec: Final = spec
        self._process: _OciProcess | None = None

    def start(
        self,
        invocation: Invocation,
        *,
        environment: Mapping[str, str],
        working_directory: str,
        directory: str,
    ) -> Process:
        """See :meth:`fasthep_flow.environments.Container.start`."""
        names = tuple(environment)
        if (problem := _unpassable(invocation, environment)) is not None:
            return NotStarted(problem)
        wrapped = wrap(invocation, directory, names)
        stdin = _stdin(invocation)
        argv = run_argv(
            self._engine,
            self._facts,
            self._spec,
            wrapped,
            working_directory=working_directory,
            variables=len(names),
            interactive=stdin is not None,
        )
        # The user's own files: the container's user could not make them in every folder.
        for name in ("stdout.log", "stderr.log"):
            os.close(open_log(f"{directory}/{name}"))
        folder = Path(directory, _ENGINE_FOLDER)
        folder.mkdir(exist_ok=True)
        log = open_log(f"{folder}/{_ENGINE_LOG}")
        try:
            client = Spawned(
                argv,
                environment={
                    **os.environ,
                    **{alias(index): environment[name] for index, name in enumerate(names)},
                },
                working_directory=str(folder),
                stdin=stdin,
                stdout=log,
                stderr=log,
            )
        except (OSError, ValueError) as error:
            message = f"cannot start {self._engine.program}: {error}"
            return NotStarted(Failure(kind="environment", message=message))
        finally:
            os.close(log)
            if stdin is not None:
                stdin.close()
        self._process = _OciProcess(
            client,
            ask_anew=self._ask_anew,
            engine=self._engine,
            spec=self._spec,
            wrapped=wrapped,
            invocation=invocation,
            directory=directory,
        )
        return self._process

    def remove(self) -> None:
        """Leave nothing of the container."""
        if self._process is None:
            return
        self._process.end()
        # What cannot be removed now carries its labels: once this process is gone, the next
        # run that uses the engine on this machine removes it.
        with suppress(EngineUnavailable):
            ask(self._engine, "rm", "--force", self._spec.name)


class _OciProcess:
    """The process of a container, by way of the engine's client that waits for it."""

    def __init__(
        self,
        client: Spawned,
        *,
        ask_anew: Callable[[], object],
        engine: Engine,
        spec: ContainerSpec,
        wrapped: Wrapped,
        invocation: Invocation,
        directory: str,
    ) -> None:
        self._ask_anew: Final = ask_anew
        self._engine: Final = engine
        self._spec: Final = spec
        self._client: Final = client
        self._wrapped: Final = wrapped
        self._invocation: Final = invocation
        self._directory: Final = directory
        self._kills = 0
        self._helpers: list[subprocess.Popen[bytes]] = []
        self._lock: Final = threading.Lock()
        self._ended = False

    @property
    def pid(self) -> int:
        return self._client.pid

    def wait(self) -> Outcome:
        ended = self._client.wait()
        self._reap_helpers()
        status = read_status(self._directory)
        folder = Path(self._directory, _ENGINE_FOLDER)
        outcome = self._without_status(ended, folder) if status is None else self._outcome(status)
        if outcome.failure is None or outcome.failure.kind != "environment":
            shutil.rmtree(folder, ignore_errors=True)
        return outcome

    def end(self) -> None:
        """Kill it, unless somebody has waited until its end."""
        if not self._ended:
            with suppress(EngineUnavailable):
                ask(self._engine, "kill", self._spec.name)
            self._client.end()
            self._reap_helpers()

    def terminate(self) -> None:
        # To end the client would leave the container running; and a signal for the first
        # process would wait for the task, which runs in that one's foreground.
        self._help("exec", self._spec.name, *self._wrapped.terminate)

    def kill(self) -> None:
        self._help("kill", self._spec.name)
        self._kills += 1
        if self._kills > 1:
            # There is no container yet, or no engine any more.
            self._client.kill()

    def _reap_helpers(self) -> None:
        with self._lock:
            self._ended = True
        for helper in self._helpers:
            try:
                helper.wait(_HELPER_LIMIT_S)
            except subprocess.TimeoutExpired:
                helper.kill()
                helper.wait()

    def _help(self, *arguments: str) -> None:
        with self._lock, suppress(OSError):
            if self._ended:
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

    def _outcome(self, status: Status) -> Outcome:
        return Outcome(
            exit_code=None if status.missing or status.refused else status.exit_code,
            signal=status.signal,
            failure=_what_is_lacking(status, self._spec, self._invocation),
            out_of_memory=status.oom_kills > 0,
            cpu_s=status.cpu_s,
            peak_memory=status.peak_memory,
        )

    def _without_status(self, ended: Ended, folder: Path) -> Outcome:
        """What can be known where the first process did not come to tell."""
        if self._kills:
            return Outcome(signal=signal.SIGKILL)
        said = (folder / _ENGINE_LOG).read_text(encoding="utf-8", errors="backslashreplace")
        try:
            self._ask_anew()
            state = ask(
                self._engine,
                "inspect",
                "--format",
                "{{.State.ExitCode}} {{.State.OOMKilled}}",
                self._spec.name,
            ).stdout.split()
        except EngineUnavailable as error:
            message = f"the engine is gone: {error.message}"
            return Outcome(failure=Failure(kind="environment", message=message, hint=error.hint))
        # Under version 1 of the control groups podman does not say so, but its monitor
        # leaves a file in the folder where the client works.
        if state[1:] == ["true"] or (folder / "oom").exists():
            return Outcome(out_of_memory=True)
        if state[:1] == [str(128 + signal.SIGKILL)]:
            return Outcome(failure=_killed_from_outside(self._spec.resources.memory))
        image = "" if self._spec.image is None else self._spec.image.name
        return Outcome(failure=why_no_container(ended, said, image, self._wrapped.entrypoint))


def why_no_container(ended: Ended, said: str, image: str, entrypoint: str) -> Failure:
    """What the engine said when the first process of a container did not come to an end."""
    lowered = said.lower()
    words = last_lines(said)
    not_found = "not found" in lowered or "no such file" in lowered
    if "exec format error" in lowered:
        return Failure(
            kind="environment",
            message=f"the image {image} is for another kind of machine ({words})",
        )
    if "no space left" in lowered or "disk quota" in lowered:
        return Failure(kind="environment", message=f"disk full ({words})")
    if entrypoint in lowered and not_found:
        hint = "a callable needs python3 in the image, and nothing else"
        if entrypoint != "python3":
            hint = "a command needs a shell in the image, if only to be started"
        return Failure(
            kind="not_started", message=f"the image {image} has no {entrypoint}", hint=hint
        )
    if not words:
        ending = f"signal {ended.signal}" if ended.signal else f"code {ended.exit_code}"
        words = f"its client ended with {ending} and said nothing"
    return Failure(
        kind="environment",
        message=f"the container did not come to its end: {words}",
        hint=f"all that the engine said is in {_ENGINE_FOLDER}/{_ENGINE_LOG}, by the task's logs",
    )


def _killed_from_outside(memory: int | None) -> Failure:
    hint = None
    if memory is not None:
        hint = f"it may have run out of memory, of which it was given {bytes_text(memory)}"
    return Failure(kind="environment", message="the container was killed from outside", hint=hint)


def _what_is_lacking(status: Status, spec: ContainerSpec, invocation: Invocation) -> Failure | None:
    image = "" if spec.image is None else spec.image.name
    if status.old_python is not None:
        return Failure(
            kind="not_started",
            message=f"python3 of the image {image} is {status.old_python}",
            hint="a callable needs 3.6 or newer",
        )
    if status.refused is not None:
        return Failure(
            kind="environment",
            message=f"the shell of the image {image} does not let {status.refused} be set",
            hint="choose another name for the variable",
        )
    if not status.missing:
        return None
    program = "python3" if isinstance(invocation, Call) else invocation.argv[0]
    hint = "is it on the PATH of the image and the task?"
    if program == "bash":
        hint = "with 'arguments' a program is started without a shell"
    return Failure(
        kind="not_started", message=f"the image {image} has no program {program}", hint=hint
    )


def _unpassable(invocation: Invocation, environment: Mapping[str, str]) -> Failure | None:
    """Why one of the variables cannot be handed into a container."""
    name = unsettable(invocation, tuple(environment))
    if name is not None:
        return Failure(
            kind="environment",
            message=f"a shell in a container cannot set a variable by the name of {name!r}",
            hint="letters, digits and underscores can be set",
        )
    for name, value in environment.items():
        try:
            value.encode()
        except UnicodeEncodeError:
            # Docker's client would put other characters in the place of these bytes.
            return Failure(
                kind="environment",
                message=f"the value of the variable {name} is not Unicode",
                hint="a container is handed Unicode text alone",
            )
    return None


def _stdin(invocation: Invocation) -> IO[bytes] | None:
    if not isinstance(invocation, Command) or invocation.stdin is None:
        return None
    file = tempfile.TemporaryFile()  # noqa: SIM115 - handed to the client
    file.write(invocation.stdin.encode("utf-8", "surrogateescape"))
    file.seek(0)
    return file
