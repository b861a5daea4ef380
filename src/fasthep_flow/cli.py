"""The command: arguments, printing, exit codes; nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self, TextIO

import typer

from fasthep_flow.errors import ExitCode, FlowError, WorkflowError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from fasthep_flow.model import Plan
    from fasthep_flow.records.run import RunFolder
    from fasthep_flow.scheduler import Outcome, Scheduler

__all__ = ["app"]

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
_Output = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Where run folders go; 'output' beside FILE if not given."),
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
            typer.echo(str(problem), err=True)
        count = len(error.problems)
        typer.echo(f"{count} {'problem' if count == 1 else 'problems'}", err=True)
        raise typer.Exit(error.exit_code) from error
    except FlowError as error:
        typer.echo(f"fasthep-flow: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        typer.echo("fasthep-flow: stopped before the first task", err=True)
        raise typer.Exit(ExitCode.INTERRUPTED) from error
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        import traceback

        traceback.print_exc()
        typer.echo(
            "fasthep-flow: this is a mistake of fasthep-flow, not yours; please report it"
            " with the lines above",
            err=True,
        )
        raise typer.Exit(ExitCode.INTERNAL) from error


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
    typer.echo(f"{file}: {count} {'task' if count == 1 else 'tasks'}, no problems")


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

        sys.stdout.write(to_json(resolved) + "\n")
        return
    _print_warnings(resolved)
    from fasthep_flow.records.report import plan_lines

    for line in plan_lines(resolved):
        typer.echo(line)


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


class _Screen:
    """Shows a run as it goes: each task's output when it ends, a live line on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._console: Console | None = None
        self._live: Live | None = None
        self._scheduler: Scheduler | None = None
        self._total = 0
        self._preparing = ""

    def __enter__(self) -> Self:
        if self._stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self._console = Console(file=self._stream, highlight=False, soft_wrap=True)
            self._live = Live(
                console=self._console,
                get_renderable=self._live_line,
                refresh_per_second=8,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

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

        lines = [*output_lines(outcome.result, outcome.directory)]
        lines.append(end_line(outcome.result, outcome.directory))
        colour = {"succeeded": "green", "skipped": "yellow", "cancelled": "yellow"}.get(
            outcome.result.status, "red"
        )
        self.write("\n".join(lines[:-1]))
        self.write(lines[-1], colour)

    def write(self, text: str, colour: str = "") -> None:
        """Print text, above the live line where there is one."""
        if not text:
            return
        try:
            if self._console is not None:
                from rich.text import Text

                self._console.print(Text(text, style=colour))
            else:
                self._stream.write(text + "\n")
        except BrokenPipeError:
            # The reader has seen enough (`| head`); the run itself goes on.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

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
        typer.echo(f"warning: {warning}", err=True)


def _print_json(data: object) -> None:
    import msgspec

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(data), indent=2).decode() + "\n")
