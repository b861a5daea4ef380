"""The application, the options that commands share, and exit codes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fasthep_flow.errors import ExitCode, FlowError, WorkflowError
from fasthep_flow.terminal import say

if TYPE_CHECKING:
    from fasthep_flow.model import Plan

__all__ = [
    "EPILOG",
    "File",
    "Flow",
    "Form",
    "Format",
    "Locked",
    "Offline",
    "Output",
    "Run",
    "Task",
    "Tasks",
    "Workflow",
    "app",
    "exit_codes",
    "folder",
    "planning",
]

EPILOG = """
Exit codes: 0 all is well; 1 a task did not succeed; 2 the command line or the workflow file
is wrong; 3 the workflow cannot be planned (needs, flow, .env); 4 an environment cannot be
had (engine, image, limit, device, software, credential, data), or is not as it was locked; 5 an
orchestrator cannot be opened; 6 the records, or what is printed, cannot be written or read; 7 the
run has a driver already; 70 a mistake of fasthep-flow itself; 128+n stopped by signal n (130 is
Ctrl-C).
"""

app = typer.Typer(
    name="fasthep-flow",
    help="Run an analysis that is described in YAML, each task in its own environment.",
    epilog=EPILOG,
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


Task = Annotated[str, typer.Argument(metavar="TASK", help="The name of the task.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="The workflow file.")]
Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="The run: its id, its path, or 'latest'."),
]
Flow = Annotated[
    str | None,
    typer.Option(metavar="TRANSFORM::RUNNER", help="What runs the workflow: local::sequential."),
]
Workflow = Annotated[
    str | None,
    typer.Option(
        metavar="YAML",
        help="The long form of --flow: '{transform: dask, kwargs: {runner: local}}'.",
    ),
]


def folder(value: str) -> Path:
    """The folder that an option names.

    Raises:
        BadParameter: It is empty.
    """
    if not value.strip():
        # Path("") is the current folder: nobody who writes --output "$NOTHING" means that.
        raise typer.BadParameter("this is not the name of a folder")
    return Path(value)


Output = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        parser=folder,
        help="Where run folders go; 'output' beside FILE if not given.",
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="Only this task and those that it needs; may be given several times."
    ),
]
Locked = Annotated[
    bool,
    typer.Option("--locked", help="Only what the lock file names; an error if anything differs."),
]
Offline = Annotated[
    bool,
    typer.Option("--offline", help="Without any network: only what is on this machine already."),
]
Form = Annotated[Format, typer.Option("--format", help="Text, or JSON for programs.")]


@contextmanager
def exit_codes() -> Iterator[None]:
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


def planning() -> Callable[..., Plan]:
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
