"""Extra data that something befalls on its way: each one clear error before the first task."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.environments.data.server import FileServer, Mood, serving
from tests.faults.conftest import Site, said_by, shell, wait_until

from fasthep_flow.environments.data import fetch, remote
from fasthep_flow.environments.host import mounts
from fasthep_flow.errors import DataUnavailable
from fasthep_flow.execution.execute import execute_job
from fasthep_flow.model import Command, DataItem, Job, JobResult, from_json, to_json

EVENTS = bytes(range(256)) * 4096
PASSWORD = "hunter2-XYZ"  # noqa: S105 - stands for one


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving() as one:
        one.files["/events.bin"] = EVENTS
        yield one


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site with a cache of its own, for a task that reads the server's file."""
    made = Site(tmp_path / "site", tmp_path / "cache")
    yield made
    made.end()


def of(site: Site, *data: object) -> None:
    site.write(
        shell("first", ": >ran"),
        shell("look", 'cp "$FASTHEP_DATA"/* copy', environment={"extra_data": list(data)}),
    )


def parts(cache: Path) -> list[Path]:
    return [path for path in cache.rglob(".*") if path.is_file()]


def says(site: Site, *words: str) -> None:
    """The run is refused before its first task, with these words."""
    said = site.run()
    assert said.code == 4, said.both
    for word in words:
        assert word in said.err
    assert not site.up("ran")
    assert not parts(site.cache)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "it needs credentials (HTTP 401)"),
        (403, "it may not be read (HTTP 403)"),
        (404, "there is no such file (HTTP 404)"),
        (500, "the server cannot serve it now (HTTP 500)"),
    ],
)
def test_what_a_server_refuses_is_told_in_words(
    site: Site, server: FileServer, status: int, words: str
) -> None:
    server.statuses["/events.bin"] = status
    of(site, server.url("/events.bin"))
    says(site, f"task 'look': {server.url('/events.bin')}: {words}")
    # What may pass is tried again, and that not for ever.
    assert len(server.log) == (3 if status == 500 else 1)


def test_a_host_that_nobody_knows_is_told_from_one_that_does_not_answer(site: Site) -> None:
    of(site, "https://no.such.host.invalid/events.bin", "http://127.0.0.1:9/other.bin")
    says(site, "there is no host no.such.host.invalid", "127.0.0.1 cannot be reached")


def test_a_transfer_that_breaks_off_is_tried_again_and_never_trusted(
    site: Site, server: FileServer
) -> None:
    server.mood = "cut"
    of(site, server.url("/events.bin"))
    says(site, f"the transfer broke off after {len(EVENTS) // 2} of {len(EVENTS)} bytes")
    assert len(server.log) == 3
    server.mood = "well"
    assert site.run().code == 0
    assert (site.work / "copy").read_bytes() == EVENTS


def test_a_server_that_falls_silent_is_not_waited_for(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(tmp_path))
    monkeypatch.setattr(remote, "SILENCE_S", 0.3)
    monkeypatch.setattr(remote, "PAUSES_S", ())
    server.mood = "silent"
    with pytest.raises(DataUnavailable, match=r"nothing came for 0\.3 s"):
        fetch(DataItem(source=server.url("/events.bin")), progress=print)
    assert not parts(tmp_path)


def test_a_password_in_an_address_is_refused_and_shown_nowhere(
    site: Site, server: FileServer
) -> None:
    of(site, server.url("/events.bin").replace("://", f"://user:{PASSWORD}@"))
    said = site.run()
    assert said.code == 2, said.both
    assert f"'http://***@{server.host}/events.bin' holds a password" in said.err
    assert PASSWORD not in said.both
    assert not (site.work / "output").exists()


def test_a_password_in_netrc_works_and_is_shown_nowhere(
    site: Site, server: FileServer, tmp_path: Path
) -> None:
    server.password = "Basic dXNlcjpodW50ZXIyLVhZWg=="  # noqa: S105 - user:hunter2-XYZ
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login user password {PASSWORD}\n")
    netrc.chmod(0o600)
    site.variables["NETRC"] = str(netrc)
    of(site, server.url("/events.bin"), server.url("/nothing.bin"))
    says(site, f"http://{server.host}/nothing.bin: there is no such file")
    of(site, server.url("/events.bin"))
    said = site.run()
    assert said.code == 0, said.both
    assert (site.work / "copy").read_bytes() == EVENTS
    assert PASSWORD not in said.both
    assert site.result("look").data == {
        f"http://{server.host}/events.bin": f"sha256:{sha256(EVENTS)}"
    }
    for path in (*site.cache.rglob("*"), *(site.work / "output").rglob("*")):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes()


def test_two_runs_that_fetch_the_same_at_once_fetch_it_once(
    site: Site, server: FileServer, tmp_path: Path
) -> None:
    server.mood = "slow"
    other = Site(tmp_path / "other", site.cache)
    for one in (site, other):
        of(one, server.url("/events.bin"))
    drivers = [site.start(), other.start()]
    assert server.begun.wait(60)
    # Long enough for the second one to come to the lock is not known: either way it is one.
    server.release.set()
    for driver in drivers:
        said = said_by(driver)
        assert said.code == 0, said.both
    assert server.got("/events.bin") == 1
    for one in (site, other):
        assert (one.work / "copy").read_bytes() == EVENTS


