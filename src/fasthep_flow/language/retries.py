"""How often a task is tried again: what ``retries`` says, and what a list of sizes means."""

from __future__ import annotations

from fasthep_flow.language.document import Steps
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.schema import RetriesModel
from fasthep_flow.language.sizes import Sizes
from fasthep_flow.model import Retries, RetryCause

__all__ = ["read_retries"]


def read_retries(
    model: RetriesModel | None, sizes: Sizes, steps: Steps, findings: Findings
) -> Retries:
    """When a task is tried again.

    Args:
        model: What stands at its ``retries``.
        sizes: What its attempts ask for.
        steps: The place of the task.
        findings: What is found.
    """
    here: Steps = (*steps, "retries")
    model = model or RetriesModel()
    times = model.times
    if times is None:
        times = sizes.further
        if not times and model.model_fields_set:
            findings.refuse(
                here, "this does not say how many attempts may follow", "add 'times: 2'"
            )
    elif times < sizes.further:
        _warn_of_sizes(times, sizes, here, findings)
    on = Retries().on if model.times is not None or not sizes.further else _implied(sizes)
    if model.on is not None:
        on = tuple(dict.fromkeys(model.on))
        if not on:
            findings.refuse(
                (*here, "on"),
                "no attempt is followed by another one after no end at all",
                "leave 'on' out for failed, timed_out and out_of_memory",
            )
    return Retries(
        times=times,
        delay_s=model.delay or 0.0,
        backoff=model.backoff or 1.0,
        on=on,
    )


def _implied(sizes: Sizes) -> tuple[RetryCause, ...]:
    """After which ends another size may help."""
    on: list[RetryCause] = []
    if len(sizes.walltime) > 1 or len(sizes.cpus) > 1:
        on.append("timed_out")
    if len(sizes.memory) > 1:
        on.append("out_of_memory")
    return tuple(on)


def _warn_of_sizes(times: int, sizes: Sizes, here: Steps, findings: Findings) -> None:
    unused = [key for key in ("cpus", "memory", "walltime") if len(getattr(sizes, key)) > times + 1]
    attempts = f"are {times + 1} attempts" if times else "is 1 attempt"
    findings.warn(
        here,
        f"there {attempts} at most: the last sizes of {' and '.join(unused)} are never asked for",
        f"write {sizes.further}, or leave 'retries' out: a list of sizes is tried to its end",
    )
