"""A run's folder, and jobs in it."""

import subprocess
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fasthep_flow.environments.containers.pool import Pool
from fasthep_flow.execution.execute import execute_job
from fasthep_flow.execution.process import Watch
from fasthep_flow.model import (
    Call,
    Command,
    Device,
    Image,
    Invocation,
    Job,
    JobResult,
    Resources,
    from_json,
    to_json,
)


class Bench(NamedTuple):
    """A workflow's folder with a run in it.

    Args:
        directory: Every job's working directory.
        image: That jobs run in.
        runtime: Of the image.
    """

    directory: Path
    image: str | None = None
    runtime: str = "native"

    @property
    def run_id(self) -> str:
        return f"test-{zlib.crc32(bytes(self.directory)):08x}"

    @property
    def run_directory(self) -> Path:
        return self.directory / "output" / "run"

    def attempt(self, slug: str = "task", number: int = 1) -> Path:
        return self.run_directory / "tasks" / slug / str(number)

    def job(
        self,
        invocation: Invocation,
        *,
        variables: Mapping[str, str] | None = None,
        devices: tuple[Device, ...] = ("cpu", "gpu"),
        slug: str = "task",
        attempt: int = 1,
        **more: Any,
    ) -> Job:
        fields: dict[str, Any] = {
            "run_id": self.run_id,
            "task": f"the {slug}",
            "slug": slug,
            "attempt": attempt,
            "invocations": dict.fromkeys(devices, invocation),
            "directory": str(self.attempt(slug, attempt)),
            "working_directory": str(self.directory),
            "run_directory": str(self.run_directory),
            "image": self.image,
            "runtime": self.runtime,
            "variables": tuple(variables or ()),
        }
        fields |= more
        if fields["image"] is not None:
            fields["image"] = Image(name=fields["image"])
        return Job(**fields)

    def execute(
        self,
        invocation: Invocation,
        *,
        variables: Mapping[str, str] | None = None,
        watch: Watch | None = None,
        pool: Pool | None = None,
        **more: Any,
    ) -> JobResult:
        """The result of a job, by way of its text."""
        text = to_json(self.job(invocation, variables=variables, **more))
        secrets = dict(variables or {})
        return from_json(JobResult, execute_job(text, secrets, watch=watch, pool=pool))

    def sh(self, line: str, **more: Any) -> JobResult:
        """The result of a line for sh."""
        return self.execute(Command(argv=("sh", "-c", line)), **more)

    def call(self, target: str, *args: Any, **more: Any) -> JobResult:
        """The result of a callable."""
        return self.execute(Call(target=target, args=args), **more)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """On the host."""
    directory = tmp_path / "work"
    directory.mkdir()
    return Bench(directory)


@pytest.fixture
def limited() -> Resources:
    """Too little for a hog."""
    return Resources(memory=48 * 2**20)


def cause(result: JobResult) -> tuple[str, str, str]:
    """Status, kind and message of what went wrong."""
    assert result.failure is not None, result
    return result.status, result.failure.kind, result.failure.message


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Another file system, of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
