"""What makes an attempt of a task the same as another one: all that could change its answer.

An identity is a mapping of parts, each a name and what stands for its content, and the digest of
all of them. Where nothing but the digest is the same nobody needs to look at the parts; where it
is another one, they say in words what changed. What only says how a task is run, and not what it
comes to, is no part: processors, memory, time, retries, flow, runtime.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Collection, Mapping
from typing import Final, Literal, NamedTuple

from msgspec import UNSET, Struct

from fasthep_flow.model import Image, JobResult, Plan, TaskSpec
from fasthep_flow.records.content import PENDING, UNKNOWN, Content
from fasthep_flow.records.digests import Digests
from fasthep_flow.records.environment_parts import EnvironmentParts
from fasthep_flow.records.framing import clear, digest_of, digest_of_parts, json_text
from fasthep_flow.records.invocation_parts import InvocationParts
from fasthep_flow.records.key import Key, user_key

__all__ = ["PENDING", "Identities", "Identity", "NeedIdentity", "need_identity"]

_FORMAT: Final = "fasthep-flow identity 1"


class Identity(Struct, frozen=True):
    """What a task's attempt is made of.

    Args:
        digest: Of all parts; two are the same if these are.
        parts: What stands for each part's content, by its name.
    """

    digest: str
    parts: dict[str, str]

    @classmethod
    def of(cls, parts: dict[str, str]) -> Identity:
        """The identity of these parts, in whatever order."""
        return cls(digest=digest_of_parts(_FORMAT, parts), parts=parts)

    @property
    def is_known(self) -> bool:
        """Whether it can be compared with others."""
        values = self.parts.values()
        return UNKNOWN not in values and PENDING not in values


class NeedIdentity(NamedTuple):
    """What of a task those see that need it.

    Args:
        kind: What says that it is the same: what it made, what it returned, or nothing but
            that it is the very attempt.
        text: Of that.
    """

    kind: Literal["outputs", "value", "attempt"]
    text: str


def need_identity(task: TaskSpec, result: JobResult, run_id: str) -> NeedIdentity:
    """What those see of a task that need it.

    What it returned says all only where the author vouches for that, by ``cache`` or by naming its
    outputs: a function may return the name of a file that it wrote.

    Args:
        task: As planned.
        result: How its last attempt ended.
        run_id: Of the run that this was in.
    """
    ended = f"{run_id}/{result.attempt}"
    if result.status not in {"succeeded", "reused"}:
        return NeedIdentity("attempt", f"{ended} {result.status}")
    value = "" if result.value is UNSET else json_text(result.value)
    if task.outputs and result.outputs.keys() >= set(task.outputs):
        return NeedIdentity("outputs", digest_of_parts(value, result.outputs))
    if task.cache and value:
        return NeedIdentity("value", digest_of(value))
    return NeedIdentity("attempt", ended)


class Identities:
    """Tells the identities of a plan's tasks; made once for a run, and used by one thread.

    Args:
        plan: With what was found before the first task: digests of extra data.
        key: By which values of variables are compared; asked for where there is a variable.
        image_digest: The digest of an image of a task's, ``None`` where it is not known; asked
            once for each environment.
        digests: Of files and folders.
    """

    def __init__(
        self,
        plan: Plan,
        key: Callable[[], Key] = user_key,
        *,
        image_digest: Callable[[TaskSpec, Image], str | None] = lambda _task, _image: None,
        digests: Digests | None = None,
    ) -> None:
        self._content: Final = Content(os.path.normpath(plan.directory), digests or Digests())
        self._environments: Final = EnvironmentParts(self._content, key, image_digest)
        self._invocations: Final = InvocationParts(plan, self._content)
        # Its environments are known by where they lie in memory.
        self._plan: Final = plan

    def of(
        self,
        task: TaskSpec,
        needs: Mapping[str, NeedIdentity],
        *,
        past: Mapping[str, str] | None = None,
        pending: Collection[str] = (),
    ) -> Identity:
        """The identity of a task that could run now.

        Args:
            task: Of the plan.
            needs: What it sees of those that it needs. One that is missing here is left out.
            past: The parts that were recorded with an earlier attempt, if there was one: what
                that made by the way is known from there.
            pending: Absolute paths of files and folders that are yet to be made, without ``/`` at
                their ends.

        Raises:
            RecordError: There is no key for values of variables.
        """
        parts = {"name": clear(task.name)}
        parts |= self._environments.of(task)
        parts |= self._invocations.of(task, past or {}, pending)
        for path in task.inputs:
            is_pending = any(_meet(one, path) for one in pending)
            parts[self._content.label("input", path)] = (
                PENDING if is_pending else self._content.of(path)
            )
        for path in task.outputs:
            parts[self._content.label("output", path)] = "declared"
        for name in task.needs:
            if (need := needs.get(name)) is not None:
                parts[f"need {clear(name)}"] = f"{need.kind} {need.text}"
        return Identity.of(parts)

    def after(self, task: TaskSpec, before: Identity) -> Identity:
        """The identity to be recorded with a success: that of before, but for what it made.

        A file that its command names, and that was not there before, is one that it wrote: it is
        no reason for another attempt. One that was there and changed meanwhile stays as it was
        before, and so the task runs anew the next time: it may be its program.

        Args:
            task: Of the plan.
            before: What it was when it began.
        """
        made = self._invocations.made(task, before.parts)
        return Identity.of({**before.parts, **made}) if made else before


def _meet(made: str, path: str) -> bool:
    """Whether an input, be it a pattern, is what is made, lies in it, or is a folder of it."""
    path = path.rstrip("/")
    return (
        made == path
        or path.startswith(f"{made}/")
        or made.startswith(f"{path}/")
        or fnmatch.fnmatchcase(made, path)
    )
