"""The command: arguments, printing, exit codes; nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self, TextIO, cast

import typer

from fasthep_flow.errors import ExitCode, FlowError, RecordError, WorkflowError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from fasthep_flow.model import Plan
    from fasthep_flow.records.run import RunFolder
    from fasthep_flow.scheduler import Outcome, Scheduler

__all__ = ["app", "reason_of", "say", "silence"]

# For encodings without our marks; see `fasthep_flow.records.report.MARKS`.
_PLAIN_MARKS = str.maketrans({"✓": "+", "✗": "x", "■": "#"})

_EPILOG = """
Exit codes: 0 all is well; 1 a task did not succeed; 2 the command line or the workflow file
is wrong; 3 the workflow cannot be planned (needs, flow, .env); 4 an environment cannot be
had (engine, image, login, limit); 5 an orchestrator cannot be opened; 6 the records cannot
be written or read; 70 a mistake of fasthep-flow itself; 128+n stopped by signal n (130 is
Ctrl-C).
"""

app = typer.Typer(
    name="fasthep-flow",
    help="Run an analysis that is described in YAML, each task in its own environment.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Format(StrEnum):
    """What is printed: for people, or for programs."""

    TEXT = "text"
    JSON = "json"


_File = Annotated[Path, typer.Argument(metavar="FILE", help="The workflow file.")]
_Flow = Annotated[
    str | None,
    typer.Option(metavar="TRANSFORM::RUNNER", help="What runs the workflow: local::sequential."),
]
_Workflow = Annotated[
    str | None,
    typer.Option(
        metavar="YAML",
        help="The long form of --flow: '{transform: dask, kwargs: {runner: local}}'.",
    ),
]


def _folder(value: str) -> Path:
    if not value.strip():
        # Path("") is the current folder: nobody who writes --output "$NOTHING" means that.
        raise typer.BadParameter("this is not the name of a folder")
    return Path(value)


_Output = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        parser=_folder,
        help="Where run folders go; 'output' beside FILE if not given.",
    ),
]
_Tasks = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="Only this task and those that it needs; may be given several times."
    ),
]
_Format = Annotated[Format, typer.Option("--format", help="Text, or JSON for programs.")]


@contextmanager
def _exit_codes() -> Iterator[None]:
    """Errors become a message and the exit code that belongs to them."""
    try:
        yield
    except WorkflowError as error:
        for problem in error.problems:
            say(str(problem))
        count = len(error.problems)
        say(f"{count} {'problem' if count == 1 else 'problems'}")
        raise typer.Exit(error.exit_code) from error
    except FlowError as error:
        say(f"fasthep-flow: {error}")
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        say("fasthep-flow: stopped before the first task")
        raise typer.Exit(ExitCode.INTERRUPTED) from error
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        import traceback

        say(
            traceback.format_exc()
            + "fasthep-flow: this is a mistake of fasthep-flow, not yours; please report it"
            " with the lines above"
        )
        raise typer.Exit(ExitCode.INTERNAL) from error


def _write(stream: TextIO, text: str) -> OSError | ValueError | None:
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
    _write(sys.stderr, text)


def _print(text: str) -> None:
    """Print what was asked for on standard output.

    Raises:
        RecordError: It cannot be written. That its reader has seen enough (``| head``) is
            no error.
    """
    error = _write(sys.stdout, text)
    if error is not None and not isinstance(error, BrokenPipeError):
        raise RecordError(f"the output cannot be written: {reason_of(error)}")


def reason_of(error: Exception) -> str:
    """What the system says of an error, without its number."""
    return getattr(error, "strerror", None) or str(error)


def _planning() -> Callable[..., Plan]:
    """The planner, imported without the plug-ins that others registered with pydantic.

    Looking for them reads the metadata of every installed package, and lint has no use for
    code of third parties.
    """
    name = "PYDANTIC_DISABLE_PLUGINS"
    before = os.environ.get(name)
    os.environ[name] = "__all__"
    try:
        from fasthep_flow.workflow import load_plan
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before
    return load_plan


@app.command(epilog=_EPILOG)
@_exit_codes()
def lint(
    file: _File = Path("workflow.yaml"),
    flow: _Flow = None,
    workflow: _Workflow = None,
    form: _Format = Format.TEXT,
) -> None:
    """Report every problem of a workflow file; nothing of it is run."""
    load_plan = _planning()
    try:
        plan = load_plan(file, flow=flow, workflow=workflow)
    except WorkflowError as error:
        if form is Format.TEXT:
            raise
        _print_json({"problems": error.problems})
        raise typer.Exit(error.exit_code) from error
    if form is Format.JSON:
        _print_json({"problems": [], "warnings": list(plan.warnings), "tasks": len(plan.tasks)})
        return
    _print_warnings(plan)
    count = len(plan.tasks)
    _print(f"{file}: {count} {'task' if count == 1 else 'tasks'}, no problems")


@app.command(epilog=_EPILOG)
@_exit_codes()
def plan(
    file: _File = Path("workflow.yaml"),
    flow: _Flow = None,
    workflow: _Workflow = None,
    output: _Output = None,
    tasks: _Tasks = None,
    form: _Format = Format.TEXT,
) -> None:
    """Show what would run: order, environment, flow. Nothing is run."""
    load_plan = _planning()
    resolved = load_plan(file, flow=flow, workflow=workflow, output=output, tasks=tasks or ())
    if form is Format.JSON:
        from fasthep_flow.model import to_json

        _print_utf8(to_json(resolved))
        return
    _print_warnings(resolved)
    from fasthep_flow.records.report import plan_lines

    _print("\n".join(plan_lines(resolved)))


@app.command(epilog=_EPILOG)
@_exit_codes()
def run(
    file: _File = Path("workflow.yaml"),
    flow: _Flow = None,
    workflow: _Workflow = None,
    output: _Output = None,
    tasks: _Tasks = None,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop everything at the first failure.")
    ] = False,
    form: _Format = Format.TEXT,
) -> None:
    """Run a workflow and record it."""
    load_plan = _planning()
    from fasthep_flow.workflow import run_plan

    resolved = load_plan(file, flow=flow, workflow=workflow, output=output, tasks=tasks or ())
    _print_warnings(resolved)
    # With JSON on standard output, what people read goes to standard error.
    with _Screen(sys.stderr if form is Format.JSON else sys.stdout) as screen:
        report = run_plan(resolved, fail_fast=fail_fast, argv=tuple(sys.argv), listener=screen)
    results = [outcome.result for outcome in report.outcomes.values()]
    from fasthep_flow.records.report import summary_text

    if form is Format.JSON:
        import msgspec

        try:
            _print_json(
                {
                    "run_id": report.run_id,
                    "directory": str(report.directory),
                    "succeeded": report.succeeded,
                    "wall_s": report.wall_s,
                    "tasks": [
                        msgspec.to_builtins(result, builtin_types=(float,)) for result in results
                    ],
                }
            )
        except RecordError as error:
            # That a task failed says more than that nobody can read it here.
            if report.succeeded:
                raise
            say(f"fasthep-flow: {error}")
    else:
        screen.write(summary_text(results, report.wall_s, report.directory))
    if not report.succeeded:
        raise typer.Exit(ExitCode.TASK_FAILED)


app.command("execute", help="The same as run.", epilog=_EPILOG)(run)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"fasthep-flow {version_of('fasthep-flow')}")
        raise typer.Exit


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


class _Screen:
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
        self._preparing = message
        if self._live is None:
            self.write(message)

    def started(self, _: RunFolder, scheduler: Scheduler) -> None:
        """See :class:`fasthep_flow.workflow.Listener`."""
        self._scheduler = scheduler
        self._total = scheduler.total

    def ended(self, outcome: Outcome) -> None:
        """See :class:`fasthep_flow.workflow.Listener`."""
        from fasthep_flow.records.report import end_line, output_lines

        try:
            lines = [*output_lines(outcome.result, outcome.directory)]
            last = end_line(outcome.result, outcome.directory)
        except Exception as error:  # noqa: BLE001  # the task has ended well, whatever this is
            say(f"fasthep-flow: what {outcome.result.task!r} did cannot be shown: {error!r}")
            return
        colour = {"succeeded": "green", "skipped": "yellow", "cancelled": "yellow"}.get(
            outcome.result.status, "red"
        )
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
        error = _write(self._stream, text)
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
        return Text(
            f"{line}; running: {shown}" if shown else line,
            style="dim",
            overflow="ellipsis",
            no_wrap=True,
        )


def _print_warnings(plan: Plan) -> None:
    for warning in plan.warnings:
        say(f"warning: {warning}")


def _print_json(data: object) -> None:
    import msgspec

    _print_utf8(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())


def _print_utf8(text: str) -> None:
    """Print JSON, which is UTF-8 whatever the terminal is."""
    if isinstance(sys.stdout, TextIOWrapper):
        # Escapes for what another encoding lacks would be no JSON.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    _print(text)
