"""YAML text -> data and places, with either of PyYAML's parsers."""

from __future__ import annotations

import gc
import json
import math
import string
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fasthep_flow.language import tree
from fasthep_flow.language.complaints import Broken
from fasthep_flow.language.scalars import LONGEST_NUMBER, resolve

PARSERS = [
    pytest.param(yaml.SafeLoader, id="python"),
    pytest.param(
        getattr(yaml, "CSafeLoader", None),
        id="libyaml",
        marks=pytest.mark.skipif(not hasattr(yaml, "CSafeLoader"), reason="no libyaml here"),
    ),
]
plain_text = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cn", "Cs", "Zl", "Zp"))
)
trees = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | plain_text,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(plain_text.filter(lambda key: key != "<<"), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.fixture(params=PARSERS, autouse=True)
def _parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "_PARSER", request.param)


def data(text: str) -> Any:
    built = tree.build(text)
    assert not built.complaints
    return built.data


def complaint(text: str) -> str:
    (only,) = tree.build(text).complaints
    return f"{only.index}: {only.message}"


def broken(text: str) -> str:
    with pytest.raises(Broken) as caught:
        tree.build(text)
    return f"{caught.value.complaint.index}: {caught.value.complaint.message}"


@pytest.mark.parametrize(
    "text",
    [
        *("yes", "no", "on", "off", "y", "n", "Yes", "NO", "On"),
        *("012", "-07", "00", "0b1", "1_000", "0o8", "0xg", "1e", "1.2.3", "+-1", ".e1", "e3"),
        *("1:30", "1:30:00", "2024-01-01", "="),
        *("tRUE", "nuLL", ".Inff", "inf", "nan", "Infinity"),
    ],
)
def test_what_yaml_1_1_took_for_something_else_is_text(text: str) -> None:
    assert data(f"a: {text}") == {"a": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("Null", None),
        ("true", True),
        ("FALSE", False),
        ("0", 0),
        ("-12", -12),
        ("+7", 7),
        ("0o17", 15),
        ("0x1F", 31),
        ("1e3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-0.25E-2", -0.0025),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("12345678901234567890123", 12345678901234567890123),
    ],
)
def test_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    built = tree.build(f"a: {text}")
    assert built.data == {"a": value}
    assert type(built.data["a"]) is type(value)
    if value is not None or text:
        assert text in built.spellings.values()


def test_quotes_make_text_of_anything() -> None:
    assert data("""[ "1", '1', "true", "", '~', "<<" ]""") == ["1", "1", "true", "", "~", "<<"]


def test_not_a_number_is_noticed() -> None:
    assert math.isnan(tree.build("a: .nan").data["a"])
    assert tree.build("a: .nan").non_finite
    assert tree.build("a: 1e999").non_finite
    assert not tree.build("a: 1e99").non_finite


def test_a_number_that_python_itself_refuses_to_read() -> None:
    assert complaint(f"a: {'9' * 5000}") == "3: a number of 5000 characters is too long"
    assert data(f"a: '{'9' * 5000}'") == {"a": "9" * 5000}
    assert resolve("9" * LONGEST_NUMBER) == int("9" * LONGEST_NUMBER)


def test_keys_are_text_as_they_are_spelt() -> None:
    assert data("{1: a, 1.50: b, true: c, null: d, on: e}") == {
        "1": "a",
        "1.50": "b",
        "true": "c",
        "null": "d",
        "on": "e",
    }


@pytest.mark.parametrize("key", ["? [a]\n: 1\n", "? {a: 1}\n: 1\n", "x: &x [1]\n*x : 1\n"])
def test_a_key_that_is_no_text(key: str) -> None:
    built = tree.build(key + "b: 2\n")
    (only,) = built.complaints
    assert only.message == "a key must be text"
    assert built.data["b"] == 2


def test_equal_keys_name_both_places() -> None:
    built = tree.build("a: 1\nb: {c: 1, c: {d: 2}}\n'a': 3\n")
    assert [(item.index, item.other) for item in built.complaints] == [(15, 9), (26, 0)]
    assert built.data == {"a": 1, "b": {"c": 1}}


@pytest.mark.parametrize(
    "tag",
    ["!x", "!!python/object:os.system", "!!binary", "!!set", "!<tag:example.org,2000:a>"],
)
@pytest.mark.parametrize("node", ["a", "[a]", "{a: 1}", "'a'"])
def test_tags_are_refused(tag: str, node: str) -> None:
    assert "this tag is not allowed" in complaint(f"a: {tag} {node}")


def test_a_tag_on_a_key_is_refused() -> None:
    assert "this tag is not allowed" in complaint("!x a: 1")


def test_tags_of_the_standard_mean_what_they_say() -> None:
    text = "[!!str 1, ! 1, !!int 1, !!float 1.5, !!bool true, !!null ~, !!seq [], !!map {}]"
    assert data(text) == ["1", "1", 1, 1.5, True, None, [], {}]
    assert complaint("a: !!int x") == "3: this is not what its tag says"
    assert "this tag is not allowed" in complaint("a: !!seq {}")


def test_aliases_stand_for_what_is_anchored() -> None:
    built = data("a: &x {b: [1]}\nc: *x\nd: &y 1e3\ne: [*y]\n&k f: 1\ng: {*k : *k}\n")
    assert built["c"] == {"b": [1]}
    assert built["e"] == [1000.0]
    assert built["g"] == {"f": "f"}


