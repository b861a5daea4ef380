"""What need not run again, and why the rest does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.records.made import call, identities, plan, succeeded, task, write

from fasthep_flow.model import JobResult, Plan, TaskSpec
from fasthep_flow.records.cache import Cache
from fasthep_flow.records.digests import Digests
from fasthep_flow.records.forecast import Forecast, forecast
from fasthep_flow.records.identity import NeedIdentity, need_identity
from fasthep_flow.records.reuse import Former, Reuse


class Runs:
    """Runs plans without running anything: a task makes what its function here returns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        self.made: dict[str, dict[str, str]] = {}
        self.values: dict[str, Any] = {}
        self.results: dict[str, JobResult] = {}
        self.parts: dict[str, dict[str, str]] = {}
        self.reasons: dict[str, tuple[str, ...]] = {}

    def reuse(self, of: Plan, *, resumes: bool = False, **options: Any) -> Reuse:
        digests = Digests()
        former = {
            name: Former(result, self.parts.get(name)) for name, result in self.results.items()
        }
        return Reuse(
            identities(of, digests=digests),
            digests,
            run_id=f"run-{self.count}",
            cache=Cache(self.folder / "output/.cache", of.source),
            former=former if resumes else None,
            **options,
        )

    def __call__(
        self, of: Plan, *, resumes: bool = False, stops_before: str = "", **options: Any
    ) -> list[str]:
        """The names of the tasks that ran."""
        self.count += not resumes
        reuse = self.reuse(of, resumes=resumes, **options)
        if not resumes:
            self.results, self.parts = {}, {}
        needs: dict[str, NeedIdentity] = {}
        ran = []
        self.reasons = {}
        for one in of.tasks:
            if one.name == stops_before:
                break
            decision = reuse.decide(one, {name: needs[name] for name in one.needs})
            assert (decision.reused is None) == bool(decision.reasons)
            self.reasons[one.name] = decision.reasons
            result = decision.reused
            parts = decision.identity.parts
            if result is None:
                ran.append(one.name)
                result = self.run(one)
                parts = reuse.ended(one, decision.identity, result).parts
            self.results[one.name], self.parts[one.name] = result, parts
            needs[one.name] = need_identity(one, result, f"run-{self.count}")
        return ran

    def run(self, one: TaskSpec) -> JobResult:
        for name, text in self.made.get(one.name, {}).items():
            write(self.folder / name, text)
        outputs = {path: Digests().of(path) or "" for path in one.outputs}
        before = self.results.get(one.name)
        attempt = 1 if before is None else before.attempt + 1
        value = {"value": self.values[one.name]} if one.name in self.values else {}
        return succeeded(one, attempt=attempt, outputs=outputs, **value)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    write(tmp_path / "select.sh", "1")
    write(tmp_path / "fit.sh", "1")
    made = Runs(tmp_path)
    made.made = {"select": {"events.root": "events"}, "fit": {"fit.json": "fit"}}
    return made


@pytest.fixture
def analysis(tmp_path: Path) -> Plan:
    return plan(
        tmp_path,
        task("select", "./select.sh", outputs=("events.root",)),
        task("fit", "./fit.sh", needs=("select",), inputs=("events.root",), outputs=("fit.json",)),
        task("plot", "./plot.sh", needs=("fit",)),
    )


def test_a_second_run_does_what_no_outputs_stand_for(runs: Runs, analysis: Plan) -> None:
    assert runs(analysis) == ["select", "fit", "plot"]
    assert runs.reasons["select"] == ("no earlier run has done it",)
    assert runs(analysis) == ["plot"]
    assert runs.reasons["plot"] == (
        "it declares no outputs, by which an earlier run could stand for it",
    )
    reused = runs.results["fit"]
    assert (reused.status, reused.attempt, reused.wall_s) == ("reused", 0, 0.0)
    assert reused.remarks == ("made by the run run-1",)
    assert runs(analysis) == ["plot"]
    assert runs.results["fit"].remarks == ("made by the run run-1",)


def test_a_change_runs_what_it_concerns(runs: Runs, analysis: Plan, tmp_path: Path) -> None:
    runs(analysis)
    write(tmp_path / "fit.sh", "2")
    assert runs(analysis) == ["fit", "plot"]
    assert runs.reasons["fit"] == ("fit.sh, which its command names, changed",)


def test_what_comes_to_the_same_leaves_the_rest_alone(
    runs: Runs, analysis: Plan, tmp_path: Path
) -> None:
    runs(analysis)
    write(tmp_path / "select.sh", "2")
    assert runs(analysis) == ["select", "plot"]
    write(tmp_path / "select.sh", "3")
    runs.made["select"] = {"events.root": "other events"}
    assert runs(analysis) == ["select", "fit", "plot"]
    assert runs.reasons["fit"] == (
        "input events.root changed",
        "needs 'select', which made others",
    )


