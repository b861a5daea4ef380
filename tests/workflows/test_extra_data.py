"""Extra data, as tasks see it: on the host, and in containers of every runtime."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import REQUIRED, RUNTIMES
from tests.environments.data.server import FileServer, made_certificates, serving
from tests.environments.data.stores import buckets, storage, why_no_xrootd
from tests.faults.conftest import Site, in_image, kept_image, shell

PLACES = ("native", *(pytest.param(name, marks=getattr(pytest.mark, name)) for name in RUNTIMES))
EVENTS = b"event data\n" * 1000
ODD = "a b:c,d 'e' ü #1 100%?.txt"

LOOK = """\
mkdir "$OUT"
env -0 >"$OUT/env"
look() {
  sha256sum <"$1" | cut -d' ' -f1 >"$OUT/$2.sha256"
  stat -c '%s' "$1" >"$OUT/$2.size"
}
"""
SPOIL = """\
spoil() {
  touch "$1" && echo "touched $1" >>"$OUT/spoiled"
  (echo x >>"$1") && echo "written $1" >>"$OUT/spoiled"
  chmod 777 "$1" && echo "changed $1" >>"$OUT/spoiled"
  (echo x >>"$1") && echo "written $1" >>"$OUT/spoiled"
  rm -f "$1" && echo "removed $1" >>"$OUT/spoiled"
  mv "$1" "$1.gone" && echo "moved $1" >>"$OUT/spoiled"
}
"""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def warm_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def site(tmp_path: Path, warm_cache: Path) -> Iterator[Site]:
    """A folder for a run, with a name that not everything can read."""
    made = Site(tmp_path / "a site: of, ours", warm_cache)
    yield made
    made.end()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving() as one:
        yield one


@pytest.fixture
def busybox_of(sif_file: Path, busybox_root: Path) -> Callable[[str], str]:
    """The image with `sh` alone, for a runtime."""
    assert sif_file.parent == busybox_root.parent
    return lambda runtime: kept_image(runtime, "busybox", sif_file.parent)


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The environment of a task: the host, and each runtime in turn."""
    if request.param == "native":
        return {}
    of: Callable[[str], str] = request.getfixturevalue("busybox_of")
    return in_image(request.param, of(request.param))


def environment(site: Site, name: str) -> dict[str, str]:
    text = (site.work / name / "env").read_bytes()
    return dict(os.fsdecode(line).split("=", 1) for line in text.split(b"\0") if b"=" in line)


def seen(site: Site, folder: str, name: str) -> str:
    return (site.work / folder / f"{name}.sha256").read_text().strip()


