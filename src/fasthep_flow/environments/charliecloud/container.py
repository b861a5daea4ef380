"""One container of charliecloud's: the command line of ``ch-run``, and what it is started with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from fasthep_flow.environments import ContainerSpec, Process, ResolvedImage
from fasthep_flow.environments.charliecloud.plan import (
    CLIENT_VARIABLES,
    COOKIE,
    chamber_argv,
    client_variables,
    write_plan,
)
from fasthep_flow.environments.charliecloud.process import ChamberProcess, not_started
from fasthep_flow.environments.devices.choice import HIDDEN
from fasthep_flow.environments.images.variables import DEFAULT_PATH
from fasthep_flow.environments.interpreter import call_argv, write_call
from fasthep_flow.environments.native import Host
from fasthep_flow.errors import EnvironmentRefused
from fasthep_flow.model import Call, Command, Invocation

__all__ = ["ChamberContainer"]

_LOOK: Final = 'case $1 in */*) [ -e "$1" ] ;; *) command -v "$1" ;; esac >/dev/null 2>&1'
_ALIAS: Final = "FASTHEP_ALIAS_"
_HOME_BY_DEFAULT_UNTIL: Final = (0, 30)


class ChamberContainer:
    """One container and the process that it is made for.

    Args:
        host: Starts processes within the container's limits.
        spec: Of the container.
        image: Of the container.
        variables: That the image sets.
        scratch: A folder of the container's own.
        program: ``ch-run``.
        version: Of ``ch-run``.
    """

    def __init__(  # noqa: PLR0917 - all of them are the container
        self,
        host: Host,
        spec: ContainerSpec,
        image: ResolvedImage,
        variables: Mapping[str, str],
        scratch: Path,
        program: str,
        version: tuple[int, ...],
    ) -> None:
        self._host: Final = host
        self._spec: Final = spec
        self._image: Final = image
        self._variables: Final = variables
        self._scratch: Final = scratch
        self._program: Final = program
        self._version: Final = version

    def start(
        self,
        invocation: Invocation,
        *,
        environment: Mapping[str, str | None],
        working_directory: str,
        directory: str,
    ) -> Process:
        """See :meth:`fasthep_flow.environments.Container.start`."""
        stdin = None
        if isinstance(invocation, Call):
            write_call(directory, invocation)
            argv = call_argv("python3", directory)
        else:
            argv, stdin = invocation.argv, invocation.stdin
        words, variables = self._client(argv, environment, working_directory, directory)
        log = Path(directory, "stderr.log")
        process = self._host.start(
            Command(argv=words, stdin=stdin),
            environment=variables,
            working_directory=directory,
            directory=directory,
        )
        return ChamberProcess(
            process,
            image=self._image.name,
            program=argv[0],
            is_call=isinstance(invocation, Call),
            has_options=bool(self._spec.options),
            trouble=self._scratch / "trouble",
            log=log,
        )

    def enter(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str | None],
        working_directory: str,
    ) -> int:
        """Run a program on the caller's own streams; its exit code.

        Raises:
            EnvironmentRefused: It cannot be started; with the reason.
            RunInterrupted: The caller was told to stop; the program has ended.
        """
        self._require(argv[0], environment, working_directory)
        home = environment.get(COOKIE) or working_directory
        words, variables = self._client(argv, environment, working_directory, home)
        folder = str(self._scratch)
        return self._host.enter(
            words, environment=variables, working_directory=folder, directory=folder
        )

    def _require(
        self, program: str, environment: Mapping[str, str | None], working_directory: str
    ) -> None:
        """Have the container start once, and look for the program in it.

        ch-run becomes the program: its own words and codes could not be told apart later.

        Raises:
            EnvironmentRefused: It does not start, or there is no such program.
        """
        folder = self._scratch / "look"
        folder.mkdir()
        command = Command(argv=("/bin/sh", "-c", _LOOK, "sh", program))
        outcome = self.start(
            command,
            environment=environment,
            working_directory=working_directory,
            directory=str(folder),
        ).wait()
        failure = outcome.failure
        if failure is not None and failure.kind == "not_started":
            # It needs no shell to start a program that is none.
            return
        if failure is None and outcome.exit_code:
            failure = not_started(
                self._image.name, program, "No such file or directory", is_call=False
            )
        if failure is not None:
            raise EnvironmentRefused(failure.message, hint=failure.hint)

    def _client(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str | None],
        working_directory: str,
        home: str,
    ) -> tuple[tuple[str, ...], dict[str, str | None]]:
        """The words that start a program in it, and the variables that they are to find."""
        variables = {
            "PATH": DEFAULT_PATH,
            **self._variables,
            # All devices of the host's are to be seen in /dev.
            **HIDDEN,
            "NVIDIA_VISIBLE_DEVICES": "void",
            "HOME": home,
            **{name: value for name, value in environment.items() if value is not None},
        }
        absent = [name for name, value in environment.items() if value is None]
        aliases = {f"{_ALIAS}{index}": name for index, name in enumerate(variables)}
        root = self._scratch / "root"
        words = [
            self._program,
            *(("--no-home",) if self._version <= _HOME_BY_DEFAULT_UNTIL else ()),
            f"--cd={working_directory}",
            # What the client itself needs, and nothing else of the host's is there.
            *(f"--unset-env={name}" for name in CLIENT_VARIABLES),
            # A value is in no command line: ch-run expands these, once, to what they stand for.
            *(f"--set-env={name}=${alias}" for alias, name in aliases.items()),
            f"--unset-env={_ALIAS}*",
            *(f"--unset-env={name}" for name in absent),
            *self._spec.options,
            *(str(root), "--", *argv),
        ]
        plan = write_plan(self._scratch, self._image.reference, self._spec.mounts, words, aliases)
        return chamber_argv(plan), {
            **client_variables(root),
            **{alias: variables[name] for alias, name in aliases.items()},
            **{name: value for name, value in environment.items() if name == COOKIE},
        }
