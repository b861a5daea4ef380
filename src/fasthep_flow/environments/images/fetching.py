"""An engine's client that fetches an image: let go on for as long as it gets on.

A large image may take an hour. A registry that has fallen silent would be waited for without
end: engines know no limit for that. So a client is watched. One that does the work itself
reads and writes; docker's leaves it to the daemon, and tells of every step on a terminal.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Final

from fasthep_flow.environments.engine import Engine, is_gone, last_lines
from fasthep_flow.environments.host.scratch import new_scratch
from fasthep_flow.errors import EngineUnavailable

__all__ = ["LOCAL_SILENCE_S", "SilenceError", "fetch"]

SILENCE_S: Final = 300.0
"""How long nothing may come. Docker tells nothing while it checks a large layer's digest."""

LOCAL_SILENCE_S: Final = 2 * 3600.0
"""The same for what comes from this machine: a daemon packs a large image without a word."""

_LOOK_EVERY_S: Final = 5.0
_ENOUGH: Final = 64 * 2**10
"""Bytes that are more than a client's own bustle: podman's wakes up twice a second."""

_GRACE_S: Final = 3.0
_CHUNK: Final = 2**16

# A client that outlives who waits for it holds up the next one that wants the same image.
_END_WITH_PARENT: Final = """\
import os, sys
try:
    import ctypes
    ctypes.CDLL(None).prctl(1, 15)
except (AttributeError, ImportError, OSError):
    pass
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""
"""The first option of prctl(2), PR_SET_PDEATHSIG, holds for the program that follows."""


class SilenceError(Exception):
    """Nothing more came; says for how long."""


def fetch(
    engine: Engine,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    on_terminal: bool = False,
    silence_s: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the engine's client for as long as it gets on.

    Args:
        engine: Whose client it is.
        arguments: Of the client.
        environment: The client's whole environment; this process's if ``None``.
        on_terminal: Its output is a terminal, by which alone it can be seen to get on; what
            it says there is not kept.
        silence_s: How long nothing may come; five minutes if not given.

    Raises:
        EngineUnavailable: There is no such program, or the engine does not answer.
        SilenceError: Nothing came for too long; the client was ended.
    """
    argv = (engine.program, *arguments)
    limit_s = SILENCE_S if silence_s is None else silence_s
    if shutil.which(engine.program) is None:
        raise EngineUnavailable(f"{engine.program} is not installed", hint=engine.not_there)
    with (
        tempfile.TemporaryFile() as said,
        tempfile.TemporaryFile() as told,
        _output(said, is_terminal=on_terminal) as (output, shown),
        _temporary(os.environ if environment is None else environment) as variables,
    ):
        # Ctrl-C at the terminal is the driver's to handle.
        client = subprocess.Popen(
            (sys.executable, "-I", "-S", "-c", _END_WITH_PARENT, str(os.getpid()), *argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=told,
            start_new_session=True,
            env=variables,
        )
        try:
            _wait(client, limit_s, shown or (lambda: _moved(client.pid) // _ENOUGH))
        except BaseException:
            _end(client)
            raise
        done = subprocess.CompletedProcess(argv, client.returncode, _text(said), _text(told))
    if done.returncode and is_gone(done.stderr):
        raise EngineUnavailable(
            f"{engine.program} does not answer: {last_lines(done.stderr)}", hint=engine.not_there
        )
    return done


@contextmanager
def _temporary(environment: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """The variables with a temporary folder that goes with the client.

    Podman's leaves there what it had fetched, if it is ended. Without ``TMPDIR`` it asks its
    configuration for a folder, or takes one with more room than ``/tmp``: so it is left alone.
    """
    if not environment.get("TMPDIR"):
        yield environment
        return
    folder = new_scratch()
    try:
        yield {**environment, "TMPDIR": str(folder)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(client: subprocess.Popen[bytes], limit_s: float, progress: Callable[[], int]) -> None:
    known, since_s = progress(), time.monotonic()
    while True:
        try:
            client.wait(min(_LOOK_EVERY_S, limit_s / 4))
        except subprocess.TimeoutExpired:
            now = progress()
            # It may also be less: a process that ended takes what it had read with it.
            if now != known:
                known, since_s = now, time.monotonic()
            elif time.monotonic() - since_s > limit_s:
                raise SilenceError(f"nothing came for {limit_s:g} s") from None
        else:
            return


def _end(client: subprocess.Popen[bytes]) -> None:
    """End it, with all that it started; asked to, podman removes what it had fetched."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(client.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            client.wait(_GRACE_S)


def _moved(session: int) -> int:
    """Bytes that the processes of a session have read and written so far."""
    import psutil

    moved = 0
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error, AttributeError):
            if os.getsid(process.pid) == session:
                counters = process.io_counters()
                moved += counters.read_chars + counters.write_chars
    return moved


@contextmanager
def _output(
    file: IO[bytes], *, is_terminal: bool
) -> Iterator[tuple[IO[bytes] | int, Callable[[], int] | None]]:
    """Where the client writes; and, of a terminal, what counts the bytes that were shown."""
    if not is_terminal:
        yield file, None
        return
    ours, theirs = os.openpty()
    count = 0

    def read() -> None:
        nonlocal count
        # At the end of the last one that writes there this is an error.
        with contextlib.suppress(OSError):
            while chunk := os.read(ours, _CHUNK):
                count += len(chunk)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield theirs, lambda: count
    finally:
        os.close(theirs)
        reader.join(1.0)
        os.close(ours)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "backslashreplace")
