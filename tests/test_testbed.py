"""The testbed itself: its engines, its images, and the rules that it holds tests to."""

import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def test_noshell_has_no_shell(engine: str, noshell_image: str) -> None:
    done = _run(engine, noshell_image, "echo", "there")
    assert (done.returncode, done.stdout) == (0, "there\n"), done.stderr
    assert _run(engine, noshell_image, "sh", "-c", "true").returncode == 127


def test_pythononly_has_python_and_no_shell(engine: str, pythononly_image: str) -> None:
    script = "import json, shutil; print([shutil.which(n) for n in ('sh', 'bash', 'dash')])"
    done = _run(engine, pythononly_image, "python3", "-c", script)
    assert (done.returncode, done.stdout) == (0, "[None, None, None]\n"), done.stderr
    assert _run(engine, pythononly_image, "sh", "-c", "true").returncode == 127


def _from_registry(image: str, kind: str, reference: str) -> Any:
    address, name = image.rsplit(":", 1)[0].split("/", 1)
    types = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"
    with contextlib.closing(http.client.HTTPConnection(address, timeout=30)) as registry:
        registry.request("GET", f"/v2/{name}/{kind}/{reference}", headers={"Accept": types})
        return json.loads(registry.getresponse().read())


def test_foreign_calls_itself_arm64(foreign_image: str) -> None:
    manifest = _from_registry(foreign_image, "manifests", "1")
    config = _from_registry(foreign_image, "blobs", manifest["config"]["digest"])
    assert (config["os"], config["architecture"]) == ("linux", "arm64")


def test_multi_lists_two_processors(multi_image: str) -> None:
    index = _from_registry(multi_image, "manifests", "1")
    platforms = [entry["platform"] for entry in index["manifests"]]
    assert [platform["architecture"] for platform in platforms] == ["amd64", "arm64"]


def _apptainer(
    cache: Path, image: str | Path, *argv: str, verb: str = "exec"
) -> subprocess.CompletedProcess[str]:
    options = ["--userns", "--containall"] if verb == "exec" else []
    return subprocess.run(
        ["apptainer", "--quiet", verb, *options, image, *argv],
        env={**os.environ, "APPTAINER_CACHEDIR": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.apptainer
@pytest.mark.parametrize(
    ("fixture", "scheme", "argv"),
    [
        ("sif_file", "", ("sh", "-c", "echo $((6 * 7))")),
        ("python_sif", "", ("python3", "-c", "import json; print(42)")),
        ("docker_archive", "docker-archive:", ("echo", "42")),
        ("oci_archive", "oci-archive:", ("echo", "42")),
        ("oci_folder", "oci:", ("echo", "42")),
        ("busybox_root", "", ("echo", "42")),
        ("python_root", "", ("python3", "-c", "import json; print(42)")),
        ("cvmfs_image", "", ("python3", "-c", "import json; print(42)")),
    ],
)
def test_apptainer_runs_every_form(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    fixture: str,
    scheme: str,
    argv: tuple[str, ...],
) -> None:
    done = _apptainer(tmp_path, f"{scheme}{request.getfixturevalue(fixture)}", *argv)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr


@pytest.mark.apptainer
def test_apptainer_pulls_from_both_registries(
    busybox_image: str, oras_image: str, private_image: str, tmp_path: Path
) -> None:
    for number, image in enumerate((f"docker://{busybox_image}", oras_image)):
        pulled = tmp_path / f"{number}.sif"
        done = _apptainer(tmp_path / "cache", pulled, image, verb="pull")
        assert done.returncode == 0, done.stderr
        assert _apptainer(tmp_path / "cache", pulled, "true").returncode == 0
    done = _apptainer(
        tmp_path / "cache", tmp_path / "3.sif", f"docker://{private_image}", verb="pull"
    )
    assert (done.returncode, "authentication required" in done.stderr) == (255, True)


def test_the_cvmfs_image_is_a_link_to_its_content(cvmfs_image: Path) -> None:
    target = cvmfs_image.readlink()
    assert re.fullmatch(r"\.\./\.\./\.flat/([0-9a-f]{2})/\1[0-9a-f]{62}", str(target))
    assert (cvmfs_image / "usr/bin/python3").exists()


@pytest.mark.charliecloud
def test_ch_convert_packs_what_ch_run_mounts(busybox_root: Path, tmp_path: Path) -> None:
    named = {**os.environ, "USER": "root"}
    packed = tmp_path / "busybox.sqfs"
    convert: list[str | Path] = ["ch-convert", "-i", "dir", "-o", "squash", busybox_root, packed]
    subprocess.run(convert, env=named, check=True, capture_output=True)
    run: list[str | Path] = ["ch-run", packed, "--", "echo", "there"]
    done = subprocess.run(run, env=named, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "there\n"), done.stderr


def test_every_runtime_runs_busybox(
    container_runtime: str, busybox_image: str, sif_file: Path, busybox_root: Path
) -> None:
    commands: dict[str, list[str | Path]] = {
        "podman": ["podman", "run", "--rm", "--network", "none", busybox_image],
        "docker": ["docker", "run", "--rm", "--network", "none", busybox_image],
        "apptainer": ["apptainer", "--quiet", "exec", "--userns", sif_file],
        "charliecloud": ["ch-run", busybox_root, "--"],
    }
    done = subprocess.run(
        [*commands[container_runtime], "sh", "-c", "echo $((6 * 7))"],
        env={**os.environ, "USER": "root"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr


RULES = """
import os, subprocess, pytest

def test_starts_an_engine_undeclared():
    subprocess.run(["podman", "--version"], check=False)

def test_starts_an_engine_undeclared_and_hides_it():
    with pytest.raises(AssertionError):
        os.posix_spawnp("docker", ["docker", "--version"], os.environ)

def test_starts_a_runtime_undeclared():
    subprocess.run(["ch-run", "--version"], check=False)

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
@pytest.mark.charliecloud
def test_a_test_may_touch_only_what_it_declares(tmp_path: Path) -> None:
    found = _outcomes(tmp_path, ci=True)
    assert found["FAILED"] == {
        "test_starts_an_engine_undeclared",
        "test_starts_a_runtime_undeclared",
    }
    assert found["ERROR"] == {
        "test_starts_an_engine_undeclared",
        "test_starts_a_runtime_undeclared",
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
