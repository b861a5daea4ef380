"""Charliecloud's containers: a process of the host's own in a root folder of its own.

A container sees the workflow's folder and the run's at their own paths, the host's network and
devices, and of the variables the image's own, the task's and ours. Its image is an unpacked
folder that nobody can write to; ``/tmp`` and ``/var/tmp`` are its own, and gone with it. One
is made for each task: that costs little. As the process is a child of ours its limits are held
as those of a task without an image, and it is ended in the same ways.

``ch-run`` alone can neither mount where the image has no folder, nor read-only, nor at a path
with a colon. So ``chamber.py`` puts the root together before, in a namespace of its own.
"""

from __future__ import annotations

import functools
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from fasthep_flow.environments import (
    Container,
    ContainerSpec,
    ImageFacts,
    Mount,
    Outcome,
    Process,
    ResolvedImage,
)
from fasthep_flow.environments.containers.lending import why_not_shown
from fasthep_flow.environments.devices.choice import HIDDEN
from fasthep_flow.environments.host.programs import program_argv
from fasthep_flow.environments.host.scratch import (
    SCRATCH_FOLDERS,
    new_scratch,
    remove_orphaned_scratch,
)
from fasthep_flow.environments.images.folders import FolderStore, variables_of
from fasthep_flow.environments.images.rootfs import remove_folder
from fasthep_flow.environments.images.variables import DEFAULT_PATH
from fasthep_flow.environments.interpreter import call_argv, write_call
from fasthep_flow.environments.native import NATIVE, Host
from fasthep_flow.errors import EngineUnavailable, EnvironmentRefused, LimitUnenforceable
from fasthep_flow.model import Call, Command, Failure, Gpu, Image, Invocation, Network, Resources

__all__ = ["CHARLIECLOUD", "CharliecloudRuntime"]

_PROGRAM: Final = "ch-run"
_CHAMBER: Final = "fasthep_flow.environments.containers.chamber"
_NEEDED_FOLDERS: Final = ("/dev", "/proc", "/sys")
"""Folders of the host's that ``ch-run`` insists on."""

_NEEDED_FILES: Final = ("/etc/passwd", "/etc/group")
_NETWORK_FILES: Final = ("/etc/hosts", "/etc/resolv.conf")
_HOST_FILES: Final = (*_NETWORK_FILES, "/etc/machine-id")
"""Files of the host's that ``ch-run`` mounts, and that root could write to."""

_CLIENT_VARIABLES: Final = ("USER", "PATH", "TMPDIR")
_LOOK: Final = 'case $1 in */*) [ -e "$1" ] ;; *) command -v "$1" ;; esac >/dev/null 2>&1'
_COOKIE: Final = "FASTHEP_TASK_DIRECTORY"
_ALIAS: Final = "FASTHEP_ALIAS_"
_TRIAL: Final = "/fasthep-flow-trial"
_TRIAL_LIMIT_S: Final = 60.0
_HOME_BY_DEFAULT_UNTIL: Final = (0, 30)
_TAIL: Final = 8192
_PLACE: Final = re.compile(r" \([\w.]+:\d+( \d+)?\)$")
_NOT_EXECUTED: Final = re.compile(r"can't execve\(2\): .*: (?P<why>[^:]*)", re.DOTALL)


