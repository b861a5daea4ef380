"""A terminal with a command in it, and somebody who types."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping
from pathlib import Path

_SOON_S = 60.0
_STEERING = re.compile(r"\x1b\[[?0-9;]*[a-zA-Z]|\x1b\][^\x07]*\x07")


class Terminal:
    """A terminal whose session a command leads.

    Args:
        words: The command.
        folder: Where it starts.
        environment: Its whole environment.
        size: Rows and columns.
    """

    def __init__(
        self,
        *words: str | Path,
        folder: Path,
        environment: Mapping[str, str],
        size: tuple[int, int] = (33, 101),
    ) -> None:
        self._ours, theirs = pty.openpty()
        self.resize(*size)
        self.shown = ""
        self._read = 0
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *words],
            cwd=folder,
            env={**environment, "TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def expect(self, pattern: str) -> str:
        """Wait until what is shown matches; all up to there since the last time."""
        until_s = time.monotonic() + _SOON_S
        while not (found := re.compile(pattern).search(self.shown, self._read)):
            assert self._more(until_s), f"no {pattern!r} in:\n{self.shown[self._read :]}"
        text = self.shown[self._read : found.end()]
        self._read = found.end()
        return text

    def say(self, line: str, pattern: str) -> str:
        """Type a line at the prompt, and wait for what matches and the next prompt."""
        self.type(f"{line}\n")
        return self.expect(f"{pattern}(?s:.)*?\\) \\$ ")

    def end(self) -> int:
        """The exit code, once it has ended."""
        until_s = time.monotonic() + _SOON_S
        while self._more(until_s):
            pass
        code = self.process.wait(_SOON_S)
        self.close()
        return code

    def close(self) -> None:
        """The window is closed."""
        if self._ours >= 0:
            os.close(self._ours)
            self._ours = -1

    def _more(self, until_s: float) -> bool:
        if not select.select([self._ours], [], [], max(0.0, until_s - time.monotonic()))[0]:
            return False
        with contextlib.suppress(OSError):
            if text := os.read(self._ours, 2**16):
                self.shown += _STEERING.sub("", text.decode("utf-8", "replace")).replace("\r", "")
                return True
        return False
