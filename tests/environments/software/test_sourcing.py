"""What bash makes of setup scripts, and what is said of those that fail."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from fasthep_flow.environments import ContainerSpec
from fasthep_flow.environments.native import NATIVE
from fasthep_flow.environments.software.place import Place
from fasthep_flow.environments.software.sourcing import Sourced, source
from fasthep_flow.errors import SoftwareUnavailable
from fasthep_flow.model import Setup


def sourced(
    work: Path,
    lines: str,
    *,
    environment: Mapping[str, str | None] | None = None,
    scripts: tuple[str, ...] = (),
    secrets: frozenset[str] = frozenset(),
    limit_s: float = 60.0,
) -> Sourced:
    setup = Setup(lines=lines, scripts=scripts, origin="workflow.yaml:7")
    with Place(NATIVE, ContainerSpec(name="test"), str(work)) as place:
        return source(setup, place, environment or {}, secrets=secrets, limit_s=limit_s)


def refusal(work: Path, lines: str, **more: object) -> str:
    with pytest.raises(SoftwareUnavailable) as caught:
        sourced(work, lines, **more)  # type: ignore[arg-type]
    return caught.value.message


def test_new_changed_and_unset_variables_come_out(work: Path) -> None:
    found = sourced(
        work,
        "export NEW='a b' CHANGED=$CHANGED:more\nunset GONE\nLOCAL=1\nexport SAME=$SAME",
        environment={"CHANGED": "first", "GONE": "1", "SAME": "same"},
    )
    assert found.variables == {"NEW": "a b", "CHANGED": "first:more", "GONE": None}


def test_only_variables_come_out(work: Path) -> None:
    found = sourced(
        work,
        "f() { :; }; export -f f\nalias g=h\nset -u\nshopt -s extglob\ncd /\numask 077\n"
        "declare -x ARRAY=(1 2)\nexport UNSET_ONE\nexport KEPT=1",
    )
    assert found.variables == {"KEPT": "1"}


def test_values_are_kept_to_the_byte(work: Path) -> None:
    found = sourced(
        work, r"export A=$'x\ny=z\t' B=$'\xff' C= D='é'" + "\nexport E=$(printf 'a\\0b')"
    )
    assert found.variables == {"A": "x\ny=z\t", "B": "\udcff", "C": "", "D": "é", "E": "ab"}


def test_lines_are_sourced_at_the_top(work: Path) -> None:
    (work / "inner.sh").write_text('declare -x INNER="${BASH_SOURCE[0]} $#"\n')
    found = sourced(work, "declare -x OUTER=1\nsource ./inner.sh\necho one two\nexport LAST=$_")
    assert found.variables == {"OUTER": "1", "INNER": "./inner.sh 0", "LAST": "two"}


def test_neither_input_nor_terminal_can_be_asked(work: Path) -> None:
    found = sourced(
        work, "read -r WORD || true\nexport WORD TTY=$(tty)\ncase $- in *i*) exit 9; esac"
    )
    assert found.variables == {"WORD": "", "TTY": "not a tty"}


def test_the_files_that_were_sourced_are_known(work: Path) -> None:
    (work / "empty.sh").write_text("")
    (work / "b.sh").write_text("set +x\n. ./empty.sh\n")
    (work / "a.sh").write_text("source ./b.sh\n")
    found = sourced(
        work, 'X=a.sh; set +x\nsource "$PWD/$X"\nY=$(. ./c.sh) || true\n[ -e no.sh ] && . no.sh'
    )
    names = {str(Path(path)) for path in found.files}
    assert {Path(path).name for path in names} == {"a.sh", "b.sh", "empty.sh", "c.sh"}
    assert all(Path(path).parent == work for path in names)
    assert found.is_traced


@pytest.mark.parametrize("line", ["trap - DEBUG", "trap 'true' DEBUG", "set +T"])
def test_a_script_that_takes_the_trap_is_known_not_to_be_traced(work: Path, line: str) -> None:
    found = sourced(work, f"{line}\nexport A=1")
    assert found.variables == {"A": "1"}
    assert not found.is_traced


@pytest.mark.parametrize(
    "lines",
    [
        "false || true\nexport A=1",
        "[ -f nowhere ] && source nowhere\nexport A=1",
        "if ! grep -q x /dev/null; then export A=1; fi",
        "export A=1\nreturn 0\nfalse",
        "export A=1\nreturn",
        "export A=1\n[ -f nowhere ] && source nowhere",
        "source ./fails-inside.sh\nexport A=1",
        "source ./fails.sh || export A=1",
        "export A=1; set -e; set -C; set -f; shopt -s expand_aliases; alias printf=false",
        "export A=1; readonly A; IFS=,; exec >/dev/null 2>&1 0<&-",
        "export A=1; LC_ALL=C; set -o posix",
    ],
)
def test_harmless_failures_are_none(work: Path, lines: str) -> None:
    (work / "fails-inside.sh").write_text("false\nls /nowhere\ntrue\n")
    (work / "fails.sh").write_text("return 3\n")
    assert sourced(work, lines).variables["A"] == "1"


def test_the_path_may_be_taken_away(work: Path) -> None:
    assert sourced(work, "unset PATH; export A=1").variables == {"PATH": None, "A": "1"}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            "export A=1\n\nls /nowhere/at-all\nexport B=1",
            "fails on line 3: ls /nowhere/at-all: ls: cannot access '/nowhere/at-all'",
        ),
        ("export A=1\nsource /no/such.sh", "fails on line 2: source /no/such.sh: /no/such.sh: No"),
        ("export A=1\nfalse", "fails on line 2: false: it ends with the code 1"),
        ("export A=1\n(exit 7)\n", "fails on line 2: (exit 7): it ends with the code 7"),
        ("X=$(false)\n", "fails on line 1: X=$(false)"),
        ("f() {\n  false\n}\n\nf\n", "fails on line 5: f"),
        ("true\nreturn 2\nexport A=1", "fails on line 2: return 2: it ends with the code 2"),
        ("export A=1\nif true; then\nfoo(\nfi", "fails on line 3: foo(: syntax error near"),
        ("export A=1\necho 'abc\n", "fails on line 2: echo 'abc: unexpected EOF"),
        ("export A=1\nexit 3\ntrue", "ends the shell on line 2: exit 3 (code 3)"),
        ("export A=1\nexit 0\ntrue", "ends the shell on line 2: exit 0 (code 0)"),
        ("export A=1\nexec true\n", "ends the shell on line 2: exec true (code 0)"),
        ("set -u\nexport A=$NOT_THERE\n", "ends the shell on line 2: export A=$NOT_THERE (code"),
        ("true\nkill -KILL $$", "is ended by the signal 9 on line 2: kill -KILL $$"),
        ("set -n\nexport A=1", "ends the shell on line 1: set -n (code 0)"),
    ],
)
def test_a_failure_has_its_line(work: Path, lines: str, words: str) -> None:
    said = refusal(work, lines)
    assert said.startswith(f"the setup script (workflow.yaml:7) {words}"), said
    assert "fasthep" not in said


@pytest.mark.parametrize("ending", ["return 4", "exit 4", "set -e\nls /nowhere"])
def test_a_failure_within_a_script_has_both_places(work: Path, ending: str) -> None:
    (work / "inner.sh").write_text(f"export A=1\n{ending}\n")
    line = 1 + len(ending.splitlines())
    said = refusal(work, "true\n\nsource ./inner.sh\n")
    assert f"on line 3: source ./inner.sh (in ./inner.sh, line {line})" in said


def test_of_a_script_that_is_named_the_script_s_line_is_told(work: Path) -> None:
    script = str(work / "set up.sh")
    Path(script).write_text("export A=1\n\nls /nowhere; return 1\n")
    said = refusal(work, f"source '{script}'", scripts=(script,))
    assert said.startswith(f"the setup script {script} fails on line 3: ls /nowhere; return 1: ls:")


def test_what_is_printed_is_no_answer(work: Path) -> None:
    lines = r"printf 'done\0yes\0FAKE=1\0'; printf 'FAKE=1\0' >&2; export REAL=1"
    assert sourced(work, lines).variables == {"REAL": "1"}
    assert "fails on line 1" in refusal(work, rf"printf 'done\0yes\0' >&2; false; {lines}")


def test_an_endless_one_is_stopped_with_all_it_started(work: Path) -> None:
    lines = "export A=1\nsetsid sleep 4711.25 &\nwhile :; do :; done"
    said = refusal(work, lines, limit_s=1.0)
    assert said == (
        "the setup script (workflow.yaml:7) does not come to its end within 1 s; it is on line 3:"
        " while :; do :; done"
    )
    found = subprocess.run(["pgrep", "-f", "sleep 4711.25"], capture_output=True, check=False)
    assert found.stdout == b""


def test_what_it_leaves_running_is_ended(work: Path) -> None:
    found = sourced(work, "sleep 4712.25 &\nsetsid sleep 4712.25 &\nexport A=1")
    assert found.variables == {"A": "1"}
    left = subprocess.run(["pgrep", "-f", "sleep 4712.25"], capture_output=True, check=False)
    assert left.stdout == b""


def test_a_gigabyte_of_output_is_not_kept(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(work))
    said = refusal(work, "head -c 1000000000 /dev/zero | tr '\\0' x\necho the end >&2\nfalse")
    assert said.endswith("fails on line 3: false: the end")
    assert not list(work.rglob("*.log"))


def test_secrets_are_not_told(work: Path) -> None:
    lines = (
        "export A=1\nexport API_TOKEN=abcdef; echo 'with abcdef' hunter2"
        " https://me:pass@host/x >&2; false"
    )
    said = refusal(work, lines, secrets=frozenset({"hunter2"}))
    assert "fails on line 2: export API_TOKEN=***" in said
    assert "hunter2" not in said
    assert "pass@" not in said
    assert "https://***@host/x" in said


@pytest.mark.parametrize(
    "end", ["false", "exit 3", "return 1", "set -u; echo $NOWHERE", "cat <<<'hunter2' >&2; if"]
)
def test_nor_are_those_that_the_script_itself_has_set(work: Path, end: str) -> None:
    (work / "site.sh").write_text(
        "export SITE_TOKEN=$(echo hunter2)\n"
        'echo "no entry with $SITE_TOKEN" >&2\n'
        f"curl() {{ return 1; }}; curl --header 'PRIVATE-TOKEN: hunter2' || {end}\n"
    )
    said = refusal(work, "set -e\nsource ./site.sh")
    assert "hunter2" not in said


def test_what_would_steer_a_terminal_is_not_told(work: Path) -> None:
    said = refusal(work, r"printf '\033]0;title\007\033[31mred\r\n' >&2; false")
    assert said.endswith(": red")
    assert said.isprintable()


def test_a_value_that_no_program_can_be_handed_is_refused(work: Path) -> None:
    said = refusal(work, "printf -v LONG '%0140000d' 0; export LONG")
    assert "sets LONG to a value that is longer than the 128 KiB" in said


def test_without_bash_it_says_so(work: Path) -> None:
    said = refusal(work, "export A=1", environment={"PATH": str(work)})
    assert said.startswith("this machine has no bash, which sources the setup script")
