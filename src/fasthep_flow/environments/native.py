"""The host itself: the place of a task without an image.

A task inherits the host's environment under its own variables. Its limits are held by a control
group where there may be one; else memory is measured by the caller. A task that asks for
processors is bound to as many, where the system can do that, and to some of its own where these
are free: then libraries that start a thread for each processor start as many as were asked for.
What is mounted for a task, read-only or at another place, is seen by its processes alone.
"""

from __future__ import annotations

import math
import os
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING, Final

import msgspec

from fasthep_flow.environments import (
    ContainerSpec,
    ImageFacts,
    Mount,
    NotStarted,
    Outcome,
    Process,
    ResolvedImage,
)
from fasthep_flow.environments.host.inherited import laid_over_ours
from fasthep_flow.environments.host.leases import lease
from fasthep_flow.environments.host.machine import require_machine
from fasthep_flow.environments.host.scratch import scratch_folder
from fasthep_flow.environments.host.spawn import Spawned, open_log
from fasthep_flow.environments.host.starting import why_not_started
from fasthep_flow.environments.interpreter import call_argv, write_call
from fasthep_flow.environments.limits.enforcement import not_held
from fasthep_flow.errors import (
    DeviceUnavailable,
    EnvironmentRefused,
    ImageUnavailable,
    LimitUnenforceable,
)
from fasthep_flow.model import Call, Command, Failure, Gpu, Image, Invocation, Network, Resources

if TYPE_CHECKING:
    from fasthep_flow.environments.limits.cgroups import ControlGroups, Group

__all__ = ["NATIVE", "Host", "NativeRuntime"]

_NOT_STARTED: Final = 127


class _NativeProcess:
    def __init__(self, spawned: Spawned) -> None:
        self._spawned: Final = spawned
        self.pid: Final = spawned.pid
        self.terminate: Final = spawned.terminate
        self.kill: Final = spawned.kill

    def wait(self) -> Outcome:
        ended = self._spawned.wait()
        return Outcome(
            exit_code=ended.exit_code,
            signal=ended.signal,
            cpu_s=ended.cpu_s,
            peak_memory=ended.peak_memory,
            peak_memory_is_bound=ended.peak_memory_is_bound,
        )


class _EnclosedProcess:
    """A process that sees mounts of its own, and may not have become the task's program."""

    def __init__(
        self, process: Process, program: str, working_directory: str, directory: str
    ) -> None:
        self._process: Final = process
        self._program: Final = program
        self._working_directory: Final = working_directory
        self._directory: Final = directory
        self.pid: Final = process.pid
        self.terminate: Final = process.terminate
        self.kill: Final = process.kill

    def wait(self) -> Outcome:
        from fasthep_flow.environments.host.mounts import UNMOUNTED, read_trouble

        outcome = self._process.wait()
        if outcome.exit_code != _NOT_STARTED:
            return outcome
        trouble = read_trouble(f"{self._directory}/{UNMOUNTED}")
        if trouble is None:
            return outcome
        if trouble.words:
            failure = Failure(kind="environment", message=trouble.words)
        else:
            failure = why_not_started(trouble.error, self._program, self._working_directory)
        return msgspec.structs.replace(outcome, exit_code=None, failure=failure)


