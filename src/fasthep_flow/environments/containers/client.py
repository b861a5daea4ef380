"""The process that starts a container and waits for it, and the pipes to what serves inside."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from fasthep_flow.environments.containers.enclosure import Enclosure, EndedClient
from fasthep_flow.environments.containers.shell import (
    FIRST_PROCESSES,
    Dialect,
    prelude,
    server_argv,
)
from fasthep_flow.environments.host.spawn import open_log

__all__ = ["ENGINE_LOG", "Client"]

_LONGEST_LINE: Final = 64 * 2**10
_MOST_LINES: Final = 10_000
"""What comes out of an image is not trusted: a job is told of in a dozen lines."""

_PIPE_BYTES: Final = 32 * 2**10
"""As much as an empty pipe surely takes at once."""

_CLIENT_LIMIT_S: Final = 30.0
ENGINE_LOG: Final = "engine.log"
"""What the engine's client said; of a job that failed by it, also in the attempt's folder."""


class Client:
    """The process that starts a container and waits for it."""

    def __init__(
        self, enclosure: Enclosure, scratch: Path, dialect: Dialect, *, is_kept: bool
    ) -> None:
        self.dialect: Final = dialect
        self._ready: Final = enclosure.ready if is_kept else None
        self.folder: Final = scratch / "client"
        # What another one left there would be taken for this one's.
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        log = open_log(str(self.folder / ENGINE_LOG))
        try:
            self.popen: Final = subprocess.Popen(
                enclosure.argv(server_argv(dialect), scratch),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self.folder,
                env=enclosure.client_environment(),
                start_new_session=True,
            )
        finally:
            os.close(log)
        enclosure.started(self.popen.pid)
        assert self.popen.stdin is not None  # noqa: S101 - it is a pipe
        assert self.popen.stdout is not None  # noqa: S101 - it is a pipe
        self._stdin: Final[IO[bytes]] = self.popen.stdin
        self._stdout: Final[IO[bytes]] = self.popen.stdout
        self._writer: threading.Thread | None = None
        self._ended: EndedClient | None = None
        self.ready_ns = 0
        self.is_first = False
        self._write(prelude(dialect))

    def say(self, text: bytes) -> None:
        """Say it; does not wait for whoever reads."""
        if self.ready_ns and len(text) <= _PIPE_BYTES:
            self._write(text)
            return
        self._writer = threading.Thread(target=self._say_when_ready, args=(text,), daemon=True)
        self._writer.start()

    def _say_when_ready(self, text: bytes) -> None:
        if not self.ready_ns:
            number = self._number_of_server()
            if number is None:
                return
            # Where it is not among the first, the processes that it sees may be anybody's.
            self.is_first = number <= FIRST_PROCESSES
            if self._ready is not None:
                self._ready()
            stamp = self.folder / "ready"
            stamp.touch()
            # By the clock that stamps the files of the jobs, too.
            self.ready_ns = stamp.stat().st_ctime_ns
        self._write(text)

    def _number_of_server(self) -> int | None:
        """Wait until something serves; ``None`` where nothing will."""
        for line in self._some_lines():
            words = line.split()
            if len(words) == 2 and words[0] == b"ready" and words[1].isdigit():  # noqa: PLR2004
                return int(words[1])
        return None

    def _write(self, text: bytes) -> None:
        with suppress(OSError, ValueError):
            self._stdin.write(text)
            self._stdin.flush()

    def lines(self) -> Iterator[bytes]:
        """What is said, until nothing more is or it is too much for one job."""
        if self._writer is not None:
            self._writer.join()
        if self.ready_ns:
            yield from self._some_lines()

    def _some_lines(self) -> Iterator[bytes]:
        for _ in range(_MOST_LINES):
            try:
                line = self._stdout.readline(_LONGEST_LINE)
            except ValueError:  # another thread has closed it
                return
            if not line.endswith(b"\n"):
                break
            yield line
        # What still writes does not wait for a reader then.
        self._stdout.close()

    def is_alive(self) -> bool:
        """Whether the client still runs."""
        return self.popen.poll() is None

    def end(self) -> EndedClient:
        """Wait for its end, which the end of its orders is; what it said."""
        if self._ended is not None:
            return self._ended
        if self._writer is None or not self._writer.is_alive():
            with suppress(OSError):
                self._stdin.close()
        try:
            code = self.popen.wait(_CLIENT_LIMIT_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self.popen.pid, signal.SIGKILL)
            code = self.popen.wait()
        if self._writer is not None:
            self._writer.join(_CLIENT_LIMIT_S)
        with suppress(OSError):
            self._stdin.close()
        self._stdout.close()
        try:
            said = (self.folder / ENGINE_LOG).read_text(encoding="utf-8", errors="backslashreplace")
        except FileNotFoundError:
            said = ""
        self._ended = EndedClient(
            exit_code=code,
            said=said,
            dialect=self.dialect,
            ready=bool(self.ready_ns),
            folder=self.folder,
        )
        return self._ended
