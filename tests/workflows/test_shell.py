"""Shells and commands in tasks' environments: from terminals, in pipes, after failures."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import REGISTRY, RUNTIMES
from tests.faults.conftest import COMMAND, Site, kept_image, shell, wait_until
from tests.workflows.own_registry import push
from tests.workflows.terminal import Terminal

from fasthep_flow.errors import ExitCode

SECRET = "hunter2-which-nobody-is-to-see"  # noqa: S105 - stands for one
# What is another one in each attempt, and where that is said once more.
OF_ATTEMPT = {
    "FASTHEP_RUN_ID",
    "FASTHEP_TASK_DIRECTORY",
    "HOME",
    "APPTAINER_BIND",
    "SINGULARITY_BIND",
}
PLACES = [
    "native",
    *(pytest.param(name, marks=getattr(pytest.mark, name)) for name in RUNTIMES),
]
FAILS = 'echo half >"$FASTHEP_TASK_DIRECTORY/half"; echo said; exit 7'


@pytest.fixture
def site(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A folder for a run; what was fetched is kept for all of them."""
    made = Site(tmp_path / "site", tmp_path_factory.getbasetemp() / "fetched for shells")
    yield made
    made.end()


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> str:
    """Native and the container runtimes in turn."""
    return str(request.param)


@pytest.fixture
def environment(place: str, python_sif: Path) -> dict[str, Any]:
    """Of a task in that place, where there is bash."""
    if place == "native":
        return {}
    return {"image": {"name": kept_image(place, "python", python_sif.parent), "runtime": place}}


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    """Closed in the end."""
    opened: list[Terminal] = []
    yield opened
    for one in opened:
        one.close()
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def opened(site: Site, terminals: list[Terminal], *words: str) -> Terminal:
    terminal = Terminal(COMMAND, *words, folder=site.work, environment=site.environment())
    site.drivers.append(terminal.process.pid)
    terminals.append(terminal)
    return terminal