class Host:
    """The host as a container.

    Args:
        cpus: The processors that its process is bound to; all of them if there are none.
        group: The control group that its process is in.
        mounts: That its process sees, and nobody else.
    """

    def __init__(
        self,
        cpus: tuple[int, ...] = (),
        group: Group | None = None,
        mounts: tuple[Mount, ...] = (),
    ) -> None:
        self._cpus: Final = cpus
        self._group: Final = group
        self._mounts: Final = mounts
        self._spawned: Spawned | None = None

    def close(self) -> None:
        """End what nobody has waited for."""
        if self._spawned is not None:
            self._spawned.end()

    def start(
        self,
        invocation: Invocation,
        *,
        environment: Mapping[str, str | None],
        working_directory: str,
        directory: str,
    ) -> Process:
        """See :meth:`fasthep_flow.environments.Container.start`."""
        variables = laid_over_ours(environment)
        argv: tuple[str, ...]
        match invocation:
            case Call():
                write_call(directory, invocation)
                argv = call_argv(environment.get("FASTHEP_PYTHON") or sys.executable, directory)
                stdin = None
            case Command():
                argv = invocation.argv
                stdin = None if invocation.stdin is None else _readable(invocation.stdin)
        program = argv[0]
        argv = self._within(argv, directory)
        stdout = open_log(f"{directory}/stdout.log")
        stderr = open_log(f"{directory}/stderr.log")
        try:
            with _bound_to(self._cpus):
                spawned = Spawned(
                    argv,
                    environment=variables,
                    working_directory=working_directory,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    task_directory=directory,
                )
        except (OSError, ValueError) as error:
            return NotStarted(why_not_started(error, program, working_directory))
        finally:
            os.close(stdout)
            os.close(stderr)
            if stdin is not None:
                stdin.close()
        self._spawned = spawned
        process: Process
        if self._group is None:
            process = _NativeProcess(spawned)
        else:
            from fasthep_flow.environments.limits.grouped import GroupedProcess

            process = GroupedProcess(spawned, self._group, program, working_directory, directory)
        if self._mounts:
            return _EnclosedProcess(process, program, working_directory, directory)
        return process

    def enter(
        self,
        argv: tuple[str, ...],
        *,
        environment: Mapping[str, str | None],
        working_directory: str,
        directory: str,
    ) -> int:
        """Run a program on the caller's own streams; its exit code.

        Args:
            argv: The program and its arguments.
            environment: Variables, laid over the host's.
            working_directory: Absolute path.
            directory: Absolute path of a folder for what goes wrong.

        Raises:
            EnvironmentRefused: It cannot be started; with the reason.
            RunInterrupted: The caller was told to stop; the program has ended.
        """
        from fasthep_flow.environments.host.attended import Brood, attend, shell_code

        program = argv[0]
        try:
            with Brood() as brood, _bound_to(self._cpus):
                code = attend(
                    self._within(argv, directory),
                    environment=laid_over_ours(environment),
                    working_directory=working_directory,
                    ask=brood.terminate,
                    kill=brood.kill,
                )
        except (OSError, ValueError) as error:
            failure = why_not_started(error, program, working_directory)
            raise EnvironmentRefused(failure.message, hint=failure.hint) from None
        if code == _NOT_STARTED:
            self._require_start(program, working_directory, directory)
        return shell_code(code)

    def _require_start(self, program: str, working_directory: str, directory: str) -> None:
        """Raise why the program was not started, where it was not."""
        failure = None
        if self._mounts:
            from fasthep_flow.environments.host.mounts import UNMOUNTED, read_trouble

            if (trouble := read_trouble(f"{directory}/{UNMOUNTED}")) is not None:
                if trouble.words:
                    raise EnvironmentRefused(trouble.words)
                failure = why_not_started(trouble.error, program, working_directory)
        if self._group is not None:
            from fasthep_flow.environments.limits.cgroups import REPORT, read_report

            if (why := read_report(f"{directory}/{REPORT}")) is not None:
                failure = why_not_started(why.error, program, working_directory)
        if failure is not None:
            raise EnvironmentRefused(failure.message, hint=failure.hint)

    def _within(self, argv: tuple[str, ...], directory: str) -> tuple[str, ...]:
        """The words that start the program in its group and among its mounts."""
        if self._group is not None:
            from fasthep_flow.environments.limits.cgroups import REPORT

            argv = tuple(self._group.enter_argv(argv, f"{directory}/{REPORT}"))
        if self._mounts:
            from fasthep_flow.environments.host.mounts import UNMOUNTED, enclosed_argv

            # In front of the group, which is not to count what this needs.
            argv = enclosed_argv(argv, self._mounts, f"{directory}/{UNMOUNTED}")
        return argv


@contextmanager
def _bound_to(cpus: tuple[int, ...]) -> Iterator[None]:
    """This thread is bound to the processors, and what it starts inherits that."""
    if not cpus:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _readable(text: str) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller hands it to the process
    file.write(text.encode("utf-8", "surrogateescape"))
    file.seek(0)
    return file


