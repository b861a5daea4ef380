"""A task's environment over the global one."""

from __future__ import annotations

from typing import Any

import pytest
from tests.language.made import TASK, Bench

from fasthep_flow.model import Environment, Resources

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
        ("image: {name: 'debian:12', runtime: apptainer}", "", (DEBIAN, "apptainer")),
        ("image: {name: 'debian:12', runtime: charliecloud}", "", (DEBIAN, "charliecloud")),
        ("image: {name: 'debian:12', runtime: singularity}", "", (DEBIAN, "apptainer")),
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
        ("image: {name: 'a:1', runtime: podmn}", "there is no runtime 'podmn'"),
        ("image: {name: 'a:1', runtime: 3}", "runtime: must be text, not a number"),
        ("image: {name: 3}", "image.name: must be text, not a number"),
        ("image: {name: A:1, runtime: podman}", "'A:1' has capital letters"),
        ("image: {nme: 'a:1'}", "there is no key 'nme' here"),
        ("image: {name: 'a:1', network: none}", "put it beside 'image': network is no part of"),
        ("image: {pull: always}", "6:33: tasks[0].environment.image.pull: 'pull' needs an image"),
        ("image: {platform: linux/arm64}", "'platform' needs an image"),
        ("image: {options: [--cap-add=X]}", "'options' needs an image"),
        ("image: {name: 'a:1', pull: alway}", "'alway' is not a time to fetch an image"),
        ("image: {name: 'a:1', pull: alway}", "did you mean 'always'?"),
        ("image: {name: 'a:1', pull: true}", "pull: must be text, not true or false"),
        ("image: {name: 'a:1', platform: arm64}", "did you mean 'linux/arm64'?"),
        ("image: {name: 'a:1', platform: x86_64}", "did you mean 'linux/amd64'?"),
        ("image: {name: 'a:1', platform: linux/aarch64}", "did you mean 'linux/arm64'?"),
        ("image: {name: 'a:1', platform: linux/amd46}", "did you mean 'amd64'?"),
        ("image: {name: 'a:1', platform: windows/amd64}", "is not a platform of containers"),
        ("image: {name: 'a:1', platform: linux/arm/7}", "'7' is no variant"),
        ("image: {name: 'a:1', platform: linux/arm64/}", "'' is no variant"),
        ("image: {name: 'a:1', platform: 386}", "386 is not a platform"),
        ("pull: always", "put it under 'image': pull is part of that"),
        ("options: [-v]", "put it under 'image': options is part of that"),
        ("memory: 8Gi", "put it under 'resources': memory is part of that"),
        ("network: nne", "'nne' is not a network"),
        ("network: nne", "did you mean 'none'?"),
        ("network: [none]", "network: must be text, not a list"),
        ("reuse: 1", "reuse: must be true or false, not a number"),
        ("resources: {enforce: besteffort}", "did you mean 'best_effort'?"),
        ("secrets: {A: b}", "secrets: must be a list, not a mapping"),
        ("secrets: [1]", "secrets[0]: must be text, not a number"),
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


@pytest.mark.parametrize(
    ("general", "own", "pull", "platform"),
    [
        ("", "image: 'a:1'", "missing", None),
        ("", "image: {name: 'a:1', pull: always}", "always", None),
        ("", "image: {name: 'a:1', pull: , platform: }", "missing", None),
        ("", "image: {name: 'a:1', platform: linux/arm64}", "missing", "linux/arm64"),
        ("", "image: {name: 'a:1', platform: linux/arm/v7}", "missing", "linux/arm/v7"),
        ("image: {pull: never}", "image: 'a:1'", "never", None),
        ("image: {pull: never, platform: linux/amd64}", "image: 'a:1'", "never", "linux/amd64"),
        ("image: {name: 'b:1', pull: never}", "image: {pull: always}", "always", None),
        ("image: {name: 'b:1', pull: never}", "image: {platform: linux/386}", "never", "linux/386"),
    ],
)
def test_how_to_come_by_an_image(
    bench: Bench, general: str, own: str, pull: str, platform: str | None
) -> None:
    image = merged(bench, general, own).image
    assert image is not None
    assert (image.pull, image.platform) == (pull, platform)


