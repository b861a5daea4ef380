"""What a run would do with each task, told beforehand; nothing is run for that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

from fasthep_flow.model import JobResult, Plan, TaskSpec
from fasthep_flow.records.identity import NeedIdentity, need_identity
from fasthep_flow.records.reuse import Reuse

__all__ = ["Fate", "Forecast", "forecast"]

Fate: TypeAlias = Literal["reused", "runs", "may_run"]


class Forecast(NamedTuple):
    """What would become of a task.

    Args:
        fate: Whether it runs; ``may_run`` where that depends on what a task that runs before it
            comes to.
        reasons: Why, a clause each; none for one that need not run.
        reused: What stands for one that need not.
    """

    fate: Fate
    reasons: tuple[str, ...]
    reused: JobResult | None = None


def forecast(plan: Plan, reuse: Reuse, run_id: str) -> dict[str, Forecast]:
    """What would become of each task, by name, in the plan's order.

    Args:
        plan: What would run.
        reuse: Decides for its tasks.
        run_id: Of the run that would go on, if there is one.

    Raises:
        RecordError: There is no key for values of variables.
    """
    found: dict[str, Forecast] = {}
    needs: dict[str, NeedIdentity] = {}
    pending: set[str] = set()
    tasks = {task.name: task for task in plan.tasks}
    for task in plan.tasks:
        known = {name: needs[name] for name in task.needs if name in needs}
        decision = reuse.decide(task, known, pending=pending)
        one = _foretold(task, decision.reused, decision.reasons, found, tasks)
        found[task.name] = one
        if decision.reused is not None:
            needs[task.name] = need_identity(task, decision.reused, run_id)
        else:
            pending.update(path.rstrip("/") for path in task.outputs)
    return found


def _foretold(
    task: TaskSpec,
    reused: JobResult | None,
    reasons: tuple[str, ...],
    found: Mapping[str, Forecast],
    tasks: Mapping[str, TaskSpec],
) -> Forecast:
    if reused is not None:
        return Forecast("reused", (), reused)
    if reasons:
        return Forecast("runs", reasons)
    before = {
        name: found[name].fate
        for name in task.needs
        if name in found and found[name].fate != "reused"
    }
    certain = [
        name
        for name, fate in before.items()
        # Of what it comes to nothing says that it is the same as before.
        if fate == "runs" and not (tasks[name].outputs or tasks[name].cache)
    ]
    if certain:
        return Forecast("runs", tuple(f"needs {name!r}, which runs" for name in certain))
    words = {"runs": "runs", "may_run": "may run"}
    told = tuple(f"needs {name!r}, which {words[fate]}" for name, fate in before.items())
    return Forecast("may_run", told or ("its inputs are yet to be made",))
