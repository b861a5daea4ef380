"""Workflows in a folder of their own, planned or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fasthep_flow.errors import WorkflowError
from fasthep_flow.language import make_plan, read_text, read_workflow
from fasthep_flow.model import Plan, TaskSpec
from fasthep_flow.orchestrators.catalogue import Catalogue

RUNNERS = Catalogue(
    {
        "local": ("concurrent", "sequential"),
        "dask": ("local",),
        "prefect": ("DaskTaskRunner", "SequentialTaskRunner"),
    },
    {},
    plug_ins=False,
)

DEFAULTS: dict[str, Any] = {"runners": RUNNERS, "host": {}}


class Bench:
    """A folder with workflows in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def plan(self, text: str, **options: Any) -> Plan:
        """The plan of a workflow, read as `workflow.yaml` of this folder."""
        document = read_text(text, file="workflow.yaml", directory=self.folder)
        return make_plan(document, **(DEFAULTS | options))

    def task(self, text: str, **options: Any) -> TaskSpec:
        """The one task of a workflow; `text` is put below its name and type."""
        (task,) = self.plan(one_task(text), **options).tasks
        return task

    # Any: most problems have a place, and each test would have to say so of its own.
    def refuse(self, text: str, **options: Any) -> Any:
        """How a workflow is refused: a `WorkflowError`."""
        with pytest.raises(WorkflowError) as caught:
            self.plan(text, **options)
        return caught.value

    def problem(self, text: str, **options: Any) -> Any:
        """The one problem that a workflow has: a `Problem`."""
        (problem,) = self.refuse(text, **options).problems
        return problem

    def file(self, name: str = "workflow.yaml", **options: Any) -> Plan:
        """The plan of a file of this folder."""
        document = read_workflow(self.folder / name)
        return make_plan(document, **(DEFAULTS | options))


def one_task(text: str = "") -> str:
    """A task, and what else is said of it: lines that are indented as the task's keys."""
    lines = "".join(f"    {line}\n" for line in text.splitlines())
    return (
        "tasks:\n"
        "  - name: fit\n"
        "    type: fasthep_flow.operators.BashOperator\n"
        "    kwargs: {bash_command: ./fit.sh}\n" + lines
    )


TASK = one_task()
