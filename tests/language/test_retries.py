"""When a task is tried again, and what its attempts ask for."""

from __future__ import annotations

import pytest
from tests.language.made import Bench, one_task

from fasthep_flow.model import Resources, Retries, RetryCause

GI = 2**30
DEFAULT: tuple[RetryCause, ...] = ("failed", "timed_out", "out_of_memory")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("3", Retries(times=3)),
        ("0", Retries()),
        ("{times: 3}", Retries(times=3)),
        ("{times: 2, delay: 30s}", Retries(times=2, delay_s=30)),
        ("{times: 2, delay: 30, backoff: 2}", Retries(times=2, delay_s=30, backoff=2)),
        ("{times: 2, delay: 0, backoff: 1.5}", Retries(times=2, backoff=1.5)),
        ("{times: 2, delay: 0s}", Retries(times=2)),
        ("{times: 2, delay: 1d}", Retries(times=2, delay_s=86400)),
        ("{times: 1, on: lost}", Retries(times=1, on=("lost",))),
        (
            "{times: 1, on: [timed_out, failed, timed_out]}",
            Retries(times=1, on=("timed_out", "failed")),
        ),
    ],
)
def test_what_retries_means(bench: Bench, written: str, meant: Retries) -> None:
    assert bench.task(f"retries: {written}").retries == meant


def test_nothing_said_is_no_retry(bench: Bench) -> None:
    assert bench.task("").retries == Retries()
    assert bench.task("retries:").retries == Retries()


@pytest.mark.parametrize(
    ("written", "place", "message", "hint"),
    [
        ("-1", "", "-1 is less than 0", None),
        ("1001", "", "1001 is more than 1000", "1000 is the most"),
        ("'2'", "", "must be a whole number, not text", "remove the quotes"),
        ("[1]", "", "must be a whole number, not a list", None),
        ("{times: -1}", ".times", "-1 is less than 0", None),
        ("{times: 1.5}", ".times", "must be a whole number, not a number with a fraction", None),
        ("{time: 2}", ".time", "there is no key 'time' here", "did you mean 'times'?"),
        ("{}", "", None, None),
        (
            "{delay: 5s}",
            "",
            "this does not say how many attempts may follow",
            "add 'times: 2'",
        ),
        ("{times: 1, delay: soon}", ".delay", "'soon' is not a time", "such as 90s, 2h or 1h30m"),
        ("{times: 1, delay: -5s}", ".delay", "'-5s' is negative", "such as 90s, 2h or 1h30m"),
        ("{times: 1, delay: 2d}", ".delay", "'2d' is more than a day", "a day, 1d, is the most"),
        (
            "{times: 1, delay: 0h}",
            ".delay",
            "'0h' is no time at all",
            "leave it out to try again at once",
        ),
        ("{times: 1, backoff: 0.5}", ".backoff", "0.5 is less than 1", None),
        ("{times: 1, backoff: 101}", ".backoff", "101 is more than 100", "100 is the most"),
        ("{times: 1, backoff: .inf}", ".backoff", "inf is more than 100", "100 is the most"),
        ("{times: 1, backoff: .nan}", ".backoff", "nan is more than 100", "100 is the most"),
        ("{times: 1, backoff: two}", ".backoff", "must be a number, not text", None),
        (
            "{times: 1, on: [failed, timeout]}",
            ".on[1]",
            "'timeout' is not an end of an attempt",
            "did you mean 'timed_out'?",
        ),
        (
            "{times: 1, on: oom}",
            ".on",
            "'oom' is not an end of an attempt",
            "known are failed, timed_out, lost, out_of_memory",
        ),
        (
            "{times: 1, on: []}",
            ".on",
            "no attempt is followed by another one after no end at all",
            "leave 'on' out for failed, timed_out and out_of_memory",
        ),
    ],
)
def test_what_is_wrong_with_retries(
    bench: Bench, written: str, place: str, message: str | None, hint: str | None
) -> None:
    text = one_task(f"retries: {written}")
    if message is None:
        assert bench.plan(text).tasks[0].retries == Retries()
        return
    problem = bench.problem(text)
    assert (problem.message, problem.hint) == (message, hint)
    assert problem.location.path == f"tasks[0].retries{place}"


def grown(bench: Bench, resources: str, more: str = "") -> tuple[Retries, list[Resources]]:
    task = bench.task(f"environment: {{resources: {{{resources}}}}}\n{more}")
    return task.retries, [task.environment.resources, *task.growth]


def test_further_sizes_of_memory_are_asked_for_where_it_was_not_enough(bench: Bench) -> None:
    retries, sizes = grown(bench, "memory: [4Gi, 8Gi, 16Gi], cpus: 2")
    assert retries == Retries(times=2, on=("out_of_memory",))
    assert [size.memory for size in sizes] == [4 * GI, 8 * GI, 16 * GI]
    assert {size.cpus for size in sizes} == {2}


@pytest.mark.parametrize(
    ("resources", "times", "on"),
    [
        ("walltime: [1h, 2h]", 1, ("timed_out",)),
        ("cpus: [1, 2, 4]", 2, ("timed_out",)),
        ("memory: [1Gi, 2Gi], walltime: [1h, 2h, 3h]", 2, ("timed_out", "out_of_memory")),
        ("memory: [1Gi], walltime: [1h]", 0, DEFAULT),
        ("memory: [1Gi, 1Gi]", 1, ("out_of_memory",)),
    ],
)
def test_further_sizes_mean_retries(
    bench: Bench, resources: str, times: int, on: tuple[RetryCause, ...]
) -> None:
    retries, sizes = grown(bench, resources)
    assert retries == Retries(times=times, on=on)
    assert len(sizes) == times + 1


