"""Where a task's software is made: on the host, or in a one-off container like the task's."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import msgspec
from msgspec import Struct

from fasthep_flow.environments import ContainerSpec, Mount, Outcome, Runtime
from fasthep_flow.environments.host.owner import owner_labels
from fasthep_flow.environments.host.scratch import new_scratch
from fasthep_flow.environments.host.spawn import end_processes
from fasthep_flow.errors import SoftwareUnavailable
from fasthep_flow.model import Command, Resources

__all__ = ["Place", "Ran"]

_LARGEST_LOG: Final = 16 * 2**20
"""Of what is printed no more is kept than this: it is there for the message of an error."""

_LAST_BYTES: Final = 64 * 2**10
_LOOK_EVERY_S: Final = 0.2
_COOKIE: Final = "FASTHEP_TASK_DIRECTORY"


class Ran(Struct, frozen=True, kw_only=True):
    """What became of a program.

    Args:
        outcome: How it ended.
        is_late: It was stopped at its time limit.
        stdout: The end of what it printed.
        stderr: The end of its messages.
    """

    outcome: Outcome
    is_late: bool
    stdout: str
    stderr: str

    @property
    def is_well(self) -> bool:
        """Whether it ended by itself, with the code 0."""
        return not self.is_late and self.outcome.failure is None and self.outcome.exit_code == 0

    @property
    def said(self) -> str:
        """Its messages; where there are none, what it printed."""
        return self.stderr if self.stderr.strip() else self.stdout


class Place:
    """Runs programs where a task would run; a folder is seen in there for as long as it is open.

    What a program leaves running is ended with it.

    Args:
        runtime: What the task runs on.
        spec: Of its container, or of the host.
        working_directory: Absolute path.
        mounts: That are to be seen beside those of the task's.
    """

    def __init__(
        self,
        runtime: Runtime,
        spec: ContainerSpec,
        working_directory: str,
        mounts: Sequence[Mount] = (),
    ) -> None:
        self._runtime: Final = runtime
        self._working_directory: Final = working_directory
        self.scratch: Final = new_scratch()
        contained = spec.image is not None
        seen = (Mount(source=str(self.scratch), target=str(self.scratch)), *mounts)
        labels = {name: label for name, label in spec.labels.items() if name == "fasthep.run"}
        self._spec: Final = msgspec.structs.replace(
            spec,
            # What makes it is no task: neither held to one's limits, nor given its devices.
            resources=Resources(),
            devices=(),
            labels={"fasthep.run": "software", **labels, **owner_labels()},
            mounts=(*spec.mounts, *seen) if contained else (),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)

    @property
    def is_contained(self) -> bool:
        """Whether programs run in a container."""
        return self._spec.image is not None

    @property
    def name(self) -> str:
        """In words: ``the image docker.io/library/debian:12``, ``this machine``."""
        image = self._spec.image
        return "this machine" if image is None else f"the image {image.name}"

    def run(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str | None],
        stdin: str | None = None,
        limit_s: float,
    ) -> Ran:
        """Run a program to its end.

        Args:
            argv: The program and its arguments.
            environment: Variables, laid over what the place has of its own.
            stdin: What it reads.
            limit_s: After so many seconds it is killed.

        Raises:
            SoftwareUnavailable: No container can be started.
        """
        folder = self.scratch / f"logs-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        spec = msgspec.structs.replace(self._spec, name=f"fasthep-software-{uuid.uuid4().hex[:16]}")
        if not self.is_contained:
            # By this is found and ended what left the session, too.
            environment = {**environment, _COOKIE: str(folder)}
        with self._runtime.open(spec) as container:
            process = container.start(
                Command(argv=tuple(argv), stdin=stdin),
                environment=environment,
                working_directory=self._working_directory,
                directory=str(folder),
            )
            ended, late = threading.Event(), threading.Event()

            def watch() -> None:
                waited_s = 0.0
                while not ended.wait(_LOOK_EVERY_S):
                    waited_s += _LOOK_EVERY_S
                    _shorten(folder / "stdout.log")
                    _shorten(folder / "stderr.log")
                    if waited_s >= limit_s:
                        late.set()
                        process.kill()

            watcher = threading.Thread(target=watch, name="fasthep-software", daemon=True)
            watcher.start()
            try:
                outcome = process.wait()
            except BaseException:
                # Nobody waits for it any more, and the container would for its end.
                process.kill()
                raise
            finally:
                ended.set()
                watcher.join()
                if not self.is_contained:
                    # A daemon that it started would live as long as the machine.
                    end_processes(str(folder))
        failure = outcome.failure
        if failure is not None and failure.kind != "not_started" and not late.is_set():
            raise SoftwareUnavailable(
                f"nothing can be made in {self.name}: {failure.message}", hint=failure.hint
            )
        return Ran(
            outcome=outcome,
            is_late=late.is_set(),
            stdout=_last(folder / "stdout.log"),
            stderr=_last(folder / "stderr.log"),
        )


def _shorten(log: Path) -> None:
    """Begin anew a log that grew too long; who writes to it appends."""
    with suppress(OSError):
        if log.stat().st_size > _LARGEST_LOG:
            with log.open("r+b") as file:
                file.truncate(0)


def _last(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LAST_BYTES))
            return file.read(_LAST_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
