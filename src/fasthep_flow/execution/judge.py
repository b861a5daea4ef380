"""What an outcome means: a status, and a cause in plain words."""

from __future__ import annotations

import signal
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from fasthep_flow.environments import Outcome
from fasthep_flow.environments.host.machine import bytes_text
from fasthep_flow.environments.interpreter import Reply
from fasthep_flow.execution.process import Verdict
from fasthep_flow.model import Failure, FailureKind, Status

__all__ = ["Judgement", "judge"]

_REPLY_KINDS: Final[dict[str, FailureKind]] = {
    "exception": "exception",
    "not_started": "not_started",
    "result": "result",
}
_EXIT_HINTS: Final = {
    126: "126 is what a shell answers where a command may not be executed",
    127: "127 is what a shell answers where it does not find a command",
}


class Judgement(Struct, frozen=True, kw_only=True):
    """How an attempt ended.

    Args:
        status: In a word.
        failure: Why it did not succeed.
        value: What the callable returned.
    """

    status: Status
    failure: Failure | None = None
    value: Any | UnsetType = UNSET


def judge(
    outcome: Outcome,
    verdict: Verdict | None,
    *,
    reply: Reply | None = None,
    is_call: bool = False,
    memory_limit: int | None = None,
    timeout_s: float | None = None,
) -> Judgement:
    """How an attempt ended.

    Args:
        outcome: Of its process.
        verdict: Why the watch stopped it.
        reply: What its callable answered.
        is_call: Whether it has a callable.
        memory_limit: Bytes.
        timeout_s: Seconds.
    """
    if verdict is not None:
        return _of_verdict(verdict, memory_limit, timeout_s)
    # An exit code of 0 says nothing where a child was killed and its parent did not look.
    if outcome.out_of_memory:
        return _failed(_out_of_memory(memory_limit))
    if outcome.failure is not None:
        return _failed(outcome.failure)
    failure = _of_process(outcome)
    if is_call:
        return _of_call(failure, reply)
    return Judgement(status="succeeded") if failure is None else _failed(failure)


def _of_verdict(verdict: Verdict, memory_limit: int | None, timeout_s: float | None) -> Judgement:
    match verdict:
        case "timeout":
            message = "timed out" if timeout_s is None else f"timed out after {timeout_s:g} s"
            return Judgement(status="timed_out", failure=Failure(kind="timeout", message=message))
        case "cancelled":
            failure = Failure(kind="cancelled", message="stopped with the run")
            return Judgement(status="cancelled", failure=failure)
        case "memory":
            return _failed(_out_of_memory(memory_limit))


def _of_call(failure: Failure | None, reply: Reply | None) -> Judgement:
    if reply is not None and reply.failure is not None:
        refusal = reply.failure
        return _failed(
            Failure(
                kind=_REPLY_KINDS.get(refusal.kind, "exception"),
                message=refusal.message,
                hint=refusal.hint,
                traceback=refusal.traceback,
            )
        )
    if failure is not None:
        if reply is not None and reply.value is not UNSET:
            message = f"{failure.message}, after the callable had returned"
            failure = msgspec.structs.replace(failure, message=message)
        return _failed(failure)
    if reply is None:
        message = "the process ended with success, but the callable did not return"
        return _failed(Failure(kind="result", message=message, hint="does it call os._exit?"))
    return Judgement(status="succeeded", value=reply.value)


def _of_process(outcome: Outcome) -> Failure | None:
    if outcome.signal is not None:
        name = _signal_name(outcome.signal)
        hint = None
        if outcome.signal == signal.SIGKILL:
            hint = "nothing of fasthep-flow's killed it: the machine may be out of memory"
        return Failure(kind="signal", message=f"killed by {name}", hint=hint)
    if outcome.exit_code == 0:
        return None
    if outcome.exit_code is None:
        return Failure(kind="internal", message="nothing is known of how the process ended")
    code = outcome.exit_code
    hint = _EXIT_HINTS.get(code)
    if code > 128 and (name := _signal_name(code - 128)).startswith("SIG"):  # noqa: PLR2004
        hint = f"{code} is what a shell answers where {name} ended a command"
    return Failure(kind="exit", message=f"exit code {code}", hint=hint)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _out_of_memory(limit: int | None) -> Failure:
    if limit is None:
        return Failure(
            kind="out_of_memory",
            message="out of memory: the system killed a process of the task",
            hint="ask for memory under resources, so that tasks do not share too little of it",
        )
    return Failure(
        kind="out_of_memory",
        message=f"out of memory: limit {bytes_text(limit)}",
        hint="ask for more under resources: memory",
    )


def _failed(failure: Failure) -> Judgement:
    return Judgement(status="failed", failure=failure)