@pytest.mark.parametrize(
    ("general", "own", "options"),
    [
        ("", "image: {name: 'a:1', runtime: podman, options: [--cap-add=X]}", ("--cap-add=X",)),
        ("image: {runtime: podman, options: [--cap-add=X]}", "image: 'a:1'", ("--cap-add=X",)),
        ("image: {name: 'a:1', runtime: podman, options: [-v=X]}", "reuse: false", ("-v=X",)),
        ("image: {runtime: podman, options: [-v=X]}", "image: {name: a:1, options: []}", ()),
        (
            "image: {runtime: podman, options: [-v=X]}",
            "image: {name: 'a:1', runtime: podman}",
            ("-v=X",),
        ),
        ("image: {runtime: podman, options: [-v=X]}", "image: {name: a:1, runtime: docker}", ()),
        (
            "image: {runtime: apptainer, options: [-B=X]}",
            "image: {name: 'a:1', runtime: singularity}",
            ("-B=X",),
        ),
        (
            "image: {runtime: podman}",
            "image: {name: 'a:1', options: [--cap-add, X]}",
            ("--cap-add", "X"),
        ),
        ("image: {runtime: podman, options: [-v=X]}", "image: null", ()),
        ("image: {runtime: podman, options: [-v=X]}", "", ()),
    ],
)
def test_options_are_for_the_runtime_that_they_stand_beside(
    bench: Bench, general: str, own: str, options: tuple[str, ...]
) -> None:
    assert merged(bench, general, own).options == options


@pytest.mark.parametrize(
    ("general", "own", "expected"),
    [
        (
            "",
            "image: {name: 'a:1', options: [--cap-add=X]}",
            "6:40: tasks[0].environment.image.options: options are words of one runtime's",
        ),
        ("image: {options: [--cap-add=X]}", "", "1:18: global.image.options: options are words"),
        (
            "",
            "image: {name: 'a:1', runtime: podman, options: [--cap-add=X, --name, a]}",
            "6:80: tasks[0].environment.image.options[1]: '--name' cannot be among the options of",
        ),
    ],
)
def test_options_that_cannot_be(bench: Bench, general: str, own: str, expected: str) -> None:
    assert refusal(bench, general, own).startswith(f"workflow.yaml:{expected}")


def test_a_file_is_never_pulled(bench: Bench) -> None:
    bench.write("x.sif", "")
    text = f"{TASK}    environment:\n      image:\n        name: x.sif\n        pull: "
    (warning,) = bench.plan(f"{text}always\n").warnings
    assert "8:15: tasks[0].environment.image.pull: a file or folder is never pulled" in warning
    assert bench.plan(f"{text}never\n").warnings == ()


def test_network_reuse_and_enforce(bench: Bench) -> None:
    environment = merged(bench, "image: 'a:1'", "")
    assert (environment.network, environment.reuse) == ("host", True)
    assert environment.resources.enforce == "strict"
    general = "image: 'a:1', network: none, reuse: false, resources: {enforce: best_effort}"
    environment = merged(bench, general, "")
    assert (environment.network, environment.reuse) == ("none", False)
    assert environment.resources.enforce == "best_effort"
    own = "network: host, reuse: true, resources: {enforce: strict, memory: 1Gi}"
    environment = merged(bench, general, own)
    assert (environment.network, environment.reuse) == ("host", True)
    assert environment.resources.enforce == "strict"
    environment = merged(bench, general, "network: , reuse: , resources: {enforce: }")
    assert (environment.network, environment.reuse) == ("none", False)
    # A task of this machine has no container to reuse: that asks for nothing.
    assert merged(bench, "", "reuse: true").image is None


@pytest.mark.parametrize(
    ("general", "own", "expected"),
    [
        ("", "network: none", "6:28: tasks[0].environment.network: 'network: none' needs an"),
        ("network: none", "", "1:19: global.network: 'network: none' needs an image"),
        ("network: none", "reuse: true", "1:19: global.network: 'network: none' needs an image"),
        (
            "network: none, image: 'a:1'",
            "image: null",
            "6:26: tasks[0].environment.image: 'network: none' needs an image",
        ),
    ],
)
def test_no_network_needs_an_image(bench: Bench, general: str, own: str, expected: str) -> None:
    assert refusal(bench, general, own).startswith(f"workflow.yaml:{expected}")
    text = f"global: {{{general}}}\n{TASK}"
    if general.startswith("network: none") and not own:
        assert str(bench.problem(text)).startswith("workflow.yaml:1:19: global.network")


