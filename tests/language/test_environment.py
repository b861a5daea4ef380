"""A task's environment over the global one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fasthep_flow.model import Environment, Resources

if TYPE_CHECKING:
    Bench = Any

TASK = (
    "tasks:\n"
    "  - name: fit\n"
    "    type: fasthep_flow.operators.BashOperator\n"
    "    kwargs: {bash_command: ./fit.sh}\n"
)
DEBIAN = "docker.io/library/debian:12"


def merged(bench: Bench, general: str, own: str) -> Environment:
    """The environment of a task with both settings in flow style."""
    text = f"global: {{{general}}}\n{TASK}    environment: {{{own}}}\n"
    (task,) = bench.plan(text).tasks
    environment: Environment = task.environment
    return environment


def refusal(bench: Bench, general: str, own: str) -> str:
    return str(bench.problem(f"global: {{{general}}}\n{TASK}    environment: {{{own}}}\n"))


@pytest.mark.parametrize(
    ("general", "own", "expected"),
    [
        ("", "", (None, None)),
        ("image: 'debian:12'", "", (DEBIAN, None)),
        ("image: 'debian:12'", "image: 'a/b:1'", ("docker.io/a/b:1", None)),
        ("image: 'debian:12'", "image: null", (None, None)),
        ("image: 'debian:12'", "image: {name: null}", (None, None)),
        ("image: {name: 'debian:12', runtime: podman}", "", (DEBIAN, "podman")),
        ("image: {runtime: podman}", "", (None, None)),
        ("image: {runtime: podman}", "image: 'debian:12'", (DEBIAN, "podman")),
        ("image: 'debian:12'", "image: {runtime: docker}", (DEBIAN, "docker")),
        (
            "image: {name: 'debian:12', runtime: podman}",
            "image: {runtime: docker}",
            (DEBIAN, "docker"),
        ),
        ("image: {name: 'debian:12', runtime: podman}", "image: null", (None, None)),
        ("image: {name: 'debian:12', pull: , options: []}", "extra_data: []", (DEBIAN, None)),
    ],
)
def test_image_and_runtime(
    bench: Bench, general: str, own: str, expected: tuple[str | None, str | None]
) -> None:
    environment = merged(bench, general, own)
    image = environment.image
    assert (None if image is None else image.name, environment.runtime) == expected


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (
            "image: {runtime: podman}",
            "6:36: tasks[0].environment.image.runtime: a runtime needs an",
        ),
        ("image: {name: a, runtime: native}", "'native' takes no image"),
        (
            "image: {name: 'a:1', runtime: apptainer}",
            "the runtime 'apptainer' is not supported yet",
        ),
        ("image: {name: 'a:1', runtime: charliecloud}", "the runtime 'charliecloud' is not supp"),
        ("image: {name: 'a:1', runtime: podmn}", "there is no runtime 'podmn'"),
        ("image: {name: 'a:1', runtime: 3}", "runtime: must be text, not a number"),
        ("image: {name: 3}", "image.name: must be text, not a number"),
        ("image: {name: A:1, runtime: podman}", "'A:1' has capital letters"),
        ("image: {nme: 'a:1'}", "there is no key 'nme' here"),
        ("image: {name: 'a:1', pull: always}", "'pull' is not supported yet"),
        ("image: {name: 'a:1', options: [-v]}", "'options' is not supported yet"),
        ("network: none", "'network' is not supported yet"),
        ("extra_data: [a.root]", "'extra_data' is not supported yet"),
        ("extra_data: TBC", "'TBC' is a placeholder"),
        ("image: [a]", "image: must be text or a mapping, not a list"),
        ("image: 3", "image: must be text or a mapping, not a number"),
    ],
)
def test_images_and_runtimes_that_cannot_be(bench: Bench, own: str, expected: str) -> None:
    assert expected in refusal(bench, "", own)


def test_an_image_without_a_tag_is_told(bench: Bench) -> None:
    plan = bench.plan(f"{TASK}    environment:\n      image: rootproject/root\n")
    (warning,) = plan.warnings
    assert warning == (
        "workflow.yaml:6:14: tasks[0].environment.image: the image has no tag: 'latest' is meant\n"
        "    6 |       image: rootproject/root\n"
        "      |              ^ write docker.io/rootproject/root:latest, or a version"
    )


def test_resources_are_merged_one_by_one(bench: Bench) -> None:
    general = "resources: {memory: 4Gi, cpus: 1, gpus: 0, process_on: cpu, walltime: 1h}"
    assert merged(bench, general, "").resources == Resources(
        memory=4 * 2**30, cpus=1.0, gpus=0, walltime_s=3600.0
    )
    assert merged(bench, general, "resources: {memory: 8Gi, cpus: 500m}").resources == Resources(
        memory=8 * 2**30, cpus=0.5, gpus=0, walltime_s=3600.0
    )
    assert merged(bench, general, "resources: ").resources.memory == 4 * 2**30
    assert merged(bench, general, "resources: {memory: , cpus: }").resources.cpus == 1.0


@pytest.mark.parametrize(
    ("general", "own", "gpus", "process_on"),
    [
        ("", "process_on: gpu", 1, "gpu"),
        ("", "process_on: gpu, gpus: 2", 2, "gpu"),
        ("", "process_on: gpu_if_available", None, "gpu_if_available"),
        ("", "process_on: gpu_if_available, gpus: 2", 2, "gpu_if_available"),
        ("", "gpus: 0", 0, "cpu"),
        ("gpus: 0, process_on: cpu", "process_on: gpu_if_available", None, "gpu_if_available"),
        ("gpus: 0, process_on: cpu", "process_on: gpu", 1, "gpu"),
        ("gpus: 2, process_on: gpu", "process_on: cpu", None, "cpu"),
        ("gpus: 2, process_on: gpu", "process_on: gpu_if_available", 2, "gpu_if_available"),
        ("gpus: 2", "process_on: gpu", 2, "gpu"),
        ("process_on: gpu", "gpus: 3", 3, "gpu"),
        ("process_on: gpu", "memory: 1Gi", 1, "gpu"),
    ],
)
def test_devices(bench: Bench, general: str, own: str, gpus: int | None, process_on: str) -> None:
    resources = merged(bench, f"resources: {{{general}}}", f"resources: {{{own}}}").resources
    assert (resources.gpus, resources.process_on) == (gpus, process_on)


@pytest.mark.parametrize(
    ("general", "own", "expected"),
    [
        ("", "gpus: 1", "6:37: tasks[0].environment.resources.gpus: 1 GPU for a task that runs on"),
        ("", "gpus: 2, process_on: cpu", "6:37: tasks[0].environment.resources.gpus: 2 GPUs for a"),
        ("", "process_on: gpu, gpus: 0", "6:54: tasks[0].environment.resources.gpus: no GPU for a"),
        ("process_on: gpu", "gpus: 0", "6:37: tasks[0].environment.resources.gpus: no GPU for a"),
        ("gpus: 1, process_on: cpu", "", "1:28: global.resources.gpus: 1 GPU for a task that runs"),
        ("gpus: 1", "", "1:28: global.resources.gpus: 1 GPU for a task that runs on the CPU"),
        ("gpus: 1", "memory: 1Gi", "6:30: tasks[0].environment.resources: 1 GPU for a task"),
    ],
)
def test_devices_that_contradict_each_other(
    bench: Bench, general: str, own: str, expected: str
) -> None:
    setting = f"resources: {{{own}}}" if own else ""
    said = refusal(bench, f"resources: {{{general}}}", setting)
    assert said.startswith(f"workflow.yaml:{expected}")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", None),
        ("    timeout: 2h\n", 7200.0),
        ("    environment: {resources: {walltime: 1h}}\n", 3600.0),
        ("    timeout: 2h\n    environment: {resources: {walltime: 1h}}\n", 3600.0),
        ("    timeout: 90s\n    environment: {resources: {walltime: 1h}}\n", 90.0),
    ],
)
def test_the_shorter_limit_counts(bench: Bench, text: str, seconds: float | None) -> None:
    (task,) = bench.plan(TASK + text).tasks
    assert task.timeout_s == seconds


def test_tasks_that_say_nothing_share_one_environment(bench: Bench) -> None:
    more = TASK.replace("tasks:\n", "").replace("fit", "plot")
    first, second = bench.plan(f"global: {{variables: {{A: 1}}}}\n{TASK}{more}").tasks
    assert first.environment is second.environment
