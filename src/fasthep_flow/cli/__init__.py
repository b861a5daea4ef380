"""The command: arguments and exit codes; nothing else."""

from __future__ import annotations

from typing import Annotated

import typer

from fasthep_flow.cli import (  # noqa: F401 - their commands are the application's
    cleaning,
    entering,
    listing,
    locking,
    looking,
    running,
)
from fasthep_flow.cli.options import app

__all__ = ["app"]

_ORDER = (
    *("lint", "plan", "why", "check", "run", "execute", "resume", "clean"),
    *("lock", "pull", "env", "shell", "exec", "list"),
)
"""As the help lists the commands, and the reference."""

app.registered_commands.sort(
    key=lambda one: _ORDER.index(one.name or getattr(one.callback, "__name__", ""))
)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"fasthep-flow {version_of('fasthep-flow')}")
        raise typer.Exit
