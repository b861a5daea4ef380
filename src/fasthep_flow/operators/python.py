"""Python callables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fasthep_flow.errors import ArgumentError
from fasthep_flow.model import Call, Device, Invocation
from fasthep_flow.operators.arguments import keyword_arguments, kind_of, plain_data, plain_text
from fasthep_flow.operators.function import callable_target

__all__ = ["PythonOperator"]


class PythonOperator:
    """Calls a Python function once, in a process of its own.

    ``python_callable`` is ``module:name`` or ``module.name``; a name may be nested
    (``module:Class.method``). ``op_args`` (or ``arguments``) are its positional and
    ``op_kwargs`` its keyword arguments. The module is looked for in the working directory
    first. What the function returns must be plain data: it becomes the task's result.

    The same function serves either kind of device: what it does with one is its own matter.
    """

    def prepare(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[Device, Invocation]:
        """The call, for either kind of device; nothing is imported.

        Raises:
            ArgumentError: An argument is missing, unknown or of the wrong type.
        """
        known = keyword_arguments(
            "PythonOperator",
            args,
            kwargs,
            known=("python_callable", "op_args", "arguments", "op_kwargs"),
        )
        if "python_callable" not in known:
            raise ArgumentError(
                "PythonOperator needs 'python_callable'", path=("kwargs",), hint="module:name"
            )
        if "op_args" in known and "arguments" in known:
            raise ArgumentError(
                "'op_args' and 'arguments' are two names for the same thing",
                path=("kwargs", "arguments"),
                hint="keep one of them",
            )
        key = "arguments" if "arguments" in known else "op_args"
        positional = known.get(key, [])
        if not isinstance(positional, list):
            raise ArgumentError(
                f"{key!r} must be a list, not {kind_of(positional)}", path=("kwargs", key)
            )
        keywords = known.get("op_kwargs", {})
        if not isinstance(keywords, dict):
            raise ArgumentError(
                f"'op_kwargs' must be a mapping, not {kind_of(keywords)}",
                path=("kwargs", "op_kwargs"),
            )
        plain_data(positional, path=("kwargs", key))
        plain_data(keywords, path=("kwargs", "op_kwargs"))
        call = Call(
            target=_target(known["python_callable"]), args=tuple(positional), kwargs=keywords
        )
        return {"cpu": call, "gpu": call}


def _target(value: object) -> str:
    path = ("kwargs", "python_callable")
    text = plain_text(value, path=path).strip()
    target = callable_target(text)
    if target is None:
        raise ArgumentError(
            f"{text!r} does not name a callable",
            path=path,
            hint="write module:name, such as 'selection:count' or 'package.module:function'",
        )
    return target
