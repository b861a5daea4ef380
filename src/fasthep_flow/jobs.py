"""A job: one attempt of a task, all that a worker need know of it."""

from __future__ import annotations

from fasthep_flow.model import Environment, Job, Plan, Resources, TaskSpec
from fasthep_flow.redaction import is_secret
from fasthep_flow.tries import timeout_of

__all__ = ["holds_secrets", "job_of"]


def holds_secrets(environment: Environment) -> bool:
    """Whether a task is handed the value of a secret, which its logs may then hold.

    Args:
        environment: Of the task.
    """
    return (
        bool(environment.secrets)
        or any(map(is_secret, environment.variables))
        or any(credential.kind == "bearer" for credential in environment.credentials)
    )


def job_of(
    task: TaskSpec,
    plan: Plan,
    *,
    run_id: str,
    runtime: str,
    attempt: int,
    directory: str,
    run_directory: str,
    resources: Resources | None = None,
) -> Job:
    """One attempt of a task.

    Args:
        task: Of the plan.
        plan: The workflow.
        run_id: Of the run.
        runtime: That was chosen for the task.
        attempt: Counted from 1.
        directory: Absolute path of the attempt's folder.
        run_directory: Absolute path of the run's folder.
        resources: What the attempt asks for; what the first one does if it is not given.
    """
    environment = task.environment
    resources = resources or environment.resources
    return Job(
        run_id=run_id,
        task=task.name,
        slug=task.slug,
        attempt=attempt,
        invocations=task.invocations,
        directory=directory,
        working_directory=plan.directory,
        run_directory=run_directory,
        image=environment.image,
        gpu_image=environment.gpu_image,
        runtime=runtime,
        options=environment.options,
        network=environment.network,
        reuse=environment.reuse,
        variables=tuple(environment.variables),
        secrets=environment.secrets,
        setup=environment.setup,
        python=environment.python,
        credentials=environment.credentials,
        extra_data=environment.extra_data,
        offline=plan.offline,
        resources=resources,
        timeout_s=timeout_of(task, resources),
        inputs=task.inputs,
        outputs=task.outputs,
    )
