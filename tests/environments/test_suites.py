"""The conformance suite, against each of our runtimes and the fake."""

import os
from pathlib import Path

import pytest

from fasthep_flow.environments import Runtime
from fasthep_flow.environments.apptainer import APPTAINER
from fasthep_flow.environments.charliecloud import CHARLIECLOUD
from fasthep_flow.environments.native import NATIVE
from fasthep_flow.environments.oci import DOCKER, PODMAN
from fasthep_flow.model import Image, ImageForm
from fasthep_flow.testing.entering import EnteringSuite
from fasthep_flow.testing.requests import ANSWERS, answers_table
from fasthep_flow.testing.runtimes import ContractSuite, FakeRuntime, RuntimeSuite

STATE = Path(os.environ.get("FASTHEP_TESTBED_STATE") or "/var/lib/fasthep-flow-testbed")
UNPACKED = "cvmfs/unpacked.cern.ch/registry.hub.docker.com/testbed/python:3.11"
PYTHON_IMAGE = "127.0.0.1:5000/testbed/python:3.11"


class RealSuite(RuntimeSuite):
    """With an image of every form, as the testbed has them."""

    __test__ = False

    @classmethod
    def images(cls) -> dict[ImageForm, Image]:
        files = STATE / "files"
        names: dict[ImageForm, str] = {
            "registry": "127.0.0.1:5000/testbed/busybox:1",
            "oras": "oras://127.0.0.1:5000/testbed/sif:1",
            "docker-daemon": "docker-daemon:127.0.0.1:5000/testbed/busybox:1",
            "docker-archive": f"docker-archive:{files / 'busybox-docker.tar'}",
            "oci-archive": f"oci-archive:{files / 'busybox-oci.tar'}",
            "oci": f"oci:{files / 'busybox-oci'}",
            "sif": str(files / "busybox.sif"),
            "folder": str(files / UNPACKED),
        }
        return {form: Image(name=name, form=form) for form, name in names.items()}


class TestNative(RealSuite):
    __test__ = True

    @classmethod
    def runtime(cls) -> Runtime:
        return NATIVE

    @classmethod
    def image(cls) -> str | None:
        return None


class TestFake(ContractSuite, EnteringSuite):
    __test__ = True

    @classmethod
    def runtime(cls) -> Runtime:
        return FakeRuntime()

    @classmethod
    def image(cls) -> str | None:
        return "registry.invalid/anything:1"


@pytest.mark.docker
@pytest.mark.apptainer
@pytest.mark.registry
class TestApptainer(RealSuite):
    __test__ = True

    @classmethod
    def runtime(cls) -> Runtime:
        return APPTAINER

    @classmethod
    def image(cls) -> str | None:
        return PYTHON_IMAGE


@pytest.mark.docker
@pytest.mark.podman
@pytest.mark.registry
class TestPodman(RealSuite):
    __test__ = True

    @classmethod
    def runtime(cls) -> Runtime:
        return PODMAN

    @classmethod
    def image(cls) -> str | None:
        return PYTHON_IMAGE


@pytest.mark.docker
@pytest.mark.registry
class TestDocker(RealSuite):
    __test__ = True

    @classmethod
    def runtime(cls) -> Runtime:
        return DOCKER

    @classmethod
    def image(cls) -> str | None:
        return PYTHON_IMAGE


@pytest.mark.docker
@pytest.mark.charliecloud
@pytest.mark.registry
class TestCharliecloud(RealSuite):
    __test__ = True

    @classmethod
    def runtime(cls) -> Runtime:
        return CHARLIECLOUD

    @classmethod
    def image(cls) -> str | None:
        return PYTHON_IMAGE


def test_the_table_of_the_documentation_is_what_was_seen() -> None:
    # FASTHEP_WRITE_TABLES=1 writes it anew.
    path = Path(__file__).parents[2] / "docs" / "reference" / "runtimes-table.md"
    runtimes = ["native", "apptainer", "podman", "docker", "charliecloud"]
    tried = {name for answers in ANSWERS.values() for name in answers}
    if not tried.issuperset(runtimes):
        pytest.skip(f"not all runtimes were tried: {', '.join(sorted(tried))}")
    table = answers_table(runtimes)
    if os.environ.get("FASTHEP_WRITE_TABLES"):
        path.write_text(table)
    assert path.read_text() == table
