"""The conformance suite, against each of our runtimes and the fake."""

import pytest

from fasthep_flow.environments import Runtime
from fasthep_flow.environments.native import NATIVE
from fasthep_flow.environments.oci import DOCKER, PODMAN
from fasthep_flow.testing.runtimes import FakeRuntime, RuntimeSuite

PYTHON_IMAGE = "127.0.0.1:5000/testbed/python:3.11"


class TestNative(RuntimeSuite):
    __test__ = True

    @classmethod
    def runtime(cls) -> Runtime:
        return NATIVE

    @classmethod
    def image(cls) -> str | None:
        return None


class TestFake(RuntimeSuite):
    __test__ = True

    @classmethod
    def runtime(cls) -> Runtime:
        return FakeRuntime()

    @classmethod
    def image(cls) -> str | None:
        return "registry.invalid/anything:1"


@pytest.mark.podman
@pytest.mark.registry
class TestPodman(RuntimeSuite):
    __test__ = True

    @classmethod
    def runtime(cls) -> Runtime:
        return PODMAN

    @classmethod
    def image(cls) -> str | None:
        return PYTHON_IMAGE


@pytest.mark.docker
@pytest.mark.registry
class TestDocker(RuntimeSuite):
    __test__ = True

    @classmethod
    def runtime(cls) -> Runtime:
        return DOCKER

    @classmethod
    def image(cls) -> str | None:
        return PYTHON_IMAGE
