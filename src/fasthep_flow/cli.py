"""The command: arguments and exit codes; nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fasthep_flow.errors import ExitCode, FlowError, RecordError, WorkflowError
from fasthep_flow.terminal import Screen, say, show

if TYPE_CHECKING:
    from fasthep_flow.model import Plan

__all__ = ["app"]

_EPILOG = """
Exit codes: 0 all is well; 1 a task did not succeed; 2 the command line or the workflow file
is wrong; 3 the workflow cannot be planned (needs, flow, .env); 4 an environment cannot be
had (engine, image, login, limit); 5 an orchestrator cannot be opened; 6 the records, or what
is printed, cannot be written or read; 70 a mistake of fasthep-flow itself; 128+n stopped by
signal n (130 is Ctrl-C).
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
    from fasthep_flow.records.report import one_line

    show(f"{one_line(file)}: {count} {'task' if count == 1 else 'tasks'}, no problems")


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

    show("\n".join(plan_lines(resolved)))


@app.command(epilog=_EPILOG)
@_exit_codes()
def check(
    file: _File = Path("workflow.yaml"),
    flow: _Flow = None,
    workflow: _Workflow = None,
    output: _Output = None,
    tasks: _Tasks = None,
    form: _Format = Format.TEXT,
) -> None:
    """Show whether this machine has what every task asks of its environment. Nothing is run."""
    load_plan = _planning()
    resolved = load_plan(file, flow=flow, workflow=workflow, output=output, tasks=tasks or ())
    from fasthep_flow.workflow import check_plan

    examined = check_plan(resolved)
    is_refused = any(one.is_refused for one in examined)
    if form is Format.JSON:
        _print_json({"ok": not is_refused, "environments": examined})
    else:
        from fasthep_flow.tables import screen_width
        from fasthep_flow.terminal import check_lines, show_lines

        _print_warnings(resolved)
        show_lines(check_lines(examined, screen_width()))
    if is_refused:
        raise typer.Exit(ExitCode.ENVIRONMENT)


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
    with Screen(sys.stderr if form is Format.JSON else sys.stdout) as screen:
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


@app.command(epilog=_EPILOG)
@_exit_codes()
def env(
    task: Annotated[str, typer.Argument(metavar="TASK", help="The name of the task.")],
    file: _File = Path("workflow.yaml"),
    flow: _Flow = None,
    workflow: _Workflow = None,
    whole: Annotated[
        bool, typer.Option("--all", help="All variables, those of the host included.")
    ] = False,
    form: _Format = Format.TEXT,
) -> None:
    """Show a task's final environment, and where each part of it came from."""
    _planning()
    from fasthep_flow.workflow import explain_task

    explained = explain_task(file, task, flow=flow, workflow=workflow, whole_host=whole)
    if form is Format.JSON:
        import msgspec

        _print_json(msgspec.to_builtins(explained))
        return
    from fasthep_flow.explanation import environment_lines
    from fasthep_flow.tables import screen_width

    show("\n".join(environment_lines(explained, screen_width())))


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"fasthep-flow {version_of('fasthep-flow')}")
        raise typer.Exit


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
    show(text)
