"""Plain functions: their names, and what they are called with."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasthep_flow.errors import ArgumentError
from fasthep_flow.model import Call
from fasthep_flow.operators.function import FunctionOperator, callable_target


def test_each_kind_of_device_has_its_function() -> None:
    operator = FunctionOperator({"cpu": "m:fit", "gpu": "m:fit_gpu"})
    assert operator.prepare((1,), {"a": [2]}) == {
        "cpu": Call(target="m:fit", args=(1,), kwargs={"a": [2]}),
        "gpu": Call(target="m:fit_gpu", args=(1,), kwargs={"a": [2]}),
    }


def test_there_may_be_one_for_one_of_them_alone() -> None:
    assert FunctionOperator({"gpu": "m:fit"}).prepare((), {}) == {"gpu": Call(target="m:fit")}


@pytest.mark.parametrize(
    ("kwargs", "path", "message"),
    [
        ({"a b": 1}, ("kwargs", "a b"), "no function has an argument 'a b'"),
        ({"": 1}, ("kwargs", ""), "no function has an argument ''"),
        ({"a": {1: 2}}, ("kwargs", "a", 1), "a key must be text, not a number"),
        ({"a": [float("nan")]}, ("kwargs", "a", 0), "nan cannot be handed over as a number"),
    ],
)
def test_what_no_function_can_be_called_with(
    kwargs: dict[str, Any], path: tuple[str | int, ...], message: str
) -> None:
    with pytest.raises(ArgumentError) as caught:
        FunctionOperator({"cpu": "m:fit"}).prepare((), kwargs)
    assert (caught.value.path, caught.value.message) == (path, message)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("m.fit", "m:fit"),
        ("m:fit", "m:fit"),
        ("a.b.fit", "a.b:fit"),
        ("a.b:C.fit", "a.b:C.fit"),
        ("größe.fit", "größe:fit"),
        ("fit", None),
        ("", None),
        (".fit", None),
        ("m.", None),
        ("m:", None),
        ("a::b", None),
        ("m..fit", None),
        ("m.fit()", None),
        ("my-module.fit", None),
        ("m.fit ", None),
        ("1m.fit", None),
    ],
)
def test_names(text: str, target: str | None) -> None:
    assert callable_target(text) == target


@given(st.text(alphabet="ab.:_1 -", max_size=12))
def test_a_name_that_was_read_is_read_the_same_again(text: str) -> None:
    target = callable_target(text)
    assert target is None or callable_target(target) == target
