"""Every block of the documentation is what it claims: YAML is planned, commands are run.

What a block is for stands above it, in a comment that readers do not see::

    <!-- fragment: task -->    keys of a task; of `tasks`: items of the list; of `file`: keys of it
    <!-- fragment: settings --> a settings file
    <!-- plug-in -->           needs the package that its page makes: see test_plug_in.py
    <!-- refused: words -->    a workflow that is refused with these words
    <!-- file: name -->        is written to that file for the blocks below
    <!-- host: NAME -->        needs a variable of the host's
    <!-- part of: path -->     these lines stand in that file of the repository
    <!-- run -->               these commands print just this, one page in a row

A YAML block with nothing above it is a workflow. A text block that starts with a place in
``workflow.yaml`` is all that is told of the refused block before it.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import typer

from fasthep_flow.cli import app
from fasthep_flow.errors import WorkflowError
from fasthep_flow.language.settings import read_settings
from fasthep_flow.model import JobResult
from fasthep_flow.records.run import Event
from fasthep_flow.records.sealed import unsealed
from fasthep_flow.workflow import load_plan

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts),
]
# Where the pages say that their reader is.
HOME = "/home/ada/first"

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+)(?P<language>[^\n`]*)$")
_MARK = re.compile(r"^<!-- *(?P<key>[a-z -]+?)(?:: *(?P<value>.*?))? *-->$")
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_SHELL_ENDS = frozenset({"|", ">", ">>", "&&", "||", ";", "2>", "&"})


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    marks: dict[str, str]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    marks: dict[str, str] = {}
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), start=1))
    for number, line in lines:
        if mark := _MARK.match(line.strip()):
            marks[mark["key"]] = mark["value"] or ""
        elif fence := _FENCE.match(line):
            body = []
            for _, inner in lines:
                if inner.strip() == fence["fence"]:
                    break
                body.append(inner.removeprefix(fence["indent"]))
            text = "\n".join(body) + "\n"
            yield Block(page, number, fence["language"].strip(), text, marks)
            marks = {}
        elif line.strip():
            marks = {}


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def whole(block: Block) -> str:
    """The workflow that a block is, or is a part of."""
    fragment = block.marks.get("fragment")
    if fragment is None:
        return block.text
    task = [
        "  - name: task",
        "    type: fasthep_flow.operators.BashOperator",
        "    kwargs:",
        '      bash_command: "true"',
    ]
    lines = block.text.splitlines()
    if fragment == "file":
        lines = [*lines, "tasks:", *task]
    elif fragment == "tasks":
        lines = ["tasks:", *(f"  {line}" for line in lines)]
    else:
        assert fragment == "task", f"{block}: there is no such fragment as {fragment!r}"
        lines = ["tasks:", *task, *(f"    {line}" for line in lines)]
    return "\n".join([*lines, ""])


def write_files(folder: Path, block: Block) -> None:
    """Write what the page has its reader write before the block."""
    for other in blocks_of(block.page):
        if other.line >= block.line:
            return
        if "file" in other.marks:
            path = folder / other.marks["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(other.text, encoding="utf-8")


def problems_of(folder: Path, block: Block, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is told of a block's workflow; empty if it can be planned."""
    write_files(folder, block)
    (folder / "workflow.yaml").write_text(whole(block), encoding="utf-8")
    monkeypatch.chdir(folder)
    if name := block.marks.get("host"):
        monkeypatch.setenv(name, "a value")
    try:
        load_plan(Path("workflow.yaml"))
    except WorkflowError as error:
        return str(error)
    return ""