class CharliecloudRuntime:
    """Runs tasks with ``ch-run``; see :class:`fasthep_flow.environments.Runtime`."""

    name: Final = "charliecloud"

    def __init__(self) -> None:
        self._store: Final = FolderStore()

    def probe(self) -> str | None:
        """``None`` where a container can be started, else why not; tried with an empty one."""
        try:
            program, _ = _ch_run()
            remove_orphaned_scratch()
            return _why_no_container(program)
        except EngineUnavailable as error:
            return error.message
        except OSError as error:
            return f"a container cannot be tried: {error}"

    def takes(self, image: Image) -> str | None:  # noqa: ARG002 - all of them
        """``None``: an image of any form can be unpacked."""
        return None

    def check(self, resources: Resources, network: Network = "host") -> dict[str, str]:
        """Limits are held as those of a task without an image.

        Raises:
            LimitUnenforceable: One cannot be held; or the network is to be kept away.
        """
        if network != "host":
            raise LimitUnenforceable(
                "charliecloud cannot keep the network away from a task",
                hint="choose podman, docker or apptainer, or leave 'network' out",
            )
        return NATIVE.check(resources)

    def lends(self, devices: Sequence[Gpu]) -> str | None:
        """AMD's alone: a container sees all of the host's ``/dev``, and no driver's libraries."""
        if any(gpu.vendor == "nvidia" for gpu in devices):
            return (
                "charliecloud shows a container the devices, and not the libraries of NVIDIA's"
                " driver, without which no program can use them; podman, docker and apptainer do"
            )
        return why_not_shown(_PROGRAM, devices)

    def look(self, image: Image) -> ImageFacts:
        """What there is of the image; nothing is fetched or unpacked.

        Raises:
            EngineUnavailable: It is docker's, and docker does not answer.
            ImageUnavailable: There is no such image, no permission, or no registry.
        """
        return self._store.look(image)

    def resolve(self, image: Image) -> ResolvedImage:
        """Have the image on this machine as a folder, made once.

        Raises:
            EngineUnavailable: It is docker's, and docker does not answer.
            ImageUnavailable: It cannot be had; says why.
        """
        return self._store.have(image)

    @contextmanager
    def open(self, spec: ContainerSpec) -> Iterator[Container]:
        """A container that starts with its one process; nothing is left of it afterwards.

        Raises:
            EngineUnavailable: There is no ``ch-run``, or no room for the container's own files.
            ImageUnavailable: The variables that it sets cannot be told.
            LimitUnenforceable: The kernel does not hold a limit after all.
        """
        with self._chamber(spec) as chamber:
            yield chamber

    @contextmanager
    def _chamber(self, spec: ContainerSpec) -> Iterator[_Chamber]:
        if spec.image is None:
            raise ValueError("a container needs an image")
        program, version = _ch_run()
        variables = variables_of(spec.image)
        try:
            scratch = new_scratch()
        except OSError as error:
            raise EngineUnavailable(f"a container has no room for its files: {error}") from None
        try:
            with NATIVE.open(msgspec.structs.replace(spec, image=None, mounts=())) as host:
                yield _Chamber(host, spec, spec.image, variables, scratch, program, version)
        finally:
            remove_folder(scratch)

    def enter(
        self,
        spec: ContainerSpec,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str | None],
        working_directory: str,
    ) -> int:
        """See :meth:`fasthep_flow.environments.Runtime.enter`."""
        with self._chamber(spec) as chamber:
            return chamber.enter(argv, environment=environment, working_directory=working_directory)


