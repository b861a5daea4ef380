"""Records as lines of text for people.

What a task prints is shown as it is but for what would steer a terminal: control characters
are written out, so that no task can move the cursor, set a title, clear the screen, or turn
the direction of the text around.
"""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final, TypeVar

from fasthep_flow.environments.devices.choice import NO_GPU
from fasthep_flow.model import (
    Call,
    Device,
    Environment,
    FlowSpec,
    Image,
    Invocation,
    JobResult,
    Plan,
    PythonSpec,
    Resources,
    Retries,
    Setup,
    Status,
    TaskSpec,
)
from fasthep_flow.redaction import without_credentials

__all__ = [
    "MARKS",
    "end_line",
    "fate_text",
    "memory_text",
    "one_line",
    "options_text",
    "output_lines",
    "plan_lines",
    "printable",
    "retries_text",
    "seconds_text",
    "summary_text",
]

MARKS: Final[dict[Status, str]] = {
    "succeeded": "✓",
    "failed": "✗",
    "timed_out": "✗",
    "cancelled": "■",
    "skipped": "-",
    "reused": "=",
}
"""One character for each status."""

_T = TypeVar("_T")

_SHOWN_LINES: Final = 40
_SHOWN_COLUMNS: Final = 2000
_SHOWN_NAMES: Final = 4
_SHOWN_REASONS: Final = 3
_SUSPECT: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]|[^\x00-\x7f]")
_BEFORE: Final = "done before"
_STEERING: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def memory_text(size: int) -> str:
    """Bytes as people write them: ``512 MiB``."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.3g} TiB"


def seconds_text(seconds: float) -> str:
    """Seconds as people write them: ``0.31 s``, ``2 min 5 s``, ``3 h 20 min``."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def printable(text: str) -> str:
    """The text with its control and format characters, and halves of characters, written out."""
    return _SUSPECT.sub(_written_out, text)


def one_line(text: object) -> str:
    """The same for what must not break the line: a path, a cell of a table."""
    return printable(str(text)).replace("\t", "\\x09").replace("\n", "\\x0a")


def _written_out(found: re.Match[str]) -> str:
    character = found[0]
    if unicodedata.category(character) not in _STEERING:
        return character
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def output_lines(result: JobResult, directory: Path | None) -> Iterator[str]:
    """What a task printed, each line behind the task's name; long output is cut.

    Args:
        result: How the task ended.
        directory: The folder of its logs.
    """
    name = printable(result.task)
    for text, sign, log in (
        (result.stdout_tail, "|", "stdout.log"),
        (result.stderr_tail, "!", "stderr.log"),
    ):
        if not text:
            continue
        lines = text.rstrip("\r\n").split("\n")
        if len(lines) > _SHOWN_LINES or _is_cut(text, directory, log):
            lines = lines[-_SHOWN_LINES:]
            where = one_line(log if directory is None else directory / log)
            yield f"{name} {sign} ... the last {len(lines)} lines; all of it is in {where}"
        for line in lines:
            # A progress bar overwrites its line: what it wrote last is what was seen.
            seen = printable(line.rstrip("\r").rpartition("\r")[2])
            if len(seen) > _SHOWN_COLUMNS:
                seen = f"{seen[:_SHOWN_COLUMNS]} ... ({len(seen)} characters)"
            yield f"{name} {sign} {seen}".rstrip()


def _is_cut(text: str, directory: Path | None, log: str) -> bool:
    # Only a tail of full length can be a part of a longer log.
    if directory is None or len(text) < 2**15:
        return False
    try:
        return (directory / log).stat().st_size > len(text.encode(errors="surrogateescape"))
    except OSError:
        return False


def end_line(result: JobResult, directory: Path | None, *, is_allowed: bool = False) -> str:
    """How a task ended, in a line; with the cause, the hint and the logs where it failed.

    Args:
        result: How.
        directory: The folder of its logs.
        is_allowed: Whether it failed, and may.
    """
    parts = [f"{MARKS[result.status]} {printable(result.task)}"]
    if result.status == "reused":
        # What was odd about it was told when it was made.
        return "  ".join([*parts, *map(one_line, result.remarks[-1:])])
    if is_allowed:
        parts[0] += " (allowed to fail)"
    if result.failure is not None:
        parts.append(printable(result.failure.message))
    if result.attempt > 1:
        parts.append(f"attempt {result.attempt}")
    if result.attempt:
        parts.append(", ".join(_used(result)))
    if result.device_reason.startswith(NO_GPU):
        parts.append(f"on the cpu, {printable(result.device_reason)}")
    line = "  ".join(parts)
    if result.failure is not None and result.failure.hint:
        line += f"\n    {printable(result.failure.hint)}"
    for remark in result.remarks:
        line += f"\n    {printable(remark)}"
    if result.status in {"failed", "timed_out"} and directory is not None:
        line += f"\n    logs: {one_line(directory)}"
    return line


