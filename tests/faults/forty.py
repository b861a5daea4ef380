"""Forty tasks that have effects, and whether these are as if nothing had ever happened.

Every task tells at its end that it has come there, in a file that it appends to; and every attempt
holds a lock as long as any process of it lives, so that two attempts at once are seen.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.faults.conftest import Said, Site, shell

from fasthep_flow.records.run import read_run

__all__ = ["begin", "completions", "has_succeeded", "judge", "recorded", "resume"]

HALVES = [f"half{number}" for number in range(9)]
COPIES = [f"copy{number}" for number in range(9)]
PLAIN = [f"plain{number}" for number in range(9)]
RETRIED = [f"retried{number}" for number in range(8)]
VALUES = [f"value{number}" for number in range(3)]
DONE = {"succeeded", "reused"}
NAMES = [*HALVES, *COPIES, *PLAIN, *RETRIED, *VALUES, "folder", "all"]

_MODULE = """\
import os


def value(name):
    with open(os.environ["MARKS"] + "/ended", "a") as ended:
        ended.write(name + "\\n")
    return {"of": name}
"""
_HELD = 'exec 9>>"$MARKS/{0}.lock"; flock -n 9 || echo {0} >> "$MARKS/twice"; '
_ENDED = '; echo {0} >> "$MARKS/ended"'


def _task(name: str, line: str, **more: Any) -> dict[str, Any]:
    whole = _HELD.format(name) + line + _ENDED.format(name)
    return shell(name, whole, **{"needs": [], **more})


def _tasks(nap_s: float) -> list[dict[str, Any]]:
    """What runs: halves that are written, copied and looked at, others that fail at first."""
    tasks = []
    for half, copy, plain in zip(HALVES, COPIES, PLAIN, strict=True):
        line = f"printf first > {half}; sleep {nap_s}; printf second >> {half}"
        tasks += [
            _task(half, line, outputs=[half]),
            _task(
                copy,
                f"printf '<' > {copy}; cat {half} >> {copy}; sleep {nap_s}; printf '>' >> {copy}",
                needs=[half],
                inputs=[half],
                outputs=[copy],
            ),
            _task(
                plain,
                f'test "$(cat {copy})" = "<firstsecond>" || echo {copy} >> "$MARKS/cut"',
                needs=[copy],
            ),
        ]
    for name in RETRIED:
        first = f'test -e "$MARKS/{name}.tried" || {{ : > "$MARKS/{name}.tried"; exit 1; }}'
        line = f"printf half > {name}; {first}; printf whole > {name}"
        tasks.append(_task(name, line, outputs=[name], retries=1))
    for name in VALUES:
        operator = "fasthep_flow.operators.PythonOperator"
        kwargs = {"python_callable": "valued:value", "op_args": [name]}
        tasks.append({"name": name, "type": operator, "kwargs": kwargs, "needs": []})
    line = f"mkdir -p folder/deep; echo one > folder/1; sleep {nap_s}; echo two > folder/deep/2"
    tasks.append(_task("folder", line, needs=RETRIED[:1], outputs=["folder/"]))
    files = [*COPIES, *RETRIED]
    needs = [*PLAIN, *RETRIED, *VALUES, "folder"]
    line = f"cat {' '.join(files)} folder/1 folder/deep/2 > all"
    needs += COPIES
    tasks.append(_task("all", line, needs=needs, inputs=[*files, "folder/"], outputs=["all"]))
    return tasks


def begin(site: Site, *, nap_s: float = 0.03) -> None:
    """The workflow in its folder, and one beside it for what the tasks tell."""
    marks = site.root / "marks"
    marks.mkdir()
    tasks = _tasks(nap_s)
    assert sorted(task["name"] for task in tasks) == sorted(NAMES)
    (site.work / "valued.py").write_text(_MODULE)
    site.write(*tasks, variables={"MARKS": str(marks)}, resources={"cpus": 0.25})


def completions(site: Site) -> Counter[str]:
    """How often each task has come to its end."""
    path = site.root / "marks" / "ended"
    return Counter(path.read_text().split()) if path.exists() else Counter()


def recorded(site: Site) -> set[str]:
    """The tasks of which a record says that they succeeded; it is read as any program would."""
    found = set()
    for task in site.work.glob("output/*/tasks/*"):
        latest = max(task.iterdir(), key=lambda attempt: int(attempt.name), default=task)
        result = latest / "result.json"
        if result.exists() and json.loads(result.read_bytes())["status"] == "succeeded":
            found.add(task.name)
    for journal in site.work.glob("output/*/events.jsonl"):
        for line in journal.read_bytes().split(b"\n"):
            try:
                event = json.loads(line)
            except ValueError:
                # The driver was killed as it wrote it.
                continue
            if event.get("status") == "succeeded" and "task" in event:
                found.add(event["task"])
    return found


def has_succeeded(site: Site) -> bool:
    """Whether the run has come to its end, whatever became of its driver."""
    path = site.work / "output" / "latest" / "run.json"
    return path.exists() and json.loads(path.read_bytes())["status"] == "succeeded"


def resume(site: Site, said: Said, before: Sequence[tuple[set[str], Counter[str]]]) -> None:
    """The same command once more has brought the run to its end, and nothing is amiss.

    Args:
        site: Of the run.
        said: By that command.
        before: What was recorded, and which tasks had come to their end, when each of the drivers
            before was gone.
    """
    assert said.code == 0, said.both
    assert "Traceback" not in said.both
    ended = completions(site)
    assert set(ended) == set(NAMES)
    for done, then in before:
        again = {name for name in done if ended[name] != then[name]}
        assert not again, f"ran once more: {again}"
    # Who came to its end unseen runs again, once for each driver.
    assert max(ended.values()) <= 1 + len(before), ended
    judge(site)


def judge(site: Site) -> None:
    """Every byte is as if nothing had happened, no two attempts overlapped, nothing is left."""
    marks = site.root / "marks"
    assert not (marks / "twice").exists(), (marks / "twice").read_text()
    assert not (marks / "cut").exists(), (marks / "cut").read_text()
    assert {(site.work / name).read_text() for name in HALVES} == {"firstsecond"}
    assert {(site.work / name).read_text() for name in COPIES} == {"<firstsecond>"}
    assert {(site.work / name).read_text() for name in RETRIED} == {"whole"}
    assert (site.work / "all").read_text() == "<firstsecond>" * 9 + "whole" * 8 + "one\ntwo\n"
    there = {path.name for path in site.work.iterdir()} - {"__pycache__"}
    own = {"workflow.yaml", "valued.py", "output", "folder", "all"}
    assert there == own | {*HALVES, *COPIES, *RETRIED}
    told = read_run(site.work / "output" / "latest")
    assert told.status == "succeeded"
    # A driver that is killed may have kept an end, and recorded none: then that one stands.
    odd = {name: one for name, one in told.results.items() if one.status not in DONE}
    assert set(told.results) == set(NAMES)
    assert not odd, odd
    assert told.damaged == ()


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path there."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
