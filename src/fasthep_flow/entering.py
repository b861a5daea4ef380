"""A task's environment, entered: a program of the caller's own in it, on their own streams.

::

    plan = load_plan(Path("workflow.yaml"))
    enter_task(plan, "Select events", ("python3", "-c", "import uproot"))  # its exit code
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from fasthep_flow.environments.preflight.gate import pinned, preflight
from fasthep_flow.execution.entering import enter_job
from fasthep_flow.execution.prepare import Prepared
from fasthep_flow.language import select_tasks
from fasthep_flow.locking.drift import locked_plan
from fasthep_flow.model import Device, Plan, TaskSpec
from fasthep_flow.signals import Signals
from fasthep_flow.visit import Visit, as_recorded, past_of, require_bytes, visited

__all__ = ["enter_task"]


def enter_task(
    plan: Plan,
    task: str,
    argv: Sequence[str] = (),
    *,
    run: str | None = None,
    is_fresh: bool = False,
    device: Device | None = None,
    locked: bool = False,
    progress: Callable[[str], None] = lambda _: None,
    ready: Callable[[Visit, Prepared], None] = lambda _visit, _made: None,
    waits: Callable[[str], None] = lambda _: None,
) -> int:
    """Run a program in a task's environment, on the caller's standard streams; its exit code.

    Args:
        plan: The workflow.
        task: The name of the task.
        argv: The program and its arguments; a shell if there are none.
        run: The run whose environment it is to be: its id, ``latest``, or a path; the
            workflow's if ``None``.
        is_fresh: Whether to have a new folder, also where the task failed in the latest run.
        device: On which kind of device to be; what the task asks for if ``None``.
        locked: Whether to use what the lock file names, and nothing else.
        progress: Is told of what may take long.
        ready: Is told what it will be, before anything starts.
        waits: Is told for what it waits, where others have the devices that it is to have.

    Raises:
        PlanError: There is no such task.
        EnvironmentRefused: What the task asks for cannot be had.
        RecordError: There is no such run, or its records cannot be read.
        RunInterrupted: A signal ended it.
    """
    with Signals() as signals:
        progress = signals.checked(progress)
        chosen = next(one for one in select_tasks(plan, [task]).tasks if one.name == task)
        past = past_of(plan, chosen, run=run, is_fresh=is_fresh)
        remarks: tuple[str, ...] = ()
        if past.is_wanted:
            chosen, remarks = as_recorded(chosen, past)
        elif locked:
            alone = msgspec.structs.replace(plan, tasks=(chosen,))
            (chosen,) = locked_plan(alone, progress=progress).tasks
        if device is not None:
            chosen = _on_device(chosen, device)
        runtimes = preflight(
            (chosen,),
            progress=progress,
            directories=(plan.directory, plan.output_directory),
            offline=plan.offline,
        )
        signals.check()
        (exact,) = pinned((chosen,), runtimes, offline=plan.offline)
        with visited(plan, exact, runtimes[task], past, is_fresh=is_fresh) as found:
            visit = msgspec.structs.replace(found, remarks=(*remarks, *found.remarks))

            def tell(made: Prepared) -> None:
                signals.check()
                ready(require_bytes(visit, past, made.resolved), made)

            variables = exact.environment.variables
            return enter_job(
                visit.job,
                {name: variable.value for name, variable in variables.items()},
                argv,
                # A shell starts where there is something to look at.
                start_in=visit.job.directory if visit.attempt and not argv else None,
                data_directory=visit.data_directory,
                ready=tell,
                waits=waits,
            )


def _on_device(task: TaskSpec, device: Device) -> TaskSpec:
    resources = msgspec.structs.replace(
        task.environment.resources,
        process_on=device,
        gpus=None if device == "cpu" else task.environment.resources.gpus,
    )
    environment = msgspec.structs.replace(task.environment, resources=resources)
    return msgspec.structs.replace(task, environment=environment)
