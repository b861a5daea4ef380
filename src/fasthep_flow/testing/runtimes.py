"""What every runtime must do: a suite to subclass, for ours and for anyone's plug-in.

::

    class TestMine(RuntimeSuite):
        __test__ = True

        @classmethod
        def runtime(cls) -> Runtime:
            return MINE

        @classmethod
        def image(cls) -> str | None:
            return "registry.example/python:3.11"

The image must have ``/bin/sh``, ``cat`` and ``python3``. :class:`FakeRuntime` stands in for
a container engine where there is none.
"""

# ruff: noqa: S101 - pytest's assertions

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, cast

import msgspec
import pytest

from fasthep_flow.environments import (
    RUNTIMES,
    Container,
    ContainerSpec,
    ImageFacts,
    Process,
    ResolvedImage,
    Runtime,
)
from fasthep_flow.environments.native import NATIVE
from fasthep_flow.errors import ImageUnavailable, LimitUnenforceable
from fasthep_flow.model import Command, Gpu, Image, Network, Resources
from fasthep_flow.testing.entering import EnteringSuite
from fasthep_flow.testing.requests import RequestSuite
from fasthep_flow.testing.station import Station, Suite, wait_until

__all__ = [
    "NASTY_VARIABLES",
    "ContractSuite",
    "FakeRuntime",
    "RuntimeSuite",
    "Station",
    "installed",
]

NASTY_VARIABLES: Final[Mapping[str, str]] = {
    "BLANKS": "  two  blanks, and\ta tab ",
    "QUOTES": 'it\'s "quoted" and `ticked`',
    "DOLLARS": "$HOME ${HOME} $(echo no) $$ %s \\n \\",
    "LINES": "\nfirst\n\nlast\n\n",
    "UNICODE": "µ→ü√😀 e\u0301",
    "EMPTY": "",
    "EQUALS": "a=b=c",
    "STAR": "*",
    "LONG": "x" * 100_000,
    "n": "a shell's own variables are often called so",
    "IFS_LIKE": ": \t",
    "LD_LIBRARY_PATH": "/nowhere/a b:/nowhere/c",
    "TMPDIR": "/nowhere/tmp",
    "HOME": "/nowhere/home",
    "XDG_RUNTIME_DIR": "/nowhere/run",
    "DOCKER_HOST": "tcp://nowhere.invalid:1",
    "CONTAINER_HOST": "tcp://nowhere.invalid:1",
    "HTTP_PROXY": "http://nowhere.invalid:1",
}
"""Variables whose names or values have been mangled by one tool or another."""

_DUMP: Final = (
    "import json, os, sys;"
    "json.dump({k: os.fsencode(v).hex() for k, v in os.environ.items()}, sys.stdout)"
)
_CALLABLES: Final = """
import os
import sys


def describe(text, *, factor):
    print("on stdout")
    print("on stderr", file=sys.stderr)
    return {"text": text, "factor": factor, "arguments": len(sys.argv), "where": os.getcwd()}


def fail():
    raise ValueError("as the author wrote it")
"""


