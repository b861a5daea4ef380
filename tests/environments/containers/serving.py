"""What serves in a container, started on this machine and spoken to as from outside."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from fasthep_flow.environments.containers.shell import (
    Dialect,
    Order,
    Report,
    job_text,
    read_report,
)
from fasthep_flow.model import Command, Invocation

__all__ = ["Served"]


class Served:
    """A program that serves, and has said that it is ready.

    Args:
        argv: The program.
        folder: For the logs, and the jobs' working directory.
        dialect: What it understands.
        variables: Of the image, besides the `PATH`.
        said: What it is told before all else.
    """

    def __init__(
        self,
        argv: Sequence[str],
        folder: Path,
        dialect: Dialect,
        *,
        variables: Mapping[str, str],
        said: bytes = b"",
    ) -> None:
        self.folder = folder
        self.number = 0
        self._dialect = dialect
        self.popen = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={"PATH": os.environ["PATH"], **variables},
        )
        self._say(said)
        assert self._line() == f"ready {self.popen.pid}\n".encode()

    def _say(self, text: bytes) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(text)
        self.popen.stdin.flush()

    def _line(self) -> bytes:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline()

    def run(
        self,
        *argv: str,
        variables: Mapping[str, str] | None = None,
        directory: Path | None = None,
        working_directory: str | None = None,
        stdin: str | None = None,
        invocation: Invocation | None = None,
    ) -> Report:
        """Run a job to its end."""
        self.number += 1
        order = Order(
            number=self.number,
            invocation=invocation or Command(argv=argv),
            environment=variables or {},
            working_directory=working_directory or str(self.folder),
            directory=str(directory or self.folder),
        )
        self._say(job_text(order, self._dialect, stdin=stdin))
        return read_report(iter(self._line, b""), self.number)

    def output(self) -> bytes:
        """What the jobs wrote since it was last asked for."""
        path = self.folder / "stdout.log"
        written = path.read_bytes()
        path.unlink()
        return written

    def close(self) -> str:
        """End it; what it wrote to its own standard error."""
        _, said = self.popen.communicate()
        assert self.popen.returncode == 0
        return said.decode()
