"""Who may look at what a run leaves behind, whatever the mask of whoever started it."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.conftest import COMMAND, Site, shell

from fasthep_flow.records.run import RunFolder
from fasthep_flow.workflow import load_plan

VALUE = "hunter2-m0de"
MASKS = [0o000, 0o022, 0o077]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "site", tmp_path / "cache")
    yield made
    made.end()


def _run(site: Site, mask: int, *words: str, code: int = 0) -> Path:
    done = subprocess.run(
        [COMMAND, "run", *words],
        cwd=site.work,
        env=site.environment(GIVEN_TOKEN=VALUE),
        umask=mask,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    assert VALUE not in done.stdout + done.stderr
    return (site.work / "output" / "latest").resolve()


def _modes(folder: Path) -> dict[str, int]:
    """Of all that lies in a folder, and its own."""
    found = [folder, *folder.rglob("*")]
    return {
        str(path.relative_to(folder.parent)): stat.S_IMODE(path.lstat().st_mode)
        for path in found
        if not path.is_symlink()
    }


def _open(folder: Path) -> set[str]:
    """Names of what others may read and come to."""
    found = set()
    for above, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if Path(above, name).stat().st_mode & 0o005 == 0o005]
        names = [name for name in files if Path(above, name).stat().st_mode & 0o004]
        found |= {str(Path(above, name).relative_to(folder)) for name in (*folders, *names)}
    return found


_TOKEN = {"variables": {"GIVEN_TOKEN": None}}


@pytest.mark.parametrize("mask", MASKS)
def test_attempts_with_secrets_are_closed_and_all_else_is_as_the_mask_says(
    site: Site, mask: int
) -> None:
    site.write(
        shell("with", 'echo "$GIVEN_TOKEN"', environment=_TOKEN),
        shell("fails", 'echo "$GIVEN_TOKEN" >&2; exit 3', environment=_TOKEN),
        shell("without", "echo plain"),
    )
    run = _run(site, mask, code=1)
    open_ = _open(run)
    if mask == 0o077:
        assert open_ == set()
    else:
        assert {"run.json", "workflow.yaml", "plan.json", "events.jsonl", "tasks"} <= open_
        assert {f"tasks/{name}" for name in ("with", "fails", "without")} <= open_
        logs = {"job.json", "result.json", "stdout.log", "stderr.log"}
        assert {f"tasks/without/1/{name}" for name in logs} <= open_
        assert not {name for name in open_ if name.startswith(("tasks/with/1", "tasks/fails/1"))}
    modes = _modes(run)
    for name in ("with", "fails"):
        assert modes[f"{run.name}/tasks/{name}/1"] == 0o700
    # To the user himself nothing is closed, and a task's log has what it wrote.
    assert all(mode & 0o400 for mode in modes.values())
    assert VALUE in (run / "tasks" / "with" / "1" / "stdout.log").read_text()
    readable = [run / name for name in open_ if (run / name).is_file()]
    assert [path for path in readable if VALUE.encode() in path.read_bytes()] == []


@pytest.mark.parametrize(
    "environment",
    [
        {"variables": {"LUMI": "4.9-of-it"}, "secrets": ["LUMI"]},
        {"variables": {"BEARER_TOKEN": None}, "credentials": ["bearer"]},
    ],
    ids=["listed", "bearer"],
)
def test_a_listed_secret_and_a_token_close_it_too(
    site: Site, environment: dict[str, object]
) -> None:
    site.variables["BEARER_TOKEN"] = VALUE
    site.write(shell("task", "true", environment=environment))
    assert _modes(_run(site, 0o022) / "tasks" / "task")["task/1"] == 0o700


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
    ("name", "mode", "copied"),
    [("TOKEN", 0o644, 0o600), ("LUMI", 0o644, 0o644), ("LUMI", 0o640, 0o640), ("X", 0o400, 0o600)],
)
def test_the_copy_of_a_workflow_is_no_more_open_than_the_workflow_and_closed_with_a_secret(
    site: Site, mask: int, name: str, mode: int, copied: int
) -> None:
    site.write(shell("task", "true", environment={"variables": {name: "of-the-file\n  and more"}}))
    (site.work / "workflow.yaml").chmod(mode)
    run = _run(site, mask)
    assert _modes(run)[f"{run.name}/workflow.yaml"] == copied & ~mask


def test_the_copy_of_the_workflow_before_stays_as_closed_as_it_was(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = site.work / "workflow.yaml"
    site.write(shell("task", "true", environment={"variables": {"TOKEN": "of-the-file"}}))
    with RunFolder.create(load_plan(source), version="1") as folder:
        pass
    # As where there are no hard links.
    monkeypatch.setattr(Path, "hardlink_to", _refuse)
    site.write(shell("task", "true"))
    with RunFolder.reopen(folder.path, load_plan(source), version="1"):
        pass
    assert "of-the-file" in (folder.path / "former" / "1" / "workflow.yaml").read_text()
    modes = _modes(folder.path)
    assert modes[f"{folder.run_id}/former/1/workflow.yaml"] == 0o600
    assert modes[f"{folder.run_id}/workflow.yaml"] == stat.S_IMODE(source.stat().st_mode)


def _refuse(*_: object) -> None:
    raise PermissionError


@pytest.mark.parametrize("mask", MASKS)
def test_a_container_can_write_into_a_closed_attempt(
    site: Site, container_runtime: str, busybox_image: str, mask: int
) -> None:
    image = {"name": busybox_image, "runtime": container_runtime}
    line = 'echo "$GIVEN_TOKEN"; echo made > "$FASTHEP_TASK_DIRECTORY/file"'
    site.write(shell("task", line, environment={**_TOKEN, "image": image}))
    attempt = _run(site, mask) / "tasks" / "task" / "1"
    assert (attempt / "file").read_text() == "made\n"
    assert (attempt / "stdout.log").read_text() == f"{VALUE}\n"
    assert _modes(attempt)["1"] == 0o700