def test_back_to_what_was_before_is_known(runs: Runs, analysis: Plan, tmp_path: Path) -> None:
    runs(analysis)
    write(tmp_path / "fit.sh", "2")
    runs(analysis)
    write(tmp_path / "fit.sh", "1")
    assert runs(analysis) == ["plot"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [("other", "is not as it was made"), (None, "is not there any more")],
)
def test_outputs_are_trusted_only_as_they_were_made(
    runs: Runs, analysis: Plan, tmp_path: Path, change: str | None, reason: str
) -> None:
    runs(analysis)
    (tmp_path / "fit.json").unlink()
    if change is not None:
        write(tmp_path / "fit.json", change)
    assert runs(analysis) == ["fit", "plot"]
    assert runs.reasons["fit"] == (f"output {tmp_path}/fit.json {reason}",)


def test_what_the_user_says_counts(runs: Runs, analysis: Plan) -> None:
    runs(analysis)
    assert runs(analysis, forced=["select"]) == ["select", "plot"]
    assert runs.reasons["select"] == ("it was asked for",)
    assert runs(analysis, no_cache=True) == ["select", "fit", "plot"]
    assert runs.reasons["fit"] == ("what earlier runs did is not to stand for it",)
    assert runs(analysis) == ["plot"]


def test_a_value_stands_for_a_function_whose_author_says_so(runs: Runs, tmp_path: Path) -> None:
    write(tmp_path / "fits.py", "1")
    tasks = [
        task("mass", call("fits:mass"), cache=True),
        task("tau", call("fits:tau")),
        task("sum", call("fits:sum"), needs=("mass",), cache=True),
    ]
    made = plan(tmp_path, *tasks)
    runs.values = {"mass": 1, "tau": 2, "sum": None}
    assert runs(made) == ["mass", "tau", "sum"]
    assert runs(made) == ["tau"]
    assert runs.results["mass"].value == 1
    assert runs.results["sum"].value is None
    write(tmp_path / "fits.py", "2")
    assert runs(made) == ["mass", "tau", "sum"]
    assert runs.reasons["mass"] == ("fits.py, where its function stands, changed",)


def test_a_run_that_goes_on_does_not_do_again_what_is_done(runs: Runs, analysis: Plan) -> None:
    assert runs(analysis, stops_before="plot") == ["select", "fit"]
    before = dict(runs.results)
    assert runs(analysis, resumes=True) == ["plot"]
    assert runs.results["fit"] is before["fit"]
    assert runs(analysis, resumes=True) == []


def test_a_run_that_goes_on_tells_changed_tasks_apart(
    runs: Runs, analysis: Plan, tmp_path: Path
) -> None:
    runs(analysis)
    write(tmp_path / "fit.sh", "2")
    assert runs(analysis, resumes=True) == ["fit"]
    assert runs.results["fit"].attempt == 2
    write(tmp_path / "fit.sh", "3")
    runs.made["fit"] = {"fit.json": "another fit"}
    assert runs(analysis, resumes=True) == ["fit", "plot"]
    assert runs.reasons["plot"] == ("needs 'fit', which made others",)


def test_without_outputs_a_need_that_ran_anew_is_a_reason(runs: Runs, tmp_path: Path) -> None:
    made = plan(tmp_path, task("select", "./select.sh"), task("fit", "./fit.sh", needs=("select",)))
    assert runs(made) == ["select", "fit"]
    assert runs(made, resumes=True) == []
    write(tmp_path / "select.sh", "2")
    assert runs(made, resumes=True) == ["select", "fit"]
    assert runs.reasons["fit"] == ("needs 'select', which ran anew",)


def test_files_that_tasks_write_by_the_way_do_not_make_them_run_again(
    runs: Runs, tmp_path: Path
) -> None:
    made = plan(
        tmp_path,
        task("select", "./select.sh -o events.root"),
        task("fit", "./fit.sh events.root", needs=("select",)),
    )
    assert runs(made) == ["select", "fit"]
    assert runs(made, resumes=True) == []


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("failed", "it failed before"),
        ("timed_out", "it ran out of time before"),
        ("cancelled", "it was stopped before"),
        ("skipped", "it was skipped before"),
    ],
)
def test_what_did_not_succeed_runs_again(
    runs: Runs, analysis: Plan, status: Any, reason: str
) -> None:
    runs(analysis)
    failed = JobResult(task="plot", attempt=1, status=status)
    runs.results["plot"] = failed
    assert runs(analysis, resumes=True) == ["plot"]
    assert runs.reasons["plot"] == (reason,)


