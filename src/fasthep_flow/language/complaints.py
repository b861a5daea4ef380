"""What is wrong with a text as YAML, in plain words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import yaml

__all__ = ["Broken", "Complaint", "explain"]


@dataclass(frozen=True, slots=True)
class Complaint:
    """Something wrong with the text: where, by offset in characters, and what to do."""

    index: int
    message: str
    hint: str | None = None
    other: int | None = None
    """Offset of another place, which the message calls ``{other}``."""


class Broken(Exception):  # noqa: N818  # never leaves this package
    """The text cannot be read any further."""

    def __init__(self, complaint: Complaint) -> None:
        super().__init__(complaint.message)
        self.complaint = complaint


_EXPLAINED: Final = (
    (
        "mapping values are not allowed",
        "': ' is not expected here",
        "put text that holds ': ' in quotes, or check the indentation",
    ),
    ("could not find expected ':'", "this line holds no ': '", "write 'key: value'"),
    (
        "unknown escape character",
        "this is no escape sequence",
        "in double quotes a backslash is written twice; in single quotes it is itself",
    ),
    (
        "did not find expected",
        "this does not fit what stands above",
        "check the indentation, and the quotes and brackets above",
    ),
    (
        "expected <block end>",
        "this does not fit what stands above",
        "check the indentation, and the quotes and brackets above",
    ),
)


def explain(error: yaml.YAMLError, text: str) -> Complaint:
    """A parser's error in plain words."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return _unreadable(text, error)
    index = error.problem_mark.index
    problem = error.problem or "this is not YAML"
    if "unexpected end of stream" in problem and error.context_mark is not None:
        return Complaint(error.context_mark.index, "this quote is not closed")
    if "expected ',' or" in problem and error.context_mark is not None:
        message = "this bracket is not closed, or a comma is missing before {other}"
        return Complaint(error.context_mark.index, message, other=index)
    if "cannot start any token" in problem:
        if text[index : index + 1] == "\t":
            return Complaint(index, "a tab cannot indent", "indent with blanks")
        return Complaint(
            index, f"text cannot start with {text[index : index + 1]!r}", "put it in quotes"
        )
    explained = ((message, hint) for part, message, hint in _EXPLAINED if part in problem)
    return Complaint(index, *next(explained, (problem, None)))


def _unreadable(text: str, error: yaml.YAMLError) -> Complaint:
    for index, character in enumerate(text):
        if not _is_allowed(character):
            name = "NUL" if character == "\0" else f"U+{ord(character):04X}"
            return Complaint(
                index,
                f"the character {name} is not allowed in YAML",
                "this is not a text file, or the character wants an escape in double quotes",
            )
    return Complaint(0, str(error).partition("\n")[0])


def _is_allowed(character: str) -> bool:
    return (
        character in "\t\n\r\x85"
        or " " <= character <= "~"
        or "\xa0" <= character <= "\ud7ff"
        or "\ue000" <= character <= "\ufffd"
        or character >= "\U00010000"
    )
