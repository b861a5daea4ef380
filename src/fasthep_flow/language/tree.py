"""YAML text -> plain dicts and lists, with the place of every key and value beside them.

The tree is built here from the parser's events: PyYAML's own composer takes eight times as
long as its parser, keeps no positions in what it constructs, resolves scalars by YAML 1.1
and lets the last of two equal keys win.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, TypeAlias

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    ScalarEvent,
    SequenceStartEvent,
)

from fasthep_flow.language.complaints import Broken, Complaint, explain
from fasthep_flow.language.refusals import shown
from fasthep_flow.language.scalars import Scalar, is_text, resolve

__all__ = ["MOST_COPIES", "MOST_DEPTH", "MOST_EVENTS", "Tree", "build", "paused_collector"]

MOST_DEPTH: Final = 64
"""How deep mappings and lists may lie in each other."""
MOST_COPIES: Final = 1_000_000
"""How many nodes all aliases together may stand for."""
MOST_EVENTS: Final = 5_000_000
"""How many things may be written: values, keys, and both ends of mappings and lists."""

_MOST_SEARCHES: Final = 1000

_PARSER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# No message names a tag or an anchor: of a variable's value that should have been in quotes
# it would be the value.
_REFUSED_TAG: Final = (
    "this tag is not allowed",
    "a workflow is plain data: remove what starts with '!', or put the text in quotes",
)
_ALIAS_HINT: Final = "text that starts with '*' is put in quotes"

# What a frame's ``key`` is while no key of a mapping is known.
_ITEM: Final = object()  # the frame is a list
_AWAITED: Final = object()
_MERGE: Final = object()
_SKIP: Final = object()  # the value belongs to a key that was refused

_STANDARD: Final = "tag:yaml.org,2002:"
_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "null": (type(None),),
}
_Container: TypeAlias = dict[str, Any] | list[Any]


@dataclass(frozen=True, slots=True)
class Tree:
    """What the text says.

    Args:
        data: Dicts with text keys, lists, and scalars.
        marks: By the ``id`` of a dict or list: the offset where it starts, then those of
            its items, or of its keys and values in turn.
        spellings: By offset, the text of each scalar that is a value and not text itself.
        complaints: What is wrong, in the order of the text.
        non_finite: Whether there is an infinite number or one that is none.
    """

    data: Any
    marks: dict[int, list[int]]
    spellings: dict[int, str]
    complaints: list[Complaint]
    non_finite: bool


@contextmanager
def paused_collector() -> Iterator[None]:
    """No garbage collection for as long as the context lasts.

    Millions of new containers that all stay alive make the collector walk them over and
    over, in vain: without this, reading takes three times as long.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def build(text: str) -> Tree:
    """Read the one document that ``text`` holds.

    Raises:
        Broken: It is not YAML, holds several documents, or exceeds a limit.
    """
    builder = _Builder()
    documents = 0
    try:
        events = yaml.parse(text, Loader=_PARSER)
        for event in islice(events, MOST_EVENTS):
            if isinstance(event, ScalarEvent):
                builder.scalar(event)
            elif isinstance(event, MappingStartEvent):
                builder.open({}, event)
            elif isinstance(event, SequenceStartEvent):
                builder.open([], event)
            elif isinstance(event, CollectionEndEvent):
                builder.close()
            elif isinstance(event, AliasEvent):
                builder.alias(event)
            elif isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise Broken(
                        Complaint(
                            _start(event),
                            "a second document starts here",
                            "a workflow is one document: remove the line '---'",
                        )
                    )
        _require_end(events)
    except yaml.YAMLError as error:
        raise Broken(explain(error, text)) from error
    root = builder.frame.container
    return Tree(
        data=root[0] if root else None,
        marks=builder.marks,
        spellings=builder.spellings,
        complaints=builder.complaints,
        non_finite=builder.non_finite,
    )


class _Frame:
    """A container that is not closed yet."""

    __slots__ = ("anchor", "container", "count", "deepest", "key", "marks", "merges")

    def __init__(
        self,
        container: dict[str, Any] | list[Any],
        marks: list[int],
        *,
        key: object,
        anchor: str | None,
        count: int,
    ) -> None:
        self.container: Any = container
        self.marks = marks
        self.key: Any = key
        self.anchor = anchor
        self.count = count
        self.deepest = 0
        self.merges: list[tuple[Any, int]] | None = None


@dataclass(frozen=True, slots=True)
class _Anchored:
    value: Any
    index: int
    size: int
    height: int
    text: str | None


