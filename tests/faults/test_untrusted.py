"""Files that somebody else wrote: to look at one runs nothing, opens no other, and comes to an end.

``lint`` and ``plan`` are the commands that look at a workflow before anyone trusts it.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.conftest import COMMAND, Site, shell

from fasthep_flow.model import JobResult, from_json
from fasthep_flow.records.run import read_run

_MEMORY: int = 3 * 2**30
"""Bytes of address space: more than the largest workflow needs, less than a bomb."""

_LIMIT_S = 150
_TASKS = "tasks:\n- {name: a, type: m.f}\n"

# Everything that it names would do harm if it were run, imported, fetched or connected to.
_HOSTILE = """\
name: "$(touch pwned)"
register: {mine::fit: evilmod.fit}
global:
  setup: touch pwned
tasks:
- name: "../../$(touch pwned); \u202etxt"
  type: evilmod.Op
- name: "`touch pwned`"
  type: mine::fit
  inputs: ["/etc/pass*", "/proc/self/environ"]
- name: a
  type: fasthep_flow.operators.PythonOperator
  kwargs: {python_callable: "evilmod:fit", op_args: ["$(touch pwned)", "__import__('os')"]}
  environment:
    image: "127.0.0.1:9/evil/x:1"
    variables: .env
    setup: {script: ./evil.sh}
    python: {version: "3.12", requirements: ["evil @ https://127.0.0.1:9/evil.tar.gz"]}
    extra_data: ["https://127.0.0.1:9/x", "root://127.0.0.1:9//x/*", "/etc/**/*"]
- name: b
  type: fasthep_flow.operators.BashOperator
  kwargs: {bash_command: "touch pwned; $(touch pwned)"}
