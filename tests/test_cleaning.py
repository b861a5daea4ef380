"""What killed drivers left behind, really: it goes, and all else stays."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.waiting import wait_until

from fasthep_flow.environments.host.owner import owner_labels
from fasthep_flow.environments.host.spawn import end_processes, processes_of
from fasthep_flow.errors import ExitCode
from fasthep_flow.records.holder import own_holder, write_holder

COMMAND = Path(sys.executable).with_name("fasthep-flow")
WAITS = """\
tasks:
  - name: wait
    type: fasthep_flow.operators.BashOperator
    kwargs: {bash_command: '%s'}
"""

Ask = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With a folder of its own for temporary things."""
    (tmp_path / "tmp").mkdir()
    return {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "FASTHEP_FLOW_KEY": str(tmp_path / "k")}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where workflows are; nothing of a test that fails goes on there."""
    (tmp_path / "work").mkdir()
    yield tmp_path / "work"
    end_processes(str(tmp_path / "work"))


@pytest.fixture
def ask(folder: Path, environment: dict[str, str]) -> Ask:
    """The command, in that folder."""

    def ask(*words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return ask


@contextlib.contextmanager
def driven(
    folder: Path, environment: dict[str, str], name: str, line: str, more: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """A driver whose one task runs; it is stopped in the end, if it still lives."""
    (folder / f"{name}.yaml").write_text(WAITS % f"touch {name}.up; {line}" + more)
    with subprocess.Popen(
        [COMMAND, "run", f"{name}.yaml"], cwd=folder, env=environment, stdout=subprocess.DEVNULL
    ) as driver:
        try:
            wait_until((folder / f"{name}.up").exists)
            yield driver
        finally:
            driver.terminate()


def killed(folder: Path, environment: dict[str, str], line: str, more: str = "") -> Path:
    """The folder of a run whose driver was killed while its task ran."""
    with driven(folder, environment, "killed", line, more) as driver:
        driver.kill()
    return next(path for path in runs(folder) if "/killed.yaml" in (path / "run.json").read_text())


def runs(folder: Path) -> list[Path]:
    return sorted((folder / "output").glob("2*"))


def all_files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def test_where_nothing_ever_ran_there_is_nothing(ask: Ask) -> None:
    done = ask("clean")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].endswith(("nothing was left behind", "all gone"))


def test_a_folder_that_is_not_there_is_an_error(ask: Ask) -> None:
    done = ask("clean", "elsewhere")
    assert done.returncode == ExitCode.RECORD
    assert "there is no folder elsewhere" in done.stderr


def test_processes_of_a_killed_driver_end_and_those_of_a_live_one_do_not(
    folder: Path, environment: dict[str, str], ask: Ask
) -> None:
    with driven(folder, environment, "live", "sleep 600") as live:
        # One ignores what asks it to end, and one has left its parent and its session.
        run = killed(folder, environment, 'trap "" TERM; setsid sleep 601 & sleep 602; sleep 603')
        wait_until(lambda: len(processes_of(str(run))) >= 3)
        before = all_files(run)
        left = processes_of(str(run))
        done = ask("clean", "--dry-run")
        assert done.returncode == 0
        for process in left:
            assert (
                f"process {process.pid} ({process.name()}) of task 'wait', attempt 1, of the run"
                f" {run.name}: would be ended" in done.stdout
            )
        assert "nothing was touched" in done.stdout
        assert len(processes_of(str(run))) == len(left)
        assert f"is driven by process {live.pid}" in done.stderr

        done = ask("clean")
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{len(left)} processes" in done.stdout
        assert processes_of(str(run)) == []
        assert live.poll() is None
        (live_run,) = (path for path in runs(folder) if path != run)
        assert processes_of(str(live_run))
        assert all_files(run) == before, "records and logs stay"
        assert "process" not in ask("clean").stdout


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param("podman", marks=pytest.mark.podman),
        pytest.param("docker", marks=pytest.mark.docker),
    ],
)
def test_containers_of_a_killed_driver_end_and_those_of_a_live_one_do_not(
    folder: Path, environment: dict[str, str], ask: Ask, engine: str, busybox_image: str
) -> None:
    more = f"    environment: {{image: {{name: {busybox_image}, runtime: {engine}}}}}\n"

    def containers(run: Path) -> list[str]:
        label = f"--filter=label=fasthep.run={run.name}"
        done = subprocess.run(
            [engine, "ps", "--quiet", label], capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    arguments = "    kwargs: {bash_command: sh, arguments: [-c, 'touch %s.up; sleep 600']}\n"
    for name in ("live", "killed"):
        text = WAITS.rpartition("    kwargs")[0] + arguments % name + more
        (folder / f"{name}.yaml").write_text(text)
    with (
        subprocess.Popen([COMMAND, "run", "live.yaml"], cwd=folder, env=environment) as live,
        subprocess.Popen([COMMAND, "run", "killed.yaml"], cwd=folder, env=environment) as dead,
    ):
        try:
            for name in ("live", "killed"):
                wait_until((folder / f"{name}.up").exists)
        finally:
            dead.kill()
            dead.wait()
        of = {("live" if "/live.yaml" in (run / "run.json").read_text() else "killed"): run
              for run in runs(folder)}  # fmt: skip
        [identity] = containers(of["killed"])
        done = ask("clean", "--dry-run")
        # Another test's run may be cleaning, too.
        if containers(of["killed"]):
            assert f"container {identity[:12]} of {engine}" in done.stdout
            assert f"the run {of['killed'].name}: would be ended" in done.stdout
        ask("clean")
        wait_until(lambda: containers(of["killed"]) == [])
        lives = len(containers(of["live"]))
        live.terminate()
        assert lives == 1


def test_who_visits_a_task_of_a_dead_run_is_left_alone(
    folder: Path, environment: dict[str, str], ask: Ask
) -> None:
    (folder / "workflow.yaml").write_text(WAITS % "exit 3")
    assert ask("run").returncode == ExitCode.TASK_FAILED
    with subprocess.Popen(
        [COMMAND, "exec", "wait", "sh", "-c", "touch up; exec sleep 600"],
        cwd=folder,
        env=environment,
    ) as visit:
        wait_until((folder / "up").exists)
        done = ask("clean")
        assert done.returncode == 0
        assert "process" not in done.stdout
        assert f"belongs to process {visit.pid} (fasthep-flow), which lives" in done.stderr
        assert visit.poll() is None
        visit.terminate()


def test_whoever_is_asked_within_a_task_of_a_dead_run_does_not_end_itself(
    folder: Path, environment: dict[str, str]
) -> None:
    run = killed(folder, environment, "sleep 600")
    cookie = {**environment, "FASTHEP_TASK_DIRECTORY": str(run / "tasks" / "wait" / "1")}
    done = subprocess.run(
        ["sh", "-c", f"{COMMAND} clean; echo goes on"],
        cwd=folder,
        env=cookie,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "goes on" in done.stdout
    assert processes_of(str(run)) == []


def gone_labels() -> str:
    """Of a process of this user's that has ended."""
    return json.dumps({**owner_labels(), "fasthep.started": "1"})


