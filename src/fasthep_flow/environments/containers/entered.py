"""A container that somebody enters: one program in it, on the caller's own standard streams.

What is to run, and with which variables, is said through a FIFO in the container's ``/tmp`` to
a shell that starts there, and which answers through another: so no value is in a command line,
in a file, or in what an engine shows of a container, and standard input is the program's. Both
are gone before the program starts. What was answered tells apart whether the program or the
engine ended with a code.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import select
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, Self

import msgspec

from fasthep_flow.environments import Outcome
from fasthep_flow.environments.containers.client import ENGINE_LOG
from fasthep_flow.environments.containers.enclosure import Enclosure, EndedClient
from fasthep_flow.environments.containers.shell import (
    Dialect,
    Order,
    Report,
    entry_text,
    read_report,
    unsettable,
)
from fasthep_flow.environments.devices.presence import nodes_of
from fasthep_flow.environments.host.attended import attend, shell_code
from fasthep_flow.environments.host.scratch import SCRATCH_FOLDERS
from fasthep_flow.environments.interpreter import shim_argv
from fasthep_flow.errors import EnvironmentRefused, RunInterrupted
from fasthep_flow.model import Command, Gpu

__all__ = ["DIRECTORY", "enter_container"]

DIRECTORY: Final = "FASTHEP_TASK_DIRECTORY"
"""The variable that names the task's folder, which is its ``HOME`` in a container."""

_ORDERS: Final = "orders"
_ANSWERS: Final = "answers"
_ENTER: Final = 'exec 3>"$0/answers"{stderr} && . "$0/orders"'
_APART: Final = 'exec "$@" 4>&2 2>>"$0"'
_CHUNK: Final = 64 * 2**10
_TICK_S: Final = 0.01
_PUMP_LIMIT_S: Final = 5.0


class _Entry(NamedTuple):
    """What is wanted of a container.

    Args:
        enclosure: What the engine supplies.
        image: Its name.
        scratch: A folder of its own.
        order: What is to run.
        argv: The same.
        hands_on: Whether the client hands descriptors on to what it starts.
        hears_terminal: Whether what runs inside is among what the terminal signals.
    """

    enclosure: Enclosure
    image: str
    scratch: Path
    order: Order
    argv: Sequence[str]
    hands_on: bool
    hears_terminal: bool


def enter_container(
    enclosure: Enclosure,
    argv: Sequence[str],
    *,
    environment: Mapping[str, str | None],
    working_directory: str,
    image: str,
    scratch: Path,
    hands_on: bool,
    hears_terminal: bool,
    devices: tuple[Gpu, ...] = (),
) -> int:
    """Run a program in a container of its own, on the caller's streams; its exit code.

    Args:
        enclosure: What the engine supplies.
        argv: The program and its arguments.
        environment: Variables; ``None`` for one that is to be absent.
        working_directory: Absolute path, seen by the container.
        image: Its name, for messages.
        scratch: A new folder of its own, removed with it.
        hands_on: Whether the client hands descriptors on to what it starts: then what the
            engine says is kept apart from what the program says.
        hears_terminal: Whether what runs inside is among what the caller's terminal signals.
        devices: That the container is given, and that are looked for in it first.

    Raises:
        EnvironmentRefused: The program cannot be started, or the engine failed.
        RunInterrupted: The caller was told to stop; nothing is left of the container.
    """
    try:
        if (name := unsettable(environment)) is not None:
            raise EnvironmentRefused(
                f"a shell in a container cannot set a variable by the name of {name!r}",
                hint="letters, digits and underscores can be set",
            )
        order = Order(
            number=secrets.randbits(60),
            invocation=Command(argv=tuple(argv)),
            environment=environment,
            working_directory=working_directory,
            directory=environment.get(DIRECTORY) or working_directory,
            nodes=nodes_of(devices),
            listed=tuple(gpu.id for gpu in devices if gpu.vendor == "nvidia"),
        )
        for folder in SCRATCH_FOLDERS:
            path = scratch / folder
            path.mkdir(exist_ok=True)
            path.chmod(0o1777)
        entry = _Entry(enclosure, image, scratch, order, argv, hands_on, hears_terminal)
        dialects: tuple[Dialect, ...] = ("sh", "python")
        for dialect in dialects:
            report, ended = _run(entry, dialect)
            if ended.ready or not enclosure.lacks_shell(ended):
                break
        return _code(entry, report, ended)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run(entry: _Entry, dialect: Dialect) -> tuple[Report, EndedClient]:
    """What was said of the program, and what is left of the client."""
    enclosure, folder = entry.enclosure, entry.scratch / "client"
    # What another one left there would be taken for this one's.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    log = folder / ENGINE_LOG
    talk = _Talk(entry, dialect)
    stopped: RunInterrupted | None = None
    code = -signal.SIGKILL
    with talk, _messages(entry, log, talk) as (before, stderr):
        program = _program(dialect, talk.inside, hands_on=entry.hands_on)

        def start(client: subprocess.Popen[bytes]) -> None:
            enclosure.started(client.pid)
            talk.begin()

        try:
            code = attend(
                [*before, *enclosure.argv(program, entry.scratch)],
                environment=enclosure.client_environment(),
                working_directory=str(folder),
                ask=lambda: enclosure.terminate(entry.order.directory, dialect),
                kill=enclosure.kill,
                started=start,
                stderr=stderr,
                hears_terminal=entry.hears_terminal,
            )
        except OSError as error:
            raise EnvironmentRefused(f"cannot start the container's client: {error}") from None
        except RunInterrupted as error:
            stopped = error
    report = read_report(talk.answers, entry.order.number)
    said = log.read_text(encoding="utf-8", errors="backslashreplace") if log.exists() else ""
    ended = EndedClient(
        exit_code=code, said=said, dialect=dialect, ready=talk.has_begun, folder=folder
    )
    if stopped is not None or (talk.has_begun and not report.ended):
        # Nobody has seen the container's own end.
        enclosure.kill()
        enclosure.remove(msgspec.structs.replace(ended, exit_code=-signal.SIGKILL))
    else:
        enclosure.remove(ended)
    if stopped is not None:
        raise stopped
    return report, ended


