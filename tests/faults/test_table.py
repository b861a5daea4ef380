"""The documentation's table of faults, from the marks of the tests that inject them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest
from tests.faults.conftest import TRIED

HERE: Final = Path(__file__).parent
PAGE: Final = HERE.parents[1] / "docs" / "reference" / "faults-table.md"
# What was seen of Snakemake 9.27, redun 0.44 and luigi 3.8 with the same fault, by its number.
OTHERS: Final = {
    1: "Snakemake no, redun in part, luigi no",
    2: "Snakemake in part, redun no",
    4: "Snakemake in part, redun yes, luigi no",
    5: "Snakemake in part, redun no, luigi no",
    6: "Snakemake no, redun no, luigi no",
    8: "Snakemake in part, redun no, luigi in part",
    9: "Snakemake no",
    11: "Snakemake no, where it keeps incomplete files; luigi no",
    13: "Snakemake in part, redun no",
    14: "Snakemake no, redun no",
    15: "Snakemake in part, redun in part",
    18: "Snakemake no, redun no",
    32: "Snakemake no, redun no",
    33: "Snakemake yes, redun no",
    34: "Snakemake in part, redun yes",
}
HEAD: Final = """\
| what befalls a run | what happens | shown by | others |
|---|---|---|---|
"""


def test_every_fault_is_marked_with_a_number_and_two_clauses() -> None:
    for number, injected, happens in (mark.args for marks in TRIED.values() for mark in marks):
        assert number > 0
        for clause in (injected, happens):
            assert clause == clause.strip(" .")


def test_the_table_of_the_documentation_is_what_is_tried() -> None:
    # FASTHEP_WRITE_TABLES=1 writes it anew.
    missing = {path.name for path in HERE.glob("test_*.py")} - TRIED.keys()
    if missing:
        pytest.skip(f"not all of the faults are tried: not {', '.join(sorted(missing))}")
    rows = [(*mark.args, name) for name, marks in sorted(TRIED.items()) for mark in marks]
    lines, told = [], set()
    for number, injected, happens, name in sorted(rows, key=lambda row: int(row[0])):
        others = "" if number in told else OTHERS.get(number, "")
        told.add(number)
        cells = (injected, happens, f"`{name}`", others)
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n")
    table = HEAD + "".join(lines)
    if os.environ.get("FASTHEP_WRITE_TABLES"):
        PAGE.write_text(table)
    assert PAGE.read_text() == table
