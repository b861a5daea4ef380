"""One container of apptainer's: its command line, and what becomes of its processes.

There is no engine that knows of it: all of it are processes of the caller's, which end with
the first one of the container's process namespace, named ``appinit``.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import re
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from fasthep_flow.environments import ContainerSpec, Mount, Outcome
from fasthep_flow.environments.containers.commandline import mount_option
from fasthep_flow.environments.containers.container import why_no_container
from fasthep_flow.environments.containers.enclosure import EndedClient
from fasthep_flow.environments.containers.lending import NO_DEVICES, sif_options
from fasthep_flow.environments.containers.shell import Dialect, server_argv
from fasthep_flow.environments.containers.tally import Tally, descendants
from fasthep_flow.environments.containers.traces import Traces, traces_of
from fasthep_flow.environments.host.machine import bytes_text, cpu_count
from fasthep_flow.environments.host.scratch import SCRATCH_FOLDERS
from fasthep_flow.environments.limits.cgroups import (
    REPORT,
    Account,
    ControlGroups,
    Counters,
    Group,
    read_report,
)
from fasthep_flow.model import Failure, Network

if TYPE_CHECKING:
    import psutil

__all__ = ["ApptainerFacts", "SifEnclosure", "client_environment", "exec_argv"]

_UNLIMITED: Final = 2**60
"""Bytes; a group without any limit would not be told apart from its parent."""

_OURS: Final = re.compile(r"(?:APPTAINER|SINGULARITY)", re.ASCII)
_SETTINGS: Final = re.compile(r"(?:APPTAINER|SINGULARITY)_(?:CACHEDIR|CONFIGDIR|TMPDIR)", re.ASCII)
_HANDED_ON: Final = re.compile(r"term|(?:https?|ftp|all|no)_proxy", re.ASCII | re.IGNORECASE)
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")
_HOST_FILES: Final = ("/etc/hosts", "/etc/localtime")
"""What apptainer.conf binds as it comes, and so that root could write to it."""

_FIRST: Final = frozenset({"appinit", "sinit"})
_BIND: Final = (
    "import os, sys; os.sched_setaffinity(0, map(int, sys.argv[1].split(',')));"
    "os.execvp(sys.argv[2], sys.argv[2:])"
)


class ApptainerFacts(Struct, frozen=True, kw_only=True):
    """What apptainer is and needs on this machine.

    Args:
        program: ``apptainer``, or ``singularity``.
        version: As it says itself.
        options: That it does not start a container without, such as ``--userns``.
    """

    program: str
    version: str
    options: tuple[str, ...] = ()


def client_environment(environment: Mapping[str, str], *, fetching: bool = False) -> dict[str, str]:
    """What apptainer's client may see of the host's variables, so that no task does.

    ``APPTAINERENV_X`` sets a variable in the container, ``APPTAINER_BIND`` binds folders, and
    so on for every option; of these the three remain that say where apptainer keeps its own
    things. ``--cleanenv`` still hands ``TERM`` and the proxies on.

    Args:
        environment: The host's.
        fetching: For a client that starts no container: it needs the proxies.
    """
    return {
        name: value
        for name, value in environment.items()
        if _SETTINGS.fullmatch(name)
        or not (_OURS.match(name) or (_HANDED_ON.fullmatch(name) and not fetching))
    }


def network_options(network: Network) -> tuple[str, ...]:
    """What keeps the network away: no interface but the container's own loopback."""
    return ("--net", "--network", "none") if network == "none" else ()


def exec_argv(
    facts: ApptainerFacts, spec: ContainerSpec, program: Sequence[str], *, scratch: str
) -> list[str]:
    """The command line that starts a program in a container and waits for it.

    Nothing of the host is seen but what the system's administrators bind, and the mounts; the
    entrypoint is not run; what apptainer is handed it does not evaluate. Without ``--contain``
    ``/tmp`` would be the host's, with it alone it would be in memory. Without ``--pid`` what a
    task leaves behind would live on; the first process of that namespace (which ``--no-init``
    would leave out) hands signals on and reaps. Variables are not on it: they would be seen
    by everyone on the machine. The host's names and time zone are read-only, which no setting
    of apptainer's makes them: they are left out, and mounted by us.

    Args:
        facts: What apptainer needs here.
        spec: The container.
        program: What starts in it, and its arguments; it reads what the client reads.
        scratch: The folder in which the container's ``/tmp`` and ``/var/tmp`` lie.
    """
    if spec.image is None:
        raise ValueError("a container needs an image")
    argv = [facts.program, "--quiet", "exec", *facts.options]
    argv += ["--cleanenv", "--no-eval", "--contain", "--no-home", "--ipc", "--pid"]
    argv += sif_options(spec.devices)
    # The folder that the client is in need not be in the container, which would be said aloud.
    argv += ["--pwd", "/", *network_options(spec.network)]
    argv += ["--no-mount", ",".join(_HOST_FILES)]
    for path in _HOST_FILES:
        if Path(path).is_file():
            mount = Mount(source=path, target=path, read_only=True)
            argv += ["--mount", mount_option(mount)]
    for name, target in SCRATCH_FOLDERS.items():
        argv += ["--mount", mount_option(Mount(source=f"{scratch}/{name}", target=target))]
    for mount in spec.mounts:
        argv += ["--mount", mount_option(mount)]
    return [*argv, *spec.options, spec.image.reference, *program]