@dataclass(slots=True)
class _Builder:
    marks: dict[int, list[int]] = field(default_factory=dict)
    spellings: dict[int, str] = field(default_factory=dict)
    complaints: list[Complaint] = field(default_factory=list)
    non_finite: bool = False
    anchors: dict[str, _Anchored | None] = field(default_factory=dict)
    count: int = 0
    copies: int = 0
    stack: list[_Frame] = field(default_factory=list)
    frame: _Frame = field(default_factory=lambda: _Frame([], [0], key=_ITEM, anchor=None, count=0))

    def complain(self, index: int, message: str, hint: str | None = None) -> None:
        self.complaints.append(Complaint(index, message, hint))

    def scalar(self, event: ScalarEvent) -> None:
        self.count += 1
        frame = self.frame
        text = event.value
        index = _start(event)
        plain = event.implicit[0] and event.tag is None
        if event.anchor is not None:
            value = self.value(event, text, index, plain=plain)
            self.anchors[event.anchor] = _Anchored(value, index, 1, 0, text)
        if not text.isascii() and not is_text(text):
            self.complain(index, "this holds half of a surrogate pair, which is no character")
            text = ""
        if frame.key is _AWAITED:
            if event.tag is not None:
                self.value(event, text, index, plain=False)
            self.take_key(text, index, merges=plain and text == "<<")
            return
        self.attach(self.value(event, text, index, plain=plain), index)

    def value(self, event: ScalarEvent, text: str, index: int, *, plain: bool) -> Scalar:
        """What a scalar means; notes its spelling where that is not the value itself."""
        if event.tag is not None and event.tag not in {"!", _STANDARD + "str"}:
            return self.tagged(event.tag, text, index)
        if not plain:
            return str(text)
        try:
            value = resolve(text)
        except ValueError as error:
            self.complain(index, str(error), "put it in quotes if it is a name")
            return text
        if type(value) is not str:
            self.spellings[index] = text
            if type(value) is float and not math.isfinite(value):
                self.non_finite = True
        return value

    def tagged(self, tag: str, text: str, index: int) -> Scalar:
        kinds = _KINDS.get(tag.removeprefix(_STANDARD))
        if kinds is None:
            self.complain(index, *_REFUSED_TAG)
            return text
        try:
            value = resolve(text)
        except ValueError:
            value = text
        if type(value) not in kinds:
            self.complain(index, "this is not what its tag says")
            return text
        self.spellings[index] = text
        return value

    def take_key(self, key: str, index: int, *, merges: bool) -> None:
        frame = self.frame
        if merges:
            frame.key = _MERGE
        elif key in frame.container:
            message = f"the key {shown(key)} is written twice"
            first = None
            if len(self.complaints) < _MOST_SEARCHES:
                message += ", first at {other}"
                first = frame.marks[1 + 2 * list(frame.container).index(key)]
            self.complaints.append(Complaint(index, message, other=first))
            frame.key = _SKIP
        else:
            frame.key = key
            frame.marks.append(index)

    def attach(self, value: object, index: int) -> None:
        frame = self.frame
        key = frame.key
        if key is _ITEM:
            frame.container.append(value)
            frame.marks.append(index)
            return
        frame.key = _AWAITED
        if key is _SKIP:
            return
        if key is _MERGE:
            if frame.merges is None:
                frame.merges = []
            frame.merges.append((value, index))
            return
        frame.container[key] = value
        frame.marks.append(index)

    def open(self, container: _Container, event: MappingStartEvent | SequenceStartEvent) -> None:
        self.count += 1
        index = _start(event)
        name = "map" if type(container) is dict else "seq"
        if event.tag is not None and event.tag not in {"!", _STANDARD + name}:
            self.complain(index, *_REFUSED_TAG)
        if self.frame.key is _AWAITED:
            self.complain(index, "a key must be text", "write the key as one word or in quotes")
            self.frame.key = _SKIP
        else:
            self.attach(container, index)
        self.stack.append(self.frame)
        if len(self.stack) > MOST_DEPTH:
            raise Broken(_too_deep(index))
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        marks = [index]
        self.marks[id(container)] = marks
        self.frame = _Frame(
            container,
            marks,
            key=_AWAITED if name == "map" else _ITEM,
            anchor=event.anchor,
            count=self.count,
        )

    def close(self) -> None:
        frame = self.frame
        if frame.merges is not None:
            self.merge(frame)
        self.frame = parent = self.stack.pop()
        height = frame.deepest + 1
        parent.deepest = max(parent.deepest, height)
        if frame.anchor is not None:
            size = self.count - frame.count + 1
            self.anchors[frame.anchor] = _Anchored(
                frame.container, frame.marks[0], size, height, None
            )

    def alias(self, event: AliasEvent) -> None:
        index = _start(event)
        if event.anchor not in self.anchors:
            raise Broken(Complaint(index, "the anchor of this alias is not above", _ALIAS_HINT))
        target = self.anchors[event.anchor]
        if target is None:
            raise Broken(Complaint(index, "this alias would contain itself"))
        self.count += target.size
        self.copies += target.size
        if self.copies > MOST_COPIES:
            raise Broken(
                Complaint(index, f"the aliases stand for more than {MOST_COPIES:,} values")
            )
        if len(self.stack) + target.height > MOST_DEPTH:
            raise Broken(_too_deep(index))
        frame = self.frame
        frame.deepest = max(frame.deepest, target.height)
        if frame.key is not _AWAITED:
            self.attach(target.value, target.index)
        elif target.text is None:
            self.complain(index, "a key must be text", "write the key as one word or in quotes")
            frame.key = _SKIP
        else:
            self.take_key(target.text, index, merges=False)

    def merge(self, frame: _Frame) -> None:
        """Take over what ``<<`` names: the frame's own keys win, then the earlier mapping."""
        for value, index in frame.merges or ():
            for source in value if type(value) is list else [value]:
                if type(source) is not dict:
                    self.complain(
                        index,
                        "'<<' takes a mapping or a list of mappings",
                        "write an alias such as '<<: *common'",
                    )
                    continue
                marks = self.marks[id(source)]
                for position, (key, item) in enumerate(source.items()):
                    if key not in frame.container:
                        frame.container[key] = item
                        frame.marks += marks[1 + 2 * position : 3 + 2 * position]


def _require_end(events: Iterator[Event]) -> None:
    if (more := next(events, None)) is not None:
        message = f"there is more written than {MOST_EVENTS:,} values"
        raise Broken(Complaint(_start(more), message, "make several workflows of it"))


def _start(event: Event) -> int:
    mark = event.start_mark
    # The parsers mark every event; only events made by hand have none.
    return mark.index if mark is not None else 0


def _too_deep(index: int) -> Complaint:
    return Complaint(index, f"mappings and lists lie in each other more than {MOST_DEPTH} deep")