def test_a_run_that_is_killed_while_it_fetches_leaves_nothing_that_is_trusted(
    site: Site, server: FileServer
) -> None:
    server.mood = "slow"
    of(site, server.url("/events.bin"))
    driver = site.start()
    assert server.begun.wait(60)
    wait_until(lambda: bool(parts(site.cache)), "the part")
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    assert parts(site.cache)
    server.mood = "well"
    said = site.run()
    assert said.code == 0, said.both
    assert (site.work / "copy").read_bytes() == EVENTS
    assert not [path for path in parts(site.cache) if path.suffix == ".part"]


def test_a_run_that_is_stopped_while_it_fetches_ends_at_once(
    site: Site, server: FileServer
) -> None:
    server.mood = "silent"
    of(site, server.url("/events.bin"))
    driver = site.start()
    assert server.begun.wait(60)
    os.kill(driver.pid, signal.SIGINT)
    said = said_by(driver)
    assert said.code == 130, said.both
    assert "Traceback" not in said.both
    assert not site.up("ran")
    assert not [path for path in parts(site.cache) if path.suffix == ".part"]


def test_damaged_content_in_the_cache_is_fetched_again(site: Site, server: FileServer) -> None:
    of(site, server.url("/events.bin"))
    assert site.run().code == 0
    kept = site.cache / "data" / "sha256" / sha256(EVENTS)
    assert kept.stat().st_mode & 0o777 == 0o444
    kept.chmod(0o644)
    kept.write_bytes(EVENTS[:-1])
    assert site.run().code == 0
    assert (site.work / "copy").read_bytes() == EVENTS
    assert server.got("/events.bin") == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system is mounted")
def test_a_full_disk_is_told_and_leaves_nothing_half(
    site: Site, server: FileServer, tmp_path: Path
) -> None:
    cache = tmp_path / "small"
    cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", cache], check=True)
    site.own_mounts.append(cache)
    site.cache = cache
    try:
        of(site, server.url("/events.bin"))
        says(site, f"there is no room for it in {cache}: disk full", "FASTHEP_FLOW_CACHE")
    finally:
        subprocess.run(["umount", cache], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system is mounted")
def test_a_copy_that_the_disk_has_no_room_for_is_told(site: Site, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(EVENTS)
    output = tmp_path / "small"
    output.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", output], check=True)
    site.own_mounts.append(output)
    try:
        item = {"source": str(tmp_path / "large"), "mode": "copy"}
        site.write(shell("look", "true", environment={"extra_data": [item]}))
        said = site.run("run", "--output", str(output))
        assert said.code == 1
        assert os.strerror(errno.ENOSPC) in said.both
    finally:
        subprocess.run(["umount", output], check=True)


def test_a_source_that_no_glob_fits_or_that_is_not_there_is_told(site: Site) -> None:
    of(site, "nothing*.root", "absent.root")
    says(site, f"nothing fits {site.work}/nothing*.root", f"there is no {site.work}/absent.root")


def test_what_leads_nowhere_or_is_no_file_is_told(site: Site) -> None:
    (site.work / "dangling").symlink_to("gone")
    os.mkfifo(site.work / "pipe")
    of(site, "dangling", "pipe")
    says(site, "dangling is a link to what does not exist", "pipe is neither a file nor a folder")


@pytest.mark.parametrize("mood", ["well", "cut"])
def test_threads_that_ask_for_the_same_get_the_same(
    server: FileServer, mood: Mood, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(tmp_path))
    monkeypatch.setattr(remote, "PAUSES_S", ())
    server.mood = mood
    item = DataItem(source=server.url("/events.bin"))
    answers: list[str | None] = []

    def ask() -> None:
        try:
            answers.append(fetch(item, progress=lambda _: None).digest)
        except DataUnavailable as error:
            answers.append(error.message)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.log) == 1
    assert len(set(answers)) == 1
    assert (answers[0] == f"sha256:{sha256(EVENTS)}") is (mood == "well")


def test_where_nothing_can_be_mounted_a_change_in_place_fails_the_job(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mounts, "why_no_mounts", lambda: "a test says so")
    source = tmp_path / "in.txt"
    source.write_bytes(b"in")
    line = (
        'cat "$FASTHEP_DATA/seen" && stat -c %a "$FASTHEP_DATA/seen" &&'
        ' echo x >>"$FASTHEP_DATA/seen"; echo more >>in.txt'
    )
    run = tmp_path / "output" / "run"
    job = Job(
        run_id="run",
        task="look",
        slug="look",
        attempt=1,
        invocations={"cpu": Command(argv=("sh", "-c", line))},
        directory=str(run / "tasks" / "look" / "1"),
        working_directory=str(tmp_path),
        run_directory=str(run),
        extra_data=(
            DataItem(source=str(source), target="seen"),
            DataItem(source=str(source)),
        ),
    )
    result = from_json(JobResult, execute_job(to_json(job), {}))
    assert result.failure is not None
    assert result.failure.kind == "environment"
    assert f"{source} was changed, from 2 to 7 bytes, while the task ran" in result.failure.message
    assert result.failure.hint is not None
    assert "mode: copy" in result.failure.hint
    log = run / "tasks" / "look" / "1" / "stdout.log"
    assert log.read_text().split() == ["in444"]
    assert not (run / "tasks" / "look" / "1" / "data").exists()


def test_nothing_is_left_that_warns_at_the_end(server: FileServer, tmp_path: Path) -> None:
    text = (
        "import sys\n"
        "from fasthep_flow.environments.data import fetch\n"
        "from fasthep_flow.model import DataItem\n"
        "print(fetch(DataItem(source=sys.argv[1]), progress=print).digest)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", text, server.url("/events.bin")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "FASTHEP_FLOW_CACHE": str(tmp_path)},
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == f"sha256:{sha256(EVENTS)}"
