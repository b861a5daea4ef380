"""The tables of the reference hold what there is: no more, and no less."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from typer.testing import CliRunner

from fasthep_flow.cli import app
from fasthep_flow.environments import RUNTIMES
from fasthep_flow.errors import ExitCode, PlanError
from fasthep_flow.language.data import DIGESTS
from fasthep_flow.language.engine_options import check_options
from fasthep_flow.language.images import parse_image
from fasthep_flow.language.quantities import parse_memory, parse_time
from fasthep_flow.language.refusals import Refusal
from fasthep_flow.language.schema import (
    NOT_YET,
    CredentialModel,
    DataModel,
    EnvironmentModel,
    GlobalModel,
    ImageModel,
    PythonModel,
    ResourcesModel,
    RetriesModel,
    ScriptModel,
    TaskModel,
    WorkflowFile,
)
from fasthep_flow.model import FailureKind, ImageForm, JobResult, Pull
from fasthep_flow.operators import OPERATORS
from fasthep_flow.orchestrators import RUNNERS
from fasthep_flow.records.run import Event
from fasthep_flow.workflow import load_plan, run_plan

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
_CODE = re.compile(r"`([^`\n]+)`")


def rows_of(page: Path, heading: str = "") -> Iterator[list[str]]:
    """The rows of the tables below a heading, down to the next one of its rank; all if empty."""
    inside = not heading
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and heading:
            rank = len(heading) - len(heading.lstrip("#"))
            inside = line == heading or (inside and not re.match(f"#{{1,{rank}}} ", line))
        elif inside and line.startswith("|") and not line.startswith("|---"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def names_of(page: Path, heading: str = "", column: int = 0) -> set[str]:
    """What stands in code in a column of the tables below a heading."""
    return {name for row in rows_of(page, heading) for name in _CODE.findall(row[column])}


def keys_of(model: type[object]) -> set[str]:
    fields = model.model_fields  # type: ignore[attr-defined]
    return {field.alias or name for name, field in fields.items()}


def options_of(*command: str) -> set[str]:
    """The options of a command as its help names them."""
    told = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"}).output
    found = set()
    for option in re.findall(r"^  (-\S(?:.*?\S)?)(?:  |$)", told, flags=re.MULTILINE):
        choice = re.fullmatch(r"(--[a-z-]+) <(.*)>", option)
        if choice:
            found |= {f"{choice[1]} {value}" for value in choice[2].split("|")}
        else:
            found |= set(option.split(", "))
    found |= set(re.findall(r"^  (FILE|TASK|WHAT|RUN|OUTPUT) <", told, flags=re.MULTILINE))
    if "  [--] CMD [ARGS]..." in told:
        found.add("CMD [ARGS]...")
    return found


@pytest.mark.parametrize(
    "command",
    [
        *("lint", "plan", "why", "check", "run", "resume", "clean"),
        *("lock", "pull", "env", "shell", "exec", "list"),
    ],
)
def test_command_line_page_lists_all_options(command: str) -> None:
    words = {
        "why": "TASK [FILE]",
        "resume": "RUN [FILE]",
        "clean": "[OUTPUT]",
        "env": "TASK [FILE]",
        "shell": "TASK [FILE]",
        "exec": "TASK [--] CMD [ARGS]...",
        "list": "WHAT [FILE]",
    }
    heading = f"## `fasthep-flow {command} {words.get(command, '[FILE]')}`"
    assert names_of(REFERENCE / "command-line.md", heading) == options_of(command)


def test_command_line_page_lists_all_commands() -> None:
    page = (REFERENCE / "command-line.md").read_text(encoding="utf-8")
    told = CliRunner().invoke(app, ["--help"]).output
    commands = re.findall(r"^  ([a-z]+)  ", told.partition("Commands:")[2], flags=re.MULTILINE)
    heading = r"^## `fasthep-flow ([a-z]+) (?:TASK|WHAT|RUN|\[OUTPUT\]|\[FILE\])"
    assert re.findall(heading, page, flags=re.MULTILINE) == commands
    assert names_of(REFERENCE / "command-line.md", "## `fasthep-flow`") == options_of()
    assert options_of("execute") == options_of("run")


@pytest.mark.parametrize("page", [ROOT / "README.md", REFERENCE / "exit-codes.md"])
def test_exit_codes_are_those_that_there_are(page: Path) -> None:
    told = [row[0] for row in rows_of(page) if re.fullmatch(r"[\d+n]+", row[0])]
    ours = [str(code.value) for code in ExitCode if code is not ExitCode.INTERRUPTED]
    assert told == [*ours, "128+n"]


def test_workflow_page_lists_all_keys() -> None:
    page = REFERENCE / "workflow-file.md"
    assert names_of(page, "## The file") >= keys_of(WorkflowFile)
    assert names_of(page, "## `tasks`") == keys_of(TaskModel)
    assert names_of(page, "## `global`") == {"output.directory"}
    assert keys_of(GlobalModel) - keys_of(EnvironmentModel) == {"output"}
    resources = {f"resources.{key}" for key in keys_of(ResourcesModel)}
    image = {f"image.{key}" for key in keys_of(ImageModel)}
    others = keys_of(EnvironmentModel) - {"resources"}
    assert names_of(page, "## `environment`") == resources | image | others


@pytest.mark.parametrize(
    ("section", "model"),
    [
        ("setup", ScriptModel),
        ("python", PythonModel),
        ("credentials", CredentialModel),
        ("extra_data", DataModel),
        ("retries", RetriesModel),
    ],
)
def test_workflow_page_lists_the_keys_of_long_forms(section: str, model: type[object]) -> None:
    rows = rows_of(REFERENCE / "workflow-file.md", f"## `{section}`")
    # Their tables alone have four columns.
    told = {name for row in rows if len(row) == 4 for name in _CODE.findall(row[0])}
    assert told == keys_of(model)


def test_workflow_page_lists_all_digests() -> None:
    rows = rows_of(REFERENCE / "workflow-file.md", "## `extra_data`")
    (told,) = (row[3] for row in rows if row[0] == "`digest`")
    assert {name.rstrip(":") for name in _CODE.findall(told)} == set(DIGESTS)


def test_workflow_page_lists_what_is_not_supported_yet() -> None:
    page = REFERENCE / "workflow-file.md"
    rows = rows_of(page, "## Not supported yet")
    assert sorted(name for row in rows for name in _CODE.findall(row[0])) == sorted(NOT_YET)


def test_workflow_page_has_a_section_for_every_operator() -> None:
    page = (REFERENCE / "workflow-file.md").read_text(encoding="utf-8")
    assert re.findall(r"^### `(fasthep_flow\..*)`$", page, flags=re.MULTILINE) == list(OPERATORS)


def test_flows_page_lists_all_runners() -> None:
    page = REFERENCE / "flows.md"
    flows = [_CODE.findall(row[0])[0] for row in rows_of(page) if row[0].startswith("`")]
    known = [f"{transform}::{runner}" for transform in RUNNERS for runner in RUNNERS[transform]]
    assert set(flows) == set(known)
    # The first one of a transform is its default: the page says so of its own order.
    first = {flow.partition("::")[0]: flow for flow in reversed(flows[: len(known)])}
    assert first == {name: f"{name}::{runners[0]}" for name, runners in RUNNERS.items()}


def test_quantities_page_lists_suffixes_that_are_read() -> None:
    page = REFERENCE / "quantities.md"
    binary, decimal = (
        _CODE.findall(row[0]) for row in rows_of(page, "## Memory") if "powers" in row[1]
    )
    for power, (small, large) in enumerate(zip(decimal, binary, strict=True), start=1):
        number = 2000 if power == 1 else 2
        assert parse_memory(f"{number}{small}") == number * 1000**power
        assert parse_memory(f"{number}{large}") == number * 1024**power
    for unit in names_of(page, "## Times"):
        assert parse_time(f"2{unit}") > 0


MEANINGS = {"an empty value": "", "two lines": "a\nb"}


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        pytest.param(line, row[1], id=line)
        for row in rows_of(REFERENCE / "variables.md", "## `.env` files")
        for line in _CODE.findall(row[0])
    ],
)
def test_env_files_are_read_as_the_page_says(line: str, meaning: str, tmp_path: Path) -> None:
    (tmp_path / "some.env").write_text(f"{line}\n", encoding="utf-8")
    if meaning == "an error":
        with pytest.raises(PlanError, match=r"some\.env:1"):
            variables_of(tmp_path, "some.env")
        return
    as_written = line.partition("=")[2]
    wanted = as_written if "as written" in meaning else MEANINGS.get(meaning, meaning.strip("`"))
    assert variables_of(tmp_path, "some.env")["NAME"] == wanted


@pytest.mark.parametrize(
    ("written", "meaning"),
    [
        pytest.param(written, row[1], id=written)
        for row in rows_of(REFERENCE / "variables.md", "## Values in a mapping")
        for written in _CODE.findall(row[0])
    ],
)
def test_values_are_read_as_the_page_says(
    written: str, meaning: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAME", "of the host")
    of_host = meaning.startswith("the host's value")
    wanted = "of the host" if of_host else MEANINGS.get(meaning, meaning.strip("`"))
    assert variables_of(tmp_path, f"{{NAME: {written}}}")["NAME"] == wanted


def variables_of(folder: Path, written: str) -> dict[str, str]:
    path = folder / "workflow.yaml"
    path.write_text(
        f"""
        tasks:
          - name: task
            type: fasthep_flow.operators.BashOperator
            kwargs: {{bash_command: env}}
            environment: {{variables: {written}}}
        """,
        encoding="utf-8",
    )
    variables = load_plan(path).tasks[0].environment.variables
    return {name: variable.value for name, variable in variables.items()}


ANALYSIS = Path("/data/analysis")


@pytest.mark.parametrize(
    ("written", "meaning"),
    [
        pytest.param(*_CODE.findall(row[0]), row[1], id=row[0])
        for heading in ("## In a registry", "## On this machine")
        for row in rows_of(REFERENCE / "images.md", heading)
        if row[0] != "written"
    ],
)
def test_images_are_read_as_the_page_says(written: str, meaning: str) -> None:
    meant = written if "as written" in meaning else _CODE.findall(meaning)[0]
    image = parse_image(written, ANALYSIS)
    assert image.name == meant
    assert bool(image.remarks) == ("warning" in meaning)


def test_images_page_names_all_forms() -> None:
    page = REFERENCE / "images.md"
    rows = [*rows_of(page, "## In a registry"), *rows_of(page, "## On this machine")]
    forms = {parse_image(_CODE.findall(row[0])[0], ANALYSIS).form for row in rows if "`" in row[0]}
    assert forms == set(get_args(ImageForm))


@pytest.mark.parametrize("written", sorted(names_of(REFERENCE / "images.md", "## What is refused")))
def test_images_are_refused_as_the_page_says(written: str) -> None:
    with pytest.raises(Refusal):
        parse_image(written, ANALYSIS)


def test_images_page_lists_the_long_form() -> None:
    page = REFERENCE / "images.md"
    assert names_of(page, "## The long form") == keys_of(ImageModel)
    choices = {row[0]: set(_CODE.findall(row[1])) for row in rows_of(page, "## The long form")}
    assert choices["`pull`"] == set(get_args(Pull))
    assert choices["`runtime`"] == RUNTIMES.keys() - {"native"}


@pytest.mark.parametrize("option", sorted(names_of(REFERENCE / "images.md", "## `options`")))
def test_options_are_refused_as_the_page_says(option: str) -> None:
    assert any(list(check_options([option], runtime)) for runtime in RUNTIMES)


@pytest.mark.parametrize("image", [f"debian@sha256:{'0' * 64}", f"debian:12@sha256:{'0' * 64}"])
def test_images_by_digest_are_read_as_the_page_says(image: str) -> None:
    assert parse_image(image, ANALYSIS).name == f"docker.io/library/{image}"


def test_run_folder_page_lists_all_fields() -> None:
    page = REFERENCE / "run-folder.md"
    assert names_of(page, "## `events.jsonl`") >= {*Event.__struct_fields__}
    documented = names_of(page, "## `result.json`")
    fields = {*JobResult.__struct_fields__, *get_args(FailureKind)}
    assert documented == fields


def test_run_folder_page_lists_all_files(tmp_path: Path) -> None:
    page = REFERENCE / "run-folder.md"
    directory, _ = run_hello(tmp_path)
    found = {
        str(path.relative_to(directory))
        .replace("tasks/hello/1/", "tasks/<slug>/<attempt>/")
        .replace("drivers/1.", "drivers/<number>.")
        for path in directory.rglob("*")
        if path.is_file()
    }
    assert {_CODE.findall(row[0])[0] for row in rows_of(page, "# Run folder") if "." in row[0]} >= (
        found
    )
    fields = msgspec.json.decode((directory / "run.json").read_bytes()).keys()
    assert names_of(page, "## `run.json`") == set(fields)


def test_variables_that_a_task_finds_are_those_that_are_listed(tmp_path: Path) -> None:
    _, printed = run_hello(tmp_path)
    page = REFERENCE / "environment-variables.md"
    names = names_of(page) - names_of(page, "## What the command is told")
    found = {line.partition("=")[0] for line in printed.splitlines()}
    # Settings of whoever runs it are the host's, which a task without an image has too.
    assert {name for name in found if not name.startswith("FASTHEP_FLOW_")} == names


def run_hello(folder: Path) -> tuple[Path, str]:
    """The folder of a run that has a task with all there is to be told, and what it printed."""
    path = folder / "workflow.yaml"
    path.write_text(
        """
        tasks:
          - name: hello
            type: fasthep_flow.operators.BashOperator
            kwargs: {bash_command: env | grep ^FASTHEP_; echo told >&2}
            environment:
              resources: {cpus: 100m, memory: 256Mi}
              extra_data: workflow.yaml
        """,
        encoding="utf-8",
    )
    report = run_plan(load_plan(path))
    assert report.succeeded
    return report.directory, report.outcomes["hello"].result.stdout_tail