def test_a_result_without_its_parts_is_not_believed(runs: Runs, analysis: Plan) -> None:
    runs(analysis)
    del runs.parts["plot"]
    assert runs(analysis, resumes=True) == ["plot"]
    assert runs.reasons["plot"] == ("it is not recorded what it was made of",)


def test_a_run_that_goes_on_takes_what_another_one_did(runs: Runs, analysis: Plan) -> None:
    runs(analysis)
    runs.results["fit"] = JobResult(task="fit", attempt=2, status="failed")
    assert runs(analysis, resumes=True) == []
    assert runs.results["fit"].status == "reused"


def test_in_a_folder_that_was_moved_what_made_files_runs_once_more(
    runs: Runs, tmp_path: Path
) -> None:
    def there(folder: Path) -> Plan:
        runs.folder = folder
        return plan(folder, task("select", "./select.sh", outputs=("events.root",)))

    runs.made = {"select": {"events.root": "events"}}
    write(tmp_path / "here/select.sh", "1")
    assert runs(there(tmp_path / "here")) == ["select"]
    assert runs(there(tmp_path / "here")) == []
    (tmp_path / "here").rename(tmp_path / "moved")
    assert runs(there(tmp_path / "moved")) == ["select"]
    assert runs(there(tmp_path / "moved")) == []


def foretold(runs: Runs, of: Plan, **options: Any) -> Mapping[str, Forecast]:
    return forecast(of, runs.reuse(of, **options), f"run-{runs.count}")


def test_what_is_foretold_happens(runs: Runs, analysis: Plan, tmp_path: Path) -> None:
    def compare(**options: Any) -> Mapping[str, Forecast]:
        told = foretold(runs, analysis, **options)
        ran = runs(analysis, **options)
        for name, one in told.items():
            assert one.fate == "may_run" or (one.fate == "runs") == (name in ran)
            if one.fate == "runs" and not one.reasons[0].startswith("needs"):
                assert runs.reasons[name] == one.reasons
        return told

    assert compare()["select"] == Forecast("runs", ("no earlier run has done it",))
    told = compare()
    for name in ("select", "fit"):
        reused = told[name].reused
        assert reused is not None
        assert told[name] == Forecast("reused", (), reused)
        assert reused.task == name
    assert compare(resumes=True)["plot"].fate == "reused"
    write(tmp_path / "select.sh", "2")
    told = compare(resumes=True)
    assert told["select"] == Forecast("runs", ("select.sh, which its command names, changed",))
    assert told["fit"] == Forecast("may_run", ("needs 'select', which runs",))
    assert told["plot"] == Forecast("may_run", ("needs 'fit', which may run",))
    write(tmp_path / "select.sh", "3")
    write(tmp_path / "fit.sh", "3")
    told = compare()
    assert told["fit"] == Forecast("runs", ("fit.sh, which its command names, changed",))
    assert compare(forced=["fit"])["fit"] == Forecast("runs", ("it was asked for",))


def test_behind_a_task_that_tells_nothing_all_runs(runs: Runs, tmp_path: Path) -> None:
    made = plan(
        tmp_path,
        task("select", "./select.sh"),
        task("fit", "./fit.sh", needs=("select",), outputs=("fit.json",)),
    )
    runs(made)
    told = foretold(runs, made)
    assert told["fit"] == Forecast("runs", ("needs 'select', which runs",))


def test_an_input_that_is_yet_to_be_made(runs: Runs, tmp_path: Path) -> None:
    made = plan(
        tmp_path,
        task("select", "./select.sh", outputs=("events.root",)),
        task("fit", "./fit.sh", inputs=("*.root",), outputs=("fit.json",)),
    )
    runs(made)
    write(tmp_path / "select.sh", "2")
    assert foretold(runs, made)["fit"] == Forecast("may_run", ("its inputs are yet to be made",))


def test_nothing_runs_and_nothing_is_written_by_a_forecast(
    runs: Runs, analysis: Plan, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    foretold(runs, analysis)
    assert sorted(tmp_path.rglob("*")) == before


def test_it_is_no_matter_in_which_order_tasks_are_written(runs: Runs, analysis: Plan) -> None:
    runs(analysis)

    def order(names: Sequence[str]) -> Plan:
        by_name = {one.name: one for one in analysis.tasks}
        more = task("first", "true")
        return msgspec.structs.replace(analysis, tasks=(more, *(by_name[name] for name in names)))

    assert runs(order(["select", "fit", "plot"])) == ["first", "plot"]
