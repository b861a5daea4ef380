"""The terminal: lines on the standard streams, and a run shown as it goes.

Trouble with showing is never the trouble of a run: a stream that cannot be written to is
told of once and then let be.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Self, TextIO, cast

from fasthep_flow.errors import RecordError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from fasthep_flow.environments.preflight.verdicts import Check, Examined, Verdict
    from fasthep_flow.records.run import RunFolder
    from fasthep_flow.scheduler import Outcome, Scheduler

__all__ = ["Screen", "Waiting", "check_lines", "reason_of", "say", "show", "show_lines", "silence"]

_COLOURS: Final[dict[Verdict, str]] = {
    "ok": "",
    "note": "yellow",
    "unknown": "yellow",
    "refused": "red",
}
_END_COLOURS: Final = {
    "succeeded": "green",
    "reused": "green",
    "skipped": "yellow",
    "cancelled": "yellow",
}
_NAMES_SHOWN: Final = 5

# For encodings without our marks; see `fasthep_flow.records.report.MARKS`.
_PLAIN_MARKS: Final = str.maketrans({"✓": "+", "✗": "x", "■": "#"})


def _write_line(stream: TextIO, text: str) -> OSError | ValueError | None:
    """Write a line at once; where that fails, why, and whatever comes later is dropped."""
    try:
        stream.write(text + "\n")
        stream.flush()
    except (OSError, ValueError) as error:
        silence(stream)
        return error
    return None


def silence(stream: TextIO) -> None:
    """Let a stream that cannot be written to swallow everything, what it still holds included."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()
    except (OSError, ValueError):
        pass


def say(text: str) -> None:
    """Tell people something on standard error; if nothing can be told, that is no trouble."""
    from fasthep_flow.records.report import printable

    _write_line(sys.stderr, printable(text))


def show(text: str) -> None:
    """Print what was asked for on standard output.

    Raises:
        RecordError: It cannot be written. That its reader has seen enough (``| head``) is
            no error.
    """
    error = _write_line(sys.stdout, text)
    if error is not None and not isinstance(error, BrokenPipeError):
        raise RecordError(f"the output cannot be written: {reason_of(error)}")


def show_lines(lines: Iterable[tuple[str, str]]) -> None:
    """Print lines, each with its colour where the terminal has any.

    Raises:
        RecordError: They cannot be written.
    """
    if not sys.stdout.isatty():
        show("\n".join(line for line, _ in lines))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    with console.capture() as capture:
        for line, colour in lines:
            console.print(Text(line, style=colour))
    show(capture.get().removesuffix("\n"))


def check_lines(examined: Sequence[Examined], width: int | None) -> Iterator[tuple[str, str]]:
    """What was found of every environment, as a table with a line for each check.

    Args:
        examined: The environments.
        width: Columns of the screen; ``None`` for as wide as need be.

    Yields:
        Each line and its colour.
    """
    from fasthep_flow.tables import table_lines

    for one in examined:
        for line in table_lines([(_heading(one), "")], width):
            yield line, "bold"
        for check in one.checks:
            for line in table_lines(_rows(check), width):
                yield line, _COLOURS[check.verdict]
        yield "", ""
    yield _counted(examined)


def _rows(check: Check) -> list[tuple[str, str, str, str]]:
    from fasthep_flow.records.report import one_line

    # The last column is empty: the one before it is given the room that is left.
    rows = [(f"  {check.what:<9}", f"{check.verdict:<7}", one_line(check.detail), "")]
    if check.hint is not None:
        rows.append((" " * 11, " " * 7, f"-> {one_line(check.hint)}", ""))
    return rows


def _heading(one: Examined) -> str:
    from fasthep_flow.records.report import one_line

    if not one.tasks:
        return "this machine"
    names = [one_line(repr(name)) for name in one.tasks[:_NAMES_SHOWN]]
    rest = len(one.tasks) - len(names)
    more = f" and {rest} more" if rest else ""
    place = "without an image" if one.image is None else f"in {one_line(one.image)}"
    tasks = "task" if len(one.tasks) == 1 else "tasks"
    return f"{tasks} {', '.join(names)}{more} {place}"


def _counted(examined: Sequence[Examined]) -> tuple[str, str]:
    """How many there are of each verdict."""
    checks = [check for one in examined for check in one.checks]
    environments = sum(1 for one in examined if one.tasks)
    machine = "" if environments == len(examined) else "this machine and "
    counts = [
        f"{count} {verdict}"
        for verdict in _COLOURS
        if (count := sum(check.verdict == verdict for check in checks))
    ]
    noun = "environment" if environments == 1 else "environments"
    colour = "red" if any(one.is_refused for one in examined) else ""
    return f"{machine}{environments} {noun}: {', '.join(counts)}", colour


def reason_of(error: Exception) -> str:
    """What the system says of an error, without its number."""
    return getattr(error, "strerror", None) or str(error)