def _code(entry: _Entry, report: Report, ended: EndedClient) -> int:
    """The exit code of the program.

    Raises:
        EnvironmentRefused: It is not that of a program.
    """
    program, order = entry.argv[0], entry.order
    if report.refused is not None:
        raise EnvironmentRefused(
            f"the shell of the image {entry.image} does not let {report.refused} be set",
            hint="choose another name for the variable",
        )
    if report.lacks is not None:
        raise EnvironmentRefused(
            f"the container of the image {entry.image} has not the device that it was to be given:"
            f" {report.lacks} is not there",
            hint="'fasthep-flow check' looks for devices anew",
        )
    if report.lost:
        raise EnvironmentRefused(f"the folder {order.working_directory} is not in the container")
    if report.missing:
        raise EnvironmentRefused(
            f"the image {entry.image} has no program {program}",
            hint="is it on the PATH of the image and the task?",
        )
    if report.ended and not report.started:
        raise EnvironmentRefused(f"{program} cannot be started in the image {entry.image}")
    if report.ended:
        return 128 + report.signal if report.signal else report.exit_code or 0
    if ended.ready and _nobody_reads():
        return shell_code(-signal.SIGPIPE)
    failure = entry.enclosure.explain(ended)
    if failure.out_of_memory:
        raise EnvironmentRefused("memory ran out in the container, and all in it was ended")
    raise _refusal(failure)


def _nobody_reads() -> bool:
    """Whether who read what the program said has seen enough; a client ends then, in its ways."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _refusal(outcome: Outcome) -> EnvironmentRefused:
    failure = outcome.failure
    if failure is None:
        return EnvironmentRefused("the container did not come to its end")
    hint = failure.hint
    if hint is not None and ENGINE_LOG in hint:
        hint = None
    return EnvironmentRefused(failure.message, hint=hint)


def _program(dialect: Dialect, folder: str, *, hands_on: bool) -> tuple[str, ...]:
    """What is started in the container to begin with."""
    if dialect == "python":
        return shim_argv("python3", "enter", folder, *(("4",) if hands_on else ()))
    return ("/bin/sh", "-c", _ENTER.format(stderr=" 2>&4 4>&-" if hands_on else ""), folder)


@contextmanager
def _messages(
    entry: _Entry, log: Path, talk: _Talk
) -> Iterator[tuple[tuple[str, ...], int | None]]:
    """Words before the client's, and its standard error: what the engine says goes to the log."""
    if entry.hands_on:
        yield ("/bin/sh", "-c", _APART, str(log)), None
        return
    reader, writer = os.pipe()
    pump = threading.Thread(target=_pump, args=(reader, log, talk), daemon=True)
    pump.start()
    try:
        yield (), writer
    finally:
        os.close(writer)
        # Something that the client left behind may hold on to it.
        pump.join(_PUMP_LIMIT_S)


def _pump(reader: int, log: Path, talk: _Talk) -> None:
    """Hand on what comes, as it comes: the engine's words to the log, then the program's."""
    with open(reader, "rb", buffering=0) as source, log.open("ab", buffering=0) as engine:
        while text := source.read(_CHUNK):
            if not talk.has_begun:
                engine.write(text)
                continue
            with contextlib.suppress(OSError):
                while text:
                    text = text[os.write(2, text) :]


class _Talk:
    """What is said to the container and what it answers, for as long as the context lasts."""

    def __init__(self, entry: _Entry, dialect: Dialect) -> None:
        name = f".fasthep-{secrets.token_hex(8)}"
        self.inside: Final = f"{SCRATCH_FOLDERS['tmp']}/{name}"
        self.has_begun = False
        self.answers: list[bytes] = []
        self._folder: Final = entry.scratch / "tmp" / name
        self._text: Final = entry_text(entry.order, entry.argv, dialect)
        self._is_over: Final = threading.Event()
        self._thread: threading.Thread | None = None
        self._reader = -1

    def __enter__(self) -> Self:
        self._folder.mkdir(mode=0o700)
        for name in (_ORDERS, _ANSWERS):
            os.mkfifo(self._folder / name, 0o600)
        self._reader = os.open(self._folder / _ANSWERS, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(BlockingIOError):
            # What comes out of an image is not trusted: there are a few lines to be said.
            self.answers = os.read(self._reader, _CHUNK).splitlines(keepends=True)
        os.close(self._reader)
        shutil.rmtree(self._folder, ignore_errors=True)

    def begin(self) -> None:
        """Say it, once somebody listens; returns at once."""
        self._thread = threading.Thread(target=self._say, daemon=True)
        self._thread.start()

    def _say(self) -> None:
        while not self._is_over.is_set():
            try:
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
                writer = os.open(self._folder / _ORDERS, flags)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    return
                self._is_over.wait(_TICK_S)
                continue
            # Who listens has opened both: the program is to find neither.
            shutil.rmtree(self._folder, ignore_errors=True)
            self.has_begun = True
            os.set_blocking(writer, True)
            with contextlib.suppress(OSError), open(writer, "wb") as orders:  # noqa: PTH123
                orders.write(self._text)
            return
