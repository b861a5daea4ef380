"""What a task makes: all of it there, whole and named by its digest, or set aside."""

import errno
import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.execution.conftest import Bench, cause

from fasthep_flow.environments.containers.pool import Pool
from fasthep_flow.environments.data.listing import folder_listing, listing_digest
from fasthep_flow.execution import execute, outputs
from fasthep_flow.execution.aside import NOTE, Note, read_note, set_aside_left, write_note
from fasthep_flow.execution.process import Watch
from fasthep_flow.model import Call, Command, JobResult, Resources

SOON_S = 60.0
HOG = f"import time; x = b'x' * {200 * 2**20}; time.sleep(600)"


def wait_until(true: Callable[[], bool]) -> None:
    until_s = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < until_s, "it did not come true"
        time.sleep(0.01)


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def as_sha256sum_says(folder: str) -> str:
    line = "find * -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=True
    )
    return f"sha256:{done.stdout.split()[0]}"


def open_path(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


class Makers:
    """Runs tasks whose outputs are named from the bench's folder."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def path(self, name: str) -> str:
        return f"{self.bench.directory}/{name}"

    def sh(self, line: str, *names: str, **more: Any) -> JobResult:
        outputs = tuple(self.path(name) for name in names)
        return self.bench.sh(line, outputs=outputs, **more)

    def aside(self, where: str = "left", number: int = 1) -> dict[str, str]:
        folder = self.bench.attempt(number=number) / where
        if not folder.exists():
            return {}
        return {
            path.name: path.read_text() if path.is_file() else "folder" for path in folder.iterdir()
        }


@pytest.fixture
def makers(bench: Bench) -> Makers:
    return Makers(bench)


class TestMade:
    def test_a_file_has_the_digest_of_its_bytes(self, makers: Makers) -> None:
        result = makers.sh("printf abc > a.txt", "a.txt")
        assert (result.status, result.remarks) == ("succeeded", ())
        assert result.outputs == {makers.path("a.txt"): sha256(b"abc")}
        assert Path(makers.path("a.txt")).read_text() == "abc"
        assert makers.aside() == makers.aside("before") == {}

    def test_a_folder_has_that_of_what_sha256sum_says(self, makers: Makers) -> None:
        """So anybody can tell; times, modes and empty folders do not count."""
        line = (
            "mkdir -p r/a r/empty; printf 1 >r/a-b; printf 2 >r/a/b; printf 3 >r/a0;"
            " printf 4 >'r/back\\slash'; chmod 755 r/a0"
        )
        result = makers.sh(line, "r/")
        digest = result.outputs[makers.path("r/")]
        assert digest == as_sha256sum_says(makers.path("r"))
        # Extra data that is a folder is named alike.
        assert digest == f"sha256:{listing_digest(folder_listing(Path(makers.path('r'))))}"
        again = makers.sh(f"{line}; touch -d 2001-01-01 r/a0; chmod 644 r/a0", "r/", slug="again")
        assert again.outputs == result.outputs

    def test_names_may_be_any_bytes(self, makers: Makers) -> None:
        line = (
            "mkdir r; printf 1 > \"$(printf 'r/two\\nlines')\"; printf 2 > \"$(printf 'r/\\377')\""
        )
        result = makers.sh(line, "r")
        assert result.status == "succeeded"
        assert result.outputs == {makers.path("r"): as_sha256sum_says(makers.path("r"))}

    def test_an_output_may_be_named_in_any_way(self, makers: Makers) -> None:
        for name in ("two\nlines", "µ", "a b", "-rf", "$(touch pwned)", "x" * 255):
            target = makers.path(name)
            result = makers.bench.execute(
                Command(argv=("touch", "--", target)), outputs=(target,), slug="odd"
            )
            assert result.outputs == {target: sha256(b"")}
        assert not Path(makers.path("pwned")).exists()

    def test_links_that_stay_in_it_are_kept_as_links(self, makers: Makers) -> None:
        line = (
            "mkdir -p r/d; echo x >r/d/x; ln -s d/x r/near; ln -s ../near r/d/up; ln -s no r/gone"
        )
        result = makers.sh(f"{line}; ln -s $PWD/r/d r/whole", "r")
        folder = Path(makers.path("r"))
        assert result.outputs == {str(folder): f"sha256:{listing_digest(folder_listing(folder))}"}

    def test_folders_for_it_are_made(self, makers: Makers, tmp_path: Path) -> None:
        result = makers.sh("echo x >plots/eta/a.png; mkdir whole; : >whole/a", "plots/eta/a.png")
        assert result.status == "succeeded"
        # What lies in another output is made with that one, by the task.
        result = makers.sh("mkdir all; echo 1 >all/a", "all/a", "all", slug="nested")
        assert result.status == "succeeded"
        # Elsewhere folders are the author's.
        output = f"{tmp_path}/elsewhere/a"
        result = makers.bench.sh(f"touch {output}", outputs=(output,), slug="out")
        assert cause(result)[:2] == ("failed", "exit")
        result = makers.bench.sh(
            f"mkdir {tmp_path}/elsewhere; touch {output}", outputs=(output,), slug="out"
        )
        assert result.status == "succeeded"

    def test_the_value_of_a_callable_comes_with_it(self, bench: Bench) -> None:
        (bench.directory / "mine.py").write_text(
            "def f(make):\n    make and open('a', 'w').write('x')\n    return 42\n"
        )
        output = str(bench.directory / "a")
        assert bench.call("mine:f", True, outputs=(output,)).value == 42
        result = bench.call("mine:f", False, outputs=(output,), slug="none")
        assert cause(result)[:2] == ("failed", "output")
        assert not isinstance(result.value, int)

    def test_what_is_empty_is_remarked_on(self, makers: Makers) -> None:
        result = makers.sh("mkdir -p r/d s; : >a; : >s/x", "r", "a", "s")
        assert result.status == "succeeded"
        assert result.remarks == (
            f"the output {makers.path('r')} is empty",
            f"the output {makers.path('a')} is empty",
        )

    def test_a_folder_with_many_files_is_read_in_little_memory(self) -> None:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            self._of_many_files(Makers(Bench(Path(folder))))

    @staticmethod
    def _of_many_files(makers: Makers) -> None:
        count = 100_000
        line = (
            f'{sys.executable} -c \'import os\nos.mkdir("r")\n'
            f'for n in range({count}): open(f"r/{{n}}", "w").close()\''
        )
        before = psutil.Process().memory_info().rss
        result = makers.sh(line, "r")
        assert result.status == "succeeded"
        assert psutil.Process().memory_info().rss - before < 100 * 2**20
        empty = hashlib.sha256(b"").hexdigest()
        names = sorted(str(number) for number in range(count))
        text = "".join(f"{empty}  {name}\n" for name in names)
        assert result.outputs == {makers.path("r"): sha256(text.encode())}

    def test_a_large_file_is_read_in_little_memory(self, makers: Makers) -> None:
        before = psutil.Process().memory_info().rss
        result = makers.sh("truncate -s 600M a", "a")
        assert result.status == "succeeded"
        assert psutil.Process().memory_info().rss - before < 50 * 2**20

    def test_it_is_on_the_disk_before_that_is_said(
        self, makers: Makers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[str] = []
        fsync = os.fsync

        def noting(descriptor: int) -> None:
            synced.append(open_path(descriptor))
            fsync(descriptor)

        monkeypatch.setattr("os.fsync", noting)
        makers.sh("mkdir -p new/r/d/e; : >new/r/d/x; : >a", "new/r", "a")
        expected = ["", "a", "new", "new/r", "new/r/d", "new/r/d/e", "new/r/d/x"]
        assert {makers.path(name).rstrip("/") for name in expected} <= set(synced)


class TestNotMade:
    def test_what_is_missing_is_named(self, makers: Makers) -> None:
        result = makers.sh("echo half >a", "a", "b", "c/d")
        a, b = makers.path("a"), makers.path("b")
        assert cause(result) == (
            "failed",
            "output",
            f"the task ended with success, but did not make {b}, {makers.path('c/d')}",
        )
        assert (result.exit_code, result.outputs) == (0, {})
        # And what it did make is no result either.
        assert makers.aside() == {"a": "half\n"}
        where = makers.bench.attempt() / "left" / "a"
        words = f"what the task left at {a} is no result, and was set aside: {where}"
        assert result.remarks == (words,)

    def test_of_many_some_are_named(self, makers: Makers) -> None:
        result = makers.sh("true", *map(str, range(7)))
        assert cause(result)[2].endswith(f"{makers.path('2')} and 4 more")

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("ln -s /etc out", "{out} is a link, to /etc"),
            ("echo x >real; ln -s real out", "{out} is a link, to real"),
            ("mkdir out; ln -s /etc out/x", "{out}/x is a link that leads out of it, to /etc"),
            ("mkdir -p out/d; ln -s ../.. out/d/x", "{out}/d/x is a link that leads out of it"),
            ("mkdir out; ln -s . out/a; ln -s a/../../x out/b", "{out}/b is a link that leads out"),
            ("mkfifo out", "{out} is a named pipe: neither file nor folder"),
            ("mkdir out; mkfifo out/p", "{out}/p is a named pipe: neither file nor folder"),
            (
                f"{sys.executable} -c \"import socket; socket.socket(socket.AF_UNIX).bind('out')\"",
                "{out} is a socket: neither file nor folder",
            ),
            (
                "mkdir out; ln -s \"$(printf '/\\377')\" \"$(printf 'out/\\376')\"",
                "{out}/\\xfe is a link that leads out of it, to /\\xff",
            ),
        ],
    )
    def test_what_it_may_not_be_is_refused_by_name(
        self, makers: Makers, line: str, words: str
    ) -> None:
        result = makers.sh(line, "out")
        assert cause(result)[:2] == ("failed", "output")
        assert words.replace("{out}", makers.path("out")) in cause(result)[2]
        assert not os.path.lexists(makers.path("out"))
        assert os.path.lexists(makers.bench.attempt() / "left" / "out")
        assert Path("/etc/passwd").exists()

    def test_what_is_named_as_a_folder_is_no_file(self, makers: Makers) -> None:
        result = makers.sh("echo x >plots", "plots/")
        assert cause(result)[2] == f"the output {makers.path('plots/')} is a file"
        assert makers.aside() == {"plots": "x\n"}

    def test_a_device_is_refused(self, makers: Makers) -> None:
        result = makers.sh("mknod out c 1 5", "out")
        if result.status == "failed" and cause(result)[1] == "exit":
            pytest.skip("no device can be made here")
        assert cause(result)[2] == (
            f"the output {makers.path('out')} is a device: neither file nor folder"
        )

    def test_a_folder_that_was_exchanged_is_not_entered(
        self, makers: Makers, tmp_path: Path
    ) -> None:
        precious = tmp_path / "precious"
        precious.mkdir()
        (precious / "a").write_text("precious")
        result = makers.sh(f"rmdir plots; ln -s {precious} plots", "plots/a")
        assert cause(result)[:2] == ("failed", "output")
        assert "plots leads to" in cause(result)[2]
        assert (precious / "a").read_text() == "precious"
        assert "nothing is touched there" in result.remarks[0]
        result = makers.sh(f"rmdir x; ln -s {precious} x; exit 1", "x/a", slug="failed")
        assert (precious / "a").read_text() == "precious"

    def test_a_tree_deeper_than_paths_reach_is_refused(self, makers: Makers) -> None:
        line = (
            f'{sys.executable} -c \'import os\nos.mkdir("r"); os.chdir("r")\n'
            'for n in range(1500): os.mkdir("dd"); os.chdir("dd")\''
        )
        result = makers.sh(line, "r")
        assert cause(result)[:2] == ("failed", "output")
        assert "File name too long" in cause(result)[2]
        # Python's own way to remove a tree does not reach there either.
        subprocess.run(["rm", "-rf", makers.bench.attempt() / "left"], check=True)

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
    def test_what_cannot_be_brought_to_the_disk_is_no_result(
        self, makers: Makers, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        """As file systems say that only then which write late."""

        def fsync(_: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("os.fsync", fsync)
        result = makers.sh("echo x >a", "a")
        status, kind, message = cause(result)
        assert (status, kind) == ("failed", "output" if number == errno.EIO else "environment")
        assert makers.path("a") in message
        assert message.startswith("disk full") is (number != errno.EIO)
        assert makers.aside() == {"a": "x\n"}

    def test_a_file_system_that_knows_no_such_thing_is_no_matter(
        self, makers: Makers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fsync(_: int) -> None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        monkeypatch.setattr("os.fsync", fsync)
        assert makers.sh("echo x >a", "a").status == "succeeded"

    def test_what_is_still_written_to_is_no_result(
        self, makers: Makers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By what left the task, and nobody could find."""
        read = os.read

        def reading(descriptor: int, count: int) -> bytes:
            found = read(descriptor, count)
            if open_path(descriptor) == makers.path("a"):
                with Path(makers.path("a")).open("a") as file:
                    file.write("more")
                return b""
            return found

        monkeypatch.setattr("os.read", reading)
        result = makers.sh("echo x >a", "a")
        assert "was still written to when the task had ended" in cause(result)[2]

    def test_a_mistake_of_ours_is_no_result_either(
        self, makers: Makers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(outputs, "_made", lambda *_: 1 / 0)
        assert cause(makers.sh("echo x >a", "a"))[:2] == ("failed", "internal")
        assert makers.aside() == {"a": "x\n"}


class TestBefore:
    def test_what_lay_there_is_set_aside_and_kept(self, makers: Makers) -> None:
        Path(makers.path("a")).write_text("yesterday's")
        Path(makers.path("r")).mkdir()
        result = makers.sh("ls; echo new >a; mkdir r; : >r/x", "a", "r")
        assert result.status == "succeeded"
        # The task does not see it.
        assert "a\n" not in result.stdout_tail.replace("data\n", "")
        assert makers.aside("before") == {"a": "yesterday's", "r": "folder"}
        note = read_note(str(makers.bench.attempt()))
        assert note is not None
        assert note.before[makers.path("a")] == f"{makers.bench.attempt()}/before/a"

    def test_it_never_passes_for_what_was_made(self, makers: Makers) -> None:
        Path(makers.path("a")).write_text("yesterday's")
        result = makers.sh("true", "a")
        assert cause(result)[:2] == ("failed", "output")
        assert makers.aside("before") == {"a": "yesterday's"}

    def test_what_never_starts_leaves_it_alone(self, makers: Makers) -> None:
        Path(makers.path("a")).write_text("yesterday's")
        result = makers.sh("true", "a", inputs=(makers.path("none"),))
        assert cause(result) == ("failed", "input", f"there is no input {makers.path('none')}")
        result = makers.sh("true", "a", runtime="no-such-runtime")
        assert cause(result)[:2] == ("failed", "environment")
        assert Path(makers.path("a")).read_text() == "yesterday's"

    @pytest.mark.parametrize("name", [".", "..", "output", "output/run", "output/run/tasks"])
    def test_what_holds_the_run_is_no_output(self, makers: Makers, name: str) -> None:
        path = os.path.normpath(makers.path(name))
        result = makers.bench.sh("true", outputs=(path,))
        assert cause(result)[:2] == ("failed", "environment")
        assert f"the output {path} holds " in cause(result)[2]
        assert makers.bench.attempt().is_dir()

    def test_by_a_link_neither(self, makers: Makers) -> None:
        Path(makers.path("here")).symlink_to(".")
        result = makers.sh("true", "here/output")
        assert "holds" in cause(result)[2]

    def test_a_link_in_its_place_is_set_aside_and_not_followed(
        self, makers: Makers, tmp_path: Path
    ) -> None:
        (tmp_path / "precious").write_text("precious")
        Path(makers.path("a")).symlink_to(tmp_path / "precious")
        assert makers.sh("echo new >a", "a").status == "succeeded"
        assert (tmp_path / "precious").read_text() == "precious"
        assert not Path(makers.path("a")).is_symlink()

    def test_what_cannot_be_set_aside_is_refused_before_the_start(
        self, makers: Makers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path(makers.path("a")).write_text("yesterday's")

        def rename(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("os.rename", rename)
        result = makers.sh("touch ran", "a")
        words = f"what lies at the output {makers.path('a')} cannot be set aside: No space left"
        assert cause(result) == ("failed", "environment", f"{words} on device")
        assert Path(makers.path("a")).read_text() == "yesterday's"
        assert not Path(makers.path("ran")).exists()


class TestLeft:
    """Of an attempt that did not succeed: aside before the reply is there."""

    @pytest.mark.parametrize(
        ("line", "more", "status"),
        [
            ("echo half >a; exit 3", {}, "failed"),
            ("echo half >a; kill -KILL $$", {}, "failed"),
            ("echo half >a; sleep 600", {"timeout_s": 0.5}, "timed_out"),
            (
                f'echo half >a; {sys.executable} -c "{HOG}"',
                {"resources": Resources(memory=48 * 2**20)},
                "failed",
            ),
        ],
    )
    def test_after_any_end(
        self, makers: Makers, line: str, more: dict[str, Any], status: str
    ) -> None:
        result = makers.sh(line, "a", "b", **more)
        assert result.status == status
        assert not Path(makers.path("a")).exists()
        assert makers.aside() == {"a": "half\n"}
        assert result.outputs == {}
        assert "was set aside" in result.remarks[0]

    def test_after_a_stop(self, makers: Makers) -> None:
        with Watch(grace_s=0.2) as watch:
            results: list[JobResult] = []
            thread = threading.Thread(
                target=lambda: results.append(
                    makers.sh("echo half >a; touch up; sleep 600", "a", watch=watch)
                )
            )
            thread.start()
            wait_until(Path(makers.path("up")).exists)
            watch.cancel()
            thread.join()
        assert results[0].status == "cancelled"
        assert makers.aside() == {"a": "half\n"}

    def test_a_stop_ends_the_reading_too(
        self, makers: Makers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Watch() as watch:
            read = os.read

            def reading(descriptor: int, count: int) -> bytes:
                if open_path(descriptor) == makers.path("a"):
                    watch.cancel()
                return read(descriptor, count)

            monkeypatch.setattr("os.read", reading)
            result = makers.sh("truncate -s 600M a", "a", watch=watch)
        assert cause(result) == (
            "cancelled",
            "cancelled",
            "stopped with the run, while what the task had made was read",
        )
        assert list(makers.aside()) == ["a"]

    def test_after_a_mistake_of_ours(self, makers: Makers, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(execute, "judge", lambda *_, **__: 1 / 0)
        assert cause(makers.sh("echo half >a", "a"))[:2] == ("failed", "internal")
        assert makers.aside() == {"a": "half\n"}

    def test_after_a_full_disk(self, makers: Makers, monkeypatch: pytest.MonkeyPatch) -> None:
        """The logs cannot be read any more, nor can a folder be made."""

        def tail(*_: object) -> str:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(execute, "tail_of", tail)
        mkdir = os.mkdir

        def making(path: str, *rest: Any, **more: Any) -> None:
            if path == "left":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            mkdir(path, *rest, **more)

        monkeypatch.setattr("os.mkdir", making)
        result = makers.sh("echo half >a", "a")
        assert cause(result)[1:] == ("environment", "disk full: [Errno 28] No space left on device")
        assert not Path(makers.path("a")).exists()
        assert Path(makers.path(".a.left-run-task-1")).read_text() == "half\n"

    def test_after_the_task_has_filled_the_disk(self, small_disk: Path) -> None:
        """On which the run is recorded too."""
        makers = Makers(Bench(small_disk))
        result = makers.sh("cat /dev/zero >a", "a")
        assert cause(result)[:2] == ("failed", "exit")
        assert "No space left" in result.stderr_tail or not result.stderr_tail
        (aside,) = [path for path in small_disk.rglob("*a*") if path.stat().st_size > 20_000]
        assert aside.parent.name == "left" or aside.name.startswith(".a.left-")
        assert not (small_disk / "a").exists()
        aside.unlink()
        assert makers.sh("echo whole >a", "a", attempt=2).status == "succeeded"

    def test_where_the_task_has_removed_its_own_folder(self, makers: Makers) -> None:
        result = makers.sh('echo half >a; rm -rf "$FASTHEP_TASK_DIRECTORY"; exit 1', "a")
        assert cause(result)[2] == "exit code 1"
        assert makers.aside() == {"a": "half\n"}
        result = makers.sh('echo whole >a; rm -rf "$FASTHEP_TASK_DIRECTORY"', "a", attempt=2)
        assert result.status == "succeeded"
        assert makers.bench.attempt(number=2).is_dir()

    def test_where_the_task_has_made_a_link_of_its_folder(
        self, makers: Makers, tmp_path: Path
    ) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        line = f'echo half >a; D="$FASTHEP_TASK_DIRECTORY"; rm -r "$D"; ln -s {elsewhere} "$D"'
        result = makers.sh(f"{line}; exit 1", "a")
        assert [path.name for path in elsewhere.iterdir()] == []
        assert (makers.bench.attempt() / "left" / "a").read_text() == "half\n"
        assert any("was replaced while the task ran" in remark for remark in result.remarks)

    def test_a_container_that_cannot_be_opened_leaves_what_is_there(self, makers: Makers) -> None:
        Path(makers.path("a")).write_text("yesterday's")
        result = makers.sh("true", "a", resources=Resources(process_on="gpu", gpus=4096))
        assert cause(result)[:2] == ("failed", "environment")
        assert Path(makers.path("a")).read_text() == "yesterday's"


class TestLost:
    """An attempt of which no reply was seen."""

    def half(self, makers: Makers, number: int, name: str = "a") -> None:
        """What a worker leaves that was killed in mid-task."""
        folder = makers.bench.attempt(number=number)
        folder.mkdir(parents=True, exist_ok=True)
        parent = {makers.path(name): str(makers.bench.directory)}
        write_note(str(folder), Note(parents=parent))
        (folder / "stdout.log").touch()
        Path(makers.path(name)).write_text(f"half, of {number}")

    def test_the_next_attempt_sets_it_aside_as_the_other_ones(self, makers: Makers) -> None:
        self.half(makers, 1)
        assert makers.sh("echo whole >a", "a", attempt=2).status == "succeeded"
        assert makers.aside() == {"a": "half, of 1"}
        assert makers.aside("before", 2) == {}
        # And never again.
        assert set_aside_left([makers.path("a")], str(makers.bench.attempt())).moved == {}
        assert Path(makers.path("a")).read_text() == "whole\n"

    def test_so_does_the_same_attempt_on_another_worker(self, makers: Makers) -> None:
        self.half(makers, 1)
        assert makers.sh("echo whole >a", "a").status == "succeeded"
        assert makers.aside() == {"a": "half, of 1"}

    def test_one_that_failed_is_not_asked_again(self, makers: Makers) -> None:
        makers.sh("echo half >a; exit 1", "a")
        Path(makers.path("a")).write_text("by hand")
        makers.sh("echo whole >a", "a", attempt=2)
        assert makers.aside() == {"a": "half\n"}
        assert makers.aside("before", 2) == {"a": "by hand"}

    def test_of_a_killed_worker(self, makers: Makers, tmp_path: Path) -> None:
        """Killed in mid-task, as nobody can catch."""
        from fasthep_flow.environments.survivors import end_task
        from fasthep_flow.model import to_json

        bench, output = makers.bench, makers.path("a")
        job = bench.job(
            Command(argv=("sh", "-c", "echo half >a; touch up; sleep 600")), outputs=(output,)
        )
        (tmp_path / "job.json").write_text(to_json(job))
        script = (
            "import sys; from fasthep_flow.execution.execute import execute_job;"
            "execute_job(open(sys.argv[1]).read(), {})"
        )
        worker = subprocess.Popen([sys.executable, "-c", script, tmp_path / "job.json"])
        wait_until(Path(makers.path("up")).exists)
        worker.kill()
        worker.wait()
        end_task(bench.run_id, job.task, str(bench.attempt().parent), "native")
        assert Path(output).read_text() == "half\n"
        assert set_aside_left([output], job.directory).moved == {
            output: f"{bench.attempt()}/left/a"
        }
        assert set_aside_left([output], job.directory).moved == {}
        assert makers.aside() == {"a": "half\n"}


class TestNothing:
    def test_a_task_without_any_has_no_note(self, bench: Bench) -> None:
        bench.sh("true")
        assert not (bench.attempt() / NOTE).exists()

    def test_and_does_not_load_what_it_does_not_need(self, bench: Bench, tmp_path: Path) -> None:
        from fasthep_flow.model import to_json

        (tmp_path / "job.json").write_text(to_json(bench.job(Command(argv=("true",)))))
        script = (
            "import sys; from fasthep_flow.execution.execute import execute_job;"
            "execute_job(open(sys.argv[1]).read(), {});"
            "print([one for one in ('outputs', 'inputs', 'aside')"
            " if f'fasthep_flow.execution.{one}' in sys.modules])"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, tmp_path / "job.json"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "[]\n"


class TestInputs:
    def test_what_is_there_is_read(self, makers: Makers) -> None:
        Path(makers.path("a.root")).write_text("events")
        result = makers.sh("cat a.root", inputs=(makers.path("*.root"),))
        assert result.stdout_tail == "events"

    def test_what_is_not_there_is_a_failure_that_names_it(self, makers: Makers) -> None:
        result = makers.sh("touch ran", inputs=(makers.path("a.root"),))
        assert cause(result) == ("failed", "input", f"there is no input {makers.path('a.root')}")
        assert "'needs'" in str(result.failure)
        assert not Path(makers.path("ran")).exists()

    def test_a_stop_while_it_is_waited_for_is_no_failure(
        self, makers: Makers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Watch() as watch:
            sleep = time.sleep

            def stopping(seconds: float) -> None:
                watch.cancel()
                sleep(seconds)

            monkeypatch.setattr("time.sleep", stopping)
            result = makers.sh("true", inputs=(makers.path("a.root"),), watch=watch)
        assert cause(result)[:2] == ("cancelled", "cancelled")


@pytest.fixture
def contained(tmp_path: Path, container_runtime: str, request: pytest.FixtureRequest) -> Makers:
    """In a container of each engine in turn."""
    image: str = request.getfixturevalue("python_image")
    bench = Bench(tmp_path / "a:b, c", image, container_runtime)
    bench.directory.mkdir()
    return Makers(bench)


@pytest.mark.registry
class TestContained:
    def test_outputs_in_the_workflows_folder(self, contained: Makers) -> None:
        Path(contained.path("a")).write_text("yesterday's")
        line = "test ! -e a && echo x >a && mkdir p/r && echo y >p/r/y && ln -s y p/r/z"
        result = contained.sh(line, "a", "p/r")
        assert result.status == "succeeded", result
        folder = Path(contained.path("p/r"))
        assert result.outputs == {
            contained.path("a"): sha256(b"x\n"),
            str(folder): f"sha256:{listing_digest(folder_listing(folder))}",
        }
        assert contained.aside("before") == {"a": "yesterday's"}
        for path in (Path(contained.path("a")), folder, folder / "y"):
            assert (path.stat().st_uid, path.stat().st_gid) == (os.getuid(), os.getgid())
        result = contained.sh("echo half >a; exit 1", "a", attempt=2)
        assert cause(result)[1] == "exit"
        assert contained.aside(number=2) == {"a": "half\n"}

    def test_what_the_task_left_running_changes_none_of_them(self, contained: Makers) -> None:
        daemon = "trap '' TERM; echo up >up; until test -e go; do sleep 0.1; done; echo late >>a"
        line = f'echo one >a; (setsid sh -c "{daemon}" &); until test -e up; do sleep 0.1; done'
        with Pool() as pool, Watch() as watch:
            # The container is kept for other tasks.
            result = contained.sh(line, "a", pool=pool, watch=watch)
            assert result.status == "succeeded", result
            Path(contained.path("go")).touch()
            # It would look ten times meanwhile.
            result = contained.sh("sleep 1", attempt=2, pool=pool, watch=watch)
            assert result.status == "succeeded", result
        assert Path(contained.path("a")).read_text() == "one\n"

    def test_what_is_missing_is_named(self, contained: Makers) -> None:
        result = contained.sh("ln -s /etc/hostname a", "a", "b")
        assert cause(result)[1] == "output"
        assert contained.path("b") in cause(result)[2]
        result = contained.sh("ln -s /etc/hostname a", "a", attempt=2)
        assert f"{contained.path('a')} is a link, to /etc/hostname" in cause(result)[2]

    def test_files_outside_are_seen_where_they_are(self, contained: Makers, tmp_path: Path) -> None:
        """What holds an output can be written to; what holds inputs alone cannot."""
        eos = tmp_path / "eos, user"
        for name in ("in", "out"):
            (eos / name).mkdir(parents=True)
        (eos / "in" / "a.root").write_text("events")
        (eos / "in" / "b.root").write_text("more")
        output = eos / "out" / "a.hist"
        line = (
            f"cat '{eos}'/in/*.root >'{output}'; echo no >'{eos}/in/a.root';"
            f" echo no >'{eos}/in/new'; true"
        )
        result = contained.bench.sh(line, inputs=(f"{eos}/in/*.root",), outputs=(str(output),))
        assert result.outputs == {str(output): sha256(b"eventsmore")}, result
        assert (output.stat().st_uid, output.stat().st_gid) == (os.getuid(), os.getgid())
        assert (eos / "in" / "a.root").read_text() == "events"
        assert sorted(path.name for path in (eos / "in").iterdir()) == ["a.root", "b.root"]

    def test_so_are_files_that_a_link_leads_to(self, contained: Makers, tmp_path: Path) -> None:
        eos = tmp_path / "eos"
        eos.mkdir()
        (eos / "a.root").write_text("events")
        Path(contained.path("data")).symlink_to(eos)
        result = contained.sh(
            "cat data/a.root >data/b.root", "data/b.root", inputs=(contained.path("data/a.root"),)
        )
        assert result.outputs == {contained.path("data/b.root"): sha256(b"events")}, result
        assert (eos / "b.root").read_text() == "events"

    def test_an_input_above_leaves_the_workflows_folder_writable(
        self, contained: Makers, tmp_path: Path
    ) -> None:
        (tmp_path / "common.txt").write_text("common")
        line = f"cat {tmp_path}/common.txt >a; ! touch {tmp_path}/new"
        result = contained.sh(line, "a", inputs=(f"{tmp_path}/common.txt",))
        assert result.outputs == {contained.path("a"): sha256(b"common")}, result

    def test_a_folder_that_is_not_there_is_refused(self, contained: Makers, tmp_path: Path) -> None:
        output = f"{tmp_path}/eos/a"
        result = contained.bench.sh("true", outputs=(output,))
        assert cause(result)[:2] == ("failed", "environment")
        assert f"there is no folder {tmp_path}/eos, which a container" in cause(result)[2]

    def test_the_value_of_a_callable_comes_with_it(self, contained: Makers) -> None:
        (contained.bench.directory / "mine.py").write_text(
            "def f():\n    open('a', 'w').write('x')\n    return 42\n"
        )
        output = contained.path("a")
        result = contained.bench.execute(Call(target="mine:f"), outputs=(output,))
        assert (result.value, result.outputs) == (42, {output: sha256(b"x")})


@pytest.mark.registry
def test_a_kept_container_sees_what_each_job_makes(
    tmp_path: Path, engine: str, python_image: str
) -> None:
    """And what was set aside before it, though the container is as old as the first job."""
    bench = Bench(tmp_path, python_image, engine)
    output = str(tmp_path / "a")
    with Pool() as pool, Watch() as watch:
        for number in range(1, 4):
            line = f"test ! -e a && echo {number} >a"
            result = bench.sh(line, outputs=(output,), slug=f"t{number}", watch=watch, pool=pool)
            assert result.outputs == {output: sha256(f"{number}\n".encode())}, result
    assert (bench.attempt("t3") / "before" / "a").read_text() == "2\n"
