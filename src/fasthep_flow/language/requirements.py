"""Requirements of a Python environment: lines as pip reads them, and files of these.

The format is that of pip's requirements files, of which only what uv honours is taken: a
requirement with its hashes, and the options that say where distributions are found. Files that
others name with ``-r`` are read in their place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from fasthep_flow.language.paths import absolute, read_small
from fasthep_flow.language.placeholders import placeholders
from fasthep_flow.language.refusals import Refusal, nearest, shown
from fasthep_flow.language.sources import shows_secret

__all__ = ["MOST_FILES", "Complaint", "Line", "file_lines", "requirement_line"]

MOST_FILES: Final = 32
"""How many files one list of requirements may be spread over."""

_FLAGS: Final = frozenset({"--no-index"})
_WITH_PLACE: Final = frozenset({"--index-url", "--extra-index-url", "--find-links"})
_WITH_NAMES: Final = frozenset({"--no-binary", "--only-binary"})
_SHORT: Final = {"-i": "--index-url", "-f": "--find-links", "--pypi-url": "--index-url"}
_NESTED: Final = ("-r", "--requirement")
_REFUSED: Final = {
    "-e": "build a wheel of it, and name that",
    "--editable": "build a wheel of it, and name that",
    "-c": "write the versions in the requirements themselves",
    "--constraint": "write the versions in the requirements themselves",
    "--pre": "ask for the version itself, such as name==2.0rc1",
    "--trusted-host": "let the index have a certificate",
    "--require-hashes": "remove it: hashes that are given are always checked",
}
_COMMENT: Final = re.compile(r"(?:^|\s+)#.*$")
_OPTION: Final = re.compile(r"(-[A-Za-z]|--[A-Za-z-]+)(?:\s*=\s*|\s+|(?<=^-[A-Za-z])(?=\S))?(.*)")
_HASH: Final = re.compile(r"\s--hash[= ](\S+)")
_DIGEST: Final = re.compile(r"(?:sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})")
_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_REQUIREMENT: Final = re.compile(
    rf"{_NAME}\s*(?:\[[^\[\]]*\])?\s*(?:(?:\(?\s*(?:===|[=!~<>]=|[<>])[^;@]*)?|@\s*\S+)\s*(?:;.*)?"
)
_DISTRIBUTION: Final = (".whl", ".tar.gz", ".zip", ".tar.bz2", ".tgz")
_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)


class Line(NamedTuple):
    """A line of a requirements file.

    Args:
        text: As uv is to read it: paths are absolute.
        file: The file that it is in, as the author named it; ``None`` for the workflow.
        number: Of the line in there.
    """

    text: str
    file: str | None = None
    number: int = 0


class Complaint(Exception):  # noqa: N818  # never leaves this package
    """A line of a requirements file is refused.

    Args:
        refusal: Why.
        file: The file that it is in, as the author named it.
        number: Of the line.
    """

    def __init__(self, refusal: Refusal, file: str, number: int) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.file = file
        self.number = number


def requirement_line(text: str, directory: Path) -> str:
    """One requirement, or one option, as uv is to read it.

    Args:
        text: What the author wrote.
        directory: Where relative paths start.

    Raises:
        Refusal: It is none, or one that is not honoured.
    """
    line = text.strip()
    if not line or "\n" in line or not line.isprintable():
        raise Refusal(f"{shown(text)} is no requirement", "write one to a line, such as numpy>=2")
    if any(_is_open(url) for url in _ADDRESS.findall(line)):
        raise Refusal(
            "an address with a password would stand in the records",
            "remove it: ~/.netrc of the user is read",
        )
    if found := placeholders(line):
        raise Refusal(f"{shown(found[0])} is a placeholder", "write your own requirement")
    if line.startswith("-"):
        return _option(line, directory)
    requirement, hashes = _split_hashes(line)
    return " ".join([_requirement(requirement, directory), *hashes])


def file_lines(name: str, directory: Path) -> Iterator[Line]:
    """The lines of a requirements file, those of the files that it names in their place.

    Args:
        name: As the author named it.
        directory: Where relative paths start.

    Raises:
        Complaint: One of them is refused.
        Refusal: The file cannot be read.
    """
    path = Path(absolute(name, directory))
    yield from _lines(name, path, (), [0])


def _lines(name: str, path: Path, around: tuple[Path, ...], count: list[int]) -> Iterator[Line]:
    count[0] += 1
    if count[0] > MOST_FILES:
        raise Refusal(f"is one of more than {MOST_FILES} files")
    here = (*around, path.resolve())
    for number, text in _logical_lines(read_small(path)):
        try:
            nested = _nested(text)
            if nested is None:
                yield Line(requirement_line(text, path.parent), name, number)
                continue
            inner = Path(absolute(nested, path.parent))
            _refuse_circle(nested, inner.resolve(), here)
        except Refusal as refusal:
            raise Complaint(refusal, name, number) from None
        shown_name = nested if Path(nested).is_absolute() else str(Path(name).parent / nested)
        try:
            yield from _lines(shown_name, inner, here, count)
        except Refusal as refusal:
            raise Complaint(
                Refusal(f"{shown(nested)} {refusal.message}", refusal.hint), name, number
            ) from None


def _refuse_circle(name: str, path: Path, around: tuple[Path, ...]) -> None:
    if path in around:
        raise Refusal(f"{shown(name)} would contain itself")


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines without comments; those that end in a backslash with the next one."""
    waiting, first = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        first = first or number
        told = line if waiting and line.lstrip().startswith("#") else _COMMENT.sub("", line)
        if line.rstrip().endswith("\\") and not line.lstrip().startswith("#"):
            waiting += told.rstrip()[:-1] + " "
            continue
        if waiting and line.lstrip().startswith("#"):
            told = ""
        whole = (waiting + told).strip()
        if whole:
            yield first, whole
        waiting, first = "", 0
    if waiting.strip():
        yield first, waiting.strip()


