"""The command that ends and removes what killed drivers left behind: ``clean``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fasthep_flow.cli.options import EPILOG, Form, Format, app, exit_codes, folder, planning
from fasthep_flow.cli.printing import print_json
from fasthep_flow.errors import ExitCode
from fasthep_flow.terminal import say, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fasthep_flow.cleaning import Leftover

__all__ = ["clean"]

_ENDS: Final = {"process": "ended", "container": "ended", "batch job": "cancelled"}
_MANY: Final = {"process": "processes"}


@app.command(epilog=EPILOG)
@exit_codes()
def clean(
    output: Annotated[
        Path | None,
        typer.Argument(
            metavar="OUTPUT",
            parser=folder,
            help="The folder under which runs lie; 'output', if not given.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what is there; touch nothing.")
    ] = False,
    form: Form = Format.TEXT,
) -> None:
    """End and remove what killed runs left on this machine; records and outputs stay."""
    planning()
    from fasthep_flow import cleaning
    from fasthep_flow.errors import RecordError

    if output is not None and not output.is_dir():
        raise RecordError(f"there is no folder {output}", hint="name the folder of the runs")

    def tell(one: Leftover) -> None:
        if form is Format.TEXT:
            show(_line(one, dry_run=dry_run))

    found = cleaning.clean(output or Path("output"), dry_run=dry_run, tell=tell)
    if form is Format.JSON:
        print_json(
            {
                "found": [one._asdict() for one in found.leftovers],
                "notes": found.notes,
                "dry_run": dry_run,
            }
        )
    else:
        for note in found.notes:
            say(note)
        show(_summary(found.leftovers, dry_run=dry_run))
    if not dry_run and any(one.is_left for one in found.leftovers):
        raise typer.Exit(ExitCode.TASK_FAILED)


def _line(one: Leftover, *, dry_run: bool) -> str:
    from fasthep_flow.records.report import one_line

    done = _ENDS.get(one.what, "removed")
    if one.is_left:
        done = f"would be {done}" if dry_run else f"could not be {done}"
    of = f" of {one_line(one.of)}" if one.of else ""
    return f"{one.what} {one_line(one.name)}{of}: {done}"


def _summary(found: Sequence[Leftover], *, dry_run: bool) -> str:
    if not found:
        return "nothing was left behind"
    counts = Counter(one.what for one in found)
    told = ", ".join(
        f"{count} {what if count == 1 else _MANY.get(what, f'{what}s')}"
        for what, count in counts.items()
    )
    left = sum(one.is_left for one in found)
    if dry_run:
        return f"left behind: {told}; nothing was touched"
    return f"left behind: {told}; " + (f"{left} of them are still there" if left else "all gone")