"""


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def _look(
    folder: Path, command: str, *before: str, limited: bool = True
) -> subprocess.CompletedProcess[str]:
    # What is slow to come to an end is killed, and that fails the test.
    return subprocess.run(
        [*before, str(COMMAND), command],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
        timeout=_LIMIT_S,
        preexec_fn=_limited if limited else None,
    )


@pytest.mark.fault(
    38,
    "`lint` and `plan` of a hostile file",
    "nothing is run, nothing connected to, and no file opened but what it names",
)
@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")
@pytest.mark.parametrize("command", ["lint", "plan"])
def test_a_hostile_file_runs_nothing_connects_to_nothing_and_opens_what_it_names(
    tmp_path: Path, command: str
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    work.joinpath("workflow.yaml").write_text(_HOSTILE)
    work.joinpath(".env").write_text("A=$(touch pwned)\n")
    work.joinpath("evilmod.py").write_text(
        "import os\nos.system('touch pwned')\nfit = Op = print\n"
    )
    work.joinpath("evil.sh").write_text("touch pwned\n")
    # Modules that would stand before those of Python's own.
    for name in ("yaml", "re", "sitecustomize", "typer"):
        work.joinpath(f"{name}.py").write_text("import os\nos.system('touch pwned')\n")
    log = tmp_path / "log"
    calls = "trace=execve,execveat,connect,bind,socket,open,openat,openat2,creat"
    # A module that nobody imported yet is compiled, and kept where it lies.
    unkept = ("env", "PYTHONDONTWRITEBYTECODE=1")
    traced = (*unkept, "strace", "-f", "-qq", "-s", "4096", "-o", str(log), "-e", calls)
    done = _look(work, command, *traced, limited=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\u202e" not in done.stdout + done.stderr
    lines = log.read_text(errors="replace").splitlines()
    assert [line for line in lines if re.search(r" execve(at)?\(", line)][1:] == []
    assert [line for line in lines if re.search(r" (connect|bind|socket)\(", line)] == []
    # That a file is not there is no harm; what is written is to nowhere.
    opened = [line for line in lines if re.search(r" (open\w*|creat)\(", line)]
    opened = [line for line in opened if " = -1 " not in line]
    assert not [line for line in opened if "O_WRONLY" in line and '"/dev/null"' not in line]
    paths = {os.path.join(work, found[1]) for found in map(_PATH.search, opened) if found}  # noqa: PTH118 - text
    ours = [sys.prefix, sys.base_prefix, *filter(None, sys.path), "/usr/", "/lib", "/sys/"]
    ours += ["/etc/ld.so", "/etc/localtime", "/proc/", "/dev/null"]
    others = {path for path in paths if not path.startswith(tuple(ours))}
    assert others == {str(work / "workflow.yaml"), str(work / ".env")}
    assert not {"/etc/passwd", "/proc/self/environ"} & paths
    assert sorted(path.name for path in work.iterdir() if "pwned" in path.name) == []


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")
@pytest.mark.parametrize("words", [("plan",), ("why", "calls"), ("why", "makes")])
def test_beside_an_earlier_run_it_is_read_too_and_still_nothing_runs_or_connects(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    module, marks = work / "evilmod.py", tmp_path / "marks"
    module.write_text(
        f"open({str(marks)!r}, 'a').write('imported')\n\n\ndef fit():\n    return 1\n"
    )
    operator = "fasthep_flow.operators.PythonOperator"
    calls = {"name": "calls", "type": operator, "kwargs": {"python_callable": "evilmod:fit"}}
    made = shell("makes", f"touch made; echo ran >> {marks}", outputs=["made"], needs=["calls"])
    tasks = [{**calls, "cache": True}, made]
    work.joinpath("workflow.yaml").write_text(json.dumps({"tasks": tasks}))
    done = _look(work, "run", limited=False)
    assert done.returncode == 0, done.stderr
    marks.unlink()
    log = tmp_path / "log"
    syscalls = "trace=execve,execveat,connect,bind,socket"
    traced = ["strace", "-f", "-qq", "-o", str(log), "-e", syscalls, str(COMMAND), *words]
    done = subprocess.run(
        traced, cwd=work, capture_output=True, text=True, check=False, timeout=_LIMIT_S
    )
    assert done.returncode == 0, done.stderr
    # It has looked: the source that it read says that nothing has changed.
    assert re.search("reused|need not run", done.stdout), done.stdout
    lines = log.read_text(errors="replace").splitlines()
    assert [line for line in lines if re.search(r" execve(at)?\(", line)][1:] == []
    assert [line for line in lines if re.search(r" (connect|bind|socket)\(", line)] == []
    assert not marks.exists()


_PATH = re.compile(r'"((?:[^"\\]|\\.)*)"')


def _aliases(first: str, form: str) -> str:
    lines = [f"a0: &a0 {first}"]
    lines += [
        f"a{level}: &a{level} " + form.replace("ALL", ", ".join([f"*a{level - 1}"] * 10))
        for level in range(1, 12)
    ]
    return "\n".join(lines) + f"\n{_TASKS}"


BOMBS: dict[str, tuple[Callable[[], str], str]] = {
    "aliases": (lambda: _aliases("[x, x]", "[ALL]"), "the aliases stand for more than"),
    "merges": (lambda: _aliases("{a: x}", "{<<: [ALL]}"), "the aliases stand for more than"),
    "lists": (lambda: "a: " + "[" * 500_000, "more than 64 deep"),
    "mappings": (lambda: "{a: " * 500_000, "more than 64 deep"),
    "blocks": (lambda: "".join(" " * n + "a:\n" for n in range(3000)), "more than 64 deep"),
    "values": (lambda: f"tasks: [{'1,' * 10_000_000}]", "there is more written than 5,000,000"),
    "no tasks": (lambda: f"tasks: [{'1,' * 1_000_000}]", "there are more problems"),
    "keys": (lambda: _TASKS + "".join(f"k{n}: 1\n" for n in range(300_000)), "more problems"),
    "a number": (lambda: f"{_TASKS}global: {{resources: {{memory: {'9' * 10**6}}}}}\n", ""),
    "an exponent": (lambda: f"{_TASKS}global: {{resources: {{cpus: 1e999999999}}}}\n", ""),
    "a reference": (lambda: f"{_TASKS}global: {{image: '{'a/' * 10**6}:b@sha256:0'}}\n", ""),
    "brackets": (
        lambda: (
            "tasks:\n- {name: a, type: m.f, environment: {python: {requirements: ['"
            + "a[" * 50_000
            + "', 'a "
            + ";(" * 50_000
            + "']}}}\n"
        ),
        "",
    ),
    "a cycle of all": (
        lambda: (
            "tasks:\n"
            + "".join(
                f"- {{name: t{n}, type: m.f, needs: [{', '.join(f't{m}' for m in range(400))}]}}\n"
                for n in range(400)
            )
        ),
        "wait",
    ),
    "patterns": (
        lambda: (
            "tasks:\n"
            + "".join(
                f"- {{name: t{n}, type: m.f, inputs: ['{'*' * 200}/{'?' * 200}*'],"
                f" outputs: ['o{n}{'a' * 200}']}}\n"
                for n in range(500)
            )
        ),
        "",
    ),
    "devices": (
        lambda: (
            "tasks:\n- {name: a, type: m.f, environment: {variables: /dev/zero}}\n"
            "- {name: b, type: m.f, environment: {variables: pipe}}\n"
        ),
        "is not a file",
    ),
    "bytes": (lambda: "\x00\x01\x02", ""),
}


@pytest.mark.fault(
    39,
    "a file that expands without bounds, or nests without end",
    "it is refused, in bounded time and memory",
)
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_bounded_time_and_memory(tmp_path: Path, name: str) -> None:
    text, words = BOMBS[name]
    tmp_path.joinpath("workflow.yaml").write_text(text())
    os.mkfifo(tmp_path / "pipe")
    done = _look(tmp_path, "lint")
    assert done.returncode in {2, 3}, done.stderr[-2000:]
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "mistake of fasthep-flow" not in done.stderr
    # All that is said stays readable, too.
    assert len(done.stdout + done.stderr) < 5 * 10**6


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/urandom", "."])
def test_what_is_no_workflow_at_all_is_refused(tmp_path: Path, name: str) -> None:
    tmp_path.joinpath("workflow.yaml").symlink_to(name)
    done = _look(tmp_path, "lint")
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr


_ELSEWHERE = "what is no task's business\n"
_PLANTED = {
    "links": 'for n in {names}; do rm -f $n; ln -s "$OLDPWD/../elsewhere" $n; done',
    "pipes": "for n in {names}; do rm -f $n; mkfifo $n; done",
    "folders": "for n in {names}; do rm -f $n; mkdir $n; done",
}
_NAMES = "stdout.log stderr.log reply.json result.json.tmp worker.json"


@pytest.mark.parametrize("kind", _PLANTED)
def test_what_a_task_puts_in_place_of_its_records_is_neither_followed_nor_waited_for(
    tmp_path: Path, kind: str
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(_ELSEWHERE)
    names = _NAMES if kind != "folders" else _NAMES.replace("result.json.tmp ", "")
    line = f'cd "$FASTHEP_TASK_DIRECTORY"; echo hello; {_PLANTED[kind].format(names=names)}'
    work.joinpath("workflow.yaml").write_text(json.dumps({"tasks": [shell("plants", line)]}))
    done = _look(work, "run", limited=False)
    assert done.returncode == 0, done.stderr
    assert "no task's business" not in done.stdout + done.stderr
    attempt = work / "output" / "latest" / "tasks" / "plants" / "1"
    result = from_json(JobResult, (attempt / "result.json").read_bytes())
    assert (result.status, result.stdout_tail) == ("succeeded", "")
    assert not (attempt / "result.json").is_symlink()
    assert elsewhere.read_text() == _ELSEWHERE


def _elsewhere(site: Site) -> Path:
    """A folder that is none of a task's business, with names that a driver writes and shows."""
    folder = site.root / "elsewhere"
    folder.mkdir()
    for name in ("stdout.log", "result.json", "job.json", "reply.json"):
        (folder / name).write_text(_ELSEWHERE)
    (folder / "1").mkdir()
    (folder / "1" / "stdout.log").write_text(_ELSEWHERE)
    return folder


