"""A runtime, an image and a folder: the place where a suite starts things."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from fasthep_flow.environments import (
    Container,
    ContainerSpec,
    Mount,
    Outcome,
    Process,
    ResolvedImage,
    Runtime,
)
from fasthep_flow.environments.interpreter import Reply, read_reply
from fasthep_flow.environments.limits.enforcement import held_limits
from fasthep_flow.execution.process import Held, Watch
from fasthep_flow.model import Call, Command, Image, ImageForm, Invocation, Network, Resources

__all__ = ["Station", "Suite", "wait_until"]

_SOON_S: Final = 120.0
"""Longer than anything here takes on a busy machine; what hangs ends here."""


class Station(NamedTuple):
    """A runtime, an image and a folder in which to start things.

    Args:
        runtime: Under test.
        image: Resolved; ``None`` for a runtime that takes none.
        directory: Every process's working directory.
    """

    runtime: Runtime
    image: ResolvedImage | None
    directory: Path

    @property
    def attempt(self) -> Path:
        """The attempt's folder."""
        return self.directory / "an attempt"

    def spec(
        self,
        resources: Resources | None = None,
        *,
        network: Network = "host",
        mounts: tuple[Mount, ...] = (),
    ) -> ContainerSpec:
        """A container that sees the folder, and whatever else is mounted."""
        folder = str(self.directory)
        return ContainerSpec(
            name=f"fasthep-suite-{uuid.uuid4().hex}",
            image=self.image,
            labels={"fasthep.run": "suite"},
            mounts=(Mount(source=folder, target=folder), *mounts),
            resources=resources or Resources(),
            network=network,
        )

    @contextmanager
    def container(self, resources: Resources | None = None) -> Iterator[Container]:
        """A container that sees the folder."""
        with self.runtime.open(self.spec(resources)) as container:
            yield container

    def start(
        self, container: Container, invocation: Invocation, variables: Mapping[str, str]
    ) -> Process:
        """Start the invocation with the variables."""
        self.attempt.mkdir(exist_ok=True)
        return container.start(
            invocation,
            environment={**variables, "FASTHEP_TASK_DIRECTORY": str(self.attempt)},
            working_directory=str(self.directory),
            directory=str(self.attempt),
        )

    def run(
        self,
        *argv: str,
        stdin: str | None = None,
        variables: Mapping[str, str] | None = None,
        resources: Resources | None = None,
    ) -> Outcome:
        """Run a program to its end."""
        command = Command(argv=argv, stdin=stdin)
        with self.container(resources) as container:
            return self.start(container, command, variables or {}).wait()

    def watched(
        self, *argv: str, resources: Resources, timeout_s: float | None = None, grace_s: float = 1.0
    ) -> tuple[Outcome, Held]:
        """Run a program to its end, held to its limits as a job is; how, and what it came to."""
        enforced = self.runtime.check(resources)
        with (
            Watch(grace_s=grace_s) as watch,
            self.container(held_limits(resources, enforced)) as container,
        ):
            process = self.start(container, Command(argv=argv), {})
            with watch.over(
                process,
                timeout_s=timeout_s,
                memory_limit=resources.memory if enforced.get("memory") == "measured" else None,
                directory=str(self.attempt),
            ) as held:
                outcome = process.wait()
        return outcome, held

    def call(self, target: str, *args: Any, **kwargs: Any) -> tuple[Outcome, Reply | None]:  # noqa: ANN401
        """Call a callable."""
        with self.container() as container:
            call = Call(target=target, args=args, kwargs=kwargs)
            outcome = self.start(container, call, {}).wait()
        return outcome, read_reply(str(self.attempt))

    def stdout(self) -> bytes:
        """What was written to standard output."""
        return (self.attempt / "stdout.log").read_bytes()

    def stderr(self) -> bytes:
        """What was written to standard error."""
        return (self.attempt / "stderr.log").read_bytes()


class Suite:
    """What the suites have in common; a subclass says which runtime is tested."""

    __test__ = False

    @classmethod
    def runtime(cls) -> Runtime:
        """The runtime under test."""
        raise NotImplementedError

    @classmethod
    def image(cls) -> str | None:
        """An image with a shell and python3; ``None`` for a runtime that takes none."""
        raise NotImplementedError

    @classmethod
    def images(cls) -> dict[ImageForm, Image]:
        """An image of each form that there is one of, to try on the runtime."""
        return {}

    @pytest.fixture
    def station(self, tmp_path: Path) -> Station:
        """A folder whose name has all that has broken a command line."""
        directory = tmp_path / "a:b, c='d' \"e\" µ"
        directory.mkdir()
        name = self.image()
        image = None if name is None else self.runtime().resolve(Image(name=name))
        return Station(self.runtime(), image, directory)


def wait_until(true: Callable[[], bool], complaint: str) -> None:
    """Return once ``true()`` is; fail with ``complaint`` if it takes too long."""
    until_s = time.monotonic() + _SOON_S
    while not true():
        if time.monotonic() > until_s:
            pytest.fail(complaint)
        time.sleep(0.02)
