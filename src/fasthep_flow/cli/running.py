"""Commands that run a workflow: ``run`` and ``execute``."""

from __future__ import annotations

import sys
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
from fasthep_flow.cli.printing import print_json, print_warnings
from fasthep_flow.errors import ExitCode, RecordError
from fasthep_flow.terminal import Screen, say

__all__ = ["run"]


@app.command(epilog=EPILOG)
@exit_codes()
def run(
    file: File = Path("workflow.yaml"),
    flow: Flow = None,
    workflow: Workflow = None,
    output: Output = None,
    tasks: Tasks = None,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop everything at the first failure.")
    ] = False,
    locked: Locked = False,
    offline: Offline = False,
    form: Form = Format.TEXT,
) -> None:
    """Run a workflow and record it."""
    load_plan = planning()
    from fasthep_flow.workflow import kept_offline, run_plan

    resolved = load_plan(file, flow=flow, workflow=workflow, output=output, tasks=tasks or ())
    resolved = kept_offline(resolved) if offline else resolved
    print_warnings(resolved)
    # With JSON on standard output, what people read goes to standard error.
    with Screen(sys.stderr if form is Format.JSON else sys.stdout) as screen:
        report = run_plan(
            resolved,
            fail_fast=fail_fast,
            argv=tuple(sys.argv),
            listener=screen,
            locked=locked,
        )
    results = [outcome.result for outcome in report.outcomes.values()]
    allowed = [name for name, outcome in report.outcomes.items() if outcome.is_allowed]
    from fasthep_flow.records.report import summary_text

    if form is Format.JSON:
        import msgspec

        try:
            print_json(
                {
                    "run_id": report.run_id,
                    "directory": str(report.directory),
                    "succeeded": report.succeeded,
                    "allowed": allowed,
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
        screen.write(
            summary_text(results, report.wall_s, report.directory, allowed=frozenset(allowed))
        )
    if not report.succeeded:
        raise typer.Exit(ExitCode.TASK_FAILED)


app.command("execute", help="The same as run.", epilog=EPILOG)(run)
