"""Extra data: what a task needs, where it sees it, and what it must be."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fasthep_flow.language.document import Steps
from fasthep_flow.language.findings import Findings
from fasthep_flow.language.refusals import Refusal, nearest, shown
from fasthep_flow.language.schema import DataModel
from fasthep_flow.language.sources import AUTOMOUNTED, is_glob, is_url, name_of, parse_source
from fasthep_flow.model import DataItem
from fasthep_flow.redaction import without_credentials

__all__ = ["DIGESTS", "DataReader", "parse_digest", "parse_target"]

DIGESTS: Final = {
    "sha256": 64,
    "sha512": 128,
    "sha1": 40,
    "md5": 32,
    "adler32": 8,
    "crc32": 8,
}
"""The digests that are known, and how many digits each has."""

_SHORT: Final = frozenset({"adler32", "crc32"})

_PLACEHOLDER: Final = "TBC"
_HEX: Final = re.compile(r"[0-9a-f]+")


@dataclass(slots=True)
class DataReader:
    """Reads the extra data of one document; what is wrong with it becomes findings."""

    findings: Findings
    _looked_at: set[str] = field(default_factory=set)

    def read(self, items: Sequence[str | DataModel | None], steps: Steps) -> tuple[DataItem, ...]:
        """The items that stand at a place.

        Args:
            items: Sources, and mappings; ``None`` for what was refused before.
            steps: Their place.
        """
        read = []
        places: dict[str, Steps] = {}
        for number, item in enumerate(items):
            if item is None:
                continue
            here = self.findings.written((*steps, number))
            if item == _PLACEHOLDER:
                self.findings.refuse(
                    here,
                    f"{shown(item)} is a placeholder",
                    "remove 'extra_data': it is not needed",
                )
                continue
            model = item if isinstance(item, DataModel) else DataModel(source=item)
            one = self._item(model, here)
            if one is None:
                continue
            seen = _seen_as(one)
            earlier = places.setdefault(seen, here)
            if earlier is not here:
                line = self.findings.document.place(earlier).line
                self.findings.refuse(
                    here,
                    f"the task would see this as {shown(without_credentials(seen))}, and so it "
                    f"would another item (line {line})",
                    "give it a 'target' of its own, or remove one of them",
                )
            read.append(one)
        return tuple(read)

    def _item(self, model: DataModel, here: Steps) -> DataItem | None:
        source = target = digest = None
        directory = self.findings.document.directory
        if not model.source:
            self.findings.refuse(here, "this names no data", "add 'source: PATH or URL'")
        for key, value in (
            ("source", model.source),
            ("target", model.target),
            ("digest", model.digest),
        ):
            if not value and (key != "target" or value is None):
                continue
            try:
                if key == "source":
                    source, remarks = parse_source(str(value), directory)
                    for message, hint in remarks:
                        self.findings.warn((*here, key), message, hint)
                elif key == "target":
                    target = parse_target(str(value))
                else:
                    digest = parse_digest(str(value))
            except Refusal as refusal:
                self.findings.refuse((*here, key), refusal.message, refusal.hint)
        if source is None:
            return None
        if target is None and is_url(source) and not name_of(source):
            self.findings.refuse(
                here, "this source has no name of its own to be seen by", "add a 'target'"
            )
        self._look(source, (*here, "source"))
        return DataItem(source=source, target=target, digest=digest, mode=model.mode or "ro")

    def _look(self, source: str, steps: Steps) -> None:
        """Warn of a file that is not there; it may be where the task runs, or come to be."""
        if source in self._looked_at or is_url(source) or is_glob(source):
            return
        self._looked_at.add(source)
        if source.startswith(AUTOMOUNTED):
            return
        try:
            there = Path(source).exists()
        except OSError:
            return
        if not there:
            self.findings.warn(
                steps,
                "there is no such file or folder on this machine",
                f"it was looked for as {shown(source)[1:-1]}",
            )


def parse_digest(text: str) -> str:
    """A digest as records have it: ``sha256:`` and its digits in lower case.

    Raises:
        Refusal: It is none that is known.
    """
    folded = text.strip().lower()
    kind, colon, digits = folded.partition(":")
    if not colon:
        kinds = [name for name, length in DIGESTS.items() if length == len(folded)]
        if kinds and _HEX.fullmatch(folded):
            raise Refusal(
                "this digest does not say of which kind it is",
                f"did you mean {shown(f'{kinds[0]}:{folded}')}?",
            )
        raise Refusal(f"{shown(text)} is no digest", "such as sha256: and 64 digits")
    kind = kind.replace("-", "")
    if kind not in DIGESTS:
        raise Refusal(f"there is no kind of digest {shown(kind)}", nearest(kind, DIGESTS))
    if kind in _SHORT and digits:
        # Tools leave out leading zeros.
        digits = digits.rjust(DIGESTS[kind], "0")
    if len(digits) != DIGESTS[kind] or not _HEX.fullmatch(digits):
        raise Refusal(
            f"{shown(text)} is no digest",
            f"{kind}: and {DIGESTS[kind]} digits of 0-9 and a-f; here are {len(digits)} characters",
        )
    return f"{kind}:{digits}"


def parse_target(text: str) -> str:
    """Where a task sees data: an absolute path, or one below its data folder.

    Raises:
        Refusal: It is none, or leaves the folder.
    """
    if not text.strip():
        raise Refusal("this is no name", "leave 'target' out for the data's own name")
    if not text.isprintable():
        raise Refusal(f"{shown(text)} holds control characters")
    if "://" in text:
        raise Refusal(
            f"{shown(text)} is an address, not a path", "a target is where the task looks"
        )
    if text.startswith(("~", "$")):
        raise Refusal(
            f"{shown(text)}: no shell reads this, and a container may have another home",
            "write the whole path, or one below the data folder",
        )
    path = posixpath.normpath(text)
    if path.startswith("//"):
        path = path[1:]
    if path == ".." or path.startswith("../"):
        raise Refusal(
            f"{shown(text)} leaves the data folder", "write a path below it, or a whole one"
        )
    if path == "/":
        raise Refusal("'/' is the root of everything", "write where below it")
    if path == ".":
        raise Refusal(f"{shown(text)} is the data folder itself", "leave 'target' out")
    return f"{path}/" if text.endswith(("/", "/.")) else path


def _seen_as(item: DataItem) -> str:
    """What a task sees an item as; of several files, as far as is known now."""
    own = name_of(item.source)
    if item.target is None:
        return own if is_url(item.source) or item.mode == "copy" else item.source
    if not item.target.endswith("/"):
        return item.target
    return f"{item.target}{own}"
