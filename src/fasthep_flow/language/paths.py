"""Files that an author names: relative ones start at the folder of the workflow file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fasthep_flow.language.placeholders import placeholders
from fasthep_flow.language.refusals import Refusal, listed, shown

__all__ = ["MOST_BYTES", "absolute", "check_text", "read_small"]

MOST_BYTES: Final = 2**20
"""Size of the largest file beside the workflow that is read."""


def check_text(text: str, what: str) -> None:
    """Refuse what is no text of one line, or was left over from an example.

    Raises:
        Refusal: It is blank, a placeholder, or holds control characters.
    """
    found = placeholders(text)
    if text == "TBC" or found:
        names = listed(found or [text])
        raise Refusal(
            f"{names} {'are placeholders' if len(found) > 1 else 'is a placeholder'}",
            f"write your own {what}",
        )
    if not text.strip():
        raise Refusal(f"this is empty, and no {what}")
    if not text.isprintable():
        raise Refusal(f"{shown(text)} holds control characters")


def absolute(text: str, directory: Path) -> str:
    """The path from the root; ``~`` is the home of the user.

    Links and ``..`` stay: what they mean is known where they are.

    Args:
        text: What the author wrote.
        directory: Where relative paths start.

    Raises:
        Refusal: There is no such home, or a shell's variable in it.
    """
    if text.startswith("$"):
        raise Refusal(f"{shown(text)}: no shell reads this", "write the path itself")
    path = Path(text)
    if text.startswith("~"):
        try:
            path = path.expanduser()
        except RuntimeError:
            raise Refusal(f"{shown(text)}: there is no such home", "write the whole path") from None
    # Two slashes in front are kept by pathlib, and mean nothing here.
    return f"/{str(directory / path).lstrip('/')}"


def read_small(path: Path) -> str:
    """The text of a file that an author wrote by hand.

    Raises:
        Refusal: There is none, it cannot be read, is too large, or is no text.
    """
    where = f"it was looked for as {shown(str(path))[1:-1]}"
    try:
        # A device or a pipe could be endless, or be read but once.
        if not path.is_file():
            raise Refusal("is not a file" if path.exists() else "does not exist", where)
        with path.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "this is no file name"
        if isinstance(error, Refusal):
            raise
        raise Refusal(f"cannot be read: {reason}", where) from None
    if len(content) > MOST_BYTES:
        raise Refusal(f"is larger than {MOST_BYTES // 2**20} MiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refusal(f"is not UTF-8: there is a byte 0x{content[error.start]:02x}") from None
