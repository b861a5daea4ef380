"""Images as authors name them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.language.made import TASK, Bench

from fasthep_flow.language.images import ImageReference, parse_image
from fasthep_flow.language.refusals import Refusal
from fasthep_flow.model import Image

DIGEST = "sha256:" + "0123456789abcdef" * 4
FOLDER = Path("/data/analysis")
UNPACKED = "/cvmfs/unpacked.cern.ch/registry.hub.docker.com/rootproject/root:6.30"


def parse(text: str) -> ImageReference:
    return parse_image(text, FOLDER)


def refusal(text: str) -> tuple[str, str | None]:
    with pytest.raises(Refusal) as caught:
        parse(text)
    return caught.value.message, caught.value.hint


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("debian:12", "docker.io/library/debian:12"),
        ("docker.io/debian:12", "docker.io/library/debian:12"),
        ("docker.io/library/debian:12", "docker.io/library/debian:12"),
        ("index.docker.io/debian:12", "docker.io/library/debian:12"),
        ("registry.hub.docker.com/atlas/x:1", "docker.io/atlas/x:1"),
        ("registry.hub.docker.com/library/debian:12", "docker.io/library/debian:12"),
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
        (
            "gitlab-registry.cern.ch/a/b/c/d/e/f/g:2024-01-01",
            "gitlab-registry.cern.ch/a/b/c/d/e/f/g:2024-01-01",
        ),
        ("gitlab.cern/group/project/image:1", "gitlab.cern/group/project/image:1"),
        ("localhost/mine:1", "localhost/mine:1"),
        ("localhost/mine:latest", "localhost/mine:latest"),
        ("localhost:5000/mine:1", "localhost:5000/mine:1"),
        ("127.0.0.1:5000/testbed/busybox:1", "127.0.0.1:5000/testbed/busybox:1"),
        ("[::1]:5000/mine:1", "[::1]:5000/mine:1"),
        ("registry:5000/mine:1", "registry:5000/mine:1"),
        ("Uppercase/mine:1", "Uppercase/mine:1"),
        (f"debian@{DIGEST}", f"docker.io/library/debian@{DIGEST}"),
        (f"debian:12@{DIGEST}", f"docker.io/library/debian:12@{DIGEST}"),
        (f"debian:latest@{DIGEST}", f"docker.io/library/debian:latest@{DIGEST}"),
        (f"localhost:5000/a@{DIGEST}", f"localhost:5000/a@{DIGEST}"),
        ("a/b__c/d-e--f/g.h:v1_x-Y.z", "docker.io/a/b__c/d-e--f/g.h:v1_x-Y.z"),
        ("image.sif:1", "docker.io/library/image.sif:1"),
        ("ghcr.io/a/rocks.img:1", "ghcr.io/a/rocks.img:1"),
    ],
)
def test_references_in_full(text: str, name: str) -> None:
    assert parse(text) == ImageReference(name)


@pytest.mark.parametrize(
    ("text", "form", "name"),
    [
        ("oras://ghcr.io/a/b:1", "oras", "oras://ghcr.io/a/b:1"),
        ("oras://127.0.0.1:5000/testbed/sif:1", "oras", "oras://127.0.0.1:5000/testbed/sif:1"),
        (f"oras://ghcr.io/a/b@{DIGEST}", "oras", f"oras://ghcr.io/a/b@{DIGEST}"),
        ("docker-daemon:mine:1", "docker-daemon", "docker-daemon:docker.io/library/mine:1"),
        ("docker-daemon://a/b:1", "docker-daemon", "docker-daemon:docker.io/a/b:1"),
        ("docker-daemon:localhost/a:latest", "docker-daemon", "docker-daemon:localhost/a:latest"),
        ("docker-daemon:a:latest", "docker-daemon", "docker-daemon:docker.io/library/a:latest"),
        ("docker-archive:x.tar", "docker-archive", "docker-archive:/data/analysis/x.tar"),
        ("docker-archive:./x.tar", "docker-archive", "docker-archive:/data/analysis/x.tar"),
        ("docker-archive:/abs/x.tar.gz", "docker-archive", "docker-archive:/abs/x.tar.gz"),
        ("docker-archive://x.tar", "docker-archive", "docker-archive:/data/analysis/x.tar"),
        ("docker-archive:///abs/x.tar", "docker-archive", "docker-archive:/abs/x.tar"),
        (
            "docker-archive:x.tar:debian:12",
            "docker-archive",
            "docker-archive:/data/analysis/x.tar:docker.io/library/debian:12",
        ),
        ("oci-archive:x.tar", "oci-archive", "oci-archive:/data/analysis/x.tar"),
        ("oci-archive:x.tar:v1", "oci-archive", "oci-archive:/data/analysis/x.tar:v1"),
        ("oci-archive:../x", "oci-archive", "oci-archive:/data/analysis/../x"),
        ("oci:folder", "oci", "oci:/data/analysis/folder"),
        ("oci:folder:v1", "oci", "oci:/data/analysis/folder:v1"),
        ("oci:/abs/folder/", "oci", "oci:/abs/folder"),
        ("oci://///abs//folder/", "oci", "oci:/abs/folder"),
        ("oci:1.2", "oci", "oci:/data/analysis/1.2"),
        ("image.sif", "sif", "/data/analysis/image.sif"),
        ("./x.SIF", "sif", "/data/analysis/x.SIF"),
        ("images/x.sif", "sif", "/data/analysis/images/x.sif"),
        ("../x.sif", "sif", "/data/analysis/../x.sif"),
        ("/abs/x.simg", "sif", "/abs/x.simg"),
        ("a/x.img", "sif", "/data/analysis/a/x.img"),
        ("/abs/a b, c:d.sif", "sif", "/abs/a b, c:d.sif"),
        ("file:///abs/x.sif", "sif", "/abs/x.sif"),
        ("file:///abs/a%20b.sif", "sif", "/abs/a b.sif"),
        ("file://localhost/abs/x.sif", "sif", "/abs/x.sif"),
        ("file:///abs/folder", "folder", "/abs/folder"),
        ("~/x.sif", "sif", "/home/ada/x.sif"),
        ("~/image", "folder", "/home/ada/image"),
        (UNPACKED, "folder", UNPACKED),
        (
            "/cvmfs/unpacked.cern.ch/gitlab-registry.cern.ch/a/b:1",
            "folder",
            "/cvmfs/unpacked.cern.ch/gitlab-registry.cern.ch/a/b:1",
        ),
        (
            "/cvmfs/singularity.opensciencegrid.org/opensciencegrid/tensorflow:latest",
            "folder",
            "/cvmfs/singularity.opensciencegrid.org/opensciencegrid/tensorflow:latest",
        ),
        ("/cvmfs/belle.cern.ch/images/x.sif", "sif", "/cvmfs/belle.cern.ch/images/x.sif"),
        ("/opt/image", "folder", "/opt/image"),
        ("//opt//image", "folder", "/opt/image"),
        ("/opt/image/", "folder", "/opt/image"),
        ("/opt/image.sif/", "folder", "/opt/image.sif"),
        ("./image", "folder", "/data/analysis/image"),
        ("image/", "folder", "/data/analysis/image"),
        ("../image", "folder", "/data/analysis/../image"),
    ],
)
def test_what_is_in_no_registry(
    text: str, form: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    image = parse(text)
    assert (image.form, image.name, image.remarks) == (form, name, ())


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("debian:12", None),
        ("oras://ghcr.io/a/b:1", None),
        ("docker-daemon:mine:1", None),
        ("docker-archive:x.tar", "/data/analysis/x.tar"),
        ("docker-archive:x.tar:debian:12", "/data/analysis/x.tar"),
        ("oci-archive:x.tar:v1", "/data/analysis/x.tar"),
        ("oci:folder", "/data/analysis/folder"),
        ("/abs/a:b.sif", "/abs/a:b.sif"),
        (UNPACKED, UNPACKED),
    ],
)
def test_the_path_of_what_is_a_file_or_folder(text: str, path: str | None) -> None:
    image = parse(text)
    assert Image(name=image.name, form=image.form).path == path


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("debian", "docker.io/library/debian:latest"),
        ("rootproject/root", "docker.io/rootproject/root:latest"),
        ("localhost:5000/a", "localhost:5000/a:latest"),
        ("oras://ghcr.io/a/b", "oras://ghcr.io/a/b:latest"),
        ("docker-daemon:a", "docker-daemon:docker.io/library/a:latest"),
    ],
)
def test_no_tag_means_latest_and_is_told(text: str, name: str) -> None:
    image = parse(text)
    assert image.name == name
    assert image.remarks == (
        ("the image has no tag: 'latest' is meant", f"write {name}, or a version"),
    )


@pytest.mark.parametrize("text", ["debian:latest", "oras://ghcr.io/a/b:latest"])
def test_latest_is_told_where_others_push_it(text: str) -> None:
    ((message, _),) = parse(text).remarks
    assert message == "'latest' is another image from one day to the next"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("gitlab.cern.ch/group/project/image:1", "gitlab-registry.cern.ch/group/project/image:1"),
        ("hub.docker.com/rootproject/root:6.30", "docker.io/rootproject/root:6.30"),
        ("github.com/group/image:1", "ghcr.io/group/image:1"),
    ],
)
def test_a_web_site_in_place_of_its_registry_is_told(text: str, meant: str) -> None:
    site = text.partition("/")[0]
    assert parse(text).remarks == ((f"{site} is not a registry", f"did you mean {meant}?"),)


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
        ("debian,source=a", "is not an image reference", "such as"),
        ("https://hub.docker.com/r/a/b", "is an address", "did you mean 'docker.io/a/b'?"),
        ("https://hub.docker.com/_/debian", "is an address", "did you mean 'docker.io/debian'?"),
        ("https://example.org/x.sif", "is an address", "fetch the file first"),
        ("docker://https://a/b", "is an address", "remove 'https://'"),
        ("oras://a/b:1", "names no registry", "registry/name:tag"),
        ("oras://x.sif", "names no registry", "registry/name:tag"),
        (f"docker-daemon:{DIGEST}", "is the id of an image", "such as"),
        ("docker-daemon:", "is not an image reference", "such as"),
        ("library://a/b", "has no library of its own", "apptainer pull --library URL"),
        ("shub://a/b", "Singularity Hub is closed", "in a registry"),
        ("containers-storage:a", "podman's own store", "name alone"),
        ("dir:folder", "no engine runs them", "skopeo copy"),
        ("instance://a", "a container of its own", "the image of that instance"),
        ("docker-archive:", "names no file", "behind the ':'"),
        ("docker-archive:x.tar:", "ends with a ':'", "remove it"),
        ("docker-archive:x.tar:A", "capital letters", "did you mean 'docker-archive:x.tar:a'?"),
        ("oci:folder:a b", "names no image that could be in there", "behind the last ':'"),
        ("x.tar", "what kind of archive", "write 'docker-archive:x.tar' for what 'docker save'"),
        ("/abs/x.tar.gz", "what kind of archive", "'docker-archive:/abs/x.tar.gz'"),
        ("./x.tgz", "what kind of archive", "oci-archive: for an OCI image"),
        ("x.sqsh", "a squashed folder", "apptainer build image.sif"),
        ("/", "is this machine itself", "image: null"),
        ("file://x.sif", "no address of a file", "three slashes"),
        ("~nobody.of.that.name/x.sif", "no such home", "the whole path"),
        ("/abs/a\nb.sif", "holds control characters", None),
        (f"x.sif@{DIGEST}", "has a digest, but is a file", "the path alone"),
    ],
)
def test_what_is_no_reference(text: str, message: str, hint: str | None) -> None:
    said, advice = refusal(text)
    assert message in said
    assert hint is None or hint in (advice or "")


def test_an_archive_lies_in_no_folder_with_a_colon() -> None:
    with pytest.raises(Refusal, match="holds a ':'"):
        parse_image("oci-archive:x.tar", Path("/data/a:b"))
    assert parse_image("x.sif", Path("/data/a:b")).name == "/data/a:b/x.sif"


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
        name = parse(host + path + version).name
    except Refusal as refused:
        assert "has a digest, but is a file" in refused.message or "id of an image" in (  # noqa: PT017
            refused.message
        )
        return
    assert parse(name).name == name
    assert parse(f"docker://{name}").name == name
    assert name.count("/") >= 1


@given(st.text(max_size=80))
def test_any_text_is_an_image_or_refused(text: str) -> None:
    try:
        image = parse(text)
    except Refusal as refused:
        assert refused.message  # noqa: PT017
        return
    assert parse(image.name).name == image.name
    path = Image(name=image.name, form=image.form).path
    if path is None:
        assert image.name.isascii()
        assert not any(character in image.name for character in " \n\t,=")
        assert not image.name.startswith("-")
    else:
        assert path.startswith("/")
        assert image.name.isprintable()


@pytest.mark.parametrize(
    ("image", "message", "hint"),
    [
        ("x.sif", "there is no such file on this machine", "x.sif"),
        ("./root", "there is no such folder on this machine", "root"),
        ("docker-archive:x.tar:a:1", "there is no such file on this machine", "x.tar"),
        ("oci:layout", "there is no such folder on this machine", "layout"),
    ],
)
def test_a_file_that_is_not_there_is_told(
    bench: Bench, image: str, message: str, hint: str
) -> None:
    (warning,) = bench.plan(f"{TASK}    environment:\n      image: {image}\n").warnings
    assert warning.splitlines()[0] == (f"workflow.yaml:6:14: tasks[0].environment.image: {message}")
    assert f"^ it was looked for as {bench.folder / hint}" in warning


def test_a_file_in_place_of_a_folder_is_told(bench: Bench) -> None:
    bench.write("image", "")
    bench.write("folder.sif/usr", "")
    text = f"{TASK}    environment:\n      image: "
    (warning,) = bench.plan(f"{text}./image\n").warnings
    assert "this is a file, and a folder is meant" in warning
    assert "the name of an image file ends in .sif" in warning
    (warning,) = bench.plan(f"{text}folder.sif\n").warnings
    assert "this is a folder, and a file is meant" in warning
    assert bench.plan(f"{text}folder.sif/\n").warnings == ()


def test_files_that_are_there_and_cvmfs_are_not_told(bench: Bench) -> None:
    bench.write("a b.sif", "")
    bench.write("root/usr/x", "")
    for image in ("a b.sif", "./root", "/cvmfs/no.such.repository.example/image", UNPACKED):
        plan = bench.plan(f"{TASK}    environment:\n      image: {image}\n")
        assert plan.warnings == ()


def test_a_file_that_many_tasks_name_is_told_once(bench: Bench) -> None:
    tasks = "".join(
        f"  - name: t{number}\n    type: fasthep_flow.operators.BashOperator\n"
        "    kwargs: {bash_command: ls}\n    environment: {image: x.sif}\n"
        for number in range(3)
    )
    assert len(bench.plan(f"tasks:\n{tasks}").warnings) == 1
