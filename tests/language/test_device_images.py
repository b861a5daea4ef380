"""An image for each kind of device: which one a task has, and what is merged how."""

from __future__ import annotations

import pytest
from tests.language.made import TASK, Bench

from fasthep_flow.model import Environment, Image

CPU = "docker.io/library/cpu:1"
GPU = "docker.io/library/gpu:1"
BOTH = "image: {cpu: 'cpu:1', gpu: 'gpu:1'}"


def workflow(own: str = "", process_on: str = "cpu", general: str = "") -> str:
    inner = ", ".join(part for part in (own, f"resources: {{process_on: {process_on}}}") if part)
    return f"global: {{{general}}}\n{TASK}    environment: {{{inner}}}\n"


def merged(bench: Bench, *arguments: str, **options: str) -> Environment:
    (task,) = bench.plan(workflow(*arguments, **options)).tasks
    environment: Environment = task.environment
    return environment


def names(environment: Environment) -> tuple[str | None, str | None]:
    return tuple(  # type: ignore[return-value]  # two of them
        None if image is None else image.name
        for image in (environment.image, environment.gpu_image)
    )


@pytest.mark.parametrize(
    ("process_on", "expected"),
    [("cpu", (CPU, None)), ("gpu", (GPU, None)), ("gpu_if_available", (CPU, GPU))],
)
def test_what_a_task_has(
    bench: Bench, process_on: str, expected: tuple[str | None, str | None]
) -> None:
    assert names(merged(bench, BOTH, process_on)) == expected


def test_one_image_for_both_takes_nothings_place(bench: Bench) -> None:
    for own in ("image: 'cpu:1'", "image: {cpu: 'cpu:1', gpu: 'cpu:1'}"):
        assert names(merged(bench, own, "gpu_if_available")) == (CPU, None)


def test_each_may_have_a_long_form(bench: Bench) -> None:
    environment = merged(
        bench,
        "image: {cpu: {name: 'cpu:1', pull: never}, gpu: {name: 'gpu:1', platform: linux/arm64}, "
        "runtime: podman, options: [--cap-add=X], pull: always}",
        "gpu_if_available",
    )
    assert environment.image == Image(name=CPU, pull="never")
    assert environment.gpu_image == Image(name=GPU, pull="always", platform="linux/arm64")
    assert (environment.runtime, environment.options) == ("podman", ("--cap-add=X",))


@pytest.mark.parametrize(
    ("general", "own", "expected"),
    [
        (BOTH, "", (CPU, GPU)),
        (BOTH, "image: 'x:1'", ("docker.io/library/x:1", None)),
        (BOTH, "image: {name: 'x:1'}", ("docker.io/library/x:1", None)),
        (BOTH, "image: null", (None, None)),
        (BOTH, "image: {name: null}", (None, None)),
        (BOTH, "image: {cpu: 'x:1'}", ("docker.io/library/x:1", GPU)),
        (BOTH, "image: {gpu: 'x:1'}", (CPU, "docker.io/library/x:1")),
        (BOTH, "image: {gpu: {pull: never}}", (CPU, GPU)),
        ("image: 'cpu:1'", "image: {gpu: 'gpu:1'}", (CPU, GPU)),
        ("image: 'cpu:1'", "image: {gpu: {pull: never}}", (CPU, CPU)),
    ],
)
def test_the_keys_are_merged_one_by_one(
    bench: Bench, general: str, own: str, expected: tuple[str | None, str | None]
) -> None:
    assert names(merged(bench, own, "gpu_if_available", general=general)) == expected


def test_what_stands_beside_holds_for_both(bench: Bench) -> None:
    environment = merged(bench, "image: {pull: never}", "gpu_if_available", general=BOTH)
    assert [image and image.pull for image in (environment.image, environment.gpu_image)] == [
        "never",
        "never",
    ]


