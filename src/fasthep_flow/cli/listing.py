"""The command that lists what there is to choose from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fasthep_flow.cli.options import EPILOG, Form, Format, app, exit_codes, planning
from fasthep_flow.cli.printing import print_json
from fasthep_flow.terminal import show_lines

if TYPE_CHECKING:
    from fasthep_flow.listing import Default, Listed

__all__ = ["list_"]

_USUAL: Final = Path("workflow.yaml")
_INDENT: Final = " " * 4


class Listable(StrEnum):
    """What can be listed."""

    ORCHESTRATIONS = "orchestrations"


@app.command("list", epilog=EPILOG)
@exit_codes()
def list_(
    what: Annotated[Listable, typer.Argument(metavar="WHAT", help="orchestrations")],
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="A workflow file; workflow.yaml if there is one."),
    ] = None,
    form: Form = Format.TEXT,
) -> None:
    """List what can run a workflow, where it is defined, and whether it can run here."""
    assert what is Listable.ORCHESTRATIONS  # noqa: S101  # there is nothing else
    planning()
    from fasthep_flow.listing import list_orchestrations

    path = file if file is not None else _USUAL if _USUAL.is_file() else None
    default, listed = list_orchestrations(path)
    if form is Format.JSON:
        print_json({"default": default, "orchestrations": listed})
        return
    from fasthep_flow.tables import screen_width

    show_lines(_lines(default, listed, path, screen_width()))


def _lines(
    default: Default, listed: Sequence[Listed], path: Path | None, width: int | None
) -> Iterator[tuple[str, str]]:
    """A line for each name, and below it what it stands for; each with its colour."""
    from rich.cells import cell_len

    from fasthep_flow.records.report import one_line, options_text
    from fasthep_flow.tables import table_lines

    room = max(cell_len(one_line(one.name)) for one in listed)
    for one in listed:
        name = one_line(one.name)
        name += " " * (room - cell_len(name))
        verdict = "can run here" if one.can_run else f"cannot: {one_line(one.why_not)}"
        # The last column is empty: the one before it is given the room that is left.
        for line in table_lines([(name, verdict, "")], width):
            yield line, "green" if one.can_run else "yellow"
        for detail in _details(one, default):
            for line in table_lines([(_INDENT[:2], one_line(detail), "")], width):
                yield line, ""
    yield "", ""
    of = "here" if path is None else f"of {one_line(path)}"
    options = f" with {options_text(default.options)}" if default.options else ""
    yield f"the default {of}: {one_line(default.name) or 'none'}{options}", "bold"
    who = "nothing says otherwise" if default.origin == "default" else f"from {default.origin}"
    if default.why_not is not None:
        who = f"{default.origin}: {default.why_not}"
    for line in table_lines([(_INDENT[:2], one_line(who), "")], width):
        yield line, ""


def _details(one: Listed, default: Default) -> Iterator[str]:
    from fasthep_flow.records.report import options_text

    runner = f"{one.transform}::{one.runner}" if one.runner else ""
    if runner not in {"", one.name} or one.options:
        options = f" with {options_text(one.options)}" if one.options else ""
        yield f"{runner or one.transform}{options}"
    if one.origin != "fasthep-flow":
        yield f"from {one.origin}"
    for other in one.replaced:
        yield f"in place of the one from {other}"
    if one.name == default.name and not default.options:
        yield "the default"
