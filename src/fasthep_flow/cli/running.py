"""Commands that run a workflow: ``run``, ``execute`` and ``resume``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    Run,
    Tasks,
    Workflow,
    app,
    exit_codes,
    planning,
)
from fasthep_flow.cli.printing import print_json, print_warnings
from fasthep_flow.errors import ExitCode, PlanError, Problem, RecordError, WorkflowError
from fasthep_flow.terminal import Screen, say

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from fasthep_flow.model import Plan
    from fasthep_flow.workflow import Report

__all__ = ["resume", "run"]

_FailFast = Annotated[
    bool, typer.Option("--fail-fast", help="Stop everything at the first failure.")
]
_NoCache = Annotated[
    bool,
    typer.Option("--no-cache", help="Let nothing that earlier runs did stand for a task."),
]
_Force = Annotated[
    list[str] | None,
    typer.Option(
        "--force",
        metavar="TASK",
        help="Run this task in any case; may be given several times.",
    ),
]


@app.command(epilog=EPILOG)
@exit_codes()
def run(
    file: File = Path("workflow.yaml"),
    flow: Flow = None,
    workflow: Workflow = None,
    output: Output = None,
    tasks: Tasks = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Start a new run, also where the latest one is unfinished."),
    ] = False,
    no_cache: _NoCache = False,
    force: _Force = None,
    fail_fast: _FailFast = False,
    locked: Locked = False,
    offline: Offline = False,
    form: Form = Format.TEXT,
) -> None:
    """Run a workflow and record it; go on with its latest run, if that is unfinished."""
    load_plan = planning()
    from fasthep_flow.workflow import kept_offline, run_plan

    resolved = load_plan(file, flow=flow, workflow=workflow, output=output, tasks=tasks or ())
    forced = _forced(resolved, force or ())
    if fresh and no_cache and forced:
        raise WorkflowError(
            Problem("with --fresh and --no-cache every task runs", hint="leave --force out")
        )
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
            fresh=fresh,
            no_cache=no_cache,
            forced=forced,
        )
    _tell(report, form, screen)


app.command("execute", help="The same as run.", epilog=EPILOG)(run)


@app.command(epilog=EPILOG)
@exit_codes()
def resume(
    which: Run,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="The workflow file, if it is not where it was in that run."
        ),
    ] = None,
    gone: Annotated[
        list[str] | None,
        typer.Option(
            "--host-is-gone",
            metavar="HOST",
            help="Take all that the run started on this machine for ended; may be given several"
            " times.",
        ),
    ] = None,
    flow: Flow = None,
    workflow: Workflow = None,
    output: Output = None,
    tasks: Tasks = None,
    no_cache: _NoCache = False,
    force: _Force = None,
    fail_fast: _FailFast = False,
    locked: Locked = False,
    offline: Offline = False,
    form: Form = Format.TEXT,
) -> None:
    """Go on with a run that is named, as it was started unless options say otherwise."""
    planning()
    from fasthep_flow.resumption import Given, plan_again
    from fasthep_flow.workflow import kept_offline, run_plan

    given = Given(
        file=file,
        flow=flow,
        workflow=workflow,
        output=output,
        tasks=tuple(tasks or ()),
        locked=locked,
        offline=offline,
    )
    again = plan_again(which, given)
    for note in again.notes:
        say(f"fasthep-flow: {note}")
    forced = _forced(again.plan, force or ())
    resolved = kept_offline(again.plan) if again.offline else again.plan
    print_warnings(resolved)
    with Screen(sys.stderr if form is Format.JSON else sys.stdout) as screen:
        report = run_plan(
            resolved,
            fail_fast=fail_fast,
            argv=(*sys.argv, *again.words),
            listener=screen,
            locked=again.locked,
            resume=again.run,
            gone=frozenset(gone or ()),
            no_cache=no_cache,
            forced=forced,
        )
    _tell(report, form, screen)


def _forced(plan: Plan, names: Sequence[str]) -> Collection[str]:
    """The tasks that run in any case.

    Raises:
        PlanError: There is none of that name among those that are to run.
    """
    if not names:
        return frozenset()
    from fasthep_flow.language.refusals import nearest, shown

    known = [task.name for task in plan.tasks]
    problems = [
        Problem(
            f"--force: there is no task {shown(name)} among those that are to run",
            hint=nearest(name, known),
        )
        for name in dict.fromkeys(names)
        if name not in known
    ]
    if problems:
        raise PlanError(*problems)
    return frozenset(names)


def _tell(report: Report, form: Format, screen: Screen) -> None:
    """Print what became of the run, and leave with the exit code that says so.

    Raises:
        RecordError: It cannot be printed.
        typer.Exit: A task did not succeed.
    """
    results = [outcome.result for outcome in report.outcomes.values()]
    allowed = [name for name, outcome in report.outcomes.items() if outcome.is_allowed]
    former = [name for name, outcome in report.outcomes.items() if outcome.is_former]
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
                    "done_before": former,
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
            summary_text(
                results,
                report.wall_s,
                report.directory,
                allowed=frozenset(allowed),
                former=frozenset(former),
            )
        )
    if not report.succeeded:
        raise typer.Exit(ExitCode.TASK_FAILED)