def test_folders_of_killed_processes_go_and_no_others(
    folder: Path, environment: dict[str, str], ask: Ask
) -> None:
    run = killed(folder, environment, "sleep 600")
    temporary = Path(environment["TMPDIR"])
    kept = folder / "kept"
    kept.mkdir()
    for name, labels in (
        (temporary / "fasthep-flow-dask-gone", gone_labels()),
        (temporary / "fasthep-flow-dask-mine", json.dumps(owner_labels())),
        (folder / "output" / ".visit-gone", gone_labels()),
        (folder / "output" / ".visit-mine", json.dumps(owner_labels())),
        (run / ".visit-gone", gone_labels()),
    ):
        name.mkdir()
        (name / "owner.json").write_text(labels)
        (name / "link").symlink_to(kept)
    (kept / "owner.json").write_text(gone_labels())
    (temporary / "fasthep-flow-dask-link").symlink_to(kept)
    (temporary / "fasthep-flow-dask-nobody").mkdir()
    done = ask("clean")
    assert done.returncode == 0
    assert sorted(path.name for path in temporary.glob("fasthep-flow-dask-*")) == [
        "fasthep-flow-dask-link", "fasthep-flow-dask-mine", "fasthep-flow-dask-nobody",
    ]  # fmt: skip
    visits = [path.name for path in folder.rglob(".visit-*")]
    assert visits == [".visit-mine"]
    assert (kept / "owner.json").exists(), "no link is followed"


def test_claims_that_were_never_taken_go(
    folder: Path, environment: dict[str, str], ask: Ask
) -> None:
    run = killed(folder, environment, "sleep 600")
    claims = next((folder / "output" / ".claims").iterdir())
    from msgspec.structs import replace

    gone = replace(own_holder(), started="1")
    for above in (run / "drivers", claims):
        write_holder(above / f".{gone.token}", gone)
        write_holder(above / f".{own_holder().token}", own_holder())
        (above / f".{'0' * 16}").write_text("damaged")
    link = folder / "output" / f".latest-{run.name}"
    link.symlink_to(run.name)
    before = {path for path in folder.rglob("*") if gone.token not in path.name} - {link}
    done = ask("clean")
    assert done.returncode == 0
    assert set(folder.rglob("*")) == before


