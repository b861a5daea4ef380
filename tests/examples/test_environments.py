"""The workflow of the specification page, with images that can be had here."""

import contextlib
import http.client
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REGISTRY = "127.0.0.1:5000"
# Podman pushes the one, docker the other.
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
# Stands for ROOT: says how it was called, and reads the macro and the variables.
ROOT = """\
#!/bin/sh
echo "root $*"
grep -c TH1D "$2"
echo "$PEAK_EVENTS events at $PEAK_MASS GeV"
"""


def digest(image: str) -> str:
    """What the registry says the image's digest is."""
    repository, _, tag = image.removeprefix(f"{REGISTRY}/").partition(":")
    with contextlib.closing(http.client.HTTPConnection(REGISTRY, timeout=30)) as registry:
        path = f"/v2/{repository}/manifests/{tag}"
        registry.request("HEAD", path, headers={"Accept": ", ".join(MANIFESTS)})
        answer = registry.getresponse()
        assert answer.status == http.HTTPStatus.OK
        return answer.headers["Docker-Content-Digest"]


def is_here(engine: str, image: str) -> bool:
    argv = [engine, "image", "inspect", image]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


@pytest.fixture
def images(engine: str, python_image: str, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """An image with a ``root``, and one for the statistics: pushed, and not on this machine."""
    context = tmp_path / "image"
    context.mkdir()
    (context / "root").write_text(ROOT)
    (context / "root").chmod(0o755)
    tag = uuid.uuid4().hex[:12]
    names = (f"{REGISTRY}/testbed/root:{tag}", f"{REGISTRY}/testbed/statistics:{tag}")
    steps = ("COPY root /usr/local/bin/root", f"LABEL test={tag}")
    for name, step in zip(names, steps, strict=True):
        (context / "Containerfile").write_text(f"FROM {python_image}\n{step}\n")
        for argv in (
            [engine, "build", "--file", f"{context}/Containerfile", "--tag", name, str(context)],
            [engine, "push", name],
            [engine, "rmi", name],
        ):
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        assert not is_here(engine, name)
    yield names
    subprocess.run([engine, "rmi", *names], capture_output=True, check=False)


@pytest.mark.prefect
def test_each_task_runs_in_an_environment_of_its_own(
    copy_example: Callable[[str, Path], Path],
    succeed: Callable[..., dict[str, dict[str, Any]]],
    tmp_path: Path,
    engine: str,
    images: tuple[str, str],
) -> None:
    folder = copy_example("environments", tmp_path)
    file = folder / "workflow.yaml"
    text = file.read_text()
    written = ("docker.io/rootproject/root:6.28.04-ubuntu22.04", "docker.io/library/debian:12")
    for old, new in zip(written, images, strict=True):
        assert f"image: {old}\n" in text
        long_form = f"image: {{name: '{new}', runtime: {engine}}}\n"
        text = text.replace(f"image: {old}\n", long_form)
    file.write_text(text)

    results = succeed(file)

    root, statistics = results["runROOTMacro"], results["runStatsCode"]
    assert root["stdout_tail"] == "root -bxq peak.C\n2\n10000 events at 91.2 GeV\n"
    device = statistics["device"]
    assert statistics["stdout_tail"].splitlines() == [
        "method: CLS",
        f"device: {device}",
        f"memory: {8 * 2**30} bytes",
    ]
    if device == "cpu":
        assert statistics["device_reason"]
    for result, image in zip((root, statistics), images, strict=True):
        assert result["runtime"] == engine
        assert result["image_digest"] == digest(image)
        assert is_here(engine, image)
    assert root["started_s"] + root["wall_s"] <= statistics["started_s"]


def test_the_script_can_be_tried_by_hand(
    copy_example: Callable[[str, Path], Path], tmp_path: Path
) -> None:
    folder = copy_example("environments", tmp_path)
    done = subprocess.run(
        [folder / "localStatsCode.sh"],
        env={"STATS_METHOD": "CLS", "FASTHEP_DEVICE": "cpu", "FASTHEP_MEMORY_BYTES": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "method: CLS\ndevice: cpu\nmemory: 1 bytes\n"
