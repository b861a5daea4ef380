"""What is told where a program in a container of charliecloud's did not start."""

from pathlib import Path

import pytest
from tests.environments.charliecloud.made import run

from fasthep_flow.environments import Mount
from fasthep_flow.model import Call

pytestmark = [pytest.mark.charliecloud, pytest.mark.registry]


def test_a_program_that_is_not_there_leaves_the_log_alone(busybox_image: str, place: Path) -> None:
    tried = run(busybox_image, place, "no\nsuch: program")
    assert tried.failed == (
        "not_started",
        f"the image {busybox_image} has no program no\nsuch: program",
    )
    assert tried.stderr == ""
    kind, message = run(busybox_image, place, "bash", "-c", "true").failed
    assert (kind, message) == ("not_started", f"the image {busybox_image} has no program bash")


def test_a_callable_without_python3(busybox_image: str, place: Path) -> None:
    call = Call(target="mine:f", args=(), kwargs={})
    assert run(busybox_image, place, invocation=call).failed == (
        "not_started",
        f"the image {busybox_image} has no python3",
    )


def test_what_cannot_be_executed_is_told(busybox_image: str, place: Path) -> None:
    (place / "plain").write_text("#!/bin/sh\n")
    (place / "foreign").write_bytes(b"\x7fELF" + bytes(200))
    (place / "lost").write_text("#!/no/such/shell\n")
    for name in ("foreign", "lost"):
        (place / name).chmod(0o755)
    kind, message = run(busybox_image, place, "./plain").failed
    assert (kind, message) == (
        "not_started",
        f"./plain may not be executed in the image {busybox_image}",
    )
    kind, message = run(busybox_image, place, "./lost").failed
    assert (kind, "./lost" in message) == ("not_started", True)


@pytest.mark.parametrize("code", [1, 31, 49, 57, 125, 127])
def test_a_task_that_talks_like_ch_run_is_still_the_task(
    busybox_image: str, place: Path, code: int
) -> None:
    said = "ch-run[1]: error: can't execve(2): x: No such file or directory (ch_core.c:410 2)"
    tried = run(busybox_image, place, "sh", "-c", f'echo "{said}" >&2; exit {code}')
    assert (tried.outcome.exit_code, tried.outcome.failure) == (code, None)
    assert tried.stderr == f"{said}\n"


def test_a_working_directory_that_is_not_there(busybox_image: str, place: Path) -> None:
    kind, message = run(busybox_image, place, "true", working_directory="/no/such/folder").failed
    assert kind == "environment"
    assert "/no/such/folder" in message


def test_what_cannot_be_mounted_is_told(busybox_image: str, place: Path) -> None:
    missing = Mount(source=str(place / "missing"), target="/data")
    kind, message = run(busybox_image, place, "true", mounts=(missing,)).failed
    assert kind == "environment"
    assert str(place / "missing") in message
    onto_file = Mount(source=str(place), target="/etc/passwd")
    kind, message = run(busybox_image, place, "true", mounts=(onto_file,)).failed
    assert (kind, "the image has a file there" in message) == ("environment", True)
    below_file = Mount(source=str(place), target="/etc/passwd/below")
    kind, message = run(busybox_image, place, "true", mounts=(below_file,)).failed
    assert (kind, "/etc/passwd/below" in message) == ("environment", True)


def test_a_variable_that_is_too_long_is_told(busybox_image: str, place: Path) -> None:
    kind, message = run(busybox_image, place, "true", variables={"LONG": "x" * 200_000}).failed
    assert kind == "not_started"
    assert message.startswith("the arguments and variables of true are longer")
