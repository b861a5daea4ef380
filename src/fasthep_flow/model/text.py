"""Nouns as JSON text, and back."""

from __future__ import annotations

from typing import Any, Final, TypeVar, cast

import msgspec

from fasthep_flow.model.environment import Variable
from fasthep_flow.model.job import Job, JobResult
from fasthep_flow.model.plan import Plan

__all__ = ["from_json", "to_json"]

_T = TypeVar("_T", Job, JobResult)


def _encode_variable(value: object) -> dict[str, str]:
    if isinstance(value, Variable):
        return {"origin": value.origin}
    raise NotImplementedError(f"{type(value).__name__} is not plain data")


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_encode_variable)
_DECODERS: Final[dict[type, msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(kind) for kind in (Job, JobResult)
}


def to_json(noun: Job | JobResult | Plan) -> str:
    """The noun as JSON text; values of variables are left out."""
    return _ENCODER.encode(noun).decode()


def from_json(kind: type[_T], text: str | bytes) -> _T:
    """The noun that ``text`` spells.

    Raises:
        ValueError: ``text`` is not such a noun.
    """
    return cast("_T", _DECODERS[kind].decode(text))