def _contents(folder: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in folder.rglob("*") if path.is_file()}


_REPLACED = {
    "a link": "mv 1 gone; ln -s ELSEWHERE 1",
    "a link above": "cd ..; mv replaces gone; ln -s ELSEWHERE replaces",
    "a link to nothing": "rm -rf 1; ln -s /nowhere/at/all 1",
    "a pipe": "rm -rf 1; mkfifo 1",
    "a file": "rm -rf 1; echo > 1",
    "another folder": "mv 1 gone; mkdir 1",
}


@pytest.mark.parametrize("how", _REPLACED)
def test_a_task_that_replaces_its_folder_has_failed_and_leads_nobody_out(
    site: Site, how: str
) -> None:
    elsewhere = _elsewhere(site)
    before = _contents(elsewhere)
    line = _REPLACED[how].replace("ELSEWHERE", str(elsewhere))
    line = f'echo hello; echo half > made; cd "$(dirname "$FASTHEP_TASK_DIRECTORY")"; {line}'
    replaces = shell("replaces", line, outputs=["made"], needs=[], allow_failure=True)
    site.write(replaces, shell("after", "echo after > after", outputs=["after"], needs=[]))
    said = site.run()
    assert said.code == 0, said
    assert site.up("after")
    assert "no task's business" not in said.both
    assert _contents(elsewhere) == before
    status, kind, message = site.cause("replaces")
    assert (status, kind) == ("failed", "output")
    assert "was replaced while the task ran" in message
    assert not site.up("made")
    # What it printed is read where it was printed, though the folder was moved away.
    assert site.result("replaces").stdout_tail == ("hello\n" if "mv" in line else "")
    record = read_run(site.work / "output")
    assert record.results["replaces"].status == "failed"
    assert record.results["after"].status == "succeeded"
    # So it does when the run goes on.
    said = site.run()
    assert said.code == 0, said
    assert _contents(elsewhere) == before


