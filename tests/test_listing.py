"""``fasthep-flow list orchestrations``: what there is, where it is from, whether it can run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fasthep_flow.errors import ExitCode
from fasthep_flow.model import FlowSpec
from fasthep_flow.orchestrators import RUNNERS
from fasthep_flow.orchestrators.local import LOCAL

COMMAND = Path(sys.executable).with_name("fasthep-flow")
WORKFLOW = """\
global:
  flow: local::mine
orchestrations:
  local::mine: {kwargs: {runner: concurrent, max_workers: 2}}
tasks:
  - {name: fit, type: fasthep_flow.operators.BashOperator, kwargs: {bash_command: "true"}}
"""
USER = """\
flow: local::few
orchestrations:
  local::few: {kwargs: {max_workers: 3}}
  local::mine: {kwargs: {max_workers: 4}}
"""
SITE = """\
orchestrations:
  local::mine: {kwargs: {max_workers: 5}}
  local::odd: {kwargs: {max_wrokers: 5}}
  other::farm: {transform: other}
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    (tmp_path / "site" / "fasthep-flow").mkdir(parents=True)
    (tmp_path / "site" / "fasthep-flow" / "settings.yaml").write_text(SITE)
    (tmp_path / "user.yaml").write_text(USER)
    return tmp_path


def command(
    site: Path, *words: str, columns: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "list", "orchestrations", *words],
        cwd=site / "work",
        env={
            **{name: value for name, value in os.environ.items() if name != "COLUMNS"},
            "FASTHEP_FLOW_CONFIG": str(site / "user.yaml"),
            "XDG_CONFIG_DIRS": str(site / "site"),
            **({"COLUMNS": columns} if columns is not None else {}),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )


def listed(site: Path, *words: str, **environment: str) -> tuple[Any, dict[str, Any]]:
    """The default, and the rows by name."""
    done = command(site, *words, "--format", "json", **environment)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    names = [row["name"] for row in told["orchestrations"]]
    assert len(names) == len(set(names))
    return told["default"], {row["name"]: row for row in told["orchestrations"]}


def test_all_that_there_is_with_where_it_is_defined(site: Path) -> None:
    (site / "work" / "workflow.yaml").write_text(WORKFLOW)
    default, rows = listed(site)
    assert default == {
        "name": "local::mine",
        "origin": "workflow.yaml:2",
        "options": {},
        "why_not": None,
    }
    ours = {f"{transform}::{runner}" for transform in RUNNERS for runner in RUNNERS[transform]}
    assert rows.keys() >= ours
    assert all(rows[name]["origin"] == "fasthep-flow" for name in ours)
    settings = site / "site" / "fasthep-flow" / "settings.yaml"
    assert rows["local::mine"] == {
        "name": "local::mine",
        "transform": "local",
        "runner": "concurrent",
        "options": {"max_workers": 2},
        "origin": "workflow.yaml:4",
        "replaced": [f"{site}/user.yaml:4", f"{settings}:2"],
        "can_run": True,
        "why_not": None,
    }
    assert rows["local::few"]["origin"] == f"{site}/user.yaml:3"
    assert rows["local::concurrent"]["can_run"]
    # What is of no use is told, and hides nothing.
    odd = rows["local::odd"]
    assert not odd["can_run"]
    assert "knows no option 'max_wrokers'" in odd["why_not"]
    assert "did you mean 'max_workers'?" in odd["why_not"]
    assert "there is no transform 'other'" in rows["other::farm"]["why_not"]


def test_without_a_workflow_file_the_settings_alone(site: Path) -> None:
    default, rows = listed(site)
    assert default["name"] == "local::few"
    assert default["origin"] == f"{site}/user.yaml:1"
    assert rows["local::mine"]["options"] == {"max_workers": 4}
    default, rows = listed(site, FASTHEP_FLOW_CONFIG="")
    assert default == {
        "name": "local::concurrent",
        "origin": "default",
        "options": {},
        "why_not": None,
    }
    assert rows["local::mine"]["options"] == {"max_workers": 5}
    default, rows = listed(site, FASTHEP_FLOW_CONFIG="", XDG_CONFIG_DIRS=str(site / "work"))
    assert default["name"] == "local::concurrent"
    assert "local::mine" not in rows


