"""Named orchestrations: ``orchestrations:`` of a workflow file, and of settings files.

Each gives a name such as ``dask::cern`` to a runner and its options. What can be told without
knowing any engine is checked where they are read; the rest where one is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, Literal, NamedTuple, TypeAlias

from fasthep_flow.language.document import Document, Steps
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.placeholders import placeholders
from fasthep_flow.language.refusals import shown
from fasthep_flow.language.schema import WorkflowModel
from fasthep_flow.redaction import is_secret, without_assigned, without_credentials

__all__ = [
    "KEY",
    "SEPARATOR",
    "Level",
    "Orchestration",
    "read_orchestrations",
    "refuse_both",
    "refuse_secrets",
]

KEY: Final = "orchestrations"
"""The key that they stand under."""

SEPARATOR: Final = "::"

Level: TypeAlias = Literal["workflow", "user", "site"]
"""Whose it is, the nearest first."""

_NAME: Final = re.compile(r"[A-Za-z0-9][\w.+-]*", re.ASCII)
_SWITCHES: Final = frozenset({"", "true", "false", "yes", "no"})
"""What is no secret, whatever its name: ``MY.SendCredential: "True"`` asks for a ticket."""
_OPTION: Final = re.compile(r"(?<!\S)--[A-Za-z][\w-]*=")


class Orchestration(NamedTuple):
    """A name for a runner and its options.

    Args:
        name: As it is written: ``dask::cern``.
        model: What it stands for.
        level: Whose it is.
        document: The file that it is written in.
        steps: Where in that.
    """

    name: str
    model: WorkflowModel
    level: Level
    document: Document
    steps: Steps

    @property
    def transform(self) -> str:
        """What stands before the ``::``."""
        return self.name.partition(SEPARATOR)[0]

    @property
    def origin(self) -> str:
        """Where it is written: ``file:line``."""
        return f"{self.document.file}:{self.document.place(self.steps, key=True).line}"


def read_orchestrations(
    models: Mapping[str, WorkflowModel] | None, level: Level, findings: Findings
) -> list[Orchestration]:
    """Those of a file; what is wrong with one becomes findings, and it is left out.

    Args:
        models: By name.
        level: Whose file it is.
        findings: Of the file.
    """
    read = []
    for name, model in (models or {}).items():
        steps: Steps = (KEY, name)
        one = Orchestration(name, model, level, findings.document, steps)
        if _check_name(one, findings):
            refuse_secrets(model, steps, findings)
            read.append(one)
    return read


def _check_name(one: Orchestration, findings: Findings) -> bool:
    transform, separator, own = one.name.partition(SEPARATOR)
    named = one.model.transform
    example = f"{named or 'dask'}{SEPARATOR}{'mine' if separator else one.name or 'mine'}"
    if found := placeholders(one.name):
        message, hint = f"{shown(found[0])} is a placeholder", "put your own name there"
    elif not separator or not transform or not own:
        message = f"{shown(one.name)} is not the name of an orchestration"
        hint = f"it is 'transform{SEPARATOR}name', such as {shown(example)}"
    elif not _NAME.fullmatch(own) or not _NAME.fullmatch(transform):
        message = f"{shown(one.name)} is not the name of an orchestration"
        hint = "letters, digits and . _ + - are what it may hold"
    elif named is not None and named != transform:
        message = f"{shown(one.name)} is of the transform {shown(transform)}, not {shown(named)}"
        hint = f"call it {shown(f'{named}{SEPARATOR}{own}')}, or change its transform"
    else:
        return True
    findings.refuse(one.steps, message, hint, key=True)
    return False


def refuse_secrets(model: WorkflowModel | None, steps: Steps, findings: Findings) -> None:
    """Refuse options that are secrets by their names or their form: records show options."""
    if model is None or model.kwargs is None:
        return
    for path, value in _leaves(model.kwargs.model_extra or {}):
        name = next((step for step in reversed(path) if isinstance(step, str)), "")
        if value is None or str(value).casefold() in _SWITCHES:
            continue
        is_named = is_secret(name) and not _is_path(value)
        if is_named or (isinstance(value, str) and _shows_secret(value)):
            findings.refuse(
                (*steps, "kwargs", *path),
                f"the option {shown(name)} holds a secret, which records would show",
                "give it to the engine by its own configuration or environment variables",
                key=True,
            )


def refuse_both(steps: Steps, findings: Findings) -> None:
    """Refuse that the short and the long form stand at one place."""
    places = [findings.document.place((*steps, key), key=True) for key in ("flow", "workflow")]
    findings.block(
        (*steps, "flow"),
        f"'flow' (line {places[0].line}) and 'workflow' (line {places[1].line}) "
        "say the same thing twice",
        "'flow' is the short form of 'workflow': keep one of them",
        key=True,
    )


def _leaves(value: object, path: Steps = ()) -> Iterator[tuple[Steps, object]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _leaves(item, (*path, number))
    else:
        yield path, value


def _is_path(value: object) -> bool:
    """Whether it is no secret itself, but says where one is."""
    return isinstance(value, str) and value.startswith(("/", "./", "../", "~", "$"))


def _shows_secret(text: str) -> bool:
    # '--export=ALL,TOKEN=...': an option's own value may be an assignment.
    texts = (text, _OPTION.sub("", text))
    return without_credentials(text) != text or any(without_assigned(one) != one for one in texts)