@pytest.mark.parametrize("first", ["true", "exit 1"])
@pytest.mark.parametrize("what", ["ln -sfn ELSEWHERE", "mkfifo", "mkdir -p zlate/1; mkfifo"])
def test_what_a_task_puts_in_place_of_another_ones_folder_is_set_aside(
    site: Site, what: str, first: str
) -> None:
    elsewhere = _elsewhere(site)
    before = _contents(elsewhere)
    plant = what.replace("ELSEWHERE", str(elsewhere))
    line = f'cd "$(dirname "$FASTHEP_TASK_DIRECTORY")/.."; {plant} zlate'
    plants = shell("plants", f"{line}; test -e $OLDPWD/go || {first}", needs=[])
    site.write(plants, shell("zlate", "echo late", needs=["plants"]))
    said = site.run()
    (site.work / "go").touch()
    if first != "true":
        assert said.code == 1, said
        said = site.run()
    assert said.code == 0, said
    assert "no task's business" not in said.both
    assert _contents(elsewhere) == before
    assert site.result("zlate").stdout_tail == "late\n"
    assert not (site.work / "output" / "latest" / "tasks" / "zlate").is_symlink()


@pytest.mark.parametrize("plant", ["mkdir result.json.tmp", "mkdir -p result.json/in"])
def test_one_task_does_not_end_the_run_by_what_lies_in_the_way_of_its_result(
    site: Site, plant: str
) -> None:
    planted = shell("plants", f'cd "$FASTHEP_TASK_DIRECTORY"; {plant}', needs=[])
    site.write(planted, shell("after", "true", needs=["plants"]))
    said = site.run()
    assert said.code == 0, said
    results = read_run(site.work / "output").results
    assert results["after"].status == "succeeded"
    assert "is in the journal alone" in " ".join(results["plants"].remarks)


_IN_THE_RUN = {
    "pipe": "rm -f NAME; mkfifo NAME",
    "link": "mv NAME moved; ln -s ELSEWHERE/result.json NAME",
    "folder": "rm -f NAME; mkdir NAME",
}


@pytest.mark.parametrize("how", _IN_THE_RUN)
@pytest.mark.parametrize("name", ["events.jsonl", "plan.json", "workflow.yaml", "cancel"])
def test_what_lies_in_place_of_a_runs_records_is_neither_waited_for_nor_followed(
    site: Site, name: str, how: str
) -> None:
    elsewhere = _elsewhere(site)
    before = _contents(elsewhere)
    plant = _IN_THE_RUN[how].replace("NAME", name).replace("ELSEWHERE", str(elsewhere))
    if name == "cancel":
        plant = plant.replace("mv cancel moved;", "")
    good = shell("good", "echo good > good", outputs=["good"], needs=[])
    line = f"test -e go || {{ cd output/latest; {plant}; exit 1; }}"
    site.write(good, shell("plants", line, needs=["good"]))
    site.run()
    (site.work / "go").touch()
    for words in (("plan",), ("why", "good")):
        said = site.run(*words)
        assert "Traceback" not in said.both, said
    said = site.run()
    assert said.code == 0, said
    assert "no task's business" not in said.both
    assert _contents(elsewhere) == before
    record = read_run(site.work / "output")
    assert record.status == "succeeded"
    assert not record.unfinished
    run = site.work / "output" / "latest"
    if name == "events.jsonl":
        assert f"{name}: cannot be read" in (run / name).read_text()
        assert [path.name[: len(name)] for path in (run / "damaged").iterdir()] == [name]


def test_a_pipe_in_place_of_what_an_attempt_was_to_run_is_not_waited_for(site: Site) -> None:
    plant = 'cd "$FASTHEP_TASK_DIRECTORY"; rm job.json; mkfifo job.json'
    site.write(shell("plants", f"test -e go || {{ {plant}; exit 1; }}"))
    assert site.run().code == 1
    (site.work / "go").touch()
    said = site.run()
    assert said.code == 0, said


@pytest.mark.parametrize("name", ["former", "damaged", "tasks"])
def test_what_goes_into_a_folder_of_the_run_does_not_go_where_a_link_leads(
    site: Site, name: str
) -> None:
    elsewhere = _elsewhere(site)
    before = _contents(elsewhere)
    line = f"cd output/latest; rm -rf {name}; ln -s {elsewhere} {name}; echo x >> events.jsonl"
    site.write(shell("plants", f"test -e go || {{ {line}; exit 1; }}"))
    assert site.run().code == 1
    (site.work / "go").touch()
    workflow = site.work / "workflow.yaml"
    workflow.write_text(f"{workflow.read_text()}\n# changed\n")
    said = site.run()
    assert said.code == 0, said
    assert _contents(elsewhere) == before
    assert not (site.work / "output" / "latest" / name).is_symlink()