def test_batch_jobs_of_a_killed_driver_are_cancelled(
    folder: Path, environment: dict[str, str], tmp_path: Path, ask: Ask
) -> None:
    run = killed(folder, environment, "true; sleep 600")
    workers = run / "workers" / "1-dask-slurm"
    workers.mkdir(parents=True)
    notes = workers / "jobs.jsonl"
    notes.write_text('{"queue":"Slurm","job":"17"}\n{"queue":"Slurm","job":"18"}\n{"que')
    # Of another run, by a link that a task may have made.
    other = tmp_path / "other"
    other.mkdir()
    (other / "jobs.jsonl").write_text('{"queue":"Slurm","job":"99"}\n')
    (run / "workers" / "2-dask-slurm").symlink_to(other)
    programs = tmp_path / "programs"
    programs.mkdir()
    jobs = tmp_path / "jobs"
    jobs.write_text("17|RUNNING|None\n99|RUNNING|None\n")
    for name, line in (("squeue", f"cat {jobs}"), ("scancel", f'sed -i "/^$1/d" {jobs}')):
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    environment["PATH"] = f"{programs}:{environment['PATH']}"
    done = ask("clean", "--dry-run")
    assert f"batch job 17 of Slurm of the run {run.name}: would be cancelled" in done.stdout
    assert "18" not in [word for line in done.stdout.splitlines() for word in line.split()]
    assert jobs.read_text().startswith("17")
    done = ask("clean")
    assert f"batch job 17 of Slurm of the run {run.name}: cancelled" in done.stdout
    assert jobs.read_text() == "99|RUNNING|None\n"
    assert not notes.exists()
    (programs / "squeue").write_text("#!/bin/sh\necho away >&2; exit 1\n")
    notes.write_text('{"queue":"Slurm","job":"17"}\n')
    done = ask("clean")
    assert f"the batch jobs of the run {run.name} are not known: squeue: away" in done.stderr
    assert notes.exists()


def test_runs_of_other_machines_are_left_alone(
    folder: Path, environment: dict[str, str], ask: Ask
) -> None:
    from msgspec.structs import replace

    run = killed(folder, environment, "sleep 600")
    elsewhere = replace(own_holder(), host="elsewhere", machine="m", boot="b", space="s")
    write_holder(run / "drivers" / "2.json", elsewhere)
    left = processes_of(str(run))
    done = ask("clean")
    assert f"the run {run.name} is driven by process {os.getpid()} on elsewhere" in done.stderr
    assert processes_of(str(run)) == left
    for process in left:
        process.kill()


@pytest.mark.skipif(os.getuid() != 0, reason="it takes root's rights to be another user")
def test_processes_of_another_user_are_left_alone(
    folder: Path, environment: dict[str, str], ask: Ask
) -> None:
    run = killed(folder, environment, "true; sleep 600")
    ask("clean")
    with subprocess.Popen(
        ["sleep", "600"],
        user=65534,
        env={**environment, "FASTHEP_TASK_DIRECTORY": str(run / "tasks" / "wait" / "1")},
    ) as other:
        wait_until(lambda: psutil.Process(other.pid).uids().real == 65534)
        assert "process" not in ask("clean").stdout
        assert other.poll() is None
        other.kill()


def test_a_run_is_named_instead_of_the_folder_of_all(
    folder: Path, environment: dict[str, str], ask: Ask
) -> None:
    run = killed(folder, environment, "sleep 600")
    done = ask("clean", run, "--format", "json")
    told = json.loads(done.stdout)
    assert {one["of"] for one in told["found"] if one["what"] == "process"} == {
        f"task 'wait', attempt 1, of the run {run.name}"
    }
    assert not any(one["is_left"] for one in told["found"])
    assert processes_of(str(run)) == []


def test_what_was_cleaned_goes_on_afterwards(
    folder: Path, environment: dict[str, str], ask: Ask
) -> None:
    run = killed(folder, environment, "test -e again || sleep 600")
    ask("clean")
    (folder / "again").touch()
    done = ask("run", "killed.yaml")
    assert done.returncode == 0, done.stderr
    assert f"going on with the run {run.name}" in done.stdout
    assert "still ran" not in done.stdout + done.stderr
