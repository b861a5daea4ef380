"""Memory, processors and times."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasthep_flow.language.quantities import LEAST_MEMORY, parse_cpus, parse_memory, parse_time
from fasthep_flow.language.refusals import Refusal

BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
DECIMAL = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
SECONDS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}


def refusal(parse: Callable[[object], object], value: object) -> tuple[str, str | None]:
    with pytest.raises(Refusal) as caught:
        parse(value)
    return caught.value.message, caught.value.hint


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("8Gi", 8 * 2**30),
        ("8G", 8 * 10**9),
        ("500M", 500 * 10**6),
        ("1.5Gi", 3 * 2**29),
        (".5Gi", 2**29),
        ("2e3Ki", 2000 * 1024),
        ("1e9", 10**9),
        (1e9, 10**9),
        (4294967296, 2**32),
        ("4294967296", 2**32),
        ("1E", 10**18),
        ("1E9", 10**9),
        ("7Ei", 7 * 2**60),
        ("1048576.1", 1048577),
        ("+8Gi", 8 * 2**30),
    ],
)
def test_memory(value: object, expected: int) -> None:
    assert parse_memory(value) == expected
    assert type(parse_memory(value)) is int


@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [
        ("8gb", "'8gb' is not an amount of memory", "did you mean '8G', or '8Gi'?"),
        ("8GB", "'8GB' is not an amount of memory", "did you mean '8G', or '8Gi'?"),
        ("8 GiB", "'8 GiB' is not an amount of memory", "did you mean '8Gi'?"),
        ("8gib", "'8gib' is not an amount of memory", "did you mean '8Gi'?"),
        ("8 Gi", "'8 Gi' is not an amount of memory", "did you mean '8Gi'?"),
        ("512K", "'512K' is not an amount of memory", "did you mean '512k', or '512Ki'?"),
        ("2 gigabytes", "'2 gigabytes' is not an amount of memory", "such as 8Gi or 500M"),
        ("500m", "'500m' is thousandths of a byte", "write 500M or 500Mi for megabytes"),
        (8, "8 is 8 bytes, too little to start a program in", "did you mean 8Gi?"),
        ("8k", "'8k' is 8000 bytes, too little to start a program in", "such as 8Gi or 500M"),
        (0, "0 is 0 bytes, too little to start a program in", "such as 8Gi or 500M"),
        (-1, "-1 is negative", "such as 8Gi or 500M"),
        ("-8Gi", "'-8Gi' is negative", "such as 8Gi or 500M"),
        ("8Ei", "'8Ei' is more memory than any machine has", None),
        ("1e99", "'1e99' is more memory than any machine has", None),
        (math.inf, "inf is not an amount of memory", "such as 8Gi or 500M"),
        (math.nan, "nan is not an amount of memory", "such as 8Gi or 500M"),
        ("", "'' is not an amount of memory", "such as 8Gi or 500M"),
        ("lots", "'lots' is not an amount of memory", "such as 8Gi or 500M"),
        ("<memory>", "'<memory>' is not an amount of memory", "such as 8Gi or 500M"),
        ("8Gi\n", "'8Gi\\n' is not an amount of memory", "did you mean '8Gi'?"),
        (True, "this is not an amount of memory", "write 8Gi or 500M"),
        (["8Gi"], "this is not an amount of memory", "write 8Gi or 500M"),
    ],
)
def test_memory_that_is_none(value: object, message: str, hint: str | None) -> None:
    assert refusal(parse_memory, value) == (message, hint)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(2, 2.0), (0.5, 0.5), ("500m", 0.5), ("2", 2.0), ("1e1", 10.0), ("100m", 0.1), ("012", 12.0)],
)
def test_processors(value: object, expected: float) -> None:
    assert parse_cpus(value) == expected
    assert type(parse_cpus(value)) is float


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "0 is no processor at all"),
        ("0m", "'0m' is no processor at all"),
        (-2, "-2 is negative"),
        ("2Gi", "'2Gi' is not a number of processors"),
        ("two", "'two' is not a number of processors"),
        (math.inf, "inf is not a number of processors"),
        ("1e9", "'1e9' is more processors than any machine has"),
        (False, "this is not a number of processors"),
    ],
)
def test_processors_that_are_none(value: object, message: str) -> None:
    assert refusal(parse_cpus, value)[0] == message


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2h", 7200.0),
        ("1h30m", 5400.0),
        ("90s", 90.0),
        ("1.5h", 5400.0),
        ("500ms", 0.5),
        ("1m500ms", 60.5),
        ("2d", 172800.0),
        ("1w", 604800.0),
        (90, 90.0),
        (0.25, 0.25),
        ("90", 90.0),
        ("1e3", 1000.0),
    ],
)
def test_times(value: object, expected: float) -> None:
    assert parse_time(value) == expected
    assert type(parse_time(value)) is float


@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [
        ("1:30", "'1:30' is not a time", "did you mean '1h30m'?"),
        ("01:30:05", "'01:30:05' is not a time", "did you mean '1h30m5s'?"),
        ("2 h", "'2 h' is not a time", "did you mean '2h'?"),
        ("2H", "'2H' is not a time", "did you mean '2h'?"),
        ("2hours", "'2hours' is not a time", "did you mean '2h'?"),
        ("2 hours 30 minutes", "'2 hours 30 minutes' is not a time", "did you mean '2h30m'?"),
        ("10min", "'10min' is not a time", "did you mean '10m'?"),
        ("3 days", "'3 days' is not a time", "did you mean '3d'?"),
        ("soon", "'soon' is not a time", "such as 90s, 2h or 1h30m"),
        ("2x", "'2x' is not a time", "such as 90s, 2h or 1h30m"),
        (0, "0 is no time at all", "leave it out for no limit"),
        ("0s", "'0s' is no time at all", "leave it out for no limit"),
        (-5, "-5 is negative", "such as 90s, 2h or 1h30m"),
        ("5000w", None, None),
        (math.inf, "inf is not a time", "such as 90s, 2h or 1h30m"),
        ("6000w", "'6000w' is longer than a century", "leave it out for no limit"),
        (None, "this is not a time", "write 90s, 2h or 1h30m"),
    ],
)
def test_times_that_are_none(value: object, message: str | None, hint: str | None) -> None:
    if message is None:
        assert parse_time(value) == 5000 * SECONDS["w"]
    else:
        assert refusal(parse_time, value) == (message, hint)


@given(st.integers(LEAST_MEMORY, 2**63 - 1))
def test_bytes_are_exact(number: int) -> None:
    assert parse_memory(number) == number
    assert parse_memory(str(number)) == number


@given(st.integers(1, 1023), st.sampled_from(sorted({**BINARY, **DECIMAL})))
def test_suffixes_multiply(number: int, suffix: str) -> None:
    expected = number * {**BINARY, **DECIMAL}[suffix]
    if LEAST_MEMORY <= expected < 2**63:
        assert parse_memory(f"{number}{suffix}") == expected
        assert parse_memory(f"{number}.0{suffix}") == expected
        assert parse_memory(f"{number * 10}e-1{suffix}") == expected


@given(st.integers(1, 10**6))
def test_thousandths_of_a_processor(number: int) -> None:
    assert parse_cpus(f"{number}m") == float(Decimal(number) / 1000)


@given(st.lists(st.tuples(st.integers(0, 5000), st.sampled_from(sorted(SECONDS))), min_size=1))
def test_parts_of_a_time_add_up(parts: list[tuple[int, str]]) -> None:
    expected = sum(number * SECONDS[unit] for number, unit in parts)
    text = "".join(f"{number}{unit}" for number, unit in parts)
    if 0 < expected <= 100 * 365 * 86400:
        assert parse_time(text) == expected


@given(st.text(max_size=30) | st.floats() | st.integers() | st.booleans() | st.none())
def test_anything_else_is_refused_and_never_more(value: object) -> None:
    for parse in (parse_memory, parse_cpus, parse_time):
        try:
            assert parse(value) > 0
        except Refusal as refused:
            assert refused.message  # noqa: PT017


@pytest.mark.parametrize("value", ["0.4m", "0.0004", 1e-4])
def test_less_than_a_thousandth_of_a_processor_is_refused(value: object) -> None:
    message, _ = refusal(parse_cpus, value)
    assert message.endswith("is less than a thousandth of a processor")
    assert parse_cpus("1m") == 0.001


@pytest.mark.parametrize("value", ["0.5ms", "0.0009s", 1e-4])
def test_less_than_a_thousandth_of_a_second_is_refused(value: object) -> None:
    message, _ = refusal(parse_time, value)
    assert message.endswith("is less than a thousandth of a second")
    assert parse_time("1ms") == 0.001