class _Chamber:
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
        return _ChamberProcess(
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
        home = environment.get(_COOKIE) or working_directory
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
            failure = _not_started(
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
            *(f"--unset-env={name}" for name in _CLIENT_VARIABLES),
            # A value is in no command line: ch-run expands these, once, to what they stand for.
            *(f"--set-env={name}=${alias}" for alias, name in aliases.items()),
            f"--unset-env={_ALIAS}*",
            *(f"--unset-env={name}" for name in absent),
            *self._spec.options,
            *(str(root), "--", *argv),
        ]
        plan = _write_plan(self._scratch, self._image.reference, self._spec.mounts, words, aliases)
        return _chamber_argv(plan), {
            **_client_variables(root),
            **{alias: variables[name] for alias, name in aliases.items()},
            **{name: value for name, value in environment.items() if name == _COOKIE},
        }


class _ChamberProcess:
    """A process that may not have become the task's program."""

    def __init__(
        self,
        process: Process,
        *,
        image: str,
        program: str,
        is_call: bool,
        has_options: bool,
        trouble: Path,
        log: Path,
    ) -> None:
        self._process: Final = process
        self._image: Final = image
        self._program: Final = program
        self._is_call: Final = is_call
        self._has_options: Final = has_options
        self._trouble: Final = trouble
        self._log: Final = log
        self.pid: Final = process.pid
        self.terminate: Final = process.terminate
        self.kill: Final = process.kill

    def wait(self) -> Outcome:
        """See :meth:`fasthep_flow.environments.Process.wait`."""
        outcome = self._process.wait()
        if outcome.failure is not None:
            # What stands between is nobody's business.
            message = outcome.failure.message.replace(sys.executable, self._program)
            named = msgspec.structs.replace(outcome.failure, message=message)
            return msgspec.structs.replace(outcome, failure=named)
        # Engine and task share exit codes: what counts is what ch-run says as this process.
        failure = self._failure(outcome.exit_code) if outcome.exit_code else None
        if failure is None:
            return outcome
        return msgspec.structs.replace(outcome, exit_code=None, failure=failure)

    def _failure(self, code: int) -> Failure | None:
        """Why the program did not start; ``None`` where it did."""
        if self._trouble.exists():
            why = self._trouble.read_text(encoding="utf-8")
            return Failure(kind="environment", message=f"the container cannot be made: {why}")
        if self._has_options and code == os.EX_USAGE and (words := _usage(self._log)) is not None:
            return Failure(
                kind="environment",
                message=f"ch-run does not take the options of the image {self._image}: {words}",
                hint="look at 'options' of the image",
            )
        words = _take_words(self._log, self.pid)
        if words is None:
            return None
        found = _NOT_EXECUTED.fullmatch(words)
        if found is None:
            return Failure(
                kind="environment", message=f"charliecloud cannot start the container: {words}"
            )
        return _not_started(self._image, self._program, found["why"], is_call=self._is_call)


def _not_started(image: str, program: str, why: str, *, is_call: bool) -> Failure:
    """What the kernel said of the program, in words."""
    hint: str | None
    match why:
        case "No such file or directory" if is_call:
            message = f"the image {image} has no python3"
            hint = "a callable needs python3 in the image, and nothing else"
        case "No such file or directory":
            message = f"the image {image} has no program {program}"
            hint = "is it on the PATH of the image and the task?"
            if program == "bash":
                hint = "with 'arguments' a program is started without a shell"
            if "/" in program:
                hint = "is it there, and what its first line or its loader names?"
        case "Permission denied":
            message = f"{program} may not be executed in the image {image}"
            hint = "are its rights, or those of the file system with the image, so?"
        case "Exec format error":
            return Failure(
                kind="environment",
                message=f"{program} of the image {image} is for another kind of machine",
                hint="look for an image that fits this machine",
            )
        case "Argument list too long":
            message = f"the arguments and variables of {program} are longer than the system allows"
            hint = "hand over long texts in a file"
        case _:
            message = f"cannot start {program} of the image {image}: {why}"
            hint = None
    return Failure(kind="not_started", message=message, hint=hint)


def _write_plan(
    scratch: Path,
    image: str,
    mounts: tuple[Mount, ...],
    argv: list[str],
    aliases: Mapping[str, str],
) -> Path:
    """Write what the chamber is to put together; its path."""
    own = []
    for name, target in SCRATCH_FOLDERS.items():
        folder = scratch / name
        folder.mkdir(exist_ok=True)
        folder.chmod(0o1777)
        own.append((str(folder), target, False))
    (scratch / "root").mkdir(exist_ok=True)
    # It would mount these where a link of the image leads to on the host.
    own += [(path, path, True) for path in _NETWORK_FILES if Path(path).is_file()]
    # What lies in another one has to come after it.
    others = sorted(mounts, key=lambda mount: len(Path(mount.target).parts))
    plan = {
        "image": image,
        "root": str(scratch / "root"),
        "mounts": [*own, *((one.source, one.target, one.read_only) for one in others)],
        "folders": _NEEDED_FOLDERS,
        "files": _NEEDED_FILES,
        "guarded": [path for path in _HOST_FILES if Path(path).is_file()],
        "argv": argv,
        "variables": [*_CLIENT_VARIABLES, _COOKIE, *aliases],
        "trouble": str(scratch / "trouble"),
    }
    path = scratch / "plan.json"
    path.write_text(json.dumps(plan), encoding="ascii")
    return path


def _chamber_argv(plan: Path) -> tuple[str, ...]:
    return program_argv(_CHAMBER, str(plan))


def _client_variables(root: Path) -> dict[str, str]:
    """What ``ch-run`` itself wants to find in its environment."""
    return {
        "USER": _user(),
        # It would complain without one, and add /bin to another.
        "PATH": "/bin",
        # It mounts this at the container's /tmp: so what is there already.
        "TMPDIR": f"{root.resolve()}/tmp",  # noqa: S108 - not the host's
    }


def _user() -> str:
    if user := os.environ.get("USER"):
        return user
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _take_words(log: Path, pid: int) -> str | None:
    """What ``ch-run`` said as that process, taken out of the task's log; nothing else is."""
    try:
        size = log.stat().st_size
        with log.open("rb") as file:
            file.seek(max(0, size - _TAIL))
            text = file.read()
    except OSError:
        return None
    # A program's name may have lines of its own.
    start = text.rfind(b"ch-run[%d]: error: " % pid)
    if start < 0 or text[start - 1 : start] not in {b"", b"\n"}:
        return None
    os.truncate(log, size - len(text) + start)
    return _words(text[start:])


def _usage(log: Path) -> str | None:
    """What ``ch-run`` said of its command line; ``None`` where it did not."""
    lines = log.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
    if len(lines) < 2 or not lines[-1].startswith("Try `ch-run --help'"):  # noqa: PLR2004
        return None
    return lines[-2].rpartition("ch-run: ")[2]


def _words(said: bytes) -> str:
    """The last error of ``ch-run``, without where in its source that is."""
    _, error, words = said.decode("utf-8", "backslashreplace").rpartition("]: error: ")
    return _PLACE.sub("", words.strip()) if error else words.strip()


def _ch_run() -> tuple[str, tuple[int, ...]]:
    """The path of ``ch-run``, and its version.

    Raises:
        EngineUnavailable: There is none.
    """
    program = shutil.which(_PROGRAM)
    if program is None:
        raise EngineUnavailable(
            f"{_PROGRAM} is not installed", hint="it is part of charliecloud (charliecloud.io)"
        )
    return program, _version_of(program)


@functools.cache
def _version_of(program: str) -> tuple[int, ...]:
    done = _ran((program, "--version"), {**os.environ, "USER": _user()})
    found = re.search(rb"(\d+)\.(\d+)", done)
    return tuple(map(int, found.groups())) if found else ()


def _why_no_container(program: str) -> str | None:
    """Why an empty container does not start: its program is not there, if it does."""
    scratch = new_scratch()
    try:
        image = scratch / "image"
        image.mkdir()
        root = scratch / "root"
        plan = _write_plan(scratch, str(image), (), [program, str(root), "--", _TRIAL], {})
        said = _ran(_chamber_argv(plan), {**os.environ, **_client_variables(root)})
        trouble = scratch / "trouble"
        if trouble.exists():
            return trouble.read_text(encoding="utf-8")
    finally:
        remove_folder(scratch)
    words = _words(said)
    if words.startswith("can't execve(2)") and _TRIAL in words:
        return None
    return f"{_PROGRAM} cannot start a container here: {words or 'it said nothing'}"


def _ran(argv: tuple[str, ...], environment: Mapping[str, str]) -> bytes:
    """What the program said.

    Raises:
        EngineUnavailable: It does not come to an end.
    """
    try:
        done = subprocess.run(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TRIAL_LIMIT_S,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise EngineUnavailable(f"{_PROGRAM} does not come to an end") from None
    return done.stdout


CHARLIECLOUD: Final = CharliecloudRuntime()
