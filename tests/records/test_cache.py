"""What earlier runs did: kept whole, verified before it is trusted, and never in the way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.records.made import ANY_SPEED, environment, identities, plan, succeeded, task, write

from fasthep_flow.model import Failure, JobResult, TaskSpec
from fasthep_flow.records.cache import Cache, changed_output, is_reusable
from fasthep_flow.records.digests import Digests
from fasthep_flow.records.identity import Identity
from fasthep_flow.records.sealed import sealed

SOURCE = "/w/workflow.yaml"
ONE = Identity.of({"name": "fit", "command": "1"})
OTHER = Identity.of({"name": "fit", "command": "2"})
CACHED = task(cache=True)


class Noticed(list[str]):
    """What the user is told."""


@pytest.fixture
def noticed() -> Noticed:
    return Noticed()


@pytest.fixture
def cache(tmp_path: Path, noticed: Noticed) -> Cache:
    return Cache(tmp_path / ".cache", SOURCE, noticed=noticed.append)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_is_kept_is_found_by_its_identity(cache: Cache, noticed: Noticed) -> None:
    result = succeeded(CACHED, value={"mu": [1.5, None, "ü"]}, image_digest="sha256:1")
    assert cache.store(CACHED, ONE, result, "run-1")
    found = cache.look_up(ONE)
    assert found is not None
    assert (found.result, found.parts, found.run_id) == (result, ONE.parts, "run-1")
    assert cache.look_up(OTHER) is None
    assert noticed == []


def test_of_logs_nothing_is_kept(cache: Cache, tmp_path: Path) -> None:
    result = succeeded(CACHED, value=1, stdout_tail="hunter2", stderr_tail="hunter2")
    cache.store(CACHED, ONE, result, "run-1")
    assert all(b"hunter2" not in path.read_bytes() for path in files(tmp_path))


def test_the_last_one_of_a_task_is_known_to_its_workflow(cache: Cache, tmp_path: Path) -> None:
    cache.store(CACHED, OTHER, succeeded(CACHED, value=1), "run-1")
    cache.store(CACHED, ONE, succeeded(CACHED, value=2), "run-2")
    latest = cache.latest("fit")
    assert latest is not None
    assert latest.parts == ONE.parts
    assert cache.latest("other") is None
    assert Cache(tmp_path / ".cache", "/w/other.yaml").latest("fit") is None


def test_nobody_else_looks_in(cache: Cache, tmp_path: Path) -> None:
    cache.store(CACHED, ONE, succeeded(CACHED, value=1), "run-1")
    assert {path.stat().st_mode & 0o777 for path in files(tmp_path)} == {0o600}
    folders = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}


@pytest.mark.parametrize(
    ("one", "result", "is_kept"),
    [
        (task(cache=True), {"value": 1}, True),
        (task(cache=True), {"value": None}, True),
        (task(cache=True), {}, False),
        (task(), {"value": 1}, False),
        (task(outputs=("/w/a",)), {"outputs": {"/w/a": "sha256:1"}}, True),
        (task(outputs=("/w/a",)), {"value": 1}, False),
        (task(outputs=("/w/a", "/w/b")), {"outputs": {"/w/a": "sha256:1"}}, False),
        (task(outputs=("/w/a",), cache=True), {"value": 1}, False),
    ],
)
def test_only_what_says_all_is_kept(
    cache: Cache, one: TaskSpec, result: dict[str, Any], *, is_kept: bool
) -> None:
    ended = succeeded(one, **result)
    assert is_reusable(one, ended) == is_kept
    assert cache.store(one, ONE, ended, "run-1") == is_kept
    assert (cache.look_up(ONE) is not None) == is_kept


@pytest.mark.parametrize("status", ["failed", "timed_out", "cancelled", "skipped"])
def test_what_did_not_succeed_is_not_kept(cache: Cache, status: Any) -> None:
    failure = Failure(kind="exit", message="no")
    result = JobResult(task="fit", attempt=1, status=status, value=1, failure=failure)
    assert not cache.store(CACHED, ONE, result, "run-1")


def test_what_nobody_can_tell_is_neither_kept_nor_found(cache: Cache) -> None:
    unknown = Identity.of({"name": "fit", "image": "unknown"})
    assert not cache.store(CACHED, unknown, succeeded(CACHED, value=1), "run-1")
    assert cache.look_up(unknown) is None


@pytest.mark.parametrize("kind", ["results", "latest"])
def test_wherever_a_record_is_garbled_it_is_named_and_set_aside(
    tmp_path: Path, noticed: Noticed, kind: str
) -> None:
    cache = Cache(tmp_path / ".cache", SOURCE, noticed=noticed.append)
    cache.store(CACHED, ONE, succeeded(CACHED, value="a value"), "run-1")
    (path,) = (tmp_path / ".cache" / kind).glob("*/*.json")
    whole = path.read_bytes()
    for at in range(len(whole)):
        for text in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :]):
            noticed.clear()
            path.write_bytes(text)
            found = cache.look_up(ONE) if kind == "results" else cache.latest("fit")
            assert found is None, f"believed with byte {at} changed"
            assert not path.exists()
            (note,) = noticed
            assert note.startswith(f"the record {path} is not believed: ")
            (aside,) = (tmp_path / ".cache/damaged").iterdir()
            assert note.endswith(f"; it is {aside} now")
            assert aside.read_bytes() == text
            aside.unlink()
    path.write_bytes(whole)
    assert cache.look_up(ONE) is not None


def _resealed(path: Path, **changes: Any) -> None:
    found = msgspec.json.decode(path.read_bytes())
    del found["crc"]
    path.write_bytes(sealed(msgspec.json.encode({**found, **changes})))


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": OTHER.digest},
        {"parts": OTHER.parts},
        {"parts": ["a"]},
        {"stored_s": "now"},
        {"result": {"task": "fit", "attempt": "1", "status": "succeeded"}},
        {"result": {"task": "fit", "attempt": 1, "status": "fine"}},
        {"more": 1},
    ],
)
def test_a_record_that_is_no_record_of_this_is_set_aside(
    cache: Cache, tmp_path: Path, noticed: Noticed, changes: dict[str, Any]
) -> None:
    cache.store(CACHED, ONE, succeeded(CACHED, value=1), "run-1")
    (path,) = (tmp_path / ".cache" / "results").glob("*/*.json")
    _resealed(path, **changes)
    assert cache.look_up(ONE) is None
    assert len(noticed) == 1
    assert not path.exists()


def test_a_record_of_another_version_is_passed_over(
    cache: Cache, tmp_path: Path, noticed: Noticed
) -> None:
    cache.store(CACHED, ONE, succeeded(CACHED, value=1), "run-1")
    (path,) = (tmp_path / ".cache" / "results").glob("*/*.json")
    _resealed(path, format=2)
    assert cache.look_up(ONE) is None
    assert (noticed, path.exists()) == ([], True)


@pytest.mark.parametrize("what", ["folder", "pipe", "link", "large"])
def test_what_is_no_file_is_not_waited_for(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    cache.store(CACHED, ONE, succeeded(CACHED, value=1), "run-1")
    (path,) = (tmp_path / ".cache" / "results").glob("*/*.json")
    if what == "large":
        monkeypatch.setattr("fasthep_flow.records.cache._LARGEST", 10)
    else:
        path.unlink()
        {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}.get(
            what, lambda: path.symlink_to("/etc/passwd")
        )()
    assert cache.look_up(ONE) is None


def test_where_nothing_can_be_kept_that_is_told_once(tmp_path: Path, noticed: Noticed) -> None:
    write(tmp_path / "file")
    cache = Cache(tmp_path / "file" / ".cache", SOURCE, noticed=noticed.append)
    for _ in range(3):
        assert not cache.store(CACHED, ONE, succeeded(CACHED, value=1), "run-1")
    assert cache.look_up(ONE) is None
    (note,) = noticed
    assert note.startswith("no results can be kept for other runs in ")


@pytest.fixture
def made(tmp_path: Path) -> tuple[TaskSpec, JobResult]:
    one = task(outputs=(f"{tmp_path}/hist.root", f"{tmp_path}/plots/"))
    write(tmp_path / "hist.root", "content")
    write(tmp_path / "plots/mass.pdf", "content")
    outputs = {path: Digests().of(path.rstrip("/")) or "" for path in one.outputs}
    return one, succeeded(one, outputs=outputs)


def test_outputs_that_are_as_they_were_made(made: tuple[TaskSpec, JobResult]) -> None:
    assert changed_output(*made, Digests()) is None


def test_each_way_in_which_they_are_not(tmp_path: Path, made: tuple[TaskSpec, JobResult]) -> None:
    one, result = made
    hist, plot = tmp_path / "hist.root", tmp_path / "plots/mass.pdf"
    facts = hist.stat()
    hist.write_text("CONTENT")
    os.utime(hist, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert changed_output(one, result, Digests()) == f"output {hist} is not as it was made"
    hist.unlink()
    assert changed_output(one, result, Digests()) == f"output {hist} is not there any more"
    hist.symlink_to(write(tmp_path / "same", "content"))
    assert changed_output(one, result, Digests()) == f"output {hist} is a link now"
    hist.unlink()
    os.mkfifo(hist)
    assert str(changed_output(one, result, Digests())).startswith(f"output {hist} cannot be read")
    hist.unlink()
    write(hist, "content")
    write(plot.with_name("more.pdf"))
    told = f"output {tmp_path}/plots/ is not as it was made"
    assert changed_output(one, result, Digests()) == told
    other = msgspec.structs.replace(one, outputs=(f"{tmp_path}/same",))
    told = f"output {tmp_path}/same was not declared then"
    assert changed_output(other, result, Digests()) == told


def test_pruning_takes_what_is_of_no_more_use(tmp_path: Path, cache: Cache) -> None:
    old_s = time.time() - 40 * 24 * 3600
    kept = write(tmp_path / "kept", "x")
    for name, outputs in {
        "gone": {str(tmp_path / "gone"): "sha256:1"},
        "there": {str(kept): "sha256:1"},
        "value": {},
        "new": {str(tmp_path / "gone"): "sha256:1"},
    }.items():
        one = task(name, outputs=tuple(outputs), cache=True)
        identity = Identity.of({"name": name})
        assert cache.store(one, identity, succeeded(one, value=1, outputs=outputs), "run-1")
        for path in files(tmp_path / ".cache"):
            if identity.digest.removeprefix("sha256:") in path.name and name != "new":
                os.utime(path, (old_s, old_s))
    (tmp_path / ".cache/results/00").mkdir(exist_ok=True)
    parts = [
        write(tmp_path / ".cache" / name)
        for name in ("results/00/.x.json.1.part", ".digests.json.1.part")
    ]
    for part in parts:
        os.utime(part, (old_s, old_s))
    fresh = write(tmp_path / ".cache/results/00/.y.json.1.part")
    assert cache.prune() == 1
    left = {
        one
        for one in ("gone", "there", "value", "new")
        if cache.look_up(Identity.of({"name": one}))
    }
    assert left == {"there", "value", "new"}
    assert not any(part.exists() for part in parts)
    assert fresh.exists()


def test_what_is_kept_is_bounded_and_what_is_used_stays(tmp_path: Path, cache: Cache) -> None:
    each = [Identity.of({"name": "fit", "command": str(number)}) for number in range(6)]
    for number, identity in enumerate(each):
        cache.store(CACHED, identity, succeeded(CACHED, value=number), "run-1")
        for path in (tmp_path / ".cache/results").glob("*/*.json"):
            if identity.digest.removeprefix("sha256:") in path.name:
                os.utime(path, (number, number))
    assert cache.look_up(each[0]) is not None
    assert cache.prune(most=2) == 4
    assert [number for number in range(6) if cache.look_up(each[number])] == [0, 5]


STORE = """
import sys
from pathlib import Path
from fasthep_flow.records.cache import Cache
from fasthep_flow.records.identity import Identity
from tests.records.made import ANY_SPEED, succeeded, task
told = []
cache = Cache(Path(sys.argv[1]), "/w/workflow.yaml", noticed=told.append)
one = task(cache=True)
sys.stdin.read(1)
for number in range(300):
    identity = Identity.of({"name": "fit", "command": str(number % 7)})
    found = cache.look_up(identity)
    assert found is None or found.result.value == number % 7
    assert cache.store(one, identity, succeeded(one, value=number % 7), "run", sync=False)
    assert cache.look_up(identity).result.value == number % 7
    assert cache.latest("fit") is not None
    if not number % 50:
        cache.prune(most=100)
assert told == []
"""


def test_runs_at_once_do_not_get_in_each_others_way(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STORE, str(tmp_path / ".cache")],
            stdin=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b".")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert len(list((tmp_path / ".cache/results").glob("*/*"))) == 7


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@ANY_SPEED
@given(PLAIN, st.text(st.characters()), st.text(min_size=1))
def test_any_value_comes_back_and_no_variables_value_is_in_any_file(
    tmp_path: Path, value: Any, name: str, secret: str
) -> None:
    secret = f"hunter2-{secret}"
    one = task(name, environment=environment({"TOKEN": secret}), cache=True)
    identity = identities(plan(tmp_path, one)).of(one, {})
    cache = Cache(tmp_path / ".cache", SOURCE)
    assert cache.store(one, identity, succeeded(CACHED, value=value), "run-1", sync=False)
    found = cache.look_up(identity)
    assert found is not None
    assert msgspec.json.encode(found.result.value) == msgspec.json.encode(value)
    for path in files(tmp_path / ".cache"):
        assert b"hunter2" not in path.read_bytes()
        path.unlink()
