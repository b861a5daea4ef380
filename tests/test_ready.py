"""What is ready: the largest first, and no kind in the way of another."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from fasthep_flow.errors import Location
from fasthep_flow.model import Command, Environment, FlowSpec, Resources, TaskSpec
from fasthep_flow.ready import Kind, Ready

LOCAL = FlowSpec(transform="local", runner="concurrent")


def task(name: str, cpus: float = 1) -> TaskSpec:
    return TaskSpec(
        name=name,
        slug=name,
        operator="fasthep_flow.operators.BashOperator",
        invocations={"cpu": Command(argv=("true",))},
        needs=(),
        environment=Environment(flow=LOCAL, variables={}, resources=Resources(cpus=cpus)),
        location=Location("workflow.yaml", 1, 1, "tasks[0]"),
    )


def kind(one: TaskSpec) -> Kind:
    cpus = one.environment.resources.cpus or 0
    return Kind(cpus / 8, cpus)


def names(ready: Ready) -> list[str]:
    handed = []
    while (one := ready.hand_out()) is not None:
        handed.append(one.name)
    return handed


def test_the_largest_goes_first_and_the_same_size_in_order() -> None:
    ready = Ready(kind, 10)
    for name, cpus in (("a", 1), ("b", 2), ("c", 1), ("d", 4), ("e", 2)):
        ready.add(task(name, cpus))
    assert names(ready) == ["d", "b", "e", "a", "c"]


def test_many_of_a_kind_are_not_in_the_way_of_another() -> None:
    ready = Ready(kind, 2)
    large = [task(f"large {number}", 4) for number in range(4)]
    for one in (*large, task("small")):
        ready.add(one)
    assert names(ready) == ["large 0", "large 1", "small"]
    ready.ended(large[1])
    assert names(ready) == ["large 2"]
    ready.ended(large[0])
    ready.ended(large[2])
    assert names(ready) == ["large 3"]


@given(
    most=st.integers(1, 4),
    asked=st.lists(st.sampled_from([1.0, 2.0, 4.0]), max_size=40),
    order=st.randoms(use_true_random=False),
)
def test_all_are_handed_out_once_and_never_too_many_of_a_kind(
    most: int,
    asked: list[float],
    order: Random,
) -> None:
    ready = Ready(kind, most)
    for number, cpus in enumerate(asked):
        ready.add(task(str(number), cpus))
    out: dict[str, TaskSpec] = {}
    seen: list[str] = []
    while True:
        while (one := ready.hand_out()) is not None:
            out[one.name] = one
            seen.append(one.name)
        for cpus in set(asked):
            of_a_kind = [one for one in out.values() if kind(one).key == cpus]
            assert len(of_a_kind) <= most
        if not out:
            break
        ready.ended(out.pop(order.choice(sorted(out))))
    assert sorted(seen, key=int) == [str(number) for number in range(len(asked))]
    for cpus in set(asked):
        of_a_kind_seen = [name for name in seen if asked[int(name)] == cpus]
        assert of_a_kind_seen == sorted(of_a_kind_seen, key=int)
