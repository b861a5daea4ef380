"""One job from start to end: all that a worker needs.

Job text and secrets go in, result text comes out. Whatever goes wrong is part of the
result; an exception out of here is a lost worker.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from fasthep_flow.environments import Outcome, Process, find_runtime
from fasthep_flow.environments.containers.pool import Pool
from fasthep_flow.environments.interpreter import Reply, read_reply
from fasthep_flow.errors import EnvironmentRefused, FlowError
from fasthep_flow.execution.judge import judge
from fasthep_flow.execution.masking import masked
from fasthep_flow.execution.place import make_room, tail_of, why_exchanged
from fasthep_flow.execution.prepare import Prepared, prepared, time_limit
from fasthep_flow.execution.process import Held, Watch
from fasthep_flow.model import (
    Call,
    Failure,
    Job,
    JobResult,
    Secrets,
    Status,
    from_json,
    to_json,
)

if TYPE_CHECKING:
    from fasthep_flow.execution.aside import Parents

__all__ = ["execute_job", "own_variables"]

_NOT_SETTABLE: Final = frozenset("=\0")


class _Begun(NamedTuple):
    """A job whose process was started.

    Args:
        job: The job.
        process: Its process; also one that stands for what could not be started.
        held: The process, as the watch has it.
        made: Its environment.
        enforced: How its limits are held.
        started: When it began.
        stack: What is to be undone when it has ended.
        parents: Where its outputs are to lie; empty where it has none.
        folder: A descriptor of its folder, closed with the stack.
    """

    job: Job
    process: Process
    held: Held
    made: Prepared
    enforced: dict[str, str]
    started: _Started
    stack: ExitStack
    parents: Sequence[Parents]
    folder: int


class _Started(NamedTuple):
    time_s: float
    clock_s: float


def execute_job(
    text: str, secrets: Secrets, *, watch: Watch | None = None, pool: Pool | None = None
) -> str:
    """Run the job that ``text`` spells; the JSON of its result.

    Args:
        text: The JSON of a :class:`~fasthep_flow.model.Job`.
        secrets: The values of its variables; they are handed to the task and to nobody else.
        watch: Holds the job to its limits, and stops it when told to; one of its own where
            none is given.
        pool: Keeps containers for further jobs; without it, each job has one of its own.
    """
    if watch is None:
        with Watch() as own:
            return execute_job(text, secrets, watch=own, pool=pool)
    try:
        job = from_json(Job, text)
    except ValueError as error:
        return _reply(_result_of(error, None, watch), _now())
    begun = _begin_job(job, secrets, watch=watch, pool=pool)
    return begun if isinstance(begun, str) else _end_job(begun, watch=watch)


def _begin_job(
    job: Job, secrets: Secrets, *, watch: Watch, pool: Pool | None = None
) -> _Begun | str:
    """Start a job's process, for :func:`_end_job`; the JSON of its result where that cannot be.

    Args:
        job: The job.
        secrets: See :func:`execute_job`, as for the others.
        watch: Holds it to its limits until it is ended.
        pool: Keeps containers.
    """
    started = _now()
    parents: list[Parents] = []
    try:
        begun = _begin(job, secrets, watch, pool, started=started, parents=parents)
    except Exception as error:  # noqa: BLE001 - the reply says failed, whatever it is
        begun = _result_of(error, job, watch)
    if isinstance(begun, _Begun):
        return begun
    known = {name: secrets.get(name) for name in job.variables}
    return _reply(masked(_with_outputs(job, parents, begun, watch), job, known), started)


def _end_job(begun: _Begun, *, watch: Watch) -> str:
    """Wait until a job's process has ended; the JSON of its result.

    Args:
        begun: The job; to be ended once.
        watch: With which it was begun.
    """
    try:
        with begun.stack:
            result = _end(begun, watch)
    except Exception as error:  # noqa: BLE001 - as above
        result = _result_of(error, begun.job, watch)
    result = _with_outputs(begun.job, begun.parents, result, watch)
    return _reply(masked(result, begun.job, begun.made.environment), begun.started)


def _with_outputs(
    job: Job, parents: Sequence[Parents], result: JobResult, watch: Watch
) -> JobResult:
    if not job.outputs:
        return result
    from fasthep_flow.execution.outputs import abandon_outputs, end_outputs

    if not parents:
        return abandon_outputs(job, result)
    return end_outputs(job, parents[0], result, is_stopped=lambda: watch.stopped(job.run_directory))


def _now() -> _Started:
    return _Started(time.time(), time.perf_counter())


def _reply(result: JobResult, started: _Started) -> str:
    return to_json(
        msgspec.structs.replace(
            result,
            host=_host_name(),
            started_s=started.time_s,
            wall_s=time.perf_counter() - started.clock_s,
        )
    )


def _result_of(error: Exception, job: Job | None, watch: Watch) -> JobResult:
    """What to say of a job that ended in an error."""
    match error:
        # What waits for a device, or fetches data, gives up when the run is stopped.
        case EnvironmentRefused() if job is not None and watch.stopped(job.run_directory):
            return _never_began(job)
        case EnvironmentRefused():
            failure = Failure(kind="environment", message=error.message, hint=error.hint)
        case FlowError():
            failure = Failure(kind="internal", message=error.message, hint=error.hint)
        case OSError():
            failure = _system_failure(error)
        case _:
            message = f"a mistake of fasthep-flow's: {type(error).__name__}: {error}"
            failure = Failure(kind="internal", message=message)
    return _failed(job, failure)


def _never_began(job: Job) -> JobResult:
    failure = Failure(kind="cancelled", message="the run was stopped before the task began")
    return _failed(job, failure, status="cancelled")


def _begin(
    job: Job,
    secrets: Secrets,
    watch: Watch,
    pool: Pool | None,
    *,
    started: _Started,
    parents: list[Parents],
) -> _Begun | JobResult:
    if watch.stopped(job.run_directory):
        return _never_began(job)
    variables = own_variables(job, secrets)
    runtime = find_runtime(job.runtime)
    enforced = runtime.check(job.resources, job.network)
    # Its data lies in a folder of its own: no other job could use the container.
    kept_in = pool if job.reuse and not job.extra_data else None
    with ExitStack() as stack:
        folder = make_room(job)
        stack.callback(os.close, folder)
        if job.inputs and (missing := _missing_input(job, watch)) is not None:
            return missing
        made = stack.enter_context(
            prepared(
                job,
                variables,
                runtime,
                enforced=enforced,
                is_shared=kept_in is not None,
                is_stopped=lambda: watch.stopped(job.run_directory),
            )
        )
        spec = made.spec
        container = stack.enter_context(
            runtime.open(spec) if kept_in is None else kept_in.container(runtime, spec)
        )
        if job.outputs:
            parents.append(_begin_outputs(job))
        process = container.start(
            made.invocation,
            environment=made.environment,
            working_directory=job.working_directory,
            directory=job.directory,
        )
        held = watch.hold(
            process,
            timeout_s=time_limit(job),
            memory_limit=job.resources.memory if enforced.get("memory") == "measured" else None,
            run_directory=job.run_directory,
            directory=job.directory,
        )
        undone = stack.pop_all()
        return _Begun(job, process, held, made, enforced, started, undone, parents, folder)


def _missing_input(job: Job, watch: Watch) -> JobResult | None:
    from fasthep_flow.execution.inputs import missing_input

    failure = missing_input(job.inputs, is_stopped=lambda: watch.stopped(job.run_directory))
    if failure is None:
        return None
    return _never_began(job) if watch.stopped(job.run_directory) else _failed(job, failure)


def _begin_outputs(job: Job) -> Parents:
    from fasthep_flow.execution.outputs import begin_outputs

    return begin_outputs(job)


def _end(begun: _Begun, watch: Watch) -> JobResult:
    job, made, enforced = begun.job, begun.made, begun.enforced
    try:
        outcome = begun.process.wait()
    finally:
        watch.release(begun.held)
    is_call = isinstance(made.invocation, Call)
    reply = read_reply(begun.folder) if is_call else None
    judgement = judge(
        outcome,
        begun.held.verdict,
        reply=reply,
        is_call=is_call,
        memory_limit=job.resources.memory,
        timeout_s=time_limit(job),
    )
    peak_memory, is_bound = _peak(outcome, reply, begun.held.peak_memory)
    result = JobResult(
        task=job.task,
        attempt=job.attempt,
        status=judgement.status,
        exit_code=outcome.exit_code,
        value=judgement.value,
        failure=judgement.failure,
        device=made.choice.device,
        device_reason=made.choice.reason,
        runtime=job.runtime,
        devices=tuple(gpu.id for gpu in made.choice.devices),
        image=None if made.image is None else made.image.name,
        image_digest=None if made.resolved is None else made.resolved.digest,
        data=made.data,
        software=made.software,
        cpu_s=outcome.cpu_s,
        peak_memory=peak_memory or None,
        peak_memory_is_bound=is_bound,
        enforced={**enforced, **outcome.enforced},
        stdout_tail=tail_of(begun.folder, "stdout.log"),
        stderr_tail=tail_of(begun.folder, "stderr.log"),
    )
    exchanged = why_exchanged(job, begun.folder)
    return result if exchanged is None else _with_exchanged(result, exchanged)


def _with_exchanged(result: JobResult, failure: Failure) -> JobResult:
    if result.status == "succeeded":
        return msgspec.structs.replace(
            result, status="failed", failure=failure, value=msgspec.UNSET
        )
    # Why it failed otherwise tells more.
    return msgspec.structs.replace(result, remarks=(*result.remarks, failure.message))


def _peak(outcome: Outcome, reply: Reply | None, watched: int) -> tuple[int, bool]:
    """Bytes, and whether these are only what the peak was not above; 0 where none are known."""
    if reply is not None and reply.peak:
        # The callable's own account leaves out the files that a control group counts as memory.
        return max(watched, reply.peak), False
    if outcome.peak_memory_is_bound:
        return (watched, False) if watched else (outcome.peak_memory or 0, True)
    return max(watched, outcome.peak_memory or 0), False


def own_variables(job: Job, secrets: Secrets) -> dict[str, str]:
    """The task's own variables.

    Raises:
        EnvironmentRefused: No process can be handed one of them.
    """
    variables = {}
    for name in job.variables:
        if not name or not _NOT_SETTABLE.isdisjoint(name):
            raise EnvironmentRefused(f"{name!r} cannot be the name of a variable")
        if name not in secrets:
            raise EnvironmentRefused(f"the value of the variable {name} did not reach the worker")
        if "\0" in secrets[name]:
            raise EnvironmentRefused(f"the value of the variable {name} holds a NUL character")
        variables[name] = secrets[name]
    return variables


def _failed(job: Job | None, failure: Failure, *, status: Status = "failed") -> JobResult:
    if job is None:
        return JobResult(task="", attempt=0, status=status, failure=failure)
    return JobResult(
        task=job.task,
        attempt=job.attempt,
        status=status,
        failure=failure,
        runtime=job.runtime,
        image=None if job.image is None else job.image.name,
    )


def _system_failure(error: OSError) -> Failure:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure(kind="environment", message=f"disk full: {error}")
    return Failure(kind="environment", message=str(error))


@functools.cache
def _host_name() -> str:
    return socket.gethostname()
