"""What is said of a job, without the values of its secrets.

A task may print what it was handed. Its own logs keep the bytes as it wrote them; what is shown of
them, and recorded elsewhere, does not.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Final

import msgspec
from msgspec import UNSET

from fasthep_flow.execution.place import TAIL_BYTES
from fasthep_flow.model import Job, JobResult
from fasthep_flow.redaction import is_secret, secret_values, without_values

__all__ = ["masked"]

_REMARK: Final = "what it returned holds the value of a secret: it is recorded as ***"
_NUMBERED: Final = f"{_REMARK}, and keys that are the same then have numbers"


def masked(result: JobResult, job: Job, variables: Mapping[str, str | None]) -> JobResult:
    """The result without the values of the job's secrets.

    Args:
        result: How the job ended.
        job: The job.
        variables: Its environment, as far as that is known; one without an image has this
            process's own below it.
    """
    value = result.value
    has_words = result.stdout_tail or result.stderr_tail or result.failure or result.remarks
    if not has_words and (value is UNSET or value is None or isinstance(value, int)):
        return result
    values = secret_values(variables, job.secrets)
    if job.image is None:
        values |= secret_values(_inherited(variables, job.secrets), job.secrets)
    if not values:
        return result
    remarks = tuple(without_values(remark, values) for remark in result.remarks)
    failure = result.failure
    if failure is not None:
        failure = msgspec.structs.replace(
            failure,
            message=without_values(failure.message, values),
            hint=failure.hint and without_values(failure.hint, values),
            traceback=failure.traceback and without_values(failure.traceback, values, is_cut=True),
        )
    alike: list[str] = []
    if value is not UNSET and (plain := _without(value, values, alike)) != value:
        value, remarks = plain, (*remarks, _NUMBERED if alike else _REMARK)
    return msgspec.structs.replace(
        result,
        value=value,
        failure=failure,
        remarks=remarks,
        stdout_tail=_tail_without(result.stdout_tail, values),
        stderr_tail=_tail_without(result.stderr_tail, values),
    )


def _tail_without(tail: str, values: frozenset[str]) -> str:
    # Of a cut one up to three bytes are gone, which are no character.
    is_cut = len(tail.encode("utf-8", "surrogateescape")) > TAIL_BYTES - 4
    return without_values(tail, values, is_cut=is_cut)


def _inherited(own: Mapping[str, str | None], declared: Collection[str]) -> dict[str, str]:
    return {
        name: os.environ[name]
        for name in os.environ
        if name not in own and is_secret(name, declared)
    }


def _without(value: object, values: frozenset[str], alike: list[str]) -> object:
    """Plain data without the values in its texts; ``alike`` gets the keys that need numbers."""
    if isinstance(value, str):
        return without_values(value, values)
    if isinstance(value, list):
        return [_without(item, values, alike) for item in value]
    if isinstance(value, dict):
        keys = _keys_without(value, values, alike)
        return {key: _without(value[old], values, alike) for old, key in keys.items()}
    return value


def _keys_without(
    keys: Collection[str], values: frozenset[str], alike: list[str]
) -> dict[str, str]:
    told = {key: without_values(key, values) for key in keys}
    # What holds no secret keeps its name.
    taken = {key for key, plain in told.items() if plain == key}
    count: Counter[str] = Counter()
    for key, plain in told.items():
        if plain == key:
            continue
        name = plain
        while name in taken:
            alike.append(plain)
            count[plain] += 1
            name = f"{plain} ({count[plain] + 1})"
        taken.add(name)
        told[key] = name
    return told