class SifEnclosure:
    """What apptainer supplies; see :class:`.Enclosure`.

    Args:
        facts: What apptainer needs here.
        spec: Of the container.
        groups: The control groups that may be had.
    """

    counts_inside: Final = False

    def __init__(self, facts: ApptainerFacts, spec: ContainerSpec, groups: ControlGroups) -> None:
        self._facts: Final = facts
        self._spec: Final = spec
        self._groups: Final = groups
        self._group: Group | None = None
        self._tally: Tally | None = None
        self._stack = ExitStack()
        self._client_pid = 0
        self._kills = 0
        self._first: psutil.Process | None = None
        self._server = 0
        self._before: Traces | None = None
        self._ours: Final = (
            *SCRATCH_FOLDERS.values(),
            *(mount.target for mount in spec.mounts),
        )

    def argv(self, program: tuple[str, ...], scratch: Path) -> list[str]:
        """See :meth:`.Enclosure.argv`.

        Raises:
            OSError: There is no control group to hold the container's limits after all.
        """
        argv = exec_argv(self._facts, self._spec, program, scratch=str(scratch))
        asked, available = self._spec.resources, self._groups.available()
        if asked.cpus is not None and "cpus" not in available:
            argv = _bound(argv, math.ceil(asked.cpus))
        if not available:
            return argv
        # Without a limit too: it counts, and of what is in it nothing is left.
        self._group = self._stack.enter_context(
            self._groups.group(
                self._spec.name,
                memory=(asked.memory or _UNLIMITED) if "memory" in available else None,
                cpus=(asked.cpus or float(cpu_count())) if "cpus" in available else None,
            )
        )
        return self._group.enter_argv(argv, str(_report_in(scratch / "client")))

    def client_environment(self) -> dict[str, str]:
        """See :meth:`.Enclosure.client_environment`."""
        shown = ",".join(gpu.id for gpu in self._spec.devices if gpu.vendor == "nvidia")
        if "--nv" in self._spec.options and not shown:
            # The author's own word: what the image says of them holds.
            return client_environment(os.environ)
        variable = {"APPTAINERENV_NVIDIA_VISIBLE_DEVICES": shown or NO_DEVICES}
        return {**client_environment(os.environ), **variable}

    def started(self, client_pid: int) -> None:
        """See :meth:`.Enclosure.started`."""
        self._client_pid, self._kills, self._first = client_pid, 0, None
        self._before = None
        self._tally = self._stack.enter_context(closing(Tally(self._first_process, self._group)))

    def account(self) -> Account | None:
        """See :meth:`.Enclosure.account`."""
        return self._tally

    def terminate(self, directory: str, dialect: Dialect) -> None:  # noqa: ARG002 - all in it
        """See :meth:`.Enclosure.terminate`."""
        if (first := self._first_process()) is not None:
            # What serves in the container takes no notice of it.
            _signal(descendants(first), signal.SIGTERM)

    def kill(self) -> None:
        """See :meth:`.Enclosure.kill`."""
        self._kills += 1
        first = self._first_process()
        if first is not None and self._kills == 1:
            # The kernel ends with it all that it sees; the client then unmounts the image.
            _signal([first], signal.SIGKILL)
            return
        self._kill_session()

    def explain(self, ended: EndedClient) -> Outcome:
        """See :meth:`.Enclosure.explain`."""
        counted = Counters() if self._group is None else self._group.counters()
        if counted.oom_kills:
            return Outcome(out_of_memory=True, peak_memory=counted.peak_memory, cpu_s=counted.cpu_s)
        if (why := read_report(str(_report_in(ended.folder)))) is not None:
            message = f"{self._facts.program} cannot be started: {why.error.strerror}"
            if not why.entered:
                message = f"the container cannot enter its control group: {why.error.strerror}"
            return Outcome(failure=Failure(kind="environment", message=message))
        if ended.exit_code in {-signal.SIGKILL, 128 + signal.SIGKILL}:
            # Where the kernel counts, it has just said that it killed nothing for want of memory.
            memory = self._spec.resources.memory if counted.oom_kills is None else None
            return Outcome(failure=_killed_from_outside(memory))
        image = "" if self._spec.image is None else self._spec.image.name
        plain = msgspec.structs.replace(ended, said=_essence(ended.said))
        return Outcome(failure=why_no_container(plain, image, server_argv(ended.dialect)[0]))

    def lacks_shell(self, ended: EndedClient) -> bool:
        """See :meth:`.Enclosure.lacks_shell`."""
        said = _essence(ended.said)
        is_missing = "no such file" in said or "executable file not found" in said
        return not ended.ready and is_missing and server_argv(ended.dialect)[0] in said

    def ready(self) -> None:
        """See :meth:`.Enclosure.ready`."""
        import psutil

        first = self._first_process()
        with contextlib.suppress(psutil.Error):
            # What serves is the only one that the first process started.
            started = [] if first is None else first.children()
            if len(started) == 1:
                self._server = started[0].pid
                self._before = traces_of(self._server, self._ours)

    def is_pristine(self, since_ns: int) -> bool:  # noqa: ARG002 - its own files are in memory
        """See :meth:`.Enclosure.is_pristine`.

        Its root is read-only; all that can be written to is mounted.
        """
        if self._before is None or self._spec.options:
            return False
        return traces_of(self._server, self._ours) == self._before

    def remove(self, ended: EndedClient) -> None:  # noqa: ARG002 - all ends alike
        """See :meth:`.Enclosure.remove`."""
        # What mounts the image outlives a client that was killed.
        self._kill_session()
        self._stack.close()
        self._stack, self._group, self._tally = ExitStack(), None, None

    def _first_process(self) -> psutil.Process | None:
        """The first one of the container's; ``None`` where there is none yet."""
        import psutil

        if self._first is None and self._client_pid:
            with contextlib.suppress(psutil.Error):
                for process in descendants(psutil.Process(self._client_pid)):
                    if _is_first(process):
                        self._first = process
                        break
        return self._first

    def _kill_session(self) -> None:
        import psutil

        members = []
        # Of a session that began outside of our own namespace the number is 0.
        for process in psutil.process_iter() if self._client_pid else ():
            with contextlib.suppress(OSError, psutil.Error):
                if os.getsid(process.pid) == self._client_pid:
                    members.append(process)
        _signal(members, signal.SIGKILL)


