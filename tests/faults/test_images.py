"""Images that lack what a task needs: told before the first task, and by `check`."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from tests.faults.conftest import ENGINES, Site, in_image, shell

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


def refusal(site: Site, *words: str) -> None:
    """Both commands refuse it in these words; nothing runs, and nothing is left."""
    for command in ("run", "check"):
        said = site.run(command)
        assert said.code == 4, said
        for word in words:
            assert word in " ".join(said.both.split()), said
        assert "Traceback" not in said.both
        assert not site.up("ran")
        assert not (site.work / "output").exists()


def test_one_without_a_shell_runs_no_line_of_it(
    site: Site, container_runtime: str, noshell_image: str
) -> None:
    environment = in_image(container_runtime, noshell_image)
    site.write(BEFORE, bash("line", "echo hi", environment=environment))
    refusal(site, "'line'", noshell_image)
    assert site.left(container_runtime) == {}


def test_one_without_a_shell_runs_programs_where_none_is_needed(
    site: Site, container_runtime: str, noshell_image: str
) -> None:
    environment = in_image(container_runtime, noshell_image)
    site.write(BEFORE, bash("program", "/bin/echo", "hi", environment=environment))
    if container_runtime != "charliecloud":
        refusal(site, "program", noshell_image, "shell")
        return
    said = site.run()
    assert said.code == 0, said
    assert site.result("program").stdout_tail == "hi\n"
    assert site.left(container_runtime) == {}


def test_one_with_python_alone_runs_callables(
    site: Site, container_runtime: str, pythononly_image: str, python_root: Path
) -> None:
    image = pythononly_image
    if container_runtime not in ENGINES:
        # To make a file or a folder of the image takes half a minute.
        image = str(site.root / "python-only") + "/"
        subprocess.run(["cp", "--archive", "--link", f"{python_root}/", image], check=True)
        for shell_name in ("sh", "dash", "bash", "rbash"):
            Path(image, "usr/bin", shell_name).unlink(missing_ok=True)
    (site.work / "mine.py").write_text(MINE)
    environment = in_image(container_runtime, image)
    site.write({"name": "add", **PYTHON, "environment": environment})
    said = site.run()
    assert said.code == 0, said
    assert site.result("add").value == 5
    assert site.left(container_runtime) == {}
    checked = site.run("check")
    assert checked.code == 0, checked


def test_one_without_bash_runs_programs_and_no_lines(
    site: Site, container_runtime: str, busybox_image: str
) -> None:
    environment = in_image(container_runtime, busybox_image)
    site.write(BEFORE, bash("line", "echo hi", environment=environment))
    refusal(site, "line", busybox_image, "bash")
    site.write(shell("line", "echo hi", environment=environment))
    said = site.run()
    assert said.code == 0, said
    assert site.result("line").stdout_tail == "hi\n"
    assert site.left(container_runtime) == {}


def test_one_without_python_calls_nothing(
    site: Site, container_runtime: str, busybox_image: str
) -> None:
    (site.work / "mine.py").write_text(MINE)
    environment = in_image(container_runtime, busybox_image)
    site.write(BEFORE, {"name": "add", **PYTHON, "environment": environment})
    refusal(site, "add", busybox_image, "python3")
    assert site.left(container_runtime) == {}


def test_one_for_another_processor_is_refused(
    site: Site, container_runtime: str, foreign_image: str
) -> None:
    environment = in_image(container_runtime, foreign_image)
    site.write(BEFORE, shell("foreign", "echo hi", environment=environment))
    refusal(site, "foreign", foreign_image, "arm64")
    assert site.left(container_runtime) == {}
