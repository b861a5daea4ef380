"""`fasthep-flow check` as its users meet it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fasthep_flow.environments.preflight.verdicts import Check, Examined
from fasthep_flow.errors import ExitCode
from fasthep_flow.terminal import check_lines

COMMAND = Path(sys.executable).with_name("fasthep-flow")
BASH = "fasthep_flow.operators.BashOperator"
PYTHON = "fasthep_flow.operators.PythonOperator"


def check(
    folder: Path, text: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    (folder / "workflow.yaml").write_text(text)
    return subprocess.run(
        [COMMAND, "check", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def workflow(*tasks: tuple[str, str, str]) -> str:
    """Tasks of a name, a kind and an environment in flow style."""
    kwargs = {BASH: "{bash_command: 'touch ran'}", PYTHON: "{python_callable: 'mine:f'}"}
    lines = ["tasks:"]
    for name, kind, environment in tasks:
        lines += [
            f"  - name: {name}",
            f"    type: {kind}",
            f"    kwargs: {kwargs[kind]}",
            f"    environment: {environment}",
        ]
    return "\n".join(lines) + "\n"


def test_what_needs_nothing_is_well(tmp_path: Path) -> None:
    done = check(tmp_path, workflow(("a", BASH, "{}"), ("b", BASH, "{}")))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "this machine"
    assert lines[1] == f"  folder     ok       tasks work in {tmp_path}"
    assert "tasks 'a', 'b' without an image" in lines
    assert lines[-1] == "this machine and 1 environment: 3 ok"
    # Nothing is run, and nothing is written.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["workflow.yaml"]


def test_each_environment_has_its_rows(
    engine: str, python_image: str, busybox_image: str, private_image: str, tmp_path: Path
) -> None:
    # Another test may have logged in and fetched it.
    subprocess.run([engine, "rmi", "--force", private_image], capture_output=True, check=False)
    missing = busybox_image.replace("busybox", "nobody-made-this")

    def on(image: str) -> str:
        return f"{{image: {{name: '{image}', runtime: {engine}}}}}"

    text = workflow(
        ("Select", BASH, on(python_image)),
        ("Count", PYTHON, on(python_image)),
        ("Shell", BASH, on(busybox_image)),
        ("Call", PYTHON, on(busybox_image)),
        ("Missing", BASH, on(missing)),
        ("Private", BASH, on(private_image)),
        ("Good", BASH, "{variables: some.env, resources: {memory: 64Mi, walltime: 2h}}"),
    )
    (tmp_path / "some.env").write_text("A=secret-value\n")
    (tmp_path / "none.json").write_text("{}")
    logins = {"DOCKER_CONFIG": str(tmp_path), "REGISTRY_AUTH_FILE": str(tmp_path / "none.json")}
    done = check(tmp_path, text, "--format", "json", **logins)
    assert done.returncode == ExitCode.ENVIRONMENT
    answer = json.loads(done.stdout)
    assert answer["ok"] is False
    verdicts = {
        name: {one["what"]: one["verdict"] for one in environment["checks"]}
        for environment in answer["environments"]
        for name in environment["tasks"]
    }
    well = {"runtime": "ok", "image": "ok", "platform": "ok"}
    assert verdicts["Select"] == {**well, "shell": "ok"}
    assert verdicts["Count"] == {**well, "python": "ok"}
    assert verdicts["Shell"] == {**well, "shell": "refused"}
    assert verdicts["Call"] == {**well, "python": "refused"}
    assert verdicts["Missing"] == {"runtime": "ok", "image": "refused"}
    assert verdicts["Private"] == {"runtime": "ok", "image": "refused"}
    assert verdicts["Good"] == {"runtime": "ok", "limits": "ok", "variables": "ok"}
    errors = {
        environment["tasks"][0]: one["error"]
        for environment in answer["environments"]
        for one in environment["checks"]
        if one["verdict"] == "refused"
    }
    assert errors == {
        "Shell": "EnvironmentRefused",
        "Call": "EnvironmentRefused",
        "Missing": "ImageUnavailable",
        "Private": "ImageUnavailable",
    }
    assert "secret-value" not in done.stdout
    done = check(tmp_path, text, **logins)
    assert done.returncode == ExitCode.ENVIRONMENT
    assert f"-> {engine} login {private_image.partition('/')[0]}" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("4 refused")
    assert done.stdout.isascii()
    assert not (tmp_path / "ran").exists()
    # What would be refused by a run is what is refused here.
    run = subprocess.run(
        [COMMAND, "run"], cwd=tmp_path, env={**os.environ, **logins}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert run.returncode == ExitCode.ENVIRONMENT
    assert "4 requests cannot be honoured" in run.stderr
    assert not (tmp_path / "output").exists()


def test_an_image_that_is_not_here_is_not_fetched(
    engine: str, unpulled_image: str, tmp_path: Path
) -> None:
    text = workflow(("a", PYTHON, f"{{image: {{name: '{unpulled_image}', runtime: {engine}}}}}"))
    # Nobody has looked into it yet, not even under another name.
    done = check(tmp_path, text, FASTHEP_FLOW_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stdout
    assert "to be pulled, sha256:" in done.stdout
    assert "python     unknown  not known before the image is here" in done.stdout
    seen = subprocess.run(
        [engine, "image", "inspect", unpulled_image], capture_output=True, check=False
    )
    assert seen.returncode != 0


def test_tasks_may_be_chosen(tmp_path: Path) -> None:
    text = workflow(("good", BASH, "{}"), ("bad", BASH, "{resources: {memory: 1Ei}}"))
    assert check(tmp_path, text).returncode == ExitCode.ENVIRONMENT
    done = check(tmp_path, text, "--tasks", "good", "--output", "elsewhere")
    assert done.returncode == 0
    assert f"runs are recorded in {tmp_path / 'elsewhere'}" in done.stdout


def test_what_is_no_workflow_is_no_check(tmp_path: Path) -> None:
    done = check(tmp_path, "tasks: 1\n")
    assert (done.returncode, done.stdout) == (ExitCode.WORKFLOW, "")
    done = check(tmp_path, workflow(("a", BASH, "{variables: none.env}")))
    assert done.returncode == ExitCode.PLAN


ROWS = [
    Examined(
        tasks=tuple(f"task {number}" for number in range(7)),
        image="registry.example/a/rather/long/name/of/an/image/that/fits/no/screen:with-a-long-tag",
        runtime=None,
        checks=(
            Check(what="runtime", verdict="ok", detail="podman answers"),
            Check(
                what="image",
                verdict="refused",
                detail="it cannot be had\x1b[2J " + "for many reasons " * 9,
                hint="do something about it, " * 6,
            ),
            Check(what="shell", verdict="unknown", detail="not known"),
        ),
    )
]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_fits_the_screen(width: int) -> None:
    lines = [line for line, _ in check_lines(ROWS, width)]
    assert max(map(len, lines)) <= width
    assert "\x1b" not in "".join(lines)
    text = "\n".join(lines)
    assert "'task 4' and 2 more" in " ".join(text.split())
    rows = [line for line in lines if line.startswith("  ") and line.strip()]
    # What goes on in another line stands under what it belongs to.
    assert all(line[2] != " " or line.startswith(" " * 22) for line in rows)
    assert lines[-1] == "1 environment: 1 ok, 1 unknown, 1 refused"


def test_lines_are_whole_where_there_is_no_screen() -> None:
    lines = [line for line, _ in check_lines(ROWS, None)]
    assert len(lines) == 7
    colours = {
        line.split()[1]: colour for line, colour in check_lines(ROWS, None) if line[:2] == "  "
    }
    assert (colours["ok"], colours["refused"], colours["unknown"]) == ("", "red", "yellow")


def test_of_many_tasks_the_first_are_named(tmp_path: Path) -> None:
    text = workflow(*((f"t{number}", BASH, "{}") for number in range(200)))
    told = check(tmp_path, text).stdout
    assert "tasks 't0', 't1', 't2', 't3', 't4' and 195 more without an image\n" in told
    assert told.endswith("\nthis machine and 1 environment: 3 ok\n")
    machine, found = json.loads(check(tmp_path, text, "--format", "json").stdout)["environments"]
    assert (machine["tasks"], len(found["tasks"])) == ([], 200)


@pytest.mark.parametrize("command", ["lint", "plan", "check", "run", "env"])
def test_no_name_of_a_folder_steers_the_terminal(command: str, tmp_path: Path) -> None:
    folder = tmp_path / "a\x1b[31m\nb\tc"
    folder.mkdir()
    (folder / "workflow.yaml").write_text(workflow(("t", BASH, "{}")).replace("touch ran", "false"))
    arguments = [command, *(["t"] if command == "env" else []), str(folder / "workflow.yaml")]
    done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False)
    told = done.stdout + done.stderr
    assert r"a\x1b[31m\x0ab\x09c" in told
    assert "\x1b" not in told
    assert not [line for line in told.splitlines() if line.startswith("b")]
    (folder / "workflow.yaml").write_text("x: 1\n")
    done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.WORKFLOW
    assert r"a\x1b[31m" in done.stderr
    assert "\x1b" not in done.stderr
