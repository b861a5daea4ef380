"""Rows of cells, in columns that fit the terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from fasthep_flow.tables import screen_width, table_lines

ROWS = [("name", "value", "from"), ("LUMI", "4.9", "common.env:1"), ("X", "", "workflow.yaml:12")]


def test_columns_are_as_wide_as_they_need_be() -> None:
    assert list(table_lines(ROWS, 80)) == [
        "name  value  from",
        "LUMI  4.9    common.env:1",
        "X            workflow.yaml:12",
    ]
    assert list(table_lines(ROWS, None)) == list(table_lines(ROWS, 80))


def test_what_does_not_fit_goes_on_in_the_next_line() -> None:
    rows = [("PATH", "/usr/local/bin:/usr/bin", "workflow.yaml:1"), ("A", "many short words", "x")]
    assert list(table_lines(rows, 36)) == [
        "PATH  /usr/local/bin  workflow.yaml:",
        "      :/usr/bin       1",
        "A     many short      x",
        "      words",
    ]


def test_without_a_terminal_no_line_is_broken() -> None:
    rows = [("A", "b" * 500, "c" * 500)]
    assert list(table_lines(rows, None)) == [f"A  {'b' * 500}  {'c' * 500}"]


def test_wide_characters_count_for_two() -> None:
    assert list(table_lines([("a", "ミュー", "x"), ("b", "mu", "y")], 80)) == [
        "a  ミュー  x",
        "b  mu      y",
    ]


@given(
    st.lists(
        st.tuples(*[st.text(st.characters(categories=["L", "N", "P", "Zs"]))] * 3), min_size=1
    ),
    st.integers(60, 200),
)
def test_nothing_is_lost_and_no_line_is_too_wide(
    rows: list[tuple[str, str, str]], width: int
) -> None:
    rows = [(name[:20], value, origin) for name, value, origin in rows]
    lines = list(table_lines(rows, width))
    # A name takes forty columns at the most.
    assert all(cell_len(line) <= width for line in lines)
    written = sorted("".join("".join(row) for row in rows).replace(" ", ""))
    assert sorted("".join(lines).replace(" ", "")) == written


@pytest.mark.parametrize(("columns", "width"), [("80", 80), ("3", 40), ("", None)])
def test_the_width_of_the_screen(
    columns: str, width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert screen_width() == width
