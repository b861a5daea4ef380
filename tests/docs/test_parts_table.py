"""The table of an identity's parts says what there is, in the words of the code."""

import re
from pathlib import Path

from tests.records.made import KEY, environment, parts_of, task

from fasthep_flow.records.content import ABSENT, UNKNOWN
from fasthep_flow.records.differences import KINDS
from fasthep_flow.records.invocation_parts import MADE

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "identity.md"
_ROW = re.compile(r"\| `([a-z-]+)( [A-Z]+)?` \| (.*) \|")


def test_all_parts_are_there_in_their_order_with_their_meaning() -> None:
    rows = [
        found.groups() for line in PAGE.read_text().splitlines() if (found := _ROW.fullmatch(line))
    ]
    assert [(kind, meaning) for kind, _, meaning in rows] == [
        (kind, one.meaning) for kind, one in KINDS.items()
    ]
    # Those that are about something are those that are told with its name.
    about = {kind for kind, thing, _ in rows if thing}
    assert about == {kind for kind, one in KINDS.items() if "{}" in one.thing}


def test_the_words_of_the_page_are_those_of_the_code(tmp_path: Path) -> None:
    text = PAGE.read_text()
    assert {f"`{word}`" for word in (ABSENT, UNKNOWN, MADE)} <= set(re.findall(r"`\w+`", text))
    one = task(environment=environment({"LUMI": "4.9"}), inputs=("nothing",))
    parts = parts_of(tmp_path, one, key=KEY)
    assert "variable LUMI" in parts
    assert parts["input nothing"] == ABSENT
