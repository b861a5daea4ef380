"""Setup scripts are sourced once, and again where something changed."""

import json
import os
import stat
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.environments.software.conftest import forget

from fasthep_flow.environments import ContainerSpec
from fasthep_flow.environments.native import NATIVE
from fasthep_flow.environments.software import look_setup, software
from fasthep_flow.environments.software.setups import _VOLATILE
from fasthep_flow.errors import SoftwareUnavailable
from fasthep_flow.model import Setup

SECRET = "hunter2-XYZ"  # noqa: S105 - stands for one


class Desk:
    """Scripts, and how often one was sourced: it writes that down.

    Args:
        work: The folder.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        self.lines = "echo x >>count\nexport A=1\n. ./inner.sh"
        (work / "inner.sh").write_text("export INNER=1\n")

    @property
    def count(self) -> int:
        path = self.work / "count"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def __call__(
        self,
        lines: str | None = None,
        *,
        scripts: tuple[str, ...] = (),
        secrets: tuple[str, ...] = (),
        decided: tuple[str, ...] = (),
        **environment: str | None,
    ) -> Mapping[str, str | None]:
        forget()
        setup = Setup(lines=lines or self.lines, scripts=scripts)
        return software(
            setup,
            None,
            runtime=NATIVE,
            spec=ContainerSpec(name="test"),
            environment=environment,
            working_directory=str(self.work),
            offline=False,
            secrets=secrets,
            decided=decided,
        ).variables

    def known(self, **environment: str | None) -> Mapping[str, str | None] | None:
        forget()
        return look_setup(
            Setup(lines=self.lines),
            runtime=NATIVE,
            spec=ContainerSpec(name="test"),
            environment=environment,
            working_directory=str(self.work),
        )


@pytest.fixture
def desk(work: Path) -> Desk:
    return Desk(work)


def kept(desk: Desk) -> list[Path]:
    return list((desk.work.parent / "cache" / "software" / "setup").glob("*.json"))


def test_it_is_sourced_once_for_all_processes(desk: Desk) -> None:
    assert desk()["INNER"] == "1"
    assert desk() == desk()
    assert desk.count == 1


@pytest.mark.parametrize(
    ("lines", "expected", "hint"),
    [
        ("export PROXY=/tmp/x", "sets PROXY", "have it keep PROXY, or take the cred"),
        ("unset PROXY", "unsets PROXY", "have it keep PROXY, or take the cred"),
        ("export TOKEN_ITSELF=1", "sets TOKEN_ITSELF", "write 'unset TOKEN_ITSELF' behi"),
    ],
)
def test_no_script_takes_a_credential_away(
    desk: Desk, lines: str, expected: str, hint: str
) -> None:
    names: dict[str, Any] = {"PROXY": "/tmp/p", "TOKEN_ITSELF": None}  # noqa: S108 - a text
    with pytest.raises(SoftwareUnavailable) as refused:
        desk(lines, decided=tuple(names), **names)
    assert expected in refused.value.message
    assert "would not find the credential" in refused.value.message
    assert hint in (refused.value.hint or "")
    assert "A" in desk("export A=$PROXY; export PROXY=$PROXY", decided=tuple(names), **names)
    assert "A" in desk("export TOKEN_ITSELF A=1; unset TOKEN_ITSELF", decided=tuple(names), **names)


def test_devices_are_no_scripts_to_give(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    found = desk("export A=1 CUDA_VISIBLE_DEVICES=0,1 HIP_VISIBLE_DEVICES=0")
    assert found["A"] == "1"
    assert not [name for name in found if name.endswith("_DEVICES")]


def test_two_at_once_source_it_once(desk: Desk) -> None:
    found: list[Mapping[str, str | None]] = []
    threads = [
        threading.Thread(target=lambda: found.append(desk("sleep 0.3; " + desk.lines)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one["INNER"] for one in found] == ["1"] * 4
    assert desk.count == 1


def _edit_inner(desk: Desk) -> None:
    (desk.work / "inner.sh").write_text("export INNER=2\n# longer\n")


def _touch_inner(desk: Desk) -> None:
    os.utime(desk.work / "inner.sh", (1, 1))


def _damage(desk: Desk) -> None:
    for path in kept(desk):
        path.write_text('{"variables": {"A": 7}}')


def _empty(desk: Desk) -> None:
    for path in kept(desk):
        path.write_text("")


def _remove(desk: Desk) -> None:
    (desk.work / "inner.sh").write_text("")


@pytest.mark.parametrize("change", [_edit_inner, _touch_inner, _damage, _empty, _remove])
def test_it_is_sourced_again_where_a_nested_script_or_what_is_kept_changed(
    desk: Desk, change: Callable[[Desk], None]
) -> None:
    desk()
    assert desk.known() is not None
    change(desk)
    assert desk.known() is None
    desk()
    desk()
    assert desk.count == 2


def test_a_script_that_appears_is_seen(desk: Desk) -> None:
    lines = "echo x >>count; source ./later.sh || true"
    assert "LATER" not in desk(lines)
    (desk.work / "later.sh").write_text("export LATER=1")
    assert desk(lines)["LATER"] == "1"
    assert desk.count == 2


def test_a_named_script_counts_by_its_content(desk: Desk) -> None:
    script = desk.work / "named.sh"
    script.write_text("echo x >>count; export A=1\n")
    lines, scripts = f"source {script}", (str(script),)
    desk(lines, scripts=scripts)
    found = script.stat()
    script.write_text("echo x >>count; export A=2\n")
    os.utime(script, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert desk(lines, scripts=scripts)["A"] == "2"


def test_other_variables_folders_and_lines_are_other_scripts(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk()
    desk(OTHER="1")
    desk(OTHER="2")
    monkeypatch.setenv("FROM_HOST", "1")
    desk()
    desk(f"{desk.lines}\n")
    assert desk.count == 5


def test_what_differs_from_login_to_login_does_not_count(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk(FASTHEP_TASK_NAME="a", CUDA_VISIBLE_DEVICES="0")
    for name in (
        "SSH_CONNECTION",
        "TMUX",
        "TERM",
        "SHLVL",
        "PREFECT__FLOW",
        "COLUMNS",
        "KRB5CCNAME",
    ):
        monkeypatch.setenv(name, "other")
        assert _VOLATILE.fullmatch(name)
    desk(FASTHEP_TASK_NAME="b", CUDA_VISIBLE_DEVICES="1")
    assert desk.count == 1
    assert not _VOLATILE.fullmatch("PATH")
    assert not _VOLATILE.fullmatch("LD_LIBRARY_PATH")


def test_facts_and_devices_of_one_task_are_not_found_by_scripts(desk: Desk) -> None:
    lines = "export SEEN=$FASTHEP_TASK_NAME$CUDA_VISIBLE_DEVICES"
    assert desk(lines, FASTHEP_TASK_NAME="a", CUDA_VISIBLE_DEVICES="0")["SEEN"] == ""


def test_the_script_sees_the_task_s_variables_and_has_the_last_word(desk: Desk) -> None:
    found = desk("export MINE=$MINE-more COPY=$OTHER", MINE="task", OTHER="x")
    assert (found["MINE"], found["COPY"]) == ("task-more", "x")
    assert "OTHER" not in found


@pytest.mark.parametrize(
    ("lines", "environment"),
    [
        (f"export API_TOKEN={SECRET}", {}),
        (f"export URL=https://me:{SECRET}@host", {}),
        ("export COPY=prefix-$DB_PASSWORD", {"DB_PASSWORD": SECRET}),
    ],
)
def test_what_holds_a_secret_is_not_written_down(
    desk: Desk, lines: str, environment: dict[str, Any]
) -> None:
    found = desk(f"echo x >>count; {lines}", **environment)
    assert any(SECRET in value for value in found.values() if value)
    written = [path for path in (desk.work.parent / "cache").rglob("*") if path.is_file()]
    assert all(SECRET.encode() not in path.read_bytes() for path in written)
    assert kept(desk) == []


def test_what_the_author_calls_a_secret_is_not_written_down(desk: Desk) -> None:
    lines = f"echo x >>count; export OFFSET={SECRET}; export COPY=0$OFFSET"
    desk(lines)
    assert len(kept(desk)) == 1
    found = desk(lines, secrets=("OFFSET",))
    assert found["OFFSET"] == SECRET
    # Not even what was, before the author said so.
    assert kept(desk) == []
    desk(lines, secrets=("OFFSET",))
    assert kept(desk) == []


def test_nor_is_what_is_made_of_such_a_variable(desk: Desk) -> None:
    lines = 'export COPY="0$OFFSET"'
    assert desk(lines, OFFSET=SECRET, secrets=("OFFSET",))["COPY"] == f"0{SECRET}"
    assert kept(desk) == []
    with pytest.raises(SoftwareUnavailable) as failed:
        desk("echo $OFFSET >&2; false", OFFSET=SECRET, secrets=("OFFSET",))
    assert SECRET not in failed.value.message


def test_within_a_process_secrets_are_sourced_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.environments.software.test_setups.forget", lambda: None)
    lines = f"echo x >>count; export API_TOKEN={SECRET}"
    assert desk(lines) == desk(lines)
    assert desk.count == 1


def test_no_secret_can_be_guessed_from_a_name(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk()
    (name,) = [path.name for path in kept(desk)]
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(desk.work / "other-cache"))
    desk()
    others = list((desk.work / "other-cache/software/setup").glob("*.json"))
    assert [path.name for path in others] != [name]


def test_nobody_else_may_look(desk: Desk) -> None:
    desk()
    folder = desk.work.parent / "cache" / "software"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert modes["key"] == 0o600
    assert modes["setup"] == 0o700
    assert modes[kept(desk)[0].name] == 0o600


def test_what_is_no_text_is_kept_to_the_byte(desk: Desk) -> None:
    lines = r"export A=$'\xff\n\"\\'"
    assert desk(lines)["A"] == desk(lines)["A"] == '\udcff\n"\\'
    json.loads(kept(desk)[0].read_text(encoding="ascii"))


def test_a_failure_is_not_kept(desk: Desk) -> None:
    with pytest.raises(SoftwareUnavailable, match="line 1"):
        desk("source ./missing.sh")
    (desk.work / "missing.sh").write_text("export A=1")
    assert desk("source ./missing.sh")["A"] == "1"


def test_where_nothing_can_be_kept_it_says_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    (desk.work / "file").write_text("")
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(desk.work / "file"))
    with pytest.raises(SoftwareUnavailable, match="no software can be kept in"):
        desk()


def test_the_tool_s_own_python_is_absent(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    monkeypatch.setattr("sys.prefix", str(own))
    monkeypatch.setenv("VIRTUAL_ENV", str(own))
    monkeypatch.setenv("PATH", f"{own}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", "/tool")
    found = desk("export SEEN=$VIRTUAL_ENV$PYTHONPATH; command -v python3 >/dev/null")
    assert found["SEEN"] == ""
    assert found["VIRTUAL_ENV"] is None
    assert found["PYTHONPATH"] is None
    assert f"{own}/bin" not in str(found["PATH"]).split(":")


def test_the_author_s_own_python_stays(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/tool")
    found = desk("export SEEN=$PYTHONPATH", PYTHONPATH="/mine")
    assert found["SEEN"] == "/mine"
    assert "PYTHONPATH" not in found


def test_callables_run_with_the_python_that_the_script_puts_first(desk: Desk) -> None:
    python = desk.work / "bin" / "python3"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    assert desk("export PATH=$PWD/bin:$PATH")["FASTHEP_PYTHON"] == str(python)
    assert desk("export PATH=/nowhere")["FASTHEP_PYTHON"] == "python3"
