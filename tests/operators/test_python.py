from typing import Any

import pytest
from tests.operators.made import prepared, refused

from fasthep_flow.errors import ArgumentError
from fasthep_flow.model import Call
from fasthep_flow.operators import find_operator
from fasthep_flow.operators.python import PythonOperator


def call(**kwargs: Any) -> Call:
    return prepared(PythonOperator(), Call, kwargs)


def refusal(*args: Any, **kwargs: Any) -> ArgumentError:
    return refused(PythonOperator(), args, kwargs)


def test_is_found_by_the_name_of_the_specification() -> None:
    assert isinstance(find_operator("fasthep_flow.operators.PythonOperator"), PythonOperator)


@pytest.mark.parametrize(
    ("written", "target"),
    [
        ("selection:count", "selection:count"),
        ("selection.count", "selection:count"),
        ("package.selection.count", "package.selection:count"),
        ("package.selection:Cut.count", "package.selection:Cut.count"),
        (" selection:count ", "selection:count"),
    ],
)
def test_a_callable_is_named_by_its_module(written: str, target: str) -> None:
    assert call(python_callable=written) == Call(target=target)


@pytest.mark.parametrize("key", ["op_args", "arguments"])
def test_positional_arguments_have_two_names(key: str) -> None:
    prepared = call(python_callable="m:f", op_kwargs={"a": {"b": None}}, **{key: [1, "x", [2.5]]})
    assert prepared == Call(target="m:f", args=(1, "x", [2.5]), kwargs={"a": {"b": None}})


def test_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.__import__", lambda name, *_: pytest.fail(f"imports {name}"))
    PythonOperator().prepare([], {"python_callable": "no_such_module:f"})


@pytest.mark.parametrize(
    ("kwargs", "path", "words"),
    [
        ({}, ("kwargs",), "needs 'python_callable'"),
        ({"python_callable": 3}, ("kwargs", "python_callable"), "must be text"),
        ({"python_callable": ""}, ("kwargs", "python_callable"), "is empty"),
        ({"python_callable": "count"}, ("kwargs", "python_callable"), "does not name"),
        ({"python_callable": "m:"}, ("kwargs", "python_callable"), "does not name"),
        ({"python_callable": ":f"}, ("kwargs", "python_callable"), "does not name"),
        ({"python_callable": "a-b:f"}, ("kwargs", "python_callable"), "does not name"),
        ({"python_callable": "m:f()"}, ("kwargs", "python_callable"), "does not name"),
        ({"python_callable": "m.py:f:g"}, ("kwargs", "python_callable"), "does not name"),
        ({"python_callable": "m:f", "op_args": "x"}, ("kwargs", "op_args"), "must be a list"),
        ({"python_callable": "m:f", "arguments": {}}, ("kwargs", "arguments"), "must be a list"),
        ({"python_callable": "m:f", "op_kwargs": []}, ("kwargs", "op_kwargs"), "a mapping"),
        ({"python_callable": "m:f", "op_kwargs": {1: 2}}, ("kwargs", "op_kwargs", 1), "text"),
        ({"python_callable": "m:f", "op_args": [[{1: 2}]]}, ("kwargs", "op_args", 0, 0, 1), "text"),
        (
            {"python_callable": "m:f", "op_args": [float("nan")]},
            ("kwargs", "op_args", 0),
            "nan cannot",
        ),
        (
            {"python_callable": "m:f", "op_args": [], "arguments": []},
            ("kwargs", "arguments"),
            "two names",
        ),
    ],
)
def test_refuses_what_it_cannot_call(
    kwargs: dict[str, Any], path: tuple[str | int, ...], words: str
) -> None:
    error = refusal(**kwargs)
    assert error.path == path
    assert words in error.message


def test_an_unknown_argument_is_answered_with_the_nearest_name() -> None:
    error = refusal(python_callable="m:f", op_kwarg={})
    assert error.path == ("kwargs", "op_kwarg")
    assert error.hint == "did you mean 'op_kwargs'?"


def test_takes_no_positional_arguments() -> None:
    assert refusal("m:f").path == ("args",)
