import signal
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from fasthep_flow.environments import Outcome
from fasthep_flow.environments.interpreter import Refusal, Reply
from fasthep_flow.execution.judge import Judgement, judge
from fasthep_flow.execution.process import Verdict
from fasthep_flow.model import Failure

LIMIT = 64 * 2**20


def cause(judgement: Judgement) -> tuple[str, str, str]:
    assert judgement.failure is not None
    return judgement.status, judgement.failure.kind, judgement.failure.message


def test_success() -> None:
    assert judge(Outcome(exit_code=0), None) == Judgement(status="succeeded")
    reply = Reply(value={"mu": 1.0})
    judgement = judge(Outcome(exit_code=0), None, is_call=True, reply=reply)
    assert judgement == Judgement(status="succeeded", value={"mu": 1.0})
    judgement = judge(Outcome(exit_code=0), None, is_call=True, reply=Reply(value=None))
    assert judgement == Judgement(status="succeeded", value=None)


def test_a_callable_that_leaves_with_success_has_no_value() -> None:
    judgement = judge(Outcome(exit_code=0), None, is_call=True, reply=Reply(exit=0))
    assert (judgement.status, judgement.value) == ("succeeded", UNSET)


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (1, None),
        (125, None),
        (126, "may not be executed"),
        (127, "does not find a command"),
        (137, "SIGKILL ended a command"),
        (139, "SIGSEGV ended a command"),
        (255, None),
    ],
)
def test_exit_codes(code: int, hint: str | None) -> None:
    judgement = judge(Outcome(exit_code=code), None)
    assert cause(judgement) == ("failed", "exit", f"exit code {code}")
    assert judgement.failure is not None
    assert (hint is None) == (judgement.failure.hint is None)
    assert hint is None or hint in (judgement.failure.hint or "")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_signals_have_names(number: signal.Signals) -> None:
    judgement = judge(Outcome(signal=number), None)
    assert cause(judgement) == ("failed", "signal", f"killed by {number.name}")
    assert cause(judge(Outcome(signal=200), None))[2] == "killed by signal 200"


@pytest.mark.parametrize("code", [0, 1, 137])
def test_memory_that_ran_out_is_the_cause_whatever_the_exit_code(code: int) -> None:
    outcome = Outcome(exit_code=code, out_of_memory=True)
    expected = ("failed", "out_of_memory", "out of memory: limit 64Mi")
    assert cause(judge(outcome, None, memory_limit=LIMIT)) == expected
    reply = Reply(value=1)
    assert cause(judge(outcome, None, memory_limit=LIMIT, is_call=True, reply=reply)) == expected
    assert cause(judge(Outcome(signal=9), "memory", memory_limit=LIMIT)) == expected
    assert cause(judge(outcome, None))[2].startswith("out of memory: the system")


def test_what_the_watch_decided_comes_first() -> None:
    failure = Failure(kind="environment", message="the engine is gone")
    for outcome in (Outcome(exit_code=0), Outcome(signal=15), Outcome(failure=failure)):
        judgement = judge(outcome, "timeout", timeout_s=2.0)
        assert cause(judgement) == ("timed_out", "timeout", "timed out after 2 s")
        judgement = judge(outcome, "cancelled")
        assert cause(judgement) == ("cancelled", "cancelled", "stopped with the run")


def test_what_the_runtime_knows_comes_before_the_exit_code() -> None:
    failure = Failure(kind="not_started", message="no such program: root")
    assert judge(Outcome(failure=failure), None).failure == failure


class TestCall:
    def test_has_raised(self) -> None:
        refusal = Refusal("exception", "ValueError: x", None, "Traceback ...")
        judgement = judge(Outcome(exit_code=1), None, is_call=True, reply=Reply(failure=refusal))
        assert cause(judgement) == ("failed", "exception", "ValueError: x")
        assert judgement.failure is not None
        assert judgement.failure.traceback == "Traceback ..."

    def test_may_not_say_any_kind(self) -> None:
        for said, kind in (
            ("result", "result"),
            ("not_started", "not_started"),
            ("timeout", "exception"),
            ("x", "exception"),
        ):
            reply = Reply(failure=Refusal(said, "m"))
            assert cause(judge(Outcome(exit_code=1), None, is_call=True, reply=reply))[1] == kind

    def test_did_not_return(self) -> None:
        judgement = judge(Outcome(exit_code=0), None, is_call=True)
        assert cause(judgement)[:2] == ("failed", "result")
        judgement = judge(Outcome(exit_code=3), None, is_call=True)
        assert cause(judgement) == ("failed", "exit", "exit code 3")

    def test_returned_and_then_its_process_failed(self) -> None:
        reply = Reply(value=1)
        judgement = judge(Outcome(signal=signal.SIGSEGV), None, is_call=True, reply=reply)
        message = "killed by SIGSEGV, after the callable had returned"
        assert cause(judgement) == ("failed", "signal", message)
        assert judgement.value is UNSET


@given(
    outcome=st.builds(
        Outcome,
        exit_code=st.none() | st.integers(0, 255),
        signal=st.none() | st.integers(1, 64),
        out_of_memory=st.booleans(),
        failure=st.none() | st.just(Failure(kind="environment", message="m")),
    ),
    verdict=st.none() | st.sampled_from(get_args(Verdict)),
    is_call=st.booleans(),
    reply=st.none() | st.just(Reply(value=1)) | st.just(Reply(failure=Refusal("result", "m"))),
)
def test_only_what_went_well_succeeds(
    outcome: Outcome, verdict: Verdict | None, is_call: bool, reply: Reply | None
) -> None:
    judgement = judge(outcome, verdict, is_call=is_call, reply=reply)
    assert (judgement.failure is None) == (judgement.status == "succeeded")
    if judgement.status == "succeeded":
        assert (outcome.exit_code, outcome.signal, outcome.failure) == (0, None, None)
        assert verdict is None
        assert not outcome.out_of_memory
        assert not is_call or reply == Reply(value=1)
    else:
        assert judgement.value is UNSET
        assert judgement.failure is not None
        assert judgement.failure.message
