"""Images that lack what a task needs: told before the first task, and by `check`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.faults.conftest import ENGINES, Site, in_image

BEFORE = {
    "name": "first",
    "type": "fasthep_flow.operators.BashOperator",
    "kwargs": {"bash_command": ": > ran"},
}
PYTHON = {
    "type": "fasthep_flow.operators.PythonOperator",
    "kwargs": {"python_callable": "mine:add", "op_args": [2, 3]},
}
MINE = "def add(x, y):\n    return x + y\n"


def bash(name: str, line: str, *arguments: str, **more: Any) -> dict[str, Any]:
    kwargs: dict[str, Any] = {"bash_command": line}
    if arguments:
        kwargs["arguments"] = list(arguments)
    return {
        "name": name,
        "type": "fasthep_flow.operators.BashOperator",
        "kwargs": kwargs,
        **more,
    }


@pytest.mark.fault(
    28,
    "an image has no shell, no Python, or is for another processor",
    "that is said before the first task",
)
def test_what_an_image_lacks_is_told_before_the_first_task(
    site: Site, container_runtime: str, noshell_image: str, busybox_image: str, foreign_image: str
) -> None:
    noshell = {"environment": in_image(container_runtime, noshell_image)}
    busybox = {"environment": in_image(container_runtime, busybox_image)}
    foreign = {"environment": in_image(container_runtime, foreign_image)}
    (site.work / "mine.py").write_text(MINE)
    site.write(
        BEFORE,
        bash("line without a shell", "echo hi", **noshell),
        bash("program without a shell", "/bin/echo", "hi", **noshell),
        bash("line without bash", "echo hi", **busybox),
        {"name": "call without python", **PYTHON, **busybox},
        bash("other processor", "sh", "-c", "echo hi", **foreign),
    )
    expected = {
        "line without a shell": ("has no /bin/sh", noshell_image),
        "program without a shell": ("has no /bin/sh", noshell_image),
        "line without bash": ("has no bash", busybox_image),
        "call without python": ("has no python3", busybox_image),
        "other processor": ("arm64", foreign_image),
    }
    if container_runtime == "charliecloud":
        # It starts programs itself.
        expected["line without a shell"] = ("has no bash", noshell_image)
        del expected["program without a shell"]
    said = site.run()
    assert said.code == 4, said
    lines = said.err.splitlines()
    for task, (word, image) in expected.items():
        assert any(all(part in line for part in (task, word, image)) for line in lines)
    assert "'first'" not in said.err
    checked = site.run("check", "--format", "json")
    assert checked.code == 4, checked
    refused = {
        task: check["detail"]
        for environment in json.loads(checked.out)["environments"]
        for task in environment["tasks"]
        for check in environment["checks"]
        if check["verdict"] == "refused"
    }
    assert refused.keys() == expected.keys()
    for task, (word, image) in expected.items():
        assert word in refused[task]
        assert image in refused[task]
    assert not site.up("ran")
    assert not (site.work / "output").exists()
    assert site.left(container_runtime) == {}


def test_what_an_image_has_is_enough(
    site: Site,
    container_runtime: str,
    noshell_image: str,
    pythononly_image: str,
    busybox_image: str,
    *,
    python_root: Path,
) -> None:
    image = pythononly_image
    if container_runtime not in ENGINES:
        # To make a file or a folder of the image takes half a minute.
        image = str(site.root / "python-only") + "/"
        subprocess.run(["cp", "--archive", "--link", f"{python_root}/", image], check=True)
        for name in ("sh", "dash", "bash", "rbash"):
            Path(image, "usr/bin", name).unlink(missing_ok=True)
    (site.work / "mine.py").write_text(MINE)
    busybox = {"environment": in_image(container_runtime, busybox_image)}
    tasks = [
        {"name": "add", **PYTHON, "environment": in_image(container_runtime, image)},
        bash("program", "sh", "-c", "echo hi", **busybox),
    ]
    if container_runtime == "charliecloud":
        noshell = {"environment": in_image(container_runtime, noshell_image)}
        tasks.append(bash("echo", "/bin/echo", "hi", **noshell))
    site.write(*tasks)
    for command in ("run", "check"):
        said = site.run(command)
        assert said.code == 0, said
    assert site.result("add").value == 5
    for task in tasks[1:]:
        assert site.result(str(task["name"])).stdout_tail == "hi\n"
    assert site.left(container_runtime) == {}
