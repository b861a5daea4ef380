"""What operators make of an author's arguments, or how they refuse them."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import pytest

from fasthep_flow.errors import ArgumentError
from fasthep_flow.model import Call, Command
from fasthep_flow.operators import Operator

__all__ = ["prepared", "refused"]

_I = TypeVar("_I", Call, Command)


def prepared(operator: Operator, kind: type[_I], kwargs: Mapping[str, Any]) -> _I:
    """What is to be run, which is the same on each kind of device."""
    invocations = operator.prepare([], kwargs)
    assert set(invocations) == {"cpu", "gpu"}
    assert invocations["cpu"] == invocations["gpu"]
    found = invocations["cpu"]
    assert isinstance(found, kind)
    return found


def refused(operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ArgumentError:
    """How the arguments are refused."""
    with pytest.raises(ArgumentError) as caught:
        operator.prepare(args, kwargs)
    return caught.value
