"""What does not fit into the flows that are to run it is told before anything runs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fasthep_flow import fit
from fasthep_flow.cli import app
from fasthep_flow.environments.preflight.verdicts import Check
from fasthep_flow.errors import (
    EnvironmentRefused,
    ExitCode,
    LimitUnenforceable,
    OrchestratorUnavailable,
)
from fasthep_flow.model import FlowSpec, Resources
from fasthep_flow.orchestrators import Orchestrator
from fasthep_flow.orchestrators.admission import Capacity, demand_of, require_room
from fasthep_flow.terminal import check_lines
from fasthep_flow.testing.scripted import ScriptedOrchestrator, ScriptedRunner
from fasthep_flow.workflow import check_plan, load_plan, run_plan


class Farm(ScriptedOrchestrator):
    """Its largest worker has half a processor and 1Gi; its runner `slurm` cannot be opened."""

    def __init__(self) -> None:
        super().__init__(ScriptedRunner())

    def require(self, flow: FlowSpec, resources: Resources, label: str) -> None:
        del flow
        require_room("a worker", Capacity(0.5, 2**30, 0), demand_of(resources), label)

    def why_not(self, flow: FlowSpec) -> str | None:
        return "there is no sbatch here" if flow.runner == "slurm" else None

    def require_answer(self, flow: FlowSpec) -> None:
        if flow.runner == "scheduler":
            raise OrchestratorUnavailable("nobody is at tcp://node01:1", hint="start it")


@pytest.fixture
def farm(monkeypatch: pytest.MonkeyPatch) -> Farm:
    orchestrator = Farm()

    def find(transform: str, runner: str = "") -> Orchestrator:
        del runner
        if transform == "prefect":
            raise OrchestratorUnavailable("there is no Prefect", hint="install it")
        return orchestrator

    monkeypatch.setattr(fit, "find_orchestrator", find)
    monkeypatch.setattr("fasthep_flow.orchestrators.opened.find_orchestrator", find)
    return orchestrator


def workflow(folder: Path, **environments: str) -> Path:
    lines = ["tasks:"]
    for name, environment in environments.items():
        lines += [
            f"  - name: {name}",
            "    type: fasthep_flow.operators.BashOperator",
            "    kwargs: {bash_command: 'touch ran'}",
            f"    environment: {environment}",
        ]
    path = folder / "workflow.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_largest_size_must_fit_and_the_attempt_is_named(tmp_path: Path, farm: Farm) -> None:
    del farm
    path = workflow(
        tmp_path,
        a="{resources: {cpus: 500m, memory: [512Mi, 1Gi, 2Gi, 4Gi]}}",
        b="{resources: {cpus: 500m, memory: [256Mi, 1Gi, 2Gi]}}",
        c="{resources: {cpus: 500m, memory: [512Mi, 1Gi]}}",
        d="{resources: {cpus: 500m, memory: [2Gi, 4Gi]}}",
    )
    plan = load_plan(path, flow="dask::local")
    first, other = fit.misfits(plan.tasks)
    assert first.tasks == ("d",)
    assert "attempt" not in first.error.message
    assert other.tasks == ("a", "b")
    assert other.error.message.startswith("task 'a' asks for more than a worker has: ")
    assert other.error.message.endswith(", in attempt 3 (so does 1 other task)")
    with pytest.raises(EnvironmentRefused, match="in attempt 3"):
        run_plan(plan)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("environment", "looked_for"),
    [
        ("{resources: {cpus: [1, 1.5, 2]}}", 1.5),
        ("{resources: {cpus: [0.5, 1.5]}}", 0.5),
        ("{resources: {cpus: [1, 2]}}", 1),
        ("{resources: {cpus: 1.5}}", 1.5),
        ("{resources: {memory: [1Gi, 2Gi]}}", None),
        ("{image: debian:12, resources: {cpus: [1, 1.5]}}", 1),
    ],
)
def test_a_share_of_a_processor_is_looked_for_though_a_later_attempt_asks_for_it(
    tmp_path: Path, environment: str, looked_for: float | None
) -> None:
    plan = load_plan(workflow(tmp_path, a=environment))
    (task,) = fit.as_here(plan.tasks)
    assert task.environment.resources.cpus == looked_for


def test_a_further_size_that_this_machine_lacks_is_refused_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(
        "fasthep_flow.environments.preflight.gate.preflight", lambda *_, **__: asked.append(1)
    )
    path = workflow(tmp_path, a="{image: debian:12, resources: {memory: [64Mi, 1000Ti]}}")
    with pytest.raises(LimitUnenforceable, match=r"this machine has.*in attempt 2"):
        run_plan(load_plan(path))
    assert not asked


def rows(path: Path, flow: str) -> list[list[tuple[str, str]]]:
    """Of the machine and of each environment: what was found of its flows."""
    return [
        [(check.verdict, check.detail) for check in one.checks if check.what == "flow"]
        for one in check_plan(load_plan(path, flow=flow))
    ]


TOO_LARGE = "task 'b' asks for more than a worker has: 1 cpus of 0.5 cpus, 1Gi memory"


def test_each_flow_and_each_request_has_its_row(farm: Farm, tmp_path: Path) -> None:
    path = workflow(tmp_path, a="{resources: {cpus: 0.5, enforce: best_effort}}", b="{}", c="{}")
    machine, small, large = rows(path, "dask::local")
    assert machine == [("ok", "nothing speaks against dask::local; it is opened when a run begins")]
    assert small == []
    assert large == [("refused", f"{TOO_LARGE} (so does 1 other task)")]
    # Nothing was opened to find that out.
    assert not farm.opened


def test_a_flow_that_cannot_be_opened_here_is_refused(farm: Farm, tmp_path: Path) -> None:
    del farm
    path = workflow(tmp_path, a="{resources: {cpus: 0.5, enforce: best_effort}}")
    assert rows(path, "dask::slurm") == [[("refused", "dask::slurm: there is no sbatch here")], []]
    assert rows(path, "prefect::ThreadPoolTaskRunner")[0] == [("refused", "there is no Prefect")]


def test_a_run_refuses_what_a_check_refuses_before_it_opens_anything(
    farm: Farm, tmp_path: Path
) -> None:
    path = workflow(tmp_path, a="{resources: {cpus: 0.5, enforce: best_effort}}", b="{}")
    plan = load_plan(path, flow="dask::local")
    with pytest.raises(LimitUnenforceable) as caught:
        run_plan(plan)
    assert caught.value.message == TOO_LARGE
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert not farm.opened
    assert not (tmp_path / "output").exists()


def test_all_that_does_not_fit_is_told_at_once(farm: Farm, tmp_path: Path) -> None:
    del farm
    path = workflow(tmp_path, b="{}", c="{resources: {memory: 2Gi}}")
    with pytest.raises(EnvironmentRefused) as caught:
        run_plan(load_plan(path, flow="dask::local"))
    assert isinstance(caught.value, LimitUnenforceable)
    lines = str(caught.value).splitlines()
    assert lines[0] == "2 requests cannot be honoured"
    assert lines[1] == TOO_LARGE
    assert "2Gi memory of 0.5 cpus, 1Gi memory" in lines[3]


@pytest.mark.parametrize("width", [60, 80])
def test_the_rows_fit_the_screen(farm: Farm, tmp_path: Path, width: int) -> None:
    del farm
    path = workflow(tmp_path, b="{}", c="{}")
    lines = [
        line for line, _ in check_lines(check_plan(load_plan(path, flow="dask::slurm")), width)
    ]
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert "flow refused dask::slurm: there is no sbatch here -> choose another one" in text
    assert TOO_LARGE in text


def test_programs_are_told_the_same(farm: Farm, tmp_path: Path) -> None:
    del farm
    path = workflow(tmp_path, b="{}")
    done = CliRunner().invoke(
        app, ["check", str(path), "--flow", "dask::slurm", "--format", "json"]
    )
    assert done.exit_code == ExitCode.ENVIRONMENT
    machine, environment = json.loads(done.stdout)["environments"]
    assert machine["checks"][-1] == {
        "what": "flow",
        "verdict": "refused",
        "detail": "dask::slurm: there is no sbatch here",
        "hint": "choose another one with --flow",
        "error": "OrchestratorUnavailable",
    }
    assert environment["checks"][-1]["error"] == "LimitUnenforceable"


def test_what_this_machine_lacks_is_said_once(tmp_path: Path) -> None:
    path = workflow(tmp_path, a="{resources: {cpus: 4096}}")
    machine, environment = check_plan(load_plan(path))
    assert not machine.is_refused
    found = [check for check in environment.checks if check.verdict == "refused"]
    assert [check.what for check in found] == ["limits"]
    assert isinstance(found[0], Check)
    # Both figures.
    assert "4096 cpus are asked for, and this machine gives " in found[0].detail


SMALL = "{resources: {cpus: 0.5, enforce: best_effort}}"


def test_a_flow_that_stands_on_what_does_not_answer_is_refused(farm: Farm, tmp_path: Path) -> None:
    plan = load_plan(workflow(tmp_path, a=SMALL), flow="dask::scheduler")
    (found,) = [check for check in check_plan(plan)[0].checks if check.what == "flow"]
    assert (found.verdict, found.detail, found.hint) == (
        "refused",
        "nobody is at tcp://node01:1",
        "start it",
    )
    # Before an image is fetched: nobody answers there either.
    image = SMALL.replace("{res", "{image: 'localhost:1/nobody/nothing:1', res", 1)
    for flow, words in (
        ("scheduler", "nobody is at"),
        ("slurm", "dask::slurm: there is no sbatch"),
    ):
        plan = load_plan(workflow(tmp_path, a=image), flow=f"dask::{flow}")
        with pytest.raises(OrchestratorUnavailable, match=words):
            run_plan(plan)
    assert not farm.opened
    assert not (tmp_path / "output").exists()


@pytest.mark.prefect
@pytest.mark.parametrize(
    ("runner", "options", "server", "words"),
    [
        ("dask::scheduler", {"address": "tcp://127.0.0.1:{}"}, "", "no Dask scheduler answers at"),
        (
            "prefect::DaskTaskRunner",
            {"address": "tcp://127.0.0.1:{}"},
            "",
            "no Dask scheduler answers at",
        ),
        ("prefect::RayTaskRunner", {"address": "127.0.0.1:{}"}, "", "no Ray answers at"),
        (
            "prefect::ThreadPoolTaskRunner",
            {},
            "http://me:hunter2@127.0.0.1:{}/api",
            "no Prefect server answers at",
        ),
    ],
)
def test_a_dead_address_passes_lint_and_no_check(
    tmp_path: Path, runner: str, options: dict[str, str], server: str, words: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    transform, _, name = runner.partition("::")
    kwargs = {"runner": name} | {key: text.format(port) for key, text in options.items()}
    long_form = json.dumps({"transform": transform, "kwargs": kwargs})
    path = workflow(tmp_path, a="{}")
    environment = {key: item for key, item in os.environ.items() if "PREFECT" not in key}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect")}
    environment |= {"PREFECT_API_URL": server.format(port)} if server else {}

    def command(word: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fasthep_flow", word, str(path), "--workflow", long_form],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    for word in ("lint", "plan"):
        assert command(word).returncode == 0
    for word in ("check", "run"):
        done = command(word)
        told = " ".join((done.stdout + done.stderr).split())
        assert done.returncode not in {0, 1}, told
        assert words in told
        assert f"127.0.0.1:{port}" in told
        assert "Connection refused" in told
        assert "start it" in told
        assert "hunter2" not in told
    assert not (tmp_path / "ran").exists()


class Elsewhere(ScriptedOrchestrator):
    """Its workers are on larger machines."""

    def __init__(self) -> None:
        super().__init__(ScriptedRunner())

    def is_elsewhere(self, flow: FlowSpec) -> bool:
        return flow.runner == "slurm"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    orchestrator = Elsewhere()
    monkeypatch.setattr(fit, "find_orchestrator", lambda *_: orchestrator)
    return orchestrator


LARGE = "{resources: {cpus: 5000, memory: 900Ti, gpus: 8, process_on: gpu}}"


def test_this_machine_does_not_speak_for_those_of_a_farm(
    elsewhere: Elsewhere, tmp_path: Path
) -> None:
    del elsewhere
    plan = load_plan(workflow(tmp_path, large=LARGE), flow="dask::slurm")
    _, found = check_plan(plan)
    assert {check.verdict for check in found.checks} <= {"ok", "note"}
    (device,) = [check.detail for check in found.checks if check.what == "device"]
    assert device == "looked for where a worker of dask::slurm runs"


def test_a_check_tells_what_workers_are_asked_for(elsewhere: Elsewhere, tmp_path: Path) -> None:
    del elsewhere
    path = workflow(
        tmp_path,
        large="{resources: {cpus: 5000, memory: 900Ti}}",
        larger="{resources: {cpus: 6000, memory: 900Ti}}",
        small="{resources: {cpus: 1, memory: 20Mi}}",
    )
    _, *found = check_plan(load_plan(path, flow="dask::slurm"))
    told = {
        name: [check.detail for check in one.checks if check.what == "limits"]
        for one in found
        for name in one.tasks
    }
    for name in ("large", "larger"):
        assert [detail.split(":")[0] for detail in told[name]] == [
            "cpus 5000 and 6000",
            "memory 900Ti",
        ]
        assert all(
            detail.endswith(", where a worker is like this machine") for detail in told[name]
        )
    assert [detail.split(":")[0] for detail in told["small"]] == ["cpus 1", "memory 20Mi"]


def test_what_does_not_fit_is_refused_before_an_image_is_fetched(
    farm: Farm, tmp_path: Path
) -> None:
    del farm
    # Nobody answers there: to fetch it would be another error.
    image = (
        "{image: 'localhost:1/nobody/nothing:1', resources: {memory: 2Gi, enforce: best_effort}}"
    )
    with pytest.raises(EnvironmentRefused, match=r"2Gi memory of 0\.5 cpus, 1Gi memory"):
        run_plan(load_plan(workflow(tmp_path, a=image), flow="dask::local"))


def test_this_machine_speaks_for_workers_on_it(elsewhere: Elsewhere, tmp_path: Path) -> None:
    del elsewhere
    plan = load_plan(workflow(tmp_path, large=LARGE), flow="dask::local")
    _, found = check_plan(plan)
    refusals = " ".join(check.detail for check in found.checks if check.verdict == "refused")
    assert "5000 cpus and 900Ti of memory are asked for" in refusals
    assert "the task asks for a gpu" in refusals or "8 gpus" in refusals
