"""What becomes of each thing that a task may ask of its environment: a suite, and its answers.

Part of :class:`fasthep_flow.testing.runtimes.RuntimeSuite`. Each test of a request proves it
on the runtime, or proves that the runtime refuses it before anything starts, and its answer
is a cell in a table: what the documentation says of the runtimes was seen.
"""

# ruff: noqa: S101 - pytest's assertions

from __future__ import annotations

import functools
import os
import socket
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, cast, get_args

import msgspec
import pytest

from fasthep_flow.environments import Mount, Outcome
from fasthep_flow.environments.containers.pool import KeepingRuntime, Pool
from fasthep_flow.environments.host.mounts import why_no_mounts
from fasthep_flow.errors import DeviceUnavailable, ImageUnavailable, LimitUnenforceable
from fasthep_flow.model import Command, Failure, Gpu, Image, ImageForm, Resources
from fasthep_flow.testing.station import Station, Suite

__all__ = ["ANSWERS", "RequestSuite", "answers_table", "request"]

ANSWERS: Final[dict[str, dict[str, str]]] = {}
"""By request and runtime: what was seen in this session, once the test has passed."""

_MEBI: Final = 2**20
_HOG: Final = "import sys; x = bytearray({} << 20); x[::4096] = b'x' * len(x[::4096])"
_SPIN: Final = (
    "import os, time; os.fork(); until = time.monotonic() + 1\nwhile time.monotonic() < until: pass"
)
_SHARE: Final = 0.5
_SLACK: Final = 1.3
"""The kernel hands processor time out in slices; the last one may be whole."""

_FORMS: Final[dict[ImageForm, str]] = {
    "registry": "an image in a registry",
    "oras": "a SIF file in a registry, `oras://`",
    "docker-daemon": "an image of the docker here, `docker-daemon:`",
    "docker-archive": "what `docker save` writes, `docker-archive:`",
    "oci-archive": "an archive in the OCI layout, `oci-archive:`",
    "oci": "a folder in the OCI layout, `oci:`",
    "sif": "a SIF file",
    "folder": "an unpacked folder, such as below `/cvmfs/unpacked.cern.ch`",
}

_T = TypeVar("_T", bound=Callable[..., str | None])


