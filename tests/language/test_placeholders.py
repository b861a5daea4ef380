"""What was left for the reader to fill in."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from fasthep_flow.language.placeholders import placeholders, shell_placeholders


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<path to .env>", ("<path to .env>",)),
        ("a/<b>/<c d>", ("<b>", "<c d>")),
        ("a < b", ()),
        ("a<1>", ()),
        ("", ()),
    ],
)
def test_placeholders_of_settings(text: str, found: tuple[str, ...]) -> None:
    assert placeholders(text) == found


@pytest.mark.parametrize(
    "command",
    [
        "root -bxq <path to ROOT macro>",
        "cat <file>",
        "cat <file> | wc -l",
        "cat <file> && ls",
        "cat <file>; ls",
        "(cat <file>)",
        "cat <first file> <second file>",
        "ls\ncat <path/to/my-file.txt>\nls",
    ],
)
def test_what_no_shell_accepts_is_a_placeholder(command: str) -> None:
    assert shell_placeholders(command)
    assert _syntax_error(command)


@pytest.mark.parametrize(
    "command",
    [
        "sort <in >out",
        "sort < in > out",
        "cat <in file>out",
        "cat <in file> out",
        "cat <in>>out",
        "cat <in >&2",
        "cat <in>&2",
        "cat <in>|out",
        "diff <(sort a) <(sort b)",
        "cat <<EOF\n<b>\nEOF",
        "cat <<< '<b>'",
        "echo '<path to file>'",
        'echo "<path to file>"',
        'grep "x \\" <TH1F>" a',
        "echo \\<path to file\\>",
        "echo a # <path to file>",
        "if [[ a < b ]]; then ls; fi",
        "echo $((1<2))",
        "exec 3<file",
        "[ 1 -lt 2 ] && cat <a >b; cat <c >d",
    ],
)
def test_what_a_shell_reads_is_left_alone(command: str) -> None:
    assert shell_placeholders(command) == ()


def _syntax_error(command: str) -> bool:
    bash = shutil.which("bash")
    if bash is None:
        return True
    done = subprocess.run([bash, "-n", "-c", command], capture_output=True, check=False)
    return done.returncode != 0
