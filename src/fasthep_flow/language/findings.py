"""What is found to be wrong with a workflow: collected, and told in one go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from fasthep_flow.errors import PlanError, Problem, WorkflowError
from fasthep_flow.language.document import Document, Steps

__all__ = ["MOST_PROBLEMS", "Findings"]

MOST_PROBLEMS: Final = 10_000
"""How many are told of one document: what has more of them is no workflow."""


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
    _untold: int = 0

    def refuse(
        self, steps: Steps, message: str, hint: str | None = None, *, key: bool = False
    ) -> None:
        """The file is not a workflow because of what stands at a place."""
        self.only_planning = False
        self.block(steps, message, hint, key=key)

    def block(
        self, steps: Steps, message: str, hint: str | None = None, *, key: bool = False
    ) -> None:
        """No plan can be made because of what stands at a place."""
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(self.document.problem(steps, message, hint=hint, key=key))
        else:
            self._untold += 1

    def warn(self, steps: Steps, message: str, hint: str | None = None) -> None:
        """The author should know something of what stands at a place."""
        self.add_warning(self.document.problem(steps, message, hint=hint))

    def add_warning(self, warning: Problem) -> None:
        """The author should know something."""
        if len(self.warnings) < MOST_PROBLEMS:
            self.warnings.append(warning)

    @property
    def is_full(self) -> bool:
        """Whether no further problem is told."""
        return self._untold > 0

    def written(self, steps: Steps) -> Steps:
        """Steps as the author wrote them: one thing stands alone where there may be a list."""
        written: Steps = ()
        for step in steps:
            if isinstance(step, int) and not isinstance(self.document.value(written), list):
                continue
            written = (*written, step)
        return written

    def add(self, *problems: Problem) -> None:
        """The file is not a workflow."""
        self.only_planning = self.only_planning and not problems
        self.add_planning(*problems)

    def add_planning(self, *problems: Problem) -> None:
        """No plan can be made."""
        told = problems[: max(0, MOST_PROBLEMS - len(self.problems))]
        self.problems.extend(told)
        self._untold += len(problems) - len(told)

    def check(self) -> None:
        """Go on only if there is no problem.

        Raises:
            PlanError: Every problem is one of planning.
            WorkflowError: There are others.
        """
        if self.problems:
            ordered = sorted(dict.fromkeys(self.problems), key=self._order)
            if self._untold:
                ordered.append(Problem("there are more problems, which are not told"))
            raise (PlanError if self.only_planning else WorkflowError)(*ordered)

    def _order(self, problem: Problem) -> tuple[bool, str, int, int]:
        place = problem.location
        if place is None:
            return True, "", 0, 0
        return place.file != self.document.file, place.file, place.line, place.column
