"""Plans and results, made by hand."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings

from fasthep_flow.errors import Location
from fasthep_flow.model import (
    Call,
    Command,
    Environment,
    FlowSpec,
    Invocation,
    JobResult,
    Plan,
    TaskSpec,
    Variable,
)
from fasthep_flow.records.digests import Digests
from fasthep_flow.records.identity import Identities
from fasthep_flow.records.key import Key

LOCAL = FlowSpec(transform="local", runner="concurrent")
KEY = Key.of(b"k" * 32)
ANY_SPEED = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def line(text: str) -> Command:
    """A line of shell, as the operator makes it."""
    return Command(argv=("bash", "-e", "-o", "pipefail", "-c", text))


def call(target: str, *args: Any, **kwargs: Any) -> Call:
    return Call(target=target, args=args, kwargs=kwargs)


def environment(variables: Mapping[str, str] | None = None, **parts: Any) -> Environment:
    return Environment(
        flow=LOCAL,
        variables={name: Variable(value, "x:1") for name, value in (variables or {}).items()},
        **parts,
    )


def task(
    name: str = "fit",
    does: Invocation | str = "true",
    *,
    variables: Mapping[str, str] | None = None,
    **parts: Any,
) -> TaskSpec:
    does = line(does) if isinstance(does, str) else does
    parts.setdefault("environment", environment(variables))
    parts.setdefault("invocations", {"cpu": does, "gpu": does})
    return TaskSpec(
        name=name, slug=name[:9], operator="x", location=Location("workflow.yaml", 1, 1), **parts
    )


def plan(folder: Path, *tasks: TaskSpec) -> Plan:
    """A plan; paths of inputs and outputs are taken to start at the folder."""

    def absolute(paths: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{folder}/{path}" for path in paths)

    return Plan(
        name="analysis",
        tasks=tuple(
            msgspec.structs.replace(one, inputs=absolute(one.inputs), outputs=absolute(one.outputs))
            for one in tasks
        ),
        flow=LOCAL,
        directory=str(folder),
        source=str(folder / "workflow.yaml"),
        output_directory=str(folder / "output"),
        digest="sha256:0",
    )


def identities(
    of: Plan, *, key: Key = KEY, digests: Digests | None = None, **more: Any
) -> Identities:
    return Identities(of, lambda: key, digests=digests, **more)


def parts_of(folder: Path, one: TaskSpec, **more: Any) -> dict[str, str]:
    """The parts of a task that is alone in its plan."""
    made = plan(folder, one)
    return identities(made, **more).of(made.tasks[0], {}).parts


def succeeded(of: TaskSpec, *, attempt: int = 1, **facts: Any) -> JobResult:
    return JobResult(task=of.name, attempt=attempt, status="succeeded", **facts)


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def long_quiet(path: Path) -> Path:
    """Have the file's content be changed long ago; the time of its last change is the kernel's."""
    os.utime(path, (1, 1))
    return path