def test_a_workflow_file_elsewhere_and_one_with_other_mistakes(site: Path) -> None:
    other = site / "other.yaml"
    other.write_text(WORKFLOW.replace("bash_command", "bsah_command"))
    default, rows = listed(site, str(other))
    assert default["name"] == "local::mine"
    assert rows["local::mine"]["origin"] == f"{other}:4"


def test_what_tasks_name_is_told_as_the_default(site: Path) -> None:
    text = WORKFLOW.partition("global")[0] + WORKFLOW[WORKFLOW.index("tasks:") :]
    text = text.replace(
        '"true"}}', '"true"}, environment: {flow: "prefect::ThreadPoolTaskRunner"}}'
    )
    (site / "work" / "workflow.yaml").write_text(text)
    default, _ = listed(site, FASTHEP_FLOW_CONFIG="")
    assert default["name"] == "prefect::DaskTaskRunner"
    assert default["origin"] == "workflow.yaml:2, the flow of a task"


def test_options_beside_a_name_are_told_with_the_default(site: Path) -> None:
    long = "{transform: local, kwargs: {runner: concurrent, max_workers: 7}}"
    (site / "user.yaml").write_text(f"workflow: {long}\n")
    default, _ = listed(site)
    assert default["options"] == {"max_workers": 7}
    told = command(site).stdout
    assert told.endswith(
        f"the default here: local::concurrent with max_workers=7\n    from {site}/user.yaml:1\n"
    )


WITHOUT_ENGINES = """\
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"dask", "distributed", "dask_jobqueue", "prefect", "ray"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
"""


def test_where_engines_are_not_installed_it_says_how_to(site: Path) -> None:
    (site / "without").mkdir()
    (site / "without" / "sitecustomize.py").write_text(WITHOUT_ENGINES)
    (site / "user.yaml").write_text(
        "orchestrations: {'dask::farm': {kwargs: {runner: slurm, no_such_option: 1}}}\n"
    )
    _, rows = listed(site, PYTHONPATH=str(site / "without"))
    for name in ("dask::farm", "dask::local", "dask::slurm", "prefect::ThreadPoolTaskRunner"):
        assert "pip install 'fasthep-flow[" in rows[name]["why_not"], name
    assert rows["local::concurrent"]["can_run"]
    # What the options are is then known to nobody.
    assert "no_such_option" not in rows["dask::farm"]["why_not"]
    assert "no_such_option" in listed(site)[1]["dask::farm"]["why_not"]


def test_a_default_that_is_none_is_told_and_hides_nothing(site: Path) -> None:
    path = site / "work" / "workflow.yaml"
    path.write_text(WORKFLOW.replace("flow: local::mine", "flow: local::mien"))
    default, rows = listed(site)
    assert default == {
        "name": "",
        "origin": "workflow.yaml:2:9",
        "options": {},
        "why_not": "'local' has no runner 'mien' (did you mean 'mine'?)",
    }
    assert rows["local::mine"]["can_run"]
    path.unlink()
    (site / "user.yaml").write_text("flow: local::mien\n")
    default, rows = listed(site)
    assert default["origin"] == f"{site}/user.yaml:1:7"
    assert rows["local::mine"]["can_run"]
    told = command(site).stdout.splitlines()[-2:]
    assert told == [
        "the default here: none",
        f"    {site}/user.yaml:1:7: 'local' has no runner 'mien' (did you mean 'mine'?)",
    ]


@pytest.mark.parametrize("columns", ["60", "80", "120", None])
def test_it_fits_the_screen(site: Path, columns: str | None) -> None:
    (site / "work" / "workflow.yaml").write_text(WORKFLOW)
    done = command(site, columns=columns)
    assert done.returncode == 0
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    if columns is not None:
        assert max(map(len, lines)) <= int(columns)
    assert lines[0].split(maxsplit=1) == ["local::mine", "can run here"]
    assert lines[1] == "    local::concurrent with max_workers=2"
    assert lines[2] == "    from workflow.yaml:4"
    assert "    the default" in lines
    assert lines[-2:] == ["the default of workflow.yaml: local::mine", "    from workflow.yaml:2"]
    whole = " ".join("".join(lines).split())
    assert "cannot: there is" in whole


