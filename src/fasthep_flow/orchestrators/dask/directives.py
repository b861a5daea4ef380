"""What the user's own options and lines ask a batch system for, in place of what a task asks.

The options of dask-jobqueue pass through as they are, and some of them say again how large a job
is. They hold; so they are read, for a task that needs more than they say to be refused.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from fasthep_flow.orchestrators.admission import Capacity

__all__ = [
    "Said",
    "command_extra",
    "said_sizes",
    "said_time_s",
    "seconds_of",
    "slurm_options",
    "why_refused",
]

Amount: TypeAlias = Literal["cpus", "memory", "gpus"]
_LINES: Final = "job_extra_directives"
_SKIP: Final = "job_directives_skip"
_FLAVOURS: Final[Mapping[str, float]] = {
    "espresso": 20 * 60.0,
    "microcentury": 3600.0,
    "longlunch": 2 * 3600.0,
    "workday": 8 * 3600.0,
    "tomorrow": 24 * 3600.0,
    "testmatch": 3 * 24 * 3600.0,
    "nextweek": 7 * 24 * 3600.0,
}
"""How long jobs of a flavour may last at CERN: its batch service's documentation, Job Flavours."""
_UNITS: Final[Mapping[str, int]] = {"k": 2**10, "": 2**20, "m": 2**20, "g": 2**30, "t": 2**40}
_SLURM_DEVICES: Final = frozenset(
    {"--gpus", "-G", "--gpus-per-node", "--gpus-per-task", "--gpus-per-socket"}
)
_GPU: Final = re.compile(r"(?:^|,)\s*gpu\b")
"""Shares of a device have names of their own: `man gres.conf`."""
_SLURM_LINES: Final[Mapping[Amount, str]] = {
    "cpus": "#SBATCH --cpus-per-task=",
    "memory": "#SBATCH --mem=",
}
_CONDOR_LINES: Final[Mapping[Amount, str]] = {"cpus": "RequestCpus", "memory": "RequestMemory"}
"""How dask-jobqueue writes what a job is to have."""

_OURS: Final[Mapping[str, str]] = {
    "--name": "by its name a worker is found among the batch jobs",
    "--nworkers": "the option processes says how many there are in a job",
    "--nthreads": "a worker runs as many tasks at once as it has room for",
    "--resources": "what a worker declares is what tasks ask for",
    "--memory-limit": "memory is a task's own, and the batch system limits a job's",
}
"""Arguments of `dask worker` that are not the user's, and why."""


class Said(NamedTuple):
    """What an option or a line has a job be given.

    Args:
        amount: Of what.
        where: The option or the line, for messages.
        value: How much; ``None`` where that cannot be read, such as an expression of HTCondor's.
    """

    amount: Amount
    where: str
    value: float | None


def said_sizes(system: str, given: Mapping[str, Any], wanted: Capacity) -> list[Said]:
    """What the options and lines say of the size of a job, as far as they say any.

    Args:
        system: ``slurm`` or ``htcondor``.
        given: The options.
        wanted: What the job is to have: some lines speak of a processor's share, and a line
            that is left out is one of an amount of zero.
    """
    said = [*(_slurm_sizes if system == "slurm" else _condor_sizes)(given, wanted)]
    lines = _SLURM_LINES if system == "slurm" else _CONDOR_LINES
    skipped = [str(word) for word in given.get(_SKIP) or ()]
    named = {item.amount for item in said}
    return said + [
        # Every job has a processor.
        Said(amount, f"{_SKIP}: {word}", 1 if amount == "cpus" else 0)
        for amount, line in lines.items()
        for word in skipped
        if amount not in named and (word == line or (system == "slurm" and word in line))
    ]


def _slurm_sizes(given: Mapping[str, Any], wanted: Capacity) -> Iterator[Said]:
    options = [*slurm_options(given.get(_LINES) or ())]
    if (said := _last(options, "-c", "--cpus-per-task")) is not None:
        yield Said("cpus", _line(*said), _count(said[1]))
    elif (text := given.get("job_cpu")) is not None:
        yield Said("cpus", f"job_cpu: {text}", _count(str(text)))
    shares = {"--mem": 1.0, "--mem-per-cpu": wanted.cpus, "--mem-per-gpu": wanted.gpus}
    if (said := _last(options, *shares)) is not None:
        name, text = said
        yield Said("memory", _line(name, text), _slurm_bytes(text, shares[name]))
    elif (text := given.get("job_mem")) is not None:
        yield Said("memory", f"job_mem: {text}", _slurm_bytes(str(text)))
    for name, text in options:
        if (name == "--gres" and _GPU.search(text)) or name in _SLURM_DEVICES:
            yield Said("gpus", _line(name, text), _devices(name, text))


def _condor_sizes(given: Mapping[str, Any], wanted: Capacity) -> Iterator[Said]:
    del wanted
    names: Mapping[str, tuple[Amount, Callable[[str], float | None]]] = {
        "requestcpus": ("cpus", _count),
        "requestmemory": ("memory", _bytes),
        "requestgpus": ("gpus", _count),
    }
    for key, value in dict(given.get(_LINES) or {}).items():
        # RequestMemory and request_memory are one, and MY.RequestMemory goes before both.
        found = names.get(_attribute(key).replace("_", ""))
        if found is not None:
            amount, read = found
            yield Said(amount, f"{key} = {value} of {_LINES}", read(str(value).strip()))