def request(words: str) -> Callable[[_T], _T]:
    """A test of what becomes of a request; what it returns is the answer, else ``yes``.

    Args:
        words: The request, as a row of the table.
    """

    def decorate(test: _T) -> _T:
        @functools.wraps(test)
        def asked(self: RequestSuite, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
            answer = test(self, *args, **kwargs)
            ANSWERS.setdefault(words, {})[self.runtime().name] = answer or "yes"

        return cast("_T", asked)

    return decorate


def answers_table(runtimes: Sequence[str]) -> str:
    """The answers that were seen, a request a line, in Markdown.

    Args:
        runtimes: The columns.

    Raises:
        LookupError: Not every request was tried on every runtime in this session.
    """
    lines = [
        f"| a task asks for | {' | '.join(runtimes)} |",
        f"|---|{'---|' * len(runtimes)}",
    ]
    for words, answers in ANSWERS.items():
        if missing := [name for name in runtimes if name not in answers]:
            raise LookupError(f"{words!r} was not tried on {', '.join(missing)}")
        lines.append(f"| {words} | {' | '.join(answers[name] for name in runtimes)} |")
    return "\n".join(lines) + "\n"


class RequestSuite(Suite):
    """Tests of what a runtime does for each request; a subclass says which runtime."""

    __test__ = False

    @pytest.mark.parametrize("form", get_args(ImageForm))
    def test_images(self, station: Station, form: ImageForm) -> None:
        """Each form runs and is named by its bytes, or is refused with the reason."""
        image = self.images().get(form)
        if image is None:
            pytest.skip(f"there is no {form} image here")
        answer = "yes" if self._runs(station, image) else "refused"
        ANSWERS.setdefault(_FORMS[form], {})[self.runtime().name] = answer

    @staticmethod
    def _runs(station: Station, image: Image) -> bool:
        if station.runtime.takes(image) is not None:
            return False
        try:
            resolved = station.runtime.resolve(image)
        except ImageUnavailable:
            # What depends on the version is known once the engine was asked.
            return False
        assert resolved.digest.startswith("sha256:")
        assert station.runtime.look(image).is_local
        there = station._replace(image=resolved)
        assert there.run("/bin/sh", "-c", "echo from the image").exit_code == 0
        assert there.stdout() == b"from the image\n"
        return True

    @request("variables of the host")
    def test_variables_of_the_host(
        self, station: Station, monkeypatch: pytest.MonkeyPatch
    ) -> str | None:
        """They reach a task on the host, and none that is in an image."""
        for name in ("MARK", "PYTHONPATH", "LD_LIBRARY_PATH", "APPTAINERENV_MARK"):
            monkeypatch.setenv(f"{name}", "/of/the/host")
        monkeypatch.setenv("SINGULARITYENV_MARK", "/of/the/host")
        assert station.run("/bin/sh", "-c", "export -p").exit_code == 0
        if station.image is None:
            assert b"/of/the/host" in station.stdout()
            return "inherited"
        assert b"/of/the/host" not in station.stdout()
        return "kept out"

    @request("files of the host")
    def test_files_of_the_host(self, station: Station, tmp_path: Path) -> str | None:
        """A task in an image sees the folders that it was given and no others."""
        beside = tmp_path / "beside"
        beside.write_text("secret")
        home = Path.home()
        script = f"[ -e {str(beside)!r} ] && echo beside; [ -e {str(home)!r}/.profile ]"
        station.run("/bin/sh", "-c", f"{script} && echo home; ls /tmp | wc -l")
        if station.image is None:
            assert b"beside" in station.stdout()
            return "all of them"
        assert b"beside" not in station.stdout()
        return "its two folders alone"

    @request("a folder that may only be read")
    def test_a_folder_that_may_only_be_read(self, station: Station, tmp_path: Path) -> str | None:
        """Its files can be read there, and not changed."""
        folder = tmp_path / "data: 2016, skimmed"
        folder.mkdir()
        (folder / "events").write_text("42")
        target = "/data/in put"
        if station.image is None:
            if why_no_mounts() is not None:
                return "refused"
            # On the host itself no place is made for it.
            target = f"{tmp_path}/in put"
            Path(target).mkdir()
        mount = Mount(source=str(folder), target=target, read_only=True)
        script = f"cat '{target}/events'; echo 43 >'{target}/events'; true"
        with station.runtime.open(station.spec(mounts=(mount,))) as container:
            outcome = station.start(container, Command(argv=("/bin/sh", "-c", script)), {}).wait()
        assert (outcome.exit_code, outcome.failure) == (0, None)
        assert station.stdout() == b"42"
        assert (folder / "events").read_text() == "42"
        return None

    @request("room in /tmp")
    def test_room_in_tmp(self, station: Station) -> str | None:
        """More than the 64 MB that some engines give; and nobody else's files are there."""
        name = f"fasthep-suite-{uuid.uuid4().hex}"
        if station.image is None:
            return "the host's"
        script = f"head -c {96 * _MEBI} /dev/zero >/tmp/{name} && wc -c </tmp/{name}; ls -A /tmp"
        assert station.run("/bin/sh", "-c", script).exit_code == 0
        size, *names = station.stdout().decode().split()
        assert int(size) == 96 * _MEBI
        # Where the working folder lies in /tmp itself, the way to it is there as well.
        assert name in names
        assert len(names) <= 2  # noqa: PLR2004 - these two
        assert not Path("/tmp", name).exists()  # noqa: S108 - the host's
        return "its own, on disk"

    @request("network: none")
    def test_network_none(self, station: Station) -> str | None:
        """There is no way out, or the request is refused."""
        try:
            station.runtime.check(Resources(), "none")
        except LimitUnenforceable:
            return "refused"
        assert self._reaches_the_host(station, "none") is False
        return None

    @request("network: host")
    def test_network_host(self, station: Station) -> str | None:
        """What listens on the host can be reached."""
        assert self._reaches_the_host(station, "host") is True
        return None

    def _reaches_the_host(self, station: Station, network: Any) -> bool:  # noqa: ANN401
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = server.getsockname()
            script = f"import socket; socket.create_connection({address!r}, 20).close()"
            spec = station.spec(network=network)
            with station.runtime.open(spec) as container:
                command = Command(argv=("python3", "-c", script))
                return station.start(container, command, {}).wait().exit_code == 0

    @request("a memory limit")
    def test_a_memory_limit(self, station: Station) -> str | None:
        """What asks for more is stopped, and that is told; what asks for less is not."""
        resources = Resources(memory=96 * _MEBI)
        try:
            how = station.runtime.check(resources)["memory"]
        except LimitUnenforceable:
            return "refused"
        for code, is_over in ((_HOG.format(16), False), (_HOG.format(400), True)):
            script = f"{code}; import time; time.sleep({60 * is_over})"
            outcome, held = station.watched("python3", "-c", script, resources=resources)
            assert (outcome.out_of_memory or held.verdict == "memory") is is_over
            if not is_over:
                assert outcome.exit_code == 0
        return _HELD_BY[how]

    @request("a memory limit, broken by a child whose parent ends well")
    def test_memory_of_a_child(self, station: Station) -> str | None:
        """The kernel's count is looked at, not the exit code."""
        resources = Resources(memory=96 * _MEBI)
        try:
            how = station.runtime.check(resources)["memory"]
        except LimitUnenforceable:
            return "refused"
        script = f'python3 -c "{_HOG.format(400)}; import time; time.sleep(60)"; exit 0'
        outcome, held = station.watched("/bin/sh", "-c", script, resources=resources)
        assert outcome.out_of_memory or held.verdict == "memory"
        return "out of memory" if how == "cgroup" else "out of memory, as measured"

    @request("the peak of memory")
    def test_the_peak_of_memory(self, station: Station) -> str | None:
        """Is recorded, without a limit too."""
        script = f"{_HOG.format(64)}; import time; time.sleep(0.5)"
        outcome, held = station.watched("python3", "-c", script, resources=Resources())
        peak = max(outcome.peak_memory or 0, held.peak_memory)
        assert peak > 64 * _MEBI
        # Of a process of the host's no more may be known than that it was not above its starter.
        assert outcome.peak_memory_is_bound or peak < 256 * _MEBI
        return "recorded"

    @request("a share of a processor")
    def test_a_share_of_a_processor(self, station: Station) -> str | None:
        """Two processes that want one each get no more than the share together."""
        resources = Resources(cpus=_SHARE)
        try:
            how = station.runtime.check(resources)["cpus"]
        except LimitUnenforceable:
            return "refused"
        outcome, _ = station.watched("python3", "-c", _SPIN, resources=resources)
        assert outcome.exit_code == 0
        if how == "cgroup":
            assert outcome.cpu_s is not None
            assert outcome.cpu_s < _SHARE * _SLACK + 0.2
        return _HELD_BY[how]

    @request("a device that is gone when the task starts")
    def test_a_device_that_is_gone(self, station: Station) -> str | None:
        """Nothing of the task runs, whatever the engine says of it."""
        gone = Gpu(id=f"GPU-{uuid.uuid4()}", name="Example 9", nodes=("/dev/fasthep-flow-none",))
        spec = msgspec.structs.replace(station.spec(), devices=(gone,))
        command = Command(argv=("/bin/sh", "-c", ": >ran"))
        try:
            with station.runtime.open(spec) as container:
                failure = station.start(container, command, {}).wait().failure
        except DeviceUnavailable as error:
            failure = Failure(kind="environment", message=error.message)
        assert failure is not None
        assert failure.kind == "environment"
        assert gone.id in failure.message
        assert not (station.directory / "ran").exists()
        return "refused"

    @request("a time limit, for a task that ignores SIGTERM and leaves processes behind")
    def test_a_time_limit(self, station: Station) -> str | None:
        """Nothing of it is left."""
        trace = station.directory / "trace"
        script = (
            "trap '' TERM INT HUP; (trap '' TERM; while :; do echo on >>trace; sleep 0.02; done) &"
            " echo up; while :; do sleep 0.05; done"
        )
        resources = Resources()
        _, held = station.watched(
            "/bin/sh", "-c", script, resources=resources, timeout_s=2.0, grace_s=0.3
        )
        assert held.verdict == "timeout"
        size = trace.stat().st_size if trace.exists() else 0
        # What still ran would have had its turn in this time.
        assert station.run("/bin/sh", "-c", "sleep 0.3").exit_code == 0
        assert (trace.stat().st_size if trace.exists() else 0) == size
        return "ended, with all of them"

    @request("the files that it makes")
    def test_whose_files(self, station: Station) -> str | None:
        """Are the user's, whoever runs the container."""
        assert station.run("/bin/sh", "-c", "mkdir d; echo x >d/f").exit_code == 0
        found = (station.directory / "d" / "f").stat()
        assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())
        return "are yours"

    @request("1 GiB of output")
    def test_much_output(self, station: Station) -> str | None:
        """Goes from the task to its log, through nobody's memory."""
        size = 2**30
        try:
            assert station.run("/bin/sh", "-c", f"head -c {size} /dev/zero").exit_code == 0
            assert (station.attempt / "stdout.log").stat().st_size == size
        finally:
            (station.attempt / "stdout.log").unlink()
        return "straight to the log"

    @request("a container for task after task")
    def test_kept_containers(self, station: Station) -> str | None:
        """Each finds it as the first one did; one that was changed is not used again."""
        if not isinstance(station.runtime, KeepingRuntime) or station.image is None:
            return "a new one each" if station.image else "no container"
        script = (
            'ls -A /tmp | grep -c mark; [ -z "$MARK" ] || echo leaked; ulimit -f; pwd;'
            " : >/tmp/mark; MARK=1; export MARK; ulimit -f 9; cd /; (sleep 600 &)"
        )
        answers = set()
        kept: list[object] = []
        with Pool() as pool:
            for _ in range(3):
                with pool.container(station.runtime, station.spec()) as container:
                    kept.append(container)
                    outcome = self._in_tmp_free_folder(station, container, script)
                assert outcome.exit_code == 0
                answers.add(station.stdout())
                (station.attempt / "stdout.log").unlink()
        assert len({id(container) for container in kept}) == 1
        assert len(answers) == 1
        return "kept"

    @staticmethod
    def _in_tmp_free_folder(station: Station, container: Any, script: str) -> Outcome:  # noqa: ANN401
        return station.start(container, Command(argv=("/bin/sh", "-c", script)), {}).wait()


_HELD_BY: Final = {
    "cgroup": "held by the kernel",
    "measured": "measured, then stopped",
    "affinity": "bound to whole processors",
}
