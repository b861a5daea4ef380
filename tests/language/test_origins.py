"""Where each part of a task's environment came from, and what it replaced."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.language.made import Bench

from fasthep_flow.explanation import environment_lines
from fasthep_flow.language import make_plan, read_text, select_tasks
from fasthep_flow.language.entries import Entry, Explained
from fasthep_flow.language.origins import explain
from fasthep_flow.model import Environment
from fasthep_flow.orchestrators.catalogue import Catalogue

RUNNERS = Catalogue(
    {"local": ("concurrent", "sequential"), "prefect": ("DaskTaskRunner",)}, {}, plug_ins=False
)
WORKFLOW = """\
global:
  image:
    name: debian:12
    runtime: podman
    options: [--cap-add=X]
  variables: [common.env, {B: global}]
  secrets: [CALIB]
  resources: {memory: 4Gi, gpus: 0, walltime: 2h}
  flow: local::sequential
tasks:
  - name: fit
    type: fasthep_flow.operators.BashOperator
    kwargs: {bash_command: ./fit.sh}
    timeout: 3h
    retries: 2
    environment:
      image:
        name: alpine:3
        runtime: singularity
        pull: always
        platform: linux/arm64
      network: none
      reuse: false
      variables:
        - own.env
        - B: task
          C: 1.10
      secrets: [CODE]
      resources: {memory: 8Gi, process_on: gpu, enforce: best_effort}
  - name: plot
    type: fasthep_flow.operators.BashOperator
    kwargs: {bash_command: ./plot.sh}
    environment:
      image: null
      variables: {HOME: , PATH: /bin}
  - name: rest
    type: fasthep_flow.operators.BashOperator
    kwargs: {bash_command: ./rest.sh}
"""


def explained(bench: Bench, text: str, task: str, **options: Any) -> tuple[Explained, Environment]:
    host = {"HOME": "/home/ada", "PATH": "/usr/bin", "SHELL": "/bin/sh", "MY_TOKEN": "hunter2"}
    document = read_text(text, file="workflow.yaml", directory=bench.folder)
    flow = options.pop("flow", None)
    plan = make_plan(document, runners=RUNNERS, host=host, flow=flow)
    told = explain(
        document,
        select_tasks(plan, [task]),
        task,
        runners=RUNNERS,
        host=host,
        flow_option=None if flow is None else "--flow",
        **options,
    )
    (spec,) = [one for one in plan.tasks if one.name == task]
    return told, spec.environment


def files(bench: Bench) -> None:
    bench.write("common.env", "A=common\nB=common\n")
    bench.write("own.env", "A=own\n\nCODE=hunter2\nGITHUB_TOKEN=hunter2\n")


def row(entry: Entry) -> tuple[Any, ...]:
    return (
        entry.value,
        entry.origin,
        *((former.value, former.origin) for former in entry.replaced),
    )


def rows(entries: tuple[Entry, ...]) -> dict[str, tuple[Any, ...]]:
    return {entry.name: row(entry) for entry in entries}


def test_settings_tell_where_they_came_from_and_what_they_replaced(bench: Bench) -> None:
    files(bench)
    told, _ = explained(bench, WORKFLOW, "fit")
    assert rows(told.settings) == {
        "image": (
            "docker.io/library/alpine:3",
            "workflow.yaml:18",
            ("docker.io/library/debian:12", "workflow.yaml:3"),
        ),
        "form": ("registry", "workflow.yaml:18"),
        "pull": ("always", "workflow.yaml:20"),
        "platform": ("linux/arm64", "workflow.yaml:21"),
        "runtime": ("apptainer", "workflow.yaml:19", ("podman", "workflow.yaml:4")),
        # They were for podman.
        "options": ([], "workflow.yaml:19", (["--cap-add=X"], "workflow.yaml:5")),
        "network": ("none", "workflow.yaml:22"),
        "reuse": (False, "workflow.yaml:23"),
        "setup": (None, "default"),
        "python": (None, "default"),
        "credentials": ([], "default"),
        "extra data": ([], "default"),
        "cpus": (None, "default"),
        "memory": (8 * 2**30, "workflow.yaml:29", (4 * 2**30, "workflow.yaml:8")),
        # A device is meant by 'process_on'.
        "gpus": (1, "workflow.yaml:29", (0, "workflow.yaml:8")),
        "process_on": ("gpu", "workflow.yaml:29"),
        "walltime": (7200.0, "workflow.yaml:8"),
        "enforce": ("best_effort", "workflow.yaml:29"),
        "secrets": (["CALIB", "CODE"], "workflow.yaml:7, workflow.yaml:28"),
        "flow": ("local::sequential", "workflow.yaml:9"),
        "timeout": (7200.0, "workflow.yaml:8 (walltime)", (10800.0, "workflow.yaml:14")),
        "retries": (2, "workflow.yaml:15"),
        "working directory": (str(bench.folder), "workflow.yaml"),
    }


def settings_rows(bench: Bench, text: str) -> dict[str, Any]:
    told, _ = explained(bench, text, "fit")
    return rows(told.settings)


SIZED = """\
global:
  resources: {memory: [1Gi, 2Gi, 4Gi], cpus: 2}