def test_of_lists_that_are_not_alike_long_the_last_size_holds_on(bench: Bench) -> None:
    _, sizes = grown(bench, "memory: [1Gi, 2Gi, 4Gi], cpus: [1, 2], walltime: 1h")
    assert [(size.memory, size.cpus, size.walltime_s) for size in sizes] == [
        (1 * GI, 1, 3600),
        (2 * GI, 2, 3600),
        (4 * GI, 2, 3600),
    ]


def test_what_retries_says_of_a_delay_goes_with_the_sizes(bench: Bench) -> None:
    retries, _ = grown(bench, "memory: [1Gi, 2Gi]", "retries: {delay: 1m}")
    assert retries == Retries(times=1, delay_s=60, on=("out_of_memory",))
    retries, _ = grown(bench, "memory: [1Gi, 2Gi]", "retries: {on: [lost, out_of_memory]}")
    assert retries == Retries(times=1, on=("lost", "out_of_memory"))


def test_retries_that_are_said_hold_whatever_the_sizes_are(bench: Bench) -> None:
    retries, sizes = grown(bench, "memory: [1Gi, 2Gi]", "retries: 5")
    assert retries == Retries(times=5)
    assert len(sizes) == 2


def test_sizes_that_are_never_asked_for_are_a_warning(bench: Bench) -> None:
    lines = "environment: {resources: {memory: [1Gi, 2Gi, 4Gi], walltime: [1h, 2h]}}\nretries: 1"
    (warning,) = bench.plan(one_task(lines)).warnings
    assert warning.startswith("workflow.yaml:6:14: tasks[0].retries: there are 2 attempts at most:")
    assert "the last sizes of memory are never asked for" in warning
    assert "write 2, or leave 'retries' out" in warning
    (warning,) = bench.plan(one_task(lines.replace("retries: 1", "retries: 0"))).warnings
    assert "there is 1 attempt at most" in warning
    assert "the last sizes of memory and walltime are never asked for" in warning


def test_the_time_of_an_attempt_is_the_shorter_of_two(bench: Bench) -> None:
    task = bench.task("timeout: 2h\nenvironment: {resources: {walltime: [1h, 3h]}}")
    assert task.timeout_s == 3600
    assert [size.walltime_s for size in task.growth] == [7200]
    task = bench.task("timeout: 2h\nenvironment: {resources: {memory: [1Gi, 2Gi]}}")
    assert task.timeout_s == 7200
    assert [size.walltime_s for size in task.growth] == [None]


GLOBAL = "global: {resources: {memory: [1Gi, 2Gi], cpus: [1, 2, 3]}}\n"


def test_global_sizes_hold_for_every_task_that_does_not_say_otherwise(bench: Bench) -> None:
    (task,) = bench.plan(GLOBAL + one_task()).tasks
    assert [(size.memory, size.cpus) for size in task.growth] == [(2 * GI, 2), (2 * GI, 3)]
    own = "environment: {resources: {cpus: 4}}"
    (task,) = bench.plan(GLOBAL + one_task(own)).tasks
    assert task.environment.resources.cpus == 4
    assert [(size.memory, size.cpus) for size in task.growth] == [(2 * GI, 4)]
    assert task.retries == Retries(times=1, on=("out_of_memory",))


@pytest.mark.parametrize(
    ("resources", "place", "message", "hint"),
    [
        (
            "memory: [2Gi, 4Gi, 1Gi]",
            "memory[2]",
            "'1Gi' is less than '4Gi' before it: what was not enough once would be less",
            "write the sizes of the attempts from the least to the most",
        ),
        (
            "cpus: [2, 500m]",
            "cpus[1]",
            "'500m' is less than 2 before it: what was not enough once would be less",
            "write the sizes of the attempts from the least to the most",
        ),
        (
            "walltime: [1h, 30m]",
            "walltime[1]",
            "'30m' is less than '1h' before it: what was not enough once would be less",
            "write the sizes of the attempts from the least to the most",
        ),
        ("memory: []", "memory", "this list names no size", "leave it out for no limit"),
        (
            "memory: [1Gi, 2gb]",
            "memory[1]",
            "'2gb' is not an amount of memory",
            "did you mean '2G', or '2Gi'?",
        ),
        (
            "memory: [1Gi, null]",
            "memory[1]",
            "this is not an amount of memory",
            "write 8Gi or 500M",
        ),
        ("gpus: [1, 2]", "gpus", "must be a whole number, not a list", None),
    ],
)
def test_what_is_wrong_with_sizes(
    bench: Bench, resources: str, place: str, message: str, hint: str | None
) -> None:
    problem = bench.problem(one_task(f"environment: {{resources: {{{resources}}}}}"))
    assert (problem.message, problem.hint) == (message, hint)
    assert problem.location.path == f"tasks[0].environment.resources.{place}"


def test_one_size_is_told_of_where_it_stands(bench: Bench) -> None:
    problem = bench.problem(one_task("environment: {resources: {memory: 8gb}}"))
    assert problem.location.path == "tasks[0].environment.resources.memory"


def test_a_task_may_be_allowed_to_fail(bench: Bench) -> None:
    assert bench.task("allow_failure: true").allow_failure
    assert not bench.task("allow_failure: false").allow_failure
    assert not bench.task("").allow_failure