def _used(result: JobResult) -> Iterator[str]:
    yield seconds_text(result.wall_s)
    if result.peak_memory is not None:
        at_most = "under " if result.peak_memory_is_bound else ""
        yield f"{at_most}{memory_text(result.peak_memory)}"
    if result.devices:
        yield "1 gpu" if len(result.devices) == 1 else f"{len(result.devices)} gpus"


def fate_text(fate: str, reasons: Sequence[str] = ()) -> str:
    """What would become of a task, in a line: ``runs: fit.sh, which its command names, changed``.

    Args:
        fate: ``done``, ``reused``, ``runs`` or ``may_run``.
        reasons: Why it would run.
    """
    word = fate.replace("_", " ")
    if not reasons:
        return word
    told = [one_line(reason) for reason in reasons[:_SHOWN_REASONS]]
    more = len(reasons) - len(told)
    return f"{word}: {'; '.join(told)}" + (f"; and {more} more" if more > 0 else "")


def plan_lines(plan: Plan, fates: Mapping[str, str] | None = None) -> Iterator[str]:
    """What would run, a paragraph a task, in order.

    Args:
        plan: What would run.
        fates: What would become of each task, in a line, by its name.
    """
    count = len(plan.tasks)
    yield f"{one_line(plan.name)}: {count} {'task' if count == 1 else 'tasks'} on {plan.flow}"
    if plan.flow_origin != "default" or plan.flow.options:
        yield f"{_flow_text(plan.flow)}; from {one_line(plan.flow_origin)}"
    yield f"records go to {one_line(plan.output_directory)}"
    for number, task in enumerate(plan.tasks, start=1):
        fate = (fates or {}).get(task.name)
        yield f"{number:>3}. {printable(task.name)}" + (f"  {fate}" if fate else "")
        facts = (
            ("runs", _invocation_text(task)),
            *_order_facts(task, plan),
            *_container_facts(task.environment),
            *_other_facts(task.environment),
            *_limit_facts(task, plan),
        )
        yield from (f"     {label:<11} {text}" for label, text in facts)


def _order_facts(task: TaskSpec, plan: Plan) -> Iterator[tuple[str, str]]:
    if task.needs:
        yield "needs", ", ".join(printable(need) for need in task.needs)
    for label, paths in (("reads", task.inputs), ("makes", task.outputs)):
        if paths:
            yield label, _some([_short(path, plan.directory) for path in paths])
    if task.cache and not task.outputs:
        yield "kept", "what it returns"


def _limit_facts(task: TaskSpec, plan: Plan) -> Iterator[tuple[str, str]]:
    if text := _resources_text(task.environment.resources, task.growth):
        yield "resources", text
    if task.environment.flow != plan.flow:
        yield "flow", _flow_text(task.environment.flow)
    if limits := list(_limits(task)):
        yield "limits", ", ".join(limits)
    if task.allow_failure:
        yield "may fail", "the run goes on without it, and so does what needs it"


def _limits(task: TaskSpec) -> Iterator[str]:
    """How often a task is tried again, and how long an attempt may take."""
    if task.retries.times:
        yield retries_text(task.retries)
    if task.timeout_s is not None:
        sizes = [task.timeout_s, *(size.walltime_s for size in task.growth)]
        yield f"stopped after {_each(sizes, seconds_text)}"


def retries_text(retries: Retries) -> str:
    """When a task is tried again: ``3 retries, the first after 30 s, each 2 times as late``."""
    told = "1 retry" if retries.times == 1 else f"{retries.times} retries"
    if set(retries.on) != set(Retries().on):
        told += f" when {' or '.join(word.replace('_', ' ') for word in retries.on)}"
    if retries.delay_s:
        told += f", after {seconds_text(retries.delay_s)}"
        if retries.backoff > 1 and retries.times > 1:
            told += f", then {retries.backoff:g} times as long each time"
    return told


def _each(sizes: Sequence[_T | None], text: Callable[[_T], str]) -> str:
    """The sizes of the attempts, those alone that are not as the one before."""
    told = [text(size) for size in sizes if size is not None]
    return ", then ".join(one for one, _ in groupby(told))


def _short(path: str, directory: str) -> str:
    """A path as it is written below the workflow's folder, else in full."""
    return one_line(path.removeprefix(f"{directory}/"))


def options_text(options: Mapping[str, object]) -> str:
    """Options of a runner on one line: ``cores=4, queue="hep"``."""
    told = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in options.items())
    return one_line(", ".join(told))


def _flow_text(flow: FlowSpec) -> str:
    """The flow, and what its name stands for."""
    runner = f"{flow.transform}::{flow.runner}"
    told = f"{flow} is {runner}" if flow.orchestration not in {"", runner} else str(flow)
    if flow.options:
        told += f" with {options_text(flow.options)}"
    return f"{told}, defined at {one_line(flow.origin)}" if flow.origin else told


