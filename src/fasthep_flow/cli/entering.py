"""Commands that enter a task's environment: ``shell`` and ``exec``."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from fasthep_flow.cli.options import (
    EPILOG,
    File,
    Flow,
    Locked,
    Offline,
    Output,
    Task,
    Workflow,
    app,
    exit_codes,
    planning,
)
from fasthep_flow.cli.printing import print_warnings
from fasthep_flow.terminal import Waiting, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fasthep_flow.execution.prepare import Prepared
    from fasthep_flow.visit import Visit

__all__ = ["exec_", "shell"]


class _Device(StrEnum):
    CPU = "cpu"
    GPU = "gpu"


_Run = Annotated[
    str | None,
    typer.Option(
        metavar="RUN",
        help="As the task was in this run, by its id, its path or 'latest'; else as the workflow"
        " has it now.",
    ),
]
_Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="In a new folder, also where the task failed in the latest run."),
]
_On = Annotated[
    _Device | None, typer.Option(help="On this kind of device, whatever the task says.")
]


class _WithCommand(TyperCommand):
    """What stands behind the task is a command, options and all; ``--`` may be between."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer's own click
        """See click."""
        with_value = {
            name
            for parameter in self.params
            if not getattr(parameter, "is_flag", True)
            for name in parameter.opts
        }
        return super().parse_args(ctx, _separated(args, with_value))


def _separated(args: Sequence[str], with_value: set[str]) -> list[str]:
    """The words, with ``--`` before the second one that is no option of ours."""
    index = 0
    is_task = True
    while index < len(args):
        word = args[index]
        if word == "--":
            break
        if word.startswith("-") and word != "-":
            index += 2 if word in with_value else 1
        elif is_task:
            is_task = False
            index += 1
        else:
            return [*args[:index], "--", *args[index:]]
    return list(args)


def _with_program(words: list[str]) -> list[str]:
    if words and not words[0]:
        raise typer.BadParameter("the program has no name")
    return words


@app.command(epilog=EPILOG)
@exit_codes()
def shell(
    task: Task,
    file: File = Path("workflow.yaml"),
    flow: Flow = None,
    workflow: Workflow = None,
    output: Output = None,
    run: _Run = None,
    fresh: _Fresh = False,
    device: _On = None,
    locked: Locked = False,
    offline: Offline = False,
) -> None:
    """Open a shell in a task's environment. Of one that failed: where it failed."""
    load_plan = planning()
    resolved = load_plan(file, flow=flow, workflow=workflow, output=output)
    print_warnings(resolved)
    from fasthep_flow.entering import enter_task
    from fasthep_flow.workflow import kept_offline

    resolved = kept_offline(resolved) if offline else resolved
    with ExitStack() as stack:
        waiting = stack.enter_context(Waiting())

        def greet(visit: Visit, made: Prepared) -> None:
            from fasthep_flow.greeting import greeting_lines

            stack.close()
            say("\n".join(greeting_lines(visit, made)))

        code = enter_task(
            resolved,
            task,
            run=run,
            is_fresh=fresh,
            device=None if device is None else device.value,
            locked=locked,
            progress=waiting.tell,
            ready=greet,
            waits=waiting.tell,
        )
    # It is None where the caller has closed it.
    if sys.stdin is None or not sys.stdin.isatty():
        # It read a script. Of a person the last command alone would count, which says nothing.
        raise typer.Exit(code)


@app.command("exec", cls=_WithCommand, epilog=EPILOG)
@exit_codes()
def exec_(
    task: Task,
    command: Annotated[
        list[str],
        typer.Argument(
            metavar="[--] CMD [ARGS]...",
            help="The program and its arguments; no shell reads them.",
            callback=_with_program,
        ),
    ],
    file: Annotated[Path, typer.Option("--file", metavar="FILE", help="The workflow file.")] = Path(
        "workflow.yaml"
    ),
    flow: Flow = None,
    workflow: Workflow = None,
    output: Output = None,
    run: _Run = None,
    fresh: _Fresh = False,
    device: _On = None,
    locked: Locked = False,
    offline: Offline = False,
) -> None:
    """Run a command in a task's environment. Its exit code is this one's."""
    load_plan = planning()
    resolved = load_plan(file, flow=flow, workflow=workflow, output=output)
    from fasthep_flow.entering import enter_task
    from fasthep_flow.workflow import kept_offline

    resolved = kept_offline(resolved) if offline else resolved
    with ExitStack() as stack:
        waiting = stack.enter_context(Waiting())

        def remark(visit: Visit, _: Prepared) -> None:
            from fasthep_flow.greeting import remark_lines

            stack.close()
            for line in remark_lines(visit):
                say(f"fasthep-flow: {line}")

        code = enter_task(
            resolved,
            task,
            command,
            run=run,
            is_fresh=fresh,
            device=None if device is None else device.value,
            locked=locked,
            # Scripts may well look at what the command says.
            progress=waiting.tell if sys.stderr.isatty() else _say_nothing,
            ready=remark,
            # It may take hours.
            waits=waiting.tell if sys.stderr.isatty() else _say_line,
        )
    raise typer.Exit(code)


def _say_line(words: str) -> None:
    say(f"fasthep-flow: {words}")


def _say_nothing(_: str) -> None:
    """For a caller who does not want to know."""
