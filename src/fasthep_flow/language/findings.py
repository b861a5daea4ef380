"""What is found to be wrong with a workflow: collected, and told in one go."""

from __future__ import annotations

from dataclasses import dataclass, field

from fasthep_flow.errors import PlanError, Problem, WorkflowError
from fasthep_flow.language.document import Document, Steps

__all__ = ["Findings"]


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
