"""Files as they come, and the places that messages name."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from fasthep_flow.errors import ExitCode, WorkflowError
from fasthep_flow.language import document as documents
from fasthep_flow.language import read_text, read_workflow


def text_of(error: pytest.ExceptionInfo[WorkflowError]) -> str:
    assert error.value.exit_code == ExitCode.WORKFLOW
    return str(error.value)


def refused(content: bytes, folder: Path) -> str:
    path = folder / "workflow.yaml"
    path.write_bytes(content)
    with pytest.raises(WorkflowError) as error:
        read_workflow(path)
    return text_of(error).replace(f"{folder}/", "")


def test_a_file_knows_its_place_and_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"tasks: []\n"
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "w.yaml").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    document = read_workflow(Path("inner/w.yaml"))
    assert document.file == "inner/w.yaml"
    assert document.source == tmp_path.resolve() / "inner" / "w.yaml"
    assert document.directory == tmp_path.resolve() / "inner"
    assert document.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_a_linked_file_belongs_to_the_folder_of_the_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "w.yaml").write_text("a: 1\n")
    (tmp_path / "linked.yaml").symlink_to("real/w.yaml")
    assert read_workflow(tmp_path / "linked.yaml").directory == tmp_path.resolve()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError) as error:
        read_workflow(tmp_path / "no.yaml")
    first, hint = text_of(error).splitlines()
    assert first == f"{tmp_path}/no.yaml cannot be read: No such file or directory"
    assert hint.strip() == "name the workflow file"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError) as error:
        read_workflow(tmp_path)
    assert text_of(error).endswith("cannot be read: Is a directory")


def test_names_that_are_none() -> None:
    with pytest.raises(WorkflowError) as error:
        read_workflow(Path("a\0b"))
    assert text_of(error) == "'a\\x00b' is not the name of a file"


def test_a_path_that_no_record_could_name(tmp_path: Path) -> None:
    path = tmp_path / "w\udcff.yaml"
    path.write_text("a: 1\n")
    with pytest.raises(WorkflowError) as error:
        read_workflow(path)
    assert "is not UTF-8" in text_of(error)


def test_a_file_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MOST_BYTES", 2**20)
    assert refused(b"#" * (2**20 + 1), tmp_path) == (
        "workflow.yaml is larger than 1 MiB: this is no workflow"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: 1\nb: \xff\n", "workflow.yaml:2:4: the byte 0xff is not UTF-8"),
        (b"\xef\xbb\xbfa: \xc3", "workflow.yaml:1:4: the byte 0xc3 is not UTF-8"),
        ("ü: é\r\nb: ".encode() + b"\x80", "workflow.yaml:2:4: the byte 0x80 is not UTF-8"),
        (b"\x7fELF\x02\x01\0\0", "workflow.yaml:1:1: the character U+007F is not allowed in YAML"),
        (b"a: x\0y", "workflow.yaml:1:5: the character NUL is not allowed in YAML"),
        (b"a:\n\tb: 1\n", "workflow.yaml:2:1: a tab cannot indent"),
        (b"\xff\xfea\0:\0", "workflow.yaml:1:1: the byte 0xff is not UTF-8"),
    ],
)
def test_what_is_no_text(content: bytes, expected: str, tmp_path: Path) -> None:
    assert refused(content, tmp_path).startswith(expected)


def test_the_line_is_shown_with_a_caret(tmp_path: Path) -> None:
    assert refused(b"name: x\ntasks: [a,\n  b: {c: 1\n", tmp_path) == (
        "workflow.yaml:3:6: this bracket is not closed, or a comma is missing "
        "before workflow.yaml:4:1\n"
        "    3 |   b: {c: 1\n"
        "      |      ^"
    )


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_they_like_and_a_byte_order_mark_does_not_count(
    end: str, tmp_path: Path
) -> None:
    text = f"\ufeffä: {{β: 1}}{end}c:{end}- d{end}- {{e: [f, g]}}{end}"
    path = tmp_path / "w.yaml"
    path.write_bytes(text.encode())
    document = read_workflow(path)

    def at(*steps: Any, key: bool = False) -> tuple[int, int, str]:
        place = document.place(steps, key=key)
        return place.line, place.column, place.path

    assert at() == (1, 1, "")
    assert at("ä") == (1, 4, "['ä']")
    assert at("ä", "β") == (1, 8, "['ä']['β']")
    assert at("ä", "β", key=True) == (1, 5, "['ä']['β']")
    assert at("c", 0) == (3, 3, "c[0]")
    assert at("c", 1, "e", 1) == (4, 11, "c[1].e[1]")
    assert at("c", 1, "e", 7) == (4, 7, "c[1].e")
    assert at("c", 1, "nothing", "here") == (4, 3, "c[1]")
    assert document.problem(("c", 1, "e"), "wrong").source == "- {e: [f, g]}"


def test_a_line_without_end_or_with_colours_is_not_shown(tmp_path: Path) -> None:
    document = read_text(f"a: 1\nb: {'x' * 500}\nc: '\u202e'\n", file="w", directory=tmp_path)
    assert document.problem(("a",), "wrong").source == "a: 1"
    assert document.problem(("b",), "wrong").source is None
    assert document.problem(("c",), "wrong").source is None


def test_keys_in_paths_stay_on_one_short_line(tmp_path: Path) -> None:
    document = read_text(
        f'"a b": 1\n"x\\ny": 2\n? {"k" * 3000}\n: 3\n', file="w", directory=tmp_path
    )
    assert document.place(("a b",)).path == "['a b']"
    assert document.place(("x\ny",)).path == "['x\\ny']"
    assert len(document.place(("k" * 3000,)).path) < 120


@pytest.mark.parametrize(
    "text",
    [
        "tasks:\n- environment:\n    variables:\n      PASSWORD: 'hunter2\n",
        "tasks:\n- environment:\n    variables:\n      A: b\n\n      PASSWORD: @hunter2\n",
        "tasks:\n- environment: {variables: {PASSWORD: @hunter2}}\n",
        '{"global": {"variables": {"PASSWORD": "hunter2}}}\n',
        "global:\n  variables:\n  - common.env\n  - PASSWORD: `hunter2\n",
        "global:\n  variables: &v\n    PASSWORD: hunter2: 1\n",
        "global:\n  variables:\n    PASSWORD: *hunter2\n",
        '{"global": {"variables": {\n"A": "b",\n"PASSWORD": "hunter2\n}}}\n',
        "global:\n  variables:\n    A: |\n      x\n     y\n    PASSWORD: <hunter2>: 1\n",
        "variables:\n\tTOKEN: hunter2\n",
        "tasks:\n- environment:\n    variables:\n\tTOKEN: hunter2\n",
        "tasks:\n- environment:\n    variables:\n      A: b\n\tc\n      TOKEN: hunter2: x\n",
        "global:\n  variables: TOKEN: hunter2\n",
        "global:\n  variabels:\n    TOKEN: hunter2: x\n",
        "global:\n  secrets:\n    TOKEN: hunter2: x\n",
        "global:\n  credentials: {TOKEN: @hunter2}\n",
    ],
)
def test_no_value_of_a_variable_is_shown_where_the_file_is_broken(
    text: str, tmp_path: Path
) -> None:
    with pytest.raises(WorkflowError) as error:
        read_text(text, file="workflow.yaml", directory=tmp_path)
    assert "workflow.yaml:" in str(error.value)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "global:\n  variables:\n    A: b\n  name: @x\n",
        "global:\n  variables: {A: b}\n\n  name: @x\n",
        '{"global": {"variables": {"A": "b"}},\n\n\n"name": @x\n',
    ],
)
def test_a_broken_line_elsewhere_is_shown(text: str, tmp_path: Path) -> None:
    with pytest.raises(WorkflowError) as error:
        read_text(text, file="workflow.yaml", directory=tmp_path)
    assert error.value.problems[0].source in {"  name: @x", '"name": @x'}


def test_scalars_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    document = read_text("a: [1, {b: x}]\nc: {}\nd: y\n", file="w", directory=tmp_path)
    assert list(document.scalars()) == [(("a", 0), 1), (("a", 1, "b"), "x"), (("d",), "y")]
    assert list(document.scalars(("a", 1))) == [(("a", 1, "b"), "x")]


def test_a_list_as_it_is_spelt(tmp_path: Path) -> None:
    document = read_text("a: [1.10, 0x1F, TRUE, x, null, [1.0]]\n", file="w", directory=tmp_path)
    assert document.spelled(document.value(("a",))) == [  # type: ignore[arg-type]
        "1.10",
        "0x1F",
        "TRUE",
        "x",
        None,
        [1.0],
    ]


def test_text_with_half_a_character_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError) as error:
        read_text("a: \ud800", file="--workflow", directory=tmp_path)
    assert str(error.value).startswith("--workflow:1:4: the byte 0xed is not UTF-8")
