import fcntl
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fasthep_flow.environments.host.leases import lease
from fasthep_flow.environments.host.locks import lock_file, machine_lock


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own folder of locks, apart from the one that other tests have."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


IDS = ("0", "1", "2")


def test_each_task_gets_its_own() -> None:
    with lease("cpu", IDS, 1) as first, lease("cpu", IDS, 2) as second:
        assert (first, second) == (("0",), ("1", "2"))
        with lease("gpu", IDS, 3) as other_kind:
            assert other_kind == IDS
    with lease("cpu", IDS, 3) as all_again:
        assert all_again == IDS


def test_too_few_are_none_and_stay_free() -> None:
    with lease("cpu", IDS, 2):
        with lease("cpu", IDS, 2) as too_many:
            assert too_many == ()
        with lease("cpu", IDS, 1) as last:
            assert last == ("2",)


def test_a_lease_ends_with_an_error_and_with_its_process() -> None:
    with pytest.raises(ZeroDivisionError), lease("cpu", IDS, 3):
        _ = 1 / 0
    script = """
        import os
        from fasthep_flow.environments.host.leases import lease
        with lease("cpu", ("0", "1", "2"), 3) as ids:
            print(len(ids), flush=True)
            os._exit(1)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, check=False
    )
    assert done.stdout == b"3\n"
    with lease("cpu", IDS, 3) as ids:
        assert ids == IDS


def test_one_process_at_a_time_has_a_lock() -> None:
    with machine_lock("pull x") as locked:
        assert locked
        descriptor = lock_file("pull x")
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with machine_lock("pull y") as other:
            assert other
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


def test_the_folder_is_the_users_own(folder: Path) -> None:
    with machine_lock("x"):
        (made,) = folder.iterdir()
        assert made.stat().st_mode & 0o777 == 0o700


def test_without_a_folder_of_the_users_own_there_is_no_lock(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(folder))
    (folder / f"fasthep-flow-{os.getuid()}").symlink_to(folder)
    with machine_lock("x") as locked:
        assert not locked
    with lease("cpu", IDS, 1) as ids:
        assert ids == ()


def test_where_locks_do_not_work_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with machine_lock("x") as locked:
        assert not locked
    with lease("cpu", IDS, 1) as ids:
        assert ids == ()
