"""The plug-in of the how-to guide, as its reader makes it: installed, listed, run, tested."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from uv import find_uv_bin

from fasthep_flow.errors import ExitCode

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "plug-in.md"
SSH = """\
#!/bin/sh
# ssh -o BatchMode=yes HOST COMMAND, where every host is this machine.
while [ $# -gt 2 ]; do shift; done
SSH_HOST=$1
[ "$SSH_HOST" = localhost ] || export SSH_HOST
exec sh -c "exec $2"
"""


def files_of(page: Path) -> Iterator[tuple[str, str]]:
    """The files that the page has its reader write."""
    lines = iter(page.read_text(encoding="utf-8").splitlines())
    name = ""
    for line in lines:
        if line.startswith("<!-- file: "):
            name = line.removeprefix("<!-- file: ").removesuffix(" -->")
        elif line.startswith("```") and name:
            body = []
            for inner in lines:
                if inner == "```":
                    break
                body.append(inner)
            yield name, "\n".join([*body, ""])
            name = ""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the page, the package installed below it, and an ssh."""
    folder = tmp_path_factory.mktemp("plug-in")
    for name, text in files_of(PAGE):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    install(folder, folder / "fasthep-flow-ssh")
    (folder / "bin").mkdir()
    (folder / "bin" / "ssh").write_text(SSH)
    (folder / "bin" / "ssh").chmod(0o755)
    return folder


def install(folder: Path, package: Path) -> None:
    subprocess.run(
        [
            *(find_uv_bin(), "pip", "install", "--quiet", "--offline", "--no-deps"),
            *("--target", str(folder / "installed"), str(package)),
        ],
        env={**os.environ, "UV_CACHE_DIR": str(folder / "cache")},
        check=True,
    )


def run(
    folder: Path, *argv: str | Path, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        argv,
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder / "installed"),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


COMMAND = Path(sys.executable).with_name("fasthep-flow")


def test_it_is_as_short_as_the_page_says() -> None:
    (code,) = (text for name, text in files_of(PAGE) if name.endswith("__init__.py"))
    body = code.partition("\n\n\n")[2]
    assert len([line for line in body.splitlines() if line.strip()]) <= 40


def test_it_is_listed_with_its_package(written: Path) -> None:
    told = json.loads(run(written, COMMAND, "list", "orchestrations", "--format", "json").stdout)
    rows = {row["name"]: row for row in told["orchestrations"]}
    assert rows["ssh::desks"]["origin"] == "workflow.yaml:4"
    assert rows["ssh::desks"]["can_run"]
    assert rows["ssh::hosts"]["origin"] == "fasthep-flow-ssh 0.1.0"
    assert rows["ssh::hosts"]["why_not"] == "it needs the option hosts: a list of names"
    assert told["default"]["name"] == "ssh::desks"


def test_it_runs_a_workflow(written: Path) -> None:
    told = run(written, COMMAND, "run", "--format", "json")
    (task,) = json.loads(told.stdout)["tasks"]
    assert task["stdout_tail"] in {"desk1\n", "desk2\n"}


def test_lint_knows_its_options_and_its_names(written: Path) -> None:
    told = run(
        written,
        *(COMMAND, "lint", "--workflow", "{transform: ssh, kwargs: {hsots: [a]}}"),
        code=ExitCode.PLAN,
    ).stderr
    assert told.startswith("--workflow:1:27: kwargs.hsots: ssh::hosts knows no option 'hsots'")
    assert "did you mean 'hosts'?" in told
    told = run(written, COMMAND, "lint", "--flow", "ssh::hsots", code=ExitCode.PLAN).stderr
    assert told.startswith("--flow: 'ssh' has no runner 'hsots'")
    told = run(written, COMMAND, "lint", "--flow", "shs::hosts", code=ExitCode.PLAN).stderr
    assert told.startswith("--flow: there is no transform 'shs'\n  did you mean 'ssh::")
    # It has no hosts, or one word that is no list: that is known before it is opened.
    for flow in (("--flow", "ssh"), ("--workflow", "{transform: ssh, kwargs: {hosts: desk1}}")):
        told = run(written, COMMAND, "run", *flow, code=ExitCode.ORCHESTRATOR).stderr
        assert "ssh::hosts: it needs the option hosts" in told


def test_without_the_package_its_transform_is_unknown(written: Path) -> None:
    told = run(written, COMMAND, "lint", code=ExitCode.PLAN, PYTHONPATH="").stderr
    assert told.startswith("workflow.yaml:4:15: orchestrations['ssh::desks']: there is no transf")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (
            "raise ValueError('of all things')",
            "cannot be imported from broken_farm:FARM: ValueError: of all things",
        ),
        ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("OTHER = 1", "AttributeError: module 'broken_farm' has no attribute 'FARM'"),
        ("FARM = 1", "is no orchestrator: broken_farm:FARM is without 'runners'"),
        ("class FARM: ...", "is no orchestrator: broken_farm:FARM is a class, and not one of it"),
    ],
)
def test_one_that_is_broken_is_one_clear_error_for_who_names_it(
    written: Path, tmp_path: Path, source: str, told: str
) -> None:
    package = tmp_path / "broken-farm"
    (package / "broken_farm").mkdir(parents=True)
    (package / "broken_farm" / "__init__.py").write_text(f"{source}\n")
    project = (written / "fasthep-flow-ssh" / "pyproject.toml").read_text()
    project = project.replace("fasthep-flow-ssh", "broken-farm").replace("ssh = ", "farm = ")
    (package / "pyproject.toml").write_text(
        project.replace("fasthep_flow_ssh:SSH", "broken_farm:FARM")
    )
    install(tmp_path, package)
    path = os.pathsep.join([str(tmp_path / "installed"), str(written / "installed")])
    for flow in ("farm", "farm::some"):
        error = run(
            written, COMMAND, "lint", "--flow", flow, code=ExitCode.PLAN, PYTHONPATH=path
        ).stderr
        assert error.startswith("--flow: the orchestrator 'farm' of broken-farm 0.1.0 ")
        assert told in error
        assert "Traceback" not in error
    # Nobody else notices.
    run(written, COMMAND, "lint", "--flow", "ssh::desks", PYTHONPATH=path)
    listed = run(written, COMMAND, "list", "orchestrations", "--format", "json", PYTHONPATH=path)
    rows = {row["name"]: row for row in json.loads(listed.stdout)["orchestrations"]}
    assert told in rows["farm"]["why_not"]
    assert rows["ssh::desks"]["can_run"]