def test_a_task_reads_all_kinds_of_data_and_can_write_to_its_copies_alone(
    site: Site, place: dict[str, Any], server: FileServer
) -> None:
    server.files["/store/events.bin"] = EVENTS
    elsewhere = site.root / "else where: the, data"
    (elsewhere / "folder" / "deep").mkdir(parents=True)
    (elsewhere / "folder" / "deep" / "two").write_bytes(b"two")
    (elsewhere / ODD).write_bytes(b"odd")
    for number in range(3):
        (elsewhere / f"run{number}.root").write_bytes(b"%d" % number)
    (site.work / "local.txt").write_bytes(b"local")
    (site.work / "link.txt").symlink_to(elsewhere / ODD)
    before = {
        path: (path.lstat().st_mtime_ns, path.lstat().st_ino, path.lstat().st_size)
        for path in [*elsewhere.rglob("*"), site.work / "local.txt"]
    }
    script = (
        LOOK
        + SPOIL
        + f"""
set -- "$FASTHEP_DATA/events.bin" "$PWD/local.txt" "{elsewhere / ODD}" "{elsewhere}/run0.root" \\
  "{elsewhere}/run2.root" "$FASTHEP_DATA/in/deep/two" \\
  "$FASTHEP_DATA/runs/run1.root"
look link.txt link
(echo x >>link.txt) && echo "written link" >>"$OUT/spoiled"
n=0
for file; do n=$((n+1)); look "$file" "$n"; spoil "$file"; done
mkdir "$FASTHEP_DATA/in/new" && echo "made in $FASTHEP_DATA/in" >>"$OUT/spoiled"
look "$FASTHEP_DATA/own.txt" own
echo more >>"$FASTHEP_DATA/own.txt"
look "$FASTHEP_DATA/own.txt" more
rm -r "$FASTHEP_DATA/mine/deep"
ls "$FASTHEP_DATA/mine" >"$OUT/mine"
exit 0
"""
    )
    data = [
        server.url("/store/events.bin"),
        "local.txt",
        str(elsewhere / ODD),
        "link.txt",
        str(elsewhere / "run[02].root"),
        {"source": str(elsewhere / "folder"), "target": "in"},
        {"source": str(elsewhere / "run*.root"), "target": "runs"},
        {"source": "local.txt", "target": "own.txt", "mode": "copy"},
        {"source": str(elsewhere / "folder"), "target": "mine", "mode": "copy"},
    ]
    site.write(
        shell(
            "look",
            script,
            environment={**place, "extra_data": data, "variables": {"OUT": str(site.work / "out")}},
        )
    )
    said = site.run()
    assert said.code == 0, said.both
    contents = [EVENTS, b"local", b"odd", b"0", b"2", b"two", b"1"]
    assert [seen(site, "out", str(n)) for n in range(1, 8)] == [sha256(one) for one in contents]
    assert seen(site, "out", "link") == sha256(b"odd")
    assert seen(site, "out", "own") == sha256(b"local")
    assert seen(site, "out", "more") == sha256(b"localmore\n")
    assert (site.work / "out" / "mine").read_text() == ""
    spoiled = site.work / "out" / "spoiled"
    assert not spoiled.exists(), spoiled.read_text()
    assert environment(site, "out")["FASTHEP_DATA"] == str(site.attempt("look").resolve() / "data")
    after = {
        path: (path.lstat().st_mtime_ns, path.lstat().st_ino, path.lstat().st_size)
        for path in [*elsewhere.rglob("*"), site.work / "local.txt"]
    }
    assert after == before
    # Nothing of it is left in the records, but for the digest of what was fetched.
    assert not (site.attempt("look") / "data").exists()
    assert site.result("look").data == {server.url("/store/events.bin"): f"sha256:{sha256(EVENTS)}"}


def test_a_container_sees_data_wherever_it_is_to_be(
    site: Site, container_runtime: str, busybox_of: Callable[[str], str], server: FileServer
) -> None:
    server.files["/events.bin"] = EVENTS
    (site.work / "local.txt").write_bytes(b"local")
    script = (
        LOOK
        + SPOIL
        + """
look /data/sets/events.bin remote; look "/my data/x: y, z" local; look /opt/copy own
spoil /data/sets/events.bin; spoil "/my data/x: y, z"
echo more >>/opt/copy; look /opt/copy more
exit 0
"""
    )
    data = [
        {"source": server.url("/events.bin"), "target": "/data/sets/"},
        {"source": "local.txt", "target": "/my data/x: y, z"},
        {"source": "local.txt", "target": "/opt/copy", "mode": "copy"},
    ]
    site.write(
        shell(
            "look",
            script,
            environment={
                **in_image(container_runtime, busybox_of(container_runtime)),
                "extra_data": data,
                "variables": {"OUT": str(site.work / "out")},
            },
        )
    )
    said = site.run()
    assert said.code == 0, said.both
    assert seen(site, "out", "remote") == sha256(EVENTS)
    assert seen(site, "out", "local") == sha256(b"local")
    assert seen(site, "out", "more") == sha256(b"localmore\n")
    assert not (site.work / "out" / "spoiled").exists()
    assert (site.work / "local.txt").read_bytes() == b"local"
    assert sorted(path.name for path in site.attempt("look").iterdir() if path.is_dir()) == []


def test_on_the_host_an_absolute_target_is_refused_before_the_first_task(site: Site) -> None:
    (site.work / "local.txt").write_text("local")
    item = {"source": "local.txt", "target": "/data/x"}
    site.write(
        shell("first", ": >ran"), shell("second", "true", environment={"extra_data": [item]})
    )
    said = site.run()
    assert said.code == 4
    assert "only in a container may it be an absolute path" in said.err
    assert "FASTHEP_DATA" in said.err
    assert not site.up("ran")
    checked = site.run("check")
    assert checked.code == 4
    assert "only in a container may it be an absolute path" in " ".join(checked.out.split())