class ContractSuite(Suite):
    """Tests of how processes are started, told of and ended; for a stand-in too."""

    __test__ = False

    def test_works_here(self) -> None:
        """It says that it is there."""
        assert self.runtime().probe() is None

    def test_resolves_to_a_digest(self) -> None:
        """An image is named by its bytes, and by the same ones when it is asked for again."""
        name = self.image()
        if name is None:
            with pytest.raises(ImageUnavailable):
                self.runtime().resolve(Image(name="docker.io/library/debian:12"))
            return
        image = self.runtime().resolve(Image(name=name))
        assert image.name == name
        assert image.digest.startswith("sha256:")
        assert self.runtime().resolve(Image(name=name)) == image

    @pytest.mark.parametrize("code", [0, 1, 3, 125, 126, 127, 128, 137, 255])
    def test_tells_the_exit_code(self, station: Station, code: int) -> None:
        """Also the ones that engines answer with themselves."""
        outcome = station.run("/bin/sh", "-c", f"exit {code}")
        assert (outcome.exit_code, outcome.signal, outcome.failure) == (code, None, None)
        assert not outcome.out_of_memory

    def test_writes_output_to_files(self, station: Station) -> None:
        """Byte for byte, and nothing else."""
        outcome = station.run("/bin/sh", "-c", r"printf 'a\377\000\033b'; printf 'c' >&2")
        assert outcome.exit_code == 0
        assert station.stdout() == b"a\xff\x00\x1bb"
        assert station.stderr() == b"c"

    def test_hands_arguments_over_as_they_are(self, station: Station) -> None:
        """No shell reads them on the way."""
        arguments = ["", " a  b ", "$HOME", "'", '"', "a\nb", "µ", "--name", "-", "*"]
        script = "import json, sys; json.dump(sys.argv[1:], sys.stdout)"
        assert station.run("python3", "-c", script, *arguments).exit_code == 0
        assert msgspec.json.decode(station.stdout()) == arguments

    def test_hands_variables_over_as_they_are(self, station: Station) -> None:
        """Byte for byte, whatever their names mean to an engine; and no other names for them."""
        assert station.run("python3", "-c", _DUMP, variables=NASTY_VARIABLES).exit_code == 0
        seen = msgspec.json.decode(station.stdout(), type=dict[str, str])
        expected = {name: value.encode().hex() for name, value in NASTY_VARIABLES.items()}
        assert {name: seen.get(name) for name in expected} == expected
        assert not [name for name in seen if name.startswith(("FASTHEP_V", "_fasthep"))]

    def test_finds_programs_on_the_path_of_the_task(self, station: Station) -> None:
        """Not on that of the caller."""
        tool = station.directory / "fasthep-suite-tool"
        tool.write_text("#!/bin/sh\necho mine\n")
        tool.chmod(0o755)
        # The folder's own name has a colon, which a PATH cannot say; a relative one can.
        outcome = station.run("fasthep-suite-tool", variables={"PATH": ".:/usr/bin:/bin"})
        assert outcome.exit_code == 0
        assert station.stdout() == b"mine\n"
        outcome = station.run("fasthep-suite-tool", variables={"PATH": "/usr/bin:/bin"})
        assert outcome.failure is not None

    def test_works_in_the_working_directory(self, station: Station) -> None:
        """At its own path, where it can write, and what it writes is the caller's."""
        assert station.run("/bin/sh", "-c", "pwd; echo x > made").exit_code == 0
        assert station.stdout().decode() == f"{station.directory}\n"
        made = (station.directory / "made").stat()
        assert (made.st_uid, made.st_gid) == (os.getuid(), os.getgid())

    def test_reads_standard_input(self, station: Station) -> None:
        """The text that the command has, and nothing where it has none."""
        text = "two\nlines µ"
        assert station.run("cat", stdin=text).exit_code == 0
        assert station.stdout().decode() == text
        assert station.run("cat").exit_code == 0
        assert station.stdout().decode() == text

    def test_names_a_program_that_is_not_there(self, station: Station) -> None:
        """Instead of an exit code that a program could have had as well."""
        for program in ("fasthep-no-such-program", "/no/such/program"):
            outcome = station.run(program, "argument")
            assert outcome.failure is not None
            assert outcome.failure.kind == "not_started"
            assert program in outcome.failure.message
            assert outcome.exit_code is None

    def test_calls_a_callable(self, station: Station) -> None:
        """Of a module in the working directory; it needs no package there."""
        (station.directory / "mine.py").write_text(_CALLABLES)
        outcome, reply = station.call("mine:describe", "a b", factor=2.5)
        assert outcome.exit_code == 0
        assert reply is not None
        assert reply.value == {
            "text": "a b",
            "factor": 2.5,
            "arguments": 1,
            "where": str(station.directory),
        }
        assert (station.stdout(), station.stderr()) == (b"on stdout\n", b"on stderr\n")

    def test_shows_the_authors_traceback(self, station: Station) -> None:
        """And none of our own lines in it."""
        (station.directory / "mine.py").write_text(_CALLABLES)
        outcome, reply = station.call("mine:fail")
        assert outcome.exit_code == 1
        assert reply is not None
        assert reply.failure is not None
        assert reply.failure.kind == "exception"
        assert reply.failure.message == "ValueError: as the author wrote it"
        assert reply.failure.traceback is not None
        assert reply.failure.traceback.count("File ") == 1
        assert "mine.py" in reply.failure.traceback

    def test_asks_to_end(self, station: Station) -> None:
        """All of the task's processes, which may put things in order before they do."""
        script = "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done"
        with station.container() as container:
            process = self._start_until_up(station, container, script)
            process.terminate()
            outcome = process.wait()
        assert outcome.exit_code == 7  # noqa: PLR2004 - what the script says
        assert station.stdout() == b"up\nbye\n"

    def test_kills(self, station: Station) -> None:
        """Also what does not want to end."""
        script = "trap '' TERM INT HUP; echo up; while :; do sleep 0.05; done"
        with station.container() as container:
            process = self._start_until_up(station, container, script)
            process.terminate()
            process.kill()
            outcome = process.wait()
        assert outcome.exit_code != 0
        assert not outcome.out_of_memory

    def test_leaves_nothing_behind(self, station: Station) -> None:
        """No process lives on, whether the program ended by itself or was stopped."""
        # The lock is the kernel's: it is free once no process has the file open.
        holder = (
            "import fcntl, os, subprocess, sys, time;"
            "f = open('lock', 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
            "os.set_inheritable(f.fileno(), True);"
            "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
            " close_fds=False, stdout=2);"
            "print('up', flush=True)"
        )
        assert station.run("python3", "-c", holder).exit_code == 0
        assert _is_free(station.directory / "lock")
        with station.container() as container:
            command = Command(argv=("python3", "-c", f"{holder};time.sleep(600)"))
            process = station.start(container, command, {})
            wait_until(lambda: station.stdout().count(b"up") > 1, "the process did not start")
            process.kill()
            process.wait()
        assert _is_free(station.directory / "lock")

    def test_ends_what_nobody_waits_for(self, station: Station) -> None:
        """The context does not last longer than its caller wants it to."""
        script = "trap '' TERM; echo up; while :; do echo on >> trace; sleep 0.01; done"
        trace = station.directory / "trace"
        with suppress(InterruptedError), station.container() as container:
            self._start_until_up(station, container, script)
            raise InterruptedError
        size = trace.stat().st_size
        # What still ran would have had its turn in this time.
        assert station.run("/bin/sh", "-c", "sleep 0.2").exit_code == 0
        assert trace.stat().st_size == size

    def _start_until_up(self, station: Station, container: Container, script: str) -> Process:
        process = station.start(container, Command(argv=("/bin/sh", "-c", script)), {})
        wait_until(lambda: self._has_said(station, b"up"), "the process did not start")
        return process

    @staticmethod
    def _has_said(station: Station, word: bytes) -> bool:
        log = station.attempt / "stdout.log"
        return log.exists() and word in log.read_bytes()