def piped(site: Site, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The command without a terminal."""
    return subprocess.run(
        [COMMAND, *words],
        cwd=site.work,
        env=site.environment(),
        input=stdin,
        capture_output=True,
        check=False,
        start_new_session=True,
        timeout=120,
    )


def variables(text: bytes) -> dict[str, str]:
    pairs = [entry.decode().partition("=") for entry in text.split(b"\0") if entry]
    return {name: value for name, _, value in pairs if name not in OF_ATTEMPT}


def records(site: Site) -> dict[str, str]:
    """Every file of the output folder, by its digest."""
    output = site.work / "output"
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in output.rglob("*")
        if path.is_file()
    }


def holders(site: Site) -> list[str]:
    """The command lines and files that show the secret, but for the workflow's own."""
    below = [path for path in site.root.rglob("*") if path.name != "workflow.yaml"]
    found = []
    for path in [*Path("/proc").glob("[0-9]*/cmdline"), *below]:
        try:
            if not path.is_fifo() and not path.is_dir() and SECRET.encode() in path.read_bytes():
                found.append(str(path))
        except OSError:
            continue
    return found


def test_a_shell_is_at_home_on_a_terminal(
    site: Site, place: str, environment: dict[str, Any], terminals: list[Terminal]
) -> None:
    line = f"echo the task {SECRET}"
    named = {"API_TOKEN": SECRET, "LUMI": "4.9"}
    site.write(shell("look", line, environment={**environment, "variables": named}))
    terminal = opened(site, terminals, "shell", "look")
    greeting = terminal.expect(r"\(look[^)]*\) \$ ")
    assert "it runs  sh -c 'echo the task ***'" in greeting
    assert "exit, or Ctrl-D" in greeting
    assert SECRET not in greeting
    assert ("python" in greeting) == (place != "native")
    assert "/dev/" in terminal.say("tty", r"/dev/\S+")
    terminal.say("stty size", "33 101")
    terminal.say('echo "$TERM,$LUMI,$API_TOKEN"', f"xterm-256color,4.9,{SECRET}")
    terminal.say("pwd", str(site.work))
    # What is typed is not in the history of the user's own shell, or in the task's folder.
    terminal.say('ls -A "$FASTHEP_TASK_DIRECTORY" | wc -l', "\n0")
    assert holders(site) == []

    terminal.type(f"sh -c 'echo u''p; exec sleep {site.nap}'\n")
    terminal.expect("\nup")
    terminal.type("\x03")
    terminal.expect(r"\) \$ ")
    terminal.say("echo stopped: $?", "stopped: 130")
    terminal.type(f"sh -c 'echo u''p; exec sleep {site.nap}'\n")
    terminal.expect("\nup")
    terminal.type("\x1a")
    terminal.expect(r"Stopped(?s:.)*\) \$ ")
    terminal.say("kill -KILL %1; wait; echo do''ne", "done")

    terminal.resize(20, 70)
    wide = """while [ "$(stty size)" != "20 70" ]; do sleep 0.1; done; echo wi''der"""
    terminal.say(wide, "wider")
    # What still runs ends with it.
    terminal.say(f"sleep {site.nap} & echo beh''ind", "behind")
    terminal.type("\x04")
    assert terminal.end() == 0
    wait_until(lambda: not site.left(place), f"the end of {site.left(place)}")
    assert not (site.work / "output").exists()


def test_a_shell_that_reads_a_script_ends_with_its_exit_code(
    site: Site, environment: dict[str, Any]
) -> None:
    """As one that a person types into does not: there the last command alone would count."""
    site.write(shell("look", "true", environment=environment))
    for script, code in ((b"true\nexit 7\n", 7), (b"echo done\n", 0), (b"", 0)):
        assert piped(site, "shell", "look", stdin=script).returncode == code


def test_a_closed_window_ends_what_runs_in_it(
    site: Site, place: str, environment: dict[str, Any], terminals: list[Terminal]
) -> None:
    site.write(shell("look", "true", environment=environment))
    terminal = opened(site, terminals, "shell", "look")
    terminal.expect(r"\) \$ ")
    terminal.type(f"sh -c 'echo u''p; trap \"\" HUP; sleep {site.nap}; true'\n")
    terminal.expect("\nup")
    terminal.close()
    terminal.process.wait(60)
    wait_until(lambda: not site.left(place), f"the end of {site.left(place)}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_command_that_is_told_to_stop_leaves_nothing(
    site: Site, place: str, environment: dict[str, Any], number: signal.Signals
) -> None:
    site.write(shell("look", "true", environment=environment))
    line = f"trap '' TERM; (trap '' TERM; sleep {site.nap}) & : >up; sleep {site.nap}; true"
    driver = site.start("exec", "look", "--", "sh", "-c", line)
    wait_until(lambda: site.up("up"), "the start")
    driver.send_signal(number)
    _, told = driver.communicate(timeout=60)
    assert driver.returncode == 128 + number
    assert told == f"fasthep-flow: stopped by {number.name}\n"
    wait_until(lambda: not site.left(place), f"the end of {site.left(place)}")


def test_a_command_finds_what_the_task_finds(
    site: Site, place: str, environment: dict[str, Any]
) -> None:
    settings = {
        **environment,
        "variables": {"LUMI": 4.9, "TEXT": "a 'b'\n$c", "API_TOKEN": SECRET},
        "resources": {"cpus": 1, "memory": "512Mi"},
    }
    site.write(shell("look", "env -0 >seen; id -u >>who; pwd >>who", environment=settings))
    done = site.run()
    assert done.code == 0, done.both
    kept = records(site)
    entered = piped(site, "exec", "look", "--", "sh", "-c", "env -0")
    assert (entered.returncode, entered.stderr) == (0, b"")
    assert variables(entered.stdout) == variables((site.work / "seen").read_bytes())
    who = piped(site, "exec", "look", "sh", "-c", "id -u; pwd")
    assert who.stdout == (site.work / "who").read_bytes()
    assert records(site) == kept
    assert not site.left(place)


def test_a_command_has_streams_and_exit_code_of_its_own(
    site: Site, environment: dict[str, Any]
) -> None:
    site.write(shell("look", "true", environment=environment))
    data = bytes(range(256)) * 4096
    done = piped(site, "exec", "look", "sh", "-c", r"cat; printf 'e\377' >&2; exit 9", stdin=data)
    assert (done.returncode, done.stdout, done.stderr) == (9, data, b"e\xff")


def test_a_secret_is_on_no_command_line_and_in_no_file(
    site: Site, place: str, environment: dict[str, Any]
) -> None:
    named = {"API_TOKEN": SECRET}
    site.write(shell("look", "true", environment={**environment, "variables": named}))
    line = ': >up; while [ ! -e seen ]; do sleep 0.05; done; printf %s "$API_TOKEN" | wc -c'
    driver = site.start("exec", "look", "--", "sh", "-c", line)
    wait_until(lambda: site.up("up"), "the start")
    found = holders(site)
    if place in {"podman", "docker"}:
        names = subprocess.run(
            [place, "ps", "--quiet", "--filter", f"label=fasthep.pid={driver.pid}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        assert len(names) == 1
        told = subprocess.run([place, "inspect", *names], capture_output=True, check=True).stdout
        assert SECRET.encode() not in told
    (site.work / "seen").touch()
    out, _ = driver.communicate(timeout=60)
    assert out.strip() == str(len(SECRET))
    assert found == []


def test_a_task_that_failed_is_entered_in_its_folder(
    site: Site, place: str, environment: dict[str, Any], terminals: list[Terminal]
) -> None:
    site.write(shell("look", FAILS, environment=environment))
    assert site.run().code == ExitCode.TASK_FAILED
    kept = records(site)
    attempt = site.attempt("look").resolve()
    done = piped(site, "exec", "look", "sh", "-c", 'cat "$FASTHEP_TASK_DIRECTORY/half"; pwd')
    assert done.stdout.decode() == f"half\n{site.work}\n"
    assert done.stderr.decode() == (
        f"fasthep-flow: FASTHEP_TASK_DIRECTORY is {attempt},"
        " where attempt 1 failed with exit code 7\n"
    )
    terminal = opened(site, terminals, "shell", "look")
    assert f"there; the task works in {site.work}" in terminal.expect(r"\) \$ ")
    terminal.say("cat half; pwd", f"half\n{attempt}")
    terminal.type("exit 3\n")
    assert terminal.end() == 0
    fresh = piped(site, "exec", "--fresh", "look", "sh", "-c", 'ls -A "$FASTHEP_TASK_DIRECTORY"')
    assert (fresh.returncode, fresh.stdout, fresh.stderr) == (0, b"", b"")
    assert records(site) == kept
    assert not site.left(place)


def test_what_has_changed_since_a_task_failed_is_told(site: Site) -> None:
    site.write(shell("look", "exit 3", environment={"variables": {"A": "then", "B": 1}}))
    assert site.run().code == ExitCode.TASK_FAILED
    run = site.attempt("look").resolve().parents[2].name
    site.write(shell("look", "exit 4", environment={"variables": {"A": "now"}}))
    done = piped(site, "exec", "look", "sh", "-c", 'echo "$A$B"')
    assert done.stdout == b"now\n"
    assert (
        "the workflow has changed since (its command and which variables it has): this is what"
        f" it says now; '--run {run}' has it as it was"
    ) in done.stderr.decode()
    done = piped(site, "exec", "look", "--run", run, "--", "sh", "-c", 'echo "$A$B"')
    assert done.stdout == b"now\n"
    assert "no values any more for B" in done.stderr.decode()


@pytest.mark.registry
def test_a_run_has_the_very_image_that_the_task_failed_in(
    site: Site, container_runtime: str
) -> None:
    repository = f"testbed/own-{uuid.uuid4().hex[:12]}"
    first = push(REGISTRY, repository, "1", f"the first {uuid.uuid4()}")
    image = {"name": f"{REGISTRY}/{repository}:1", "runtime": container_runtime, "pull": "always"}
    site.write(shell("look", "cat /said >seen; exit 5", environment={"image": image}))
    assert site.run().code == ExitCode.TASK_FAILED
    second = push(REGISTRY, repository, "1", f"the second {uuid.uuid4()}")
    now = piped(site, "exec", "look", "cat", "/said")
    assert now.stdout.startswith(b"the second")
    told = now.stderr.decode()
    assert first in told
    assert second in told
    assert "this is the new one" in told
    then = piped(site, "exec", "--run", "latest", "look", "cat", "/said")
    assert then.stdout == (site.work / "seen").read_bytes()
    assert then.stdout.startswith(b"the first")
    assert "image was" not in then.stderr.decode()


def test_extra_data_is_there_and_what_a_failed_task_left_stays(
    site: Site, place: str, environment: dict[str, Any]
) -> None:
    events = site.root / "events.txt"
    events.write_text("events\n")
    item = {"source": str(events), "target": "in.txt"}
    line = 'cat "$FASTHEP_DATA/in.txt"; echo mine >"$FASTHEP_DATA/mine"; exit 4'
    site.write(shell("look", line, environment={**environment, "extra_data": [item]}))
    assert site.run().code == ExitCode.TASK_FAILED
    kept = records(site)
    assert any(name.endswith("data/mine") for name in kept)
    look = 'cat "$FASTHEP_DATA/in.txt" "$FASTHEP_TASK_DIRECTORY/data/mine"'
    done = piped(site, "exec", "look", "sh", "-c", look)
    assert done.stdout == b"events\nmine\n", done.stderr
    assert records(site) == kept
    assert not site.left(place)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["exec", "lok", "true"], ExitCode.PLAN, "did you mean 'look'?"),
        (["shell", "lok"], ExitCode.PLAN, "did you mean 'look'?"),
        (["exec", "look", "no-such-program"], ExitCode.ENVIRONMENT, "no-such-program"),
        (
            ["exec", "look", "--run", "nowhere", "true"],
            ExitCode.RECORD,
            "there is no run 'nowhere'",
        ),
        (["exec", "look", "--device", "gpu", "true"], ExitCode.ENVIRONMENT, "gpu"),
        (["exec", "look"], ExitCode.WORKFLOW, "CMD"),
        (["exec", "look", ""], ExitCode.WORKFLOW, "the program has no name"),
    ],
)
def test_what_cannot_be_entered_is_told(site: Site, words: list[str], code: int, told: str) -> None:
    site.write(shell("look", "true"))
    done = piped(site, *words)
    assert done.returncode == code, done.stderr
    assert told in done.stderr.decode()
    assert not (site.work / "output").exists()


