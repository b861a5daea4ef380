"""A program on the caller's own terminal: started, left to the user, and ended with the caller.

It stays in the caller's session, so that it can be a shell: it reads what is typed, and the
signals that the terminal sends are its own. What tasks are started with is in ``spawn.py``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Self

from fasthep_flow.errors import RunInterrupted

if TYPE_CHECKING:
    import psutil

__all__ = ["Brood", "attend", "shell_code"]

_GRACE_S: Final = 3.0
"""How long a program may take to end once the caller was told to."""

_LINGER_S: Final = 1.0
"""How long what a program left behind may take to end by itself: ``> >(tee log)`` does."""

_LOOKS: Final = 3
_TICK_S: Final = 0.01
_SET_CHILD_SUBREAPER: Final = 36
_GET_CHILD_SUBREAPER: Final = 37
"""See ``prctl(2)``: what its parent leaves becomes this process's own child."""


def shell_code(code: int) -> int:
    """What a shell calls that end of a process: 128 and the number of a signal.

    Args:
        code: The exit code; negative for a signal, as :mod:`subprocess` has it.
    """
    return 128 - code if code < 0 else code


def attend(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    working_directory: str,
    ask: Callable[[], None],
    kill: Callable[[], None],
    started: Callable[[subprocess.Popen[bytes]], None] = lambda _: None,
    stderr: int | None = None,
    hears_terminal: bool = True,
) -> int:
    """Run a program on the caller's standard streams; its exit code, negative for a signal.

    The terminal is as it was before when this returns. INT and QUIT are the program's where the
    terminal sends them. TERM and HUP, and INT from elsewhere, end the program.

    Args:
        argv: The program, looked for on the ``PATH`` of ``environment``, and its arguments.
        environment: The whole environment.
        working_directory: Absolute path.
        ask: Asks all that the program started to end.
        kill: Ends all of it.
        started: Is told of the process.
        stderr: Descriptor for its messages; the caller's own if not given.
        hears_terminal: Whether all that the program starts is among what the terminal signals.

    Raises:
        OSError: It cannot be started.
        RunInterrupted: The caller was told to stop; the program has ended.
    """
    with _terminal_kept(), _Stop(hears_terminal=hears_terminal) as stop:
        process = subprocess.Popen(argv, env=environment, cwd=working_directory, stderr=stderr)
        try:
            with stop.armed():
                started(process)
                return process.wait()
        except _Stopped as stopped:
            ask()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
            raise RunInterrupted(stopped.number) from None
        finally:
            while process.returncode is None:
                kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_GRACE_S)


class _Stopped(Exception):  # noqa: N818 - no error, but an order
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number: Final = number


class _Stop:
    """Signals that end a program, and those that are its own, for as long as the context lasts.

    Where Python takes no handlers, outside of the main thread, all stays as it is.
    """

    def __init__(self, *, hears_terminal: bool) -> None:
        self._hears_terminal: Final = hears_terminal
        self._previous: Final[dict[int, Any]] = {}
        self._number = 0
        self._is_armed = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP):
                # What nohup ignores stays ignored, and is so for the program.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    # A handler, not "ignore", which the program would inherit.
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Whoever is told to stop leaves this by an exception, once."""
        self._is_armed = True
        try:
            if self._number:
                raise _Stopped(self._number)
            yield
        finally:
            self._is_armed = False

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number in {signal.SIGINT, signal.SIGQUIT} and self._hears_terminal and _in_front():
            return
        if self._is_armed:
            self._is_armed = False
            raise _Stopped(number)
        self._number = self._number or number


def _in_front() -> bool:
    """Whether this process is among those that its terminal signals."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


@contextmanager
def _terminal_kept() -> Iterator[None]:
    """What a program changes of the terminal is changed back."""
    terminal = next((number for number in range(3) if os.isatty(number)), None)
    if terminal is None:
        yield
        return
    try:
        settings = termios.tcgetattr(terminal)
        was_in_front = os.tcgetpgrp(terminal) == os.getpgrp()
    except (OSError, termios.error):
        yield
        return
    try:
        yield
    finally:
        if was_in_front:
            _take_back(terminal, settings)


def _take_back(terminal: int, settings: list[Any]) -> None:
    """Be in front again, where a shell that was killed had been, with the old settings."""
    is_main = threading.current_thread() is threading.main_thread()
    # To take the terminal back from behind would stop this process.
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN) if is_main else None
    with contextlib.suppress(OSError, termios.error):
        os.tcsetpgrp(terminal, os.getpgrp())
        termios.tcsetattr(terminal, termios.TCSADRAIN, settings)
    if is_main:
        signal.signal(signal.SIGTTOU, before)


class Brood:
    """All processes that this one starts while the context lasts, and that these start.

    Those whose parent has ended become children of this process meanwhile, so none is lost out
    of sight, whatever it leaves. What is left is ended with the context.
    """

    def __init__(self) -> None:
        self._others: frozenset[int] = frozenset()
        self._was_reaper = False

    def __enter__(self) -> Self:
        import psutil

        self._others = frozenset(child.pid for child in psutil.Process().children())
        self._was_reaper = _is_reaper()
        _be_reaper(is_one=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._sweep()
        _be_reaper(is_one=self._was_reaper)

    def terminate(self) -> None:
        """Ask all of them to end."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """End all of them."""
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send all of them a signal."""
        import psutil

        for process in self._members():
            # psutil looks at the time of its start first: a number that is in use again is safe.
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)

    def _members(self) -> list[psutil.Process]:
        import psutil

        found: list[psutil.Process] = []
        for child in psutil.Process().children():
            if child.pid in self._others:
                continue
            with contextlib.suppress(psutil.Error):
                if child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
                found += child.children(recursive=True)
        return found

    def _sweep(self) -> None:
        kill_s = time.monotonic() + _LINGER_S
        until_s = kill_s + _GRACE_S
        looks = 0
        # One whose parent ends in the moment of a look is seen at the next one.
        while looks < _LOOKS and time.monotonic() < until_s:
            self._reap()
            if self._members():
                looks = 0
                if time.monotonic() > kill_s:
                    self.kill()
            else:
                looks += 1
            time.sleep(_TICK_S)
        self._reap()

    def _reap(self) -> None:
        """Take note of the ends of those whose parents cannot any more."""
        import psutil

        for child in psutil.Process().children():
            if child.pid not in self._others:
                with contextlib.suppress(OSError):
                    os.waitpid(child.pid, os.WNOHANG)


def _is_reaper() -> bool:
    with contextlib.suppress(AttributeError):
        answer = ctypes.c_int()
        got = ctypes.CDLL(None).prctl(_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
        return not got and bool(answer.value)
    return False


def _be_reaper(*, is_one: bool) -> None:
    # Only Linux has this: elsewhere a process that leaves its parent is out of sight.
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, int(is_one), 0, 0, 0)