def _nested(line: str) -> str | None:
    """The file that a line names with ``-r``."""
    for option in _NESTED:
        if line.startswith(option):
            rest = line.removeprefix(option)
            if option == "-r" or rest[:1] in {" ", "="}:
                name = rest.lstrip(" =\t").strip()
                if not name:
                    raise Refusal(f"{option} names no file")
                if _ADDRESS.fullmatch(name):
                    raise Refusal(
                        f"{shown(name)} is not on this machine", "fetch it first, and name the file"
                    )
                return name
    return None


def _is_open(url: str) -> bool:
    try:
        return shows_secret(url)
    except ValueError:
        raise Refusal("there is an address in it that is none") from None


def _option(line: str, directory: Path) -> str:
    match = _OPTION.fullmatch(line)
    written, value = (match[1], match[2].strip()) if match else (line.split(maxsplit=1)[0], "")
    name = _SHORT.get(written, written)
    if name in _FLAGS:
        if value:
            raise Refusal(f"{name} takes no value")
        return name
    if name in _WITH_PLACE:
        if not value or " " in value:
            raise Refusal(f"{written} wants one address", f"write {name} https://host/simple")
        if not _ADDRESS.fullmatch(value):
            value = absolute(value, directory)
        return f"{name} {value}"
    if name in _WITH_NAMES:
        if not value:
            raise Refusal(f"{written} wants names, or ':all:'")
        return f"{name} {value}"
    if name in _NESTED:
        raise Refusal(
            f"{written} stands in a requirements file", "write 'requirements: FILE' for one"
        )
    if name in _REFUSED:
        raise Refusal(f"{written} is not honoured", _REFUSED[name])
    known = sorted(_WITH_PLACE | _WITH_NAMES | _FLAGS)
    raise Refusal(f"{shown(written)} is not an option of requirements", nearest(name, known))


def _split_hashes(line: str) -> tuple[str, list[str]]:
    hashes = _HASH.findall(line)
    for digest in hashes:
        if not _DIGEST.fullmatch(digest):
            raise Refusal(f"{shown(digest)} is no hash", "such as sha256: and 64 digits")
    requirement = _HASH.sub("", line).strip()
    if re.search(r"\s--", requirement):
        option = re.search(r"\s(--\S+)", requirement)
        raise Refusal(
            f"{shown(option[1] if option else requirement)} behind a requirement is not honoured",
            "--hash alone may stand there",
        )
    return requirement, [f"--hash={digest}" for digest in hashes]


def _requirement(text: str, directory: Path) -> str:
    if _ADDRESS.fullmatch(text):
        return text
    if text.startswith((".", "/", "~")) or (
        "/" in text.partition(";")[0].partition("@")[0] and not text.startswith("git+")
    ):
        return _local(text, directory)
    if text.lower().endswith(_DISTRIBUTION) and "@" not in text:
        return _local(text, directory)
    try:
        from packaging.requirements import InvalidRequirement, Requirement
    except ImportError:
        # What it would refuse, uv refuses when the environment is made.
        if _REQUIREMENT.fullmatch(text):
            return text
        raise Refusal(f"{shown(text)} is no requirement", _hint(text)) from None
    try:
        Requirement(text)
    except InvalidRequirement as error:
        reason = str(error).partition("\n")[0].rstrip(".:")
        raise Refusal(f"{shown(text)} is no requirement: {reason}", _hint(text)) from None
    return text


def _local(text: str, directory: Path) -> str:
    path = absolute(text, directory)
    if not path.lower().endswith(_DISTRIBUTION):
        raise Refusal(
            f"{shown(text)} is no distribution: what is made of a folder would not be made anew "
            "when it changes",
            "build a wheel of it, and name that",
        )
    return path


def _hint(text: str) -> str:
    match = re.fullmatch(rf"({_NAME})\s*=\s*([0-9][^=]*)", text)
    if match:
        return f"did you mean {shown(f'{match[1]}=={match[2].strip()}')}?"
    match = re.fullmatch(rf"({_NAME})[\s@:]+v?([0-9][0-9.]*)", text)
    if match:
        return f"did you mean {shown(f'{match[1]}=={match[2]}')}?"
    return "such as numpy>=2 or uproot==5.3.7"
