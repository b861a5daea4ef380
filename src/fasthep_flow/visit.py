"""A visit to a task's environment: whose job it is, and in which folder.

A task that failed is visited where it failed: its last attempt's folder is the one that the
visitor finds as ``FASTHEP_TASK_DIRECTORY``, with all that was left there. Any other task has a
new folder for the visit, gone after it. Nothing that was recorded is written to.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from fasthep_flow.environments import ResolvedImage
from fasthep_flow.environments.host.owner import is_gone, owner_labels
from fasthep_flow.errors import ImageUnavailable, RecordError
from fasthep_flow.jobs import job_of
from fasthep_flow.model import Image, Job, Plan, TaskSpec
from fasthep_flow.records.attempts import Attempt, last_attempt, run_folder

__all__ = ["Past", "Visit", "as_recorded", "past_of", "require_bytes", "visited"]

_NAME: Final = ".visit-"
_OWNER: Final = "owner.json"
_WITH_TAGS: Final = frozenset({"registry", "oras"})


class Past(Struct, frozen=True, kw_only=True):
    """What is known of the task from a run.

    Args:
        attempt: Its last one; ``None`` where it has not been begun.
        is_wanted: Whether its environment is to be that attempt's, not the workflow's.
    """

    attempt: Attempt | None = None
    is_wanted: bool = False


class Visit(Struct, frozen=True, kw_only=True):
    """A visit to a task's environment.

    Args:
        job: Whose environment it is.
        attempt: The one that did not succeed, and in whose folder the visit is.
        data_directory: Absolute path of the folder for extra data, where not the job's.
        remarks: What the visitor should know, in sentences.
    """

    job: Job
    attempt: Attempt | None = None
    data_directory: str | None = None
    remarks: tuple[str, ...] = ()


def past_of(plan: Plan, task: TaskSpec, *, run: str | None, is_fresh: bool) -> Past:
    """What is known of the task from a run.

    Args:
        plan: The workflow.
        task: Of the plan.
        run: The run whose environment is wanted: its id, ``latest``, or a path; ``None`` for
            the workflow's, and what the latest run has left.
        is_fresh: Whether what a run has left is of no interest.

    Raises:
        RecordError: There is no such run, or the task was not begun in it.
    """
    output = Path(plan.output_directory)
    if run is None:
        if is_fresh or not (output / "latest" / "run.json").is_file():
            return Past()
        return Past(attempt=last_attempt(run_folder(output, "latest"), task.name))
    folder = run_folder(output, run)
    attempt = last_attempt(folder, task.name)
    if attempt is None:
        raise RecordError(
            f"task {task.name!r} was not begun in the run {folder.name}",
            hint="without --run its environment is the workflow's",
        )
    return Past(attempt=attempt, is_wanted=True)


def as_recorded(task: TaskSpec, past: Past) -> tuple[TaskSpec, tuple[str, ...]]:
    """The task as it was in that run, and what cannot be as it was.

    Values of variables are recorded nowhere: they are the workflow's.

    Args:
        task: Of the plan.
        past: With an attempt whose environment is wanted.
    """
    if past.attempt is None:
        raise ValueError("there is no attempt")
    job, result = past.attempt.job, past.attempt.result
    digest = None if result is None else result.image_digest
    ran_on = "cpu" if result is None else result.device
    known = task.environment.variables
    environment = msgspec.structs.replace(
        task.environment,
        image=_exact(job.image, None if ran_on == "gpu" and job.gpu_image else digest),
        gpu_image=_exact(job.gpu_image, digest if ran_on == "gpu" else None),
        runtime=None if job.image is None else job.runtime,
        options=job.options,
        network=job.network,
        variables={name: known[name] for name in job.variables if name in known},
        setup=job.setup,
        python=job.python,
        credentials=job.credentials,
        extra_data=job.extra_data,
        resources=job.resources,
    )
    lost = [name for name in job.variables if name not in known]
    remarks = []
    if lost:
        remarks.append(
            f"the workflow has no values any more for {', '.join(lost)}, which the task had then"
        )
    then = msgspec.structs.replace(
        task, invocations=job.invocations, environment=environment, timeout_s=job.timeout_s
    )
    return then, tuple(remarks)


def _exact(image: Image | None, digest: str | None) -> Image | None:
    """The image by its digest, where it is in a registry."""
    if image is None or digest is None or image.form not in _WITH_TAGS or "@" in image.name:
        return image
    return msgspec.structs.replace(image, name=f"{image.name}@{digest}", pull="missing")


@contextmanager
def visited(
    plan: Plan, task: TaskSpec, runtime: str, past: Past, *, is_fresh: bool
) -> Iterator[Visit]:
    """A visit, whose folder is there for as long as the context lasts.

    Args:
        plan: The workflow.
        task: As it is to be; of the plan, or as it was.
        runtime: That was chosen for it.
        past: What is known of it from a run.
        is_fresh: Whether the folder is to be a new one in any case.

    Raises:
        RecordError: The output folder cannot be written.
    """
    attempt = past.attempt
    if attempt is not None and attempt.did_not_succeed and not is_fresh:
        with ExitStack() as stack:
            data = None
            if task.environment.extra_data:
                # What the attempt has left of its own may lie where its data was.
                data = str(stack.enter_context(_new_folder(attempt.run)))
            job = job_of(
                task,
                plan,
                run_id=attempt.job.run_id,
                runtime=runtime,
                attempt=attempt.job.attempt,
                directory=str(attempt.directory),
                run_directory=str(attempt.run),
            )
            yield Visit(
                job=job,
                attempt=attempt,
                data_directory=data,
                remarks=() if past.is_wanted else _differences(task, attempt),
            )
        return
    remarks: tuple[str, ...] = ()
    if attempt is not None and attempt.is_running:
        remarks = (f"the task runs at the moment, in {attempt.directory}",)
    with _new_folder(Path(plan.output_directory)) as folder:
        directory = folder / task.slug
        directory.mkdir()
        job = job_of(
            task,
            plan,
            run_id=folder.name.removeprefix("."),
            runtime=runtime,
            attempt=1,
            directory=str(directory),
            run_directory=str(folder),
        )
        yield Visit(job=job, remarks=remarks)


def require_bytes(visit: Visit, past: Past, image: ResolvedImage | None) -> Visit:
    """The visit, with a remark where its image is not the one that the attempt had.

    Args:
        visit: About to begin.
        past: What is known of the task from a run.
        image: What it will be in.

    Raises:
        ImageUnavailable: That very image is wanted.
    """
    attempt = past.attempt
    if attempt is None or attempt.result is None or image is None:
        return visit
    then, now = attempt.result.image_digest, image.digest
    if then is None or then == now or attempt.result.image is None:
        return visit
    if past.is_wanted:
        raise ImageUnavailable(
            f"the image {image.name} is not the one of the run {attempt.run.name}: it was"
            f" {then}, and is {now}",
            hint="without --run its environment is the workflow's, in the image as it is now",
        )
    if visit.attempt is None or _bare(attempt.result.image) != _bare(image.name):
        return visit
    remark = (
        f"the image was {then} when the task failed, and is {now} now: this is the new one;"
        f" '--run {attempt.run.name}' has the old one"
    )
    return msgspec.structs.replace(visit, remarks=(*visit.remarks, remark))


def _differences(task: TaskSpec, attempt: Attempt) -> tuple[str, ...]:
    """What of the task is another thing now than it was in that attempt."""
    job, environment = attempt.job, task.environment
    parts = []
    if job.invocations != task.invocations:
        parts.append("its command")
    if _named(job.image, job.gpu_image) != _named(environment.image, environment.gpu_image):
        parts.append("its image")
    if set(job.variables) != set(environment.variables):
        parts.append("which variables it has")
    if (job.setup, job.python) != (environment.setup, environment.python):
        parts.append("its software")
    if not parts:
        return ()
    named = ", ".join(parts[:-1]) + (" and " if parts[:-1] else "") + parts[-1]
    remark = f"the workflow has changed since ({named}): this is what it says now;"
    return (f"{remark} '--run {attempt.run.name}' has it as it was",)


def _named(*images: Image | None) -> list[tuple[str, str | None] | None]:
    """What authors say of images: which bytes these were is another matter."""
    return [None if image is None else (_bare(image.name), image.platform) for image in images]


def _bare(name: str) -> str:
    """The image's name without a digest."""
    return name.partition("@")[0]


@contextmanager
def _new_folder(above: Path) -> Iterator[Path]:
    """A folder of the visit's own, removed after it."""
    was_there = above.is_dir()
    try:
        above.mkdir(parents=True, exist_ok=True)
        _remove_left(above)
        folder = above / f"{_NAME}{secrets.token_hex(4)}"
        folder.mkdir()
        (folder / _OWNER).write_text(json.dumps(owner_labels()), encoding="utf-8")
    except OSError as error:
        raise RecordError(
            f"cannot make a folder in {above}: {error.strerror}",
            hint="choose another folder with --output",
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not was_there:
            with suppress(OSError):
                above.rmdir()


def _remove_left(above: Path) -> None:
    """Remove the folders of visits that were killed."""
    for folder in above.glob(f"{_NAME}*"):
        with suppress(OSError, ValueError, AttributeError):
            labels = json.loads((folder / _OWNER).read_text(encoding="utf-8"))
            if is_gone({key: str(value) for key, value in labels.items()}):
                shutil.rmtree(folder, ignore_errors=True)
