"""Named orchestrations: what they may be called, what they mean, whose holds."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from tests.language.made import TASK, Bench

from fasthep_flow.errors import ExitCode, OrchestratorUnavailable, WorkflowError
from fasthep_flow.language.settings import SettingsFile, read_settings
from fasthep_flow.model import to_json
from fasthep_flow.orchestrators import RUNNERS
from fasthep_flow.orchestrators.catalogue import Catalogue

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from fasthep_flow.model import FlowSpec


CERN = (
    "orchestrations:\n"
    "  dask::cern:\n"
    "    transform: dask\n"
    "    kwargs: {runner: HTCondorCluster, cores: 4, memory: 8Gi}\n"
)


class Known(Catalogue):
    """What our runners are, with options that no installed engine has a say in."""

    def options(self, flow: FlowSpec) -> Collection[str] | None:
        if flow.runner == "scheduler":
            return ["address"]
        if flow.runner == "sequential":
            return []
        if flow.runner == "RayTaskRunner":
            raise OrchestratorUnavailable("it cannot be imported", hint="install it")
        return ["cores", "memory", "queue", "n_workers"] if flow.transform == "dask" else None

    def inner_options(self, flow: FlowSpec) -> Mapping[str, Collection[str]]:
        return {"cluster_kwargs": ["n_workers", "env"]} if flow.transform == "prefect" else {}


KNOWN = Known(RUNNERS, plug_ins=False)


def settings(bench: Bench, user: str = "", site: str = "") -> list[SettingsFile]:
    """The settings of a user and of a site."""
    bench.write("user.yaml", user)
    bench.write("site/fasthep-flow/settings.yaml", site)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_DIRS", str(bench.folder / "site"))
        return read_settings({"FASTHEP_FLOW_CONFIG": str(bench.folder / "user.yaml")})


def problem(bench: Bench, text: str, **options: Any) -> str:
    return str(bench.problem(text, runners=KNOWN, **options))


def test_the_example_of_the_design(bench: Bench) -> None:
    plan = bench.plan(f"global: {{flow: 'dask::cern'}}\n{CERN}{TASK}", runners=KNOWN)
    assert str(plan.flow) == "dask::cern"
    assert (plan.flow.transform, plan.flow.runner) == ("dask", "htcondor")
    assert plan.flow.options == {"cores": 4, "memory": "8Gi"}
    assert plan.flow.orchestration == "dask::cern"
    assert plan.flow.origin == "workflow.yaml:3"
    assert plan.flow_origin == "workflow.yaml:1"
    assert plan.tasks[0].environment.flow == plan.flow


@pytest.mark.parametrize("way", ["task", "command"])
def test_whoever_names_it_finds_it(bench: Bench, way: str) -> None:
    if way == "task":
        text = f"{CERN}{TASK}    environment: {{flow: 'dask::cern'}}\n"
        plan = bench.plan(text, runners=KNOWN)
        assert str(plan.flow) == "dask::local"
        assert plan.flow_origin == "workflow.yaml:9, the flow of a task"
    else:
        plan = bench.plan(CERN + TASK, runners=KNOWN, flow="dask::cern")
        assert plan.flow_origin == "--flow"
    assert str(plan.tasks[0].environment.flow) == "dask::cern"
    assert plan.tasks[0].environment.flow.runner == "htcondor"


def test_the_transform_is_that_of_the_name_if_it_is_not_said(bench: Bench) -> None:
    text = f"orchestrations: {{'dask::x': {{kwargs: {{n_workers: 2}}}}}}\n{TASK}"
    flow = bench.plan(text, runners=KNOWN, flow="dask::x").flow
    assert (flow.transform, flow.runner, flow.options) == ("dask", "local", {"n_workers": 2})


def test_a_runner_of_ours_may_be_given_options_everywhere(bench: Bench) -> None:
    text = f"orchestrations: {{'dask::slurm': {{kwargs: {{queue: hep}}}}}}\n{TASK}"
    for name in ("dask::slurm", "dask::SLURMCluster"):
        flow = bench.plan(text, runners=KNOWN, flow=name).flow
        assert (flow.runner, flow.options) == ("slurm", {"queue": "hep"})
    # The long form says all of it.
    plan = bench.plan(text, runners=KNOWN, workflow="{transform: dask, kwargs: {runner: slurm}}")
    assert plan.flow.options == {}
    # A default runner is one, too.
    text = f"orchestrations: {{'local::concurrent': {{kwargs: {{max_workers: 2}}}}}}\n{TASK}"
    plan = bench.plan(text, runners=KNOWN)
    assert plan.flow.options == {"max_workers": 2}
    assert plan.flow_origin == "default"


def test_what_the_file_defines_goes_before_its_global_options(bench: Bench) -> None:
    text = (
        "global: {workflow: {transform: dask, kwargs: {runner: slurm, cores: 1}}}\n"
        "orchestrations: {'dask::slurm': {kwargs: {queue: hep}}}\n"
        f"{TASK}    environment: {{flow: 'dask::slurm'}}\n"
    )
    plan = bench.plan(text, runners=KNOWN)
    assert plan.flow.options == {"cores": 1}
    assert plan.tasks[0].environment.flow.options == {"queue": "hep"}
    # Those of a site do not.
    without = text.replace(text.splitlines()[1] + "\n", "")
    files = settings(bench, site="orchestrations: {'dask::slurm': {kwargs: {queue: site}}}\n")
    plan = bench.plan(without, runners=KNOWN, settings=files)
    assert plan.tasks[0].environment.flow.options == {"cores": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cern: {transform: dask}", "2:3: orchestrations.cern: 'cern' is not the name of an"),
        ("'dask::': {}", "2:3: orchestrations['dask::']: 'dask::' is not the name of an"),
        ("'::cern': {}", "2:3: orchestrations['::cern']: '::cern' is not the name of an"),
        ("'dask::a b': {}", "2:3: orchestrations['dask::a b']: 'dask::a b' is not the name of"),
        ("'dask::<site>': {}", "2:3: orchestrations['dask::<site>']: '<site>' is a placeholder"),
        (
            "'dask::cern': {transform: prefect}",
            "2:3: orchestrations['dask::cern']: 'dask::cern' is of the transform 'dask', not 'pre",
        ),
        (
            "'dusk::cern': {}",
            "2:17: orchestrations['dusk::cern']: there is no transform 'dusk'",
        ),
        (
            "'dask::cern': {kwargs: {runner: slrum}}",
            "2:35: orchestrations['dask::cern'].kwargs.runner: 'dask' has no runner 'slrum'",
        ),
        (
            "'dask::slurm': {kwargs: {runner: htcondor}}",
            "2:36: orchestrations['dask::slurm'].kwargs.runner: 'dask::slurm' is the name of a r",
        ),
        ("'dask::cern': dask::slurm", "2:17: orchestrations['dask::cern']: must be a mapping, not"),
        ("'dask::cern':", "2:16: orchestrations['dask::cern']: must be a mapping, not empty"),
        (
            "'dask::cern': {transfrom: dask}",
            "2:18: orchestrations['dask::cern'].transfrom: there is no key 'transfrom' here",
        ),
        (
            "'dask::cern': {kwargs: {runner: slurm, quue: hep}}",
            "2:42: orchestrations['dask::cern'].kwargs.quue: dask::slurm knows no option 'quue'",
        ),
        (
            "'dask::cern': {kwargs: {runner: slurm, cores: four}}",
            "2:49: orchestrations['dask::cern'].kwargs.cores: must be a whole number, 1 or more",
        ),
        (
            "'dask::cern': {kwargs: {runner: slurm, cores: true}}",
            "2:49: orchestrations['dask::cern'].kwargs.cores: must be a whole number, 1 or more",
        ),
        (
            "'prefect::x': {kwargs: {runner: RayTaskRunner, address: x}}",
            "2:17: orchestrations['prefect::x']: it cannot be imported",
        ),
        (
            "'prefect::x': {kwargs: {cluster_kwargs: {nworkers: 2}}}",
            "2:44: orchestrations['prefect::x'].kwargs.cluster_kwargs.nworkers: prefect::DaskTask",
        ),
        (
            "'prefect::x': {kwargs: {cluster_kwargs: {n_workers: two}}}",
            "2:55: orchestrations['prefect::x'].kwargs.cluster_kwargs.n_workers: must be a whole",
        ),
        (
            "'prefect::x': {kwargs: {cluster_kwargs: 2}}",
            "2:43: orchestrations['prefect::x'].kwargs.cluster_kwargs: must be a mapping",
        ),
        (
            "'prefect::x': {kwargs: {api_key: abc}}",
            "2:27: orchestrations['prefect::x'].kwargs.api_key: the option 'api_key' holds a secr",
        ),
    ],
)
def test_a_definition_that_cannot_be(bench: Bench, text: str, expected: str) -> None:
    told = problem(bench, f"orchestrations:\n  {text}\n{TASK}")
    assert told.startswith(f"workflow.yaml:{expected}")


def test_who_uses_a_definition_with_a_mistake_makes_none(bench: Bench) -> None:
    for text in ("{transform: prefect}", "{kwargs: {runner: slrum}}", "{x: 1}", "dask::slurm"):
        written = f"orchestrations:\n  dask::cern: {text}\n{TASK}"
        told = problem(bench, written)
        assert told.startswith("workflow.yaml:2:")
        used = f"global: {{flow: 'dask::cern'}}\n{written}"
        assert problem(bench, used).startswith("workflow.yaml:3:")
        assert problem(bench, written, flow="dask::cern") == told


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("cern: {transform: dask}", "it is 'transform::name', such as 'dask::cern'"),
        ("'dask::cern': {transform: prefect}", "call it 'prefect::cern', or change its transform"),
        ("'dask::cern': {transfrom: dask}", "did you mean 'transform'?"),
        ("'dask::cern': {kwargs: {runner: slurm, quue: hep}}", "did you mean 'queue'?"),
        ("'dask::cern': {kwargs: {runer: slurm}}", "did you mean 'runner'?"),
        ("'local::x': {kwargs: {runner: sequential, n: 1}}", "it takes none"),
        ("'prefect::x': {kwargs: {cluster_kwargs: {nworkers: 2}}}", "did you mean 'n_workers'?"),
    ],
)
def test_what_was_meant_is_told(bench: Bench, text: str, hint: str) -> None:
    assert problem(bench, f"orchestrations:\n  {text}\n{TASK}").endswith(f"^ {hint}")


def test_the_long_form_takes_runners_alone(bench: Bench) -> None:
    text = CERN + TASK
    told = problem(bench, text, workflow="{transform: dask, kwargs: {runner: cern}}")
    assert told == (
        "--workflow:1:36: kwargs.runner: 'dask' has no runner 'cern'\n"
        "    1 | {transform: dask, kwargs: {runner: cern}}\n"
        "      |                                    ^ "
        "the orchestration of that name is meant by 'flow: dask::cern'"
    )
    told = problem(bench, text, workflow="{transform: dask, kwargs: {runner: schedular}}")
    assert told.endswith("did you mean 'scheduler'?")
    for named in ("cern", "other"):
        other = f"  dask::other: {{kwargs: {{runner: {named}}}}}\n"
        told = problem(bench, text.replace("tasks:", f"{other}tasks:"))
        assert told.startswith(
            "workflow.yaml:5:34: orchestrations['dask::other'].kwargs.runner: 'dask' has no runner"
        )
        assert told.endswith(
            "^ a name stands for a runner, not for another name: local, slurm, htcondor, scheduler"
        )


def test_all_problems_are_told_at_once(bench: Bench) -> None:
    text = (
        "global: {flow: 'dask::a', workflow: {transform: dask}}\n"
        "orchestrations:\n"
        "  dask::a: {kwargs: {runner: slurm, quue: 1, cors: 2, cores: 0}}\n"
        "  dask::b: {transform: prefect}\n"
        "  dask::SLURMCluster: {}\n"
        "  dask::slurm: {}\n"
        f"{TASK}    environment: {{workflow: {{transform: dask, kwargs: {{cors: 1}}}}}}\n"
    )
    error = bench.refuse(text, runners=KNOWN)
    told = [(item.location.line, item.message) for item in error.problems]
    assert [line for line, _ in told] == [1, 3, 3, 3, 4, 6, 11]
    assert told[5][1] == "'dask::slurm' and 'dask::SLURMCluster' are the same name"


@pytest.mark.parametrize(
    ("kwargs", "refused"),
    [
        ("client_kwargs: {password: hunter2}", True),
        ("address: 'tls://me:hunter2@host:8786'", True),
        ("job_script_prologue: ['export TOKEN=hunter2']", True),
        ("job_extra_directives: ['--export=ALL,API_TOKEN=hunter2']", True),
        ("job_extra_directives: ['--export=ALL,PATH=/bin', --nice=5]", False),
        ("env: {API_TOKEN: 12345}", True),
        ("token: true", False),
        ("job_extra_directives: {MY.SendCredential: 'True'}", False),
        ("job_extra_directives: {MY.SendCredential: hunter2}", True),
        ("token: ", False),
        ("token_file: /home/ada/token", False),
        ("job_script_prologue: ['export TOKEN=$(cat ~/token)']", False),
        ("queue: tokenizer", False),
    ],
)
@pytest.mark.parametrize("place", ["definition", "global", "command"])
def test_secrets_are_no_options(bench: Bench, kwargs: str, place: str, *, refused: bool) -> None:
    form = f"{{transform: prefect, kwargs: {{{kwargs}}}}}"
    text, options = TASK, {}
    if place == "definition":
        text = f"orchestrations:\n  prefect::x: {form}\n{TASK}"
    elif place == "global":
        text = f"global:\n  workflow: {form}\n{TASK}"
    else:
        options = {"workflow": form}
    if not refused:
        bench.plan(text, runners=KNOWN, **options)
        return
    error = bench.refuse(text, runners=KNOWN, **options)
    assert "holds a secret, which records would show" in str(error)
    assert "hunter2" not in str(error)
    assert error.exit_code == ExitCode.WORKFLOW


def test_the_nearest_of_a_name_holds_as_a_whole(bench: Bench) -> None:
    user = "orchestrations: {'dask::cern': {kwargs: {runner: slurm, queue: mine}}}\n"
    site = (
        "flow: dask::cern\n"
        "orchestrations:\n"
        "  dask::cern: {kwargs: {runner: slurm, queue: theirs, cores: 8}}\n"
        "  dask::big: {kwargs: {runner: slurm, cores: 64}}\n"
    )
    both = settings(bench, user, site)
    assert [one.level for one in both] == ["user", "site"]
    plan = bench.plan(TASK, runners=KNOWN, settings=both)
    assert plan.flow.options == {"queue": "mine"}
    assert plan.flow.origin == f"{bench.folder}/user.yaml:1"
    assert plan.flow_origin == f"{bench.folder}/site/fasthep-flow/settings.yaml:1"
    assert bench.plan(TASK, runners=KNOWN, settings=both, flow="dask::big").flow.options == {
        "cores": 64
    }
    text = f"orchestrations: {{'dask::cern': {{kwargs: {{cores: 1}}}}}}\n{TASK}"
    plan = bench.plan(text, runners=KNOWN, settings=both)
    assert (plan.flow.runner, plan.flow.options) == ("local", {"cores": 1})
    assert bench.plan(TASK, runners=KNOWN, settings=both[1:]).flow.options["queue"] == "theirs"


def test_who_says_what_runs_a_workflow(bench: Bench) -> None:
    both = settings(bench, "flow: dask::scheduler\n", "workflow: {transform: prefect}\n")
    of_file = f"global: {{flow: 'local::sequential'}}\n{TASK}"

    def flow(text: str, files: list[SettingsFile], **options: Any) -> str:
        return str(bench.plan(text, runners=KNOWN, settings=files, **options).flow)

    assert flow(of_file, both, flow="dask::local") == "dask::local"
    assert flow(of_file, both) == "local::sequential"
    assert flow(TASK, both) == "dask::scheduler"
    assert flow(TASK, both[1:]) == "prefect::DaskTaskRunner"
    assert flow(TASK, []) == "local::concurrent"
    # What a task names comes after what somebody has set for all workflows.
    of_task = f"{TASK}    environment: {{flow: 'prefect::ThreadPoolTaskRunner'}}\n"
    assert flow(of_task, both[1:]) == "prefect::DaskTaskRunner"
    told = problem(bench, of_task, settings=both)
    assert f"but the settings in {bench.folder}/user.yaml:1 say 'dask::scheduler'" in told
    assert "name one of 'prefect' under 'global', or on the command line with --flow" in told
    assert flow(of_task, both, flow="prefect") == "prefect::DaskTaskRunner"


def test_what_is_wrong_with_a_definition_of_a_settings_file_matters_to_who_uses_it(
    bench: Bench,
) -> None:
    files = settings(
        bench,
        "flow: dask::bad\norchestrations:\n  dask::bad: {kwargs: {runner: slurm, quue: x}}\n",
        "orchestrations:\n  other::x: {transform: other}\n",
    )
    bench.plan(TASK, runners=KNOWN, settings=files, flow="local")
    of_file = f"global: {{flow: local}}\n{TASK}"
    bench.plan(of_file, runners=KNOWN, settings=files)
    told = problem(bench, TASK, settings=files)
    assert told.startswith(
        f"{bench.folder}/user.yaml:3:39: orchestrations['dask::bad'].kwargs.quue: dask::slurm "
        "knows no option 'quue'"
    )
    assert told.endswith("^ did you mean 'queue'?")
    assert problem(bench, TASK, settings=files, flow="dask::bad") == told
    assert problem(bench, f"global: {{flow: 'dask::bad'}}\n{TASK}", settings=files) == told
    told = problem(bench, TASK, settings=files, flow="other::x")
    assert (
        "site/fasthep-flow/settings.yaml:2:25: orchestrations['other::x'].transform: there is"
        in told
    )


def test_two_spellings_of_a_name_in_settings_are_told_to_who_uses_it(bench: Bench) -> None:
    twice = (
        "orchestrations:\n"
        "  dask::slurm: {kwargs: {queue: short}}\n"
        "  dask::SLURMCluster: {kwargs: {queue: long}}\n"
    )
    once = "orchestrations: {'dask::slurm': {kwargs: {queue: mine}}}\n"
    for user, site in ((twice, ""), ("", twice), (twice, twice)):
        files = settings(bench, user, site)
        bench.plan(TASK, runners=KNOWN, settings=files)
        for name in ("dask::slurm", "dask::SLURMCluster"):
            told = problem(bench, TASK, settings=files, flow=name)
            assert (
                ".yaml:3:3: orchestrations['dask::SLURMCluster']: 'dask::SLURMCluster' and" in told
            )
            assert "'dask::slurm' are the same name" in told
    # What is nearer holds, whatever is wrong with what it replaces.
    files = settings(bench, once, twice)
    assert bench.plan(TASK, runners=KNOWN, settings=files, flow="dask::slurm").flow.options == {
        "queue": "mine"
    }
    text = once + TASK
    bench.plan(text, runners=KNOWN, settings=settings(bench, twice), flow="dask::slurm")


def test_a_name_that_is_not_defined(bench: Bench) -> None:
    files = settings(bench, site="orchestrations: {'dask::lxplus': {}}\n")
    told = problem(bench, CERN + TASK, settings=files, flow="dask::cren")
    assert told == "--flow: 'dask' has no runner 'cren'\n  did you mean 'cern'?"
    told = problem(bench, CERN + TASK, settings=files, flow="dask::lxplsu")
    assert told == "--flow: 'dask' has no runner 'lxplsu'\n  did you mean 'lxplus'?"
    # Where all are listed, those that somebody defined come first.
    told = problem(bench, CERN + TASK, settings=files, flow="dask::")
    assert "known are dask::cern, dask::lxplus, local::concurrent" in told
    told = problem(bench, f"{CERN}{TASK}    environment: {{flow: 'dusk::cern'}}\n")
    assert told.endswith("^ did you mean 'dask::cern'?")


@pytest.mark.parametrize("level", ["user", "site"])
@pytest.mark.parametrize(
    ("text", "expected", "hint"),
    [
        ("flow: dask::cern\nflwo: x", ":2:1: flwo: there is no key 'flwo' here", "'flow'?"),
        ("orchestratons: {}", ":1:1: orchestratons: there is no key", "'orchestrations'?"),
        ("global: {flow: local}", ":1:1: global: there is no key", "put 'flow' at the top of"),
        ("image: debian", ":1:1: image: there is no key", "put it in the workflow file: settings"),
        ("memory: 4Gi", ":1:1: memory: there is no key", "put it in the workflow file: settings"),
        ("xyz: 4Gi", ":1:1: xyz: there is no key", "known are flow, workflow, orchestrations"),
        ("flow: [x", ":1:7: this bracket is not closed", ""),
        ("- flow", ":1:1: must be a mapping, not a list", ""),
        ("flow: 3", ":1:7: flow: must be text, not a number", ""),
        ("flow: a\nflow: b", ":2:1: the key 'flow' is written twice", ""),
        (
            "flow: local\nworkflow: {}",
            ":1:1: flow: 'flow' (line 1) and 'workflow' (line 2) say the same thing twice",
            "",
        ),
        (
            "orchestrations:\n  cern: {}",
            ":2:3: orchestrations.cern: 'cern' is not the name of an orchestration",
            "",
        ),
        (
            "orchestrations:\n  dask::cern: {transform: dask, runner: slurm}",
            ":2:33: orchestrations['dask::cern'].runner: there is no key 'runner' here",
            "",
        ),
        (
            "workflow: {transform: dask, kwargs: {password: hunter2}}",
            ":1:38: workflow.kwargs.password: the option 'password' holds a secret",
            "",
        ),
    ],
)
def test_settings_that_cannot_be(
    bench: Bench, level: str, text: str, expected: str, hint: str
) -> None:
    file = "user.yaml" if level == "user" else "site/fasthep-flow/settings.yaml"
    with pytest.raises(WorkflowError) as caught:
        settings(bench, **{level: text})
    assert str(caught.value).startswith(f"{bench.folder}/{file}{expected}")
    assert hint in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.exit_code in {ExitCode.WORKFLOW, ExitCode.PLAN}


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "orchestrations:\n", "flow:\n", "{}"])
def test_settings_may_say_nothing(bench: Bench, text: str) -> None:
    files = settings(bench, text, text)
    assert str(bench.plan(TASK, runners=KNOWN, settings=files).flow) == "local::concurrent"


NAMES = st.sampled_from(
    [
        *(
            "dask",
            "dask::cern",
            "dask::slurm",
            "dask::SLURMCluster",
            "local::concurrent",
            "mine::x",
        ),
        *("", "::", "dask::", "::x", "<flow>", "a b::c", "x" * 300),
    ]
)
SCALARS = st.one_of(NAMES, st.none(), st.booleans(), st.integers(-2, 2), st.floats())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(
            st.sampled_from(["transform", "kwargs", "runner", "cores", "token", "flow", "x"]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=6,
)
DEFINITIONS = st.one_of(VALUES, st.dictionaries(NAMES, VALUES, max_size=3))
SETTINGS = st.fixed_dictionaries(
    {}, optional={"flow": VALUES, "workflow": VALUES, "orchestrations": DEFINITIONS}
)


def _yaml(value: object) -> str:
    text = json.dumps(value)
    return re.sub(r"-?\bInfinity\b", ".inf", re.sub(r"\bNaN\b", ".nan", text))


WRITTEN = st.fixed_dictionaries(
    {"global": SETTINGS, "orchestrations": DEFINITIONS, "of_task": VALUES}
)


@given(SETTINGS, WRITTEN, st.one_of(st.none(), NAMES))
@settings_of_hypothesis(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_written_is_planned_or_refused(
    bench: Bench, user: dict[str, Any], written: dict[str, Any], flow: str | None
) -> None:
    files = []
    with contextlib.suppress(WorkflowError):
        files = settings(bench, _yaml(user))
    task = {
        "name": "fit",
        "type": "fasthep_flow.operators.BashOperator",
        "kwargs": {"bash_command": "true"},
        "environment": {"flow": written["of_task"]},
    }
    general = {key: value for key, value in written["global"].items() if key != "orchestrations"}
    text = _yaml({"global": general, "orchestrations": written["orchestrations"], "tasks": [task]})
    try:
        plan = bench.plan(text, runners=KNOWN, settings=files, flow=flow)
    except WorkflowError:
        return
    assert plan.flow.runner in RUNNERS[plan.flow.transform]
    assert plan.tasks[0].environment.flow.transform == plan.flow.transform
    assert to_json(plan)


def test_where_settings_are_looked_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(bench.folder / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(bench.folder / "config"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", f"{bench.folder}/first:{bench.folder}/second")
    assert read_settings({}) == []
    bench.write("second/fasthep-flow/settings.yaml", "flow: local")
    assert [one.level for one in read_settings({})] == ["site"]
    bench.write("first/fasthep-flow/settings.yaml", "flow: dask")
    mine = bench.write("config/fasthep-flow/settings.yaml", "flow: prefect")
    assert [one.flow for one in read_settings({})] == ["prefect", "dask"]
    assert read_settings({})[0].document.source == mine
    # Nothing stands for no file of the user's, and the site's stays.
    assert [one.flow for one in read_settings({"FASTHEP_FLOW_CONFIG": ""})] == ["dask"]
    bench.write("other.yaml", "flow: local")
    monkeypatch.chdir(bench.folder)
    for name in ("other.yaml", str(bench.folder / "other.yaml")):
        assert [one.flow for one in read_settings({"FASTHEP_FLOW_CONFIG": name})] == [
            "local",
            "dask",
        ]
    bench.write("home/other.yaml", "flow: dask::scheduler")
    named = read_settings({"FASTHEP_FLOW_CONFIG": "~/other.yaml"})
    assert named[0].flow == "dask::scheduler"


def test_settings_with_another_ending_are_not_passed_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(bench.folder / "config"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(bench.folder / "site"))
    bench.write("config/fasthep-flow/settings.yml", "flow: dask")
    with pytest.raises(WorkflowError) as refused:
        read_settings({})
    assert str(refused.value) == (
        f"{bench.folder}/config/fasthep-flow/settings.yml is not read\n"
        "  call it settings.yaml, or take it away"
    )
    assert read_settings({"FASTHEP_FLOW_CONFIG": ""}) == []
    bench.write("config/fasthep-flow/settings.yaml", "flow: local")
    assert [one.flow for one in read_settings({})] == ["local"]


@pytest.mark.parametrize("name", ["missing.yaml", ".", "missing/x.yaml", "~nobody-like-that/x"])
def test_a_file_that_is_named_must_be_there(bench: Bench, name: str) -> None:
    path = name if name.startswith("~") else str(Path(bench.folder, name))
    with pytest.raises(WorkflowError, match=r"FASTHEP_FLOW_CONFIG names .*, which is no file"):
        read_settings({"FASTHEP_FLOW_CONFIG": path})


def test_a_file_that_may_not_be_read_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bench.write("site/fasthep-flow/settings.yaml", "flow: local")
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(bench.folder / "site"))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(WorkflowError, match=f"{path} cannot be read: Permission denied"):
        read_settings({"FASTHEP_FLOW_CONFIG": ""})
    # What lies where this user may not look is none of theirs.
    monkeypatch.setattr(Path, "is_file", refuse)
    assert read_settings({"FASTHEP_FLOW_CONFIG": ""}) == []
