"""The files that tasks read and make: paths, places that are no task's to make, who makes what."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from tests.language.made import Bench

from fasthep_flow.errors import ExitCode, PlanError

BELOW = "name files or folders below it"
FUNCTION = "  - {name: %s, type: builtins.len%s}\n"


def tasks(*listed: tuple[str, str]) -> str:
    """A workflow of functions; each with what else is said of it, as in a mapping's brackets."""
    lines = [FUNCTION % (name, f", {more}" if more else "") for name, more in listed]
    return "tasks:\n" + "".join(lines)


def refusals(bench: Bench, *listed: tuple[str, str]) -> list[tuple[int, str, str | None]]:
    return [
        (problem.location.line, problem.message, problem.hint)
        for problem in bench.refuse(tasks(*listed)).problems
    ]


def test_paths_start_at_the_folder_of_the_workflow(bench: Bench) -> None:
    task = bench.task("inputs: [data/a.root, /data/*.root]\noutputs: [fit.root, sub/./plots/]")
    here = bench.folder
    assert task.inputs == (f"{here}/data/a.root", "/data/*.root")
    assert task.outputs == (f"{here}/fit.root", f"{here}/sub/plots/")


def test_one_path_need_not_be_a_list(bench: Bench) -> None:
    task = bench.task("inputs: a.txt\noutputs: b.txt")
    assert (task.inputs, task.outputs) == (
        (f"{bench.folder}/a.txt",),
        (f"{bench.folder}/b.txt",),
    )


def test_the_home_of_the_user_is_spelt_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    task = bench.task("inputs: [~/a.txt]\noutputs: [~/made/b.txt]")
    assert (task.inputs, task.outputs) == (("/home/ada/a.txt",), ("/home/ada/made/b.txt",))


def test_an_input_may_lie_outside_the_folder(bench: Bench) -> None:
    task = bench.task("inputs: [../shared/a.txt]")
    assert task.inputs == (f"{bench.folder.parent}/shared/a.txt",)


def test_what_goes_back_over_a_link_is_where_the_link_leads(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "near").symlink_to("far/away")
    assert bench.task("inputs: [near/../a.txt]").inputs == (f"{tmp_path}/far/a.txt",)


