"""A plan of two tasks, which nobody runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from fasthep_flow.errors import Location
from fasthep_flow.model import Command, Environment, FlowSpec, Plan, TaskSpec, Variable

LOCAL = FlowSpec(transform="local", runner="concurrent")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    source = tmp_path / "workflow.yaml"
    source.write_text("name: analysis\n")
    tasks = tuple(
        TaskSpec(
            name=name,
            slug=name,
            operator="fasthep_flow.operators.BashOperator",
            invocations={"cpu": Command(argv=("true",))},
            environment=Environment(flow=LOCAL, variables={"T": Variable("hunter2", "x.env:1")}),
            location=Location("workflow.yaml", 1, 1),
        )
        for name in ("a", "b")
    )
    return Plan(
        name="analysis",
        tasks=tasks,
        flow=LOCAL,
        directory=str(tmp_path),
        source=str(source),
        output_directory=str(tmp_path / "output"),
        digest="sha256:0",
    )