def test_what_cannot_be_read_is_an_error_with_its_place(site: Path) -> None:
    done = command(site, "missing.yaml")
    assert done.returncode == ExitCode.WORKFLOW
    assert "missing.yaml cannot be read" in done.stderr
    (site / "work" / "workflow.yaml").write_text("orchestrations: {mine: {}}\n")
    done = command(site)
    assert done.returncode == ExitCode.WORKFLOW
    assert done.stderr.startswith("workflow.yaml:1:18: orchestrations.mine: 'mine' is not the")
    (site / "user.yaml").write_text("flow: [x")
    for words in (["list", "orchestrations"], ["lint"], ["plan"], ["run"], ["env", "fit"]):
        failed = subprocess.run(
            [COMMAND, *words],
            cwd=site / "work",
            env={**os.environ, "FASTHEP_FLOW_CONFIG": str(site / "user.yaml")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert failed.returncode == ExitCode.WORKFLOW
        assert failed.stderr.startswith(f"{site}/user.yaml:1:7: this bracket is not closed")
    helped = subprocess.run(
        [COMMAND, "--version"],
        env={**os.environ, "FASTHEP_FLOW_CONFIG": str(site / "user.yaml")},
        capture_output=True,
        check=False,
    )
    assert helped.returncode == 0


def test_an_engine_that_fails_to_answer_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from fasthep_flow.listing import list_orchestrations

    def why_not(self: object, flow: FlowSpec) -> str | None:
        del self
        if flow.runner == "sequential":
            raise RuntimeError("what is this?")
        return None

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(type(LOCAL), "why_not", why_not)
    rows = {one.name: one for one in list_orchestrations(None)[1]}
    assert rows["local::sequential"].why_not == "RuntimeError: what is this?"
    assert rows["local::concurrent"].can_run


def test_plan_and_run_record_what_the_name_stood_for(site: Path) -> None:
    """What the settings said then is in the records, whatever they say now."""
    (site / "work" / "workflow.yaml").write_text(WORKFLOW.replace("flow: local::mine", "{}"))
    environment = {**os.environ, "FASTHEP_FLOW_CONFIG": str(site / "user.yaml")}

    def run(*words: str) -> str:
        return subprocess.run(
            [COMMAND, *words],
            cwd=site / "work",
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    user = f"{site}/user.yaml"
    assert run("plan").splitlines()[:2] == [
        "work: 1 task on local::few",
        f"local::few is local::concurrent with max_workers=3, defined at {user}:3; from {user}:1",
    ]
    run("run")
    plan = json.loads((site / "work" / "output" / "latest" / "plan.json").read_text())
    assert plan["flow"] == {
        "transform": "local",
        "runner": "concurrent",
        "options": {"max_workers": 3},
        "orchestration": "local::few",
        "origin": f"{user}:3",
    }
    assert plan["flow_origin"] == f"{user}:1"
    assert plan["tasks"][0]["environment"]["flow"] == plan["flow"]
    told = json.loads(run("env", "fit", "--format", "json"))
    settings = {row["name"]: row for row in told["settings"]}
    assert (settings["flow"]["value"], settings["flow"]["origin"]) == ("local::few", f"{user}:1")
    assert settings["runner"]["value"] == "local::concurrent"
    assert settings["flow options"]["value"] == {"max_workers": 3}
    assert settings["flow options"]["origin"] == f"{user}:3"
    told = json.loads(run("env", "fit", "--flow", "local::mine", "--format", "json"))
    settings = {row["name"]: row for row in told["settings"]}
    assert settings["flow"]["origin"] == "--flow"
    assert settings["flow"]["replaced"] == [{"value": "local::few", "origin": f"{user}:1"}]
    assert settings["runner"]["origin"] == "workflow.yaml:4"
