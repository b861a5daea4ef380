"""Commands that look and run nothing: ``lint``, ``plan``, ``check``, ``env``, ``why``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    Task,
    Tasks,
    Workflow,
    app,
    exit_codes,
    planning,
)
from fasthep_flow.cli.printing import print_json, print_utf8, print_warnings
from fasthep_flow.errors import ExitCode, RecordError, WorkflowError
from fasthep_flow.terminal import Waiting, say, show

if TYPE_CHECKING:
    from fasthep_flow.forecasting import Foretold, Prospect
    from fasthep_flow.model import Plan

__all__ = ["check", "env", "lint", "plan", "why"]


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
    """Show what would run: order, environment, flow; and why, after a first run. Nothing is run."""
    load_plan = planning()
    resolved = load_plan(file, flow=flow, workflow=workflow, output=output, tasks=tasks or ())
    try:
        prospect = _prospect_of(resolved)
    except RecordError as error:
        # What would run is known all the same.
        say(f"warning: what need not run cannot be told: {error}")
        prospect = None
    if form is Format.JSON:
        from fasthep_flow.model import to_json

        if prospect is None:
            print_utf8(to_json(resolved))
        else:
            import msgspec

            print_json({**msgspec.json.decode(to_json(resolved)), "forecast": _as_json(prospect)})
        return
    print_warnings(resolved)
    from fasthep_flow.explanation import prospect_lines
    from fasthep_flow.records.report import fate_text, plan_lines

    told = {} if prospect is None else prospect.tasks
    fates = {name: fate_text(one.fate, one.reasons) for name, one in told.items()}
    show("\n".join([*plan_lines(resolved, fates), *prospect_lines(prospect)]))


@app.command(epilog=EPILOG)
@exit_codes()
def why(
    task: Task,
    file: File = Path("workflow.yaml"),
    flow: Flow = None,
    workflow: Workflow = None,
    output: Output = None,
    form: Form = Format.TEXT,
) -> None:
    """Say whether a task would run now, and why. Nothing is run."""
    load_plan = planning()
    resolved = load_plan(file, flow=flow, workflow=workflow, output=output)
    from fasthep_flow.language import select_tasks

    # That there is such a task is to be known before anything is read.
    select_tasks(resolved, [task])
    prospect = _prospect_of(resolved, only=task, in_any_case=True)
    from fasthep_flow.explanation import fate_lines
    from fasthep_flow.forecasting import Foretold

    one = prospect.tasks[task] if prospect is not None else Foretold.of_first_run(task)
    if form is Format.JSON:
        told = None if prospect is None else {"run": prospect.run_id, "driver": prospect.driver}
        print_json({"task": task, **_fate_json(one), **(told or {"run": None, "driver": None})})
        return
    show("\n".join(fate_lines(one, prospect)))


def _prospect_of(
    resolved: Plan, *, only: str | None = None, in_any_case: bool = False
) -> Prospect | None:
    from fasthep_flow.forecasting import forecast_plan

    with Waiting(is_quiet=True) as waiting:
        prospect = forecast_plan(
            resolved, only=only, in_any_case=in_any_case, progress=waiting.tell
        )
    for note in () if prospect is None else prospect.notes:
        say(f"warning: {note}")
    return prospect


def _as_json(prospect: Prospect) -> dict[str, Any]:
    return {
        "run": prospect.run_id,
        "driver": prospect.driver,
        "tasks": {name: _fate_json(one) for name, one in prospect.tasks.items()},
    }


def _fate_json(one: Foretold) -> dict[str, Any]:
    return {"fate": one.fate, "reasons": one.reasons, "made_by": one.made_by}


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
    task: Task,
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
