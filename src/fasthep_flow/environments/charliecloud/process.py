"""The process of a container, and what ``ch-run`` said where that is not the task's program."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Final

import msgspec

from fasthep_flow.environments import Outcome, Process
from fasthep_flow.model import Failure

__all__ = ["ChamberProcess", "last_error", "not_started"]

_TAIL: Final = 8192
_PLACE: Final = re.compile(r" \([\w.]+:\d+( \d+)?\)$")
_NOT_EXECUTED: Final = re.compile(r"can't execve\(2\): .*: (?P<why>[^:]*)", re.DOTALL)


class ChamberProcess:
    """A process that may not have become the task's program.

    See :class:`fasthep_flow.environments.Process`.

    Args:
        process: As the host started it.
        image: The name of the image, as the author wrote it.
        program: That it is to become.
        is_call: Whether that calls a task's callable.
        has_options: Whether the command line has words of the author's.
        trouble: Where the chamber writes what goes wrong.
        log: The process's standard error.
    """

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
        return not_started(self._image, self._program, found["why"], is_call=self._is_call)


def not_started(image: str, program: str, why: str, *, is_call: bool) -> Failure:
    """What the kernel said of the program, in words.

    Args:
        image: The name of the image, as the author wrote it.
        program: That was not started.
        why: The kernel's own words.
        is_call: Whether the program was to call a task's callable.
    """
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
    return last_error(text[start:])


def _usage(log: Path) -> str | None:
    """What ``ch-run`` said of its command line; ``None`` where it did not."""
    lines = log.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
    if len(lines) < 2 or not lines[-1].startswith("Try `ch-run --help'"):  # noqa: PLR2004
        return None
    return lines[-2].rpartition("ch-run: ")[2]


def last_error(said: bytes) -> str:
    """The last error of ``ch-run``, without where in its source that is."""
    _, error, words = said.decode("utf-8", "backslashreplace").rpartition("]: error: ")
    return _PLACE.sub("", words.strip()) if error else words.strip()
