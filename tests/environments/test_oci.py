"""What real engines cannot be made to do on request: a client that follows a script."""

import json
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fasthep_flow.environments import ContainerSpec, Outcome, Process, ResolvedImage
from fasthep_flow.environments.engine import Engine
from fasthep_flow.environments.oci import OciRuntime
from fasthep_flow.model import Call, Command, Resources

CLIENT = """#!/bin/sh
here='{folder}'
echo "$@" >> "$here/asked"
case $1 in
  info) cat "$here/info" ;;
  run) . "$here/run" ;;
  inspect) cat "$here/state" ;;
  events) cat "$here/events" ;;
  kill) [ ! -e "$here/killable" ] || kill -KILL "$(cat "$here/pid")" ;;
esac
"""
DOCKER = {"ServerVersion": "20.10.24", "MemoryLimit": True, "CpuCfsQuota": True}
PODMAN = {
    "host": {"cgroupVersion": "v2", "cgroupControllers": ["cpu", "memory"]},
    "version": {"Version": "5.2.1"},
}
IMAGE = ResolvedImage(name="r.ch/a:1", reference="sha256:00", digest="sha256:00")
# Something serves, and has been given the first order.
READY = """
echo 'ready 33'
while read -r line; do
  case $line in _fasthep_number=*) number=${line#*=} ;; '_fasthep_end $?') break ;; esac
done
"""
BEGUN = READY + "echo fasthep $number begun 1; echo fasthep $number started 1\n"
ENDED = BEGUN + "echo fasthep $number exit 3; echo fasthep $number end 1\n"