tasks:
  - name: fit
    type: fasthep_flow.operators.BashOperator
    kwargs: {bash_command: ./fit.sh}
    environment: {resources: {walltime: [1h, 3h]}}
    inputs: a.txt
    outputs: [b.txt, /eos/c/]
    allow_failure: true
    timeout: 2h
"""


def test_sizes_tell_of_every_attempt_and_of_the_retries_that_they_mean(bench: Bench) -> None:
    told = settings_rows(bench, SIZED)
    assert told["memory"] == ([2**30, 2 * 2**30, 4 * 2**30], "workflow.yaml:2")
    assert told["cpus"] == (2.0, "workflow.yaml:2")
    assert told["walltime"] == ([3600.0, 10800.0], "workflow.yaml:7")
    assert told["timeout"][:2] == ([3600.0, 7200.0, 7200.0], "workflow.yaml:7 (walltime)")
    assert told["retries"] == (2, "workflow.yaml:2, workflow.yaml:7")
    assert told["retries on"] == (
        ["timed_out", "out_of_memory"],
        "workflow.yaml:2, workflow.yaml:7",
    )


def test_files_tell_where_they_are_named(bench: Bench) -> None:
    told = settings_rows(bench, SIZED)
    assert told["inputs"] == ([f"{bench.folder}/a.txt"], "workflow.yaml:8")
    assert told["outputs"] == ([f"{bench.folder}/b.txt", "/eos/c/"], "workflow.yaml:9")
    assert told["allow_failure"] == (True, "workflow.yaml:10")
    assert "cache" not in told


def test_each_part_of_retries_tells_where_it_is_written(bench: Bench) -> None:
    long = "    retries:\n      delay: 30s\n      backoff: 2\n      on: lost\n"
    told = settings_rows(bench, SIZED + long)
    assert told["retries"] == (2, "workflow.yaml:2, workflow.yaml:7")
    assert told["retries delay"] == (30.0, "workflow.yaml:13")
    assert told["retries backoff"] == (2.0, "workflow.yaml:14")
    assert told["retries on"] == (["lost"], "workflow.yaml:15")


def test_sizes_are_lines_for_people(bench: Bench) -> None:
    told, _ = explained(bench, SIZED + "    retries: {times: 2, delay: 90s}\n", "fit")
    lines = [" ".join(line.split()) for line in environment_lines(told, None)]
    assert "memory 1 GiB, then 2 GiB, then 4 GiB workflow.yaml:2" in lines
    assert "cpus 2 workflow.yaml:2" in lines
    assert "walltime 1 h 0 min, then 3 h 0 min workflow.yaml:7" in lines
    assert "retries delay 1 min 30 s workflow.yaml:12" in lines


def test_variables_tell_where_they_came_from_and_what_they_replaced(bench: Bench) -> None:
    files(bench)
    told, _ = explained(bench, WORKFLOW, "fit")
    assert told.base == "image"
    assert rows(told.variables) == {
        "A": ("own", "own.env:1", ("common", "common.env:1")),
        "B": (
            "task",
            "workflow.yaml:26",
            ("global", "workflow.yaml:6"),
            ("common", "common.env:2"),
        ),
        "C": ("1.10", "workflow.yaml:27"),
        "CODE": (None, "own.env:3"),
        # In a container, too.
        "CUDA_VISIBLE_DEVICES": (None, "fasthep-flow"),
        "GITHUB_TOKEN": (None, "own.env:4"),
        "HOME": (None, "fasthep-flow"),
        "FASTHEP_RUN_ID": (None, "fasthep-flow"),
        "FASTHEP_TASK_NAME": ("fit", "fasthep-flow"),
        "FASTHEP_TASK_DIRECTORY": (None, "fasthep-flow"),
        "FASTHEP_DEVICE": ("gpu", "fasthep-flow"),
        "FASTHEP_MEMORY_BYTES": (str(8 * 2**30), "fasthep-flow"),
    }
    assert [entry.name for entry in told.variables if entry.hidden] == ["CODE", "GITHUB_TOKEN"]


def test_a_task_of_the_host_has_its_environment_under_its_own(bench: Bench) -> None:
    files(bench)
    told, _ = explained(bench, WORKFLOW, "plot")
    assert told.base == "host"
    assert told.host == ()
    variables = rows(told.variables)
    # Passed through: it replaces nothing.
    assert variables["HOME"] == ("/home/ada", "the host, workflow.yaml:35")
    assert variables["PATH"] == ("/bin", "workflow.yaml:35", ("/usr/bin", "the host"))
    assert variables["CUDA_VISIBLE_DEVICES"] == ("", "fasthep-flow")
    settings = rows(told.settings)
    assert settings["image"] == (
        None,
        "workflow.yaml:34",
        ("docker.io/library/debian:12", "workflow.yaml:3"),
    )
    # What means nothing without an image is left out.
    assert not {"form", "pull", "platform", "runtime", "options", "reuse"} & settings.keys()


def test_all_of_the_host_is_told_on_request(bench: Bench) -> None:
    files(bench)
    told, _ = explained(bench, WORKFLOW, "plot", whole_host=True)
    assert rows(told.host) == {
        "SHELL": ("/bin/sh", "the host"),
        "MY_TOKEN": (None, "the host"),
    }
    told, _ = explained(bench, WORKFLOW, "fit", whole_host=True)
    assert told.host == ()


def test_a_task_that_says_nothing_has_the_global_settings(bench: Bench) -> None:
    files(bench)
    told, _ = explained(bench, WORKFLOW, "rest")
    settings = rows(told.settings)
    assert settings["image"] == ("docker.io/library/debian:12", "workflow.yaml:3")
    assert settings["options"] == (["--cap-add=X"], "workflow.yaml:5")
    assert settings["retries"] == (0, "default")


BARE = (
    "tasks:\n  - {name: fit, type: fasthep_flow.operators.BashOperator, kwargs: {bash_command: a}"
)


@pytest.mark.parametrize(
    ("text", "flow", "expected"),
    [
        (f"{BARE}}}\n", None, ("local::concurrent", "default")),
        (f"{BARE}}}\n", "local::sequential", ("local::sequential", "--flow")),
        (
            f"global: {{flow: local::sequential}}\n{BARE}}}\n",
            None,
            ("local::sequential", "workflow.yaml:1"),
        ),
        (
            f"global: {{flow: local::sequential}}\n{BARE}}}\n",
            "local::concurrent",
            ("local::concurrent", "--flow", ("local::sequential", "workflow.yaml:1")),
        ),
        (
            (
                f"global: {{flow: local::sequential}}\n{BARE}, "
                "environment: {flow: local::concurrent}}\n"
            ),
            None,
            (
                "local::concurrent",
                "workflow.yaml:3",
                ("local::sequential", "workflow.yaml:1"),
            ),
        ),
        (
            (
                f"{BARE}}}\n  - {{name: b, type: fasthep_flow.operators.BashOperator, "
                "kwargs: {bash_command: a}, environment: {flow: prefect::DaskTaskRunner}}\n"
            ),
            None,
            ("prefect::DaskTaskRunner", "workflow.yaml:3, the flow of a task"),
        ),
    ],
)
def test_the_flow_tells_who_set_it(
    bench: Bench, text: str, flow: str | None, expected: tuple[Any, ...]
) -> None:
    told, environment = explained(bench, text, "fit", flow=flow)
    assert rows(told.settings)["flow"] == expected
    assert str(environment.flow) == expected[0]


def test_the_options_of_a_flow_are_told(bench: Bench) -> None:
    text = (
        "global:\n  workflow: {transform: local, kwargs: {runner: concurrent, max_workers: 2}}\n"
        f"{BARE}}}\n"
    )
    told, _ = explained(bench, text, "fit")
    assert rows(told.settings)["flow options"] == ({"max_workers": 2}, "workflow.yaml:2")


@pytest.mark.parametrize("task", ["fit", "plot", "rest"])
def test_what_is_told_is_what_is_planned(bench: Bench, task: str) -> None:
    files(bench)
    told, environment = explained(bench, WORKFLOW, task)
    settings = {entry.name: entry.value for entry in told.settings}
    image = environment.image
    assert settings["image"] == (None if image is None else image.name)
    if image is not None:
        assert settings["form"] == image.form
        assert settings["pull"] == image.pull
        assert settings["platform"] == image.platform
        assert settings["runtime"] == environment.runtime
        assert settings["options"] == list(environment.options)
        assert settings["reuse"] == environment.reuse
    assert settings["network"] == environment.network
    assert settings["secrets"] == list(environment.secrets)
    assert settings["flow"] == str(environment.flow)
    names = {"walltime": "walltime_s"}
    for key in ("cpus", "memory", "gpus", "process_on", "walltime", "enforce"):
        assert settings[key] == getattr(environment.resources, names.get(key, key))
    values = {entry.name: entry for entry in told.variables}
    for name, variable in environment.variables.items():
        assert values[name].hidden or values[name].value == variable.value
        assert values[name].origin == variable.origin


def test_no_secret_leaves(bench: Bench) -> None:
    files(bench)
    text = WORKFLOW.replace("C: 1.10", "DB: 'postgres://u:hunter2@host/db'")
    for task in ("fit", "plot", "rest"):
        told, _ = explained(bench, text, task, whole_host=True)
        assert b"hunter2" not in msgspec.json.encode(told)


def test_older_spellings_are_found(bench: Bench) -> None:
    text = f"{BARE}, environment: {{variables: {{A: 1}}}}}}\n".replace("tasks", "stages")
    told, _ = explained(bench, text, "fit")
    assert rows(told.variables)["A"] == ("1", "workflow.yaml:2")


BESIDE = """\
global:
  image: {cpu: "debian:12", gpu: {name: "cuda:12", pull: always}, runtime: podman}
  setup: [/opt/view.sh, export API_TOKEN=hunter2]
  python: {version: "3.12", requirements: [numpy]}
  credentials: [x509, token]
  extra_data: ["https://u@h/x.root"]
  variables: {X509_USER_PROXY: /old/proxy}