def defined_by_settings(folder: Path, block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan a workflow on each orchestration that a settings file defines."""
    (folder / "settings.yaml").write_text(block.text, encoding="utf-8")
    monkeypatch.setenv("FASTHEP_FLOW_CONFIG", str(folder / "settings.yaml"))
    fragment = block._replace(text="", marks={"fragment": "file"})
    (folder / "workflow.yaml").write_text(whole(fragment), encoding="utf-8")
    (settings,) = read_settings(os.environ)
    assert settings.orchestrations
    for one in settings.orchestrations:
        plan = load_plan(folder / "workflow.yaml", flow=one.name)
        assert plan.flow.origin == one.origin
    if settings.flow is not None:
        assert str(load_plan(folder / "workflow.yaml").flow) == settings.flow


def commands_of(block: Block) -> list[tuple[str, list[str]]]:
    """The commands of a console block, each with the lines that it prints."""
    told: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            told.append((line[2:], []))
        elif told and told[-1][0].endswith("\\"):
            command, printed = told.pop()
            told.append((f"{command}\n{line}", printed))
        else:
            assert told, f"{block}: a console block starts with a command behind '$ '"
            told[-1][1].append(line)
    return told


def parse(arguments: list[str]) -> None:
    """Read a command line as the command does, and do nothing."""
    # Typer brings a click of its own along, which has no public types.
    group: Any = typer.main.get_command(app)
    with group.make_context("fasthep-flow", list(arguments)) as context:
        left = [*context._protected_args, *context.args]
        if left:
            name, command, rest = group.resolve_command(context, left)
            with command.make_context(name, rest, parent=context):
                pass


def plain(printed: str) -> list[str]:
    """What is printed without what is different each time."""
    printed = re.sub(r"\d{8}T\d{6}Z-[0-9a-f]{4}", "RUN", printed)
    printed = re.sub(r"\d+ min \d+ s|\d+(\.\d+)? s\b", "TIME", printed)
    printed = re.sub(r"(?<=TIME), (?:under )?[\d.]+ [KMG]?i?B", "", printed)
    printed = re.sub(r"this machine has [\d.]+[KMGT]i", "this machine has SIZE", printed)
    printed = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "WHEN", printed)
    return [line.rstrip() for line in printed.rstrip().splitlines()]


def of_language(*languages: str) -> list[object]:
    return [
        pytest.param(block, id=str(block))
        for block in BLOCKS
        if block.language in languages and "plug-in" not in block.marks
    ]


@pytest.mark.parametrize("block", of_language("yaml"))
def test_yaml_is_planned_or_refused_as_it_says(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if block.marks.get("fragment") == "settings":
        defined_by_settings(tmp_path, block, monkeypatch)
        return
    if "part of" in block.marks:
        assert block.text in (ROOT / block.marks["part of"]).read_text(encoding="utf-8")
        return
    told = problems_of(tmp_path, block, monkeypatch)
    if "refused" in block.marks:
        assert block.marks["refused"] in told
    else:
        assert not told


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=str(block))
        for block in BLOCKS
        if block.language == "text" and block.text.startswith("workflow.yaml:")
    ],
)
def test_messages_are_told_as_they_are(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = [
        other
        for other in blocks_of(block.page)
        if other.line < block.line and "refused" in other.marks
    ]
    assert problems_of(tmp_path, refused[-1], monkeypatch).splitlines() == block.text.splitlines()


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=str(page.relative_to(ROOT)))
        for page in PAGES
        if any("run" in block.marks for block in blocks_of(page))
    ],
)
def test_commands_print_what_the_page_says(page: Path, tmp_path: Path) -> None:
    folder = tmp_path / "first"
    folder.mkdir()
    environment = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "COLUMNS": "80",
    }
    for block in blocks_of(page):
        if "file" in block.marks:
            (folder / block.marks["file"]).write_text(block.text, encoding="utf-8")
        if "run" not in block.marks:
            continue
        code = 0
        for command, printed in commands_of(block):
            done = subprocess.run(
                ["bash", "-c", f"(exit {code}); {command}"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                check=False,
            )
            code = done.returncode
            seen = done.stdout.replace(str(folder), HOME)
            assert plain(seen) == plain("\n".join(printed)), f"{block}: {command}\n{seen}"


@pytest.mark.parametrize("block", of_language("console", "shell", "bash"))
def test_commands_have_the_options_that_they_are_given(block: Block) -> None:
    assert block.language == "console", "commands stand in console blocks, behind '$ '"
    for command, _ in commands_of(block):
        words = shlex.split(command, comments=True)
        if not words or words[0] != "fasthep-flow":
            continue
        ends = [index for index, word in enumerate(words) if word in _SHELL_ENDS]
        parse(words[1 : ends[0] if ends else None])


@pytest.mark.parametrize("block", of_language("json"))
def test_json_is_a_record(block: Block) -> None:
    for text in [block.text] if block.text.startswith("{\n") else block.text.splitlines():
        record = msgspec.json.decode(text)
        if "wall_s" in record:
            assert record.keys() == {*JobResult.__struct_fields__, "crc"}
        else:
            assert record.keys() <= {*Event.__struct_fields__, "crc"}
            assert unsealed(text.encode()) is not None


@pytest.mark.parametrize("block", of_language("python"))
def test_python_is_python(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_every_block_says_what_it_is(page: Path) -> None:
    known = {
        "yaml",
        "console",
        "python",
        "json",
        "ini",
        "text",
        "{include}",
        "{toctree}",
        "{eval-rst}",
        "bash",
        "toml",
    }
    for block in blocks_of(page):
        kind = block.language.split()[0]
        assert kind in known, f"{block}: nothing tests a block of {kind!r}"


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_pages_name_no_option_that_there_is_not(page: Path) -> None:
    group: Any = typer.main.get_command(app)
    known = {"--help"}
    for command in (group, *group.commands.values()):
        known.update(*(parameter.opts for parameter in command.params))
    of_others = {"--gpus", "--nv", "--threshold"}
    # Of requirements files.
    of_others |= {"--index-url", "--extra-index-url", "--find-links", "--no-index", "--pre"}
    of_others |= {"--no-binary", "--only-binary"}
    text = page.read_text(encoding="utf-8")
    if page.name == "images.md":
        # What engines have, and an author may not write.
        text = "\n".join(line for line in text.splitlines() if not line.startswith("| `--"))
    named = {code.split()[0] for code in _CODE.findall(text) if re.match("--[a-z]", code)}
    assert named <= known | of_others


def test_links_of_the_readme_lead_somewhere() -> None:
    page = ROOT / "README.md"
    targets = [match["target"] for match in _LINK.finditer(page.read_text(encoding="utf-8"))]
    assert targets
    for target in targets:
        if not target.startswith(("https://", "#")):
            assert (ROOT / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_pages_know_no_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"/(work|root|tmp)/", text)
