"""What real engines cannot be made to do on request: a client that follows a script."""

import json
from pathlib import Path

import pytest

from fasthep_flow.environments import ContainerSpec, Outcome, ResolvedImage
from fasthep_flow.environments.engine import Engine
from fasthep_flow.environments.oci import OciRuntime
from fasthep_flow.model import Command, Resources

CLIENT = """#!/bin/sh
here='{folder}'
echo "$@" >> "$here/asked"
case $1 in
  info) cat "$here/info" ;;
  run) . "$here/run" ;;
  inspect) cat "$here/state" ;;
esac
"""
INFO = {"ServerVersion": "20.10.24", "MemoryLimit": True, "CpuCfsQuota": True}
IMAGE = ResolvedImage(name="r.ch/a:1", reference="sha256:00", digest="sha256:00")


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
        (folder / "info").write_text(json.dumps(INFO))
        (folder / "attempt").mkdir()

    def outcome(self, run: str, *, state: str = "", memory: int | None = 2**26) -> Outcome:
        (self.folder / "run").write_text(run)
        (self.folder / "state").write_text(state)
        runtime = OciRuntime(Engine(program=str(self.client), not_there="start it"))
        spec = ContainerSpec(name="n", image=IMAGE, resources=Resources(memory=memory))
        with runtime.open(spec) as container:
            process = container.start(
                Command(argv=("prog",)),
                environment={},
                working_directory=str(self.folder),
                directory=str(self.folder / "attempt"),
            )
            return process.wait()

    @property
    def asked(self) -> list[str]:
        return (self.folder / "asked").read_text().splitlines()


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


def message(outcome: Outcome) -> str:
    assert outcome.failure is not None
    assert outcome.failure.kind == "environment"
    return outcome.failure.message


def test_memory_that_ran_out_for_the_first_process_is_told_by_docker(script: Script) -> None:
    assert script.outcome("exit 137", state="137 true").out_of_memory
    assert script.asked[-1] == "rm --force n"


def test_memory_that_ran_out_for_the_first_process_is_told_by_podmans_monitor(
    script: Script,
) -> None:
    assert script.outcome("touch oom; exit 137", state="137 false").out_of_memory
    assert not (script.folder / "attempt" / "engine").exists()


@pytest.mark.parametrize(("memory", "hint"), [(2**26, "was given 64Mi"), (None, None)])
def test_otherwise_it_was_killed_from_outside(
    script: Script, memory: int | None, hint: str | None
) -> None:
    outcome = script.outcome("exit 137", state="137 false", memory=memory)
    assert message(outcome) == "the container was killed from outside"
    assert outcome.failure is not None
    assert (outcome.failure.hint is None) == (hint is None)
    assert (hint or "") in (outcome.failure.hint or "")


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("echo 'docker: Error response: disk trouble' >&2; exit 125", "disk trouble"),
        ("echo 'write: no space left on device' >&2; exit 125", "disk full"),
        ("echo 'Error: crun: exec format error' >&2; exit 126", "another kind of machine"),
        ("exit 125", "its client ended with code 125 and said nothing"),
        ("exit 0", "its client ended with code 0 and said nothing"),
        ("kill -9 $$", "its client ended with signal 9 and said nothing"),
    ],
)
def test_what_the_engine_said_is_told(script: Script, run: str, words: str) -> None:
    assert words in message(script.outcome(run))
    assert (script.folder / "attempt" / "engine" / "client.log").exists()


def test_a_status_that_was_cut_counts_for_nothing(script: Script) -> None:
    run = f"echo 'exit 0' > '{script.folder}/attempt/container.status'"
    assert "said nothing" in message(script.outcome(run))


def test_a_whole_status_counts_whatever_the_client_says(script: Script) -> None:
    status = f"'{script.folder}/attempt/container.status'"
    run = f"echo 'level=warning x' >&2; printf 'exit 3\\nend 1\\n' > {status}; exit 125"
    outcome = script.outcome(run)
    assert (outcome.exit_code, outcome.failure) == (3, None)
    assert not (script.folder / "attempt" / "engine").exists()


def test_an_engine_that_is_gone_is_asked_about(script: Script) -> None:
    run = f"echo '{{}}' > '{script.folder}/info'; echo 'error during connect' >&2; exit 125"
    assert "the engine is gone" in message(script.outcome(run))


def test_one_that_cannot_be_started_is_told(script: Script) -> None:
    runtime = OciRuntime(Engine(program=str(script.client), not_there="start it"))
    runtime.facts()
    script.client.unlink()
    with runtime.open(ContainerSpec(name="n", image=IMAGE)) as container:
        process = container.start(
            Command(argv=("prog",)),
            environment={},
            working_directory=str(script.folder),
            directory=str(script.folder / "attempt"),
        )
        process.terminate()
        process.kill()
        assert "cannot start" in message(process.wait())
