"""The testbed itself: its engines, its images, and the rules that it holds tests to."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def _run(engine: str, image: str, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [engine, "run", "--rm", "--network", "none", image, *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_busybox_has_a_shell_and_nothing_else(engine: str, busybox_image: str) -> None:
    script = "echo $((6 * 7)); command -v bash; command -v python3; true"
    done = _run(engine, busybox_image, "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr


def test_python_has_bash_and_json(engine: str, python_image: str) -> None:
    script = "python3 -c 'import json, sys; print(sys.version_info[:2])'"
    done = _run(engine, python_image, "bash", "-c", script)
    assert (done.returncode, done.stdout) == (0, "(3, 11)\n"), done.stderr


def test_an_image_is_pulled_from_the_registry(engine: str, unpulled_image: str) -> None:
    offline = [engine, "run", "--rm", "--pull", "never", unpulled_image, "true"]
    assert subprocess.run(offline, capture_output=True, check=False).returncode == 125
    assert _run(engine, unpulled_image, "true").returncode == 0


@pytest.mark.parametrize(("word", "accepted"), [("test", True), ("wrong", False)])
def test_the_private_registry_wants_its_login(
    engine: str, private_image: str, word: str, accepted: bool, tmp_path: Path
) -> None:
    registry = private_image.split("/", 1)[0]
    login = [engine, "login", "--username", "test", "--password-stdin", registry]
    own_folder = {
        **os.environ,
        "DOCKER_CONFIG": str(tmp_path),
        "REGISTRY_AUTH_FILE": str(tmp_path / "auth.json"),
    }
    done = subprocess.run(
        login, input=word, text=True, capture_output=True, env=own_folder, check=False
    )
    assert (done.returncode == 0) is accepted, done.stderr


RULES = """
import os, subprocess, pytest

def test_starts_an_engine_undeclared():
    subprocess.run(["podman", "--version"], check=False)

def test_starts_an_engine_undeclared_and_hides_it():
    with pytest.raises(AssertionError):
        os.posix_spawnp("docker", ["docker", "--version"], os.environ)

@pytest.mark.podman
def test_starts_an_engine_declared():
    subprocess.run(["podman", "--version"], check=True)

def test_starts_a_script_of_its_own(tmp_path, monkeypatch):
    script = tmp_path / "podman"
    script.write_text("#!/bin/sh\\nexit 3\\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert subprocess.run(["podman"], check=False).returncode == 3

def test_leaves_a_variable():
    os.environ["LEFT_BEHIND"] = "1"

def test_leaves_a_folder(tmp_path):
    os.chdir(tmp_path)

def test_finds_everything_as_it_was(monkeypatch):
    assert "LEFT_BEHIND" not in os.environ
    monkeypatch.setenv("GONE_AFTERWARDS", "1")
"""


def _outcomes(folder: Path, *, ci: bool, path: str = os.environ["PATH"]) -> dict[str, set[str]]:
    shutil.copy(HERE / "conftest.py", folder)
    (folder / "test_rules.py").write_text(RULES)
    argv = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", f"--rootdir={folder}"]
    environment = {**os.environ, "PATH": path, "CI": str(ci).lower(), "FASTHEP_TEST_ENGINES": ""}
    done = subprocess.run(
        [*argv, "-c", HERE.parent / "pyproject.toml", folder],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    found: dict[str, set[str]] = {
        "PASSED": set(),
        "FAILED": set(),
        "ERROR": set(),
        "SKIPPED": set(),
    }
    for line in done.stdout.splitlines():
        outcome, _, rest = line.partition(" ")
        if outcome in found and (outcome == "SKIPPED" or "::" in rest):
            found[outcome].add(rest.split("::")[-1].split(" - ")[0])
    return found


@pytest.mark.podman
@pytest.mark.docker
def test_a_test_may_touch_only_what_it_declares(tmp_path: Path) -> None:
    found = _outcomes(tmp_path, ci=True)
    assert found["FAILED"] == {"test_starts_an_engine_undeclared"}
    assert found["ERROR"] == {
        "test_starts_an_engine_undeclared",
        "test_starts_an_engine_undeclared_and_hides_it",
        "test_leaves_a_variable",
        "test_leaves_a_folder",
    }
    assert found["PASSED"] >= {
        "test_starts_an_engine_declared",
        "test_starts_a_script_of_its_own",
        "test_finds_everything_as_it_was",
    }


@pytest.mark.parametrize("ci", [False, True])
def test_a_missing_engine_is_a_skip_here_and_a_failure_in_ci(tmp_path: Path, *, ci: bool) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    found = _outcomes(tmp_path, ci=ci, path=str(empty))
    name = "test_starts_an_engine_declared"
    assert (name in found["ERROR"]) is ci
    assert bool(found["SKIPPED"]) is not ci
