"""Charliecloud as a runtime: whether it works here, and what it leaves."""

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.environments.charliecloud.made import run

from fasthep_flow.environments import ContainerSpec
from fasthep_flow.environments.charliecloud import CHARLIECLOUD, CharliecloudRuntime
from fasthep_flow.environments.host.scratch import user_folder
from fasthep_flow.errors import EngineUnavailable, LimitUnenforceable
from fasthep_flow.model import Image, Resources

pytestmark = [pytest.mark.charliecloud, pytest.mark.registry]


def test_it_works_here() -> None:
    assert CHARLIECLOUD.probe() is None


def test_without_ch_run_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert CHARLIECLOUD.probe() == "ch-run is not installed"
    with (
        pytest.raises(EngineUnavailable, match="not installed"),
        CHARLIECLOUD.open(ContainerSpec(name="x", image=_image())),
    ):
        pytest.fail("opened")


def test_a_ch_run_that_cannot_start_anything_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "ch-run"
    fake.write_text('#!/bin/sh\necho "ch-run[$$]: error: can\'t do it: Nope (ch_core.c:1 2)" >&2\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    reason = CharliecloudRuntime().probe()
    assert reason == "ch-run cannot start a container here: can't do it: Nope"


@pytest.mark.parametrize("kind", ["user", "IPC"])
def test_where_namespaces_are_forbidden_it_says_so(kind: str) -> None:
    # A namespace in which none may be made below it, as an administrator may set it.
    script = (
        f"echo 0 >/proc/sys/user/max_{kind.lower()}_namespaces && exec "
        f"{sys.executable} -c 'from fasthep_flow.environments.charliecloud import CHARLIECLOUD;"
        " print(CHARLIECLOUD.probe())'"
    )
    argv = ["unshare", "--user", "--map-root-user", "sh", "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(done.stderr)
    assert done.stdout.startswith(f"{kind} namespaces are not allowed here (")


def _image() -> Any:
    return CHARLIECLOUD.resolve(Image(name="127.0.0.1:5000/testbed/busybox:1"))


def test_the_network_cannot_be_kept_away() -> None:
    with pytest.raises(LimitUnenforceable, match="network") as refused:
        CHARLIECLOUD.check(Resources(), "none")
    assert refused.value.hint is not None
    assert "podman" in refused.value.hint


def test_what_a_task_locks_away_is_removed_too(busybox_image: str, place: Path) -> None:
    before = set((user_folder() / "containers").iterdir())
    run(busybox_image, place, "sh", "-c", "mkdir -p /tmp/a/b; touch /tmp/a/b/c; chmod 0 /tmp/a/b")
    left = set((user_folder() / "containers").iterdir()) - before
    assert not [path for path in left if (path / "plan.json").exists()]


def test_programs_do_not_become_somebody_else(busybox_image: str) -> None:
    root = Path(CHARLIECLOUD.resolve(Image(name=busybox_image)).reference)
    assert not [
        path
        for path in root.rglob("*")
        if not path.is_symlink() and path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID)
    ]