class RuntimeSuite(ContractSuite, EnteringSuite, RequestSuite):
    """All tests of a runtime; a subclass says which."""

    __test__ = False


def _is_free(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


class FakeRuntime:
    """A container engine that needs none: its images are names, its containers the host.

    What it was asked for is in ``resolved`` and ``opened``.

    Args:
        name: As an author would write it.
        images: The images that there are; ``None`` for any.
        obstacle: Why it cannot be used.
        no_limits: Why it cannot hold a task to a limit.
        no_devices: Why it cannot give a container devices.
    """

    def __init__(
        self,
        name: str = "fake",
        *,
        images: tuple[str, ...] | None = None,
        obstacle: str | None = None,
        no_limits: str | None = None,
        no_devices: str | None = None,
    ) -> None:
        self._no_devices: Final = no_devices
        self.name: Final = name
        self.resolved: Final[list[str]] = []
        self.opened: Final[list[ContainerSpec]] = []
        self._images: Final = images
        self._obstacle: Final = obstacle
        self._no_limits: Final = no_limits

    def probe(self) -> str | None:
        """The obstacle."""
        return self._obstacle

    def takes(self, image: Image) -> str | None:  # noqa: ARG002 - any
        """Every form."""
        return None

    def lends(self, devices: Sequence[Gpu]) -> str | None:
        """As the host does, if there is nothing against it."""
        return self._no_devices if devices else None

    def look(self, image: Image) -> ImageFacts:
        """It is here, if it is one of the images.

        Raises:
            ImageUnavailable: It is none of the images.
        """
        return ImageFacts(is_local=True, digest=self._digest(image))

    def check(self, resources: Resources, network: Network = "host") -> dict[str, str]:  # noqa: ARG002 - any
        """As the host has it.

        Raises:
            LimitUnenforceable: There is a limit, and none can be held.
        """
        held = NATIVE.check(resources)
        if held and self._no_limits is not None:
            raise LimitUnenforceable(self._no_limits)
        return held

    def resolve(self, image: Image) -> ResolvedImage:
        """A digest of the name.

        Raises:
            ImageUnavailable: It is none of the images.
        """
        self.resolved.append(image.name)
        digest = self._digest(image)
        return ResolvedImage(name=image.name, reference=digest, digest=digest)

    def _digest(self, image: Image) -> str:
        if self._images is not None and image.name not in self._images:
            raise ImageUnavailable(f"the image {image} is none of {self.name}'s")
        return f"sha256:{hashlib.sha256(image.name.encode()).hexdigest()}"

    @contextmanager
    def open(self, spec: ContainerSpec) -> Iterator[Container]:
        """The host."""
        self.opened.append(spec)
        with NATIVE.open(msgspec.structs.replace(spec, image=None, mounts=())) as container:
            yield container

    def enter(
        self,
        spec: ContainerSpec,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str | None],
        working_directory: str,
    ) -> int:
        """The host."""
        self.opened.append(spec)
        host = msgspec.structs.replace(spec, image=None, mounts=())
        return NATIVE.enter(
            host, argv, environment=environment, working_directory=working_directory
        )


@contextmanager
def installed(runtime: Runtime) -> Iterator[None]:
    """Let authors, and the package, find a runtime by its name for as long as this lasts."""
    runtimes = cast("dict[str, str]", RUNTIMES)
    module = sys.modules[__name__]
    attribute = f"_installed_{uuid.uuid4().hex}"
    before = runtimes.get(runtime.name)
    setattr(module, attribute, runtime)
    runtimes[runtime.name] = f"{__name__}:{attribute}"
    try:
        yield
    finally:
        delattr(module, attribute)
        if before is None:
            del runtimes[runtime.name]
        else:
            runtimes[runtime.name] = before