class Script:
    """An engine whose client runs these lines where a container should run.

    Args:
        folder: Of its files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.client = folder / "client"
        self.client.write_text(CLIENT.format(folder=folder))
        self.client.chmod(0o755)
        self.attempt = folder / "attempt"
        self.attempt.mkdir()
        for name in ("asked", "state", "events"):
            (folder / name).touch()
        self.says(DOCKER)
        self.runtime = OciRuntime(Engine(program=str(self.client), not_there="start it"))

    def says(self, info: dict[str, Any]) -> None:
        (self.folder / "info").write_text(json.dumps(info))

    def outcome(
        self,
        run: str,
        *,
        memory: int | None = 2**26,
        call: bool = False,
        meanwhile: Callable[[Process], None] = lambda _: None,
    ) -> Outcome:
        (self.folder / "run").write_text(f"echo $$ >'{self.folder}/pid'\n{run}")
        spec = ContainerSpec(name="n", image=IMAGE, resources=Resources(memory=memory))
        with self.runtime.open(spec) as container:
            process = container.start(
                Call(target="m:f") if call else Command(argv=("prog",)),
                environment={},
                working_directory=str(self.folder),
                directory=str(self.attempt),
            )
            meanwhile(process)
            return process.wait()

    @property
    def asked(self) -> list[str]:
        return (self.folder / "asked").read_text().splitlines()

    def wait_for(self, start: str, count: int = 1) -> None:
        """Until the client was asked so."""
        until_s = time.monotonic() + 60
        while sum(line.startswith(start) for line in self.asked) < count:
            assert time.monotonic() < until_s, f"nobody asked: {start}"
            time.sleep(0.01)

    def scratch(self) -> list[Path]:
        return list(Path(tempfile.gettempdir()).glob("fasthep-flow-*/containers/*"))


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return Script(tmp_path)


def message(outcome: Outcome) -> str:
    assert outcome.failure is not None
    assert outcome.failure.kind == "environment"
    return outcome.failure.message


def test_a_job_that_was_told_of_to_its_end(script: Script) -> None:
    outcome = script.outcome(f"echo 'level=warning x' >&2; {ENDED} cat >/dev/null; exit 125")
    assert (outcome.exit_code, outcome.failure, outcome.out_of_memory) == (3, None, False)
    assert sorted(path.name for path in script.attempt.iterdir()) == ["stderr.log", "stdout.log"]
    # A client that lived to its container's end saw to its removal, one that failed did not.
    assert script.asked[-1] == "rm --force n"
    assert script.scratch() == []
    script.outcome(f"{ENDED} cat >/dev/null; exit 0")
    assert script.asked[-1].startswith("run --interactive --rm --name n ")


@pytest.mark.parametrize("begun", ["", READY, BEGUN])
def test_memory_that_ran_out_for_the_first_process_is_told_by_docker(
    script: Script, begun: str
) -> None:
    (script.folder / "events").write_text("oom\n")
    assert script.outcome(f"{begun}exit 137").out_of_memory
    asked = script.asked[-1]
    assert asked.startswith("events --since ")
    for words in ("--filter container=n", "--filter event=oom"):
        assert words in asked


def test_memory_that_ran_out_for_the_first_process_is_told_by_podmans_monitor(
    script: Script,
) -> None:
    script.says(PODMAN)
    assert script.outcome(f"{BEGUN}touch oom; exit 137").out_of_memory
    assert not any(line.startswith("events") for line in script.asked)
    assert not script.outcome(f"{BEGUN}exit 137").out_of_memory
    assert not (script.attempt / "engine.log").exists()


@pytest.mark.parametrize("info", [DOCKER, PODMAN])
@pytest.mark.parametrize(("memory", "hint"), [(2**26, "was given 64Mi"), (None, None)])
def test_otherwise_it_was_killed_from_outside(
    script: Script, info: dict[str, Any], memory: int | None, hint: str | None
) -> None:
    script.says(info)
    outcome = script.outcome(f"{BEGUN}exit 137", memory=memory)
    assert message(outcome) == "the container was killed from outside"
    assert outcome.failure is not None
    assert (outcome.failure.hint is None) == (hint is None)
    assert (hint or "") in (outcome.failure.hint or "")


def test_one_that_was_removed_while_the_task_ran_is_told(script: Script) -> None:
    words = "the container n was stopped or removed from outside while the task ran"
    assert message(script.outcome(f"{BEGUN}exit 0")) == words


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("echo 'docker: Error response: disk trouble' >&2; exit 125", "disk trouble"),
        ("echo 'write: no space left on device' >&2; exit 125", "disk full"),
        ("echo 'Error: crun: exec format error' >&2; exit 126", "another kind of machine"),
        ("exit 125", "its client ended with code 125 and said nothing"),
        ("exit 0", "its client ended with code 0 and said nothing"),
        ("kill -9 $$", "its client ended with signal 9 and said nothing"),
        (f"{BEGUN}echo 'lost the daemon' >&2; exit 1", "lost the daemon"),
    ],
)
def test_what_the_engine_said_is_told(script: Script, run: str, words: str) -> None:
    outcome = script.outcome(run)
    assert words in message(outcome)
    assert outcome.failure is not None
    log = script.attempt / "engine.log"
    assert log.exists() == ("echo" in run)
    if "did not come to its end" in outcome.failure.message:
        assert ("engine.log" in (outcome.failure.hint or "")) == log.exists()
    if "signal" in words or "125" in run:
        assert script.asked[-1] == "rm --force n"


@pytest.mark.parametrize("code", [125, 126, 127])
def test_an_image_without_a_shell_is_told(script: Script, code: int) -> None:
    said = 'exec: "/bin/sh": stat /bin/sh: no such file or directory'
    outcome = script.outcome(f"echo '{said}' >&2; exit {code}")
    assert outcome.failure is not None
    assert outcome.failure.kind == "not_started"
    assert outcome.failure.message == "the image r.ch/a:1 has no /bin/sh"
    assert outcome.failure.hint == "a command needs a shell in the image, if only to be started"


def test_a_callable_needs_python_alone(script: Script) -> None:
    run = """
    case "$*" in
      *'--entrypoint /bin/sh '*) what=/bin/sh ;;
      *'--entrypoint python3 '*) what=python3 ;;
    esac
    echo "executable file '$what' not found in \\$PATH" >&2; exit 127
    """
    outcome = script.outcome(run, call=True)
    assert outcome.failure is not None
    assert outcome.failure.kind == "not_started"
    assert outcome.failure.message == "the image r.ch/a:1 has no python3"
    assert outcome.failure.hint == "a callable needs python3 in the image, and nothing else"
    # Of the second attempt alone.
    assert "/bin/sh" not in (script.attempt / "engine.log").read_text()


def test_a_report_that_was_cut_counts_for_nothing(script: Script) -> None:
    assert "removed from outside" in message(script.outcome(f"{BEGUN}echo fasthep $number exit 0"))
    assert "removed from outside" in message(script.outcome(f"{ENDED}".replace("end 1", "en")))


def test_an_engine_that_is_gone_is_asked_about(script: Script) -> None:
    run = f"echo '{{}}' > '{script.folder}/info'; echo 'error during connect' >&2; exit 125"
    assert "the engine is gone" in message(script.outcome(run))


def test_one_that_cannot_be_started_is_told(script: Script) -> None:
    script.runtime.facts()
    script.client.unlink()
    with script.runtime.open(ContainerSpec(name="n", image=IMAGE)) as container:
        process = container.start(
            Command(argv=("prog",)),
            environment={},
            working_directory=str(script.folder),
            directory=str(script.folder / "attempt"),
        )
        process.terminate()
        process.kill()
        assert "cannot start" in message(process.wait())
    assert script.scratch() == []


def test_is_stopped_by_its_name(script: Script) -> None:
    def stop(process: Process) -> None:
        script.wait_for("run ")
        process.terminate()
        script.wait_for("exec n /bin/sh -c kill -TERM -1")
        (script.folder / "killable").touch()
        process.kill()

    outcome = script.outcome(f"{BEGUN}exec sleep 600", meanwhile=stop)
    assert (outcome.signal, outcome.failure) == (signal.SIGKILL, None)
    assert "kill n" in script.asked
    assert script.asked[-1] == "rm --force n"


def test_a_client_whose_engine_does_not_kill_is_killed_itself(script: Script) -> None:
    def kill(process: Process) -> None:
        script.wait_for("run ")
        process.kill()
        script.wait_for("kill n")
        process.kill()

    outcome = script.outcome("exec sleep 600", meanwhile=kill)
    assert (outcome.signal, outcome.failure) == (signal.SIGKILL, None)
    assert script.asked[-1] == "rm --force n"


@pytest.mark.parametrize(
    "state", ["", "nonsense", "0 null", "0 {}", '0 {"Data": {"UpperDir": "/no/such"}}', "1 x"]
)
def test_what_nobody_can_look_at_is_not_kept(script: Script, state: str) -> None:
    (script.folder / "run").write_text(f"{ENDED.replace('ready 33', 'ready 32')} cat >/dev/null")
    (script.folder / "state").write_text(state)
    container = script.runtime.keep(ContainerSpec(name="n", image=IMAGE))
    process = container.start(
        Command(argv=("prog",)),
        environment={},
        working_directory=str(script.folder),
        directory=str(script.attempt),
    )
    assert process.wait().exit_code == 3
    assert not container.settle()
    assert any(line.startswith("inspect") for line in script.asked)
    container.close()
