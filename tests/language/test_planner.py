"""From a whole workflow to its plan."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.language.made import Bench

from fasthep_flow.errors import ArgumentError, ExitCode, PlanError
from fasthep_flow.language import make_plan, read_text, select_tasks, tasks
from fasthep_flow.model import Call, Command, Device, Invocation, Plan, to_json
from fasthep_flow.orchestrators.catalogue import Catalogue

BASH = "fasthep_flow.operators.BashOperator"
LEGACY = """
{key}:
  - name: printEcho
    type: "fasthep_flow.operators.BashOperator"
    kwargs:
      bash_command: echo
      arguments: ["start"]
  - name: left
    type: "fasthep_flow.operators.BashOperator"
    needs: [printEcho]
    kwargs:
      bash_command: echo
      arguments: ["left"]
  - name: right
    type: "fasthep_flow.operators.BashOperator"
    dependencies: [printEcho]
    with:
      bash_command: echo
      arguments: ["right"]
  - name: join
    type: "fasthep_flow.operators.BashOperator"
    needs: [left, right]
    kwargs:
      bash_command: echo
      arguments: ["join", 3]
  - name: last
    type: "fasthep_flow.operators.BashOperator"
    needs: join
    kwargs:
      bash_command: echo
      arguments: []
"""


def listing(*tasks: str) -> str:
    """Tasks given as `name` or `name: needs`, the needs in flow style."""
    lines = ["tasks:"]
    for task in tasks:
        name, colon, needs = task.partition(": ")
        lines += [f"  - name: {name}", f"    type: {BASH}", "    kwargs: {bash_command: ls}"]
        if colon:
            lines.append(f"    needs: {needs}")
    return "\n".join(lines) + "\n"


def graph(plan: Plan) -> dict[str, tuple[str, ...]]:
    return {task.name: task.needs for task in plan.tasks}


def test_without_needs_tasks_run_in_the_order_written(bench: Bench) -> None:
    assert graph(bench.plan(listing("c", "a", "b"))) == {"c": (), "a": ("c",), "b": ("a",)}


def test_with_needs_they_are_the_graph(bench: Bench) -> None:
    plan = bench.plan(listing("d: [b, c]", "b: a", "c: [a]", "a", "e"))
    assert list(graph(plan)) == ["a", "b", "c", "d", "e"]
    assert graph(plan) == {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c"), "e": ()}


def test_an_empty_list_of_needs_says_it_too(bench: Bench) -> None:
    assert graph(bench.plan(listing("a", "b: []"))) == {"a": (), "b": ()}
    assert graph(bench.plan(listing("a", "b: "))) == {"a": (), "b": ()}


def test_a_need_named_twice_is_told(bench: Bench) -> None:
    plan = bench.plan(listing("a", "b: [a, a]"))
    assert graph(plan)["b"] == ("a",)
    (warning,) = plan.warnings
    assert warning.startswith("workflow.yaml:8:16: tasks[1].needs[1]: 'a' is named twice")


@pytest.mark.parametrize("key", ["tasks", "stages"])
def test_older_workflows_run_unchanged(bench: Bench, key: str) -> None:
    plan = bench.plan(LEGACY.replace("{key}", key))
    assert graph(plan) == {
        "printEcho": (),
        "left": ("printEcho",),
        "right": ("printEcho",),
        "join": ("left", "right"),
        "last": ("join",),
    }
    assert plan.tasks[2].invocations["cpu"] == Command(argv=("echo", "right"))
    assert plan.tasks[3].invocations["cpu"] == Command(argv=("echo", "join", "3"))


def test_all_that_a_plan_knows(bench: Bench) -> None:
    text = (
        "name: dimuon\n"
        "tasks:\n"
        "  - name: Select events\n"
        "    type: fasthep_flow.operators.PythonOperator\n"
        "    kwargs: {python_callable: 'mine:select', op_args: [1], op_kwargs: {cut: 2.5}}\n"
        "    retries: 2\n"
        "    timeout: 1h30m\n"
    )
    plan = bench.plan(text)
    folder = bench.folder.resolve()
    assert plan.name == "dimuon"
    assert plan.directory == str(folder)
    assert plan.source == str(folder / "workflow.yaml")
    assert plan.output_directory == str(folder / "output")
    assert plan.digest == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    assert plan.warnings == ()
    (task,) = plan.tasks
    call = Call(target="mine:select", args=(1,), kwargs={"cut": 2.5})
    assert task.invocations == {"cpu": call, "gpu": call}
    assert (task.slug, task.retries.times, task.timeout_s) == ("Select-events", 2, 5400.0)
    assert task.operator == "fasthep_flow.operators.PythonOperator"
    assert (str(task.location), task.location.path) == ("workflow.yaml:3:5", "tasks[0]")
    assert '"Select events"' in to_json(plan)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("dimuon.yaml", "dimuon"),
        ("higgs.flow.yml", "higgs.flow"),
        ("zmumu/workflow.yaml", "zmumu"),
        ("zmumu/flow.yml", "zmumu"),
    ],
)
def test_a_workflow_without_a_name_is_called_after_its_file(
    bench: Bench, file: str, name: str
) -> None:
    bench.write(file, listing("a"))
    assert bench.file(file).name == name


def test_where_the_run_folders_lie(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bench.folder.resolve()
    text = f"global: {{output: {{directory: ../elsewhere}}}}\n{listing('a')}"
    assert bench.plan(text).output_directory == str(folder.parent / "elsewhere")
    (folder / "here").mkdir()
    monkeypatch.chdir(folder / "here")
    given = bench.plan(text, output_directory=Path("mine"))
    assert given.output_directory == str(folder / "here" / "mine")


def test_nothing_of_the_author_is_imported(bench: Bench) -> None:
    bench.write("mine.py", "raise SystemExit('imported')\n")
    text = (
        "tasks:\n  - name: a\n    type: fasthep_flow.operators.PythonOperator\n"
        "    kwargs: {python_callable: 'mine:f'}\n"
    )
    assert bench.plan(text).tasks


class _Operator:
    """Takes anything but a `bad` argument; `words` arrive as they are spelt."""

    spelled = ("words",)

    def __init__(self) -> None:
        self.seen: list[Mapping[str, Any]] = []

    def prepare(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[Device, Invocation]:
        assert not args
        self.seen.append(kwargs)
        if "bad" in kwargs:
            raise ArgumentError("bad is bad", path=("kwargs", "bad", 1), hint="be good")
        if "missing" in kwargs:
            raise ArgumentError("something is missing", path=("kwargs", "there is none"))
        return {"cpu": Command(argv=("true",))}


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch) -> _Operator:
    made = _Operator()
    monkeypatch.setattr(tasks, "find_operator", lambda name: made if name == "mine" else None)
    return made


def test_an_operator_gets_plain_data(bench: Bench, operator: _Operator) -> None:
    bench.plan("tasks:\n  - {name: a, type: mine, kwargs: {x: [1, {y: null}], z: 1.0}}\n")
    assert operator.seen == [{"x": [1, {"y": None}], "z": 1.0}]
    bench.plan("tasks:\n  - {name: a, type: mine}\n")
    assert operator.seen[1:] == [{}]


def test_an_operator_can_ask_for_text_as_it_is_spelt(bench: Bench, operator: _Operator) -> None:
    bench.plan("tasks:\n  - {name: a, type: mine, kwargs: {words: [1.10, yes, TRUE], n: [1.10]}}\n")
    assert operator.seen == [{"words": ["1.10", "yes", "TRUE"], "n": [1.1]}]


@pytest.mark.usefixtures("operator")
@pytest.mark.parametrize("key", ["kwargs", "with"])
def test_what_an_operator_refuses_has_its_place(bench: Bench, key: str) -> None:
    error = bench.refuse(f"tasks:\n  - name: a\n    type: mine\n    {key}: {{bad: [x, y]}}\n")
    column = 4 + len(key) + 14
    assert str(error) == (
        f"workflow.yaml:4:{column - 1}: tasks[0].{key}.bad[1]: bad is bad\n"
        f"    4 |     {key}: {{bad: [x, y]}}\n"
        f"      | {' ' * (column - 2)}^ be good"
    )
    assert error.exit_code == ExitCode.WORKFLOW
    problem = bench.problem(f"tasks:\n  - {{name: a, type: mine, {key}: {{missing: 1}}}}\n")
    assert problem.location.path == f"tasks[0].{key}"


def test_an_operator_that_cannot_be_loaded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError(f"no module for {name}")

    monkeypatch.setattr(tasks, "find_operator", fail)
    error = bench.refuse("tasks:\n  - {name: a, type: broken}\n")
    assert "the operator 'broken' cannot be loaded: no module for broken" in str(error)
    assert error.exit_code == ExitCode.PLAN


def test_some_tasks_and_what_they_need(bench: Bench) -> None:
    plan = bench.plan(listing("a", "b: a", "c: [b]", "d", "e: [d]"))
    assert list(graph(select_tasks(plan, ["c"]))) == ["a", "b", "c"]
    assert list(graph(select_tasks(plan, ["e", "a"]))) == ["a", "d", "e"]
    assert select_tasks(plan, ["c"]).digest == plan.digest
    with pytest.raises(PlanError) as error:
        select_tasks(plan, ["x", "A"])
    assert str(error.value) == (
        "there is no task 'x'\n  known are a, b, c, d, e\nthere is no task 'A'\n  did you mean 'a'?"
    )


def test_a_long_chain_is_planned(bench: Bench) -> None:
    number = 100_000
    one = f"{{type: {BASH}, kwargs: {{bash_command: ls}}, "
    text = "tasks:\n" + "".join(
        f"- {one}name: t{n}, needs: {f't{n + 1}' if n + 1 < number else '[]'}}}\n"
        for n in range(number)
    )
    plan = bench.plan(text)
    assert plan.tasks[0].name == f"t{number - 1}"
    assert plan.tasks[-1].needs == ("t1",)
    assert len({task.slug for task in plan.tasks}) == number
    assert len(select_tasks(plan, ["t0"]).tasks) == number


def test_a_long_cycle_is_told_in_short(bench: Bench) -> None:
    number = 30_000
    one = f"{{type: {BASH}, kwargs: {{bash_command: ls}}, "
    text = "tasks:\n" + "".join(
        f"- {one}name: t{n}, needs: t{(n + 1) % number}}}\n" for n in range(number)
    )
    problem = bench.problem(text)
    assert problem.message == (
        "these tasks wait for each other: "
        + " -> ".join(f"'t{n}' (line {n + 2})" for n in range(10))
        + " -> ... 29990 more -> 't0'"
    )


@given(st.data())
def test_any_order_of_writing_gives_a_right_order(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 8))
    needs = {
        f"t{n}": data.draw(
            st.lists(st.sampled_from([f"t{m}" for m in range(n)]), unique=True)
            if n
            else st.just([])
        )
        for n in range(size)
    }
    written = data.draw(st.permutations(sorted(needs)))
    text = listing(*(f"{name}: [{', '.join(needs[name])}]" for name in written))
    document = read_text(text, file="w.yaml", directory=Path("/nowhere"))
    plan = make_plan(document, runners=Catalogue(), host={})
    position = {task.name: number for number, task in enumerate(plan.tasks)}
    assert sorted(position) == sorted(needs)
    for task in plan.tasks:
        assert set(task.needs) == set(needs[task.name])
        assert all(position[other] < position[task.name] for other in task.needs)


def test_all_unknown_arguments_of_a_task_are_told_at_their_keys(bench: Bench) -> None:
    error = bench.refuse(
        "tasks:\n"
        "  - name: a\n"
        "    type: fasthep_flow.operators.BashOperator\n"
        "    kwargs:\n"
        "      cwd: somewhere\n"
        "      user: me\n"
        "      bash_command: 3\n"
        "      arguments: all\n"
    )
    assert [(p.location.line, p.location.column, p.message) for p in error.problems] == [
        (5, 7, "BashOperator has no argument 'cwd'"),
        (6, 7, "BashOperator has no argument 'user'"),
        (8, 18, "'arguments' must be a list, not text"),
    ]


def test_unknown_tasks_are_answered_with_the_names_in_the_order_of_the_file(bench: Bench) -> None:
    kind = "type: fasthep_flow.operators.BashOperator, kwargs: {bash_command: ls}"
    plan = bench.plan(f"tasks:\n- {{name: b, {kind}, needs: [a]}}\n- {{name: a, {kind}}}\n")
    with pytest.raises(PlanError) as caught:
        select_tasks(plan, ["xyz"])
    assert caught.value.problems[0].hint == "known are b, a"
