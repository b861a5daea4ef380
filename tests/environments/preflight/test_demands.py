from collections.abc import Mapping
from typing import Any

import pytest

from fasthep_flow.environments.preflight.demands import demands_of
from fasthep_flow.errors import Location
from fasthep_flow.model import (
    Call,
    Command,
    Device,
    Environment,
    FlowSpec,
    Image,
    Invocation,
    TaskSpec,
    Variable,
)

LINE = Command(argv=("bash", "-e", "-c", "true"))
TOOL = Command(argv=("/opt/tool",))
CALL = Call(target="m:f")


def task(name: str, invocations: Mapping[Device, Invocation], **environment: Any) -> TaskSpec:
    environment.setdefault("image", Image(name="r.example/a:1"))
    flow = FlowSpec(transform="local", runner="concurrent")
    return TaskSpec(
        name=name,
        slug=name,
        operator="o",
        invocations=dict(invocations),
        environment=Environment(flow=flow, **environment),
        location=Location("w.yaml", 1, 1),
    )


@pytest.mark.parametrize(
    ("invocations", "path", "programs"),
    [
        ({"cpu": LINE}, False, {"sh", "bash"}),
        ({"cpu": TOOL}, False, {"sh"}),
        ({"cpu": CALL}, False, {"python3"}),
        ({"cpu": CALL, "gpu": LINE}, False, {"sh", "bash", "python3"}),
        # With a PATH of the task's own they may be anywhere; /bin/sh is not looked for on it.
        ({"cpu": LINE}, True, {"sh"}),
        ({"cpu": CALL}, True, set()),
    ],
)
def test_a_task_needs_what_starts_it(
    invocations: dict[Device, Invocation], path: bool, programs: set[str]
) -> None:
    variables = {"PATH": Variable("/cvmfs/tools", "w.yaml:3")} if path else {}
    (demand,) = demands_of([task("a", invocations, variables=variables)])
    assert demand.programs == programs


def test_a_task_on_the_host_needs_nothing_of_an_image() -> None:
    variables = {"A": Variable("\udcff", "w.yaml:3")}
    (demand,) = demands_of([task("a", {"cpu": LINE}, image=None, variables=variables)])
    assert (demand.programs, demand.unpassable) == (frozenset(), ())


def test_files_of_variables_are_named_once() -> None:
    variables = {
        "A": Variable("1", "common.env:1"),
        "B": Variable("2", "common.env:2"),
        "C": Variable("3", "w.yaml:7"),
        "D": Variable("4", "the host, w.yaml:8"),
        "E": Variable("5", "the host, own.env:1"),
    }
    (demand,) = demands_of([task("a", {"cpu": TOOL}, variables=variables)])
    assert demand.env_files == ("common.env", "own.env")


def test_tasks_that_ask_alike_stand_together() -> None:
    demands = demands_of(
        [
            task("a", {"cpu": TOOL}),
            task("b", {"cpu": CALL}),
            task("c", {"cpu": TOOL}),
            task("d", {"cpu": TOOL}, network="none"),
            task("e", {"cpu": TOOL}, options=("--privileged",)),
        ]
    )
    assert list(demands.values()) == [["a", "c"], ["b"], ["d"], ["e"]]
