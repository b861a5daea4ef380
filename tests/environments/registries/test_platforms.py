import platform
import sys
from pathlib import Path

import pytest

from fasthep_flow.environments.registries.platforms import (
    machine_platform,
    same_platform,
    why_foreign,
)


@pytest.mark.parametrize(
    ("asked", "there", "serves"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/amd64", "linux/arm64", False),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/amd64/v2", "linux/amd64/v3", False),
        ("linux/amd64", "windows/amd64", False),
        ("linux/arm/v7", "linux/arm/v6", True),
        ("linux/arm/v6", "linux/arm/v7", False),
    ],
)
def test_a_platform_serves_another(asked: str, there: str, serves: bool) -> None:
    assert same_platform(asked, there) is serves


def test_a_machine_is_called_as_registries_call_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, told in (("x86_64", "amd64"), ("aarch64", "arm64"), ("riscv64", "riscv64")):
        monkeypatch.setattr(platform, "machine", lambda name=name: name)
        assert machine_platform() == f"linux/{told}"


@pytest.fixture
def _on_an_amd64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(sys, "platform", "linux")


@pytest.mark.usefixtures("_on_an_amd64")
@pytest.mark.parametrize("there", ["linux/amd64", "linux/amd64/v2", "linux/386"])
def test_a_machine_runs_its_own(there: str, tmp_path: Path) -> None:
    assert why_foreign(there, str(tmp_path)) is None


@pytest.mark.usefixtures("_on_an_amd64")
@pytest.mark.parametrize(
    ("text", "works"),
    [
        ("enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: OCF\noffset 0\n", True),
        ("enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: OC\noffset 0\n", False),
        ("disabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: F\noffset 0\n", False),
    ],
)
def test_an_emulator_must_work_within_containers(text: str, works: bool, tmp_path: Path) -> None:
    (tmp_path / "qemu-aarch64").write_text(text)
    why = why_foreign("linux/arm64/v8", str(tmp_path))
    assert (why is None) is works
    if why is not None:
        assert why == (
            "it runs linux/amd64, and its emulator for linux/arm64/v8 does not work within"
            " containers"
        )
    assert why_foreign("linux/s390x", str(tmp_path)) == (
        "it runs linux/amd64, and has no emulator for linux/s390x"
    )
    assert why_foreign("windows/amd64", str(tmp_path)) == "it runs linux/amd64, not windows/amd64"


@pytest.mark.usefixtures("_on_an_amd64")
def test_elsewhere_containers_run_on_a_linux_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert why_foreign("linux/s390x") is None
