"""What is found to be wrong with a workflow: collected, and told in one go."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from fasthep_flow.errors import PlanError, Problem, WorkflowError
from fasthep_flow.language.document import Document, Steps

__all__ = ["Findings", "Refusal", "nearest", "shown"]

_SHOWN_NAMES: Final = 12
_SHOWN_CHARACTERS: Final = 100


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


@dataclass(slots=True)
class Findings:
    """The problems and warnings of one document.

    Problems are of two sorts: with what the file says, and with planning what it says; see
    :mod:`fasthep_flow.errors`.
    """

    document: Document
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    only_planning: bool = True

    def refuse(
        self, steps: Steps, message: str, hint: str | None = None, *, key: bool = False
    ) -> None:
        """The file is not a workflow because of what stands at a place."""
        self.add(self.document.problem(steps, message, hint=hint, key=key))

    def block(
        self, steps: Steps, message: str, hint: str | None = None, *, key: bool = False
    ) -> None:
        """No plan can be made because of what stands at a place."""
        self.problems.append(self.document.problem(steps, message, hint=hint, key=key))

    def warn(self, steps: Steps, message: str, hint: str | None = None) -> None:
        """The author should know something of what stands at a place."""
        self.warnings.append(self.document.problem(steps, message, hint=hint))

    def add(self, *problems: Problem) -> None:
        """The file is not a workflow."""
        self.problems.extend(problems)
        self.only_planning = self.only_planning and not problems

    def add_planning(self, *problems: Problem) -> None:
        """No plan can be made."""
        self.problems.extend(problems)

    def check(self) -> None:
        """Go on only if there is no problem.

        Raises:
            PlanError: Every problem is one of planning.
            WorkflowError: There are others.
        """
        if self.problems:
            ordered = sorted(dict.fromkeys(self.problems), key=self._order)
            raise (PlanError if self.only_planning else WorkflowError)(*ordered)

    def _order(self, problem: Problem) -> tuple[bool, str, int, int]:
        place = problem.location
        if place is None:
            return True, "", 0, 0
        return place.file != self.document.file, place.file, place.line, place.column


def shown(value: object) -> str:
    """A value of the author's as a message may quote it: on one line, not endless."""
    text = value[: _SHOWN_CHARACTERS + 1] if isinstance(value, str) else value
    quoted = repr(text)
    if len(quoted) <= _SHOWN_CHARACTERS:
        return quoted
    end = quoted[0] if isinstance(value, str) else ""
    return f"{quoted[:_SHOWN_CHARACTERS]}...{end}"


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known: the one that was meant, else all there are."""
    names = list(known)
    by_folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(word.casefold()[:200], by_folded, n=1)
    if close:
        return f"did you mean {shown(by_folded[close[0]])}?"
    listed = ", ".join(shown(name).strip("'") for name in names[:_SHOWN_NAMES])
    return f"known are {listed}" + (", ..." if len(names) > _SHOWN_NAMES else "")
