"""Image references."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasthep_flow.language.images import parse_image
from fasthep_flow.language.refusals import Refusal

DIGEST = "sha256:" + "0123456789abcdef" * 4


def refusal(text: str) -> tuple[str, str | None]:
    with pytest.raises(Refusal) as caught:
        parse_image(text)
    return caught.value.message, caught.value.hint


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("debian:12", "docker.io/library/debian:12"),
        ("docker.io/debian:12", "docker.io/library/debian:12"),
        ("docker.io/library/debian:12", "docker.io/library/debian:12"),
        ("index.docker.io/debian:12", "docker.io/library/debian:12"),
        ("rootproject/root:6.28.04-ubuntu22.04", "docker.io/rootproject/root:6.28.04-ubuntu22.04"),
        (
            "docker.io/rootproject/root:6.28.04-ubuntu22.04",
            "docker.io/rootproject/root:6.28.04-ubuntu22.04",
        ),
        ("docker://python:3.12", "docker.io/library/python:3.12"),
        ("docker://ghcr.io/a/b:1", "ghcr.io/a/b:1"),
        (
            "gitlab-registry.cern.ch/group/sub/project/img:tag",
            "gitlab-registry.cern.ch/group/sub/project/img:tag",
        ),
        ("localhost/mine:1", "localhost/mine:1"),
        ("localhost:5000/mine:1", "localhost:5000/mine:1"),
        ("127.0.0.1:5000/testbed/busybox:1", "127.0.0.1:5000/testbed/busybox:1"),
        ("[::1]:5000/mine:1", "[::1]:5000/mine:1"),
        ("registry:5000/mine:1", "registry:5000/mine:1"),
        ("Uppercase/mine:1", "Uppercase/mine:1"),
        (f"debian@{DIGEST}", f"docker.io/library/debian@{DIGEST}"),
        (f"debian:12@{DIGEST}", f"docker.io/library/debian:12@{DIGEST}"),
        (f"localhost:5000/a@{DIGEST}", f"localhost:5000/a@{DIGEST}"),
        ("a/b__c/d-e--f/g.h:v1_x-Y.z", "docker.io/a/b__c/d-e--f/g.h:v1_x-Y.z"),
    ],
)
def test_references_in_full(text: str, full: str) -> None:
    image = parse_image(text)
    assert (image.full, image.is_tagged) == (full, True)


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("debian", "docker.io/library/debian:latest"),
        ("rootproject/root", "docker.io/rootproject/root:latest"),
        ("localhost:5000/a", "localhost:5000/a:latest"),
    ],
)
def test_no_tag_means_latest_and_is_told(text: str, full: str) -> None:
    image = parse_image(text)
    assert (image.full, image.is_tagged) == (full, False)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("Debian:12", "capital letters", "did you mean 'debian:12'?"),
        (
            "docker.io/RootProject/root:1",
            "capital letters",
            "did you mean 'docker.io/rootproject/root:1'?",
        ),
        ("debian:", "an empty tag", "a tag is letters"),
        ("debian:-1", "a tag that is none", "a tag is letters"),
        ("debian:" + "x" * 129, "a tag that is none", "a tag is letters"),
        ("debian@sha256:123", "a digest that is none", "64 digits"),
        (f"debian@{DIGEST.upper()}", "a digest that is none", "64 digits"),
        (f"debian@sha512:{'0' * 128}", "a digest that is none", "64 digits"),
        ("debian@", "a digest that is none", "64 digits"),
        ("", "the image has no name", "image: null"),
        ("  ", "the image has no name", "image: null"),
        ("debian :12", "is not an image reference", "remove the blanks"),
        ("debian:12 ", "a tag that is none", "a tag is letters"),
        ("a//b", "is not an image reference", "such as"),
        ("-a/b", "is not an image reference", "such as"),
        ("a..b/c:1", "names no registry", "such as"),
        ("a.b:port/c:1", "names no registry", "such as"),
        ("https://ghcr.io/a/b", "is an address", "remove 'https://'"),
        ("0123456789abcdef" * 4, "is the id of an image", "such as"),
        ("a/" * 130 + "a:1", "is too long a name", None),
        ("dëbian", "is not an image reference", "such as"),
        ("debian\n", "is not an image reference", "remove the blanks"),
        ("--privileged", "is not an image reference", "such as"),
        ("debian,source=/", "is not an image reference", "such as"),
    ],
)
def test_what_is_no_reference(text: str, message: str, hint: str | None) -> None:
    said, advice = refusal(text)
    assert message in said
    assert hint is None or hint in (advice or "")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("oras://ghcr.io/a/b:1", "'oras://' images"),
        ("library://a/b", "'library://' images"),
        ("shub://a/b", "'shub://' images"),
        ("file:///a/b.sif", "'file://' images"),
        ("docker-archive:x.tar", "'docker-archive:' images"),
        ("docker-daemon:x:1", "'docker-daemon:' images"),
        ("oci-archive:x.tar", "'oci-archive:' images"),
        ("oci:folder", "'oci:' images"),
        ("image.sif", "image files such as 'image.sif'"),
        ("./x.SIF", "image files such as './x.SIF'"),
        ("/abs/x.simg", "image files such as '/abs/x.simg'"),
        ("a/x.img", "image files such as 'a/x.img'"),
        ("/cvmfs/unpacked.cern.ch/registry.hub.docker.com/a/b:1", "unpacked images of /cvmfs"),
        ("/opt/image", "unpacked folders such as '/opt/image'"),
        ("./image", "unpacked folders such as './image'"),
        ("../image", "unpacked folders such as '../image'"),
        ("~/image", "unpacked folders such as '~/image'"),
        (".", "unpacked folders such as '.'"),
    ],
)
def test_what_comes_later_is_refused_by_name(text: str, kind: str) -> None:
    said, _ = refusal(text)
    assert said == f"{kind} are not supported yet"


def test_an_unpacked_image_has_a_name_in_a_registry() -> None:
    _, hint = refusal("/cvmfs/unpacked.cern.ch/registry.hub.docker.com/rootproject/root:6.30")
    assert hint == "did you mean 'docker.io/rootproject/root:6.30'?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<image name>", "'<image name>' is a placeholder"),
        (
            "gitlab.cern/<namespace>/<project>/<my image>",
            "'<namespace>', '<project>' and '<my image>' are placeholders",
        ),
    ],
)
def test_placeholders_are_named(text: str, message: str) -> None:
    assert refusal(text)[0] == message


_part = st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+)?", fullmatch=True)


@given(
    st.sampled_from(["", "docker.io/", "ghcr.io/", "localhost:5000/"]),
    st.lists(_part, min_size=1, max_size=4).map("/".join),
    st.sampled_from(["", ":1", ":v1.2-x", "@" + DIGEST, ":1@" + DIGEST]),
)
def test_what_is_full_already_stays_as_it_is(host: str, path: str, version: str) -> None:
    try:
        full = parse_image(host + path + version).full
    except Refusal as refused:
        assert "not supported yet" in refused.message or "id of an image" in refused.message  # noqa: PT017
        return
    assert parse_image(full).full == full
    assert parse_image(f"docker://{full}").full == full
    assert full.count("/") >= 1


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        full = parse_image(text).full
    except Refusal as refused:
        assert refused.message  # noqa: PT017
    else:
        assert full.isascii()
        assert not any(character in full for character in " \n\t,=")
        assert not full.startswith("-")
