"""Tables for people: rows of cells, in columns that fit the terminal.

Where there is no terminal no line is broken: programs that search for a line find it whole.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

__all__ = ["screen_width", "table_lines"]

_GAP: Final = "  "
_NARROWEST: Final = 12


def screen_width() -> int | None:
    """Columns of the terminal behind standard output; ``None`` where there is none."""
    if os.environ.get("COLUMNS", "").isdecimal() or sys.stdout.isatty():
        return max(40, shutil.get_terminal_size().columns)
    return None


def table_lines(rows: Iterable[Sequence[str]], width: int | None) -> Iterator[str]:
    """The rows as lines of text.

    The last column is as wide as it need be, if that is no more than two fifths; the column
    before it gets what is left. A cell that does not fit goes on in the next line.

    Args:
        rows: Of equally many cells, without control characters.
        width: Columns of the screen; ``None`` for as wide as need be.
    """
    from rich.cells import cell_len

    rows = list(rows)
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    if width is not None:
        gaps = len(_GAP) * (len(widths) - 1)
        widths[-1] = min(widths[-1], max(_NARROWEST, width * 2 // 5))
        left = width - gaps - sum(widths[:-2]) - widths[-1]
        widths[-2] = min(widths[-2], max(_NARROWEST, left))
    for row in rows:
        cells = [list(_broken(cell, room)) for cell, room in zip(row, widths, strict=True)]
        for number in range(max(map(len, cells))):
            line = _GAP.join(
                _filled(cell[number] if number < len(cell) else "", room)
                for cell, room in zip(cells, widths, strict=True)
            )
            yield line.rstrip(" ")


def _filled(text: str, room: int) -> str:
    from rich.cells import cell_len

    return text + " " * (room - cell_len(text))


def _broken(text: str, room: int) -> Iterator[str]:
    """Pieces that are no wider than there is room; broken at a blank if there is one near."""
    from rich.cells import cell_len, chop_cells

    while cell_len(text) > room:
        piece = chop_cells(text, room)[0]
        blank = piece.rfind(" ", len(piece) * 2 // 3)
        cut = blank + 1 if blank > 0 else len(piece)
        yield text[:cut].rstrip(" ")
        text = text[cut:]
    yield text
