"""All that a job's environment is made of, before its container is opened.

In this order, of which later ones win: the variables of its devices, those that name its
credentials, the task's own, what its setup script makes of these, its Python environment, and
the facts by which a task knows itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import msgspec

from fasthep_flow.environments import (
    Addition,
    ContainerSpec,
    Mount,
    ResolvedImage,
    Runtime,
    container_name,
)
from fasthep_flow.environments.devices.choice import DeviceChoice, shown
from fasthep_flow.environments.devices.leases import device_for
from fasthep_flow.environments.host.owner import owner_labels
from fasthep_flow.environments.limits.enforcement import held_limits
from fasthep_flow.model import Image, Invocation, Job

__all__ = ["Prepared", "image_on", "prepared", "time_limit"]


class Prepared(NamedTuple):
    """What is needed to start a job.

    Args:
        choice: Where it runs, and why there.
        invocation: What runs there.
        image: What it runs in; ``None`` for the host itself.
        resolved: The same, on this machine.
        spec: Of its container.
        environment: Its variables, to be laid over what the place has of its own.
        data: The digests of its extra data, by source.
        software: What there is to be recorded of its software.
    """

    choice: DeviceChoice
    invocation: Invocation
    image: Image | None
    resolved: ResolvedImage | None
    spec: ContainerSpec
    environment: dict[str, str | None]
    data: dict[str, str]
    software: dict[str, str]


@contextmanager
def prepared(
    job: Job,
    variables: Mapping[str, str],
    runtime: Runtime,
    *,
    enforced: Mapping[str, str],
    is_shared: bool = False,
    is_stopped: Callable[[], bool] = lambda: False,
    data_directory: str | None = None,
    waits: Callable[[str], None] = lambda _: None,
) -> Iterator[Prepared]:
    """The job's environment; what was made for this job alone is gone when the context ends.

    Args:
        job: What is to run. Its folder is there.
        variables: The task's own.
        runtime: What it runs on.
        enforced: What the runtime says of how its limits are held.
        is_shared: Whether its container may serve other jobs.
        is_stopped: Whether the run was told to stop, for what has to wait.
        data_directory: Absolute path of the folder for its data; the job's own if not given.
        waits: Is told for what it waits, where it does.

    Raises:
        EnvironmentRefused: Something of it cannot be had.
    """
    with ExitStack() as stack:
        choice = stack.enter_context(
            device_for(
                job.resources,
                versions=job.invocations.keys(),
                lends=runtime.lends,
                is_stopped=is_stopped,
                waits=waits,
            )
        )
        image = image_on(choice.device, job)
        resolved = None if image is None else runtime.resolve(image)
        spec = _spec(job, resolved, choice, enforced, is_shared=is_shared)
        own = dict[str, str | None](variables)
        environment: dict[str, str | None] = {**shown(choice, contained=image is not None)}
        added = [
            _credentials(job, own, contained=image is not None),
            _data(job, stack, data_directory or job.directory, contained=image is not None),
        ]
        data = added[1].facts
        # An author who names devices, or a file of credentials that we do not know, knows better.
        environment = {**environment, **own, **added[0].variables}
        spec = _with_mounts(spec, added)
        software = _software(job, runtime, spec, environment, added[0].variables.keys())
        environment.update(software.variables)
        environment.update(added[1].variables)
        environment.update(_facts(job, choice))
        yield Prepared(
            choice,
            job.invocations[choice.device],
            image,
            resolved,
            _with_mounts(spec, [software]),
            environment,
            data,
            software.facts,
        )


def image_on(device: str, job: Job) -> Image | None:
    """The image in which the job runs on that kind of device."""
    return job.gpu_image if device == "gpu" and job.gpu_image is not None else job.image


def time_limit(job: Job) -> float | None:
    """Seconds after which the job is stopped."""
    limits = [limit for limit in (job.timeout_s, job.resources.walltime_s) if limit is not None]
    return min(limits, default=None)


def _credentials(job: Job, own: Mapping[str, str | None], *, contained: bool) -> Addition:
    if not job.credentials:
        return Addition()
    from fasthep_flow.environments.credentials import present

    known = {**os.environ, **{name: value for name, value in own.items() if value is not None}}
    return present(job.credentials, contained=contained, lasting_s=time_limit(job), variables=known)


def _data(job: Job, stack: ExitStack, directory: str, *, contained: bool) -> Addition:
    if not job.extra_data:
        return Addition()
    from fasthep_flow.environments.data import placed

    return stack.enter_context(
        placed(
            job.extra_data,
            directory=directory,
            contained=contained,
            offline=job.offline,
            working_directory=job.working_directory,
        )
    )


def _software(
    job: Job,
    runtime: Runtime,
    spec: ContainerSpec,
    environment: Mapping[str, str | None],
    decided: Collection[str],
) -> Addition:
    if job.setup is None and job.python is None:
        return Addition()
    from fasthep_flow.environments.software import software

    return software(
        job.setup,
        job.python,
        runtime=runtime,
        spec=spec,
        environment=environment,
        working_directory=job.working_directory,
        offline=job.offline,
        secrets=job.secrets,
        decided=decided,
    )


def _facts(job: Job, choice: DeviceChoice) -> dict[str, str]:
    """By what a task knows itself."""
    facts = {
        "FASTHEP_RUN_ID": job.run_id,
        "FASTHEP_TASK_NAME": job.task,
        "FASTHEP_TASK_DIRECTORY": job.directory,
        "FASTHEP_DEVICE": choice.device,
    }
    if job.resources.cpus is not None:
        facts["FASTHEP_CPUS"] = f"{job.resources.cpus:g}"
    if job.resources.memory is not None:
        facts["FASTHEP_MEMORY_BYTES"] = str(job.resources.memory)
    return facts


def _spec(
    job: Job,
    image: ResolvedImage | None,
    choice: DeviceChoice,
    enforced: Mapping[str, str],
    *,
    is_shared: bool,
) -> ContainerSpec:
    resources = held_limits(job.resources, enforced)
    if image is None:
        return ContainerSpec(name=job.slug, resources=resources, devices=choice.devices)
    # Each of them by itself, though one lies in the other: what is between may be a link.
    folders = dict.fromkeys((job.working_directory, job.run_directory))
    if not job.directory.startswith(f"{job.run_directory}/"):
        folders[job.directory] = None
    labels = {"fasthep.run": job.run_id, **owner_labels()}
    if not is_shared:
        labels |= {"fasthep.task": job.task, "fasthep.attempt": str(job.attempt)}
    return ContainerSpec(
        name=container_name(job.run_id, job.slug, job.attempt, job.directory),
        image=image,
        labels=labels,
        # First what may hold the others: who may only read it may still write in these.
        mounts=(
            *_outside(job, tuple(folders)),
            *(Mount(source=folder, target=folder) for folder in folders),
        ),
        resources=resources,
        network=job.network,
        options=job.options,
        devices=choice.devices,
    )


def _outside(job: Job, seen: Sequence[str]) -> tuple[Mount, ...]:
    if not job.inputs and not job.outputs:
        return ()
    from fasthep_flow.environments.outside import folders_outside, mounts_outside

    return mounts_outside(folders_outside(job.inputs, job.outputs, seen))


def _with_mounts(spec: ContainerSpec, added: list[Addition]) -> ContainerSpec:
    # What is data's own comes in place of what holds an input.
    taken = {mount.target for one in added for mount in one.mounts}
    own = tuple(mount for mount in spec.mounts if mount.target not in taken)
    mounts = tuple(mount for one in added for mount in one.mounts)
    return msgspec.structs.replace(spec, mounts=(*own, *mounts)) if mounts else spec