def _last(options: Sequence[tuple[str, str]], *names: str) -> tuple[str, str] | None:
    """Of several, Slurm takes the last."""
    found = [item for item in options if item[0] in names]
    return found[-1] if found else None


def _line(name: str, text: str) -> str:
    return f"{name}{'=' if name.startswith('--') else ' '}{text} of {_LINES}"


def _attribute(key: object) -> str:
    return str(key).strip().lower().removeprefix("my.").removeprefix("+")


def _count(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d+", text) else None


def _bytes(text: str) -> float | None:
    """As both systems read an amount of memory: a bare number is of MiB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", text.lower())
    return None if found is None else float(found[1]) * _UNITS[found[2]]


def _slurm_bytes(text: str, times: float = 1.0) -> float | None:
    found = _bytes(text)
    # Slurm's word for all that a node has.
    return math.inf if found == 0 else None if found is None else found * times


def _devices(name: str, text: str) -> float | None:
    """How many devices ``gpu:a100:2,lscratch:20`` or ``a100:2`` are."""
    items = [item.strip() for item in text.split(",") if item.strip()]
    if name == "--gres":
        items = [item for item in items if _GPU.match(item)]
    numbers = [item.partition("(")[0].rpartition(":")[2] for item in items]
    if name != "--gres" and not all(map(str.isdecimal, numbers)):
        return None
    return float(sum(int(number) if number.isdecimal() else 1 for number in numbers))


def slurm_options(lines: Iterable[object]) -> Iterator[tuple[str, str]]:
    """Names and values of the options in lines for sbatch, in their order."""
    for line in lines:
        try:
            words = shlex.split(str(line), comments=True)
        except ValueError:
            words = str(line).split()
        name = ""
        for word in words:
            if word.startswith("--"):
                name, sign, value = word.partition("=")
                if sign:
                    yield name, value
                    name = ""
            elif word.startswith("-"):
                name = word[:2]
                if word[2:]:
                    yield name, word[2:]
                    name = ""
            elif name:
                yield name, word
                name = ""


def why_refused(given: Mapping[str, Any]) -> str | None:
    """What among the options and lines cannot be had at all, and why; ``None`` if nothing.

    Args:
        given: The options.
    """
    for text in given.get("worker_extra_args") or ():
        for word in str(text).split():
            if (reason := _OURS.get(word.partition("=")[0])) is not None:
                return f"worker_extra_args has {word}, which is not to be said: {reason}"
    cluster = _cluster(given)
    if cluster is not None and not re.fullmatch(r"[\w.-]+", cluster):
        return (
            f"the jobs are to go to one of several clusters ({cluster}), where they could not be "
            f"found again: name one"
        )
    if cluster == "all":
        return "the jobs are to go to any cluster, where they could not be found again: name one"
    return None


def command_extra(given: Mapping[str, Any]) -> tuple[str, ...]:
    """What the commands that ask for jobs, and cancel them, have to be told besides.

    Args:
        given: The options.
    """
    cluster = _cluster(given)
    named = () if cluster is None else (f"--clusters={cluster}",)
    return (*map(str, given.get("cancel_command_extra") or ()), *named)


def _cluster(given: Mapping[str, Any]) -> str | None:
    """The cluster of Slurm's that jobs are to go to, in place of the one that is asked."""
    lines = given.get(_LINES) or ()
    if isinstance(lines, Mapping):
        return None
    found = _last([*slurm_options(lines)], "-M", "--clusters", "--cluster")
    return None if found is None else found[1]


def said_time_s(given: Mapping[str, Any]) -> float | None:
    """How long a job may last by lines of the user's own, which go before the option."""
    lines = given.get(_LINES) or ()
    if isinstance(lines, Mapping):
        said = {_attribute(key): str(value).strip("\"' ") for key, value in lines.items()}
        runtime_s = said.get("maxruntime", "")
        return (
            float(runtime_s) if runtime_s.isdecimal() else _FLAVOURS.get(said.get("jobflavour", ""))
        )
    times = [seconds_of(value) for name, value in slurm_options(lines) if name in {"--time", "-t"}]
    # Slurm takes the last of several.
    return times[-1] if times else None


def seconds_of(walltime: str) -> float | None:
    """A time as Slurm writes it, in seconds: ``90`` (minutes), ``02:30:00``, ``1-12:00``.

    ``None`` for what is no such time: `man sbatch`, ``--time``.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", walltime.strip())
    if found is None:
        return None
    days, first, second, third = (None if part is None else int(part) for part in found.groups())
    if days is not None:
        hours, minutes, seconds = first or 0, second or 0, third or 0
    elif third is not None:
        hours, minutes, seconds = first or 0, second or 0, third
    else:
        hours, minutes, seconds = 0, first or 0, second or 0
    return float((((days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds)