def test_merge_keys_give_way_to_keys_of_their_own() -> None:
    text = (
        "one: &one {a: 1, b: 1}\n"
        "two: &two {b: 2, c: 2}\n"
        "single: {<<: *one, b: 0}\n"
        "both: {b: 0, <<: [*one, *two]}\n"
        "late: {<<: [*two, *one]}\n"
        "deep: {<<: {<<: *one, d: 4}}\n"
    )
    built = data(text)
    assert built["single"] == {"a": 1, "b": 0}
    assert built["both"] == {"a": 1, "b": 0, "c": 2}
    assert built["late"] == {"a": 1, "b": 2, "c": 2}
    assert built["deep"] == {"a": 1, "b": 1, "d": 4}


def test_a_merged_value_is_where_it_was_written() -> None:
    built = tree.build("a: &x {b: 1}\nc: {d: 2, <<: *x}\n")
    c = built.data["c"]
    assert dict(zip(c, built.marks[id(c)][2::2], strict=True)) == {"d": 20, "b": 10}


@pytest.mark.parametrize("value", ["1", "[1]", "x", "[{a: 1}, [b]]"])
def test_merging_what_is_no_mapping(value: str) -> None:
    assert complaint(f"a: {{<<: {value}}}").endswith("'<<' takes a mapping or a list of mappings")


def test_anchors_that_lead_nowhere_or_round() -> None:
    assert broken("a: *x") == "3: the anchor of this alias is not above"
    assert broken("a: &x [*x]") == "7: this alias would contain itself"
    assert broken("a: &x {b: {c: *x}}") == "14: this alias would contain itself"
    assert broken("a: &x {<<: *x}") == "11: this alias would contain itself"


def test_an_anchor_can_be_set_anew() -> None:
    assert data("a: &x 1\nb: *x\nc: &x 2\nd: *x\n") == {"a": 1, "b": 1, "c": 2, "d": 2}


def test_an_alias_bomb_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert broken("\n".join(lines)).endswith("the aliases stand for more than 1,000,000 values")


def test_a_merge_bomb_is_refused() -> None:
    keys = ", ".join(f"k{n}: 1" for n in range(1000))
    lines = [f"a: &a {{{keys}}}"]
    lines += [f"b{n}: {{<<: [{', '.join(['*a'] * 100)}]}}" for n in range(10)]
    assert broken("\n".join(lines)).endswith("the aliases stand for more than 1,000,000 values")


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ("{a: ", "}")])
def test_depth_is_limited(opening: str, closing: str) -> None:
    most = tree.MOST_DEPTH
    assert data(opening * most + closing * most)
    assert "more than 64 deep" in broken(opening * (most + 1) + closing * (most + 1))
    assert "deep" in broken(opening * 100_000)


def test_depth_through_aliases_is_limited() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 100)]
    assert data("\n".join(lines[:60]))
    assert "more than 64 deep" in broken("\n".join(lines))


def test_one_document_alone() -> None:
    assert data("---\na: 1\n...\n") == {"a": 1}
    assert data("%YAML 1.2\n---\na: 1\n") == {"a": 1}
    assert broken("a: 1\n---\nb: 1\n") == "5: a second document starts here"
    assert data("# nothing\n") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:\n\tb: 1\n", "3: a tab cannot indent"),
        ("a: @b\n", "3: text cannot start with '@'"),
        ("a: `b`\n", "3: text cannot start with '`'"),
        ("a: b: c\n", "4: ': ' is not expected here"),
        ("a: 'b\n", "3: this quote is not closed"),
        ('a: "b\n', "3: this quote is not closed"),
        ("a: [1, 2\nb: 3\n", "3: this bracket is not closed, or a comma is missing before {other}"),
        ("a: {b: 1\n", "3: this bracket is not closed, or a comma is missing before {other}"),
        ("a:\n  - b\n c: 1\n", "10: this does not fit what stands above"),
        ("a: 1\nb\n", "7: this line holds no ': '"),
        ("a: \0", "3: the character NUL is not allowed in YAML"),
        ("a: \x1b[31m", "3: the character U+001B is not allowed in YAML"),
    ],
)
def test_what_is_not_yaml_is_explained(text: str, expected: str) -> None:
    assert broken(text) == expected


def test_an_escape_that_there_is_not() -> None:
    assert broken('a: "\\q"').endswith(": this is no escape sequence")


def test_places_are_counted_in_characters() -> None:
    text = "ä: é\r\nβ: [ü, '\U0001f600', x]\r\n"
    built = tree.build(text)
    items = built.data["β"]
    assert [text[index] for index in built.marks[id(items)]] == ["[", "ü", "'", "x"]
    assert [text[index] for index in built.marks[id(built.data)][1:]] == ["ä", "é", "β", "["]


def test_half_a_surrogate_pair_is_refused_by_either_parser() -> None:
    try:
        (only,) = tree.build('a: "\\ud800"').complaints
    except Broken as error:
        only = error.complaint
    assert only.index >= 3


def test_the_collector_is_left_as_it_was() -> None:
    with tree.paused_collector():
        assert not gc.isenabled()
        with tree.paused_collector():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(Broken), tree.paused_collector():
        tree.build("a: *x")
    assert gc.isenabled()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees)
def test_json_is_yaml(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert data(text) == value


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees)
def test_every_value_has_its_place(value: object) -> None:
    text = json.dumps({"root": value}, ensure_ascii=False, indent=1)
    built = tree.build(text)
    waiting = [built.data]
    while waiting:
        item = waiting.pop()
        marks = built.marks[id(item)]
        assert marks == sorted(marks)
        expected = 1 + (2 * len(item) if isinstance(item, dict) else len(item))
        assert len(marks) == expected
        inner = item.values() if isinstance(item, dict) else item
        waiting += [child for child in inner if isinstance(child, dict | list)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=string.printable + "é\u2028\x85\0&*!|>%@`", max_size=60))
def test_any_text_is_read_or_explained(text: str) -> None:
    try:
        tree.build(text)
    except Broken as error:
        assert 0 <= error.complaint.index <= len(text)  # noqa: PT017