@pytest.mark.podman
def test_an_image_that_is_not_there_is_told_as_in_a_run(site: Site) -> None:
    image = {"name": f"{REGISTRY}/testbed/nothing:1", "runtime": "podman"}
    site.write(shell("look", "true", environment={"image": image}))
    run, entered = site.run(), piped(site, "exec", "look", "true")
    assert run.code == entered.returncode == ExitCode.ENVIRONMENT
    assert run.err == entered.stderr.decode()


def test_options_behind_the_command_are_the_commands_own(site: Site) -> None:
    site.write(shell("look", "true"))
    for words in (
        ["look", "printf", "%s,", "--run", "-h", "--"],
        ["look", "--", "printf", "%s,", "--run", "-h", "--"],
        ["--fresh", "look", "--file", "workflow.yaml", "printf", "%s,", "--run", "-h", "--"],
    ):
        assert piped(site, "exec", *words).stdout == b"--run,-h,--,"


def test_no_name_does_anything_in_a_prompt(site: Site, terminals: list[Terminal]) -> None:
    name = "$(touch pwned) `touch pwned` \\w"
    site.write(shell(name, "true"))
    terminal = opened(site, terminals, "shell", name)
    terminal.expect(r"\(\?\(touch pwned\) \?touch pwned\? \?w\) \$ ")
    terminal.say("ls", "workflow.yaml")
    terminal.type("\x04")
    assert terminal.end() == 0
    assert not site.up("pwned")


def test_a_command_ends_when_nobody_reads_it_any_more(
    site: Site, place: str, environment: dict[str, Any]
) -> None:
    site.write(shell("look", "true", environment=environment))
    driver = site.start("exec", "look", "--", "sh", "-c", "while :; do echo y; done")
    assert driver.stdout is not None
    assert driver.stdout.read(2) == "y\n"
    driver.stdout.close()
    assert driver.wait(60) == 128 + signal.SIGPIPE
    assert driver.stderr is not None
    driver.stderr.close()
    wait_until(lambda: not site.left(place), f"the end of {site.left(place)}")


def test_a_killed_visit_is_cleared_away_by_the_next_one(site: Site) -> None:
    site.write(shell("look", "true"))
    driver = site.start("exec", "look", "--", "sh", "-c", f": >up; exec sleep {site.nap}")
    wait_until(lambda: site.up("up"), "the start")
    os.kill(driver.pid, signal.SIGKILL)
    site.end()
    driver.communicate()
    assert list((site.work / "output").glob(".visit-*"))
    assert piped(site, "exec", "look", "true").returncode == 0
    assert not list((site.work / "output").glob(".visit-*"))