def _bound(argv: Sequence[str], count: int) -> list[str]:
    """The words that start the program bound to as many processors."""
    usable = sorted(os.sched_getaffinity(0))
    chosen = random.sample(usable, min(count, len(usable)))
    words = ",".join(map(str, chosen))
    return [sys.executable, "-I", "-S", "-X", "utf8", "-c", _BIND, words, *argv]


def _report_in(folder: Path) -> Path:
    return folder / REPORT


def _is_first(process: psutil.Process) -> bool:
    """Whether it is the first one of a process namespace of its own."""
    import psutil

    with contextlib.suppress(OSError, psutil.Error):
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8", errors="replace")
        numbers = re.search(r"^NSpid:\s*(.*)$", status, re.MULTILINE)
        if numbers is None:
            # Linux before 4.1 does not say so.
            return process.name() in _FIRST
        return len(numbers[1].split()) > 1 and numbers[1].split()[-1] == "1"
    return False


def _signal(processes: Iterable[psutil.Process], number: int) -> None:
    import psutil

    for process in processes:
        # psutil looks at the time of its start first: a number that is in use again is safe.
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _essence(said: str) -> str:
    """What apptainer says of a failure, without what it says in any case."""
    lines = [line.strip() for line in _COLOURS.sub("", said).splitlines()]
    told = [line for line in lines if line and not line.startswith(("INFO:", "WARNING:"))]
    return "\n".join(re.sub(r"^(?:FATAL|ERROR)\s*:\s*", "", line) for line in told or lines)


def _killed_from_outside(memory: int | None) -> Failure:
    hint = None
    if memory is not None:
        hint = f"it may have run out of memory, of which it was given {bytes_text(memory)}"
    return Failure(kind="environment", message="the container was killed from outside", hint=hint)
