"""What people see of a task and of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fasthep_flow.errors import Location
from fasthep_flow.model import (
    Call,
    Credential,
    DataItem,
    Environment,
    Failure,
    FlowSpec,
    Image,
    JobResult,
    Plan,
    PythonSpec,
    Resources,
    Retries,
    Setup,
    TaskSpec,
)
from fasthep_flow.records.report import (
    end_line,
    fate_text,
    memory_text,
    output_lines,
    plan_lines,
    seconds_text,
    summary_text,
)


def result(**changes: object) -> JobResult:
    fields = {"task": "fit", "attempt": 1, "status": "succeeded", **changes}
    return JobResult(**fields)  # type: ignore[arg-type]  # fields of any type


def test_each_line_of_output_stands_behind_the_name_of_its_task() -> None:
    lines = [*output_lines(result(stdout_tail="one\ntwo\n", stderr_tail="oh\n"), None)]
    assert lines == ["fit | one", "fit | two", "fit ! oh"]


def test_a_task_that_prints_nothing_shows_nothing() -> None:
    assert not [*output_lines(result(), None)]


def test_a_last_line_without_an_end_is_shown() -> None:
    assert [*output_lines(result(stdout_tail="one"), None)] == ["fit | one"]


def test_long_output_is_cut_with_the_path_of_the_log(tmp_path: Path) -> None:
    text = "".join(f"{number}\n" for number in range(1000))
    first, *rest = output_lines(result(stdout_tail=text), tmp_path)
    assert first == f"fit | ... the last 40 lines; all of it is in {tmp_path / 'stdout.log'}"
    assert rest == [f"fit | {number}" for number in range(960, 1000)]


def test_a_tail_of_a_longer_log_says_so(tmp_path: Path) -> None:
    (tmp_path / "stdout.log").write_text("x" * 10**5)
    first, second = output_lines(result(stdout_tail="x" * 65536), tmp_path)
    assert "all of it is in" in first
    assert second.endswith("... (65536 characters)")


def test_what_would_steer_the_terminal_is_written_out() -> None:
    [line] = output_lines(result(stdout_tail="\x1b]0;title\x07 \x9b2J \x00"), None)
    assert line == r"fit | \x1b]0;title\x07 \x9b2J \x00"


def test_what_would_turn_the_text_around_is_written_out() -> None:
    text = "a\u202eb\u2066c\u200bd\ufeffe\u2028f\udcffg\U000e0001h\xad"
    [line] = output_lines(result(stdout_tail=text), None)
    assert line == (r"fit | a\u202eb\u2066c\u200bd\ufeffe\u2028f\udcffg\U000e0001h\xad")
    [line] = output_lines(result(stdout_tail="Grüße ✓ 质量 😀"), None)
    assert line == "fit | Grüße ✓ 质量 😀"


def test_a_progress_bar_shows_its_last_state() -> None:
    assert [*output_lines(result(stderr_tail="10%\r50%\r100%\r\n"), None)] == ["fit ! 100%"]


def test_the_name_of_a_task_cannot_steer_the_terminal() -> None:
    assert end_line(result(task="a\x1b[2J"), None).startswith(r"✓ a\x1b[2J")


def test_success_tells_time_and_memory() -> None:
    line = end_line(result(wall_s=1.234, peak_memory=180 * 2**20), None)
    assert line == "✓ fit  1.23 s, 180 MiB"


def test_a_peak_that_is_only_bounded_says_so() -> None:
    line = end_line(result(peak_memory=40 * 2**20, peak_memory_is_bound=True), None)
    assert line == "✓ fit  0.00 s, under 40 MiB"


def test_a_device_or_why_there_is_none_is_told() -> None:
    line = end_line(result(device="gpu", devices=("GPU-a", "GPU-b"), device_reason="asked"), None)
    assert line.endswith(", 2 gpus")
    assert end_line(result(device="gpu", devices=("GPU-a",)), None).endswith(", 1 gpu")
    assert "cpu" not in end_line(result(device_reason="process_on is cpu"), None)
    line = end_line(result(device_reason="no gpu: 4 of 4 devices are in use by other tasks"), None)
    assert line.endswith("  on the cpu, no gpu: 4 of 4 devices are in use by other tasks")


def test_a_later_attempt_says_which_it_was() -> None:
    failure = Failure(kind="exit", message="exit code 3")
    line = end_line(result(attempt=3, status="failed", failure=failure), None)
    assert line.startswith("✗ fit  exit code 3  attempt 3  ")


def test_failure_tells_cause_hint_and_logs(tmp_path: Path) -> None:
    failure = Failure(
        kind="out_of_memory", message="out of memory: limit 64Mi", hint="ask for more"
    )
    lines = end_line(result(status="failed", failure=failure), tmp_path).splitlines()
    assert lines[0].startswith("✗ fit  out of memory: limit 64Mi")
    assert lines[1].strip() == "ask for more"
    assert lines[2].strip() == f"logs: {tmp_path}"


def test_a_task_that_never_started_tells_no_time() -> None:
    failure = Failure(kind="upstream", message="needs 'select', which failed")
    line = end_line(result(attempt=0, status="skipped", failure=failure), None)
    assert line == "- fit  needs 'select', which failed"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536 * 2**10, "1.5 MiB"),
        (8 * 2**30, "8 GiB"),
    ],
)
def test_bytes_read_as_people_write_them(size: int, text: str) -> None:
    assert memory_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 s"),
        (9.99, "9.99 s"),
        (59.9, "59.9 s"),
        (59.99, "1 min 0 s"),
        (125, "2 min 5 s"),
        (12000, "3 h 20 min"),
    ],
)
def test_seconds_read_as_people_write_them(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_the_summary_counts_by_status() -> None:
    results = [result(), result(status="failed"), result(status="skipped")]
    text = summary_text(results, 3.0, Path("output/1"))
    assert text == "3 tasks: 1 succeeded, 1 failed, 1 skipped in 3.00 s; records in output/1"
    assert summary_text([result()], 3.0, Path("o")).startswith("1 task succeeded")
    assert summary_text([result()], 3.0, Path("o\n\x1b]")).endswith(r"records in o\x0a\x1b]")


def test_the_summary_tells_what_was_done_before_and_what_was_reused() -> None:
    results = [result(task=name) for name in "ab"] + [result(task="c", status="reused")]
    text = summary_text([*results, result(task="d")], 3.0, Path("o"), former={"a", "b"})
    assert text.startswith("4 tasks: 2 done before, 1 reused, 1 succeeded in 3.00 s")
    failed = result(task="b", status="failed")
    text = summary_text([result(task="a"), failed], 3.0, Path("o"), former={"a"}, allowed={"b"})
    assert text.startswith("2 tasks: 1 done before, 1 failed (allowed) in")
    text = summary_text([result(status="reused")], 3.0, Path("o"))
    assert text.startswith("1 task: 1 reused in")


def test_a_task_that_was_reused_is_told_in_a_line() -> None:
    remarks = ("the output a.txt is empty", "made by the run 2\x1b[2J")
    line = end_line(result(status="reused", attempt=0, remarks=remarks), None)
    assert line == r"= fit  made by the run 2\x1b[2J"


def test_a_plan_tells_of_fates_where_there_are_any() -> None:
    one = fate_text("runs", ("b.sh, which its command names, changed", "a\nb"))
    assert one == r"runs: b.sh, which its command names, changed; a\x0ab"
    assert fate_text("runs", "abcde") == "runs: a; b; c; and 2 more"
    assert fate_text("may_run", ("needs 'a', which runs",)) == "may run: needs 'a', which runs"
    assert fate_text("done") == "done"


def test_a_failure_that_is_allowed_is_told_as_one() -> None:
    results = [result(), result(task="b", status="failed"), result(task="c", status="timed_out")]
    text = summary_text(results, 3.0, Path("output/1"), allowed={"b", "c"})
    assert text.startswith("3 tasks: 1 succeeded, 1 failed (allowed), 1 timed out (allowed) in")
    failure = Failure(kind="exit", message="exit code 3")
    line = end_line(result(status="failed", failure=failure), None, is_allowed=True)
    assert line.startswith("✗ fit (allowed to fail)  exit code 3")


def test_what_is_odd_about_an_attempt_is_told_with_its_end() -> None:
    lines = end_line(result(remarks=("the output a.txt is empty\x1b[2J",)), None).splitlines()
    assert lines[1] == r"    the output a.txt is empty\x1b[2J"


def test_a_plan_tells_of_files_sizes_and_retries() -> None:
    grown = tuple(Resources(memory=size * 2**30, cpus=2, walltime_s=7200) for size in (8, 16))
    told = planned(
        resources=Resources(memory=4 * 2**30, cpus=2, walltime_s=3600),
        of_task={
            "growth": grown,
            "inputs": ("/w/a.txt", "/data/*.root"),
            "outputs": ("/w/plots/", "/wide\n"),
            "retries": Retries(times=2, delay_s=30, backoff=2, on=("out_of_memory", "lost")),
            "timeout_s": 3600.0,
            "allow_failure": True,
        },
    )
    assert "\nreads a.txt, /data/*.root\n" in told
    assert "\nmakes plots/, /wide\\x0a\n" in told
    assert "\nresources 2 cpus, 4 GiB, then 8 GiB, then 16 GiB memory\n" in told
    assert (
        "\nlimits 2 retries when out of memory or lost, after 30.0 s, then 2 times as long each"
        " time, stopped after 1 h 0 min, then 2 h 0 min\n"
    ) in told
    assert told.endswith("\nmay fail the run goes on without it, and so does what needs it")


def test_a_plan_tells_of_a_value_that_is_kept_and_of_one_retry() -> None:
    told = planned(of_task={"cache": True, "retries": Retries(times=1)})
    assert "\nkept what it returns\n" in told
    assert told.endswith("\nlimits 1 retry")


def planned(*, of_task: dict[str, Any] | None = None, **environment: object) -> str:
    """What is told of a task with that environment, its white space apart."""
    flow = FlowSpec(transform="local", runner="concurrent")
    invocations = environment.pop("invocations", {"cpu": Call(target="m:fit")})
    task = TaskSpec(
        name="fit",
        slug="fit",
        operator="m.fit",
        invocations=invocations,  # type: ignore[arg-type]  # fields of any type
        environment=Environment(flow=flow, **environment),  # type: ignore[arg-type]
        location=Location("workflow.yaml", 1, 1),
        **(of_task or {}),
    )
    plan = Plan(
        name="w",
        tasks=(task,),
        flow=flow,
        directory="/w",
        source="/w/workflow.yaml",
        output_directory="/w/output",
        digest="sha256:00",
    )
    return "\n".join(" ".join(line.split()) for line in plan_lines(plan))


def test_a_plan_tells_what_is_asked_for_beside_the_image() -> None:
    told = planned(
        setup=Setup(lines="source /a.sh\nsource /b.sh", scripts=("/a.sh", "/b.sh")),
        python=PythonSpec(version="3.12", requirements=tuple("abcdef")),
        credentials=(
            Credential(kind="x509"),
            Credential(kind="file", file="/k", variable="MY_KEY"),
        ),
        extra_data=(DataItem(source="https://u:hunter2@h/x?token=hunter2"),),
    )
    assert "\nsetup /a.sh, /b.sh\n" in told
    assert "\npython 3.12, a, b, c, and 3 more\n" in told
    assert "\ncredentials x509, MY_KEY\n" in told
    assert told.endswith("\nextra data https://***@h/x?token=***")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [("export A=hunter2", "setup a line of bash"), ("a\nb\nc", "setup 3 lines of bash")],
)
def test_a_plan_repeats_no_lines_of_bash(lines: str, expected: str) -> None:
    assert planned(setup=Setup(lines=lines)).endswith(f"\n{expected}")


@pytest.mark.parametrize(
    ("process_on", "expected"),
    [
        ("cpu", "runs m:fit()"),
        ("gpu", "runs m:on()"),
        ("gpu_if_available", "runs m:fit() on the cpu, m:on() on the gpu"),
    ],
)
def test_a_plan_tells_what_runs_on_which_device(process_on: str, expected: str) -> None:
    told = planned(
        invocations={"cpu": Call(target="m:fit"), "gpu": Call(target="m:on")},
        resources=Resources(process_on=process_on),  # type: ignore[arg-type]  # one of them
    )
    assert expected in told.splitlines()


def test_a_plan_tells_the_image_on_a_gpu() -> None:
    told = planned(
        image=Image(name="a:1"), gpu_image=Image(name="b:1", pull="always"), runtime="podman"
    )
    assert "\nimage a:1 (podman)\non a gpu b:1 (always pulled)" in told
