"""How a value is refused: why, what to write instead, and how it is quoted."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ["Refusal", "listed", "nearest", "shown"]

_SHOWN_NAMES: Final = 12
_SHOWN_CHARACTERS: Final = 100
_COMPARED_CHARACTERS: Final = 200


class Refusal(ValueError):  # noqa: N818  # a statement about the file, not a failure
    """A value that is not what it should be; who knows its place tells the author.

    Args:
        message: What is wrong and why.
        hint: What to write instead.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def shown(value: object) -> str:
    """A value of the author's as a message may quote it: on one line, not endless."""
    text = value[: _SHOWN_CHARACTERS + 1] if isinstance(value, str) else value
    quoted = repr(text)
    if len(quoted) <= _SHOWN_CHARACTERS:
        return quoted
    end = quoted[0] if isinstance(value, str) else ""
    return f"{quoted[:_SHOWN_CHARACTERS]}...{end}"


def listed(names: Sequence[str]) -> str:
    """Names quoted in a row: ``'a', 'b' and 'c'``."""
    quoted = [shown(name) for name in names]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if quoted[1:] else quoted)


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known: the one that was meant, else those there are."""
    names = list(known)
    by_folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(word.casefold()[:_COMPARED_CHARACTERS], by_folded, n=1)
    if close:
        return f"did you mean {shown(by_folded[close[0]])}?"
    if not names:
        return "there is none"
    row = ", ".join(shown(name)[1:-1] for name in names[:_SHOWN_NAMES])
    return f"known are {row}" + (", ..." if len(names) > _SHOWN_NAMES else "")