tasks:
  - name: fit
    type: fasthep_flow.operators.BashOperator
    kwargs: {bash_command: ./fit.sh}
    environment:
      resources: {process_on: gpu_if_available}
  - name: plot
    type: fasthep_flow.operators.BashOperator
    kwargs: {bash_command: ./plot.sh}
    environment:
      image: {gpu: "cuda:13"}
      setup: null
      python: "3.13"
      credentials: {file: ~/key, variable: MY_KEY}
      extra_data:
        - {source: s3://b/y.root, target: in/, mode: copy}
      resources: {process_on: gpu}
"""


def test_what_is_asked_for_beside_tells_where_it_came_from(bench: Bench) -> None:
    told, _ = explained(bench, BESIDE, "fit")
    settings = rows(told.settings)
    assert settings["image"] == ("docker.io/library/debian:12", "workflow.yaml:2")
    assert settings["gpu image"] == ("docker.io/library/cuda:12", "workflow.yaml:2")
    assert settings["pull"] == ("missing", "default")
    assert settings["gpu pull"] == ("always", "workflow.yaml:2")
    assert settings["setup"] == (
        "source /opt/view.sh\nexport API_TOKEN=***",
        "workflow.yaml:3",
    )
    assert settings["python"] == ("3.12", "workflow.yaml:4")
    assert settings["requirements"] == (["numpy"], "workflow.yaml:4")
    assert settings["credentials"] == ([{"kind": "x509"}, {"kind": "bearer"}], "workflow.yaml:5")
    assert settings["extra data"] == ([{"source": "https://***@h/x.root"}], "workflow.yaml:6")


def test_and_what_it_replaced(bench: Bench) -> None:
    told, environment = explained(bench, BESIDE, "plot")
    assert environment.gpu_image is None
    settings = rows(told.settings)
    # On a gpu alone there is but one image: the gpu's.
    assert settings["image"] == (
        "docker.io/library/cuda:13",
        "workflow.yaml:18",
        ("docker.io/library/cuda:12", "workflow.yaml:2"),
    )
    assert settings["pull"] == ("always", "workflow.yaml:2")
    assert "gpu image" not in settings
    assert settings["setup"] == (
        None,
        "workflow.yaml:19",
        ("source /opt/view.sh\nexport API_TOKEN=***", "workflow.yaml:3"),
    )
    assert settings["python"] == ("3.13", "workflow.yaml:20", ("3.12", "workflow.yaml:4"))
    assert settings["requirements"] == ([], "workflow.yaml:20", (["numpy"], "workflow.yaml:4"))
    assert settings["credentials"] == (
        [{"kind": "file", "file": "~/key", "variable": "MY_KEY"}],
        "workflow.yaml:21",
        ([{"kind": "x509"}, {"kind": "bearer"}], "workflow.yaml:5"),
    )
    assert settings["extra data"] == (
        [{"source": "s3://b/y.root", "target": "in/", "mode": "copy"}],
        "workflow.yaml:23",
        ([{"source": "https://***@h/x.root"}], "workflow.yaml:6"),
    )


def test_variables_that_name_what_is_shown(bench: Bench) -> None:
    told, _ = explained(bench, BESIDE, "fit")
    variables = {entry.name: entry for entry in told.variables}
    assert row(variables["X509_USER_PROXY"]) == (
        None,
        "workflow.yaml:5",
        ("/old/proxy", "workflow.yaml:7"),
    )
    assert variables["BEARER_TOKEN_FILE"].note == "where it sees the bearer credential"
    assert not variables["BEARER_TOKEN_FILE"].hidden
    assert variables["FASTHEP_DATA"].note == "the folder of its extra data"
    told, _ = explained(bench, BESIDE, "plot")
    variables = {entry.name: entry for entry in told.variables}
    assert row(variables["MY_KEY"]) == (None, "workflow.yaml:21")
    assert variables["MY_KEY"].note == "where it sees ~/key"


@pytest.mark.parametrize(
    ("variables", "by_value"),
    [("", False), ("BEARER_TOKEN: hunter2", True), ("BEARER_TOKEN: ''", False)],
)
@pytest.mark.parametrize("image", ["", "image: debian:12, "])
def test_a_token_that_is_in_a_variable_is_named_by_that(
    bench: Bench, variables: str, by_value: bool, image: str
) -> None:
    text = f"{BARE}, environment: {{{image}credentials: bearer, variables: {{{variables}}}}}}}\n"
    told, _ = explained(bench, text, "fit")
    found = {entry.name: entry.note for entry in told.variables if "BEARER" in entry.name}
    note = found.get("BEARER_TOKEN" if by_value else "BEARER_TOKEN_FILE")
    assert note == ("the token itself" if by_value else "where it sees the bearer credential")
    assert ("BEARER_TOKEN_FILE" in found) != by_value
    assert b"hunter2" not in msgspec.json.encode(told)


@pytest.mark.parametrize("task", ["fit", "plot"])
def test_people_read_all_of_it_and_no_secret(bench: Bench, task: str) -> None:
    told, _ = explained(bench, BESIDE, task)
    lines = [*environment_lines(told, None)]
    assert "hunter2" not in "\n".join(lines)
    text = {line.split("  ")[0]: " ".join(line.split()) for line in lines}
    if task == "fit":
        assert text["setup"] == (
            r'setup "source /opt/view.sh\nexport API_TOKEN=***" workflow.yaml:3'
        )
        assert text["credentials"] == "credentials x509, bearer workflow.yaml:5"
        over = "Over these lies what the setup script and the Python environment set."
    else:
        assert text["setup"] == "setup (none) workflow.yaml:19"
        assert text["credentials"] == (
            "credentials file (file ~/key, variable MY_KEY) workflow.yaml:21"
        )
        assert text["extra data"] == (
            "extra data s3://b/y.root (target in/, mode copy) workflow.yaml:23"
        )
        over = "Over these lies what the Python environment sets."
    assert lines[-1] == over


def test_nobody_is_told_of_requirements_that_there_are_not(bench: Bench) -> None:
    told, _ = explained(bench, f"{BARE}, environment: {{python: '3.12'}}}}\n", "fit")
    assert "requirements" not in rows(told.settings)