def _container_facts(environment: Environment) -> Iterator[tuple[str, str]]:
    yield "image", _image_text(environment.image, environment.runtime)
    if environment.gpu_image is not None:
        yield "on a gpu", _image_text(environment.gpu_image, None)
    if environment.options:
        yield "options", printable(shlex.join(environment.options))
    if environment.network != "host":
        yield "network", environment.network
    if not environment.reuse and environment.image is not None:
        yield "reuse", "no: a container of its own"


def _other_facts(environment: Environment) -> Iterator[tuple[str, str]]:
    if environment.setup is not None:
        yield "setup", _setup_text(environment.setup)
    if environment.python is not None:
        yield "python", _python_text(environment.python)
    if environment.credentials:
        told = (item.variable or item.kind for item in environment.credentials)
        yield "credentials", ", ".join(told)
    if environment.extra_data:
        told = (printable(without_credentials(item.source)) for item in environment.extra_data)
        yield "extra data", _some(list(told))
    if environment.variables:
        yield "variables", ", ".join(environment.variables)


def _setup_text(setup: Setup) -> str:
    lines = setup.lines.count("\n") + 1
    if lines == len(setup.scripts):
        return _some([printable(script) for script in setup.scripts])
    return f"{lines} lines of bash" if lines > 1 else "a line of bash"


def _python_text(python: PythonSpec) -> str:
    told = [python.version] if python.version is not None else []
    return printable(_some([*told, *python.requirements]))


def _some(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = len(names) - _SHOWN_NAMES
    told = ", ".join(names[:_SHOWN_NAMES])
    return f"{told}, and {more} more" if more > 0 else told


def _image_text(image: Image | None, runtime: str | None) -> str:
    if image is None:
        return "none: this machine"
    told = [runtime] if runtime else []
    if image.platform is not None:
        told.append(image.platform)
    if image.pull != "missing":
        told.append("always pulled" if image.pull == "always" else "never pulled")
    return printable(image.name) + (f" ({', '.join(told)})" if told else "")


def _invocation_text(task: TaskSpec) -> str:
    process_on = task.environment.resources.process_on
    devices: list[Device] = ["cpu", "gpu"] if process_on == "gpu_if_available" else [process_on]
    texts = {
        device: _one_invocation_text(task.invocations[device])
        for device in devices
        if device in task.invocations
    }
    if len(set(texts.values())) > 1:
        return ", ".join(f"{text} on the {device}" for device, text in texts.items())
    return next(iter(texts.values()), "")


def _one_invocation_text(invocation: Invocation) -> str:
    if isinstance(invocation, Call):
        return f"{invocation.target}()"
    text = printable(" ".join(shlex.quote(word) for word in invocation.argv))
    return text if len(text) <= 200 else f"{text[:200]} ..."


def _resources_text(resources: Resources, growth: Sequence[Resources]) -> str:
    sizes = (resources, *growth)
    parts = []
    if resources.cpus is not None:
        parts.append(f"{_each([size.cpus for size in sizes], '{:g}'.format)} cpus")
    if resources.memory is not None:
        parts.append(f"{_each([size.memory for size in sizes], memory_text)} memory")
    if resources.gpus is not None:
        parts.append(f"{resources.gpus} gpus")
    if resources.process_on != "cpu":
        parts.append(f"on {resources.process_on}")
    if resources.enforce != "strict":
        parts.append("best effort")
    return ", ".join(parts)


def summary_text(
    results: Iterable[JobResult],
    wall_s: float,
    directory: Path,
    *,
    allowed: Collection[str] = frozenset(),
    former: Collection[str] = frozenset(),
) -> str:
    """How many tasks ended how, in what time, and where the records are.

    Args:
        results: How they ended.
        wall_s: Seconds from the first one's start to the last one's end.
        directory: The run folder.
        allowed: The names of those that failed, and may.
        former: The names of those that were done before the run went on.
    """
    counts: Counter[str] = Counter()
    for result in results:
        word = result.status.replace("_", " ")
        if result.task in former:
            word = _BEFORE
        counts[f"{word} (allowed)" if result.task in allowed else word] += 1
    total = counts.total()
    noun = "task" if total == 1 else "tasks"
    if counts["succeeded"] == total:
        told = f"{total} {noun} succeeded"
    else:
        words = [_BEFORE, "reused", *(status.replace("_", " ") for status in MARKS)]
        order = [told for word in words for told in (word, f"{word} (allowed)")]
        told = ", ".join(f"{counts[word]} {word}" for word in dict.fromkeys(order) if counts[word])
        told = f"{total} {noun}: {told}"
    return f"{told} in {seconds_text(wall_s)}; records in {one_line(directory)}"
