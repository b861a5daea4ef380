"""Commands that look and run nothing: ``lint``, ``plan``, ``check``, ``env``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fasthep_flow.cli.options import (
    EPILOG,
    File,
    Flow,
    Form,
    Format,
    Locked,
    Offline,
    Output,
    Tasks,
    Workflow,
    app,
    exit_codes,
    planning,
)
from fasthep_flow.cli.printing import print_json, print_utf8, print_warnings
from fasthep_flow.errors import ExitCode, WorkflowError
from fasthep_flow.terminal import show

__all__ = ["check", "env", "lint", "plan"]


@app.command(epilog=EPILOG)
@exit_codes()
def lint(
    file: File = Path("workflow.yaml"),
    flow: Flow = None,
    workflow: Workflow = None,
    form: Form = Format.TEXT,
) -> None:
    """Report every problem of a workflow file; nothing of it is run."""
    load_plan = planning()
    try:
        plan = load_plan(file, flow=flow, workflow=workflow)
    except WorkflowError as error:
        if form is Format.TEXT:
            raise
        print_json({"problems": error.problems})
        raise typer.Exit(error.exit_code) from error
    if form is Format.JSON:
        print_json({"problems": [], "warnings": list(plan.warnings), "tasks": len(plan.tasks)})
        return
    print_warnings(plan)
    count = len(plan.tasks)
    from fasthep_flow.records.report import one_line

    show(f"{one_line(file)}: {count} {'task' if count == 1 else 'tasks'}, no problems")


@app.command(epilog=EPILOG)
@exit_codes()
def plan(
    file: File = Path("workflow.yaml"),
    flow: Flow = None,
    workflow: Workflow = None,
    output: Output = None,
    tasks: Tasks = None,
    form: Form = Format.TEXT,
) -> None:
    """Show what would run: order, environment, flow. Nothing is run."""
    load_plan = planning()
    resolved = load_plan(file, flow=flow, workflow=workflow, output=output, tasks=tasks or ())
    if form is Format.JSON:
        from fasthep_flow.model import to_json

        print_utf8(to_json(resolved))
        return
    print_warnings(resolved)
    from fasthep_flow.records.report import plan_lines

    show("\n".join(plan_lines(resolved)))


@app.command(epilog=EPILOG)
@exit_codes()
def check(
    file: File = Path("workflow.yaml"),
    flow: Flow = None,
    workflow: Workflow = None,
    output: Output = None,
    tasks: Tasks = None,
    locked: Locked = False,
    offline: Offline = False,
    form: Form = Format.TEXT,
) -> None:
    """Show whether this machine has what every task asks of its environment. Nothing is run."""
    load_plan = planning()
    resolved = load_plan(file, flow=flow, workflow=workflow, output=output, tasks=tasks or ())
    from fasthep_flow.workflow import check_plan, kept_offline

    resolved = kept_offline(resolved) if offline else resolved
    examined = check_plan(resolved, locked=locked)
    is_refused = any(one.is_refused for one in examined)
    if form is Format.JSON:
        print_json({"ok": not is_refused, "environments": examined})
    else:
        from fasthep_flow.tables import screen_width
        from fasthep_flow.terminal import check_lines, show_lines

        print_warnings(resolved)
        show_lines(check_lines(examined, screen_width()))
    if is_refused:
        raise typer.Exit(ExitCode.ENVIRONMENT)


@app.command(epilog=EPILOG)
@exit_codes()
def env(
    task: Annotated[str, typer.Argument(metavar="TASK", help="The name of the task.")],
    file: File = Path("workflow.yaml"),
    flow: Flow = None,
    workflow: Workflow = None,
    whole: Annotated[
        bool, typer.Option("--all", help="All variables, those of the host included.")
    ] = False,
    form: Form = Format.TEXT,
) -> None:
    """Show a task's final environment, and where each part of it came from."""
    planning()
    from fasthep_flow.workflow import explain_task

    explained = explain_task(file, task, flow=flow, workflow=workflow, whole_host=whole)
    if form is Format.JSON:
        import msgspec

        print_json(msgspec.to_builtins(explained))
        return
    from fasthep_flow.explanation import environment_lines
    from fasthep_flow.tables import screen_width

    show("\n".join(environment_lines(explained, screen_width())))