class _Guarded:
    """A stream whose trouble goes to a handler: the live line is drawn by a thread of its own."""

    def __init__(self, stream: TextIO, handle: Callable[[Exception], None]) -> None:
        self._stream = stream
        self._handle = handle

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:
            self._handle(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._handle(error)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


class Waiting:
    """Tells what is waited for: a line that goes away on a terminal, else a line each.

    Args:
        is_quiet: Whether to tell nothing where there is no terminal.
    """

    def __init__(self, *, is_quiet: bool = False) -> None:
        self._is_quiet: Final = is_quiet
        self._is_open = False
        self._lock: Final = threading.Lock()
        self._live: Live | None = None
        self._message = ""
        self._told: set[str] = set()

    def __enter__(self) -> Self:
        self._is_open = True
        return self

    def _go_live(self) -> None:
        """Have the line, from the first time on that there is something to tell."""
        if self._is_open and self._live is None and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                console=Console(file=sys.stderr, highlight=False),
                get_renderable=self._line,
                refresh_per_second=8,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()

    def __exit__(self, *_: object) -> None:
        self._is_open = False
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def tell(self, message: str) -> None:
        """Something goes on that may take long."""
        from fasthep_flow.records.report import one_line

        self._message = one_line(message)
        with self._lock:
            self._go_live()
        if self._is_quiet:
            return
        if self._live is None and self._message not in self._told:
            self._told.add(self._message)
            say(self._message)

    def _line(self) -> Text:
        from rich.text import Text

        return Text(self._message, style="dim", overflow="ellipsis", no_wrap=True)


class Screen:
    """Shows a run as it goes: each task's output when it ends, a live line on a terminal.

    Nothing that goes wrong with showing ends the run.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._gave_up = False
        self._console: Console | None = None
        self._live: Live | None = None
        self._scheduler: Scheduler | None = None
        self._total = 0
        self._preparing = ""

    def __enter__(self) -> Self:
        if self._stream.isatty():
            self._go_live()
        return self

    def _go_live(self) -> None:
        from rich.console import Console
        from rich.live import Live

        guarded = cast("TextIO", _Guarded(self._stream, self._give_up))
        self._console = Console(file=guarded, highlight=False, soft_wrap=True)
        self._live = Live(
            console=self._console,
            get_renderable=self._live_line,
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def __exit__(self, *_: object) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def preparing(self, message: str) -> None:
        """See :class:`fasthep_flow.workflow.Listener`."""
        from fasthep_flow.records.report import one_line

        self._preparing = one_line(message)
        if self._live is None:
            self.write(self._preparing)

    def told(self, message: str) -> None:
        """See :class:`fasthep_flow.workflow.Listener`."""
        from fasthep_flow.records.report import one_line

        self.write(one_line(message))

    def noticed(self, message: str) -> None:
        """See :class:`fasthep_flow.workflow.Listener`."""
        from fasthep_flow.records.report import one_line

        self.write(f"warning: {one_line(message)}", "yellow")

    def started(self, _: RunFolder, scheduler: Scheduler) -> None:
        """See :class:`fasthep_flow.workflow.Listener`."""
        self._scheduler = scheduler
        self._total = scheduler.total

    def ended(self, outcome: Outcome) -> None:
        """See :class:`fasthep_flow.workflow.Listener`."""
        if outcome.is_former:
            # What it printed was shown then; how many there are is told when the run begins.
            return
        from fasthep_flow.records.report import end_line, output_lines

        try:
            lines = [*output_lines(outcome.result, outcome.directory)]
            last = end_line(outcome.result, outcome.directory, is_allowed=outcome.is_allowed)
        except Exception as error:  # noqa: BLE001  # the task has ended well, whatever this is
            say(f"fasthep-flow: what {outcome.result.task!r} did cannot be shown: {error!r}")
            return
        colour = _END_COLOURS.get(outcome.result.status, "yellow" if outcome.is_allowed else "red")
        if not self._can_write(last[0]):
            last = last[0].translate(_PLAIN_MARKS) + last[1:]
        self.write("\n".join(lines))
        self.write(last, colour)

    def write(self, text: str, colour: str = "") -> None:
        """Print text, above the live line where there is one."""
        if not text or self._gave_up:
            return
        if self._console is not None:
            from rich.text import Text

            self._console.print(Text(text, style=colour))
            return
        error = _write_line(self._stream, text)
        if error is not None:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Show nothing more; the run itself goes on."""
        if self._gave_up:
            return
        self._gave_up = True
        silence(self._stream)
        # With `| head` the reader has seen enough, and knows it.
        if not isinstance(error, BrokenPipeError):
            say(f"fasthep-flow: the output cannot be written: {reason_of(error)}; the run goes on")

    def _can_write(self, mark: str) -> bool:
        try:
            mark.encode(self._stream.encoding or "utf-8")
        except (UnicodeEncodeError, LookupError):
            return False
        return True

    def _live_line(self) -> Text:
        from rich.text import Text

        if self._scheduler is None:
            return Text(self._preparing, style="dim")
        from fasthep_flow.records.report import printable

        running = [printable(name) for name in self._scheduler.running()]
        shown = ", ".join(running[:5]) + (f" and {len(running) - 5} more" if running[5:] else "")
        line = f"{self._scheduler.ended}/{self._total} done"
        if self._scheduler.waiting:
            line += f", {self._scheduler.waiting} to be tried again"
        return Text(
            f"{line}; running: {shown}" if shown else line,
            style="dim",
            overflow="ellipsis",
            no_wrap=True,
        )
