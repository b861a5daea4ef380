"""The order of tasks, and their folders' names."""

from __future__ import annotations

import unicodedata
from graphlib import CycleError, TopologicalSorter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasthep_flow.language.graph import closure, cycles, order
from fasthep_flow.language.slugs import MOST_CHARACTERS, make_slugs


@st.composite
def graphs(draw: st.DrawFn, *, acyclic: bool) -> list[list[int]]:
    size = draw(st.integers(1, 12))
    ranks = draw(st.permutations(range(size)))
    needs = []
    for task in range(size):
        allowed = [n for n in range(size) if not acyclic or ranks[n] < ranks[task]]
        some = st.lists(st.sampled_from(allowed), unique=True, max_size=4)
        needs.append(draw(some) if allowed else [])
    return needs


def test_an_order_that_is_right_stays() -> None:
    assert order([[], [0], [0], [1, 2], []]) == [0, 1, 2, 3, 4]


def test_what_comes_too_early_waits_and_nothing_else_moves() -> None:
    assert order([[], [3], [], [2], [1]]) == [0, 2, 3, 1, 4]


@given(graphs(acyclic=True))
def test_every_task_stands_behind_what_it_needs(needs: list[list[int]]) -> None:
    ordered = order(needs)
    assert sorted(ordered) == list(range(len(needs)))
    position = {task: number for number, task in enumerate(ordered)}
    assert all(position[other] < position[task] for task in position for other in needs[task])
    assert list(cycles(needs)) == []


@given(graphs(acyclic=False))
def test_cycles_are_found_where_there_are_some(needs: list[list[int]]) -> None:
    found = list(cycles(needs))
    try:
        TopologicalSorter(dict(enumerate(needs))).prepare()
    except CycleError:
        assert found
    else:
        assert not found
    told = [task for cycle in found for task in cycle]
    assert len(told) == len(set(told))
    for cycle in found:
        assert cycle[0] == min(cycle)
        following = [*cycle[1:], cycle[0]]
        assert all(b in needs[a] for a, b in zip(cycle, following, strict=True))


def test_two_cycles_are_both_told() -> None:
    assert list(cycles([[1], [0], [3], [4], [2], [0]])) == [[0, 1], [2, 3, 4]]


def test_long_chains_are_no_matter() -> None:
    number = 100_000
    assert order([[n + 1] for n in range(number)] + [[]])[0] == number
    (cycle,) = cycles([[(n + 1) % number] for n in range(number)])
    assert len(cycle) == number


def test_what_a_task_needs_directly_or_not() -> None:
    needs: dict[str, tuple[str, ...]] = {
        "a": (),
        "b": ("a",),
        "c": ("b",),
        "d": ("a", "c"),
        "e": (),
    }
    assert closure(["c"], needs) == {"a", "b", "c"}
    assert closure(["d", "e"], needs) == {"a", "b", "c", "d", "e"}
    assert closure([], needs) == set()


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("fit", "fit"),
        ("Select events", "Select-events"),
        ("a/b", "a-b"),
        ("../x", "x"),
        ("-rf", "rf"),
        ("v1.2_final", "v1.2_final"),
        ("Übung für Σ", "Ubung-fur"),
        ("a\nb", "a-b"),
        ("mass: 125 GeV (ΣΣ)", "mass-125-GeV"),
    ],
)
def test_folder_names_are_readable(name: str, slug: str) -> None:
    assert make_slugs([name]) == [slug]


@pytest.mark.parametrize("name", ["..", ".", "/", "ΣΣ", "   ", "---"])
def test_names_without_a_letter_get_a_digest(name: str) -> None:
    (slug,) = make_slugs([name])
    assert slug.startswith("task-")
    assert len(slug) == 15


def test_names_that_look_alike_are_kept_apart_in_any_order() -> None:
    names = ["a b", "a-b", "A B", "a/b", "é", unicodedata.normalize("NFD", "é"), "e", "ab"]
    slugs = make_slugs(names)
    assert slugs[-1] == "ab"
    assert len({slug.casefold() for slug in slugs}) == len(names)
    assert make_slugs(names[::-1]) == slugs[::-1]


def test_a_name_cannot_take_another_ones_folder() -> None:
    taken = make_slugs(["a b", "a-b"])[0]
    slugs = make_slugs(["a b", "a-b", taken, taken.upper()])
    assert len({slug.casefold() for slug in slugs}) == 4


def test_long_names_are_cut() -> None:
    slugs = make_slugs(["x" * 300, "x" * 301, "y" * 300])
    assert all(len(slug) <= MOST_CHARACTERS for slug in slugs)
    assert len(set(slugs)) == 3


_texts = st.text(max_size=90) | st.text(alphabet="aA-_. /é", max_size=5)


@given(st.lists(_texts, unique=True, max_size=12))
def test_folder_names_are_safe_and_unique(names: list[str]) -> None:
    slugs = make_slugs(names)
    assert len({slug.casefold() for slug in slugs}) == len(names)
    for slug in slugs:
        assert slug.isascii()
        assert 1 <= len(slug) <= 80
        assert slug[0] not in ".-"
        assert not set(slug) - set(
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
        )