def test_one_bad_image_is_one_problem(bench: Bench) -> None:
    said = refusal(bench, "", "image: {name: 'A:1', runtime: podman}, network: none")
    assert "has capital letters" in said


def test_secrets_are_united(bench: Bench) -> None:
    general = "variables: {A: 1, B: 2}, secrets: [A, B]"
    own = "variables: {C: 3}, secrets: [C, A]"
    assert merged(bench, general, own).secrets == ("A", "B", "C")
    assert merged(bench, "", "variables: {C: 3}, secrets: C").secrets == ("C",)
    assert merged(bench, general, "secrets: ").secrets == ("A", "B")


def warnings(bench: Bench, general: str, own: str, **options: Any) -> tuple[str, ...]:
    text = f"global: {{{general}}}\n{TASK}    environment: {{{own}}}\n"
    told: tuple[str, ...] = bench.plan(text, **options).warnings
    return told


def test_a_secret_that_is_no_variable_is_told(bench: Bench) -> None:
    (told,) = warnings(bench, "variables: {MY_TOKEN: 1}", "secrets: [MY_TOKEN, MY_TOKN]")
    assert told.startswith("workflow.yaml:6:39: tasks[0].environment.secrets[1]: this task has no")
    assert "did you mean 'MY_TOKEN'?" in told
    (told,) = warnings(bench, "secrets: A", "variables: {B: 1}")
    assert told.startswith("workflow.yaml:1:19: global.secrets: no task has a variable of this")
    assert warnings(bench, "secrets: [A]", "variables: {A: 1}") == ()
    # The host's variables lie under those of a task without an image.
    assert warnings(bench, "", "secrets: [A]", host={"A": "1"}) == ()
    assert warnings(bench, "secrets: [A]", "", host={"A": "1"}) == ()
    assert warnings(bench, "", "image: 'a:1', secrets: [A]", host={"A": "1"}) != ()


def test_a_secret_that_is_no_name_is_not_shown(bench: Bench) -> None:
    for own in ("secrets: [A, hunter2!]", "secrets: hunter2=x", "secrets: [hunter2]"):
        try:
            told = "".join(warnings(bench, "variables: {A: 1}", own))
        except AssertionError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it says, not the value
            told = str(error)
        assert told
        assert "hunter2" not in told


@pytest.mark.parametrize("word", ["TOKEN=hunter2", "https://me:hunter2@host"])
def test_no_message_repeats_a_secret_among_options(bench: Bench, word: str) -> None:
    options = f"[--label, '{word}', debian]"
    image = f"{{name: 'a:1', runtime: podman, options: {options}}}"
    error = bench.refuse(
        f"tasks:\n  - name: a\n    type: fasthep_flow.operators.BashOperator\n"
        f"    kwargs: {{bash_command: ls}}\n    environment: {{image: {image}}}\n"
    )
    first, second = error.problems
    assert first.message == "this looks like a secret, and no option can keep one"
    assert second.message.startswith("'debian' is no option")
    assert "hunter2" not in str(error)


DEVICES = "that is what the task sees, whatever devices 'process_on: "


@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"])
def test_devices_that_the_author_names_are_told(bench: Bench, name: str) -> None:
    """A task would see others than it is given, or see some on the processor."""
    for own in ("", ", resources: {process_on: gpu}"):
        (told,) = warnings(bench, "", f"variables: {{{name}: '0'}}{own}")
        assert told.startswith("workflow.yaml:6:")
        assert f"{name} is set, and {DEVICES}" in told
        assert "remove it: 'process_on' and 'gpus' say" in told
    # Devices of its own, and hidden from it.
    (told,) = warnings(bench, "", f"variables: {{{name}: ''}}, resources: {{process_on: gpu}}")
    assert f"{DEVICES}gpu' gives it" in told
    for hidden in ("''", "-1", "'-1'"):
        assert warnings(bench, "", f"variables: {{{name}: {hidden}}}") == ()


def test_devices_that_the_global_settings_name_are_told_once(bench: Bench) -> None:
    task = (
        "  - {name: NAME, type: fasthep_flow.operators.BashOperator, kwargs: {bash_command: ls}}\n"
    )
    text = "global: {variables: {CUDA_VISIBLE_DEVICES: 1}}\ntasks:\n"
    plan = bench.plan(text + task.replace("NAME", "a") + task.replace("NAME", "b"))
    (told,) = plan.warnings
    assert told.startswith("workflow.yaml:1:")
