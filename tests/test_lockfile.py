"""The lock file: what is written, how it is read, and what is told of differences."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fasthep_flow.errors import EnvironmentRefused, LockDrift, RecordError, WorkflowError
from fasthep_flow.locking.changes import changes, counted, unlockable
from fasthep_flow.locking.file import lock_path, lock_text, read_lock, write_lock
from fasthep_flow.locking.lock import Lock, LockedData, LockedImage, LockedPython, data_key
from fasthep_flow.model import DataItem, Plan
from fasthep_flow.workflow import check_plan, kept_offline, load_plan, lock_plan, run_plan

A = f"sha256:{'a' * 64}"
B = f"sha256:{'b' * 64}"
TWICE = f"version: 1\ndata:\n  - source: x\n    digest: {A}\n  - source: x\n    digest: {B}\n"
FULL = Lock(
    images=(
        LockedImage(name="./image.sif", digest=A),
        LockedImage(name="docker.io/library/debian:12", digest=A),
        LockedImage(name="docker.io/library/debian:12", platform="linux/arm64", digest=B),
        LockedImage(name="localhost/own:1", unlockable="it was built on this machine: alas"),
    ),
    data=(LockedData(source="https://example.org/a b.root", digest=A),),
    python=(
        LockedPython(
            version=">=3.11",
            requirements=("numpy", "# no comment", "uproot>=5; python_version > '3'"),
            directory="./python",
            image="docker.io/library/debian:12 for linux/arm64",
            setup=B,
            resolved=(f"numpy==2.0 --hash={A} --hash={B}", "uproot==5.0"),
        ),
    ),
)


def read(text: str, folder: Path) -> Lock | None:
    path = folder / "workflow.lock"
    path.write_text(text, encoding="utf-8")
    return read_lock(path)


def digest_of(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


class TestTheFile:
    def test_is_beside_the_workflow_under_its_name(self) -> None:
        assert lock_path(Path("/a/workflow.yaml")) == Path("/a/workflow.lock")
        assert lock_path(Path("/a/fit.2.yml")) == Path("/a/fit.2.lock")

    def test_is_made_for_git_diff(self, tmp_path: Path) -> None:
        lines = lock_text(FULL, "workflow.yaml").splitlines()
        assert lines[:2] == [
            "# Made by 'fasthep-flow lock' of workflow.yaml: do not edit, make it anew.",
            "version: 1",
        ]
        assert f"          - {A}" in lines
        assert f"    digest: {A}" in lines
        # Another digest is one line of a difference, whatever else is there.
        images = (*FULL.images[:1], LockedImage(name=FULL.images[1].name, digest=B))
        other = lock_text(Lock(images=images), "workflow.yaml").splitlines()
        images = (*FULL.images[:1], LockedImage(name=FULL.images[1].name, digest=A))
        first = lock_text(Lock(images=images), "workflow.yaml").splitlines()
        assert sum(a != b for a, b in zip(first, other, strict=True)) == 1
        assert read("\n".join(lines), tmp_path) == FULL

    def test_of_a_workflow_that_uses_nothing_says_so(self, tmp_path: Path) -> None:
        assert read(lock_text(Lock(), "workflow.yaml"), tmp_path) == Lock()

    def test_that_is_not_there_is_none(self, tmp_path: Path) -> None:
        assert read_lock(tmp_path / "workflow.lock") is None

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
    @given(
        name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
        lines=st.lists(
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), max_size=3
        ),
    )
    def test_reads_what_it_wrote(self, tmp_path: Path, name: str, lines: list[str]) -> None:
        lock = Lock(
            images=(LockedImage(name=name, digest=A),),
            data=(LockedData(source=name, digest=B),),
            python=(LockedPython(version=name, requirements=tuple(lines)),),
        )
        assert read(lock_text(lock, "workflow.yaml"), tmp_path) == lock

    @pytest.mark.parametrize(
        ("text", "line", "told"),
        [
            ("", 1, "no lock file"),
            ("[]", 1, "no lock file"),
            ("images: []\n", 1, "'version'"),
            ("version: one\n", 1, "no version"),
            ("version: true\n", 1, "no version"),
            ("version: 1\nimages:\n<<<<<<< HEAD\n", 4, ""),
            ("version: 1\nimages: {}\n", 2, "no list"),
            ("version: 1\nimages:\n  - debian\n", 3, "no entry"),
            ("version: 1\nimages:\n  - name: x\n", 3, "'digest'"),
            ("version: 1\nimages:\n  - name: x\n    digest: latest\n", 4, "no digest"),
            (f"version: 1\nimages:\n  - digest: {A}\n", 3, "'name'"),
            (f"version: 1\nimages:\n  - name: 3\n    digest: {A}\n", 3, "'name'"),
            (f"version: 1\ndata:\n  - source: x\n    digest: {A}\n    size: 3\n", 5, "such key"),
            ("version: 1\nimagse: []\n", 2, "no such part"),
            ("version: 1\npython:\n  - requirements: numpy\n", 3, "list of texts"),
            ("version: 1\npython:\n  - resolved: [numpy]\n", 3, "no distribution"),
            (TWICE, 5, "already"),
        ],
    )
    def test_that_is_damaged_is_an_error_with_its_place(
        self, tmp_path: Path, text: str, line: int, told: str
    ) -> None:
        with pytest.raises(WorkflowError) as caught:
            read(text, tmp_path)
        problem = caught.value.problems[0]
        assert problem.location is not None
        assert problem.location.line == line
        assert told in problem.message
        assert "workflow.lock:" in str(caught.value)
        assert "fasthep-flow lock" in str(caught.value)

    def test_of_a_newer_version_asks_for_a_newer_program(self, tmp_path: Path) -> None:
        with pytest.raises(WorkflowError, match=r"workflow\.lock:2:10: .*version 2") as caught:
            read("# Made\nversion: 2\nthings: []\n", tmp_path)
        assert "use a newer fasthep-flow" in str(caught.value)

    def test_is_whole_or_as_it_was(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "workflow.lock"
        write_lock(path, "first\n")

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(RecordError, match="No space left"):
            write_lock(path, "second\n")
        assert path.read_text() == "first\n"
        assert [one.name for one in tmp_path.iterdir()] == ["workflow.lock"]


class TestChanges:
    def test_are_told_a_line_each(self) -> None:
        before = Lock(
            images=(LockedImage(name="gone:1", digest=A), LockedImage(name="moved:1", digest=A)),
            data=(LockedData(source="same", digest=A),),
            python=(LockedPython(requirements=("a",), resolved=("a==1 --hash=x", "b==1")),),
        )
        after = Lock(
            images=(
                LockedImage(name="moved:1", digest=B),
                LockedImage(name="new:1", platform="linux/arm64", digest=B),
                LockedImage(name="own:1", unlockable="why"),
            ),
            data=(LockedData(source="same", digest=A),),
            python=(
                LockedPython(requirements=("a",), resolved=("a==2 --hash=y", "c==1")),
                LockedPython(requirements=("d",)),
            ),
        )
        assert changes(before, after) == (
            "removed  image gone:1",
            f"changed  image moved:1 {A} -> {B}",
            f"added    image new:1 for linux/arm64 {B}",
            "added    image own:1, which cannot be locked",
            "changed  Python distribution a==1 -> a==2",
            "removed  Python distribution b==1",
            "added    Python distribution c==1",
            "added    Python environment of d",
        )
        assert changes(after, after) == ()

    def test_other_files_of_the_same_version_are_a_change(self) -> None:
        before = Lock(python=(LockedPython(requirements=("a",), resolved=("a==1 --hash=x",)),))
        after = Lock(python=(LockedPython(requirements=("a",), resolved=("a==1 --hash=y",)),))
        assert changes(before, after) == ("changed  Python distribution a==1: other files",)

    def test_what_is_in_it_is_counted(self) -> None:
        assert counted(FULL) == "4 images, 1 data item, 1 Python environment"
        assert counted(Lock()) == "nothing to be locked"
        (line,) = unlockable(FULL)
        assert "localhost/own:1" in line


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """Writes a workflow of tasks with these environments; its plan."""
    monkeypatch.setenv("FASTHEP_FLOW_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "work"
    folder.mkdir()

    def written(*environments: dict[str, Any]) -> Plan:
        tasks = [
            {
                "name": f"task {number}",
                "type": "fasthep_flow.operators.BashOperator",
                "kwargs": {"bash_command": "true"},
                "needs": [],
                "environment": environment,
            }
            for number, environment in enumerate(environments)
        ]
        # JSON is YAML.
        path = folder / "workflow.yaml"
        path.write_text(json.dumps({"global": {"flow": "local::concurrent"}, "tasks": tasks}))
        return load_plan(path)

    return written


_PYTHON = {"python": {"requirements": ["numpy"]}}


def drift(plan: Plan) -> str:
    """What a locked run says, which starts no task."""
    with pytest.raises(EnvironmentRefused) as caught:
        run_plan(plan, locked=True)
    assert not Path(plan.output_directory).exists()
    return str(caught.value)


class TestDrift:
    """Every kind of it, and its words."""

    def test_no_lock_file(self, write: Callable[..., Plan]) -> None:
        plan = write({"extra_data": ["x.txt"]})
        with pytest.raises(LockDrift, match=r"no lock file .*workflow\.lock") as caught:
            run_plan(plan, locked=True)
        assert caught.value.exit_code == 4
        assert caught.value.hint == "write one: fasthep-flow lock"

    def test_an_image_that_is_not_in_it(self, write: Callable[..., Plan], tmp_path: Path) -> None:
        (tmp_path / "work/a.sif").write_text("a")
        lock_plan(write({}))
        plan = write({"image": "a.sif"})
        assert "task 'task 0': the image ./a.sif is not in workflow.lock" in drift(plan)
        assert "fasthep-flow lock" in drift(plan)

    def test_an_image_file_that_is_another(
        self, write: Callable[..., Plan], tmp_path: Path
    ) -> None:
        (tmp_path / "work/a.sif").write_text("before")
        plan = write({"image": "a.sif"}, {"image": "a.sif"})
        lock_plan(plan)
        (tmp_path / "work/a.sif").write_text("after")
        for one in (plan, kept_offline(plan)):
            said = drift(one)
            assert f"the image ./a.sif is {digest_of('after')} now" in said
            assert f"and {digest_of('before')} in workflow.lock" in said
            assert "tasks 'task 0', 'task 1'" in said

    def test_another_image_than_the_locked_one(self, write: Callable[..., Plan]) -> None:
        lock_plan(write({"image": f"debian:12@{A}"}))
        assert f"the image docker.io/library/debian:12@{B} is not in" in drift(
            write({"image": f"debian:12@{B}"})
        )

    def test_a_locked_digest_that_the_author_contradicts(
        self, write: Callable[..., Plan], tmp_path: Path
    ) -> None:
        plan = write({"image": f"debian:12@{A}"})
        lock_plan(plan)
        path = tmp_path / "work/workflow.lock"
        path.write_text(path.read_text().replace(f"digest: {A}", f"digest: {B}"))
        said = drift(plan)
        assert f"is {A} in the workflow, and {B} in workflow.lock" in said

    def test_an_image_that_cannot_be_locked(self, write: Callable[..., Plan]) -> None:
        plan = write({"image": "localhost/own:1"})
        report = lock_plan(plan)
        assert "localhost/own:1" in report.unlockable[0]
        said = drift(plan)
        assert "cannot be locked: it was built on this machine" in said
        assert "push it to a registry" in said

    def test_a_folder_that_cannot_be_locked(
        self, write: Callable[..., Plan], tmp_path: Path
    ) -> None:
        (tmp_path / "work/root").mkdir()
        plan = write({"image": "./root/"})
        assert "nothing but CVMFS names" in lock_plan(plan).unlockable[0]
        assert "make a SIF file" in drift(plan)

    def test_another_platform(self, write: Callable[..., Plan], tmp_path: Path) -> None:
        (tmp_path / "work/a.sif").write_text("a")
        lock_plan(write({"image": "a.sif"}))
        said = drift(write({"image": {"name": "a.sif", "platform": "linux/arm64"}}))
        assert "the image ./a.sif for linux/arm64 is not in workflow.lock" in said

    def test_data_that_is_not_in_it(self, write: Callable[..., Plan], tmp_path: Path) -> None:
        (tmp_path / "work/x.txt").write_text("x")
        lock_plan(write({}))
        assert "the data ./x.txt is not in workflow.lock" in drift(write({"extra_data": ["x.txt"]}))

    def test_data_that_changed(self, write: Callable[..., Plan], tmp_path: Path) -> None:
        (tmp_path / "work/x.txt").write_text("before")
        plan = write({"extra_data": ["x.txt"]})
        lock_plan(plan)
        (tmp_path / "work/x.txt").write_text("after, and longer")
        said = drift(load_plan(Path(plan.source)))
        assert f"the data ./x.txt is {digest_of('after, and longer')} now" in said
        assert f"and {digest_of('before')} in workflow.lock" in said

    def test_requirements_that_are_not_in_it(self, write: Callable[..., Plan]) -> None:
        lock_plan(write({}))
        said = drift(write({"python": {"requirements": ["numpy", "uproot"]}}))
        assert "the Python environment of numpy, uproot is not in workflow.lock" in said

    def test_all_of_it_is_told_at_once(self, write: Callable[..., Plan], tmp_path: Path) -> None:
        for name in ("a.sif", "b.sif", "x.txt"):
            (tmp_path / "work" / name).write_text(name)
        lock_plan(write({}))
        said = drift(
            write({"image": "a.sif"}, {"image": "b.sif"}, {"extra_data": ["x.txt"]}, _PYTHON)
        )
        lines = said.splitlines()
        assert "4 things are not as workflow.lock says" in lines[0]
        assert len(lines) == 6
        assert lines[-1].strip().endswith("fasthep-flow lock")

    def test_check_tells_each_as_a_row(self, write: Callable[..., Plan], tmp_path: Path) -> None:
        (tmp_path / "work/x.txt").write_text("x")
        plan = write({"extra_data": ["x.txt"]})
        missing = check_plan(plan, locked=True)[0]
        assert [one.error for one in missing.checks if one.what == "lock"] == ["LockDrift"]
        lock_plan(plan)
        held = check_plan(plan, locked=True)[0]
        assert [one.verdict for one in held.checks if one.what == "lock"] == ["ok"]
        (tmp_path / "work/x.txt").write_text("other")
        drifted = check_plan(load_plan(Path(plan.source)), locked=True)[0]
        assert [one.verdict for one in drifted.checks if one.what == "lock"] == ["refused"]

    def test_a_lock_file_that_cannot_be_read_stops_a_locked_run(
        self, write: Callable[..., Plan], tmp_path: Path
    ) -> None:
        plan = write({})
        (tmp_path / "work/workflow.lock").write_text("version: 3\n")
        with pytest.raises(WorkflowError, match="newer"):
            run_plan(plan, locked=True)


class TestLock:
    def test_says_what_it_wrote_and_writes_nothing_twice(
        self, write: Callable[..., Plan], tmp_path: Path
    ) -> None:
        (tmp_path / "work/x.txt").write_text("x")
        plan = write({"extra_data": ["x.txt"]}, {"extra_data": ["x.txt"]})
        looked = lock_plan(plan, writes=False)
        assert looked.is_changed
        assert not looked.path.exists()
        written = lock_plan(plan)
        assert written.changes == (f"added    data ./x.txt {digest_of('x')}",)
        assert written.counted == "1 data item"
        before = written.path.stat().st_mtime_ns, written.path.stat().st_ino
        again = lock_plan(plan)
        assert not again.is_changed
        assert (again.path.stat().st_mtime_ns, again.path.stat().st_ino) == before

    def test_means_the_same_in_another_checkout(
        self, write: Callable[..., Plan], tmp_path: Path
    ) -> None:
        (tmp_path / "work/x.txt").write_text("x")
        (tmp_path / "work/a.sif").write_text("a")
        lock_plan(write({"extra_data": ["x.txt"], "image": "a.sif"}))
        text = (tmp_path / "work/workflow.lock").read_text()
        assert str(tmp_path) not in text
        (tmp_path / "work").rename(tmp_path / "moved")
        report = lock_plan(load_plan(tmp_path / "moved/workflow.yaml"))
        assert not report.is_changed

    def test_a_pinned_image_needs_nobody(self, write: Callable[..., Plan]) -> None:
        report = lock_plan(write({"image": f"no-such-host.invalid/x:1@{A}"}))
        assert f"no-such-host.invalid/x:1@{A} {A}" in report.changes[0]

    def test_of_a_damaged_file_makes_a_whole_one(
        self, write: Callable[..., Plan], tmp_path: Path
    ) -> None:
        path = tmp_path / "work/workflow.lock"
        path.write_text("version: 1\nimages: [")
        report = lock_plan(write({}))
        assert "cannot be read" in report.changes[0]
        assert read_lock(path) == Lock()

    def test_of_a_newer_version_is_left_as_it_is(
        self, write: Callable[..., Plan], tmp_path: Path
    ) -> None:
        path = tmp_path / "work/workflow.lock"
        path.write_text("version: 99\n")
        with pytest.raises(WorkflowError, match="newer"):
            lock_plan(write({}))
        assert path.read_text() == "version: 99\n"

    def test_tells_all_that_cannot_be_had_and_writes_nothing(
        self, write: Callable[..., Plan], tmp_path: Path
    ) -> None:
        plan = write({"image": "none.sif"}, {"extra_data": ["none.txt"]})
        with pytest.raises(EnvironmentRefused) as caught:
            lock_plan(plan)
        assert "none.sif" in str(caught.value)
        assert "none.txt" in str(caught.value)
        assert not (tmp_path / "work/workflow.lock").exists()

    def test_takes_another_word_for_the_same_image_as_one(
        self, write: Callable[..., Plan], tmp_path: Path
    ) -> None:
        (tmp_path / "work/a.sif").write_text("a")
        plan = write({"image": "a.sif"}, {"image": {"name": "./a.sif", "runtime": "podman"}})
        assert lock_plan(plan).counted == "1 image"

    def test_both_images_of_a_task_are_locked(
        self, write: Callable[..., Plan], tmp_path: Path
    ) -> None:
        for name in ("cpu.sif", "gpu.sif"):
            (tmp_path / "work" / name).write_text(name)
        plan = write(
            {
                "image": {"cpu": "cpu.sif", "gpu": "gpu.sif"},
                "resources": {"process_on": "gpu_if_available"},
            }
        )
        report = lock_plan(plan)
        assert [line.split()[2] for line in report.changes] == ["./cpu.sif", "./gpu.sif"]

    def test_no_password_is_in_it(self) -> None:
        # The language refuses it; a plan may come from elsewhere.
        item = DataItem(source="https://marie:hunter2@example.org/x.root?sig=hunter3")
        key = data_key(item, "/work")
        assert "hunter" not in key
        assert "example.org/x.root" in key
