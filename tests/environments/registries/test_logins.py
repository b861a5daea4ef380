import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from fasthep_flow.environments.registries import logins
from fasthep_flow.environments.registries.logins import Login, login_to

SECRET = "hunter2-XYZ"  # noqa: S105
REGISTRY = "r.example:5000"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME", "DOCKER_CONFIG", "APPTAINER_CONFIGDIR"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return folder


def write(path: Path, **known: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known))
    return path


def entry(user: str, secret: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{secret}".encode()).decode()}


def keeper(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that keeps logins, on the PATH."""
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return program


def user_of(login: Login | None) -> str | None:
    return None if login is None else login.user


def test_there_may_be_none() -> None:
    assert login_to(REGISTRY) is None


@pytest.mark.parametrize(
    ("place", "engines"),
    [
        ("run/containers/auth.json", {"podman"}),
        ("home/.config/containers/auth.json", {"podman"}),
        ("home/.docker/config.json", {"podman", "docker", "apptainer"}),
        ("home/.apptainer/docker-config.json", {"apptainer"}),
    ],
)
def test_each_engine_keeps_them_somewhere(place: str, engines: set[str], tmp_path: Path) -> None:
    path = write(tmp_path / place, auths={REGISTRY: entry("me")})
    for engine in ("podman", "docker", "apptainer", "charliecloud"):
        login = login_to(REGISTRY, engine=engine)
        assert (login is not None) is (engine in engines), engine
    login = login_to(REGISTRY)
    assert login is not None
    assert (login.user, login.secret, login.origin) == ("me", SECRET, str(path))


def test_podman_looks_nowhere_else_than_where_it_is_told(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home / ".docker" / "config.json", auths={REGISTRY: entry("docker's")})
    assert user_of(login_to(REGISTRY, engine="podman")) == "docker's"
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "mine.json"))
    assert login_to(REGISTRY, engine="podman") is None
    write(tmp_path / "mine.json", auths={REGISTRY: entry("mine")})
    assert user_of(login_to(REGISTRY, engine="podman")) == "mine"
    assert user_of(login_to(REGISTRY, engine="docker")) == "docker's"
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "elsewhere"))
    assert login_to(REGISTRY, engine="docker") is None


@pytest.mark.parametrize("engine", ["apptainer", "charliecloud"])
def test_variables_of_an_engine_come_first(
    engine: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home / ".apptainer" / "docker-config.json", auths={REGISTRY: entry("file")})
    prefix = {"apptainer": "APPTAINER_DOCKER", "charliecloud": "CH_IMAGE"}[engine]
    monkeypatch.setenv(f"{prefix}_USERNAME", "variable")
    monkeypatch.setenv(f"{prefix}_PASSWORD", SECRET)
    assert user_of(login_to(REGISTRY, engine=engine)) == "variable"
    assert login_to(REGISTRY, engine="docker") is None


@pytest.mark.parametrize(
    "key", ["docker.io", "https://index.docker.io/v1/", "index.docker.io", "https://docker.io/v2/"]
)
def test_docker_hub_has_many_names(home: Path, key: str) -> None:
    write(home / ".docker" / "config.json", auths={key: entry("me")})
    assert user_of(login_to("docker.io", "library/debian")) == "me"
    assert login_to("quay.io", "library/debian") is None


def test_a_part_of_a_registry_has_a_login_of_its_own(home: Path) -> None:
    write(
        home / ".docker" / "config.json",
        auths={REGISTRY: entry("all"), f"{REGISTRY}/group": entry("group")},
    )
    assert user_of(login_to(REGISTRY, "group/image")) == "group"
    assert user_of(login_to(REGISTRY, "grouped/image")) == "all"


def test_a_program_that_keeps_logins_is_asked(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = json.dumps({"Username": "kept", "Secret": SECRET})
    program = keeper(
        tmp_path,
        "safe",
        f"cat > {tmp_path}/in; echo $* > {tmp_path}/arguments; echo '{said}'",
        monkeypatch,
    )
    path = home / ".docker" / "config.json"
    # As docker leaves it: an entry without anything in it, and the name of the program.
    write(path, auths={REGISTRY: {}}, credsStore="safe")
    login = login_to(REGISTRY)
    assert login is not None
    assert (login.user, login.secret, login.origin) == ("kept", SECRET, program.name)
    assert (tmp_path / "in").read_text() == REGISTRY
    assert (tmp_path / "arguments").read_text() == "get\n"
    write(path, credHelpers={REGISTRY: "safe"})
    assert user_of(login_to(REGISTRY)) == "kept"
    assert login_to("quay.io") is None


@pytest.mark.parametrize(
    "script",
    ["exit 1", "echo nonsense", "echo '[]'", "echo '{\"Username\": 1}'", "sleep 60"],
)
def test_a_program_that_knows_nothing_is_no_obstacle(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(logins, "_HELPER_LIMIT_S", 0.2)
    keeper(tmp_path, "odd", script, monkeypatch)
    write(home / ".docker" / "config.json", credsStore="odd")
    assert login_to(REGISTRY) is None


@pytest.mark.parametrize("name", ["../../bin/sh", "no-such-program", ""])
def test_only_programs_of_that_kind_are_started(home: Path, name: str) -> None:
    write(home / ".docker" / "config.json", credsStore=name, credHelpers={REGISTRY: name})
    assert login_to(REGISTRY) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"auths": []}',
        '{"auths": {"r.example:5000": 1}}',
        '{"auths": {"r.example:5000": {"auth": 1}}}',
        '{"auths": {"r.example:5000": {"auth": "%"}}}',
        '{"auths": {"r.example:5000": {"auth": "eA=="}}}',
        '{"credsStore": 1, "credHelpers": 2}',
    ],
)
def test_a_file_that_is_none_has_no_login(home: Path, text: str) -> None:
    path = home / ".docker" / "config.json"
    path.parent.mkdir()
    path.write_text(text)
    assert login_to(REGISTRY) is None


def test_a_login_shows_where_it_is_from_alone() -> None:
    assert repr(Login("me", SECRET, "a file")) == "Login(origin='a file')"