def test_https_is_fetched_from_a_server_whose_authority_the_user_trusts(
    site: Site, tmp_path: Path
) -> None:
    authority, certificate = made_certificates(tmp_path)
    with serving(certificate) as server:
        server.files["/events.bin"] = EVENTS
        item = server.url("/events.bin")
        line = 'sha256sum <"$FASTHEP_DATA/events.bin" >digest'
        site.write(shell("look", line, environment={"extra_data": [item]}))
        refused = site.run()
        assert refused.code == 4
        assert "the certificate of 127.0.0.1 is not trusted" in refused.err
        assert "SSL_CERT_FILE" in refused.err
        said = site.run(SSL_CERT_FILE=str(authority))
    assert said.code == 0, said.both
    assert (site.work / "digest").read_text().split()[0] == sha256(EVENTS)


def test_check_says_what_there_is_and_fetches_nothing(site: Site, server: FileServer) -> None:
    site.cache = site.root / "cache"
    server.files["/events.bin"] = EVENTS
    for number in range(3):
        (site.work / f"run{number}.root").write_text("12345")
    data = [server.url("/events.bin"), "run*.root"]
    site.write(shell("look", "true", environment={"extra_data": data}))
    said = site.run("check", "--format", "json")
    assert said.code == 0, said.both
    assert f"{server.url('/events.bin')}: 10.74Ki, to be fetched" in said.out
    assert "run*.root: 3 matches, 15 bytes" in said.out
    assert server.got("/events.bin") == 0
    assert site.run().code == 0
    assert (
        f"10.74Ki, in the cache, sha256:{sha256(EVENTS)[:12]}"
        in site.run("check", "--format", "json").out
    )
    assert server.got("/events.bin") == 1


def test_what_was_fetched_is_there_offline_when_the_server_is_gone(site: Site) -> None:
    site.cache = site.root / "cache"
    line = 'cat "$FASTHEP_DATA/events.bin" >copy'
    with serving() as server:
        server.files["/events.bin"] = EVENTS
        item = server.url("/events.bin")
        site.write(shell("look", line, environment={"extra_data": [item]}))
        empty = site.run("run", "--offline")
        assert empty.code == 4
        assert "nothing may be fetched" in empty.err
        assert "fasthep-flow pull" in empty.err
        assert site.run().code == 0
    (site.work / "copy").unlink()
    said = site.run("run", "--offline")
    assert said.code == 0, said.both
    assert (site.work / "copy").read_bytes() == EVENTS
    gone = site.run()
    assert gone.code == 4
    assert "cannot be reached: Connection refused" in gone.err


def test_a_source_that_changes_is_followed_unless_a_digest_says_what_it_must_be(
    site: Site, server: FileServer
) -> None:
    site.cache = site.root / "cache"
    line = 'cat "$FASTHEP_DATA/events.bin" >copy'
    server.files["/events.bin"] = b"one"
    item = {"source": server.url("/events.bin"), "digest": f"sha256:{sha256(b'one')}"}
    followed = shell("look", line, environment={"extra_data": [item["source"]]})
    site.write(followed)
    assert site.run().code == 0
    assert site.run().code == 0
    assert server.got("/events.bin") == 1
    server.files["/events.bin"] = b"two"
    assert site.run().code == 0
    assert (site.work / "copy").read_bytes() == b"two"
    site.write(shell("first", ": >ran"), shell("look", line, environment={"extra_data": [item]}))
    said = site.run()
    assert said.code == 4
    assert f"asked for is sha256:{sha256(b'one')}" in said.err
    assert f"found was sha256:{sha256(b'two')}" in said.err
    assert not site.up("ran")


@pytest.mark.parametrize("algorithm", ["md5", "adler32"])
def test_a_file_of_this_machine_is_what_its_digest_says_or_nothing_runs(
    site: Site, algorithm: str
) -> None:
    digests = {"md5": "5d41402abc4b2a76b9719d911017c592", "adler32": "062c0215"}
    digest = f"{algorithm}:{digests[algorithm]}"
    (site.work / "in.txt").write_bytes(b"hello")
    item = {"source": "in.txt", "digest": digest}
    site.write(shell("look", "cat in.txt >copy", environment={"extra_data": [item]}))
    assert site.run().code == 0
    (site.work / "in.txt").write_bytes(b"hallo")
    said = site.run()
    assert said.code == 4
    assert f"asked for is {digest}, found was {algorithm}:" in said.err


