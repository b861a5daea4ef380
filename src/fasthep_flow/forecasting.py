"""What a run would do with each task, told from records alone.

Nothing is run, fetched, or asked for over the network: of an image the digest counts that it has on
this machine, of data what the cache has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from fasthep_flow.deciding import reuse_of
from fasthep_flow.environments import RUNTIMES, find_runtime
from fasthep_flow.errors import DataUnavailable, EngineUnavailable, RecordError
from fasthep_flow.language import select_tasks
from fasthep_flow.model import DataItem, Environment, Image, JobResult, Plan, TaskSpec
from fasthep_flow.records.cache import CACHE_FOLDER
from fasthep_flow.records.forecast import Forecast, forecast
from fasthep_flow.records.history import Former as FormerRun
from fasthep_flow.records.history import latest_run
from fasthep_flow.records.record import (
    Ended,
    PlannedTask,
    ended_tasks,
    planned_tasks,
    read_run_file,
)

__all__ = ["Fate", "Foretold", "Prospect", "forecast_plan"]

Fate: TypeAlias = Literal["done", "reused", "runs", "may_run"]

_NATIVE: Final = "native"
_NEVER: Final = ("no earlier run has done it",)
_TRIED: Final[Mapping[str, str]] = {
    "failed": "it failed in the run",
    "timed_out": "it ran out of time in the run",
    "cancelled": "it was stopped in the run",
    "skipped": "it was skipped in the run",
}
_CUT_SHORT: Final = ("it was under way when its run was cut short",)
_MADE_BY: Final = "made by the run "
_WITH_TAGS: Final = frozenset({"registry", "oras"})


class Foretold(NamedTuple):
    """What would become of a task.

    Args:
        task: Its name.
        fate: ``done`` if the run that goes on did it already; ``reused`` if an earlier run did
            the same; ``may_run`` where that depends on what a task that runs before it comes to.
        reasons: Why it runs, a clause each; none for one that need not.
        made_by: The id of the run whose result stands for it, if it need not run.
    """

    task: str
    fate: Fate
    reasons: tuple[str, ...]
    made_by: str | None

    @classmethod
    def of_first_run(cls, task: str) -> Foretold:
        """What becomes of a task where nothing ever ran.

        Args:
            task: Its name.
        """
        return cls(task, "runs", _NEVER, None)


class Prospect(NamedTuple):
    """What would become of a plan.

    Args:
        run_id: Of the run that would go on; ``None`` if there would be a new one.
        driver: Who drives that run now, for people; ``None`` if nobody does.
        tasks: By name, in the plan's order.
        notes: What else is to be known, in sentences.
    """

    run_id: str | None
    driver: str | None
    tasks: dict[str, Foretold]
    notes: tuple[str, ...]


def forecast_plan(
    plan: Plan,
    *,
    only: str | None = None,
    in_any_case: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Prospect | None:
    """What a run would do with each task of the plan; ``None`` where no earlier run could count.

    Args:
        plan: What would run.
        only: The task of which it is to be told, and of those that it needs; of all if ``None``.
        in_any_case: Whether to tell it also where a run has succeeded and nothing of it is kept.
        progress: Is told of what may take long.

    Raises:
        PlanError: There is no task of that name.
        RecordError: The records cannot be read, or there is no key for values of variables.
    """
    output = Path(plan.output_directory)
    try:
        history = latest_run(output, plan.source, plan.selection)
    except OSError as error:
        raise RecordError(f"cannot read {output}: {error.strerror or error}") from error
    plan = plan if only is None else select_tasks(plan, [only])
    latest = history.latest
    goes_on = None if latest is None or latest.state == "succeeded" else latest
    is_kept = (output / CACHE_FOLDER).is_dir()
    if goes_on is None and not is_kept and (latest is None or not in_any_case):
        return None
    progress("comparing with what ran before")
    before = None if goes_on is None else _before(goes_on, plan)
    results = {} if before is None else before.results
    here, runtimes = _as_here(plan, results)
    notes = [*history.damaged, *(before.damaged if before is not None else ())]
    run_id = "" if goes_on is None else goes_on.run_id
    reuse = reuse_of(here, runtimes, run_id=run_id, before=before, noticed=notes.append)
    found = forecast(here, reuse, run_id)
    # What was read now the run need not read again.
    reuse.save()
    cut_short = set() if before is None else {one.task for one in before.under_way}
    tried: Mapping[str, tuple[str, ...]] = {}
    if (
        latest is not None
        and goes_on is None
        and any(one.reasons == _NEVER for one in found.values())
    ):
        tried = _tried(latest, plan)
    tasks = {}
    for name, one in found.items():
        is_done = one.reused is not None and one.reused is results.get(name)
        tasks[name] = Foretold(
            name,
            "done" if is_done else one.fate,
            _reasons(one, _CUT_SHORT if name in cut_short else tried.get(name)),
            None if one.reused is None else _maker(one.reused, run_id),
        )
    return Prospect(run_id or None, _driver(goes_on), tasks, tuple(dict.fromkeys(notes)))


def _before(run: FormerRun, plan: Plan) -> Ended:
    """What became of the tasks of a run, those that are not in the plan any more included."""
    planned: list[PlannedTask | TaskSpec] = [*planned_tasks(run.path), *plan.tasks]
    return ended_tasks(run.path, planned, read_run_file(run.path), with_tails=False)


def _tried(run: FormerRun, plan: Plan) -> dict[str, tuple[str, ...]]:
    """What became of the tasks that a run did not do: it may succeed without them."""
    return {
        name: (f"{_TRIED[result.status]} {run.run_id}",)
        for name, result in _before(run, plan).results.items()
        if result.status in _TRIED
    }


def _reasons(one: Forecast, instead: tuple[str, ...] | None) -> tuple[str, ...]:
    """Why a task runs, said better where no run is known that did it."""
    return instead if instead is not None and one.reasons == _NEVER else one.reasons


def _maker(result: JobResult, run_id: str) -> str:
    """The run that made what stands for a task: this one, unless the result says otherwise."""
    if result.status != "reused" or not result.remarks:
        return run_id
    return result.remarks[-1].removeprefix(_MADE_BY)


def _driver(run: FormerRun | None) -> str | None:
    if run is None or run.state != "claimed" or run.claimed is None:
        return None
    holder = run.claimed.holder
    return "a process that is not known" if holder is None else f"{holder} since {holder.since}"


def _as_here(plan: Plan, results: Mapping[str, JobResult]) -> tuple[Plan, dict[str, str]]:
    """The plan as it is known before a run, and the runtime of each of its tasks.

    Args:
        plan: What would run.
        results: Of the run that would go on: its tasks would have the same runtimes.
    """
    environments: dict[int, Environment] = {}
    chosen: dict[Image, str] = {}
    runtimes = {}
    tasks = []
    for task in plan.tasks:
        asked = task.environment
        if asked.image is None:
            runtimes[task.name] = _NATIVE
        elif asked.runtime is not None:
            runtimes[task.name] = asked.runtime
        elif task.name in results and results[task.name].attempt:
            runtimes[task.name] = results[task.name].runtime
        else:
            if asked.image not in chosen:
                chosen[asked.image] = _first_for(asked.image)
            runtimes[task.name] = chosen[asked.image]
        if asked.image is None and not asked.extra_data:
            tasks.append(task)
            continue
        # Tasks that share an environment go on to share it: it is looked at once.
        if id(asked) not in environments:
            environments[id(asked)] = _nothing_fetched(asked)
        tasks.append(msgspec.structs.replace(task, environment=environments[id(asked)]))
    return msgspec.structs.replace(plan, tasks=tuple(tasks), offline=True), runtimes


def _first_for(image: Image) -> str:
    """The runtime that a run would choose, as far as that is known without asking much."""
    for name in RUNTIMES:
        if name == _NATIVE:
            continue
        try:
            runtime = find_runtime(name)
            if runtime.takes(image) is None and runtime.probe() is None:
                return name
        except EngineUnavailable:
            continue
    return _NATIVE


def _nothing_fetched(asked: Environment) -> Environment:
    return msgspec.structs.replace(
        asked,
        image=_never_pulled(asked.image),
        gpu_image=_never_pulled(asked.gpu_image),
        extra_data=tuple(_known(item) for item in asked.extra_data),
    )


def _never_pulled(image: Image | None) -> Image | None:
    if image is None or image.form not in _WITH_TAGS:
        return image
    return msgspec.structs.replace(image, pull="never")


def _known(item: DataItem) -> DataItem:
    """The item with its digest, where the cache has it."""
    from fasthep_flow.environments.data import fetch
    from fasthep_flow.environments.data.sources import source_of

    try:
        if source_of(item).kind == "local":
            return item
        return fetch(item, offline=True, progress=lambda _: None)
    except DataUnavailable:
        return item