def test_outputs_far_away_are_not_looked_at(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[str] = []
    real = Path.exists

    def exists(path: Path) -> bool:
        looked_at.append(str(path))
        return real(path)

    monkeypatch.setattr(Path, "exists", exists)
    plan = bench.plan(tasks(("a", "inputs: [/cvmfs/x/a], outputs: [/eos/user/a/ada/fit.root]")))
    assert plan.tasks[0].outputs == ("/eos/user/a/ada/fit.root",)
    assert not [path for path in looked_at if path.startswith(("/eos", "/cvmfs"))]


@pytest.mark.parametrize(
    ("path", "message", "hint"),
    [
        (
            "../a",
            "'../a' lies outside the workflow's folder",
            "write a path below it, or a whole one, such as /eos/user/a/ada/fit.root",
        ),
        (
            "a/../../b",
            "'a/../../b' lies outside the workflow's folder",
            "write a path below it, or a whole one, such as /eos/user/a/ada/fit.root",
        ),
        ("a/../b", "'a/../b' goes back by '..'", "did you mean 'b'?"),
        ("/a/b/../c", "'/a/b/../c' goes back by '..'", "did you mean '/a/c'?"),
        ("/", "'/' is the root of everything", BELOW),
        ("//", "'//' is the root of everything", BELOW),
        ("'~'", "'~' is your home folder", BELOW),
        ("/home/", "'/home/' holds your home folder", BELOW),
        (".", "'.' is the folder of the workflow file", BELOW),
        ("./", "'./' is the folder of the workflow file", BELOW),
        ("workflow.yaml", "'workflow.yaml' is the workflow file itself", "give it another name"),
        (
            "output/",
            "'output/' is the folder of the records of runs",
            f"{BELOW}, or write another folder under global: output: directory",
        ),
        (
            "output/latest/a",
            "'output/latest/a' lies among the records of runs",
            "give it another name",
        ),
        (
            "output/.cache",
            "'output/.cache' lies among the records of runs",
            "give it another name",
        ),
        (
            "output/20260314T092653Z-1f0c/a",
            "'output/20260314T092653Z-1f0c/a' lies among the records of runs",
            "give it another name",
        ),
        ("/eos", "'/eos' is the system's", "name a file or folder of your own"),
        ("/dev/null", "'/dev/null' is the system's", "name a file or folder of your own"),
        (
            "'*.root'",
            "'*.root' is a pattern, and outputs are named one by one",
            "name the folder that they lie in, with '/' at its end",
        ),
        (
            "'a[12]'",
            "'a[12]' is a pattern, and outputs are named one by one",
            "name the folder that they lie in, with '/' at its end",
        ),
        (
            "root://host//a",
            "'root://host//a' is an address, not a file",
            "have the task bring it there once it is made",
        ),
        ("<file>", "'<file>' is a placeholder", "write your own path"),
        ("TBC", "'TBC' is a placeholder", "write your own path"),
        ("$OUT/a", "'$OUT/a': no shell reads this", "write the path itself"),
        ("'${{ a }}'", "expressions, ${{ ... }}, are not supported yet", "write the value"),
        ("''", "this is empty, and no path", None),
        ("a/" * 101, f"'{'a/' * 49}a...' is longer than paths are", "write a shorter one"),
        ("é" * 2048, f"'{'é' * 99}...' is longer than paths are", "write a shorter one"),
        (
            f"{'x' * 254}/" * 16,
            f"'{'x' * 99}...' is longer than paths are",
            "write a shorter one",
        ),
        (
            "x" * 256,
            f"'{'x' * 99}...' has 256 bytes, and names of files and folders have 255 at most",
            "give it a shorter one",
        ),
        (
            f"a/{'é' * 128}/b",
            f"'{'é' * 99}...' has 256 bytes, and names of files and folders have 255 at most",
            "give it a shorter one",
        ),
        ("3", "must be text, not a number", "put it in quotes"),
        ("{a: b}", "must be text, not a mapping", None),
    ],
)
def test_what_is_no_task_s_to_make(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, path: str, message: str, hint: str | None
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    problem = bench.problem(tasks(("a", f"outputs: [{path}]")))
    assert (problem.message, problem.hint) == (message, hint)
    assert problem.location.path == "tasks[0].outputs[0]"
    assert problem.location.line == 2


def test_what_is_read_may_not_be_longer_than_names_are_either(bench: Bench) -> None:
    problem = bench.problem(tasks(("a", f"inputs: [{'x' * 256}]")))
    assert "has 256 bytes" in problem.message
    assert problem.location.path == "tasks[0].inputs[0]"
    assert bench.task(f"inputs: ['[{'abc' * 100}]*']").inputs


@pytest.mark.parametrize(
    "path",
    ["output/fit.root", "output/plots/", "outputs", "~/a", "/eos/a", "x" * 255, f"{'é' * 127}/"],
)
def test_what_looks_like_it_and_is_not(bench: Bench, path: str) -> None:
    assert len(bench.task(f"outputs: {path}").outputs) == 1


def test_the_folder_above_the_workflow_is_refused(bench: Bench, tmp_path: Path) -> None:
    problem = bench.problem(tasks(("a", f"outputs: [{tmp_path.parent}]")))
    assert problem.message.endswith("holds the folder of the workflow file")


def test_the_folder_around_the_records_is_refused(bench: Bench, tmp_path: Path) -> None:
    text = f"global: {{output: {{directory: all/runs}}}}\n{tasks(('a', 'outputs: all'))}"
    assert bench.problem(text).message == "'all' holds the folder of the records of runs"
    problem = bench.problem(
        tasks(("a", "outputs: [mine]")), output_directory=tmp_path / "mine/runs"
    )
    assert problem.message == "'mine' holds the folder of the records of runs"


def test_an_input_that_holds_the_records_is_refused(bench: Bench) -> None:
    problem = bench.problem(tasks(("a", "inputs: ['.']")))
    assert problem.message == "'.' holds the records of runs, which no two runs find alike"


def test_an_input_elsewhere_is_for_extra_data(bench: Bench) -> None:
    problem = bench.problem(tasks(("a", "inputs: 'https://zenodo.org/a.root'")))
    assert problem.message == "'https://zenodo.org/a.root' is an address, not a file"
    assert problem.hint == "name it under 'extra_data': that is fetched"


def test_a_link_does_not_carry_an_output_out_of_the_folder(tmp_path: Path) -> None:
    work = tmp_path / "work"
    (tmp_path / "elsewhere").mkdir()
    work.mkdir()
    (work / "away").symlink_to(tmp_path / "elsewhere")
    (work / "inside").mkdir()
    (work / "near").symlink_to("inside")
    mine = Bench(work)
    problem = mine.problem(tasks(("a", "outputs: [away/sub/x]")))
    assert problem.message == (
        f"'away/sub/x' leads out of the workflow's folder, to '{tmp_path}/elsewhere/sub/x': there"
        " is a link on the way"
    )
    assert mine.task("outputs: near/x").outputs == (f"{work}/near/x",)
    assert mine.task(f"outputs: {work}/away/x").outputs == (f"{work}/away/x",), "said in full"
    # What is a link itself is replaced by what the task makes.
    assert mine.task("outputs: away").outputs == (f"{work}/away",)


def test_two_tasks_do_not_make_the_same(bench: Bench) -> None:
    ((line, message, hint),) = refusals(bench, ("a", "outputs: x"), ("b", "outputs: [y, ./x]"))
    assert line == 3
    assert message == (
        "'./x' is made here (line 3), and by task 'a' (line 2): one would take away what the other"
        " made"
    )
    assert hint == "have each task make files of its own"


def test_two_ways_to_one_place_are_one_place(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    ((line, message, _),) = refusals(bench, ("a", "outputs: real/x"), ("b", "outputs: link/x"))
    assert line == 3
    assert message.startswith("'link/x' is made here (line 3), and by task 'a' (line 2)")


@pytest.mark.parametrize("is_first", [True, False])
def test_no_task_makes_something_in_an_output_of_another(bench: Bench, is_first: bool) -> None:
    listed = [("a", "outputs: plots"), ("b", "outputs: plots/sub/x.png")]
    ((line, message, hint),) = refusals(bench, *(listed if is_first else reversed(listed)))
    inner, outer = (3, 2) if is_first else (2, 3)
    assert line == inner
    assert message == (
        f"'plots/sub/x.png' (line {inner}) lies in 'plots', which task 'a' (line {outer})"
        " makes: each attempt of that begins with an empty place"
    )
    assert hint == "have each task make files, or a folder, of its own"


def test_beside_an_output_is_not_in_it(bench: Bench) -> None:
    plan = bench.plan(tasks(("a", "outputs: [plots/, plots.txt]"), ("b", "outputs: plots-2")))
    assert len(plan.tasks) == 2


def test_a_task_names_each_of_its_files_once(bench: Bench) -> None:
    found = refusals(bench, ("a", "outputs: [x, ./x, y/, y/z]"), ("b", "inputs: [w, w]"))
    assert [message for _, message, _ in found] == [
        "'./x' is named twice",
        "'y/z' lies in 'y/', which is an output of this task already",
        "'w' is named twice",
    ]


@pytest.mark.parametrize(
    ("files", "relation"),
    [
        ("inputs: x, outputs: x", "'x' is the output 'x'"),
        ("inputs: x/a, outputs: x/", "'x/a' names, or holds, the output 'x/'"),
        ("inputs: x/, outputs: x/a", "'x/' names, or holds, the output 'x/a'"),
        ("inputs: 'x/*.txt', outputs: x/a.txt", "'x/*.txt' names, or holds, the output 'x/a.txt'"),
    ],
)
def test_no_task_reads_what_it_makes(bench: Bench, files: str, relation: str) -> None:
    ((_, message, hint),) = refusals(bench, ("a", files))
    assert message == (
        f"{relation} (line 2) of this very task: it is set aside before the task starts"
    )
    assert hint == "have the task read one file and make another"


@pytest.mark.parametrize(
    ("made", "read", "relation"),
    [
        ("x", "x", "'x' is made by"),
        ("x/", "x/a/b", "'x/a/b' lies in 'x/', made by"),
        ("x/a", "x", "'x' holds 'x/a', made by"),
        ("x/a.txt", "'x/*.txt'", "'x/*.txt' fits 'x/a.txt', made by"),
        ("x/a", "'x/[ab]/c'", "'x/[ab]/c' fits 'x/a', made by"),
        ("x/a/c", "'x/?'", "'x/?' fits 'x/a/c', made by"),
        ("x/a/c", "'x/**/c'", "'x/**/c' fits 'x/a/c', made by"),
    ],
)
def test_what_a_task_reads_of_another_it_must_need(
    bench: Bench, made: str, read: str, relation: str
) -> None:
    first, second = ("a", f"outputs: [{made}]"), ("b", f"inputs: [{read}], needs: []")
    assert refusals(bench, first, second) == [
        (
            3,
            f"{relation} task 'a' (line 2), which this task does not need",
            "add 'a' to the 'needs' of this task",
        )
    ]
    assert bench.refuse(tasks(first, second)).exit_code == ExitCode.PLAN
    plan = bench.plan(tasks(first, ("b", f"inputs: [{read}], needs: a")))
    assert plan.tasks[1].needs == ("a",)
    between = ("c", "needs: a")
    plan = bench.plan(tasks(first, between, ("b", f"inputs: [{read}], needs: c")))
    assert [task.name for task in plan.tasks] == ["a", "c", "b"]


def test_where_the_order_is_as_written_it_is_satisfied_by_that(bench: Bench) -> None:
    first, second = ("a", "outputs: x"), ("b", "inputs: x")
    assert len(bench.plan(tasks(first, ("c", ""), second)).tasks) == 3
    assert refusals(bench, second, first) == [
        (
            2,
            "'x' is made by task 'a' (line 3), which comes after this task",
            "write this task behind 'a', or say with 'needs' what waits for what",
        )
    ]


def test_of_many_makers_the_first_is_told(bench: Bench) -> None:
    made = ", ".join(f"x/{number}" for number in range(5))
    ((_, message, _),) = refusals(bench, ("a", f"outputs: [{made}]"), ("b", "inputs: x, needs: []"))
    assert message == (
        "'x' holds 'x/0', made by task 'a' (line 2), which this task does not need, and 4 more"
    )


def test_tasks_in_a_circle_are_told_of_the_circle_alone(bench: Bench) -> None:
    found = refusals(bench, ("a", "outputs: x, needs: b"), ("b", "inputs: x, needs: a"))
    assert len(found) == 1
    assert "wait for each other" in found[0][1]


def test_an_input_that_nobody_makes_is_a_warning_with_the_nearest_name(bench: Bench) -> None:
    bench.write("there.txt", "")
    plan = bench.plan(
        tasks(("a", "outputs: hists.root"), ("b", "inputs: [hist.root, there.txt, zzz, '*.q']"))
    )
    assert len(plan.warnings) == 2
    told = "no task makes this, and there is no such file or folder on this machine"
    assert all(told in warning for warning in plan.warnings)
    assert "did you mean 'hists.root'?" in plan.warnings[0]
    assert f"it was looked for as {bench.folder}/zzz" in plan.warnings[1]


@pytest.mark.parametrize(
    ("more", "message", "hint"),
    [
        (
            "cache: true",
            "a command returns nothing that could stand for another run of it",
            "name the files that it makes under 'outputs': these are kept and reused",
        ),
        (
            "cache: false\noutputs: x",
            "a task with outputs is reused wherever nothing has changed",
            "remove it, and run the task with --force where it is to be done anew",
        ),
        ("cache: maybe", "must be true or false, not text", None),
    ],
)
def test_what_may_be_reused(bench: Bench, more: str, message: str, hint: str | None) -> None:
    text = "tasks:\n  - name: a\n    type: fasthep_flow.operators.BashOperator\n"
    lines = "".join(f"    {line}\n" for line in more.splitlines())
    problem = bench.problem(f"{text}    kwargs: {{bash_command: ls}}\n{lines}")
    assert (problem.message, problem.hint) == (message, hint)
    assert problem.location.path == "tasks[0].cache"


def test_a_function_s_value_may_be_reused_and_a_command_s_outputs(bench: Bench) -> None:
    assert bench.task("cache: true\noutputs: x").cache
    assert not bench.task("outputs: x").cache
    assert not bench.task("cache: false").cache
    (task,) = bench.plan(tasks(("a", "cache: true"))).tasks
    assert task.cache


def test_no_outputs_ask_for_nothing(bench: Bench) -> None:
    for nothing in ("outputs: []", "outputs:", "inputs: []", "cache:", "allow_failure:"):
        assert bench.task(nothing) is not None


def test_keys_of_a_task_in_the_wrong_place_are_told_where_they_belong(bench: Bench) -> None:
    problem = bench.problem(tasks(("a", "environment: {outputs: x}")))
    assert problem.hint == "put it beside 'environment': outputs is each task's own"
    problem = bench.problem(f"global: {{allow_failure: true}}\n{tasks(('a', ''))}")
    assert problem.hint == "put it at the tasks: allow_failure is each task's own"
    assert bench.problem(tasks(("a", "output: x"))).hint == "did you mean 'outputs'?"


def test_ten_thousand_tasks_that_read_each_other_are_held_against_each_other(
    bench: Bench,
) -> None:
    """Not a measurement: what grows with the square of the tasks would take minutes."""
    count = 10_000
    listed: list[tuple[str, Any]] = [("t0", "outputs: o/0, needs: []")]
    for number in range(1, count):
        before = f"inputs: [o/0, o/{number // 2}], outputs: o/{number}, needs: [t{number - 1}]"
        listed.append((f"t{number}", before if number > 1 else before.replace("o/0, ", "", 1)))
    text = tasks(*listed)
    start = time.process_time()
    assert len(bench.plan(text).tasks) == count
    assert time.process_time() - start < 60


def test_hostile_patterns_end_in_bounded_time(bench: Bench) -> None:
    made = ", ".join(f"o/{number:05}" for number in range(3000))
    read = ", ".join(f"'o/*{number}*x'" for number in range(1000))
    plan = bench.plan(tasks(("a", f"outputs: [{made}]"), ("b", f"inputs: [{read}]")))
    assert any("too many patterns" in warning for warning in plan.warnings)


def test_a_problem_of_planning_alone_has_its_own_exit_code(bench: Bench) -> None:
    error = bench.refuse(tasks(("a", "outputs: x"), ("b", "inputs: x, needs: []")))
    assert isinstance(error, PlanError)
