"""Mounts that a process of the host's sees, and nobody else."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fasthep_flow.environments import Mount
from fasthep_flow.environments.host.mounts import enclosed_argv, read_trouble, why_no_mounts

NOBODY = 65534


@pytest.fixture(autouse=True)
def _where_there_can_be_mounts() -> None:
    if (why_not := why_no_mounts()) is not None:
        pytest.skip(why_not)


class Place:
    """A folder with something to mount, and places to mount it on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "source"
        (self.source / "deep").mkdir(parents=True)
        (self.source / "events").write_text("42")
        (self.source / "deep" / "more").write_text("43")
        self.target = folder / "target"
        self.target.mkdir()
        (self.target / "below").write_text("what lies below")
        self.report = str(folder / "report")

    def argv(self, mounts: Sequence[Mount], *argv: str) -> tuple[str, ...]:
        return enclosed_argv(argv, mounts, self.report)

    def run(
        self, mounts: Sequence[Mount], *argv: str, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(mounts, *argv), capture_output=True, text=True, check=False, cwd=cwd
        )

    def shell(self, mounts: Sequence[Mount], script: str, *arguments: str) -> str:
        done = self.run(mounts, "/bin/sh", "-c", script, "sh", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def read_only(self) -> list[Mount]:
        return [Mount(source=str(self.source), target=str(self.target), read_only=True)]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


class TestReadOnly:
    @pytest.mark.parametrize(
        "change",
        [
            'echo 44 >"$1/events"',
            'echo 44 >>"$1/deep/more"',
            ': >"$1/new"',
            'rm "$1/events"',
            'mv "$1/events" "$1/others"',
            'mv "$1/deep" "$1/elsewhere"',
            'chmod 777 "$1/events"',
            'chmod 777 "$1"',
            'chown 1:1 "$1/events"',
            'touch -d 2001-01-01 "$1/events"',
            'ln "$1/events" "$1/again"',
            'ln -s nowhere "$1/link"',
            'mkdir "$1/folder"',
            'truncate -s 0 "$1/events"',
        ],
    )
    def test_nothing_is_changed_through_it(self, place: Place, change: str) -> None:
        """Not by root either."""
        before = _state_of(place.source)
        done = place.run(place.read_only(), "/bin/sh", "-c", change, "sh", str(place.target))
        assert done.returncode != 0
        assert "Read-only file system" in done.stderr
        assert _state_of(place.source) == before

    def test_it_is_read(self, place: Place) -> None:
        script = 'cat "$1/events" "$1/deep/more"; ls "$1"'
        assert place.shell(place.read_only(), script, str(place.target)) == "4243deep\nevents\n"

    def test_a_file(self, place: Place) -> None:
        source, target = str(place.source / "events"), str(place.target / "below")
        mounts = [Mount(source=source, target=target, read_only=True)]
        script = '(echo no >"$1") 2>/dev/null || cat "$1"; (rm -f "$1") 2>/dev/null || echo stays'
        assert place.shell(mounts, script, target) == "42stays\n"
        assert Path(target).read_text() == "what lies below"

    def test_where_it_is_already(self, place: Place) -> None:
        folder = str(place.source)
        mounts = [Mount(source=folder, target=folder, read_only=True)]
        assert place.shell(mounts, '(: >"$1/new") 2>/dev/null || echo refused', folder) == (
            "refused\n"
        )
        (place.source / "new").touch()

    def test_what_is_mounted_below_it_is_read_only_too(self, place: Place) -> None:
        other = place.folder / "other"
        other.mkdir()
        inner = [
            Mount(source=str(other), target=str(place.source / "deep")),
            *place.read_only(),
        ]
        # The outer one starts from a place where something is mounted below the source.
        outer = place.argv(place.read_only(), "/bin/sh", "-c", 'echo x >"$0/deep/f"', "T")
        outer = tuple(str(place.target) if word == "T" else word for word in outer)
        done = place.run(inner[:1], *outer)
        assert done.returncode != 0
        assert "Read-only file system" in done.stderr
        assert list(other.iterdir()) == []

    def test_the_rest_stays_writable(self, place: Place) -> None:
        place.shell(place.read_only(), 'echo mine >"$1/made"', str(place.folder))
        assert (place.folder / "made").read_text() == "mine\n"


class TestSeen:
    def test_by_nobody_else(self, place: Place) -> None:
        script = 'echo up; read word; cat "$1/events"'
        with subprocess.Popen(
            place.argv(place.read_only(), "/bin/sh", "-c", script, "sh", str(place.target)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            assert [path.name for path in place.target.iterdir()] == ["below"]
            (place.target / "below").write_text("ours")
            assert str(place.target) not in Path("/proc/self/mountinfo").read_text()
            assert process.communicate("go\n")[0] == "42"
        assert (place.target / "below").read_text() == "ours"

    def test_one_in_another_in_any_order(self, place: Place) -> None:
        other = place.folder / "other"
        other.mkdir()
        (other / "inner").write_text("45")
        inner = Mount(source=str(other), target=str(place.target / "deep"))
        for mounts in ([inner, *place.read_only()], [*place.read_only(), inner]):
            script = 'cat "$1/deep/inner"; echo 46 >"$1/deep/written"; (: >"$1/x") 2>&- || echo no'
            assert place.shell(mounts, script, str(place.target)) == "45no\n"
            assert (other / "written").read_text() == "46\n"

    def test_a_source_that_another_one_hides(self, place: Place) -> None:
        other = place.folder / "other"
        other.mkdir()
        mounts = [
            Mount(source=str(other), target=str(place.source)),
            Mount(source=str(place.source / "deep"), target=str(place.target), read_only=True),
        ]
        assert place.shell(mounts, 'cat "$1/more"', str(place.target)) == "43"

    def test_in_the_folder_where_the_process_is(self, place: Place) -> None:
        done = place.run(place.read_only(), "cat", "events", cwd=place.target)
        assert done.stdout == "42"

    def test_through_links(self, place: Place) -> None:
        (place.folder / "to source").symlink_to(place.source)
        (place.folder / "to target").symlink_to(place.target)
        mounts = [
            Mount(
                source=str(place.folder / "to source"),
                target=str(place.folder / "to target"),
                read_only=True,
            )
        ]
        script = 'cat "$1/events"; (: >"$1/x") 2>&- || echo no'
        assert place.shell(mounts, script, str(place.target)) == "42no\n"

    @pytest.mark.parametrize(
        "name",
        ["a b", "a:b,c", "tab\there", "line\nhere", "back\\slash\\040", "µ→√", "-rf", "'\"$HOME`",
         "\udcff\udcfe"],
    )  # fmt: skip
    def test_odd_names(self, place: Place, name: str) -> None:
        source, target = place.folder / f"s{name}", place.folder / f"t{name}"
        source.mkdir()
        target.mkdir()
        (source / name).write_text("47")
        mounts = [Mount(source=str(source), target=str(target), read_only=True)]
        script = 'cat -- "$1/$2"; (: >"$1/x") 2>&- || echo no'
        assert place.shell(mounts, script, str(target), name) == "47no\n"


class TestTheProgram:
    def test_is_the_process_that_was_started(self, place: Place) -> None:
        with subprocess.Popen(
            place.argv(place.read_only(), "/bin/sh", "-c", "echo $$"), stdout=subprocess.PIPE
        ) as process:
            assert process.communicate()[0] == b"%d\n" % process.pid

    def test_has_its_environment_as_it_was(self, place: Place) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C",
            "PYTHONPATH": "/nowhere",
            "BASH_FUNC_f%%": "() { :; }",
            "a.b": "\udcff",
        }
        done = subprocess.run(
            place.argv(place.read_only(), "env", "-0"),
            capture_output=True,
            check=True,
            env=environment,
        )
        seen = dict(entry.split(b"=", 1) for entry in done.stdout.split(b"\0") if entry)
        assert seen == {os.fsencode(name): os.fsencode(environment[name]) for name in environment}

    def test_has_the_signals_that_python_ignores(self, place: Place) -> None:
        done = place.run(place.read_only(), "cat", "/proc/self/status")
        ignored = re.search(r"^SigIgn:\s*(\w+)$", done.stdout, re.MULTILINE)
        assert ignored is not None
        assert int(ignored[1], 16) == 0


class TestTrouble:
    @pytest.mark.parametrize(
        ("source", "target", "words"),
        [
            ("nowhere", "target", r"cannot mount \S*/nowhere: No such file or directory"),
            ("source", "nowhere", r"cannot mount \S*/source at \S*/nowhere: No such file"),
            ("source", "target/below", r"cannot mount .* below: a folder cannot lie on a file"),
            ("source/events", "target", r"cannot mount .* a file cannot lie on a folder"),
            ("source/events/x", "target", r"cannot mount .*: Not a directory"),
        ],
    )
    def test_is_told_in_words(self, place: Place, source: str, target: str, words: str) -> None:
        mount = Mount(source=str(place.folder / source), target=str(place.folder / target))
        done = place.run([mount], "echo", "it runs")
        assert (done.returncode, done.stdout, done.stderr) == (127, "", "")
        trouble = read_trouble(place.report)
        assert trouble is not None
        assert re.match(words.replace(" below:", r".*below:"), trouble.words)
        assert not Path(place.report).exists()

    def test_a_program_that_is_not_there(self, place: Place) -> None:
        assert place.run(place.read_only(), "/no/such/program").returncode == 127
        trouble = read_trouble(place.report)
        assert trouble is not None
        assert not trouble.words
        assert isinstance(trouble.error, FileNotFoundError)

    def test_there_is_none_where_a_program_ends_as_if_there_were(self, place: Place) -> None:
        assert place.run(place.read_only(), "/bin/sh", "-c", "exit 127").returncode == 127
        assert read_trouble(place.report) is None


@pytest.fixture
def of_nobody(place: Place) -> Iterator[Place]:
    """All of it belongs to a user with no rights, who can reach it and us."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become another user, with setpriv")
    above = place.folder
    for path in (above, *above.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    opened = []
    while above != Path("/"):
        mode = above.stat().st_mode
        opened.append((above, mode))
        above.chmod(mode | 0o005)
        above = above.parent
    done = subprocess.run(
        [*AS_NOBODY, *enclosed_argv(["true"], [], place.report)], capture_output=True, check=False
    )
    if done.returncode and (trouble := read_trouble(place.report)) is None:
        pytest.skip("an ordinary user cannot read this interpreter, or this package")
    elif done.returncode and trouble is not None:
        pytest.skip(trouble.words)
    yield place
    for path, mode in opened:
        path.chmod(mode)


AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")


class TestOrdinaryUser:
    """Somebody without root's rights, in a user namespace."""

    def test_reads_and_does_not_write(self, of_nobody: Place) -> None:
        script = 'cat "$1/events"; (echo 1 >"$1/events") 2>&- || echo no; : >"$2/made"'
        argv = of_nobody.argv(
            of_nobody.read_only(), "/bin/sh", "-c", script, "sh",
            str(of_nobody.target), str(of_nobody.folder),
        )  # fmt: skip
        done = subprocess.run([*AS_NOBODY, *argv], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "42no\n", "")
        assert (of_nobody.folder / "made").stat().st_uid == NOBODY
        assert (of_nobody.source / "events").read_text() == "42"

    def test_stays_who_it_was_without_further_rights(self, of_nobody: Place) -> None:
        script = 'id -u; id -g; grep CapEff /proc/self/status; umount "$1" 2>&- || echo no'
        argv = of_nobody.argv(
            of_nobody.read_only(), "/bin/sh", "-c", script, "sh", str(of_nobody.target)
        )
        done = subprocess.run([*AS_NOBODY, *argv], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [
            str(NOBODY), str(NOBODY), "CapEff:", "0000000000000000", "no",
        ]  # fmt: skip


def _state_of(folder: Path) -> dict[str, tuple[object, ...]]:
    state: dict[str, tuple[object, ...]] = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        found = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        state[str(path)] = (found.st_mode, found.st_uid, found.st_nlink, found.st_mtime_ns, content)
    return state


def test_a_pipe_in_place_of_the_report_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "report")
    assert read_trouble(str(tmp_path / "report")) is None
