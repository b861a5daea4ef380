"""What programs said, in a message of ours: short, harmless, and without secrets."""

from __future__ import annotations

import re
from typing import Final

from fasthep_flow.redaction import without_assigned, without_credentials, without_values

__all__ = ["DEVICES", "last_words", "masked", "plain"]

DEVICES: Final = frozenset(
    {
        "CUDA_VISIBLE_DEVICES",
        "GPU_DEVICE_ORDINAL",
        "HIP_VISIBLE_DEVICES",
        "NVIDIA_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
    }
)
"""Variables that tell one task from another; no script's, but ``process_on`` decides them."""

_MOST_LINES: Final = 3
_LONGEST: Final = 400
_COLOURS: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?")


def plain(text: str) -> str:
    """The text without what would colour or steer a terminal."""
    text = _COLOURS.sub("", text)
    return "".join(
        sign if sign.isprintable() or sign == "\n" else "?"
        for sign in text.replace("\0", "").replace("\t", " ")
    )


def masked(text: str, secrets: frozenset[str] = frozenset()) -> str:
    """The text without the secrets, and without what has the form of one."""
    lines = without_assigned(plain(without_values(text, secrets))).split("\n")
    return "\n".join(without_credentials(line) for line in lines)


def last_words(stderr: str, stdout: str, secrets: frozenset[str] = frozenset()) -> str:
    """The last lines that a program said, on one line."""
    said = stderr if stderr.strip() else stdout
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    # What is cut off is cut off behind that, or the rest of a secret would be shown.
    shown = [masked(line, secrets) for line in lines[-_MOST_LINES:]]
    return "; ".join(line[-_LONGEST:] for line in shown)