def test_a_runner_is_added_to_a_transform_of_ours(written: Path, tmp_path: Path) -> None:
    package = tmp_path / "more-local"
    (package / "more_local").mkdir(parents=True)
    (package / "more_local" / "__init__.py").write_text(
        "from fasthep_flow.orchestrators.local import LocalOrchestrator\n"
        "from fasthep_flow.orchestrators.local.runner import LocalRunner\n"
        "from fasthep_flow.orchestrators.admission import machine_capacity\n"
        "from contextlib import contextmanager\n\n"
        "class Pairs(LocalOrchestrator):\n"
        "    runners = ('pairs',)\n\n"
        "    def options(self, runner):\n"
        "        return frozenset({'shoes'})\n\n"
        "    @contextmanager\n"
        "    def open(self, flow, plan, directory):\n"
        "        runner = LocalRunner(machine_capacity(), 2)\n"
        "        try:\n"
        "            yield runner\n"
        "        finally:\n"
        "            runner.close()\n\n"
        "PAIRS = Pairs()\n"
    )
    project = (written / "fasthep-flow-ssh" / "pyproject.toml").read_text()
    project = project.replace("fasthep-flow-ssh", "more-local").replace(
        "ssh = ", '"local.pairs" = '
    )
    (package / "pyproject.toml").write_text(
        project.replace("fasthep_flow_ssh:SSH", "more_local:PAIRS")
    )
    install(tmp_path, package)
    path = str(tmp_path / "installed")
    (tmp_path / "workflow.yaml").write_text(
        "tasks:\n  - name: one\n    type: fasthep_flow.operators.BashOperator\n"
        "    kwargs: {bash_command: 'true'}\n    environment: {flow: local::sequential}\n"
    )
    run(tmp_path, COMMAND, "run", "--flow", "local::pairs", PYTHONPATH=path)
    long = "{transform: local, kwargs: {runner: pairs, %s: 2}}"
    run(tmp_path, COMMAND, "lint", "--workflow", long % "shoes", PYTHONPATH=path)
    told = run(
        tmp_path,
        *(COMMAND, "lint", "--workflow", long % "max_workers"),
        code=ExitCode.PLAN,
        PYTHONPATH=path,
    ).stderr
    assert "local::pairs knows no option 'max_workers'" in told
    listed = run(tmp_path, COMMAND, "list", "orchestrations", PYTHONPATH=path).stdout
    assert "    from more-local 0.1.0" in listed.splitlines()
    told = run(
        tmp_path,
        *(COMMAND, "lint", "--flow", "local::pairs"),
        code=ExitCode.PLAN,
        PYTHONPATH="",
    ).stderr
    assert told.startswith("--flow: 'local' has no runner 'pairs'")


def test_it_passes_the_suite(written: Path) -> None:
    suite = written / "fasthep-flow-ssh" / "test_ssh.py"
    done = run(written, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", suite)
    assert " passed" in done.stdout
    assert " failed" not in done.stdout
