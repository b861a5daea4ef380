"""What makes an attempt the same as another one, and how a change is told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.records.made import (
    ANY_SPEED,
    KEY,
    LOCAL,
    call,
    environment,
    identities,
    line,
    parts_of,
    plan,
    succeeded,
    task,
    write,
)

from fasthep_flow.model import (
    Command,
    DataItem,
    Image,
    Invocation,
    JobResult,
    PythonSpec,
    Resources,
    Retries,
    Setup,
    TaskSpec,
)
from fasthep_flow.records.content import UNKNOWN
from fasthep_flow.records.differences import KINDS, differences
from fasthep_flow.records.digests import Digests
from fasthep_flow.records.identity import (
    PENDING,
    Identities,
    Identity,
    NeedIdentity,
    need_identity,
)
from fasthep_flow.records.key import Key

VALUES = st.text().filter(lambda value: value not in {PENDING, UNKNOWN})
PARTS = st.dictionaries(st.text(), VALUES)
OTHER_FLOW = msgspec.structs.replace(LOCAL, runner="sequential")
IMAGE = Image(name="docker.io/library/debian:12")


def told(folder: Path, before: TaskSpec, after: TaskSpec, **more: Any) -> list[str]:
    """What is said to have changed."""
    return [*differences(parts_of(folder, before, **more), parts_of(folder, after, **more))]


@ANY_SPEED
@given(PARTS, PARTS)
def test_two_are_the_same_exactly_if_all_their_parts_are(
    one: dict[str, str], other: dict[str, str]
) -> None:
    assert (Identity.of(one).digest == Identity.of(other).digest) == (one == other)
    backwards = dict(reversed(one.items()))
    assert Identity.of(backwards).digest == Identity.of(one).digest


@ANY_SPEED
@given(PARTS, st.data())
def test_a_part_more_less_or_other_is_another_one(
    parts: dict[str, str], data: st.DataObject
) -> None:
    name, value = data.draw(st.text()), data.draw(VALUES)
    changed = {**parts, name: value}
    same = parts.get(name) == value
    assert (Identity.of(changed).digest == Identity.of(parts).digest) == same
    assert bool(differences(parts, changed)) == (not same)


@pytest.mark.parametrize("name", [*KINDS, *(f"{kind} x" for kind in KINDS), ""])
def test_a_part_of_any_kind_is_told_where_it_comes_goes_or_changes(name: str) -> None:
    assert differences({}, {name: "1"})
    assert differences({name: "1"}, {})
    assert differences({name: "1"}, {name: "2"})


@ANY_SPEED
@given(st.dictionaries(st.text(st.characters()), st.text(st.characters())))
def test_any_text_can_be_written_down_and_read(parts: dict[str, str]) -> None:
    one = Identity.of(parts)
    assert len(one.digest) == len("sha256:") + 64
    assert all(isinstance(clause, str) for clause in differences(parts, {}))


TASKS: dict[str, Callable[[], TaskSpec]] = {
    "command": lambda: task(does="./other"),
    "standard input": lambda: task(does=Command(argv=("cat",), stdin="x")),
    "function": lambda: task(does=call("fits:mass")),
    "arguments": lambda: task(does=call("fits:mass", 1)),
    "keywords": lambda: task(does=call("fits:mass", mu=1)),
    "true": lambda: task(does=call("fits:mass", mu=True)),
    "order": lambda: task(does=call("fits:mass", mu=1, tau=2)),
    "other order": lambda: task(does=call("fits:mass", tau=2, mu=1)),
    "name": lambda: task("other"),
    "variable": lambda: task(variables={"A": "1"}),
    "value": lambda: task(variables={"A": "2"}),
    "other variable": lambda: task(variables={"B": "1"}),
    "empty": lambda: task(variables={"A": ""}),
    "image": lambda: task(environment=environment(image=IMAGE)),
    "platform": lambda: task(
        environment=environment(image=msgspec.structs.replace(IMAGE, platform="linux/arm64"))
    ),
    "network": lambda: task(environment=environment(image=IMAGE, network="none")),
    "options": lambda: task(environment=environment(image=IMAGE, options=("--device", "x"))),
    "setup": lambda: task(environment=environment(setup=Setup(lines="x=1"))),
    "python": lambda: task(environment=environment(python=PythonSpec(version="3.12"))),
    "requirements": lambda: task(environment=environment(python=PythonSpec(requirements=("x",)))),
    "data": lambda: task(
        environment=environment(extra_data=(DataItem(source="https://x/y", digest="sha256:1"),))
    ),
    "its digest": lambda: task(
        environment=environment(extra_data=(DataItem(source="https://x/y", digest="sha256:2"),))
    ),
    "its place": lambda: task(
        environment=environment(
            extra_data=(DataItem(source="https://x/y", digest="sha256:1", target="z"),)
        )
    ),
    "device": lambda: task(environment=environment(resources=Resources(process_on="gpu"))),
    "input": lambda: task(inputs=("a",)),
    "output": lambda: task(outputs=("a",)),
    "other output": lambda: task(outputs=("b",)),
}


def test_all_that_could_change_an_answer_makes_another_identity(tmp_path: Path) -> None:
    def digest(_: TaskSpec, image: Image) -> str:
        return f"sha256:{image.name}"

    digests = {
        name: Identity.of(parts_of(tmp_path, make(), image_digest=digest)).digest
        for name, make in TASKS.items()
    }
    assert len(set(digests.values())) == len(TASKS)


def test_how_it_is_run_makes_none(tmp_path: Path) -> None:
    others = [
        task(environment=environment(resources=Resources(cpus=4, memory=2**30, walltime_s=5))),
        task(environment=environment(runtime="podman", reuse=False, secrets=("A",))),
        task(retries=Retries(times=3), timeout_s=7.0, allow_failure=True, cache=True),
        task(growth=(Resources(memory=2**31),)),
        task(
            environment=msgspec.structs.replace(
                environment(), flow=msgspec.structs.replace(LOCAL, runner="x")
            )
        ),
    ]
    assert [parts_of(tmp_path, one) for one in others] == [parts_of(tmp_path, task())] * len(others)


def test_a_folder_that_moves_as_a_whole_has_the_same_parts(tmp_path: Path) -> None:
    found = []
    for folder in (tmp_path / "here", tmp_path / "there"):
        write(folder / "select.sh", "x")
        write(folder / "cuts.json", "y")
        inputs = ("cuts.json", "*.json", "**/*.json")
        one = task(does="./select.sh", inputs=inputs, outputs=("out",))
        found.append(parts_of(folder, one))
    assert found[0] == found[1]
    assert not any(str(tmp_path) in name for name in found[0])


def test_what_changed_is_told_in_words(tmp_path: Path) -> None:
    def images(digest: str) -> Callable[[TaskSpec, Image], str]:
        return lambda _, __: digest

    assert told(tmp_path, task(does="a"), task(does="b")) == ["its command changed"]
    assert told(
        tmp_path,
        task(variables={"STATS_METHOD": "CLS", "OLD": "1"}),
        task(variables={"STATS_METHOD": "BAYES", "NEW": "1"}),
    ) == ["variable STATS_METHOD changed", "variable NEW is new", "variable OLD is there no more"]
    one = task(environment=environment(image=IMAGE))
    before = parts_of(tmp_path, one, image_digest=images(f"sha256:12ab{'0' * 60}"))
    after = parts_of(tmp_path, one, image_digest=images(f"sha256:99ff{'0' * 60}"))
    assert differences(before, after) == (
        "the image changed: sha256:12ab00000000 -> sha256:99ff00000000",
    )
    write(tmp_path / "fits.py")
    assert told(tmp_path, task(does=call("fits:mass", 1)), task(does=call("fits:tau", 2))) == [
        "its function changed: fits:mass -> fits:tau",
        "its arguments changed",
    ]
    assert told(tmp_path, task(), task(outputs=("hist.root",))) == ["output hist.root is new"]


def test_files_are_told_by_what_they_are_to_the_task(tmp_path: Path) -> None:
    write(tmp_path / "select.sh", "1")
    write(tmp_path / "run.py", "import tools")
    write(tmp_path / "tools.py", "1")
    write(tmp_path / "fitting.py", "import helpers")
    write(tmp_path / "helpers.py", "1")
    write(tmp_path / "cuts.json", "1")
    write(tmp_path / "setup.sh", "1")
    tasks = [
        task(does="./select.sh && python3 run.py", inputs=("cuts.json",)),
        task(does=call("fitting:fit")),
        task(environment=environment(setup=Setup(lines="x", scripts=(f"{tmp_path}/setup.sh",)))),
    ]
    before = [parts_of(tmp_path, one) for one in tasks]
    for name in ("select.sh", "cuts.json", "setup.sh"):
        write(tmp_path / name, "2")
    for name in ("tools.py", "helpers.py", "fitting.py", "run.py"):
        with (tmp_path / name).open("a") as file:
            file.write("\n")
    after = [parts_of(tmp_path, one) for one in tasks]
    assert [set(differences(*both)) for both in zip(before, after, strict=True)] == [
        {
            "select.sh, which its command names, changed",
            "run.py, which its command names, changed",
            "tools.py, which its code imports, changed",
            "input cuts.json changed",
        },
        {
            "fitting.py, where its function stands, changed",
            "helpers.py, which its code imports, changed",
        },
        {"setup.sh, which its setup sources, changed"},
    ]


def test_a_file_that_comes_or_goes_is_told(tmp_path: Path) -> None:
    one = task(does="./a.sh", inputs=("in",))
    nothing = parts_of(tmp_path, one)
    write(tmp_path / "a.sh")
    write(tmp_path / "in")
    there = parts_of(tmp_path, one)
    assert set(differences(nothing, there)) == {
        "a.sh, which its command names, is new",
        "input in was not there before",
    }
    assert set(differences(there, nothing)) == {
        "a.sh, which its command names, is there no more",
        "input in is not there",
    }


def test_with_another_key_variables_count_as_changed_and_that_is_why(tmp_path: Path) -> None:
    one = task(variables={"A": "1", "B": "2"})
    before = parts_of(tmp_path, one)
    after = parts_of(tmp_path, one, key=Key.of(b"o" * 32))
    assert differences(before, after) == (
        f"{KINDS['key'].thing} is a new one, so that all variables count as changed",
    )
    more = task(variables={"A": "1", "C": "2"})
    assert differences(before, parts_of(tmp_path, more)) == (
        "variable C is new",
        "variable B is there no more",
    )


def test_no_key_is_asked_for_where_there_are_no_variables(tmp_path: Path) -> None:
    def refused() -> Key:
        raise AssertionError

    made = plan(tmp_path, task())
    assert "key" not in Identities(made, refused).of(made.tasks[0], {}).parts


@ANY_SPEED
@given(st.text(min_size=4), st.text())
def test_no_value_and_no_plain_hash_of_one_is_told(tmp_path: Path, value: str, name: str) -> None:
    parts = parts_of(tmp_path, task(variables={f"A{name}": f"hunter2-{value}"}))
    text = json.dumps(parts)
    assert "hunter2" not in text
    encoded = f"hunter2-{value}".encode("utf-8", "surrogatepass")
    for algorithm in ("md5", "sha1", "sha256", "sha512", "blake2b", "blake2s"):
        assert hashlib.new(algorithm, encoded).hexdigest()[:12] not in text


def changed_files(
    folder: Path, tasks: Sequence[TaskSpec], change: str, *, of: int = -1
) -> tuple[str, ...]:
    """What is said of a task, once a file has another content."""
    made = plan(folder, *tasks)
    needs = {name: NeedIdentity("outputs", "same") for name in made.tasks[of].needs}
    before = identities(made).of(made.tasks[of], needs).parts
    write(folder / change, (folder / change).read_text() + "\n# other\n")
    return differences(before, identities(made).of(made.tasks[of], needs).parts)


NAMED: dict[str, tuple[Sequence[TaskSpec], str]] = {
    "an input of another task": (
        [task("a", "cat cuts.json", inputs=("cuts.json",)), task("b", "cat cuts.json")],
        "cuts.json",
    ),
    "in an input of another task": (
        [task("a", "ls", inputs=("data",)), task("b", "cat data/x")],
        "data/x",
    ),
    "a folder that is an input of another task": (
        [task("a", "ls", inputs=("data",)), task("b", "./fit data")],
        "data/x",
    ),
    "an output of no need": ([task("a", outputs=("x.txt",)), task("b", "cat x.txt")], "x.txt"),
    "an output of a need of a need": (
        [
            task("a", outputs=("x.txt",)),
            task("b", outputs=("y.txt",), needs=("a",)),
            task("c", "cat x.txt", needs=("b",)),
        ],
        "x.txt",
    ),
    "what its own script imports": (
        [task(does="python3 fit.py", inputs=("fit.py",))],
        "helper.py",
    ),
    "what a need's script imports": (
        [task("a", outputs=("fit.py",)), task("b", "python3 fit.py", needs=("a",))],
        "helper.py",
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_file_that_its_command_reads_is_a_reason(tmp_path: Path, name: str) -> None:
    for file in ("cuts.json", "data/x", "x.txt", "helper.py"):
        write(tmp_path / file, "1")
    write(tmp_path / "fit.py", "import helper")
    tasks, change = NAMED[name]
    (said,) = changed_files(tmp_path, tasks, change)
    assert said.startswith((change, change.partition("/")[0]))
    assert said.endswith("changed")


RUN_AGAIN: list[tuple[Invocation | str, dict[str, str], str]] = [
    ("python3 -m ana", {"ana/__main__.py": "import tools", "tools.py": ""}, "tools.py"),
    ("python3 -m ana", {"ana/__init__.py": "", "ana/__main__.py": ""}, "ana/__main__.py"),
    ("python3 -m ana", {"ana/__init__.py": "", "ana/__main__.py": ""}, "ana/__init__.py"),
    ("python3 -m ana.fit", {"ana/__init__.py": "", "ana/fit.py": ""}, "ana/fit.py"),
    ("python3 ana2", {"ana2/__main__.py": ""}, "ana2/__main__.py"),
    ("python3 ana2", {"ana2/__main__.py": "import b", "ana2/b.py": ""}, "ana2/b.py"),
    ("python3 fit", {"fit": "import helper", "helper.py": ""}, "helper.py"),
    ("./fit", {"fit": "#!/usr/bin/env python3\nimport helper", "helper.py": ""}, "helper.py"),
    ("python3 -c 'import helper; print(1)'", {"helper.py": ""}, "helper.py"),
    ("python3 -c 'from a.b import c'", {"a/b/c.py": ""}, "a/b/c.py"),
    ("python3 <<EOF\nimport helper\nEOF", {"helper.py": ""}, "helper.py"),
    (Command(argv=("python3", "-c", "import helper")), {"helper.py": ""}, "helper.py"),
    (Command(argv=("env", "-C", "sub", "./a.sh")), {"sub/a.sh": ""}, "sub/a.sh"),
    ("cd sub && python3 fit.py", {"sub/fit.py": "import b", "sub/b.py": ""}, "sub/b.py"),
    ("cd sub && python3 -m ana", {"sub/ana.py": ""}, "sub/ana.py"),
    ("PYTHONPATH=lib python3 fit.py", {"fit.py": "import b", "lib/b.py": ""}, "lib/b.py"),
    ("export PYTHONPATH=$PWD/lib; python3 -m b", {"lib/b.py": ""}, "lib/b.py"),
    ("root -l -b -q 'mac.C+(1)'", {"mac.C": ""}, "mac.C"),
    ("root -l -b -q fit.C+", {"fit.C": ""}, "fit.C"),
    ("fit a.txt,b.txt", {"a.txt": "", "b.txt": ""}, "b.txt"),
    ("fit x.root:tree", {"x.root": ""}, "x.root"),
    ("fit --opt=cuts.json", {"cuts.json": ""}, "cuts.json"),
    ("cat $PWD/../x cuts.json", {"cuts.json": ""}, "cuts.json"),
]


@pytest.mark.parametrize(("does", "files", "change"), RUN_AGAIN)
def test_what_a_command_reads_makes_it_run_again(
    tmp_path: Path, does: Invocation | str, files: dict[str, str], change: str
) -> None:
    for name, text in files.items():
        write(tmp_path / name, text)
    (said,) = changed_files(tmp_path, [task(does=does)], change)
    assert said.startswith(change)


@pytest.mark.parametrize(
    "does",
    [
        call("fit:fit", "cuts.json"),
        call("fit:fit", config={"cuts": ["x", "./cuts.json"]}),
        call("fit:fit", "--cuts=cuts.json"),
    ],
)
def test_a_file_that_an_argument_names_is_a_reason(tmp_path: Path, does: Invocation) -> None:
    write(tmp_path / "fit.py")
    write(tmp_path / "cuts.json")
    said = changed_files(tmp_path, [task(does=does)], "cuts.json")
    assert said == ("cuts.json, which its arguments name, changed",)


def test_a_file_that_a_function_itself_made_is_no_reason(tmp_path: Path) -> None:
    write(tmp_path / "fit.py")
    made = plan(tmp_path, task(does=call("fit:fit", "hist.root")))
    asked = identities(made)
    before = asked.of(made.tasks[0], {})
    write(tmp_path / "hist.root", "made")
    recorded = asked.after(made.tasks[0], before)
    again = asked.of(made.tasks[0], {}, past=recorded.parts)
    assert again.digest == recorded.digest


def setup(text: str, *scripts: str) -> dict[str, Any]:
    return {"environment": environment(setup=Setup(lines=text, scripts=scripts))}


@pytest.mark.parametrize("text", ["source lib/setup.sh && x=1", "x=$(cat lib/setup.sh)"])
def test_a_file_that_a_line_of_its_setup_names_is_a_reason(tmp_path: Path, text: str) -> None:
    write(tmp_path / "lib/setup.sh", "1")
    before = parts_of(tmp_path, task(**setup(text)))
    write(tmp_path / "lib/setup.sh", "2")
    assert differences(before, parts_of(tmp_path, task(**setup(text)))) == (
        "lib/setup.sh, which its setup sources, changed",
    )


@pytest.mark.parametrize("of", ["lines", "script"])
def test_a_function_that_its_setup_leads_to(tmp_path: Path, of: str) -> None:
    write(tmp_path / "setup.sh", "export PYTHONPATH=$PWD/lib:$PYTHONPATH")
    write(tmp_path / "lib/fit.py")
    path = f"{tmp_path}/setup.sh"
    more = setup("PYTHONPATH=lib" if of == "lines" else f"source {path}", path)
    before = parts_of(tmp_path, task(does=call("fit:fit"), **more))
    write(tmp_path / "lib/fit.py", "2")
    assert differences(before, parts_of(tmp_path, task(does=call("fit:fit"), **more))) == (
        "lib/fit.py, where its function stands, changed",
    )


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (task(does=call("nowhere:fit")), "nowhere, where its function stands,"),
        (
            task(does=call("nowhere.deep:fit"), **setup("source /cvmfs/x/setup.sh")),
            "nowhere.deep, where its function stands,",
        ),
        (
            task(does=call("fit:fit"), **setup("export PYTHONPATH=$HERE/lib")),
            "nowhere, which its code imports,",
        ),
        (task(does="cd $HERE && python3 -m nowhere"), "nowhere, which its code imports,"),
        (task(does=call("path:fit")), "nowhere, which its code imports,"),
    ],
)
def test_code_that_nobody_finds_is_never_the_same(tmp_path: Path, one: TaskSpec, said: str) -> None:
    write(tmp_path / "fit.py", "import nowhere")
    write(tmp_path / "path.py", "import sys, nowhere\nsys.path.append('x')")
    parts = parts_of(tmp_path, one)
    assert not Identity.of(parts).is_known
    assert differences(parts, parts) == (f"nobody can tell whether {said} is the same",)


@pytest.mark.parametrize(
    "one",
    [
        task(does=call("json:dumps")),
        task(does=call("msgspec.json:encode")),
        task(does=call("fit:fit")),
        task(does=call("nowhere:fit"), environment=environment(image=IMAGE)),
        task(
            does=call("nowhere:fit"),
            environment=environment(python=PythonSpec(requirements=("nowhere",))),
        ),
        task(does="cd sub && python3 -m pip --version"),
    ],
)
def test_code_that_something_else_stands_for_can_be_the_same(tmp_path: Path, one: TaskSpec) -> None:
    write(tmp_path / "fit.py", "try: import nowhere\nexcept ImportError: pass")
    assert Identity.of(parts_of(tmp_path, one, image_digest=lambda *_: "sha256:1")).is_known


@pytest.mark.parametrize(
    ("file", "output"),
    [
        ("fit.sh", "."),
        ("latest.sh", "."),
        ("data/fit.sh", "data"),
        ("output/20251123T213121Z-fit.sh", "output"),
    ],
)
def test_a_file_in_the_output_folder_is_a_reason(tmp_path: Path, file: str, output: str) -> None:
    write(tmp_path / file, "1")
    one = task(does=f"sh {file}")
    made = msgspec.structs.replace(plan(tmp_path, one), output_directory=str(tmp_path / output))
    before = identities(made).of(made.tasks[0], {}).parts
    write(tmp_path / file, "2")
    after = identities(made).of(made.tasks[0], {}).parts
    assert differences(before, after) == (f"{file}, which its command names, changed",)


def test_the_records_of_runs_are_no_files_of_a_command(tmp_path: Path) -> None:
    run = "20251123T213121Z-128a"
    for name in (f"{run}/run.json", "latest/x", ".cache/digests.json", ".claims/x/1.json"):
        write(tmp_path / name)
    one = task(does=f"cat {run} {run}/run.json latest/x .cache/digests.json .claims/x/1.json")
    made = msgspec.structs.replace(plan(tmp_path, one), output_directory=str(tmp_path))
    assert not [
        name for name in identities(made).of(made.tasks[0], {}).parts if name.startswith("file")
    ]


def test_what_another_part_has_counts_once(tmp_path: Path) -> None:
    for name in ("fit.sh", "in.txt", "out/x.txt", "own.txt", "output/latest/x"):
        write(tmp_path / name)
    made = plan(
        tmp_path,
        task("a", outputs=("out",)),
        task(
            "b",
            "./fit.sh in.txt out/x.txt own.txt output/latest/x",
            inputs=("in.txt",),
            outputs=("own.txt",),
            needs=("a",),
        ),
    )
    parts = identities(made).of(made.tasks[1], {}).parts
    assert {name for name in parts if "." in name} == {
        "file fit.sh",
        "input in.txt",
        "output own.txt",
    }


def test_what_another_task_makes_meanwhile_is_none_of_its_own(tmp_path: Path) -> None:
    made = plan(tmp_path, task("a", outputs=("x.txt",)), task("b", "cat x.txt || true"))
    asked = identities(made)
    before = asked.of(made.tasks[1], {})
    write(tmp_path / "x.txt", "1")
    recorded = asked.after(made.tasks[1], before)
    assert differences(recorded.parts, asked.of(made.tasks[1], {}, past=recorded.parts).parts) == (
        "x.txt, which its command names, is new",
    )


def test_what_is_yet_to_be_made_is_open(tmp_path: Path) -> None:
    write(tmp_path / "x/y.py")
    write(tmp_path / "fit.py", "import x.y")
    made = plan(tmp_path, task("a", outputs=("x",)), task("b", "cat x/y.py; python3 fit.py"))
    parts = identities(made).of(made.tasks[1], {}, pending={f"{tmp_path}/x"}).parts
    assert (parts["file x/y.py"], parts["import x/y.py"]) == (PENDING, PENDING)
    assert parts["file fit.py"] != PENDING


def test_files_elsewhere_and_folders_are_none_of_it(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere")
    (tmp_path / "flow" / "folder").mkdir(parents=True)
    does = f"cat {tmp_path}/elsewhere ../elsewhere folder . /etc/passwd; ../flow/x.sh"
    write(tmp_path / "flow/x.sh")
    parts = parts_of(tmp_path / "flow", task(does=does))
    assert {name for name in parts if name.startswith("file")} == {"file x.sh"}


@ANY_SPEED
@given(st.text(st.characters(), min_size=1), st.text(st.characters()))
def test_any_command_has_an_identity_that_can_be_written_down(word: str, text: str) -> None:
    for one in (task(word, text), task(word, Command(argv=(word, text), stdin=text))):
        parts = parts_of(Path("/nowhere"), one)
        assert json.loads(msgspec.json.encode(parts)) == parts


def test_a_large_file_counts_by_size_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fasthep_flow.records.content._LARGE", 10)
    monkeypatch.setattr("fasthep_flow.records.invocation_parts._MOST_READ", 2)
    write(tmp_path / "large", "x" * 11)
    for name in ("a", "b", "c"):
        write(tmp_path / name)
    digests = Digests()
    one = task(does="cat large a b c")
    before = parts_of(tmp_path, one, digests=digests)
    assert digests.bytes_read == 0
    assert before["file large"].startswith("size 11 changed ")
    assert before["file a"].startswith("sha256:")
    assert before["file c"].startswith("size 0 changed ")
    write(tmp_path / "large", "y" * 12)
    assert differences(before, parts_of(tmp_path, one)) == (
        "large, which its command names, changed",
    )


def test_inputs_by_pattern_and_folder(tmp_path: Path) -> None:
    for name in ("data/a.root", "data/b.root", "odd[1].txt"):
        write(tmp_path / name, name)
    one = task(inputs=("data/*.root", "data", "odd[1].txt", "no*.root"))
    before = parts_of(tmp_path, one)
    assert before["input no*.root"] == "absent"
    write(tmp_path / "data/c.root", "x")
    write(tmp_path / "odd[1].txt", "x")
    assert set(differences(before, parts_of(tmp_path, one))) == {
        "input data/*.root changed",
        "input data changed",
        "input odd[1].txt changed",
    }


def test_what_a_link_in_an_input_leads_to_counts(tmp_path: Path) -> None:
    write(tmp_path / "ext/real.root", "1")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/l.root").symlink_to("../ext/real.root")
    one = task(inputs=("data",))
    before = parts_of(tmp_path, one)
    write(tmp_path / "ext/real.root", "2")
    assert differences(before, parts_of(tmp_path, one)) == ("input data changed",)
    (tmp_path / "data/up").symlink_to("..")
    parts = parts_of(tmp_path, one)
    assert differences(parts, parts) == ("nobody can tell whether input data is the same",)


def test_only_what_may_run_on_the_device_counts(tmp_path: Path) -> None:
    both = {"cpu": line("a"), "gpu": line("b")}
    other = {"cpu": line("a"), "gpu": line("c")}
    on = {
        device: environment(resources=Resources(process_on=device))
        for device in ("cpu", "gpu", "gpu_if_available")
    }
    found = {
        device: told(
            tmp_path,
            task(invocations=both, environment=one),
            task(invocations=other, environment=one),
        )
        for device, one in on.items()
    }
    assert found == {
        "cpu": [],
        "gpu": ["its command changed"],
        "gpu_if_available": ["its command on a GPU changed"],
    }


def test_what_nobody_can_tell_is_never_the_same(tmp_path: Path) -> None:
    one = task(environment=environment(image=IMAGE, extra_data=(DataItem(source="https://x/y"),)))
    parts = parts_of(tmp_path, one)
    assert not Identity.of(parts).is_known
    assert differences(parts, parts) == (
        "nobody can tell whether the image is the same",
        "nobody can tell whether extra data https://x/y is the same",
    )


def test_local_data_counts_by_its_content(tmp_path: Path) -> None:
    write(tmp_path / "data/a", "1")
    item = DataItem(source=f"{tmp_path}/data/")
    one = task(environment=environment(extra_data=(item,)))
    before = parts_of(tmp_path, one)
    write(tmp_path / "data/a", "2")
    (clause,) = differences(before, parts_of(tmp_path, one))
    assert clause.startswith(f"extra data {tmp_path}/data/ changed: sha256:")


def test_a_requirements_file_counts(tmp_path: Path) -> None:
    write(tmp_path / "requirements.txt", "numpy")
    python = PythonSpec(requirements=("-r requirements.txt",), directory=str(tmp_path))
    one = task(environment=environment(python=python))
    before = parts_of(tmp_path, one)
    write(tmp_path / "requirements.txt", "numpy>2")
    assert differences(before, parts_of(tmp_path, one)) == (
        "requirements.txt, which its requirements name, changed",
    )


def test_a_function_that_pythonpath_leads_to(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/fits.py", "1")
    variables = {"PYTHONPATH": f"src:{tmp_path}/elsewhere"}
    one = task(does=call("fits:mass"), variables=variables)
    before = parts_of(tmp_path / "flow", one)
    assert str(tmp_path) not in json.dumps(before)
    write(tmp_path / "elsewhere/fits.py", "2")
    assert differences(before, parts_of(tmp_path / "flow", one)) == (
        "fits.py, where its function stands, changed",
    )


def test_what_changes_while_the_run_goes_on_is_seen(tmp_path: Path) -> None:
    write(tmp_path / "fits.py", "1")
    write(tmp_path / "fit.sh", "1")
    made = plan(tmp_path, task("a", call("fits:mass")), task("b", "./fit.sh"))
    one = identities(made)
    before = [one.of(each, {}) for each in made.tasks]
    write(tmp_path / "more.py", "")
    write(tmp_path / "fits.py", "import more")
    write(tmp_path / "fit.sh", "2")
    after = [one.of(each, {}) for each in made.tasks]
    assert set(differences(before[0].parts, after[0].parts)) == {
        "fits.py, where its function stands, changed",
        "more.py, which its code imports, is new",
    }
    assert before[1].digest != after[1].digest


def test_a_file_that_the_task_itself_made_is_no_reason(tmp_path: Path) -> None:
    write(tmp_path / "fit.sh", "1")
    made = plan(tmp_path, task(does="./fit.sh -o hist.root"))
    (one,) = made.tasks
    asked = identities(made)
    before = asked.of(one, {})
    write(tmp_path / "hist.root", "made")
    recorded = asked.after(one, before)
    again = asked.of(one, {}, past=recorded.parts)
    assert again.digest == recorded.digest
    write(tmp_path / "hist.root", "made anew")
    assert asked.of(one, {}, past=recorded.parts).digest == recorded.digest
    write(tmp_path / "fit.sh", "2")
    assert differences(recorded.parts, asked.of(one, {}, past=recorded.parts).parts) == (
        "fit.sh, which its command names, changed",
    )


def test_a_program_that_is_edited_while_it_runs_is_a_reason(tmp_path: Path) -> None:
    write(tmp_path / "fit.sh", "1")
    made = plan(tmp_path, task(does="./fit.sh"))
    (one,) = made.tasks
    asked = identities(made)
    before = asked.of(one, {})
    write(tmp_path / "fit.sh", "2")
    recorded = asked.after(one, before)
    assert asked.of(one, {}, past=recorded.parts).digest != recorded.digest


def need(task_: TaskSpec, result: JobResult, run: str = "run") -> NeedIdentity:
    return need_identity(task_, result, run)


def test_a_need_is_its_outputs_where_it_declares_them() -> None:
    one = task(outputs=("/w/a",))
    same = [
        need(one, succeeded(one, attempt=attempt, outputs={"/w/a": "sha256:1"}), run)
        for attempt, run in ((1, "a"), (2, "b"))
    ]
    assert same[0] == same[1]
    assert same[0] != need(one, succeeded(one, outputs={"/w/a": "sha256:2"}))
    assert same[0] != need(one, succeeded(one, outputs={"/w/a": "sha256:1"}, value=1))


def test_a_need_is_its_value_where_the_author_vouches_for_it() -> None:
    one = task(cache=True)
    assert need(one, succeeded(one, value=[1]), "a") == need(one, succeeded(one, value=[1]), "b")
    assert need(one, succeeded(one, value=[1])) != need(one, succeeded(one, value=[2]))
    plain = task()
    assert need(plain, succeeded(plain, value="a"), "a") != need(
        plain, succeeded(plain, value="a"), "b"
    )


def test_a_need_is_the_very_attempt_else() -> None:
    one = task()
    assert need(one, succeeded(one)) == need(one, succeeded(one))
    assert need(one, succeeded(one)) != need(one, succeeded(one, attempt=2))
    failed = JobResult(task="fit", attempt=1, status="failed")
    assert need(one, succeeded(one)) != need(one, failed)


def test_what_became_of_a_need_is_told(tmp_path: Path) -> None:
    made = plan(tmp_path, task("Select"), task("Fit", needs=("Select",)))
    asked = identities(made)

    def parts(one: NeedIdentity | None = None) -> dict[str, str]:
        return asked.of(made.tasks[1], {} if one is None else {"Select": one}).parts

    first, second = NeedIdentity("attempt", "r/1"), NeedIdentity("attempt", "r/2")
    outputs = [NeedIdentity("outputs", text) for text in ("a", "b")]
    values = [NeedIdentity("value", text) for text in ("a", "b")]
    assert differences(parts(first), parts(second)) == ("needs 'Select', which ran anew",)
    assert differences(parts(outputs[0]), parts(outputs[1])) == (
        "needs 'Select', which made others",
    )
    assert differences(parts(values[0]), parts(values[1])) == (
        "needs 'Select', which returned others",
    )
    assert differences(parts(first), parts(outputs[0])) == ("needs 'Select', which ran anew",)
    assert differences(parts(), parts(first)) == ("needs 'Select' now",)
    assert differences(parts(first), parts()) == ("needs 'Select' no more",)


def test_all_parts_are_of_known_kinds(tmp_path: Path) -> None:
    write(tmp_path / "a.sh")
    write(tmp_path / "fits.py", "import msgspec, helpers")
    write(tmp_path / "helpers.py")
    kinds = set()
    tasks = [make() for make in TASKS.values()]
    tasks += [
        task(does="./a.sh", needs=("x",)),
        task(does=call("fits:mass", "a.sh")),
        task(environment=environment(setup=Setup(lines="x", scripts=("/x",)))),
        task(
            environment=environment(
                python=PythonSpec(requirements=("./a.sh",), directory=str(tmp_path))
            )
        ),
        task(
            environment=environment(
                image=IMAGE, gpu_image=IMAGE, resources=Resources(process_on="gpu_if_available")
            )
        ),
    ]
    for one in tasks:
        made = plan(tmp_path, one)
        parts = identities(made).of(made.tasks[0], {"x": NeedIdentity("attempt", "1")}).parts
        kinds |= {name.partition(" ")[0] for name in parts}
    assert kinds == set(KINDS)
    assert KEY.name not in KEY.secret.hex()


def test_a_file_that_may_not_be_read_counts_by_size_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: Digests, path: str, **__: bool) -> str:
        raise PermissionError(path)

    write(tmp_path / "fit.sh", "1")
    monkeypatch.setattr(Digests, "of", refused)
    before = parts_of(tmp_path, task(does="./fit.sh"))
    assert Identity.of(before).is_known
    write(tmp_path / "fit.sh", "22")
    assert differences(before, parts_of(tmp_path, task(does="./fit.sh"))) == (
        "fit.sh, which its command names, changed",
    )
    assert parts_of(tmp_path, task(inputs=("fit.sh",)))["input fit.sh"] == "unknown"
