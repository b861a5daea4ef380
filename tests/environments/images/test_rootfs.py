"""Layers of images, and those that nobody should trust."""

import gzip
import hashlib
import io
import os
import shutil
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fasthep_flow.environments.images.rootfs import (
    BadLayerError,
    apply_layer,
    remove_folder,
    within_root,
)


def folder(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    return info, b""


def file(
    name: str, text: bytes = b"", mode: int = 0o644, mtime: int = 0
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(text), mode, mtime
    return info, text


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def special(name: str, kind: bytes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.devmajor, info.devminor = kind, 1, 3
    return info, b""


def layer(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info, text in members:
            archive.addfile(info, io.BytesIO(text))
    return buffer.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


def lay(root: Path, *members: tuple[tarfile.TarInfo, bytes]) -> None:
    apply_layer(root, io.BytesIO(layer(*members)))


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_later_layers_lie_above_earlier_ones(root: Path) -> None:
    lay(root, folder("etc"), file("etc/a", b"1"), file("etc/b", b"1"))
    lay(root, file("etc/a", b"22"), file("new/deep/c"))
    assert (root / "etc/a").read_bytes() == b"22"
    assert names(root) == ["etc", "etc/a", "etc/b", "new", "new/deep", "new/deep/c"]


def test_what_a_layer_takes_away_is_gone(root: Path) -> None:
    lay(root, file("a"), folder("d"), file("d/b"), file("d/c"))
    lay(root, file(".wh.a"), file("d/.wh.b"), file(".wh.never-there"))
    assert names(root) == ["d", "d/c"]


def test_a_layer_takes_away_nothing_of_its_own(root: Path) -> None:
    lay(root, file("d/old"))
    lay(root, file("d/new/x"), file("d/.wh..wh..opq"), file("d/.wh.new"))
    assert names(root) == ["d", "d/new", "d/new/x"]


@pytest.mark.parametrize("name", [".wh.", ".wh...", "d/.wh.."])
def test_a_layer_cannot_take_away_what_is_outside(root: Path, name: str) -> None:
    (root.parent / "outside").write_text("stays")
    lay(root, folder("d"))
    with pytest.raises(BadLayerError, match="hides nothing"):
        lay(root, file(name))
    assert (root.parent / "outside").exists()


def test_kinds_replace_one_another(root: Path) -> None:
    lay(root, folder("a"), file("a/x"), file("b"), link("c", "b"), folder("d"), file("d/keep"))
    lay(root, file("a", b"now a file"), folder("b"), file("b/y"), folder("c"), folder("d"))
    assert (root / "a").read_bytes() == b"now a file"
    assert (root / "c").is_dir()
    assert not (root / "c").is_symlink()
    assert (root / "d/keep").exists()


def test_a_link_is_replaced_and_not_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("stays")
    lay(root, link("a", str(outside)))
    lay(root, file("a", b"mine"))
    assert outside.read_text() == "stays"
    assert (root / "a").read_bytes() == b"mine"


@pytest.mark.parametrize("target", ["{outside}", "../outside", "../../../../..{outside}"])
def test_links_lead_nowhere_but_into_the_image(root: Path, tmp_path: Path, target: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    lay(root, link("way", target.format(outside=outside)))
    lay(root, file("way/in"), link("way/hard", "way/in", tarfile.LNKTYPE))
    assert not list(outside.iterdir())
    found = [path for path in root.rglob("in") if not path.is_symlink()]
    assert len(found) == 1
    assert found[0].stat().st_nlink == 2


def test_absolute_links_of_an_image_work(root: Path) -> None:
    lay(root, folder("run"), folder("var"), link("var/run", "/run"))
    lay(root, file("var/run/lock"))
    assert (root / "run/lock").exists()
    assert (root / "var/run").readlink() == Path("/run")


@pytest.mark.parametrize("name", ["../out", "a/../../out", "a/b/../../../out"])
def test_paths_that_lead_out_are_refused(root: Path, name: str) -> None:
    with pytest.raises(BadLayerError, match="leads out"):
        lay(root, file(name))
    assert not (root.parent / "out").exists()


def test_absolute_paths_are_the_image_s(root: Path) -> None:
    lay(root, file("/etc/motd", b"hello"))
    assert (root / "etc/motd").read_bytes() == b"hello"


@pytest.mark.parametrize("target", ["../secret", "/../secret", "nowhere", "d", ""])
def test_hard_links_to_what_is_no_file_of_the_image_are_refused(root: Path, target: str) -> None:
    (root.parent / "secret").write_text("secret")
    with pytest.raises(BadLayerError, match="link"):
        lay(root, folder("d"), link("a", target, tarfile.LNKTYPE))
    assert not (root / "a").exists()


@pytest.mark.parametrize("member", [link("a", ""), file("x" * 300), link("a", "x" * 5000)])
def test_what_no_folder_can_hold_is_told(root: Path, member: tuple[tarfile.TarInfo, bytes]) -> None:
    with pytest.raises(BadLayerError, match="no folder can hold"):
        lay(root, member)


def test_links_in_a_circle_are_refused(root: Path) -> None:
    with pytest.raises(BadLayerError, match="circle"):
        lay(root, link("a", "b"), link("b", "a"), file("a/x"))


def test_nobody_gets_another_s_rights_or_a_device(root: Path) -> None:
    lay(
        root,
        file("su", mode=0o6755),
        folder("shared", mode=0o2775),
        folder("tmp", mode=0o1777),
        special("null", tarfile.CHRTYPE),
        special("disk", tarfile.BLKTYPE),
        special("pipe", tarfile.FIFOTYPE),
    )
    assert names(root) == ["shared", "su", "tmp"]
    modes = {name: stat.S_IMODE((root / name).stat().st_mode) for name in names(root)}
    assert modes == {"su": 0o755, "shared": 0o775, "tmp": 0o1777}
    assert (root / "su").stat().st_uid == os.getuid()


def test_what_nobody_may_read_can_still_be_removed(root: Path) -> None:
    lay(root, folder("closed", mode=0), file("closed/x", b"1", mode=0))
    assert (root / "closed/x").read_bytes() == b"1"
    (root / "closed").chmod(0)
    remove_folder(root)
    assert not root.exists()


def test_times_are_kept_by_which_python_knows_its_modules(root: Path) -> None:
    lay(root, file("a.py", mtime=1_500_000_000))
    assert (root / "a.py").stat().st_mtime == 1_500_000_000


def test_compressed_layers_are_read(root: Path) -> None:
    apply_layer(root, io.BytesIO(gzip.compress(layer(file("a", b"x" * 3_000_000)))))
    assert (root / "a").stat().st_size == 3_000_000


def test_a_layer_of_zstd_without_zstd_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(BadLayerError, match="zstd, and that is not installed"):
        apply_layer(root, io.BytesIO(b"\x28\xb5\x2f\xfd" + b"x" * 100))


def test_another_layer_than_the_digest_says_is_refused(root: Path) -> None:
    data = gzip.compress(layer(file("a")))
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    apply_layer(root, io.BytesIO(data), digest)
    with pytest.raises(BadLayerError, match=digest):
        apply_layer(root, io.BytesIO(gzip.compress(layer(file("b")))), digest)


@pytest.mark.parametrize(
    "data",
    [
        b"no archive at all",
        gzip.compress(b"nor this" * 1000),
        gzip.compress(layer(file("a", os.urandom(100_000))))[:50_000],
        layer(file("a", b"x" * 100_000))[:50_000],
        b"\x1f\x8b damaged",
        b"",
    ],
    ids=["text", "packed text", "packed and cut", "cut", "packed by nobody", "nothing"],
)
def test_a_damaged_layer_is_told(root: Path, data: bytes) -> None:
    with pytest.raises(BadLayerError, match="cannot be read"):
        apply_layer(root, io.BytesIO(data))


def test_where_a_path_leads_within_a_root(root: Path) -> None:
    lay(root, link("abs", "/etc"), link("rel", "../../etc"), folder("etc"), link("etc/up", ".."))
    for path in ("abs/x", "/rel/x", "etc/up/etc/x", "../../abs/./x"):
        assert within_root(str(root), path) == f"{root}/etc/x"


_NAMES = st.lists(st.sampled_from(["a", "b", "c", "..", ".", ".wh.a", ".wh..wh..opq"]), max_size=4)
_PATHS = st.builds(lambda slash, parts: slash + "/".join(parts), st.sampled_from(["", "/"]), _NAMES)
_MEMBERS = st.one_of(
    st.builds(folder, _PATHS),
    st.builds(file, _PATHS, st.just(b"from a layer")),
    st.builds(link, _PATHS, _PATHS),
    st.builds(link, _PATHS, _PATHS, st.just(tarfile.LNKTYPE)),
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(layers=st.lists(st.lists(_MEMBERS, max_size=6), max_size=3))
def test_whatever_is_in_the_layers_nothing_outside_changes(
    tmp_path: Path, layers: list[list[tuple[tarfile.TarInfo, bytes]]]
) -> None:
    shutil.rmtree(tmp_path / "yard", ignore_errors=True)
    root = tmp_path / "yard" / "in" / "root"
    root.mkdir(parents=True)
    for name in "abc":
        (tmp_path / "yard" / name).write_text("stays")
        (tmp_path / "yard" / "in" / name).write_text("stays")
    for members in layers:
        try:
            lay(root, *members)
        except BadLayerError:
            break
    for top in (tmp_path / "yard", tmp_path / "yard" / "in"):
        assert {path.name for path in top.iterdir()} <= {"a", "b", "c", "in", "root"}
        assert [(top / name).read_text() for name in "abc"] == ["stays"] * 3
        assert all((top / name).stat().st_nlink == 1 for name in "abc")