def test_two_tasks_see_other_data_at_the_same_name_at_the_same_time(
    site: Site, server: FileServer
) -> None:
    tasks = []
    for name in ("a", "b"):
        server.files[f"/{name}/in.txt"] = name.encode()
        line = (
            f": >up-{name}; until [ -e up-a ] && [ -e up-b ]; do sleep .02; done;"
            f' cat "$FASTHEP_DATA/in.txt" >out-{name}'
        )
        data = [server.url(f"/{name}/in.txt")]
        tasks.append(shell(name, line, environment={"extra_data": data}))
    site.write(*tasks)
    assert site.run().code == 0
    assert [(site.work / f"out-{name}").read_text() for name in "ab"] == ["a", "b"]


def test_a_task_that_takes_a_link_away_by_which_it_sees_data_has_failed(site: Site) -> None:
    (site.root / "real").write_bytes(b"real")
    (site.work / "link").symlink_to(site.root / "real")
    site.write(shell("spoil", "cat link; rm link", environment={"extra_data": ["link"]}))
    said = site.run()
    assert said.code == 1
    assert f"{site.work / 'link'} was taken away while the task ran" in said.both
    assert site.cause("spoil")[:2] == ("failed", "environment")


def test_what_holds_the_folder_where_the_task_writes_is_refused(
    site: Site, place: dict[str, Any]
) -> None:
    site.write(shell("look", ": >ran", environment={**place, "extra_data": [".."]}))
    said = site.run()
    assert said.code == 4
    assert "where the task is to write" in said.err
    assert not site.up("ran")


def test_a_link_in_a_folder_that_leads_out_of_it_is_no_way_out(
    site: Site, place: dict[str, Any]
) -> None:
    (site.root / "secret").write_bytes(b"secret")
    folder = site.root / "folder"
    folder.mkdir()
    (folder / "out").symlink_to(site.root / "secret")
    (folder / "in").symlink_to("file")
    (folder / "file").write_bytes(b"file")
    line = (
        'cat "$FASTHEP_DATA/seen/in" "$FASTHEP_DATA/mine/in" >in;'
        ' for one in seen mine; do readlink "$FASTHEP_DATA/$one/out"; done >out;'
        ' echo more >>"$FASTHEP_DATA/mine/in"'
    )
    data = [
        {"source": str(folder), "target": "seen"},
        {"source": str(folder), "target": "mine", "mode": "copy"},
    ]
    site.write(shell("look", line, environment={**place, "extra_data": data}))
    said = site.run()
    assert said.code == 0, said.both
    assert (site.work / "in").read_text() == "filefile"
    # Nothing was read through it, to copy it.
    assert (site.work / "out").read_text().splitlines() == [str(site.root / "secret")] * 2
    assert (folder / "file").read_bytes() == b"file"


def test_objects_and_files_of_xrootd_come_to_a_task_like_others(
    site: Site, place: dict[str, Any]
) -> None:
    if reason := why_no_xrootd():
        if REQUIRED:
            pytest.fail(f"{reason}; tests/testbed/up.sh installs it", pytrace=False)
        pytest.skip(reason)
    with buckets() as store, storage() as eos:
        site.variables |= store.variables
        store.put("bucket", "runs/one.root", b"one")
        store.put("bucket", "runs/more/two.root", b"two")
        eos.put("user/a/ada/three.root", b"three")
        line = (
            'cd "$FASTHEP_DATA" && for one in one.root all/more/two.root three.root;'
            ' do sha256sum "$one"; touch "$one" && echo touched; done >"$OUT"; true'
        )
        data = [
            "s3://bucket/runs/one.root",
            {"source": "s3://bucket/runs", "target": "all"},
            eos.url("/user/a/ada/three.root"),
        ]
        variables = {"OUT": str(site.work / "out")}
        site.write(
            shell("look", line, environment={**place, "extra_data": data, "variables": variables})
        )
        said = site.run()
    assert said.code == 0, said.both
    lines = (site.work / "out").read_text().splitlines()
    assert [one.split()[0] for one in lines] == [sha256(b"one"), sha256(b"two"), sha256(b"three")]


def test_a_workflow_that_is_a_task_does_not_hand_its_data_folder_on(site: Site) -> None:
    (site.work / "in.txt").write_text("in")
    line = 'echo "${FASTHEP_DATA-none}" >seen'
    site.write(shell("look", line))
    assert site.run(FASTHEP_DATA="/of/another").code == 0
    assert (site.work / "seen").read_text() == "none\n"