class NativeRuntime:
    """Runs processes on the host; see :class:`fasthep_flow.environments.Runtime`.

    Args:
        groups: The control groups that may be had; ``None`` for this machine's.
    """

    name: Final = "native"

    def __init__(self, groups: ControlGroups | None = None) -> None:
        self._groups = groups

    def probe(self) -> str | None:
        """Always there."""
        return None

    def takes(self, image: Image) -> str | None:
        """None of them."""
        return f"the runtime 'native' takes no image, and the task asks for {image}"

    def check(self, resources: Resources, network: Network = "host") -> dict[str, str]:
        """A control group holds a limit where there may be one.

        Else memory is measured, and processors are bound, whole ones.

        Raises:
            LimitUnenforceable: More is asked for than this machine has, or processors that
                cannot be bound; or no network.
        """
        if network != "host":
            raise LimitUnenforceable(
                "a task without an image has the host's network",
                hint="give it an image, or leave 'network' out",
            )
        if resources.cpus is None and resources.memory is None:
            return {}
        require_machine(resources)
        held = {}
        available = self._control_groups().available()
        if resources.cpus is not None:
            held["cpus"] = self._cpus_held(resources, resources.cpus)
        if resources.memory is not None:
            held["memory"] = "cgroup" if "memory" in available else "measured"
        return held

    def _cpus_held(self, resources: Resources, cpus: float) -> str:
        from fasthep_flow.environments.limits.cgroups import LEAST_CPUS

        why_not = self._control_groups().why_not("cpus")
        if why_not is None and cpus >= LEAST_CPUS:
            return "cgroup"
        if why_not is None:
            why = f"{cpus:g} cpus are less than the kernel shares out"
            return not_held(resources, "cpus", why, f"ask for {LEAST_CPUS:g} (10m) at the least")
        if not hasattr(os, "sched_setaffinity"):
            why = f"this system cannot hold a task to processors ({why_not})"
            return not_held(resources, "cpus", why)
        if cpus == math.ceil(cpus):
            return "affinity"
        if resources.enforce == "best_effort":
            return f"affinity: {math.ceil(cpus)} for {cpus:g}"
        why = f"a task can be bound to whole processors here, and not held to {cpus:g} ({why_not})"
        return not_held(resources, "cpus", why, f"ask for {math.ceil(cpus)}")

    def _control_groups(self) -> ControlGroups:
        if self._groups is None:
            from fasthep_flow.environments.limits.cgroups import GROUPS

            self._groups = GROUPS
        return self._groups

    def lends(self, devices: Sequence[Gpu]) -> str | None:
        """All whose files are there."""
        from fasthep_flow.environments.devices.presence import described, missing_from

        why = missing_from(devices)
        if why is None:
            return None
        return f"{described(devices)} cannot be used on this machine: {why}"

    def look(self, image: Image) -> ImageFacts:
        """Refuses every image.

        Raises:
            ImageUnavailable: Always.
        """
        raise ImageUnavailable(
            self.takes(image) or "",
            hint="leave out 'runtime', or choose one that takes images",
        )

    def resolve(self, image: Image) -> ResolvedImage:
        """Refuses every image.

        Raises:
            ImageUnavailable: Always.
        """
        raise ImageUnavailable(
            self.takes(image) or "",
            hint="leave out 'runtime', or choose one that takes images",
        )

    @contextmanager
    def open(self, spec: ContainerSpec) -> Iterator[Host]:
        """The host, or a share of it, with what is mounted for the task alone.

        Raises:
            DeviceUnavailable: A device that it was given is gone.
            EnvironmentRefused: Nothing can be mounted for a process here.
            LimitUnenforceable: The kernel does not give the task a control group after all.
        """
        _require_devices(spec)
        mounts = _other_mounts(spec)
        with ExitStack() as stack:
            group = self._group_of(spec, stack)
            host = Host(_processors_of(spec.resources, stack), group, mounts)
            stack.callback(host.close)
            yield host

    def enter(
        self,
        spec: ContainerSpec,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str | None],
        working_directory: str,
    ) -> int:
        """See :meth:`fasthep_flow.environments.Runtime.enter`."""
        _require_devices(spec)
        mounts = _other_mounts(spec)
        with ExitStack() as stack:
            folder = stack.enter_context(scratch_folder())
            group = self._group_of(spec, stack)
            host = Host(_processors_of(spec.resources, stack), group, mounts)
            return host.enter(
                tuple(argv),
                environment=environment,
                working_directory=working_directory,
                directory=str(folder),
            )

    def _group_of(self, spec: ContainerSpec, stack: ExitStack) -> Group | None:
        cpus, memory = spec.resources.cpus, spec.resources.memory
        if cpus is None and memory is None:
            return None
        groups = self._control_groups()
        available = groups.available()
        if "cpus" not in available:
            cpus = None
        if "memory" not in available:
            memory = None
        if cpus is None and memory is None:
            return None
        try:
            return stack.enter_context(groups.group(spec.name, memory=memory, cpus=cpus))
        except OSError as error:
            raise LimitUnenforceable(
                f"there is no control group to hold the task's limits: {error.strerror or error}"
            ) from error


def _require_devices(spec: ContainerSpec) -> None:
    """Refuse to start without the devices that were chosen some time before."""
    if not spec.devices:
        return
    from fasthep_flow.environments.devices.presence import lost, missing_from

    if (why := missing_from(spec.devices)) is not None:
        failure = lost(spec.devices, "on this machine", why)
        raise DeviceUnavailable(failure.message, hint=failure.hint)


def _other_mounts(spec: ContainerSpec) -> tuple[Mount, ...]:
    """The mounts, if any of them is not on the host as it is to be.

    Raises:
        EnvironmentRefused: There is such a one, and nothing can be mounted here.
    """
    if not any(mount.read_only or mount.source != mount.target for mount in spec.mounts):
        return ()
    from fasthep_flow.environments.host.mounts import why_no_mounts

    if (why_not := why_no_mounts()) is not None:
        raise EnvironmentRefused(
            f"nothing can be mounted for a task without an image here: {why_not}",
            hint="have user namespaces allowed on this machine, or give the task an image",
        )
    # All of them: one that changes nothing by itself may have to lie above another one.
    return spec.mounts


def _processors_of(resources: Resources, stack: ExitStack) -> tuple[int, ...]:
    """Those that a task is bound to: its own, as long as the stack lasts, if so many are free."""
    if resources.cpus is None or not hasattr(os, "sched_setaffinity"):
        return ()
    usable = sorted(os.sched_getaffinity(0))
    count = math.ceil(resources.cpus)
    own = stack.enter_context(lease("cpu", [str(cpu) for cpu in usable], count))
    # Shared with others it has no more than it asked for, either.
    return tuple(map(int, own)) or tuple(random.sample(usable, min(count, len(usable))))


NATIVE: Final = NativeRuntime()
