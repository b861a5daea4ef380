"""Requirements as pip reads them, and what is not taken of its format."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasthep_flow.language.refusals import Refusal
from fasthep_flow.language.requirements import Complaint, file_lines, requirement_line

FOLDER = Path("/data/analysis")
DIGEST = "sha256:" + "0123456789abcdef" * 4


def refusal(text: str) -> str:
    with pytest.raises(Refusal) as caught:
        requirement_line(text, FOLDER)
    return f"{caught.value.message} | {caught.value.hint}"


TAKEN = [
    "numpy",
    "uproot==5.3.7",
    "awkward>=2.6,<3",
    "coffea[dask]~=2024.1",
    "zstandard; python_version < '3.14'",
    "fasthep-flow @ https://host/fasthep_flow-1-py3-none-any.whl",
    "hist @ git+https://github.com/scikit-hep/hist@v2.7",
    "https://host/a-1-py3-none-any.whl",
    "git+ssh://git@gitlab.cern.ch:7999/group/project.git@v1",
    "git+https://gitlab.cern.ch/group/project.git@v1#egg=project",
    f"numpy==2.1.0 --hash={DIGEST}",
    "--no-index",
    "--index-url https://host/simple",
    "--extra-index-url https://host/simple",
    "--find-links https://host/wheels",
    "--no-binary :all:",
    "--only-binary numpy,scipy",
]


@pytest.mark.parametrize("line", TAKEN)
def test_what_is_handed_on_as_it_is(line: str) -> None:
    assert requirement_line(line, FOLDER) == line
    assert requirement_line(f"  {line} ", FOLDER) == line


@pytest.mark.parametrize("line", TAKEN)
def test_the_same_is_taken_where_packaging_is_not_at_hand(
    line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_import = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("packaging"):
            raise ImportError(name)
        return plain_import(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    assert requirement_line(line, FOLDER) == line
    assert "is no requirement" in refusal("numpy=2")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("-i https://host/simple", "--index-url https://host/simple"),
        ("--index-url=https://host/simple", "--index-url https://host/simple"),
        ("-f wheels", "--find-links /data/analysis/wheels"),
        ("-fwheels", "--find-links /data/analysis/wheels"),
        ("--find-links=../wheels", "--find-links /data/analysis/../wheels"),
        ("./wheels/a-1-py3-none-any.whl", "/data/analysis/wheels/a-1-py3-none-any.whl"),
        ("a-1-py3-none-any.whl", "/data/analysis/a-1-py3-none-any.whl"),
        ("wheels/a-1.tar.gz", "/data/analysis/wheels/a-1.tar.gz"),
        ("/abs/a-1.zip", "/abs/a-1.zip"),
        (f"a==1 --hash {DIGEST}", f"a==1 --hash={DIGEST}"),
    ],
)
def test_what_is_written_out(written: str, meant: str) -> None:
    assert requirement_line(written, FOLDER) == meant


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is no requirement | write one to a line, such as numpy>=2"),
        ("a\nb", "'a\\nb' is no requirement | write one to a line"),
        ("a\x1b[31m", "is no requirement"),
        ("numpy=2.1", "did you mean 'numpy==2.1'?"),
        ("numpy 2.1", "did you mean 'numpy==2.1'?"),
        ("numpy:2.1", "did you mean 'numpy==2.1'?"),
        ("numpy>=", "is no requirement"),
        ("<your package>", "'<your package>' is a placeholder | write your own requirement"),
        ("-e .", "-e is not honoured | build a wheel of it, and name that"),
        ("--editable=./src", "--editable is not honoured"),
        ("-c limits.txt", "-c is not honoured | write the versions in the requirements"),
        ("-r other.txt", "-r stands in a requirements file | write 'requirements: FILE'"),
        ("--pre", "--pre is not honoured | ask for the version itself"),
        ("--trusted-host h", "--trusted-host is not honoured | let the index have a certificate"),
        ("--index-ulr https://h", "'--index-ulr' is not an option of requirements | did you mean "),
        ("--index-url", "--index-url wants one address"),
        ("--no-index yes", "--no-index takes no value"),
        ("--no-binary", "--no-binary wants names, or ':all:'"),
        ("-", "is not an option of requirements"),
        ("a==1 --hash=md5:00", "'md5:00' is no hash | such as sha256: and 64 digits"),
        ("a==1 --config-settings x=y", "'--config-settings' behind a requirement is not honoured"),
        (".", "'.' is no distribution: what is made of a folder would not be made anew"),
        ("./package", "build a wheel of it, and name that"),
        ("$HOME/a.whl", "no shell reads this"),
    ],
)
def test_what_is_refused(text: str, expected: str) -> None:
    assert expected in refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "--index-url https://ada:hunter2@host/simple",
        "--extra-index-url=https://__token__:hunter2@host/simple",
        "a @ https://ada:hunter2@host/a-1-py3-none-any.whl",
        "a @ https://host/a-1-py3-none-any.whl?token=hunter2",
    ],
)
def test_a_password_is_refused_and_not_repeated(text: str) -> None:
    said = refusal(text)
    assert "an address with a password would stand in the records" in said
    assert "hunter2" not in said


@given(st.text(max_size=40) | st.lists(st.sampled_from([*TAKEN, " ", "-", "=", "#"])).map("".join))
def test_any_text_is_one_line_or_refused(text: str) -> None:
    try:
        line = requirement_line(text, FOLDER)
    except Refusal:
        return
    assert line.isprintable()
    assert "\n" not in line
    # What was read once is read the same again.
    assert requirement_line(line, FOLDER) == line


@given(content=st.text(max_size=60))
def test_any_file_is_lines_or_refused(tmp_path_factory: Any, content: str) -> None:
    folder = tmp_path_factory.mktemp("r")
    (folder / "r.txt").write_text(content, encoding="utf-8", newline="")
    try:
        lines = list(file_lines("r.txt", folder))
    except Complaint as complaint:
        number = complaint.number
        lines = []
    else:
        number = 1
    assert 1 <= number <= max(1, len(content.splitlines()))
    assert all(line.text and line.text.isprintable() for line in lines)
