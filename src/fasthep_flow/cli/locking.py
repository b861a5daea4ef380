"""Commands that fix what a workflow uses, and bring it in: ``lock`` and ``pull``."""

from __future__ import annotations

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
    Tasks,
    Workflow,
    app,
    exit_codes,
    folder,
    planning,
)
from fasthep_flow.cli.printing import print_json, print_warnings
from fasthep_flow.errors import ExitCode
from fasthep_flow.terminal import Waiting, say, show

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fasthep_flow.locking.pulling import Pulled

__all__ = ["lock", "pull"]


@app.command(epilog=EPILOG)
@exit_codes()
def lock(
    file: File = Path("workflow.yaml"),
    is_check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; exit code 4 if it would change."),
    ] = False,
    form: Form = Format.TEXT,
) -> None:
    """Write a lock file: the digest of all that is used."""
    load_plan = planning()
    plan = load_plan(file)
    print_warnings(plan)
    from fasthep_flow.records.report import one_line
    from fasthep_flow.workflow import lock_plan

    with Waiting() as waiting:
        locked = lock_plan(plan, writes=not is_check, progress=waiting.tell)
    if form is Format.JSON:
        print_json(
            {"file": str(locked.path), "changed": locked.is_changed, "changes": locked.changes}
        )
    else:
        for line in locked.changes:
            show(one_line(line))
        state = _state(locked.is_changed, is_check, locked.counted)
        show(f"{one_line(file.with_suffix('.lock'))}: {state}")
    for line in locked.unlockable:
        say(f"warning: {line}")
    if is_check and locked.is_changed:
        raise typer.Exit(ExitCode.ENVIRONMENT)


@app.command(epilog=EPILOG)
@exit_codes()
def pull(
    file: File = Path("workflow.yaml"),
    flow: Flow = None,
    workflow: Workflow = None,
    tasks: Tasks = None,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            parser=folder,
            help="Have it all in this folder, which is FASTHEP_FLOW_CACHE on another machine.",
        ),
    ] = None,
    locked: Locked = False,
    form: Form = Format.TEXT,
) -> None:
    """Bring in all that a workflow uses; no task is run."""
    load_plan = planning()
    plan = load_plan(file, flow=flow, workflow=workflow, tasks=tasks or ())
    print_warnings(plan)
    from fasthep_flow.workflow import pull_plan

    with Waiting() as waiting:
        found = pull_plan(plan, folder=to, locked=locked, progress=waiting.tell)
    if form is Format.JSON:
        import msgspec

        print_json({"pulled": msgspec.to_builtins(found)})
        return
    from fasthep_flow.tables import screen_width, table_lines

    if found:
        show("\n".join(table_lines(_rows(found), screen_width())))
    show(_summary(found))
    for line in _left_out(found):
        say(f"warning: {line}")
    if to is not None:
        from fasthep_flow.records.report import one_line

        words = " --locked" if locked else ""
        show(f"there: FASTHEP_FLOW_CACHE={one_line(to)} fasthep-flow run --offline{words}")


def _state(is_changed: bool, is_check: bool, counted: str) -> str:
    if not is_changed:
        return f"is up to date ({counted})"
    return f"would change ({counted})" if is_check else f"written ({counted})"


def _rows(found: Sequence[Pulled]) -> Iterator[tuple[str, ...]]:
    from fasthep_flow.environments.host.machine import bytes_text
    from fasthep_flow.records.report import one_line

    for one in found:
        size = "" if one.size is None else bytes_text(one.size)
        name = one.name.partition("@sha256:")[0]
        digest = one.digest.rpartition(":")[2][:12]
        yield one.what, one.state, f"{size:>7}", one.runtime, one_line(name), digest


def _summary(found: Sequence[Pulled]) -> str:
    from fasthep_flow.environments.host.machine import bytes_text

    if not found:
        return "nothing is to be brought in: no task asks for an image, data or Python"
    fetched = [one for one in found if one.state == "fetched"]
    here = sum(one.state == "was here" for one in found)
    size = sum(one.size or 0 for one in fetched)
    counted = f"{len(fetched)} fetched" + (f" ({bytes_text(size)})" if size else "")
    return f"{counted}, {here} here before"


def _left_out(found: Sequence[Pulled]) -> Iterator[str]:
    for one in found:
        if one.state == "left out":
            yield f"{one.name} is not in the folder: it lies in {one.place}; carry it by itself"