def test_a_task_without_an_environment_has_the_global_ones(bench: Bench) -> None:
    text = f"global: {{{BOTH}, resources: {{process_on: gpu_if_available}}}}\n{TASK}"
    (task,) = bench.plan(text).tasks
    assert names(task.environment) == (CPU, GPU)


@pytest.mark.parametrize(
    ("own", "process_on", "expected"),
    [
        (
            "image: {cpu: 'cpu:1'}",
            "gpu",
            (
                "6:26 tasks[0].environment.image: there is no image for the gpu, on which the task "
                "runs | add 'gpu: ...', the image that it has there"
            ),
        ),
        (
            "image: {cpu: 'cpu:1'}",
            "gpu_if_available",
            "there is no image for the gpu, on which the task may run",
        ),
        ("image: {gpu: 'gpu:1'}", "cpu", "there is no image for the cpu, on which the task runs"),
        ("image: {gpu: 'gpu:1', cpu: null}", "cpu", "there is no image for the cpu"),
        (
            "image: {name: 'a:1', gpu: 'gpu:1'}",
            "cpu",
            (
                "6:27 tasks[0].environment.image.name: 'name' is the image for both kinds of "
                "device, and 'gpu' is one of them | write 'cpu' and 'gpu' alone, or 'name' alone"
            ),
        ),
        ("image: {cpu: 'cpu:1', gpu: 3}", "cpu", "image.gpu: must be text or a mapping, not a num"),
        ("image: {cpu: 'cpu:1', gpu: ['a']}", "cpu", "must be text or a mapping, not a list"),
        (
            "image: {cpu: {name: 'cpu:1', runtime: podman}}",
            "cpu",
            "there is no key 'runtime' here | put it beside 'cpu': runtime is the same for both",
        ),
        (
            "image: {cpu: {name: 'cpu:1', network: none}}",
            "cpu",
            "there is no key 'network' here | put it beside 'image': network is no part of that",
        ),
        ("image: {cpu: {naem: 'a:1'}}", "cpu", "there is no key 'naem' here | did you mean 'name'"),
        ("image: {cpu: {pull: daily}}", "cpu", "image.cpu.pull: 'daily' is not a time to fetch"),
        ("image: {cpu: 'cpu:1', gpu: '<image>'}", "cpu", "image.gpu: '<image>' is a placeholder"),
        ("image: {cpu: 'A:1', gpu: 'gpu:1'}", "gpu", "image.cpu: 'A:1' has capital letters"),
        ("cpu: 'cpu:1'", "cpu", "there is no key 'cpu' here"),
    ],
)
def test_what_is_refused(bench: Bench, own: str, process_on: str, expected: str) -> None:
    problem = bench.problem(workflow(own, process_on))
    place = f"{problem.location.line}:{problem.location.column} {problem.location.path}"
    assert expected in f"{place}: {problem.message} | {problem.hint}"


def test_what_the_global_settings_lack_is_told_there(bench: Bench) -> None:
    problem = bench.problem(workflow("", "gpu", general="image: {cpu: 'cpu:1'}"))
    assert problem.location.path == "global.image"


def test_nothing_is_lacking_where_nothing_runs_there(bench: Bench) -> None:
    assert names(merged(bench, "", "cpu", general="image: {cpu: 'cpu:1'}")) == (CPU, None)
    assert names(merged(bench, "image: {cpu: 'cpu:1'}")) == (CPU, None)


def test_each_is_looked_at(bench: Bench) -> None:
    plan = bench.plan(workflow("image: {cpu: {name: a.sif, pull: always}, gpu: debian}"))
    said = "\n".join(plan.warnings)
    assert "image.cpu.name: there is no such file on this machine" in said
    assert "image.cpu.pull: a file or folder is never pulled" in said
    assert "image.gpu: the image has no tag" in said


def test_the_network_can_be_kept_away_in_either(bench: Bench) -> None:
    assert merged(bench, f"{BOTH}, network: none").network == "none"
