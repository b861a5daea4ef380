"""Programs run in containers of charliecloud's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fasthep_flow.environments import ContainerSpec, Mount, Outcome
from fasthep_flow.environments.charliecloud import CHARLIECLOUD
from fasthep_flow.model import Command, Image, ImageForm, Invocation


class Tried:
    """What became of a process, and what it said."""

    def __init__(self, outcome: Outcome, directory: Path) -> None:
        self.outcome = outcome
        self.stdout = (directory / "stdout.log").read_text(errors="surrogateescape")
        self.stderr = (directory / "stderr.log").read_text(errors="surrogateescape")

    @property
    def failed(self) -> tuple[str, str]:
        failure = self.outcome.failure
        assert failure is not None, self.stderr
        assert self.outcome.exit_code is None
        return failure.kind, failure.message


def run(
    image: str,
    place: Path,
    *argv: str,
    invocation: Invocation | None = None,
    mounts: tuple[Mount, ...] = (),
    variables: Mapping[str, str] | None = None,
    working_directory: str | None = None,
    form: ImageForm = "registry",
    **facts: Any,
) -> Tried:
    """Run a program in the image, in a container that sees the place."""
    directory = place / "an attempt"
    directory.mkdir(exist_ok=True)
    spec = ContainerSpec(
        name="fasthep-test",
        image=CHARLIECLOUD.resolve(Image(name=image, form=form)),
        mounts=(Mount(source=str(place), target=str(place)), *mounts),
        **facts,
    )
    with CHARLIECLOUD.open(spec) as container:
        process = container.start(
            invocation or Command(argv=argv),
            environment={"FASTHEP_TASK_DIRECTORY": str(directory), **(variables or {})},
            working_directory=working_directory or str(place),
            directory=str(directory),
        )
        outcome = process.wait()
    return Tried(outcome, directory)
