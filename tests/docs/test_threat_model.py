"""Every claim of the page on trust names tests, and these are there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "explanation" / "threat-model.md"
NAMED = re.findall(r"`(tests/[a-z_/]+\.py)::(test_\w+)`", PAGE.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED)))
def test_a_test_that_is_named_is_there(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_row_of_what_is_done_names_one() -> None:
    sections = PAGE.read_text(encoding="utf-8").split("\n## ")
    tables = [section for section in sections if "| shown by |" in section]
    assert len(tables) > 4
    for section in tables:
        rows = [line for line in section.splitlines() if line.startswith("| ")]
        for row in rows[1:]:
            assert "`tests/" in row, row
